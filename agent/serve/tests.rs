//! What is said, word for word, and what clients may take of us: over real sockets.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Mutex;

use jiff::Timestamp;

use super::*;
use crate::model::census::NoOwner;
use crate::model::{IncidentId, Readings, Reason, ServiceName, Signal};
use crate::store::{Breaker, EndedSoFar, Latch};
use crate::view::bulletin::{CertificateOf, HeldService, Work};
use crate::view::status::IncidentNow;

/// Changes only with `UNWAIT_GOLDEN=write`.
const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/agent/serve/metrics.txt");
/// For a whole answer; it takes milliseconds.
const SOON: Duration = Duration::from_secs(20);

fn service(name: &str) -> ServiceName {
    ServiceName::parse(name).unwrap()
}

/// Every family once, with what has to be escaped and what is unknown.
fn bulletin() -> Bulletin {
    let seconds = Duration::from_secs;
    let at = |second: i64| Timestamp::from_second(1_800_000_000 + second).unwrap();
    let mut readings = Readings::default();
    for (signal, value) in Signal::SPELLINGS.iter().map(|text| Signal::parse(text).unwrap()).zip(1..) {
        readings.set(signal, f64::from(value) / 2.0);
    }
    readings.set(Signal::parse("close_wait.aged(1m)").unwrap(), 288.0);
    let mut unknown = Readings::default();
    unknown.set(Signal::CloseWait, 0.0);
    let (order, pay) = (service("rpc-order.service"), service("a\\x2db.service"));
    let held = |service: &ServiceName, policy: Option<&str>, reason| HeldService {
        service: service.clone(),
        policy: policy.map(String::from),
        reason,
    };
    Bulletin {
        version: "0.1.0",
        started: (at(0), seconds(1_000)),
        ticked: Some(seconds(2_000)),
        period: seconds(15),
        work: Work {
            ticks: 67,
            in_ticks: Duration::from_millis(1_250),
            looking: Duration::from_millis(500),
            failed_looks: 1,
            breaches: [("fd".into(), 0), ("leak".into(), 2)].into(),
        },
        looked: Some(at(990)),
        not_measuring: None,
        observe_only: None,
        rejected_configuration: true,
        paused: Some(true),
        host_close_wait: Some(300.0),
        unattributed: [(NoOwner::NotAService, 2), (NoOwner::HolderUnseen, 10)].into(),
        services: vec![(pay.clone(), unknown), (order.clone(), readings)],
        services_left_out: 0,
        held: vec![
            held(&pay, None, Reason::NoPolicy),
            held(&order, Some("leak"), Reason::TooFewHealthy),
            held(&order, Some("say \"so\"\n"), Reason::Quiet),
        ],
        breached: vec![(order.clone(), "leak".into())],
        under_way: vec![IncidentNow {
            incident: IncidentId("i1".into()),
            service: order,
            policy: "leak".into(),
            runbook: "isolate-restart-recover".into(),
            step: "wait_drained".into(),
            dry_run: false,
            waits_for: None,
        }],
        incidents: vec![EndedSoFar {
            outcome: "completed".into(),
            reason: "not_helped".into(),
            dry_run: true,
            count: 3,
        }],
        latched: vec![Latch {
            service: "rpc-pay.service".into(),
            incident: "i2".into(),
            reason: "unhealthy".into(),
            detail: "its probe fails".into(),
            since: at(0),
            orphan: None,
        }],
        open_breakers: vec![Breaker {
            policy: "leak".into(),
            service: "rpc-order.service".into(),
            runbook: "isolate-restart-recover".into(),
            incident: "i3".into(),
            since: at(0),
        }],
        outbox: [("slack".into(), (2, Some(at(900)))), ("generic".into(), (0, None))].into(),
        slots: [("rpc-order".into(), 1)].into(),
        certificates: ["own", "theirs"]
            .map(|whose| {
                let connection = "registry consul".into();
                (CertificateOf { connection, whose, subject: "CN=consul-1,O=Corp".into() }, at(86_400))
            })
            .into(),
        verdicts: vec![("paused", "allow", 5), ("paused", "deny", 1)],
    }
}

#[test]
fn the_metrics_are_word_for_word_what_they_were() {
    let text = metrics::text(&bulletin());
    if std::env::var("UNWAIT_GOLDEN").is_ok_and(|switch| switch == "write") {
        std::fs::write(GOLDEN, &text).unwrap();
    }
    assert_eq!(text, std::fs::read_to_string(GOLDEN).unwrap());
}

#[test]
fn what_nobody_knows_is_absent() {
    let nothing = metrics::text(&Bulletin { version: "0.1.0", ..Bulletin::default() });
    for family in ["unwait_host_close_wait", "unwait_close_wait", "unwait_paused", "unwait_last_look", "unwait_held"] {
        assert!(!nothing.contains(family), "{family} in\n{nothing}");
    }
    assert!(nothing.contains("unwait_ticks_total 0\n"), "{nothing}");
}

#[test]
fn a_loop_that_hangs_is_not_alive_and_one_that_cannot_act_is_not_ready() {
    let seconds = Duration::from_secs;
    let sound = bulletin();
    for (what, bulletin, now, alive, ready) in [
        ("just ticked", sound.clone(), 2_001, "", ""),
        ("four intervals ago", sound.clone(), 2_060, "", ""),
        ("later", sound.clone(), 2_061, "no tick for 1m1s, expected every 15s", "no tick for 1m1s, expected every 15s"),
        ("of a minute", Bulletin { period: seconds(60), ..sound.clone() }, 2_240, "", ""),
        (
            "has never ticked",
            Bulletin { ticked: None, ..sound.clone() },
            1_090,
            "no tick for 1m30s, expected every 15s",
            "no tick for 1m30s, expected every 15s",
        ),
        (
            "has not looked",
            Bulletin { looked: None, ..sound.clone() },
            2_001,
            "",
            "it has not looked at everything yet",
        ),
        (
            "cannot look",
            Bulletin { not_measuring: Some("EPERM".into()), ..sound.clone() },
            2_001,
            "",
            "not measuring: EPERM",
        ),
        (
            "cannot write",
            Bulletin { observe_only: Some("the state directory cannot be written".into()), ..sound },
            2_001,
            "",
            "observe-only: the state directory cannot be written",
        ),
    ] {
        let says = |verdict: Result<(), String>| verdict.err().unwrap_or_default();
        assert_eq!(says(health::alive(&bulletin, seconds(now))), alive, "{what}");
        assert_eq!(says(health::ready(&bulletin, seconds(now))), ready, "{what}");
    }
}

/// A server with a clock of its own.
struct Set {
    at: SocketAddr,
    bulletins: watch::Sender<Arc<Bulletin>>,
    since_boot: Arc<Mutex<Duration>>,
    _server: Server,
}

fn set(bounds: Bounds) -> Set {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let at = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    let (bulletins, receiver) = watch::channel(Arc::new(bulletin()));
    let since_boot = Arc::new(Mutex::new(Duration::from_secs(2_001)));
    let clock = Arc::clone(&since_boot);
    let answers = Answers { bulletins: receiver, since_boot: Arc::new(move || *clock.lock().unwrap()) };
    let listener = async { tokio::net::TcpListener::from_std(listener).unwrap() };
    let server = Server::start_within(bounds, listener, answers).unwrap();
    Set { at, bulletins, since_boot, _server: server }
}

impl Set {
    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.at).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream
    }

    fn say(&self, text: &str) -> String {
        let mut stream = self.connect();
        // One that is refused early may close before it has read everything.
        let _ = stream.write_all(text.as_bytes());
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8(answer).unwrap()
    }

    fn ask(&self, method: &str, path: &str) -> String {
        self.say(&format!("{method} {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.at))
    }
}

#[test]
fn each_path_is_answered_and_nothing_is_changed_by_anybody() {
    let set = set(BOUNDS);
    let metrics = set.ask("GET", "/metrics?x=1");
    let (head, body) = metrics.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(head.contains("content-type: text/plain; version=0.0.4; charset=utf-8\r\n"), "{head}");
    assert_eq!(body, metrics::text(&bulletin()));
    let only_head = set.ask("HEAD", "/metrics");
    assert!(only_head.contains(&format!("content-length: {}\r\n", body.len())), "{only_head}");
    assert!(only_head.ends_with("\r\n\r\n"), "{only_head}");
    for (method, path, answer) in [
        ("GET", "/healthz", "200 OK"),
        ("GET", "/readyz", "200 OK"),
        ("GET", "/", "404 Not Found"),
        ("POST", "/metrics", "405 Method Not Allowed"),
        ("DELETE", "/healthz", "405 Method Not Allowed"),
    ] {
        let found = set.ask(method, path);
        assert!(found.starts_with(&format!("HTTP/1.1 {answer}\r\n")), "{method} {path}: {found}");
    }
    assert!(set.ask("PUT", "/metrics").contains("allow: GET, HEAD\r\n"));
}

#[test]
fn while_the_loop_hangs_everybody_is_told_so() {
    let set = set(BOUNDS);
    // A loop that hangs posts nothing; the thread that the test stands on is the loop's here.
    *set.since_boot.lock().unwrap() = Duration::from_secs(2_100);
    let alive = set.ask("GET", "/healthz");
    assert!(
        alive.starts_with("HTTP/1.1 503 ") && alive.ends_with("no tick for 1m40s, expected every 15s\n"),
        "{alive}"
    );
    assert!(set.ask("GET", "/metrics").contains("unwait_ticks_total 67\n"));
    set.bulletins.send_replace(Arc::new(Bulletin { ticked: Some(Duration::from_secs(2_099)), ..bulletin() }));
    assert!(set.ask("GET", "/healthz").starts_with("HTTP/1.1 200 "));
}

#[test]
fn clients_that_hold_every_connection_are_let_go_and_others_are_answered() {
    let set = set(Bounds { connections: 2, within: Duration::from_millis(300) });
    let mut slow: Vec<TcpStream> = (0..2).map(|_| set.connect()).collect();
    for stream in &mut slow {
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHos").unwrap();
    }
    assert!(set.ask("GET", "/healthz").starts_with("HTTP/1.1 200 "));
    for mut stream in slow {
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).unwrap();
        assert!(rest.is_empty(), "{rest:?}");
    }
}

#[test]
fn a_head_without_an_end_is_refused() {
    let set = set(BOUNDS);
    let endless = format!("GET /metrics HTTP/1.1\r\nX: {}", "x".repeat(1 << 20));
    let answer = set.say(&endless);
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431 "), "{answer}");
    let many = (0..200).map(|at| format!("X-{at}: 1\r\n")).collect::<String>();
    assert!(set.say(&format!("GET /metrics HTTP/1.1\r\n{many}\r\n")).starts_with("HTTP/1.1 431 "));
    assert!(set.say("GET /metrics HTTP/9.9\r\n\r\n").starts_with("HTTP/1.1 400 "));
    assert!(set.ask("GET", "/healthz").starts_with("HTTP/1.1 200 "));
}

#[test]
fn a_server_that_is_dropped_gives_its_address_back_and_one_that_is_taken_is_waited_for() {
    let set = set(BOUNDS);
    let at = set.at;
    let _open = set.connect();
    drop(set);
    assert!(TcpStream::connect(at).is_err());
    let taken = TcpListener::bind(at).unwrap();
    let (_bulletins, receiver) = watch::channel(Arc::default());
    let server = Server::start(at, receiver, Arc::new(Duration::default)).unwrap();
    drop(server);
    drop(taken);
}

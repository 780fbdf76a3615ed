//! For tests: a server with a clock, a bulletin and a store of its own.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;

use super::hints::Hints;
use super::{BOUNDS, Bounds, Served, Server};
use crate::clock::ManualClock;
use crate::model::census::NoOwner;
use crate::model::policy::{Comparison, Operator};
use crate::model::{IncidentId, Readings, Reason, ServiceName, Signal};
use crate::store::{Breaker, EndedSoFar, Latch, Store};
use crate::view::bulletin::{Bulletin, CertificateOf, Work};
use crate::view::explanation::{Explanation, PolicyExplained};
use crate::view::status::IncidentNow;

/// For a whole answer; it takes milliseconds.
const SOON: Duration = Duration::from_secs(20);

pub fn service(name: &str) -> ServiceName {
    ServiceName::parse(name).unwrap()
}

/// Every family once, with what has to be escaped and what is unknown.
pub fn bulletin() -> Bulletin {
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
    let explanations = vec![
        explained(&pay, &unknown, &[]),
        explained(&order, &readings, &[("leak", Some(Reason::TooFewHealthy)), ("say \"so\"\n", Some(Reason::Quiet))]),
    ];
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
        explained: explanations,
        limits: [("leak".into(), limits(&["close_wait.aged(1m) > 200", "close_wait.growth(10m) > 0"]))].into(),
        agent: None,
        fleet_slots: None,
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

/// As the agent says it of a service, by each of these policies.
pub fn explained(service: &ServiceName, readings: &Readings, policies: &[(&str, Option<Reason>)]) -> Explanation {
    let by = |(policy, reason): &(&str, Option<Reason>)| PolicyExplained {
        policy: (*policy).into(),
        mode: "auto".into(),
        held_mode: None,
        when: Vec::new(),
        holds: "true".into(),
        standing: "breached for 2m".into(),
        held_since: Some(Timestamp::from_second(1_800_000_800).unwrap()),
        nothing_is_done: *reason,
        breaker: None,
        runbook: Some("isolate-restart-recover".into()),
        rung: None,
        held_by: Vec::new(),
    };
    Explanation {
        service: service.clone(),
        signals: readings.clone(),
        policies: policies.iter().map(by).collect(),
        nothing_is_done: policies.is_empty().then_some(Reason::NoPolicy),
        under_way: None,
        one_look: false,
    }
}

/// `close_wait > 5`, as a policy has it.
fn limits(texts: &[&str]) -> Vec<Comparison> {
    let limit = |text: &&str| {
        let (signal, rest) = text.split_once(" > ").unwrap();
        let signal = Signal::parse(signal).unwrap();
        Comparison { signal, operator: Operator::Above, threshold: rest.parse().unwrap() }
    };
    texts.iter().map(limit).collect()
}

/// A server with a clock of its own.
pub struct Set {
    pub at: SocketAddr,
    pub bulletins: watch::Sender<Arc<Bulletin>>,
    pub clock: Arc<ManualClock>,
    pub store: Arc<Store>,
    _server: Server,
}

/// What a server shows: the bulletin above, and an empty store.
pub fn served() -> (watch::Sender<Arc<Bulletin>>, Arc<ManualClock>, Served) {
    let (bulletins, receiver) = watch::channel(Arc::new(bulletin()));
    let clock = Arc::new(ManualClock::new(Timestamp::from_second(1_800_000_000).unwrap()));
    // A second after the bulletin's tick.
    clock.advance(Duration::from_secs(1_001));
    let served = Served {
        host: "web-1".into(),
        hosts: vec!["web-1.example".into()],
        bulletins: receiver,
        hints: None,
        store: Arc::new(Store::open(Path::new(":memory:")).unwrap()),
        evidence: "/nowhere".into(),
        clock: Arc::<ManualClock>::clone(&clock),
    };
    (bulletins, clock, served)
}

pub fn set() -> Set {
    set_within(BOUNDS)
}

pub fn set_within(bounds: Bounds) -> Set {
    set_of(bounds, None)
}

/// One that takes hints.
pub fn set_hinted(hints: Hints) -> Set {
    set_of(BOUNDS, Some(hints))
}

fn set_of(bounds: Bounds, hints: Option<Hints>) -> Set {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let at = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    let (bulletins, clock, served) = served();
    let served = Served { hints, ..served };
    let store = Arc::clone(&served.store);
    let listener = async { tokio::net::TcpListener::from_std(listener).unwrap() };
    Set { at, bulletins, clock, store, _server: Server::start_within(bounds, listener, served).unwrap() }
}

impl Set {
    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.at).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream
    }

    pub fn say(&self, text: &str) -> String {
        let mut stream = self.connect();
        // One that is refused early may close before it has read everything.
        let _ = stream.write_all(text.as_bytes());
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8(answer).unwrap()
    }

    pub fn ask(&self, method: &str, path: &str) -> String {
        self.say(&format!("{method} {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.at))
    }
}

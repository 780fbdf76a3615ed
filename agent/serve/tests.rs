//! What is said, word for word, and what clients may take of us: over real sockets.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use super::fixture::{bulletin, served, set, set_within};
use super::*;
use crate::view::bulletin::Bulletin;

/// Changes only with `UNWAIT_GOLDEN=write`.
const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/agent/serve/metrics.txt");

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

#[test]
fn each_path_is_answered_and_nothing_is_changed_by_anybody() {
    let set = set();
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
        ("GET", "/nowhere", "404 Not Found"),
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
    let set = set();
    // A loop that hangs posts nothing; the thread that the test stands on is the loop's here.
    set.clock.advance(Duration::from_secs(99));
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
    let set = set_within(Bounds { connections: 2, within: Duration::from_millis(300) });
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
    let set = set();
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
    let set = set();
    let at = set.at;
    let _open = set.connect();
    drop(set);
    assert!(TcpStream::connect(at).is_err());
    let taken = TcpListener::bind(at).unwrap();
    let server = Server::start(at, served().2).unwrap();
    drop(server);
    drop(taken);
}

//! A service with one fault each: its report names that cause, and no other.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::lab::agent::{self, Etc, HOST, kept, unwait};
use crate::lab::deadline::wait_until_seen;
use crate::lab::net::loopback;
use crate::lab::{Lab, Redis};

const UNIT: &str = "faulty.service";
const PORT: u16 = 7801;
const PEER: u16 = 6379;
const SOON: Duration = Duration::from_secs(150);

/// The service leaks as it does, its evidence is kept, and its report says why. `leaks`: until so many sockets are in
/// CLOSE_WAIT, and so many descriptors lead to none; `aged`: the oldest for so many seconds.
fn reported(lab: &Lab, fault: &str, clients: usize, leaks: (u64, u64), aged: f64) -> String {
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lab/faults.py");
    lab.add_unit(UNIT, &format!("[Service]\nExecStart=/usr/bin/python3 {program} {fault} {PORT} {PEER}\n"));
    lab.start_unit(UNIT);
    let mut there = Vec::new();
    wait_until_seen("the clients to connect", SOON, || {
        while there.len() < clients {
            let mut client = lab.network().connect(loopback(PORT)).map_err(|error| error.to_string())?;
            client.write_all(b"hello").map_err(|error| error.to_string())?;
            there.push(client);
        }
        Ok::<(), String>(())
    });
    leave(there);
    let policy = format!(
        "policy: look\nservices: [{UNIT}]\nwhen: {{ any: [close_wait > 100000, fd.closed > 100000] }}\nfor: 1m\nrunbook: evidence-only\n"
    );
    let state = format!("interval: 1s\nwarm_up: 0s\nstate: {}\n", lab.dir().join("state").display());
    Etc::shipped().with(HOST, &state).with("policies/look.yaml", &policy).write(lab);
    wait_until_seen("the leak", SOON, || {
        let seen = unwait(lab, &["scan", "--json"]).json();
        let found = seen["services"].as_array().into_iter().flatten().find(|one| one["service"] == UNIT);
        let found = found.cloned().unwrap_or_default();
        let is = (found["close_wait"].as_u64().unwrap_or(0), found["fd.closed"].as_u64().unwrap_or(0));
        let oldest = found["close_wait.oldest"].as_f64().unwrap_or(0.0);
        if is == leaks && oldest >= aged { Ok(()) } else { Err(format!("{found:#}\n{}", lab.journal(UNIT))) }
    });
    let _agent = agent::run(lab);
    let begun = unwait(lab, &["act", UNIT, "--policy", "look"]);
    assert_eq!(begun.code, 0, "{begun:?}");
    let ended = agent::wait_for_end(lab, SOON);
    let id = ended["incident"].as_str().expect("an id");
    let page =
        kept(lab, ended["evidence"].as_str().unwrap_or_else(|| panic!("no evidence: {ended:#}"))).join("report.html");
    wait_until_seen("the report beside the evidence", SOON, || {
        std::fs::read_to_string(&page).map(drop).map_err(|error| format!("{}: {error}", page.display()))
    });
    let shown = unwait(lab, &["show", id, "--html"]);
    assert_eq!(shown.code, 0, "{shown:?}");
    shown.out
}

/// Each closes its own side, as a client that has given up.
fn leave(clients: Vec<TcpStream>) {
    for mut client in clients {
        client.shutdown(std::net::Shutdown::Write).expect("it is connected");
        client.set_nonblocking(true).expect("a socket");
        let _ = client.read(&mut [0; 16]);
    }
}

fn assert_says_alone(page: &str, cause: &str) {
    let causes: Vec<&str> = page.split("<h3>").skip(1).filter_map(|rest| rest.split("</h3>").next()).collect();
    assert!(causes.len() == 1 && causes[0].starts_with(cause), "{causes:?}, not {cause}: {page}");
}

#[test]
fn a_pool_that_keeps_connections_longer_than_its_peer_does() {
    let lab = Lab::start();
    lab.start_unit("dbus.service");
    let _redis = Redis::start(&lab, PEER, 2);
    let page = reported(&lab, "idle_pool", 0, (24, 0), 0.0);
    assert_says_alone(&page, "Idle pool");
    assert!(page.contains("127.0.0.1:6379 closed 24 of 24 sockets after "), "{page}");
}

#[test]
fn far_more_workers_than_the_traffic_needs() {
    let lab = Lab::start();
    lab.start_unit("dbus.service");
    let _redis = Redis::start(&lab, PEER, 2);
    // A worker must have been idle for long enough to be told from one that has just begun.
    let page = reported(&lab, "too_many_workers", 0, (24, 0), 75.0);
    assert_says_alone(&page, "Far more workers");
}

#[test]
fn a_program_that_reads_the_end_of_a_connection_and_keeps_it() {
    let lab = Lab::start();
    lab.start_unit("dbus.service");
    assert_says_alone(&reported(&lab, "close_path_forgotten", 12, (12, 0), 0.0), "Close path forgotten");
}

#[test]
fn handlers_that_never_return() {
    let lab = Lab::start();
    lab.start_unit("dbus.service");
    assert_says_alone(&reported(&lab, "handlers_stuck", 12, (12, 0), 0.0), "Handlers stuck");
}

#[test]
fn a_program_that_does_not_accept() {
    let lab = Lab::start();
    lab.start_unit("dbus.service");
    assert_says_alone(&reported(&lab, "accept_queue_not_served", 12, (12, 0), 0.0), "Accept queue not served");
}

#[test]
fn helpers_that_inherited_the_connections() {
    let lab = Lab::start();
    lab.start_unit("dbus.service");
    assert_says_alone(&reported(&lab, "descriptors_handed_on", 12, (12, 0), 0.0), "Descriptors handed on");
}

#[test]
fn keepalive_that_takes_the_sockets_out_of_close_wait() {
    let lab = Lab::start();
    lab.start_unit("dbus.service");
    // What is left of the server's end of a connection, gone after a second in place of a minute.
    lab.run(&[
        "sh",
        "-c",
        "mkdir /run/proc && mount -t proc proc /run/proc && echo 1 >/run/proc/sys/net/ipv4/tcp_fin_timeout",
    ]);
    let _redis = Redis::start(&lab, PEER, 2);
    assert_says_alone(&reported(&lab, "keepalive_hides_it", 0, (0, 24), 0.0), "Keepalive hides");
}

//! A socket with `Accept=yes`: a unit for each connection, all of them one service, which is counted as one, and not
//! restarted.

use std::time::Duration;

use crate::lab::Lab;
use crate::lab::agent::{Etc, HOST, POLICY, unwait};
use crate::lab::deadline::wait_until_seen;
use crate::lab::net::loopback;

const SOON: Duration = Duration::from_secs(30);
const PORT: u16 = 7501;
const LEAKED: u64 = 30;
const LEAKY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lab/leaky.php");

/// The services that hold sockets in CLOSE_WAIT, each with how many of them came in.
fn seen(lab: &Lab) -> Vec<(String, u64)> {
    let seen = unwait(lab, &["scan", "--json"]).json();
    let rows = seen["services"].as_array().expect("services").iter();
    let inbound = |row: &serde_json::Value| row["close_wait.inbound"].as_u64().expect("a count");
    let mut rows: Vec<_> = rows.map(|row| (row["service"].as_str().expect("a name").into(), inbound(row))).collect();
    rows.sort();
    rows
}

#[test]
fn the_instances_of_a_socket_are_one_service_that_is_not_restarted_and_says_what_ends_them() {
    let lab = Lab::start();
    lab.start_unit("dbus.service");
    lab.add_unit("each.socket", &format!("[Socket]\nListenStream=127.0.0.1:{PORT}\nAccept=yes\n"));
    // The connection is a descriptor that it never looks at.
    lab.add_unit("each@.service", "[Service]\nExecStart=/bin/sleep infinity\n");
    lab.add_unit("worker@.service", &format!("[Service]\nExecStart=/usr/bin/php {LEAKY} 75%i 2 0\n"));
    Etc::shipped()
        .with(HOST, "services:\n  - { service: \"each@.service\", labels: { team: trade } }\n")
        .with(
            POLICY,
            "policy: close-wait-leak\nservices: [\"each@*.service\"]\nwhen: close_wait > 20\nfor: 1s\n\
             runbook: restart-in-place\n",
        )
        .with("runbooks/restart-in-place.yaml", "runbook: restart-in-place\nsteps:\n  - restart: {}\n")
        .write(&lab);
    for unit in ["each.socket", "worker@11.service", "worker@12.service"] {
        lab.start_unit(unit);
    }
    let connect = || drop(lab.network().connect(loopback(PORT)).expect("systemd listens"));
    (0..LEAKED).for_each(|_| connect());
    let instances = [("worker@11.service".to_owned(), 2), ("worker@12.service".to_owned(), 2)];
    let all = [&[("each@.service".to_owned(), LEAKED)], &instances[..]].concat();
    wait_until_seen("all of them, as one service", SOON, || {
        let seen = seen(&lab);
        if seen == all { Ok(()) } else { Err(format!("{seen:?}")) }
    });

    let stop = "systemctl stop 'each@*.service'";
    let check = unwait(&lab, &["check"]);
    assert!(check.code == 0 && check.all().contains(stop), "{check:?}");
    let plan = unwait(&lab, &["plan", "each@.service", "--policy", "close-wait-leak"]);
    assert!(plan.all().contains(stop) && !plan.all().contains("D-Bus"), "{plan:?}");

    lab.run(&["systemctl", "stop", "each@*.service"]);
    assert_eq!(seen(&lab), instances, "what it says ends them");
    connect();
    wait_until_seen("the next connection's instance", SOON, || {
        let seen = seen(&lab);
        if seen.contains(&("each@.service".to_owned(), 1)) { Ok(()) } else { Err(format!("{seen:?}")) }
    });
}

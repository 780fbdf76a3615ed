//! Workers whose handlers hang do not end when they are asked to, and take no new requests any more: gunicorn's threads. A
//! recycle that fails so takes nothing more away, is told, and is not tried again until a person has looked.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::lab::agent::{self, Etc, HOST, POLICY, unwait};
use crate::lab::deadline::wait_until_seen;
use crate::lab::installed::installed;
use crate::lab::net::loopback;
use crate::lab::{Lab, http};

const UNIT: &str = "rpc-web.service";
const PORT: u16 = 7900;
const WORKERS: usize = 4;
const RECYCLE: &str = "runbooks/recycle-workers.yaml";
const SOON: Duration = Duration::from_secs(20);
/// One incident, with the quarter of a minute in which a service may yet be as it was.
const ONCE: Duration = Duration::from_secs(60);

/// gunicorn's workers with threads, none of which its master ends by itself (`--timeout`).
fn start_gunicorn(lab: &Lab) {
    let (modules, app) = (installed("gunicorn-27.0.1"), concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lab"));
    lab.add_unit(
        UNIT,
        &format!(
            "[Service]\nEnvironment=PYTHONPATH={}:{app} PYTHONDONTWRITEBYTECODE=1 HOME=/run\n\
             ExecStart=/usr/bin/python3 -m gunicorn --bind 127.0.0.1:{PORT} --workers {WORKERS} --worker-class gthread \
             --threads 16 --timeout 600 hung:app\nTimeoutStopSec=2\n",
            modules.display()
        ),
    );
    lab.start_unit(UNIT);
    // It answers as soon as the first of them is there.
    wait_until_seen("each worker of gunicorn to be there", SOON, || {
        if answers(lab) == 20 && workers(lab).len() == WORKERS { Ok(()) } else { Err(lab.journal(UNIT)) }
    });
}

/// Of 20 clients, how many have an answer.
fn answers(lab: &Lab) -> usize {
    let asks = (0..20).map(|_| http::ask(lab.network(), loopback(PORT), "GET", "/", None, ""));
    asks.filter(|answer| answer.as_ref().is_ok_and(|answer| answer.status == 200)).count()
}

fn workers(lab: &Lab) -> BTreeSet<u32> {
    let main = lab.show(UNIT, "MainPID");
    let listed = lab.stdout(&["ps", "--no-headers", "-o", "pid", "--ppid", &main]);
    listed.split_whitespace().map(|pid| pid.parse().expect("a pid")).collect()
}

fn leaking(lab: &Lab) -> BTreeSet<u32> {
    let listing = lab.stdout(&["ss", "--tcp", "--numeric", "--processes", "--no-header", "state", "close-wait"]);
    listing.split("pid=").skip(1).filter_map(|rest| rest.split(',').next()?.parse().ok()).collect()
}

/// Clients that leave while their handlers hang, until each worker has some of them.
fn hang_all(lab: &Lab) {
    wait_until_seen("whoever asked before to be gone", SOON, || {
        let passing = leaking(lab);
        if passing.is_empty() { Ok(()) } else { Err(format!("{passing:?}")) }
    });
    wait_until_seen("each worker to leak", SOON, || {
        let mut client = lab.network().connect(loopback(PORT)).expect("gunicorn listens");
        client.write_all(b"GET /hang HTTP/1.0\r\n\r\n").expect("it reads");
        drop(client);
        let (workers, leaking) = (workers(lab), leaking(lab));
        if leaking == workers { Ok(()) } else { Err(format!("{leaking:?} of {workers:?}")) }
    });
}

/// Where the test finds it as well.
fn state(lab: &Lab) -> PathBuf {
    lab.dir().join("state")
}

/// A policy that acts by hand alone, and the shipped runbook with waits that a test can wait for.
fn configure(lab: &Lab, kill_after: &str) -> Etc {
    let policy = format!(
        "policy: hung\nservices: [{UNIT}]\nwhen: close_wait > 1000\nfor: 1m\nrunbook: recycle-workers\n\
         limits: {{ cooldown: 1m, per_service: 9 per 1h, per_host: 9 per 1h }}\n"
    );
    let service = format!("services:\n  - {{ service: {UNIT}, health: {{ http: \"http://127.0.0.1:{PORT}/\" }} }}\n");
    Etc::of_the_story()
        .edit(HOST, "services:\n", &service)
        .edit(HOST, "notify:\n", "#notify:\n")
        .edit(HOST, "  - to: { generic:", "#  - to: { generic:")
        .edit(HOST, "    events: [breach", "#    events: [breach")
        .edit(HOST, "fleet: { consul: {} }", &format!("warm_up: 0s\nstate: {}", state(lab).display()))
        .edit(POLICY, "mode: auto", "mode: observe")
        .with("policies/hung.yaml", &policy)
        .edit(RECYCLE, "older_than: 1m", "older_than: 1s")
        .edit(RECYCLE, "wait: 45s, kill_after: 35s", &format!("wait: 3s{kill_after}"))
        .edit(RECYCLE, "interval: 2s", "interval: 100ms")
        .edit(RECYCLE, "soak: 2m, expect: [close_wait.aged(1m) < 20]", "soak: 1s, expect: [close_wait < 1]")
}

/// Begins the plan by hand, and waits for its end: the incident, and what its end says.
fn act(lab: &Lab) -> (Value, String) {
    let begun = unwait(lab, &["act", UNIT, "--policy", "hung"]);
    assert_eq!(begun.code, 0, "{begun:?}");
    let ended = agent::wait_for_end(lab, ONCE);
    let shown = unwait(lab, &["show", ended["incident"].as_str().expect("an id")]).out;
    (ended, shown)
}

fn assert_ended(ended: &Value, outcome: &str, reason: &str, shown: &str) {
    assert_eq!((&ended["outcome"], &ended["reason"]), (&outcome.into(), &reason.into()), "{ended:#}\n{shown}");
}

#[test]
fn workers_that_do_not_end_are_told_and_cost_the_service_nothing_more() {
    let lab = Lab::start();
    lab.start_unit("dbus.service");
    start_gunicorn(&lab);
    hang_all(&lab);
    let all = workers(&lab);
    configure(&lab, "").write(&lab);
    let agent = agent::run(&lab);

    let (ended, shown) = act(&lab);

    assert_ended(&ended, "stuck", "recycle_failed", &shown);
    assert!(shown.contains("2 of 4 workers serve, where 4 did"), "{shown}");
    assert_eq!((workers(&lab), answers(&lab)), (all.clone(), 20), "half of them were asked, and live");

    // A person takes the latch away, and tries once more: the two that still serve are not asked.
    let resolved = unwait(&lab, &["resolve", UNIT]);
    assert_eq!(resolved.code, 0, "{resolved:?}");
    agent::an_hour_passes(&state(&lab));
    let (ended, shown) = act(&lab);
    assert_ended(&ended, "completed", "not_helped", &shown);
    assert!(
        shown.contains("unwait ended 0 and may end no more: 2 must keep serving (`floor: 50%`), and 2 do"),
        "{shown}"
    );
    assert!(shown.contains("set `kill_after` in the runbook"), "{shown}");
    assert_eq!((workers(&lab), answers(&lab)), (all.clone(), 20));

    // Where they are killed, those that were asked before go first, and all four serve again.
    configure(&lab, ", kill_after: 1s").write(&lab);
    agent.signal(Signal::SIGHUP);
    wait_until_seen("the new runbook", SOON, || {
        let plan = unwait(&lab, &["plan", UNIT, "--policy", "hung"]);
        if plan.out.contains("kill_after") || plan.out.contains("SIGKILL") { Ok(()) } else { Err(plan.all()) }
    });
    agent::an_hour_passes(&state(&lab));
    let (ended, shown) = act(&lab);
    assert_ended(&ended, "completed", "recovered", &shown);
    let now = workers(&lab);
    assert!(now.len() == WORKERS && now.is_disjoint(&all), "{all:?} {now:?}");
    assert_eq!((leaking(&lab), answers(&lab)), (BTreeSet::new(), 20));
}

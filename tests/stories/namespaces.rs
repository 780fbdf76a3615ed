//! Services in network namespaces of their own: seen by name, told in time, and never kept alive by who looks.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::lab::agent::{self, Etc, HOST, POLICY, PROGRAM, kept, unwait, unwait_as_nobody, unwait_without};
use crate::lab::deadline::wait_until_seen;
use crate::lab::namespace::{Leak, start_leaky_at_home};
use crate::lab::{Lab, Room, Webhook};

const SOON: Duration = Duration::from_secs(20);

/// What one look shows of each service: all of its sockets in CLOSE_WAIT, inbound and outbound.
fn counts(scan: &Value) -> Vec<(String, [u64; 3])> {
    let services = scan["services"].as_array().unwrap_or_else(|| panic!("no services: {scan:#}"));
    let count = |service: &Value, key| service[key].as_u64().unwrap_or_else(|| panic!("no {key}: {service:#}"));
    let keys = ["close_wait", "close_wait.inbound", "close_wait.outbound"];
    let row = |service: &Value| {
        let name = service["service"].as_str().expect("a name").to_owned();
        (name, keys.map(|key| count(service, key)))
    };
    services.iter().map(row).collect()
}

fn expected(services: &[(&str, [u64; 3])]) -> Vec<(String, [u64; 3])> {
    services.iter().map(|(name, counts)| ((*name).to_owned(), *counts)).collect()
}

fn scan(lab: &Lab) -> Value {
    let said = unwait(lab, &["scan", "--json"]);
    assert_eq!(said.code, 0, "{said:?}");
    said.json()
}

#[test]
fn services_in_other_namespaces_are_counted_and_no_look_keeps_these_alive() {
    let lab = Lab::start();
    let (blue, red) = (Room::add(&lab, "blue"), Room::add(&lab, "red"));
    let begun = Instant::now();
    blue.start_leaky("leak-blue.service", 7301, Leak { inbound: 5, outbound: 12 });
    let leaked = Instant::now();
    // The same port, as containers have it.
    red.start_leaky("leak-red.service", 7301, Leak { inbound: 7, outbound: 0 });
    start_leaky_at_home(&lab, "leak-home.service", 7301, Leak { inbound: 0, outbound: 3 });

    let seen = scan(&lab);
    let all = [("leak-blue.service", [17, 5, 12]), ("leak-red.service", [7, 7, 0]), ("leak-home.service", [3, 0, 3])];
    assert_eq!(counts(&seen), expected(&all), "{seen:#}");
    assert_eq!((&seen["unattributed"], &seen["host.close_wait"]), (&0.into(), &27.into()), "{seen:#}");
    assert_eq!(
        (&seen["complete"], &seen["not_seen"], &seen["source"]),
        (&true.into(), &json!([]), &"sock_diag".into())
    );

    wait_until_seen("an age", SOON, || {
        let at_least = leaked.elapsed().as_secs_f64();
        let seen = scan(&lab);
        let oldest = seen["services"][0]["close_wait.oldest"].as_f64().unwrap_or_else(|| panic!("no age: {seen:#}"));
        let at_most = begun.elapsed().as_secs_f64();
        assert!(oldest <= at_most, "{oldest} s of {at_most} s: overstated");
        assert!(oldest + 0.3 >= at_least, "{oldest} s of {at_least} s: forgotten");
        if oldest >= 2.0 { Ok(()) } else { Err(format!("{oldest} s")) }
    });

    // Its service alone keeps it now, and is found by it.
    blue.delete();
    assert!(blue.lives());
    assert_eq!(counts(&scan(&lab)), expected(&all));

    lab.stop_unit("leak-blue.service");
    lab.stop_unit("leak-red.service");
    red.delete();
    blue.wait_until_gone();
    red.wait_until_gone();
    assert_eq!(counts(&scan(&lab)), expected(&all[2..]));
}

/// The agent runs as its unit is shipped, in that sandbox.
#[test]
fn the_agent_passes_over_what_cannot_matter_and_sees_a_breach_in_another_namespace() {
    let lab = Lab::start();
    let webhook = Webhook::start(&lab);
    agent::write_webhook(&lab, &webhook);
    let room = Room::add(&lab, "blue");
    room.start_leaky("leak-few.service", 7301, Leak { inbound: 3, outbound: 2 });
    start_leaky_at_home(&lab, "leak-home.service", 7303, Leak { inbound: 0, outbound: 3 });
    Etc::of_the_story()
        .with(
            HOST,
            "interval: 1s\ncpu_budget: 100%\nrestart_grace: 0s\nnotify:\n  - to: { generic: { url_file: ${CREDENTIALS_DIRECTORY}/webhook, \
             key_file: ${CREDENTIALS_DIRECTORY}/webhook-key } }\n    events: [breach, end, stuck]\n",
        )
        .edit(POLICY, "rpc-*.service", "leak-*.service")
        .edit(POLICY, "runbook: isolate-restart-recover", "runbook: evidence-only")
        .write(&lab);
    agent::start_unit(&lab);

    let status = || unwait(&lab, &["status", "--json"]).json()["agent"].clone();
    wait_until_seen("the namespaces to be passed over", SOON, || {
        let status = status();
        let at_most = status["passed_over_at_most"].as_u64().unwrap_or(0);
        // Nothing was walked; what there may be is told.
        if status["host.close_wait"] == 0 && (8..200).contains(&at_most) { Ok(()) } else { Err(format!("{status:#}")) }
    });
    assert_eq!(status()["not_seen"], json!([]), "the sandbox shows all of it");

    room.start_leaky("leak-many.service", 7302, Leak { inbound: 0, outbound: 288 });
    // A connection that is younger than ten seconds counts as one that still sends.
    let breach =
        webhook.wait_for("the breach", Duration::from_secs(30), |request| request.json()["event"] == "breach").json();
    assert_eq!(breach["service"], "leak-many.service", "{breach:#}");
    assert!(breach["lines"].to_string().contains("close_wait.aged(2s) > 200: now 288"), "{breach:#}");

    let ended = agent::wait_for_end(&lab, SOON);
    assert_eq!((&ended["service"], &ended["outcome"]), (&"leak-many.service".into(), &"completed".into()), "{ended:#}");
    let evidence = |name: &str| {
        let path = format!("{}/{name}", ended["evidence"].as_str().expect("the evidence has a place"));
        std::fs::read_to_string(kept(&lab, &path)).unwrap_or_else(|error| panic!("{name}: {error}"))
    };
    let sockets = evidence("sockets.jsonl");
    assert_eq!(sockets.lines().count(), 288);
    assert!(!sockets.contains(r#""cookie":0,"#), "/proc tells no cookie: the sandbox did not let it enter\n{sockets}");
    let table = evidence("sockets.txt");
    assert_eq!(close_wait_rows(&table), close_wait_rows(&room.ss()), "as ss prints it inside");
    assert_eq!(close_wait_rows(&table).len(), 293);
    assert!(!table.contains(":7303"), "of that namespace alone:\n{table}");

    // It goes on looking once a second, and keeps nothing; nor does its sandbox what was mounted since.
    let late = Room::add(&lab, "late");
    late.delete();
    late.wait_until_gone();
    lab.stop_unit("leak-many.service");
    lab.stop_unit("leak-few.service");
    assert!(room.lives());
    let before = status()["last_snapshot"].clone();
    room.delete();
    room.wait_until_gone();
    wait_until_seen("the next look", SOON, || match status() {
        status if status["last_snapshot"] != before && status["last_failure"].is_null() => Ok(()),
        status => Err(format!("{status:#}")),
    });
}

fn close_wait_rows(table: &str) -> BTreeSet<String> {
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    table.lines().map(words).filter(|line| line.starts_with("CLOSE-WAIT ")).collect()
}

#[test]
fn who_may_less_sees_less_and_is_told_which_capability_shows_it() {
    let lab = Lab::start();
    let room = Room::add(&lab, "blue");
    room.start_leaky("leak-blue.service", 7301, Leak { inbound: 5, outbound: 12 });
    start_leaky_at_home(&lab, "leak-home.service", 7301, Leak { inbound: 0, outbound: 3 });
    let (blue, home) = (("leak-blue.service", [17, 5, 12]), ("leak-home.service", [3, 0, 3]));
    let not_seen = |scan: &Value| scan["not_seen"].as_array().expect("a list").iter().map(Value::to_string).collect();

    // Without the right to enter, the tables in /proc are read; whose their sockets are is found by the descriptors.
    let said = unwait_without(&lab, "-sys_admin", &["scan", "--json"]);
    assert_eq!(said.code, 0, "{said:?}");
    let seen = said.json();
    assert_eq!(counts(&seen), expected(&[blue, home]), "{seen:#}");
    assert_eq!((&seen["unattributed"], &seen["source"]), (&0.into(), &"sock_diag".into()));
    let spots: Vec<String> = not_seen(&seen);
    assert!(spots.len() == 1 && spots[0].contains("cannot be entered: 1;"), "{spots:#?}");
    assert!(spots[0].contains("grant CAP_SYS_ADMIN"), "{spots:#?}");
    let age = seen["services"][0]["close_wait.oldest"].as_f64();
    assert_eq!(age, Some(0.0), "/proc tells no age: {seen:#}");

    // The agent says so too, once in its log and at each `status`.
    Etc::of_the_story().with(HOST, "interval: 1s\n").edit(POLICY, "mode: auto", "mode: observe").write(&lab);
    let agent = lab.spawn(&["setpriv", "--bounding-set", "-sys_admin", "--", PROGRAM, "run", "--log", "json"]);
    wait_until_seen("the agent to say what it does not see", SOON, || match unwait(&lab, &["status"]) {
        said if said.out.contains("NOT SEEN: network namespaces that cannot be entered: 1;") => Ok(()),
        said => Err(format!("{said:?}\n{}", agent.output())),
    });
    assert_eq!(
        agent.output().matches("not visible to the agent: network namespaces that cannot be entered").count(),
        1
    );
    drop(agent);

    // Without that to see whose namespace it is either, only its mount is left.
    for said in [
        unwait_without(&lab, "-sys_admin,-sys_ptrace", &["scan", "--json"]),
        unwait_as_nobody(&lab, &["scan", "--json"]),
    ] {
        assert_eq!(said.code, 0, "{said:?}");
        let seen = said.json();
        assert_eq!(counts(&seen), expected(&[home]), "{seen:#}");
        let spots: Vec<String> = not_seen(&seen);
        let told = |what: &str, by: &str| spots.iter().any(|spot| spot.contains(what) && spot.contains(by));
        assert!(told("neither entered nor read: 1;", "CAP_SYS_ADMIN"), "{spots:#?}");
        assert!(told("processes whose network namespace", "CAP_SYS_PTRACE"), "{spots:#?}");
    }
    let table = unwait_as_nobody(&lab, &["scan"]).out;
    assert!(
        table.contains("Not seen:") && table.contains("CAP_SYS_ADMIN") && table.contains("this is not root"),
        "{table}"
    );
}

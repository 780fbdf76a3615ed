//! The gentler ways, on a real host: workers that leak are replaced in traffic, and a service reloads itself.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;

use crate::lab::agent::{self, Etc, HOST, POLICY, unwait};
use crate::lab::deadline::{dawdle, wait_until, wait_until_seen};
use crate::lab::stage::ALL;
use crate::lab::{Behaviour, Lab, Stage, service};

const WHOLE: Duration = Duration::from_secs(60);
const RECYCLE: &str = "runbooks/recycle-workers.yaml";

/// How many workers live of a unit, and their pids.
fn workers(lab: &Lab, unit: &str) -> BTreeSet<u32> {
    let main = lab.show(unit, "MainPID");
    let listed = lab.stdout(&["ps", "--no-headers", "-o", "pid", "--ppid", &main]);
    listed.split_whitespace().map(|pid| pid.parse().expect("a pid")).collect()
}

/// Those of them that hold a connection in CLOSE_WAIT, as `ss` tells.
fn leaking(lab: &Lab) -> BTreeSet<u32> {
    let listing = lab.stdout(&["ss", "--tcp", "--numeric", "--processes", "--no-header", "state", "close-wait"]);
    let pids = listing.split("pid=").skip(1).filter_map(|rest| rest.split(',').next()?.parse().ok());
    pids.collect()
}

#[test]
fn workers_that_leak_are_replaced_in_traffic_and_the_others_keep_their_pids() {
    let lab = Lab::start();
    let stage = Stage::set(&lab, Behaviour::SomeWorkersLeak);
    Etc::of_the_story()
        .edit(POLICY, "aged(2s) > 200", "aged(2s) > 30")
        .edit(POLICY, "runbook: isolate-restart-recover", "runbook: recycle-workers")
        .edit(RECYCLE, "older_than: 1m", "older_than: 1s")
        .edit(RECYCLE, "interval: 2s", "interval: 500ms")
        .edit(RECYCLE, "soak: 2m, expect: [close_wait.aged(1m) < 20]", "soak: 1s, expect: [close_wait.aged(1s) < 1]")
        .write(&lab);
    wait_until_seen("some workers to leak", Duration::from_secs(20), || match leaking(&lab) {
        leaking if leaking.len() == service::WORKERS_THAT_LEAK => Ok(()),
        leaking => Err(format!("{leaking:?}")),
    });
    let (before, leaking) = (workers(&lab, service::UNIT), leaking(&lab));
    assert_eq!(before.len(), service::WORKERS);
    let (lifetime, main) = (stage.service.invocation_id(), lab.show(service::UNIT, "MainPID"));
    let maintenance = stage.consul.maintenance_log();

    // Clients come and go all the time.
    let over = AtomicBool::new(false);
    let (ended, asked) = std::thread::scope(|scope| {
        let client = scope.spawn(|| {
            let mut asked = 0;
            while !over.load(Ordering::Relaxed) {
                assert!(stage.service.answers(), "a client was refused");
                asked += 1;
                dawdle(Duration::from_millis(50));
            }
            asked
        });
        let agent = agent::run(&lab);
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| agent::wait_for_end(&lab, WHOLE)));
        over.store(true, Ordering::Relaxed);
        drop(agent);
        (ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic)), client.join().expect("no client was refused"))
    });

    assert_eq!((&ended["outcome"], &ended["reason"]), (&"completed".into(), &"recovered".into()), "{ended:#}");
    assert!(asked > 20, "only {asked} clients");
    let after = workers(&lab, service::UNIT);
    assert_eq!(after.len(), service::WORKERS);
    let stayed: BTreeSet<u32> = before.intersection(&after).copied().collect();
    assert_eq!(stayed, &before - &leaking, "exactly those that leaked are gone");
    assert_eq!((stage.service.invocation_id(), lab.show(service::UNIT, "MainPID")), (lifetime, main));
    assert_eq!(stage.service.close_wait(), 0);
    assert_eq!(
        (stage.consul.passing(crate::lab::stage::NAME), stage.consul.maintenance_log()),
        (ALL.map(String::from).to_vec(), maintenance)
    );
    let shown = unwait(&lab, &["show", ended["incident"].as_str().expect("an id")]);
    let words = format!(
        "{0} of 96 workers, which held {1} leaked sockets",
        service::WORKERS_THAT_LEAK,
        3 * service::WORKERS_THAT_LEAK
    );
    assert!(shown.out.contains(&words), "{shown:?}");
}

/// A unit that lives, and what its reload does.
fn add_unit(lab: &Lab, unit: &str, reload: &str) {
    lab.add_unit(unit, &format!("[Service]\nExecStart=/bin/sleep infinity\n{reload}"));
    lab.start_unit(unit);
}

#[test]
fn a_service_reloads_itself_and_one_that_fails_or_dies_of_it_is_told() {
    let lab = Lab::start();
    lab.start_unit("dbus.service");
    let touched = lab.dir().join("reloaded");
    let units = BTreeMap::from([
        ("good.service", format!("ExecReload=/usr/bin/touch {}\n", touched.display())),
        ("bad.service", "ExecReload=/bin/false\n".into()),
        ("frail.service", "ExecReload=/bin/kill -KILL $MAINPID\n".into()),
        ("plain.service", String::new()),
    ]);
    let mut services = String::new();
    for (unit, reload) in &units {
        add_unit(&lab, unit, reload);
        services.push_str(&format!("  - {{ service: {unit}, health: {{ exec: [/bin/true] }} }}\n"));
    }
    let reload = include_str!("../../runbooks/reload.yaml");
    let policy = "policy: reload\nservices: [good.service, bad.service, frail.service, plain.service]\n\
                  when: close_wait > 1000\nfor: 1m\nmode: dry-run\nrunbook: reload\n";
    Etc::of_the_story()
        .edit(HOST, "services:\n", &format!("services:\n{services}"))
        .edit(HOST, "notify:\n", "#notify:\n")
        .edit(HOST, "  - to: { generic:", "#  - to: { generic:")
        .edit(HOST, "    events: [breach", "#    events: [breach")
        .edit(HOST, "fleet: { consul: {} }", "warm_up: 0s")
        .edit(POLICY, "mode: auto", "mode: observe")
        .with("policies/reload.yaml", policy)
        .with("runbooks/reload.yaml", reload)
        .edit("runbooks/reload.yaml", "interval: 2s", "interval: 100ms")
        .edit("runbooks/reload.yaml", "soak: 2m, expect: [close_wait.aged(1m) < 20]", "soak: 0s")
        .write(&lab);
    let _agent = agent::run(&lab);
    let lifetime = |unit: &str| lab.show(unit, "InvocationID");
    let act = |unit: &str| -> Value {
        let begun = unwait(&lab, &["act", unit, "--policy", "reload"]);
        assert_eq!(begun.code, 0, "{begun:?}");
        let ended = agent::wait_for_end(&lab, WHOLE);
        assert_eq!(ended["service"], unit, "{ended:#}");
        ended
    };

    let before = lifetime("good.service");
    let ended = act("good.service");
    assert_eq!((&ended["outcome"], &ended["reason"]), (&"completed".into(), &"recovered".into()), "{ended:#}");
    assert!(touched.exists(), "its ExecReload was run");
    assert_eq!(lifetime("good.service"), before);

    let before = lifetime("bad.service");
    let ended = act("bad.service");
    assert_eq!((&ended["outcome"], &ended["reason"]), (&"unwound".into(), &"reload_failed".into()), "{ended:#}");
    assert_eq!((lifetime("bad.service"), lab.show("bad.service", "ActiveState")), (before, "active".into()));

    let ended = act("frail.service");
    assert_eq!((&ended["outcome"], &ended["reason"]), (&"stuck".into(), &"reload_failed".into()), "{ended:#}");

    let plan = unwait(&lab, &["plan", "plain.service", "--policy", "reload"]);
    assert!(plan.code == 1 && plan.out.contains("plain.service has no ExecReload="), "{plan:?}");
    let check = unwait(&lab, &["check"]);
    assert!(
        check.out.contains("reload: cannot act on plain.service: reload: plain.service has no ExecReload="),
        "{check:?}"
    );
    let refused = unwait(&lab, &["act", "plain.service", "--policy", "reload"]);
    assert!(refused.code == 1 && refused.err.contains("not_actionable"), "{refused:?}");
    wait_until("the latch of the one that died", WHOLE, || {
        let status = unwait(&lab, &["status", "--json"]).json();
        (status["latches"][0]["service"] == "frail.service").then_some(())
    });
}

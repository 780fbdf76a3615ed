//! Parties that accept and never answer hold up what depends on them, and nothing else: not the ticks, not `status`, not
//! another service, not the end of the agent.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::lab::agent::{self, Etc, HOST, unwait, unwait_within, wait_for_held};
use crate::lab::closewait::close_wait_of;
use crate::lab::deadline::{holds_for, wait_until, wait_until_seen};
use crate::lab::net::loopback;
use crate::lab::stage::OTHERS;
use crate::lab::{Behaviour, Lab, Stage, consul, http, service};

/// Bound to no registry.
const TWIN: &str = "alone.service";
const TWINS_POLICY: &str = "policies/alone.yaml";
const SOON: Duration = Duration::from_secs(60);
/// The agent waits for a second for who is not known to be silent; a question to this registry would take five, and there are many.
const AT_ONCE: Duration = Duration::from_secs(4);

/// The agent's own aim is 2 s.
const ENDS_WITHIN: Duration = Duration::from_secs(5);
/// What `timeout` ends with.
const TIMED_OUT: i32 = 124;

/// A process that is stopped: its kernel accepts connections, and nobody answers.
fn signal(lab: &Lab, unit: &str, signal: &str) {
    lab.run(&["systemctl", "kill", "--kill-who=main", &format!("--signal={signal}"), unit]);
}

fn etc() -> Etc {
    let policy = "policy: alone\nservices: [alone.service]\nwhen: close_wait.aged(2s) > 3\nfor: 2s\nmode: auto\n\
                  runbook: restart-in-place\nlimits: { cooldown: 30m, per_service: 2 per 6h, per_host: 9 per 6h }\n\
                  guards: { fleet_slots: none }\n";
    let services = "services:\n  - service: alone.service\n    health: { redis_ping: \"ADDRESS\" }\n"
        .replace("ADDRESS", &service::twin_address().to_string());
    let short = "soak: 2s, expect: [close_wait.aged(1s) < 20]";
    Etc::of_the_story()
        .edit(HOST, "services:\n", &services)
        .edit("runbooks/restart-in-place.yaml", "soak: 2m, expect: [close_wait.aged(1m) < 20]", short)
        .with(TWINS_POLICY, policy)
}

#[test]
fn a_registry_that_hangs_holds_up_its_own_services_and_nothing_else() {
    let lab = Lab::start();
    let stage = Stage::set(&lab, Behaviour::LeakUntilRestarted);
    stage.service.wait_for_leak();
    stage.service.start_twin(TWIN, stage.redis.port(), Behaviour::LeakUntilRestarted);
    let (lifetime, twins) = (stage.service.invocation_id(), lab.show(TWIN, "InvocationID"));
    signal(&lab, consul::UNIT, "STOP");
    etc().write(&lab);
    let agent = agent::run(&lab);

    let held = wait_until_seen("the breach to be held by the registry's silence", SOON, || {
        let held = wait_for_held(&lab, "guard_failed");
        let said = held["detail"].as_str().unwrap_or_default().contains("registry consul has not answered for ");
        if said { Ok(held) } else { Err(format!("{held:#}")) }
    });
    assert_eq!(held["service"], service::UNIT, "{held:#}");
    wait_until("the other service to be restarted", SOON, || (lab.show(TWIN, "InvocationID") != twins).then_some(()));
    holds_for("people are answered at once", Duration::from_secs(8), || {
        for asks in [vec!["status", "--json"], vec!["explain", service::UNIT], vec!["explain", TWIN]] {
            let said = unwait_within(&lab, AT_ONCE, &asks);
            if said.code == TIMED_OUT {
                return Err(format!("{asks:?} had no answer: {}", said.all()));
            }
        }
        Ok(())
    });
    assert_eq!(stage.service.invocation_id(), lifetime, "nothing is done to what nobody could take out of traffic");

    signal(&lab, consul::UNIT, "CONT");
    stage.wait_for_passing(&OTHERS, SOON);
    wait_until("its own restart", SOON, || (stage.service.invocation_id() != lifetime).then_some(()));
    drop(agent);
}

#[test]
fn an_agent_that_is_idle_beside_a_registry_that_hangs_ends_when_it_is_asked_to() {
    let lab = Lab::start();
    let stage = Stage::set(&lab, Behaviour::LeakAlways);
    stage.service.wait_for_leak();
    signal(&lab, consul::UNIT, "STOP");
    etc().write(&lab);
    let mut agent = agent::run(&lab);
    wait_for_held(&lab, "guard_failed");

    agent.signal(Signal::SIGTERM);
    agent.wait(ENDS_WITHIN);
    signal(&lab, consul::UNIT, "CONT");
}

/// What tests/README.md says: the same host beside a registry that answers, and beside one that hangs.
#[test]
#[ignore = "prints figures, and takes two minutes"]
fn figures() {
    for hangs in [false, true] {
        let lab = Lab::start();
        let stage = Stage::set(&lab, Behaviour::LeakAlways);
        stage.service.wait_for_leak();
        stage.service.start_twin(TWIN, stage.redis.port(), Behaviour::LeakUntilRestarted);
        wait_until("the twin's leak", SOON, || (close_wait_of(&lab, TWIN) > 200).then_some(()));
        let twins = lab.show(TWIN, "InvocationID");
        if hangs {
            signal(&lab, consul::UNIT, "STOP");
        }
        etc().edit(HOST, "evidence:", "http: {}\nevidence:").write(&lab);
        let mut agent = agent::run(&lab);
        let began = Instant::now();
        let get = |path| http::ask(lab.network(), loopback(9817), "GET", path, None, "");
        wait_until("the agent to listen", SOON, || get("/healthz").ok());
        let (mut restarted, mut slowest) = (None, [Duration::ZERO; 3]);
        let (ticks, from) = (ticked(&get("/metrics").expect("it answers").body), Instant::now());
        while from.elapsed() < Duration::from_secs(40) {
            let ways: [&dyn Fn(); 3] =
                [&|| drop(get("/healthz").expect("it answers")), &|| drop(unwait(&lab, &["status"])), &|| {
                    drop(unwait(&lab, &["explain", service::UNIT]))
                }];
            for (way, slowest) in ways.iter().zip(&mut slowest) {
                let asked = Instant::now();
                way();
                *slowest = asked.elapsed().max(*slowest);
            }
            if restarted.is_none() && lab.show(TWIN, "InvocationID") != twins {
                restarted = Some(began.elapsed());
            }
        }
        let per_second = (ticked(&get("/metrics").expect("it answers").body) - ticks) / from.elapsed().as_secs_f64();
        wait_until("no saga", Duration::from_secs(120), || {
            let status = unwait(&lab, &["status", "--json"]).json();
            status["open"].as_array().is_some_and(Vec::is_empty).then_some(())
        });
        let asked = Instant::now();
        agent.signal(Signal::SIGTERM);
        agent.wait(SOON);
        let ended = asked.elapsed();
        let [healthz, status, explain] = slowest;
        println!(
            "registry {}: {per_second:.2} ticks a second of 1; slowest /healthz {healthz:.0?}, status {status:.0?}, \
             explain {explain:.0?}; the other service restarted after {:.1?}; ended {ended:.1?} after SIGTERM",
            if hangs { "hangs" } else { "answers" },
            restarted.unwrap_or_default()
        );
        signal(&lab, consul::UNIT, "CONT");
    }
}

pub fn ticked(metrics: &str) -> f64 {
    let line = metrics.lines().find(|line| line.starts_with("unwait_ticks_total "));
    line.and_then(|line| line.split(' ').nth(1)?.parse().ok()).expect("the ticks are counted")
}

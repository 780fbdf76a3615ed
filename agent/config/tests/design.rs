//! DESIGN's own files, as they stand there, with what is not built yet taken out; and that refused by name.

use std::collections::BTreeMap;
use std::time::Duration;

use super::*;
use crate::decide::rehearse::rehearse;
use crate::model::Mode;
use crate::model::policy::MinHealthy;
use crate::model::{ConsulScope, EventKind, Step, Tls};

const AGENT: &str = r#"# /etc/unwait/agent.yaml ; policies/*.yaml and runbooks/*.yaml lie beside it
interval: 15s
labels: { dc: bj1, role: rpc }
registries:
  consul: { url: "http://127.0.0.1:8500", token_file: ${CREDENTIALS_DIRECTORY}/consul }
services:                            # what can't be found, or should not be guessed; the rest is discovered
  - service: rpc-order.service       # a unit, container:NAME, program:NAME (supervisord), or process:NAME
    labels: { team: trade }
    register: [{ registry: consul, id: rpc-order-1 }]
    health: { redis_ping: "127.0.0.1:7801" }
  - service: process:legacy-gate
    match: { ports: [9001] }
    restart: { process: { argv: [/opt/gate/bin/gate], pid_file: /run/gate.pid } }
fleet: { consul: {} }                # where slots and breaches are shared; or etcd, redis, fleetlock
notify:
  - to: { slack: { url_file: ${CREDENTIALS_DIRECTORY}/slack } }
    events: [breach, held, start, end, stuck]   # and step, approval, recovered
evidence: { keep: 50, max_bytes: 2GiB, min_free: 5% }
http: { listen: "127.0.0.1:9817" }
state: /var/lib/unwait
"#;

const POLICY: &str = r#"policy: close-wait-leak
description: Sockets that the peer closed long ago, still held by the service.
services: ["rpc-*.service"]         # names, globs, or {label: value}
when:
  any:                              # all / any, nested freely; one comparison a line
    - close_wait.aged(5m) > 200
    - fd.exhausted_in < 30m
for: 2m                             # without a break: an unknown, or a gap of two intervals, is a break
clear:                              # optional hysteresis; default: `when` no longer holds
  all: [close_wait.aged(5m) < 20]
mode: dry-run                       # observe | dry-run | approve | auto; default dry-run
runbook: isolate-restart-recover    # or escalate: [recycle-workers, isolate-restart-recover]
limits: { cooldown: 30m, per_service: 2 per 6h, per_host: 4 per 6h }
guards:
  min_healthy: 50%                  # others healthy / all registered under that name; or a count; or N-1: all others
  fleet_slots: 1                    # hosts that may work on this service at once
  common_cause: 55%                 # this share of 3 or more instances in breach: hold and alert
  windows: [{ days: mon-fri, hours: "09:00-18:00", tz: Asia/Shanghai, action: deny }]
tests:                              # run by `unwait test`, no network and no root
  - name: an idle pool that leaks is caught after two minutes
    samples: { step: 15s, close_wait.aged(5m): [0, 150, 210 x 12], fd.exhausted_in: [unknown x 14] }
    expect: { breach_at: 2m30s }
"#;

const RUNBOOK: &str = r#"runbook: isolate-restart-recover
description: Keep the evidence, take the service out of traffic, restart it, put it back.
steps:
  - snapshot: { deadline: 20s, required: true }
  - drain: { settle: 5s }
  - wait_drained: { inbound_at_most: 0, timeout: 60s, on_timeout: proceed }   # outbound pools never drain
  - restart: {}                     # deadline: the unit's own stop + start timeout + 10s; a shorter one warns
  - health_check: { timeout: 2m, successes: 3, interval: 2s }
  - restore: {}
  - verify: { soak: 2m, expect: [close_wait.aged(1m) < 20] }
"#;

fn tree() -> Tree {
    let tree = Tree::empty();
    tree.write("agent.yaml", AGENT);
    tree.write("policies/leak.yaml", POLICY);
    tree.write("runbooks/isolate.yaml", RUNBOOK);
    tree
}

#[test]
fn the_files_of_the_design_compile() {
    let config = tree().config();
    let host = &config.host;
    assert_eq!(host.interval, Duration::from_secs(15));
    let token = Some("/run/credentials/unwait/consul".into());
    let url = "http://127.0.0.1:8500".to_owned();
    assert_eq!(
        host.registries["consul"],
        RegistryConfig::Consul {
            url: url.clone(),
            tls: Tls::default(),
            token_file: token.clone(),
            scope: ConsulScope::Service
        }
    );
    assert_eq!(host.fleet, Some(FleetConfig::Consul { urls: vec![url], tls: Tls::default(), token_file: token }));
    assert_eq!(host.notify[0].to, To::Slack { url_file: "/run/credentials/unwait/slack".into() });
    assert!(host.notify[0].events.contains(&EventKind::Stuck) && !host.notify[0].events.contains(&EventKind::Step));
    assert_eq!(host.evidence.min_free, MinFree::Share(0.05));
    assert_eq!(host.warm_up, Duration::from_secs(30));
    assert_eq!(host.services[&name("process:legacy-gate")].found_by.as_ref().unwrap().ports, [9001]);

    let [policy] = config.policies.as_slice() else { panic!("{:?}", config.policies) };
    assert_eq!((policy.mode, policy.hold), (Mode::DryRun, Duration::from_secs(120)));
    assert_eq!(policy.guards.min_healthy, Some(MinHealthy::Share(0.5)));
    assert_eq!(policy.guards.fleet_slots, Some(1));
    assert_eq!(policy.guards.common_cause, Some(0.55));
    let windows: Vec<String> = policy.guards.windows.iter().map(ToString::to_string).collect();
    assert_eq!(windows, ["mon-fri 09:00-18:00 Asia/Shanghai"]);
    assert_eq!(policy.runbook, config.runbooks["isolate-restart-recover"]);
    let names: Vec<&str> = policy.runbook.steps.iter().map(Step::name).collect();
    assert_eq!(names, ["snapshot", "drain", "wait_drained", "restart", "health_check", "restore", "verify"]);
    assert_eq!(config.tests["close-wait-leak"][0].ticks(), 14);
}

#[test]
fn what_is_not_built_is_refused_by_name() {
    let swap = |file: &'static str, whole: &str, from: &str, to: &str| {
        assert!(whole.contains(from), "{from} is not there");
        Some((file, whole.replacen(from, to, 1)))
    };
    let agent = |from: &str, to: &str| swap("agent.yaml", AGENT, from, to);
    let cases: BTreeMap<&str, Option<(&str, String)>> = BTreeMap::from([
        ("scope", agent("id: rpc-order-1", "id: rpc-order-1, scope: node")),
        ("exec", agent("restart: { process:", "restart: { exec:")),
    ]);
    for (word, changed) in cases {
        let (file, text) = changed.unwrap();
        let tree = tree();
        tree.write(file, &text);
        let wrong = tree.wrong();
        let says = format!("`{word}` is not built in this version of unwait");
        assert!(wrong.len() == 1 && wrong[0].contains(&says), "{word}: {wrong:#?}");
        assert!(wrong[0].starts_with(file), "{word}: {wrong:#?}");
    }
}

#[test]
fn the_policys_own_test_passes_and_its_forecast_counts() {
    let rehearsed = |text: &str| {
        let tree = tree();
        tree.write("policies/leak.yaml", text);
        let config = tree.config();
        rehearse(&config.policies[0], &config.tests["close-wait-leak"][0]).failure
    };
    assert_eq!(rehearsed(POLICY), None);
    for (forecast, failure) in [
        // `any`: a forecast breaches by itself, from the first sample on.
        ("[10m x 14]", Some("expected breach_at 2m30s, found 2m")),
        ("[1m30s x 2, 29m59s x 12]", Some("expected breach_at 2m30s, found 2m")),
        // Half an hour is not below half an hour, an unknown is no breach, and neither hides the leak.
        ("[30m x 14]", None),
        ("[7d x 6, unknown x 8]", None),
    ] {
        let failed = rehearsed(&POLICY.replace("[unknown x 14]", forecast));
        assert_eq!(failed.as_deref(), failure, "{forecast}");
    }
}

#[test]
fn a_forecast_is_written_as_a_duration() {
    let tree = tree();
    tree.write("policies/leak.yaml", &POLICY.replace("[unknown x 14]", "[1800 x 14]"));
    assert_eq!(
        tree.wrong(),
        ["policies/leak.yaml:21:86 `fd.exhausted_in` is compared with a duration such as 30m, found `1800`"]
    );
}

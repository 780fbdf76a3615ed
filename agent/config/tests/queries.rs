//! What a loaded configuration answers.

use std::time::Duration;

use super::*;
use crate::model::plan::{Binding, ProcessRestart, Restart, SuperviseRestart, Supervisor};
use crate::model::policy::Selector;
use crate::model::{RedisLayout, RedisProfile, RedisServers, Tls};

const AGENT: &str = r#"
registries: { file: { path: /srv/registry.json } }
services:
  - service: a.service
    labels: { team: trade }
    register: [{ registry: file, id: a-1 }]
    health: { tcp: "127.0.0.1:80" }
    with_dependents: true
  - service: process:gate
    labels: { team: edge }
    restart: { process: { argv: [/opt/gate], pid_file: /run/gate.pid } }
  - service: container:own
    restart: { podman: { socket: /run/podman/podman.sock } }
  - service: program:own
    restart: { supervisord: { socket: /tmp/own.sock } }
  - service: process:runit
    restart: { runit: { dir: /etc/service/gate } }
  - service: process:s6
    restart: { s6: { dir: /run/service/gate, stop_timeout: 3s } }
"#;

fn config() -> Config {
    let runbook = "runbook: whole\nsteps: [snapshot, drain, restart, health_check, restore]\n";
    let policy =
        "policy: p\nservices: [b.service, \"[bx]*\", {team: trade}]\nwhen: close_wait > 5\nfor: 1m\nrunbook: whole\n";
    Tree::with(&[("agent.yaml", AGENT), ("runbooks/whole.yaml", runbook), ("policies/p.yaml", policy)]).config()
}

#[test]
fn metrics_are_served_where_the_file_says_so_and_on_loopback_unless_it_says_where() {
    let compiled =
        |text: &str| Tree::with(&[("agent.yaml", text)]).config().host.http.map(|http| http.listen.to_string());
    assert_eq!(compiled("interval: 15s\n"), None);
    assert_eq!(compiled("http: {}\n").as_deref(), Some("127.0.0.1:9817"));
    assert_eq!(compiled("http: { listen: \"[::]:9000\" }\n").as_deref(), Some("[::]:9000"));
}

#[test]
fn the_status_page_is_called_by_names_and_addresses_without_a_port() {
    let of = |text: &str| Tree::with(&[("agent.yaml", text)]);
    let hosts =
        of("http: { hosts: [Web-1.Example, \"2001:db8::1\", 10.0.0.9] }\n").config().host.http.map(|http| http.hosts);
    assert_eq!(hosts, Some(["web-1.example", "2001:db8::1", "10.0.0.9"].map(String::from).to_vec()));
    for wrong in ["web-1:9817", "http://web-1", "\"\"", "\"*\"", "a/b"] {
        let errors = of(&format!("http: {{ hosts: [{wrong}] }}\n")).wrong().join("\n");
        assert!(errors.contains("without a port"), "{wrong}: {errors}");
    }
}

#[test]
fn the_fleet_is_one_store_and_some_share_breaches() {
    let login = |user: &str| Some(Login { user: user.into(), password_file: "/run/credentials/unwait/p".into() });
    for (fleet, compiled, shares) in [
        (
            "etcd: { url: \"http://h:2379/\", user: u, password_file: \"${CREDENTIALS_DIRECTORY}/p\" }",
            FleetConfig::Etcd { urls: vec!["http://h:2379".into()], tls: Tls::default(), login: login("u") },
            true,
        ),
        (
            "redis: { url: \"redis://h:6379/1\", password_file: \"${CREDENTIALS_DIRECTORY}/p\" }",
            FleetConfig::Redis { access: of_redis("redis://h:6379/1", login("")), may_lose_slots: false },
            true,
        ),
        (
            "redis: { url: \"redis://h\", may_lose_slots: true }",
            FleetConfig::Redis { access: of_redis("redis://h:6379", None), may_lose_slots: true },
            true,
        ),
        (
            "fleetlock: { url: \"http://h/base/\", group: workers }",
            fleet_lock(Some("workers"), "{host}/{service}"),
            false,
        ),
        ("fleetlock: { url: \"http://h/base/\", id: \"{host}\" }", fleet_lock(None, "{host}"), false),
    ] {
        let tree = Tree::with(&[("agent.yaml", &format!("fleet: {{ {fleet} }}\n"))]);
        let found = tree.config().host.fleet.unwrap();
        assert_eq!(found, compiled);
        assert_eq!(found.shares_breaches(), shares, "{fleet}");
    }
}

fn of_redis(url: &str, login: Option<Login>) -> RedisConfig {
    RedisConfig { login, ..RedisConfig::at(RedisServers::of_url(url).unwrap()) }
}

fn fleet_lock(group: Option<&str>, id: &str) -> FleetConfig {
    FleetConfig::FleetLock {
        url: "http://h/base".into(),
        tls: Tls::default(),
        group: group.map(str::to_owned),
        id: id.into(),
    }
}

#[test]
fn one_id_for_all_hosts_would_be_a_lock_for_none() {
    for (id, wrong) in [
        (
            "unwait",
            "agent.yaml:1:46 all hosts would share this one id, and the server would give the lock to all of them at once: \
             expected {host} in it, as in \"{host}/{service}\" or \"{host}\"",
        ),
        (
            "\"{host}/{unit}\"",
            "agent.yaml:1:46 expected {host} and {service}, and visible ASCII characters beside them",
        ),
    ] {
        let file = format!("fleet: {{ fleetlock: {{ url: \"http://h:1\", id: {id} }} }}\n");
        assert_eq!(Tree::with(&[("agent.yaml", &file)]).wrong(), [wrong], "{id}");
    }
}

#[test]
fn services_of_a_host_that_would_share_a_lock_contend_under_one_name() {
    let consul = FleetConfig::Redis { access: of_redis("redis://h", None), may_lose_slots: false };
    for (fleet, order, cart) in [
        (consul, "rpc-order@1", "rpc-cart"),
        (fleet_lock(None, "{host}/{service}"), "rpc-order@1", "rpc-cart"),
        (fleet_lock(Some("workers"), "{host}/{service}"), "rpc-order@1", "rpc-cart"),
        (fleet_lock(None, "{host}"), "rpc-order-1", "rpc-cart"),
        (fleet_lock(Some("workers"), "{host}"), "workers", "workers"),
    ] {
        assert_eq!(fleet.scope("rpc-order@1".into()), order, "{fleet:?}");
        assert_eq!(fleet.scope("rpc-cart".into()), cart, "{fleet:?}");
    }
}

#[test]
fn a_layout_in_redis_is_whole() {
    let layout = |profile, key: &str| RedisLayout { profile, key: key.into(), hold_every: Duration::from_millis(500) };
    let sorted_set = RedisProfile::SortedSet { stale_after: Duration::from_secs(45) };
    for (keys, compiled) in [
        ("profile: dubbo", layout(RedisProfile::Dubbo, "/dubbo/{service}/providers")),
        (
            "profile: sorted_set, key: \"rpc:{service}\", stale_after: 45s, hold_every: 200ms",
            RedisLayout { hold_every: Duration::from_millis(200), ..layout(sorted_set, "rpc:{service}") },
        ),
        ("profile: ttl_key, key: \"{service}:{instance}\"", layout(RedisProfile::TtlKey, "{service}:{instance}")),
    ] {
        let tree =
            Tree::with(&[("agent.yaml", &format!("registries: {{ redis: {{ url: \"redis://h:1/2\", {keys} }} }}\n"))]);
        let expected = RegistryConfig::Redis { access: of_redis("redis://h:1/2", None), layout: compiled };
        assert_eq!(tree.config().host.registries["redis"], expected, "{keys}");
    }
}

#[test]
fn a_policy_selects_in_full_by_glob_and_by_label() {
    let config = config();
    for (service, selected) in [
        ("b.service", Some(Selected::InFull)),
        ("x-y.service", Some(Selected::ByPattern)),
        ("a.service", Some(Selected::ByPattern)),
        ("process:gate", None),
        ("c.service", None),
    ] {
        assert_eq!(config.selects(&config.policies[0], &name(service)), selected, "{service}");
    }
    let mut of_others = config.policies[0].clone();
    assert_eq!(config.labels_of_none(&of_others), [""; 0]);
    of_others.services.push(Selector::Label { key: "team".into(), value: "traed".into() });
    assert_eq!(config.labels_of_none(&of_others), ["team: traed"]);
}

#[test]
fn an_escalation_has_its_rungs_in_order_and_lacks_what_any_of_them_does() {
    let rung = |name: &str, steps: &str| {
        format!("runbook: {name}\nsteps: [{steps}, {{verify: {{expect: [close_wait < 5]}}}}]\n")
    };
    let policy = "policy: p\nservices: [b.service]\nwhen: close_wait > 5\nfor: 1m\nescalate: [short, long]\nlimits: { jitter: 7s }\n";
    let (short, long) = (rung("short", "restart"), rung("long", "restart, health_check"));
    let files = [("runbooks/short.yaml", short.as_str()), ("runbooks/long.yaml", &long), ("policies/p.yaml", policy)];
    let config = Tree::with(&files).config();
    let policy = &config.policies[0];
    assert_eq!(policy.rungs().map(|runbook| runbook.name.as_str()).collect::<Vec<_>>(), ["short", "long"]);
    assert_eq!(config.lacks(policy, &config.target_for(&name("b.service"))).len(), 1, "the health of the second");
    assert_eq!(config.jitter(policy), std::time::Duration::from_secs(7));
}

#[test]
fn the_jitter_is_derived_where_there_is_a_fleet() {
    let alone = Tree::with(&[]).config();
    assert_eq!(alone.jitter(&alone.policies[0]), std::time::Duration::ZERO);
    let host = "interval: 10s\nfleet: { consul: { url: \"http://127.0.0.1:8500\" } }\n";
    let fleet = Tree::with(&[("agent.yaml", host)]).config();
    assert_eq!(fleet.jitter(&fleet.policies[0]), std::time::Duration::from_secs(20));
}

#[test]
fn a_target_is_bound_from_the_hosts_file_and_what_it_lacks_is_said() {
    let config = config();
    let lacks = |service: &str| {
        let found = config.lacks(&config.policies[0], &config.target_for(&name(service)));
        found.iter().map(|text| text.split(':').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let whole = config.target_for(&name("a.service"));
    assert_eq!(whole.bindings, [Binding::new("file", "a-1")]);
    assert_eq!(whole.restart, Some(Restart::Systemd { unit: "a.service".into(), with_dependents: true }));
    assert_eq!(
        config.target_for(&name("process:gate")).restart,
        Some(Restart::Process(ProcessRestart {
            argv: vec!["/opt/gate".into()],
            pid_file: "/run/gate.pid".into(),
            stop_timeout: std::time::Duration::from_secs(10),
            reload_signal: None,
        }))
    );
    for (service, by, dir, seconds) in
        [("runit", Supervisor::Runit, "/etc/service/gate", 10), ("s6", Supervisor::S6, "/run/service/gate", 3)]
    {
        let stop_timeout = Duration::from_secs(seconds);
        assert_eq!(
            config.target_for(&name(&format!("process:{service}"))).restart,
            Some(Restart::Supervise(SuperviseRestart { by, dir: dir.into(), stop_timeout }))
        );
    }
    assert_eq!(lacks("a.service"), Vec::<String>::new());
    assert_eq!(lacks("z.service"), ["drain", "health_check"]);
    assert_eq!(lacks("process:gate"), ["drain", "health_check"]);
    assert_eq!(lacks("process:other"), ["drain", "health_check", "restart"]);
    let program =
        |program: &str, socket: &str| Some(Restart::Supervisord { program: program.into(), socket: socket.into() });
    assert_eq!(config.target_for(&name("program:w:w_00")).restart, program("w:w_00", "/run/supervisor.sock"));
    assert_eq!(config.target_for(&name("program:own")).restart, program("own", "/tmp/own.sock"));
    let container =
        |container: &str, socket: &str| Some(Restart::Docker { container: container.into(), socket: socket.into() });
    assert_eq!(
        config.target_for(&name("container:4f1c2d3e4f50")).restart,
        container("4f1c2d3e4f50", "/run/docker.sock")
    );
    assert_eq!(config.target_for(&name("container:own")).restart, container("own", "/run/podman/podman.sock"));
    assert_eq!(lacks("container:x"), ["drain", "health_check"]);
    assert_eq!(lacks("container:lxc:x"), ["drain", "health_check", "restart"]);
}

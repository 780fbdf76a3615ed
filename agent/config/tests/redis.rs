//! How a Redis is named.

use super::*;
use crate::model::{RedisAddress, RedisAt, RedisServers, Tls};

/// The same keys for a registry and for the fleet.
#[test]
fn a_redis_is_one_server_or_a_master_by_its_sentinels_or_a_cluster() {
    let at = |text: &str| RedisAddress::parse(text).unwrap();
    let sentinels = ["10.0.0.1:26379", "10.0.0.2:26379", "[fd00::3]:26379"].map(at).to_vec();
    let tls = |ca: &str| Some(Tls { ca_file: Some(ca.into()), ..Tls::default() });
    let of_url = |url| RedisConfig::at(RedisServers::of_url(url).unwrap());
    for (written, expected) in [
        (
            "sentinels: [\"10.0.0.1:26379\", \"10.0.0.2:26379\", \"[fd00::3]:26379\"], master: mymaster, database: 3, \
             tls: { ca_file: /ca }, sentinel: { user: s, password_file: /s, tls: { ca_file: /sca } }",
            RedisConfig {
                servers: RedisServers { at: RedisAt::Sentinels { sentinels, master: "mymaster".into() }, database: 3 },
                login: None,
                tls: tls("/ca"),
                sentinel_login: Some(Login { user: "s".into(), password_file: "/s".into() }),
                sentinel_tls: tls("/sca"),
            },
        ),
        (
            "nodes: [\"10.0.0.1:7000\", \"redis-2:7000\"], tls: {}",
            RedisConfig {
                servers: RedisServers {
                    at: RedisAt::Cluster { nodes: vec![at("10.0.0.1:7000"), at("redis-2:7000")] },
                    database: 0,
                },
                tls: Some(Tls::default()),
                ..of_url("redis://h")
            },
        ),
        ("url: \"rediss://h\"", RedisConfig { tls: Some(Tls::default()), ..of_url("redis://h") }),
        (
            "url: \"unix:///run/redis/redis.sock\", database: 2",
            RedisConfig::at(RedisServers {
                at: RedisAt::One(RedisAddress::Unix("/run/redis/redis.sock".into())),
                database: 2,
            }),
        ),
    ] {
        let file =
            format!("fleet: {{ redis: {{ {written} }} }}\nregistries: {{ redis: {{ {written}, profile: dubbo }} }}\n");
        let config = Tree::with(&[("agent.yaml", &file)]).config().host;
        assert!(matches!(&config.registries["redis"], RegistryConfig::Redis { access, .. } if *access == expected));
        assert_eq!(config.fleet, Some(FleetConfig::Redis { access: expected, may_lose_slots: false }));
    }
}

#[test]
fn what_names_no_redis_is_said() {
    for (text, expected) in [
        (
            "fleet: { redis: { url: \"h:6379\" } }",
            vec!["1:24 expected redis://HOST:PORT, rediss://HOST:PORT or unix:///PATH"],
        ),
        (
            "fleet: { redis: { url: \"redis://::1:6379/2\" } }",
            vec!["1:24 an IPv6 address needs brackets: redis://[::1]:6379"],
        ),
        (
            "fleet: { redis: { url: \"redis://:pw@h:6379\" } }",
            vec!["1:24 a URL with credentials would appear in logs: put the token into a file of its own"],
        ),
        (
            "fleet: { redis: { url: \"redis://h:6379\", tls: { ca_file: /ca } } }",
            vec![
                "1:42 the url does not begin with rediss://, so the connection has no TLS: write rediss://, or remove \
                 `tls`",
            ],
        ),
        (
            "fleet: { redis: { url: \"redis://h:6379/slots\" } }",
            vec!["1:24 the url's path is no database number: expected redis://HOST:PORT/0"],
        ),
        (
            "fleet: { redis: { url: \"unix://run/redis.sock\" } }",
            vec!["1:24 expected the full path of a socket, as in unix:///run/redis/redis.sock"],
        ),
        (
            "fleet: { redis: { url: \"redis://h:1\", nodes: [\"h:1\", \"h:1\", h] } }",
            vec![
                "1:39 `url` names the Redis already: use `url` for a single server, `sentinels` with `master` for \
                 Sentinel, or `nodes` for a Cluster, and only one of them",
                "1:54 this one is listed twice",
                "1:61 expected HOST:PORT, such as 10.0.0.1:2181 or [::1]:2181, found `h`",
            ],
        ),
        (
            "fleet: { redis: { url: \"redis://h:1/2\", master: m, database: 3 } }",
            vec![
                "1:41 this key needs `sentinels`, which are missing here",
                "1:52 the database is part of the url, as in redis://127.0.0.1:6379/0: remove the line",
            ],
        ),
        (
            "fleet: { redis: { sentinels: [\"h:1\"], sentinel: { user: s } } }",
            vec![
                "1:10 `master` is missing: add `master: mymaster`",
                "1:30 name every sentinel, at least three: the master is the one that more than half of them report",
                "1:51 a user needs a password: add `password_file: PATH`",
            ],
        ),
        (
            "fleet: { redis: { nodes: [\"h:1\"], database: 0 } }",
            vec!["1:35 a Redis Cluster has only the database 0: remove the line"],
        ),
        (
            "fleet: { redis: { nodes: [] } }",
            vec!["1:26 the list is empty: add nodes of the Cluster, such as \"10.0.0.1:6379\""],
        ),
    ] {
        let expected: Vec<String> = expected.into_iter().map(|line| format!("agent.yaml:{line}")).collect();
        assert_eq!(Tree::with(&[("agent.yaml", &format!("{text}\n"))]).wrong(), expected, "{text}");
    }
}

/// Slots that lie in one Redis may be lost with it: the operator says that this will do.
#[test]
fn auto_over_one_redis_wants_a_word() {
    let policy = "policy: p\ndescription: d\nservices: [a.service]\nwhen: close_wait > 1\nfor: 1m\nrunbook: r\n";
    let runbook =
        "runbook: r\ndescription: d\nsteps: [{ drain: {} }, { restart: {} }, { health_check: {} }, { restore: {} }]\n";
    let says = |redis: &str, mode: &str, guards: &str| {
        let agent = format!(
            "registries: {{ file: {{ path: /srv/r.json }} }}\nservices: [{{ service: a.service, register: [{{ registry: file, id: a }}], \
             health: {{ tcp: \"127.0.0.1:80\" }} }}]\nnotify: [{{ to: {{ slack: {{ url_file: /u }} }} }}]\nfleet: {{ redis: {{ {redis} }} }}\n"
        );
        let policy = format!("{policy}mode: {mode}\nguards: {{ {guards} }}\n");
        let files =
            [("agent.yaml", agent.as_str()), ("policies/p.yaml", policy.as_str()), ("runbooks/r.yaml", runbook)];
        let tree = Tree::with(&files);
        match tree.load() {
            Ok(_) => vec![],
            Err(_) => tree.wrong(),
        }
    };
    let one = "url: \"redis://h:1\"";
    let said = says(one, "auto", "fleet_slots: 1");
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(
        said[0].starts_with("policies/p.yaml:7:7 `mode: auto` is refused with the fleet slots in a single Redis"),
        "{said:?}"
    );
    for (redis, mode, guards) in [
        (one, "approve", "fleet_slots: 1"),
        (one, "auto", "fleet_slots: none"),
        ("url: \"redis://h:1\", may_lose_slots: true", "auto", "fleet_slots: 1"),
        ("nodes: [\"h:1\"]", "auto", "fleet_slots: 1"),
    ] {
        assert_eq!(says(redis, mode, guards), [""; 0], "{redis} {mode} {guards}");
    }
}

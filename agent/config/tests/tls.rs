//! `tls:`, `proxy:`, sockets, and addresses of either kind.

use super::*;
use crate::model::Tls;
use crate::model::plan::{Health, HttpHealth};

const ALL: &str =
    "{ ca_file: /ca.pem, cert_file: /c.pem, key_file: \"${CREDENTIALS_DIRECTORY}/k\", server_name: consul.corp }";

fn all() -> Tls {
    Tls {
        ca_file: Some("/ca.pem".into()),
        cert_file: Some("/c.pem".into()),
        key_file: Some("/run/credentials/unwait/k".into()),
        server_name: Some("consul.corp".into()),
    }
}

fn host(text: &str) -> HostConfig {
    Tree::with(&[("agent.yaml", text)]).config().host
}

#[test]
fn tls_stands_beside_each_address() {
    for registry in [
        "consul: { url: \"https://h:8501\"",
        "etcd: { url: [\"https://a:1\", \"https://b:1\"], key: \"/s/{service}/{instance}\", override: \"/o/{service}/{instance}\"",
        "nacos: { url: \"https://h/nacos\"",
        "eureka: { url: \"https://h/eureka\"",
        "zookeeper: { servers: [\"h:2281\"]",
    ] {
        let config = host(&format!("registries: {{ {registry}, tls: {ALL} }} }}\n"));
        let tls = match config.registries.values().next().unwrap() {
            RegistryConfig::ZooKeeper { tls: Some(tls), .. }
            | RegistryConfig::Consul { tls, .. }
            | RegistryConfig::Etcd { tls, .. }
            | RegistryConfig::Nacos { tls, .. }
            | RegistryConfig::Eureka { tls, .. } => tls,
            other => panic!("{other:?}"),
        };
        assert_eq!(tls, &all(), "{registry}");
        assert!(config.secrets.iter().any(|(path, _)| Some(path) == all().key_file.as_ref()), "{registry}");
        assert_eq!((config.tls.len(), &config.tls[0].tls, config.tls[0].at.line), (1, &all(), Some(1)));
    }
    for fleet in ["consul: { url: \"https://h:1\"", "etcd: { url: \"https://h:1\"", "fleetlock: { url: \"https://h:1\""]
    {
        let fleet = host(&format!("fleet: {{ {fleet}, tls: {ALL} }} }}\n")).fleet.unwrap();
        let (FleetConfig::Consul { tls, .. } | FleetConfig::Etcd { tls, .. } | FleetConfig::FleetLock { tls, .. }) =
            &fleet
        else {
            panic!("{fleet:?}")
        };
        assert_eq!(tls, &all());
    }
    let shared =
        host(&format!("registries: {{ consul: {{ url: \"https://h:1\", tls: {ALL} }} }}\nfleet: {{ consul: {{}} }}\n"));
    assert!(matches!(shared.fleet, Some(FleetConfig::Consul { tls, .. }) if tls == all()));
    let told =
        host("notify: [{ to: { slack: { url_file: /s, tls: { ca_file: /ca.pem }, proxy: \"http://p:3128\" } } }]\n");
    let Destination { tls, proxy, .. } = &told.notify[0];
    assert_eq!((tls.ca_file.as_deref(), proxy.as_deref()), (Some(Path::new("/ca.pem")), Some("http://p:3128")));
    let health =
        host(&format!("services: [{{ service: a.service, health: {{ http: \"https://h/up/\", tls: {ALL} }} }}]\n"));
    let expected = Health::Http(HttpHealth { url: "https://h/up/".into(), tls: all() });
    assert_eq!(health.services[&name("a.service")].health, Some(expected));
}

#[test]
fn a_journal_of_a_former_version_tells_a_health_by_its_url() {
    let plain = Health::Http(HttpHealth { url: "http://h/".into(), tls: Tls::default() });
    assert_eq!(serde_json::to_string(&plain).unwrap(), r#"{"http":"http://h/"}"#);
    let with = Health::Http(HttpHealth { url: "https://h/".into(), tls: all() });
    for health in [plain, with] {
        let written = serde_json::to_string(&health).unwrap();
        assert_eq!(serde_json::from_str::<Health>(&written).unwrap(), health, "{written}");
    }
}

#[test]
fn consul_may_be_asked_by_its_socket() {
    let config = host("registries: { consul: { url: \"unix:///run/consul/http.sock\" } }\nfleet: { consul: {} }\n");
    let urls = vec!["unix:///run/consul/http.sock".to_owned()];
    assert!(matches!(&config.fleet, Some(FleetConfig::Consul { urls: of, .. }) if *of == urls));
}

#[test]
fn what_is_wrong_is_said_where_it_stands() {
    let consul = |tls: &str| format!("registries:\n  consul:\n    url: \"https://h:1\"\n    tls: {tls}\n");
    let servers = |server: &str| format!("registries: {{ zookeeper: {{ servers: [\"{server}\"] }} }}\n");
    for (text, says) in [
        (
            consul("{ cert_file: /c }"),
            "4:12 a certificate needs its key, and a key its certificate: add `key_file: PATH`",
        ),
        (
            consul("{ key_file: /k }"),
            "4:12 a certificate needs its key, and a key its certificate: add `cert_file: PATH`",
        ),
        (consul("{ ca_file: ca.pem }"), "4:21 expected a full path, beginning with /"),
        (
            consul("{ server_name: 10.0.0.1 }"),
            "4:25 expected a DNS name of the server's certificate, such as consul.corp",
        ),
        (
            consul("{ insecure: true }"),
            "4:12 unknown key `insecure`: the keys here are `ca_file`, `cert_file`, `key_file`, `server_name`",
        ),
        (
            "registries: { consul: { url: \"http://h:1\", tls: { ca_file: /c } } }\n".into(),
            "1:44 no address here begins with https://, so the connection has no TLS: write https://, or remove `tls`",
        ),
        (
            "services: [{ service: a.service, health: { tcp: \"[::1]:1\", tls: { ca_file: /c } } }]\n".into(),
            "1:60 only an `http` check uses TLS: add `http: \"https://…\"`, or remove `tls`",
        ),
        (
            "services: [{ service: a.service, health: { tcp: \"[::1]:1\", exec: [/x] } }]\n".into(),
            "1:34 expected one of tcp, http, redis_ping, exec",
        ),
        (
            "registries: { consul: { url: \"unix://run/consul.sock\" } }\n".into(),
            "1:30 expected a socket by its full path, such as unix:///run/consul/http.sock",
        ),
        (
            "notify: [{ to: { slack: { url_file: /s, proxy: \"p:3128\" } } }]\n".into(),
            "1:48 expected a URL such as http://proxy.corp:3128",
        ),
        (
            "notify: [{ to: { slack: { url_file: /s, tls: { server_name: s }, proxy: \"http://p:1\" } } }]\n".into(),
            "1:66 `server_name` has no effect with a proxy, which resolves the server's name: remove one of them",
        ),
        (servers("::1:2181"), "1:38 an IPv6 address needs brackets before its port: [::1]:2181"),
        (
            "registries: { haproxy: { sockets: [\"::1:9000\"] } }\n".into(),
            "1:36 an IPv6 address needs brackets before its port: [::1]:9000; or a full path such as \
             /run/haproxy/admin.sock",
        ),
        (
            "registries: { consul: { url: \"http://::1:8500\" } }\n".into(),
            "1:30 an IPv6 address needs brackets: http://[::1]:8500",
        ),
    ] {
        assert_eq!(Tree::with(&[("agent.yaml", &text)]).wrong(), [format!("agent.yaml:{says}")], "{text}");
    }
}

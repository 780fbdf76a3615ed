//! What `check --ask` finds out of a Consul behind TLS, of probes and of a webhook; and what is found once a certificate ends.

use std::net::SocketAddr;

use reqwest::Url;

use super::asking::Asked;
use super::*;
use crate::clock::SystemClock;
use crate::ports::testing_consul::TestConsul;
use crate::ports::testing_tls::{TestCa, TlsProxy, TlsServer, Wanted};
use crate::{config, trust};

#[tokio::test]
async fn each_party_is_asked_once_and_shown_with_its_certificate() {
    let (ca, consul) = (TestCa::made(), TestConsul::start().await);
    let (certificate, key) = ca.make("server", Wanted { subject: "/CN=consul-1", ..Wanted::default() });
    let client = Wanted { subject: "/O=unwait", extensions: "extendedKeyUsage=clientAuth", ..Wanted::default() };
    ca.make("client", client);
    let (expired, its_key) = ca.make("expired", Wanted { until: "20260101000000Z", ..Wanted::default() });
    consul.register("rpc-order-1", "rpc-order", 7801).await;
    let at = SocketAddr::from(([127, 0, 0, 1], Url::parse(&consul.url).unwrap().port().unwrap()));
    let front = TlsProxy::start(at, &certificate, &key, Some(ca.ca_file().as_path())).await;
    let chat = TlsServer::start(&certificate, &key, &[]);
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let file = |name: &str| ca.path(name).display().to_string();
    trust::write_secret(&dir.path().join("url"), &format!("{}services/hush", chat.url()));
    let host = format!(
        "state: {state}\n\
         registries:\n  consul:\n    url: \"{url}\"\n    \
         tls: {{ ca_file: {ca}, cert_file: {cert}, key_file: {key} }}\n\
         fleet: {{ consul: {{}} }}\n\
         services:\n\
         - {{ service: a.service, register: [{{ registry: consul, id: rpc-order-1 }}], health: {{ http: \"{health}\" }} }}\n\
         - {{ service: b.service, health: {{ exec: [/bin/false] }} }}\n\
         notify: [{{ to: {{ slack: {{ url_file: {webhook}, tls: {{ ca_file: {ca} }} }} }} }}]\n",
        state = path("state"),
        url = front.url(""),
        ca = file("ca.pem"),
        cert = file("client.pem"),
        key = file("client.key"),
        health = chat.url(),
        webhook = path("url"),
    );
    std::fs::write(dir.path().join("agent.yaml"), host).unwrap();
    let config = config::load(dir.path()).unwrap_or_else(|wrong| panic!("{wrong}"));
    let host = Host { name: "bj1-03".into(), clock: Arc::new(SystemClock), on_message: Arc::new(|_| {}) };
    let wiring = Wiring::new(config, host, None).unwrap();

    let all = wiring.ask_all().await;
    let names: Vec<&str> = all.iter().map(|party| party.of.as_str()).collect();
    assert_eq!(names, ["registry consul", "fleet", "health of a.service", "health of b.service", "notify slack"]);
    let [registry, fleet, ill, failing, told] = all.as_slice() else { panic!("{all:?}") };
    assert_eq!(registry.answer.as_deref(), Ok("rpc-order-1 is in traffic"));
    for party in [registry, fleet] {
        let seen = party.tls.as_ref().unwrap();
        let theirs = seen.theirs.as_ref().unwrap();
        assert_eq!((theirs.subject.as_str(), theirs.issuer.as_str()), ("CN=consul-1", "CN=Test CA,O=Corp"));
        assert_eq!(theirs.until.to_string(), "2040-01-01T00:00:00Z");
        assert_eq!((seen.version, seen.asks_for_ours), (Some("TLS 1.3"), true));
        assert_eq!(party.own.as_ref().unwrap().subject, "O=unwait");
        assert!(party.answer.is_ok(), "{party:?}");
        assert_eq!(party.server.as_deref(), Some("Consul 1.8.7"));
    }
    let why = ill.answer.as_ref().unwrap_err();
    assert!(why.contains("which the system's CA store does not have"), "{why}");
    assert!(failing.answer.as_ref().unwrap().contains("the probe fails now"), "{failing:?}");
    assert!(told.answer.as_ref().unwrap().contains("no message was sent"), "{told:?}");
    assert!(!format!("{all:?}").contains("hush"));

    // Which is what the metric says, too.
    let known: Vec<(String, &str, String)> = wiring
        .certificates()
        .into_iter()
        .map(|(of, whose, certificate)| (of, whose.into(), certificate.subject))
        .collect();
    for (of, whose, subject) in [
        ("registry consul", "own", "O=unwait"),
        ("registry consul", "authority", "CN=Test CA,O=Corp"),
        ("registry consul", "theirs", "CN=consul-1"),
        ("notify slack", "theirs", "CN=consul-1"),
    ] {
        assert!(known.contains(&(of.into(), whose, subject.into())), "{of} {whose}: {known:?}");
    }

    front.show(&expired, &its_key, Some(ca.ca_file().as_path()));
    let all = wiring.ask_all().await;
    let why = |party: &Asked| party.answer.clone().unwrap_err();
    assert!(why(&all[0]).contains("expired at 2026-01-01T00:00:00Z"), "{}", why(&all[0]));
}

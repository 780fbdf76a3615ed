//! The real servers behind TLS, as production has them: who wants a client certificate, and what changes while a service is
//! drained.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use reqwest::Url;
use serde_json::Value;

use super::greeting::greet;
use super::notifier::{Letter, Notifier, slack::Slack};
use super::probe::{Probe, real::Probes};
use super::registry::{
    Registry, RegistryError, Restored, Traffic, consul::Consul, etcd::Etcd, eureka::Eureka, zookeeper::ZooKeeper,
};
use super::testing_consul::{TestConsul, free_ports};
use super::testing_etcd::{Release, TestEtcd};
use super::testing_eureka::TestEureka;
use super::testing_tls::{TestCa, TlsProxy, TlsServer, Wanted, http_proxy};
use super::testing_zookeeper::TestZooKeeper;
use super::tls::TlsContext;
use super::{Ensemble, Servers, Via};
use crate::model::plan::{Health, HttpHealth};
use crate::model::{EtcdLayout, EventKind, IncidentId, Marker, Message, Tls};

const HOST: &str = "bj1-03";
const SOON: Duration = Duration::from_secs(5);

/// An authority that has issued `server` and `client`.
fn authority() -> TestCa {
    let ca = TestCa::made();
    let both = "subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth";
    ca.make("server", Wanted { extensions: both, ..Wanted::default() });
    ca.make("client", Wanted { subject: "/O=unwait", extensions: "extendedKeyUsage=clientAuth", ..Wanted::default() });
    ca
}

fn believing(ca: &TestCa) -> Tls {
    Tls { ca_file: Some(ca.ca_file()), ..Tls::default() }
}

fn showing(ca: &TestCa) -> Tls {
    Tls { cert_file: Some(ca.path("client.pem")), key_file: Some(ca.path("client.key")), ..believing(ca) }
}

fn servers(url: String, tls: Tls) -> Servers {
    Servers { urls: vec![url], via: TlsContext::new("a registry", tls).unwrap().into() }
}

fn marker() -> Marker {
    Marker { incident: IncidentId("20261122T184329Z-rpc-order-1f3a".into()), host: HOST.into() }
}

/// Refused for want of a certificate: a person's matter, and tried again all the same.
fn wants_a_certificate(error: &RegistryError) {
    assert!(matches!(error, RegistryError::Distrusted { .. }) && error.is_passing(), "{error}");
    assert!(error.to_string().contains("the server wants a client certificate, and none is configured"), "{error}");
}

#[tokio::test]
async fn consul_that_verifies_who_comes_in_is_asked_with_a_certificate_or_by_its_socket() {
    let ca = authority();
    let ([https], file) = (free_ports(), |name: &str| ca.path(name).display().to_string());
    let socket = file("http.sock");
    let consul = TestConsul::start_with(
        &format!(
            "ports {{ https = {https} }}\naddresses {{ http = \"127.0.0.1 unix://{socket}\" https = \"127.0.0.1\" }}\n\
             verify_incoming = true\nca_file = \"{}\"\ncert_file = \"{}\"\nkey_file = \"{}\"\n",
            file("ca.pem"),
            file("server.pem"),
            file("server.key")
        ),
        None,
    )
    .await;
    consul.register("rpc-order-1", "rpc-order", 7801).await;
    let url = format!("https://127.0.0.1:{https}");
    let stranger = Consul::new("consul", servers(url.clone(), believing(&ca)), None, HOST).unwrap();
    wants_a_certificate(&stranger.observe("rpc-order-1").await.unwrap_err());
    for server in [servers(url, showing(&ca)), servers(format!("unix://{socket}"), Tls::default())] {
        let registry = Consul::new("consul", server, None, HOST).unwrap();
        assert_eq!(registry.server().await.unwrap().as_deref(), Some("Consul 1.8.7"));
        let record = registry.observe("rpc-order-1").await.unwrap().record;
        registry.drain("rpc-order-1", &marker()).await.unwrap();
        assert_eq!(registry.restore("rpc-order-1", &marker(), &record).await.unwrap(), Restored::Done);
    }
}

#[tokio::test]
async fn etcd_that_wants_certificates_is_asked_with_one_that_has_no_cn() {
    for release in [Release::V3_4, Release::V3_7] {
        let ca = authority();
        let with_cn = Wanted { subject: "/CN=unwait", extensions: "extendedKeyUsage=clientAuth", ..Wanted::default() };
        ca.make("named", with_cn);
        let ([https], file) = (free_ports(), |name: &str| ca.path(name).display().to_string());
        let etcd = TestEtcd::start_with(
            release,
            &[
                &format!("--listen-client-urls=CLIENT,https://127.0.0.1:{https}"),
                "--client-cert-auth",
                &format!("--trusted-ca-file={}", file("ca.pem")),
                &format!("--cert-file={}", file("server.pem")),
                &format!("--key-file={}", file("server.key")),
            ],
        )
        .await;
        etcd.put("/services/rpc-order/127.0.0.1:7801", "up").await;
        etcd.lock_down("unwait", "hush-hush", "/").await;
        let layout = EtcdLayout {
            key: "/services/{service}/{instance}".into(),
            override_key: "/overrides/{service}/{instance}".into(),
            value: "{marker}".into(),
        };
        let registry = |tls: Tls| {
            let user = super::User { name: "unwait".into(), password: "hush-hush".to_owned().into() };
            let servers = servers(format!("https://127.0.0.1:{https}"), tls);
            Etcd::new("etcd", servers, Some(super::Login::new(user)), layout.clone(), HOST).unwrap()
        };
        let us = "rpc-order/127.0.0.1:7801";
        wants_a_certificate(&registry(believing(&ca)).observe(us).await.unwrap_err());
        assert_eq!(registry(showing(&ca)).observe(us).await.unwrap().traffic, Traffic::Passing, "{release:?}");
        let named =
            Tls { cert_file: Some(ca.path("named.pem")), key_file: Some(ca.path("named.key")), ..believing(&ca) };
        let refused = registry(named).observe(us).await.unwrap_err();
        assert!(refused.to_string().contains("400"), "{release:?}: {refused}");
    }
}

#[tokio::test]
async fn zookeepers_secure_port_is_spoken_to_by_tls() {
    let ca = authority();
    let ([secure], file) = (free_ports(), |name: &str| ca.path(name).display().to_string());
    let both = ["server.key", "server.pem"].map(|part| std::fs::read_to_string(ca.path(part)).unwrap()).concat();
    std::fs::write(ca.path("both.pem"), both).unwrap();
    let zookeeper = TestZooKeeper::start_newest_with(&format!(
        "secureClientPort={secure}\nsecureClientPortAddress=127.0.0.1\n\
         serverCnxnFactory=org.apache.zookeeper.server.NettyServerCnxnFactory\nssl.keyStore.location={}\n\
         ssl.keyStore.type=PEM\nssl.trustStore.location={}\nssl.trustStore.type=PEM\n",
        file("both.pem"),
        file("ca.pem")
    ))
    .await;
    zookeeper.session().await.create("/dubbo", b"").await.unwrap();
    let ensemble = |tls: Tls| {
        let tls = Some(TlsContext::new("registry zookeeper", tls).unwrap());
        Ensemble { servers: vec![format!("127.0.0.1:{secure}")], tls }
    };
    let registry = |tls: Tls| ZooKeeper::new("zookeeper", ensemble(tls), None, "/dubbo", false, HOST);
    assert_eq!(registry(showing(&ca)).names().await.unwrap().len(), 0);
    wants_a_certificate(&registry(believing(&ca)).names().await.unwrap_err());
    let other = registry(believing(&authority())).names().await.unwrap_err();
    assert!(matches!(&other, RegistryError::Distrusted { .. }) && other.to_string().contains("`CN=server`"), "{other}");
    // Each by the other's words.
    let no_tls = Ensemble { servers: vec![zookeeper.server.clone()], ..ensemble(showing(&ca)) };
    let plainly = Ensemble { tls: None, ..ensemble(showing(&ca)) };
    for (ensemble, words) in [
        (no_tls, "closed the connection in the TLS handshake, as a port without TLS does"),
        (plainly, "closed at the first request, as a port with TLS does"),
    ] {
        let asked = ZooKeeper::new("zookeeper", ensemble, None, "/dubbo", false, HOST).names().await.unwrap_err();
        assert!(asked.is_passing() && asked.to_string().contains(words), "{asked}");
    }
}

#[tokio::test]
async fn eureka_behind_https_is_a_registry_like_another() {
    let (ca, eureka) = (authority(), TestEureka::start(Duration::from_secs(1)).await);
    let us = "rpc-order/bj1-03:rpc-order:7801";
    eureka.register(us, "127.0.0.1", 7801, 1).await;
    let proxy = proxy(&ca, &eureka.url, None).await;
    let state = tempfile::tempdir().unwrap();
    let registry =
        Eureka::new("eureka", servers(proxy.url("/eureka"), believing(&ca)), None, state.path().join("drains.json"))
            .unwrap();
    assert_eq!(registry.observe(us).await.unwrap().traffic, Traffic::Passing);
    registry.drain(us, &marker()).await.unwrap();
    assert_eq!(registry.restore(us, &marker(), &Value::Null).await.unwrap(), Restored::Done);
}

/// TLS before the server that this url names.
async fn proxy(ca: &TestCa, url: &str, authority: Option<&Path>) -> TlsProxy {
    let port = Url::parse(url).unwrap().port().unwrap();
    let to = SocketAddr::from(([127, 0, 0, 1], port));
    TlsProxy::start(to, &ca.path("server.pem"), &ca.path("server.key"), authority).await
}

#[tokio::test]
async fn a_renewal_a_change_of_ca_and_an_expiry_in_the_middle_of_a_drain_are_met_and_ended() {
    let (old, new, consul) = (authority(), authority(), TestConsul::start().await);
    consul.register("rpc-order-1", "rpc-order", 7801).await;
    let proxy = proxy(&old, &consul.url, Some(old.ca_file().as_path())).await;
    let here = tempfile::tempdir().unwrap();
    let path = |name: &str| here.path().join(name);
    let put = |ca: &TestCa, from: &str, to: &str| assert!(std::fs::copy(ca.path(from), path(to)).unwrap() > 0);
    for (from, to) in [("ca.pem", "ca.pem"), ("client.pem", "own.pem"), ("client.key", "own.key")] {
        put(&old, from, to);
    }
    let tls = Tls {
        ca_file: Some(path("ca.pem")),
        cert_file: Some(path("own.pem")),
        key_file: Some(path("own.key")),
        server_name: None,
    };
    let registry = Consul::new("consul", servers(proxy.url(""), tls), None, HOST).unwrap();
    let us = "rpc-order-1";
    let record = registry.observe(us).await.unwrap().record;
    registry.drain(us, &marker()).await.unwrap();
    let is_drained = async || registry.observe(us).await.unwrap().traffic == Traffic::DrainedBy(marker());

    // Both CAs, then another server's certificate, then another of ours, then the new CA alone.
    let both = [&old, &new].map(|ca| std::fs::read_to_string(ca.ca_file()).unwrap()).concat();
    std::fs::write(path("ca.pem"), both).unwrap();
    assert!(is_drained().await);
    let server = |ca: &TestCa, name: &str| (ca.path(&format!("{name}.pem")), ca.path(&format!("{name}.key")));
    let (certificate, key) = server(&new, "server");
    proxy.show(&certificate, &key, Some(old.ca_file().as_path()));
    assert!(is_drained().await);
    put(&new, "client.pem", "own.pem");
    assert!(is_drained().await, "the certificate alone is new: the former pair is shown");
    put(&new, "client.key", "own.key");
    proxy.show(&certificate, &key, Some(new.ca_file().as_path()));
    assert!(is_drained().await);
    put(&new, "ca.pem", "ca.pem");
    assert!(is_drained().await);

    // A session that is resumed would be verified by nobody.
    put(&old, "ca.pem", "ca.pem");
    assert!(registry.observe(us).await.unwrap_err().needs_a_person());
    put(&new, "ca.pem", "ca.pem");
    assert!(is_drained().await);

    // The server's certificate ends while the service is drained: told from the first try, and over once it is renewed.
    let (expired, its_key) = new.make("expired", Wanted { until: "20260101000000Z", ..Wanted::default() });
    proxy.show(&expired, &its_key, Some(new.ca_file().as_path()));
    let error = registry.restore(us, &marker(), &record).await.unwrap_err();
    assert!(error.is_passing() && error.needs_a_person(), "{error}");
    assert!(error.to_string().contains("expired at 2026-01-01T00:00:00Z: renew it on the server"), "{error}");
    proxy.show(&certificate, &key, Some(new.ca_file().as_path()));
    assert_eq!(registry.restore(us, &marker(), &record).await.unwrap(), Restored::Done);
    assert_eq!(registry.observe(us).await.unwrap().traffic, Traffic::Passing);
}

#[tokio::test]
async fn a_probe_that_cannot_be_asked_is_told_from_a_service_that_is_ill() {
    let ca = authority();
    let server = TlsServer::start(&ca.path("server.pem"), &ca.path("server.key"), &[]);
    let named = Wanted { extensions: "subjectAltName=DNS:rpc-order.corp", ..Wanted::default() };
    let (certificate, key) = ca.make("named", named);
    let elsewhere = TlsServer::start(&certificate, &key, &[]);
    let by_name = |name: &str| Tls { server_name: Some(name.into()), ..believing(&ca) };
    let probes = Probes::default();
    let http = |url: String, tls: Tls| Health::Http(HttpHealth { url, tls });
    let exec = |program: &str| Health::Exec(vec![program.into()]);
    let [nobody] = free_ports();
    for (health, says) in [
        (http(server.url(), believing(&ca)), None),
        (http(elsewhere.url(), by_name("rpc-order.corp")), None),
        (http(elsewhere.url(), by_name("rpc-cart.corp")), Some("is for `rpc-order.corp`, not for `rpc-cart.corp`")),
        (http(elsewhere.url(), believing(&ca)), Some("not for `127.0.0.1`")),
        (http(server.url(), Tls::default()), Some("which the system's CA store does not have")),
        (
            http(server.url(), Tls { ca_file: Some("/nowhere/ca.pem".into()), ..Tls::default() }),
            Some("/nowhere/ca.pem"),
        ),
        (http("http://nowhere.invalid/".into(), Tls::default()), Some("GET http://nowhere.invalid/")),
        (http(format!("http://127.0.0.1:{nobody}/"), Tls::default()), None),
        (http(format!("https://127.0.0.1:{nobody}/"), Tls::default()), None),
        (Health::Tcp(SocketAddr::from(([127, 0, 0, 1], nobody))), None),
        (exec("/bin/false"), None),
        (exec("/nowhere/check"), Some("cannot be started")),
    ] {
        let dry = super::probe::dry::DryProbe::new(Arc::new(Probes::default()));
        for answer in [probes.can_be_asked(&health, SOON).await, dry.can_be_asked(&health, SOON).await] {
            match says {
                None => assert_eq!(answer, Ok(()), "{health:?}"),
                Some(says) => assert!(answer.as_ref().unwrap_err().to_string().contains(says), "{answer:?}"),
            }
        }
    }
    for health in [http(server.url(), believing(&ca)), http(elsewhere.url(), by_name("rpc-order.corp"))] {
        assert_eq!(probes.ask(&health, SOON).await, Ok(()));
    }
}

#[tokio::test]
async fn a_webhook_behind_a_proxy_gets_its_message_and_a_greeting_posts_nothing() {
    let ca = authority();
    let chat = super::notifier::tests::Server::answering("200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    let front = proxy(&ca, &chat.url("/"), None).await;
    let (address, asked) = http_proxy().await;
    let via = |tls: Tls| Via { tls: TlsContext::new("notify slack", tls).unwrap(), proxy: Some(address.clone()) };
    let url = front.url("/services/T0/hush");
    greet(&url, &via(believing(&ca)), SOON).await.unwrap();
    // The proxy of the tests connects to it for a greeting as well, and says nothing.
    let posted = || chat.requests.lock().unwrap().iter().filter(|request| !request.is_empty()).count();
    assert_eq!(posted(), 0);
    let unknown = greet(&url, &via(Tls::default()), SOON).await.unwrap_err();
    assert!(unknown.contains("which the system's CA store does not have") && !unknown.contains("hush"), "{unknown}");

    let slack = Slack::new(url.into(), &via(believing(&ca))).unwrap();
    let message = Message::new(EventKind::Test, HOST, "2026-11-22T18:43:29Z".parse().unwrap(), "a test");
    slack.deliver(Letter::new("m1", &message)).await.unwrap();
    assert_eq!(posted(), 1);
    let expected = format!("CONNECT 127.0.0.1:{} HTTP/1.1", front.port);
    assert!(asked.lock().unwrap().iter().all(|line| *line == expected), "{asked:?}");
}

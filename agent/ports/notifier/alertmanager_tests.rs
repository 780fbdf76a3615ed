//! A real Alertmanager: what it keeps of a message, and what it says to a wrong one.

use std::process::{Child, Stdio};
use std::sync::Arc;

use serde_json::Value;

use super::alertmanager::Alertmanager;
use super::tests::{message, via};
use super::webhook::{Chat, Said, Webhook};
use super::{Letter, Notifier};
use crate::clock::{Clock, SystemClock};
use crate::model::{EventKind, Message, Outcome};
use crate::ports::installed::alertmanager;
use crate::ports::testing_consul::{free_ports, wait_for};

struct TestAlertmanager {
    child: Child,
    url: String,
    _data: tempfile::TempDir,
}

impl TestAlertmanager {
    async fn start() -> Self {
        let data = tempfile::tempdir().unwrap();
        let config = data.path().join("alertmanager.yml");
        std::fs::write(&config, "route: { receiver: nobody }\nreceivers: [{ name: nobody }]\n").unwrap();
        let [port] = free_ports::<1>();
        let mut command = alertmanager();
        command.arg(format!("--config.file={}", config.display()));
        command.arg(format!("--storage.path={}", data.path().display()));
        command.arg(format!("--web.listen-address=127.0.0.1:{port}")).arg("--cluster.listen-address=");
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let server = Self { child, url: format!("http://127.0.0.1:{port}"), _data: data };
        wait_for("Alertmanager is ready", async || {
            let answer = reqwest::get(format!("{}/-/ready", server.url)).await;
            answer.is_ok_and(|answer| answer.status().is_success())
        })
        .await;
        server
    }

    fn notifier(&self) -> Webhook<Alertmanager> {
        let url = format!("{}/api/v2/alerts", self.url);
        Webhook::new(Alertmanager { login: None }, url.into(), &via(), Arc::new(SystemClock)).unwrap()
    }

    /// Name and state of each alert that is open.
    async fn open(&self) -> Vec<Value> {
        let answer = reqwest::get(format!("{}/api/v2/alerts", self.url)).await.unwrap().text().await.unwrap();
        serde_json::from_str(&answer).unwrap()
    }
}

impl Drop for TestAlertmanager {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn now(event: EventKind, outcome: Option<Outcome>) -> Message {
    Message { event, outcome, at: SystemClock.now(), ..message() }
}

#[tokio::test]
async fn an_incident_that_needs_a_person_is_an_alert_until_somebody_has_decided() {
    let server = TestAlertmanager::start().await;
    let notifier = server.notifier();
    let stuck = now(EventKind::Stuck, Some(Outcome::Stuck));
    notifier.deliver(Letter::new("m-1", &stuck)).await.unwrap();
    let open = server.open().await;
    let label = |name: &str| open[0]["labels"][name].as_str().unwrap().to_owned();
    assert_eq!((open.len(), label("alertname").as_str()), (1, "UnwaitNeedsPerson"), "{open:?}");
    assert_eq!((label("service").as_str(), label("dc").as_str()), ("rpc-order.service", "bj1"));
    assert_eq!(open[0]["annotations"]["summary"], stuck.title);
    assert_eq!(open[0]["status"]["state"], "active");

    // A breach of the same service is an alert of its own, and its end is not the incident's.
    notifier.deliver(Letter::new("m-2", &now(EventKind::Breach, None))).await.unwrap();
    assert_eq!(server.open().await.len(), 2);
    notifier.deliver(Letter::new("m-3", &now(EventKind::Recovered, None))).await.unwrap();
    assert_eq!(server.open().await.len(), 1);

    let settled = Message { settled: true, ..now(EventKind::Operator, None) };
    notifier.deliver(Letter::new("m-4", &settled)).await.unwrap();
    assert_eq!(server.open().await, Vec::<Value>::new());
}

#[test]
fn what_alertmanager_refuses_is_told_in_its_words() {
    let said = |body: &str| Alertmanager { login: None }.said(body);
    let refused = |words: &str| Some(Said::Refused { words: words.into() });
    // As 0.25 says it.
    assert_eq!(said("\"start time must be before end time\"\n"), refused("start time must be before end time"));
    assert_eq!(said("{\"code\":400,\"message\":\"parsing alerts body\"}\n"), refused("parsing alerts body"));
    assert_eq!((said(""), said("<html>")), (Some(Said::Taken), None));
}

#[test]
fn a_label_of_the_host_takes_no_other_labels_place_and_has_a_name_that_prometheus_takes() {
    let message =
        Message { labels: vec!["host=x".into(), "rack-no=7".into(), "1=a".into()], ..now(EventKind::Stuck, None) };
    let url = reqwest::Url::parse("http://a/").unwrap();
    let (_, body) = Alertmanager { login: None }.request(url, &message, message.at).unwrap();
    let label = |name: &str| body[0]["labels"][name].as_str().unwrap().to_owned();
    assert_eq!([label("host"), label("rack_no"), label("_1")], ["bj1-03", "7", "a"]);
}

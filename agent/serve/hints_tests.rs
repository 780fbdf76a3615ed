//! Hints: who may give them, what they are answered, and a real Alertmanager that gives them.

use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::mpsc;

use super::fixture::{Set, bulletin, set_hinted};
use super::hints::Hints;
use crate::ports::installed;
use crate::ports::testing_consul::{free_ports, wait_for};
use crate::view::bulletin::Bulletin;

const TOKEN: &str = "hush-hush-hush";
/// As Alertmanager sends it, shortened.
const WEBHOOK: &str =
    r#"{"version":"4","status":"firing","alerts":[{"status":"firing","labels":{"service":"rpc-order.service"}}]}"#;

/// A server whose agent looks each time it is asked to, a second of its clock later; and how often it did.
fn hinted() -> (Arc<Set>, Arc<AtomicUsize>) {
    hinted_by(TOKEN)
}

fn hinted_by(token: &'static str) -> (Arc<Set>, Arc<AtomicUsize>) {
    let (look_now, mut asked) = mpsc::channel(1);
    let token = Arc::new(move || token.to_owned().into());
    let set = Arc::new(set_hinted(Hints { token, look_now }));
    let (looks, agent) = (Arc::new(AtomicUsize::new(0)), Arc::downgrade(&set));
    let counted = Arc::clone(&looks);
    std::thread::spawn(move || {
        while asked.blocking_recv().is_some() {
            let Some(set) = agent.upgrade() else { return };
            set.clock.advance(Duration::from_secs(1));
            counted.fetch_add(1, Ordering::SeqCst);
            let ticked = Some(crate::clock::Clock::monotonic(set.clock.as_ref()));
            set.bulletins.send_replace(Arc::new(Bulletin { ticked, ..bulletin() }));
        }
    });
    (set, looks)
}

fn post(set: &Set, form: &str, token: Option<&str>, body: &str) -> (String, Value) {
    let authorization = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
    let length = body.len();
    let text = set.say(&format!(
        "POST /api/v1/hint/{form} HTTP/1.1\r\nHost: unwait.example\r\n{authorization}Content-Length: {length}\r\n\r\n{body}"
    ));
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), serde_json::from_str(body).unwrap_or_default())
}

#[test]
fn a_hint_is_answered_with_what_the_look_found_that_it_asked_for() {
    let (set, looks) = hinted();
    let (head, answer) = post(&set, "alertmanager", Some(TOKEN), WEBHOOK);
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.contains("content-security-policy"), "{head}");
    assert_eq!((&answer["fresh"], answer["services"].as_array().unwrap().len()), (&Value::Bool(true), 1), "{answer:#}");
    let service = &answer["services"][0];
    assert_eq!(service["service"], "rpc-order.service");
    assert_eq!(service["signals"]["close_wait.aged(1m)"], 288.0);
    assert_eq!(service["policies"][0]["policy"], "leak");
    assert_eq!(service["policies"][0]["nothing_is_done"], "too_few_healthy");
    assert_eq!(looks.load(Ordering::SeqCst), 1);
    // It names no service that the agent knows: all that a policy selects.
    for body in [r#"{"service":"unknown.service"}"#, r#"{"trigger":"close_wait > 5300"}"#] {
        let (_, answer) = post(&set, "zabbix", Some(TOKEN), body);
        assert_eq!(answer["services"][0]["service"], "rpc-order.service", "{answer:#}");
    }
    assert_eq!(looks.load(Ordering::SeqCst), 3);
}

#[test]
fn a_hint_is_taken_by_post_from_who_knows_the_token_and_bounded() {
    let (set, looks) = hinted();
    for (form, token, body, status) in [
        ("alertmanager", None, WEBHOOK, "401 Unauthorized"),
        ("alertmanager", Some(""), WEBHOOK, "401 Unauthorized"),
        ("alertmanager", Some("hush-hush-hus"), WEBHOOK, "401 Unauthorized"),
        ("alertmanager", Some("hush-hush-hushh"), WEBHOOK, "401 Unauthorized"),
        ("nagios", Some(TOKEN), WEBHOOK, "404 Not Found"),
        ("alertmanager", Some(TOKEN), "alerts", "400 Bad Request"),
        ("alertmanager", Some(TOKEN), "{}", "400 Bad Request"),
        ("zabbix", Some(TOKEN), "[]", "400 Bad Request"),
    ] {
        let (head, _) = post(&set, form, token, body);
        assert!(head.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{form} {token:?}: {head}");
        assert_eq!(head.contains("www-authenticate: Bearer"), status.starts_with("401"), "{head}");
    }
    let got = set.ask("GET", "/api/v1/hint/alertmanager");
    assert!(got.starts_with("HTTP/1.1 405 ") && got.contains("allow: POST\r\n"), "{got}");
    assert!(set.ask("POST", "/api/v1/status").starts_with("HTTP/1.1 405 "), "elsewhere nothing is posted");
    let (nobodys, _) = hinted_by("");
    for token in [None, Some(""), Some("x")] {
        assert!(
            post(&nobodys, "alertmanager", token, WEBHOOK).0.starts_with("HTTP/1.1 401 "),
            "an empty token lets nobody in"
        );
    }
    // Who sends more than is read may not hear the answer to it.
    let (long, length) = ("x".repeat(1 << 21), 1 << 21);
    let head = "POST /api/v1/hint/zabbix HTTP/1.1\r\nHost: unwait.example\r\nAuthorization: Bearer";
    let said = set.say(&format!("{head} {TOKEN}\r\nContent-Length: {length}\r\n\r\n{long}"));
    assert!(said.is_empty() || said.starts_with("HTTP/1.1 413 Payload Too Large\r\n"), "{said}");
    assert_eq!(looks.load(Ordering::SeqCst), 0);
    let (head, answer) = post(&super::fixture::set(), "alertmanager", Some(TOKEN), WEBHOOK);
    assert!(
        head.starts_with("HTTP/1.1 404 ") && answer["error"].to_string().contains("no hints are taken here"),
        "{head}"
    );
}

struct Alertmanager {
    child: Child,
    _directory: tempfile::TempDir,
    port: u16,
}

impl Drop for Alertmanager {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One that sends its alerts to this server.
fn alertmanager(set: &Set) -> Alertmanager {
    let directory = tempfile::tempdir().unwrap();
    let [port] = free_ports();
    let config = format!(
        "route: {{ receiver: unwait, group_wait: 0s, group_interval: 1s, repeat_interval: 1h }}\nreceivers:\n- name: unwait\n  \
         webhook_configs:\n  - url: http://{}/api/v1/hint/alertmanager\n    http_config: {{ authorization: {{ credentials: \
         {TOKEN} }} }}\n",
        set.at
    );
    std::fs::write(directory.path().join("alertmanager.yml"), config).unwrap();
    let child = installed::alertmanager()
        .args(["--config.file=alertmanager.yml", "--storage.path=data", "--cluster.listen-address="])
        .arg(format!("--web.listen-address=127.0.0.1:{port}"))
        .current_dir(directory.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    Alertmanager { child, _directory: directory, port }
}

#[tokio::test]
async fn alertmanager_makes_the_agent_look() {
    let (set, looks) = hinted();
    let alertmanager = alertmanager(&set);
    let client = reqwest::Client::builder().no_proxy().tls_certs_only([]).build().unwrap();
    let url = format!("http://127.0.0.1:{}/api/v2/alerts", alertmanager.port);
    let alert = r#"[{"labels":{"alertname":"CloseWaitLeak","service":"rpc-order.service"}}]"#;
    wait_for("Alertmanager takes alerts", async || {
        let request = client.post(&url).header("content-type", "application/json").body(alert);
        request.send().await.is_ok_and(|answer| answer.status().is_success())
    })
    .await;
    wait_for("a hint", async || looks.load(Ordering::SeqCst) > 0).await;
    let metrics = format!("http://127.0.0.1:{}/metrics", alertmanager.port);
    wait_for("Alertmanager has counted its notification", async || {
        let text = client.get(&metrics).send().await.unwrap().text().await.unwrap();
        let count = |name: &str| {
            let line = text.lines().find(|line| line.starts_with(&format!("{name}{{integration=\"webhook\"")));
            line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).unwrap_or_default()
        };
        assert_eq!(count("alertmanager_notifications_failed_total"), 0.0);
        count("alertmanager_notifications_total") > 0.0
    })
    .await;
}

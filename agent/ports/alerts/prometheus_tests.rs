//! A real Prometheus, and answers that it gives when something is wrong with it.

use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::prometheus::{Credentials, Prometheus};
use super::*;
use crate::model::Tls;
use crate::ports::installed::installed;
use crate::ports::testing_consul::{free_ports, wait_for};
use crate::ports::testing_tls::{TestCa, Wanted};
use crate::ports::tls::TlsContext;
use crate::ports::{Secret, Servers, User};
use crate::trust;

/// The bcrypt hash of `hush-hush-hush`.
const HASH: &str = "$2b$04$Fnu9hqw8dFl/F2Rb4uxzkeqqtIQ51y6wF3yGHZ5GFsF2OFBxM3212";
const WATCHDOG: &str = r#"{ alert: Watchdog, expr: "vector(1)" }"#;
const LEAK: &str = r#"{ alert: CloseWaitLeak, expr: "vector(1)", labels: { severity: critical } }"#;
const DISK: &str = r#"{ alert: DiskFull, expr: "vector(1)", labels: { severity: critical, team: web } }"#;
const SLEEPS: &str = r#"{ alert: Sleeps, expr: "vector(0) > 1", labels: { severity: critical } }"#;

/// Evaluates its rules five times a second.
struct TestPrometheus {
    child: Child,
    directory: tempfile::TempDir,
    port: u16,
}

impl TestPrometheus {
    /// `web`: its own settings of TLS and logins.
    async fn start(rules: &[&str], web: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let [port] = free_ports();
        let path = |name: &str| directory.path().join(name);
        std::fs::write(path("prometheus.yml"), "global: { evaluation_interval: 200ms }\nrule_files: [rules.yml]\n")
            .unwrap();
        std::fs::write(path("web.yml"), web).unwrap();
        write_rules(&path("rules.yml"), rules);
        let child = Command::new(installed("prometheus").join("usr/bin/prometheus"))
            .args(["--config.file=prometheus.yml", "--web.config.file=web.yml", "--storage.tsdb.path=data"])
            .args(["--log.level=error", &format!("--web.listen-address=127.0.0.1:{port}")])
            .current_dir(directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, directory, port }
    }

    /// The rules are others from the next evaluation on.
    fn evaluate(&self, rules: &[&str]) {
        write_rules(&self.directory.path().join("rules.yml"), rules);
        kill(Pid::from_raw(self.child.id() as i32), Signal::SIGHUP).unwrap();
    }

    fn asked(&self, watchdog: Option<&str>) -> Prometheus {
        let url = format!("http://127.0.0.1:{}", self.port);
        Prometheus::new(url.as_str().into(), None, watchdog.map(selector)).unwrap()
    }
}

impl Drop for TestPrometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn write_rules(file: &std::path::Path, rules: &[&str]) {
    let rules: Vec<String> = rules.iter().map(|rule| format!("  - {rule}\n")).collect();
    std::fs::write(file, format!("groups:\n- name: all\n  rules:\n{}", rules.concat())).unwrap();
}

fn selector(text: &str) -> AlertSelector {
    AlertSelector::parse(text).unwrap()
}

async fn firing(prometheus: &Prometheus, selectors: &[&str]) -> Result<Vec<String>, String> {
    let selectors: Vec<AlertSelector> = selectors.iter().copied().map(selector).collect();
    let found = prometheus.firing(&selectors).await?;
    Ok(found.iter().map(ToString::to_string).collect())
}

#[tokio::test]
async fn prometheus_tells_which_of_the_chosen_alerts_fire_while_the_watchdog_does() {
    let server = TestPrometheus::start(&[WATCHDOG, LEAK, DISK, SLEEPS], "").await;
    let asked = server.asked(Some(r#"alertname="Watchdog""#));
    wait_for("the rules are evaluated", async || {
        firing(&asked, &[r#"team="web""#]).await.is_ok_and(|it| it.len() == 1)
    })
    .await;
    let disk = "DiskFull (severity=critical, team=web)".to_owned();
    let leak = "CloseWaitLeak (severity=critical)".to_owned();
    for (selectors, expected) in [
        (vec![r#"severity="critical",alertname!="CloseWaitLeak""#], vec![&disk]),
        (vec![r#"alertname=~"CloseWait.*""#, r#"team="web""#], vec![&leak, &disk]),
        (vec![r#"alertname=~"Disk.*", severity!~"crit.*""#], vec![]),
        (vec![r#"alertname="Sleeps""#], vec![]),
    ] {
        let mut found = firing(&asked, &selectors).await.unwrap();
        found.sort_unstable();
        assert_eq!(found.iter().collect::<Vec<_>>(), expected, "{selectors:?}");
    }
    let wrong = firing(&asked, &[r#"alertname=~"(""#]).await.unwrap_err();
    assert!(wrong.contains("400 Bad Request") && wrong.contains("missing closing )"), "{wrong}");
    assert!(asked.server().await.unwrap().starts_with("Prometheus "));

    server.evaluate(&[WATCHDOG]);
    wait_for("the disk has room", async || firing(&asked, &[r#"team="web""#]).await == Ok(vec![])).await;
    server.evaluate(&[LEAK]);
    wait_for("the watchdog is silent", async || firing(&asked, &[r#"team="web""#]).await.is_err()).await;
    let silent = firing(&asked, &[r#"team="web""#]).await.unwrap_err();
    assert!(silent.contains(r#"the alert that always fires (alertname="Watchdog") does not"#), "{silent}");
    let unwatched = server.asked(None);
    assert_eq!(firing(&unwatched, &[r#"team="web""#]).await, Ok(vec![]));
    drop(server);
    let gone = firing(&unwatched, &[r#"team="web""#]).await.unwrap_err();
    assert!(gone.starts_with("prometheus: GET query: "), "{gone}");
}

#[tokio::test]
async fn prometheus_is_asked_by_tls_with_a_password_that_may_change() {
    let ca = TestCa::made();
    let (certificate, key) =
        ca.make("server", Wanted { extensions: "subjectAltName=IP:127.0.0.1", ..Wanted::default() });
    let web = format!(
        "tls_server_config: {{ cert_file: {}, key_file: {} }}\nbasic_auth_users: {{ ann: {HASH} }}\n",
        certificate.display(),
        key.display()
    );
    let server = TestPrometheus::start(&[WATCHDOG], &web).await;
    let file = server.directory.path().join("password");
    trust::write_secret(&file, "former-former\n");
    let tls = TlsContext::new("prometheus", Tls { ca_file: Some(ca.ca_file()), ..Tls::default() }).unwrap();
    let urls = vec![format!("https://127.0.0.1:{}", server.port)];
    let user = User { name: "ann".into(), password: Secret::in_file(file.clone()).unwrap() };
    let credentials = Some(Credentials::Basic(user));
    let asked = Prometheus::new(Servers { urls, via: tls.into() }, credentials, None).unwrap();
    wait_for("Prometheus to answer", async || asked.server().await.is_err_and(|why| why.contains("401 Unauthorized")))
        .await;
    trust::write_secret(&file, "hush-hush-hush\n");
    let selectors = [r#"alertname="Watchdog""#];
    wait_for("the rules are evaluated", async || firing(&asked, &selectors).await.is_ok_and(|it| it.len() == 1)).await;
}

/// Answers each connection with this.
async fn answering(status: &'static str, body: &'static str) -> Prometheus {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = [0; 4096];
            let _ = stream.read(&mut head).await;
            let length = body.len();
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}");
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    let credentials = Some(Credentials::Bearer(Secret::from("hush-hush-hush".to_owned())));
    Prometheus::new(url.as_str().into(), credentials, None).unwrap()
}

#[tokio::test]
async fn an_answer_that_is_partial_or_none_of_prometheus_is_no_answer() {
    const EMPTY: &str = r#"{"status":"success","data":{"resultType":"vector","result":[]}}"#;
    // As Thanos answers where a store is away, and partial answers are allowed.
    const PARTIAL: &str =
        r#"{"status":"success","data":{"resultType":"vector","result":[]},"warnings":["store rack-7: no answer"]}"#;
    let chosen = [r#"team="web""#];
    assert_eq!(firing(&answering("200 OK", EMPTY).await, &chosen).await, Ok(vec![]));
    for (status, body, says) in [
        ("200 OK", PARTIAL, "the answer is partial: store rack-7: no answer"),
        ("200 OK", r#"{"status":"error","error":"query timed out"}"#, "refused: query timed out"),
        ("200 OK", r#"{"status":"success","data":{"resultType":"matrix","result":[]}}"#, "a `matrix`, not a vector"),
        ("200 OK", "<html>a portal</html>", "the answer is not Prometheus'"),
        ("503 Service Unavailable", "no leader", "503 Service Unavailable: no leader"),
        ("403 Forbidden", "hush-hush-hush may not", "403 Forbidden: (not shown: it repeats a secret)"),
        ("302 Found", "", "302 Found"),
    ] {
        let why = firing(&answering(status, body).await, &chosen).await.unwrap_err();
        assert!(why.starts_with("prometheus: GET query: ") && why.contains(says), "{status} {body}: {why}");
    }
}

//! A real Eureka server for the tests beside the adapters: own port, ended by its pid. Its applications are the test's, by the
//! REST operations that a client uses.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use super::installed::installed;
use super::testing_consul::{free_ports, wait_at_most};

/// Eureka's own time between two looks of its lists at the registry.
pub const TICK: Duration = Duration::from_secs(30);

pub struct TestEureka {
    child: Child,
    _tomcat: tempfile::TempDir,
    /// Ends where `/apps` begins.
    pub url: String,
    client: reqwest::Client,
}

impl TestEureka {
    /// Its lists are made anew each `tick`.
    pub async fn start(tick: Duration) -> Self {
        let tomcat = tempfile::tempdir().unwrap();
        let [port] = free_ports();
        let folder = installed("eureka-5.0.0");
        let child = Command::new("java")
            // Small and quick to start, on a machine of two cores that runs other tests.
            .args(["-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData"])
            .arg(format!("-Djava.io.tmpdir={}", tomcat.path().display()))
            .args(["-cp", &format!("{0}/classes:{0}/jars/*", folder.display()), "EurekaServer"])
            .args(["--server.address=127.0.0.1", &format!("--server.port={port}")])
            // It is alone.
            .args(["--eureka.client.register-with-eureka=false", "--eureka.client.fetch-registry=false"])
            .arg(format!("--eureka.server.response-cache-update-interval-ms={}", tick.as_millis()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("java: {error}: `tests/run` installs openjdk-17-jre-headless"));
        let client = reqwest::Client::builder().no_proxy().tls_certs_only([]).build().unwrap();
        let url = format!("http://127.0.0.1:{port}/eureka");
        let eureka = Self { child, _tomcat: tomcat, url, client };
        wait_at_most(2 * TICK, "Eureka to serve", async || eureka.try_get("").await.is_some()).await;
        eureka
    }

    /// As an application does it that lives: it registers, and renews its lease.
    pub async fn register(&self, id: &str, address: &str, port: u16, release: u32) {
        self.register_once(id, address, port, release).await;
        self.renew(id).await;
    }

    /// As an application does it that is killed then.
    pub async fn register_once(&self, id: &str, address: &str, port: u16, release: u32) {
        let (app, instance) = parts(id);
        let record = json!({ "instance": {
            "instanceId": instance, "app": app, "hostName": address, "ipAddr": address, "vipAddress": app.to_lowercase(),
            "status": "UP", "overriddenstatus": "UNKNOWN", "port": { "$": port, "@enabled": "true" },
            "healthCheckUrl": format!("http://{address}:{port}/actuator/health"),
            "leaseInfo": { "renewalIntervalInSecs": 30, "durationInSecs": 90 },
            "dataCenterInfo": { "@class": "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo", "name": "MyOwn" },
            "metadata": { "release": release.to_string() },
        } });
        self.send(Method::POST, &app, &record.to_string()).await;
    }

    /// Its heartbeat.
    pub async fn renew(&self, id: &str) {
        let (app, instance) = parts(id);
        self.send(Method::PUT, &format!("{app}/{instance}"), "").await;
    }

    /// As it ends well.
    pub async fn deregister(&self, id: &str) {
        let (app, instance) = parts(id);
        self.send(Method::DELETE, &format!("{app}/{instance}"), "").await;
    }

    async fn send(&self, method: Method, path: &str, body: &str) {
        let request = self.client.request(method, format!("{}/apps/{path}", self.url)).body(body.to_owned());
        request.header("content-type", "application/json").send().await.unwrap().error_for_status().unwrap();
    }

    async fn try_get(&self, path: &str) -> Option<Value> {
        let request = self.client.get(format!("{}/apps{path}", self.url)).header("accept", "application/json");
        request.send().await.ok()?.error_for_status().ok()?.json().await.ok()
    }

    /// The registry's own record of an instance.
    pub async fn record(&self, id: &str) -> Option<Value> {
        let (app, instance) = parts(id);
        Some(self.try_get(&format!("/{app}/{instance}")).await?["instance"].take())
    }

    /// The instance's record in the list of all applications, which a client fetches.
    pub async fn listed(&self, id: &str) -> Option<Value> {
        let (app, instance) = parts(id);
        let mut all = self.try_get("").await?;
        let apps = all["applications"]["application"].as_array_mut()?;
        let found = apps.iter_mut().find(|found| found["name"] == app.as_str())?;
        found["instance"].as_array_mut()?.iter_mut().find(|it| it["instanceId"] == instance).map(Value::take)
    }

    /// Does a client that has just fetched the list find it there? Waits until the list shows what the registry has.
    pub async fn finds(&self, id: &str) -> bool {
        let statuses = async || {
            let status = |record: Option<Value>| record.map(|record| record["status"].clone());
            (status(self.record(id).await), status(self.listed(id).await))
        };
        wait_at_most(2 * TICK, "the list to be made anew", async || {
            let (record, listed) = statuses().await;
            record == listed
        })
        .await;
        statuses().await.1.is_some_and(|status| status == "UP")
    }
}

/// The application, in upper case as Eureka keeps it, and the instance.
fn parts(id: &str) -> (String, &str) {
    let (app, instance) = id.split_once('/').unwrap();
    (app.to_uppercase(), instance)
}

impl Drop for TestEureka {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

//! A real ZooKeeper for the tests beside the adapters: own port, own data directory, ended by its pid.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::User;
use super::installed::installed;
use super::testing_consul::{free_ports, wait_for};
use super::zookeeper::{Api, Session};

pub struct TestZooKeeper {
    child: Child,
    _data: tempfile::TempDir,
    pub server: String,
}

/// Debian's, with the client that a person has.
fn debian() -> String {
    let folder = installed("zookeeper").join("usr/share/java");
    let jars = ["zookeeper", "zookeeper-jute", "slf4j-api", "metrics-core", "snappy-java", "commons-cli"];
    jars.map(|jar| folder.join(format!("{jar}.jar")).display().to_string()).join(":")
}

fn java(jars: &str, main: &str) -> Command {
    let mut command = Command::new("java");
    // Small and quick to start, on a machine of two cores that runs other tests.
    command.args(["-Xmx64m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", jars, main]);
    command.stdin(Stdio::null()).stderr(Stdio::null());
    command
}

impl TestZooKeeper {
    pub async fn start() -> Self {
        Self::of(&debian()).await
    }

    /// A newer release than Debian's.
    pub async fn start_newest() -> Self {
        Self::of(&installed("zookeeper_newest-3.9.5").join("*").display().to_string()).await
    }

    /// The same, with further lines of its configuration.
    pub async fn start_newest_with(lines: &str) -> Self {
        Self::with(&installed("zookeeper_newest-3.9.5").join("*").display().to_string(), lines).await
    }

    async fn of(jars: &str) -> Self {
        Self::with(jars, "").await
    }

    async fn with(jars: &str, lines: &str) -> Self {
        let data = tempfile::tempdir().unwrap();
        let [port] = free_ports();
        let config = data.path().join("zoo.cfg");
        let folder = data.path().display();
        std::fs::write(
            &config,
            format!(
                "dataDir={folder}\nclientPortAddress=127.0.0.1\nclientPort={port}\ntickTime=2000\n\
                 maxSessionTimeout=120000\nadmin.enableServer=false\n{lines}"
            ),
        )
        .unwrap();
        let child = java(jars, "org.apache.zookeeper.server.quorum.QuorumPeerMain")
            .arg(&config)
            .stdout(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("java: {error}: `tests/run` installs openjdk-17-jre-headless"));
        let zookeeper = Self { child, _data: data, server: format!("127.0.0.1:{port}") };
        // Measured: one that is still starting may take a connection and never answer it.
        let asked = Api::new(vec![zookeeper.server.clone()], None, Duration::from_secs(1));
        wait_for("ZooKeeper to give a session", async || asked.session().await.is_ok()).await;
        zookeeper
    }

    pub async fn session(&self) -> Session {
        self.session_of(None).await
    }

    pub async fn session_of(&self, user: Option<User>) -> Session {
        Api::new(vec![self.server.clone()], user, Duration::from_secs(30)).session().await.unwrap()
    }

    /// What ZooKeeper's own client says.
    pub async fn command(&self, words: &[&str]) -> String {
        let mut client = java(&debian(), "org.apache.zookeeper.ZooKeeperMain");
        client.args(["-server", &self.server]).args(words);
        let said = tokio::task::spawn_blocking(move || client.output().unwrap()).await.unwrap();
        String::from_utf8_lossy(&said.stdout).into_owned()
    }
}

impl Drop for TestZooKeeper {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

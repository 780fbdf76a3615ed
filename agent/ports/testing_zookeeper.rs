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

/// Whose release it is.
#[derive(Clone, Copy, Debug)]
pub enum Distribution {
    Debian,
    Newest,
}

impl Distribution {
    fn jars(self) -> String {
        match self {
            Self::Debian => debian(),
            Self::Newest => installed("zookeeper_newest-3.9.5").join("*").display().to_string(),
        }
    }
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
        Self::with(Distribution::Debian, "").await
    }

    /// A newer release than Debian's.
    pub async fn start_newest() -> Self {
        Self::with(Distribution::Newest, "").await
    }

    /// The same, with further lines of its configuration.
    pub async fn start_newest_with(lines: &str) -> Self {
        Self::with(Distribution::Newest, lines).await
    }

    /// One of the servers of an ensemble, each with a port for its peers and one for elections; it serves once more than
    /// half of them have started.
    pub async fn start_member(distribution: Distribution, nth: usize, ensemble: &[[u16; 2]]) -> Self {
        let mut lines = "initLimit=5\nsyncLimit=2\n".to_owned();
        for (nth, [peers, elections]) in ensemble.iter().enumerate() {
            lines += &format!("server.{}=127.0.0.1:{peers}:{elections}\n", nth + 1);
        }
        let member = Self::spawned(distribution, &lines, Some(nth + 1));
        wait_for("ZooKeeper to listen", async || tokio::net::TcpStream::connect(&member.server).await.is_ok()).await;
        member
    }

    async fn with(distribution: Distribution, lines: &str) -> Self {
        let zookeeper = Self::spawned(distribution, lines, None);
        // Measured: one that is still starting may take a connection and never answer it.
        let asked = Api::new(vec![zookeeper.server.clone()], None, Duration::from_secs(1));
        wait_for("ZooKeeper to give a session", async || asked.session().await.is_ok()).await;
        zookeeper
    }

    fn spawned(distribution: Distribution, lines: &str, id: Option<usize>) -> Self {
        let data = tempfile::tempdir().unwrap();
        if let Some(id) = id {
            std::fs::write(data.path().join("myid"), id.to_string()).unwrap();
        }
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
        let child = java(&distribution.jars(), "org.apache.zookeeper.server.quorum.QuorumPeerMain")
            .arg(&config)
            .stdout(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("java: {error}: `tests/run` installs openjdk-17-jre-headless"));
        Self { child, _data: data, server: format!("127.0.0.1:{port}") }
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

//! A real HAProxy for the tests beside the adapters: own sockets and ports, ended by its pid.

use std::process::{Child, Command, Stdio};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::installed::installed;
use super::testing_consul::{free_ports, wait_for};

#[derive(Debug)]
pub struct TestHaProxy {
    child: Child,
    directory: tempfile::TempDir,
    port: u16,
}

impl TestHaProxy {
    /// With these frontends and backends; `level` is what its socket allows.
    pub async fn start(level: &str, config: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("admin.sock");
        let reader = directory.path().join("user.sock");
        let [port] = free_ports();
        let global = format!(
            "global\n  stats socket {} mode 600 level {level}\n  stats socket ipv4@127.0.0.1:{port} level {level}\n  \
             stats socket {} mode 600 level user\n",
            socket.display(),
            reader.display()
        );
        let defaults = "defaults\n  mode tcp\n  timeout connect 1s\n  timeout client 5s\n  timeout server 5s\n";
        std::fs::write(directory.path().join("haproxy.cfg"), format!("{global}{defaults}{config}")).unwrap();
        let haproxy = Self { child: Self::spawn(&directory, None), directory, port };
        haproxy.answers().await;
        haproxy
    }

    /// `former` is told to finish, as a reload does it.
    fn spawn(directory: &tempfile::TempDir, former: Option<u32>) -> Child {
        Command::new(installed("haproxy").join("usr/sbin/haproxy"))
            .args(["-db", "-f"])
            .arg(directory.path().join("haproxy.cfg"))
            .args(former.iter().flat_map(|pid| ["-sf".to_owned(), pid.to_string()]))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }

    async fn answers(&self) {
        wait_for("HAProxy to answer", async || UnixStream::connect(self.socket()).await.is_ok()).await;
    }

    pub fn socket(&self) -> String {
        self.directory.path().join("admin.sock").to_string_lossy().into_owned()
    }

    /// One that may only look.
    pub fn reader(&self) -> String {
        self.directory.path().join("user.sock").to_string_lossy().into_owned()
    }

    /// The same stats commands over TCP.
    pub fn tcp_socket(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// A new process takes over the listeners and has the former one finish, as a reload does. All that commands have
    /// set is forgotten.
    pub async fn reload(&mut self) {
        let successor = Self::spawn(&self.directory, Some(self.child.id()));
        let mut former = std::mem::replace(&mut self.child, successor);
        let former = std::cell::RefCell::new(&mut former);
        wait_for("the former HAProxy to end", async || matches!(former.borrow_mut().try_wait(), Ok(Some(_)))).await;
        self.answers().await;
    }

    /// All that commands have set is forgotten.
    pub async fn restart(&mut self) {
        self.end();
        std::fs::remove_file(self.socket()).unwrap();
        std::fs::remove_file(self.reader()).unwrap();
        self.child = Self::spawn(&self.directory, None);
        self.answers().await;
    }

    pub fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    pub async fn ask(&self, command: &str) -> String {
        let mut stream = UnixStream::connect(self.socket()).await.unwrap();
        stream.write_all(format!("{command}\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }
}

impl Drop for TestHaProxy {
    fn drop(&mut self) {
        self.end();
    }
}

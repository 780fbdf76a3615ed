//! A real HAProxy for the tests beside the adapters: own sockets and ports, ended by its pid.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::installed::installed;
use super::testing_consul::{free_ports, wait_for};

const LOADS_STATE: &str = "  load-server-state-from-file global\n";

#[derive(Debug)]
pub struct TestHaProxy {
    child: Child,
    directory: tempfile::TempDir,
    port: u16,
}

impl TestHaProxy {
    /// With these frontends and backends; `level` is what its socket allows.
    pub async fn start(level: &str, config: &str) -> Self {
        Self::spawned(level, false, config, &[]).await
    }

    /// A master that starts a worker, and another one at each SIGUSR2; with the state file of deploy/README.md, or without.
    pub async fn start_master(config: &str, with_state: bool) -> Self {
        Self::spawned("admin", with_state, config, &["-W"]).await
    }

    async fn spawned(level: &str, with_state: bool, config: &str, options: &[&str]) -> Self {
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
        let state = match with_state {
            true => (format!("  server-state-file {}/state\n", directory.path().display()), LOADS_STATE),
            false => (String::new(), ""),
        };
        let defaults = "defaults\n  mode tcp\n  timeout connect 1s\n  timeout client 5s\n  timeout server 5s\n";
        std::fs::write(
            directory.path().join("haproxy.cfg"),
            format!("{global}{}{defaults}{}{config}", state.0, state.1),
        )
        .unwrap();
        let haproxy = Self { child: Self::spawn(&directory, options), directory, port };
        haproxy.answers().await;
        haproxy
    }

    fn spawn(directory: &tempfile::TempDir, options: &[&str]) -> Child {
        Command::new(installed("haproxy").join("usr/sbin/haproxy"))
            .args(["-db", "-f"])
            .arg(directory.path().join("haproxy.cfg"))
            .args(options)
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
        let successor = Self::spawn(&self.directory, &["-sf", &self.child.id().to_string()]);
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
        self.child = Self::spawn(&self.directory, &[]);
        self.answers().await;
    }

    /// The master's reload, as deploy/README.md has it: the state is saved, and then a new worker takes over.
    pub async fn reload_master(&self) {
        std::fs::write(self.directory.path().join("state"), self.ask("show servers state").await).unwrap();
        let master = Pid::from_raw(self.child.id() as i32);
        let worker =
            async || self.ask("show info").await.lines().find_map(|line| Some(line.strip_prefix("Pid: ")?.to_owned()));
        let former = worker().await;
        // A master of 2.6 that has only just begun loses the signal.
        wait_for("the new worker to answer", async || {
            kill(master, Signal::SIGUSR2).unwrap();
            for _ in 0..20 {
                if worker().await != former {
                    return true;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            false
        })
        .await;
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
        // By SIGTERM a master ends its workers too.
        if let Ok(None) = self.child.try_wait() {
            let _ = kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM);
            let _ = self.child.wait();
        }
    }
}

//! The probes: a TCP connection, an HTTP GET, a Redis PING, a command. Each asks once, over a connection of its own.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use async_trait::async_trait;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use reqwest::Url;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;

use super::{Probe, ProbeFailure};
use crate::model::plan::Health;
use crate::ports::http;

/// As every client library sends it.
const PING: &[u8] = b"*1\r\n$4\r\nPING\r\n";
/// A reply to PING is one short line; an error's text is cut here.
const MAX_REPLY_BYTES: usize = 512;

/// Asks the services themselves; holds nothing between two questions.
#[derive(Clone, Copy, Debug, Default)]
pub struct Probes;

#[async_trait]
impl Probe for Probes {
    async fn ask(&self, health: &Health, deadline: Duration) -> Result<(), ProbeFailure> {
        let asked = asked(health);
        let answer = match health {
            Health::Tcp(address) => tokio::time::timeout(deadline, connect(*address)).await.map(|r| r.map(drop)),
            Health::Http(url) => tokio::time::timeout(deadline, get(url, deadline)).await,
            Health::RedisPing(address) => tokio::time::timeout(deadline, redis_ping(*address)).await,
            Health::Exec(argv) => tokio::time::timeout(deadline, run(argv)).await,
        };
        match answer {
            Ok(Ok(())) => Ok(()),
            Ok(Err(answer)) => Err(ProbeFailure { asked, answer }),
            Err(_) => Err(ProbeFailure { asked, answer: format!("no answer within {deadline:?}") }),
        }
    }
}

/// The question, for a person. A command's arguments and a url's user and query may be secrets and are left out.
fn asked(health: &Health) -> String {
    match health {
        Health::Tcp(address) => format!("tcp {address}"),
        Health::RedisPing(address) => format!("redis PING {address}"),
        Health::Exec(argv) => format!("exec {}", argv.first().map_or("", String::as_str)),
        Health::Http(url) => match Url::parse(url) {
            Ok(url) => {
                let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
                format!("GET {}://{}{port}{}", url.scheme(), url.host_str().unwrap_or_default(), url.path())
            }
            Err(_) => "GET".into(),
        },
    }
}

async fn connect(address: SocketAddr) -> Result<TcpStream, String> {
    TcpStream::connect(address).await.map_err(|error| error.to_string())
}

/// A redirect is not 2xx: it says that the health is asked for elsewhere.
async fn get(url: &str, deadline: Duration) -> Result<(), String> {
    let url = http::address(url)?;
    let response = http::client(&url, deadline)?.get(url).send().await.map_err(http::failure)?;
    match response.status() {
        status if status.is_success() => Ok(()),
        status => Err(status.to_string()),
    }
}

async fn redis_ping(address: SocketAddr) -> Result<(), String> {
    let mut stream = connect(address).await?;
    let broken = |error: std::io::Error| error.to_string();
    stream.write_all(PING).await.map_err(broken)?;
    let mut reply = Vec::new();
    while !reply.ends_with(b"\r\n") && reply.len() < MAX_REPLY_BYTES {
        if stream.read_buf(&mut reply).await.map_err(broken)? == 0 {
            break;
        }
    }
    let line: String = String::from_utf8_lossy(&reply).lines().next().unwrap_or_default().chars().take(120).collect();
    match line.as_str() {
        "+PONG" if reply.ends_with(b"\r\n") => Ok(()),
        "" => Err("closed without a reply".into()),
        line if line.starts_with("-NOAUTH") => Err(format!(
            "{line}: it wants a password, which this probe has none of; use tcp, or exec with a command that logs in"
        )),
        line => Err(format!("expected +PONG, got {line:?}")),
    }
}

/// Kills the command's whole process group when it is given up on.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(pid) = self.0 {
            // Its leader has not been waited for yet, so the number is still its own.
            let _ = killpg(pid, Signal::SIGKILL);
        }
    }
}

/// The output is not kept: it may hold anything.
async fn run(argv: &[String]) -> Result<(), String> {
    let [program, arguments @ ..] = argv else {
        return Err("no command is given".into());
    };
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.process_group(0).kill_on_drop(true).env_clear();
    for name in ["PATH", "HOME", "LANG", "LC_ALL", "TZ"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    let mut child = command.spawn().map_err(|error| format!("cannot be started: {error}"))?;
    let mut group = Group(child.id().map(|pid| Pid::from_raw(pid as i32)));
    let status = child.wait().await.map_err(|error| error.to_string())?;
    group.0 = None;
    if status.success() { Ok(()) } else { Err(status.to_string()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    const DEADLINE: Duration = Duration::from_secs(5);

    /// Answers each connection with these bytes once it has read something.
    async fn answering(bytes: &'static [u8]) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.read(&mut [0; 1024]).await;
                let _ = stream.write_all(bytes).await;
            }
        });
        address
    }

    async fn ask(health: Health) -> Result<(), String> {
        Probes.ask(&health, DEADLINE).await.map_err(|failure| failure.to_string())
    }

    #[tokio::test]
    async fn redis_is_healthy_on_pong_and_nothing_else() {
        assert_eq!(ask(Health::RedisPing(answering(b"+PONG\r\n").await)).await, Ok(()));
        for (reply, says) in [
            (b"-NOAUTH Authentication required.\r\n".as_slice(), "wants a password"),
            (b"-LOADING Redis is loading the dataset in memory\r\n", "LOADING"),
            (b"+PONGO\r\n", "expected +PONG"),
            (b"+PONG", "expected +PONG"),
            (b"$4\r\nPONG\r\n", "expected +PONG"),
            (b"", "closed"),
        ] {
            let failure = ask(Health::RedisPing(answering(reply).await)).await.unwrap_err();
            assert!(failure.contains(says), "{failure}");
        }
    }

    #[tokio::test]
    async fn http_is_healthy_on_2xx_and_nothing_else() {
        for (answer, healthy) in [
            (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".as_slice(), true),
            (b"HTTP/1.1 204 No Content\r\n\r\n", true),
            (b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n", false),
            (b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n", false),
            (b"+PONG\r\n", false),
        ] {
            let address = answering(answer).await;
            let asked = ask(Health::Http(format!("http://user:hush@{address}/health?key=hush"))).await;
            assert_eq!(asked.is_ok(), healthy, "{asked:?}");
            if let Err(failure) = asked {
                assert!(failure.contains("/health") && !failure.contains("hush"), "{failure}");
            }
        }
    }

    #[tokio::test]
    async fn tcp_is_healthy_where_a_connection_is_accepted() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        assert_eq!(ask(Health::Tcp(address)).await, Ok(()));
        drop(listener);
        assert!(ask(Health::Tcp(address)).await.unwrap_err().contains("refused"));
    }

    #[tokio::test]
    async fn a_command_is_healthy_on_exit_0_and_its_arguments_are_not_shown() {
        let argv = |words: &[&str]| Health::Exec(words.iter().map(|word| word.to_string()).collect());
        assert_eq!(ask(argv(&["/bin/true"])).await, Ok(()));
        let failure = ask(argv(&["/bin/false", "--password=hush"])).await.unwrap_err();
        assert!(failure.contains("exit status: 1") && !failure.contains("hush"), "{failure}");
        assert!(ask(argv(&["/nowhere/check"])).await.unwrap_err().contains("cannot be started"));
        assert!(ask(Health::Exec(vec![])).await.is_err());
    }

    #[tokio::test]
    async fn at_the_deadline_the_command_and_what_it_started_are_killed() {
        let directory = tempfile::tempdir().unwrap();
        let pid_file = directory.path().join("pid");
        let script = directory.path().join("check");
        std::fs::write(&script, format!("sleep 600 &\necho $! > {}\nwait\n", pid_file.display())).unwrap();
        let health = Health::Exec(vec!["/bin/sh".into(), script.display().to_string()]);
        let failure = Probes.ask(&health, Duration::from_millis(500)).await.unwrap_err();
        assert!(failure.answer.contains("no answer within"), "{failure}");
        let pid: i32 = std::fs::read_to_string(pid_file).unwrap().trim().parse().unwrap();
        for _ in 0..100 {
            let state = procfs::process::Process::new(pid).and_then(|process| process.stat()).map(|stat| stat.state);
            if matches!(state, Err(_) | Ok('Z')) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("the command's child {pid} lives on");
    }

    #[tokio::test]
    async fn a_server_that_says_nothing_fails_at_the_deadline() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        for health in [Health::RedisPing(address), Health::Http(format!("http://{address}/"))] {
            let failure = Probes.ask(&health, Duration::from_millis(200)).await.unwrap_err();
            assert!(failure.answer.contains("within"), "{failure}");
        }
    }
}

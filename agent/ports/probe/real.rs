//! The probes: a TCP connection, an HTTP GET, a Redis PING, a command. Each asks once, over a connection of its own.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::process::Command;

use super::{Probe, ProbeFailure, asked, shown};
use crate::model::plan::{Health, HttpHealth};
use crate::ports::http::{self, Client, FailureKind};
use crate::ports::tls::{Contexts, TlsContext};

/// As every client library sends it.
const PING: &[u8] = b"*1\r\n$4\r\nPING\r\n";
/// A reply to PING is one short line; an error's text is cut here.
const MAX_REPLY_BYTES: usize = 512;

/// Asks the services themselves.
#[derive(Debug, Default)]
pub struct Probes {
    contexts: Contexts,
    /// Of those that were asked by HTTP.
    asked: Mutex<BTreeMap<HttpHealth, Arc<TlsContext>>>,
}

impl Probes {
    /// The TLS contexts of its connections are among these.
    pub fn with(contexts: Contexts) -> Self {
        Self { contexts, asked: Mutex::default() }
    }

    fn context(&self, health: &HttpHealth) -> Result<Arc<TlsContext>, String> {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(context) = asked.get(health) {
            return Ok(Arc::clone(context));
        }
        let made = self.contexts.of(&format!("health {}", shown(&health.url)), &health.tls)?;
        asked.insert(health.clone(), Arc::clone(&made));
        Ok(made)
    }

    /// A redirect is not 2xx: it says that the health is asked for elsewhere.
    async fn get(&self, health: &HttpHealth, deadline: Duration) -> Result<(), Answer> {
        let url = http::address(&health.url).map_err(Answer::None)?;
        let context = self.context(health).map_err(|why| Answer::None(format!("TLS: {why}")))?;
        let client = Client::new(&context.into(), deadline).map_err(Answer::None)?;
        let response = client.send(client.get(url)).await.map_err(|failure| match failure.kind {
            FailureKind::Distrusted | FailureKind::NoSuchName => Answer::None(failure.words),
            _ => Answer::Bad(failure.words),
        })?;
        match response.status() {
            status if status.is_success() => Ok(()),
            status => Err(Answer::Bad(status.to_string())),
        }
    }
}

/// What a question comes to that is not passed.
enum Answer {
    /// The service's own, or that it does not answer.
    Bad(String),
    /// None of the service's: the question could not be asked.
    None(String),
}

impl From<String> for Answer {
    fn from(answer: String) -> Self {
        Self::Bad(answer)
    }
}

#[async_trait]
impl Probe for Probes {
    async fn ask(&self, health: &Health, deadline: Duration) -> Result<(), ProbeFailure> {
        let asked = asked(health);
        let answer = match health {
            Health::Tcp(address) => by(deadline, async { Ok(knock(*address).await?) }).await,
            Health::Http(health) => by(deadline, self.get(health, deadline)).await,
            Health::RedisPing(address) => by(deadline, async { Ok(redis_ping(*address).await?) }).await,
            Health::Exec(argv) => by(deadline, run(argv)).await,
        };
        answer.map_err(|answer| match answer {
            Answer::Bad(answer) => ProbeFailure { asked, answer, is_an_answer: true },
            Answer::None(answer) => ProbeFailure { asked, answer, is_an_answer: false },
        })
    }
}

async fn by(deadline: Duration, asked: impl Future<Output = Result<(), Answer>>) -> Result<(), Answer> {
    let late = || Answer::Bad(format!("no answer within {deadline:?}"));
    tokio::time::timeout(deadline, asked).await.unwrap_or_else(|_| Err(late()))
}

async fn connect(address: SocketAddr) -> Result<TcpStream, String> {
    TcpStream::connect(address).await.map_err(|error| error.to_string())
}

/// Asks for a connection and is content that it would be given: where the server's SYN-ACK has come, a reset is sent in
/// place of the ACK, as balancers do. So the server's program never sees a connection, and cannot keep one that it forgets
/// to close. The kernel sends that ACK at once unless the connection is said to be interactive (`TCP_QUICKACK` off,
/// tcp(7); `tcp_rcv_synsent_state_process`); then it waits
/// up to 200 ms for data to go with it (`TCP_DELACK_MAX`).
async fn knock(address: SocketAddr) -> Result<(), String> {
    let words = |error: std::io::Error| error.to_string();
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.map_err(words)?;
    let off: libc::c_int = 0;
    // SAFETY: the option's value is an int of ours, and its size is told.
    let set = unsafe {
        let length = size_of_val(&off) as libc::socklen_t;
        libc::setsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_QUICKACK, (&raw const off).cast(), length)
    };
    Errno::result(set).map_err(|errno| errno.to_string())?;
    socket.set_zero_linger().map_err(words)?;
    socket.connect(address).await.map(drop).map_err(words)
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
async fn run(argv: &[String]) -> Result<(), Answer> {
    let [program, arguments @ ..] = argv else {
        return Err(Answer::None("no command is given".into()));
    };
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.process_group(0).kill_on_drop(true).env_clear();
    for name in ["PATH", "HOME", "LANG", "LC_ALL", "TZ"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    let mut child = command.spawn().map_err(|error| Answer::None(format!("cannot be started: {error}")))?;
    let mut group = Group(child.id().map(|pid| Pid::from_raw(pid as i32)));
    let status = child.wait().await.map_err(|error| error.to_string())?;
    group.0 = None;
    if status.success() { Ok(()) } else { Err(Answer::Bad(status.to_string())) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, SystemClock};
    use crate::model::Tls;
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

    fn http(url: String) -> Health {
        Health::Http(HttpHealth { url, tls: Tls::default() })
    }

    async fn ask(health: Health) -> Result<(), String> {
        Probes::default().ask(&health, DEADLINE).await.map_err(|failure| failure.to_string())
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
            let asked = ask(http(format!("http://user:hush@{address}/health?key=hush"))).await;
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
    async fn a_server_that_never_closes_is_left_with_nothing_of_our_tcp_probes() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = std::net::TcpListener::bind(address).unwrap();
            listener.set_nonblocking(true).unwrap();
            let address = listener.local_addr().unwrap();
            // The kernel waits no longer than that with its ACK: on a machine that stands still, a probe may be late.
            let mut late = 0;
            for _ in 0..64 {
                let asked = SystemClock.monotonic();
                assert_eq!(ask(Health::Tcp(address)).await, Ok(()));
                late += usize::from(SystemClock.monotonic() - asked > Duration::from_millis(100));
            }
            let kept = std::iter::from_fn(|| listener.accept().ok()).count();
            assert!(kept <= late && late < 64, "{kept} connections of 64 probes, {late} of them late");
        }
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
        let failure = Probes::default().ask(&health, Duration::from_millis(500)).await.unwrap_err();
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
        for health in [Health::RedisPing(address), http(format!("http://{address}/"))] {
            let failure = Probes::default().ask(&health, Duration::from_millis(200)).await.unwrap_err();
            assert!(failure.answer.contains("within"), "{failure}");
        }
    }
}

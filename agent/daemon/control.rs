//! The control socket: `act`, `approve`, `deny`, `resolve`, `status` and `explain` ask the running agent here.
//!
//! One JSON request a line, one JSON reply a line, over a unix socket in the state directory. The peer's uid is
//! checked: root, or the user that the agent runs as. Pause and resume do not come this way: a kill switch must work
//! on an agent that does not answer, so they are written to the store itself.

use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::UCred;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};

use crate::store::{Person, StateDir};
use crate::view::request::{Reply, Request, Signed};

/// Longest request that is read.
const REQUEST_BYTES: u64 = 16 * 1024;
/// For reading a request; a client that is slower is let go.
const READ_WITHIN: Duration = Duration::from_secs(5);
/// For an answer; `act` and `resolve` ask registries and restarters.
const ANSWER_WITHIN: Duration = Duration::from_secs(120);

/// A request, who asks and why, and where the answer goes.
#[derive(Debug)]
pub struct Incoming {
    pub request: Request,
    pub by: Person,
    pub reply: oneshot::Sender<Reply>,
}

/// The receiver of requests, and what keeps listening for as long as it lives.
pub type Listening = (mpsc::Receiver<Incoming>, Listener);

/// Listens until it is dropped.
#[derive(Debug)]
pub struct Listener(tokio::task::JoinHandle<()>);

impl Drop for Listener {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Listens in the state directory. The caller holds its lock, so a socket that lies there is a dead agent's.
pub fn listen(state: &Path) -> std::io::Result<Listening> {
    let path = StateDir::socket_of(state);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // The directory is 0700, so nobody else reaches the socket whatever its own mode is.
    let listener = UnixListener::bind(&path)?;
    let (sender, receiver) = mpsc::channel(8);
    let task = tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let sender = sender.clone();
                    tokio::spawn(async move {
                        if let Err(error) = serve(stream, sender).await {
                            tracing::debug!(%error, "a connection to the control socket ended early: {error}");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection on the control socket: {error}; retrying in 1s");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    });
    Ok((receiver, Listener(task)))
}

async fn serve(stream: UnixStream, sender: mpsc::Sender<Incoming>) -> std::io::Result<()> {
    let uid = stream.peer_cred()?.uid();
    let own = nix::unistd::geteuid().as_raw();
    let (reader, mut writer) = stream.into_split();
    // Read whoever asks: a client that is refused before it has written would see a broken pipe and no reason.
    let mut line = String::new();
    let mut limited = BufReader::new(reader.take(REQUEST_BYTES));
    match tokio::time::timeout(READ_WITHIN, limited.read_line(&mut line)).await {
        Err(_) => return Ok(()),
        Ok(read) => read?,
    };
    let reply = match serde_json::from_str(&line) {
        _ if uid != 0 && uid != own => Reply::refused(format!("uid {uid} may not control this agent")),
        Ok(signed) => ask_agent(signed, uid, sender).await,
        Err(error) => Reply::refused(format!("not a request: {error}")),
    };
    let mut text = serde_json::to_string(&reply).expect("a reply is plain data");
    text.push('\n');
    writer.write_all(text.as_bytes()).await
}

/// For a user's name, which a directory service on another host may have to tell.
const NAME_WITHIN: Duration = Duration::from_secs(1);

/// Who asks is what the kernel says of the peer. Root may say for whom: it could write the state itself.
async fn who(uid: u32, behind_sudo: Option<String>) -> String {
    match behind_sudo.filter(|user| uid == 0 && !user.is_empty()) {
        Some(user) => user,
        None => name_of(uid).await,
    }
}

async fn name_of(uid: u32) -> String {
    let named = tokio::task::spawn_blocking(move || nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(uid)));
    match tokio::time::timeout(NAME_WITHIN, named).await {
        Ok(Ok(Ok(Some(user)))) => user.name,
        _ => format!("uid {uid}"),
    }
}

async fn ask_agent(signed: Signed, uid: u32, sender: mpsc::Sender<Incoming>) -> Reply {
    let Signed { request, who: behind_sudo, why } = signed;
    let by = Person { who: who(uid, behind_sudo).await, why };
    let (reply, answered) = oneshot::channel();
    if sender.send(Incoming { request, by, reply }).await.is_err() {
        return Reply::refused("the agent is ending");
    }
    match tokio::time::timeout(ANSWER_WITHIN, answered).await {
        Ok(Ok(reply)) => reply,
        Ok(Err(_)) => Reply::refused("the agent is ending"),
        Err(_) => Reply::refused("the agent did not answer in time; what was asked may still be done"),
    }
}

/// Why the one that listens is not believed: the files that say where the state lies may be anybody's.
fn distrust(listener: &UCred, socket: &Path) -> Option<String> {
    let (uid, own) = (listener.uid(), nix::unistd::geteuid().as_raw());
    let pid = listener.pid().map(|pid| format!(" (pid {pid})")).unwrap_or_default();
    (uid != 0 && uid != own).then(|| {
        format!(
            "the process{pid} that listens on {} is of uid {uid}, neither root's nor of the user of this command, so \
             its answer is not believed",
            socket.display()
        )
    })
}

/// The client's side: `None` where no agent listens on this state directory.
pub async fn call(state: &Path, request: &Signed) -> std::io::Result<Option<Reply>> {
    let socket = StateDir::socket_of(state);
    let stream = match UnixStream::connect(&socket).await {
        Ok(stream) => stream,
        Err(error) => {
            use std::io::ErrorKind::{ConnectionRefused, NotFound};
            if matches!(error.kind(), NotFound | ConnectionRefused) {
                return Ok(None);
            }
            let said =
                format!("cannot read {}: {error}; run this command as the agent's user, mostly root", socket.display());
            return Err(std::io::Error::new(error.kind(), said));
        }
    };
    if let Some(why) = distrust(&stream.peer_cred()?, &socket) {
        return Err(std::io::Error::new(std::io::ErrorKind::PermissionDenied, why));
    }
    let (reader, mut writer) = stream.into_split();
    let mut text = serde_json::to_string(request).expect("a request is plain data");
    text.push('\n');
    writer.write_all(text.as_bytes()).await?;
    let mut line = String::new();
    tokio::time::timeout(ANSWER_WITHIN + READ_WITHIN, BufReader::new(reader).read_line(&mut line))
        .await
        .map_err(|_| std::io::Error::new(std::io::ErrorKind::TimedOut, "the agent did not answer in time"))??;
    if line.is_empty() {
        return Ok(None);
    }
    serde_json::from_str(&line).map(Some).map_err(std::io::Error::other)
}

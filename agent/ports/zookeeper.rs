//! ZooKeeper's own protocol, as far as the registry needs it: a session for one question, closed after it. This agent
//! least of all should hold idle connections, and nothing of its own is ephemeral.
//!
//! A request is a length, a number of our own, a kind and its fields; an answer a length, that number, a zxid, an error
//! and its fields; everything big-endian, texts with their length before them (`src/zookeeper.jute`, `ZooDefs.OpCode`
//! and `KeeperException.Code` of ZooKeeper's sources). Tried with ZooKeeper 3.8.0 and 3.9.5. SASL is not spoken.
//!
//! Each call ends by a deadline; no error shows a password.

mod word;

use std::sync::Arc;
use std::time::Duration;

use secrecy::ExposeSecret;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::User;
use super::api_error::ApiError;
use super::tls::{TlsContext, TlsFailure};
use crate::model::duration;

/// An answer longer than this is refused: some 20,000 names of 400 B.
const MAX_ANSWER_BYTES: usize = 8 << 20;
/// What a session that was cut off, and not closed, may cost the server.
const SESSION: Duration = Duration::from_secs(30);

mod kind {
    pub const CREATE: i32 = 1;
    pub const DELETE: i32 = 2;
    pub const GET_DATA: i32 = 4;
    pub const SET_DATA: i32 = 5;
    pub const GET_CHILDREN: i32 = 8;
    pub const SYNC: i32 = 9;
    pub const CHECK: i32 = 13;
    pub const MULTI: i32 = 14;
    pub const AUTH: i32 = 100;
    pub const CLOSE: i32 = -11;
}

/// The number that stands before an authentication, in place of one of our own.
const AUTH_XID: i32 = -4;

mod code {
    pub const NO_NODE: i32 = -101;
    pub const NO_AUTH: i32 = -102;
    pub const BAD_VERSION: i32 = -103;
    pub const NODE_EXISTS: i32 = -110;
    pub const AUTH_FAILED: i32 = -115;
}

/// `Perms.READ`, and all of them.
const READ: i32 = 1;
const ALL: i32 = 31;

/// The servers of an ensemble, and how they are reached.
#[derive(Clone, Debug)]
pub struct Ensemble {
    /// `HOST:PORT`, asked in this order until one answers.
    pub servers: Vec<String>,
    /// `None` for plain text.
    pub tls: Option<Arc<TlsContext>>,
}

/// In plain text.
impl From<Vec<String>> for Ensemble {
    fn from(servers: Vec<String>) -> Self {
        Self { servers, tls: None }
    }
}

pub(super) struct Api {
    ensemble: Ensemble,
    user: Option<User>,
    deadline: Duration,
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ZooKeeper").field("servers", &self.ensemble.servers).finish_non_exhaustive()
    }
}

/// One session with one server.
pub(super) struct Session {
    stream: Stream,
    xid: i32,
    deadline: Duration,
    /// What we create may be changed by us, and read by all.
    authenticated: bool,
}

/// What is spoken over.
struct Stream {
    bytes: Box<dyn Bytes>,
    tls: Option<Arc<TlsContext>>,
}

trait Bytes: AsyncRead + AsyncWrite + Send + Unpin {}

impl<B: AsyncRead + AsyncWrite + Send + Unpin> Bytes for B {}

impl Stream {
    async fn connect(server: &str, tls: Option<&Arc<TlsContext>>) -> Result<Self, ApiError> {
        let plain = TcpStream::connect(server).await.map_err(io)?;
        plain.set_nodelay(true).map_err(io)?;
        let Some(context) = tls else { return Ok(Self { bytes: Box::new(plain), tls: None }) };
        let host = server.rsplit_once(':').map_or(server, |(host, _)| host);
        let stream = context.connect(plain, host).await.map_err(of_tls)?;
        Ok(Self { bytes: Box::new(stream), tls: Some(Arc::clone(context)) })
    }

    async fn send(&mut self, fields: &[u8]) -> Result<(), ApiError> {
        let mut frame = (fields.len() as i32).to_be_bytes().to_vec();
        frame.extend(fields);
        let sent = async {
            self.bytes.write_all(&frame).await?;
            self.bytes.flush().await
        };
        sent.await.map_err(|error| self.broken(error))
    }

    async fn receive(&mut self) -> Result<Vec<u8>, ApiError> {
        let length = self.bytes.read_i32().await.map_err(|error| self.broken(error))?;
        let length =
            usize::try_from(length).ok().filter(|length| *length <= MAX_ANSWER_BYTES).ok_or_else(not_zookeepers)?;
        let mut answer = vec![0; length];
        self.bytes.read_exact(&mut answer).await.map_err(|error| self.broken(error))?;
        Ok(answer)
    }

    /// In TLS 1.3 a server refuses a client's certificate only now.
    fn broken(&self, error: std::io::Error) -> ApiError {
        self.tls.as_ref().and_then(|context| context.failed(&error)).map_or_else(|| io(error), of_tls)
    }
}

fn of_tls(failure: TlsFailure) -> ApiError {
    let words = format!("ZooKeeper: {}", failure.words);
    if failure.needs_a_person { ApiError::Distrusted(words) } else { ApiError::Unreachable(words) }
}

/// A node's data, and the version that a change of it must compare with.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Node {
    pub data: Vec<u8>,
    pub version: i32,
}

/// What a request came to, where ZooKeeper has it.
enum Outcome {
    Done(Vec<u8>),
    Not(i32),
}

impl Api {
    /// `deadline` is for each call, and for finding a server that answers.
    pub fn new(ensemble: impl Into<Ensemble>, user: Option<User>, deadline: Duration) -> Self {
        Self { ensemble: ensemble.into(), user, deadline }
    }

    pub async fn session(&self) -> Result<Session, ApiError> {
        let each = self.deadline / self.ensemble.servers.len().max(1) as u32;
        let mut failed = ApiError::Refused("no server is named".into());
        for server in &self.ensemble.servers {
            match within(each, self.connect(server)).await {
                Ok(session) => return Ok(session),
                Err(ApiError::Unreachable(why)) => failed = ApiError::Unreachable(format!("{server}: {why}")),
                Err(ApiError::Distrusted(why)) => failed = ApiError::Distrusted(format!("{server}: {why}")),
                Err(refused) => return Err(refused),
            }
        }
        Err(failed)
    }

    async fn connect(&self, server: &str) -> Result<Session, ApiError> {
        let mut stream = Stream::connect(server, self.ensemble.tls.as_ref()).await?;
        let mut hello = Fields::default();
        hello.int(0).long(0).int(SESSION.as_millis() as i32).long(0).bytes(&[0; 16]);
        hello.0.push(0);
        stream.send(&hello.0).await?;
        let answer = match stream.receive().await {
            Err(ApiError::Unreachable(why)) => return Err(self.no_session(server, why).await),
            answer => answer?,
        };
        let mut answer = Answer(&answer);
        answer.int()?;
        // A server that will not have us says so by a session without time.
        if answer.int()? <= 0 {
            return Err(ApiError::Unreachable("the server gave no session".into()));
        }
        let authenticated = self.user.is_some();
        let mut session = Session { stream, xid: 0, deadline: self.deadline, authenticated };
        if let Some(user) = &self.user {
            // Any name and password are taken here, and refused only by the nodes that ask for others.
            let mut fields = Fields::default();
            let digest = format!("{}:{}", user.name, user.password.read_again().expose_secret());
            fields.int(AUTH_XID).int(kind::AUTH).int(0).text("digest").bytes(digest.as_bytes());
            match session.exchange(AUTH_XID, fields).await? {
                Outcome::Done(_) => {}
                Outcome::Not(code) => return Err(told(code, "digest authentication")),
            }
        }
        Ok(session)
    }
}

impl Session {
    /// From here on, what is read is as new as this moment, and not as some follower remembers it.
    pub async fn sync(&mut self, path: &str) -> Result<(), ApiError> {
        let mut fields = Fields::default();
        fields.text(path);
        match self.call(kind::SYNC, fields).await? {
            Outcome::Done(_) => Ok(()),
            Outcome::Not(code) => Err(told(code, path)),
        }
    }

    /// The names below a node; `None` where there is no such node.
    pub async fn children(&mut self, path: &str) -> Result<Option<Vec<String>>, ApiError> {
        let mut fields = Fields::default();
        fields.text(path).0.push(0);
        match self.call(kind::GET_CHILDREN, fields).await? {
            Outcome::Done(answer) => {
                let mut answer = Answer(&answer);
                let count = answer.int()?;
                (0..count.max(0)).map(|_| answer.text()).collect::<Result<_, _>>().map(Some)
            }
            Outcome::Not(code::NO_NODE) => Ok(None),
            Outcome::Not(code) => Err(told(code, path)),
        }
    }

    pub async fn read(&mut self, path: &str) -> Result<Option<Node>, ApiError> {
        let mut fields = Fields::default();
        fields.text(path).0.push(0);
        match self.call(kind::GET_DATA, fields).await? {
            Outcome::Done(answer) => {
                let mut answer = Answer(&answer);
                let data = answer.bytes()?.to_vec();
                // Of the stat: two zxids and two times stand before the version.
                answer.take(4 * 8)?;
                Ok(Some(Node { data, version: answer.int()? }))
            }
            Outcome::Not(code::NO_NODE) => Ok(None),
            Outcome::Not(code) => Err(told(code, path)),
        }
    }

    /// A node that stays. False where one of that name is there already.
    pub async fn create(&mut self, path: &str, data: &[u8]) -> Result<bool, ApiError> {
        let mut fields = Fields::default();
        fields.text(path).bytes(data);
        if self.authenticated {
            fields.int(2).int(ALL).text("auth").text("").int(READ).text("world").text("anyone");
        } else {
            fields.int(1).int(ALL).text("world").text("anyone");
        }
        fields.int(0);
        match self.call(kind::CREATE, fields).await? {
            Outcome::Done(_) => Ok(true),
            Outcome::Not(code::NODE_EXISTS) => Ok(false),
            Outcome::Not(code) => Err(told(code, path)),
        }
    }

    /// As an application registers itself: the node goes when this session does.
    #[cfg(test)]
    pub async fn create_ephemeral(&mut self, path: &str) {
        let mut fields = Fields::default();
        fields.text(path).bytes(&[]).int(1).int(ALL).text("world").text("anyone").int(1);
        assert!(matches!(self.call(kind::CREATE, fields).await.unwrap(), Outcome::Done(_)), "{path}");
    }

    /// From now on the node is only for who names itself by this `name:base64(sha1(name:password))`.
    #[cfg(test)]
    pub async fn keep_for(&mut self, path: &str, digest: &str) {
        let mut fields = Fields::default();
        fields.text(path).int(1).int(ALL).text("digest").text(digest).int(-1);
        assert!(matches!(self.call(7, fields).await.unwrap(), Outcome::Done(_)), "{path}");
    }

    /// From now on everybody may read the node, and nobody may write it.
    #[cfg(test)]
    pub async fn keep_from_all(&mut self, path: &str) {
        let mut fields = Fields::default();
        fields.text(path).int(1).int(READ).text("world").text("anyone").int(-1);
        assert!(matches!(self.call(7, fields).await.unwrap(), Outcome::Done(_)), "{path}");
    }

    /// False where the node is gone, or was written since it had this version; -1 is any.
    pub async fn write(&mut self, path: &str, data: &[u8], version: i32) -> Result<bool, ApiError> {
        let mut fields = Fields::default();
        fields.text(path).bytes(data).int(version);
        match self.call(kind::SET_DATA, fields).await? {
            Outcome::Done(_) => Ok(true),
            Outcome::Not(code::NO_NODE | code::BAD_VERSION) => Ok(false),
            Outcome::Not(code) => Err(told(code, path)),
        }
    }

    /// Would a write of this node be taken? One transaction writes what stands there and then asks for the version that it
    /// had before: it never comes to pass, and nobody who watches the node is told. All the same our right to write is
    /// asked first (NoAuth), and the servers agree on its end as on any write's. False where the node is gone, or was
    /// written since it had this version.
    pub async fn would_write(&mut self, path: &str, data: &[u8], version: i32) -> Result<bool, ApiError> {
        let mut fields = Fields::default();
        fields.step(kind::SET_DATA).text(path).bytes(data).int(version);
        fields.step(kind::CHECK).text(path).int(version);
        fields.last_step();
        match self.call(kind::MULTI, fields).await? {
            Outcome::Done(answer) => {
                let mut of_the_write = Answer(&answer);
                // Which kind of answer it is, and whether it is the last.
                of_the_write.take(4 + 1)?;
                match of_the_write.int()? {
                    0 => Ok(true),
                    code::NO_NODE | code::BAD_VERSION => Ok(false),
                    code => Err(told(code, path)),
                }
            }
            Outcome::Not(code) => Err(told(code, path)),
        }
    }

    /// False where the node is gone, or was written since it had this version; -1 is any.
    pub async fn delete(&mut self, path: &str, version: i32) -> Result<bool, ApiError> {
        let mut fields = Fields::default();
        fields.text(path).int(version);
        match self.call(kind::DELETE, fields).await? {
            Outcome::Done(_) => Ok(true),
            Outcome::Not(code::NO_NODE | code::BAD_VERSION) => Ok(false),
            Outcome::Not(code) => Err(told(code, path)),
        }
    }

    /// The server forgets the session at once. Where it cannot be told, it forgets it by itself.
    pub async fn close(mut self) {
        let _ = self.call(kind::CLOSE, Fields::default()).await;
    }

    async fn call(&mut self, kind: i32, fields: Fields) -> Result<Outcome, ApiError> {
        self.xid += 1;
        let (xid, deadline) = (self.xid, self.deadline);
        let mut request = Fields::default();
        request.int(xid).int(kind).0.extend(fields.0);
        within(deadline, self.exchange(xid, request)).await
    }

    async fn exchange(&mut self, xid: i32, request: Fields) -> Result<Outcome, ApiError> {
        self.stream.send(&request.0).await?;
        let answer = self.stream.receive().await?;
        let mut fields = Answer(&answer);
        if fields.int()? != xid {
            return Err(not_zookeepers());
        }
        fields.take(8)?;
        match fields.int()? {
            0 => Ok(Outcome::Done(fields.0.to_vec())),
            code => Ok(Outcome::Not(code)),
        }
    }
}

async fn within<T>(deadline: Duration, asked: impl Future<Output = Result<T, ApiError>>) -> Result<T, ApiError> {
    match tokio::time::timeout(deadline, asked).await {
        Ok(answer) => answer,
        Err(_) => Err(ApiError::Unreachable(format!("ZooKeeper: no answer within {}", duration::format(deadline)))),
    }
}

fn io(error: std::io::Error) -> ApiError {
    ApiError::Unreachable(format!("ZooKeeper: {error}"))
}

fn not_zookeepers() -> ApiError {
    ApiError::Refused("the answer is not ZooKeeper's".into())
}

fn told(code: i32, what: &str) -> ApiError {
    let refused = |why: &str| ApiError::Refused(format!("ZooKeeper: {what}: {why}"));
    match code {
        code::NO_NODE => refused("no such node"),
        code::NO_AUTH => refused("not permitted (NoAuth); check the node's ACL, the user and the password"),
        code::AUTH_FAILED => refused("refused (AuthFailed)"),
        // Connection lost, timed out, session expired, moved, a server that only reads, throttled: it may pass.
        -4 | -7 | -112 | -118 | -119 | -127 => ApiError::Unreachable(format!("ZooKeeper: {what}: error {code}")),
        code => refused(&format!("error {code}")),
    }
}

#[derive(Default)]
struct Fields(Vec<u8>);

impl Fields {
    fn int(&mut self, value: i32) -> &mut Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    fn long(&mut self, value: i64) -> &mut Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    fn bytes(&mut self, value: &[u8]) -> &mut Self {
        self.int(value.len() as i32).0.extend(value);
        self
    }

    fn text(&mut self, value: &str) -> &mut Self {
        self.bytes(value.as_bytes())
    }

    /// Before each step of a transaction.
    fn step(&mut self, kind: i32) -> &mut Self {
        self.int(kind).0.push(0);
        self.int(-1)
    }

    fn last_step(&mut self) {
        self.int(-1).0.push(1);
        self.int(-1);
    }
}

/// What is left of an answer to read.
struct Answer<'a>(&'a [u8]);

impl<'a> Answer<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], ApiError> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or_else(not_zookeepers)?;
        self.0 = rest;
        Ok(taken)
    }

    fn int(&mut self) -> Result<i32, ApiError> {
        let bytes = self.take(4)?.try_into().map_err(|_| not_zookeepers())?;
        Ok(i32::from_be_bytes(bytes))
    }

    /// A length of -1 is nothing.
    fn bytes(&mut self) -> Result<&'a [u8], ApiError> {
        let length = self.int()?;
        self.take(usize::try_from(length).unwrap_or(0))
    }

    fn text(&mut self) -> Result<String, ApiError> {
        String::from_utf8(self.bytes()?.to_vec()).map_err(|_| not_zookeepers())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A length is never trusted: every answer that is cut short, or says too much, is refused.
    #[test]
    fn an_answer_that_is_cut_is_refused_and_never_read_past() {
        let mut fields = Fields::default();
        fields.int(2).text("override%3A%2F%2F").text("");
        for cut in 0..fields.0.len() {
            let mut answer = Answer(&fields.0[..cut]);
            let read = answer.int().and_then(|_| Ok((answer.text()?, answer.text()?)));
            assert!(matches!(read, Err(ApiError::Refused(_))), "{cut}");
        }
        let mut answer = Answer(&[0x7f, 0xff, 0xff, 0xff, 1]);
        assert!(answer.bytes().is_err());
        assert!(Answer(&[0xff; 4]).bytes().is_ok_and(<[u8]>::is_empty));
    }
}

//! Redis as the adapters here speak it, however it is run: one server, a master that sentinels name, or a Cluster. A question
//! is put to the server that holds its key, on a connection of its own that is closed after it: this agent least of all
//! should hold idle ones, and a kept connection would go on with a master that has been replaced.
//!
//! Nothing is ever read or written at a replica: each server is asked what it is before the question (`connect`), and a
//! Cluster's replica only says who its master is. What stands in place of an answer is sorted in one place (`words`): ask
//! there, ask again, it passes, a person's. Every question ends by a deadline; no error shows a password.
//!
//! A node of a Cluster that accepts and never answers costs a question one second, and the question goes to another node: it
//! has not been put yet. Where a node falls silent once it has been put, the question ends, since what came of it is not
//! known; the next one learns anew who has the slot.

mod cluster;
mod connect;
mod sentinel;
mod words;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, FromRedisValue};
use tokio::time::Instant;

use super::User;
use super::api_error::ApiError;
use super::tls::TlsContext;
use crate::model::{RedisAddress, RedisAt, RedisServers};
use cluster::Cluster;
use connect::{Door, Mode, Server};
use sentinel::Sentinels;
use words::{Miss, Next};

/// For one question, the connections to ask it on included. Redis stands on the local network.
const CALL_DEADLINE: Duration = Duration::from_secs(5);
/// For one node of a Cluster to say what it is, before another is asked.
const NODE_DEADLINE: Duration = Duration::from_secs(1);
/// Before a question is put again: slots that move, and sentinels that have just elected, need some tenths of a second.
const PAUSE: Duration = Duration::from_millis(100);
/// How long a replica may take to have a write: on a local network it is a millisecond.
const COPIED_WITHIN: Duration = Duration::from_secs(1);
/// Keys that one round of SCAN looks at: about a millisecond of the server's time.
const SCAN_COUNT: u32 = 1000;

/// How a Redis is reached, with what opens it.
#[derive(Debug)]
pub struct RedisAccess {
    pub servers: RedisServers,
    /// One without a name is Redis' `default`.
    pub user: Option<User>,
    /// `None`: in plain text.
    pub tls: Option<Arc<TlsContext>>,
    /// Sentinels have logins and certificates of their own.
    pub sentinel_user: Option<User>,
    pub sentinel_tls: Option<Arc<TlsContext>>,
}

impl RedisAccess {
    /// The one server at this URL ([`RedisServers::of_url`]).
    pub fn by_url(url: &str, user: Option<User>) -> Result<Self, String> {
        Ok(Self { user, ..Self::to(RedisServers::of_url(url)?) })
    }

    /// In plain text, and without a login.
    pub fn to(servers: RedisServers) -> Self {
        Self { servers, user: None, tls: None, sentinel_user: None, sentinel_tls: None }
    }
}

pub(super) struct Api {
    way: Way,
    door: Door,
}

/// To the server that holds a key.
enum Way {
    One(RedisAddress),
    Master(Arc<Sentinels>),
    Cluster(Cluster),
}

/// Where a question goes next.
enum Turn {
    /// As the way has it; so many nodes were asked in vain.
    Try(usize),
    /// Where the last answer sends it.
    There(RedisAddress),
    /// The same, for this one question.
    Asking(RedisAddress),
}

impl std::fmt::Debug for Api {
    /// The users hold passwords.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Redis").finish_non_exhaustive()
    }
}

impl Api {
    pub fn new(access: RedisAccess) -> Self {
        let RedisAccess { servers: RedisServers { at, database }, user, tls, sentinel_user, sentinel_tls } = access;
        let way = match at {
            RedisAt::One(address) => Way::One(address),
            RedisAt::Sentinels { sentinels, master } => {
                let door = Door { user: sentinel_user, database: 0, tls: sentinel_tls };
                Way::Master(Arc::new(Sentinels { sentinels, master, door }))
            }
            RedisAt::Cluster { nodes } => Way::Cluster(Cluster::of(nodes)),
        };
        Self { way, door: Door { user, database, tls } }
    }

    /// Do keys lie on several servers, so that one command has keys of one slot alone?
    pub fn is_cluster(&self) -> bool {
        matches!(self.way, Way::Cluster(_))
    }

    /// The name of a key of ours that belongs to `key`: one for all, and in a Cluster one in the slot of `key`.
    pub fn beside(&self, key: &str, ours: &str) -> String {
        match self.is_cluster() {
            false => ours.into(),
            true => format!("{ours}:{{{}}}", String::from_utf8_lossy(cluster::tag(key.as_bytes()))),
        }
    }

    /// Asks the master that holds `key`.
    pub async fn ask<T: FromRedisValue>(&self, key: &[u8], command: &Cmd) -> Result<T, ApiError> {
        self.put(Some(key), command, false).await
    }

    /// The same for a write that must outlive its master: where that has replicas, one of them has it as well.
    /// [`ApiError::Unreachable`] where none says so in time, although the master has it.
    pub async fn change<T: FromRedisValue>(&self, key: &[u8], command: &Cmd) -> Result<T, ApiError> {
        self.put(Some(key), command, true).await
    }

    /// What a server of them calls itself, with its version.
    pub async fn server(&self) -> Result<Option<String>, ApiError> {
        let info: String = self.put(None, redis::cmd("INFO").arg("server"), false).await?;
        Ok(connect::named(&info))
    }

    /// Every key that matches, at every master, looked at in small rounds; all of them or an error.
    pub async fn scan(&self, pattern: &[u8]) -> Result<Vec<Vec<u8>>, ApiError> {
        let masters = match &self.way {
            Way::Cluster(_) => {
                let slots = self.put(None, redis::cmd("CLUSTER").arg("SLOTS"), false).await?;
                cluster::masters(&slots).map_err(ApiError::Unreachable)?
            }
            Way::One(at) => vec![at.clone()],
            Way::Master(sentinels) => vec![self.in_time(sentinels.master()).await?],
        };
        let mut keys = Vec::new();
        for at in masters {
            keys.extend(self.in_time(self.scan_at(&at, pattern)).await?);
        }
        // A key may come twice while the server's table grows, or while its slot moves.
        keys.sort_unstable();
        keys.dedup();
        Ok(keys)
    }

    async fn scan_at(&self, at: &RedisAddress, pattern: &[u8]) -> Result<Vec<Vec<u8>>, Miss> {
        let (mut connection, server) = self.open(at).await?;
        server.is_master(at)?;
        let (mut keys, mut cursor) = (Vec::new(), 0u64);
        loop {
            let mut scan = redis::cmd("SCAN");
            scan.arg(cursor).arg("MATCH").arg(pattern).arg("COUNT").arg(SCAN_COUNT);
            let found: Vec<Vec<u8>>;
            (cursor, found) = scan.query_async(&mut connection).await.map_err(|error| words::of(&error, at))?;
            keys.extend(found);
            if cursor == 0 {
                return Ok(keys);
            }
        }
    }

    /// Until there is an answer, or no use in asking again, or no time.
    async fn put<T: FromRedisValue>(&self, key: Option<&[u8]>, command: &Cmd, copied: bool) -> Result<T, ApiError> {
        let until = Instant::now() + CALL_DEADLINE;
        let slot = key.map(cluster::slot);
        let (mut turn, mut vain, mut last) = (Turn::Try(0), 0, None);
        loop {
            let miss = match tokio::time::timeout_at(until, self.once(slot, &turn, command, copied)).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(miss)) => miss,
                Err(_) => Miss { next: Next::Passing, words: last.unwrap_or_else(|| self.no_answer()) },
            };
            let learns = matches!(miss.next, Next::There(_) | Next::Asking(_));
            if let (false, Way::Cluster(cluster)) = (learns, &self.way) {
                // Another node may know who has the slot by now.
                cluster.forget(slot);
            }
            turn = match (miss.next, &self.way) {
                (Next::There(to), Way::Cluster(cluster)) => {
                    cluster.learn(slot, &to);
                    Turn::There(to)
                }
                (Next::Asking(to), Way::Cluster(_)) => Turn::Asking(to),
                (Next::Distrusted, _) => return Err(ApiError::Distrusted(miss.words)),
                (Next::There(_) | Next::Asking(_), _) | (Next::Person | Next::Login, _) => {
                    return Err(ApiError::Refused(miss.words));
                }
                (Next::Again | Next::Unreached, Way::Cluster(_)) | (Next::Again, Way::Master(_)) => {
                    vain += 1;
                    Turn::Try(vain)
                }
                (Next::Again | Next::Unreached | Next::Passing, _) => return Err(ApiError::Unreachable(miss.words)),
            };
            last = Some(miss.words);
            if matches!(turn, Turn::Try(_)) {
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    async fn once<T: FromRedisValue>(
        &self,
        slot: Option<u16>,
        turn: &Turn,
        command: &Cmd,
        copied: bool,
    ) -> Result<T, Miss> {
        let at = match (turn, &self.way) {
            (Turn::There(at) | Turn::Asking(at), _) => at.clone(),
            (Turn::Try(_), Way::One(at)) => at.clone(),
            (Turn::Try(_), Way::Master(sentinels)) => sentinels.master().await?,
            (Turn::Try(vain), Way::Cluster(cluster)) => cluster.node_of(slot, *vain),
        };
        let (mut connection, server) = self.open(&at).await?;
        match &self.way {
            // A replica that is not told READONLY answers no question about a key: it names the master that holds the slot.
            Way::Cluster(_) => {}
            Way::One(_) | Way::Master(_) => server.is_master(&at)?,
        }
        let told = |error: redis::RedisError| words::of(&error, &at);
        if matches!(turn, Turn::Asking(_)) {
            redis::cmd("ASKING").query_async::<()>(&mut connection).await.map_err(told)?;
        }
        let answer = command.query_async(&mut connection).await.map_err(told)?;
        if copied && server.replicas > 0 {
            let mut wait = redis::cmd("WAIT");
            wait.arg(1).arg(COPIED_WITHIN.as_millis() as u64);
            if wait.query_async::<u32>(&mut connection).await.map_err(told)? == 0 {
                return Err(Miss::passing(&at, "the master accepted a write that none of its replicas has after 1 s"));
            }
        }
        Ok(answer)
    }

    /// A connection to a server that we mean, whatever it is master of.
    async fn open(&self, at: &RedisAddress) -> Result<(MultiplexedConnection, Server), Miss> {
        let patience = if self.is_cluster() { NODE_DEADLINE } else { CALL_DEADLINE };
        let silent = || Miss { next: Next::Unreached, words: self.silence(&format!("Redis at {at}"), patience) };
        let opened = tokio::time::timeout(patience, self.door.open(at)).await;
        let (connection, server) = opened.unwrap_or_else(|_| Err(silent()))?;
        self.fits(&server, at)?;
        Ok((connection, server))
    }

    /// Is it a server that we mean?
    fn fits(&self, server: &Server, at: &RedisAddress) -> Result<(), Miss> {
        let person = |words| Err(Miss::person(at, words));
        match (&server.mode, &self.way) {
            (Mode::Sentinel, _) => person("the server is a sentinel, not a Redis: name it by `sentinels` and `master`"),
            (Mode::Cluster, Way::One(_)) => {
                person("the server is a node of a Redis Cluster, with a part of the keys: name the nodes by `nodes`")
            }
            (Mode::Cluster, Way::Master(_)) => {
                person("the sentinels' master is a node of a Redis Cluster: name nodes by `nodes`")
            }
            (Mode::Standalone, Way::Cluster(_)) => person("the server is no node of a Redis Cluster: name it by `url`"),
            _ => Ok(()),
        }
    }

    fn no_answer(&self) -> String {
        let asked = match &self.way {
            Way::One(at) => format!("Redis at {at}"),
            Way::Master(sentinels) => format!("Redis, `{}` of the sentinels", sentinels.master),
            Way::Cluster(_) => "Redis Cluster".into(),
        };
        self.silence(&asked, CALL_DEADLINE)
    }

    /// Redis waits for the rest of what it does not understand.
    fn silence(&self, asked: &str, waited: Duration) -> String {
        let why = if self.door.tls.is_some() { " (as of a port that speaks no TLS)" } else { "" };
        format!("{asked}: no answer within {} s{why}", waited.as_secs())
    }

    async fn in_time<T>(&self, asked: impl Future<Output = Result<T, Miss>>) -> Result<T, ApiError> {
        match tokio::time::timeout(CALL_DEADLINE, asked).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(Miss { next: Next::Person | Next::Login, words })) => Err(ApiError::Refused(words)),
            Ok(Err(Miss { next: Next::Distrusted, words })) => Err(ApiError::Distrusted(words)),
            Ok(Err(Miss { words, .. })) => Err(ApiError::Unreachable(words)),
            Err(_) => Err(ApiError::Unreachable(self.no_answer())),
        }
    }
}

//! The fleet in Redis: the hash `unwait:slots`, a field for each service, and the hashes `unwait:breaches:<service>`, a
//! field for each host. A field holds `<revision> <text>`; a script of Redis' own compares the revision and writes, in
//! one go. The user needs `~unwait:* +hget +hgetall +eval +hset +hdel`.
//!
//! A connection is made for each call and closed after it: this agent least of all should hold idle ones.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use super::documents::{ABSENT, Documents, Key, Text, folder_path};
use super::shared::SharedFleet;
use super::{Fleet, FleetError, User};
use crate::clock::Clock;
use crate::ports::redis::{Api, ApiError};
use async_trait::async_trait;

/// `url` is `redis://HOST:PORT` or `redis://HOST:PORT/DB`; a user without a name is Redis' `default`. `host` is the
/// name that this host holds slots under.
pub fn redis(url: &str, user: Option<User>, host: &str, clock: Arc<dyn Clock>) -> Result<Arc<dyn Fleet>, FleetError> {
    let api = Api::new(url, user).map_err(FleetError::Refused)?;
    Ok(Arc::new(SharedFleet::new(Redis(api), host, clock)))
}

#[derive(Debug)]
struct Redis(Api);

/// KEYS: the hash. ARGV: the field, the revision that it must stand at, the revision of one that is new, the new text, or
/// none to remove the field.
const SWAP: &str = "
local now = redis.call('HGET', KEYS[1], ARGV[1])
local revision = '0'
if now then revision = string.match(now, '^(%d+) ') end
if revision ~= ARGV[2] then return 0 end
if ARGV[4] then
    local next = ARGV[3]
    if now then next = string.format('%d', revision + 1) end
    redis.call('HSET', KEYS[1], ARGV[1], next .. ' ' .. ARGV[4])
else
    redis.call('HDEL', KEYS[1], ARGV[1])
end
return 1
";

impl Redis {
    async fn ask<T: redis::FromRedisValue>(&self, command: &redis::Cmd) -> Result<T, FleetError> {
        self.0.ask(command).await.map_err(|error| match error {
            ApiError::Unreachable(detail) => FleetError::Unreachable(detail),
            ApiError::Refused(detail) => FleetError::Refused(detail),
        })
    }
}

fn hash(folder: &[&str]) -> String {
    folder_path(folder).replace('/', ":")
}

/// Of a field that is new: no revision comes twice, also where a field was removed meanwhile. Below 2^48, so that Lua's
/// numbers hold it, and what is added to it, exactly.
fn first_revision() -> u64 {
    1 + (RandomState::new().hash_one(()) >> 16)
}

/// `<revision> <text>`
fn parsed(folder: &[&str], name: &str, value: &[u8]) -> Result<Text, FleetError> {
    let space = value.iter().position(|byte| *byte == b' ');
    let revision = space.and_then(|at| std::str::from_utf8(&value[..at]).ok()?.parse().ok());
    match (space, revision) {
        (Some(at), Some(revision)) if revision != ABSENT => Ok(Text { text: value[at + 1..].to_vec(), revision }),
        _ => Err(FleetError::Refused(format!(
            "the field `{name}` of `{}` in Redis has no revision and is left as it is; look at it, and delete it where \
             no host works on the service",
            hash(folder)
        ))),
    }
}

#[async_trait]
impl Documents for Redis {
    async fn read(&self, key: Key<'_>) -> Result<Option<Text>, FleetError> {
        let value: Option<Vec<u8>> = self.ask(redis::cmd("HGET").arg(hash(key.folder)).arg(key.name)).await?;
        value.map(|value| parsed(key.folder, key.name, &value)).transpose()
    }

    async fn swap(&self, key: Key<'_>, revision: u64, text: Option<&[u8]>) -> Result<bool, FleetError> {
        let mut script = redis::cmd("EVAL");
        script.arg(SWAP).arg(1).arg(hash(key.folder)).arg(key.name).arg(revision.to_string()).arg(first_revision());
        if let Some(text) = text {
            script.arg(text);
        }
        self.ask(&script).await
    }

    async fn list(&self, folder: &[&str]) -> Result<Vec<(String, Text)>, FleetError> {
        let fields: Vec<(String, Vec<u8>)> = self.ask(redis::cmd("HGETALL").arg(hash(folder))).await?;
        fields.into_iter().map(|(name, value)| parsed(folder, &name, &value).map(|text| (name, text))).collect()
    }

    fn caveats(&self) -> &'static [&'static str] {
        &[
            "a failover to a replica may lose the last writes, and with them a slot: two hosts may then work at once",
            "a Redis that evicts keys without a time to live (maxmemory-policy allkeys-*) may forget slots",
        ]
    }
}

//! The fleet in Redis: the hash `unwait:slots`, a field for each service, and the hashes `unwait:breaches:<service>`, a
//! field for each host. A field holds `<revision> <text>`; a script of Redis' own compares the revision and writes, in
//! one go. The user needs `~unwait:* +hget +hgetall +eval +hset +hdel`.
//!
//! A connection is made for each call and closed after it: this agent least of all should hold idle ones.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::documents::{ABSENT, Documents, Key, Lineage, Text, folder_path};
use super::shared::{SLOTS, SharedFleet};
use super::{Fleet, FleetError};
use crate::clock::Clock;
use crate::model::RedisAt;
use crate::ports::redis::{Api, RedisAccess};

/// `host` is the name that this host holds slots under.
pub fn redis(access: RedisAccess, host: &str, clock: Arc<dyn Clock>) -> Arc<dyn Fleet> {
    let one_copy = matches!(access.servers.at, RedisAt::One(_));
    Arc::new(SharedFleet::new(Redis { api: Api::new(access), one_copy }, host, clock))
}

#[derive(Debug)]
struct Redis {
    api: Api,
    /// Nothing says that there is a replica.
    one_copy: bool,
}

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

/// KEYS: the hash, and what is noted of the line of masters. ARGV: the field. Answers the field, the line, and for how many
/// milliseconds it has been known, by the server's clock.
const LOOK: &str = "
local line = string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
if not line then return redis.error_reply('ERR INFO replication tells no master_replid: what is lost here cannot be seen') end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local since = tonumber(redis.call('HGET', KEYS[2], 'since'))
if redis.call('HGET', KEYS[2], 'line') ~= line or not since or since > now then
    redis.call('HSET', KEYS[2], 'line', line, 'since', string.format('%d', now))
    since = now
end
return { redis.call('HGET', KEYS[1], ARGV[1]), line, now - since }
";

/// KEYS: what is noted of the line of masters. A write that changes nothing of use: whoever has it, has all before it.
const CONFIRM: &str = "return redis.call('HINCRBY', KEYS[1], 'asked', 1)";

/// What is noted of the line of masters, beside the hash.
const LINE: &str = "unwait:line:{unwait:slots}";

impl Redis {
    /// Asks the server that holds the folder.
    async fn ask<T: redis::FromRedisValue>(&self, folder: &[&str], command: &redis::Cmd) -> Result<T, FleetError> {
        self.api.ask(hash(folder).as_bytes(), command).await.map_err(Into::into)
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
            "the field `{name}` of `{}` in Redis has no revision and is left unchanged; look at it, and delete it \
             where no host works on the service",
            hash(folder)
        ))),
    }
}

#[async_trait]
impl Documents for Redis {
    async fn read(&self, key: Key<'_>) -> Result<Option<Text>, FleetError> {
        let value: Option<Vec<u8>> =
            self.ask(key.folder, redis::cmd("HGET").arg(hash(key.folder)).arg(key.name)).await?;
        value.map(|value| parsed(key.folder, key.name, &value)).transpose()
    }

    fn may_forget(&self) -> bool {
        true
    }

    async fn look(&self, key: Key<'_>) -> Result<(Option<Text>, Option<Lineage>), FleetError> {
        if key.folder != SLOTS {
            return Ok((self.read(key).await?, None));
        }
        let mut script = redis::cmd("EVAL");
        script.arg(LOOK).arg(2).arg(hash(key.folder)).arg(LINE).arg(key.name);
        let (value, id, age): (Option<Vec<u8>>, String, u64) = self.ask(key.folder, &script).await?;
        let text = value.map(|value| parsed(key.folder, key.name, &value)).transpose()?;
        Ok((text, Some(Lineage { id, age: Duration::from_millis(age) })))
    }

    async fn confirm(&self, key: Key<'_>) -> Result<(), FleetError> {
        if key.folder != SLOTS {
            return Ok(());
        }
        let mut script = redis::cmd("EVAL");
        script.arg(CONFIRM).arg(1).arg(LINE);
        self.api.change::<u64>(LINE.as_bytes(), &script).await.map(drop).map_err(Into::into)
    }

    async fn swap(&self, key: Key<'_>, revision: u64, text: Option<&[u8]>) -> Result<bool, FleetError> {
        let mut script = redis::cmd("EVAL");
        script.arg(SWAP).arg(1).arg(hash(key.folder)).arg(key.name).arg(revision.to_string()).arg(first_revision());
        if let Some(text) = text {
            script.arg(text);
        }
        match key.folder == SLOTS {
            true => self.api.change(hash(key.folder).as_bytes(), &script).await.map_err(Into::into),
            false => self.ask(key.folder, &script).await,
        }
    }

    fn shown(&self, key: Key<'_>, revision: u64, text: &str) -> String {
        let (hash, field) = (hash(key.folder), key.name);
        format!(
            "EVAL (compare and swap) 1 {hash} {field} {revision}: sets the field to {text}, where its revision is {revision}"
        )
    }

    async fn list(&self, folder: &[&str]) -> Result<Vec<(String, Text)>, FleetError> {
        let fields: Vec<(String, Vec<u8>)> = self.ask(folder, redis::cmd("HGETALL").arg(hash(folder))).await?;
        fields.into_iter().map(|(name, value)| parsed(folder, &name, &value).map(|text| (name, text))).collect()
    }

    async fn server(&self) -> Result<Option<String>, FleetError> {
        Ok(self.api.server().await?)
    }

    fn caveats(&self) -> &'static [&'static str] {
        const FORGETS: &str = "after a failover or a restart of Redis no slot is given for 70 s, so that each host at \
                               work can write its slot again; a host that is down for longer loses its slot to another";
        const EVICTS: &str =
            "a Redis that evicts keys without a time to live (maxmemory-policy allkeys-*) may forget slots";
        const ONE_COPY: &str = "the slots are in a single Redis: when Redis loses its data, a host that is down loses \
                                its slot";
        match self.one_copy {
            true => &[FORGETS, ONE_COPY, EVICTS],
            false => &[FORGETS, EVICTS],
        }
    }
}

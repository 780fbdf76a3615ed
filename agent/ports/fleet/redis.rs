//! The fleet in Redis: the hash `unwait:slots`, a field for each service, and the hashes `unwait:breaches:<service>`, a
//! field for each host. A field holds `<revision> <text>`; a script of Redis' own compares the revision and writes, in
//! one go. The user needs `~unwait:* +hget +hgetall +eval +hset +hdel`.
//!
//! A connection is made for each call and closed after it: this agent least of all should hold idle ones.

use std::sync::Arc;

use async_trait::async_trait;
use redis::io::tcp::TcpSettings;
use redis::{AsyncConnectionConfig, ErrorKind, FromRedisValue, IntoConnectionInfo, RedisError, ServerErrorKind};
use secrecy::ExposeSecret;

use super::documents::{ABSENT, Documents, Key, Text, folder_path};
use super::shared::SharedFleet;
use super::{CALL_DEADLINE, Fleet, FleetError, User};
use crate::clock::Clock;

/// `url` is `redis://HOST:PORT` or `redis://HOST:PORT/DB`; a user without a name is Redis' `default`. `host` is the
/// name that this host holds slots under.
pub fn redis(url: &str, user: Option<User>, host: &str, clock: Arc<dyn Clock>) -> Result<Arc<dyn Fleet>, FleetError> {
    let unusable = |_| FleetError::Refused("the url cannot be used; expected redis://HOST:PORT or with /DB".into());
    let mut connection = url.into_connection_info().map_err(unusable)?;
    let mut settings = connection.redis_settings().clone();
    if let Some(user) = user {
        settings = settings.set_password(user.password.expose_secret());
        if !user.name.is_empty() {
            settings = settings.set_username(user.name);
        }
    }
    // A call is a few small packets; none of them waits for another.
    connection = connection.set_redis_settings(settings).set_tcp_settings(TcpSettings::default().set_nodelay(true));
    let client = redis::Client::open(connection).map_err(unusable)?;
    Ok(Arc::new(SharedFleet::new(Redis(client), host, clock)))
}

struct Redis(redis::Client);

impl std::fmt::Debug for Redis {
    /// The client holds the password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Redis").finish_non_exhaustive()
    }
}

/// KEYS: the hash. ARGV: the field, the revision that it must stand at, the new text, or none to remove the field.
const SWAP: &str = "
local now = redis.call('HGET', KEYS[1], ARGV[1])
local revision = '0'
if now then revision = string.match(now, '^(%d+) ') end
if revision ~= ARGV[2] then return 0 end
if ARGV[3] then
    redis.call('HSET', KEYS[1], ARGV[1], string.format('%d %s', revision + 1, ARGV[3]))
else
    redis.call('HDEL', KEYS[1], ARGV[1])
end
return 1
";

impl Redis {
    async fn ask<T: FromRedisValue>(&self, command: &redis::Cmd) -> Result<T, FleetError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CALL_DEADLINE))
            .set_response_timeout(Some(CALL_DEADLINE));
        let asked = async {
            let mut connection = self.0.get_multiplexed_async_connection_with_config(&config).await?;
            command.query_async(&mut connection).await
        };
        match tokio::time::timeout(CALL_DEADLINE, asked).await {
            Ok(answer) => answer.map_err(told),
            Err(_) => Err(FleetError::Unreachable("Redis: no answer within the deadline".into())),
        }
    }
}

fn hash(folder: &[&str]) -> String {
    folder_path(folder).replace('/', ":")
}

/// What Redis says of itself may pass; what it says of us needs a person.
fn told(error: RedisError) -> FleetError {
    let words = match error.detail() {
        Some(detail) => format!("{}: {detail}", error.code().unwrap_or_else(|| error.category())),
        None => error.to_string(),
    };
    let passing = match error.kind() {
        ErrorKind::Io | ErrorKind::ClusterConnectionNotFound => true,
        ErrorKind::Server(kind) => matches!(
            kind,
            ServerErrorKind::BusyLoading
                | ServerErrorKind::ClusterDown
                | ServerErrorKind::MasterDown
                | ServerErrorKind::ReadOnly
                | ServerErrorKind::TryAgain
        ),
        _ => false,
    };
    let detail = format!("Redis: {words}");
    if passing { FleetError::Unreachable(detail) } else { FleetError::Refused(detail) }
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
        script.arg(SWAP).arg(1).arg(hash(key.folder)).arg(key.name).arg(revision.to_string());
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

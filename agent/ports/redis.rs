//! Redis as the adapters here speak it. A connection is made for each question and closed after it: this agent least of
//! all should hold idle ones. Every question ends by a deadline; no error shows an address or a password.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionInfo, ErrorKind, FromRedisValue, IntoConnectionInfo, RedisError,
    ServerErrorKind,
};
use secrecy::{ExposeSecret, SecretString};

use super::User;

/// For one question, the connection to ask it on included. Redis stands on the local network.
const CALL_DEADLINE: Duration = Duration::from_secs(5);
/// Keys that one round of SCAN looks at: about a millisecond of the server's time.
const SCAN_COUNT: u32 = 1000;

/// What Redis says of itself may pass; what it says of us needs a person.
#[derive(Debug)]
pub(super) enum ApiError {
    Unreachable(String),
    Refused(String),
}

pub(super) struct Api {
    server: ConnectionInfo,
    user: Option<User>,
}

impl std::fmt::Debug for Api {
    /// The user holds the password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Redis").finish_non_exhaustive()
    }
}

impl Api {
    /// `url` is `redis://HOST:PORT` or `redis://HOST:PORT/DB`; a user without a name is Redis' `default`.
    pub fn new(url: &str, user: Option<User>) -> Result<Self, String> {
        let unusable = |_| "the url cannot be used; expected redis://HOST:PORT or with /DB".to_owned();
        let server = url.into_connection_info().map_err(unusable)?;
        // A call is a few small packets; none of them waits for another.
        let server = server.set_tcp_settings(TcpSettings::default().set_nodelay(true));
        Client::open(server.clone()).map_err(unusable)?;
        Ok(Self { server, user })
    }

    /// A password that Redis refuses is read again from its file ([`super::Secret`]).
    async fn connect(&self) -> Result<MultiplexedConnection, RedisError> {
        let Some(user) = &self.user else { return self.connect_as(None).await };
        let connect = |password: SecretString| async move { self.connect_as(Some((&user.name, &password))).await };
        user.password.with(connect, is_refused).await
    }

    async fn connect_as(&self, user: Option<(&str, &SecretString)>) -> Result<MultiplexedConnection, RedisError> {
        let mut server = self.server.clone();
        if let Some((name, password)) = user {
            let mut settings = server.redis_settings().clone().set_password(password.expose_secret());
            if !name.is_empty() {
                settings = settings.set_username(name);
            }
            server = server.set_redis_settings(settings);
        }
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CALL_DEADLINE))
            .set_response_timeout(Some(CALL_DEADLINE));
        Client::open(server)?.get_multiplexed_async_connection_with_config(&config).await
    }

    pub async fn ask<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, ApiError> {
        by_the_deadline(async { command.query_async(&mut self.connect().await?).await }).await
    }

    /// Every key that matches, looked at in small rounds; all of them or an error.
    pub async fn scan(&self, pattern: &[u8]) -> Result<Vec<Vec<u8>>, ApiError> {
        by_the_deadline(async {
            let mut connection = self.connect().await?;
            let mut keys = Vec::new();
            let mut cursor = 0u64;
            loop {
                let mut scan = redis::cmd("SCAN");
                scan.arg(cursor).arg("MATCH").arg(pattern).arg("COUNT").arg(SCAN_COUNT);
                let found: Vec<Vec<u8>>;
                (cursor, found) = scan.query_async(&mut connection).await?;
                keys.extend(found);
                if cursor == 0 {
                    // A key may come twice while the server's table grows.
                    keys.sort_unstable();
                    keys.dedup();
                    return Ok(keys);
                }
            }
        })
        .await
    }
}

async fn by_the_deadline<T>(asked: impl Future<Output = Result<T, RedisError>>) -> Result<T, ApiError> {
    match tokio::time::timeout(CALL_DEADLINE, asked).await {
        Ok(answer) => answer.map_err(told),
        Err(_) => Err(ApiError::Unreachable("Redis: no answer within the deadline".into())),
    }
}

/// Name or password are not taken.
fn is_refused(error: &RedisError) -> bool {
    error.kind() == ErrorKind::AuthenticationFailed
}

fn told(error: RedisError) -> ApiError {
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
    if passing { ApiError::Unreachable(detail) } else { ApiError::Refused(detail) }
}

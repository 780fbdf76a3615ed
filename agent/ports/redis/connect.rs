//! One connection: made for one question, logged in, and asked what server it is at the other end.

use std::error::Error;
use std::io;
use std::sync::Arc;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, RedisConnectionInfo, RedisError};
use secrecy::{ExposeSecret, SecretString};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use super::words::{self, Miss, Next};
use super::{TlsContext, User};
use crate::model::RedisAddress;

/// What opens a server.
pub(super) struct Door {
    pub user: Option<User>,
    pub database: u32,
    pub tls: Option<Arc<TlsContext>>,
}

/// What a server says of itself.
#[derive(Debug, PartialEq)]
pub(super) struct Server {
    pub mode: Mode,
    /// `HOST:PORT` of its master, where it is a replica.
    pub replica_of: Option<String>,
    /// Its own replicas that are connected now.
    pub replicas: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Standalone,
    Cluster,
    Sentinel,
}

/// Bytes both ways, whatever carries them.
trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Wire for T {}

impl Door {
    /// A connection that is logged in, and what the server is. A password that Redis refuses is read again from its file
    /// ([`super::super::Secret`]).
    pub async fn open(&self, at: &RedisAddress) -> Result<(MultiplexedConnection, Server), Miss> {
        let Some(user) = &self.user else { return self.open_as(at, None).await };
        let open = |password: SecretString| async move { self.open_as(at, Some((&user.name, &password))).await };
        user.password.with(open, |miss: &Miss| miss.next == Next::Login).await
    }

    async fn open_as(
        &self,
        at: &RedisAddress,
        user: Option<(&str, &SecretString)>,
    ) -> Result<(MultiplexedConnection, Server), Miss> {
        let mut settings = RedisConnectionInfo::default().set_skip_set_lib_name().set_db(self.database.into());
        if let Some((name, password)) = user {
            settings = settings.set_password(password.expose_secret());
            if !name.is_empty() {
                settings = settings.set_username(name);
            }
        }
        // Who asks has one deadline for all of it.
        let config = AsyncConnectionConfig::new().set_response_timeout(None);
        let wire = self.dial(at).await?;
        let told = |error: RedisError| match self.tls.as_ref().and_then(|tls| tls.failed(carried(&error))) {
            // In TLS 1.3 a server refuses a client after the client believes itself connected.
            Some(failure) => Miss::tls(at, failure),
            None => words::of_greeting(&error, at),
        };
        let (mut connection, carried) =
            MultiplexedConnection::new_with_config(&settings, wire, config).await.map_err(told)?;
        // Ends with the connection.
        tokio::spawn(carried);
        let mut info =
            async |section| redis::cmd("INFO").arg(section).query_async::<String>(&mut connection).await.map_err(told);
        let server = Server::read(&info("server").await?, &info("replication").await?);
        Ok((connection, server))
    }

    /// The one place where a stream is made.
    async fn dial(&self, at: &RedisAddress) -> Result<Box<dyn Wire>, Miss> {
        let unreached = |error: io::Error| Miss::unreached(at, &error);
        Ok(match at {
            RedisAddress::Tcp { host, port } => {
                let stream = TcpStream::connect((host.as_str(), *port)).await.map_err(unreached)?;
                // A call is a few small packets; none of them waits for another.
                stream.set_nodelay(true).map_err(unreached)?;
                match &self.tls {
                    None => Box::new(stream),
                    Some(tls) => Box::new(tls.connect(stream, host).await.map_err(|failure| Miss::tls(at, failure))?),
                }
            }
            RedisAddress::Unix(path) => Box::new(UnixStream::connect(path).await.map_err(unreached)?),
        })
    }
}

/// The library keeps what it carries in an `Arc`, which hides it from those who ask for causes.
fn carried(error: &RedisError) -> &(dyn Error + 'static) {
    match error.source().and_then(|cause| cause.downcast_ref::<Arc<dyn Error + Send + Sync>>()) {
        Some(cause) => cause.as_ref(),
        None => error,
    }
}

impl Server {
    pub fn is_master(&self, at: &RedisAddress) -> Result<(), Miss> {
        match &self.replica_of {
            None => Ok(()),
            Some(master) => Err(Miss::replica(at, master)),
        }
    }

    /// By two sections of INFO. A sentinel has the first alone. Valkey calls the mode `server_mode`.
    fn read(server: &str, replication: &str) -> Self {
        let mode = match field(server, "redis_mode").or_else(|| field(server, "server_mode")) {
            Some("cluster") => Mode::Cluster,
            Some("sentinel") => Mode::Sentinel,
            _ => Mode::Standalone,
        };
        let master = || {
            let of = |name| field(replication, name).unwrap_or("?");
            format!("{}:{}", of("master_host"), of("master_port"))
        };
        Self {
            mode,
            replica_of: field(replication, "role").filter(|role| *role != "master").map(|_| master()),
            replicas: field(replication, "connected_slaves").and_then(|count| count.parse().ok()).unwrap_or(0),
        }
    }
}

/// By INFO's section `server`. Valkey's `redis_version` is that of the Redis which it stands in for.
pub(super) fn named(server: &str) -> Option<String> {
    match field(server, "valkey_version") {
        Some(version) => Some(format!("Valkey {version}")),
        None => field(server, "redis_version").map(|version| format!("Redis {version}")),
    }
}

fn field<'a>(section: &'a str, name: &str) -> Option<&'a str> {
    section.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_says_what_it_is() {
        let (redis, valkey) = ("# Server\r\nredis_version:7.0.15\r\nredis_mode:", "server_name:valkey\r\nserver_mode:");
        for (server, replication, mode, replica_of, replicas) in [
            (redis, "role:master\r\nconnected_slaves:2\r\n", "standalone", None, 2),
            (valkey, "role:master\r\nconnected_slaves:0\r\n", "cluster", None, 0),
            (redis, "role:slave\r\nmaster_host:10.0.0.1\r\nmaster_port:7000\r\n", "cluster", Some("10.0.0.1:7000"), 0),
            (redis, "", "sentinel", None, 0),
            (valkey, "", "sentinel", None, 0),
        ] {
            let found = Server::read(&format!("{server}{mode}\r\nother:1\r\n"), replication);
            let mode = match mode {
                "cluster" => Mode::Cluster,
                "sentinel" => Mode::Sentinel,
                _ => Mode::Standalone,
            };
            assert_eq!(found, Server { mode, replica_of: replica_of.map(Into::into), replicas });
        }
        assert_eq!(named(redis).as_deref(), Some("Redis 7.0.15"));
        let both = "redis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:9.1.2\r\n";
        assert_eq!(named(both).as_deref(), Some("Valkey 9.1.2"));
        assert_eq!(named("-NOPERM"), None);
    }
}

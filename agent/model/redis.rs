//! How a Redis is found, as the host's file says it.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A Redis, and which of its databases.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RedisServers {
    pub at: RedisAt,
    /// In a Cluster it is 0.
    pub database: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RedisAt {
    /// This one server, which must be a master.
    One(RedisAddress),
    /// The master of this name, by the word of more than half of these sentinels.
    Sentinels { sentinels: Vec<RedisAddress>, master: String },
    /// A Redis Cluster, by some of its nodes.
    Cluster { nodes: Vec<RedisAddress> },
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum RedisAddress {
    Tcp { host: String, port: u16 },
    Unix(PathBuf),
}

const PORT: u16 = 6379;

impl RedisServers {
    /// `redis://HOST:PORT` (`rediss://` where TLS is spoken), or with `/DB` behind it; `unix:///PATH`. The error says what was expected.
    pub fn of_url(url: &str) -> Result<Self, String> {
        if let Some(path) = url.strip_prefix("unix://") {
            if !path.starts_with('/') || path.contains(['?', '#', '\0']) {
                return Err("expected the full path of a socket, as in unix:///run/redis/redis.sock".into());
            }
            return Ok(Self { at: RedisAt::One(RedisAddress::Unix(path.into())), database: 0 });
        }
        let Some(rest) = url.strip_prefix("redis://").or_else(|| url.strip_prefix("rediss://")) else {
            return Err("expected redis://HOST:PORT, rediss://HOST:PORT or unix:///PATH".into());
        };
        let (address, database) = rest.split_once('/').unwrap_or((rest, ""));
        let database = match database {
            "" => 0,
            number => {
                number.parse().map_err(|_| "the url's path is no database number: expected redis://HOST:PORT/0")?
            }
        };
        let has_port = address.rsplit_once(':').is_some_and(|(host, _)| !host.contains(':') || host.ends_with(']'));
        let address = match has_port {
            true => RedisAddress::parse(address),
            false => RedisAddress::parse(&format!("{address}:{PORT}")),
        };
        Ok(Self { at: RedisAt::One(address.ok_or("expected redis://HOST:PORT")?), database })
    }
}

impl RedisAddress {
    /// `HOST:PORT`; an IPv6 address stands in brackets.
    pub fn parse(text: &str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        let bare = match host.strip_prefix('[') {
            Some(host) => host.strip_suffix(']')?,
            None if host.contains(':') => return None,
            None => host,
        };
        let fits = !bare.is_empty() && !bare.contains(['/', '@', ' ']);
        Some(Self::Tcp { host: bare.into(), port: port.parse().ok()? }).filter(|_| fits)
    }
}

impl fmt::Display for RedisAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_a_server_and_a_database() {
        for (url, shown) in [
            ("redis://10.0.0.1:7000", Some(("10.0.0.1:7000", 0))),
            ("redis://redis.internal", Some(("redis.internal:6379", 0))),
            ("redis://10.0.0.1:7000/3", Some(("10.0.0.1:7000", 3))),
            ("rediss://10.0.0.1:7000/3", Some(("10.0.0.1:7000", 3))),
            ("redis://[::1]:7000/", Some(("[::1]:7000", 0))),
            ("redis://[::1]", Some(("[::1]:6379", 0))),
            ("unix:///run/redis/redis.sock", Some(("/run/redis/redis.sock", 0))),
            ("redis://10.0.0.1:7000/orders", None),
            ("redis://::1:7000", None),
            ("redis://", None),
            ("redis://10.0.0.1:70000", None),
            ("unix://run/redis.sock", None),
            ("http://10.0.0.1:7000", None),
        ] {
            let found = RedisServers::of_url(url).map(|servers| match servers.at {
                RedisAt::One(address) => (address.to_string(), servers.database),
                other => panic!("{other:?}"),
            });
            match shown {
                Some((address, database)) => assert_eq!(found, Ok((address.into(), database)), "{url}"),
                None => assert!(found.is_err(), "{url}: {found:?}"),
            }
        }
    }
}

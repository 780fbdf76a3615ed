//! What comes in place of an answer: whether to ask there, ask again, wait, or call a person; and the words for it. Pure.

use std::io;

use redis::{ErrorKind, RedisError};

use crate::model::RedisAddress;
use crate::ports::said;
use crate::ports::tls::TlsFailure;

/// No answer, and what next.
#[derive(Debug)]
pub(super) struct Miss {
    pub next: Next,
    pub words: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// The key lies there.
    There(RedisAddress),
    /// The key lies there already, while its slot moves: only this question goes there.
    Asking(RedisAddress),
    /// It is over within moments, and nothing was done.
    Again,
    /// The question was not put.
    Unreached,
    /// May pass by itself; what came of the question is not known.
    Passing,
    /// One side does not believe the other's certificate.
    Distrusted,
    /// Name or password are not taken.
    Login,
    /// A person must look.
    Person,
}

impl Miss {
    fn new(next: Next, at: &RedisAddress, words: &str) -> Self {
        Self { next, words: format!("Redis at {at}: {words}") }
    }

    pub fn person(at: &RedisAddress, words: &str) -> Self {
        Self::new(Next::Person, at, words)
    }

    pub fn passing(at: &RedisAddress, words: &str) -> Self {
        Self::new(Next::Passing, at, words)
    }

    pub fn unreached(at: &RedisAddress, error: &io::Error) -> Self {
        Self::new(Next::Unreached, at, &format!("no connection: {error}"))
    }

    pub fn tls(at: &RedisAddress, failure: TlsFailure) -> Self {
        Self::new(if failure.needs_a_person { Next::Distrusted } else { Next::Unreached }, at, &failure.words)
    }

    /// It was a master a moment ago, or will be in a moment, where others named it.
    pub fn replica(at: &RedisAddress, master: &str) -> Self {
        let words = format!(
            "the server is a replica of {master}, and only a master is used: name the master, or the sentinels that \
             know it (`sentinels` and `master`)"
        );
        Self::new(Next::Again, at, &words)
    }
}

/// Of the first words with a server.
pub(super) fn of_greeting(error: &RedisError, at: &RedisAddress) -> Miss {
    let miss = of(error, at);
    if error.is_connection_dropped() {
        let words =
            "the server closed the connection at the first command: a port with TLS does so when TLS is not configured";
        return Miss::new(Next::Unreached, at, words);
    }
    if error.code() == Some("NOPERM") && shown(error).contains("'info'") {
        return Miss::person(
            at,
            &format!("{} (unwait reads the role of each server: the user needs `+info`)", shown(error)),
        );
    }
    // A connection that was not opened, or a server that is not ready: nothing was asked yet.
    Miss { next: if miss.next == Next::Passing { Next::Unreached } else { miss.next }, ..miss }
}

/// Of a question's answer.
pub(super) fn of(error: &RedisError, at: &RedisAddress) -> Miss {
    let shown = shown(error);
    match (error.code(), error.kind()) {
        (Some("MOVED"), _) => match redirected(error, at) {
            Some(to) => {
                Miss::new(Next::There(to), at, &format!("{shown}: a node of a Redis Cluster: name nodes by `nodes`"))
            }
            None => Miss::person(at, &shown),
        },
        (Some("ASK"), _) => match redirected(error, at) {
            Some(to) => Miss::new(Next::Asking(to), at, &shown),
            None => Miss::person(at, &shown),
        },
        (Some("TRYAGAIN"), _) => Miss::new(Next::Again, at, &format!("{shown} (the slot of the keys is moving)")),
        (Some("CLUSTERDOWN"), _) => {
            Miss::new(Next::Again, at, &format!("{shown} (some slots have no master; the Cluster is electing one)"))
        }
        (Some("READONLY"), _) => Miss::new(Next::Again, at, &format!("{shown} (the server has become a replica)")),
        (Some("NOREPLICAS"), _) => Miss::passing(
            at,
            &format!("{shown} The master accepts no writes with fewer replicas than min-replicas-to-write."),
        ),
        (Some("MISCONF" | "OOM"), _) => Miss::passing(at, &format!("the server accepts no writes now: {shown}")),
        (Some("LOADING" | "BUSY" | "MASTERDOWN"), _) => Miss::passing(at, &shown),
        (Some("NOAUTH" | "WRONGPASS"), _) | (_, ErrorKind::AuthenticationFailed) => Miss::new(Next::Login, at, &shown),
        (_, ErrorKind::Io) => Miss::passing(at, &shown),
        (_, ErrorKind::Parse) => Miss::person(at, &format!("the server there does not speak Redis' protocol: {shown}")),
        _ => Miss::person(at, &shown),
    }
}

/// The server's own words, in one line.
fn shown(error: &RedisError) -> String {
    let words = match error.detail() {
        Some(detail) => format!("{}: {detail}", error.code().unwrap_or_else(|| error.category())),
        None => error.to_string(),
    };
    said::first_line(&words, [])
}

/// `3999 127.0.0.1:6381`; without a host it is the one that was asked.
fn redirected(error: &RedisError, asked: &RedisAddress) -> Option<RedisAddress> {
    let (_, address) = error.detail()?.split_once(' ')?;
    let (host, port) = address.trim().rsplit_once(':')?;
    let host = match (host, asked) {
        ("", RedisAddress::Tcp { host, .. }) => host,
        ("", RedisAddress::Unix(_)) => return None,
        (host, _) => host.trim_start_matches('[').trim_end_matches(']'),
    };
    Some(RedisAddress::Tcp { host: host.into(), port: port.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(line: &'static str) -> RedisError {
        match redis::parse_redis_value(format!("-{line}\r\n").as_bytes()) {
            Ok(redis::Value::ServerError(error)) => error.into(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_stands_in_place_of_an_answer_says_what_next() {
        let at = RedisAddress::parse("10.0.0.1:7000").unwrap();
        let there = |text| RedisAddress::parse(text).unwrap();
        for (line, next) in [
            ("MOVED 3999 10.0.0.2:7001", Next::There(there("10.0.0.2:7001"))),
            ("MOVED 3999 :7001", Next::There(there("10.0.0.1:7001"))),
            ("MOVED 3999 fd00::2:7001", Next::There(there("[fd00::2]:7001"))),
            ("MOVED 3999 ?", Next::Person),
            ("ASK 3999 10.0.0.2:7001", Next::Asking(there("10.0.0.2:7001"))),
            ("TRYAGAIN Multiple keys request during rehashing of slot", Next::Again),
            ("CLUSTERDOWN The cluster is down", Next::Again),
            ("READONLY You can't write against a read only replica.", Next::Again),
            ("NOREPLICAS Not enough good replicas to write.", Next::Passing),
            ("MISCONF Redis is configured to save RDB snapshots", Next::Passing),
            ("OOM command not allowed when used memory > 'maxmemory'.", Next::Passing),
            ("LOADING Redis is loading the dataset in memory", Next::Passing),
            ("MASTERDOWN Link with MASTER is down", Next::Passing),
            ("BUSY Redis is busy running a script.", Next::Passing),
            ("NOAUTH Authentication required.", Next::Login),
            ("WRONGPASS invalid username-password pair or user is disabled.", Next::Login),
            ("NOPERM this user has no permissions to run the 'hget' command", Next::Person),
            ("CROSSSLOT Keys in request don't hash to the same slot", Next::Person),
            ("ERR unknown command 'EVAL'", Next::Person),
            ("DENIED Redis is running in protected mode", Next::Person),
        ] {
            let found = of(&error(line), &at);
            assert_eq!(found.next, next, "{line}");
            let (code, _) = line.split_once(' ').unwrap();
            assert!(found.words.contains("10.0.0.1:7000") && found.words.contains(code), "{found:?}");
        }
    }
}

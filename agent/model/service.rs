//! A service: a named workload on this host.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// `rpc-order.service`, `container:NAME`, `program:NAME` or `process:NAME`. A clone is a count: names go with every socket.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ServiceName(Arc<str>);

/// The kind of workload of a service's name, which decides the restarter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::Display)]
pub enum ServiceKind {
    #[strum(to_string = "systemd unit")]
    Unit,
    #[strum(to_string = "container")]
    Container,
    #[strum(to_string = "supervisord program")]
    Program,
    #[strum(to_string = "process")]
    Process,
}

impl ServiceName {
    /// Refuses what is none of the four forms, and characters that no unit or container name has
    /// (so that a name is safe in a path, a registry marker and a log line).
    pub fn parse(text: &str) -> Result<Self, String> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || ":-_.\\@".contains(c);
        if text.is_empty() || text.len() > 256 || !text.chars().all(allowed) {
            return Err(format!("`{text}` is no service name: letters, digits and : - _ . \\ @ only"));
        }
        match text.split_once(':') {
            None if text.ends_with(".service") && text.len() > ".service".len() => Ok(Self(text.into())),
            None => Err(format!(
                "`{text}` is no service: expected NAME.service, container:NAME, program:NAME or process:NAME"
            )),
            Some(("container" | "program" | "process", name)) if !name.is_empty() => Ok(Self(text.into())),
            // A template instance may carry an escaped colon, but a unit always ends in .service.
            Some(_) if text.ends_with(".service") => Ok(Self(text.into())),
            Some((kind, _)) => Err(format!("`{kind}:` is no kind of service: expected container, program or process")),
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name without its kind: the program's, the container's, the process'; a unit's whole.
    pub fn bare(&self) -> &str {
        match self.kind() {
            ServiceKind::Unit => &self.0,
            _ => self.0.split_once(':').map_or(&self.0, |(_, bare)| bare),
        }
    }

    /// A template: all instances of it that a socket with `Accept=yes` has made, one a connection.
    pub fn is_template(&self) -> bool {
        self.0.ends_with("@.service")
    }

    pub fn kind(&self) -> ServiceKind {
        match self.0.split_once(':') {
            _ if self.0.ends_with(".service") => ServiceKind::Unit,
            Some(("container", _)) => ServiceKind::Container,
            Some(("program", _)) => ServiceKind::Program,
            _ => ServiceKind::Process,
        }
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One lifetime of a service's main process: systemd's InvocationID, a container's start, or `PID@starttime`.
/// Two equal incarnations are the same lifetime; the text means nothing else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Incarnation(pub String);

/// Of the kernel's start times: 100 on every architecture that this program is built for.
const TICKS_PER_SECOND: u64 = 100;

impl Incarnation {
    /// As a person reads it: a process by its pid and its start, where that is what it is made of.
    pub fn says(&self) -> String {
        let process = self.0.rsplit('/').next().and_then(|process| process.split_once('@'));
        match process.map(|(pid, began)| (pid.parse::<u32>(), began.parse::<u64>())) {
            Some((Ok(pid), Ok(began))) => format!("pid {pid}, started {}s after boot", began / TICKS_PER_SECOND),
            _ => self.0.clone(),
        }
    }
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A worker of a pre-forking service: a process that descends from its main one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Worker {
    pub pid: u32,
    /// Start of the process in clock ticks since boot: pid and start together are unique.
    pub began: u64,
    pub parent: u32,
    /// Leaked sockets among its descriptors.
    pub holds: usize,
    /// True where this saga or an earlier one asked the worker to end, and it lives: mostly such a worker accepts no
    /// new requests.
    pub asked: bool,
}

impl Worker {
    /// True for the same process, whatever sockets it holds by now.
    pub fn is(&self, other: &Self) -> bool {
        (self.pid, self.began) == (other.pid, other.began)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_four_forms_are_read_and_nothing_else() {
        for (text, kind) in [
            ("rpc-order.service", ServiceKind::Unit),
            ("getty@tty1.service", ServiceKind::Unit),
            ("container:redis_1", ServiceKind::Container),
            ("program:worker", ServiceKind::Program),
            ("process:legacy-gate", ServiceKind::Process),
        ] {
            assert_eq!(ServiceName::parse(text).unwrap().kind(), kind, "{text}");
        }
        for wrong in ["", "rpc-order", ".service", "pod:x", "process:", "a/b.service", "x y.service"] {
            assert!(ServiceName::parse(wrong).is_err(), "{wrong:?} was read");
        }
    }

    #[test]
    fn a_process_is_said_by_its_pid_and_start_and_another_lifetime_as_it_is() {
        for (incarnation, says) in [
            ("812@91422", "pid 812, started 914s after boot"),
            ("1764524000/812@91422", "pid 812, started 914s after boot"),
            ("3f9a01@2026-11-22T18:43:29Z", "3f9a01@2026-11-22T18:43:29Z"),
            ("6e1f", "6e1f"),
        ] {
            assert_eq!(Incarnation(incarnation.into()).says(), says);
        }
    }
}

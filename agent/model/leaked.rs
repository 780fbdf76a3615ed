//! Leaked sockets by their identity: what an incident is about, and what became of it.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::socket::NetNs;

/// One socket, by what the kernel never gives to two at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SocketId {
    pub namespace: NetNs,
    /// As in [`Socket::cookie`](super::Socket::cookie); 0 where the source does not tell it.
    pub cookie: u64,
    /// Of sockfs; 0 while the connection waits in the accept queue.
    pub inode: u64,
}

/// The sockets that were leaked just before the step past which there is no way back. Journaled with that step's intent:
/// some 16 bytes a socket.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub struct Leaked {
    /// The boot in which they were seen ([`Clock::boot`](crate::clock::Clock::boot)): none outlives it.
    pub boot: String,
    /// Each had been in CLOSE_WAIT for at least so long.
    pub at_least: Duration,
    pub sockets: Vec<SocketId>,
}

/// The sockets of a namespace in one text, `COOKIE:INODE` each, in hexadecimal.
#[derive(Serialize, Deserialize)]
struct Written {
    boot: String,
    #[serde(with = "super::duration::as_text")]
    at_least: Duration,
    sockets: BTreeMap<u64, String>,
}

impl From<Leaked> for Written {
    fn from(leaked: Leaked) -> Self {
        let mut sockets: BTreeMap<u64, Vec<String>> = BTreeMap::new();
        for SocketId { namespace, cookie, inode } in leaked.sockets {
            sockets.entry(namespace.0).or_default().push(format!("{cookie:x}:{inode:x}"));
        }
        let sockets = sockets.into_iter().map(|(namespace, sockets)| (namespace, sockets.join(" "))).collect();
        Self { boot: leaked.boot, at_least: leaked.at_least, sockets }
    }
}

impl TryFrom<Written> for Leaked {
    type Error = String;

    fn try_from(Written { boot, at_least, sockets: written }: Written) -> Result<Self, String> {
        let number = |digits: &str| u64::from_str_radix(digits, 16).ok();
        let mut sockets = Vec::new();
        for (namespace, text) in written {
            for pair in text.split_ascii_whitespace() {
                let read = pair.split_once(':').and_then(|(cookie, inode)| number(cookie).zip(number(inode)));
                let (cookie, inode) = read.ok_or_else(|| format!("`{pair}` is no COOKIE:INODE in hexadecimal"))?;
                sockets.push(SocketId { namespace: NetNs(namespace), cookie, inode });
            }
        }
        Ok(Self { boot, at_least, sockets })
    }
}

/// The leaked sockets that remain. A socket remains while a table lists it in CLOSE_WAIT, or any process holds a
/// descriptor of the socket: SOCK_DESTROY and TCP keepalive end the first alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remaining {
    pub of: usize,
    pub left: usize,
    /// The holders of the sockets that remain, most sockets first. A socket with several holders counts for each.
    pub holders: Vec<Holder>,
    /// Sockets that remain, and that no readable process holds.
    pub unheld: usize,
    /// Processes that could not be looked into. What one of them holds is listed by a table nevertheless, until keepalive or
    /// SOCK_DESTROY ends that.
    pub hidden: usize,
    /// Why not all could be looked for; then none that was not found counts as gone.
    pub unseen: Option<String>,
}

/// A process that holds leaked sockets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    pub pid: u32,
    /// The kernel's name of the process (`comm`).
    pub comm: String,
    /// The path of its cgroup in the v2 tree, else in the systemd hierarchy.
    pub cgroup: String,
    pub sockets: usize,
    /// True where the process belongs to the service itself.
    pub own: bool,
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // A process may call itself anything, over several lines too.
        let Self { pid, comm, cgroup, sockets, .. } = self;
        write!(f, "{sockets} held by pid {pid} ({}, {cgroup})", comm.escape_debug())
    }
}

/// Why a restart of the unit does not free what these hold, and what does; `None` where nothing is known that would.
pub fn why_they_stay(unit: &str, holders: &[Holder]) -> Option<String> {
    if let Some(systemd) = holders.iter().find(|holder| holder.pid == 1) {
        return Some(format!(
            "systemd keeps {} descriptors of {unit} over a restart (fd store): `systemctl stop {unit}`, then `systemctl \
             start {unit}`, frees them; with FileDescriptorStorePreserve=yes, `systemctl clean --what=fdstore {unit}` \
             between the two",
            systemd.sockets
        ));
    }
    match holders {
        [] => None,
        _ if holders.iter().all(|holder| holder.own) => {
            Some("the service's own processes hold them: these were not ended, or were handed them again".into())
        }
        _ => Some("they are freed once these processes close them or end".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fifty_thousand_sockets_are_journaled_in_less_than_a_megabyte_and_read_back() {
        let id =
            |n: u64| SocketId { namespace: NetNs(4_026_531_840 + n % 2), cookie: 9_000_000 + n, inode: 80_000_000 + n };
        let mut leaked =
            Leaked { boot: "b".into(), at_least: Duration::from_secs(300), sockets: (0..50_000).map(id).collect() };
        let text = serde_json::to_string(&leaked).unwrap();
        assert!(text.len() < 1 << 20, "{}", text.len());
        leaked.sockets.sort_unstable();
        assert_eq!(serde_json::from_str::<Leaked>(&text).unwrap(), leaked);
    }
}

#![doc = include_str!("README.md")]

mod gate;
mod namespaces;
mod netlink;
mod proc_table;
#[cfg(test)]
mod tests;
mod wire;

use std::collections::BTreeMap;

use crate::clock::Clock;
use crate::model::socket::Quality;
use crate::model::{Listener, Snapshot, Socket, TableRow};

use netlink::{Diag, DumpError};
use wire::{ALL_STATES, CLOSE_WAIT, ESTABLISHED, Entry, LISTEN, Request, Walk};

const TRIES_WHEN_INTERRUPTED: usize = 3;

/// What a snapshot holds besides the sockets in CLOSE_WAIT and the listeners.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ask {
    /// Count established sockets by cgroup: a second walk, about 0.5 µs for each of them.
    pub established: bool,
}

/// Why the kernel could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    /// This dump failed; the next one may succeed.
    #[error("the kernel's TCP table could not be read: {detail}; this measurement is left out")]
    Dump { detail: String },
    /// Neither netlink nor /proc gives the table.
    #[error(
        "no source gives the TCP table: {netlink}; /proc/net/tcp: {proc}; allow AF_NETLINK sockets \
         (RestrictAddressFamilies=, seccomp), or mount /proc"
    )]
    NoSource { netlink: String, proc: String },
}

/// Where a table comes from; the order of trying.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    OneWalk,
    ByFamily,
    Proc,
}

impl Source {
    const ORDER: &'static [Self] = &[Self::OneWalk, Self::ByFamily, Self::Proc];

    fn name(self) -> &'static str {
        match self {
            Self::OneWalk | Self::ByFamily => "sock_diag",
            Self::Proc => "procfs",
        }
    }
}

/// Asks the kernel. One is enough for a process; it is cheap to keep and holds one descriptor.
#[derive(Debug)]
pub struct Collector {
    diag: Diag,
    sources: &'static [Source],
    /// How many sockets in CLOSE_WAIT the last snapshot had: what the next one makes room for.
    last_count: usize,
}

impl Collector {
    /// Opens the netlink socket by a first, cheap dump (listeners alone, some 40 µs), so that a host where no
    /// source works is told so at start.
    pub fn new() -> Result<Self, CollectError> {
        let mut collector = Self { diag: Diag::new(), sources: Source::ORDER, last_count: 0 };
        let mut listeners = Leaks { close_wait: Vec::new(), listeners: Vec::new() };
        collector.read(1 << LISTEN, false, &mut listeners)?;
        Ok(collector)
    }

    /// What the kernel says now.
    ///
    /// Established sockets are counted by a dump of their own, a moment later: asking for `tcp_info` takes each
    /// socket's lock, which is nothing to do to connections at work. The count is `None` where the kernel tells no
    /// cgroups.
    pub fn snapshot(&mut self, clock: &dyn Clock, ask: Ask) -> Result<Snapshot, CollectError> {
        let (at, monotonic) = (clock.now(), clock.monotonic());
        let mut leaks = Leaks { close_wait: Vec::with_capacity(self.last_count), listeners: Vec::new() };
        let (source, mut quality) = self.read(1 << CLOSE_WAIT | 1 << LISTEN, true, &mut leaks)?;
        let mut established = None;
        if ask.established {
            let mut counts = ByCgroup::default();
            let (_, of_counts) = self.read(1 << ESTABLISHED, false, &mut counts)?;
            established = (!counts.some_untold).then_some(counts.counts);
            if quality == Quality::Complete {
                quality = of_counts;
            }
        }
        self.last_count = leaks.close_wait.len();
        let took = clock.monotonic().saturating_sub(monotonic);
        let Leaks { close_wait, listeners } = leaks;
        Ok(Snapshot { at, monotonic, took, close_wait, listeners, established, quality, source: source.name() })
    }

    /// The whole TCP table, of all states: `ss -tan` as values, for the evidence. An interrupted walk is given as
    /// it is, since a picture of a moving table is still evidence.
    pub fn table(&mut self) -> Result<Vec<TableRow>, CollectError> {
        let mut rows = Vec::new();
        self.read(ALL_STATES, false, &mut rows)?;
        Ok(rows)
    }

    /// Reads the sockets in `states` from the first source that does not refuse, again where the dump was
    /// interrupted.
    fn read(&mut self, states: u32, info: bool, into: &mut impl Gather) -> Result<(Source, Quality), CollectError> {
        let mut refused = String::from("not asked");
        for &source in self.sources {
            for attempt in 1..=TRIES_WHEN_INTERRUPTED {
                into.begin();
                let interrupted = match source {
                    Source::OneWalk => self.dump(&[Walk::Both], states, info, into),
                    Source::ByFamily => self.dump(&[Walk::V4, Walk::V6], states, info, into),
                    Source::Proc => {
                        let wanted = |entry: &Entry| states & 1 << entry.state != 0;
                        proc_table::walk("/proc/net".as_ref())
                            .map(|rows| rows.filter(wanted).for_each(|entry| into.take(entry)))
                            .map_err(|error| CollectError::NoSource {
                                netlink: refused.clone(),
                                proc: error.to_string(),
                            })?;
                        Ok(false)
                    }
                };
                match interrupted {
                    Ok(false) => return Ok((source, Quality::Complete)),
                    Ok(true) if attempt < TRIES_WHEN_INTERRUPTED => {}
                    Ok(true) => {
                        let why = format!("the dump was interrupted {TRIES_WHEN_INTERRUPTED} times");
                        return Ok((source, Quality::Partial { why }));
                    }
                    Err(error) if error.is_refusal() => {
                        refused = error.to_string();
                        break;
                    }
                    Err(error) => return Err(CollectError::Dump { detail: error.to_string() }),
                }
            }
        }
        Err(CollectError::NoSource { netlink: refused, proc: "not asked".into() })
    }

    /// Runs the walks one after the other; interrupted if one of them was.
    fn dump(&mut self, walks: &[Walk], states: u32, info: bool, into: &mut impl Gather) -> Result<bool, DumpError> {
        let mut interrupted = false;
        for &walk in walks {
            interrupted |= self.diag.dump(Request { walk, states, info }, |entry| into.take(entry))?;
        }
        Ok(interrupted)
    }
}

/// What a walk's sockets are gathered into.
trait Gather {
    /// Before each attempt: forgets what a broken one left.
    fn begin(&mut self);
    fn take(&mut self, entry: Entry);
}

/// The sockets in CLOSE_WAIT and the listeners.
struct Leaks {
    close_wait: Vec<Socket>,
    listeners: Vec<Listener>,
}

impl Gather for Leaks {
    fn begin(&mut self) {
        self.close_wait.clear();
        self.listeners.clear();
    }

    fn take(&mut self, entry: Entry) {
        match entry.state {
            CLOSE_WAIT => self.close_wait.push(close_wait(entry)),
            LISTEN => self.listeners.push(listener(entry)),
            // It left CLOSE_WAIT between the kernel's filter and its answer.
            _ => {}
        }
    }
}

/// Sockets counted by their cgroup.
#[derive(Default)]
struct ByCgroup {
    counts: BTreeMap<u64, u64>,
    /// The kernel did not tell every socket's cgroup.
    some_untold: bool,
}

impl Gather for ByCgroup {
    fn begin(&mut self) {
        *self = Self::default();
    }

    fn take(&mut self, entry: Entry) {
        match entry.cgroup_id {
            Some(id) => *self.counts.entry(id).or_default() += 1,
            None => self.some_untold = true,
        }
    }
}

impl Gather for Vec<TableRow> {
    fn begin(&mut self) {
        self.clear();
    }

    fn take(&mut self, entry: Entry) {
        self.push(row(entry));
    }
}

fn close_wait(entry: Entry) -> Socket {
    Socket {
        cookie: entry.identity.cookie(),
        local: entry.identity.local(),
        remote: entry.identity.remote(),
        inode: entry.inode.into(),
        uid: entry.uid,
        cgroup_id: entry.cgroup_id,
        recv_q: entry.recv_q,
        send_q: entry.send_q,
        last_ack_received: entry.last_ack_received,
        last_data_sent: entry.last_data_sent,
    }
}

fn listener(entry: Entry) -> Listener {
    Listener { local: entry.identity.local(), inode: entry.inode.into(), cgroup_id: entry.cgroup_id }
}

fn row(entry: Entry) -> TableRow {
    TableRow {
        state: wire::state_name(entry.state),
        recv_q: entry.recv_q,
        send_q: entry.send_q,
        local: entry.identity.local(),
        remote: entry.identity.remote(),
        inode: entry.inode.into(),
        cookie: entry.identity.cookie(),
        cgroup_id: entry.cgroup_id,
    }
}

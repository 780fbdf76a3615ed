//! The TCP table of one network namespace, by whichever way the kernel (or a sandbox) allows.
//!
//! Three ways, in this order: one walk for both families, one walk a family, the tables of /proc. The next one is
//! tried only where the one before is *refused*; every other failure is a failure of this dump, and never a low count.
//! Called by the collector.

use std::path::Path;

use super::CollectError;
use super::gather::{Gather, Leaks};
use super::ledger::Heard;
use super::namespaces::Namespace;
use super::netlink::{Diag, DumpError};
use super::proc_table;
use super::wire::{Entry, LISTEN, Request, Walk};
use crate::model::socket::Quality;

const TRIES_WHEN_INTERRUPTED: usize = 3;

/// Where a table comes from; the order of trying.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Source {
    OneWalk,
    ByFamily,
    Proc,
}

impl Source {
    pub const ORDER: &'static [Self] = &[Self::OneWalk, Self::ByFamily, Self::Proc];

    pub fn name(self) -> &'static str {
        match self {
            Self::OneWalk | Self::ByFamily => "sock_diag",
            Self::Proc => "procfs",
        }
    }
}

/// The part of the table that a read wants.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    /// A mask of `1 << state`.
    pub states: u32,
    /// `tcp_info` as well.
    pub info: bool,
}

/// One namespace's table.
#[derive(Debug)]
pub(super) struct Reader {
    diag: Diag,
    /// The namespace of the table; `None`: the agent's own.
    of: Option<Namespace>,
    pub sources: &'static [Source],
    /// As a kernel without mptcp_diag does.
    #[cfg(test)]
    pub refuses_mptcp: bool,
}

impl Reader {
    /// A reader of the agent's own namespace. The first read opens the netlink socket, which is kept.
    pub fn of_our_own() -> Self {
        Self::new(Diag::new(), None, Source::ORDER)
    }

    /// A reader of another namespace, from inside: keeps the namespace alive until it is dropped.
    pub fn inside(namespace: &Namespace, diag: Diag) -> Self {
        Self::new(diag, Some(namespace.clone()), Source::ORDER)
    }

    /// A reader of a namespace that may not be entered: by its tables in /proc alone.
    pub fn outside(namespace: &Namespace) -> Self {
        Self::new(Diag::new(), Some(namespace.clone()), &[Source::Proc])
    }

    fn new(diag: Diag, of: Option<Namespace>, sources: &'static [Source]) -> Self {
        Self {
            diag,
            of,
            sources,
            #[cfg(test)]
            refuses_mptcp: false,
        }
    }

    /// Reads the sockets in the wanted states from the first source that does not refuse, again where the dump was
    /// interrupted.
    pub fn read(&mut self, wanted: Wanted, into: &mut impl Gather) -> Result<(Source, Quality), CollectError> {
        let mut refused = String::from("not asked");
        for &source in self.sources {
            match self.read_from(source, wanted, into) {
                Ok(quality) => return Ok((source, quality)),
                Err(Failure::Refused(error)) => refused = error.to_string(),
                Err(Failure::Dump(error)) => return Err(CollectError::Dump { detail: error.to_string() }),
                Err(Failure::Proc(proc)) => return Err(CollectError::NoSource { netlink: refused, proc }),
            }
        }
        Err(CollectError::NoSource { netlink: refused, proc: "not asked".into() })
    }

    fn read_from(&mut self, source: Source, wanted: Wanted, into: &mut impl Gather) -> Result<Quality, Failure> {
        for _ in 0..TRIES_WHEN_INTERRUPTED {
            into.begin();
            let interrupted = match source {
                Source::OneWalk => self.dump(&[Walk::Both], wanted, into)?,
                Source::ByFamily => self.dump(&[Walk::V4, Walk::V6], wanted, into)?,
                Source::Proc => {
                    // The listeners first, as the kernel's own walk gives them.
                    let mut rows = self.rows(wanted.states).map_err(Failure::Proc)?;
                    rows.sort_by_key(|entry| entry.state != LISTEN);
                    rows.iter().for_each(|entry| into.take(entry));
                    false
                }
            };
            if !interrupted {
                return Ok(Quality::Complete);
            }
        }
        Ok(Quality::Partial { why: format!("the dump was interrupted {TRIES_WHEN_INTERRUPTED} times") })
    }

    fn rows(&self, states: u32) -> Result<Vec<Entry>, String> {
        let read = |net: &Path| -> std::io::Result<Vec<Entry>> {
            let rows = proc_table::walk(net).map_err(std::io::Error::other)?;
            Ok(rows.filter(|entry| states & 1 << entry.state != 0).collect())
        };
        match &self.of {
            None => read("/proc/self/net".as_ref()).map_err(|error| error.to_string()),
            Some(namespace) => namespace.read_net(read).map_err(|error| error.to_string()),
        }
    }

    /// Adds the sockets of Multipath TCP, which TCP's own walk shows by their subflows only. `None` where the kernel
    /// refuses to show any.
    pub fn add_mptcp(&mut self, wanted: Wanted, into: &mut Leaks) -> Result<Option<Quality>, CollectError> {
        into.asks = false;
        let walked = self.read_mptcp(wanted, into);
        into.asks = true;
        walked
    }

    /// The sockets of Multipath TCP alone.
    pub fn read_mptcp(&mut self, wanted: Wanted, into: &mut impl Gather) -> Result<Option<Quality>, CollectError> {
        #[cfg(test)]
        if self.refuses_mptcp {
            return Ok(None);
        }
        match self.dump(&[Walk::MptcpV4, Walk::MptcpV6], wanted, into) {
            Ok(true) => Ok(Some(Quality::Partial { why: "the dump of MPTCP sockets was interrupted".into() })),
            Ok(false) => Ok(Some(Quality::Complete)),
            Err(Failure::Refused(_)) => Ok(None),
            Err(Failure::Dump(error)) => Err(CollectError::Dump { detail: format!("MPTCP: {error}") }),
            Err(Failure::Proc(detail)) => Err(CollectError::Dump { detail }),
        }
    }

    /// Asks for the sockets by themselves that the walk has left unasked. One that is gone meanwhile stays as it was
    /// seen; where the kernel does not answer, ages stay what is known without it.
    pub fn ask(&mut self, leaks: &mut Leaks) {
        let unasked = std::mem::take(&mut leaks.unasked);
        let identities: Vec<_> = unasked.iter().map(|unasked| unasked.identity).collect();
        let asked = self.diag.infos(&identities, |at, info| {
            if let Some(heard) = info.as_ref().and_then(Heard::of) {
                leaks.hear(&unasked[at], heard);
            }
        });
        if let Err(error) = asked {
            tracing::debug!(%error, "the kernel did not answer about single sockets: {error}; their ages are unknown");
        }
    }

    /// Its netlink socket, for single requests.
    pub fn diag(&mut self) -> &mut Diag {
        &mut self.diag
    }

    /// Runs the walks one after the other; interrupted if one of them was.
    fn dump(&mut self, walks: &[Walk], wanted: Wanted, into: &mut impl Gather) -> Result<bool, Failure> {
        let Wanted { states, info } = wanted;
        let mut interrupted = false;
        for &walk in walks {
            interrupted |= self.diag.dump(Request { walk, states, info }, |entry| into.take(entry))?;
        }
        Ok(interrupted)
    }
}

enum Failure {
    Refused(DumpError),
    Dump(DumpError),
    Proc(String),
}

impl From<DumpError> for Failure {
    fn from(error: DumpError) -> Self {
        if error.is_refusal() { Self::Refused(error) } else { Self::Dump(error) }
    }
}

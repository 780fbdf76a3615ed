//! Closing sockets from outside: `SOCK_DESTROY`, each by its exact identity. The one thing here that changes anything;
//! called by a saga's hands alone.
//!
//! Needs CAP_NET_ADMIN, and a kernel with CONFIG_INET_DIAG_DESTROY. What it does not do is free the descriptor: the socket
//! goes into state CLOSE, where no dump shows it, and stays with the process that holds it until that closes it.

use std::collections::{BTreeSet, HashSet};

use super::netlink::{Diag, DumpError};
use super::wire::{CLOSE_WAIT, Identity, ParseError, Request, Walk};
use super::{CollectError, Collector};
use crate::model::NetNs;

/// A socket by its cookie and its inode: both as they were seen, or it is another.
pub type Named = (u64, u64);

/// The result of closing sockets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Destroyed {
    /// The inodes of the closed sockets.
    pub inodes: HashSet<u64>,
    /// Still in CLOSE_WAIT at a second look.
    pub left: usize,
}

impl Collector {
    /// Destroys those of these TCP sockets that are in CLOSE_WAIT in these namespaces now, and looks again. A socket that
    /// is in CLOSE_WAIT leaves it only towards its end, so none that anybody could still use is hit.
    ///
    /// # Errors
    /// The kernel's refusal, with the capability that is lacking. What was destroyed before it stays so.
    pub fn destroy(&mut self, of: &BTreeSet<NetNs>, sockets: &HashSet<Named>) -> Result<Destroyed, CollectError> {
        let mut all = Destroyed::default();
        let namespaces = self.namespaces.namespaces.clone();
        for namespace in namespaces.iter().filter(|namespace| of.contains(&NetNs(namespace.inode))) {
            match namespace.own {
                true => destroy(self.own.diag(), sockets, &mut all),
                false => {
                    let mut diag = namespace.diag().map_err(|error| failed(&error))?;
                    destroy(&mut diag, sockets, &mut all)
                }
            }
            .map_err(|error| match error {
                DumpError::Parse(ParseError::Kernel(libc::EPERM)) => {
                    failed(&"the kernel refuses (EPERM): the agent needs CAP_NET_ADMIN in the network namespace")
                }
                DumpError::Parse(ParseError::Kernel(libc::EOPNOTSUPP)) => {
                    failed(&"this kernel cannot close sockets (EOPNOTSUPP): CONFIG_INET_DIAG_DESTROY is off")
                }
                error => failed(&error),
            })?;
        }
        Ok(all)
    }
}

fn failed(detail: &dyn std::fmt::Display) -> CollectError {
    CollectError::Destroy { detail: detail.to_string() }
}

fn destroy(diag: &mut Diag, sockets: &HashSet<Named>, all: &mut Destroyed) -> Result<(), DumpError> {
    for (identity, inode) in in_close_wait(diag, sockets)? {
        if diag.destroy(&identity)? {
            all.inodes.insert(inode);
        }
    }
    all.left += in_close_wait(diag, sockets)?.len();
    Ok(())
}

/// Those of the sockets that are in CLOSE_WAIT here, as the kernel names them itself.
fn in_close_wait(diag: &mut Diag, sockets: &HashSet<Named>) -> Result<Vec<(Identity, u64)>, DumpError> {
    let mut found = Vec::new();
    let request = Request { walk: Walk::Both, states: 1 << CLOSE_WAIT, info: false };
    // Interrupted, it may have left some out, which the second look then shows, or twice there: one is not found then.
    diag.dump(request, |entry| {
        let inode = u64::from(entry.inode);
        if sockets.contains(&(entry.identity.cookie(), inode)) {
            found.push((entry.identity, inode));
        }
    })?;
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::{AsFd, AsRawFd};

    use super::*;
    use crate::clock::SystemClock;
    use crate::collect::namespaces::tests::Room;

    /// The service's end of a connection that its client has closed.
    fn leak() -> TcpStream {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        drop(TcpStream::connect(listener.local_addr().unwrap()).unwrap());
        listener.accept().unwrap().0
    }

    fn inode(of: &impl AsFd) -> u64 {
        nix::sys::stat::fstat(of).unwrap().st_ino
    }

    /// The socket's own name, as long as it is in CLOSE_WAIT.
    fn name(collector: &mut Collector, of: &TcpStream) -> Option<Named> {
        let detail = collector.detail(&SystemClock).unwrap();
        detail.sockets.iter().map(|(_, socket)| (socket.cookie, socket.inode)).find(|(_, found)| *found == inode(of))
    }

    fn own(collector: &Collector) -> BTreeSet<NetNs> {
        [collector.own_namespace()].into()
    }

    fn destroyed(inodes: &[u64], left: usize) -> Destroyed {
        Destroyed { inodes: inodes.iter().copied().collect(), left }
    }

    #[test]
    fn a_socket_is_destroyed_alone_and_its_descriptor_stays_open() {
        let mut collector = Collector::new().unwrap();
        let (held, beside) = (leak(), leak());
        let named = name(&mut collector, &held).unwrap();
        let of = own(&collector);
        assert_eq!(collector.destroy(&of, &[named].into()).unwrap(), destroyed(&[named.1], 0));
        assert_eq!(name(&mut collector, &held), None, "no dump shows it any more");
        assert!(name(&mut collector, &beside).is_some(), "the one beside it");
        let link = std::fs::read_link(format!("/proc/self/fd/{}", held.as_raw_fd())).unwrap();
        assert_eq!(link.to_string_lossy(), format!("socket:[{}]", named.1), "the descriptor is as leaked as before");
        assert_eq!(held.take_error().unwrap().unwrap().raw_os_error(), Some(libc::ECONNABORTED));
        assert_eq!(collector.destroy(&of, &[named].into()).unwrap(), destroyed(&[], 0), "a second time");
    }

    #[test]
    fn another_socket_on_the_same_addresses_is_left_alone() {
        let mut collector = Collector::new().unwrap();
        let held = leak();
        let (cookie, inode) = name(&mut collector, &held).unwrap();
        let of = own(&collector);
        for other in [(cookie + 1_000_000, inode), (cookie, inode + 1_000_000)] {
            assert_eq!(collector.destroy(&of, &[other].into()).unwrap(), destroyed(&[], 0));
        }
        let (mut identity, _) = in_close_wait(collector.own.diag(), &[(cookie, inode)].into()).unwrap()[0];
        identity.set_cookie(cookie + 1_000_000);
        assert_eq!(collector.own.diag().destroy(&identity), Ok(false), "the kernel compares the cookie too");
        assert_eq!(name(&mut collector, &held), Some((cookie, inode)));
    }

    #[test]
    fn a_socket_of_another_network_namespace_is_destroyed_there() {
        let Some(room) = Room::new() else { return };
        let held = room.found().inside(leak).unwrap();
        let mut collector = Collector::new().unwrap();
        let named = name(&mut collector, &held).unwrap();
        let elsewhere = own(&collector);
        assert_eq!(collector.destroy(&elsewhere, &[named].into()).unwrap(), destroyed(&[], 0), "it is not here");
        assert!(name(&mut collector, &held).is_some());
        let there = [NetNs(room.found().inode)].into();
        assert_eq!(collector.destroy(&there, &[named].into()).unwrap(), destroyed(&[named.1], 0));
        assert_eq!(name(&mut collector, &held), None);
    }

    #[test]
    fn without_the_capability_nothing_is_destroyed_and_it_is_named() {
        let held = leak();
        // A thread's capabilities are its own.
        let (error, named) = std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                drop_net_admin();
                let mut collector = Collector::new().unwrap();
                let named = name(&mut collector, &held).unwrap();
                let of = own(&collector);
                (collector.destroy(&of, &[named].into()).unwrap_err().to_string(), named)
            });
            thread.join().unwrap()
        });
        assert!(error.contains("EPERM") && error.contains("CAP_NET_ADMIN"), "{error}");
        assert_eq!(name(&mut Collector::new().unwrap(), &held), Some(named));
    }

    /// Of the calling thread (capset(2), version 3: the low words of effective, permitted and inheritable, then the high).
    fn drop_net_admin() {
        let mut header = [0x2008_0522u32, 0];
        let mut sets = [0u32; 6];
        // SAFETY: both arrays have the layout of the structs that the kernel reads and writes, and live through the calls.
        unsafe {
            assert_eq!(libc::syscall(libc::SYS_capget, header.as_mut_ptr(), sets.as_mut_ptr()), 0);
            sets[0] &= !(1 << 12);
            assert_eq!(libc::syscall(libc::SYS_capset, header.as_mut_ptr(), sets.as_ptr()), 0);
        }
    }
}

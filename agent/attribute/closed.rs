//! Descriptors that a service never closed, at TCP sockets which no table lists any more.
//!
//! A socket leaves CLOSE_WAIT by itself where keepalive finds that the peer is gone, or where a reset comes; so does one
//! that was destroyed. Its descriptor stays until the program closes it, or has none left. What is counted is exact: the
//! kernel is asked for each such socket's state, by a copy of its descriptor (`pidfd_getfd`), which is closed at once.
//! Only sockets that the kernel's table does not list are copied, so that no living connection is touched: were its
//! program to close it in that moment, the copy would be the last. A socket that was never connected is none.
//!
//! Needs CAP_SYS_PTRACE, and a sandbox that allows `pidfd_getfd`. Called by the attributor, at a slow pace.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ffi::CString;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::errno::Errno;

use super::processes::{Budget, ProcRoot, Process, ProcessKey, Unseen};
use crate::model::{ServiceCensus, ServiceName};

/// The sockets that the kernel's table lists, by their inodes.
#[derive(Debug, Default)]
pub struct Listed {
    pub inodes: HashSet<u32>,
    /// True where sockets of Multipath TCP are included.
    pub mptcp: bool,
}

/// The last count of each service.
#[derive(Debug, Default)]
pub(super) struct Counts(BTreeMap<ServiceName, Count>);

#[derive(Debug)]
struct Count {
    closed: u64,
    /// The processes that hold them: once one has ended, the count is no longer true.
    holders: BTreeSet<ProcessKey>,
    /// Where the service's processes are found, also where it holds no other socket.
    cgroups: BTreeSet<u64>,
}

impl Counts {
    /// Stores the count in `held` as the present one.
    pub fn note(&mut self, service: &ServiceName, held: &ServiceCensus, holders: BTreeSet<ProcessKey>) {
        match held.closed {
            Some(closed) => {
                let count = Count { closed, holders, cgroups: held.cgroups.clone() };
                self.0.insert(service.clone(), count);
            }
            None => drop(self.0.remove(service)),
        }
    }

    /// Until the next count, what was counted last stands.
    pub fn recall(&mut self, services: &mut BTreeMap<ServiceName, ServiceCensus>, proc: &ProcRoot) {
        self.0.retain(|_, count| count.holders.iter().all(|holder| proc.reopen(*holder).is_ok()));
        self.0.retain(|service, count| count.closed > 0 || services.contains_key(service));
        for (service, count) in &self.0 {
            let held = services.entry(service.clone()).or_default();
            held.closed = Some(count.closed);
            held.cgroups.extend(&count.cgroups);
        }
    }
}

/// How many of the process's descriptors lead to TCP sockets that were connected once and are closed now.
pub(super) fn count(process: &Process, listed: &Listed, budget: &mut Budget) -> Result<u64, Unseen> {
    let directory = process.descriptor_directory()?;
    let mut descriptors = process.descriptors()?;
    let mut holder = None;
    let mut closed = 0;
    while let Some((descriptor, inode)) = descriptors.next_descriptor()? {
        if !budget.spend_descriptor() {
            return Err(Unseen::Hidden);
        }
        let Some(inode) = inode else { continue };
        if u32::try_from(inode).is_ok_and(|inode| listed.inodes.contains(&inode)) || !is_tcp(&directory, descriptor)? {
            continue;
        }
        if holder.is_none() {
            holder = Some(pidfd(process)?);
        }
        let Some(copy) = holder.as_ref().map(|holder| copy(holder, descriptor)).transpose()?.flatten() else {
            continue;
        };
        closed += u64::from(is_closed(&copy, listed)?);
    }
    Ok(closed)
}

/// What sockfs says of a socket's protocol, which an accepted one has from its listener: `TCP`, `TCPv6`, `MPTCP`, `MPTCPv6`.
fn is_tcp(directory: &OwnedFd, descriptor: u32) -> Result<bool, Unseen> {
    let path =
        CString::new(format!("/proc/self/fd/{}/{descriptor}", directory.as_raw_fd())).map_err(|_| Errno::EINVAL)?;
    let mut name = [0u8; 32]; // sk_prot->name, at most 32 bytes with its NUL (include/net/sock.h)
    // SAFETY: both strings end in a NUL, and the kernel writes at most `name.len()` bytes into `name`.
    let read = unsafe {
        libc::getxattr(path.as_ptr(), c"system.sockprotoname".as_ptr(), name.as_mut_ptr().cast(), name.len())
    };
    match Errno::result(read) {
        Ok(_) => Ok(name.starts_with(b"TCP") || name.starts_with(b"MPTCP")),
        Err(Errno::ENOENT) => Ok(false), // closed since it was listed
        Err(errno) => Err(errno.into()),
    }
}

/// The process, for system calls: it still lives once this is open, so its number is still its own.
fn pidfd(process: &Process) -> Result<OwnedFd, Unseen> {
    // SAFETY: two numbers, and a descriptor of our own comes back.
    let opened = unsafe {
        let fd = libc::syscall(libc::SYS_pidfd_open, process.pid, 0);
        OwnedFd::from_raw_fd(Errno::result(fd)? as i32)
    };
    process.started()?;
    Ok(opened)
}

/// A copy of the descriptor; `None` where it is closed meanwhile.
fn copy(holder: &OwnedFd, descriptor: u32) -> Result<Option<OwnedFd>, Unseen> {
    // SAFETY: three numbers, and a descriptor of our own (close-on-exec) comes back.
    let copied = unsafe { libc::syscall(libc::SYS_pidfd_getfd, holder.as_raw_fd(), descriptor, 0) };
    match Errno::result(copied) {
        // SAFETY: the kernel has just given it to us.
        Ok(fd) => Ok(Some(unsafe { OwnedFd::from_raw_fd(fd as i32) })),
        Err(Errno::EBADF) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// In state CLOSE, and connected once.
fn is_closed(socket: &OwnedFd, listed: &Listed) -> Result<bool, Unseen> {
    const CLOSE: u8 = 7; // include/net/tcp_states.h
    const OPTIONS: usize = 5; // tcpi_options, what both ends agreed on (include/uapi/linux/tcp.h)
    const BYTES: [usize; 2] = [120, 128]; // tcpi_bytes_acked, tcpi_bytes_received: a SYN and a FIN count as one each
    const SOL_MPTCP: i32 = 284;
    const MPTCP_INFO: i32 = 1;
    const RCV_NXT: usize = 32; // mptcpi_rcv_nxt (include/uapi/linux/mptcp.h): where the peer's data begins, at random
    let has = |info: &[u8], at: usize| info.get(at..at + 8).is_some_and(|field| field != [0; 8]);
    match protocol(socket)? {
        libc::IPPROTO_TCP => {
            let info = option(socket, libc::IPPROTO_TCP, libc::TCP_INFO)?;
            let lived =
                info.get(OPTIONS).is_some_and(|options| *options != 0) || BYTES.iter().any(|at| has(&info, *at));
            Ok(info.first() == Some(&CLOSE) && lived)
        }
        // Its state is not told: it is listed by no walk, and hung up on.
        libc::IPPROTO_MPTCP if listed.mptcp && hung_up(socket) => {
            Ok(has(&option(socket, SOL_MPTCP, MPTCP_INFO)?, RCV_NXT))
        }
        _ => Ok(false),
    }
}

fn protocol(socket: &OwnedFd) -> Result<i32, Unseen> {
    let value = option(socket, libc::SOL_SOCKET, libc::SO_PROTOCOL)?;
    value.first_chunk().map(|bytes| i32::from_ne_bytes(*bytes)).ok_or(Unseen::Hidden)
}

fn hung_up(socket: &OwnedFd) -> bool {
    let mut asked = libc::pollfd { fd: socket.as_raw_fd(), events: 0, revents: 0 };
    // SAFETY: one entry of ours, and no waiting.
    let answered = unsafe { libc::poll(&raw mut asked, 1, 0) };
    answered == 1 && asked.revents & libc::POLLHUP != 0
}

/// As many bytes of the option's value as this kernel has.
fn option(socket: &OwnedFd, level: i32, name: i32) -> Result<Vec<u8>, Unseen> {
    let mut value = vec![0u8; 512]; // struct tcp_info has some 250, struct mptcp_info 96
    let mut length = value.len() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes into `value`, and how many into `length`.
    let asked =
        unsafe { libc::getsockopt(socket.as_raw_fd(), level, name, value.as_mut_ptr().cast(), &raw mut length) };
    Errno::result(asked)?;
    value.truncate(length as usize);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;

    use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, connect, setsockopt, socket, sockopt};

    use super::*;

    /// A connection that its peer has reset: its descriptor alone is left of it.
    fn reset(listener: &TcpListener) -> TcpStream {
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        setsockopt(&client, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 }).unwrap();
        drop(client);
        server
    }

    fn inode(of: &impl AsFd) -> u32 {
        nix::sys::stat::fstat(of).unwrap().st_ino as u32
    }

    #[test]
    fn what_counts_is_a_descriptor_whose_connection_has_ended_and_nothing_else() {
        let own = ProcRoot("/proc".into()).open(std::process::id()).unwrap();
        let count = |inodes: &[u32]| {
            let listed = Listed { inodes: inodes.iter().copied().collect(), mptcp: true };
            super::count(&own, &listed, &mut Budget::of_a_tick()).unwrap()
        };
        for (family, address) in [(AddressFamily::Inet, "127.0.0.1:0"), (AddressFamily::Inet6, "[::1]:0")] {
            let listener = TcpListener::bind(address).unwrap();
            let living = (TcpStream::connect(listener.local_addr().unwrap()).unwrap(), listener.accept().unwrap());
            let waiting = close_wait(&listener);
            let fresh = socket(family, SockType::Stream, SockFlag::empty(), None).unwrap();
            let refused = socket(family, SockType::Stream, SockFlag::empty(), None).unwrap();
            let closed_port = SockaddrStorage::from(TcpListener::bind(address).unwrap().local_addr().unwrap());
            connect(std::os::fd::AsRawFd::as_raw_fd(&refused), &closed_port).unwrap_err();
            assert_eq!(count(&[]), 0, "none of these has lived and ended");

            let ended = reset(&listener);
            assert_eq!(count(&[]), 1);
            assert_eq!(count(&[inode(&ended)]), 0, "what a table lists is not looked at");
            let twice = ended.try_clone().unwrap();
            assert_eq!(count(&[]), 2, "descriptors are counted");
            drop((ended, twice));
            assert_eq!(count(&[]), 0);
            drop((living, waiting, fresh, refused));
        }
    }

    /// In CLOSE_WAIT, where it is a table's.
    fn close_wait(listener: &TcpListener) -> TcpStream {
        drop(TcpStream::connect(listener.local_addr().unwrap()).unwrap());
        listener.accept().unwrap().0
    }

    #[test]
    fn a_count_stands_until_one_of_its_holders_has_ended() {
        let service = ServiceName::parse("a.service").unwrap();
        let proc = ProcRoot("/proc".into());
        let own = proc.open(std::process::id()).unwrap().seen().unwrap();
        let mut counts = Counts::default();
        let held = ServiceCensus { closed: Some(7), cgroups: [9].into(), ..ServiceCensus::default() };
        counts.note(&service, &held, [own].into());
        let mut services = BTreeMap::new();
        counts.recall(&mut services, &proc);
        let recalled = &services[&service];
        assert_eq!((recalled.closed, recalled.leaks(), &recalled.cgroups), (Some(7), true, &[9].into()));
        let ended = ProcessKey { started: own.started + std::time::Duration::from_secs(1), ..own };
        counts.note(&service, &held, [own, ended].into());
        let mut services = BTreeMap::new();
        counts.recall(&mut services, &proc);
        assert!(services.is_empty(), "after a restart it is counted anew");
    }
}

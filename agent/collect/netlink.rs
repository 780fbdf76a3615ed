//! One NETLINK_SOCK_DIAG socket, and a dump over it from request to `NLMSG_DONE`.
//!
//! Keeps nothing between dumps but the socket and its buffer. A socket on which a dump has failed is closed: what
//! the kernel still had to say on it belongs to nobody. Called by the collector alone.

use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, getsockname, recvmsg, send,
    setsockopt, socket, sockopt::ReceiveTimeout,
};
use nix::sys::time::TimeVal;

use super::wire::{Entry, Expect, ParseError, Progress, Request, parse};

const BUFFER_BYTES: usize = 64 * 1024; // the kernel fills at most 32 KiB at a time (af_netlink.c, netlink_dump)
const RECEIVE_TIMEOUT: TimeVal = TimeVal::new(2, 0); // a walk of 300k sockets takes 0.1 s

/// Why a dump gave nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum DumpError {
    #[error("opening a NETLINK_SOCK_DIAG socket: {0}")]
    Open(Errno),
    #[error("sending a sock_diag request: {0}")]
    Send(Errno),
    /// ENOBUFS here means that the kernel dropped replies.
    #[error("receiving a sock_diag reply: {0}")]
    Receive(Errno),
    #[error("no sock_diag reply within 2 seconds")]
    TimedOut,
    #[error("a sock_diag reply of {length} bytes, more than the buffer of {BUFFER_BYTES}")]
    Oversized { length: usize },
    #[error(transparent)]
    Parse(#[from] ParseError),
}

impl DumpError {
    /// The kernel (or a sandbox) does not do this kind of request at all: another source may serve. Everything
    /// else is a failure of this one dump, which no other source makes good.
    pub fn is_refusal(self) -> bool {
        let errno = match self {
            Self::Open(errno) | Self::Send(errno) => errno,
            Self::Parse(ParseError::Kernel(number)) => Errno::from_raw(number),
            _ => return false,
        };
        matches!(
            errno,
            Errno::ENOENT
                | Errno::EINVAL
                | Errno::EPERM
                | Errno::EACCES
                | Errno::EOPNOTSUPP
                | Errno::EPROTONOSUPPORT
                | Errno::ESOCKTNOSUPPORT
                | Errno::EAFNOSUPPORT
                | Errno::ECONNREFUSED
        )
    }
}

/// The socket while it is open, and the buffer that every reply is read into.
#[derive(Debug)]
pub(super) struct Diag {
    open: Option<(OwnedFd, u32)>,
    seq: u32,
    buffer: Box<[u8]>,
}

impl Diag {
    pub fn new() -> Self {
        Self { open: None, seq: 0, buffer: vec![0; BUFFER_BYTES].into_boxed_slice() }
    }

    /// Runs one dump to its end. Returns whether the kernel said that the table changed under it.
    /// After an error, what was visited is not the table and must be thrown away.
    pub fn dump(&mut self, request: Request, mut visit: impl FnMut(Entry)) -> Result<bool, DumpError> {
        let (socket, port) = match self.open.take() {
            Some(open) => open,
            None => open().map_err(DumpError::Open)?,
        };
        self.seq = self.seq.wrapping_add(1);
        let expect = Expect { walk: request.walk, seq: self.seq, port };
        send(socket.as_raw_fd(), &request.encode(self.seq, port), MsgFlags::empty()).map_err(DumpError::Send)?;
        let mut interrupted = false;
        loop {
            let Some(length) = receive(&socket, &mut self.buffer)? else { continue };
            let Progress { done, interrupted: now } = parse(&self.buffer[..length], &expect, &mut visit)?;
            interrupted |= now;
            if done {
                self.open = Some((socket, port));
                return Ok(interrupted);
            }
        }
    }
}

fn open() -> Result<(OwnedFd, u32), Errno> {
    let fd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkSockDiag)?;
    bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
    setsockopt(&fd, ReceiveTimeout, &RECEIVE_TIMEOUT)?;
    let own: NetlinkAddr = getsockname(fd.as_raw_fd())?;
    Ok((fd, own.pid()))
}

/// Reads one datagram; `None` for one that did not come from the kernel, or where a signal came first.
fn receive(socket: &OwnedFd, buffer: &mut [u8]) -> Result<Option<usize>, DumpError> {
    let room = buffer.len();
    let mut slices = [IoSliceMut::new(buffer)];
    // With MSG_TRUNC the kernel tells the datagram's true length, also where it did not fit.
    match recvmsg::<NetlinkAddr>(socket.as_raw_fd(), &mut slices, None, MsgFlags::MSG_TRUNC) {
        Ok(message) if message.address.is_none_or(|from| from.pid() != 0) => Ok(None),
        Ok(message) if message.bytes > room => Err(DumpError::Oversized { length: message.bytes }),
        Ok(message) => Ok(Some(message.bytes)),
        Err(Errno::EINTR) => Ok(None),
        Err(Errno::EAGAIN) => Err(DumpError::TimedOut),
        Err(errno) => Err(DumpError::Receive(errno)),
    }
}

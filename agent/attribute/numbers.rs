//! The numbered entries of a directory of /proc: its processes, a process' descriptors, and which of these are
//! sockets.
//!
//! Made for a hundred thousand of them: the kernel's own records are read in a buffer that is reused, and a link's
//! target into one on the stack, so that nothing is allocated for an entry. What was listed and not yet looked at
//! stays in the buffer: a reader who has run out of time goes on later where it stopped. Called by `processes`, and by
//! the walk in `holders`.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;

const BUFFER_BYTES: usize = 8192; // 24 B an entry: some 340 of them at once
const HEAD_BYTES: usize = 19; // of linux_dirent64: inode 8, offset 8, length 2, kind 1; then the name

/// Reads a directory once, from its beginning to its end.
#[derive(Debug)]
pub(super) struct Numbers {
    directory: OwnedFd,
    records: Vec<u8>,
    filled: usize,
    at: usize,
}

impl Numbers {
    pub fn of(directory: OwnedFd) -> Self {
        Self { directory, records: vec![0; BUFFER_BYTES], filled: 0, at: 0 }
    }

    /// The next entry whose name is a number; `None` at the end.
    pub fn next(&mut self) -> Result<Option<u32>, Errno> {
        Ok(self.next_name()?.map(|(number, _)| number))
    }

    /// The next descriptor (of a `fd` directory) that is a socket or not: its number, and the socket's inode.
    pub fn next_descriptor(&mut self) -> Result<Option<(u32, Option<u64>)>, Errno> {
        loop {
            let Some((number, start)) = self.next_name()? else { return Ok(None) };
            let name = CStr::from_bytes_until_nul(&self.records[start..self.filled]).map_err(|_| Errno::EIO)?;
            match socket_inode(&self.directory, name) {
                Ok(inode) => return Ok(Some((number, inode))),
                Err(Errno::ENOENT) => {} // closed since it was listed
                Err(errno) => return Err(errno),
            }
        }
    }

    /// The number, and where its name begins among the records.
    fn next_name(&mut self) -> Result<Option<(u32, usize)>, Errno> {
        loop {
            if self.at == self.filled {
                // SAFETY: the kernel writes at most `len` bytes into the buffer, which is ours for the whole call.
                let read = unsafe {
                    let (to, len) = (self.records.as_mut_ptr(), self.records.len());
                    libc::syscall(libc::SYS_getdents64, self.directory.as_raw_fd(), to, len)
                };
                self.filled = usize::try_from(Errno::result(read)?).map_err(|_| Errno::EIO)?;
                self.at = 0;
                if self.filled == 0 {
                    return Ok(None);
                }
            }
            let record = &self.records[self.at..self.filled];
            let length = record.get(16..18).map_or(0, |bytes| usize::from(u16::from_ne_bytes([bytes[0], bytes[1]])));
            let Some(name) = record.get(HEAD_BYTES..length) else { return Err(Errno::EIO) };
            let (number, start) = (number(name), self.at + HEAD_BYTES);
            self.at += length;
            if let Some(number) = number {
                return Ok(Some((number, start)));
            }
        }
    }
}

/// A name of digits alone; it ends at the first NUL.
fn number(name: &[u8]) -> Option<u32> {
    let digits = name.split(|byte| *byte == 0).next()?;
    decimal(digits)?.try_into().ok()
}

fn decimal(digits: &[u8]) -> Option<u64> {
    let next = |sum: u64, digit: &u8| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        sum.checked_mul(10)?.checked_add(digit)
    };
    if digits.is_empty() { None } else { digits.iter().try_fold(0, next) }
}

/// The inode of the socket that this entry of a `fd` directory leads to; `None` where it is something else.
pub(super) fn socket_inode(directory: &OwnedFd, name: &CStr) -> Result<Option<u64>, Errno> {
    let mut target = [0u8; 40]; // `socket:[`, at most 20 digits, `]`; a longer target is no socket's
    // SAFETY: the name ends in a NUL, and the kernel writes at most `target.len()` bytes into `target`.
    let read =
        unsafe { libc::readlinkat(directory.as_raw_fd(), name.as_ptr(), target.as_mut_ptr().cast(), target.len()) };
    let length = usize::try_from(Errno::result(read)?).map_err(|_| Errno::EIO)?;
    Ok(inode_in(target.get(..length).unwrap_or_default()))
}

fn inode_in(target: &[u8]) -> Option<u64> {
    decimal(target.strip_prefix(b"socket:[")?.strip_suffix(b"]")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_sockets_link_has_an_inode() {
        for (target, inode) in [
            ("socket:[123]", Some(123)),
            ("socket:[18446744073709551615]", Some(u64::MAX)),
            ("socket:[18446744073709551616]", None),
            ("socket:[]", None),
            ("socket:[-1]", None),
            ("socket:[12", None),
            ("pipe:[12]", None),
            ("/tmp/socket:[12]", None),
            ("", None),
        ] {
            assert_eq!(inode_in(target.as_bytes()), inode, "{target}");
        }
        assert_eq!(number(b"42\0\0\0\0"), Some(42));
        assert_eq!((number(b".\0"), number(b"self\0"), number(b"4294967296\0")), (None, None, None));
    }

    #[test]
    fn every_number_of_a_large_directory_is_read_once() {
        let tree = tempfile::tempdir().unwrap();
        std::fs::write(tree.path().join("version"), "").unwrap();
        (0..400).for_each(|n| std::fs::create_dir(tree.path().join(n.to_string())).unwrap());
        let mut numbers = Numbers::of(std::fs::File::open(tree.path()).unwrap().into());
        let mut read = Vec::new();
        while let Some(number) = numbers.next().unwrap() {
            read.push(number);
        }
        read.sort_unstable();
        assert_eq!(read, (0..400).collect::<Vec<_>>());
    }
}

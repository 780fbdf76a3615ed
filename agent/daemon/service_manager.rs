//! What systemd is told of the agent, as sd_notify(3) says: datagrams to `$NOTIFY_SOCKET`. Where none is named, nothing is
//! sent. A datagram that systemd does not take is no fault of the agent. Only that the agent is ready is said again: without it
//! systemd would end the agent.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::clock;
use crate::sense::pacing::every;

/// A queue that is full is tried again after this.
const READY_AGAIN: Duration = Duration::from_secs(5);
/// While the agent starts, systemd is told this often that it still does.
const STILL_STARTING_EVERY: Duration = Duration::from_secs(30);
/// For so long it then waits for the next word.
const STILL_STARTING_FOR: Duration = Duration::from_secs(90);

/// The service manager, where one listens.
#[derive(Debug, Default)]
pub struct ServiceManager {
    socket: Option<(UnixDatagram, SocketAddr)>,
    /// Where it kills an agent that has said nothing for so long.
    watchdog: Option<Duration>,
    /// systemd did not take it that the agent is ready.
    ready_is_untold: AtomicBool,
}

impl ServiceManager {
    /// As systemd names itself to a service that it starts.
    pub fn of_the_environment() -> Self {
        let word = |name: &str| std::env::var_os(name);
        let number = |name: &str| word(name)?.to_str()?.parse::<u64>().ok();
        let is_ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let watchdog = number("WATCHDOG_USEC").filter(|_| is_ours).map(Duration::from_micros);
        match word("NOTIFY_SOCKET") {
            Some(name) => Self::at(name.as_bytes(), watchdog),
            None => Self::default(),
        }
    }

    /// `name`: a path, or `@` and an abstract name.
    fn at(name: &[u8], watchdog: Option<Duration>) -> Self {
        let address = match name.strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name),
            None => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(name)),
        };
        let socket = UnixDatagram::unbound().and_then(|socket| {
            // The loop waits for nobody.
            socket.set_nonblocking(true)?;
            Ok((socket, address?))
        });
        match socket {
            Ok(socket) => Self { socket: Some(socket), watchdog, ready_is_untold: AtomicBool::new(false) },
            Err(error) => {
                tracing::warn!(%error, "systemd is not told how the agent does: NOTIFY_SOCKET names no socket: {error}");
                Self::default()
            }
        }
    }

    /// False where systemd did not take it.
    fn tell(&self, words: &str) -> bool {
        let Some((socket, address)) = &self.socket else { return true };
        match socket.send_to_addr(words.as_bytes(), address) {
            Ok(_) => true,
            Err(error) => {
                tracing::debug!(%error, words, "systemd did not take `{words}`: {error}");
                false
            }
        }
    }

    /// Does the work of starting. Nobody ends it for how long it takes: a disk may be full for hours, and an undo is tried
    /// for as long as its registry is away.
    pub async fn while_starting<T>(&self, work: impl Future<Output = T>) -> T {
        let extend = format!("EXTEND_TIMEOUT_USEC={}", STILL_STARTING_FOR.as_micros());
        let mut goes_on = every(STILL_STARTING_EVERY);
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return done,
                _ = goes_on.tick() => { self.tell(&extend); }
            }
        }
    }

    /// The state is open, and the loop begins; or a reload is over.
    pub fn ready(&self) {
        self.ready_is_untold.store(!self.tell("READY=1"), Ordering::Relaxed);
    }

    pub fn reloading(&self) {
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={}", clock::monotonic().as_micros()));
    }

    pub fn stopping(&self) {
        self.ready_is_untold.store(false, Ordering::Relaxed);
        self.tell("STOPPING=1");
    }

    /// The loop is not hung.
    pub fn alive(&self) {
        if self.ready_is_untold.load(Ordering::Relaxed) {
            self.ready();
        }
        if self.watchdog.is_some() {
            self.tell("WATCHDOG=1");
        }
    }

    /// How often [`Self::alive`] is to be called: at half of what is allowed, as sd_watchdog_enabled(3) advises.
    pub fn alive_every(&self) -> Duration {
        self.watchdog.map_or(READY_AGAIN, |within| (within / 2).clamp(Duration::from_millis(1), READY_AGAIN))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(listens: &UnixDatagram) -> String {
        let mut words = [0; 256];
        let length = listens.recv(&mut words).unwrap();
        String::from_utf8(words[..length].to_vec()).unwrap()
    }

    #[test]
    fn systemd_hears_at_a_path_and_at_an_abstract_name_and_no_silence_of_its_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let abstract_name = format!("unwait-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&abstract_name).unwrap();
        let both = [
            (path.to_str().unwrap().to_owned(), UnixDatagram::bind(&path).unwrap()),
            (format!("@{abstract_name}"), UnixDatagram::bind_addr(&address).unwrap()),
        ];
        for (name, listens) in both {
            let manager = ServiceManager::at(name.as_bytes(), Some(Duration::from_secs(60)));
            manager.ready();
            manager.alive();
            manager.reloading();
            assert_eq!((heard(&listens), heard(&listens)), ("READY=1".into(), "WATCHDOG=1".into()));
            let reloading = heard(&listens);
            let at: u128 = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap().parse().unwrap();
            assert!(at > 0 && at <= clock::monotonic().as_micros());
            assert_eq!(manager.alive_every(), READY_AGAIN);
            // More than its queue holds.
            for _ in 0..1_000_000 / 64 {
                manager.stopping();
            }
            assert_eq!(heard(&listens), "STOPPING=1");
            // Ready, and the queue is full: said again, once, as soon as there is room.
            manager.ready();
            while manager.tell("STOPPING=1") {}
            manager.ready();
            listens.set_nonblocking(true).unwrap();
            while listens.recv(&mut [0; 64]).is_ok() {}
            manager.alive();
            manager.alive();
            listens.set_nonblocking(false).unwrap();
            let said = [heard(&listens), heard(&listens), heard(&listens)];
            assert_eq!(said, ["READY=1", "WATCHDOG=1", "WATCHDOG=1"]);
        }
        ServiceManager::default().ready();
        ServiceManager::at(b"/nonexistent/notify", None).ready();
    }

    #[tokio::test(start_paused = true)]
    async fn a_start_that_takes_hours_is_not_ended() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let listens = UnixDatagram::bind(&path).unwrap();
        listens.set_nonblocking(true).unwrap();
        let manager = ServiceManager::at(path.to_str().unwrap().as_bytes(), None);

        let mut silence = Duration::ZERO;
        let began = tokio::time::Instant::now();
        let mut last = began;
        let work = async {
            while began.elapsed() < Duration::from_secs(3 * 3600) {
                tokio::time::sleep(Duration::from_secs(1)).await;
                while let Ok(length) = listens.recv(&mut [0; 64]) {
                    assert_eq!(length, "EXTEND_TIMEOUT_USEC=90000000".len());
                    silence = silence.max(last.elapsed());
                    last = tokio::time::Instant::now();
                }
            }
            "open"
        };
        assert_eq!(manager.while_starting(work).await, "open");
        assert!(silence < STILL_STARTING_FOR && last.elapsed() < STILL_STARTING_FOR, "{silence:?}");
    }
}

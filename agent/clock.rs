//! The only place that asks for the time. Everything else is handed a [`Clock`].

use std::time::Duration;

use jiff::Timestamp;

/// What time it is, in the two ways that matter.
pub trait Clock: Send + Sync {
    /// Wall time: for people, and for what must hold across a reboot.
    fn now(&self) -> Timestamp;
    /// Time since boot, suspend included (CLOCK_BOOTTIME): for windows and ages; never steps.
    fn monotonic(&self) -> Duration;
    /// Which boot [`Clock::monotonic`] counts from; empty where it cannot be told. The running kernel's own, unless a
    /// test plays a reboot.
    fn boot(&self) -> String {
        // proc(5): a UUID that the kernel makes at each boot.
        std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().into()
    }
}

/// The host's clocks.
#[derive(Debug)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the one place")]
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn monotonic(&self) -> Duration {
        let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME)
            .expect("CLOCK_BOOTTIME exists on every Linux since 2.6.39");
        Duration::from(time)
    }
}

/// Time since boot without suspend (CLOCK_MONOTONIC), by which systemd dates what it is told.
pub fn monotonic() -> Duration {
    let time =
        nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).expect("CLOCK_MONOTONIC exists on every Linux");
    Duration::from(time)
}

/// CPU time that the calling thread has used: what something cost, however busy the host is.
pub fn thread_cpu_time() -> Duration {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID)
        .expect("a thread's CPU clock exists on every Linux since 2.6.12");
    Duration::from(time)
}

/// A clock that a test sets; wall and monotonic move together unless a test steps one of them.
#[cfg(any(test, feature = "crash-points"))]
#[derive(Debug)]
pub struct ManualClock(std::sync::Mutex<(Timestamp, Duration, u32)>);

#[cfg(any(test, feature = "crash-points"))]
impl ManualClock {
    pub fn new(now: Timestamp) -> Self {
        Self(std::sync::Mutex::new((now, Duration::from_secs(1_000), 1)))
    }

    /// The host boots, and has run for so long since.
    pub fn reboot(&self, up_for: Duration) {
        let mut time = self.0.lock().expect("no test panics while it holds the clock");
        time.1 = up_for;
        time.2 += 1;
    }

    pub fn advance(&self, by: Duration) {
        let mut time = self.0.lock().expect("no test panics while it holds the clock");
        time.0 += by;
        time.1 += by;
    }

    pub fn step_wall(&self, to: Timestamp) {
        self.0.lock().expect("no test panics while it holds the clock").0 = to;
    }
}

#[cfg(any(test, feature = "crash-points"))]
impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        self.0.lock().expect("no test panics while it holds the clock").0
    }

    fn monotonic(&self) -> Duration {
        self.0.lock().expect("no test panics while it holds the clock").1
    }

    fn boot(&self) -> String {
        format!("boot-{}", self.0.lock().expect("no test panics while it holds the clock").2)
    }
}

/// The virtual time of a runtime whose time is paused, since the clock was made.
#[cfg(test)]
#[derive(Debug)]
pub struct VirtualClock(tokio::time::Instant);

#[cfg(test)]
impl VirtualClock {
    pub fn start() -> Self {
        Self(tokio::time::Instant::now())
    }
}

#[cfg(test)]
impl Clock for VirtualClock {
    fn now(&self) -> Timestamp {
        "2026-11-22T18:43:29Z".parse::<Timestamp>().expect("a time") + self.0.elapsed()
    }

    fn monotonic(&self) -> Duration {
        Duration::from_secs(10_000) + self.0.elapsed()
    }
}

//! Waiting for something that must come true, with a deadline and an account of what was seen.
//!
//! The only place of the lab that sleeps.

use std::fmt::Display;
use std::thread::sleep;
use std::time::{Duration, Instant};

const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Looks until `look` gives a value, and returns it.
///
/// # Panics
/// When `deadline` has passed, with `what` was awaited.
pub fn wait_until<T>(what: &str, deadline: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    wait_until_seen(what, deadline, || look().ok_or("nothing"))
}

/// As [`wait_until`], for a `look` that can say what it saw instead.
///
/// # Panics
/// When `deadline` has passed, with `what` was awaited and what was seen last.
pub fn wait_until_seen<T, S: Display>(what: &str, deadline: Duration, mut look: impl FnMut() -> Result<T, S>) -> T {
    let start = Instant::now();
    loop {
        match look() {
            Ok(value) => return value,
            Err(seen) if start.elapsed() >= deadline => {
                panic!("waited {deadline:?} for {what}; last seen: {seen}")
            }
            Err(_) => sleep(LOOK_EVERY),
        }
    }
}

/// Looks for the whole of `length`, and returns when `look` was content every time.
///
/// For "nothing happens": a dry run that must not restart anything, a count that must stay at zero.
///
/// # Panics
/// At the first look that is not content, with what it saw.
pub fn holds_for<S: Display>(what: &str, length: Duration, mut look: impl FnMut() -> Result<(), S>) {
    let start = Instant::now();
    loop {
        if let Err(seen) = look() {
            panic!("{what} did not hold after {:?}; seen: {seen}", start.elapsed());
        }
        if start.elapsed() >= length {
            return;
        }
        sleep(LOOK_EVERY);
    }
}

/// Takes the time that a slow answer takes; for stand-ins of slow peers alone, never to wait for something.
pub fn dawdle(length: Duration) {
    sleep(length);
}

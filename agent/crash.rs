//! Points where the crash sweep and the crash stories kill the agent. Compiled to nothing without the feature
//! `crash-points`.
//!
//! One lies before and one after whatever outlives the agent: each write of the store, each effect of a step and of its
//! undo, each word with the fleet and with a destination. A point is named `WHAT:MOMENT` (`drain:intended`,
//! `restart:acted`), a write by the line that asks for it (`store/incidents.rs:89:committing`).
//!
//! | variable | |
//! |---|---|
//! | `UNWAIT_CRASH_AT` | SIGKILL at this point: `NAME` the first time, `NAME@3` the third; `#17` at the 17th point of all |
//! | `UNWAIT_STOP_AT` | SIGSTOP at this point, by its name |
//! | `UNWAIT_CRASH_LOG` | a file that each point passed is added to, by its name |

use std::panic::Location;

/// Kills this process where `UNWAIT_CRASH_AT` names this point.
#[cfg(feature = "crash-points")]
pub fn point(what: &str, moment: &str) {
    if *told::IS_ASKED_FOR {
        told::passed(&format!("{what}:{moment}"));
    }
}

#[cfg(not(feature = "crash-points"))]
pub fn point(_what: &str, _moment: &str) {}

/// The same, of a write that this line asks for.
#[cfg(feature = "crash-points")]
pub fn point_of(line: &Location<'_>, moment: &str) {
    if *told::IS_ASKED_FOR {
        let file = line.file().rsplit_once("agent/").map_or(line.file(), |(_, file)| file);
        told::passed(&format!("{file}:{}:{moment}", line.line()));
    }
}

#[cfg(not(feature = "crash-points"))]
pub fn point_of(_line: &Location<'_>, _moment: &str) {}

#[cfg(feature = "crash-points")]
mod told {
    use std::collections::BTreeMap;
    use std::env;
    use std::fs::OpenOptions;
    use std::io::Write;
    use std::sync::{LazyLock, Mutex, PoisonError};

    use nix::sys::signal::{Signal, kill, raise};

    /// Whether this agent was started with one of the variables. The sweeps of the unit tests pass some million points without.
    pub static IS_ASKED_FOR: LazyLock<bool> = LazyLock::new(|| {
        ["UNWAIT_CRASH_AT", "UNWAIT_STOP_AT", "UNWAIT_CRASH_LOG"].iter().any(|name| env::var_os(name).is_some())
    });

    /// How often each point was passed.
    static PASSED: Mutex<BTreeMap<String, u32>> = Mutex::new(BTreeMap::new());

    pub fn passed(name: &str) {
        let (at, log) = (env::var("UNWAIT_CRASH_AT").ok(), env::var_os("UNWAIT_CRASH_LOG"));
        let stop_at = env::var("UNWAIT_STOP_AT").ok();
        let mut passed = PASSED.lock().unwrap_or_else(PoisonError::into_inner);
        let times = passed.entry(name.into()).or_default();
        *times += 1;
        let (times, of_all) = (*times, passed.values().sum::<u32>());
        if let Some(log) = log {
            let mut file = OpenOptions::new().create(true).append(true).open(log).expect("the sweep's log");
            writeln!(file, "{name}").expect("the sweep's log");
        }
        if stop_at.is_some_and(|at| at == name) {
            tracing::warn!(point = name, "stopping at point {name}");
            // By a signal of this thread's own: one of the process' lets it run on until another thread has taken it.
            let _ = raise(Signal::SIGSTOP);
        }
        if at.is_some_and(|at| at == format!("#{of_all}") || at == format!("{name}@{times}") || at == name) {
            tracing::warn!(point = name, times, of_all, "crashing at point {name}");
            let _ = kill(nix::unistd::getpid(), Signal::SIGKILL);
        }
    }
}

//! What would keep a unit from beginning again, told by systemd and the file system while it still runs.

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::Duration;

use super::bus::{Command, Properties};
use crate::model::duration;

/// `up_for`: how long the present lifetime has lasted, where that is known.
pub(super) fn start_obstacle(
    name: &str,
    unit: &Properties,
    service: &Properties,
    up_for: Option<Duration>,
) -> Option<String> {
    let load: String = unit.get("LoadState");
    if load != "loaded" {
        return Some(format!(
            "systemd reports {name} as `{load}`, so it would not start again; see `systemctl status {name}`"
        ));
    }
    // Within a root of its own its program is not where we would look.
    let has_own_root = ["RootDirectory", "RootImage"].iter().any(|key| !service.get::<String>(key).is_empty());
    let main: u32 = service.get("MainPID");
    let commands: Vec<Command> = if has_own_root { Vec::new() } else { service.get("ExecStart") };
    let programs = commands.into_iter().filter(|command| !command.2 && command.0.starts_with('/'));
    if let Some((program, ..)) = programs.into_iter().find(|command| is_gone(&command.0, main)) {
        return Some(format!("{program}, the program of {name}, does not exist any more"));
    }
    spent(Starts {
        burst: unit.get("StartLimitBurst"),
        within: Duration::from_micros(unit.get("StartLimitIntervalUSec")),
        restarts: service.get("NRestarts"),
        up_for,
    })
}

#[derive(Clone, Copy)]
struct Starts {
    burst: u32,
    within: Duration,
    /// That systemd made by itself since a person's last one. When, it does not tell.
    restarts: u32,
    up_for: Option<Duration>,
}

/// systemd tells no count of starts, but that the last one was within the interval, and how many may have been.
fn spent(starts: Starts) -> Option<String> {
    let Starts { burst, within, restarts, up_for } = starts;
    let is_recent = up_for.is_some_and(|up_for| up_for < within);
    (burst > 0 && is_recent && restarts + 1 >= burst).then(|| {
        let (starts, within) = (restarts + 1, duration::format(within));
        format!(
            "a restart may be refused by systemd's start limit: the unit was started up to {starts} times in the last {within}, and StartLimitBurst={burst}"
        )
    })
}

/// Neither PID 1 nor the unit's own main process sees a file there. What cannot be told is not gone.
fn is_gone(program: &str, main: u32) -> bool {
    let roots = ["/proc/1/root".to_owned(), format!("/proc/{main}/root")];
    roots.iter().take(if main == 0 { 1 } else { 2 }).all(|root| is_there(root, program) == Some(false))
}

/// Absolute links lead on within that root; the kernel would follow them in ours.
fn is_there(root: &str, program: &str) -> Option<bool> {
    const MOST_LINKS: usize = 40; // the kernel's own limit, include/linux/namei.h
    let mut path = PathBuf::from(program);
    for _ in 0..MOST_LINKS {
        let at = PathBuf::from(format!("{root}{}", path.display()));
        match fs::read_link(&at) {
            Ok(link) => path = path.parent()?.join(link),
            Err(error) if error.kind() == ErrorKind::InvalidInput => return Some(true), // a file, and no link
            Err(error) if error.kind() == ErrorKind::NotFound => return Some(false),
            Err(_) => return None,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_limit_counts_what_may_have_been_started_within_its_interval() {
        let s = Duration::from_secs;
        let starts =
            |burst, within, restarts, up_for| Starts { burst, within: s(within), restarts, up_for: Some(s(up_for)) };
        for (what, starts, is_spent) in [
            ("its one start", starts(1, 3_600, 0, 60), true),
            ("its one start, long ago", starts(1, 3_600, 0, 3_600), false),
            ("five of five by itself", starts(5, 3_600, 4, 60), true),
            ("four of five", starts(5, 3_600, 3, 60), false),
            ("systemd's default, up for a minute", starts(5, 10, 7, 60), false),
            ("no limit", starts(0, 3_600, 9, 60), false),
            ("no interval", starts(5, 0, 9, 60), false),
            ("not known", Starts { up_for: None, ..starts(1, 3_600, 0, 0) }, false),
        ] {
            assert_eq!(spent(starts).is_some(), is_spent, "{what}");
        }
    }

    #[test]
    fn links_are_followed_within_the_root() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().to_str().unwrap();
        let link = |at: &str, to: &str| std::os::unix::fs::symlink(to, dir.path().join(at)).unwrap();
        std::fs::create_dir(dir.path().join("bin")).unwrap();
        std::fs::write(dir.path().join("bin/gate-1"), "").unwrap();
        link("bin/gate", "gate-1");
        link("start", "/bin/gate");
        link("broken", "/bin/gate-2");
        link("loop", "/loop");
        for (program, there) in [
            ("/bin/gate-1", Some(true)),
            ("/bin/gate", Some(true)),
            ("/start", Some(true)),
            ("/broken", Some(false)),
            ("/bin/gone", Some(false)),
            ("/loop", None),
        ] {
            assert_eq!(is_there(root, program), there, "{program}");
        }
    }
}

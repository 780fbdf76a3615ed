//! Starting argv so that it outlives us, as what its predecessor was: where we are a unit of systemd as another, transient
//! one, outside of our sandbox, which could neither change the user nor write where the program writes; elsewhere in a
//! session of its own. Where it comes to nothing, what was started is ended: nobody supervises it, so nobody else would.
//!
//! The unit is called by the pid file, and lives for as long as something that was started in it does (a program may put
//! itself into the background). What puts itself into another session, and names itself in no pid file, is found again
//! by its unit alone. The former environment reaches it as a file in
//! memory that systemd alone reads; it would stand in the unit's file otherwise, for anyone to see.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use nix::sys::resource::{Resource, setrlimit};
use nix::sys::stat::{Mode, umask};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::{Gid, Pid, Uid};
use tokio::process::{Child, Command};
use tokio::time::Instant;

use super::former::Former;
use crate::command;
use crate::model::Incarnation;
use crate::model::plan::ProcessRestart;
use crate::ports::restarter::pidfd::{self, ProcessHandle};

/// For one command to systemd; stopping a unit is waited for up to its own TimeoutStopSec besides.
const SYSTEMD_WITHIN: Duration = Duration::from_secs(20);
const OUTPUT_BYTES: usize = 4 * 1024;

/// Tells in the environment of what is started in a session for which restart it was: the pid file and who was ended.
const MARK: &str = "UNWAIT_STARTED_FOR";

pub(super) type Environment = Vec<(OsString, OsString)>;

/// What was started.
pub(super) enum Started {
    /// Not waited for until it is settled: for so long nobody else gets its number.
    Child(Child),
    Unit(String),
}

/// The environment of a program of which nothing is known.
pub(super) fn clean() -> Environment {
    let own = ["PATH", "LANG", "LC_ALL", "TZ"].into_iter();
    own.filter_map(|name| Some((name.into(), std::env::var_os(name)?))).collect()
}

/// Starts what follows `before`. What a former agent started in its place, and did not live to see in the pid file, is
/// ended first: nothing else knows of it, and there would be two.
pub(super) async fn start(
    spec: &ProcessRestart,
    former: &Former,
    before: &Incarnation,
    environment: &Environment,
) -> Result<Started, String> {
    if Uid::effective().is_root() && we_are_a_unit() {
        return by_systemd(spec, former, environment).await;
    }
    let mark = format!("{} {before}", spec.pid_file.display());
    let left = pidfd::sessions_with(&format!("{MARK}={mark}"));
    if !end_all(&left, spec.stop_timeout).await {
        return Err("processes of an earlier failed start cannot be ended".into());
    }
    in_a_session(spec, former, &mark, environment).map(Started::Child).map_err(|error| error.to_string())
}

/// Where systemd runs the agent, what it starts itself would live in its sandbox. An agent that a person started by hand
/// has none.
fn we_are_a_unit() -> bool {
    let memberships = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let mut paths = memberships.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    Path::new("/run/systemd/system").is_dir()
        && paths.any(|path| path.ends_with(".service") && !path.contains("/user@"))
}

impl Started {
    /// How it has ended, if it has, and that was a failure (one that puts itself into the background ends at once).
    pub async fn failed(&self) -> Option<String> {
        match self {
            Self::Child(child) => {
                let pid = Pid::from_raw(i32::try_from(child.id()?).ok()?);
                let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
                match waitid(Id::Pid(pid), flags) {
                    Ok(WaitStatus::Exited(_, 0)) | Ok(WaitStatus::StillAlive) | Err(_) => None,
                    Ok(WaitStatus::Exited(_, code)) => Some(format!("exit status: {code}")),
                    Ok(other) => Some(format!("{other:?}")),
                }
            }
            Self::Unit(unit) => {
                let seen = systemd(&["systemctl", "is-active", "--quiet", unit]).await;
                seen.err().map(|_| format!("see `journalctl -u '{unit}'`"))
            }
        }
    }

    /// It runs as it should.
    pub fn settle(self) {
        if let Self::Child(mut child) = self {
            // Somebody must wait for it, or it stays a zombie whose pid file looks alive.
            tokio::spawn(async move { child.wait().await });
        }
    }

    /// Ends it, and whatever came of it.
    pub async fn end(self, stop_timeout: Duration) {
        match self {
            Self::Child(mut child) => {
                if let Some(session) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
                    end_all(&pidfd::session_of(session), stop_timeout).await;
                }
                let _ = child.kill().await;
            }
            Self::Unit(unit) => {
                if let Err(why) = systemd(&["systemctl", "stop", &unit]).await {
                    tracing::warn!(unit, why, "cannot stop unit {unit}, whose start failed: {why}; stop it by hand");
                }
            }
        }
    }
}

/// All are asked at once, and have `stop_timeout` together. True once all have ended.
async fn end_all(members: &[ProcessHandle], stop_timeout: Duration) -> bool {
    for member in members {
        let _ = member.signal(libc::SIGTERM);
    }
    let until = Instant::now() + stop_timeout;
    let mut ended = true;
    for member in members {
        ended &= member.end(until.saturating_duration_since(Instant::now())).await.unwrap_or(false);
    }
    ended
}

fn in_a_session(spec: &ProcessRestart, former: &Former, mark: &str, environment: &Environment) -> io::Result<Child> {
    let mut command = Command::new(&spec.argv[0]);
    command.args(&spec.argv[1..]).current_dir(&former.directory).env_clear();
    command.envs(environment.iter().map(|(name, value)| (name, value))).env(MARK, mark);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(false);
    let as_root = Uid::effective().is_root();
    let (uid, gid) = (Uid::from_raw(former.uid), Gid::from_raw(former.gid));
    let groups: Vec<libc::gid_t> = former.groups.clone();
    let (descriptors, nice) = (former.descriptors, former.nice);
    let mask = Mode::from_bits_truncate(former.umask);
    let oom = former.oom_score_adj.to_string();
    let detach = move || {
        // A session of its own: no terminal's hang-up and no signal to our group reaches it.
        nix::unistd::setsid()?;
        umask(mask);
        // Not to be able to raise these (we are not root) is no reason to leave the service down.
        if let Some((soft, hard)) = descriptors {
            let _ = setrlimit(Resource::RLIMIT_NOFILE, soft, hard);
        }
        // SAFETY: setpriority(2) takes three numbers.
        unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) };
        if let Ok(file) = nix::fcntl::open(c"/proc/self/oom_score_adj", nix::fcntl::OFlag::O_WRONLY, Mode::empty()) {
            let _ = nix::unistd::write(&file, oom.as_bytes());
        }
        if as_root {
            // SAFETY: setgroups(2) reads `len` gids from a vector that lives until the exec.
            if unsafe { libc::setgroups(groups.len(), groups.as_ptr()) } != 0 {
                return Err(io::Error::last_os_error());
            }
            nix::unistd::setresgid(gid, gid, gid)?;
            nix::unistd::setresuid(uid, uid, uid)?;
        }
        // Descriptors of ours that some library opened without close-on-exec.
        // SAFETY: close_range(2) with CLOEXEC only marks descriptors; the exec closes them. ENOSYS before Linux 5.11.
        unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
        Ok(())
    };
    // SAFETY: between fork and exec only system calls are made; nothing is allocated and no lock is taken.
    unsafe { command.pre_exec(detach) };
    command.spawn()
}

async fn by_systemd(spec: &ProcessRestart, former: &Former, environment: &Environment) -> Result<Started, String> {
    let unit = unit(spec);
    // What a former start of ours left in it, now that its main process has ended.
    systemd(&["systemctl", "stop", &unit]).await.ok();
    let file = in_memory(environment).map_err(|error| format!("cannot keep its environment: {error}"))?;
    let groups: Vec<String> = former.groups.iter().map(u32::to_string).collect();
    let mut properties = vec![
        format!("SupplementaryGroups={}", groups.join(" ")),
        format!("UMask={:04o}", former.umask),
        format!("OOMScoreAdjust={}", former.oom_score_adj),
        format!("EnvironmentFile=/proc/{}/fd/{}", std::process::id(), file.as_raw_fd()),
        format!("TimeoutStopSec={}", spec.stop_timeout.as_secs().max(1)),
    ];
    properties.extend(former.descriptors.map(|(soft, hard)| {
        let shown = |limit: u64| if limit == libc::RLIM_INFINITY { "infinity".to_owned() } else { limit.to_string() };
        format!("LimitNOFILE={}:{}", shown(soft), shown(hard))
    }));
    let mut argv = ["systemd-run", "--quiet", "--collect", "--service-type=exec"].map(String::from).to_vec();
    // It would be the whole argv, with whatever a program is told there, for all who read the journal.
    argv.push(format!("--description=unwait: {}", spec.pid_file.display()));
    argv.extend([format!("--unit={unit}"), format!("--uid={}", former.uid), format!("--gid={}", former.gid)]);
    argv.extend([format!("--nice={}", former.nice), format!("--working-directory={}", former.directory.display())]);
    argv.extend(properties.iter().map(|property| format!("--property={property}")));
    // systemd puts variables into arguments (systemd.service(5), "Command lines"); `$$` is a `$`.
    let (program, arguments) = spec.argv.split_at(1);
    let arguments: Vec<String> = arguments.iter().map(|argument| argument.replace('$', "$$")).collect();
    let mut started = Err(String::new());
    for lifetime in LIFETIMES {
        let whole = [&argv[..], &[format!("--property={lifetime}"), "--".into()], program, &arguments].concat();
        let whole: Vec<&str> = whole.iter().map(String::as_str).collect();
        started = systemd(&whole).await;
        if !started.as_ref().is_err_and(|why| why.contains("ExitType")) {
            break;
        }
    }
    // Type=exec: it is done when the program runs, and so has its environment.
    drop(file);
    started.map(|()| Started::Unit(unit))
}

/// Until the last process of the unit has ended: since systemd 250, and before it, by never ending by itself.
const LIFETIMES: [&str; 2] = ["ExitType=cgroup", "RemainAfterExit=yes"];

/// The pid file's path as `systemd-escape --path` writes it (systemd.unit(5)): no two of them are one unit's, and starting
/// one stops what a former start left in it.
fn unit(spec: &ProcessRestart) -> String {
    let path = spec.pid_file.as_os_str().as_bytes();
    let mut name = String::new();
    for (at, byte) in path.strip_prefix(b"/").unwrap_or(path).iter().enumerate() {
        match byte {
            b'/' => name.push('-'),
            b'.' if at == 0 => name.push_str("\\x2e"),
            byte if byte.is_ascii_alphanumeric() || b":_.".contains(byte) => name.push(char::from(*byte)),
            byte => name.push_str(&format!("\\x{byte:02x}")),
        }
    }
    format!("unwait-process-{name}.service")
}

async fn systemd(argv: &[&str]) -> Result<(), String> {
    let argv: Vec<String> = argv.iter().map(ToString::to_string).collect();
    let ran = command::capture(&argv, &[], SYSTEMD_WITHIN, OUTPUT_BYTES).await;
    if ran.ended.is_success() { Ok(()) } else { Err(format!("{}: {} {}", argv[0], ran.ended, ran.output.trim())) }
}

/// A file that is nowhere but in memory, in the form of systemd.exec(5), EnvironmentFile=.
fn in_memory(environment: &Environment) -> io::Result<File> {
    // SAFETY: memfd_create(2) takes a name and flags, and returns a new descriptor or -1.
    let fd = unsafe { libc::memfd_create(c"environment".as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given us this descriptor, and nobody else has it.
    let mut file = unsafe { File::from_raw_fd(fd) };
    file.write_all(&as_file(environment))?;
    Ok(file)
}

/// Names that a shell would not take are left out, as systemd would; within double quotes four characters are escaped.
fn as_file(environment: &Environment) -> Vec<u8> {
    let is_name = |name: &OsStr| {
        let bytes = name.as_bytes();
        bytes.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'_') && !bytes[0].is_ascii_digit()
    };
    let mut text = Vec::new();
    for (name, value) in environment.iter().filter(|(name, _)| is_name(name)) {
        text.extend_from_slice(name.as_bytes());
        text.extend_from_slice(b"=\"");
        for byte in value.as_bytes() {
            if b"\"\\`$".contains(byte) {
                text.push(b'\\');
            }
            text.push(*byte);
        }
        text.extend_from_slice(b"\"\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_pid_file_has_a_unit_of_its_own() {
        for (pid_file, expected) in [
            ("/run/legacy/pid", "run-legacy-pid"),
            ("/run/a/b.pid", "run-a-b.pid"),
            ("/run/a-b.pid", "run-a\\x2db.pid"),
            ("/run/a b/ü", "run-a\\x20b-\\xc3\\xbc"),
            ("/.a", "\\x2ea"),
        ] {
            let spec = ProcessRestart {
                argv: Vec::new(),
                pid_file: pid_file.into(),
                stop_timeout: Duration::ZERO,
                reload_signal: None,
            };
            assert_eq!(unit(&spec), format!("unwait-process-{expected}.service"));
        }
    }
}

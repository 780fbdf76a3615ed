//! The one place that starts other people's programs and waits for them: a snapshot's commands, the journal's
//! tail, a `run` step.
//!
//! A command is an argv, never a shell's line. It gets no standard input, or a file of what it is asked, the environment of [`PATH`], `LANG=C` and
//! what the caller adds, `/` as its directory and a process group of its own. Its standard output and error go into
//! one pipe, in the order written, and are kept within a bound; it is read on beyond that, so that nobody blocks on a
//! full pipe. At the deadline, and where the waiting future is dropped, the whole group is killed. What a command
//! leaves in the background when it ends by itself is left alone: it may be a service that it was asked to start.
//!
//! Nothing here blacks out secrets: what is kept goes through [`crate::evidence::redact`] first.

mod detached;

use std::collections::VecDeque;
use std::fs::File;
use std::io::{Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::time::Instant;

pub use detached::{carries_variable, detached, detached_as, end};

/// Where commands are looked for; the agent's own PATH is not handed on.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// After a command has ended, how long its output is still waited for where something that it left in the
/// background holds the pipe open.
const LEFTOVERS: Duration = Duration::from_millis(200);

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    Exited(i32),
    /// By this signal, which was not ours.
    Signalled(i32),
    /// Killed with its process group at the deadline.
    DeadlinePassed,
    /// It never ran: an empty argv, no such program, no right to execute it.
    NotStarted(String),
}

impl Ended {
    pub fn is_success(&self) -> bool {
        *self == Self::Exited(0)
    }
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "exit status {code}"),
            Self::Signalled(signal) => match Signal::try_from(*signal) {
                Ok(name) => write!(f, "ended by {name}"),
                Err(_) => write!(f, "ended by signal {signal}"),
            },
            Self::DeadlinePassed => f.write_str("killed at its deadline"),
            Self::NotStarted(why) => write!(f, "not started: {why}"),
        }
    }
}

/// What came of a command. `Debug` leaves the output out: it may hold anything.
pub struct Captured {
    pub ended: Ended,
    /// Standard output and error in the order written, not redacted. Where there was more than the bound, whole
    /// lines of its beginning and of its end, with a line between them that says how much is left out.
    pub output: String,
    /// Bytes of output that the bound left out.
    pub left_out: u64,
    pub took: Duration,
}

impl std::fmt::Debug for Captured {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Captured")
            .field("ended", &self.ended)
            .field("output_bytes", &self.output.len())
            .field("left_out", &self.left_out)
            .field("took", &self.took)
            .finish()
    }
}

/// Runs `argv` to its end, or to `deadline`; keeps at most some `max_bytes` of what it says. `environment` is added to
/// the clean one. Never fails: what went wrong is in [`Captured::ended`].
pub async fn capture(
    argv: &[String],
    environment: &[(String, String)],
    deadline: Duration,
    max_bytes: usize,
) -> Captured {
    run(argv, environment, Stdio::null(), deadline, max_bytes).await
}

/// The same with a standard input that holds `input`; nobody waits for the command to read it.
pub async fn capture_asking(argv: &[String], input: &str, deadline: Duration, max_bytes: usize) -> Captured {
    match holding(input) {
        Ok(stdin) => run(argv, &[], stdin, deadline, max_bytes).await,
        Err(error) => Captured {
            ended: Ended::NotStarted(format!("no memory for its standard input: {error}")),
            output: String::new(),
            left_out: 0,
            took: Duration::ZERO,
        },
    }
}

/// A file without a name, in memory.
fn holding(input: &str) -> std::io::Result<Stdio> {
    let mut file = File::from(memfd_create(c"unwait-question", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(input.as_bytes())?;
    file.rewind()?;
    Ok(Stdio::from(file))
}

async fn run(
    argv: &[String],
    environment: &[(String, String)],
    stdin: Stdio,
    deadline: Duration,
    max_bytes: usize,
) -> Captured {
    let began = Instant::now();
    let not_started = |why: String| Captured {
        ended: Ended::NotStarted(why),
        output: String::new(),
        left_out: 0,
        took: began.elapsed(),
    };
    let (mut group, mut output) = match start(argv, environment, stdin) {
        Ok(started) => started,
        Err(why) => return not_started(why),
    };

    let mut kept = Bounded::new(max_bytes);
    let mut chunk = vec![0u8; 16 * 1024];
    let end = began + deadline;
    let mut open = true;
    let ended = loop {
        tokio::select! {
            // Output first: a command that has ended must not lose what it said last.
            biased;
            read = output.read(&mut chunk), if open => match read {
                Ok(0) | Err(_) => open = false,
                Ok(count) => kept.push(&chunk[..count]),
            },
            status = group.leader.wait() => {
                group.reaped = true;
                break match status {
                    Ok(status) => ended(status),
                    Err(error) => Ended::NotStarted(format!("it could not be waited for: {error}")),
                };
            }
            () = tokio::time::sleep_until(end) => {
                group.kill();
                let _ = group.leader.wait().await;
                group.reaped = true;
                break Ended::DeadlinePassed;
            }
        }
        // A command that never stops talking keeps the first branch ready for ever.
        if Instant::now() >= end && open {
            group.kill();
            let _ = group.leader.wait().await;
            group.reaped = true;
            break Ended::DeadlinePassed;
        }
    };
    let rest = Instant::now() + LEFTOVERS;
    while open {
        match tokio::time::timeout_at(rest, output.read(&mut chunk)).await {
            Ok(Ok(count)) if count > 0 && Instant::now() < rest => kept.push(&chunk[..count]),
            _ => open = false,
        }
    }
    let (output, left_out) = kept.finish();
    Captured { ended, output, left_out, took: began.elapsed() }
}

fn start(argv: &[String], environment: &[(String, String)], stdin: Stdio) -> Result<(Group, pipe::Receiver), String> {
    let Some((program, arguments)) = argv.split_first() else {
        return Err("the argv is empty".into());
    };
    let pipe = || {
        let (reader, writer) = std::io::pipe()?;
        let second = writer.try_clone()?;
        std::io::Result::Ok((pipe::Receiver::from_owned_fd(OwnedFd::from(reader))?, writer, second))
    };
    let (reader, writer, second) = pipe().map_err(|error| format!("no pipe for its output: {error}"))?;
    // The command value is dropped at the end of this statement, and with it our copies of the pipe's writing end.
    let leader = tokio::process::Command::new(program)
        .args(arguments)
        .env_clear()
        .env("PATH", PATH)
        .env("LANG", "C")
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .current_dir("/")
        .stdin(stdin)
        .stdout(writer)
        .stderr(second)
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => format!("no program `{program}` in {PATH}"),
            _ => format!("`{program}`: {error}"),
        })?;
    Ok((Group { id: leader.id(), leader, reaped: false }, reader))
}

fn ended(status: ExitStatus) -> Ended {
    match (status.code(), status.signal()) {
        (Some(code), _) => Ended::Exited(code),
        (None, signal) => Ended::Signalled(signal.unwrap_or(0)),
    }
}

/// A process group of ours; killed when it is dropped before its leader has been reaped (until then its number cannot
/// be another's).
struct Group {
    leader: tokio::process::Child,
    id: Option<u32>,
    reaped: bool,
}

impl Group {
    fn kill(&self) {
        if let (Some(id), false) = (self.id.and_then(|id| i32::try_from(id).ok()), self.reaped) {
            // ESRCH: everybody in it has ended by now.
            let _ = killpg(Pid::from_raw(id), Signal::SIGKILL);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The beginning and the end of a stream, half of the bound each.
struct Bounded {
    half: usize,
    head: Vec<u8>,
    tail: VecDeque<u8>,
    dropped: u64,
}

impl Bounded {
    fn new(max_bytes: usize) -> Self {
        Self { half: max_bytes / 2, head: Vec::new(), tail: VecDeque::new(), dropped: 0 }
    }

    fn push(&mut self, bytes: &[u8]) {
        let (to_head, to_tail) = bytes.split_at(bytes.len().min(self.half - self.head.len()));
        self.head.extend_from_slice(to_head);
        self.tail.extend(to_tail);
        let beyond = self.tail.len().saturating_sub(self.half);
        self.tail.drain(..beyond);
        self.dropped += beyond as u64;
    }

    /// The text, and how many bytes are not in it. At a gap only whole lines are kept: half a line may begin in
    /// the middle of a secret, where nothing tells it from ordinary text any more.
    fn finish(mut self) -> (String, u64) {
        let mut tail = Vec::from(self.tail);
        if self.dropped == 0 {
            self.head.append(&mut tail);
            return (String::from_utf8_lossy(&self.head).into_owned(), 0);
        }
        let head_end = self.head.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let tail_start = tail.iter().position(|byte| *byte == b'\n').map_or(tail.len(), |at| at + 1);
        let left_out = self.dropped + (self.head.len() - head_end + tail_start) as u64;
        let head = String::from_utf8_lossy(&self.head[..head_end]);
        let tail = String::from_utf8_lossy(&tail[tail_start..]);
        (format!("{head}[{left_out} bytes are left out here]\n{tail}"), left_out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn argv(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| word.to_string()).collect()
    }

    async fn run(words: &[&str]) -> Captured {
        capture(&argv(words), &[], Duration::from_secs(10), 64 * 1024).await
    }

    #[tokio::test]
    async fn output_error_and_exit_status_are_kept_in_order() {
        let captured = run(&["sh", "-c", "echo one; echo two >&2; echo three; exit 3"]).await;
        assert_eq!(captured.output, "one\ntwo\nthree\n");
        assert_eq!(captured.ended, Ended::Exited(3));
        assert!(!captured.ended.is_success());
        assert_eq!(run(&["sh", "-c", "kill -TERM $$"]).await.ended.to_string(), "ended by SIGTERM");
    }

    #[tokio::test]
    async fn what_cannot_start_says_why() {
        for (words, says) in [
            (&[] as &[&str], "argv is empty"),
            (&["no-such-program-here"], "no program `no-such-program-here`"),
            (&["/etc/passwd"], "Permission denied"),
        ] {
            let captured = run(words).await;
            assert!(captured.ended.to_string().contains(says), "{words:?}: {}", captured.ended);
        }
    }

    #[tokio::test]
    async fn nothing_of_our_environment_is_handed_on_but_what_the_caller_adds() {
        let added = [("UNWAIT_SERVICE".to_string(), "rpc-order.service".to_string())];
        let captured = capture(&argv(&["env"]), &added, Duration::from_secs(10), 4096).await;
        let mut lines: Vec<_> = captured.output.lines().collect();
        lines.sort_unstable();
        assert_eq!(lines, ["LANG=C", &format!("PATH={PATH}"), "UNWAIT_SERVICE=rpc-order.service"]);
    }

    #[tokio::test]
    async fn standard_input_is_empty_and_the_directory_is_the_root() {
        assert_eq!(run(&["cat"]).await.output, "");
        assert_eq!(run(&["pwd"]).await.output, "/\n");
    }

    /// The pid that the command printed first, once it is gone.
    async fn gone(pid: i32) -> bool {
        for _ in 0..200 {
            // An orphan may stay a zombie where the test's init does not reap; that counts as dead.
            let state = procfs::process::Process::new(pid).and_then(|process| process.stat()).map(|stat| stat.state);
            if !matches!(state, Ok(state) if state != 'Z') {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        false
    }

    #[tokio::test]
    async fn at_the_deadline_the_whole_group_is_killed() {
        let words = argv(&["sh", "-c", "sleep 300 & echo $!; wait"]);
        let captured = capture(&words, &[], Duration::from_millis(300), 4096).await;
        assert_eq!(captured.ended, Ended::DeadlinePassed);
        assert!(captured.took < Duration::from_secs(5), "{:?}", captured.took);
        assert!(gone(captured.output.trim().parse().unwrap()).await, "the child outlived the deadline");
    }

    #[tokio::test]
    async fn a_dropped_wait_kills_the_whole_group() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pid");
        let script = format!("sleep 300 & echo $! > {}; wait", file.display());
        let words = argv(&["sh", "-c", &script]);
        let pid = tokio::select! {
            _ = capture(&words, &[], Duration::from_secs(60), 4096) => panic!("the command ended"),
            pid = async {
                loop {
                    match std::fs::read_to_string(&file).unwrap_or_default().trim().parse() {
                        Ok(pid) => break pid,
                        Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                    }
                }
            } => pid,
        };
        assert!(gone(pid).await, "the child outlived the one who waited");
    }

    #[tokio::test]
    async fn a_command_that_never_stops_talking_is_bounded_in_bytes_and_time() {
        let captured = capture(&argv(&["yes", "word"]), &[], Duration::from_millis(300), 1000).await;
        assert_eq!(captured.ended, Ended::DeadlinePassed);
        assert!(captured.output.len() < 1100, "{}", captured.output.len());
        assert!(captured.left_out > 10_000, "{}", captured.left_out);
        assert!(captured.took < Duration::from_secs(5), "{:?}", captured.took);
    }

    #[tokio::test]
    async fn what_is_left_in_the_background_is_not_waited_for_and_not_killed() {
        let captured = run(&["sh", "-c", "sleep 300 & echo $!"]).await;
        assert_eq!(captured.ended, Ended::Exited(0));
        assert!(captured.took < Duration::from_secs(5), "{:?}", captured.took);
        let pid = captured.output.trim().parse().unwrap();
        nix::sys::signal::kill(Pid::from_raw(pid), Signal::SIGKILL).expect("it still runs");
    }

    #[test]
    fn at_a_gap_only_whole_lines_are_kept() {
        let mut bounded = Bounded::new(20);
        for chunk in ["one\ntwo\npass", "word=hunter2 and more\n", "last\nline\n"] {
            bounded.push(chunk.as_bytes());
        }
        let (text, left_out) = bounded.finish();
        assert_eq!(text, "one\ntwo\n[31 bytes are left out here]\nline\n");
        assert_eq!(left_out, 31);
    }
}

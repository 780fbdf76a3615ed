//! Capturing one bundle: what matters most first, within one deadline.

use std::path::PathBuf;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout_at};

use super::bundle::{FORMAT, Manifest, Missing};
use super::draft::{COMMANDS, Draft};
use super::error::EvidenceError;
use super::holders::{Holders, biggest};
use super::processes::{self, Facts};
use super::{Holder, Request, lines, peers, redact, table};
use crate::command::{Captured, Ended, capture};
use crate::model::Direction;

/// 300,000 rows of some 100 B are 30 MiB.
const TABLE_BYTES: usize = 64 << 20;
/// 100,000 sockets of some 250 B are 24 MiB.
const SOCKETS_BYTES: usize = 32 << 20;
const HISTORY_BYTES: usize = 8 << 20;
const OUTPUT_BYTES: usize = 1 << 20;

/// Processes that are read in full: the biggest holders.
const PROCESSES: usize = 32;
/// For one process: reading one takes a millisecond, unless its memory map is locked.
const PROCESS_TIME: Duration = Duration::from_secs(2);
/// For the journal.
const JOURNAL_TIME: Duration = Duration::from_secs(5);
const JOURNAL_LINES: &str = "200";
/// Left at the end of the deadline for the manifest and the last syncs; a quarter of a short deadline.
const CLOSING_TIME: Duration = Duration::from_secs(5);

/// Captures into the draft that `begin` opens, and gives the bundle its name. `path` is for messages.
pub(super) async fn into_draft(
    request: &Request<'_>,
    path: PathBuf,
    begin: impl FnOnce() -> Result<Draft, EvidenceError> + Send + 'static,
) -> Result<Manifest, EvidenceError> {
    let now = Instant::now();
    let until = now + request.deadline;
    let soft = until - CLOSING_TIME.min(request.deadline / 4);
    let disk = Disk { until, deadline: request.deadline };
    let mut missing = Vec::new();
    if let Some(why) = request.partial {
        for what in ["sockets.jsonl", "peers.json", "summary.txt"] {
            let why = format!("the look was partial, and some sockets may be missing: {why}");
            missing.push(Missing { what: what.into(), why });
        }
    }

    let draft = disk.wait(path, begin).await?;
    let mut writer = Writer { disk, draft };

    let (text, left_out) = table::render(request.table, TABLE_BYTES);
    note_cut(&mut missing, "sockets.txt", left_out);
    writer = writer.add("sockets.txt", text).await?;

    let ranked = peers::rank(request.sockets, request.names, request.at);
    let mut text = serde_json::to_string_pretty(&ranked).expect("peers have string keys and whole numbers only");
    text.push('\n');
    writer = writer.add("peers.json", text).await?;

    // At most half of the time: the journal and the commands are to get theirs.
    let facts = read_processes(request, Instant::now() + soft.duration_since(Instant::now()) / 2, &mut missing).await;
    writer = writer.add("processes.jsonl", lines::write(&facts, usize::MAX).text).await?;

    let mut holders = serde_json::to_string(&Holders::of(request)).expect("whole numbers only");
    holders.push('\n');
    writer = writer.add("holders.json", holders).await?;

    let sockets = lines::sockets(request.sockets, &processes::holders_by_inode(&facts), SOCKETS_BYTES);
    note_cut(&mut missing, "sockets.jsonl", sockets.left_out);
    writer = writer.add("sockets.jsonl", sockets.text).await?;
    writer = writer.add("summary.txt", summary(request, &ranked, &facts)).await?;

    let history = lines::history(request.history, HISTORY_BYTES);
    note_cut(&mut missing, "signals.jsonl", history.left_out);
    writer = writer.add("signals.jsonl", history.text).await?;

    if let Some(unit) = request.unit {
        let argv = ["journalctl", "-u", unit, "-n", JOURNAL_LINES, "--no-pager", "-o", "short-iso"].map(String::from);
        let share = share(soft, request.commands.len() + 1).min(JOURNAL_TIME);
        let captured = capture(&argv, &[], share, OUTPUT_BYTES).await;
        note_captured(&mut missing, "journal.txt", &captured);
        if !matches!(captured.ended, Ended::NotStarted(_)) {
            writer = writer.add("journal.txt", redact::text(&captured.output)).await?;
        }
    }

    for (index, argv) in request.commands.iter().enumerate() {
        let captured = capture(argv, &[], share(soft, request.commands.len() - index), OUTPUT_BYTES).await;
        let file = format!("{COMMANDS}/{:02}.txt", index + 1);
        note_captured(&mut missing, &file, &captured);
        writer = writer.add(&file, told(argv, &captured)).await?;
    }

    let manifest = Manifest {
        format: FORMAT,
        unwait: env!("CARGO_PKG_VERSION").into(),
        incident: request.incident.clone(),
        service: request.service.clone(),
        host: request.host.into(),
        at: request.at,
        files: Vec::new(),
        missing,
    };
    let Writer { disk, draft } = writer;
    disk.wait(draft.path("manifest.json"), move || draft.finish(manifest)).await
}

/// Each of so many still to come gets the same part of the time that is left.
fn share(soft: Instant, to_come: usize) -> Duration {
    soft.saturating_duration_since(Instant::now()) / u32::try_from(to_come.max(1)).unwrap_or(u32::MAX)
}

fn note_cut(missing: &mut Vec<Missing>, file: &str, left_out: usize) {
    if left_out > 0 {
        let why = format!("{left_out} lines are left out: the file has reached its size limit");
        missing.push(Missing { what: file.into(), why });
    }
}

fn note_captured(missing: &mut Vec<Missing>, file: &str, captured: &Captured) {
    if !captured.ended.is_success() {
        missing.push(Missing { what: file.into(), why: redact::text(&captured.ended.to_string()) });
    }
    if captured.left_out > 0 {
        let why = format!("{} bytes of output are left out", captured.left_out);
        missing.push(Missing { what: file.into(), why });
    }
}

/// `commands/NN.txt`.
fn told(argv: &[String], captured: &Captured) -> String {
    let argv = serde_json::to_string(&redact::argv(argv)).expect("strings are always JSON");
    let ended = redact::text(&captured.ended.to_string());
    format!("# {argv}\n# {ended}, after {:.3} s\n{}", captured.took.as_secs_f64(), redact::text(&captured.output))
}

fn summary(request: &Request<'_>, ranked: &peers::Peers, facts: &[Facts]) -> String {
    let inbound = request.sockets.iter().filter(|owned| owned.direction == Direction::Inbound).count();
    let holders: Vec<Holder> = facts
        .iter()
        .map(|process| Holder {
            pid: process.pid,
            leaked: process.leaked,
            command: process.command_line.as_ref().map(|line| one_line(&line.join(" "))),
        })
        .collect();
    let partial =
        request.partial.map(|why| format!("PARTIAL: some sockets may be missing: {why}\n")).unwrap_or_default();
    format!(
        "{} on {}, {}\n{partial}{} sockets in CLOSE_WAIT: {} outbound, {inbound} inbound\n\n{}",
        request.service,
        request.host,
        request.at.strftime("%Y-%m-%d %H:%M:%S UTC"),
        request.sockets.len(),
        request.sockets.len() - inbound,
        peers::summary(ranked, &holders, request.holders.len()),
    )
}

/// A command line for a line of the summary: what is no printable text becomes a space, and it ends at 160 characters.
fn one_line(command: &str) -> String {
    const SHOWN: usize = 160;
    let mut text: String = command.chars().map(|c| if c.is_control() { ' ' } else { c }).take(SHOWN).collect();
    if command.chars().count() > SHOWN {
        text.push('…');
    }
    text
}

/// The biggest holders, in the order of what they hold.
async fn read_processes(request: &Request<'_>, until: Instant, missing: &mut Vec<Missing>) -> Vec<Facts> {
    let biggest = biggest(request.holders);
    let mut facts = Vec::new();
    for (pid, leaked) in biggest.iter().copied().take(PROCESSES) {
        let end = until.min(Instant::now() + PROCESS_TIME);
        match timeout_at(end, spawn_blocking(move || processes::read(pid, leaked))).await {
            Ok(Ok(process)) => {
                let notes = process.unreadable.iter();
                missing.extend(notes.map(|why| Missing { what: format!("process {pid}"), why: why.clone() }));
                facts.push(process);
            }
            Ok(Err(panicked)) => std::panic::resume_unwind(panicked.into_panic()),
            Err(_) => {
                let why = "/proc could not be read in time".into();
                missing.push(Missing { what: format!("process {pid}"), why });
                facts.push(Facts { pid, leaked, ..Facts::default() });
            }
        }
    }
    if biggest.len() > PROCESSES {
        let (count, sockets) = (biggest.len() - PROCESSES, biggest[PROCESSES..].iter().map(|(_, leaked)| leaked).sum());
        let sockets: usize = sockets;
        let why = format!("{count} more processes hold {sockets} of the sockets and are only counted");
        missing.push(Missing { what: "processes.jsonl".into(), why });
    }
    facts
}

/// Work on the disk: on a blocking thread, within the deadline.
#[derive(Clone, Copy)]
struct Disk {
    until: Instant,
    deadline: Duration,
}

impl Disk {
    /// Work that misses the deadline is left to itself; a draft that it holds removes itself when it is through.
    async fn wait<T: Send + 'static>(
        self,
        path: PathBuf,
        work: impl FnOnce() -> Result<T, EvidenceError> + Send + 'static,
    ) -> Result<T, EvidenceError> {
        match timeout_at(self.until, spawn_blocking(work)).await {
            Ok(Ok(result)) => result,
            Ok(Err(panicked)) => std::panic::resume_unwind(panicked.into_panic()),
            Err(_) => Err(EvidenceError::Deadline { path, deadline: self.deadline }),
        }
    }
}

/// A draft between two files: each file takes it to the blocking thread and back.
struct Writer {
    disk: Disk,
    draft: Draft,
}

impl Writer {
    async fn add(self, name: &str, content: String) -> Result<Self, EvidenceError> {
        let Self { disk, mut draft } = self;
        let (path, name) = (draft.path(name), name.to_string());
        let draft = disk.wait(path, move || draft.add(&name, content.as_bytes()).map(|()| draft)).await?;
        Ok(Self { disk, draft })
    }
}

//! `unwait scan` as whoever runs it pays for it: the whole process, beside those that people run today. Beside them, as the
//! floor that no program can be below, a process in C that walks the table once and prints a number.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use serde_json::Value;
use unwait::clock::{Clock, SystemClock};

use crate::agent::PROGRAM;
use crate::crowd::{Crowd, Size};
use crate::figures::{ROUNDS, Table, Took, Unit};
use crate::look::LookCounts;
use crate::walker::Walker;

pub const TITLE: &str =
    "process: `unwait scan --json`, start to end, beside other programs (wall time, least of 15 rounds)";
const SCAN: &str = "unwait scan";
const ROUNDS_WHERE_SLOW: usize = 3; // `ss -tanp` of 300k sockets: some ten seconds a round
const TO_SS_WITH_PROCESSES_AT_MOST: f64 = 1.0 / 50.0;

pub fn measure(crowd: &Crowd, walker: &Walker, table: &mut Table) -> anyhow::Result<()> {
    let size = crowd.size();
    let walk = walker.program().to_str().context("the path of the walk in C")?;
    let slow = size.sockets >= 300_000;
    let rounds_with_processes = if slow { ROUNDS_WHERE_SLOW } else { ROUNDS };
    let (mut scan, mut ss, mut ss_with_processes) = (Spent::default(), Spent::default(), Spent::default());
    let (mut once, mut ages) = (Spent::default(), Spent::default());
    for round in 0..ROUNDS {
        // Without a configuration.
        let output = scan.run(PROGRAM, &["scan", "--json", "--config", "/nonexistent"])?;
        crowd.check("`unwait scan`", &seen(&output)?)?;
        for (word, spent) in [("once", &mut once), ("ages", &mut ages)] {
            let said = String::from_utf8_lossy(&spent.run(walk, &[word])?).trim().parse();
            crowd.check_total("the walk in C", said.context("what the walk in C says")?)?;
        }
        for (arguments, spent, rounds) in
            [("-tan", &mut ss, ROUNDS), ("-tanp", &mut ss_with_processes, rounds_with_processes)]
        {
            if round < rounds {
                let output = spent.run("ss", &[arguments, "state", "close-wait"])?;
                crowd.check_total(&format!("`ss {arguments}`"), rows(&output))?;
            }
        }
    }
    let to_ss_at_most = if slow { 0.6 } else { 0.4 };
    let with_processes = (size.sockets >= 100_000).then_some(TO_SS_WITH_PROCESSES_AT_MOST);
    compare(table, size, SCAN, "ss -tan state close-wait", (&scan, &ss), Some(to_ss_at_most));
    compare(table, size, "one walk in C", "ss -tan state close-wait", (&once, &ss), None);
    compare(table, size, "one walk in C that asks for ages", "ss -tan state close-wait", (&ages, &ss), None);
    compare(table, size, SCAN, "ss -tanp state close-wait", (&scan, &ss_with_processes), with_processes);
    if slow {
        table.note(format!("{size}: {rounds_with_processes} rounds of `ss -tanp`, of which one takes seconds"));
    }
    let mut lsof = Spent::default();
    match lsof.run("lsof", &["-nP", "-iTCP", "-sTCP:CLOSE_WAIT"]) {
        Ok(output) => {
            crowd.check_total("`lsof`", rows(&output))?;
            compare(table, size, SCAN, "lsof -nP -iTCP -sTCP:CLOSE_WAIT, 1 round", (&scan, &lsof), None);
        }
        Err(error) if is_absent(&error) => table.note(format!("{size}: lsof is not installed")),
        Err(error) => return Err(error),
    }
    Ok(())
}

/// A ratio of wall times; beside it that of CPU times, which the machine's other load does not lengthen.
fn compare(
    table: &mut Table,
    size: Size,
    program: &str,
    other: &str,
    (spent, base): (&Spent, &Spent),
    at_most: Option<f64>,
) {
    let milliseconds = |took: &Took| 1e3 * took.least().as_secs_f64();
    let (wall, cpu) = (milliseconds(&spent.wall), milliseconds(&spent.cpu));
    let (base_wall, base_cpu) = (milliseconds(&base.wall), milliseconds(&base.cpu));
    let from = format!(
        "{wall:.1} ms / {base_wall:.1} ms; CPU {cpu:.1} ms / {base_cpu:.1} ms, {}",
        Unit::Times.show(cpu / base_cpu)
    );
    table.figure(size, format!("{program} / {other}"), (wall / base_wall, Unit::Times), at_most, from);
}

/// What the rounds of one program took.
#[derive(Debug, Default)]
struct Spent {
    wall: Took,
    cpu: Took,
}

impl Spent {
    /// Runs it to its end and reads what it says.
    fn run(&mut self, program: &str, arguments: &[&str]) -> anyhow::Result<Vec<u8>> {
        let file = Path::new(program).file_name().unwrap_or_default();
        let name = || format!("{} {}", file.display(), arguments.join(" "));
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null());
        let (cpu, begin) = (cpu_of_ended_children()?, SystemClock.monotonic());
        let output = command.output().with_context(name)?;
        self.wall.push(SystemClock.monotonic() - begin);
        self.cpu.push(cpu_of_ended_children()? - cpu);
        let said = || String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{}: {}: {}", name(), output.status, said());
        Ok(output.stdout)
    }
}

fn cpu_of_ended_children() -> anyhow::Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).context("getrusage(RUSAGE_CHILDREN)")?;
    let microseconds = (usage.user_time() + usage.system_time()).num_microseconds();
    Ok(Duration::from_micros(microseconds.unsigned_abs()))
}

fn is_absent(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == ErrorKind::NotFound)
}

/// Lines but for the heading.
fn rows(output: &[u8]) -> usize {
    output.iter().filter(|byte| **byte == b'\n').count().saturating_sub(1)
}

fn seen(output: &[u8]) -> anyhow::Result<LookCounts> {
    let said: Value = serde_json::from_slice(output).context("what `unwait scan --json` says")?;
    let count = |value: &Value| value.as_u64().and_then(|count| usize::try_from(count).ok());
    let mut services = BTreeMap::new();
    for service in said["services"].as_array().context("`services` of `unwait scan --json`")? {
        let name = service["service"].as_str().context("`service` of `unwait scan --json`")?;
        services.insert(name.to_owned(), count(&service["close_wait"]).unwrap_or(0));
    }
    let host = count(&said["host.close_wait"]).context("`host.close_wait` of `unwait scan --json`")?;
    Ok(LookCounts { host, services, sending: 0 })
}

//! `cargo bench --bench scan`: every figure that this project states of its cost, as ratios. See README.md.
//!
//! Times are printed and never judged; a count that is wrong ends the bench with an error.

mod agent;
mod child;
mod crowd;
mod figures;
mod holder;
mod look;
mod machine;
mod parts;
mod sleepers;
mod walker;

use std::process::ExitCode;

use anyhow::bail;
use strum::VariantNames;

use crowd::{BenchCgroup, Crowd, Size};
use figures::Table;
use machine::OwnCgroups;
use walker::Walker;

const LADDER: [Size; 3] = [Size::new(10_000, 1_000), Size::new(100_000, 10_000), Size::new(300_000, 10_000)];
/// Small, so that what processes cost would show beside the walk.
const FOR_PROCESSES: Size = LADDER[0];
const FOR_IDLE: Size = LADDER[1];

#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::EnumString, strum::VariantNames)]
#[strum(serialize_all = "snake_case")]
enum Part {
    Walk,
    Process,
    Idle,
    Memory,
    Processes,
    Replay,
}

impl Part {
    const ALL: [Self; 6] = [Self::Walk, Self::Process, Self::Idle, Self::Memory, Self::Processes, Self::Replay];

    fn is_measured_at(self, size: Size) -> bool {
        match self {
            Self::Walk | Self::Process => true,
            Self::Idle => size == FOR_IDLE,
            Self::Processes => size == FOR_PROCESSES,
            // With a crowd of its own, which it makes grow.
            Self::Memory => false,
            // Without sockets.
            Self::Replay => false,
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Walk => parts::walk::TITLE,
            Self::Process => parts::process::TITLE,
            Self::Idle => parts::idle::TITLE,
            Self::Memory => parts::memory::TITLE,
            Self::Processes => parts::processes::TITLE,
            Self::Replay => parts::replay::TITLE,
        }
    }
}

/// The role of a bench that runs in a world of its own.
const OWN_WORLD: &str = "in-own-world";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match arguments.split_first() {
        Some((role, rest)) if role == holder::ROLE => holder::main(rest),
        Some((role, _)) if role == sleepers::ROLE => sleepers::main(),
        Some((role, rest)) if role == OWN_WORLD => {
            machine::bring_up_the_loopback().and_then(|()| parts_of(rest)).and_then(|parts| bench(&parts, true))
        }
        _ => match machine::run_in_own_world(OWN_WORLD, &arguments) {
            Ok(ended) => return if ended.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE },
            Err(why) => {
                println!("In the machine's own network, whose other sockets count too: {why:#}");
                parts_of(&arguments).and_then(|parts| bench(&parts, false))
            }
        },
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("scan bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// All of them where none is named. Cargo adds `--bench`.
fn parts_of(arguments: &[String]) -> anyhow::Result<Vec<Part>> {
    let mut parts = Vec::new();
    for word in arguments.iter().filter(|word| *word != "--bench") {
        match word.parse() {
            Ok(part) => parts.push(part),
            Err(_) => bail!("no part is called `{word}`; the parts are {}", Part::VARIANTS.join(", ")),
        }
    }
    Ok(if parts.is_empty() { Part::ALL.to_vec() } else { parts })
}

fn bench(parts: &[Part], own_network: bool) -> anyhow::Result<()> {
    let mut tables: Vec<(Part, Table)> = parts.iter().map(|part| (*part, Table::new(part.title()))).collect();
    let outcome = measure(&mut tables, own_network);
    // What was measured before something went wrong is still true.
    for (_, table) in &tables {
        print!("{table}");
    }
    outcome
}

fn measure(tables: &mut [(Part, Table)], own_network: bool) -> anyhow::Result<()> {
    machine::raise_descriptors();
    let place = place(own_network);
    let mut walker = Walker::build()?;
    for (_, table) in tables.iter_mut().filter(|(part, _)| *part == Part::Idle) {
        eprintln!("no sockets: idle");
        parts::idle::measure_quiet(table)?;
    }
    for (_, table) in tables.iter_mut().filter(|(part, _)| *part == Part::Replay) {
        eprintln!("no sockets: replay");
        parts::replay::measure(table)?;
    }
    climb(&place, &mut walker, tables)?;
    for (_, table) in tables.iter_mut().filter(|(part, _)| *part == Part::Memory) {
        eprintln!("{}: memory", parts::memory::BASE);
        let mut crowd = Crowd::start(&place)?;
        match crowd.grow_to(parts::memory::BASE, &mut walker)? {
            None => parts::memory::measure(&mut crowd, &mut walker, table)?,
            Some(why) => table.note(format!("{}: {why}", parts::memory::BASE)),
        }
    }
    Ok(())
}

/// Up the ladder with one crowd that grows, as far as the machine allows.
fn climb(place: &BenchCgroup, walker: &mut Walker, tables: &mut [(Part, Table)]) -> anyhow::Result<()> {
    let mut crowd = Crowd::start(place)?;
    for size in LADDER {
        let mut here: Vec<_> = tables.iter_mut().filter(|(part, _)| part.is_measured_at(size)).collect();
        if here.is_empty() {
            continue;
        }
        if let Some(why) = crowd.grow_to(size, walker)? {
            here.iter_mut().for_each(|(_, table)| table.note(format!("{size}: {why}")));
            break;
        }
        for (part, table) in here {
            eprintln!("{size}: {}", part.title());
            match part {
                Part::Walk => parts::walk::measure(&crowd, walker, table)?,
                Part::Process => parts::process::measure(&crowd, walker, table)?,
                Part::Idle => parts::idle::measure(&crowd, table)?,
                Part::Processes => parts::processes::measure(&crowd, table)?,
                Part::Memory | Part::Replay => {}
            }
        }
    }
    Ok(())
}

/// Says what the machine does not allow.
fn place(own_network: bool) -> BenchCgroup {
    let cgroups = OwnCgroups::make();
    if let Err(why) = &cgroups {
        println!("Without cgroups, so that what a look sees of each service is not checked: {why:#}");
    }
    BenchCgroup { own_network, cgroups: cgroups.ok() }
}

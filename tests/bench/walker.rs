//! The raw walk in C (`walk.c`), built by this bench and kept running.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use nix::unistd::Pid;

use super::child::Child;

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/bench/walk.c");

#[derive(Clone, Copy, Debug)]
pub enum Walk {
    /// Both families in one dump.
    One,
    /// IPv4, then IPv6.
    Two,
}

#[derive(Clone, Copy, Debug)]
pub struct Walked {
    /// CPU time of the walk.
    pub took: Duration,
    pub sockets: usize,
}

#[derive(Debug)]
pub struct Walker {
    program: PathBuf,
    running: Child,
}

impl Walker {
    pub fn build() -> anyhow::Result<Self> {
        let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("walk");
        let mut compiler = Command::new("cc");
        compiler.args(["-O2", "-Wall", "-Wextra", "-o"]).arg(&program).arg(SOURCE);
        let built = compiler.status().context("cc, which builds the walk in C (package gcc)")?;
        ensure!(built.success(), "cc did not build {SOURCE}: {built}");
        let running = Child::start("the walk in C", &mut Command::new(&program))?;
        Ok(Self { program, running })
    }

    /// The program itself, to be run from start to end.
    pub fn program(&self) -> &Path {
        &self.program
    }

    pub fn pid(&self) -> Pid {
        self.running.pid()
    }

    pub fn walk(&mut self, walk: Walk) -> anyhow::Result<Walked> {
        let answer = self.running.ask(match walk {
            Walk::One => "one",
            Walk::Two => "two",
        })?;
        let said = || format!("the walk in C said `{answer}`");
        let (took, sockets) = answer.split_once(' ').with_context(said)?;
        let took = Duration::from_nanos(took.parse().with_context(said)?);
        Ok(Walked { took, sockets: sockets.parse().with_context(said)? })
    }
}

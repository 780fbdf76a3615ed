//! How the demo ends: what became of it all, where the evidence lies and what it says, and what to do next.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::super::{Failure, Outcome};
use super::narrator::{Narrator, Tone};
use super::stage::{self, AsItIs, INSTANCE, Stage};
use crate::daemon::opening::RunError;
use crate::evidence::peers::Peers;
use crate::model::{self, Message};

/// Who closed, and the first two processes that hold the sockets; the others are like them.
const SUMMARY_LINES: usize = 9;

/// What the curtain falls for.
#[derive(Debug)]
pub enum Fell {
    /// The incident has ended.
    AtTheEnd,
    /// By this signal.
    Interrupted(&'static str),
    Failed(String),
}

impl Fell {
    /// Of an agent that ends although nobody asked it to.
    pub fn of_agent(ended: Result<(), RunError>) -> Self {
        Self::Failed(match ended {
            Ok(()) => "the agent ended by itself".into(),
            Err(error) => format!("the agent does not run: {error}"),
        })
    }

    /// Of an agent that was asked to end.
    pub fn unless(self, ended: Result<(), RunError>) -> Self {
        match ended {
            Ok(()) => self,
            Err(error) => Self::Failed(format!("the agent could not end: {error}")),
        }
    }
}

/// The end of the story.
#[derive(Debug)]
pub struct Curtain {
    pub dry_run: bool,
    pub stage: Option<Stage>,
    /// The agent's word on the incident.
    pub end: Option<Message>,
    pub fell: Fell,
    pub before_and_after: Option<(AsItIs, AsItIs)>,
    pub chat: Vec<String>,
}

impl Curtain {
    /// Something was in the way before the agent could begin.
    pub fn never_rose(dry_run: bool, error: String) -> Self {
        Self { dry_run, stage: None, end: None, fell: Fell::Failed(error), before_and_after: None, chat: Vec::new() }
    }

    /// Says how it ended. An error is a story that did not come out as it should.
    pub fn fall(mut self, narrator: &Narrator) -> Outcome {
        let evidence = self.evidence();
        let wrong = self.wrong(evidence.as_deref());
        let Some(stage) = self.stage.take() else {
            // Nothing was shown yet: an error as any other.
            narrator.end(self.object(narrator, None, None, wrong.as_deref()));
            return Err(Failure::Wrong(format!("unwait demo: {}", wrong.unwrap_or_default())));
        };
        match &wrong {
            None => self.say_the_end(narrator),
            Some(wrong) => narrator.entry(Tone::Bad, "end", wrong, &[]),
        }
        if let Some(evidence) = &evidence {
            say_the_evidence(narrator, evidence);
        }
        if !self.chat.is_empty() {
            narrator.say("\nThe chat (a webhook on this machine) was told:");
            for title in &self.chat {
                narrator.say(format_args!("  {title}"));
            }
        }
        let kept = self.keep_or_strike(stage, evidence.is_some());
        self.say_what_is_left(narrator, kept.as_ref());
        narrator.end(self.object(narrator, kept.as_ref(), evidence.as_deref(), wrong.as_deref()));
        wrong.map_or(Ok(()), |_| Err(Failure::Wrong(String::new())))
    }

    /// What did not come out as it should; `None`: all of it did.
    fn wrong(&self, evidence: Option<&Path>) -> Option<String> {
        match &self.fell {
            Fell::Failed(error) => return Some(error.clone()),
            Fell::Interrupted(signal) => return Some(format!("ended by {signal}")),
            Fell::AtTheEnd => {}
        }
        let (Some(end), Some((before, after))) = (&self.end, &self.before_and_after) else {
            return Some("the agent has not told how the incident ended".into());
        };
        // Whether it would help is not known of a dry run.
        let reason = if self.dry_run { model::Reason::Unverified } else { model::Reason::Recovered };
        if end.outcome != Some(model::Outcome::Completed) || end.reason != Some(reason) {
            return Some(end.to_string());
        }
        if evidence.is_none() {
            return Some("no evidence was kept".into());
        }
        let same_traffic = before.registry == after.registry;
        match (self.dry_run, before.pid == after.pid) {
            (true, true) if same_traffic => None,
            (true, _) => Some(format!("dry-run has changed something: before {before:?}, after {after:?}")),
            (false, true) => Some(format!("the service was not restarted: pid {} as before", after.pid)),
            (false, false) if !same_traffic => Some(format!("the registry is not what it was: {}", after.registry)),
            (false, false) => None,
        }
    }

    fn say_the_end(&self, narrator: &Narrator) {
        let Some((before, after)) = &self.before_and_after else { return };
        match self.dry_run {
            true => narrator.entry(
                Tone::Good,
                "end",
                "dry-run completed: nothing was changed, and that was compared:",
                &[format!("pid {} as before; the registry's file is the same, byte by byte", after.pid)],
            ),
            false => narrator.entry(
                Tone::Good,
                "end",
                "completed: restarted, healthy, back in traffic, and the sockets are gone",
                &[
                    format!(
                        "pid {} became {}; {INSTANCE} takes traffic, its record is what it was",
                        before.pid, after.pid
                    ),
                    format!("all of it took {:.0} s", narrator.elapsed().as_secs_f64()),
                ],
            ),
        }
    }

    fn incident(&self) -> Option<&str> {
        self.end.as_ref().and_then(|end| end.incident.as_ref()).map(|incident| incident.0.as_str())
    }

    /// The bundle, where there is one.
    fn evidence(&self) -> Option<PathBuf> {
        let dir = self.stage.as_ref()?.evidence(self.incident()?);
        dir.is_dir().then_some(dir)
    }

    /// Whoever stops the demo before it has seen anything is not left with its files.
    fn keep_or_strike(&self, stage: Stage, has_evidence: bool) -> Option<Stage> {
        match &self.fell {
            // What cannot be removed is no worse than what is kept.
            Fell::Interrupted(_) if !has_evidence => drop(stage.strike()),
            _ => return Some(stage),
        }
        None
    }

    fn say_what_is_left(&self, narrator: &Narrator, kept: Option<&Stage>) {
        let Some(stage) = kept else {
            return narrator.say("\nNothing of the demo runs any more, and its files are removed.");
        };
        let dir = stage.dir.display();
        narrator
            .say("\nNothing of the demo runs any more. Its files (configuration, evidence, journal, log) are kept:");
        narrator.say(format_args!("  {dir}\n      remove them with: rm -r {dir}"));
        if matches!(self.fell, Fell::Failed(_)) {
            narrator.say(format_args!("  {}\n      the agent's own log", stage.path(stage::AGENT_LOG).display()));
        }
        let unwait = std::env::args().next().unwrap_or("unwait".into());
        narrator.say("\nNext:");
        narrator.say(format_args!("  {unwait} scan\n      who holds sockets in CLOSE_WAIT on this host, now"));
        if let Some(incident) = self.incident() {
            let show = format!("{unwait} show {incident} --config {dir}");
            narrator.say(format_args!("  {show}\n      this incident, step by step"));
        }
        let check = format!("{unwait} check --config {dir}");
        narrator.say(format_args!("  {check}\n      the configuration that this ran with; begin yours from it"));
    }

    fn object(&self, narrator: &Narrator, kept: Option<&Stage>, evidence: Option<&Path>, wrong: Option<&str>) -> Value {
        let end = self.end.as_ref();
        let interrupted = matches!(self.fell, Fell::Interrupted(_)).then_some(model::Reason::ShuttingDown);
        let reason = end.and_then(|end| end.reason).or(interrupted).map(|reason| reason.as_str());
        let outcome = match (end.and_then(|end| end.outcome), &self.fell) {
            (Some(model::Outcome::Completed), Fell::AtTheEnd) if wrong.is_none() => "completed",
            (Some(outcome), Fell::Interrupted(_)) => outcome.into(),
            (Some(outcome), Fell::AtTheEnd) if outcome != model::Outcome::Completed => outcome.into(),
            (None, Fell::Interrupted(_)) => "interrupted",
            _ => "failed",
        };
        json!({
            "outcome": outcome,
            "reason": reason,
            "evidence": evidence,
            "closed_by": evidence.and_then(closed_by),
            "incident": self.incident(),
            "dry_run": self.dry_run,
            "changed": self.before_and_after.as_ref().map(|(before, after)| before != after),
            "wrong": wrong,
            "files": kept.map(|stage| &stage.dir),
            "seconds": narrator.elapsed().as_millis() as f64 / 1_000.0,
        })
    }
}

fn say_the_evidence(narrator: &Narrator, evidence: &Path) {
    narrator.say("\nThe evidence that was kept, and what it says of who closed on the service:");
    narrator.say(format_args!("  {}", evidence.display()));
    let summary = fs::read_to_string(evidence.join("summary.txt")).unwrap_or_default();
    for line in summary.lines().take(SUMMARY_LINES).chain(["(and so on: summary.txt there, and more beside it)"]) {
        narrator.say(format_args!("  | {line}"));
    }
}

/// The peer that closed most of them, as the bundle ranks it.
fn closed_by(evidence: &Path) -> Option<String> {
    let peers: Peers = serde_json::from_slice(&fs::read(evidence.join("peers.json")).ok()?).ok()?;
    let first = peers.peers.first()?;
    Some(match first.names.as_slice() {
        [] => first.peer.clone(),
        names => format!("{} ({})", first.peer, names.join(", ")),
    })
}

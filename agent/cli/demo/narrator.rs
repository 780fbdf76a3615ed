//! What the demo says: a timeline for people, or one JSON object a line.
//!
//! Whoever stops reading (`unwait demo | head`) does not stop the story: a line that cannot be written is dropped.

use std::cell::Cell;
use std::fmt::Display;
use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::clock::Clock;
use crate::model::{EventKind, Message};

/// Wide enough for the longest step, `health_check`.
const LABEL: usize = 13;
/// Seconds, and two spaces.
const MARGIN: usize = 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Plain,
    Coloured,
    Json,
}

/// How a line is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    Neutral,
    Bad,
    Deciding,
    Good,
}

impl Tone {
    fn ansi(self) -> &'static str {
        match self {
            Self::Neutral => "36",
            Self::Bad => "31",
            Self::Deciding => "33",
            Self::Good => "32",
        }
    }
}

pub struct Narrator {
    form: Form,
    clock: Arc<dyn Clock>,
    began: Duration,
    /// An incident is under way.
    acting: Cell<bool>,
}

impl std::fmt::Debug for Narrator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Narrator").field("form", &self.form).finish_non_exhaustive()
    }
}

impl Narrator {
    pub fn new(json: bool, clock: Arc<dyn Clock>) -> Self {
        let coloured = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        let form = match (json, coloured) {
            (true, _) => Form::Json,
            (false, true) => Form::Coloured,
            (false, false) => Form::Plain,
        };
        let began = clock.monotonic();
        Self { form, clock, began, acting: Cell::new(false) }
    }

    pub fn elapsed(&self) -> Duration {
        self.clock.monotonic().saturating_sub(self.began)
    }

    /// A line outside the timeline; for people only.
    pub fn say(&self, line: impl Display) {
        if self.form != Form::Json {
            self.write(line);
        }
    }

    /// An entry of the timeline: a label, the first line, and what belongs to it; for people only.
    pub fn entry(&self, tone: Tone, label: &str, first: impl Display, more: &[String]) {
        if self.form == Form::Json {
            return;
        }
        let seconds = self.elapsed().as_secs_f64();
        let padded = format!("{label:<LABEL$}");
        let label = match self.form {
            Form::Coloured => format!("\x1b[1;{}m{padded}\x1b[0m", tone.ansi()),
            _ => padded,
        };
        self.write(format_args!("{seconds:6.1} s  {label} {first}"));
        for line in more {
            self.write(format_args!("{:width$}{line}", "", width = MARGIN + LABEL + 1));
        }
    }

    /// One JSON object; for machines only.
    fn object(&self, at: Timestamp, event: &str, fields: Value) {
        if self.form != Form::Json {
            return;
        }
        let mut object = Map::new();
        object.insert("at".into(), json!(at));
        object.insert("event".into(), event.into());
        if let Value::Object(fields) = fields {
            object.extend(fields);
        }
        self.write(Value::Object(object));
    }

    fn write(&self, line: impl Display) {
        let _ = writeln!(std::io::stdout(), "{line}");
    }

    /// What the agent tells, as it tells it. `traffic`: which instances clients are sent to now.
    pub fn told(&self, message: &Message, traffic: &[String]) {
        let service = message.service.as_ref().map(|service| service.as_str());
        match message.event {
            EventKind::Breach => {
                let policy = message.policy.as_deref().unwrap_or_default();
                self.entry(Tone::Bad, "breach", format!("the condition of {policy} has held for 3 s:"), &message.lines);
                let fields = json!({ "service": service, "policy": message.policy, "because": message.lines });
                self.object(message.at, "breach", fields);
            }
            EventKind::Start => {
                self.acting.set(true);
                let act = if message.dry_run { "act, if this were not a dry-run" } else { "act" };
                let first = format!("{act}: no guard objects. The runbook isolate-restart-recover:");
                self.entry(Tone::Deciding, "decision", first, &RUNBOOK);
                let fields = json!({
                    "decision": if message.dry_run { "would_act" } else { "act" },
                    "service": service, "incident": message.incident, "because": message.lines,
                });
                self.object(message.at, "decision", fields);
            }
            // While its own incident is under way, "nothing further is begun" is no news.
            EventKind::Held if self.acting.get() => {}
            EventKind::Held => {
                self.entry(Tone::Bad, "decision", "nothing is done:", &message.lines);
                let reason = message.reason.map(|reason| reason.as_str());
                let fields =
                    json!({ "decision": "held", "service": service, "reason": reason, "because": message.lines });
                self.object(message.at, "decision", fields);
            }
            EventKind::Step => self.step(message, traffic),
            EventKind::Recovered => self.entry(Tone::Good, "signal", "the condition no longer holds", &[]),
            EventKind::Stuck if message.outcome.is_none() => {
                self.entry(Tone::Bad, "waiting", &message.title, &message.lines);
            }
            // The end is told when the demo has looked at what became of it all.
            EventKind::End
            | EventKind::Stuck
            | EventKind::Approval
            | EventKind::Operator
            | EventKind::Review
            | EventKind::Test => {}
        }
    }

    fn step(&self, message: &Message, traffic: &[String]) {
        let Some(step) = &message.step else { return };
        let tone = match step.outcome.as_str() {
            "done" | "undone" => Tone::Good,
            _ => Tone::Bad,
        };
        let mut lines = message.lines.iter();
        let detail = lines.next().map(String::as_str).unwrap_or_default();
        let mut more: Vec<String> = lines.cloned().collect();
        // Evidence is kept in a dry-run too.
        let pretended = message.dry_run && step.name != "snapshot";
        let first = match pretended {
            true => detail.to_owned(),
            false => format!("{}: {detail}", step.outcome),
        };
        if !pretended && matches!(step.name.as_str(), "drain" | "restore") {
            more.push(format!("the registry's file now sends clients to {}", traffic.join(", ")));
        }
        self.entry(tone, &step.name, first, &more);
        let fields = json!({
            "step": step.name, "outcome": step.outcome, "detail": detail, "dry_run": message.dry_run,
            "in_traffic": traffic,
        });
        self.object(message.at, "step", fields);
    }

    /// The last object.
    pub fn end(&self, fields: Value) {
        self.object(self.clock.now(), "end", fields);
    }
}

/// The demo's runbook, for people.
static RUNBOOK: std::sync::LazyLock<Vec<String>> = std::sync::LazyLock::new(|| {
    [
        ("snapshot", "keep the evidence before anything is touched"),
        ("drain", "out of the registry: new clients go elsewhere"),
        ("wait_drained", "let the clients that are there finish"),
        ("restart", "the point of no return; up to here all of it can be undone"),
        ("health_check", "nothing unhealthy goes back into traffic"),
        ("restore", "put back into the registry exactly what was there"),
        ("verify", "watch it in traffic: healthy, and without the leak?"),
    ]
    .map(|(step, why)| format!("  {step:<14}{why}"))
    .into()
});

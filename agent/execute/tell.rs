//! The words of an incident: what people are told, built from the plan and the events alone.

use std::time::Duration;

use jiff::Timestamp;

use crate::model::incident::Ending;
use crate::model::message::StepTold;
use crate::model::{Blame, EventKind, Message, Outcome, Plan, Reason, Trigger, duration};

use super::saga::{Event, Helped};
use super::seen::Look;

/// Builds the messages of one plan.
#[derive(Clone, Copy, Debug)]
pub struct MessageBuilder<'a> {
    pub plan: &'a Plan,
    pub host: &'a str,
    pub labels: &'a [String],
    pub at: Timestamp,
}

/// What the end of an incident says beside its outcome.
#[derive(Clone, Debug, Default)]
pub struct EndFacts {
    pub blame: Blame,
    /// It was drained at that time.
    pub out_since: Option<Timestamp>,
    /// It was put back at that time.
    pub in_again: Option<Timestamp>,
}

impl MessageBuilder<'_> {
    fn message(&self, event: EventKind, title: String, lines: Vec<String>) -> Message {
        Message {
            labels: self.labels.to_vec(),
            service: Some(self.plan.target.service.clone()),
            policy: Some(self.plan.policy.clone()),
            incident: Some(self.plan.incident.clone()),
            dry_run: self.plan.dry_run,
            lines,
            ..Message::new(event, self.host, self.at, title)
        }
    }

    pub fn start(&self, why: Vec<String>) -> Message {
        let by = match &self.plan.trigger {
            Trigger::Breach => format!("policy {}", self.plan.policy),
            Trigger::Person { who } => format!("by hand, {who}"),
        };
        let verb = if self.plan.dry_run { "would begin" } else { "begins" };
        let title = format!("{} on {}: {} {verb} ({by})", self.plan.target.service, self.host, self.plan.runbook);
        let mut lines = why;
        lines.extend(self.plan.rung.clone());
        let steps: Vec<&str> = self.plan.steps.iter().map(|planned| planned.step.name()).collect();
        lines.push(format!("steps: {}", steps.join(", ")));
        self.message(EventKind::Start, title, lines)
    }

    /// `outcome`: `done`, `failed`, `undone`, …
    pub fn step(&self, step: &str, outcome: &str, detail: &str) -> Message {
        let went = went(step, outcome, self.plan.dry_run);
        let title = format!("{} on {}: {step} {went}", self.plan.target.service, self.host);
        let mut message = self.message(EventKind::Step, title, vec![detail.into()]);
        message.step = Some(StepTold { name: step.into(), outcome: outcome.into() });
        message
    }

    /// What a `notify` step says.
    pub fn said(&self, text: &str) -> Message {
        let title = format!("{} on {}: {text}", self.plan.target.service, self.host);
        let mut message = self.message(EventKind::Step, title, Vec::new());
        message.step = Some(StepTold { name: "notify".into(), outcome: "said".into() });
        message
    }

    /// Nothing is done about a breach, and why.
    pub fn held(&self, refusal: &dyn std::fmt::Display, reason: Reason) -> Message {
        let title = format!("{} on {}: no action: {reason}", self.plan.target.service, self.host);
        // Whoever is told only of what needs a person is told of this too.
        let event = if reason == Reason::RungsSpent { EventKind::Stuck } else { EventKind::Held };
        let mut message = self.message(event, title, vec![refusal.to_string()]);
        message.incident = None;
        message.reason = Some(reason);
        message
    }

    /// `drained`: it rests drained, and was seen last so.
    pub fn end(&self, event: EventKind, ending: &Ending, drained: Option<Option<Look>>, told: &EndFacts) -> Message {
        let what = match (ending.outcome, self.plan.dry_run) {
            // What would come of steps that were not taken is not known.
            (Outcome::Completed, true) => "dry-run: every step would be taken".into(),
            (outcome, true) => format!("dry-run: would end {outcome}: {}", ending.reason),
            (Outcome::Stuck, _) => format!("needs a person: {}", ending.reason),
            (outcome, _) => format!("{outcome}: {}", ending.reason),
        };
        let title = format!("{} on {}: {what}", self.plan.target.service, self.host);
        let says = if self.plan.dry_run { "nothing was changed" } else { ending.reason.says() };
        let mut lines = vec![says.to_string()];
        if ending.detail != ending.reason.says() {
            lines.push(ending.detail.clone());
        }
        if ending.outcome == Outcome::Stuck && !self.plan.dry_run {
            let service = &self.plan.target.service;
            let place = match (drained, ending.reason) {
                (Some(look), _) => drained_at(service.as_str(), look),
                (None, Reason::RecordChanged) => format!("{service} stands in its registries as somebody else left it"),
                (None, _) => format!("{service} may get traffic"),
            };
            lines.push(format!("{place}. unwait does nothing more to the service (latched) until a person decides."));
        }
        lines.extend(told.blame.lines());
        lines.extend(told.out_since.filter(|_| !self.plan.dry_run).map(|since| match told.in_again {
            Some(until) => {
                let seconds = until.duration_since(since).unsigned_abs().as_secs();
                format!("out of traffic for {}", duration::format(Duration::from_secs(seconds)))
            }
            None => format!("out of traffic since {since:.0}"),
        }));
        lines.push(format!("look:   unwait show {}", self.plan.incident));
        if ending.outcome == Outcome::Stuck && !self.plan.dry_run {
            let service = &self.plan.target.service;
            lines.push(format!("decide: unwait resolve {service} --restore   (or --leave)"));
        }
        let mut message = self.message(event, title, lines);
        message.outcome = Some(ending.outcome);
        message.reason = Some(ending.reason);
        message
    }

    /// The agent was asked to stop, and the next start goes on. What is out of traffic until then needs somebody who
    /// sees to it that there is a next start.
    pub fn left(&self, drained: Option<Option<Look>>) -> Message {
        let Some(look) = drained.filter(|_| !self.plan.dry_run) else {
            return self.step("plan", "left", "the agent stops; the incident goes on at its next start");
        };
        let service = &self.plan.target.service;
        let title = format!("{service} on {}: the agent stops before it has put the service back", self.host);
        let lines = vec![
            format!(
                "{}. unwait puts nothing back until the agent runs again: systemctl start unwait.",
                drained_at(service.as_str(), look)
            ),
            format!("look:   unwait show {}", self.plan.incident),
        ];
        self.message(EventKind::Stuck, title, lines)
    }

    /// A wait that passed its deadline and goes on. `look`: where the service was seen last.
    pub fn still_trying(&self, what: &str, error: &str, place: TrafficState, look: Option<Look>) -> Message {
        let service = &self.plan.target.service;
        let title = format!("{service} on {}: {what} is still being tried", self.host);
        let stands = match look {
            Some(look) if place == TrafficState::OutOfTraffic && !look.out => {
                format!("{service} may be IN TRAFFIC: {}", not_all_out(look))
            }
            Some(look) => format!("{service} was {place} when last seen, {} ago", ago(look)),
            None => format!("{service} is {place} by unwait's journal; {UNSEEN}"),
        };
        let lines = vec![
            error.to_string(),
            format!("{stands}. unwait does nothing else to the service until this succeeds."),
            format!("look: unwait show {}", self.plan.incident),
        ];
        self.message(EventKind::Stuck, title, lines)
    }

    /// An undo is done by the registry's record, and its clients' view does not show it.
    pub fn not_found(&self, not_yet: &str) -> Message {
        let title = format!("{} on {}: put back, but clients do not find it", self.plan.target.service, self.host);
        let lines = vec![
            not_yet.to_string(),
            "unwait has taken its drain back. Look at the health checks of the service and at its registry.".into(),
            format!("look: unwait show {}", self.plan.incident),
        ];
        self.message(EventKind::Stuck, title, lines)
    }
}

/// From a look until it is said with it when that was.
const JUST_NOW: Duration = Duration::from_secs(10);
const UNSEEN: &str = "not all its registries have answered since the agent started";

fn ago(look: Look) -> String {
    duration::format(Duration::from_secs(look.ago.as_secs()))
}

fn not_all_out(look: Look) -> String {
    format!("not all its registries showed it out of traffic when last asked, {} ago", ago(look))
}

/// Where a service stands that rests drained: what was seen, and when.
fn drained_at(who: &str, look: Option<Look>) -> String {
    match look {
        Some(look) if look.out && look.ago < JUST_NOW => format!("{who} is OUT OF TRAFFIC"),
        Some(look) if look.out => format!("{who} was OUT OF TRAFFIC when last seen, {} ago", ago(look)),
        Some(look) => format!("{who} is drained by unwait's journal, but may be IN TRAFFIC: {}", not_all_out(look)),
        None => format!("{who} is OUT OF TRAFFIC by unwait's journal; {UNSEEN}"),
    }
}

/// Where a service stands while something is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::Display)]
pub enum TrafficState {
    #[strum(to_string = "OUT OF TRAFFIC")]
    OutOfTraffic,
    #[strum(to_string = "unhealthy and IN TRAFFIC")]
    InTraffic,
}

/// How a step went by its outcome, as a sentence goes on behind the step's name; in dry-run how it would go.
pub fn went(step: &str, outcome: &str, dry_run: bool) -> String {
    let would = match (step, outcome) {
        _ if !dry_run => outcome,
        // Evidence is kept, and a person told, in a dry-run as well; the agent may end in the midst of one.
        ("snapshot" | "notify" | "plan", _) => outcome,
        (_, "failed") => "would fail",
        (_, "not_helped") => "would not help",
        (_, "undo_refused") => "would not be undone",
        ("verdict", _) => "is not known",
        (_, outcome) => return format!("would be {outcome}"),
    };
    would.into()
}

/// The step that an event speaks of, its outcome, and the detail.
pub fn step_of<'a>(plan: &'a Plan, event: &'a Event) -> Option<(&'static str, &'static str, &'a str)> {
    let name = |step: usize| plan.steps[step].step.name();
    match event {
        Event::Intended { .. } | Event::Stopped { .. } | Event::Withdrawing { .. } => None,
        Event::Done { step, detail, helped: Some(Helped::No), .. } => Some((name(*step), "not_helped", detail)),
        Event::Done { step, detail, .. } => Some((name(*step), "done", detail)),
        // A call only fails, and that is what it is for.
        Event::Failed { step, reason: Reason::NeedsPerson, detail, .. } => Some((name(*step), "made", detail)),
        Event::Failed { step, detail, .. } => Some((name(*step), "failed", detail)),
        Event::Interrupted { detail, .. } => Some(("plan", "interrupted", detail)),
        Event::Undone { step, detail } => Some((name(*step), "undone", detail)),
        Event::UndoRefused { step, detail, .. } => Some((name(*step), "undo_refused", detail)),
        Event::Judged { detail, .. } => Some(("verdict", "given", detail)),
        Event::Withdrawn { drained: true, detail } => Some(("drain", "done", detail)),
        Event::Withdrawn { drained: false, detail } => Some(("drain", "failed", detail)),
    }
}

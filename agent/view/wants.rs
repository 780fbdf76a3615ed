//! What wants a person, each with the commands that are ready to be pasted: the same facts as [`Status`], in one list.

use jiff::Timestamp;

use super::status::Status;
use crate::model::Reason;
use crate::store::{Approval, ApprovalState};

/// One thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Want {
    /// In few words: `stuck`, `to be approved`.
    pub what: &'static str,
    /// Of one service.
    pub service: Option<String>,
    pub says: String,
    pub since: Option<Timestamp>,
    /// Each a whole command line.
    pub commands: Vec<String>,
    /// The incident that tells more.
    pub incident: Option<String>,
    /// False: a person has ordered it, or it may pass by itself.
    pub is_urgent: bool,
}

impl Want {
    fn new(what: &'static str, says: impl Into<String>) -> Self {
        let (service, since, incident, commands) = (None, None, None, Vec::new());
        Self { what, service, says: says.into(), since, commands, incident, is_urgent: true }
    }

    /// The agent's loop does not tick.
    pub fn hangs(why: String) -> Self {
        Self::new("the agent hangs", why).commands(["systemctl status unwait".into(), "unwait status".into()])
    }

    fn of(mut self, service: &str) -> Self {
        self.service = Some(service.into());
        self
    }

    fn since(mut self, since: Timestamp) -> Self {
        self.since = Some(since);
        self
    }

    fn incident(mut self, incident: &str) -> Self {
        self.incident = Some(incident.into());
        self
    }

    fn commands<const N: usize>(mut self, commands: [String; N]) -> Self {
        self.commands = commands.into();
        self
    }

    fn not_urgent(mut self) -> Self {
        self.is_urgent = false;
        self
    }
}

impl Status {
    /// What wants a person: the urgent ones first.
    pub fn wants(&self) -> Vec<Want> {
        let mut wants = self.of_the_agent();
        wants.extend(self.latches.iter().map(|latch| {
            let (service, says) = (&latch.service, format!("{}: {}", latch.reason, latch.detail));
            Want::new("stuck", says).of(service).since(latch.since).incident(&latch.incident).commands([
                format!("unwait resolve {} --restore", word(service)),
                format!("unwait resolve {} --leave", word(service)),
            ])
        }));
        wants.extend(self.approvals.iter().map(approval));
        wants.extend(self.breakers.iter().map(|breaker| {
            let says = format!("{} was not seen to help, so {} is in dry-run for it", breaker.runbook, breaker.policy);
            let command = format!("unwait rearm {} --service {}", word(&breaker.policy), word(&breaker.service));
            let want = Want::new("breaker open", says).of(&breaker.service).since(breaker.since);
            want.incident(&breaker.incident).commands([command])
        }));
        wants.extend(self.open.iter().filter_map(|open| {
            let what = open.waits_for.as_ref()?;
            let want = Want::new("incident waits", what).of(open.service.as_str());
            Some(want.incident(&open.incident.0).commands([format!("unwait show {}", open.incident)]))
        }));
        wants.extend(self.unreturned_slots.iter().map(|slot| {
            let says = format!("the other hosts wait for the slot of {}: {}", slot.service, slot.error);
            let command = format!("unwait slot --service {}", word(&slot.service));
            Want::new("slot not given back", says).since(slot.since).commands([command])
        }));
        let failed = self.undelivered.iter().filter_map(|one| Some((one, one.error.as_ref()?)));
        wants.extend(failed.map(|(one, error)| {
            let says = format!("{} did not take \u{201c}{}\u{201d}: {error}", one.destination, one.title);
            Want::new("undelivered", says).commands(["unwait notify test".into()])
        }));
        wants.extend(self.ordered());
        wants.sort_by_key(|want| !want.is_urgent);
        wants
    }

    fn of_the_agent(&self) -> Vec<Want> {
        let mut wants = Vec::new();
        if let Some(why) = &self.store_unread {
            let says = format!("{why}; what is paused, stuck, under way or undelivered is not known");
            wants.push(Want::new("state unreadable", says).commands(["dmesg --level err,warn".into()]));
        }
        let Some(agent) = &self.agent else { return wants };
        if agent.observe_only {
            let why = agent.disk_hangs.as_deref().unwrap_or("the state directory cannot be written");
            wants.push(Want::new("observe-only", why));
        }
        if let Some(failure) = &agent.last_failure {
            wants.push(Want::new("not measuring", failure).commands(["unwait check".into()]));
        }
        if let Some(rejected) = &agent.rejected_configuration {
            let commands = ["unwait check".into(), "unwait reload".into()];
            wants.push(Want::new("configuration rejected", &rejected.why).since(rejected.at).commands(commands));
        }
        wants
    }

    fn ordered(&self) -> Vec<Want> {
        let mut wants = Vec::new();
        if let Some(pause) = &self.paused {
            let says = format!("by {}: {}", pause.who, pause.why);
            let want = Want::new("paused", says).since(pause.since).commands(["unwait resume".into()]);
            // The agent pauses itself where it has lost its memory.
            wants.push(if pause.who == crate::store::AGENT { want } else { want.not_urgent() });
        }
        wants.extend(self.silences.iter().map(|silence| {
            let says = format!("by {}: {}", silence.who, silence.why);
            let of = silence.service.as_deref().map_or_else(|| "--host".into(), word);
            let want = Want::new("silenced", says).since(silence.since).not_urgent();
            Want { service: silence.service.clone(), ..want.commands([format!("unwait silence {of} --end")]) }
        }));
        wants
    }
}

/// What a person does about a breach that is held, or what tells more of it.
pub fn command_for(reason: Reason, service: &str, policy: &str) -> String {
    let (service, policy) = (word(service), word(policy));
    match reason {
        Reason::Paused => "unwait resume".into(),
        Reason::Latched => format!("unwait resolve {service} --restore"),
        Reason::BreakerOpen => format!("unwait rearm {policy} --service {service}"),
        Reason::NeedsApproval | Reason::AwaitingApproval => "unwait status".into(),
        Reason::DryRun | Reason::ObserveMode => format!("unwait plan {service} --policy {policy}"),
        _ => format!("unwait explain {service}"),
    }
}

/// As a shell takes it for one word.
pub fn word(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@%+=,".contains(c);
    match !text.is_empty() && text.chars().all(is_plain) {
        true => text.into(),
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

fn approval(approval: &Approval) -> Want {
    let Approval { id, policy, service, runbook, created, .. } = approval;
    let says = format!("{runbook} ({policy})");
    let deny = format!("unwait deny {id}");
    match approval.state {
        ApprovalState::Approved => {
            Want::new("approved, begins soon", says).of(service).since(*created).commands([deny]).not_urgent()
        }
        _ => {
            let commands = [
                format!("unwait plan {} --policy {}", word(service), word(policy)),
                format!("unwait approve {id}"),
                deny,
            ];
            Want::new("to be approved", says).of(service).since(*created).commands(commands)
        }
    }
}

//! The guards: what must be so before anything is changed. One visible list, asked in order; the first refusal ends
//! it. A guard that cannot be asked refuses: an error is a deny.

mod alerts;
mod approval;
mod fleet;
mod pace;
mod service;
mod switches;
mod tally;
mod veto;
mod windows;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::clock::Clock;
use crate::model::{ModeCeiling, Plan, Reason, Truth};
use crate::ports::Ports;
use crate::store::Store;

pub use tally::Tally;

/// The guards, in the order in which they are asked. The fleet's slot is taken last, when nothing else is against it.
pub const GUARDS: [Guard; 26] = [
    Guard::Trust,
    Guard::Actionable,
    Guard::ModeAtMost,
    Guard::Paused,
    Guard::WarmUp,
    Guard::Latch,
    Guard::Rungs,
    Guard::Protected,
    Guard::Silence,
    Guard::Windows,
    Guard::Stable,
    Guard::StartsAgain,
    Guard::OutOfTraffic,
    Guard::Cooldown,
    Guard::Budgets,
    Guard::OneSaga,
    Guard::Jitter,
    Guard::CommonCause,
    Guard::Alerts,
    Guard::MinHealthy,
    Guard::Calm,
    Guard::Probe,
    Guard::HeldHere,
    Guard::Veto,
    Guard::Approval,
    Guard::FleetSlot,
];

/// One gate before action.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, strum::Display, strum::IntoStaticStr)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Guard {
    /// The state directory can be written: otherwise the agent only observes.
    Trust,
    /// The service has what the runbook needs.
    Actionable,
    /// The host's file lets anybody act.
    ModeAtMost,
    /// The kill switch is off.
    Paused,
    /// The agent has watched for long enough since its start.
    WarmUp,
    /// No earlier incident on the service waits for a person.
    Latch,
    /// Some runbook of the policy is left that was not tried in vain.
    Rungs,
    /// The service is not protected, or the policy names it in full.
    Protected,
    /// No person has silenced the service, or the host.
    Silence,
    /// The policy's windows are open.
    Windows,
    /// Not starting, stopping, or restarted by anyone within its grace.
    Stable,
    /// Where it is to be restarted: nothing is seen that would keep it from starting again.
    StartsAgain,
    /// Nobody else has taken it out of traffic.
    OutOfTraffic,
    /// No earlier incident ended a short while ago; the real ones and those in dry-run each have their own account.
    Cooldown,
    /// The budgets of the service and of the host.
    Budgets,
    /// One saga a service, and `max_parallel` on the host.
    OneSaga,
    /// This host's own share of the jitter has passed since the breach: a fleet does not act in step.
    Jitter,
    /// Not so many of the instances are in breach together that something else must be the cause.
    CommonCause,
    /// No alert fires that the policy holds for; fails closed.
    Alerts,
    /// Enough others are healthy, by the registry; fails closed.
    MinHealthy,
    /// Neither that of a common cause nor the one before has refused for a while.
    Calm,
    /// The service's health can be asked. What it answers does not matter here, nor that it does not answer.
    Probe,
    /// The service's own processes hold so many of the leaked sockets that a remedy can end the breach.
    HeldHere,
    /// The owner's command, where the policy names one, says yes to this very plan; also in dry-run.
    Veto,
    /// `mode: approve`: a person has approved this very plan. Asked when nothing else is against it but a slot.
    Approval,
    /// A slot of the fleet, taken last.
    FleetSlot,
}

/// A guard's answer. A refusal may pass by itself at a time that is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Allow,
    Defer { until: Timestamp, reason: Reason, detail: String },
    Deny { reason: Reason, detail: String },
}

/// Why nothing is done now.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Refusal {
    pub guard: Guard,
    pub reason: Reason,
    pub detail: String,
    /// When it may pass by itself, where that is known.
    pub until: Option<Timestamp>,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.reason, self.detail)
    }
}

impl Guard {
    /// The refusal of an answer; an error counts as a deny.
    fn refusal(self, answer: Answer) -> Option<Refusal> {
        let (reason, detail, until) = match answer {
            Ok(Verdict::Allow) => return None,
            Ok(Verdict::Defer { until, reason, detail }) => (reason, detail, Some(until)),
            Ok(Verdict::Deny { reason, detail }) => (reason, detail, None),
            Err(detail) => (Reason::GuardFailed, format!("guard {self} could not be checked: {detail}"), None),
        };
        Some(Refusal { guard: self, reason, detail, until })
    }
}

/// The plan and the circumstances that the guards judge.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    pub plan: &'a Plan,
    /// The policy names the service in full, and not by a pattern.
    pub named_in_full: bool,
    /// Why the service is protected, where it is.
    pub protected: Option<&'a str>,
    /// The requirements of the runbook that the service lacks.
    pub lacks: &'a [String],
    /// How long a service is left to settle after anybody's restart.
    pub grace: Duration,
    /// The longest that a host waits after a breach, so as not to act in step with others.
    pub jitter: Duration,
    /// When the breach began, since boot; `None` where no breach is what asks.
    pub breached: Option<Duration>,
    /// Every rung was tried in vain; until the first may be tried again.
    pub rungs_spent: Option<Timestamp>,
    /// The policy acts when a person has approved the plan.
    pub needs_approval: bool,
    /// Why the name is not known that hosts contend for slots under, where it could not be read.
    pub unnamed: Option<&'a str>,
    /// Taking a slot, or only looking whether one could be had (`plan`, `explain`)?
    pub take_slot: bool,
    /// The plan's own saga is under way: it does not count against itself.
    pub own_saga: bool,
}

/// Asks the guards; knows the store and the ports, changes nothing but the slot that it takes.
#[derive(Clone)]
pub struct Gate {
    pub host: String,
    pub store: Arc<Store>,
    pub ports: Ports,
    pub clock: Arc<dyn Clock>,
    pub started: Duration,
    pub warm_up: Duration,
    pub max_parallel: usize,
    pub mode_at_most: Option<ModeCeiling>,
    pub tally: Arc<Tally>,
    pub possession: Arc<dyn Possession>,
}

/// Finds the holders of a service's leaked sockets, after all other guards allowed the action.
#[async_trait]
pub trait Possession: Send + Sync {
    /// Would the condition not hold, were it not for sockets that other processes alone hold? Then who they are; an error
    /// where it could not be seen. `afresh`: an answer of a moment ago is not enough.
    async fn elsewhere(&self, plan: &Plan, afresh: bool) -> Result<Option<String>, String>;
}

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gate").field("host", &self.host).finish_non_exhaustive()
    }
}

type Answer = Result<Verdict, String>;

impl Gate {
    /// The first refusal, if there is one.
    pub async fn ask(&self, question: &Question<'_>) -> Result<(), Refusal> {
        self.ask_each(GUARDS.into_iter(), question).await
    }

    /// The same without the slot's guard, which a plan asks when its turn has come.
    pub async fn ask_but_slot(&self, question: &Question<'_>) -> Result<(), Refusal> {
        self.ask_each(GUARDS.into_iter().filter(|guard| *guard != Guard::FleetSlot), question).await
    }

    /// Takes the slot, where the plan needs one and all other guards have allowed it; unless another incident of the service has
    /// begun since.
    pub async fn ask_slot(&self, question: &Question<'_>) -> Result<(), Refusal> {
        self.ask_each([Guard::OneSaga, Guard::FleetSlot].into_iter(), &Question { take_slot: true, ..*question }).await
    }

    async fn ask_each(
        &self,
        guards: impl Iterator<Item = Guard> + Send,
        question: &Question<'_>,
    ) -> Result<(), Refusal> {
        for guard in guards {
            let answer = self.verdict(guard, question).await;
            self.tally.count(guard, &answer);
            if let Some(refusal) = guard.refusal(answer) {
                self.note_unrest(guard, question);
                return Err(refusal);
            }
        }
        Ok(())
    }

    /// Every refusal, for `plan` and `explain`. Takes no slot.
    pub async fn ask_all(&self, question: &Question<'_>) -> Vec<Refusal> {
        let looking = Question { take_slot: false, ..*question };
        let mut refusals = Vec::new();
        for guard in GUARDS {
            refusals.extend(guard.refusal(self.verdict(guard, &looking).await));
        }
        refusals
    }

    async fn verdict(&self, guard: Guard, question: &Question<'_>) -> Answer {
        // A runbook that only looks has nothing to be guarded from, but its own pace and a person's word.
        let only_looks = !question.plan.changes_anything();
        match guard {
            Guard::Trust => self.trust(),
            Guard::Actionable => service::actionable(question),
            Guard::ModeAtMost => self.mode_at_most(question),
            Guard::Paused => self.paused(),
            Guard::WarmUp => self.warm_up(question),
            Guard::Latch => self.latch(question),
            Guard::Rungs => service::rungs(question),
            Guard::OneSaga => self.one_saga(question),
            Guard::Silence => self.silence(question),
            Guard::Cooldown => self.cooldown(question),
            Guard::Approval => self.approval(question),
            _ if only_looks => Ok(Verdict::Allow),
            Guard::Protected => service::protected(question),
            Guard::Windows => windows::verdict(&question.plan.guards.windows, self.clock.now()),
            Guard::Stable => self.stable(question).await,
            Guard::StartsAgain => self.starts_again(question).await,
            Guard::OutOfTraffic => self.out_of_traffic(question).await,
            Guard::Budgets => self.budgets(question),
            Guard::Jitter => self.jitter(question),
            Guard::CommonCause => self.common_cause(question).await,
            Guard::Alerts => self.alerts(question).await,
            Guard::MinHealthy => self.min_healthy(question).await,
            Guard::Calm => self.calm(question),
            Guard::Probe => self.probe(question).await,
            Guard::HeldHere => self.held_here(question).await,
            Guard::Veto => self.veto(question).await,
            Guard::FleetSlot => self.fleet_slot(question).await,
        }
    }

    fn registry(&self, name: &str) -> Result<&dyn crate::ports::registry::Registry, String> {
        self.ports.registries.get(name).map(Arc::as_ref).ok_or_else(|| format!("agent.yaml has no registry `{name}`"))
    }
}

fn deny(reason: Reason, detail: impl Into<String>) -> Verdict {
    Verdict::Deny { reason, detail: detail.into() }
}

fn text(error: impl ToString) -> String {
    error.to_string()
}

fn whole_seconds(duration: Duration) -> Duration {
    Duration::from_secs(duration.as_secs())
}

/// Does a plan's condition hold on readings that were taken afresh?
pub fn holds_now(plan: &Plan, readings: &crate::model::Readings) -> Result<(), (Reason, String)> {
    match plan.when.truth(readings) {
        Truth::True => Ok(()),
        Truth::False => Err((Reason::ConditionCleared, Reason::ConditionCleared.says().into())),
        Truth::Unknown => Err((Reason::MeasurementFailed, "a signal of the condition is unknown".into())),
    }
}

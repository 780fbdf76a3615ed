//! The guards: what must be so before anything is changed. One visible list, asked in order; the first refusal ends
//! it. A guard that cannot be asked refuses: an error is a deny.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use super::windows;
use crate::clock::Clock;
use crate::model::{IncidentId, Marker, Plan, Reason, Truth, duration};
use crate::ports::Ports;
use crate::ports::fleet::{Acquired, Phase, Slot};
use crate::ports::registry::Traffic;
use crate::ports::restarter::RunState;
use crate::store::{Health, Store};

/// The guards, in the order in which they are asked. The fleet's slot is taken last, when nothing else is against it.
pub const GUARDS: [Guard; 15] = [
    Guard::Trust,
    Guard::Actionable,
    Guard::Paused,
    Guard::WarmUp,
    Guard::Latch,
    Guard::Protected,
    Guard::Silence,
    Guard::Windows,
    Guard::Stable,
    Guard::OutOfTraffic,
    Guard::Cooldown,
    Guard::Budgets,
    Guard::OneSaga,
    Guard::MinHealthy,
    Guard::FleetSlot,
];

/// One gate before action.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, strum::Display)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Guard {
    /// The state directory can be written: otherwise the agent only observes.
    Trust,
    /// The service has what the runbook needs.
    Actionable,
    /// The kill switch is off.
    Paused,
    /// The agent has watched for long enough since its start.
    WarmUp,
    /// No earlier incident on the service waits for a person.
    Latch,
    /// The service is not protected, or the policy names it in full.
    Protected,
    /// No person has silenced the service, or the host.
    Silence,
    /// The policy's windows are open.
    Windows,
    /// Not starting, stopping, or restarted by anyone within its grace.
    Stable,
    /// Nobody else has taken it out of traffic.
    OutOfTraffic,
    /// No earlier incident changed something a short while ago; counted from its end.
    Cooldown,
    /// The budgets of the service and of the host.
    Budgets,
    /// One saga a service, and `max_parallel` on the host.
    OneSaga,
    /// Enough others are healthy, by the registry; fails closed.
    MinHealthy,
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
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

/// What the guards are asked about.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    pub plan: &'a Plan,
    /// The policy names the service in full, and not by a pattern.
    pub named_in_full: bool,
    /// Why the service is protected, where it is.
    pub protected: Option<&'a str>,
    /// What the runbook needs and the service does not have.
    pub lacks: &'a [String],
    /// How long a service is left to settle after anybody's restart.
    pub grace: Duration,
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
}

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gate").field("host", &self.host).finish_non_exhaustive()
    }
}

/// An incident that ended before it changed anything is tried again after this part of the cooldown: 5m of 30m.
const RETRY_SHARE: u32 = 6;

pub(super) type Answer = Result<Verdict, String>;

impl Gate {
    /// The first refusal, if there is one.
    pub async fn ask(&self, question: &Question<'_>) -> Result<(), Refusal> {
        for guard in GUARDS {
            if let Some(refusal) = self.refusal(guard, question).await {
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
            refusals.extend(self.refusal(guard, &looking).await);
        }
        refusals
    }

    async fn refusal(&self, guard: Guard, question: &Question<'_>) -> Option<Refusal> {
        match self.verdict(guard, question).await {
            Ok(Verdict::Allow) => None,
            Ok(Verdict::Defer { until, reason, detail }) => Some(Refusal { guard, reason, detail, until: Some(until) }),
            Ok(Verdict::Deny { reason, detail }) => Some(Refusal { guard, reason, detail, until: None }),
            Err(detail) => {
                let detail = format!("{guard} could not be asked: {detail}");
                Some(Refusal { guard, reason: Reason::GuardFailed, detail, until: None })
            }
        }
    }

    async fn verdict(&self, guard: Guard, question: &Question<'_>) -> Answer {
        // A runbook that only looks has nothing to be guarded from, but its own pace and a person's word.
        let only_looks = question.plan.steps.iter().all(|planned| planned.effect == crate::model::Effect::ReadOnly);
        match guard {
            Guard::Trust => self.trust(),
            Guard::Actionable => actionable(question),
            Guard::Paused => self.paused(),
            Guard::WarmUp => self.warm_up(question),
            Guard::Latch => self.latch(question),
            Guard::OneSaga => self.one_saga(question),
            Guard::Silence => self.silence(question),
            Guard::Cooldown => self.cooldown(question),
            _ if only_looks => Ok(Verdict::Allow),
            Guard::Protected => protected(question),
            Guard::Windows => windows::verdict(&question.plan.guards.windows, self.clock.now()),
            Guard::Stable => self.stable(question).await,
            Guard::OutOfTraffic => self.out_of_traffic(question).await,
            Guard::Budgets => self.budgets(question),
            Guard::MinHealthy => self.min_healthy(question).await,
            Guard::FleetSlot => self.fleet_slot(question).await,
        }
    }

    fn trust(&self) -> Answer {
        Ok(match self.store.health() {
            Health::Sound => Verdict::Allow,
            Health::Failing => deny(Reason::ObserveOnly, Reason::ObserveOnly.says()),
        })
    }

    fn paused(&self) -> Answer {
        let Some(pause) = self.store.paused(self.clock.now()).map_err(text)? else { return Ok(Verdict::Allow) };
        let detail = format!("paused by {} since {}: {}", pause.who, pause.since, pause.why);
        Ok(match pause.until {
            Some(until) => Verdict::Defer { until, reason: Reason::Paused, detail },
            None => Verdict::Deny { reason: Reason::Paused, detail },
        })
    }

    fn warm_up(&self, question: &Question<'_>) -> Answer {
        let watched = self.clock.monotonic().saturating_sub(self.started);
        let left = self.warm_up.saturating_sub(watched);
        // A plan that a person started does not wait for the agent to have watched.
        if left.is_zero() || question.own_saga || question.plan.trigger != crate::model::Trigger::Breach {
            return Ok(Verdict::Allow);
        }
        let detail = format!("the agent started {} ago", duration::format(whole_seconds(watched)));
        Ok(Verdict::Defer { until: self.clock.now() + left, reason: Reason::WarmUp, detail })
    }

    fn latch(&self, question: &Question<'_>) -> Answer {
        Ok(match self.store.latch(&question.plan.target.service).map_err(text)? {
            None => Verdict::Allow,
            Some(latch) => deny(
                Reason::Latched,
                format!(
                    "incident {} ended stuck ({}); look at it with `unwait show`, decide with `unwait resolve {}`",
                    latch.incident, latch.reason, latch.service
                ),
            ),
        })
    }

    fn silence(&self, question: &Question<'_>) -> Answer {
        let silences = self.store.silences(self.clock.now()).map_err(text)?;
        let ours = silences.into_iter().filter(|silence| silence.concerns(&question.plan.target.service));
        let Some(longest) = ours.max_by_key(|silence| silence.until) else { return Ok(Verdict::Allow) };
        let what = longest.service.as_deref().unwrap_or("the host");
        let detail = format!("{what} was silenced by {} at {}: {}", longest.who, longest.since, longest.why);
        Ok(Verdict::Defer { until: longest.until, reason: Reason::Silenced, detail })
    }

    async fn stable(&self, question: &Question<'_>) -> Answer {
        let Some(restart) = &question.plan.target.restart else { return Ok(Verdict::Allow) };
        let restarter = self.ports.restarter(restart);
        let now = restarter.observe(restart).await.map_err(text)?;
        match now.state {
            RunState::Active => {}
            RunState::Changing => {
                return Ok(deny(Reason::Unstable, "it is starting, stopping, or has a job under way"));
            }
            state => return Ok(deny(Reason::NotActive, format!("it is {state}"))),
        }
        if !question.own_saga {
            let up_for = now.up_for.ok_or("how long it has been running is not known")?;
            if up_for < question.grace {
                let detail = format!("it was started {} ago", duration::format(whole_seconds(up_for)));
                let until = self.clock.now() + (question.grace - up_for);
                return Ok(Verdict::Defer { until, reason: Reason::RecentlyRestarted, detail });
            }
        }
        if let Some(planned) = &question.plan.incarnation
            && now.incarnation.as_ref() != Some(planned)
        {
            return Ok(deny(Reason::IncarnationChanged, "it is not the lifetime that was measured"));
        }
        Ok(Verdict::Allow)
    }

    async fn out_of_traffic(&self, question: &Question<'_>) -> Answer {
        let own = Marker { incident: question.plan.incident.clone(), host: self.host.clone() };
        for binding in &question.plan.target.bindings {
            let registry = self.registry(&binding.registry)?;
            let registration = registry.observe(&binding.id).await.map_err(text)?;
            let place = format!("{}/{}", binding.registry, binding.id);
            match registration.traffic {
                Traffic::Passing => {}
                Traffic::DrainedBy(marker) if question.own_saga && marker == own => {}
                // No other hand: this host's own incident, which the guard of one saga a service speaks of.
                Traffic::DrainedBy(marker) if marker.host == self.host && self.is_open(&marker.incident)? => {}
                Traffic::DrainedBy(marker) => {
                    let detail = format!("{place} is drained by incident {} of {}", marker.incident, marker.host);
                    return Ok(deny(Reason::OutOfTraffic, detail));
                }
                Traffic::Isolated { reason } => {
                    return Ok(deny(Reason::OutOfTraffic, format!("{place} was taken out: {reason}")));
                }
                // Unhealthy in its registry's eyes: clients do not find it, and taking it out would say nothing.
                Traffic::Failing => {
                    return Ok(deny(Reason::OutOfTraffic, format!("{place} does not pass its registry's checks")));
                }
            }
        }
        Ok(Verdict::Allow)
    }

    fn cooldown(&self, question: &Question<'_>) -> Answer {
        let plan = question.plan;
        if question.own_saga {
            return Ok(Verdict::Allow);
        }
        let last = self.store.last_ended(&plan.target.service, plan.dry_run).map_err(text)?;
        let cooldown = plan.limits.cooldown;
        let holds = [
            (last.with_effect, cooldown, "the last incident ended"),
            // What ended before it changed anything is tried again sooner, but not at every tick: people are told
            // of each.
            (last.without, cooldown / RETRY_SHARE, "the last incident ended before it changed anything,"),
        ];
        let now = self.clock.now();
        let until = |ended: Timestamp, hold: Duration| ended + hold;
        let longest = holds
            .into_iter()
            .filter_map(|(ended, hold, what)| ended.map(|ended| (until(ended, hold), ended, what)))
            .max_by_key(|(until, ..)| *until);
        Ok(match longest {
            Some((until, ended, what)) if now < until => {
                Verdict::Defer { until, reason: Reason::Cooldown, detail: format!("{what} at {ended}") }
            }
            _ => Verdict::Allow,
        })
    }

    fn budgets(&self, question: &Question<'_>) -> Answer {
        let plan = question.plan;
        let now = self.clock.now();
        let limits = plan.limits;
        for (scope, budget, reason) in [
            (Some(&plan.target.service), limits.per_service, Reason::ServiceBudget),
            (None, limits.per_host, Reason::HostBudget),
        ] {
            let mut began = self.store.changes_since(scope, plan.dry_run, now, budget.per).map_err(text)?;
            if question.own_saga && self.has_changed(&plan.incident)? {
                // The newest of them is this very incident.
                began.pop();
            }
            if began.len() as u64 >= u64::from(budget.incidents) {
                let detail = format!("{} incidents of {budget} are spent", began.len());
                // One leaves the window when the oldest that counts is as old as the window is long.
                let leaves = began.len() - budget.incidents.min(began.len() as u32) as usize;
                return Ok(match began.get(leaves) {
                    Some(oldest) => Verdict::Defer { until: *oldest + budget.per, reason, detail },
                    None => Verdict::Deny { reason, detail },
                });
            }
        }
        Ok(Verdict::Allow)
    }

    fn has_changed(&self, incident: &IncidentId) -> Result<bool, String> {
        Ok(self.store.incident(incident).map_err(text)?.is_some_and(|row| row.changed))
    }

    fn is_open(&self, incident: &IncidentId) -> Result<bool, String> {
        Ok(self.store.incident(incident).map_err(text)?.is_some_and(|row| row.ended.is_none()))
    }

    fn one_saga(&self, question: &Question<'_>) -> Answer {
        let plan = question.plan;
        let open = self.store.open_incidents().map_err(text)?;
        let others: Vec<_> = open.iter().filter(|open| open.plan.incident != plan.incident).collect();
        if let Some(same) = others.iter().find(|open| open.plan.target.service == plan.target.service) {
            return Ok(deny(Reason::SagaRunning, format!("incident {} is under way on it", same.plan.incident)));
        }
        let real = others.iter().filter(|open| !open.plan.dry_run).count();
        if !question.own_saga && !plan.dry_run && real >= self.max_parallel {
            let detail = format!("{real} of at most {} incidents are under way on this host", self.max_parallel);
            return Ok(deny(Reason::SagaRunning, detail));
        }
        Ok(Verdict::Allow)
    }

    async fn min_healthy(&self, question: &Question<'_>) -> Answer {
        let plan = question.plan;
        let Some(rule) = plan.guards.min_healthy else { return Ok(Verdict::Allow) };
        if plan.target.bindings.is_empty() {
            return Ok(deny(Reason::NoRegistry, Reason::NoRegistry.says()));
        }
        for binding in &plan.target.bindings {
            let others = self.registry(&binding.registry)?.others(&binding.id).await.map_err(text)?;
            if !rule.allows(others.healthy, others.registered) {
                let detail = format!(
                    "{} other healthy instances of {} registered in {}, min_healthy is {rule}",
                    others.healthy, others.registered, binding.registry
                );
                return Ok(deny(Reason::TooFewHealthy, detail));
            }
        }
        Ok(Verdict::Allow)
    }

    async fn fleet_slot(&self, question: &Question<'_>) -> Answer {
        let plan = question.plan;
        let (Some(scope), Some(slots)) = (&plan.fleet_scope, plan.guards.fleet_slots) else {
            return Ok(Verdict::Allow);
        };
        let Some(fleet) = &self.ports.fleet else {
            return Ok(deny(Reason::SlotTaken, "the host's file names no fleet"));
        };
        if !question.take_slot {
            let held = fleet.holders(scope).await.map_err(text)?;
            let now = self.clock.now();
            let in_force = |slot: &&Slot| match slot.phase {
                Phase::Waiting { until } => now < until,
                Phase::Changing => true,
            };
            let others: Vec<_> =
                held.iter().filter(|slot| slot.incident != plan.incident.0).filter(in_force).cloned().collect();
            return Ok(if others.len() as u64 >= u64::from(slots) { taken(&others) } else { Verdict::Allow });
        }
        if !plan.dry_run {
            self.store.note_slot(&plan.incident, scope).map_err(text)?;
        }
        match fleet.acquire(scope, &plan.incident.0, slots).await.map_err(text)? {
            Acquired::Yes => Ok(Verdict::Allow),
            Acquired::No { held } => {
                self.store.forget_slot(&plan.incident).map_err(text)?;
                Ok(taken(&held))
            }
        }
    }

    fn registry(&self, name: &str) -> Result<&dyn crate::ports::registry::Registry, String> {
        self.ports
            .registries
            .get(name)
            .map(Arc::as_ref)
            .ok_or_else(|| format!("the host's file names no registry `{name}`"))
    }
}

fn actionable(question: &Question<'_>) -> Answer {
    Ok(match question.lacks {
        [] => Verdict::Allow,
        lacks => deny(Reason::NotActionable, lacks.join("; ")),
    })
}

fn protected(question: &Question<'_>) -> Answer {
    Ok(match question.protected {
        Some(why) if !question.named_in_full => {
            deny(Reason::Protected, format!("{why}; a policy must name it in full"))
        }
        _ => Verdict::Allow,
    })
}

fn taken(held: &[Slot]) -> Verdict {
    let holders: Vec<String> =
        held.iter().map(|slot| format!("{} since {} ({})", slot.holder, slot.since, slot.incident)).collect();
    deny(Reason::SlotTaken, format!("held by {}", holders.join(", ")))
}

pub(super) fn deny(reason: Reason, detail: impl Into<String>) -> Verdict {
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

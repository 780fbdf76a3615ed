//! What the others say: how many of them are healthy, and how many work on the service now.

use std::time::Duration;

use super::{Answer, Gate, Guard, Question, Refusal, Verdict, deny, text};
use crate::crash;
use crate::model::moment::after;
use crate::model::plan::Binding;
use crate::model::policy::MinHealthy;
use crate::model::{Plan, Reason};
use crate::ports::fleet::{Acquired, FleetError, Phase, Slot};
use crate::ports::registry::Traffic;

/// Below this number of instances a share is meaningless: two of two are soon in breach together.
const FEWEST_INSTANCES: u32 = 3;

/// Where a service fails its registry's check, and nothing is said: what must be so for it to be acted on all the same.
const FAILING_MIN_HEALTHY: MinHealthy = MinHealthy::Count(1);
/// The share of instances that fail their checks together by which something else is the cause.
const FAILING_TOGETHER: f64 = 0.55;

/// A host at work that says no more is drained by then, or will not be: begun within a minute, read back within its
/// deadline (30 s), and ten minutes for clocks that nobody keeps. Some never say so: a runbook that does not drain, an
/// older unwait, an agent that died just then.
const SEEN_AFTER: Duration = Duration::from_secs(15 * 60);

const NOBODY_COUNTS: &str = "none of the service's registries can count its instances, so this one may be the last";

impl Gate {
    /// Where much of a fleet is in breach, the service is hardly the cause, and a restart hardly the cure.
    pub(super) async fn common_cause(&self, question: &Question<'_>) -> Answer {
        let plan = question.plan;
        if self.fails_its_check(plan).await? {
            let answer = self.failing_together(plan).await?;
            if answer != Verdict::Allow {
                return Ok(answer);
            }
        }
        let Some(share) = plan.guards.common_cause else { return Ok(Verdict::Allow) };
        let Some(fleet) = &self.ports.fleet else { return Err("agent.yaml has no `fleet`".into()) };
        let Some(binding) = plan.target.bindings.first() else {
            return Ok(deny(Reason::NoRegistry, "no registry is bound, so the number of instances is unknown"));
        };
        let Some(counting) = self.counting(plan)?.first().copied() else {
            return Ok(deny(Reason::TooFewHealthy, NOBODY_COUNTS));
        };
        let registered = self.registry(&counting.registry)?.others(&counting.id).await.map_err(text)?.registered;
        if registered < FEWEST_INSTANCES {
            return Ok(Verdict::Allow);
        }
        let registry = self.registry(&binding.registry)?;
        let name = registry.observe(&binding.id).await.map_err(text)?.name;
        let hosts = fleet.breaches(&name).await.map_err(text)?;
        if hosts.len() as f64 / f64::from(registered) < share {
            return Ok(Verdict::Allow);
        }
        let detail = format!(
            "{} of {registered} instances of {name} are in breach, on {}; `common_cause` allows less than {}%: look for a \
             dependency that they share",
            hosts.len(),
            hosts.join(", "),
            // As it is written: 0.5% is not 1%.
            (share * 1e4).round() / 1e2,
        );
        Ok(deny(Reason::CommonCause, detail))
    }

    /// A dependency that is dead fails the checks of all instances, and a restart of each would mend none. Known by the registry
    /// alone, also where no policy says `common_cause` and the fleet shares no breaches.
    async fn failing_together(&self, plan: &Plan) -> Answer {
        for binding in self.counting(plan)? {
            let others = self.registry(&binding.registry)?.others(&binding.id).await.map_err(text)?;
            let failing = others.registered.saturating_sub(others.healthy);
            let share = plan.guards.common_cause.unwrap_or(FAILING_TOGETHER);
            if others.registered >= FEWEST_INSTANCES && f64::from(failing) / f64::from(others.registered) >= share {
                let detail = format!(
                    "{failing} of {} instances are not healthy in {}, and this one fails its check there: look for a \
                     dependency that they share",
                    others.registered, binding.registry
                );
                return Ok(deny(Reason::CommonCause, detail));
            }
        }
        Ok(Verdict::Allow)
    }

    /// Registered, isolated by nobody, and not passing its registry's checks.
    async fn fails_its_check(&self, plan: &Plan) -> Result<bool, String> {
        for binding in &plan.target.bindings {
            let traffic = self.registry(&binding.registry)?.observe(&binding.id).await.map_err(text)?.traffic;
            if traffic == Traffic::Failing {
                return Ok(true);
            }
        }
        Ok(false)
    }

    pub(super) async fn min_healthy(&self, question: &Question<'_>) -> Answer {
        // In its own saga the hosts beside it are counted once, by `enough_beside_others`: two that count each other to
        // their ends would both give up.
        let at_work = if question.own_saga { 0 } else { self.others_at_work(question.plan).await? };
        self.enough_healthy(question.plan, at_work).await
    }

    /// `min_healthy` once more, when the fleet knows that this host works on the service. Hosts that begin at the same
    /// time have all asked before any has taken its instance out: each counts those that began as out already.
    pub async fn enough_beside_others(&self, plan: &Plan) -> Result<(), Refusal> {
        let asked = async { self.enough_healthy(plan, self.others_at_work(plan).await?).await };
        Guard::MinHealthy.refusal(asked.await).map_or(Ok(()), Err)
    }

    /// Other hosts that went on to change something a short while ago, and may not be seen to in their registry yet; one
    /// that is drained is. To be asked before the registry is: what is drained by then is counted there. A store that
    /// does not say who holds its slots (FleetLock) leaves it unknown, and nobody is counted.
    async fn others_at_work(&self, plan: &Plan) -> Result<u32, String> {
        let (Some(scope), Some(2..), Some(fleet)) = (&plan.fleet_scope, plan.guards.fleet_slots, &self.ports.fleet)
        else {
            return Ok(0);
        };
        let now = self.clock.now();
        let counts = |slot: &Slot| {
            slot.phase == Phase::Changing && slot.holder != self.host && after(slot.since, SEEN_AFTER) > now
        };
        match fleet.holders(scope).await {
            Ok(slots) => Ok(slots.iter().filter(|slot| counts(slot)).count() as u32),
            Err(FleetError::Cannot(_)) => Ok(0),
            Err(error) => Err(text(error)),
        }
    }

    /// The bindings in registries that can count others: each of them must show enough, and there must be one.
    fn counting<'a>(&self, plan: &'a Plan) -> Result<Vec<&'a Binding>, String> {
        let mut counting = Vec::new();
        for binding in &plan.target.bindings {
            if self.registry(&binding.registry)?.counts() {
                counting.push(binding);
            }
        }
        Ok(counting)
    }

    /// `at_work`: so many of the healthy others are about to be taken out.
    async fn enough_healthy(&self, plan: &Plan, at_work: u32) -> Answer {
        let rule = match plan.guards.min_healthy {
            Some(rule) => rule,
            None if self.fails_its_check(plan).await? => FAILING_MIN_HEALTHY,
            None => return Ok(Verdict::Allow),
        };
        if plan.target.bindings.is_empty() {
            return Ok(deny(Reason::NoRegistry, Reason::NoRegistry.says()));
        }
        let counting = self.counting(plan)?;
        if counting.is_empty() {
            return Ok(deny(Reason::TooFewHealthy, NOBODY_COUNTS));
        }
        for binding in counting {
            let others = self.registry(&binding.registry)?.others(&binding.id).await.map_err(text)?;
            if !rule.allows(others.healthy.saturating_sub(at_work), others.registered) {
                let less = match at_work {
                    0 => String::new(),
                    _ => format!(" ({at_work} of them may go out of traffic for an action of another host)"),
                };
                let all_others = if rule == MinHealthy::AllOthers { " (all others)" } else { "" };
                let detail = format!(
                    "{} other healthy instances{less} of {} registered in {}, this one included; min_healthy is \
                     {rule}{all_others}",
                    others.healthy, others.registered, binding.registry
                );
                return Ok(deny(Reason::TooFewHealthy, detail));
            }
        }
        Ok(Verdict::Allow)
    }

    pub(super) async fn fleet_slot(&self, question: &Question<'_>) -> Answer {
        let plan = question.plan;
        let Some(slots) = plan.guards.fleet_slots else { return Ok(Verdict::Allow) };
        let Some(scope) = &plan.fleet_scope else {
            let why = question.unnamed.unwrap_or("the plan does not name it");
            return Err(format!("the registered name of the service is unknown: {why}"));
        };
        let Some(fleet) = &self.ports.fleet else {
            return Ok(deny(Reason::SlotTaken, "agent.yaml has no `fleet`"));
        };
        // A store that counts hosts alone gives this one the same slot twice, and takes it back once.
        if let Some(other) = self.store.slot_needed_by_another(&plan.incident, scope).map_err(text)? {
            let detail = format!(
                "incident {other} of this host uses the fleet slot (the permission to act) of {scope}, and has not ended: see \
                 `unwait status`"
            );
            return Ok(deny(Reason::SlotTaken, detail));
        }
        if !question.take_slot {
            let held = fleet.blocked_by(scope, &plan.incident.0, slots).await.map_err(text)?;
            return Ok(if held.is_empty() { Verdict::Allow } else { taken(&held, None) });
        }
        if !plan.dry_run {
            self.store.note_slot(&plan.incident, scope).map_err(text)?;
        }
        crash::point("slot", "acquiring");
        let acquired = fleet.acquire(scope, &plan.incident.0, slots).await;
        crash::point("slot", "acquired");
        if let Err(FleetError::NotAsked(why)) = acquired {
            self.store.forget_slot(&plan.incident).map_err(text)?;
            return Err(why);
        }
        match acquired.map_err(text)? {
            Acquired::Yes { .. } => Ok(Verdict::Allow),
            Acquired::NotYet(why) => {
                self.store.forget_slot(&plan.incident).map_err(text)?;
                Ok(deny(Reason::SlotTaken, why))
            }
            Acquired::No { held, says } => {
                self.store.forget_slot(&plan.incident).map_err(text)?;
                Ok(taken(&held, says.as_deref()))
            }
        }
    }
}

/// `says`: the store's own words, where it does not tell who.
fn taken(held: &[Slot], says: Option<&str>) -> Verdict {
    let holders: Vec<String> =
        held.iter().map(|slot| format!("{} since {} ({})", slot.holder, slot.since, slot.incident)).collect();
    let by = if holders.is_empty() { "others".into() } else { holders.join(", ") };
    let says = says.map(|says| format!("; the server says: {says}")).unwrap_or_default();
    deny(Reason::SlotTaken, format!("held by {by}{says}"))
}

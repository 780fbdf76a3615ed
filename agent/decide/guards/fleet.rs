//! What the others say: how many of them are healthy, and how many work on the service now.

use super::{Answer, Gate, Question, Verdict, deny, text};
use crate::model::Reason;
use crate::ports::fleet::{Acquired, Slot};

/// Of fewer instances no share says anything: two of two are soon in breach together.
const FEWEST_INSTANCES: u32 = 3;

impl Gate {
    /// Where much of a fleet is in breach, the service is hardly the cause, and a restart hardly the cure.
    pub(super) async fn common_cause(&self, question: &Question<'_>) -> Answer {
        let plan = question.plan;
        let Some(share) = plan.guards.common_cause else { return Ok(Verdict::Allow) };
        let Some(fleet) = &self.ports.fleet else { return Err("the host's file names no fleet".into()) };
        let Some(binding) = plan.target.bindings.first() else {
            return Ok(deny(Reason::NoRegistry, "no registry is bound, so nobody knows how many instances there are"));
        };
        let registry = self.registry(&binding.registry)?;
        let registered = registry.others(&binding.id).await.map_err(text)?.registered;
        if registered < FEWEST_INSTANCES {
            return Ok(Verdict::Allow);
        }
        let name = registry.observe(&binding.id).await.map_err(text)?.name;
        let hosts = fleet.breaches(&name).await.map_err(text)?;
        if hosts.len() as f64 / f64::from(registered) < share {
            return Ok(Verdict::Allow);
        }
        let detail = format!(
            "{} of {registered} instances of {name} are in breach ({}), common_cause is {}%: look for what they share",
            hosts.len(),
            hosts.join(", "),
            (share * 100.0).round(),
        );
        Ok(deny(Reason::CommonCause, detail))
    }

    pub(super) async fn min_healthy(&self, question: &Question<'_>) -> Answer {
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

    pub(super) async fn fleet_slot(&self, question: &Question<'_>) -> Answer {
        let plan = question.plan;
        let (Some(scope), Some(slots)) = (&plan.fleet_scope, plan.guards.fleet_slots) else {
            return Ok(Verdict::Allow);
        };
        let Some(fleet) = &self.ports.fleet else {
            return Ok(deny(Reason::SlotTaken, "the host's file names no fleet"));
        };
        if !question.take_slot {
            let held = fleet.blocked_by(scope, &plan.incident.0, slots).await.map_err(text)?;
            return Ok(if held.is_empty() { Verdict::Allow } else { taken(&held) });
        }
        if !plan.dry_run {
            self.store.note_slot(&plan.incident, scope).map_err(text)?;
        }
        match fleet.acquire(scope, &plan.incident.0, slots).await.map_err(text)? {
            Acquired::Yes { .. } => Ok(Verdict::Allow),
            Acquired::No { held } => {
                self.store.forget_slot(&plan.incident).map_err(text)?;
                Ok(taken(&held))
            }
        }
    }
}

fn taken(held: &[Slot]) -> Verdict {
    let holders: Vec<String> =
        held.iter().map(|slot| format!("{} since {} ({})", slot.holder, slot.since, slot.incident)).collect();
    let by = if holders.is_empty() { "others".into() } else { holders.join(", ") };
    deny(Reason::SlotTaken, format!("held by {by}"))
}

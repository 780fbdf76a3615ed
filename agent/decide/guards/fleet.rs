//! What the others say: how many of them are healthy, and how many work on the service now.

use super::{Answer, Gate, Question, Verdict, deny, text};
use crate::model::Reason;
use crate::ports::fleet::{Acquired, Phase, Slot};

impl Gate {
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
}

fn taken(held: &[Slot]) -> Verdict {
    let holders: Vec<String> =
        held.iter().map(|slot| format!("{} since {} ({})", slot.holder, slot.since, slot.incident)).collect();
    deny(Reason::SlotTaken, format!("held by {}", holders.join(", ")))
}

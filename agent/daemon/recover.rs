//! What a former agent left: each incident that has not ended is gone on with, or given to a person. Each by itself, beside
//! the agent's other work: whether a restart took place may take minutes to know.

use super::agent::Agent;
use super::event::Ended;
use super::opening::RunError;
use crate::execute::driver::{self, Driven};
use crate::execute::recovery;
use crate::execute::tell::EndFacts;
use crate::execute::world::World;
use crate::model::incident::Ending;
use crate::model::{EventKind, Outcome, Plan, Reason};
use crate::store::{Implied, JournalRow};

impl Agent {
    /// Goes on with every incident that has not ended.
    pub(crate) fn recover(&mut self) -> Result<(), RunError> {
        for open in self.store.open_incidents()? {
            let plan = open.plan.clone();
            let (incident, service) = (&plan.incident, &plan.target.service);
            tracing::warn!(
                %incident,
                %service,
                "incident {incident} of {service} was open when the agent ended: going on with it",
            );
            self.under_way.insert(service.clone());
            let (world, stop) = (self.wiring.world_of(&plan, &self.store, self.started), self.stop.clone());
            self.sagas.spawn(async move {
                let next = open.journal.last().map_or(0, |row| row.seq + 1);
                let driven = match recovery::resume(open, &world).await {
                    Ok((saga, journal)) => driver::drive(saga, journal, &world, stop).await,
                    Err(unreadable) => give_up(&plan, next, &unreadable.to_string(), &world),
                };
                Ended { plan, driven }
            });
        }
        Ok(())
    }
}

/// An incident whose journal cannot be read back: nothing is done on its word; a person is told, and decides.
fn give_up(plan: &Plan, seq: u32, unreadable: &str, world: &World) -> Driven {
    let reason = Reason::JournalUnreadable;
    let ending = Ending { outcome: Outcome::Stuck, reason, detail: unreadable.into() };
    let teller = world.teller(plan);
    // Whether it is drained is not known; the worse is said.
    let drained = plan.drains().then(|| world.last_look(plan));
    let told = EndFacts { blame: world.store.blame(&plan.incident).unwrap_or_default(), ..EndFacts::default() };
    let messages = [EventKind::End, EventKind::Stuck].map(|event| teller.end(event, &ending, drained, &told));
    messages.iter().for_each(|message| (world.on_message)(message));
    let event = serde_json::json!({ "unreadable": unreadable }).to_string();
    let row = JournalRow { seq, at: world.clock.now(), event };
    let implied = Implied {
        step: "ending",
        changed: true,
        ending: Some(&ending),
        latch: (!plan.dry_run).then_some((&plan.target.service, &ending)),
        audience: &world.audience,
        messages: &messages,
    };
    match world.store.append(&plan.incident, &[row], &implied) {
        Ok(()) => Driven::Rested(ending),
        Err(error) => {
            tracing::error!(
                %error,
                incident = %plan.incident,
                "incident {} stays open: its end cannot be stored: {error}",
                plan.incident,
            );
            world.store.tell(&world.audience, &messages);
            Driven::Left
        }
    }
}

#[cfg(test)]
#[path = "recover_tests.rs"]
mod tests;

//! Work beside the loop: whatever asks somebody, or takes its time. One of a kind at a time; what came of it reaches the
//! loop as an event.

use std::collections::BTreeSet;

use tokio::task::JoinSet;

use super::event::Event;
use crate::model::{IncidentId, ServiceName};
use crate::ports::sharing;

/// What kind of work.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Look,
    Discovery,
    /// What of the store is shown over HTTP.
    Stored,
    /// What people are reminded of, and told of orders.
    Reminders,
    /// Of supervisors and containers' daemons.
    Supervisors,
    Arrivals,
    /// The guards, of one policy (by name) and one service.
    Guards(String, ServiceName),
    /// The one place where a slot is taken: it waits for the fleet's store, and nobody who needs no slot waits for it.
    Slot,
    /// The one place where an incident begins.
    Beginning,
    Breaches,
    /// How this host is.
    FleetStatus,
    /// What became of leaked sockets, for the review.
    LeakedSockets,
    Sweep,
    SlotsReturned,
    SlotsKept,
    /// The fleet's slots, for the status page.
    FleetSlots,
    Evidence,
    /// The page of an incident that has ended.
    Report(IncidentId),
    Reload,
    LastGood,
    /// A person's question, by its number.
    Request(u64),
    /// A person's decision, by its number.
    Resolve(u64),
}

/// What is under way.
#[derive(Debug, Default)]
pub(super) struct Beside {
    tasks: JoinSet<(Kind, Event)>,
    under_way: BTreeSet<Kind>,
}

impl Beside {
    /// Begins this work, unless some of its kind is under way. All but a person's decision can wait for a party that is silent.
    pub fn start(&mut self, kind: Kind, work: impl Future<Output = Event> + Send + 'static) {
        if !self.under_way.insert(kind.clone()) {
            return;
        }
        match kind {
            Kind::Resolve(_) => self.tasks.spawn(async move { (kind, work.await) }),
            _ => self.tasks.spawn(async move { (kind, sharing(None, work).await) }),
        };
    }

    /// The same, of which nothing is to be heard but its end.
    pub fn start_quietly(&mut self, kind: Kind, work: impl Future<Output = ()> + Send + 'static) {
        self.start(kind, async {
            work.await;
            Event::Over
        });
    }

    pub fn is_under_way(&self, kind: &Kind) -> bool {
        self.under_way.contains(kind)
    }

    /// Is anything under way that is not to be cut off?
    pub fn is_changing_anything(&self) -> bool {
        self.under_way.iter().any(|kind| matches!(kind, Kind::Beginning | Kind::Resolve(_)))
    }

    /// Are any guards being asked?
    pub fn asks_guards(&self) -> bool {
        self.under_way.iter().any(|kind| matches!(kind, Kind::Guards(..)))
    }

    /// The next event; none comes while nothing is under way.
    pub async fn next(&mut self) -> Event {
        match self.tasks.join_next().await {
            Some(Ok((kind, event))) => {
                self.under_way.remove(&kind);
                event
            }
            // A defect of ours must not be outlived: the next start goes on from the journal.
            Some(Err(error)) => match error.try_into_panic() {
                Ok(defect) => std::panic::resume_unwind(defect),
                Err(_) => std::future::pending().await,
            },
            None => std::future::pending().await,
        }
    }
}

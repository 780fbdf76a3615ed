//! The fleet's slots of this host: kept, and given back where nothing needs them any more.

use std::sync::Arc;

use super::agent::Agent;
use super::beside::Kind;
use super::duties::sweep;
use super::event::Event;

impl Agent {
    /// Looks at the slots of this host.
    pub(super) fn keep_slots(&mut self) {
        let (ports, store, one) = (self.wiring.ports.clone(), Arc::clone(&self.store), Arc::clone(&self.slots));
        self.beside.start_quietly(Kind::SlotsKept, async move {
            // One that is being given back is no stray that is to be.
            let _one = one.lock().await;
            sweep::keep_slots(&ports, &store).await;
        });
    }

    pub(super) fn return_slots(&mut self) {
        self.released = self.wiring.host.clock.monotonic();
        let returned = self.slots_returned();
        self.beside.start(Kind::SlotsReturned, async {
            returned.await;
            Event::SlotsReturned
        });
    }

    /// Gives back the slots that are to be; by one at a time.
    pub(super) fn slots_returned(&self) -> impl Future<Output = ()> + Send + 'static {
        let (ports, store) = (self.wiring.ports.clone(), Arc::clone(&self.store));
        let (clock, one) = (Arc::clone(&self.wiring.host.clock), Arc::clone(&self.slots));
        async move {
            let _one = one.lock().await;
            sweep::release_slots(&ports, &store, clock.now()).await;
        }
    }

    /// Is an incident beginning, or its slot being taken?
    pub(super) fn begins_anything(&self) -> bool {
        let under_way = |kind| self.beside.is_under_way(&kind);
        under_way(Kind::Beginning) || under_way(Kind::Slot) || self.to_begin.iter().any(|next| next.slot.is_some())
    }
}

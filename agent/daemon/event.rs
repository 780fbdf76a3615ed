//! What the loop hears of: what came of the tasks beside it.

use std::time::Duration;

use tokio::sync::OwnedMutexGuard;

use super::board::Listed;
use super::duties::breach_log;
use super::duties::breaches::Published;
use super::duties::fleet_status::TellsFleet;
use super::duties::orders::Order;
use super::reloads::Rejection;
use super::scribe::Scribe;
use crate::decide::guards::Refusal;
use crate::execute::driver::Driven;
use crate::execute::world::World;
use crate::model::{Plan, Policy, Readings};
use crate::sense::attention::Attention;
use crate::sense::sensor::Look;
use crate::view::bulletin::Bulletin;
use crate::view::request::Reply;
use crate::view::slots::FleetSlots;
use crate::wiring::Wiring;
use crate::wiring::plans::Proposal;

/// What the loop hears of.
#[derive(Debug)]
pub(super) enum Event {
    Looked(Box<Looked>),
    Considered(Box<Considered>),
    SlotTaken(Box<SlotTaken>),
    Begun(Box<Begun>),
    Published(Published),
    ToldFleet(TellsFleet),
    /// What became of leaked sockets, for the review.
    FoundSockets(Vec<breach_log::Found>),
    /// Did all registries answer?
    Swept(bool),
    SlotsReturned,
    /// The fleet's slots, for the status page.
    FleetSlots(FleetSlots),
    /// What the store has, for the board; an error in words.
    Stored(Box<Result<Bulletin, String>>),
    /// A person asks for the configuration to be read anew, and that is written down.
    ToReload(Order),
    /// A new configuration with its adapters, or why it is not put in force.
    Reloaded(Box<Result<Wiring, Rejection>>),
    /// The files of this configuration are kept for a start on broken ones.
    Kept(u64),
    /// Work is over of which nothing is to be heard.
    Over,
}

/// What came of a look.
#[derive(Debug)]
pub(super) struct Looked {
    /// Since boot.
    pub begun: Duration,
    /// Of which configuration, counted from the start on.
    pub configuration: u64,
    pub attention: Attention,
    /// An error in words.
    pub look: Result<Look, String>,
    /// For the board, where somebody may read it.
    pub listed: Option<Listed>,
}

/// A saga that came to rest, or was left for the next start.
pub(crate) struct Ended {
    pub plan: Plan,
    pub driven: Driven,
}

/// What may begin.
#[derive(Debug)]
pub(super) struct Beginning {
    pub proposal: Proposal,
    /// What the guards are asked through, and then the saga: a dry one remembers their answers.
    pub world: World,
    pub policy: Policy,
    pub readings: Readings,
    /// Of which configuration, counted from the agent's start on.
    pub configuration: u64,
    /// Where a person asked for it.
    pub order: Option<Order>,
    /// Its slot is taken, and is noted before the incident is: until then nobody gives slots back.
    pub slot: Option<OwnedMutexGuard<()>>,
}

impl Beginning {
    pub fn is_a_persons(&self) -> bool {
        self.order.is_some()
    }

    /// Not now, and why, where a person waits.
    pub fn put_off(self, scribe: &Scribe, why: &str) {
        refuse(scribe, self.order, || why.into());
    }
}

/// What the guards say of it, but for the slot.
#[derive(Debug)]
pub(super) struct Considered {
    pub beginning: Beginning,
    pub answer: Result<(), Refusal>,
    /// Another host tells of this refusal.
    pub another_tells: bool,
}

/// It has its slot, or gets none.
#[derive(Debug)]
pub(super) struct SlotTaken {
    pub beginning: Beginning,
    pub answer: Result<(), Refusal>,
}

/// It has begun, or a guard was against it in the end.
#[derive(Debug)]
pub(super) struct Begun {
    pub beginning: Beginning,
    pub began: Result<(), Refusal>,
    pub another_tells: bool,
}

/// Whoever waits hears why not.
pub(super) fn refuse(scribe: &Scribe, order: Option<Order>, why: impl FnOnce() -> String) {
    if let Some(order) = order {
        let why = Reply::refused(why());
        scribe.write(move |_| order.answer(why));
    }
}

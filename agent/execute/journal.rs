//! The saga's journal: events committed in order, with what they imply.
//!
//! An intent that cannot be committed is an error for the driver. Any other event that the disk refuses waits
//! here, its messages are told all the same, and it is written with the next event that the disk takes: undo and
//! restore never wait for the journal.

use crate::model::incident::{Drained, Ending};
use crate::model::{EventKind, Message, Outcome};
use crate::store::{Implied, JournalRow, StoreError};

use super::saga::{Event, Illegal, Saga, State};
use super::tell::{self, EndFacts};
use super::world::World;

#[derive(Debug)]
pub struct Journal {
    next: u32,
    waiting: Vec<JournalRow>,
    drained: Drained,
}

/// A journal that cannot be read back.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    #[error("event {seq} of the journal cannot be read: {source}")]
    Unreadable { seq: u32, source: serde_json::Error },
    #[error("event {seq} of the journal: {source}")]
    Illegal { seq: u32, source: Illegal },
}

impl Journal {
    pub fn new() -> Self {
        Self { next: 0, waiting: Vec::new(), drained: Drained::default() }
    }

    /// Feeds a stored journal to a new saga.
    pub fn replay(rows: &[JournalRow], saga: &mut Saga) -> Result<Self, JournalError> {
        let mut drained = Drained::default();
        for row in rows {
            let event =
                serde_json::from_str(&row.event).map_err(|source| JournalError::Unreadable { seq: row.seq, source })?;
            saga.apply(event).map_err(|source| JournalError::Illegal { seq: row.seq, source })?;
            drained.follow(saga.holds_drain(), row.at);
        }
        Ok(Self { next: rows.last().map_or(0, |row| row.seq + 1), waiting: Vec::new(), drained })
    }

    /// Commits the event before anything is done about it; on an error nothing has happened. Where the disk hangs the intent may
    /// still come to stand in the journal: then it stands there, and what follows behind it.
    pub fn intend(&mut self, saga: &mut Saga, event: Event, world: &World) -> Result<(), StoreError> {
        let mut next = saga.clone();
        advance(&mut next, event.clone());
        let committed = self.commit(&next, &event, world, &[]);
        match &committed {
            Ok(()) => *saga = next,
            Err(StoreError::Hangs { .. }) => {
                *saga = next;
                self.keep(&event, world);
            }
            Err(_) => {}
        }
        self.drained.follow(saga.holds_drain(), world.clock.now());
        committed
    }

    /// Records what has happened; where the disk refuses, it waits here.
    pub fn record(&mut self, saga: &mut Saga, event: Event, world: &World) {
        advance(saga, event.clone());
        self.drained.follow(saga.holds_drain(), world.clock.now());
        let messages = messages(saga, &event, self.drained, world);
        for message in &messages {
            (world.on_message)(message);
        }
        if let Err(error) = self.commit(saga, &event, world, &messages) {
            tracing::error!(
                %error,
                incident = %saga.plan().incident,
                "cannot store the journal of incident {}: {error}; it is kept in memory until the disk takes it",
                saga.plan().incident,
            );
            self.keep(&event, world);
            world.store.tell(&world.audience, &messages);
        }
    }

    /// Writes what waits; true once nothing does.
    pub fn flush(&mut self, saga: &Saga, world: &World) -> bool {
        if self.waiting.is_empty() {
            return true;
        }
        let implied = implied(saga, &world.audience, &[]);
        let written = world.store.append(&saga.plan().incident, &self.waiting, &implied.as_implied()).is_ok();
        if written {
            self.waiting.clear();
        }
        written
    }

    fn commit(&mut self, saga: &Saga, event: &Event, world: &World, messages: &[Message]) -> Result<(), StoreError> {
        let mut rows = self.waiting.clone();
        rows.push(self.row(event, world));
        let implied = implied(saga, &world.audience, messages);
        world.store.append(&saga.plan().incident, &rows, &implied.as_implied())?;
        self.waiting.clear();
        self.next += 1;
        Ok(())
    }

    /// Until the disk takes it.
    fn keep(&mut self, event: &Event, world: &World) {
        self.waiting.push(self.row(event, world));
        self.next += 1;
    }

    fn row(&self, event: &Event, world: &World) -> JournalRow {
        let event = serde_json::to_string(event).expect("an event is plain data");
        JournalRow { seq: self.next, at: world.clock.now(), event }
    }
}

impl Default for Journal {
    fn default() -> Self {
        Self::new()
    }
}

/// An event that our own driver makes is legal, or the driver is broken.
fn advance(saga: &mut Saga, event: Event) {
    if let Err(illegal) = saga.apply(event) {
        panic!("defect in the saga's driver: {illegal}");
    }
}

struct Owned<'a> {
    changed: bool,
    ending: Option<Ending>,
    saga: &'a Saga,
    audience: &'a crate::store::Audience,
    messages: &'a [Message],
}

fn implied<'a>(saga: &'a Saga, audience: &'a crate::store::Audience, messages: &'a [Message]) -> Owned<'a> {
    let ending = match saga.state() {
        State::Rests(ending) => Some(ending.clone()),
        _ => None,
    };
    Owned { changed: saga.changed_anything(), ending, saga, audience, messages }
}

impl Owned<'_> {
    fn as_implied(&self) -> Implied<'_> {
        // A dry-run that would have ended stuck latches nothing.
        let stuck = self.ending.as_ref().filter(|e| e.outcome == Outcome::Stuck && !self.saga.plan().dry_run);
        Implied {
            step: self.saga.is_at(),
            changed: self.changed,
            ending: self.ending.as_ref(),
            latch: stuck.map(|ending| (&self.saga.plan().target.service, ending)),
            audience: self.audience,
            messages: self.messages,
        }
    }
}

/// What people are told of an event.
fn messages(saga: &Saga, event: &Event, drained: Drained, world: &World) -> Vec<Message> {
    let tell = world.teller(saga.plan());
    let mut messages = Vec::new();
    // What a judgement says, the end says.
    let is_judgement = matches!(event, Event::Judged { .. });
    if let Some((step, outcome, detail)) = tell::step_of(saga.plan(), event).filter(|_| !is_judgement) {
        messages.push(tell.step(step, outcome, detail));
    }
    if let State::Rests(ending) = saga.state() {
        let is_left = saga.holds_drain_at_rest();
        let seen = is_left.then(|| world.last_look(saga.plan()));
        let told = EndFacts {
            blame: world.store.blame(&saga.plan().incident).unwrap_or_default(),
            out_since: drained.since,
            in_again: drained.until.filter(|_| !is_left),
        };
        messages.push(tell.end(EventKind::End, ending, seen, &told));
        if ending.outcome == Outcome::Stuck && !saga.plan().dry_run {
            messages.push(tell.end(EventKind::Stuck, ending, seen, &told));
        }
    }
    messages
}

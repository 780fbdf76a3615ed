//! Which messages go to a destination next, and which of them as one: the outbox's queue in, messages out. Asks nobody.
//!
//! Of each service the order in which it was told is kept. What asks a person goes before all else, with what was told of its
//! service before it. Where more waits than goes out in [`SOON`] at the destination's pace, messages of one event and policy are
//! joined: they gather for as long, and one message names each by its title, as many as the destination shows, and counts the
//! rest. What asks a person does not gather, and is never counted only: it stands in the joined message whole, with its commands.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;

use crate::model::{EventKind, Message, ServiceName};
use crate::ports::notifier::Pace;
use crate::store::{Outgoing, Queued};

/// Messages that go out within this time are not joined; beyond that, they gather for so long.
const SOON: Duration = Duration::from_secs(10);
/// After so many tries (1 + 2 + 4 + 8 + 16 + 32 s) a message gives way to all others: it may be the reason itself.
const GIVES_WAY_AFTER: u32 = 6;
/// After so many a message is not joined any more, lest it is the reason and keeps others back.
const ALONE_AFTER: u32 = 12;
/// The last line of a joined message, at most.
const MORE_BYTES: usize = 48;

/// What is sent as one message.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// The same on each try of the same messages.
    pub id: String,
    /// Of the messages that have arrived once it has.
    pub ids: Vec<String>,
    /// How often the least tried of them was tried.
    pub attempts: u32,
    pub message: Message,
    /// More of its kind may come: it is not sent yet, nor what follows it.
    pub gathers: bool,
}

/// What is to be sent to one destination, in this order, as of `now`. `apart`: messages that are not to be joined.
pub fn batches(queue: &[Queued], now: Timestamp, pace: Pace, apart: &BTreeSet<String>) -> Vec<Batch> {
    let (ready, late) = ready(queue);
    let at_once = match pace.every.is_zero() {
        true => usize::MAX,
        false => ((SOON.as_millis() / pace.every.as_millis().max(1)) as usize).max(1),
    };
    let urgent = [&ready, &late].into_iter().flatten().filter(|one| is_urgent(one)).count();
    let bytes = pace.joined_bytes.filter(|_| ready.len() + late.len() > at_once);
    let joins = |one: &Queued| {
        let Outgoing { id, attempts, .. } = &one.outgoing;
        !apart.contains(id) && *attempts < ALONE_AFTER && (!is_urgent(one) || urgent > at_once)
    };
    let (first, then) = by_urgency(ready);
    let (late_first, late) = by_urgency(late);
    let mut batches = Vec::new();
    for (queue, gathers) in [(first, false), (then, true), (late_first, false), (late, false)] {
        for group in gather(queue, bytes, &joins) {
            let gathers = gathers && group.is_young(now);
            batches.push(Batch { gathers, ..joined(group) });
        }
    }
    batches
}

fn is_urgent(one: &Queued) -> bool {
    matches!(one.outgoing.message.event, EventKind::Stuck | EventKind::Approval)
}

fn of(one: &Queued) -> Option<&ServiceName> {
    one.outgoing.message.service.as_ref()
}

/// What may be sent now; and what comes after all of it. Behind a message that is to be tried again later, those of its service
/// wait; unless it has been tried often.
fn ready(queue: &[Queued]) -> (Vec<&Queued>, Vec<&Queued>) {
    let (mut ready, mut late) = (Vec::new(), Vec::new());
    let (mut waits, mut is_late) = (BTreeSet::new(), BTreeSet::new());
    for one in queue {
        let often = one.outgoing.attempts >= GIVES_WAY_AFTER;
        if waits.contains(&of(one)) || (!one.is_due && often) {
            continue;
        }
        if !one.is_due {
            waits.insert(of(one));
        } else if often || is_late.contains(&of(one)) {
            is_late.insert(of(one));
            late.push(one);
        } else {
            ready.push(one);
        }
    }
    (ready, late)
}

/// What asks a person, with all that was told of its service before it; and the rest.
fn by_urgency(ready: Vec<&Queued>) -> (Vec<&Queued>, Vec<&Queued>) {
    let last: BTreeMap<_, usize> =
        ready.iter().enumerate().filter(|(_, one)| is_urgent(one)).map(|(place, one)| (of(one), place)).collect();
    let mut place = 0..;
    ready.into_iter().partition(|one| {
        let place = place.next().expect("it has no end");
        last.get(&of(one)).is_some_and(|last| place <= *last)
    })
}

/// Messages that become one.
struct Group<'a> {
    /// `None`: nothing joins it.
    room: Option<usize>,
    members: Vec<&'a Queued>,
}

impl<'a> Group<'a> {
    /// May more join it, and is its first message so new that they should? A wall clock that was set back makes none new.
    fn is_young(&self, now: Timestamp) -> bool {
        let age = now.duration_since(self.members[0].outgoing.message.at);
        self.room.is_some() && !age.is_negative() && age.unsigned_abs() < SOON
    }

    /// Takes one more where it is of the same kind, and where what must stand there whole has room.
    fn takes(&mut self, one: &'a Queued) -> bool {
        let key = |one: &'a Queued| {
            let Message { event, policy, dry_run, .. } = &one.outgoing.message;
            (event, policy, dry_run)
        };
        if key(self.members[0]) != key(one) {
            return false;
        }
        let Some(room) = self.room else { return false };
        let whole = if is_urgent(one) { whole(&one.outgoing.message).len() + 1 } else { 0 };
        if whole > room {
            return false;
        }
        self.room = Some(room - whole);
        self.members.push(one);
        true
    }
}

/// Each message joins the first group of its kind that is not before one in which its service was told of already.
fn gather<'a>(queue: Vec<&'a Queued>, bytes: Option<usize>, joins: &dyn Fn(&Queued) -> bool) -> Vec<Group<'a>> {
    let mut groups: Vec<Group<'a>> = Vec::new();
    let mut told_in: BTreeMap<Option<&ServiceName>, usize> = BTreeMap::new();
    for one in queue {
        let from = told_in.get(&of(one)).copied().unwrap_or(0);
        let joins = joins(one);
        let place = groups.iter_mut().skip(from).position(|group| joins && group.takes(one)).map(|nth| from + nth);
        let place = place.unwrap_or_else(|| {
            let empty = Group { room: Some(usize::MAX), members: vec![one] };
            let room =
                bytes.filter(|_| joins).map(|bytes| bytes.saturating_sub(head(&empty, 10_000).len() + MORE_BYTES));
            let own = if is_urgent(one) { whole(&one.outgoing.message).len() + 1 } else { 0 };
            groups.push(Group { room: room.and_then(|room| room.checked_sub(own)), ..empty });
            groups.len() - 1
        });
        told_in.insert(of(one), place);
    }
    groups
}

fn alone(one: &Queued) -> Batch {
    let outgoing = &one.outgoing;
    Batch {
        id: outgoing.id.clone(),
        ids: vec![outgoing.id.clone()],
        attempts: outgoing.attempts,
        message: outgoing.message.clone(),
        gathers: false,
    }
}

fn whole(message: &Message) -> String {
    message.to_string()
}

fn joined(group: Group<'_>) -> Batch {
    let [first, .., last] = &group.members[..] else { return alone(group.members[0]) };
    let all = || group.members.iter().map(|one| &one.outgoing.message);
    let message = Message {
        labels: first.outgoing.message.labels.clone(),
        service: shared(all().map(|message| &message.service)),
        policy: first.outgoing.message.policy.clone(),
        incident: shared(all().map(|message| &message.incident)),
        dry_run: first.outgoing.message.dry_run,
        outcome: shared(all().map(|message| &message.outcome)),
        reason: shared(all().map(|message| &message.reason)),
        lines: lines(&group),
        ..Message::new(
            first.outgoing.message.event,
            &first.outgoing.message.host,
            last.outgoing.message.at,
            head(&group, group.members.len()),
        )
    };
    Batch {
        id: format!("{}+{}", first.outgoing.id, last.outgoing.id),
        ids: group.members.iter().map(|one| one.outgoing.id.clone()).collect(),
        attempts: group.members.iter().map(|one| one.outgoing.attempts).min().unwrap_or(0),
        message,
        gathers: false,
    }
}

/// The value that all have.
fn shared<'a, T: Clone + PartialEq + 'a>(mut values: impl Iterator<Item = &'a Option<T>>) -> Option<T> {
    let first = values.next()?;
    first.clone().filter(|_| values.all(|value| value == first))
}

fn head(group: &Group<'_>, count: usize) -> String {
    let Message { event, host, policy, .. } = &group.members[0].outgoing.message;
    let what = match event {
        EventKind::Breach => "breaches",
        EventKind::Held => "breaches, and no action on them",
        EventKind::Approval => "plans wait for a person's word",
        EventKind::Start => "incidents begin",
        EventKind::Step => "steps",
        EventKind::End => "incidents ended",
        EventKind::Stuck => "messages need a person",
        EventKind::Recovered => "breaches are over",
        EventKind::Operator => "orders of people",
        EventKind::Review => "reviews",
        EventKind::Test => "tests",
    };
    format!("{} on {host}: {count} {what}", policy.as_deref().unwrap_or("unwait"))
}

/// What asks a person whole; of the rest the titles that fit.
fn lines(group: &Group<'_>) -> Vec<String> {
    if is_urgent(group.members[0]) {
        return group
            .members
            .iter()
            .flat_map(|one| whole(&one.outgoing.message).lines().map(String::from).collect::<Vec<_>>())
            .collect();
    }
    let mut left = group.room.unwrap_or(0);
    let mut lines: Vec<String> = Vec::new();
    for one in &group.members {
        let title = &one.outgoing.message.title;
        let Some(rest) = left.checked_sub(title.len() + 1) else { break };
        left = rest;
        lines.push(title.clone());
    }
    let more = group.members.len() - lines.len();
    lines.push(if more > 0 { format!("and {more} more: unwait history") } else { "look: unwait history".into() });
    lines
}

#[cfg(test)]
#[path = "joining_tests.rs"]
mod tests;

//! The slots' document and every change to it; no I/O, so that every store keeps the same rules.
//!
//! `{"version": 1, "slots": [...]}`, a [`Slot`] each, one document a service; none where nobody holds a slot. A host holds one slot at most. A waiting
//! entry counts until its `until`; a changing or drained one counts until it is released, however long that takes. A
//! document that cannot be read whole, or that a newer unwait has written, is refused and never written over: it may hold
//! a slot.
//!
//! Version 2 knows the phase `drained`. A document without one is still written as version 1, so that hosts with an older
//! unwait wait no longer than for as long as a newer one is at work, and are told to update.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Phase, Slot};
use crate::model::moment::after;

/// How long a waiting entry counts, and how long any answer is good. Renewed by each acquire; long enough for the steps
/// before the first change (evidence: 20 s), short enough that a host that vanished while waiting holds nobody up.
pub const LEASE: Duration = Duration::from_secs(60);

/// How much later than the holder another host sees a lease as ended: more than clocks that are kept differ, by far.
pub const SKEW: Duration = Duration::from_secs(10);

/// Without a slot that is drained, and with one. This unwait reads both.
const PLAIN: u32 = 1;
const WITH_DRAINED: u32 = 2;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    version: u32,
    slots: Vec<Slot>,
}

/// Why a text is no document of ours; `what` lies where, the caller knows.
pub(super) fn parse(text: &[u8]) -> Result<Vec<Slot>, String> {
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    let read =
        serde_json::from_slice::<Document>(text).map_err(|error| format!("the value is no list of slots: {error}"));
    // What a newer one holds may be unreadable here; that it is newer is to be said first.
    let version = match &read {
        Ok(document) => document.version,
        Err(unreadable) => serde_json::from_slice::<Versioned>(text).map_err(|_| unreadable.clone())?.version,
    };
    if version > WITH_DRAINED {
        return Err(format!(
            "the list has version {version}, and this unwait reads up to {WITH_DRAINED}: update unwait on this host"
        ));
    }
    Ok(read?.slots)
}

pub(super) fn write(slots: &[Slot]) -> Vec<u8> {
    let drained = slots.iter().any(|slot| slot.phase == Phase::Drained);
    let version = if drained { WITH_DRAINED } else { PLAIN };
    let document = Document { version, slots: slots.to_vec() };
    serde_json::to_vec(&document).expect("strings and timestamps are JSON")
}

/// Who asks, for what, and when.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asker<'a> {
    pub host: &'a str,
    pub incident: &'a str,
    pub now: Timestamp,
}

/// What asking for a slot comes to.
#[derive(Debug, PartialEq)]
pub(super) enum Take {
    /// Held, once this is written.
    Write(Vec<Slot>),
    /// Held already, changing or until this asker's very deadline: nothing is to be written.
    Held,
    /// Others hold them all.
    No(Vec<Slot>),
}

/// What going on to change something comes to.
#[derive(Debug, PartialEq)]
pub(super) enum Begin {
    Write(Vec<Slot>),
    Begun(Slot),
    /// The slot is not ours any more, and why.
    Lost(String),
}

impl Slot {
    fn is_of(&self, asker: Asker<'_>) -> bool {
        self.holder == asker.host && self.incident == asker.incident
    }

    /// Counts against the slots, in the eyes of a host whose wall clock says `now`.
    pub fn counts(&self, now: Timestamp) -> bool {
        match self.phase {
            Phase::Waiting { until } => after(until, SKEW) > now,
            Phase::Changing | Phase::Drained => true,
        }
    }
}

/// Takes or renews. What this host waited for in an earlier incident gives way; what it was changing does not.
pub(super) fn take(document: &[Slot], asker: Asker<'_>, slots: u32) -> Take {
    let mine = of(document, asker);
    let until = asker.now + LEASE;
    if mine.is_some_and(|slot| slot.phase.is_begun() || slot.phase == (Phase::Waiting { until })) {
        return Take::Held;
    }
    let stays = |slot: &&Slot| slot.counts(asker.now) && (slot.holder != asker.host || slot.phase.is_begun());
    let mut others: Vec<Slot> = document.iter().filter(stays).cloned().collect();
    let earlier_of_ours = others.iter().any(|slot| slot.holder == asker.host);
    if earlier_of_ours || others.len() >= slots as usize {
        return Take::No(others);
    }
    others.push(Slot {
        holder: asker.host.into(),
        incident: asker.incident.into(),
        since: mine.map_or(asker.now, |slot| slot.since),
        phase: Phase::Waiting { until },
    });
    Take::Write(others)
}

/// From waiting to changing. A lease that has run out is lost even where nobody has taken the place yet.
pub(super) fn begin(document: &[Slot], asker: Asker<'_>) -> Begin {
    let Some(mine) = document.iter().position(|slot| slot.is_of(asker)) else {
        return Begin::Lost("this host and incident do not hold it any more".into());
    };
    match document[mine].phase {
        Phase::Changing | Phase::Drained => Begin::Begun(document[mine].clone()),
        Phase::Waiting { until } if until <= asker.now => {
            Begin::Lost(format!("its lease ended at {until}; the slot must be taken again"))
        }
        Phase::Waiting { .. } => {
            let mut after = document.to_vec();
            after[mine].phase = Phase::Changing;
            after[mine].since = asker.now;
            Begin::Write(after)
        }
    }
}

/// The asker's own entry.
pub(super) fn of<'a>(document: &'a [Slot], asker: Asker<'_>) -> Option<&'a Slot> {
    document.iter().find(|slot| slot.is_of(asker))
}

/// With an entry that its store has lost. Its holder is at work, however many others are.
pub(super) fn again(document: &[Slot], lost: Slot) -> Vec<Slot> {
    let gives_way = |slot: &Slot| slot.incident == lost.incident || !slot.phase.is_begun();
    let mut after: Vec<Slot> = document.to_vec();
    after.retain(|slot| slot.holder != lost.holder || !gives_way(slot));
    after.push(lost);
    after
}

/// From changing to drained; `None` where there is nothing to write.
pub(super) fn drained(document: &[Slot], asker: Asker<'_>) -> Option<Vec<Slot>> {
    let mine = document.iter().position(|slot| slot.is_of(asker) && slot.phase == Phase::Changing)?;
    let mut after = document.to_vec();
    after[mine].phase = Phase::Drained;
    after[mine].since = asker.now;
    Some(after)
}

/// What stays and what is given back: a host's slot for one incident, or for any. What others waited for and lost stays
/// no longer: a document that holds nothing can be deleted, which a store that is full takes as well.
pub(super) fn release(document: &[Slot], host: &str, incident: Option<&str>, now: Timestamp) -> (Vec<Slot>, Vec<Slot>) {
    let goes = |slot: &Slot| slot.holder == host && incident.is_none_or(|incident| slot.incident == incident);
    let (goes, mut stays): (Vec<Slot>, Vec<Slot>) = document.iter().cloned().partition(goes);
    stays.retain(|slot| slot.counts(now));
    (stays, goes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn waiting(holder: &str, incident: &str, until: i64) -> Slot {
        Slot {
            holder: holder.into(),
            incident: incident.into(),
            since: at(0),
            phase: Phase::Waiting { until: at(until) },
        }
    }

    fn changing(holder: &str, incident: &str) -> Slot {
        Slot { holder: holder.into(), incident: incident.into(), since: at(0), phase: Phase::Changing }
    }

    fn drained_slot(holder: &str, incident: &str) -> Slot {
        Slot { phase: Phase::Drained, ..changing(holder, incident) }
    }

    const NOW: i64 = 1_000;

    fn me() -> Asker<'static> {
        Asker { host: "a", incident: "i1", now: at(NOW) }
    }

    #[test]
    fn a_slot_is_taken_renewed_or_refused() {
        let ours = |since| Slot { since: at(since), ..waiting("a", "i1", NOW + 60) };
        for (what, document, slots, expected) in [
            ("empty", vec![], 1, Take::Write(vec![ours(NOW)])),
            ("no slots at all", vec![], 0, Take::No(vec![])),
            ("renewed, since stays", vec![waiting("a", "i1", NOW + 5)], 1, Take::Write(vec![ours(0)])),
            ("as it was just written", vec![ours(0)], 1, Take::Held),
            ("our own, run out", vec![waiting("a", "i1", NOW - 5)], 1, Take::Write(vec![ours(0)])),
            ("changing already", vec![changing("a", "i1")], 1, Take::Held),
            ("drained already", vec![drained_slot("a", "i1")], 1, Take::Held),
            ("another is drained", vec![drained_slot("b", "x")], 1, Take::No(vec![drained_slot("b", "x")])),
            (
                "we are stuck, drained, in an earlier incident",
                vec![drained_slot("a", "i0")],
                2,
                Take::No(vec![drained_slot("a", "i0")]),
            ),
            ("changing already, among too many", vec![changing("b", "x"), changing("a", "i1")], 1, Take::Held),
            ("another waits", vec![waiting("b", "x", NOW + 1)], 1, Take::No(vec![waiting("b", "x", NOW + 1)])),
            ("another's lease ended just now", vec![waiting("b", "x", NOW)], 1, Take::No(vec![waiting("b", "x", NOW)])),
            (
                "another's lease ended, but for the margin",
                vec![waiting("b", "x", NOW - 9)],
                1,
                Take::No(vec![waiting("b", "x", NOW - 9)]),
            ),
            ("another's lease ended", vec![waiting("b", "x", NOW - 10)], 1, Take::Write(vec![ours(NOW)])),
            ("another changes for ever", vec![changing("b", "x")], 1, Take::No(vec![changing("b", "x")])),
            ("a second slot", vec![changing("b", "x")], 2, Take::Write(vec![changing("b", "x"), ours(NOW)])),
            ("we waited for an earlier incident", vec![waiting("a", "i0", NOW + 9)], 1, Take::Write(vec![ours(NOW)])),
            ("we are stuck in an earlier incident", vec![changing("a", "i0")], 2, Take::No(vec![changing("a", "i0")])),
            (
                "fewer slots than before",
                vec![waiting("a", "i1", NOW + 9), changing("b", "x")],
                1,
                Take::No(vec![changing("b", "x")]),
            ),
        ] {
            assert_eq!(take(&document, me(), slots), expected, "{what}");
        }
    }

    #[test]
    fn changing_begins_only_on_a_lease_that_still_runs() {
        let begun = vec![changing("b", "x"), Slot { since: at(NOW), ..changing("a", "i1") }];
        let running = vec![changing("b", "x"), waiting("a", "i1", NOW + 1)];
        assert_eq!(begin(&running, me()), Begin::Write(begun.clone()));
        assert_eq!(begin(&begun, me()), Begin::Begun(begun[1].clone()));
        let now_drained = vec![changing("b", "x"), Slot { since: at(NOW), ..drained_slot("a", "i1") }];
        assert_eq!(drained(&begun, me()), Some(now_drained.clone()));
        assert_eq!(begin(&now_drained, me()), Begin::Begun(now_drained[1].clone()));
        for nothing in [vec![], now_drained, vec![changing("a", "i0")], vec![waiting("a", "i1", NOW + 9)]] {
            assert_eq!(drained(&nothing, me()), None, "{nothing:?}");
        }
        for lost in
            [vec![], vec![waiting("a", "i1", NOW)], vec![waiting("a", "i0", NOW + 9)], vec![changing("b", "i1")]]
        {
            assert!(matches!(begin(&lost, me()), Begin::Lost(_)), "{lost:?}");
        }
    }

    #[test]
    fn a_slot_that_was_lost_stands_again_beside_all_others() {
        let lost = changing("a", "i1");
        for (document, others) in [
            (vec![], vec![]),
            (vec![changing("b", "i2")], vec![changing("b", "i2")]),
            (vec![waiting("a", "i1", NOW), waiting("b", "i1", NOW)], vec![waiting("b", "i1", NOW)]),
            (vec![waiting("a", "i0", NOW), changing("a", "i2")], vec![changing("a", "i2")]),
        ] {
            assert_eq!(again(&document, lost.clone()), [others, vec![lost.clone()]].concat());
        }
    }

    #[test]
    fn release_takes_our_own_entry_and_no_other() {
        let lost = [waiting("c", "i1", NOW - 10), changing("a", "i1")];
        assert_eq!(release(&lost, "a", Some("i1"), at(NOW)), (vec![], vec![changing("a", "i1")]));
        let document = [changing("b", "i1"), changing("a", "i0"), changing("a", "i1")];
        let (b, a0, a1) = (changing("b", "i1"), changing("a", "i0"), changing("a", "i1"));
        assert_eq!(release(&document, "a", Some("i1"), at(NOW)), (vec![b.clone(), a0.clone()], vec![a1.clone()]));
        assert_eq!(release(&document, "a", None, at(NOW)), (vec![b], vec![a0, a1]));
        assert_eq!(release(&document, "c", None, at(NOW)), (document.to_vec(), vec![]));
    }

    #[test]
    fn what_is_written_is_read_and_what_is_not_ours_is_refused_by_its_reason() {
        let older = [waiting("a", "i1", NOW), changing("b", "i2")];
        let text = write(&older);
        assert!(text.starts_with(br#"{"version":1,"#));
        assert_eq!(parse(&text).unwrap(), older);
        let slots = [waiting("a", "i1", NOW), drained_slot("b", "i2")];
        let text = write(&slots);
        assert!(text.starts_with(br#"{"version":2,"#));
        assert_eq!(parse(&text).unwrap(), slots);
        for cut in 0..text.len() {
            assert!(parse(&text[..cut]).is_err(), "cut after {cut} bytes");
        }
        for (wrong, why) in [
            ("[]", "no list of slots"),
            ("{}", "missing field `version`"),
            (r#"{"version": 1}"#, "missing field `slots`"),
            (r#"{"version": 3, "slots": []}"#, "version 3, and this unwait reads up to 2"),
            (r#"{"version": 3, "leases": {}}"#, "version 3, and this unwait reads up to 2"),
            (r#"{"version": 1, "slots": [], "queue": []}"#, "unknown field `queue`"),
            (r#"{"version": 1, "slots": [{"holder": "a"}]}"#, "missing field `incident`"),
        ] {
            let error = parse(wrong.as_bytes()).unwrap_err();
            assert!(error.contains(why), "{wrong}: {error}");
        }
    }
}

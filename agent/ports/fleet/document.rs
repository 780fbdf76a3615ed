//! The slots' document and every change to it; no I/O, so that every store keeps the same rules.
//!
//! A JSON list of [`Slot`], one document a service. A host holds one slot at most. A waiting entry counts until its
//! `until`; a changing one counts until it is released, however long that takes.

use std::time::Duration;

use jiff::Timestamp;

use super::{Phase, Slot};

/// How long a waiting entry counts. Renewed by each acquire; long enough for the steps before the first change
/// (evidence: 20 s), short enough that a host that vanished while waiting holds nobody up.
pub const LEASE: Duration = Duration::from_secs(60);

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
    /// Held already, and changing: nothing is to be written.
    Held,
    /// Others hold them all.
    No(Vec<Slot>),
}

/// What going on to change something comes to.
#[derive(Debug, PartialEq)]
pub(super) enum Begin {
    Write(Vec<Slot>),
    Begun,
    /// The slot is not ours any more, and why.
    Lost(String),
}

impl Slot {
    fn is_of(&self, asker: Asker<'_>) -> bool {
        self.holder == asker.host && self.incident == asker.incident
    }

    /// Counts against the slots.
    fn counts(&self, now: Timestamp) -> bool {
        match self.phase {
            Phase::Waiting { until } => until > now,
            Phase::Changing => true,
        }
    }
}

/// Takes or renews. What this host waited for in an earlier incident gives way; what it was changing does not.
pub(super) fn take(document: &[Slot], asker: Asker<'_>, slots: u32) -> Take {
    let mine = document.iter().find(|slot| slot.is_of(asker));
    if mine.is_some_and(|slot| slot.phase == Phase::Changing) {
        return Take::Held;
    }
    let stays = |slot: &&Slot| slot.counts(asker.now) && (slot.holder != asker.host || slot.phase == Phase::Changing);
    let mut others: Vec<Slot> = document.iter().filter(stays).cloned().collect();
    let earlier_of_ours = others.iter().any(|slot| slot.holder == asker.host);
    if earlier_of_ours || others.len() >= slots as usize {
        return Take::No(others);
    }
    others.push(Slot {
        holder: asker.host.into(),
        incident: asker.incident.into(),
        since: mine.map_or(asker.now, |slot| slot.since),
        phase: Phase::Waiting { until: asker.now + LEASE },
    });
    Take::Write(others)
}

/// From waiting to changing. A lease that has run out is lost even where nobody has taken the place yet.
pub(super) fn begin(document: &[Slot], asker: Asker<'_>) -> Begin {
    let Some(mine) = document.iter().position(|slot| slot.is_of(asker)) else {
        return Begin::Lost("it is not held by this host and incident any more".into());
    };
    match document[mine].phase {
        Phase::Changing => Begin::Begun,
        Phase::Waiting { until } if until <= asker.now => {
            Begin::Lost(format!("its lease ended at {until}; it is to be taken again"))
        }
        Phase::Waiting { .. } => {
            let mut after = document.to_vec();
            after[mine].phase = Phase::Changing;
            Begin::Write(after)
        }
    }
}

/// The document without this incident's slot; `None` where it holds none.
pub(super) fn release(document: &[Slot], host: &str, incident: &str) -> Option<Vec<Slot>> {
    let is_ours = |slot: &Slot| slot.holder == host && slot.incident == incident;
    document.iter().any(is_ours).then(|| document.iter().filter(|slot| !is_ours(slot)).cloned().collect())
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
            ("our own, run out", vec![waiting("a", "i1", NOW - 5)], 1, Take::Write(vec![ours(0)])),
            ("changing already", vec![changing("a", "i1")], 1, Take::Held),
            ("changing already, among too many", vec![changing("b", "x"), changing("a", "i1")], 1, Take::Held),
            ("another waits", vec![waiting("b", "x", NOW + 1)], 1, Take::No(vec![waiting("b", "x", NOW + 1)])),
            ("another's lease ends now", vec![waiting("b", "x", NOW)], 1, Take::Write(vec![ours(NOW)])),
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
        let begun = vec![changing("b", "x"), changing("a", "i1")];
        let running = vec![changing("b", "x"), waiting("a", "i1", NOW + 1)];
        assert_eq!(begin(&running, me()), Begin::Write(begun.clone()));
        assert_eq!(begin(&begun, me()), Begin::Begun);
        for lost in
            [vec![], vec![waiting("a", "i1", NOW)], vec![waiting("a", "i0", NOW + 9)], vec![changing("b", "i1")]]
        {
            assert!(matches!(begin(&lost, me()), Begin::Lost(_)), "{lost:?}");
        }
    }

    #[test]
    fn release_takes_our_own_entry_and_no_other() {
        let document = [changing("b", "i1"), changing("a", "i0"), changing("a", "i1")];
        assert_eq!(release(&document, "a", "i1"), Some(vec![changing("b", "i1"), changing("a", "i0")]));
        assert_eq!(release(&document, "c", "i1"), None);
    }
}

//! Whose drain it is, where a registry keeps no word on it or may lose it: decided once for all of them, from what the
//! registry shows, what it keeps beside that, and what this host noted. Pure; the table stands in `agent/ports/README.md`.

use super::Traffic;
use super::ledger::Note;
use crate::model::Marker;

/// How a registry has an instance, whoever made it so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shown<'a> {
    /// Clients are sent there, if it passes its checks.
    In { passing: bool },
    /// Out of traffic as a drain of ours leaves it. Said of it where nobody gives a reason.
    Out(&'a str),
    /// Out of traffic in a way that no drain of ours is.
    OutOtherwise(&'a str),
}

/// `kept` is what the registry keeps beside it, as text: our marker, or somebody else's words.
pub(super) fn whose(shown: Shown<'_>, kept: Option<&str>, note: Option<&Note>) -> Traffic {
    match (shown, kept.map(|words| Marker::parse(words).ok_or(words)), note) {
        // Whoever takes it out otherwise than we do is another hand, also over a drain of ours.
        (Shown::OutOtherwise(unsaid), ..) => Traffic::Isolated { reason: kept.unwrap_or(unsaid).into() },
        // The registry's own word comes first.
        (Shown::Out(_), Some(Ok(marker)), _) => Traffic::DrainedBy(marker),
        (Shown::Out(_), Some(Err(words)), _) => Traffic::Isolated { reason: words.into() },
        // A marker may be lost by a registration, and is written after the drain itself: begun is enough.
        (Shown::Out(_), None, Some(note)) => Traffic::DrainedBy(note.marker.clone()),
        (Shown::Out(unsaid), None, None) => Traffic::Isolated { reason: unsaid.into() },
        // Undone by others since it was seen: by a registration, a heartbeat, a reload.
        (Shown::In { .. }, _, Some(Note { marker, seen: true })) => Traffic::DrainedBy(marker.clone()),
        // A drain that was never seen is none, and a marker in traffic is a leftover.
        (Shown::In { passing: true }, ..) => Traffic::Passing,
        (Shown::In { passing: false }, ..) => Traffic::Failing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::IncidentId;

    fn marker(incident: &str) -> Marker {
        Marker { incident: IncidentId(incident.into()), host: "bj1-03".into() }
    }

    /// The cell of the README's table that this is.
    fn says(traffic: Traffic) -> &'static str {
        match traffic {
            Traffic::Passing | Traffic::Failing => "in traffic",
            Traffic::DrainedBy(by) if by == marker("noted") => "ours, by the note",
            Traffic::DrainedBy(by) if by == marker("kept") => "ours, by the marker",
            Traffic::DrainedBy(by) => panic!("nobody named {by}"),
            Traffic::Isolated { .. } => "another hand's",
        }
    }

    #[test]
    fn every_combination_is_as_the_readme_has_it() {
        let kept = marker("kept").to_string();
        let [begun, seen] = [false, true].map(|seen| Note { marker: marker("noted"), seen });
        let mut expected = String::new();
        for (shows, shown) in [
            ("in traffic", [Shown::In { passing: true }, Shown::In { passing: false }].as_slice()),
            ("out, as our drain leaves it", &[Shown::Out("it is drained")]),
            ("out otherwise", &[Shown::OutOtherwise("it is in maintenance")]),
        ] {
            for (beside, kept) in
                [("nothing", None), ("our marker", Some(kept.as_str())), ("other words", Some("deploy"))]
            {
                let cells = [None, Some(&begun), Some(&seen)].map(|note| {
                    let mut all = shown.iter().map(|shown| says(whose(*shown, kept, note)));
                    let first = all.next().unwrap();
                    assert!(all.all(|other| other == first));
                    first
                });
                expected += &format!("| {shows} | {beside} | {} |\n", cells.join(" | "));
            }
        }
        let readme = include_str!("../README.md");
        assert!(readme.contains(&expected), "agent/ports/README.md is to say:\n{expected}");
    }

    #[test]
    fn the_reason_is_the_other_hands_own_where_there_is_one() {
        for (shown, kept, reason) in [
            (Shown::Out("it is drained"), None, "it is drained"),
            (Shown::Out("it is drained"), Some("deploy"), "deploy"),
            (Shown::OutOtherwise("it is in maintenance"), None, "it is in maintenance"),
            (Shown::OutOtherwise("it is in maintenance"), Some("deploy"), "deploy"),
        ] {
            assert_eq!(whose(shown, kept, None), Traffic::Isolated { reason: reason.into() });
        }
    }
}

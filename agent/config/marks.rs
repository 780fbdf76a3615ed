//! Where each key and value of a YAML text stands, and what a map-making parser would hide: keys given twice, and
//! further documents. Reads saphyr's events one by one: no recursion, so no text is too deep for the stack.
//!
//! Values are not taken from here; `decode` reads them with serde_yaml.

use std::collections::BTreeMap;

use saphyr_parser::{Event, Parser, Span};

use super::diagnostic::Position;
use super::place::Place;

/// No configuration is nested this deep on purpose.
const DEEPEST: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    /// The key that leads here; list items have none.
    key: Option<Position>,
    value: Position,
}

/// Path to line and column.
#[derive(Clone, Debug, Default)]
pub struct Marks(BTreeMap<Place, Mark>);

impl Marks {
    /// Where the value at `place` begins, or the nearest place above it that the text has.
    pub fn value(&self, place: &Place) -> Position {
        self.nearest(place).map_or(START, |mark| mark.value)
    }

    /// Where the key that leads to `place` stands; the value where it is a list's item.
    pub fn key(&self, place: &Place) -> Position {
        self.nearest(place).map_or(START, |mark| mark.key.unwrap_or(mark.value))
    }

    pub fn has(&self, place: &Place) -> bool {
        self.0.contains_key(place)
    }

    fn nearest(&self, place: &Place) -> Option<Mark> {
        let mut at = Some(place.clone());
        while let Some(place) = at {
            if let Some(mark) = self.0.get(&place) {
                return Some(*mark);
            }
            at = place.parent();
        }
        None
    }
}

const START: Position = Position { line: 1, column: 1 };

/// What the events told.
#[derive(Debug, Default)]
pub struct Marked {
    pub marks: Marks,
    pub duplicates: Vec<Duplicate>,
    /// Where a second document begins; it is not looked into.
    pub second_document: Option<Position>,
}

/// A key that its map has already.
#[derive(Debug)]
pub struct Duplicate {
    pub key: String,
    pub at: Position,
    pub first: Position,
}

/// Why a text has no marks.
#[derive(Debug, PartialEq, Eq)]
pub enum Unmarked {
    Syntax(Position, String),
    /// Deeper than any configuration is.
    TooDeep(Position),
}

/// Reads the marks of a text.
pub fn read(text: &str) -> Result<Marked, Unmarked> {
    let mut marked = Marked::default();
    let mut frames: Vec<Frame> = Vec::new();
    let mut documents = 0;
    for event in Parser::new_from_str(text) {
        let (event, span) =
            event.map_err(|error| Unmarked::Syntax(position(error.marker()), error.info().to_owned()))?;
        let here = start(span);
        match event {
            Event::DocumentStart(_) => {
                documents += 1;
                if documents == 2 {
                    marked.second_document = Some(here);
                    break;
                }
            }
            Event::Scalar(text, ..) => {
                enter(&mut marked, &mut frames, here, Some(&text));
            }
            Event::Alias(_) => {
                enter(&mut marked, &mut frames, here, None);
            }
            Event::MappingStart(..) | Event::SequenceStart(..) if frames.len() >= DEEPEST => {
                return Err(Unmarked::TooDeep(here));
            }
            Event::MappingStart(..) => {
                let place = enter(&mut marked, &mut frames, here, None);
                frames.push(Frame { place, kind: Kind::Mapping { pending: None, seen: BTreeMap::new() } });
            }
            Event::SequenceStart(..) => {
                let place = enter(&mut marked, &mut frames, here, None);
                frames.push(Frame { place, kind: Kind::Sequence { next: 0 } });
            }
            Event::MappingEnd | Event::SequenceEnd => {
                frames.pop();
            }
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
        }
    }
    Ok(marked)
}

struct Frame {
    place: Place,
    kind: Kind,
}

enum Kind {
    Sequence { next: usize },
    Mapping { pending: Option<(String, Position)>, seen: BTreeMap<String, Position> },
}

/// Takes a node up where it stands: a key waits for its value, anything else is marked. Returns its place.
fn enter(marked: &mut Marked, frames: &mut [Frame], here: Position, scalar: Option<&str>) -> Place {
    let Some(frame) = frames.last_mut() else {
        marked.marks.0.insert(Place::root(), Mark { key: None, value: here });
        return Place::root();
    };
    match &mut frame.kind {
        Kind::Sequence { next } => {
            let place = frame.place.index(*next);
            *next += 1;
            marked.marks.0.insert(place.clone(), Mark { key: None, value: here });
            place
        }
        Kind::Mapping { pending, seen } => match pending.take() {
            Some((key, at)) => {
                let place = frame.place.key(&key);
                marked.marks.0.insert(place.clone(), Mark { key: Some(at), value: here });
                place
            }
            None => {
                // A list or map as a key: serde_yaml refuses it; here it only must not be taken for a value.
                let key = scalar.unwrap_or("?").to_owned();
                match seen.get(&key) {
                    Some(first) => {
                        marked.duplicates.push(Duplicate { key: key.clone(), at: here, first: *first });
                    }
                    None => {
                        seen.insert(key.clone(), here);
                    }
                }
                let place = frame.place.key(&key);
                *pending = Some((key, here));
                place
            }
        },
    }
}

fn start(span: Span) -> Position {
    position(&span.start)
}

fn position(marker: &saphyr_parser::Marker) -> Position {
    Position { line: marker.line().max(1), column: marker.col() + 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_values_are_found_in_block_and_flow_style() {
        let marked = read("a:\n  - b: {c: 1, d: [x, y]}\n").unwrap();
        let item = Place::root().key("a").index(0);
        let flow = item.key("b");
        for (place, key, value) in [
            (item.clone(), (2, 5), (2, 5)),
            (flow.clone(), (2, 5), (2, 8)),
            (flow.key("c"), (2, 9), (2, 12)),
            (flow.key("d").index(1), (2, 22), (2, 22)),
            (flow.key("d").index(1).key("unheard"), (2, 22), (2, 22)),
        ] {
            let at = |position: Position| (position.line, position.column);
            assert_eq!((at(marked.marks.key(&place)), at(marked.marks.value(&place))), (key, value), "{place}");
        }
        assert!(marked.duplicates.is_empty());
    }

    #[test]
    fn every_key_given_twice_is_found_and_a_second_document_too() {
        let marked = read("a: 1\nb: {x: 1, x: 2}\na: 3\n---\nc: 1\n").unwrap();
        let twice: Vec<String> = marked
            .duplicates
            .iter()
            .map(|d| format!("{}:{} {} {}", d.at.line, d.at.column, d.key, d.first.line))
            .collect();
        assert_eq!(twice, ["2:11 x 2", "3:1 a 1"]);
        assert_eq!(marked.second_document, Some(Position { line: 4, column: 1 }));
    }

    #[test]
    fn no_depth_overflows_the_stack() {
        assert_eq!(read(&"- ".repeat(200_000)).unwrap_err(), Unmarked::TooDeep(Position { line: 1, column: 129 }));
        // saphyr's own limit, in flow style.
        assert!(matches!(read(&"[".repeat(200_000)).unwrap_err(), Unmarked::Syntax(..)));
    }
}

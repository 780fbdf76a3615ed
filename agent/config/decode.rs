//! YAML text to typed spec, with every error of the file.
//!
//! serde stops at its first error. So the text becomes a `serde_json::Value` once, and the typed decode runs over
//! that value again and again: an error at path P is recorded, P is pruned, and the decode is tried anew, until
//! it passes. What was pruned is remembered, so that nobody complains afterwards that it is missing. Over a JSON
//! value an externally tagged enum reads as YAML people write it: `- drain: {settle: 5s}`.

use std::collections::BTreeSet;

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::compile::Compiling;
use super::diagnostic::{Diagnostic, Diagnostics, Position};
use super::marks::{self, Marks};
use super::not_built;
use super::place::{Place, Segment};
use super::source::Source;
use super::spec::scalar::OF_KEY;
use super::words;

/// More errors than anyone reads at once; bounds the work on a file that is something else altogether.
const MOST: usize = 200;

/// A decoded file: the spec, and what is needed to say where something further is wrong.
#[derive(Debug)]
pub struct Decoded<T> {
    pub spec: T,
    pub marks: Marks,
    /// What was wrong and has been said already.
    pub pruned: BTreeSet<Place>,
}

impl<T> Decoded<T> {
    /// Takes the spec out for compilation; what is wrong from here on goes to `out` as well.
    pub fn begin<'a>(&'a mut self, source: &'a Source, out: &'a mut Diagnostics) -> (T, Compiling<'a>)
    where
        T: Default,
    {
        let spec = std::mem::take(&mut self.spec);
        (
            spec,
            Compiling {
                source,
                marks: &self.marks,
                pruned: &self.pruned,
                out,
                secrets: Vec::new(),
                tls: Vec::new(),
                policies_named: Vec::new(),
            },
        )
    }
}

/// Decodes one file; `None` where not even its outline could be read. Everything wrong goes to `out`.
/// `prepare` may rewrite short forms of the YAML into their long ones first.
pub fn decode<T: DeserializeOwned>(
    source: &Source,
    prepare: impl FnOnce(&mut Value),
    out: &mut Diagnostics,
) -> Option<Decoded<T>> {
    let mut say = |position, message: String| {
        out.push(Diagnostic::at(&source.path, &source.text, position, message));
    };
    let (mut value, marks) = match parse(&source.text) {
        Ok((value, marked)) => {
            for twice in marked.duplicates {
                say(twice.at, format!("`{}` is given twice; the first is in line {}", twice.key, twice.first.line));
            }
            (value, marked.marks)
        }
        Err((position, message)) => {
            say(position, message);
            return None;
        }
    };
    if value.is_null() {
        say(Position { line: 1, column: 1 }, "the file is empty".into());
        return None;
    }
    prepare(&mut value);
    let mut pruned = BTreeSet::new();
    let mut empty = Vec::new();
    find_nulls(&value, &Place::root(), &mut empty);
    for place in empty {
        let name = place.name().unwrap_or_default();
        say(marks.key(&place), format!("`{name}` has no value: give one, or remove the line"));
        // A list's empty item already is what pruning would make of it.
        if matches!(place.segments().last(), Some(Segment::Key(_))) {
            prune(&mut value, &place);
        }
        pruned.insert(place);
    }
    for _ in 0..MOST {
        let error = match serde_path_to_error::deserialize::<_, T>(&value) {
            Ok(spec) => return Some(Decoded { spec, marks, pruned }),
            Err(error) => error,
        };
        let place = Place::from(error.path());
        // A mapping that pruning has emptied is no further error.
        let emptied = find(&value, &place).and_then(Value::as_object).is_some_and(serde_json::Map::is_empty)
            && pruned.iter().any(|wrong: &Place| wrong.parent().as_ref() == Some(&place));
        if emptied {
            pruned.insert(prune(&mut value, &place)?);
            continue;
        }
        let (position, message) = explain(&error.inner().to_string(), &place, &value, &marks);
        say(position, message);
        let place = prune(&mut value, &place)?;
        pruned.insert(place);
    }
    None
}

/// The values by serde_yaml, the places by saphyr.
fn parse(text: &str) -> Result<(Value, marks::Marked), (Position, String)> {
    let masked = mask_variables(text);
    let marked = marks::read(&masked);
    match &marked {
        // serde_yaml would refuse these too, but without saying where.
        Err(marks::Unmarked::TooDeep(position)) => {
            return Err((*position, "nested too deeply for a configuration".into()));
        }
        Ok(marks::Marked { second_document: Some(position), .. }) => {
            return Err((*position, "a second YAML document begins here: only one YAML document per file".into()));
        }
        Ok(_) | Err(marks::Unmarked::Syntax(..)) => {}
    }
    let mut value: Value = match serde_yaml::from_str(&masked) {
        Ok(value) => value,
        Err(error) => {
            let position = error.location().map_or(Position { line: 1, column: 1 }, |at| Position {
                line: at.line().max(1),
                column: at.column().max(1),
            });
            return Err((position, not_yaml(&error.to_string(), position, text)));
        }
    };
    let marked = match marked {
        Ok(marked) => marked,
        Err(marks::Unmarked::Syntax(position, what)) => return Err((position, not_yaml(&what, position, text))),
        Err(marks::Unmarked::TooDeep(position)) => {
            return Err((position, "nested too deeply for a configuration".into()));
        }
    };
    unmask_variables(&mut value);
    Ok((value, marked))
}

fn not_yaml(what: &str, position: Position, text: &str) -> String {
    // Its own location is said before the message.
    let what = what.split(" at line ").next().unwrap_or(what);
    let line = text.lines().nth(position.line - 1).unwrap_or_default();
    let indent = line.len() - line.trim_start().len();
    if line[..indent].contains('\t') {
        return "not YAML: a tab indents this line; YAML allows spaces only".into();
    }
    format!("not YAML: {what}")
}

/// Private-use characters, one for one, so that columns stay: in `{ url_file: ${X}/y }` YAML would take the
/// variable's braces for its own.
const OPEN: char = '\u{e000}';
const CLOSE: char = '\u{e001}';

fn mask_variables(text: &str) -> String {
    let mut masked = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        masked.push_str(&rest[..at]);
        let after = &rest[at + 2..];
        let name = after.len() - after.trim_start_matches(|c: char| c.is_ascii_alphanumeric() || c == '_').len();
        if name > 0 && after[name..].starts_with('}') {
            masked.extend(['$', OPEN]);
            masked.push_str(&after[..name]);
            masked.push(CLOSE);
            rest = &after[name + 1..];
        } else {
            masked.push_str("${");
            rest = after;
        }
    }
    masked.push_str(rest);
    masked
}

fn unmask_variables(value: &mut Value) {
    match value {
        Value::String(text) if text.contains(OPEN) => *text = text.replace(OPEN, "{").replace(CLOSE, "}"),
        Value::Array(items) => items.iter_mut().for_each(unmask_variables),
        Value::Object(map) => map.values_mut().for_each(unmask_variables),
        _ => {}
    }
}

fn find_nulls(value: &Value, place: &Place, found: &mut Vec<Place>) {
    match value {
        Value::Null => found.push(place.clone()),
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(at, item)| find_nulls(item, &place.index(at), found))
        }
        Value::Object(map) => map.iter().for_each(|(key, item)| find_nulls(item, &place.key(key), found)),
        _ => {}
    }
}

/// Takes `place` out, or the nearest above it that is there; returns what was taken out. A list's item leaves a
/// null, so that its neighbours keep their places; specs read it as `None`. `None` when only the root was left.
fn prune(value: &mut Value, place: &Place) -> Option<Place> {
    let mut place = place.clone();
    loop {
        let parent = place.parent()?;
        let taken = match (find_mut(value, &parent), place.segments().last()) {
            (Some(Value::Object(map)), Some(Segment::Key(key))) => map.shift_remove(key),
            (Some(Value::Array(items)), Some(Segment::Index(at))) => {
                items.get_mut(*at).map(std::mem::take).filter(|was| !was.is_null())
            }
            _ => None,
        };
        if taken.is_some() {
            return Some(place);
        }
        place = parent;
    }
}

fn find_mut<'v>(value: &'v mut Value, place: &Place) -> Option<&'v mut Value> {
    place.segments().iter().try_fold(value, |value, segment| match segment {
        Segment::Key(key) => value.get_mut(key),
        Segment::Index(at) => value.get_mut(at),
    })
}

fn find<'v>(value: &'v Value, place: &Place) -> Option<&'v Value> {
    place.segments().iter().try_fold(value, |value, segment| match segment {
        Segment::Key(key) => value.get(key),
        Segment::Index(at) => value.get(at),
    })
}

/// serde's words in ours, and where they belong. A value is never repeated: it may be a secret in the wrong place.
fn explain(error: &str, place: &Place, value: &Value, marks: &Marks) -> (Position, String) {
    if let Some(rest) = error.strip_prefix("unknown field ") {
        let (wrong, expected) = quoted(rest);
        let parent = place.parent().unwrap_or_default();
        return (marks.key(place), unknown(&parent, wrong, &expected));
    }
    if let Some(rest) = error.strip_prefix("unknown variant ") {
        let (wrong, expected) = quoted(rest);
        let inner = place.key(wrong);
        let position = if marks.has(&inner) { marks.key(&inner) } else { marks.value(place) };
        return (position, unknown(place, wrong, &expected));
    }
    if let Some(message) = error.strip_prefix(OF_KEY) {
        return (marks.key(place), message.to_owned());
    }
    let (is_type, rest) = match (error.strip_prefix("invalid type: "), error.strip_prefix("invalid value: ")) {
        (Some(rest), _) => (true, rest),
        (_, Some(rest)) => (false, rest),
        // Our own types speak for themselves.
        _ => return (marks.value(place), error.to_owned()),
    };
    let expected = rest.rsplit_once(", expected ").map_or("something else", |(_, expected)| expected);
    // An enum's variant is on the path also where it stands as mere text, without settings.
    let at = std::iter::successors(Some(place.clone()), Place::parent).find_map(|place| find(value, &place));
    let found = at.map_or("nothing".into(), found);
    let position = marks.value(place);
    if expected.contains("map with a single key") || expected.contains("newtype variant") {
        let keys: Vec<String> = match at {
            Some(Value::Object(map)) => map.keys().map(|key| format!("`{key}`")).collect(),
            _ => Vec::new(),
        };
        let message = match (keys.is_empty(), place.name()) {
            (false, _) => {
                format!("expected one key here, found {}: a line below may need more indentation", keys.join(" and "))
            }
            (true, Some(name)) if expected.contains("newtype variant") => {
                format!("expected settings, such as `{{ {name}: {{}} }}`, found {found}")
            }
            (true, _) => format!("expected one key with its settings, found {found}"),
        };
        return (position, message);
    }
    let expected = match expected {
        "a sequence" => "a list",
        "a map" => "a mapping",
        "a boolean" => "true or false",
        "u16" if !is_type => "a whole number from 0 to 65535",
        "u32" if !is_type => "a whole number from 0 to 4294967295",
        "u64" if !is_type => "a whole number of 0 or more",
        "u16" | "u32" | "u64" => "a whole number",
        text if text.starts_with("enum ") || text.contains(" or map") => "a mapping",
        text => text,
    };
    (position, format!("expected {expected}, found {found}"))
}

fn unknown(parent: &Place, wrong: &str, expected: &[&str]) -> String {
    if not_built::is_not_built(&parent.pattern(), wrong) {
        return not_built::says(wrong);
    }
    format!("unknown key `{wrong}`: {}", words::offer(wrong, expected, "keys"))
}

/// "`x`, expected `a` or `b`" to `x` and [`a`, `b`].
fn quoted(text: &str) -> (&str, Vec<&str>) {
    // A key with a backtick in it would shift the quotes, so the wrong word ends where serde's list begins.
    let (wrong, expected) =
        text.rsplit_once("`, expected ").or_else(|| text.rsplit_once("`, there are no ")).unwrap_or((text, ""));
    (wrong.trim_start_matches('`'), expected.split('`').skip(1).step_by(2).collect())
}

fn found(value: &Value) -> String {
    let what = match value {
        Value::Null => "nothing",
        Value::Bool(true) => "true",
        Value::Bool(false) => "false",
        Value::Number(number) => return number.to_string(),
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a mapping",
    };
    what.into()
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Default, Deserialize)]
    #[serde(default, deny_unknown_fields, remote = "Self")]
    struct Spec {
        name: Option<String>,
        steps: Vec<Option<Step>>,
        #[serde(rename = "file")]
        path: Option<String>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Step {
        Drain(Drain),
    }

    #[derive(Debug, Default, Deserialize)]
    #[serde(default, deny_unknown_fields, remote = "Self")]
    struct Drain {
        settle: Option<u32>,
    }

    as_mapping!(Spec, Drain);

    fn read(text: &str) -> (Option<Decoded<Spec>>, Vec<String>) {
        let source = Source { path: "x.yaml".into(), text: text.into() };
        let mut out = Diagnostics::default();
        let decoded = decode(&source, |_| {}, &mut out);
        let said = out
            .sorted()
            .iter()
            .map(|d| format!("{}:{} {}", d.line.unwrap_or(0), d.column.unwrap_or(0), d.message))
            .collect();
        (decoded, said)
    }

    #[test]
    fn all_errors_of_a_file_come_at_once_and_the_rest_is_read() {
        let (decoded, said) = read(
            "nane: x\nname: [1]\nsteps:\n  - drain: { settl: 1 }\n  - drian: {}\n  - drain: {}\n    settle: 2\n  - drain: { settle: 7 }\n  -\n",
        );
        assert_eq!(
            said,
            [
                "1:1 unknown key `nane`: did you mean `name`?",
                "2:7 expected a string, found a list",
                "4:14 unknown key `settl`: did you mean `settle`?",
                "5:5 unknown key `drian`: did you mean `drain`?",
                "6:5 expected one key here, found `drain` and `settle`: a line below may need more indentation",
                "9:4 `steps` has no value: give one, or remove the line",
            ]
        );
        let spec = decoded.unwrap().spec;
        assert_eq!((spec.name, spec.steps.len()), (None, 5));
        assert!(matches!(&spec.steps[3], Some(Step::Drain(Drain { settle: Some(7) }))));
    }

    #[test]
    fn a_variable_is_no_yaml_and_keeps_its_column() {
        let (decoded, said) = read("{ file: ${DIR}/x, nane: y }");
        assert_eq!(said, ["1:19 unknown key `nane`: did you mean `name`?"]);
        assert_eq!(decoded.unwrap().spec.path.as_deref(), Some("${DIR}/x"));
    }

    #[test]
    fn what_is_no_yaml_says_where() {
        for (text, says) in [
            ("name: [a\n", "2:1 not YAML: did not find expected ',' or ']'"),
            ("steps:\n\t- x\n", "2:1 not YAML: a tab indents this line; YAML allows spaces only"),
            ("", "1:1 the file is empty"),
            ("# only a comment\n", "1:1 the file is empty"),
            ("- a\n", "1:1 expected a mapping, found a list"),
            ("name: a\nname: b\n", "2:1 `name` is given twice; the first is in line 1"),
            ("name: a\n---\nname: b\n", "2:1 a second YAML document begins here: only one YAML document per file"),
        ] {
            assert_eq!(read(text).1, [says], "{text:?}");
        }
    }
}

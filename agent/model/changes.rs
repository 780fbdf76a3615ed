//! What differs between two plans, for whoever has read the first and is asked about the second.

use serde_json::Value;

/// Differences that are said; of more, how many.
const SAID: usize = 6;
/// Characters of a value that are said.
const VALUE_CHARS: usize = 80;

/// A line for each value that is another now, by its place: `target.bindings[0].id: was "a", is "b"`.
pub fn changes(was: &Value, is: &Value) -> Vec<String> {
    let mut found = Vec::new();
    compare("", Some(was), Some(is), &mut found);
    let more = found.len().saturating_sub(SAID);
    found.truncate(SAID);
    found.extend((more > 0).then(|| format!("{more} further values")));
    found
}

fn compare(place: &str, was: Option<&Value>, is: Option<&Value>, found: &mut Vec<String>) {
    match (was, is) {
        (Some(Value::Object(before)), Some(Value::Object(now))) => {
            let added = now.keys().filter(|key| !before.contains_key(*key));
            for key in before.keys().chain(added) {
                let place = if place.is_empty() { key.clone() } else { format!("{place}.{key}") };
                compare(&place, before.get(key), now.get(key), found);
            }
        }
        (Some(Value::Array(before)), Some(Value::Array(now))) => {
            for index in 0..before.len().max(now.len()) {
                compare(&format!("{place}[{index}]"), before.get(index), now.get(index), found);
            }
        }
        (was, is) if was != is => found.push(format!("{place}: was {}, is {}", said(was), said(is))),
        _ => {}
    }
}

fn said(value: Option<&Value>) -> String {
    let Some(value) = value.filter(|value| !value.is_null()) else { return "nothing".into() };
    let text = value.to_string();
    match text.char_indices().nth(VALUE_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_value_that_is_another_is_said_by_its_place_and_what_is_the_same_is_not() {
        let was = json!({ "policy": "leak", "target": { "bindings": [{ "id": "a" }] }, "steps": ["drain", "restart"] });
        let is = json!({ "policy": "leak", "target": { "bindings": [{ "id": "b" }] }, "steps": ["drain"], "scope": 1 });
        let expected = [
            r#"target.bindings[0].id: was "a", is "b""#,
            r#"steps[1]: was "restart", is nothing"#,
            "scope: was nothing, is 1",
        ];
        assert_eq!(changes(&was, &is), expected);
        assert_eq!(changes(&was, &was), [""; 0]);
    }

    #[test]
    fn many_changes_are_counted_and_long_values_are_cut() {
        let (was, is) = (json!(vec![0; 9]), json!(vec![1; 9]));
        let said = changes(&was, &is);
        assert_eq!((said.len(), said[SAID].as_str()), (SAID + 1, "3 further values"));
        let said = changes(&json!({ "a": "é".repeat(500) }), &json!({ "a": 1 }));
        assert!(said[0].chars().count() < VALUE_CHARS + 30, "{said:?}");
    }
}

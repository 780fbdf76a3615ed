//! What an HTTP answer says of how many there are: numbers, or lists whose items are counted. Pure.

use serde_json::Value;

use super::{Failure, Words};
use crate::model::{Having, HttpCount, Ourselves};

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Tally {
    /// Without ourselves, where they can be told from the others.
    pub healthy: u32,
    pub registered: u32,
    /// Do we stand in the list ourselves? `None` where it cannot be told.
    pub shows_us: Option<bool>,
}

pub(super) fn tally(count: &HttpCount, answer: &Value, words: &Words) -> Result<Tally, Failure> {
    let ourselves = match &count.ourselves {
        Ourselves::Having(having) => Some(Filter::of(having, words)),
        Ourselves::Included(_) => None,
    };
    let (only, only_healthy) = (Filter::of(&count.only, words), Filter::of(&count.only_healthy, words));
    let is_us = |item: &Value| ourselves.as_ref().is_some_and(|us| us.passes(item));
    let is_told_apart = ourselves.is_some() || !only.0.is_empty();
    let found = |pointer: &str| Counted::at(answer, &filled(pointer, words));

    let healthy = match found(&count.healthy)? {
        Counted::Number(number) if !is_told_apart && only_healthy.0.is_empty() => number,
        Counted::Number(_) => return Err(no_list(&count.healthy)),
        Counted::Items(items) => {
            let counts = |item: &&&Value| only.passes(item) && only_healthy.passes(item) && !is_us(item);
            items.iter().filter(counts).count()
        }
    };
    let (registered, shows_us) = match found(&count.registered)? {
        Counted::Number(number) if !is_told_apart => (number, None),
        Counted::Number(_) => return Err(no_list(&count.registered)),
        Counted::Items(items) => {
            let of_it: Vec<&Value> = items.into_iter().filter(|item| only.passes(item)).collect();
            let shows_us = ourselves.is_some().then(|| of_it.iter().any(|item| is_us(item)));
            (of_it.len(), shows_us)
        }
    };
    let small = |number: usize| u32::try_from(number).map_err(|error| Failure::Refused(format!("`count`: {error}")));
    Ok(Tally { healthy: small(healthy)?, registered: small(registered)?, shows_us })
}

/// A pointer with its words filled in: each is one step of it, whatever it holds.
pub(super) fn filled(pointer: &str, words: &Words) -> String {
    words.fill(pointer, |word| word.replace('~', "~0").replace('/', "~1"))
}

pub(super) fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(_) | Value::Bool(_) => Some(value.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

fn no_list(pointer: &str) -> Failure {
    Failure::Refused(format!("`count`: a number stands at `{pointer}`; `only` and `ourselves` need a list"))
}

enum Counted<'a> {
    Number(usize),
    /// Of a list, or the values of an object.
    Items(Vec<&'a Value>),
}

impl<'a> Counted<'a> {
    fn at(answer: &'a Value, pointer: &str) -> Result<Self, Failure> {
        let found = match answer.pointer(pointer) {
            Some(Value::Array(list)) => Some(Self::Items(list.iter().collect())),
            Some(Value::Object(map)) => Some(Self::Items(map.values().collect())),
            Some(number) => number.as_u64().and_then(|number| usize::try_from(number).ok()).map(Self::Number),
            None => None,
        };
        found.ok_or_else(|| Failure::Refused(format!("`count`: no number and no list at `{pointer}`")))
    }
}

/// What must stand in an item, with the words filled in.
struct Filter(Vec<(String, String)>);

impl Filter {
    fn of(having: &Having, words: &Words) -> Self {
        let filled = |(at, word): (&String, &String)| (filled(at, words), words.fill(word, str::to_owned));
        Self(having.iter().map(filled).collect())
    }

    fn passes(&self, item: &Value) -> bool {
        self.0.iter().all(|(at, word)| item.pointer(at).and_then(text).as_ref() == Some(word))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;
    use crate::model::IncludesUs;

    fn having(pairs: &[(&str, &str)]) -> Having {
        pairs.iter().map(|(at, word)| ((*at).to_owned(), (*word).to_owned())).collect()
    }

    fn words() -> Words {
        Words {
            filled: [
                ("id", "a/b/10.0.0.1:1".into()),
                ("service", "a".into()),
                ("instance", "b/10.0.0.1:1".into()),
                ("marker", String::new()),
                ("incident", String::new()),
                ("host", "h".into()),
            ],
            change: String::new(),
        }
    }

    fn told(answer: &Value, change: impl Fn(&mut HttpCount)) -> Result<Tally, String> {
        let mut count = HttpCount {
            call: crate::model::HttpCall::default(),
            healthy: String::new(),
            registered: String::new(),
            only: BTreeMap::new(),
            only_healthy: BTreeMap::new(),
            ourselves: Ourselves::Included(IncludesUs::Never),
        };
        change(&mut count);
        tally(&count, answer, &words()).map_err(|failure| format!("{failure:?}"))
    }

    #[test]
    fn items_are_counted_by_what_stands_in_them() {
        let list = json!([
            { "of": "a", "at": "b/10.0.0.1:1", "up": true },
            { "of": "a", "at": "10.0.0.2:1", "up": true },
            { "of": "a", "at": "10.0.0.3:1", "up": false },
            { "of": "a", "at": "10.0.0.4:1" },
            { "of": "c", "at": "10.0.0.5:1", "up": true },
        ]);
        let by = |count: &mut HttpCount| {
            count.only = having(&[("/of", "{service}")]);
            count.only_healthy = having(&[("/up", "true")]);
            count.ourselves = Ourselves::Having(having(&[("/at", "{instance}")]));
        };
        assert_eq!(told(&list, by), Ok(Tally { healthy: 1, registered: 4, shows_us: Some(true) }));
        let without_us = Value::Array(list.as_array().unwrap()[1..].to_vec());
        assert_eq!(told(&without_us, by), Ok(Tally { healthy: 1, registered: 3, shows_us: Some(false) }));
        assert_eq!(told(&json!([]), by), Ok(Tally { healthy: 0, registered: 0, shows_us: Some(false) }));
        assert_eq!(told(&list, |_| {}), Ok(Tally { healthy: 5, registered: 5, shows_us: None }));
    }

    #[test]
    fn a_pointer_is_filled_a_step_a_word_and_an_objects_values_are_items() {
        let map = json!({ "b/10.0.0.1:1": { "up": 2, "states": { "x": "UP", "y": "DOWN" } } });
        let counted = told(&map, |count| {
            count.healthy = "/{instance}/states".into();
            count.registered = "/{instance}/states".into();
            count.only_healthy = having(&[("", "UP")]);
        });
        assert_eq!(counted, Ok(Tally { healthy: 1, registered: 2, shows_us: None }));
        let numbers = |count: &mut HttpCount| {
            count.healthy = "/{instance}/up".into();
            count.registered = "/{instance}/up".into();
        };
        assert_eq!(told(&map, numbers), Ok(Tally { healthy: 2, registered: 2, shows_us: None }));
        let refused = told(&map, |count| {
            numbers(count);
            count.only = having(&[("", "UP")]);
        });
        assert!(refused.unwrap_err().contains("`only` and `ourselves` need a list"));
        let nowhere = told(&map, |count| count.healthy = "/nowhere".into()).unwrap_err();
        assert!(nowhere.contains("no number and no list at `/nowhere`"), "{nowhere}");
    }
}

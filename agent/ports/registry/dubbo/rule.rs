//! Dubbo's tag rule of one application (`APPLICATION.tag-router`), which takes addresses out of its consumers' lists: who
//! asks for no tag is sent to none of the addresses that a tag names, and nobody asks for a tag of ours. Pure.
//!
//! ```yaml
//! force: false
//! enabled: true
//! runtime: true
//! key: "shop"
//! tags:
//! - name: "unwait: drained incident=… host=… id=com.shop.Order/10.0.0.1:20880"
//!   addresses: ["10.0.0.1:20880"]
//! ```
//!
//! A drain is one tag, named by our [`Marker`] and the instance's id. The name is the only place for them that every Dubbo
//! leaves alone: 2.7 refuses a rule with keys that it does not know, and who edits a rule in Dubbo's console loses its
//! comments. Two tags of one name would be one (`TagRouterRule.init`), so the id stands in it whole.
//!
//! A person's rule is changed by whole lines: theirs stay byte for byte, and what comes out is read again before it is
//! believed.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;

use saphyr_parser::{Event, Parser};
use serde::Deserialize;
use serde_json::Value;

use crate::model::Marker;

/// A rule as it stands there.
#[derive(Debug)]
pub struct Rule {
    text: String,
    key: String,
    /// One that is switched off changes nothing.
    enabled: bool,
    pub tags: Vec<Tag>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tag {
    pub name: String,
    /// As they are written: `IP:PORT`, or a pattern of Dubbo's.
    addresses: Vec<String>,
    /// It names instances by their parameters, which are not known here.
    matches: bool,
    /// Of the text, from its dash to its last value; `None` in flow style.
    lines: Option<Range<usize>>,
}

/// What becomes of a rule.
#[derive(Debug, PartialEq, Eq)]
pub enum Change {
    Write(String),
    /// It was ours, and names nobody any more.
    Delete,
}

#[derive(Deserialize)]
struct Written {
    key: Option<Value>,
    enabled: Option<Value>,
    #[serde(default)]
    tags: Option<Vec<WrittenTag>>,
}

#[derive(Deserialize)]
struct WrittenTag {
    name: Option<Value>,
    addresses: Option<Vec<Value>>,
    r#match: Option<Value>,
}

/// The name of a tag of ours.
fn name(marker: &Marker, id: &str) -> String {
    format!("{marker} id={id}")
}

/// A tag, where `indent` spaces stand before its dash. JSON's strings are YAML's as well.
fn item(name: &str, address: &str, indent: usize) -> String {
    let (name, address, indent) = (Value::from(name), Value::from(address), " ".repeat(indent));
    format!("{indent}- name: {name}\n{indent}  addresses: [{address}]\n")
}

/// A rule of ours alone.
fn written<'a>(application: &str, tags: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let key = Value::from(application);
    let tags: String = tags.map(|(name, address)| item(name, address, 0)).collect();
    format!("force: false\nenabled: true\nruntime: true\nkey: {key}\ntags:\n{tags}")
}

/// The rule of an application that has none, with our tag alone.
pub fn new(application: &str, marker: &Marker, id: &str, address: &str) -> String {
    written(application, [(name(marker, id).as_str(), address)].into_iter())
}

impl Rule {
    /// Errors with what is wrong with the text.
    pub fn read(text: &str) -> Result<Self, String> {
        let read: Written = serde_yaml::from_str(text).map_err(|error| error.to_string())?;
        let plain = |value: Value| match value {
            Value::String(text) => text,
            other => other.to_string(),
        };
        let mut lines = lines_of_tags(text)?;
        let tags = read.tags.unwrap_or_default().into_iter().enumerate().map(|(index, tag)| Tag {
            name: tag.name.map(plain).unwrap_or_default(),
            addresses: tag.addresses.unwrap_or_default().into_iter().map(plain).collect(),
            matches: tag.r#match.is_some(),
            lines: lines.remove(&index),
        });
        Ok(Self {
            text: text.into(),
            key: read.key.map(plain).unwrap_or_default(),
            enabled: read.enabled.is_none_or(|enabled| enabled == Value::Bool(true)),
            tags: tags.collect(),
        })
    }

    /// Nothing but our drains stand in it.
    pub fn is_ours(&self) -> bool {
        let ours = self.tags.iter().filter(|tag| tag.ours().is_some());
        let ours = ours.filter_map(|tag| Some((tag.name.as_str(), tag.addresses.first()?.as_str())));
        !self.tags.is_empty() && written(&self.key, ours) == self.text
    }

    /// Some tag of it that is on names instances by what is not known here.
    pub fn matches(&self) -> bool {
        self.enabled && self.tags.iter().any(|tag| tag.matches)
    }

    /// Can this text, which is no rule, carry a drain of ours? Somebody has changed it since, and it is a person's to look at.
    pub fn may_carry_ours(text: &str) -> bool {
        text.contains("unwait: drained")
    }

    /// The tags that take this address out now.
    pub fn over<'a>(&'a self, address: &'a str) -> impl Iterator<Item = &'a Tag> {
        self.tags.iter().filter(move |tag| self.enabled && tag.names(address))
    }

    /// With our tag besides. Errors where the text cannot take it, and says why.
    pub fn with(&self, marker: &Marker, id: &str, address: &str) -> Result<Change, String> {
        if !self.enabled {
            return Err("the rule is switched off (`enabled: false`), so a tag in it has no effect".into());
        }
        let list = "the `tags` are not a list with one `- name: …` per line, so no tag can be added";
        let first = self.tags.first().and_then(|tag| tag.lines.clone()).ok_or(list)?;
        let at = self.at_line(first.start);
        let indent = self.text[at..].find(|c| c != ' ').unwrap_or_default();
        let text = format!("{}{}{}", &self.text[..at], item(&name(marker, id), address, indent), &self.text[at..]);
        let ours = Tag { name: name(marker, id), addresses: vec![address.into()], matches: false, lines: None };
        let wanted = [std::slice::from_ref(&ours), &self.tags].concat();
        believed(text, self.enabled, &wanted).map_err(|_| list.into()).map(Change::Write)
    }

    /// Without our tag of this instance; `None` where it has none. Errors where the text cannot be parted from it.
    pub fn without(&self, marker: &Marker, id: &str) -> Result<Option<Change>, String> {
        let name = name(marker, id);
        let Some(ours) = self.tags.iter().find(|tag| tag.name == name) else { return Ok(None) };
        if self.is_ours() && self.tags.len() == 1 {
            return Ok(Some(Change::Delete));
        }
        let by_hand = || format!("the tag `{name}` cannot be removed by whole lines; remove it by hand");
        let lines = ours.lines.clone().ok_or_else(by_hand)?;
        let (start, end) = (self.at_line(lines.start), self.at_line(lines.end));
        let text = format!("{}{}", &self.text[..start], &self.text[end..]);
        let wanted: Vec<Tag> = self.tags.iter().filter(|tag| tag.name != name).cloned().collect();
        believed(text, self.enabled, &wanted).map_err(|_| by_hand()).map(|text| Some(Change::Write(text)))
    }

    /// Where a line begins, counted from 0; the text's end where it has none such.
    fn at_line(&self, line: usize) -> usize {
        self.text.split_inclusive('\n').take(line).map(str::len).sum()
    }
}

/// The text, where it reads as wanted.
fn believed(text: String, enabled: bool, wanted: &[Tag]) -> Result<String, String> {
    let read = Rule::read(&text)?;
    let same = |(read, wanted): (&Tag, &Tag)| {
        (&read.name, &read.addresses, read.matches) == (&wanted.name, &wanted.addresses, wanted.matches)
    };
    let same = read.enabled == enabled && read.tags.len() == wanted.len() && read.tags.iter().zip(wanted).all(same);
    same.then_some(text).ok_or_else(|| "the rule would change its meaning".into())
}

impl Tag {
    /// Whose drain of which instance it is, where it is one of ours.
    pub fn ours(&self) -> Option<(Marker, &str)> {
        let marker = Marker::parse(&self.name)?;
        let id = self.name.strip_prefix(&marker.to_string())?.strip_prefix(" id=")?;
        (!self.matches && self.addresses.len() == 1).then_some((marker, id))
    }

    /// Does it name this address? A pattern may, and counts as if it did.
    fn names(&self, address: &str) -> bool {
        let plain = |written: &String| written.parse::<SocketAddr>().is_ok_and(|plain| !plain.ip().is_unspecified());
        self.addresses.iter().any(|written| written == address || !plain(written))
    }
}

/// The lines of each item of `tags`, counted from 0, by its place in the list; of a list in block style.
fn lines_of_tags(text: &str) -> Result<BTreeMap<usize, Range<usize>>, String> {
    let mut lines: BTreeMap<usize, Range<usize>> = BTreeMap::new();
    // A map at the top, its value under `tags`, an item of that: depths 1, 2 and 3.
    let (mut depth, mut in_tags, mut at_key, mut item) = (0, false, true, 0);
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| error.to_string())?;
        let begins =
            matches!(event, Event::Scalar(..) | Event::Alias(_) | Event::MappingStart(..) | Event::SequenceStart(..));
        if depth == 1 && begins {
            if at_key {
                in_tags = matches!(&event, Event::Scalar(key, ..) if key == "tags");
                item = 0;
            }
            at_key = !at_key;
        }
        if in_tags && depth == 2 && begins {
            lines.insert(item, span.start.line() - 1..span.start.line());
        }
        // What ends a block stands at what follows it, and is empty.
        if in_tags
            && depth >= 2
            && span.start != span.end
            && let Some(lines) = lines.get_mut(&item)
        {
            lines.end = lines.end.max(span.end.line() - usize::from(span.end.col() == 0));
        }
        match event {
            Event::MappingStart(..) | Event::SequenceStart(..) => depth += 1,
            Event::MappingEnd | Event::SequenceEnd => depth -= 1,
            _ => {}
        }
        let ends = matches!(event, Event::Scalar(..) | Event::Alias(_) | Event::MappingEnd | Event::SequenceEnd);
        if in_tags && depth == 2 && ends {
            item += 1;
        }
    }
    let begins_a_line =
        |line: &Range<usize>| text.lines().nth(line.start).is_some_and(|line| line.trim_start().starts_with("- "));
    lines.retain(|_, line| begins_a_line(line));
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::IncidentId;

    const ID: &str = "com.shop.Order/10.0.0.1:20880";
    const ADDRESS: &str = "10.0.0.1:20880";

    fn marker(incident: &str) -> Marker {
        Marker { incident: IncidentId(incident.into()), host: "bj1-03".into() }
    }

    fn text(change: Change) -> String {
        match change {
            Change::Write(text) => text,
            Change::Delete => panic!("deleted"),
        }
    }

    #[test]
    fn a_rule_of_ours_carries_several_drains_and_goes_with_the_last() {
        let one = new("shop", &marker("i"), ID, ADDRESS);
        let rule = Rule::read(&one).unwrap();
        assert!(rule.is_ours() && rule.enabled);
        assert_eq!(rule.over(ADDRESS).map(|tag| tag.ours()).collect::<Vec<_>>(), [Some((marker("i"), ID))]);
        assert_eq!(rule.over("10.0.0.2:20880").count(), 0);

        let (other, address) = ("com.shop.Order/10.0.0.2:20880", "10.0.0.2:20880");
        let both = Rule::read(&text(rule.with(&marker("j"), other, address).unwrap())).unwrap();
        assert!(both.is_ours());
        assert_eq!((both.over(ADDRESS).count(), both.over(address).count()), (1, 1));
        assert_eq!(both.without(&marker("j"), other).unwrap(), Some(Change::Write(one)));
        assert_eq!(both.without(&marker("j"), ID).unwrap(), None);
        assert_eq!(rule.without(&marker("i"), ID).unwrap(), Some(Change::Delete));
    }

    const THEIRS: &str = "\
---
# The gray ones.
force: true
enabled: true
runtime: true
key: shop
tags:
  # of release 42
  - name: gray
    addresses:
      - 10.0.0.7:20880
      - '10.0.0.8:20880'   # the big one
  - name: blue
    addresses: [\"10.0.0.9:20880\"]
priority: 1
";

    #[test]
    fn a_persons_rule_takes_our_tag_and_is_given_back_byte_for_byte() {
        for theirs in [
            THEIRS.to_owned(),
            THEIRS.replace("  - name", "- name").replace("    addresses", "  addresses").replace("      - ", "  - "),
            THEIRS.replace("priority: 1\n", ""),
            THEIRS.replace("priority: 1\n", "").trim_end().to_owned(),
            format!("{THEIRS}...\n"),
            THEIRS.replace("key: shop", "key: shöp"),
        ] {
            let rule = Rule::read(&theirs).unwrap();
            assert!(!rule.is_ours());
            let with = text(rule.with(&marker("i"), ID, ADDRESS).unwrap());
            let merged = Rule::read(&with).unwrap();
            assert!(!merged.is_ours());
            assert_eq!(merged.over(ADDRESS).count(), 1, "{with}");
            assert_eq!(merged.over("10.0.0.8:20880").next().unwrap().name, "gray");
            assert_eq!(merged.without(&marker("i"), ID).unwrap(), Some(Change::Write(theirs)));
        }
    }

    /// As an editor writes it that sorts keys, quotes as it likes and drops comments.
    #[test]
    fn a_tag_of_ours_that_an_editor_wrote_anew_is_taken_out_wherever_it_stands() {
        let ours = format!("- addresses:\n  - {ADDRESS}\n  name: 'unwait: drained incident=i host=bj1-03 id={ID}'\n");
        let head = "enabled: true\nkey: shop\ntags:\n";
        let theirs = "- addresses: [10.0.0.7:20880]\n  name: gray\n";
        for written in [
            format!("{head}{ours}{theirs}"),
            format!("{head}{theirs}{ours}"),
            format!("{head}{theirs}{ours}version: 1\n"),
        ] {
            let rule = Rule::read(&written).unwrap();
            let left = text(rule.without(&marker("i"), ID).unwrap().unwrap());
            assert_eq!(left, written.replace(&ours, ""));
        }
    }

    #[test]
    fn what_cannot_be_done_is_refused_and_says_why() {
        let with = |theirs: &str| Rule::read(theirs).unwrap().with(&marker("i"), ID, ADDRESS).unwrap_err();
        assert!(with(&THEIRS.replace("enabled: true", "enabled: false")).contains("enabled: false"));
        for theirs in
            ["key: shop\n", "key: shop\ntags:\n", "tags: [{name: gray, addresses: ['10.0.0.7:1']}]\n", "tags: []\n"]
        {
            assert!(with(theirs).contains("`tags`"), "{theirs}");
        }
        let ours = format!("tags: [{{name: '{}', addresses: ['{ADDRESS}']}}, {{name: b}}]", name(&marker("i"), ID));
        let refused = Rule::read(&ours).unwrap().without(&marker("i"), ID).unwrap_err();
        assert!(refused.contains("by hand"), "{refused}");
        for wrong in ["tags: {a: 1}", "a: [", "- a", "just words"] {
            assert!(Rule::read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_pattern_may_name_an_address_and_a_rule_that_is_off_names_none() {
        let rule = |address: &str| Rule::read(&format!("tags:\n- name: gray\n  addresses: ['{address}']\n")).unwrap();
        for (written, expected) in
            [(ADDRESS, 1), ("10.0.0.*:20880", 1), ("10.0.0.0/24", 1), ("0.0.0.0:20880", 1), ("10.0.0.2:20880", 0)]
        {
            assert_eq!(rule(written).over(ADDRESS).count(), expected, "{written}");
        }
        let off = Rule::read(&format!("enabled: false\ntags:\n- name: gray\n  addresses: ['{ADDRESS}']\n")).unwrap();
        assert_eq!(off.over(ADDRESS).count(), 0);
        // Switched off while our tag is in it, it gives that back as well.
        let ours = format!("enabled: false\ntags:\n{}", item(&name(&marker("i"), ID), ADDRESS, 0));
        let left = Rule::read(&ours).unwrap().without(&marker("i"), ID).unwrap();
        assert_eq!(left, Some(Change::Write("enabled: false\ntags:\n".into())));
        let matching = Rule::read("tags:\n- name: gray\n  match: [{key: env, value: {exact: gray}}]\n").unwrap();
        assert!(matching.tags[0].matches && matching.over(ADDRESS).count() == 0);
    }
}

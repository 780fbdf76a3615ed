//! For tests: a page as its tags, and what must be so of each of them whatever it shows.

use std::collections::{BTreeMap, BTreeSet};

/// One element, and what encloses it.
#[derive(Debug)]
pub struct Element {
    pub name: String,
    pub attributes: BTreeMap<String, String>,
    /// The places of those around it, the innermost last.
    pub within: Vec<usize>,
    /// All that stands in it, without tags.
    pub text: String,
}

/// Those that have no end (HTML standard, 13.1.2), and SVG's, which maud writes with one.
const VOID: [&str; 7] = ["meta", "link", "input", "br", "hr", "img", "source"];

/// The elements of a page in their order.
///
/// # Panics
/// Where a tag is not closed, or an attribute stands twice.
pub fn elements(page: &str) -> Vec<Element> {
    let mut found: Vec<Element> = Vec::new();
    let mut open: Vec<usize> = Vec::new();
    let mut rest = page.strip_prefix("<!DOCTYPE html>").expect("it begins with its doctype");
    while let Some(at) = rest.find('<') {
        let text = &rest[..at];
        assert!(!text.contains('>') || found.last().is_some_and(|last| last.name == "style"), "a stray >: {text}");
        open.iter().for_each(|one| found[*one].text.push_str(text));
        let end = rest.find('>').unwrap_or_else(|| panic!("no end of a tag: {rest}"));
        let tag = &rest[at + 1..end];
        rest = &rest[end + 1..];
        if let Some(name) = tag.strip_prefix('/') {
            let last = open.pop().unwrap_or_else(|| panic!("</{name}> closes nothing"));
            assert_eq!(found[last].name, name, "closed in another order");
            continue;
        }
        let (name, attributes) = tag.split_once(' ').unwrap_or((tag, ""));
        found.push(Element {
            name: name.into(),
            attributes: attributes_of(attributes),
            within: open.clone(),
            text: String::new(),
        });
        if !VOID.contains(&name) {
            open.push(found.len() - 1);
        }
    }
    assert!(open.is_empty(), "not closed: {:?}", open.iter().map(|one| &found[*one].name).collect::<Vec<_>>());
    found
}

fn attributes_of(text: &str) -> BTreeMap<String, String> {
    let mut attributes = BTreeMap::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let end = rest.find(['=', ' ']).unwrap_or(rest.len());
        let (name, after) = rest.split_at(end);
        let (value, after) = match after.strip_prefix("=\"") {
            Some(after) => after.split_once('"').unwrap_or_else(|| panic!("a value without its end: {text}")),
            None => ("", after),
        };
        assert!(attributes.insert(name.to_owned(), value.to_owned()).is_none(), "{name} stands twice: {text}");
        rest = after.trim_start();
    }
    attributes
}

/// # Panics
/// With what is wrong, for a browser, for the keyboard or for a screen reader.
pub fn check(page: &str) {
    let all = elements(page);
    let attribute = |one: &Element, name: &str| one.attributes.get(name).cloned();
    let named = |name: &'static str| all.iter().filter(move |one| one.name == name);
    let inside = |one: &Element, name: &str| one.within.iter().any(|around| all[*around].name == name);

    for one in ["html", "head", "body", "main", "h1", "header", "footer"] {
        assert_eq!(named(one).count(), 1, "<{one}>");
    }
    assert_eq!(named("html").next().and_then(|html| attribute(html, "lang")).as_deref(), Some("en"));

    let mut ids = BTreeSet::new();
    for id in all.iter().filter_map(|one| attribute(one, "id")) {
        assert!(ids.insert(id.clone()), "id {id} is there twice");
    }
    for one in &all {
        let says = format!("<{} {:?}> {}", one.name, one.attributes, one.text);
        for name in ["aria-labelledby", "for", "aria-describedby"] {
            assert!(attribute(one, name).is_none_or(|id| ids.contains(&id)), "{name} of nothing: {says}");
        }
        // Of a Content-Security-Policy without `unsafe-inline`.
        let is_inline = one.attributes.keys().any(|name| name == "style" || name.starts_with("on"));
        assert!(!is_inline && one.name != "style", "inline: {says}");
        let has_label = attribute(one, "aria-label").is_some_and(|label| !label.is_empty());
        match one.name.as_str() {
            "script" => assert!(attribute(one, "src").is_some() && one.text.is_empty(), "inline: {says}"),
            "a" | "button" | "h1" | "h2" | "h3" | "summary" | "figcaption" | "caption" => {
                assert!(!one.text.trim().is_empty(), "says nothing: {says}");
            }
            "input" | "select" => {
                let id = attribute(one, "id").unwrap_or_else(|| panic!("no id: {says}"));
                let labels = named("label").filter(|label| attribute(label, "for").as_ref() == Some(&id));
                assert_eq!(labels.count(), 1, "labels of {says}");
            }
            "svg" => {
                assert!(attribute(one, "role").as_deref() == Some("img") && has_label, "a plot without words: {says}")
            }
            "nav" => assert!(has_label, "no name: {says}"),
            "th" => {
                let scope = attribute(one, "scope");
                let expected = if inside(one, "thead") { "col" } else { "row" };
                assert_eq!(scope.as_deref(), Some(expected), "{says}");
            }
            "table" => {
                let own = |caption: &&Element| caption.within.iter().any(|around| std::ptr::eq(&all[*around], one));
                let labelled = one.within.iter().any(|around| all[*around].attributes.contains_key("aria-label"));
                assert!(labelled || named("caption").any(|caption| own(&caption)), "a table without a name: {says}");
            }
            _ => {}
        }
        // What scrolls by itself is reached by the keyboard, and has a name then.
        if attribute(one, "class").as_deref() == Some("wide") {
            let reached = attribute(one, "tabindex").as_deref() == Some("0");
            assert!(reached && attribute(one, "role").as_deref() == Some("region") && has_label, "{says}");
        }
    }
    // The first thing that the keyboard reaches leads past the rest.
    let first = named("a").next().unwrap_or_else(|| panic!("no link"));
    assert_eq!(attribute(first, "href").as_deref(), Some("#main"));
    assert!(ids.contains("main"));
    let mut levels = all.iter().filter_map(|one| one.name.strip_prefix('h')?.parse::<u8>().ok());
    let mut before = levels.next().unwrap_or_default();
    assert_eq!(before, 1, "the first heading");
    for level in levels {
        assert!(level <= before + 1, "h{before} is followed by h{level}");
        before = level;
    }
}

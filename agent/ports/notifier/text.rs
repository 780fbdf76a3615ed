//! A message as text: what all destinations show alike, cut to what each of them takes.

use std::fmt::Display;

use crate::model::words::{self, Label, Language};
use crate::model::{EventKind, Message, Outcome};

/// How loud a message is, for destinations that have colours or severities.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// A person must look.
    Bad,
    /// Something is wrong, and nothing or not everything was done about it.
    Warning,
    Good,
    Neutral,
}

impl Tone {
    pub fn of(message: &Message) -> Self {
        match (message.event, message.outcome) {
            _ if message.dry_run => Self::Neutral,
            (EventKind::Stuck, _) | (_, Some(Outcome::Stuck)) => Self::Bad,
            (EventKind::Breach | EventKind::Held | EventKind::Approval, _) | (_, Some(Outcome::Unwound)) => {
                Self::Warning
            }
            (EventKind::Recovered, _) | (_, Some(Outcome::Completed)) => Self::Good,
            _ => Self::Neutral,
        }
    }
}

pub fn title(message: &Message) -> String {
    match (message.dry_run, message.language) {
        (false, _) => message.title.clone(),
        (true, Language::Zh) => format!("{}{}", Label::DryRun.says(Language::Zh), message.title),
        (true, language) => format!("{} {}", Label::DryRun.says(language), message.title),
    }
}

/// What the message is about, each with its label.
pub fn facts(message: &Message) -> String {
    let language = message.language;
    let says = |label: Label, value: &dyn Display| Some(format!("{} {value}", label.says(language)));
    let facts = [
        says(Label::Host, &message.host),
        message.service.as_ref().and_then(|service| says(Label::Service, service)),
        message.policy.as_ref().and_then(|policy| says(Label::Policy, policy)),
        message.incident.as_ref().and_then(|incident| says(Label::Incident, incident)),
        message.outcome.and_then(|outcome| says(Label::Outcome, &words::outcome(outcome, language))),
        // The word that people alert on.
        message.reason.and_then(|reason| says(Label::Reason, &reason)),
    ];
    let facts: Vec<String> = facts.into_iter().flatten().chain(message.labels.iter().cloned()).collect();
    facts.join(" · ")
}

/// Title, lines and facts as plain text of at most `limit` of `unit`. The lines are cut first.
pub fn plain(message: &Message, limit: usize, unit: fn(char) -> usize) -> String {
    let title = cut(&title(message), limit / 2, unit);
    let facts = cut(&facts(message), limit / 4, unit);
    let taken: usize = title.chars().chain(facts.chars()).chain(['\n', '\n']).map(unit).sum();
    let lines = cut(&message.lines.join("\n"), limit - taken, unit);
    let parts = [title, lines, facts];
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("\n")
}

/// At most `limit` of `unit`; what is cut ends with `…`.
pub fn cut(text: &str, limit: usize, unit: fn(char) -> usize) -> String {
    escaped(text, limit, unit, |character, out| out.push(character))
}

/// The same as it is sent, where `write` makes more of a character; what it makes is never cut in half.
pub fn escaped(text: &str, limit: usize, unit: fn(char) -> usize, write: fn(char, &mut String)) -> String {
    const CUT: char = '…';
    let (mut whole, mut size) = (String::new(), 0);
    // Up to here there is room for the sign that something is cut.
    let mut fits = 0;
    for character in text.chars() {
        if size + unit(CUT) <= limit {
            fits = whole.len();
        }
        let from = whole.len();
        write(character, &mut whole);
        size += whole[from..].chars().map(unit).sum::<usize>();
        if size > limit {
            whole.truncate(fits);
            if unit(CUT) <= limit {
                whole.push(CUT);
            }
            return whole;
        }
    }
    whole
}

pub fn utf16(character: char) -> usize {
    character.len_utf16()
}

pub fn utf8(character: char) -> usize {
    character.len_utf8()
}

/// Bytes in a JSON string.
pub fn json(character: char) -> usize {
    match character {
        '"' | '\\' | '\n' | '\r' | '\t' => 2,
        '\0'..='\u{1f}' => 6,
        other => other.len_utf8(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::message;
    use super::*;

    #[test]
    fn text_is_cut_to_a_limit_in_each_unit() {
        for (text, limit, unit, expected) in [
            ("abcdef", 6, utf8 as fn(char) -> usize, "abcdef"),
            ("abcdefg", 6, utf8, "abc…"),
            ("磁盘空间不足", 18, utf8, "磁盘空间不足"),
            ("磁盘空间不足", 17, utf8, "磁盘空间…"),
            ("磁盘空间不足", 5, utf16, "磁盘空间…"),
            ("😀😀😀", 6, utf16, "😀😀😀"),
            ("😀😀😀", 5, utf16, "😀😀…"),
            ("a\"b\"c", 7, json, "a\"b\"c"),
            ("a\"b\"c", 6, json, "a\"…"),
            ("abc", 1, utf8, ""),
        ] {
            assert_eq!(cut(text, limit, unit), expected, "{text} in {limit}");
            assert!(cut(text, limit, unit).chars().map(unit).sum::<usize>() <= limit);
        }
        let json_text = serde_json::to_string("a\"\\\n\t\u{1}é").unwrap();
        assert_eq!("a\"\\\n\t\u{1}é".chars().map(json).sum::<usize>(), json_text.len() - 2);
    }

    #[test]
    fn an_escape_is_never_cut_in_half() {
        let write = |character: char, out: &mut String| {
            if character == '*' {
                out.push('\\');
            }
            out.push(character);
        };
        assert_eq!(escaped("a*b", 4, utf16, write), "a\\*b");
        assert_eq!(escaped("ab*cd", 4, utf16, write), "ab…");
    }

    #[test]
    fn a_long_message_keeps_its_title_and_its_facts() {
        let mut long = message();
        long.lines = vec!["x".repeat(9_000)];
        let text = plain(&long, 2_048, utf8);
        assert!(text.len() <= 2_048 && text.len() > 2_000, "{}", text.len());
        assert!(text.starts_with(&long.title) && text.ends_with("dc=bj1"), "{text}");
        long.title = "t".repeat(9_000);
        long.labels = vec!["l".repeat(9_000)];
        assert!(plain(&long, 2_048, utf8).len() <= 2_048);
        long.lines.clear();
        assert!(!plain(&long, 2_048, utf8).contains("\n\n"));
    }
}

//! Secrets that stand as a word of their own after the word that announces them.

use super::{BLACKED_OUT, names};

/// What of one word has to go.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Hidden {
    Nothing,
    All,
    /// What comes after this many bytes.
    After(usize),
}

/// Programs whose flag for a secret does not say so: with the value in the next word, or glued to the flag.
const PROGRAMS: [(&[&str], &str, Where); 5] = [
    (
        &["mysql", "mysqldump", "mysqladmin", "mysqlshow", "mariadb", "mariadb-dump", "mariadb-admin"],
        "-p",
        Where::Glued,
    ),
    (&["redis-cli", "redis-benchmark", "keydb-cli", "valkey-cli"], "-a", Where::Next),
    (&["sshpass"], "-p", Where::Both),
    (&["curl"], "-u", Where::Both),
    (&["mongo", "mongosh", "mongodump", "ldapsearch"], "-p", Where::Both),
];

#[derive(Clone, Copy, PartialEq)]
enum Where {
    Glued,
    Next,
    Both,
}

/// What has to go, word by word. Only what the words before announce; what a word says by itself is found elsewhere.
pub(super) fn hidden(words: &[&str]) -> Vec<Hidden> {
    let mut hidden = vec![Hidden::Nothing; words.len()];
    let mut program: Option<(&str, Where)> = None;
    let mut next_goes = false;
    for (index, word) in words.iter().enumerate() {
        if std::mem::take(&mut next_goes) {
            hidden[index] = Hidden::All;
            continue;
        }
        let base = word.rsplit('/').next().unwrap_or(word).trim_start_matches(['"', '\'', '(']);
        // In a log, the program may come as `COMMAND=/usr/bin/mysql`.
        let base = base.rsplit('=').next().unwrap_or(base);
        if let Some((_, flag, place)) = PROGRAMS.iter().find(|(names, ..)| names.contains(&base)) {
            program = Some((flag, *place));
            continue;
        }
        if let Some((flag, place)) = program {
            if *word == flag && place != Where::Glued {
                next_goes = true;
                continue;
            }
            if place != Where::Next && word.len() > flag.len() && word.starts_with(flag) {
                hidden[index] = Hidden::After(flag.len());
                continue;
            }
        }
        let flag = word.trim_start_matches(['"', '\'']);
        let announces = (flag.starts_with('-') && flag.chars().all(names::is_name) && names::tells(flag))
            || ["requirepass", "masterauth", "AUTH"].contains(word);
        next_goes = announces && words.get(index + 1).is_some_and(|next| !next.starts_with("--") && *next != "=");
    }
    hidden
}

/// The same for a line of text; the white space between the words stays as it is.
pub(super) fn in_text(line: &str) -> String {
    let mut spans = Vec::new();
    let mut start = None;
    for (at, c) in line.char_indices().chain([(line.len(), ' ')]) {
        match (c.is_whitespace(), start) {
            (true, Some(from)) => {
                spans.push((from, at));
                start = None;
            }
            (false, None) => start = Some(at),
            _ => {}
        }
    }
    let words: Vec<&str> = spans.iter().map(|(from, to)| &line[*from..*to]).collect();
    let mut output = String::with_capacity(line.len());
    let mut done = 0;
    for ((from, to), hidden) in spans.iter().zip(hidden(&words)) {
        let kept = match hidden {
            Hidden::Nothing => continue,
            Hidden::All => *from,
            Hidden::After(kept) => from + kept,
        };
        if kept < done {
            continue;
        }
        output.push_str(&line[done..kept]);
        output.push_str(BLACKED_OUT);
        // A quoted value may hold spaces: it goes to the closing quote.
        done = match line[kept..].chars().next() {
            Some(quote @ ('"' | '\'')) => {
                line[kept + 1..].find(quote).map_or(line.len(), |at| (kept + 1 + at + 1).max(*to))
            }
            _ => *to,
        };
    }
    output.push_str(&line[done..]);
    output
}

//! Secrets that stand behind a name: `name=value`, `"name": "value"`, `Header: value`, `Bearer value`.

use super::{BLACKED_OUT, names};

/// An argument that is one assignment, `--password=…` or `DB_PASSWORD=…`: how many of its bytes are not the value.
pub(super) fn leading_assignment(argument: &str) -> Option<usize> {
    let (name, value) = argument.split_once('=')?;
    let tells = name.chars().all(names::is_name) && names::tells(name);
    (tells && !value.is_empty() && !names::is_directory(name, value)).then_some(name.len() + 1)
}

/// A value to black out, as byte offsets into the line.
struct Value {
    start: usize,
    end: usize,
}

pub(super) fn in_text(line: &str) -> String {
    let mut output = String::with_capacity(line.len());
    let mut done = 0;
    let mut at = 0;
    while let Some((start, end)) = next_name(line, at) {
        at = end;
        if start < done {
            continue;
        }
        if let Some(value) = value_after(line, start, end) {
            output.push_str(&line[done..value.start]);
            output.push_str(BLACKED_OUT);
            done = value.end;
            at = value.end.max(end);
        }
    }
    output.push_str(&line[done..]);
    output
}

/// The next run of name characters from `at` on.
fn next_name(line: &str, at: usize) -> Option<(usize, usize)> {
    let start = at + line[at..].find(names::is_name)?;
    let end = line[start..].find(|c| !names::is_name(c)).map_or(line.len(), |length| start + length);
    Some((start, end))
}

fn value_after(line: &str, start: usize, end: usize) -> Option<Value> {
    let name = &line[start..end];
    if name.eq_ignore_ascii_case("bearer") {
        return bearer(line, end);
    }
    if name.eq_ignore_ascii_case("identified") {
        let rest = line[end..].trim_start();
        let by = rest.get(..2).filter(|word| word.eq_ignore_ascii_case("by"))?;
        let from = skip(line, line.len() - rest.len() + by.len(), char::is_whitespace);
        return line[from..].starts_with(['\'', '"']).then(|| quoted(line, from))?;
    }
    if !names::tells(name) {
        return None;
    }
    // Closing quote of the name, escaped or not: `"name": …`, `\"name\":…`.
    let quote_end = skip(line, end, |c| matches!(c, '"' | '\'' | '\\'));
    let quoted_name = quote_end > end;
    let separator_at = skip(line, quote_end, |c| c == ' ' || c == '\t');
    let separator = line[separator_at..].chars().next()?;
    let after = separator_at + separator.len_utf8();
    let from = match separator {
        '=' => skip(line, after, |c| c == '=' || c == '>' || c == ' ' || c == '\t'),
        // `name : value` only where the name is quoted; otherwise the colon follows the name at once.
        ':' | '：' if separator_at == quote_end || quoted_name => skip(line, after, |c| c == ' ' || c == '\t'),
        '(' if line[after..].starts_with(['\'', '"']) => after,
        _ => return None,
    };
    if names::is_directory(name, &line[from..]) {
        return None;
    }
    let value = if line[from..].starts_with(['"', '\'', '\\']) {
        quoted(line, from)?
    } else if names::is_header(name) {
        // To the quote that the header as a whole stands in, or to the end.
        let close = line[..start].chars().next_back().filter(|c| matches!(c, '"' | '\''));
        let end = close.and_then(|quote| line[from..].find(quote)).map_or(line.len(), |length| from + length);
        Value { start: from, end }
    } else {
        let stops = |c: char| c.is_whitespace() || (quoted_name && matches!(c, ',' | '}' | ']'));
        // What is blacked out already is one value, its brackets included.
        let scan = if line[from..].starts_with(BLACKED_OUT) { from + BLACKED_OUT.len() } else { from };
        Value { start: from, end: line[scan..].find(stops).map_or(line.len(), |length| scan + length) }
    };
    (value.start < value.end).then_some(value)
}

/// The inside of a quoted value; one that is never closed goes to the end of the line.
fn quoted(line: &str, from: usize) -> Option<Value> {
    let inside = skip(line, from, |c| c == '\\');
    let quote = line[inside..].chars().next().filter(|c| matches!(c, '"' | '\''))?;
    let escapes = inside - from;
    let start = inside + 1;
    let mut backslashes = 0;
    for (offset, c) in line[start..].char_indices() {
        match c {
            '\\' => backslashes += 1,
            // The closing quote carries as many backslashes as the opening one.
            c if c == quote && backslashes == escapes => {
                return Some(Value { start, end: start + offset - escapes });
            }
            _ => backslashes = 0,
        }
    }
    Some(Value { start, end: line.len() })
}

/// `Bearer X`; "bearer token missing" is ordinary text.
fn bearer(line: &str, end: usize) -> Option<Value> {
    let start = skip(line, end, |c| c == ' ' || c == '\t');
    let stop =
        line[start..].find(|c: char| c.is_whitespace() || matches!(c, '"' | '\'')).map_or(line.len(), |l| start + l);
    let word = &line[start..stop];
    let ordinary = word.len() < 16 && word.chars().all(|c| c.is_alphabetic() || c == '.' || c == ',');
    (start > end && !ordinary && !word.is_empty()).then_some(Value { start, end: stop })
}

fn skip(line: &str, from: usize, what: impl Fn(char) -> bool) -> usize {
    line[from..].find(|c| !what(c)).map_or(line.len(), |length| from + length)
}

//! What is wrong in the configuration, for the person who wrote it: file:line:column, the line itself, a caret,
//! and what was meant. All of them at once, in the order of the files and lines.
//!
//! A line is shown with whatever looks like a secret of ours blanked out, because a diagnostic is printed,
//! logged and mailed: a webhook pasted where its file belongs must not travel that way.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// A place in a text, both counted from 1; columns in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    pub line: usize,
    pub column: usize,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnostic {
    pub file: PathBuf,
    /// Counted from 1; absent where the file as a whole is meant.
    pub line: Option<usize>,
    /// In characters, counted from 1.
    pub column: Option<usize>,
    pub message: String,
    /// The line, secrets blanked out.
    pub excerpt: Option<String>,
    /// Where under `excerpt` the caret belongs, counted from 0.
    #[serde(default)]
    caret: usize,
}

impl Diagnostic {
    /// About a file as a whole.
    pub fn of_file(file: &Path, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { file: file.into(), line: None, column: None, message, excerpt: None, caret: 0 }
    }

    pub fn at(file: &Path, text: &str, position: Position, message: impl Into<String>) -> Self {
        let line = text.lines().nth(position.line.saturating_sub(1)).unwrap_or_default();
        let shown: Vec<char> = blank_secrets(line).chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let caret = position.column.saturating_sub(1).min(shown.len());
        let start = if shown.len() <= WIDTH { 0 } else { caret.saturating_sub(WIDTH / 2) };
        let excerpt: String = shown[start..].iter().take(WIDTH).collect();
        Self {
            file: file.into(),
            line: Some(position.line),
            column: Some(position.column),
            message: message.into(),
            excerpt: Some(excerpt.trim_end().into()),
            caret: caret - start,
        }
    }

    /// The place and what is wrong there, without the line's own text.
    pub fn in_a_line(&self) -> String {
        Self { excerpt: None, ..self.clone() }.to_string()
    }

    /// Another thing, about the same place.
    pub fn saying(&self, message: String) -> Self {
        Self { message, ..self.clone() }
    }
}

/// Characters of a line that are shown: what a terminal holds beside the line number.
const WIDTH: usize = 140;

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let (Some(line), Some(column)) = (self.line, self.column) {
            write!(f, ":{line}:{column}")?;
        }
        write!(f, ": {}", self.message)?;
        if let (Some(line), Some(excerpt)) = (self.line, self.excerpt.as_ref().filter(|text| !text.is_empty())) {
            write!(f, "\n{line:>5} | {excerpt}\n      | {:caret$}^", "", caret = self.caret)?;
        }
        Ok(())
    }
}

/// Everything that is wrong with a configuration; never empty when it is returned as an error.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Diagnostics(Vec<Diagnostic>);

impl Diagnostics {
    pub fn push(&mut self, diagnostic: Diagnostic) {
        self.0.push(diagnostic);
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Diagnostic> {
        self.0.iter()
    }

    /// In the order of files, lines and columns; the same thing said twice is said once.
    pub fn sorted(mut self) -> Self {
        self.0.sort_by(|a, b| (&a.file, a.line, a.column, &a.message).cmp(&(&b.file, b.line, b.column, &b.message)));
        self.0.dedup();
        self
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for diagnostic in &self.0 {
            writeln!(f, "{diagnostic}")?;
        }
        let count = self.0.len();
        write!(f, "{count} error{}", if count == 1 { "" } else { "s" })
    }
}

impl std::error::Error for Diagnostics {}

/// Puts a `*` for each character of what may be a secret: what follows a URL's host, its user part, the value of
/// a key such as `token:`, and the value of a `*_file:` that is no path. The length stays, so that carets fit.
fn blank_secrets(line: &str) -> String {
    let mut shown: Vec<char> = line.chars().collect();
    blank_urls(&mut shown);
    blank_values(&mut shown);
    shown.into_iter().collect()
}

fn blank_urls(line: &mut [char]) {
    let ends = |c: char| c.is_whitespace() || "\"'<>`".contains(c);
    let mut from = 0;
    while let Some(found) = line[from..].windows(3).position(|three| three == [':', '/', '/']) {
        let start = from + found + 3;
        let end = line[start..].iter().position(|c| ends(*c)).map_or(line.len(), |at| start + at);
        let authority = line[start..end].iter().position(|c| "/?#".contains(*c)).map_or(end, |at| start + at);
        if let Some(at) = line[start..end].iter().rposition(|c| *c == '@') {
            line[start..start + at].fill('*');
        }
        if authority + 1 < end {
            line[authority + 1..end].fill('*');
        }
        from = end;
    }
}

fn blank_values(line: &mut [char]) {
    const SECRET: [&str; 9] =
        ["token", "secret", "password", "passwd", "key", "authorization", "webhook", "url", "credential"];
    let text: String = line.iter().collect::<String>().to_lowercase();
    // Lowercasing may change the count of characters outside ASCII; then the positions mean nothing.
    let lower: Vec<char> = if text.chars().count() == line.len() { text.chars().collect() } else { line.to_vec() };
    for colon in (0..lower.len()).filter(|at| lower[*at] == ':') {
        let unquoted = if colon > 0 && "\"'".contains(lower[colon - 1]) { colon - 1 } else { colon };
        let begin = lower[..unquoted].iter().rposition(|c| !(c.is_alphanumeric() || "_-".contains(*c)));
        let key: String = lower[begin.map_or(0, |at| at + 1)..unquoted].iter().collect();
        let Some(skipped) = lower[colon + 1..].iter().position(|c| !(c.is_whitespace() || "\"'".contains(*c))) else {
            continue;
        };
        let start = colon + 1 + skipped;
        let is_url = || lower[start..].iter().collect::<String>().starts_with("http");
        let blank = match key.as_str() {
            "url" => !is_url(),
            key if key.ends_with("_file") => !"/$".contains(lower[start]),
            key => SECRET.iter().any(|word| key == *word || key.ends_with(&format!("_{word}"))),
        };
        if blank {
            let end = lower[start..].iter().position(|c| ",}\"'".contains(*c)).map_or(lower.len(), |at| start + at);
            line[start..end].fill('*');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_looks_like_a_secret_is_never_shown() {
        for (line, shown) in [
            ("url: https://hooks.slack.com/services/T0/B0/xyz", "url: https://hooks.slack.com/******************"),
            ("x: http://me:pw@consul:8500", "x: http://*****@consul:8500"),
            ("{ url: \"http://a:1\", token: abc-def }", "{ url: \"http://a:1\", token: ********}"),
            ("token_file: abcdef", "token_file: ******"),
            ("token_file: ${CREDENTIALS_DIRECTORY}/consul", "token_file: ${CREDENTIALS_DIRECTORY}/consul"),
            ("  - close_wait.aged(5m) > 200", "  - close_wait.aged(5m) > 200"),
        ] {
            assert_eq!(blank_secrets(line), shown);
        }
    }

    #[test]
    fn the_caret_stands_under_the_word_and_a_long_line_is_cut() {
        let text = "a: 1\n  modee: auto\n";
        let found = Diagnostic::at(Path::new("p.yaml"), text, Position { line: 2, column: 3 }, "unknown key `modee`")
            .to_string();
        assert_eq!(found, "p.yaml:2:3: unknown key `modee`\n    2 |   modee: auto\n      |   ^");
        let long = format!("{}X{}", "a".repeat(5_000), "b".repeat(5_000));
        let shown = Diagnostic::at(Path::new("p"), &long, Position { line: 1, column: 5_001 }, "m").to_string();
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(lines[1].chars().count(), WIDTH + 8);
        assert_eq!(lines[1].find('X'), lines[2].find('^'));
    }
}

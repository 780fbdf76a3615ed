//! What others said, for people: one line of it, and none of our secrets.

/// Of a line that is shown, in characters.
const MOST: usize = 200;
/// A shorter word is no secret, and stands in any text.
const SHORTEST: usize = 6;

/// The first line that says anything; empty where none does. Nothing where it repeats one of these secrets.
pub(super) fn first_line<'a>(text: &str, secrets: impl IntoIterator<Item = &'a str>) -> String {
    let Some(line) = text.lines().map(str::trim).find(|line| !line.is_empty()) else { return String::new() };
    if secrets.into_iter().any(|secret| secret.len() >= SHORTEST && line.contains(secret)) {
        return "(not shown: it repeats a secret)".into();
    }
    line.chars().filter(|c| !c.is_control()).take(MOST).collect()
}

/// `: ` and the line, where there is one.
pub(super) fn behind(line: &str) -> String {
    if line.is_empty() { String::new() } else { format!(": {line}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_is_shown_and_no_secret() {
        for (text, shown) in [
            ("", ""),
            ("\n \n", ""),
            ("\n  no such pool\r\nat line 7\n", "no such pool"),
            ("a\u{1b}[1mb", "a[1mb"),
            ("Bearer hush-hush", "(not shown: it repeats a secret)"),
            ("a test", "a test"),
        ] {
            assert_eq!(first_line(text, ["hush-hush", "test", ""]), shown, "{text:?}");
        }
        assert_eq!(first_line(&"x".repeat(1000), []).len(), MOST);
    }
}

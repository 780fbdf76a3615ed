//! What others said, for people: one line of it, and none of our secrets.

use serde_json::Value;

/// Of a line that is shown, in characters.
const MOST: usize = 200;
/// A shorter word is no secret, and stands in any text.
const SHORTEST: usize = 6;
/// A part of a secret (of `session=…`, of `name:password@host`) that is shorter may be a word of the language.
const SHORTEST_PART: usize = 8;

/// The first line that says anything; empty where none does. Nothing where it repeats one of these secrets.
pub(super) fn first_line<'a>(text: &str, secrets: impl IntoIterator<Item = &'a str>) -> String {
    let Some(line) = text.lines().map(str::trim).find(|line| !line.is_empty()) else { return String::new() };
    let parts = |secret: &'a str| {
        let part = |c: char| !c.is_ascii_alphanumeric() && !"-_.~+".contains(c);
        secret.split(part).any(|part| part.len() >= SHORTEST_PART && line.contains(part))
    };
    if secrets.into_iter().any(|secret| secret.len() >= SHORTEST && line.contains(secret) || parts(secret)) {
        return "(not shown: it repeats a secret)".into();
    }
    line.chars().filter(|c| !c.is_control()).take(MOST).collect()
}

/// What the body of an error says: its `message` or `error` where it is JSON, its first line where it is text. Empty where it
/// says nothing that a person reads.
pub(super) fn in_body<'a>(body: &[u8], secrets: impl IntoIterator<Item = &'a str>) -> String {
    let text = String::from_utf8_lossy(body);
    let words = match serde_json::from_slice::<Value>(body) {
        Ok(answer) => {
            let said =
                ["message", "error"].into_iter().find_map(|key| answer[key].as_str().filter(|it| !it.is_empty()));
            said.unwrap_or_default().to_owned()
        }
        Err(_) if text.trim_start().starts_with('<') => "a page of HTML".into(),
        Err(_) => text.into_owned(),
    };
    first_line(&words, secrets)
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
            ("no session S3cr3tS3ss10n, go away", "(not shown: it repeats a secret)"),
            ("the session has ended", "the session has ended"),
            ("password S3cretPassw0rd refused", "(not shown: it repeats a secret)"),
        ] {
            assert_eq!(
                first_line(text, ["hush-hush", "test", "", "session=S3cr3tS3ss10n; path=/", "admin:S3cretPassw0rd"]),
                shown,
                "{text:?}"
            );
        }
        for (body, shown) in [
            ("", ""),
            (r#"{"status":401,"error":"Unauthorized","path":"/eureka/apps/A/a-1/status"}"#, "Unauthorized"),
            (r#"{"error":"Bad Request","message":"no such app\nat A"}"#, "no such app"),
            (r#"{"message":""}"#, ""),
            ("[1]", ""),
            (" <!doctype html><html>", "a page of HTML"),
            ("upstream timed out\n", "upstream timed out"),
            (r#"{"message":"hush-hush is wrong"}"#, "(not shown: it repeats a secret)"),
        ] {
            assert_eq!(in_body(body.as_bytes(), ["hush-hush"]), shown, "{body:?}");
        }
        assert_eq!(first_line(&"x".repeat(1000), []).len(), MOST);
    }
}

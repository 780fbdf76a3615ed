//! What a server said, for a person: its own first line, bounded, from whatever form it came in. Pure.

use serde_json::Value;

/// As much as a person reads in a message.
const AT_MOST: usize = 200;

/// Nacos wraps its words as `{"code", "message", "data"}`; its filters and Spring say `message`, or plain text. Of a page of
/// HTML nothing is worth showing.
pub(super) fn said(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let words = match serde_json::from_slice::<Value>(body) {
        Ok(answer) => {
            let message = answer["message"].as_str().or(answer["error"].as_str()).unwrap_or_default();
            match answer["data"].as_str() {
                Some(data) if data != message => format!("{message}: {data}"),
                _ => message.to_owned(),
            }
        }
        Err(_) if text.trim_start().starts_with('<') => "a page of HTML".into(),
        Err(_) => text.trim().to_owned(),
    };
    let line = words.lines().next().unwrap_or_default().trim();
    match line.chars().filter(|c| !c.is_control()).take(AT_MOST).collect::<String>() {
        line if line.is_empty() => "it says nothing".into(),
        line => line,
    }
}

/// The code in an answer that Nacos itself has wrapped.
pub(super) fn code(body: &[u8]) -> Option<i64> {
    serde_json::from_slice::<Value>(body).ok()?["code"].as_i64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_own_first_line_is_shown_whatever_form_it_came_in() {
        let long = "x".repeat(500);
        for (body, expected) in [
            (
                r#"{"code":20004,"message":"resource not found","data":"no matched ip found!"}"#,
                "resource not found: no matched ip found!",
            ),
            (r#"{"code":30000,"message":"server error","data":null}"#, "server error"),
            (
                r#"{"timestamp":"2026-11-29T10:00:00","status":403,"error":"Forbidden","message":"Code: 401, Message: Token invalid"}"#,
                "Code: 401, Message: Token invalid",
            ),
            (r#"{"status":404,"error":"Not Found"}"#, "Not Found"),
            ("caused: no matched ip found!;\nat x", "caused: no matched ip found!;"),
            ("<html>no such page</html>", "a page of HTML"),
            ("", "it says nothing"),
            ("{}", "it says nothing"),
            ("a\u{1b}[31mb", "a[31mb"),
            (long.as_str(), &long[..AT_MOST]),
        ] {
            assert_eq!(said(body.as_bytes()), expected, "{body}");
        }
        assert_eq!(code(br#"{"code":20004}"#), Some(20004));
        assert_eq!(code(b"error"), None);
    }
}

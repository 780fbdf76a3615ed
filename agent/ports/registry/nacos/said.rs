//! What Nacos said, for a person: its own first line, bounded. Pure.

use serde_json::Value;

use crate::ports::said;

/// Nacos wraps its words as `{"code", "message", "data"}`; its filters and Spring say `message`, or plain text. Of a page of
/// HTML nothing is worth showing.
pub(super) fn said(body: &[u8]) -> String {
    let message = said::in_body(body, []);
    let answer: Value = serde_json::from_slice(body).unwrap_or_default();
    match (message.as_str(), answer["data"].as_str()) {
        ("", None) => "it says nothing".into(),
        (message, Some(data)) if data != message => said::first_line(&format!("{message}: {data}"), []),
        _ => message,
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
            (long.as_str(), &long[..200]),
        ] {
            assert_eq!(said(body.as_bytes()), expected, "{body}");
        }
        assert_eq!(code(br#"{"code":20004}"#), Some(20004));
        assert_eq!(code(b"error"), None);
    }
}

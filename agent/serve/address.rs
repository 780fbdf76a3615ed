//! What an address asks for: its path and its query, decoded.

use std::collections::BTreeMap;
use std::str::FromStr;

use crate::model::{IncidentId, ServiceName};
use crate::view::service::{HistoryRange, ServiceQuery};

/// The parts of a path, percent-decoded; `None` where one is no text.
pub fn parts(path: &str) -> Option<Vec<String>> {
    path.split('/').filter(|part| !part.is_empty()).map(|part| decoded(part, false)).collect()
}

/// `?q=order&page=2`; of a name that stands there twice the last value. What cannot be read is left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query(BTreeMap<String, String>);

impl Query {
    pub fn of(text: &str) -> Self {
        let pair = |pair: &str| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((decoded(name, true)?, decoded(value, true)?))
        };
        Self(text.split('&').filter_map(pair).collect())
    }

    pub fn text(&self, name: &str) -> &str {
        self.0.get(name).map(String::as_str).unwrap_or_default()
    }

    /// What is not one of the words is the default.
    pub fn word<T: FromStr + Default>(&self, name: &str) -> T {
        self.text(name).parse().unwrap_or_default()
    }

    pub fn services(&self) -> ServiceQuery {
        let text = self.text("q").chars().take(LONGEST_TEXT).collect();
        ServiceQuery { text, order: self.word("sort"), page: self.text("page").parse().unwrap_or(1) }
    }

    pub fn range(&self) -> HistoryRange {
        self.word("range")
    }

    pub fn before(&self) -> Option<IncidentId> {
        Some(self.text("before")).filter(|id| !id.is_empty()).map(|id| IncidentId(id.into()))
    }

    /// # Errors
    /// In words, where it is no service's name.
    pub fn service(&self) -> Result<Option<ServiceName>, String> {
        Some(self.text("service")).filter(|name| !name.is_empty()).map(ServiceName::parse).transpose()
    }
}

/// Characters of a filter that are heeded.
const LONGEST_TEXT: usize = 200;

/// Percent-decoded (RFC 3986, 2.1); `+` is a space in a form's query.
fn decoded(text: &str, in_form: bool) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                u8::try_from(digit()? * 16 + digit()?).ok()?
            }
            b'+' if in_form => b' ',
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

/// As one part of a path, or a value of a query.
pub fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => encoded.push(char::from(byte)),
            other => encoded.push_str(&format!("%{other:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_decoded_alike_and_what_is_no_text_is_refused() {
        for text in ["rpc-order.service", "a\\x2db@1.service", "container:x", "a b&c=d+é%"] {
            assert_eq!(decoded(&encoded(text), false).as_deref(), Some(text));
            assert_eq!(Query::of(&format!("x=1&q={}", encoded(text))).text("q"), text);
        }
        assert_eq!(parts("/api//v1/%2e%2e/x"), Some(["api", "v1", "..", "x"].map(String::from).to_vec()));
        for wrong in ["/%", "/%4", "/%zz", "/%ff", "/%+1"] {
            assert_eq!(parts(wrong), None, "{wrong}");
        }
        assert_eq!(Query::of("q=a+b&&page=x&q=c%20d").services().text, "c d");
        assert_eq!(Query::of("page=7").services().page, 7);
        assert_eq!(Query::of("range=7d").range(), HistoryRange::Week);
        assert_eq!(Query::of("range=9y").range(), HistoryRange::SixHours);
    }
}

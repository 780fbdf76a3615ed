//! A word of an enum, as a row has it.

use std::fmt;

use rusqlite::types::{FromSql, FromSqlResult, ValueRef};
use serde::de::IntoDeserializer;
use serde::de::value::{Error, StrDeserializer};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A word that this version knows, or the text as it stands there: rows outlive versions, and a damaged one must not hide
/// the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recorded<T> {
    Known(T),
    Other(String),
}

impl<T: Copy + PartialEq + Into<&'static str>> Recorded<T> {
    pub fn is(&self, word: T) -> bool {
        matches!(self, Self::Known(known) if *known == word)
    }

    pub fn as_str(&self) -> &str {
        match self {
            Self::Known(word) => (*word).into(),
            Self::Other(text) => text,
        }
    }
}

impl<T: for<'a> Deserialize<'a>> From<&str> for Recorded<T> {
    fn from(text: &str) -> Self {
        let word: StrDeserializer<'_, Error> = text.into_deserializer();
        T::deserialize(word).map_or_else(|_| Self::Other(text.into()), Self::Known)
    }
}

impl<T: for<'a> Deserialize<'a>> FromSql for Recorded<T> {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        value.as_str().map(Self::from)
    }
}

impl<T: Copy + PartialEq + Into<&'static str>> fmt::Display for Recorded<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl<T: Copy + PartialEq + Into<&'static str>> Serialize for Recorded<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de, T: for<'a> Deserialize<'a>> Deserialize<'de> for Recorded<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self::from(text.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Outcome, Reason};

    #[test]
    fn a_word_of_another_version_is_shown_as_it_stands() {
        let known: Recorded<Reason> = "not_helped".into();
        assert!(known.is(Reason::NotHelped) && known.to_string() == "not_helped");
        let other: Recorded<Outcome> = "postponed".into();
        assert_eq!((other.as_str(), other.is(Outcome::Stuck)), ("postponed", false));
        for text in ["\"not_helped\"", "\"postponed\""] {
            let read: Recorded<Reason> = serde_json::from_str(text).unwrap();
            assert_eq!(serde_json::to_string(&read).unwrap(), text);
        }
    }
}

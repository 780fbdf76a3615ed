//! `when`, `clear` and their parts: a comparison, or `all:` / `any:` over a list of further ones.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};

use super::super::{comparison, words};
use super::Items;
use super::scalar::{FromText, OF_KEY, Typed};
use crate::model::Comparison;

#[derive(Clone, Debug, PartialEq)]
pub enum ConditionSpec {
    All(Items<ConditionSpec>),
    Any(Items<ConditionSpec>),
    Compare(Comparison),
}

/// By hand and not untagged: an untagged enum would lose the place of what is wrong inside.
impl<'de> Deserialize<'de> for ConditionSpec {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Read)
    }
}

struct Read;

const EXPECTED: &str = "a comparison, or `all:` or `any:` with a list of them";

impl<'de> Visitor<'de> for Read {
    type Value = ConditionSpec;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(EXPECTED)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<ConditionSpec, E> {
        comparison::parse(text).map(ConditionSpec::Compare).map_err(E::custom)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<ConditionSpec, A::Error> {
        let Some(Join { all }) = map.next_key::<Typed<Join>>()?.map(|join| join.0) else {
            return Err(de::Error::custom(format!("expected {EXPECTED}")));
        };
        let parts = map.next_value()?;
        if map.next_key::<Typed<Join>>()?.is_some() {
            return Err(de::Error::custom("found both `all` and `any`: nest one within the other"));
        }
        Ok(if all { ConditionSpec::All(parts) } else { ConditionSpec::Any(parts) })
    }
}

/// The key `all` or `any`.
struct Join {
    all: bool,
}

impl FromText for Join {
    const EXPECTED: &'static str = "`all` or `any`";

    fn from_text(text: &str) -> Result<Self, String> {
        match text {
            "all" => Ok(Self { all: true }),
            "any" => Ok(Self { all: false }),
            other => Err(format!("{OF_KEY}unknown key `{other}`: {}", words::offer(other, &["all", "any"], "keys"))),
        }
    }
}

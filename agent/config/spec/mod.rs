//! The files as they are written: serde structs, nothing else. Known to `decode` and `compile` alone; the rest of
//! the agent sees the compiled values.
//!
//! Every field is optional here, because what is missing is said by `compile`, all at once and with its place.
//! A list's item is an `Option` because what was wrong is pruned to a null (see `decode`).

/// serde reads a struct from a list as well, field by field: `drain: [5s]` would be taken without a word. These
/// are read from a mapping only (`remote = "Self"` makes the derived reader an inherent one, called from here).
macro_rules! as_mapping {
    ($($spec:ident),* $(,)?) => {$(
        impl<'de> serde::Deserialize<'de> for $spec {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                struct Read;
                impl<'de> serde::de::Visitor<'de> for Read {
                    type Value = $spec;

                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str("a mapping")
                    }

                    fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<$spec, A::Error> {
                        $spec::deserialize(serde::de::value::MapAccessDeserializer::new(map))
                    }
                }
                from.deserialize_map(Read)
            }
        }
    )*};
}

pub mod address;
pub mod condition;
pub mod host;
pub mod notify;
pub mod policy;
pub mod runbook;
pub mod scalar;

/// A list in which a wrong item has left its place empty.
pub type Items<T> = Vec<Option<T>>;

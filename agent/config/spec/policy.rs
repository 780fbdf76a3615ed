//! `policies/*.yaml` as they are written.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};

use super::Items;
use super::condition::ConditionSpec;
use super::scalar::{FromText, OF_KEY, Share, Slots, Typed, When, Zone};
use crate::model::Mode;
use crate::model::Signal;
use crate::model::policy::{Budget, MinHealthy};
use crate::model::window::{Days, Hours, WindowAction};

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, remote = "Self")]
pub struct PolicySpec {
    pub policy: Option<Typed<String>>,
    pub description: Option<Typed<String>>,
    pub services: Option<Items<SelectorSpec>>,
    pub when: Option<ConditionSpec>,
    #[serde(rename = "for")]
    pub hold: Option<Typed<Duration>>,
    pub clear: Option<ConditionSpec>,
    pub mode: Option<Typed<Mode>>,
    pub runbook: Option<Typed<String>>,
    pub escalate: Option<Items<Typed<String>>>,
    pub limits: LimitsSpec,
    pub guards: GuardsSpec,
    pub tests: Items<TestSpec>,
}

/// A name or glob, or `{label: value}`.
#[derive(Debug)]
pub enum SelectorSpec {
    Name(String),
    Labels(BTreeMap<String, Typed<String>>),
}

impl<'de> Deserialize<'de> for SelectorSpec {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = SelectorSpec;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a service's name, a glob such as \"rpc-*.service\", or {label: value}")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<SelectorSpec, E> {
                Ok(SelectorSpec::Name(text.into()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<SelectorSpec, A::Error> {
                BTreeMap::deserialize(de::value::MapAccessDeserializer::new(map)).map(SelectorSpec::Labels)
            }
        }
        from.deserialize_any(Read)
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, remote = "Self")]
pub struct LimitsSpec {
    pub cooldown: Option<Typed<Duration>>,
    pub per_service: Option<Typed<Budget>>,
    pub per_host: Option<Typed<Budget>>,
    pub jitter: Option<Typed<Duration>>,
    pub approval_expires: Option<Typed<Duration>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, remote = "Self")]
pub struct GuardsSpec {
    pub min_healthy: Option<Typed<MinHealthy>>,
    pub fleet_slots: Option<Typed<Slots>>,
    pub common_cause: Option<Typed<Share>>,
    pub calm: Option<Typed<Duration>>,
    pub alerts: Items<Typed<String>>,
    pub veto: Option<VetoSpec>,
    pub windows: Items<WindowSpec>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, remote = "Self")]
pub struct VetoSpec {
    pub exec: Option<Items<Typed<String>>>,
    pub deadline: Option<Typed<Duration>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, remote = "Self")]
pub struct WindowSpec {
    pub days: Option<DaysSpec>,
    pub hours: Option<Typed<Hours>>,
    pub tz: Option<Typed<Zone>>,
    pub action: Option<Typed<WindowAction>>,
}

/// `mon-fri`, or a list of such.
#[derive(Debug)]
pub struct DaysSpec(pub Items<Typed<Days>>);

impl<'de> Deserialize<'de> for DaysSpec {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = DaysSpec;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("days such as mon-fri, or a list such as [sat, sun]")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<DaysSpec, E> {
                Days::parse(text).map(|days| DaysSpec(vec![Some(Typed(days))])).map_err(E::custom)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<DaysSpec, A::Error> {
                Items::deserialize(de::value::SeqAccessDeserializer::new(seq)).map(DaysSpec)
            }
        }
        from.deserialize_any(Read)
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, remote = "Self")]
pub struct TestSpec {
    pub name: Option<Typed<String>>,
    pub samples: Option<SamplesSpec>,
    pub expect: Option<ExpectSpec>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, remote = "Self")]
pub struct ExpectSpec {
    pub breach_at: Option<Typed<When>>,
    pub clear_at: Option<Typed<When>>,
}

/// `step`, and a list of samples by signal. By hand, because `#[serde(flatten)]` loses the places.
#[derive(Debug, Default)]
pub struct SamplesSpec {
    pub step: Option<Typed<Duration>>,
    /// The signal with its key as written.
    pub series: Vec<(String, Signal, Items<Typed<String>>)>,
}

enum SamplesKey {
    Step,
    Signal(String, Signal),
}

impl FromText for SamplesKey {
    const EXPECTED: &'static str = "step or a signal";

    fn from_text(text: &str) -> Result<Self, String> {
        match text {
            "step" => Ok(Self::Step),
            text => match Signal::from_text(text) {
                Ok(signal) => Ok(Self::Signal(text.into(), signal)),
                Err(why) => Err(format!("{OF_KEY}{why}")),
            },
        }
    }
}

impl<'de> Deserialize<'de> for SamplesSpec {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = SamplesSpec;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a mapping with `step` and a list of samples for each signal")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<SamplesSpec, A::Error> {
                let mut spec = SamplesSpec::default();
                while let Some(Typed(key)) = map.next_key::<Typed<SamplesKey>>()? {
                    match key {
                        SamplesKey::Step => spec.step = Some(map.next_value()?),
                        SamplesKey::Signal(text, signal) => spec.series.push((text, signal, map.next_value()?)),
                    }
                }
                Ok(spec)
            }
        }
        from.deserialize_map(Read)
    }
}

as_mapping!(PolicySpec, LimitsSpec, GuardsSpec, VetoSpec, WindowSpec, TestSpec, ExpectSpec,);

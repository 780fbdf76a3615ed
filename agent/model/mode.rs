//! How far a policy goes, and how far any policy of a host may go.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How far a policy goes; a later one goes further. The default is dry-run.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    strum::Display,
    strum::IntoStaticStr,
    strum::EnumIter,
)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum Mode {
    /// The breach is told, nothing is decided.
    Observe,
    /// Decide everything, do nothing, and say what would have been done.
    #[default]
    DryRun,
    /// Act once a person has approved the plan.
    Approve,
    /// Act.
    Auto,
}

impl Mode {
    /// May change something by itself, or once a person has said so.
    pub fn acts(self) -> bool {
        match self {
            Self::Observe | Self::DryRun => false,
            Self::Approve | Self::Auto => true,
        }
    }
}

/// The furthest that any policy of a host may go: `mode_at_most` of its file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModeCeiling {
    pub mode: Mode,
    /// Where it stands: `agent.yaml:3`.
    pub at: String,
}

impl ModeCeiling {
    /// The mode in force of a policy that asks for this one; and what it is held by, where that is less.
    pub fn holds(&self, asked: Mode) -> (Mode, Option<HeldMode>) {
        if asked <= self.mode {
            return (asked, None);
        }
        (self.mode, Some(HeldMode { asked, ceiling: self.clone() }))
    }
}

impl fmt::Display for ModeCeiling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`mode_at_most: {}` in {}", self.mode, self.at)
    }
}

/// A policy asks for more than its host's file allows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldMode {
    pub asked: Mode,
    pub ceiling: ModeCeiling,
}

impl fmt::Display for HeldMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { asked, ceiling: ModeCeiling { mode, at } } = self;
        write!(f, "{asked}, held to {mode} by mode_at_most in {at}")
    }
}

#[cfg(test)]
mod tests {
    use strum::IntoEnumIterator;

    use super::*;

    #[test]
    fn a_mode_acts_by_itself_or_on_a_persons_word_or_never() {
        let modes = [Mode::Observe, Mode::DryRun, Mode::Approve, Mode::Auto];
        assert_eq!(modes.map(Mode::acts), [false, false, true, true]);
        assert!(!Mode::default().acts());
    }

    #[test]
    fn of_what_a_policy_asks_for_and_the_ceiling_the_lesser_is_in_force() {
        for ceiling in Mode::iter() {
            let ceiling = ModeCeiling { mode: ceiling, at: "agent.yaml:3".into() };
            for asked in Mode::iter() {
                let (in_force, held) = ceiling.holds(asked);
                assert_eq!(in_force, asked.min(ceiling.mode));
                assert_eq!(held.is_some(), in_force != asked);
            }
        }
        let ceiling = ModeCeiling { mode: Mode::DryRun, at: "agent.yaml:3".into() };
        let (_, held) = ceiling.holds(Mode::Auto);
        assert_eq!(held.unwrap().to_string(), "auto, held to dry-run by mode_at_most in agent.yaml:3");
    }
}

//! What a look found that a hint of another watcher has asked for.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::bulletin::Bulletin;
use super::explanation::Explanation;
use crate::model::ServiceName;

/// The answer to a hint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hinted {
    /// True: by a look that came after the hint. False: the agent looks less often now, and this is what it saw before.
    pub fresh: bool,
    /// When it looked.
    pub looked: Option<Timestamp>,
    /// Why nothing can be trusted that was seen.
    pub not_measuring: Option<String>,
    /// Those that the hint names, where the agent knows one of them; else all that a policy selects.
    pub services: Vec<Explanation>,
}

impl Hinted {
    pub fn of(bulletin: &Bulletin, about: &BTreeSet<ServiceName>, fresh: bool) -> Self {
        let knows_one = bulletin.explained.iter().any(|one| about.contains(&one.service));
        let is_meant = |one: &&Explanation| match knows_one {
            true => about.contains(&one.service),
            false => !one.policies.is_empty(),
        };
        Self {
            fresh,
            looked: bulletin.looked,
            not_measuring: bulletin.not_measuring.clone(),
            services: bulletin.explained.iter().filter(is_meant).cloned().collect(),
        }
    }
}

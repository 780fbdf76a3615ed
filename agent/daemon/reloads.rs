//! Who asked for another configuration, and why one was not put in force.

use jiff::Timestamp;

use super::duties::orders::Order;
use crate::config;
use crate::view::status::RejectedConfiguration;

/// Who asked for another configuration, and what came of it last.
#[derive(Debug)]
pub(super) struct Reloads {
    /// Answered by the reading that is under way.
    pub under_way: Vec<Order>,
    /// Came meanwhile: the files may be others by now, so they are read once more.
    pub next: Vec<Order>,
    /// Since when the configuration has been in force.
    pub since: Timestamp,
    /// Until one is accepted.
    pub rejected: Option<RejectedConfiguration>,
}

impl Reloads {
    pub fn new(since: Timestamp) -> Self {
        Self { under_way: Vec::new(), next: Vec::new(), since, rejected: None }
    }
}

/// Why a configuration is not put in force.
#[derive(Debug)]
pub(super) struct Rejection {
    /// One line.
    pub what: String,
    /// Each error with its place, where there are several.
    pub in_full: String,
}

impl From<String> for Rejection {
    fn from(what: String) -> Self {
        Self { what, in_full: String::new() }
    }
}

impl From<config::Diagnostics> for Rejection {
    fn from(diagnostics: config::Diagnostics) -> Self {
        let errors = diagnostics.iter().count();
        let first = diagnostics.iter().next().map(|first| first.in_a_line()).unwrap_or_default();
        let what = if errors > 1 { format!("{first} (and {} more)", errors - 1) } else { first };
        Self { what, in_full: diagnostics.to_string() }
    }
}

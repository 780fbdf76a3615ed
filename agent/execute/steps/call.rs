//! `call`: the last step of a runbook that leaves the rest to a person. It ends the saga stuck, on purpose: what was
//! drained stays drained, the service is latched, and somebody is told.

use super::Failure;
use crate::model::Reason;

/// Nothing is done, so nothing can succeed: the pivot by which a saga comes to rest.
pub fn failure(text: &str) -> Failure {
    Failure::new(Reason::NeedsPerson, if text.is_empty() { Reason::NeedsPerson.says() } else { text })
}

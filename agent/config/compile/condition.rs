//! Conditions: emptiness, and the host's signal that must not breach every service.

use std::time::Duration;

use super::Compiling;
use crate::config::place::Place;
use crate::config::spec::Items;
use crate::config::spec::condition::ConditionSpec;
use crate::model::{Condition, Signal, duration};

pub fn compile(spec: ConditionSpec, place: &Place, to: &mut Compiling) -> Condition {
    match spec {
        ConditionSpec::Compare(comparison) => Condition::Compare(comparison),
        ConditionSpec::All(parts) => Condition::All(join(parts, &place.key("all"), to)),
        ConditionSpec::Any(parts) => Condition::Any(join(parts, &place.key("any"), to)),
    }
}

fn join(parts: Items<ConditionSpec>, place: &Place, to: &mut Compiling) -> Vec<Condition> {
    if parts.is_empty() {
        to.wrong_key(place, "the list is empty: give at least one comparison");
    }
    // What was wrong is not there any more, and the file is refused; only the places must stay right.
    super::items(place, parts).map(|(place, part)| compile(part, &place, to)).collect()
}

/// `host.close_wait` alone would breach every service of the host at once: somewhere above it there must be an
/// `all` in which something is said of the service, whichever way the rest goes.
pub fn tie_to_service(spec: &ConditionSpec, place: &Place, tied: bool, to: &mut Compiling) {
    match spec {
        ConditionSpec::Compare(comparison) if comparison.signal.is_of_the_host() && !tied => to.wrong(
            place,
            format!(
                "`{}` alone would breach every service of the host: in the same `all:`, add a comparison on the \
                 service, such as `close_wait.host_share >= 0.2`",
                comparison.signal
            ),
        ),
        ConditionSpec::Compare(_) => {}
        ConditionSpec::All(parts) => {
            let tied = tied || parts.iter().flatten().any(speaks_of_service);
            each(parts, &place.key("all"), tied, to);
        }
        ConditionSpec::Any(parts) => each(parts, &place.key("any"), tied, to),
    }
}

fn each(parts: &Items<ConditionSpec>, place: &Place, tied: bool, to: &mut Compiling) {
    // A part that was wrong may have been the one that ties.
    let tied = tied || to.said(place);
    for (at, part) in parts.iter().enumerate() {
        if let Some(part) = part {
            tie_to_service(part, &place.index(at), tied, to);
        }
    }
}

/// What is taken from a window needs several looks in it: at a longer interval it would be unknown for ever, and nobody
/// would be told.
pub fn fit_the_interval(spec: &ConditionSpec, place: &Place, interval: Duration, to: &mut Compiling) {
    let (parts, place) = match spec {
        ConditionSpec::All(parts) => (parts, place.key("all")),
        ConditionSpec::Any(parts) => (parts, place.key("any")),
        ConditionSpec::Compare(comparison) => {
            let signal = comparison.signal;
            let Some(longest) = signal.longest_interval().filter(|longest| interval > *longest) else { return };
            let looks = duration::format(interval);
            let message = match signal {
                Signal::CloseWaitGrowth(_) => format!(
                    "`{signal}` would never be known: a window holds at least four intervals, which are {} at the \
                     `interval: {looks}` of agent.yaml",
                    duration::format(interval * 4)
                ),
                _ => format!(
                    "`{signal}` would never be known at the `interval: {looks}` of agent.yaml: it needs one of {} at \
                     most",
                    duration::format(longest)
                ),
            };
            return to.wrong(place, message);
        }
    };
    for (at, part) in parts.iter().enumerate() {
        part.iter().for_each(|part| fit_the_interval(part, &place.index(at), interval, to));
    }
}

/// Can it hold only where something is so of the service itself?
fn speaks_of_service(spec: &ConditionSpec) -> bool {
    match spec {
        ConditionSpec::Compare(comparison) => !comparison.signal.is_of_the_host(),
        ConditionSpec::All(parts) => parts.iter().flatten().any(speaks_of_service),
        ConditionSpec::Any(parts) => parts.iter().flatten().all(speaks_of_service),
    }
}

//! Sockets that no service owns, where a policy on the whole host counts them and can do nothing about them.

use std::fmt;

use super::sensor::{Look, Sensor};
use crate::config::Config;
use crate::model::census::{NoOwner, Stray};
use crate::model::{Readings, Signal, Truth};

/// From this share of the host's sockets in CLOSE_WAIT on, what has no owner is told.
const FIFTH: u64 = 5;
/// Places that are named.
const MOST_STRAYS: usize = 3;

/// What nobody owns, as a whole look saw it.
#[derive(Clone, Debug, PartialEq)]
pub struct Unowned {
    count: u64,
    of: u64,
    why: Vec<(NoOwner, u64)>,
    strays: Vec<Stray>,
    /// The policies whose comparison of `host.close_wait` holds.
    pub policies: Vec<String>,
}

/// `None` where it is less than a fifth, or no policy's comparison of `host.close_wait` holds.
pub fn of(config: &Config, look: &Look, sensor: &mut Sensor) -> Option<Unowned> {
    let (of, count) = (look.host_close_wait, look.unattributed.values().sum::<u64>());
    let policies = counting(config, of);
    if look.measurements.untrusted.is_some() || count == 0 || count * FIFTH < of || policies.is_empty() {
        return None;
    }
    let mut why: Vec<(NoOwner, u64)> = look.unattributed.iter().map(|(why, count)| (*why, *count)).collect();
    why.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    Some(Unowned { count, of, why, strays: sensor.strays(look), policies })
}

fn counting(config: &Config, host_close_wait: u64) -> Vec<String> {
    let mut readings = Readings::default();
    readings.set(Signal::HostCloseWait, host_close_wait as f64);
    let holds = |policy: &&crate::model::Policy| {
        let comparisons = policy.when.comparisons();
        comparisons.iter().any(|compared| compared.truth(&readings) == Truth::True)
    };
    config.policies.iter().filter(holds).map(|policy| policy.name.clone()).collect()
}

impl fmt::Display for Unowned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { count, of, why, strays, policies } = self;
        let policies = policies.join(", ");
        write!(f, "{count} of the host's {of} sockets in CLOSE_WAIT belong to no service")?;
        let named: Vec<String> = match strays.is_empty() {
            true => why.iter().map(|(why, count)| format!("{count} {why}")).collect(),
            false => strays.iter().take(MOST_STRAYS).map(ToString::to_string).collect(),
        };
        let more = if strays.len() > MOST_STRAYS { "; `unwait scan` names the rest" } else { "" };
        write!(
            f,
            ": {}{more}. They count for {policies}, but no runbook can free them: look at the processes there by hand",
            named.join(", ")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::census::StrayAt;

    #[test]
    fn what_is_said_names_whose_they_are_and_that_nothing_will_be_done() {
        let stray = |sockets, cgroup: &str| Stray { sockets, at: StrayAt::Cgroup { cgroup: cgroup.into() } };
        let login = "/user.slice/user-1000.slice/user@1000.service/app.slice/x.service";
        let mut unowned = Unowned {
            count: 200,
            of: 503,
            why: vec![(NoOwner::NotAService, 190), (NoOwner::NoHolder, 10)],
            strays: vec![stray(180, login), stray(5, "/a"), stray(4, "/b"), stray(1, "/c")],
            policies: vec!["host-close-wait".into()],
        };
        let said = "200 of the host's 503 sockets in CLOSE_WAIT belong to no service: 180 in the cgroup \
                    /user.slice/user-1000.slice/user@1000.service/app.slice/x.service, 5 in the cgroup /a, 4 in the \
                    cgroup /b; `unwait scan` names the rest. They count for host-close-wait, but no runbook can free \
                    them: look at the processes there by hand";
        assert_eq!(unowned.to_string(), said);
        unowned.strays.clear();
        assert!(unowned.to_string().contains("belong to no service: 190 not_a_service, 10 no_holder. They count for"));
    }
}

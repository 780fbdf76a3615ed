//! Where the registries showed a service last, and how long ago: messages claim what was seen, and when.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::model::plan::Binding;
use crate::ports::registry::{Registration, RegistryError, Traffic};

/// One look at all registries of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// Did all of them show it out of traffic?
    pub out: bool,
    pub ago: Duration,
}

/// The last answer of each registry, by binding. A clone is the same.
#[derive(Clone, Debug, Default)]
pub struct LastSeen(Arc<Mutex<BTreeMap<String, (bool, Duration)>>>);

impl LastSeen {
    /// What a registry said at `now`. No answer leaves what was seen before.
    pub fn answered(&self, binding: &Binding, answer: &Result<Registration, RegistryError>, now: Duration) {
        match answer {
            Ok(Registration { traffic: Traffic::DrainedBy(_) | Traffic::Isolated { .. }, .. })
            | Err(RegistryError::NotRegistered { .. }) => self.read_back(binding, true, now),
            Ok(_) => self.read_back(binding, false, now),
            Err(_) => {}
        }
    }

    /// A change that was read back at `now`: is it out of traffic?
    pub fn read_back(&self, binding: &Binding, out: bool, now: Duration) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(key(binding), (out, now));
    }

    /// The oldest of the last looks; `None` where one of the registries was not seen yet.
    pub fn last(&self, bindings: &[Binding], now: Duration) -> Option<Look> {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let looks: Option<Vec<_>> = bindings.iter().map(|binding| seen.get(&key(binding)).copied()).collect();
        let looks = looks.filter(|looks| !looks.is_empty())?;
        let oldest = looks.iter().map(|(_, at)| *at).min()?;
        Some(Look { out: looks.iter().all(|(out, _)| *out), ago: now.saturating_sub(oldest) })
    }
}

/// The key of a binding in a journaled pre-image.
pub fn key(binding: &Binding) -> String {
    format!("{}/{}", binding.registry, binding.id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_of_the_last_looks_counts_and_no_answer_is_no_look() {
        let [one, other] = ["consul", "haproxy"].map(|registry| Binding::new(registry, "rpc-order-1"));
        let both = [one.clone(), other.clone()];
        let seen = LastSeen::default();
        let shows = |traffic| Ok(Registration { name: "rpc-order".into(), traffic, record: serde_json::Value::Null });
        let out = || shows(Traffic::Isolated { reason: "deploy".into() });
        let gone = || Err(RegistryError::NotRegistered { registry: "consul".into(), id: "rpc-order-1".into() });
        let away = || Err(RegistryError::Unreachable { registry: "consul".into(), detail: "no answer".into() });
        let s = Duration::from_secs;
        assert_eq!(seen.last(&[], s(9)), None);
        seen.answered(&one, &out(), s(1));
        assert_eq!(seen.last(&both, s(9)), None, "the other was never seen");
        seen.answered(&other, &gone(), s(3));
        seen.answered(&one, &away(), s(5));
        assert_eq!(seen.last(&both, s(9)), Some(Look { out: true, ago: s(8) }));
        seen.answered(&one, &shows(Traffic::Failing), s(7));
        assert_eq!(seen.last(&both, s(9)), Some(Look { out: false, ago: s(6) }));
    }
}

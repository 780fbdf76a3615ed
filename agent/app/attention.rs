//! How closely the agent looks, and how often: no closer than anybody needs, and no oftener than it may cost.

use std::mem::discriminant;
use std::time::Duration;

use super::Wiring;
use super::pacing::Pacing;
use super::sensor::{Effort, Look};
use crate::collect::CollectError;
use crate::config::Config;
use crate::decide::possible::{AtMost, may_hold};
use crate::model::socket::BlindSpot;
use crate::model::{Reading, duration};
use crate::store::Store;

/// How often everything is looked at, also where nothing can matter: for the history, whose finest step it is.
const LOOK_WHOLE_EVERY: Duration = Duration::from_secs(60);

/// What is remembered from one look to the next.
#[derive(Debug)]
pub struct Attention {
    pacing: Pacing,
    /// When everything was looked at.
    looked_whole: Option<Duration>,
    /// What could not be seen then.
    not_seen: Vec<BlindSpot>,
}

impl Attention {
    pub fn new(config: &Config) -> Self {
        Self {
            pacing: Pacing::new(config.host.interval, config.host.cpu_budget),
            looked_whole: None,
            not_seen: Vec::new(),
        }
    }

    /// One look. `quiet`: no policy holds or counts as breached for anybody, and no saga is under way; then only what
    /// may bring a policy to a breach is looked at.
    pub fn look(&mut self, wiring: &Wiring, quiet: bool) -> Result<Look, CollectError> {
        let now = wiring.host.clock.monotonic();
        let matters = |service, host| {
            let at_most = AtMost { service, host };
            wiring.config.policies.iter().any(|policy| may_hold(&policy.when, at_most))
        };
        let whole_is_due = self.looked_whole.is_none_or(|last| now.saturating_sub(last) >= LOOK_WHOLE_EVERY);
        let gated = quiet && !whole_is_due;
        let look = wiring.look(if gated { Effort::Gated(&matters) } else { Effort::Whole })?;
        if !gated {
            self.looked_whole = Some(now);
            self.note_not_seen(&look.blind_spots);
        }
        let lengthened = self.is_lengthened();
        self.pacing.spent(look.cost);
        if self.is_lengthened() && !lengthened {
            tracing::warn!(
                cost = ?look.cost,
                period = %duration::format(self.period()),
                "a look costs more than `cpu_budget` allows at this interval: looking less often"
            );
        }
        Ok(look)
    }

    /// Says once what is not seen for want of a right; a look that passes namespaces over does not try to enter them.
    fn note_not_seen(&mut self, blind_spots: &[BlindSpot]) {
        let is_known = |spot: &BlindSpot| self.not_seen.iter().any(|known| discriminant(known) == discriminant(spot));
        for spot in blind_spots.iter().filter(|spot| !is_known(spot)) {
            tracing::warn!("not seen: {spot}");
        }
        self.not_seen = blind_spots.to_vec();
    }

    /// What the last look at everything could not see.
    pub fn not_seen(&self) -> &[BlindSpot] {
        &self.not_seen
    }

    /// The time from one look to the next.
    pub fn period(&self) -> Duration {
        self.pacing.period()
    }

    /// Looks are too costly for the configured interval.
    pub fn is_lengthened(&self) -> bool {
        self.pacing.is_lengthened()
    }
}

/// The signals' history takes every look at everything; one that could not be trusted as unknown.
pub fn record(store: &Store, look: &Look) {
    if look.passed_over.namespaces > 0 {
        return;
    }
    let measured = &look.measurements;
    let host = match measured.untrusted {
        Some(_) => Reading::Unknown,
        None => Reading::Known(look.host_close_wait as f64),
    };
    let services: Vec<_> = measured.services().collect();
    store.record(measured.at, measured.monotonic, host, services.into_iter());
}

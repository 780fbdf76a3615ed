//! How closely the agent looks, and how often: no closer than anybody needs, and no oftener than it may cost.

use std::mem::discriminant;
use std::time::Duration;

use super::pacing::Pacing;
use super::sensor::{Effort, Look, Sensor};
use super::unowned::{self, Unowned};
use crate::clock::Clock;
use crate::collect::CollectError;
use crate::config::Config;
use crate::decide::possible::{AtMost, may_hold};
use crate::model::socket::BlindSpot;
use crate::model::{Caution, duration};

/// How often it is looked for what the counts do not say by themselves: some 10 µs a process.
const SURVEY_EVERY: Duration = Duration::from_secs(600);

/// What is remembered from one look to the next.
#[derive(Clone, Debug)]
pub struct Attention {
    pacing: Pacing,
    /// The longer one of the periods before and after the last look.
    spacing: Duration,
    /// The minute of the wall clock in which everything was looked at.
    looked_whole: Option<i64>,
    /// What could not be seen then.
    not_seen: Vec<BlindSpot>,
    /// What was no service's then, where a policy counts it.
    unowned: Option<Unowned>,
    /// What the counts do not say by themselves, and when that was last looked for, since boot.
    cautions: Vec<Caution>,
    surveyed: Option<Duration>,
}

impl Attention {
    pub fn new(config: &Config) -> Self {
        let pacing = Pacing::new(config.host.interval, config.host.cpu_budget);
        Self {
            pacing,
            spacing: pacing.period(),
            looked_whole: None,
            not_seen: Vec::new(),
            unowned: None,
            cautions: Vec::new(),
            surveyed: None,
        }
    }

    /// One look. `quiet`: no policy holds or counts as breached for anybody, and no saga is under way; then only what
    /// may bring a policy to a breach is looked at, and everything once a minute.
    pub fn look(
        &mut self,
        config: &Config,
        clock: &dyn Clock,
        sensor: &mut Sensor,
        quiet: bool,
    ) -> Result<Look, CollectError> {
        let matters = |service, host| {
            let at_most = AtMost { service, host };
            config.policies.iter().any(|policy| may_hold(&policy.when, at_most))
        };
        // Once in each minute, which is the history's finest step.
        let minute = clock.now().as_second().div_euclid(60);
        let gated = quiet && self.looked_whole == Some(minute);
        let look = sensor.look(if gated { Effort::Gated(&matters) } else { Effort::Whole })?;
        if !gated {
            self.looked_whole = Some(minute);
            self.note_not_seen(&look.blind_spots);
            self.unowned = unowned::of(config, &look, sensor);
            self.survey(sensor, clock.monotonic());
        }
        let (lengthened, before) = (self.is_lengthened(), self.period());
        self.pacing.spent(look.cost);
        self.spacing = before.max(self.period());
        if self.is_lengthened() && !lengthened {
            let (cost, period) = (duration::format(look.cost), duration::format(self.period()));
            tracing::warn!(
                cost,
                period,
                "a look took {cost} of CPU, more than `cpu_budget` allows at the configured interval: looking every \
                 {period} instead. Until that is over, a `growth` over less than four looks is unknown, and so is a \
                 forecast where looks are more than 1m apart",
            );
        }
        Ok(look)
    }

    /// Says once what is not seen for want of a right; a look that passes namespaces over does not try to enter them.
    fn note_not_seen(&mut self, blind_spots: &[BlindSpot]) {
        let is_known = |spot: &BlindSpot| self.not_seen.iter().any(|known| discriminant(known) == discriminant(spot));
        for spot in blind_spots.iter().filter(|spot| !is_known(spot)) {
            tracing::warn!("not visible to the agent: {spot}");
        }
        self.not_seen = blind_spots.to_vec();
    }

    /// Every few minutes: it goes through all processes.
    fn survey(&mut self, sensor: &mut Sensor, now: Duration) {
        if self.surveyed.is_some_and(|surveyed| now.saturating_sub(surveyed) < SURVEY_EVERY) {
            return;
        }
        self.surveyed = Some(now);
        let cautions = sensor.cautions_of_an_agent();
        // Containers come and go: how many there are is for `status`.
        let is_news = |caution: &&Caution| !matches!(caution, Caution::NewNamespaces { .. });
        for caution in cautions.iter().filter(is_news).filter(|caution| !self.cautions.contains(caution)) {
            tracing::warn!("{caution}");
        }
        self.cautions = cautions;
    }

    /// What was no service's at the last look at everything, where a policy counts it.
    pub fn unowned(&self) -> Option<&Unowned> {
        self.unowned.as_ref()
    }

    /// What the counts do not say by themselves.
    pub fn cautions(&self) -> &[Caution] {
        &self.cautions
    }

    /// What the last look at everything could not see.
    pub fn not_seen(&self) -> &[BlindSpot] {
        &self.not_seen
    }

    /// The time from one look to the next.
    pub fn period(&self) -> Duration {
        self.pacing.period()
    }

    /// The time that may lie between the last look and the one before it.
    pub fn spacing(&self) -> Duration {
        self.spacing
    }

    /// Looks are too costly for the configured interval.
    pub fn is_lengthened(&self) -> bool {
        self.pacing.is_lengthened()
    }
}

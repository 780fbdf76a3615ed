//! How often to look, so that looking costs no more than its share of a core. The agent's loop asks.

use std::time::Duration;

/// The time from one look to the next.
#[derive(Clone, Copy, Debug)]
pub struct Pacing {
    interval: Duration,
    /// The share of one core that looks may cost, 0 to 1.
    cpu_budget: f64,
    /// CPU time of the last two looks.
    costs: [Duration; 2],
}

impl Pacing {
    pub fn new(interval: Duration, cpu_budget: f64) -> Self {
        Self { interval, cpu_budget, costs: [Duration::ZERO; 2] }
    }

    /// A look has cost so much CPU time.
    pub fn spent(&mut self, cost: Duration) {
        self.costs = [cost, self.costs[0]];
    }

    /// The configured interval, or longer where two looks in a row have cost more than their share of it: one alone
    /// may have been the first.
    pub fn period(&self) -> Duration {
        let cost = self.costs[0].min(self.costs[1]);
        self.interval.max(cost.div_f64(self.cpu_budget))
    }

    pub fn is_lengthened(&self) -> bool {
        self.period() > self.interval
    }
}

/// A late tick delays those behind it: they are never made up for in a row.
pub fn every(interval: Duration) -> tokio::time::Interval {
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    ticks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_is_lengthened_until_looking_costs_its_share() {
        let (ms, seconds) = (Duration::from_millis, Duration::from_secs);
        for (looks, period) in [
            (&[][..], seconds(15)),
            (&[ms(75), ms(75)], seconds(15)),   // 0.5% of 15 s
            (&[ms(900), ms(70)], seconds(15)),  // the first look alone
            (&[ms(150), ms(200)], seconds(30)), // the cheaper of two
            (&[ms(200), ms(150), ms(10)], seconds(15)),
        ] {
            let mut pacing = Pacing::new(seconds(15), 0.005);
            looks.iter().for_each(|cost| pacing.spent(*cost));
            assert_eq!((pacing.period(), pacing.is_lengthened()), (period, period > seconds(15)), "{looks:?}");
        }
    }
}

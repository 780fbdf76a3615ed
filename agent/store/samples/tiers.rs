//! How finely, and for how long, signals are kept.

use std::time::Duration;

/// One resolution: steps of one length, gathered in blocks, of which the newest are kept.
#[derive(Debug, PartialEq, Eq)]
pub struct Tier {
    pub step: Duration,
    pub steps_in_block: u16,
    /// Counted in the order in which the blocks were begun, whatever time they speak of: so a wall clock that is set
    /// years ahead and back costs one block, and what it left behind goes when as many newer ones are there.
    pub blocks_kept: u32,
}

/// The finest first. The blocks are so long that a row of a service that leaks takes a third of a page of the file, or
/// less: of longer rows a page holds one, and the rest of it is lost. A coarser step is a whole number of finer ones, and a finer block holds whole coarser steps.
pub const TIERS: [Tier; 2] = [
    // Blocks of half an hour: a day of them, and the one under way.
    Tier { step: Duration::from_secs(60), steps_in_block: 30, blocks_kept: 24 * 2 + 1 },
    // Blocks of six hours: 31 days of them, and the one under way.
    Tier { step: Duration::from_secs(600), steps_in_block: 36, blocks_kept: 31 * 4 + 1 },
];

impl Tier {
    /// In milliseconds, as all times here: since the epoch, and below zero before it.
    pub fn step_millis(&self) -> i64 {
        self.step.as_millis() as i64
    }

    pub fn block_millis(&self) -> i64 {
        self.step_millis() * i64::from(self.steps_in_block)
    }

    /// The beginning of the step that holds this moment.
    pub fn step_of(&self, at: i64) -> i64 {
        at.div_euclid(self.step_millis()) * self.step_millis()
    }

    /// The beginning of the block that holds this moment.
    pub fn block_of(&self, at: i64) -> i64 {
        at.div_euclid(self.block_millis()) * self.block_millis()
    }

    /// Where in its block the step of this moment stands.
    pub fn index_of(&self, at: i64) -> u16 {
        (at.rem_euclid(self.block_millis()) / self.step_millis()) as u16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tiers_reach_as_far_as_they_say_and_fit_into_each_other() {
        const DAY: i64 = 86_400_000;
        // The block under way may hold no more than a step.
        assert_eq!(TIERS.map(|tier| tier.block_millis() * i64::from(tier.blocks_kept - 1)), [DAY, 31 * DAY]);
        let [fine, coarse] = &TIERS;
        assert_eq!(coarse.step_millis() % fine.step_millis(), 0);
        assert_eq!(fine.block_millis() % coarse.step_millis(), 0);
    }

    #[test]
    fn a_moment_has_one_step_and_one_block_also_before_the_epoch() {
        let tier = &TIERS[0];
        for (at, step, block, index) in [
            (0, 0, 0, 0),
            (59_999, 0, 0, 0),
            (60_000, 60_000, 0, 1),
            (1_799_999, 1_740_000, 0, 29),
            (1_800_000, 1_800_000, 1_800_000, 0),
            (-1, -60_000, -1_800_000, 29),
        ] {
            assert_eq!((tier.step_of(at), tier.block_of(at), tier.index_of(at)), (step, block, index), "{at}");
        }
    }
}

//! `mode_at_most`: what is real is refused where the host's file lets nobody act.

use super::scenery::scenery;
use crate::decide::guards::Guard;
use crate::model::{Mode, ModeCeiling, Reason, Trigger};

#[test]
fn below_a_ceiling_of_dry_run_nobody_acts_and_what_is_dry_goes_on() {
    let mut scenery = scenery();
    let ceiling = |mode| Some(ModeCeiling { mode, at: "agent.yaml:3".into() });
    for mode in [Mode::Observe, Mode::DryRun] {
        scenery.gate.mode_at_most = ceiling(mode);
        for trigger in [Trigger::Breach, Trigger::Person { who: "ann".into() }] {
            scenery.plan.trigger = trigger;
            let refusal = scenery.refuses(Guard::ModeAtMost, Reason::ModeAtMost);
            assert_eq!(
                refusal.detail,
                format!(
                    "`mode_at_most: {mode}` in agent.yaml:3 lets nobody act on this host; \
                     `unwait act rpc-order.service --dry-run` is possible"
                )
            );
        }
        scenery.plan.dry_run = true;
        scenery.allows();
        scenery.plan.dry_run = false;
    }
    // The word of a person is what a policy of `mode: approve` asks for.
    for mode in [Mode::Approve, Mode::Auto] {
        scenery.gate.mode_at_most = ceiling(mode);
        scenery.allows();
    }
}

//! What is known to be in the way of starting again is known before anything is ended.

use super::scenery::scenery;
use crate::decide::guards::Guard;
use crate::model::{Reason, Step};

#[test]
fn what_would_not_start_again_is_not_ended_also_once_it_is_drained() {
    let mut scenery = scenery();
    scenery.scene.service().would_not_start = Some("its program is gone".into());
    for own_saga in [false, true] {
        scenery.own_saga = own_saga;
        let refusal = scenery.refuses(Guard::StartsAgain, Reason::WouldNotStart);
        assert_eq!(refusal.detail, "its program is gone");
    }
    // What is not restarted need not start again.
    scenery.plan.steps.retain(|planned| !matches!(planned.step, Step::Restart { .. }));
    scenery.allows();
}

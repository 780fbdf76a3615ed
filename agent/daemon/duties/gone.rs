//! A slot that another host has held for so long that it may be gone: who waits for the slot tells of it once, with the command
//! that gives it back. Nothing gives it back by itself: the host may be at work, or be stuck with a service that it drained.

use std::time::Duration;

use crate::model::moment::after;
use crate::model::{EventKind, Message, Plan, Reason, duration};
use crate::ports::fleet::Slot;
use crate::store::Store;
use crate::wiring::Wiring;

/// An action takes minutes.
const LONG: Duration = Duration::from_secs(3_600);

/// Tells of each slot that this plan waits for in vain; once from each host that waits, since who else waits is not known.
pub async fn tell(wiring: &Wiring, store: &Store, plan: &Plan) {
    let (Some(scope), Some(fleet), false) = (&plan.fleet_scope, &wiring.ports.fleet, plan.dry_run) else { return };
    // One that cannot be listed now is at the next look.
    let Ok(slots) = fleet.holders(scope).await else { return };
    let now = wiring.host.clock.now();
    let is_long =
        |slot: &Slot| slot.phase.is_begun() && slot.holder != wiring.host.name && after(slot.since, LONG) <= now;
    let long: Vec<Slot> = slots.into_iter().filter(is_long).collect();
    for slot in long {
        let message = message(wiring, plan, scope, &slot);
        match store.tell_of_gone_slot(scope, &slot.holder, &slot.incident, &wiring.audience, &message) {
            Ok(true) => (wiring.host.on_message)(&message),
            Ok(false) => {}
            Err(error) => tracing::error!(
                %error,
                holder = slot.holder,
                "cannot store the message about the fleet slot of {}: {error}; retrying",
                slot.holder,
            ),
        }
    }
}

fn message(wiring: &Wiring, plan: &Plan, scope: &str, slot: &Slot) -> Message {
    let (host, now) = (&wiring.host.name, wiring.host.clock.now());
    let Slot { holder, incident, since, .. } = slot;
    let lasts = now.duration_since(*since).unsigned_abs().as_secs() / 60 * 60;
    let lasts = duration::format(Duration::from_secs(lasts));
    Message {
        labels: wiring.labels(),
        service: Some(plan.target.service.clone()),
        policy: Some(plan.policy.clone()),
        reason: Some(Reason::SlotTaken),
        lines: vec![
            format!(
                "{holder} has held a fleet slot (the permission to act) of {scope} since {since:.0}, for {incident}."
            ),
            format!(
                "An action takes minutes. {holder} is gone, or its incident is stuck and waits for a person there."
            ),
            format!("look on {holder}: unwait status"),
            format!("if {holder} is gone for good: unwait slot release {holder} --service {scope}"),
        ],
        ..Message::new(
            EventKind::Stuck,
            host,
            now,
            format!("{scope} on {host}: waits for a fleet slot that {holder} has held for {lasts}"),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::set;
    use super::*;

    #[tokio::test]
    async fn a_slot_that_is_held_for_an_hour_is_told_once_with_the_command_that_frees_it() {
        let set = set();
        let other = set.fleet.host("bj1-07", set.clock.clone());
        other.acquire("rpc-order", "i-7", 1).await.unwrap();
        let mut plan = set.plan_of("i-1").await;
        plan.fleet_scope = Some("rpc-order".into());
        let tell = || tell(&set.wiring, &set.store, &plan);
        set.clock.advance(LONG * 2);
        tell().await;
        assert_eq!(set.told(), [], "one that only waits ends by itself");

        other.acquire("rpc-order", "i-7", 1).await.unwrap();
        other.begin("rpc-order", "i-7").await.unwrap();
        set.clock.advance(LONG - Duration::from_secs(1));
        tell().await;
        assert_eq!(set.told(), []);
        set.clock.advance(Duration::from_secs(1));
        tell().await;
        let message = set.told.lock().unwrap()[0].to_string();
        assert!(
            message.ends_with("if bj1-07 is gone for good: unwait slot release bj1-07 --service rpc-order"),
            "{message}"
        );
        let title = "rpc-order on bj1-03: waits for a fleet slot that bj1-07 has held for 1h";
        assert_eq!(set.told(), [(EventKind::Stuck, title.to_owned())]);
        set.clock.advance(LONG * 24);
        tell().await;
        assert_eq!(set.told(), [], "once");
    }
}

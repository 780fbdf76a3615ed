//! What no service owns is told to people, where a policy counts it.

use jiff::Timestamp;

use crate::model::{EventKind, Message};
use crate::sense::unowned::Unowned;
use crate::store::Store;
use crate::wiring::Wiring;

/// Tells it, and again each period (`remind`) for as long as it is so; `told` is when that was last done.
pub fn remind(wiring: &Wiring, store: &Store, unowned: Option<&Unowned>, told: &mut Option<Timestamp>) {
    let now = wiring.host.clock.now();
    let is_due = told.is_none_or(|told| now.duration_since(told).unsigned_abs() >= wiring.config.host.remind);
    let Some(unowned) = unowned.filter(|_| is_due) else { return };
    *told = Some(now);
    let title = format!("{}: sockets in CLOSE_WAIT that are no service's", wiring.host.name);
    let message = Message {
        labels: wiring.labels(),
        policy: unowned.policies.first().cloned(),
        lines: vec![
            format!("{unowned}."),
            "Whoever runs it decides. A service of agent.yaml may claim it: `match: { cgroup: PATH }`.".into(),
            "look: unwait scan".into(),
        ],
        ..Message::new(EventKind::Held, &wiring.host.name, now, title)
    };
    (wiring.host.on_message)(&message);
    store.tell(&wiring.audience, &[message]);
}

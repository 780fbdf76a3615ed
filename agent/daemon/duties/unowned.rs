//! What no service owns is told to people, where a policy counts it.

use jiff::Timestamp;

use crate::model::{EventKind, Message};
use crate::sense::unowned::Unowned;
use crate::wiring::Wiring;

/// What is to be told of it now, and again each period (`remind`) for as long as it is so; `told` is when that was last done.
pub fn due(wiring: &Wiring, unowned: Option<&Unowned>, told: &mut Option<Timestamp>) -> Option<Message> {
    let now = wiring.host.clock.now();
    let is_due = told.is_none_or(|told| now.duration_since(told).unsigned_abs() >= wiring.config.host.remind);
    let unowned = unowned.filter(|_| is_due)?;
    *told = Some(now);
    let title = format!("{}: sockets in CLOSE_WAIT that are no service's", wiring.host.name);
    Some(Message {
        labels: wiring.labels(),
        policy: unowned.policies.first().cloned(),
        lines: vec![
            format!("{unowned}."),
            "Whoever runs it decides. A service of agent.yaml may claim it: `match: { cgroup: PATH }`.".into(),
            "look: unwait scan".into(),
        ],
        ..Message::new(EventKind::Held, &wiring.host.name, now, title)
    })
}

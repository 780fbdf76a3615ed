//! Once per policy, after two weeks of dry run: what it would have done. A dry run that nobody looks at is of no use, and
//! one that has shown enough should end.

use std::time::Duration;

use crate::model::{EventKind, Message};
use crate::store::{PolicyRun, Store};
use crate::view::review::Review;
use crate::wiring::Wiring;

/// People are told of a dry run after so long.
const FORTNIGHT: Duration = Duration::from_secs(14 * 86_400);

/// The policies of the configuration in force, in their modes.
pub fn note_policies(wiring: &Wiring, store: &Store) {
    let policies: Vec<_> = wiring.config.policies.iter().map(|policy| (policy.name.as_str(), policy.mode)).collect();
    if let Err(error) = store.note_policies(&policies, wiring.host.clock.now()) {
        tracing::warn!(%error, "cannot store the modes of the policies: {error}; `unwait review` shows former ones");
    }
}

/// Tells of each policy that has run dry for two weeks, once.
pub fn tell_of_dry_runs(wiring: &Wiring, store: &Store) {
    let now = wiring.host.clock.now();
    let due = match store.due_dry_runs(now, FORTNIGHT) {
        Ok(due) => due,
        Err(error) => {
            return tracing::error!(%error, "cannot read the modes of the policies: {error}; no dry run is told of");
        }
    };
    for run in due {
        let told = message(wiring, store, &run).and_then(|message| {
            let first = store.tell_of_dry_run(&run, now, &wiring.audience, &message)?;
            Ok(first.then_some(message))
        });
        match told {
            Ok(Some(message)) => (wiring.host.on_message)(&message),
            Ok(None) => {}
            Err(error) => tracing::error!(
                %error,
                policy = run.policy,
                "cannot tell of the dry run of {}: {error}; trying again in an hour",
                run.policy,
            ),
        }
    }
}

fn message(wiring: &Wiring, store: &Store, run: &PolicyRun) -> Result<Message, crate::store::StoreError> {
    let (host, now) = (&wiring.host.name, wiring.host.clock.now());
    let review = Review::of(store, host, Some(&run.policy), FORTNIGHT, now)?;
    let policy = review.policies.into_iter().find(|policy| policy.policy == run.policy);
    let (says, times) = policy.map_or_else(Default::default, |policy| {
        (policy.in_a_line, policy.would_act.iter().map(|one| one.times).sum::<usize>())
    });
    let acted = match times {
        1 => "once".into(),
        times => format!("{times} times"),
    };
    Ok(Message {
        labels: wiring.labels(),
        policy: Some(run.policy.clone()),
        dry_run: true,
        lines: vec![says, format!("look: unwait review --since 14d --policy {}", run.policy)],
        ..Message::new(
            EventKind::Review,
            host,
            now,
            format!("unwait on {host}: {} has run dry for 14 days; it would have acted {acted}", run.policy),
        )
    })
}

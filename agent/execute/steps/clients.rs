//! What clients find: a drain, and what takes it back, are done when the view shows it that clients read, and once the
//! slowest of them has had the time to follow. The registry's own record is the adapter's, and was read back before.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::preimage::failed_its_check;
use crate::execute::seen::key;
use crate::execute::world::World;
use crate::model::plan::Binding;
use crate::model::{Plan, duration};
use crate::ports::Ports;
use crate::ports::registry::Registry;

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// From a change until the view of clients shows it, beside what the registry itself says that they take.
pub const SEEN_WITHIN: Duration = Duration::from_secs(30);

/// What the view shows that clients read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// Not, or not any more.
    Out,
    In,
}

/// From a change until the slowest client of any of the plan's registries has followed it.
pub fn follow_within(plan: &Plan, ports: &Ports) -> Duration {
    let follow = |(binding, registry): (&Binding, &Arc<dyn Registry>)| {
        registry.clients_follow().max(binding.clients_follow.unwrap_or_default())
    };
    bound(plan, ports).map(follow).max().unwrap_or_default()
}

/// For how long a registry must answer without the instance before it counts as gone.
pub fn gone_after(plan: &Plan, ports: &Ports) -> Duration {
    bound(plan, ports).map(|(_, registry)| registry.gone_after()).max().unwrap_or_default()
}

/// Do clients close their connections to an instance that they do not find any more?
pub fn leave(plan: &Plan, ports: &Ports) -> bool {
    bound(plan, ports).any(|(binding, registry)| binding.clients_leave || registry.clients_leave())
}

fn bound<'a>(plan: &'a Plan, ports: &'a Ports) -> impl Iterator<Item = (&'a Binding, &'a Arc<dyn Registry>)> {
    plan.target.bindings.iter().filter_map(|binding| Some((binding, ports.registries.get(&binding.registry)?)))
}

/// One look at the views of all registries. `None` where one does not show it yet, after a moment's wait; an error, once
/// `deadline` has passed since the change, says which.
pub async fn look(
    shown: Shown,
    plan: &Plan,
    changed: Duration,
    deadline: Duration,
    world: &World,
) -> Option<Result<(), String>> {
    let Some(not_yet) = first_otherwise(shown, plan, world).await else { return Some(Ok(())) };
    if world.pace.elapsed() >= changed + deadline {
        return Some(Err(format!("{not_yet}, {} after the change", duration::format(deadline))));
    }
    world.pace.wait(LOOK_EVERY).await;
    None
}

/// The first binding whose view shows otherwise, or cannot be read.
async fn first_otherwise(shown: Shown, plan: &Plan, world: &World) -> Option<String> {
    for binding in &plan.target.bindings {
        let found = match world.registry(binding) {
            Ok(registry) => registry.clients_find(&binding.id).await,
            Err(error) => Err(error),
        };
        match (found, shown) {
            (Ok(true), Shown::In) | (Ok(false), Shown::Out) => {}
            (Ok(true), Shown::Out) => return Some(format!("clients still find {}", key(binding))),
            (Ok(false), Shown::In) => return Some(format!("clients do not find {} yet", key(binding))),
            (Err(error), _) => return Some(format!("cannot read the clients' view: {error}")),
        }
    }
    None
}

/// After a drain was taken back before its restart: until clients find the service again, or should have long since.
/// Another host must not take its instance out before this one is found. An error says that clients do not find it: people
/// must hear of that. One that failed its check when it was drained was not found before, and is not waited for.
pub async fn found_again(plan: &Plan, preimage: &Value, world: &World) -> Result<(), String> {
    if failed_its_check(preimage) {
        return Ok(());
    }
    let follow = follow_within(plan, &world.ports);
    let since = world.pace.elapsed();
    let shown = loop {
        if let Some(shown) = look(Shown::In, plan, since, follow + SEEN_WITHIN, world).await {
            break shown;
        }
    };
    shown?;
    world.pace.wait((since + follow).saturating_sub(world.pace.elapsed())).await;
    Ok(())
}

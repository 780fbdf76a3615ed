//! `verify`: watch the service in traffic for `soak`, healthy throughout, and then expect its signals to be so.
//! Unhealthy: it is taken out again. Healthy but leaking: `not_helped`, and it stays in traffic. What became of the leaked
//! sockets is looked at once every step is done (`execute::judge`), with this step or without.

use std::time::Duration;

use super::{Done, Failing, Failure, clients, drain, restore};
use crate::execute::saga::{Helped, Saga};
use crate::execute::seen::key;
use crate::execute::world::World;
use crate::model::plan::Binding;
use crate::model::{Comparison, Plan, Reason, Truth, duration};
use crate::ports::registry::{RegistryError, Traffic};

const LOOK_EVERY: Duration = Duration::from_secs(2);
/// At the end, for what is expected and not found.
const LOOKS: u32 = 3;
/// People are told where it cannot be put back within this.
const STILL_DRAINED_TOLD_AFTER: Duration = Duration::from_secs(30);

pub async fn apply(saga: &Saga, soak: Duration, expect: &[Comparison], world: &World) -> Result<Done, Failure> {
    let plan = saga.plan();
    let end = world.pace.elapsed() + soak;
    let mut failing = Failing::default();
    loop {
        let passed = failing.ask(plan, world).await?;
        let left = end.saturating_sub(world.pace.elapsed());
        if left.is_zero() && passed {
            break;
        }
        world.pace.wait(LOOK_EVERY.min(left.max(Duration::from_millis(100)))).await;
    }
    in_traffic(saga, world).await?;

    let (helped, unmet) = unmet(plan, expect, world).await;
    let soaked = duration::format(soak);
    let says = match (expect, &unmet[..]) {
        ([], _) => format!("healthy for {soaked}"),
        (_, []) => format!("healthy for {soaked}, and every expectation holds"),
        (_, unmet) => format!("healthy for {soaked}, but {}", unmet.join(", ")),
    };
    // The end is about the sockets; why else it did not help stands beside them.
    let note = (!unmet.is_empty()).then(|| format!("`verify` expected more: {}", unmet.join(", ")));
    Ok(Done { helped: Some(helped), note, ..Done::saying(says) })
}

/// What of `expect` does not hold, at each of some looks in a row: any socket may pass through CLOSE_WAIT, that of our own
/// last probe as well.
async fn unmet(plan: &Plan, expect: &[Comparison], world: &World) -> (Helped, Vec<String>) {
    let mut looks = 1;
    loop {
        let (helped, unmet) = unmet_now(plan, expect, world).await;
        if unmet.is_empty() || looks == LOOKS {
            return (helped, unmet);
        }
        looks += 1;
        world.pace.wait(LOOK_EVERY).await;
    }
}

async fn unmet_now(plan: &Plan, expect: &[Comparison], world: &World) -> (Helped, Vec<String>) {
    let (mut helped, mut unmet) = (Helped::Yes, Vec::new());
    for comparison in expect {
        let (found, says) = match world.measure.expectation(plan, comparison).await {
            Ok(Truth::True) => continue,
            Ok(Truth::False) => (Helped::No, "does not hold".to_owned()),
            Ok(Truth::Unknown) => (Helped::Unknown, "is unknown".to_owned()),
            Err(error) => (Helped::Unknown, format!("could not be measured: {error}")),
        };
        helped = helped.max(found);
        unmet.push(format!("{comparison} {says}"));
    }
    (helped, unmet)
}

/// The first binding that clients do not find, by an answer of the view that they read.
async fn not_found<'a>(plan: &'a Plan, world: &World) -> Option<&'a Binding> {
    for binding in &plan.target.bindings {
        if let Ok(registry) = world.registry(binding)
            && matches!(registry.clients_find(&binding.id).await, Ok(false))
        {
            return Some(binding);
        }
    }
    None
}

/// A service that we put back must be seen in traffic; one that its registry finds failing is unhealthy, and so is one
/// that is not registered any more. One that somebody else has taken out is a person's. What still carries our drain (a registry that gave an old answer when it was put
/// back) is put back now.
async fn in_traffic(saga: &Saga, world: &World) -> Result<(), Failure> {
    let plan = saga.plan();
    if !plan.drains() {
        return Ok(());
    }
    let gone_after = clients::gone_after(plan, &world.ports);
    let mut gone_since = None;
    let drained = loop {
        let unhealthy = |binding: &Binding, how: &str| {
            Err(Failure::new(Reason::UnhealthyAfterRestore, format!("{} {how}", key(binding))))
        };
        let seen = seen(plan, world).await;
        if let Some((binding, _)) = seen.iter().find(|(_, traffic)| *traffic == Some(Traffic::Failing)) {
            return unhealthy(binding, "does not pass its registry's checks");
        }
        let ours = Traffic::DrainedBy(drain::marker(plan, world));
        let taken_out = |traffic: &Option<Traffic>| match traffic {
            Some(Traffic::Isolated { reason }) => Some(reason.clone()),
            Some(drained @ Traffic::DrainedBy(other)) if *drained != ours => {
                Some(format!("incident {}", other.incident))
            }
            _ => None,
        };
        if let Some((binding, by)) = seen.iter().find_map(|(binding, traffic)| Some((binding, taken_out(traffic)?))) {
            let detail = format!("{} was put back, and taken out by somebody else since: {by}", key(binding));
            return Err(Failure::new(Reason::RecordChanged, detail));
        }
        let drained = seen.iter().any(|(_, traffic)| traffic.as_ref() == Some(&ours));
        // Some register themselves only a while after they answer, and a registry that was away knows nobody at first.
        let lacks = match seen.iter().find(|(_, traffic)| traffic.is_none()) {
            Some((binding, _)) => Some((*binding, "is not registered any more")),
            None if drained => None,
            None => {
                not_found(plan, world).await.map(|binding| (binding, "is in its registry, but clients do not find it"))
            }
        };
        let Some((binding, how)) = lacks else { break drained };
        let since = *gone_since.get_or_insert(world.pace.elapsed());
        if world.pace.elapsed() - since >= gone_after {
            return unhealthy(binding, how);
        }
        world.pace.wait(LOOK_EVERY).await;
    };
    if drained {
        tracing::warn!(
            incident = %plan.incident,
            "{} is still drained by us after its restore; restoring it again",
            plan.target.service,
        );
        let put_back = restore::apply(saga, STILL_DRAINED_TOLD_AFTER, world).await;
        // So that it is held out, and told to be out: it never was in traffic.
        put_back.map_err(|failure| Failure { reason: Reason::UnhealthyAfterRestore, ..failure })?;
    }
    Ok(())
}

/// Each binding with what its registry says; `None`: it is not registered. One whose registry is away now is left out: it
/// was read back when it was restored, and that says nothing against the service.
async fn seen<'a>(plan: &'a Plan, world: &World) -> Vec<(&'a Binding, Option<Traffic>)> {
    let mut seen = Vec::new();
    for binding in &plan.target.bindings {
        match world.observe(binding).await {
            Ok(registration) => seen.push((binding, Some(registration.traffic))),
            Err(RegistryError::NotRegistered { .. }) => seen.push((binding, None)),
            Err(error) => {
                tracing::warn!(
                    %error,
                    incident = %plan.incident,
                    "cannot read {} at the end of the incident: {error}; its registration was confirmed at the restore",
                    key(binding),
                );
            }
        }
    }
    seen
}

//! `drain`: out of traffic in every registry, reversibly; and its undo, which puts back what was there.

use std::time::Duration;

use serde_json::Value;

use super::clients::{self, SEEN_WITHIN, Shown};
use super::preimage::Preimage;
use super::traffic::Before;
use super::{Done, Failure, PROBE_DEADLINE, UndoError};
use crate::execute::saga::Saga;
use crate::execute::seen::key;
use crate::execute::world::{ByBinding, World};
use crate::model::plan::Binding;
use crate::model::runbook::OnTimeout;
use crate::model::{Marker, Plan, Reason, duration};
use crate::ports::registry::{Registration, RegistryError, Restored, Traffic};

pub fn marker(plan: &Plan, world: &World) -> Marker {
    Marker { incident: plan.incident.clone(), host: world.host.clone() }
}

pub async fn preimage(plan: &Plan, world: &World) -> Result<Value, Failure> {
    let failed = |error: String| Failure::new(Reason::DrainFailed, error);
    let registrations = world.registrations(plan).await.map_err(|error| failed(error.to_string()))?;
    if registrations.is_empty() {
        return Err(Failure::new(Reason::NoRegistry, Reason::NoRegistry.says()));
    }
    for (binding, registration) in &registrations {
        match &registration.traffic {
            // Who fails its check may recover under our hands, and must not be found before it is restarted.
            Traffic::Passing | Traffic::Failing => {}
            Traffic::Isolated { reason } => {
                let detail = format!("{} was taken out by somebody else: {reason}", key(binding));
                return Err(Failure::new(Reason::OutOfTraffic, detail));
            }
            Traffic::DrainedBy(marker) => {
                let detail = format!("{} is still drained by an earlier incident, {}", key(binding), marker.incident);
                return Err(Failure::new(Reason::OutOfTraffic, detail));
            }
        }
    }
    let preimage = Preimage {
        registrations: registrations.into_iter().map(|(binding, registration)| (key(&binding), registration)).collect(),
        incarnation: world.settled_incarnation(plan).await.map_err(failed)?,
        healthy: world.probe(plan.target.health.as_ref(), PROBE_DEADLINE).await.is_ok(),
    };
    Ok(serde_json::to_value(preimage).expect("a pre-image is plain data"))
}

/// So often is a drain waited for anew that others undo while clients follow it.
const WAITS_AT_MOST: u32 = 3;

pub async fn apply(
    saga: &Saga,
    settle: Duration,
    deadline: Duration,
    on_busy: OnTimeout,
    before: Option<Before>,
    world: &World,
) -> Result<Done, Failure> {
    let plan = saga.plan();
    let marker = marker(plan, world);
    for binding in &plan.target.bindings {
        match tokio::time::timeout(deadline, world.drain(binding, &marker)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(Failure::new(Reason::DrainFailed, error)),
            Err(_) => {
                let detail = format!("{} did not drain within {}", key(binding), duration::format(deadline));
                return Err(Failure::new(Reason::DrainFailed, detail));
            }
        }
    }
    crate::crash::point("drain", "effected");
    let Followed { took, undone } = out_for_clients(saga, settle, deadline, world).await?;
    let fell = before.unwrap_or_default().fell(plan, world).await;
    if let Some(why) = fell.ineffective.filter(|_| on_busy == OnTimeout::Unwind) {
        return Err(Failure::new(Reason::DrainIneffective, why));
    }
    let mut said = format!("drained: {}", bindings(plan));
    if took >= Duration::from_secs(1) {
        said.push_str(&format!("; waited {} for clients to follow", duration::format(took)));
    }
    if undone {
        said.push_str(&format!(
            "; but others put the service back in traffic during each of {WAITS_AT_MOST} waits, and clients may find it \
             then. unwait drains it again each time and goes on: find out what registers it"
        ));
    }
    fell.says.iter().for_each(|says| said.push_str(&format!("; {says}")));
    Ok(Done { note: fell.note, ..Done::saying(said) })
}

/// Until clients do not find it any more, and the slowest has had the time to follow. Says how long that took. What others
/// undo meanwhile is drained again, and waited for again: so often, since a heartbeat undoes it for as long as it beats.
async fn out_for_clients(
    saga: &Saga,
    settle: Duration,
    deadline: Duration,
    world: &World,
) -> Result<Followed, Failure> {
    let began = world.pace.elapsed();
    let mut undone = true;
    for _ in 0..WAITS_AT_MOST {
        if followed(saga, settle, deadline, world).await? && stands(saga, world).await? {
            undone = false;
            break;
        }
    }
    Ok(Followed { took: world.pace.elapsed() - began, undone })
}

struct Followed {
    took: Duration,
    /// Others undid the drain each time that it was waited for.
    undone: bool,
}

/// The same, once. False where others undid the drain meanwhile, and it is made anew.
async fn followed(saga: &Saga, settle: Duration, deadline: Duration, world: &World) -> Result<bool, Failure> {
    let follow = clients::follow_within(saga.plan(), &world.ports);
    let since = world.pace.elapsed();
    loop {
        if !super::hold(saga, world).await {
            return Ok(false);
        }
        match clients::look(Shown::Out, saga.plan(), since, deadline + follow, world).await {
            None => {}
            Some(Ok(())) => break,
            Some(Err(found)) => return Err(Failure::new(Reason::DrainFailed, found)),
        }
    }
    let end = (since + follow).max(world.pace.elapsed() + settle);
    loop {
        let left = end.saturating_sub(world.pace.elapsed());
        if left.is_zero() {
            return Ok(true);
        }
        world.pace.wait(left.min(HOLD_EVERY)).await;
        if !super::hold(saga, world).await {
            return Ok(false);
        }
    }
}

/// How often a drain is looked at while clients follow it.
const HOLD_EVERY: Duration = Duration::from_secs(5);

/// Just before the restart: a drain that was lost since is made anew, and waited for, and only then restarted.
pub async fn still_out(saga: &Saga, world: &World) -> Result<(), Failure> {
    match stands(saga, world).await? {
        true => Ok(()),
        false => out_again(saga, world).await,
    }
}

/// A drain was just made anew: until clients have followed that as well.
pub async fn out_again(saga: &Saga, world: &World) -> Result<(), Failure> {
    out_for_clients(saga, Duration::ZERO, SEEN_WITHIN, world).await.map(drop)
}

/// Reads the drain back from every registry, and proves that each takes writes still. A drain that is gone is made anew, and
/// false; an instance that is not there now is waited for as long as its registry may forget it.
async fn stands(saga: &Saga, world: &World) -> Result<bool, Failure> {
    let gone_after = clients::gone_after(saga.plan(), &world.ports);
    let failed = |error: RegistryError| Failure::new(Reason::DrainFailed, error);
    let began = world.pace.elapsed();
    let (mut gone_since, mut stood) = (None, true);
    loop {
        stood &= hold(saga, world).await.map_err(failed)?.is_none();
        match still_ours(saga.plan(), world).await {
            Ok(ours)
                if ours.len() == saga.plan().target.bindings.len()
                    && take_writes(&ours, saga, world).await.map_err(failed)? =>
            {
                return Ok(stood);
            }
            // In traffic between the two looks; or the registry says so whatever is done.
            Ok(_) if world.pace.elapsed() - began >= SEEN_WITHIN => {
                let detail = format!("{} is drained again and again, and stays in traffic", bindings(saga.plan()));
                return Err(Failure::new(Reason::DrainFailed, detail));
            }
            Ok(_) => stood = false,
            Err(UndoError::Unregistered(detail)) => {
                let since = *gone_since.get_or_insert(world.pace.elapsed());
                if world.pace.elapsed() - since >= gone_after {
                    return Err(Failure::new(Reason::DrainFailed, detail));
                }
            }
            Err(UndoError::Later(detail) | UndoError::NeedsPerson(detail) | UndoError::Refused { detail, .. }) => {
                return Err(Failure::new(Reason::DrainFailed, detail));
            }
        }
        world.pace.wait(LOOK_EVERY).await;
    }
}

/// False where a drain went since it was read back.
async fn take_writes(ours: &[Binding], saga: &Saga, world: &World) -> Result<bool, RegistryError> {
    let marker = marker(saga.plan(), world);
    for binding in ours {
        match world.takes_writes(binding, &marker).await {
            Ok(true) => {}
            Ok(false) | Err(RegistryError::NotRegistered { .. }) => return Ok(false),
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Drained is a state to hold: whatever stands in traffic again is drained again. Says what was.
pub async fn hold(saga: &Saga, world: &World) -> Result<Option<String>, RegistryError> {
    if !saga.holds_drain() {
        return Ok(None);
    }
    let marker = marker(saga.plan(), world);
    let mut again = Vec::new();
    for binding in &saga.plan().target.bindings {
        if world.hold(binding, &marker).await? {
            again.push(key(binding));
        }
    }
    if again.is_empty() {
        return Ok(None);
    }
    let said =
        format!("the service was back in traffic during its drain, and unwait drained it again: {}", again.join(", "));
    tracing::warn!(incident = %saga.plan().incident, "{}: {said}", saga.plan().target.service);
    Ok(Some(said))
}

/// Takes a service that became unhealthy after its restore out again.
pub async fn again(saga: &Saga, world: &World) -> Result<String, RegistryError> {
    let marker = marker(saga.plan(), world);
    let mut out = Vec::new();
    let mut outcome = Ok(());
    for binding in &saga.plan().target.bindings {
        match world.drain(binding, &marker).await {
            Ok(()) => out.push(key(binding)),
            Err(RegistryError::NotRegistered { .. }) => out.push(format!("{} (not registered)", key(binding))),
            // Of several the one that is tried again: the others have their turn at each try.
            Err(error) if outcome.is_ok() || error.is_passing() => outcome = Err(error),
            Err(_) => {}
        }
    }
    outcome.map(|()| format!("taken out of traffic again: {}", out.join(", ")))
}

/// Puts back what was drained before its pivot: the same lifetime must still be there, and no less healthy.
pub async fn undo(plan: &Plan, preimage: &Value, world: &World) -> Result<String, UndoError> {
    let preimage: Preimage = serde_json::from_value(preimage.clone()).map_err(|error| UndoError::Refused {
        reason: Reason::RecordChanged,
        detail: format!("the journaled registration cannot be read: {error}"),
    })?;
    let ours = still_ours(plan, world).await?;
    if ours.is_empty() {
        return put_back(plan, &preimage.registrations, world).await;
    }
    if let Some(drained) = &preimage.incarnation {
        let now = world.settled_incarnation(plan).await.map_err(UndoError::Later)?;
        if now.as_ref() != Some(drained) {
            let now = now.map_or("no process of the service is known to run now".into(), |now| {
                format!("{} runs now", now.says())
            });
            let detail = format!(
                "not put back: the process that was drained ({}) is gone, and {now}; a person must decide",
                drained.says()
            );
            return Err(UndoError::Refused { reason: Reason::GoneWhileDrained, detail });
        }
    }
    if preimage.healthy {
        no_less_healthy(plan, world).await?;
    }
    put_back(plan, &preimage.registrations, world).await
}

/// The bindings that our marker stands on now. An isolation by somebody else is left alone, and is a person's.
pub async fn still_ours(plan: &Plan, world: &World) -> Result<Vec<Binding>, UndoError> {
    let marker = marker(plan, world);
    let mut ours = Vec::new();
    for binding in &plan.target.bindings {
        match world.observe(binding).await.map(|registration| registration.traffic) {
            Ok(Traffic::DrainedBy(found)) if found == marker => ours.push(binding.clone()),
            Ok(Traffic::Passing | Traffic::Failing) => {}
            Ok(Traffic::DrainedBy(found)) => {
                let detail = format!("{} is drained by another incident, {}", key(binding), found.incident);
                return Err(UndoError::Refused { reason: Reason::RecordChanged, detail });
            }
            Ok(Traffic::Isolated { reason }) => {
                let detail = format!("{} was taken out by somebody else meanwhile: {reason}", key(binding));
                return Err(UndoError::Refused { reason: Reason::RecordChanged, detail });
            }
            Err(RegistryError::NotRegistered { .. }) => {
                return Err(UndoError::Unregistered(format!("{} is not registered any more", key(binding))));
            }
            Err(error) => return Err(UndoError::later(&error)),
        }
    }
    Ok(ours)
}

/// Is it seen out of traffic in all of its registries, whoever took it out? One that does not answer tells nothing.
pub async fn is_out(plan: &Plan, world: &World) -> bool {
    for binding in &plan.target.bindings {
        match world.observe(binding).await.map(|registration| registration.traffic) {
            Ok(Traffic::DrainedBy(_) | Traffic::Isolated { .. }) | Err(RegistryError::NotRegistered { .. }) => {}
            Ok(Traffic::Passing | Traffic::Failing) | Err(_) => return false,
        }
    }
    true
}

/// Is any of the bindings out of traffic by our drain? An instance that is not there is where the incident rests drained: its
/// drain is held, and takes it out when it registers.
pub async fn keeps_out(plan: &Plan, rests_drained: bool, world: &World) -> Result<bool, RegistryError> {
    let marker = marker(plan, world);
    let mut unknown = Ok(false);
    for binding in &plan.target.bindings {
        match world.observe(binding).await.map(|registration| registration.traffic) {
            Ok(Traffic::DrainedBy(found)) if found == marker => return Ok(true),
            Err(RegistryError::NotRegistered { .. }) if rests_drained => return Ok(true),
            Ok(_) | Err(RegistryError::NotRegistered { .. }) => {}
            Err(error) => unknown = Err(error),
        }
    }
    unknown
}

/// Lets go of the drain under this marker at each of these bindings; traffic stays as it is. A registry that the host's file
/// does not name any more has nothing to let go of.
pub async fn forget(bindings: &[Binding], marker: &Marker, world: &World) -> Result<(), RegistryError> {
    for binding in bindings {
        if let Ok(registry) = world.registry(binding) {
            registry.forget(&binding.id, marker).await?;
        }
    }
    Ok(())
}

/// Restores each binding by its pre-image; also one that is in traffic already, which its adapter may hold a drain of still.
pub async fn put_back(
    plan: &Plan,
    registrations: &ByBinding<Registration>,
    world: &World,
) -> Result<String, UndoError> {
    let marker = marker(plan, world);
    let (mut back, mut left) = (Vec::new(), Vec::new());
    for binding in &plan.target.bindings {
        let record = registrations.get(&key(binding)).map_or(&Value::Null, |registration| &registration.record);
        let restored = match world.registry(binding) {
            Ok(registry) => registry.restore(&binding.id, &marker, record).await,
            Err(error) => Err(error),
        };
        match restored {
            Ok(Restored::Done) => back.push(key(binding)),
            Ok(Restored::NotOurs(what)) => left.push(format!("{} was not changed: {what}", key(binding))),
            Err(error) if error.is_passing() => return Err(UndoError::later(&error)),
            Err(error) => {
                return Err(UndoError::Refused { reason: Reason::RecordChanged, detail: error.to_string() });
            }
        }
    }
    if !back.is_empty() {
        left.insert(0, format!("put back: {}", back.join(", ")));
    }
    Ok(left.join("; "))
}

/// Probes that must fail in a row before a service counts as less healthy than it was.
const UNHEALTHY_AFTER: u32 = 3;
const BETWEEN_PROBES: Duration = Duration::from_secs(1);

async fn no_less_healthy(plan: &Plan, world: &World) -> Result<(), UndoError> {
    let mut failures = 0;
    loop {
        match world.probe(plan.target.health.as_ref(), PROBE_DEADLINE).await {
            Ok(()) => return Ok(()),
            Err(failure) => {
                failures += 1;
                if failures == UNHEALTHY_AFTER {
                    let detail = failure.to_string();
                    return Err(UndoError::Refused { reason: Reason::UnhealthierThanDrained, detail });
                }
            }
        }
        world.pace.wait(BETWEEN_PROBES).await;
    }
}

fn bindings(plan: &Plan) -> String {
    plan.target.bindings.iter().map(key).collect::<Vec<_>>().join(", ")
}

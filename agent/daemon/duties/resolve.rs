//! `unwait resolve`: a person decides what becomes of a service that rests stuck.

use crate::execute::journal::Journal;
use crate::execute::resolve as put_back;
use crate::execute::saga::Saga;
use crate::execute::seen::key;
use crate::execute::steps::drain;
use crate::execute::world::World;
use crate::model::plan::Binding;
use crate::model::{IncidentId, Plan, ServiceName};
use crate::store::{Latch, Store, StoreError};
use crate::view::request::{How, Reply};

/// The incident that latched the service, where one did.
pub fn incident_of(store: &Store, service: &str) -> Option<IncidentId> {
    let latches = store.latches().unwrap_or_default();
    latches.into_iter().find(|latch| latch.service == service).map(|latch| IncidentId(latch.incident))
}

pub async fn resolve(store: &Store, world: &World, service: &str, how: How) -> Reply {
    let service = match ServiceName::parse(service) {
        Ok(service) => service,
        Err(error) => return Reply::refused(error),
    };
    match decide(store, world, &service, how).await {
        Ok(said) => Reply::done(said),
        Err(error) => Reply::refused(error),
    }
}

async fn decide(store: &Store, world: &World, service: &ServiceName, how: How) -> Result<String, String> {
    let latch = store.latch(service).map_err(|error| error.to_string())?;
    let Some(latch) = latch else { return Err(format!("{service} is not latched; nothing is to be decided")) };
    let incident = IncidentId(latch.incident.clone());
    let said = match how {
        How::Leave => match let_go(store, world, &incident, &latch).await?.as_slice() {
            [] => "left as it is; unlatched".to_string(),
            places => format!(
                "left as it is; unlatched. Where it is out of traffic ({}) it stays so: to put it back is a person's now, in \
                     the registry itself",
                places.join(", ")
            ),
        },
        How::Restore => restore(store, world, service, &incident).await?,
        How::Unsaid => {
            refuse_if_drained(store, world, service, &incident, &latch).await?;
            let_go(store, world, &incident, &latch).await?;
            "unlatched".to_string()
        }
    };
    store.unlatch(service, &incident).map_err(|error| error.to_string())?;
    Ok(format!("{service}: {said}"))
}

async fn restore(store: &Store, world: &World, service: &ServiceName, incident: &IncidentId) -> Result<String, String> {
    let Some(plan) = store.plan(incident).map_err(|error| error.to_string())? else {
        return Err(format!(
            "{service}: no plan of incident {incident} is kept, so what it drained is not known; decide with \
             --leave, then put it back in the registry"
        ));
    };
    let saga = replayed(store, &plan)?;
    put_back::restore(&plan, saga.drain_preimage(), world).await.map_err(|error| error.to_string())
}

/// The saga of an incident, as its journal tells it.
fn replayed(store: &Store, plan: &Plan) -> Result<Saga, String> {
    let rows = store.journal(&plan.incident).map_err(|error| error.to_string())?;
    let mut saga = Saga::new(plan.clone());
    Journal::replay(&rows, &mut saga).map_err(|error| error.to_string())?;
    Ok(saga)
}

/// Was it left out of traffic, as its journal says? Of one that cannot be read the worse is taken for true.
fn rests_drained(store: &Store, plan: &Plan) -> bool {
    replayed(store, plan).map_or(plan.drains(), |saga| saga.holds_drain_at_rest())
}

/// The latched services that were left out of traffic.
pub fn resting_drained(store: &Store) -> Result<Vec<Latch>, StoreError> {
    let mut all = Vec::new();
    for latch in store.latches()? {
        let is_out = match store.plan(&IncidentId(latch.incident.clone()))? {
            Some(plan) => rests_drained(store, &plan),
            // An orphaned marker: there is a drain, and nobody knows of it.
            None => latch.orphan.is_some(),
        };
        if is_out {
            all.push(latch);
        }
    }
    Ok(all)
}

/// Without a word on what becomes of it, a service that is out of traffic stays latched.
async fn refuse_if_drained(
    store: &Store,
    world: &World,
    service: &ServiceName,
    incident: &IncidentId,
    latch: &Latch,
) -> Result<(), String> {
    let drained = match store.plan(incident).map_err(|error| error.to_string())? {
        Some(plan) => {
            let rests = rests_drained(store, &plan);
            let keeps_out = drain::keeps_out(&plan, rests, world).await;
            keeps_out.map_err(|error| format!("{error}; say --restore or --leave"))?
        }
        // An orphaned marker: there is a drain, and nobody knows of it.
        None => latch.orphan.is_some(),
    };
    match drained {
        true => Err(format!("{service} is out of traffic: say --restore to put it back, or --leave to keep it out")),
        false => Ok(()),
    }
}

/// What a person has decided on, no adapter takes out of traffic again. Returns where it may be out of traffic.
async fn let_go(store: &Store, world: &World, incident: &IncidentId, latch: &Latch) -> Result<Vec<String>, String> {
    let plan = store.plan(incident).map_err(|error| error.to_string())?;
    let (bindings, marker) = match (plan, &latch.orphan) {
        (Some(plan), _) => {
            let marker = drain::marker(&plan, world);
            (plan.target.bindings, marker)
        }
        (None, Some(orphan)) => (vec![Binding::new(&orphan.registry, &orphan.id)], orphan.marker.clone()),
        (None, None) => return Ok(Vec::new()),
    };
    let forgotten = drain::forget(&bindings, &marker, world).await;
    forgotten.map_err(|error| format!("its drain is held still, and it stays latched: {error}; try again"))?;
    Ok(bindings.iter().map(key).collect())
}

#[cfg(test)]
#[path = "resolve_tests.rs"]
mod tests;

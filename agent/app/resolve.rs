//! `unwait resolve`: a person decides what becomes of a service that rests stuck.

use serde::{Deserialize, Serialize};

use super::control::Reply;
use crate::execute::journal::Journal;
use crate::execute::resolve as put_back;
use crate::execute::saga::Saga;
use crate::execute::steps::{UndoError, drain};
use crate::execute::world::World;
use crate::model::{IncidentId, Marker, ServiceName};
use crate::store::{Latch, Store};

/// What a person decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// Health check, put back, unlatch.
    Restore,
    /// Unlatch, and leave traffic as it is.
    Leave,
    /// Only where nothing is drained.
    Unsaid,
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
        How::Leave => "left as it is; unlatched".to_string(),
        How::Restore => restore(store, world, service, &incident).await?,
        How::Unsaid => {
            refuse_if_drained(store, world, service, &incident, &latch).await?;
            "unlatched".to_string()
        }
    };
    store.unlatch(service, &incident).map_err(|error| error.to_string())?;
    Ok(format!("{service}: {said}"))
}

async fn restore(store: &Store, world: &World, service: &ServiceName, incident: &IncidentId) -> Result<String, String> {
    let Some(plan) = store.plan(incident).map_err(|error| error.to_string())? else {
        return Err(format!(
            "{service}: no plan of incident {incident} is kept, so what it drained is not known; put it back in the \
             registry, then decide with --leave"
        ));
    };
    let rows = store.journal(incident).map_err(|error| error.to_string())?;
    let mut saga = Saga::new(plan.clone());
    Journal::replay(&rows, &mut saga).map_err(|error| error.to_string())?;
    put_back::restore(&plan, saga.drain_preimage(), world).await.map_err(|error| error.to_string())
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
        Some(plan) => match drain::still_ours(&plan, world).await {
            Ok(ours) => !ours.is_empty(),
            Err(UndoError::Later(error)) => return Err(format!("{error}; say --restore or --leave")),
            Err(UndoError::Refused { .. } | UndoError::Unregistered(_)) => false,
        },
        // An orphaned marker: there is a drain, and nobody knows of it.
        None => Marker::parse(latch.detail.split_once("carries: ").map_or("", |(_, marker)| marker)).is_some(),
    };
    match drained {
        true => Err(format!("{service} is out of traffic: say --restore to put it back, or --leave to keep it out")),
        false => Ok(()),
    }
}

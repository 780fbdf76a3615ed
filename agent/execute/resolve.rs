//! `unwait resolve`: a person's decision on a service that rests stuck.

use std::time::Duration;

use serde_json::Value;

use super::steps::clients::{self, Shown};
use super::steps::preimage::Preimage;
use super::steps::{UndoError, drain};
use super::world::World;
use crate::model::Plan;

/// Why a resolution was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    #[error("{0}")]
    Refused(String),
    #[error("{0}; try again")]
    Later(String),
}

/// Health check, then put back what the incident drained. The caller unlatches once this has succeeded.
///
/// `preimage` is the journaled pre-image of the plan's drain, where it had one.
pub async fn restore(plan: &Plan, preimage: Option<&Value>, world: &World) -> Result<String, ResolveError> {
    if let Err(failure) = world.probe(plan.target.health.as_ref(), super::steps::PROBE_DEADLINE).await {
        return Err(ResolveError::Refused(format!(
            "{} is not healthy, so it is not put into traffic: {failure}; mend it first, or decide with --leave",
            plan.target.service
        )));
    }
    let later = |error: UndoError| match error {
        UndoError::Later(error) | UndoError::NeedsPerson(error) => ResolveError::Later(error),
        UndoError::Refused { detail, .. } | UndoError::Unregistered(detail) => {
            ResolveError::Refused(format!("{detail}; decide with --leave, then put it right in the registry"))
        }
    };
    drain::still_ours(plan, world).await.map_err(later)?;
    let registrations = preimage
        .and_then(|preimage| serde_json::from_value::<Preimage>(preimage.clone()).ok())
        .map(|preimage| preimage.registrations)
        .unwrap_or_default();
    let put_back = drain::put_back(plan, &registrations, world).await.map_err(later)?;
    let now = world.pace.elapsed();
    Ok(match clients::look(Shown::In, plan, now, Duration::ZERO, world).await {
        Some(Err(not_yet)) => format!("{put_back}; {not_yet}"),
        _ => put_back,
    })
}

//! `/api/v1`: the read model as JSON.

use hyper::StatusCode;
use serde::Serialize;
use serde_json::json;

use super::address::Query;
use super::answer::Refused;
use super::desk::Desk;
use crate::model::{IncidentId, ServiceName};

/// What there is; for whoever asks for something else.
const PATHS: &str = "status, services, services/NAME, incidents, incidents/ID, slots";

/// The body of the answer to what stands behind `/api/v1/`.
pub async fn answer(desk: &Desk, asked: &[&str], query: &Query) -> Result<String, Refused> {
    match asked {
        ["status"] => written(&desk.status().await),
        ["services"] => written(&desk.services(&query.services()).await),
        ["services", name] => {
            let name = ServiceName::parse(name).map_err(Refused::bad)?;
            let shown = desk.service(&name, query.range()).await;
            written(&shown.ok_or_else(|| no_service(&name))?)
        }
        ["incidents"] => {
            let service = query.service().map_err(Refused::bad)?;
            written(&desk.incidents(query.before(), service).await.map_err(Refused::unread)?)
        }
        ["incidents", id] => {
            let told = desk.incident(IncidentId((*id).into())).await.map_err(Refused::unread)?;
            written(&told.ok_or_else(no_incident)?)
        }
        ["slots"] => written(&desk.slots()),
        _ => Err(Refused::not_found(format!("/api/v1 has {PATHS}"))),
    }
}

/// Why there is none.
pub fn no_service(name: &ServiceName) -> Refused {
    Refused::not_found(format!(
        "nothing is known of {name}: no socket of it was seen in CLOSE_WAIT, and no file names it"
    ))
}

/// Why there is none.
pub fn no_incident() -> Refused {
    Refused::not_found("no such incident; `unwait history` and /incidents name them")
}

/// The body of an error.
pub fn error(status: StatusCode, says: &str) -> String {
    format!("{}\n", json!({ "status": status.as_u16(), "error": says }))
}

fn written(shown: &impl Serialize) -> Result<String, Refused> {
    Ok(serde_json::to_string(shown).expect("what is shown is plain data") + "\n")
}

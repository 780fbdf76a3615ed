//! The status page: the read model as HTML, for people. It works without scripts, and its state is in its address.

mod frame;
mod incidents;
mod overview;
mod plot;
mod service;
mod services;
mod slots;

use hyper::StatusCode;
use maud::html;

use super::address::Query;
use super::answer::Refused;
use super::api;
use super::desk::Desk;
use crate::model::IncidentId;
use frame::{Page, framed};

/// The page at this path.
pub async fn answer(desk: &Desk, parts: &[&str], query: &Query) -> Result<String, Refused> {
    let page = match parts {
        [] => overview::page(desk, query).await,
        ["services", name] => service::page(desk, name, query).await?,
        ["incidents"] => incidents::list(desk, query).await?,
        ["incidents", id] => {
            let material = desk.material(IncidentId((*id).into())).await.map_err(Refused::unread)?;
            incidents::one(&material.ok_or_else(api::no_incident)?)
        }
        ["slots"] => slots::page(desk),
        _ => return Err(Refused::not_found("there is no such page")),
    };
    Ok(framed(desk.host(), page))
}

/// Why there is no page.
pub fn refused(desk: &Desk, status: StatusCode, says: &str) -> String {
    let reason = status.canonical_reason().unwrap_or("error");
    let body = html! { h1 { (reason) } p { (says) } p { a href="/" { "Services of " (desk.host()) } } };
    framed(desk.host(), Page { title: reason.into(), belongs_to: "", body })
}

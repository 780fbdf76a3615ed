//! Incidents: their list, and each with what its report says.

use maud::{Markup, html};

use super::frame::{Page, live, scrolled};
use super::plot;
use crate::model::duration;
use crate::report::incident::{self, Material};
use crate::serve::address::{Query, encoded};
use crate::serve::answer::Refused;
use crate::serve::desk::Desk;
use crate::store::IncidentRow;
use crate::view::incident::outcome_of;

pub async fn list(desk: &Desk, query: &Query) -> Result<Page<'static>, Refused> {
    let service = query.service().map_err(Refused::bad)?;
    let shown = desk.incidents(query.before(), service.clone()).await.map_err(Refused::unread)?;
    let of = service.as_ref().map(|name| format!("&service={}", encoded(name.as_str()))).unwrap_or_default();
    let body = html! {
        h1 { "Incidents" @if let Some(service) = &service { " of " (service) } }
        (live("live-incidents", html! {
            (table(&shown.incidents))
            @if let Some(older) = &shown.older {
                nav.pager aria-label="Pages of the list" {
                    a rel="next" href=(format!("/incidents?before={}{of}", encoded(older))) { "Older ones" }
                }
            }
        }))
    };
    Ok(Page { title: "Incidents".into(), belongs_to: "/incidents", body })
}

/// One incident, by the sections of its report.
pub fn one(material: &Material) -> Page<'static> {
    let row = &material.shown.incident;
    let body = html! {
        (live("live-incident", html! {
            (incident::body(material))
            p { a href=(format!("/services/{}", encoded(&row.service))) { "The service now" } }
            p { "To hand on as one file: " code.command { "unwait show " (row.incident) " --html" } }
        }))
    };
    Page { title: format!("{}: {}", row.service, row.incident), belongs_to: "/incidents", body }
}

pub fn link(incident: &str) -> Markup {
    html! { a href=(address(incident)) { (incident) } }
}

fn address(incident: &str) -> String {
    format!("/incidents/{}", encoded(incident))
}

/// Newest first.
pub fn table(rows: &[IncidentRow]) -> Markup {
    if rows.is_empty() {
        return html! { p { "There are none." } };
    }
    let lasted = |row: &IncidentRow| {
        let seconds = row.ended?.duration_since(row.began).as_secs();
        Some(duration::format(std::time::Duration::from_secs(seconds.unsigned_abs())))
    };
    scrolled(
        "Incidents",
        html! {
            table {
                caption.unseen { "Incidents, newest first" }
                thead { tr {
                    th scope="col" { "Service" } th scope="col" { "Outcome" } th scope="col" { "Began" }
                    th scope="col" { "Lasted" } th scope="col" { "Policy" } th scope="col" { "Incident" }
                } }
                tbody {
                    @for row in rows {
                        @let (outcome, reason) = outcome_of(row);
                        tr {
                            th scope="row" { a href=(format!("/services/{}", encoded(&row.service))) { (row.service) } }
                            td {
                                a href=(address(&row.incident)) {
                                    (outcome) @if !reason.is_empty() { ": " (reason) }
                                }
                                @if row.dry_run { " (dry-run)" }
                            }
                            td.t { (plot::time(row.began)) }
                            td.t { (lasted(row).unwrap_or_default()) }
                            td { (row.policy) }
                            td { code { (row.incident) } }
                        }
                    }
                }
            }
        },
    )
}

//! The first page: what needs a person, what is under way, the services, the newest incidents, the slots.

use maud::{Markup, html};

use super::frame::{Page, commands, live};
use super::{incidents, plot, services, slots};
use crate::model::duration;
use crate::serve::address::{Query, encoded};
use crate::serve::desk::Desk;
use crate::serve::health;
use crate::view::bulletin::Bulletin;
use crate::view::service::ServicesShown;
use crate::view::status::{IncidentNow, Status};
use crate::view::wants::Want;

/// Things that are listed: all of them tells `unwait status`.
const WANTS: usize = 40;
/// Incidents on this page.
const INCIDENTS: usize = 10;

pub async fn page(desk: &Desk, query: &Query) -> Page<'static> {
    let (bulletin, status) = (desk.bulletin(), desk.status().await);
    let shown = ServicesShown::of(&bulletin, &status, &query.services());
    let wants = wants(desk, &bulletin, &status);
    let urgent = wants.iter().filter(|want| want.is_urgent).count();
    let ended = desk.incidents(None, None).await;
    let body = html! {
        h1 { (desk.host()) }
        (live("live-needs", html! {
            (of_the_agent(&bulletin, &status))
            (needs(&wants, urgent))
            (under_way(&status.open))
        }))
        section aria-labelledby="services" {
            h2 #services { "Services" }
            (services::form(query))
            (live("live-services", services::list(desk, &shown, query).await))
        }
        (live("live-rest", html! {
            section aria-labelledby="incidents" {
                h2 #incidents { "Newest incidents" }
                @match &ended {
                    Ok(ended) => {
                        (incidents::table(&ended.incidents[..ended.incidents.len().min(INCIDENTS)]))
                        @if ended.incidents.len() > INCIDENTS { p { a href="/incidents" { "All incidents" } } }
                    },
                    Err(why) => p.warn { "Not known: " (why) },
                }
            }
            section aria-labelledby="slots" {
                h2 #slots { "Slots of the fleet" }
                (slots::table(&desk.slots()))
            }
        }))
    };
    let title = if urgent > 0 { format!("({urgent}) Services") } else { "Services".into() };
    Page { title, belongs_to: "/", body }
}

/// Besides those of the status: a loop that hangs.
fn wants(desk: &Desk, bulletin: &Bulletin, status: &Status) -> Vec<Want> {
    let mut wants = status.wants();
    if let Err(why) = health::alive(bulletin, desk.since_boot()) {
        wants.insert(0, Want::hangs(why));
    }
    wants
}

fn of_the_agent(bulletin: &Bulletin, status: &Status) -> Markup {
    html! {
        p {
            @match bulletin.looked {
                Some(at) => { "Looked at " (plot::time(at)) ", every " (duration::format(bulletin.period)) "." },
                None => "The agent has not looked at everything yet.",
            }
            @if let Some(count) = bulletin.host_close_wait {
                " " strong { (format!("{count:.0}")) } " sockets in CLOSE_WAIT on the host."
            }
            @if let Some(agent) = &status.agent {
                " " (agent.policies) @if agent.policies == 1 { " policy." } @else { " policies." }
            }
            " unwait " (bulletin.version) "."
        }
        @if let Some(agent) = &status.agent {
            @let notes: Vec<String> = notes(agent);
            @if !notes.is_empty() {
                details #notes { summary { "Notes (" (notes.len()) ")" } ul { @for note in &notes { li { (note) } } } }
            }
        }
    }
}

fn notes(agent: &crate::view::status::AgentNow) -> Vec<String> {
    let mut notes = Vec::new();
    if agent.looks_every != agent.interval {
        notes.push(format!("Looks less often: every {}, as `cpu_budget` allows", duration::format(agent.looks_every)));
    }
    notes.extend(agent.held_modes.iter().map(|(policy, held)| format!("{policy}: {held}")));
    notes.extend(agent.of_no_service.clone());
    notes.extend(agent.cautions.iter().cloned());
    notes.extend(agent.not_seen.iter().map(|spot| format!("not seen: {spot}")));
    notes
}

fn needs(wants: &[Want], urgent: usize) -> Markup {
    html! {
        section aria-labelledby="needs" {
            h2 #needs { @if urgent > 0 { "Needs a person (" (urgent) ")" } @else { "Needs a person: nothing" } }
            @if !wants.is_empty() {
                ul.wants { @for want in wants.iter().take(WANTS) { li.urgent[want.is_urgent] { (one(want)) } } }
            }
            @if wants.len() > WANTS { p { "and " (wants.len() - WANTS) " more: " code { "unwait status" } } }
        }
    }
}

fn one(want: &Want) -> Markup {
    html! {
        strong { @if want.is_urgent { span aria-hidden="true" { "▲ " } } (want.what) }
        @if let Some(service) = &want.service { " " a href=(format!("/services/{}", encoded(service))) { (service) } }
        @if let Some(since) = want.since { ", since " (plot::time(since)) }
        div { (want.says) }
        (commands(&want.commands))
        @if let Some(incident) = &want.incident { div { "Incident " (incidents::link(incident)) } }
    }
}

fn under_way(open: &[IncidentNow]) -> Markup {
    html! {
        @if !open.is_empty() {
            section aria-labelledby="under-way" {
                h2 #under-way { "Under way (" (open.len()) ")" }
                ul {
                    @for one in open.iter().take(WANTS) {
                        li {
                            a href=(format!("/services/{}", encoded(one.service.as_str()))) { (one.service) } ": "
                            (one.runbook) ", step " strong { (one.step) }
                            @if one.dry_run { " (dry-run: nothing is changed)" }
                            " " (incidents::link(&one.incident.0))
                        }
                    }
                }
                @if open.len() > WANTS { p { "and " (open.len() - WANTS) " more" } }
            }
        }
    }
}

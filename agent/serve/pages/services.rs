//! The list of services: what needs a person first, each with the signal that says most.

use std::collections::BTreeSet;

use maud::{Markup, html};
use strum::IntoEnumIterator;

use super::frame::commands;
use super::plot::{self, Size};
use crate::model::policy::Comparison;
use crate::model::{Reading, Signal};
use crate::serve::address::{Query, encoded};
use crate::serve::desk::Desk;
use crate::view::explanation::PolicyExplained;
use crate::view::service::{History, HistoryRange, ServiceNow, ServiceOrder, ServiceState, ServicesShown};
use crate::view::wants;

/// The form that filters and sorts them; it works by its address alone.
pub fn form(query: &Query) -> Markup {
    let (asked, range) = (query.services(), query.range());
    let order = |order: ServiceOrder, says: &str| {
        html! { option value=(order) selected[asked.order == order] { (says) } }
    };
    html! {
        form.filter role="search" action="/" method="get" {
            span.pair {
                label for="q" { "Filter" }
                input #q type="search" name="q" value=(asked.text) placeholder="name, state or policy" autocomplete="off";
            }
            span.pair {
                label for="sort" { "Order" }
                select #sort name="sort" {
                    (order(ServiceOrder::Need, "by need")) (order(ServiceOrder::Sockets, "by sockets"))
                    (order(ServiceOrder::Name, "by name"))
                }
            }
            span.pair {
                label for="range" { "Plots of" }
                select #range name="range" {
                    @for one in HistoryRange::iter() { option value=(one) selected[one == range] { (one) } }
                }
            }
            button type="submit" { "Show" }
        }
    }
}

/// The table, and the way to its other pages.
pub async fn list(desk: &Desk, shown: &ServicesShown, query: &Query) -> Markup {
    let range = query.range();
    let wanted: Vec<_> = shown
        .services
        .iter()
        .map(|service| (service.explanation.service.clone(), Some(BTreeSet::from([main_signal(service)]))))
        .collect();
    let histories = desk.histories(wanted, range).await;
    html! {
        @match &histories {
            Err(why) => p.warn { "No plots: " (why) },
            Ok(read) if read.len() < shown.services.len() => p.warn {
                "Plots of the first " (read.len()) " only: the history takes long to read. A shorter range shows more."
            },
            Ok(_) => {},
        }
        @if shown.services.is_empty() {
            p {
                @if query.services().text.is_empty() {
                    "No service holds a socket in CLOSE_WAIT, and no file names one."
                } @else { "No service fits this filter." }
            }
        } @else {
            table.services {
                caption {
                    (shown.count) @if shown.count == 1 { " service" } @else { " services" }
                    @if shown.pages > 1 { ", page " (shown.page) " of " (shown.pages) }
                }
                thead { tr { th scope="col" { "Service" } th scope="col" { "Signal, last " (range) } } }
                tbody {
                    @for (n, service) in shown.services.iter().enumerate() {
                        (row(service, histories.as_ref().ok().and_then(|all| all.get(n)), range))
                    }
                }
            }
        }
        (pager(shown, query))
        @if shown.left_out > 0 {
            p.soft { (shown.left_out) " more services with few sockets are not listed." }
        }
    }
}

fn main_signal(service: &ServiceNow) -> Signal {
    service.main_limit().map_or(Signal::CloseWait, |limit| limit.limit.signal)
}

fn row(service: &ServiceNow, history: Option<&History>, range: HistoryRange) -> Markup {
    let name = &service.explanation.service;
    let signal = main_signal(service);
    let limits: Vec<&Comparison> = service.main_limit().map(|limit| &limit.limit).into_iter().collect();
    let plotted = history.and_then(|history| Some((history, history.signals.iter().find(|one| one.signal == signal)?)));
    html! {
        tr {
            th scope="row" {
                a href=(format!("/services/{}?range={range}", encoded(name.as_str()))) { (name) }
                div { (state(service.state)) }
                @for policy in &service.explanation.policies { (why(service, policy)) }
            }
            td {
                @if let Some((history, signal)) = plotted { (plot::of(history, signal, &limits, Size::Small)) }
                div.now { code { (signal) } " " strong { (service.explanation.signals.show(signal)) } }
                @for limit in &limits {
                    div.soft { "limit " (limit.operator.symbol()) " " (Reading::Known(limit.threshold).show(signal)) }
                }
            }
        }
        "\n"
    }
}

/// A state: by its word, its sign and its colour.
pub fn state(state: ServiceState) -> Markup {
    let sign = match state {
        ServiceState::Stuck | ServiceState::ToApprove | ServiceState::Held => "▲",
        ServiceState::UnderWay | ServiceState::Breached | ServiceState::Holding => "◆",
        ServiceState::NotMeasured => "?",
        ServiceState::Quiet | ServiceState::NoPolicy => "○",
    };
    html! { span class=(format!("state {state}")) { span aria-hidden="true" { (sign) " " } (state.says()) } }
}

/// Why nothing is done by a policy that is in breach, with the command.
fn why(service: &ServiceNow, policy: &PolicyExplained) -> Markup {
    let Some(reason) = policy.nothing_is_done.filter(|_| wants_words(policy)) else { return html! {} };
    let refusal = policy.held_by.first();
    html! {
        div.why {
            (policy.policy) ": " strong { (reason) }
            @match refusal {
                Some(refusal) => {
                    ", " (refusal.detail)
                    @if let Some(until) = refusal.until { " (until " (plot::time(until)) ")" }
                },
                None => { ", " (reason.says()) },
            }
            (commands(&[wants::command_for(reason, service.explanation.service.as_str(), &policy.policy)]))
        }
    }
}

/// Of a quiet policy there is nothing to tell.
fn wants_words(policy: &PolicyExplained) -> bool {
    use crate::model::Reason::{NotForLong, Quiet, SignalUnknown};
    !matches!(policy.nothing_is_done, Some(Quiet | NotForLong | SignalUnknown))
}

fn pager(shown: &ServicesShown, query: &Query) -> Markup {
    let to = |page: usize| {
        let asked = query.services();
        format!("/?q={}&sort={}&range={}&page={page}", encoded(&asked.text), asked.order, query.range())
    };
    html! {
        @if shown.pages > 1 {
            nav.pager aria-label="Pages of the list" {
                @if shown.page > 1 { a rel="prev" href=(to(shown.page - 1)) { "Page before" } }
                @if shown.page < shown.pages { a rel="next" href=(to(shown.page + 1)) { "Next page" } }
            }
        }
    }
}

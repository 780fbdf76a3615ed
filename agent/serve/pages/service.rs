//! One service: what each policy makes of it, its signals over time with their limits, its incidents.

use maud::{Markup, html};
use strum::IntoEnumIterator;

use super::frame::{Page, commands, live, scrolled};
use super::plot::{self, Size};
use super::{incidents, services};
use crate::model::policy::Comparison;
use crate::model::{Reading, ServiceName, duration};
use crate::serve::address::{Query, encoded};
use crate::serve::answer::Refused;
use crate::serve::api;
use crate::serve::desk::Desk;
use crate::view::explanation::PolicyExplained;
use crate::view::service::{History, HistoryRange, ServiceNow, ServiceShown, SignalHistory};
use crate::view::wants::{self, word};

/// Incidents on this page.
const INCIDENTS: usize = 10;

pub async fn page(desk: &Desk, name: &str, query: &Query) -> Result<Page<'static>, Refused> {
    let name = ServiceName::parse(name).map_err(Refused::bad)?;
    let range = query.range();
    let shown = desk.service(&name, range).await.ok_or_else(|| api::no_service(&name))?;
    let ended = desk.incidents(None, Some(name.clone())).await;
    let body = html! {
        h1 { (name) }
        (live("live-now", now(&shown, &name)))
        section aria-labelledby="signals" {
            h2 #signals { "Signals" }
            nav.ranges aria-label="How far back" {
                @for one in HistoryRange::iter() {
                    a href=(format!("/services/{}?range={one}", encoded(name.as_str())))
                        aria-current=[(one == range).then_some("true")] { (one) }
                }
            }
            (live("live-signals", signals(&shown)))
        }
        (live("live-incidents", html! {
            section aria-labelledby="incidents" {
                h2 #incidents { "Incidents" }
                @match &ended {
                    Ok(ended) => {
                        (incidents::table(&ended.incidents[..ended.incidents.len().min(INCIDENTS)]))
                        @if ended.incidents.len() > INCIDENTS {
                            p { a href=(format!("/incidents?service={}", encoded(name.as_str()))) { "All its incidents" } }
                        }
                    },
                    Err(why) => p.warn { "Not known: " (why) },
                }
            }
        }))
    };
    Ok(Page { title: name.to_string(), belongs_to: "/", body })
}

fn now(shown: &ServiceShown, name: &ServiceName) -> Markup {
    let Some(now) = &shown.now else {
        return html! { p { "The agent does not list it now: it holds no socket in CLOSE_WAIT." } };
    };
    html! {
        p { (services::state(now.state)) @if let Some(at) = shown.looked { ", at " (plot::time(at)) } }
        @if let Some(incident) = &now.explanation.under_way { p { "Under way: " (incidents::link(&incident.0)) } }
        @if now.explanation.policies.is_empty() { p { "No policy selects it: nothing is ever done about it." } }
        @for policy in &now.explanation.policies { (by(now, policy)) }
        p.soft {
            "The guards are not asked for this page; " code.command { "unwait explain " (word(name.as_str())) }
            " asks them, and " code.command { "unwait plan " (word(name.as_str())) } " says what would be done."
        }
    }
}

fn by(now: &ServiceNow, policy: &PolicyExplained) -> Markup {
    html! {
        section {
            h2 { "Policy " (policy.policy) }
            dl {
                dt { "mode" } dd { (policy.mode) @if let Some(held) = &policy.held_mode { ", " (held) } }
                dt { "stands" } dd {
                    (policy.standing) @if let Some(since) = policy.held_since { ", since " (plot::time(since)) }
                }
                @if let Some(runbook) = &policy.runbook { dt { "would do" } dd { (runbook) } }
                @if let Some(reason) = policy.nothing_is_done {
                    dt { "nothing is done" }
                    dd {
                        strong { (reason) }
                        @if policy.held_by.is_empty() { ": " (reason.says()) }
                        @for refusal in &policy.held_by {
                            ": " (refusal.detail)
                            @if let Some(until) = refusal.until { " (until " (plot::time(until)) ")" }
                        }
                        (commands(&[wants::command_for(reason, now.explanation.service.as_str(), &policy.policy)]))
                    }
                }
            }
            (scrolled(&format!("Condition of {}", policy.policy), html! {
                table {
                    caption { "Its condition now" }
                    thead { tr { th scope="col" { "where" } th.number scope="col" { "now" } th scope="col" { "holds" } } }
                    tbody {
                        @for line in &policy.when {
                            tr {
                                th scope="row" { @for _ in 0..line.depth { "\u{2003}" } code { (line.text) } }
                                td.number { (line.now) } td { (line.holds) }
                            }
                        }
                    }
                }
            }))
        }
    }
}

fn signals(shown: &ServiceShown) -> Markup {
    let Some(history) = &shown.history else {
        return html! { p.warn { "Not known: " (shown.store_unread.as_deref().unwrap_or_default()) } };
    };
    let limits = shown.now.as_ref().map_or(&[][..], |now| &now.limits);
    let of = |signal: &SignalHistory| -> Vec<&Comparison> {
        limits.iter().map(|limit| &limit.limit).filter(|limit| limit.signal == signal.signal).collect()
    };
    // Those with a limit first.
    let mut signals: Vec<_> = history.signals.iter().map(|signal| (signal, of(signal))).collect();
    signals.sort_by_key(|(_, limits)| limits.is_empty());
    html! {
        @if signals.is_empty() {
            p { "Nothing of this time is in the history." }
        } @else {
            p.soft { "Since " (plot::time(history.from)) ", by steps of " (duration::format(history.step)) "; a gap: nobody looked." }
        }
        div.plots { @for (signal, limits) in &signals { (figure(history, signal, limits, shown.now.as_ref())) } }
    }
}

fn figure(history: &History, signal: &SignalHistory, limits: &[&Comparison], now: Option<&ServiceNow>) -> Markup {
    html! {
        figure {
            figcaption {
                code { (signal.signal) }
                @if let Some(now) = now { " " strong { (now.explanation.signals.show(signal.signal)) } }
                @for limit in limits {
                    ", limit " (limit.operator.symbol()) " " (Reading::Known(limit.threshold).show(signal.signal))
                }
            }
            (plot::of(history, signal, limits, Size::Whole))
        }
    }
}

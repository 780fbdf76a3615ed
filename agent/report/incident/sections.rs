//! What stands on the page, in its order: the outcome, why it leaked, what was done, the plots, who closed, who held, before and
//! after, and what the evidence lacks.

use std::collections::BTreeMap;

use jiff::Timestamp;
use maud::{Markup, html};

use super::charts::{self, Mark};
use super::material::{Evidence, Material};
use super::shortened;
use crate::evidence::SocketLine;
use crate::model::{Condition, Reading, Readings, Signal};
use crate::view::incident::{StepShown, outcome_of};

/// Peers, and steps, that are listed.
const PEERS: usize = 20;
const STEPS: usize = 200;
/// Processes that are shown as cells.
const WORKERS: usize = 400;
/// Characters of a command line.
const COMMAND_SHOWN: usize = 120;
/// Sockets that are listed one by one: the oldest.
const SOCKETS: usize = 60;

/// Everything below the frame.
pub fn body(material: &Material) -> Markup {
    let steps = material.shown.steps();
    html! {
        (head(material))
        @match &material.evidence {
            Ok(evidence) => (why(evidence)),
            Err(error) => p class="soft" { "Without evidence there is no diagnosis: " (error) "." },
        }
        (done(material, &steps))
        (over_time(material, &steps))
        @if let Ok(evidence) = &material.evidence {
            (closed(evidence))
            (peers(evidence))
            (held(evidence))
            (sockets(evidence))
        }
        (before_and_after(material))
        @if let Ok(evidence) = &material.evidence { (kept(evidence)) }
    }
}

fn head(material: &Material) -> Markup {
    let (row, plan) = (&material.shown.incident, &material.shown.plan);
    let (outcome, reason) = outcome_of(row);
    let class = row.reason.as_ref().map(ToString::to_string).unwrap_or_default();
    html! {
        h1 { (row.service) @if let Some(host) = &material.host { " on " (host) } }
        p class=(format!("outcome {outcome} {class}")) {
            (outcome) @if !reason.is_empty() { ": " (reason) }
            @if row.dry_run { " (dry-run: nothing was changed)" }
        }
        @if let Some(detail) = &row.detail { p { (detail) } }
        dl {
            dt { "incident" } dd { code { (row.incident) } }
            dt { "policy" } dd { (row.policy) ", runbook " (plan.runbook) }
            dt { "breached where" } dd { code { (condition(&plan.when)) } }
            dt { "began" } dd { (time(row.began)) @if let Some(who) = &row.by_hand { ", by hand: " (who) } }
            @if let Some(ended) = row.ended {
                dt { "ended" } dd { (time(ended)) ", after " (charts::seconds(ended.duration_since(row.began).as_secs_f64())) }
            }
        }
    }
}

fn condition(when: &Condition) -> String {
    let joined = |parts: &[Condition], word: &str| parts.iter().map(condition).collect::<Vec<_>>().join(word);
    match when {
        Condition::All(parts) => joined(parts, " and "),
        Condition::Any(parts) => format!("({})", joined(parts, " or ")),
        Condition::Compare(comparison) => comparison.to_string(),
    }
}

fn why(evidence: &Evidence) -> Markup {
    let hints = evidence.hints();
    html! {
        h2 { "Why it leaked" }
        @if hints.is_empty() { p class="soft" { "Nothing in the evidence speaks for one cause." } }
        @for hint in &hints {
            section class="hint" {
                h3 { (words(hint.cause)) }
                p { (hint.because) "." }
                p { "What mends it: " (hint.remedy) "." }
            }
        }
        @if !hints.is_empty() {
            p class="soft" { "Read from what was counted at the breach; a hint, not a verdict." }
        }
    }
}

/// A cause in plain words.
pub fn words(cause: super::diagnosis::Cause) -> &'static str {
    use super::diagnosis::Cause;
    match cause {
        Cause::IdlePool => "Idle pool: connections are kept for longer than the peer keeps them",
        Cause::TooManyWorkers => "Far more workers than the traffic needs, each with connections that the peer closes",
        Cause::ClosePathForgotten => "Close path forgotten: the end of the connection was read, and nothing closed it",
        Cause::HandlersStuck => "Handlers stuck: the connections of clients that left are still being served",
        Cause::AcceptQueueNotServed => "Accept queue not served: clients left before they were accepted",
        Cause::DescriptorsHandedOn => "Descriptors handed on: several processes hold one connection",
        Cause::KeepaliveHidesIt => "Keepalive hides a part of the leak",
    }
}

fn done(material: &Material, steps: &[StepShown]) -> Markup {
    let began = material.shown.incident.began;
    html! {
        h2 { "What was done" }
        div class="wide" role="region" tabindex="0" aria-label="What was done" {
            table {
                thead { tr {
                    th scope="col" { "at" } th class="number" scope="col" { "after" } th scope="col" { "step" }
                    th scope="col" { "outcome" } th scope="col" { "detail" }
                } }
                tbody {
                    @for step in steps.iter().take(STEPS) {
                        tr {
                            td class="t" { (step.at.strftime("%H:%M:%S").to_string()) }
                            td class="number" { (charts::seconds(step.at.duration_since(began).as_secs_f64())) }
                            td { (step.step) }
                            td class=(step.outcome) { (step.outcome) }
                            td { (step.detail) }
                        }
                    }
                }
            }
        }
        @if !material.shown.audit.is_empty() {
            h2 { "What people did" }
            ul {
                @for row in &material.shown.audit {
                    li {
                        (time(row.at)) " " (row.who) ": " (row.verb)
                        @if let Some(service) = &row.service { " " (service) }
                        @if let Some(why) = &row.why { " (" (why) ")" }
                        @if !row.detail.is_empty() { ": " (row.detail) }
                    }
                }
            }
        }
    }
}

fn over_time(material: &Material, steps: &[StepShown]) -> Markup {
    let row = &material.shown.incident;
    let began = Mark { at: row.began, says: "the incident began".into(), is_beginning: true };
    let step =
        |step: &StepShown| Mark { at: step.at, says: format!("{} {}", step.step, step.outcome), is_beginning: false };
    let marks: Vec<Mark> = std::iter::once(began).chain(steps.iter().take(STEPS).map(step)).collect();
    let ticks = material.evidence.as_ref().map_or(&[][..], |evidence| &evidence.ticks);
    html! {
        h2 { "Sockets in CLOSE_WAIT" }
        @match charts::count_over_time(&material.samples, ticks, &marks) {
            Some(chart) => (chart),
            None => p class="soft" { "Nothing of this time is in the history." },
        }
    }
}

fn closed(evidence: &Evidence) -> Markup {
    html! {
        @if let Some(map) = charts::closed_over_time(evidence) { h2 { "When the peers closed" } (map) }
    }
}

fn peers(evidence: &Evidence) -> Markup {
    let peers = &evidence.peers;
    html! {
        h2 { "Peers that closed them" }
        div class="wide" role="region" tabindex="0" aria-label="Peers that closed them" {
            table {
                thead { tr {
                    th scope="col" { "peer" } th class="number" scope="col" { "sockets" }
                    th class="number" scope="col" { "unread data" } th scope="col" { "oldest" }
                } }
                tbody {
                    @for peer in peers.peers.iter().take(PEERS) {
                        tr {
                            td { (peer.says()) }
                            td class="number" { (peer.count) }
                            td class="number" { (peer.unread) }
                            td {
                                @if let Some(oldest) = peer.oldest_seconds {
                                    @if peer.oldest_is_at_least { "at least " }
                                    (charts::seconds(oldest as f64))
                                } @else { "not known" }
                            }
                        }
                    }
                }
            }
        }
        @let more = peers.peers.len().saturating_sub(PEERS) + peers.not_listed;
        @if more > 0 { p class="soft" { (more) " more peers" } }
    }
}

/// A cell for each process: that 96 workers hold three each is seen at a glance.
fn held(evidence: &Evidence) -> Markup {
    let holders = &evidence.holders.processes;
    let named: BTreeMap<u32, String> = evidence
        .processes
        .iter()
        .filter_map(|process| Some((process.pid, process.command_line.as_ref()?.join(" "))))
        .collect();
    let sum: usize = holders.iter().map(|(_, count)| count).sum();
    let more = holders.len().saturating_sub(WORKERS) + evidence.holders.not_listed;
    html! {
        h2 { "Processes that held them: " (holders.len() + evidence.holders.not_listed) }
        @if !holders.is_empty() {
            ul class="workers" aria-label="The number of sockets that each process held" {
                @for (pid, count) in holders.iter().take(WORKERS) {
                    li title=(format!("pid {pid}{}{}", if named.contains_key(pid) { ": " } else { "" }, short(named.get(pid)))) {
                        (count)
                    }
                }
            }
            p class="soft" {
                "A cell is a process; they hold " (sum) " descriptors of these sockets."
                @if more > 0 { " " (more) " more processes are not shown." }
            }
            details {
                summary { "The biggest, with where their threads wait" }
                div class="wide" role="region" tabindex="0" aria-label="The biggest processes" {
                    table {
                        thead { tr {
                            th class="number" scope="col" { "pid" } th class="number" scope="col" { "sockets" }
                            th scope="col" { "command" } th scope="col" { "threads wait in" }
                        } }
                        tbody {
                            @for process in &evidence.processes {
                                tr {
                                    td class="number" { (process.pid) }
                                    td class="number" { (process.leaked) }
                                    td { code { (short(named.get(&process.pid))) } }
                                    td { (waits(process)) }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// `ep_poll, futex_wait_queue (15)`.
fn waits(process: &crate::evidence::Facts) -> String {
    let mut waits: BTreeMap<&str, usize> = BTreeMap::new();
    for thread in &process.threads {
        *waits.entry(thread.wchan.as_deref().filter(|at| *at != "0").unwrap_or("running or not known")).or_default() +=
            1;
    }
    let say = |(at, count): (&str, usize)| if count == 1 { at.to_owned() } else { format!("{at} ({count})") };
    waits.into_iter().map(say).collect::<Vec<_>>().join(", ")
}

fn short(command: Option<&String>) -> String {
    command.map(|command| shortened(command, COMMAND_SHOWN)).unwrap_or_default()
}

fn sockets(evidence: &Evidence) -> Markup {
    let mut oldest: Vec<&SocketLine> = evidence.sockets.iter().collect();
    oldest.sort_by_key(|socket| std::cmp::Reverse(socket.age_seconds));
    oldest.truncate(SOCKETS);
    html! {
        details {
            summary { "The " (oldest.len()) " oldest sockets; all stand in sockets.jsonl beside the evidence" }
            div class="wide" role="region" tabindex="0" aria-label="The oldest sockets" {
                table {
                    thead { tr {
                        th scope="col" { "local" } th scope="col" { "remote" } th scope="col" { "direction" } th scope="col" { "age" } th scope="col" { "idle before" }
                        th class="number" scope="col" { "unread bytes" } th scope="col" { "held by pid" }
                    } }
                    tbody {
                        @for socket in oldest {
                            tr {
                                td class="t" { (socket.local) }
                                td class="t" { (socket.remote) }
                                td { (direction(socket)) }
                                td class="t" {
                                    @if socket.age_is_at_least { "at least " }
                                    (socket.age_seconds.map_or_else(|| "not known".into(), |age| charts::seconds(age as f64)))
                                }
                                td class="t" { (socket.idle_seconds.map(charts::seconds).unwrap_or_default()) }
                                // The end of the connection counts as one byte.
                                td class="number" { (socket.recv_q.saturating_sub(1)) }
                                td { (held_by(socket)) }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn direction(socket: &SocketLine) -> &'static str {
    match socket.direction {
        crate::model::Direction::Inbound => "inbound",
        crate::model::Direction::Outbound => "outbound",
    }
}

fn held_by(socket: &SocketLine) -> String {
    match (socket.inode, socket.pids.as_slice()) {
        (0, _) => "nobody: not accepted".into(),
        (_, pids) => pids.iter().map(u32::to_string).collect::<Vec<_>>().join(", "),
    }
}

/// What the signals were last before it began, and last after it ended.
fn before_and_after(material: &Material) -> Markup {
    let row = &material.shown.incident;
    let known = |readings: &Readings| readings.iter().next().is_some();
    let measured: Vec<_> = material.samples.iter().filter(|sample| known(&sample.readings)).collect();
    let before = measured.iter().rev().find(|sample| sample.until() <= row.began);
    let after = row.ended.and_then(|ended| measured.iter().rev().find(|sample| sample.at >= ended));
    let Some(before) = before else { return html! {} };
    html! {
        h2 { "Before and after" }
        div class="wide" role="region" tabindex="0" aria-label="Before and after" {
            table {
                thead { tr {
                    th scope="col" { "signal" }
                    th class="number" scope="col" { "before, " (before.at.strftime("%H:%M:%S").to_string()) }
                    th class="number" scope="col" {
                        @match after {
                            Some(after) => { "after, " (after.at.strftime("%H:%M:%S").to_string()) }
                            None => "after",
                        }
                    }
                } }
                tbody {
                    @for (signal, value) in before.readings.iter() {
                        tr {
                            td { code { (signal) } }
                            td class="number" { (Reading::Known(value).show(signal)) }
                            td class="number" { (later(after.map(|after| &after.readings), signal)) }
                        }
                    }
                }
            }
        }
    }
}

fn later(after: Option<&Readings>, signal: Signal) -> String {
    after.map_or_else(|| "not measured yet".into(), |after| after.get(signal).show(signal))
}

fn kept(evidence: &Evidence) -> Markup {
    let manifest = &evidence.manifest;
    html! {
        details {
            summary { "The evidence: " (manifest.files.len()) " files of " (time(manifest.at)) }
            ul { @for file in &manifest.files { li { code { (file.name) } ", " (file.bytes) " bytes" } } }
            @if !manifest.missing.is_empty() {
                p { "What is missing:" }
                ul { @for missing in &manifest.missing { li { (missing.what) ": " (missing.why) } } }
            }
        }
        p class="soft" { "unwait " (manifest.unwait) }
    }
}

fn time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

//! `unwait review` as a document.

use std::time::Duration;

use super::document::{Document, Section, Table, minute as time};
use crate::model::Mode;
use crate::view::reckoning::about;
use crate::view::review::{
    AtOnce, Became, Case, Healed, Held, OutOfTraffic, Outcomes, PolicyReview, Review, ServiceTimes, WouldFail,
};

/// The review. `most_cases`: the breaches of each policy that are listed, the newest first.
pub fn document(review: &Review, most_cases: usize) -> Document {
    let Review { host, from, to, known_from, policies, at_once } = review;
    let mut lines = vec![format!("From {} to {}.", time(*from), time(*to))];
    if let Some(known) = known_from {
        lines.push(format!("Breaches are known from {} on: nothing was written down before.", time(*known)));
    }
    if policies.is_empty() {
        lines.push("No policy was in force, and none acted.".into());
    }
    if let Some(at_once) = at_once {
        lines.push(most_out(at_once));
    }
    Document {
        title: format!("unwait on {host}: what its policies did and would have done"),
        lines,
        sections: policies.iter().map(|policy| section(policy, most_cases)).collect(),
    }
}

fn most_out(at_once: &AtOnce) -> String {
    let AtOnce { at, services, each_up_to } = at_once;
    let by = match each_up_to {
        Some(up_to) => format!(
            " Each is counted as out for up to {}, the longest that its runbook may wait; its restart comes on top.",
            about(*up_to)
        ),
        None => String::new(),
    };
    format!(
        "At most {} out of traffic at one time: {}, at {}.{by}",
        match services.len() {
            1 => "1 service".into(),
            many => format!("{many} services"),
        },
        services.join(", "),
        time(*at)
    )
}

fn section(policy: &PolicyReview, most_cases: usize) -> Section {
    let mode = match (&policy.mode, policy.since) {
        (Some(mode), Some(since)) => format!("{mode} since {}", time(since)),
        _ => "not in the configuration any more".into(),
    };
    let mut lines = vec![policy.in_a_line.clone()];
    if let Some(known) = policy.known_from {
        lines.push(format!("Its breaches are known from {} on.", time(known)));
    }
    let tables = [held(&policy.held), would_fail(&policy.would_fail), cases(policy).cut(most_cases)];
    Section {
        title: format!("{} ({mode})", policy.policy),
        lines,
        facts: facts(policy),
        tables: tables.into_iter().filter(|table| !table.rows.is_empty()).collect(),
    }
}

fn facts(policy: &PolicyReview) -> Vec<(&'static str, String)> {
    let mut facts = vec![("breaches", policy.breaches.to_string())];
    let acts = policy.mode.as_ref().is_some_and(|mode| mode.is(Mode::Auto) || mode.is(Mode::Approve));
    if !acts || !policy.would_act.is_empty() {
        facts.push(("would have acted", each(&policy.would_act)));
    }
    let Healed { by_itself, median, longest, restarted, stands, unknown } = policy.healed;
    if let (Some(median), Some(longest)) = (median, longest) {
        let (median, longest) = (about(median), about(longest));
        let within = match by_itself {
            1 => format!("1, after {longest}"),
            count if median == longest => format!("{count}, all within {longest}"),
            count => format!("{count}; half of them within {median}, all within {longest}"),
        };
        facts.push(("went away by itself", within));
    }
    let counted = [
        ("restarted by somebody else", restarted),
        ("stands", stands),
        ("end not seen", unknown),
        ("by hand", policy.by_hand),
    ];
    facts.extend(counted.into_iter().filter(|(_, count)| *count > 0).map(|(name, count)| (name, count.to_string())));
    if !policy.acted.is_empty() || acts {
        facts.push(("acted", each(&policy.acted)));
    }
    let ended = outcomes(&policy.outcomes);
    if !ended.is_empty() {
        facts.push(("outcomes", ended));
    }
    let OutOfTraffic { times, total, longest, left_out } = &policy.out_of_traffic;
    if *times > 0 {
        let longest = about(*longest);
        facts.push(("out of traffic", format!("{times} times, {} in all, {longest} at the longest", about(*total))));
    }
    if !left_out.is_empty() {
        facts.push(("left out of traffic", left_out.join(", ")));
    }
    facts
}

fn each(all: &[ServiceTimes]) -> String {
    let times: usize = all.iter().map(|one| one.times).sum();
    let named: Vec<String> = all.iter().map(|one| format!("{} {}", one.service, one.times)).collect();
    match times {
        0 => "never".into(),
        1 => format!("once ({})", named.join(", ")),
        times => format!("{times} times ({})", named.join(", ")),
    }
}

fn outcomes(outcomes: &Outcomes) -> String {
    let Outcomes { helped, not_helped, unverified, looked, unwound, stuck, under_way } = *outcomes;
    let all = [
        (helped, "helped"),
        (not_helped, "not helped"),
        (unverified, "unverified"),
        (looked, "evidence kept"),
        (unwound, "taken back"),
        (stuck, "stuck"),
        (under_way, "under way"),
    ];
    let said: Vec<String> =
        all.iter().filter(|(count, _)| *count > 0).map(|(count, says)| format!("{count} {says}")).collect();
    said.join(", ")
}

fn held(all: &[Held]) -> Table {
    let row = |one: &Held| {
        let now = if one.stands { "yes" } else { "" };
        vec![one.guard.clone(), one.reason.to_string(), one.breaches.to_string(), about(one.lasted), now.into()]
    };
    Table {
        title: "Held by guards",
        headings: vec!["GUARD", "REASON", ">BREACHES", ">FOR", "NOW"],
        rows: all.iter().map(row).collect(),
        left_out: 0,
    }
}

fn would_fail(all: &[WouldFail]) -> Table {
    let row = |one: &WouldFail| {
        vec![
            one.service.clone(),
            one.outcome.clone(),
            one.reason.to_string(),
            one.times.to_string(),
            one.detail.clone(),
            one.incident.clone(),
        ]
    };
    Table {
        title: "Would not have been carried out to the end",
        headings: vec!["SERVICE", "END", "REASON", ">TIMES", "THE LAST TIME", "INCIDENT"],
        rows: all.iter().map(row).collect(),
        left_out: 0,
    }
}

fn cases(policy: &PolicyReview) -> Table {
    Table {
        title: "Breaches",
        headings: vec!["BEGAN", "SERVICE", ">LASTED", "WORST", "ACTION", "WHAT BECAME OF IT", "HELD BY"],
        rows: policy.cases.iter().rev().map(case).collect(),
        left_out: 0,
    }
}

fn case(case: &Case) -> Vec<String> {
    let lasted = match (case.ended, &case.worst) {
        (Some(ended), _) => about(Duration::try_from(ended.duration_since(case.began)).unwrap_or_default()),
        (None, Some(_)) => "stands".into(),
        (None, None) => String::new(),
    };
    let action = case.acted.as_ref().map_or_else(String::new, |acted| {
        let runbook = acted.runbook.as_deref().unwrap_or("an incident");
        let came = match (&acted.outcome, acted.dry_run) {
            (None, _) => "under way".into(),
            (Some(_), true) => return format!("would have begun {runbook}"),
            (Some(outcome), false) => {
                let reason = acted.reason.as_ref().map(|reason| format!(", {reason}")).unwrap_or_default();
                format!("{outcome}{reason}")
            }
        };
        format!("{runbook}: {came}")
    });
    let became = case.became.as_ref().map(became).unwrap_or_default();
    let about_when = if case.interrupted { " (the agent was restarted during it)" } else { "" };
    let held: Vec<String> = case.held.iter().map(|held| format!("{} {}", held.reason, about(held.lasted))).collect();
    vec![
        time(case.began),
        case.service.clone(),
        lasted,
        case.worst.clone().unwrap_or_default(),
        action,
        format!("{became}{about_when}").trim_start().to_owned(),
        held.join(", "),
    ]
}

fn became(became: &Became) -> String {
    let remain = |remain: &Option<(u32, u32)>| match remain {
        Some((0, _)) | None => String::new(),
        Some((remain, of)) => format!(", though {remain} of {of} leaked sockets remained"),
    };
    match became {
        Became::SocketsGone { of, after } => format!("all {of} leaked sockets went away within {}", about(*after)),
        Became::Over { remain: left, after } => format!("over after {}{}", about(*after), remain(left)),
        Became::Restarted { after } => format!("somebody else restarted the service, {} later", about(*after)),
        Became::Stands { remain: Some((left, of)), since } => {
            format!("{left} of {of} leaked sockets stand, {} later", about(*since))
        }
        Became::Stands { remain: None, since } => format!("stands, {} later", about(*since)),
        Became::Unknown { why } => format!("not known: {why}"),
    }
}

/// To the minute, in UTC.
#[cfg(test)]
#[path = "review_tests.rs"]
mod tests;

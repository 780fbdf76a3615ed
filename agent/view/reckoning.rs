//! From the store's rows to a [`Review`]; pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;

use super::review::{
    Acted, AtOnce, Became, Case, Healed, Held, IncidentRecord, OutOfTraffic, Outcomes, PolicyReview, Review,
    ServiceTimes, WouldFail,
};
use crate::execute::saga::{Saga, State};
use crate::model::incident::Drained;
use crate::model::{Mode, Outcome, Plan, Reading, Reason, Signal, Step, duration};
use crate::store::{BreachRow, HoldRow, PolicyRun};

/// What is reckoned from.
#[derive(Debug)]
pub struct Recollected<'a> {
    pub host: &'a str,
    pub from: Timestamp,
    pub to: Timestamp,
    /// Those that stood at `from` or later, oldest first.
    pub breaches: Vec<BreachRow>,
    /// Those that began since the first of the breaches did, oldest first.
    pub incidents: Vec<IncidentRecord>,
    pub runs: Vec<PolicyRun>,
}

pub fn review(all: Recollected<'_>) -> Review {
    let Recollected { host, from, to, breaches, incidents, runs } = all;
    let mut names: BTreeSet<&str> = runs.iter().map(|run| run.policy.as_str()).collect();
    names.extend(breaches.iter().map(|breach| breach.policy.as_str()));
    names.extend(incidents.iter().filter(|one| one.row.began >= from).map(|one| one.row.policy.as_str()));
    // Also those of other policies, and by hand: what they changed did not heal by itself.
    let real: Vec<&IncidentRecord> = incidents.iter().filter(|one| !one.row.dry_run).collect();
    let of = |name: &&str| {
        let run = runs.iter().find(|run| run.policy == **name);
        let breaches: Vec<&BreachRow> = breaches.iter().filter(|breach| breach.policy == **name).collect();
        let incidents: Vec<&IncidentRecord> = incidents.iter().filter(|one| one.row.policy == **name).collect();
        of_policy(name, run, &breaches, &incidents, &real, (from, to))
    };
    let policies: Vec<PolicyReview> = names.iter().map(of).collect();
    // Where no policy is older, nothing was written before.
    let known_from = runs.iter().map(|run| run.known).min().filter(|known| *known > from);
    let at_once = at_once(&policies, &incidents, (from, to));
    Review { host: host.into(), from, to, known_from, policies, at_once }
}

/// A breach with the incidents that began in it; or an incident alone.
struct Joined<'a> {
    breach: Option<&'a BreachRow>,
    incidents: Vec<&'a IncidentRecord>,
}

fn joined<'a>(breaches: &[&'a BreachRow], incidents: &[&'a IncidentRecord]) -> Vec<Joined<'a>> {
    let mut all: Vec<Joined<'a>> =
        breaches.iter().map(|breach| Joined { breach: Some(breach), incidents: Vec::new() }).collect();
    for incident in incidents.iter().filter(|incident| incident.row.by_hand.is_none()) {
        let began = incident.row.began;
        let within = |joined: &&mut Joined<'_>| {
            joined.breach.is_some_and(|breach| {
                breach.service == incident.row.service
                    && breach.began <= began
                    && breach.ended.is_none_or(|ended| began <= ended)
            })
        };
        match all.iter_mut().rfind(within) {
            Some(joined) => joined.incidents.push(incident),
            None => all.push(Joined { breach: None, incidents: vec![incident] }),
        }
    }
    all.sort_by_key(Joined::began);
    all
}

impl Joined<'_> {
    fn began(&self) -> Timestamp {
        self.breach.map(|breach| breach.began).or(self.first().map(|first| first.row.began)).unwrap_or_default()
    }

    fn first(&self) -> Option<&IncidentRecord> {
        self.incidents.first().copied()
    }

    fn real(&self) -> impl Iterator<Item = &IncidentRecord> {
        self.incidents.iter().copied().filter(|one| !one.row.dry_run)
    }

    /// It was acted on in a dry run alone.
    fn would_act(&self, from: Timestamp) -> Option<&IncidentRecord> {
        self.first().filter(|first| first.row.began >= from && self.real().next().is_none())
    }

    fn case(&self, every_real: &[&IncidentRecord], (from, to): (Timestamp, Timestamp)) -> Case {
        let acted = self.real().next().or(self.first()).map(|one| Acted {
            incident: one.row.incident.clone(),
            at: one.row.began,
            dry_run: one.row.dry_run,
            runbook: one.plan.as_ref().map(|plan| plan.runbook.clone()),
            outcome: one.row.outcome.as_ref().map(|outcome| outcome.to_string()),
            reason: one.row.reason.clone(),
        });
        let service = self.breach.map(|breach| &breach.service).or(self.first().map(|first| &first.row.service));
        let mut held: Vec<Held> =
            self.breach.iter().flat_map(|breach| &breach.holds).map(|hold| of_hold(hold, to)).collect();
        held.sort_by_key(|held| std::cmp::Reverse(held.lasted));
        Case {
            service: service.cloned().unwrap_or_default(),
            began: self.began(),
            ended: self.breach.and_then(|breach| breach.ended),
            worst: self.breach.map(|breach| worst(&breach.signal, breach.worst)),
            interrupted: self.breach.is_some_and(|breach| breach.interrupted),
            became: self.would_act(from).map(|first| became(self.breach, first.row.began, every_real, to)),
            acted,
            held,
        }
    }
}

fn worst(signal: &str, value: f64) -> String {
    match Signal::parse(signal) {
        Ok(known) => format!("{signal} {}", Reading::Known(value).show(known)),
        Err(_) => format!("{signal} {value}"),
    }
}

fn of_hold(hold: &HoldRow, to: Timestamp) -> Held {
    let standing = hold.since.map_or(Duration::ZERO, |since| between(since, to));
    Held {
        guard: hold.guard.clone(),
        reason: hold.reason.clone(),
        breaches: 1,
        lasted: hold.lasted + standing,
        stands: hold.since.is_some(),
    }
}

fn became(breach: Option<&BreachRow>, acted: Timestamp, every_real: &[&IncidentRecord], to: Timestamp) -> Became {
    let Some(breach) = breach else {
        return Became::Unknown { why: "it is older than what this unwait has written".into() };
    };
    let meanwhile = acted..=breach.ended.unwrap_or(to);
    let of_it = |one: &&&IncidentRecord| one.row.service == breach.service && meanwhile.contains(&one.row.began);
    if let Some(real) = every_real.iter().find(of_it) {
        return Became::Unknown { why: format!("incident {} acted on the service meanwhile", real.row.incident) };
    }
    let after = |at: Timestamp| between(acted, at);
    let remain = breach.sockets.map(|sockets| (sockets.remain, sockets.of));
    match (breach.sockets, breach.ended) {
        (Some(sockets), _) if sockets.restarted => Became::Restarted { after: after(sockets.looked) },
        (Some(sockets), _) if sockets.all_gone.is_some() => {
            Became::SocketsGone { of: sockets.of, after: after(sockets.all_gone.unwrap_or(sockets.looked)) }
        }
        (_, Some(ended)) if breach.cleared => Became::Over { remain, after: after(ended) },
        (_, Some(_)) => Became::Unknown { why: "nobody watched it to its end".into() },
        (_, None) => Became::Stands { remain, since: after(to) },
    }
}

fn between(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or_default()
}

fn of_policy(
    policy: &str,
    run: Option<&PolicyRun>,
    breaches: &[&BreachRow],
    incidents: &[&IncidentRecord],
    every_real: &[&IncidentRecord],
    (from, to): (Timestamp, Timestamp),
) -> PolicyReview {
    let joined = joined(breaches, incidents);
    let would: Vec<&IncidentRecord> = joined.iter().filter_map(|one| one.would_act(from)).collect();
    let is_within = |one: &&&IncidentRecord| one.row.began >= from && !one.row.dry_run;
    let (real, by_hand): (Vec<_>, Vec<_>) =
        incidents.iter().filter(is_within).copied().partition(|one| one.row.by_hand.is_none());
    let cases: Vec<Case> = joined
        .iter()
        .filter(|one| one.breach.is_some() || one.began() >= from)
        .map(|one| one.case(every_real, (from, to)))
        .collect();
    let mut reviewed = PolicyReview {
        policy: policy.into(),
        mode: run.map(|run| run.mode.clone()),
        since: run.map(|run| run.since),
        known_from: run.map(|run| run.known).filter(|known| *known > from),
        in_a_line: String::new(),
        breaches: breaches.len(),
        would_act: times(would.iter().map(|one| one.row.service.as_str())),
        healed: healed(cases.iter().filter_map(|case| case.became.as_ref())),
        would_fail: would_fail(&would),
        acted: times(real.iter().map(|one| one.row.service.as_str())),
        outcomes: outcomes(&real),
        out_of_traffic: out_of_traffic(&real, to),
        held: held(&cases),
        by_hand: by_hand.len(),
        cases,
    };
    let verb = |of: &[&IncidentRecord]| of.last().and_then(|one| one.plan.as_ref()).map_or("acted on", verb);
    reviewed.in_a_line = in_a_line(&reviewed, (verb(&would), verb(&real)), between(from, to));
    reviewed
}

fn times<'a>(services: impl Iterator<Item = &'a str>) -> Vec<ServiceTimes> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    services.for_each(|service| *counts.entry(service).or_default() += 1);
    let mut all: Vec<ServiceTimes> =
        counts.into_iter().map(|(service, times)| ServiceTimes { service: service.into(), times }).collect();
    all.sort_by_key(|one| std::cmp::Reverse(one.times));
    all
}

fn healed<'a>(all: impl Iterator<Item = &'a Became>) -> Healed {
    let (mut healed, mut times) = (Healed::default(), Vec::new());
    for became in all {
        match became {
            // The count fell below the threshold, and the leaked sockets are there.
            Became::Over { remain: Some((1.., _)), .. } | Became::Stands { .. } => healed.stands += 1,
            Became::SocketsGone { after, .. } | Became::Over { after, .. } => times.push(*after),
            Became::Restarted { .. } => healed.restarted += 1,
            Became::Unknown { .. } => healed.unknown += 1,
        }
    }
    times.sort_unstable();
    Healed {
        by_itself: times.len(),
        // Of an even number the later one of the two in the middle: "half of them within".
        median: times.get(times.len() / 2).copied(),
        longest: times.last().copied(),
        ..healed
    }
}

fn would_fail(would: &[&IncidentRecord]) -> Vec<WouldFail> {
    let mut all: Vec<WouldFail> = Vec::new();
    for one in would {
        let row = &one.row;
        let (Some(outcome), Some(reason)) = (&row.outcome, &row.reason) else { continue };
        if outcome.is(Outcome::Completed) {
            continue;
        }
        let (detail, incident) = (row.detail.clone().unwrap_or_default(), row.incident.clone());
        let same = |known: &&mut WouldFail| known.service == row.service && known.reason == *reason;
        match all.iter_mut().find(same) {
            Some(known) => *known = WouldFail { times: known.times + 1, detail, incident, ..known.clone() },
            None => all.push(WouldFail {
                service: row.service.clone(),
                outcome: outcome.to_string(),
                reason: reason.clone(),
                times: 1,
                detail,
                incident,
            }),
        }
    }
    all
}

fn outcomes(real: &[&IncidentRecord]) -> Outcomes {
    let mut all = Outcomes::default();
    for one in real {
        let is = |reason| one.row.reason.as_ref().is_some_and(|recorded| recorded.is(reason));
        let counted = match &one.row.outcome {
            None => &mut all.under_way,
            Some(outcome) if outcome.is(Outcome::Stuck) => &mut all.stuck,
            Some(outcome) if outcome.is(Outcome::Unwound) => &mut all.unwound,
            Some(_) if is(Reason::NotHelped) => &mut all.not_helped,
            Some(_) if is(Reason::Unverified) => &mut all.unverified,
            Some(_) if is(Reason::EvidenceKept) => &mut all.looked,
            Some(_) => &mut all.helped,
        };
        *counted += 1;
    }
    all
}

/// From when until when our drain was in force; `true`: it was still, when the incident ended, or is.
fn drained(one: &IncidentRecord, to: Timestamp) -> Option<(Timestamp, Timestamp, bool)> {
    let mut saga = Saga::new(one.plan.clone()?);
    let mut drained = Drained::default();
    for (at, event) in &one.journal {
        if saga.apply(event.clone()).is_err() {
            break;
        }
        drained.follow(saga.holds_drain(), *at);
    }
    let is_left = match saga.state() {
        State::Rests(_) => saga.holds_drain_at_rest(),
        _ => saga.holds_drain(),
    };
    Some((drained.since?, drained.until.or(one.row.ended).unwrap_or(to), is_left))
}

fn out_of_traffic(real: &[&IncidentRecord], to: Timestamp) -> OutOfTraffic {
    let mut all = OutOfTraffic::default();
    for one in real {
        let Some((since, until, is_left)) = drained(one, to) else { continue };
        all.times += 1;
        all.total += between(since, until);
        all.longest = all.longest.max(between(since, until));
        if is_left && !all.left_out.contains(&one.row.service) {
            all.left_out.push(one.row.service.clone());
        }
    }
    all
}

fn held(cases: &[Case]) -> Vec<Held> {
    let mut all: Vec<Held> = Vec::new();
    for one in cases.iter().flat_map(|case| &case.held) {
        match all.iter_mut().find(|known| known.guard == one.guard && known.reason == one.reason) {
            Some(known) => {
                known.breaches += 1;
                known.lasted += one.lasted;
                known.stands |= one.stands;
            }
            None => all.push(one.clone()),
        }
    }
    all.sort_by_key(|held| std::cmp::Reverse(held.lasted));
    all
}

/// How long the runbook may keep the service out of traffic by its own waits; the restart itself comes on top. `None` where
/// it does not drain.
fn may_be_out(plan: &Plan) -> Option<Duration> {
    let steps = plan.steps.iter().map(|planned| &planned.step);
    let out = steps.skip_while(|step| !matches!(step, Step::Drain { .. }));
    let out: Vec<&Step> = out.take_while(|step| !matches!(step, Step::Restore { .. })).collect();
    let wait = |step: &&Step| match step {
        Step::Drain { settle, .. } => *settle,
        Step::WaitDrained { timeout, .. } | Step::HealthCheck { timeout, .. } => *timeout,
        Step::Pause { length } => *length,
        Step::Verify { soak, .. } => *soak,
        _ => Duration::ZERO,
    };
    (!out.is_empty()).then(|| out.iter().map(wait).sum())
}

/// The most services that were, or would have been, out at one time: each as long as it was, or as its runbook may wait.
fn at_once(
    policies: &[PolicyReview],
    incidents: &[IncidentRecord],
    (from, to): (Timestamp, Timestamp),
) -> Option<AtOnce> {
    let mut spans: Vec<(Timestamp, Timestamp, &str, Option<Duration>)> = Vec::new();
    let would: BTreeSet<&str> = policies
        .iter()
        .flat_map(|policy| &policy.cases)
        .filter(|case| case.became.is_some())
        .filter_map(|case| case.acted.as_ref().map(|acted| acted.incident.as_str()))
        .collect();
    for one in incidents.iter().filter(|one| one.row.began >= from) {
        let (began, service) = (one.row.began, one.row.service.as_str());
        if !one.row.dry_run {
            spans.extend(drained(one, to).map(|(since, until, _)| (since, until, service, None)));
        } else if would.contains(one.row.incident.as_str())
            && let Some(out) = one.plan.as_ref().and_then(may_be_out)
        {
            spans.push((began, began.saturating_add(out).unwrap_or(to), service, Some(out)));
        }
    }
    let at = |moment: Timestamp| {
        let out = spans.iter().filter(move |(since, until, ..)| *since <= moment && moment < *until);
        let services: BTreeSet<&str> = out.clone().map(|(_, _, service, _)| *service).collect();
        (services, out.filter_map(|(.., up_to)| *up_to).max())
    };
    // The most are out when one begins to be. Of several such times the first.
    let mut most: Option<AtOnce> = None;
    for (since, ..) in &spans {
        let (services, each_up_to) = at(*since);
        if services.len() > most.as_ref().map_or(0, |most| most.services.len()) {
            most = Some(AtOnce { at: *since, services: services.into_iter().map(Into::into).collect(), each_up_to });
        }
    }
    most
}

/// What the runbook does, in the past tense.
fn verb(plan: &Plan) -> &'static str {
    let does = |is: fn(&Step) -> bool| plan.steps.iter().any(|planned| is(&planned.step));
    match () {
        () if plan.restarts() => "restarted",
        () if does(|step| matches!(step, Step::Reload { .. })) => "reloaded",
        () if does(|step| matches!(step, Step::RecycleWorkers(_))) => "replaced workers of",
        () if does(|step| matches!(step, Step::CloseSockets { .. })) => "closed sockets of",
        () if plan.changes_anything() => "acted on",
        () => "kept evidence of",
    }
}

/// A time as people say it: seconds below ten minutes, then minutes, then hours.
pub fn about(time: Duration) -> String {
    let to = match time.as_secs() {
        0..600 => 1,
        600..86_400 => 60,
        _ => 3_600,
    };
    duration::format(Duration::from_secs(time.as_secs() / to * to))
}

fn often(times: usize) -> String {
    match times {
        1 => "once".into(),
        times => format!("{times} times"),
    }
}

fn each(all: &[ServiceTimes]) -> String {
    let named: Vec<String> = all.iter().take(3).map(|one| format!("{} {}", one.service, often(one.times))).collect();
    match all.len().saturating_sub(3) {
        0 => named.join(", "),
        more => format!("{}, and {more} more services", named.join(", ")),
    }
}

fn in_a_line(policy: &PolicyReview, (would, did): (&str, &str), within: Duration) -> String {
    let within = about(within);
    let mut said = Vec::new();
    if !policy.acted.is_empty() {
        said.push(format!("It {did} {} in {within}{}.", each(&policy.acted), came_of(&policy.outcomes)));
    }
    let times: usize = policy.would_act.iter().map(|one| one.times).sum();
    if times > 0 {
        let healed = by_themselves(&policy.healed, times);
        said.push(format!("`auto` would have {would} {} in {within}{healed}.", each(&policy.would_act)));
    }
    let fails: usize = policy.would_fail.iter().map(|one| one.times).sum();
    if fails > 0 {
        said.push(format!("{} would have stopped before the end.", counted(fails, times)));
    }
    if said.is_empty() {
        said.push(match (policy.breaches, policy.mode.as_ref().is_some_and(|mode| mode.is(Mode::Observe))) {
            (0, _) => format!("Its condition was never in breach in {within}: `auto` would have done nothing."),
            (1, true) => format!("Its condition was in breach once in {within}; `observe` decides nothing."),
            (count, true) => {
                format!("Its condition was in breach {count} times in {within}; `observe` decides nothing.")
            }
            (1, false) => format!("Its condition was in breach once in {within}, and a guard held it throughout."),
            (count, false) => {
                format!("Its condition was in breach {count} times in {within}, and guards held all of them.")
            }
        });
    }
    said.join(" ")
}

fn counted(some: usize, of: usize) -> String {
    match (some, of) {
        (1, 1) => "This run".into(),
        (some, of) if some == of => format!("All {of} of these runs"),
        (some, _) => format!("{some} of these runs"),
    }
}

fn by_themselves(healed: &Healed, times: usize) -> String {
    let within = healed.longest.map(about).unwrap_or_default();
    let mut said = match (healed.by_itself, times) {
        (0, _) => String::new(),
        (1, 1) => format!("; this leak went away by itself within {within}"),
        (count, times) if count == times => {
            format!("; all {times} of these leaks went away by themselves within {within}")
        }
        (1, _) => format!("; 1 of these leaks went away by itself within {within}"),
        (count, _) => format!("; {count} of these leaks went away by themselves within {within}"),
    };
    let stand = if healed.stands == 1 { "stands" } else { "stand" };
    let others = [
        (healed.stands, format!("{} still {stand}", healed.stands)),
        (healed.restarted, format!("{} ended with a restart by somebody else", healed.restarted)),
        (healed.unknown, format!("the end of {} was not seen", healed.unknown)),
    ];
    others.iter().filter(|(count, _)| *count > 0).for_each(|(_, says)| said.push_str(&format!("; {says}")));
    said
}

fn came_of(outcomes: &Outcomes) -> String {
    let Outcomes { helped, not_helped, unverified, looked, unwound, stuck, under_way } = *outcomes;
    let all = [
        (helped, "helped"),
        (not_helped, "did not help"),
        (unverified, "could not be verified"),
        (looked, "kept evidence"),
        (unwound, "was taken back"),
        (stuck, "ended stuck"),
        (under_way, "is under way"),
    ];
    let said: Vec<String> =
        all.iter().filter(|(count, _)| *count > 0).map(|(count, says)| format!("{count} {says}")).collect();
    if said.is_empty() { String::new() } else { format!(": {}", said.join(", ")) }
}

#[cfg(test)]
#[path = "reckoning_tests.rs"]
mod tests;

//! Policies: what each names must exist, and what it may do must be safe on this host.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use globset::GlobBuilder;

use super::{Compiling, condition, hours, items, minutes, prometheus, secs, test};
use crate::config::notify::Destination;
use crate::config::place::Place;
use crate::config::spec::Items;
use crate::config::spec::policy::{DaysSpec, GuardsSpec, LimitsSpec, PolicySpec, SelectorSpec, VetoSpec, WindowSpec};
use crate::config::spec::scalar::{Share, Slots, Typed, Zone};
use crate::config::words;
use crate::model::alerts::AlertSelector;
use crate::model::policy::{Budget, GuardSettings, Limits, Policy, Selector, VetoCommand};
use crate::model::runbook::Runbook;
use crate::model::service::ServiceName;
use crate::model::window::{Days, Hours};
use crate::model::{EventKind, Mode, ModeCeiling, PolicyTest, Window};

/// What a policy must know of the other files. `None`: that file was wrong there, and has said so.
pub struct Surroundings<'a> {
    pub runbooks: &'a BTreeMap<String, Runbook>,
    /// A runbook could not be read as far as its name: any name may be its.
    pub some_runbook_is_nameless: bool,
    pub has_fleet: Option<bool>,
    /// Somebody knows which alerts fire.
    pub has_prometheus: Option<bool>,
    /// Hosts can tell each other through it that they are in breach.
    pub shares_breaches: Option<bool>,
    /// The fleet's store has one copy of the slots, and nobody has said that this will do.
    pub may_lose_slots: bool,
    /// Who is told what. `None`: nobody, and the file may have meant somebody.
    pub notify: Option<&'a [Destination]>,
    /// The furthest that any policy may go.
    pub ceiling: Option<ModeCeiling>,
    /// The time from one look to the next.
    pub interval: Option<Duration>,
}

/// Compiles one policy with its tests; `None` where something that it cannot be without is missing.
pub fn compile(spec: PolicySpec, to: &mut Compiling, around: &Surroundings) -> Option<(Policy, Vec<PolicyTest>)> {
    let root = Place::root();
    let at = |key: &str| root.key(key);
    let name = to.required(&root, "policy", spec.policy, "close-wait-leak").map(|Typed(name)| name);
    if let Some(name) = &name {
        to.name(&at("policy"), name);
    }
    let services = selectors(spec.services, &root, to);
    let when = to.required(&root, "when", spec.when, "close_wait.aged(5m) > 200");
    if let Some(when) = &when {
        condition::tie_to_service(when, &at("when"), false, to);
    }
    if let Some(interval) = around.interval {
        for (key, spec) in [("when", &when), ("clear", &spec.clear)] {
            spec.iter().for_each(|spec| condition::fit_the_interval(spec, &at(key), interval, to));
        }
    }
    let when = when.map(|when| condition::compile(when, &at("when"), to));
    let clear = spec.clear.map(|clear| condition::compile(clear, &at("clear"), to));
    let hold = to.required(&root, "for", spec.hold, "2m");
    let hold = hold.map(|hold| to.duration(&at("for"), Some(hold), secs(0), secs(0)..=hours(24)));
    let (runbook, further) = rungs(spec.runbook, spec.escalate, to, around);
    let asked = spec.mode.map_or(Mode::default(), |Typed(mode)| mode);
    // What is wrong with a mode is wrong once it is in force.
    let (mode, held_mode) = around.ceiling.as_ref().map_or((asked, None), |ceiling| ceiling.holds(asked));
    let limits = limits(spec.limits, &at("limits"), to);
    let drains = runbook.iter().chain(&further).any(Runbook::drains);
    let guards = guards(spec.guards, &at("guards"), to, around, mode, drains);
    let nobody_gets = |event| {
        let hears = |one: &Destination| one.hears(event, name.as_deref().unwrap_or_default(), &services);
        around.notify.is_some_and(|all| !all.iter().any(hears))
    };
    if mode.acts() && nobody_gets(EventKind::Stuck) {
        to.wrong(
            &at("mode"),
            format!(
                "`mode: {mode}` needs somebody who hears of a stuck incident: in agent.yaml, add a destination under \
                 `notify:` that gets the event `stuck`"
            ),
        );
    }
    if mode == Mode::Approve && nobody_gets(EventKind::Approval) {
        to.wrong(
            &at("mode"),
            "`mode: approve` needs somebody who can be asked: in agent.yaml, add a destination under `notify:` that \
             gets the event `approval`",
        );
    }
    // Each test may look at what the policy looks at; without a sound policy that is not known.
    let policy = Policy {
        name: name?,
        description: spec.description.map(|Typed(text)| text).unwrap_or_default(),
        services,
        when: when?,
        hold: hold?,
        clear,
        mode,
        held_mode,
        runbook: runbook?,
        further,
        limits,
        guards,
    };
    let tests = test::compile(spec.tests, &at("tests"), to, &policy);
    Some((policy, tests))
}

fn selectors(spec: Option<Items<SelectorSpec>>, root: &Place, to: &mut Compiling) -> Vec<Selector> {
    let place = root.key("services");
    let Some(spec) = to.required(root, "services", spec, "[\"NAME.service\"]") else { return Vec::new() };
    if spec.is_empty() {
        to.wrong(&place, "the list is empty: name services, globs such as \"rpc-*.service\", or {label: value}");
    }
    items(&place, spec).filter_map(|(place, selector)| compile_selector(selector, &place, to)).collect()
}

pub(super) fn compile_selector(spec: SelectorSpec, place: &Place, to: &mut Compiling) -> Option<Selector> {
    match spec {
        SelectorSpec::Labels(labels) => {
            let mut labels: Vec<_> = labels.into_iter().collect();
            if labels.len() != 1 {
                if !to.said(place) {
                    to.wrong(
                        place,
                        "expected one label with its value, such as {team: trade}; a second label is a second item",
                    );
                }
                return None;
            }
            labels.pop().map(|(key, Typed(value))| Selector::Label { key, value })
        }
        SelectorSpec::Name(text) if text.contains(['*', '?', '[', '{']) => {
            // A unit's name may hold a backslash (`\x2d`), which is itself and no escape.
            match GlobBuilder::new(&text).backslash_escape(false).build() {
                Ok(glob) => Some(Selector::Glob(glob.compile_matcher())),
                Err(error) => {
                    to.wrong(place, format!("`{text}` is no glob: {}", error.kind()));
                    None
                }
            }
        }
        SelectorSpec::Name(text) => match ServiceName::parse(&text) {
            Ok(name) => Some(Selector::Name(name.as_str().into())),
            Err(_) if ServiceName::parse(&format!("{text}.service")).is_ok() && !text.contains(':') => {
                to.wrong(place, format!("`{text}` is no service: did you mean `{text}.service`?"));
                None
            }
            Err(why) => {
                to.wrong(place, why);
                None
            }
        },
    }
}

/// The one runbook, or the rungs of an escalation: the first, and the further ones.
fn rungs(
    runbook: Option<Typed<String>>,
    escalate: Option<Items<Typed<String>>>,
    to: &mut Compiling,
    around: &Surroundings,
) -> (Option<Runbook>, Vec<Runbook>) {
    let root = Place::root();
    let place = root.key("escalate");
    let Some(escalate) = escalate else {
        let name = match to.said(&place) {
            true => runbook,
            false => to.required(&root, "runbook", runbook, "isolate-restart-recover"),
        };
        return (name.and_then(|Typed(name)| find_runbook(&name, &root.key("runbook"), to, around)), Vec::new());
    };
    if runbook.is_some() {
        to.wrong_key(&place, "a policy has `escalate` or `runbook`, not both: remove one of them");
    }
    if escalate.len() < 2 && !to.said(&place) {
        to.wrong(&place, "an escalation has two rungs or more; a single runbook is written `runbook: NAME`");
    }
    let mut names = BTreeSet::new();
    let last = place.index(escalate.len().saturating_sub(1));
    let mut rungs = items(&place, escalate).filter_map(|(place, Typed(name))| {
        let found = find_runbook(&name, &place, to, around);
        if !names.insert(name) {
            to.wrong(&place, "this runbook is listed twice: a runbook that did not help is not tried again");
        }
        if found.as_ref().is_some_and(|runbook| !runbook.changes_anything()) {
            to.wrong(
                &place,
                "this runbook changes nothing, so it cannot help: list only runbooks that change something",
            );
        }
        if place != last && found.as_ref().is_some_and(Runbook::calls) {
            to.wrong(&place, "this runbook calls a person and no further one follows: list it last");
        }
        found
    });
    (rungs.next(), rungs.collect())
}

fn find_runbook(name: &str, place: &Place, to: &mut Compiling, around: &Surroundings) -> Option<Runbook> {
    let found = around.runbooks.get(name).cloned();
    if found.is_none() && !around.some_runbook_is_nameless {
        let known: Vec<&str> = around.runbooks.keys().map(String::as_str).collect();
        let offer = match known.is_empty() {
            true => "runbooks/ has no runbook".into(),
            false => words::offer(name, &known, "runbooks"),
        };
        to.wrong(place, format!("no runbook `{name}`: {offer}"));
    }
    found
}

fn limits(spec: LimitsSpec, place: &Place, to: &mut Compiling) -> Limits {
    let default = Limits::default();
    let jitter = spec.jitter.map(|jitter| to.duration(&place.key("jitter"), Some(jitter), secs(0), secs(0)..=hours(1)));
    let at = place.key("approval_expires");
    let approval_expires = to.duration(&at, spec.approval_expires, default.approval_expires, minutes(1)..=hours(24));
    let mut budget = |key: &str, value: Option<Typed<Budget>>, default| {
        let Some(Typed(budget)) = value else { return default };
        let at = place.key(key);
        if budget.per > hours(30 * 24) {
            to.wrong(&at, "the period is too long: a budget is counted over 30d at most");
        }
        budget
    };
    Limits {
        per_service: budget("per_service", spec.per_service, default.per_service),
        per_host: budget("per_host", spec.per_host, default.per_host),
        jitter,
        approval_expires,
        cooldown: to.duration(&place.key("cooldown"), spec.cooldown, default.cooldown, minutes(1)..=hours(7 * 24)),
    }
}

fn guards(
    spec: GuardsSpec,
    place: &Place,
    to: &mut Compiling,
    around: &Surroundings,
    mode: Mode,
    drains: bool,
) -> GuardSettings {
    let slots = spec.fleet_slots.map(|Typed(slots)| slots);
    let fleet_slots = match (slots, around.has_fleet) {
        (Some(Slots::None), _) => None,
        (Some(Slots::Count(_)), Some(false)) => {
            to.wrong(
                &place.key("fleet_slots"),
                "fleet slots need a store that all hosts share: add `fleet:` to agent.yaml, or write `fleet_slots: \
                 none`",
            );
            None
        }
        (Some(Slots::Count(count)), _) => Some(count),
        (None, Some(true)) => Some(1),
        (None, _) => None,
    };
    let unslotted = slots.is_none() && around.has_fleet == Some(false) && !to.said(&place.key("fleet_slots"));
    if unslotted && mode.acts() && drains {
        to.wrong(
            &Place::root().key("mode"),
            format!(
                "`mode: {mode}` with a runbook that drains could drain the service on two hosts at once: add `fleet:` \
                 to agent.yaml, or accept that by `guards: {{ fleet_slots: none }}`"
            ),
        );
    }
    if fleet_slots.is_some() && mode == Mode::Auto && around.may_lose_slots {
        to.wrong(
            &Place::root().key("mode"),
            "`mode: auto` is refused with the fleet slots in a single Redis: when that Redis loses its data, a host \
             that is down loses its slot, and another host acts too. In `fleet:` of agent.yaml, name Redis' \
             `sentinels` or `nodes` or another store, or accept the risk by `may_lose_slots: true`",
        );
    }
    if spec.common_cause.is_some() && around.shares_breaches == Some(false) {
        to.wrong(
            &place.key("common_cause"),
            "`common_cause` needs the breaches of other hosts: add `fleet:` with consul, etcd or redis to agent.yaml, \
             or remove the line",
        );
    }
    let common_cause = spec.common_cause.map(|Typed(Share(share))| share);
    let calm = spec.calm.map(|calm| to.duration(&place.key("calm"), Some(calm), secs(0), minutes(1)..=hours(24)));
    let alerts = alerts(spec.alerts, &place.key("alerts"), to, around);
    let veto = spec.veto.and_then(|veto| self::veto(veto, &place.key("veto"), to));
    let windows = windows(spec.windows, &place.key("windows"), to);
    let min_healthy = spec.min_healthy.map(|Typed(rule)| rule);
    GuardSettings { min_healthy, fleet_slots, common_cause, calm, alerts, veto, windows }
}

fn alerts(spec: Items<Typed<String>>, place: &Place, to: &mut Compiling, around: &Surroundings) -> Vec<AlertSelector> {
    if !spec.is_empty() && around.has_prometheus == Some(false) {
        to.wrong_key(
            place,
            "`alerts` needs somebody who knows them: add `prometheus:` to agent.yaml, or remove the line",
        );
    }
    items(place, spec).filter_map(|(place, Typed(text))| prometheus::selector(&place, &text, to)).collect()
}

fn veto(spec: VetoSpec, place: &Place, to: &mut Compiling) -> Option<VetoCommand> {
    let deadline = to.duration(&place.key("deadline"), spec.deadline, secs(10), secs(1)..=minutes(1));
    let exec = to.required(place, "exec", spec.exec, "[/usr/local/bin/may-act]")?;
    Some(VetoCommand { argv: to.argv(&place.key("exec"), exec), deadline })
}

fn windows(spec: Items<WindowSpec>, place: &Place, to: &mut Compiling) -> Vec<Window> {
    let mut windows = Vec::new();
    for (place, spec) in items(place, spec) {
        // What is not said would be guessed: whose morning, and whether to act in it.
        let tz = to.required(&place, "tz", spec.tz, "Asia/Shanghai");
        let action = to.required(&place, "action", spec.action, "deny");
        let days = match spec.days {
            None => Days::ALL,
            Some(DaysSpec(list)) => {
                let at = place.key("days");
                if list.is_empty() {
                    to.wrong(&at, "the list is empty: name days such as mon-fri, or remove the line for every day");
                }
                list.into_iter().flatten().map(|Typed(days)| days).reduce(Days::and).unwrap_or(Days::ALL)
            }
        };
        let hours = spec.hours.map_or(Hours::ALL, |Typed(hours)| hours);
        if let (Some(Typed(Zone(tz))), Some(Typed(action))) = (tz, action) {
            windows.push(Window { days, hours, tz, action });
        }
    }
    windows
}

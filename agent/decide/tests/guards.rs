//! Each guard allows and refuses, with its reason; they are asked in order, and the slot is taken last.

use std::sync::Arc;

use async_trait::async_trait;

use super::hours::always;
use super::scenery::{Scenery, scenery};
use super::*;
use crate::clock::Clock;
use crate::decide::guards::{GUARDS, Guard, Possession, holds_now};
use crate::execute::fakes::{HOST, ID};
use crate::model::alerts::AlertSelector;
use crate::model::plan::Health;
use crate::model::policy::VetoCommand;
use crate::model::window::WindowAction;
use crate::model::{IncidentId, Marker, Mode, ModeCeiling, Outcome, Plan, Readings, Reason, Trigger};
use crate::ports::fleet::{Phase, Slot};
use crate::ports::probe::{Probe, ProbeFailure};
use crate::ports::restarter::RunState;
use crate::store::{Pause, Person};

const SERVICE: &str = "rpc-order.service";

#[test]
fn where_nothing_is_against_it_every_guard_allows() {
    scenery().allows();
    assert_eq!(scenery().all(), []);
}

#[test]
fn the_guards_stand_in_the_designs_order() {
    let designs = "paused warm_up latch rungs protected silence windows stable starts_again out_of_traffic cooldown budgets \
                   one_saga jitter common_cause alerts min_healthy calm probe held_here veto approval fleet_slot";
    let of_the_agent = [Guard::Trust, Guard::Actionable, Guard::ModeAtMost];
    let ours: Vec<String> =
        GUARDS.into_iter().filter(|guard| !of_the_agent.contains(guard)).map(|guard| guard.to_string()).collect();
    assert_eq!(ours.join(" "), designs);

    // All at once: the first is told first, and all are told in order.
    let mut all = scenery();
    all.store.pause(&Pause { who: "ann".into(), why: "deploy".into(), since: all.now(), until: None }).unwrap();
    all.gate.mode_at_most = Some(ModeCeiling { mode: Mode::DryRun, at: "agent.yaml:3".into() });
    all.gate.warm_up = seconds(3_600);
    all.incident("i-1", SERVICE, false, true, Some(Outcome::Stuck));
    all.incident("i-2", SERVICE, false, true, None);
    all.lacks = vec!["no health".into()];
    all.protected = Some("sshd");
    all.needs_approval = true;
    all.plan.guards.common_cause = Some(0.5);
    all.scene.registry.register("rpc-order-3", "rpc-order", "10.0.0.3:7801");
    all.scene.registry.set_healthy("rpc-order-3", false);
    all.rungs_spent = Some(all.now() + seconds(60));
    (all.jitter, all.breached) = (seconds(3_600), Some(all.clock.monotonic()));
    all.silence(None, seconds(60));
    all.plan.guards.windows = vec![always(WindowAction::Deny)];
    all.scene.service().state = RunState::Failed;
    all.scene.service().would_not_start = Some("its program is gone".into());
    all.scene.registry.isolate(ID, Some("deploy"));
    all.scene.registry.set_healthy("rpc-order-2", false);
    *all.fleet.broken.lock().unwrap() = true;
    all.gate.ports.probe = Arc::new(Unbelieved { is_an_answer: false });
    all.gate.possession = Arc::new(Elsewhere);
    let (policy, service) = (all.plan.policy.clone(), all.plan.target.service.clone());
    all.plan.guards.calm = Some(seconds(600));
    all.store.note_unrest(&policy, &service, "min_healthy", all.now()).unwrap();
    all.plan.guards.alerts = vec![AlertSelector::parse("team=\"web\"").unwrap()];
    *all.alerts.0.lock().unwrap() = Err("no answer".into());
    all.plan.guards.veto = Some(VetoCommand { argv: vec!["/bin/no".into()], deadline: seconds(5) });
    *all.vetoes.says.lock().unwrap() = Ok(Some("no".into()));
    all.store.refuse_writes(true);
    all.store.test_write(all.now()).unwrap_err();
    assert_eq!(all.all().iter().map(|refusal| refusal.guard).collect::<Vec<_>>(), GUARDS);
    assert_eq!(all.ask().unwrap_err().guard, GUARDS[0]);
    assert_eq!(*all.fleet.asked.lock().unwrap(), 0);
}

/// A probe that fails.
struct Unbelieved {
    is_an_answer: bool,
}

#[async_trait]
impl Probe for Unbelieved {
    async fn ask(&self, _health: &Health, _deadline: Duration) -> Result<(), ProbeFailure> {
        let (asked, answer) = ("GET https://a/".into(), "TLS: it has expired".into());
        Err(ProbeFailure { asked, answer, is_an_answer: self.is_an_answer })
    }
}

#[test]
fn a_probe_that_cannot_be_asked_is_a_no_and_a_bad_answer_is_none() {
    let mut scenery = scenery();
    scenery.gate.ports.probe = Arc::new(Unbelieved { is_an_answer: true });
    scenery.allows();
    scenery.gate.ports.probe = Arc::new(Unbelieved { is_an_answer: false });
    let refusal = scenery.refuses(Guard::Probe, Reason::ProbeUnusable);
    assert_eq!(refusal.detail, "GET https://a/: TLS: it has expired");
    scenery.plan.target.health = None;
    scenery.allows();
}

/// Others hold what counts as the service's.
struct Elsewhere;

#[async_trait]
impl Possession for Elsewhere {
    async fn elsewhere(&self, _plan: &Plan, _afresh: bool) -> Result<Option<String>, String> {
        Ok(Some(
            "60 of the service's 60 sockets in CLOSE_WAIT are held by other processes: 60 held by pid 1 (systemd, /init.scope)".into(),
        ))
    }
}

#[test]
fn what_others_hold_and_no_restart_frees_is_held_by_who_holds_it() {
    let mut scenery = scenery();
    scenery.gate.possession = Arc::new(Elsewhere);
    let refusal = scenery.refuses(Guard::HeldHere, Reason::HeldElsewhere);
    assert!(refusal.detail.contains("pid 1 (systemd, /init.scope)"), "{refusal}");
}

#[test]
fn a_state_that_cannot_be_written_is_only_observed() {
    let scenery = scenery();
    scenery.store.refuse_writes(true);
    scenery.store.test_write(scenery.now()).unwrap_err();
    scenery.refuses(Guard::Trust, Reason::ObserveOnly);
    scenery.store.refuse_writes(false);
    scenery.store.test_write(scenery.now()).unwrap();
    scenery.allows();
}

#[test]
fn what_the_runbook_lacks_is_named() {
    let mut scenery = scenery();
    scenery.lacks = vec!["drain: no registry".into(), "health_check: no health".into()];
    let refusal = scenery.refuses(Guard::Actionable, Reason::NotActionable);
    assert_eq!(refusal.detail, "drain: no registry; health_check: no health");
}

#[test]
fn a_pause_defers_to_its_end_or_denies() {
    let scenery = scenery();
    let pause = |until| Pause { who: "ann".into(), why: "deploy".into(), since: scenery.now(), until };
    scenery.store.pause(&pause(None)).unwrap();
    let refusal = scenery.refuses(Guard::Paused, Reason::Paused);
    assert!(refusal.until.is_none() && refusal.detail.contains("ann") && refusal.detail.contains("deploy"));
    let until = scenery.now() + seconds(60);
    scenery.store.resume(&Person::default(), scenery.now()).unwrap();
    scenery.store.pause(&pause(Some(until))).unwrap();
    assert_eq!(scenery.refuses(Guard::Paused, Reason::Paused).until, Some(until));
    scenery.clock.advance(seconds(60));
    scenery.allows();
}

#[test]
fn warm_up_holds_to_its_last_moment_and_not_a_person_nor_an_own_saga() {
    let mut scenery = scenery();
    scenery.gate.warm_up = seconds(61);
    let refusal = scenery.refuses(Guard::WarmUp, Reason::WarmUp);
    assert_eq!(refusal.until, Some(scenery.now() + seconds(1)));
    scenery.own_saga = true;
    scenery.allows();
    scenery.own_saga = false;
    scenery.plan.trigger = Trigger::Person { who: "ann".into() };
    scenery.allows();
    scenery.plan.trigger = Trigger::Breach;
    scenery.clock.advance(seconds(1));
    scenery.allows();
}

#[test]
fn a_latch_holds_its_service_alone_until_it_is_taken_off() {
    let scenery = scenery();
    scenery.incident("elsewhere", "other.service", false, false, Some(Outcome::Stuck));
    scenery.allows();
    scenery.incident("i-1", SERVICE, false, false, Some(Outcome::Stuck));
    scenery.clock.advance(scenery.plan.limits.cooldown);
    let refusal = scenery.refuses(Guard::Latch, Reason::Latched);
    assert!(refusal.detail.contains("i-1"), "{refusal}");
    scenery.store.unlatch(&scenery.plan.target.service, &IncidentId("i-1".into())).unwrap();
    scenery.allows();
}

#[test]
fn a_protected_service_is_touched_only_where_it_is_named_in_full() {
    let mut scenery = scenery();
    scenery.protected = Some("the way in for people");
    scenery.refuses(Guard::Protected, Reason::Protected);
    scenery.named_in_full = true;
    scenery.allows();
}

#[test]
fn a_service_must_be_stable_old_enough_and_the_one_that_was_measured() {
    let mut scenery = scenery();
    for (state, reason) in [
        (RunState::Changing, Reason::Unstable),
        (RunState::Inactive, Reason::NotActive),
        (RunState::Failed, Reason::NotActive),
        (RunState::Frozen, Reason::Frozen),
    ] {
        scenery.scene.service().state = state;
        scenery.refuses(Guard::Stable, reason);
    }
    scenery.scene.service().state = RunState::Active;
    scenery.scene.service().up_for = Some(seconds(299));
    let refusal = scenery.refuses(Guard::Stable, Reason::RecentlyRestarted);
    assert_eq!(refusal.until, Some(scenery.now() + seconds(1)));
    scenery.own_saga = true;
    scenery.allows();
    scenery.own_saga = false;
    scenery.scene.service().up_for = Some(seconds(300));
    scenery.allows();
    scenery.scene.service().lifetime = 2;
    scenery.refuses(Guard::Stable, Reason::IncarnationChanged);
    scenery.own_saga = true;
    scenery.refuses(Guard::Stable, Reason::IncarnationChanged);
}

#[test]
fn what_is_out_of_traffic_already_is_left_alone_but_for_our_own_saga() {
    let mut scenery = scenery();
    scenery.scene.registry.isolate(ID, Some("deploy of release 41"));
    let refusal = scenery.refuses(Guard::OutOfTraffic, Reason::OutOfTraffic);
    assert!(refusal.detail.contains("deploy of release 41"));
    let marker = |incident: &IncidentId, host: &str| Marker { incident: incident.clone(), host: host.into() };
    let ours = marker(&scenery.plan.incident, HOST);
    for (marker, allowed) in [
        (ours.clone(), true),
        (marker(&scenery.plan.incident, "another-host"), false),
        (marker(&IncidentId("another".into()), HOST), false),
    ] {
        scenery.own_saga = true;
        scenery.scene.registry.isolate(ID, Some(&marker.to_string()));
        match allowed {
            true => scenery.allows(),
            false => drop(scenery.refuses(Guard::OutOfTraffic, Reason::OutOfTraffic)),
        }
        scenery.own_saga = false;
        scenery.refuses(Guard::OutOfTraffic, Reason::OutOfTraffic);
    }
    scenery.scene.registry.isolate(ID, None);
    scenery.allows();
}

#[test]
fn a_registry_that_cannot_be_asked_refuses() {
    let scenery = scenery();
    scenery.scene.registry.set_unreachable(true);
    let refusal = scenery.ask().unwrap_err();
    assert_eq!((refusal.guard, refusal.reason), (Guard::OutOfTraffic, Reason::GuardFailed));
    let guards: Vec<Guard> = scenery.all().iter().map(|refusal| refusal.guard).collect();
    assert_eq!(guards, [Guard::OutOfTraffic, Guard::CommonCause, Guard::MinHealthy]);
    for refusal in scenery.all() {
        assert!(refusal.detail.ends_with("could not be checked: fake: nobody answers"), "{refusal}");
    }
    scenery.scene.registry.set_unreachable(false);
    scenery.scene.registry.deregister(ID);
    assert_eq!(scenery.ask().unwrap_err().reason, Reason::GuardFailed, "not registered is no answer either");
}

#[test]
fn a_registry_that_is_not_configured_any_more_refuses() {
    let mut scenery = scenery();
    scenery.gate.ports.registries.clear();
    assert_eq!(scenery.ask().unwrap_err().reason, Reason::GuardFailed);
}

#[test]
fn the_cooldown_is_counted_from_the_end_to_its_last_moment() {
    let mut scenery = scenery();
    scenery.incident("dry", SERVICE, true, true, Some(Outcome::Completed));
    scenery.incident("another", "other.service", false, true, Some(Outcome::Completed));
    scenery.allows();
    let ended = scenery.now();
    scenery.incident("i-1", SERVICE, false, true, Some(Outcome::Unwound));
    let cooldown = scenery.plan.limits.cooldown;
    assert_eq!(scenery.refuses(Guard::Cooldown, Reason::Cooldown).until, Some(ended + cooldown));
    scenery.own_saga = true;
    scenery.allows();
    scenery.own_saga = false;
    scenery.clock.advance(cooldown - Duration::from_millis(1));
    scenery.refuses(Guard::Cooldown, Reason::Cooldown);
    scenery.clock.advance(Duration::from_millis(1));
    scenery.allows();
}

#[test]
fn what_ended_before_it_changed_anything_is_tried_again_sooner() {
    let scenery = scenery();
    scenery.incident("i-1", SERVICE, false, false, Some(Outcome::Unwound));
    let share = scenery.plan.limits.cooldown / 6;
    assert_eq!(scenery.refuses(Guard::Cooldown, Reason::Cooldown).until, Some(scenery.now() + share));
    scenery.clock.advance(share - Duration::from_millis(1));
    scenery.refuses(Guard::Cooldown, Reason::Cooldown);
    scenery.clock.advance(Duration::from_millis(1));
    scenery.allows();
    // One that only looked, to its end, has the whole of it.
    scenery.incident("i-2", SERVICE, false, false, Some(Outcome::Completed));
    let until = scenery.now() + scenery.plan.limits.cooldown;
    assert_eq!(scenery.refuses(Guard::Cooldown, Reason::Cooldown).until, Some(until));
}

#[test]
fn dry_run_has_a_cooldown_of_its_own() {
    let mut scenery = scenery();
    scenery.incident("i-1", SERVICE, false, true, Some(Outcome::Completed));
    scenery.plan.dry_run = true;
    scenery.allows();
    scenery.incident("dry", SERVICE, true, true, Some(Outcome::Completed));
    scenery.refuses(Guard::Cooldown, Reason::Cooldown);
}

#[test]
fn budgets_are_spent_exactly_and_come_back_when_the_oldest_is_out() {
    let mut scenery = scenery();
    scenery.plan.limits.cooldown = seconds(0);
    let began = scenery.now();
    scenery.incident("i-1", SERVICE, false, true, Some(Outcome::Completed));
    scenery.allows();
    scenery.clock.advance(seconds(600));
    scenery.incident("i-2", SERVICE, false, true, Some(Outcome::Unwound));
    scenery.incident("dry", SERVICE, true, true, Some(Outcome::Completed));
    scenery.incident("looked", SERVICE, false, false, Some(Outcome::Completed));
    let per = scenery.plan.limits.per_service.per;
    let refusal = scenery.refuses(Guard::Budgets, Reason::ServiceBudget);
    assert_eq!(refusal.until, Some(began + per), "2 per 6h: when the first is as old as the window");
    // A budget that was made smaller meanwhile: both must leave.
    scenery.plan.limits.per_service.incidents = 1;
    let refusal = scenery.refuses(Guard::Budgets, Reason::ServiceBudget);
    assert_eq!(refusal.until, Some(began + seconds(600) + per));
    scenery.plan.limits.per_service.incidents = 2;
    scenery.clock.advance(per - seconds(600) - Duration::from_millis(1));
    scenery.refuses(Guard::Budgets, Reason::ServiceBudget);
    scenery.clock.advance(Duration::from_millis(1));
    scenery.allows();
}

#[test]
fn the_hosts_budget_counts_every_service_and_a_budget_of_none_denies() {
    let mut scenery = scenery();
    for (index, service) in ["a.service", "b.service", "c.service", "d.service"].into_iter().enumerate() {
        scenery.allows();
        scenery.incident(&format!("i-{index}"), service, false, true, Some(Outcome::Completed));
    }
    let refusal = scenery.refuses(Guard::Budgets, Reason::HostBudget);
    assert_eq!(refusal.until, Some(scenery.now() + scenery.plan.limits.per_host.per));
    scenery.plan.limits.per_host.incidents = 0;
    let none = super::scenery::scenery();
    let mut plan = none.plan.clone();
    plan.limits.per_host.incidents = 0;
    let none = Scenery { plan, ..none };
    assert_eq!(none.refuses(Guard::Budgets, Reason::HostBudget).until, None);
}

#[test]
fn an_own_saga_does_not_spend_its_own_budget_but_meets_the_others() {
    let mut scenery = scenery();
    scenery.plan.limits.cooldown = seconds(0);
    scenery.incident("i-1", SERVICE, false, true, Some(Outcome::Completed));
    scenery.clock.advance(seconds(1));
    let own = scenery.plan.incident.0.clone();
    scenery.incident(&own, SERVICE, false, true, None);
    scenery.own_saga = true;
    scenery.allows();
    scenery.plan.limits.per_service.incidents = 1;
    scenery.refuses(Guard::Budgets, Reason::ServiceBudget);
}

#[test]
fn one_saga_a_service_and_so_many_a_host() {
    let mut scenery = scenery();
    scenery.gate.max_parallel = 2;
    scenery.incident("elsewhere", "other.service", false, false, None);
    scenery.allows();
    scenery.incident("dry", "dry.service", true, false, None);
    scenery.allows();
    scenery.incident("third", "third.service", false, false, None);
    scenery.refuses(Guard::OneSaga, Reason::SagaRunning);
    scenery.own_saga = true;
    scenery.allows();
    scenery.own_saga = false;
    scenery.gate.max_parallel = 9;
    scenery.allows();
    scenery.incident("same", SERVICE, false, false, None);
    let refusal = scenery.refuses(Guard::OneSaga, Reason::SagaRunning);
    assert!(refusal.detail.contains("same"));
}

#[test]
fn the_slot_is_taken_last_noted_first_and_forgotten_when_others_hold_it() {
    let mut scenery = scenery();
    scenery.allows();
    assert_eq!(*scenery.fleet.asked.lock().unwrap(), 1);
    let noted = || scenery.store.slots_to_release().unwrap().len();
    assert_eq!(noted(), 1, "so that it is given back where no incident comes of it");

    let slot = |phase| Slot { holder: "bj1-04".into(), incident: "theirs".into(), since: scenery.now(), phase };
    *scenery.fleet.held.lock().unwrap() = vec![slot(Phase::Changing)];
    let refusal = scenery.refuses(Guard::FleetSlot, Reason::SlotTaken);
    assert!(refusal.detail.contains("bj1-04"), "{refusal}");
    assert_eq!(noted(), 0);

    *scenery.fleet.broken.lock().unwrap() = true;
    scenery.refuses(Guard::FleetSlot, Reason::GuardFailed);
    assert_eq!(noted(), 1, "it may have been taken all the same");
    *scenery.fleet.broken.lock().unwrap() = false;
    scenery.fleet.held.lock().unwrap().clear();

    let asked = *scenery.fleet.asked.lock().unwrap();
    scenery.scene.registry.set_healthy("rpc-order-2", false);
    scenery.refuses(Guard::MinHealthy, Reason::TooFewHealthy);
    scenery.scene.registry.set_healthy("rpc-order-2", true);
    assert_eq!(*scenery.fleet.asked.lock().unwrap(), asked, "an earlier refusal takes no slot");
    scenery.take_slot = false;
    scenery.allows();
    assert_eq!(scenery.all(), []);
    assert_eq!(*scenery.fleet.asked.lock().unwrap(), asked, "looking takes none");
}

#[test]
fn a_slot_that_this_host_holds_for_an_incident_that_runs_or_is_stuck_is_not_taken_for_another() {
    for ends in [None, Some(Outcome::Stuck), Some(Outcome::Completed)] {
        let mut scenery = scenery();
        scenery.gate.max_parallel = 9;
        scenery.incident("i0", "rpc-order@2.service", false, false, ends);
        scenery.store.note_slot(&IncidentId("i0".into()), "rpc-order").unwrap();
        if ends == Some(Outcome::Completed) {
            scenery.allows();
            continue;
        }
        for take_slot in [true, false] {
            scenery.take_slot = take_slot;
            let refusal = scenery.refuses(Guard::FleetSlot, Reason::SlotTaken);
            assert!(refusal.detail.contains("incident i0"), "{refusal}");
        }
        assert_eq!(*scenery.fleet.asked.lock().unwrap(), 0, "the fleet is not asked");
        assert_eq!(scenery.store.slots_to_release().unwrap(), [], "there is nothing to give back");
        scenery.plan.fleet_scope = Some("rpc-user".into());
        scenery.allows();
    }
}

#[test]
fn looking_at_slots_asks_who_is_in_the_way() {
    let mut scenery = scenery();
    scenery.take_slot = false;
    let slot =
        Slot { holder: "bj1-04".into(), incident: "theirs".into(), since: scenery.now(), phase: Phase::Changing };
    *scenery.fleet.held.lock().unwrap() = vec![slot];
    let refusal = scenery.refuses(Guard::FleetSlot, Reason::SlotTaken);
    assert!(refusal.detail.contains("bj1-04"), "{refusal}");
    scenery.fleet.held.lock().unwrap().clear();
    scenery.allows();
    scenery.gate.ports.fleet = None;
    scenery.refuses(Guard::FleetSlot, Reason::SlotTaken);
    scenery.plan.guards.fleet_slots = None;
    scenery.allows();
}

#[test]
fn a_runbook_that_only_looks_meets_only_what_speaks_of_looking() {
    let mut scenery = scenery();
    scenery.plan.steps.truncate(1);
    scenery.scene.registry.set_unreachable(true);
    scenery.scene.service().state = RunState::Failed;
    *scenery.fleet.broken.lock().unwrap() = true;
    scenery.protected = Some("sshd");
    scenery.allows();
    scenery.incident("same", SERVICE, false, false, None);
    scenery.refuses(Guard::OneSaga, Reason::SagaRunning);
}

#[test]
fn a_condition_that_is_unknown_or_false_by_now_stops_it() {
    let scenery = scenery();
    let mut readings = Readings::default();
    assert_eq!(holds_now(&scenery.plan, &readings).unwrap_err().0, Reason::MeasurementFailed);
    readings.set(Signal::CloseWait, 200.0);
    assert_eq!(holds_now(&scenery.plan, &readings).unwrap_err().0, Reason::ConditionCleared);
    readings.set(Signal::CloseWait, 201.0);
    holds_now(&scenery.plan, &readings).unwrap();
}

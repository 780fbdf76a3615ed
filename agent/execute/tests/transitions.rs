//! The transition function: every state against every event, and random walks through it.

use proptest::prelude::*;
use serde_json::{Value, json};

use crate::execute::fakes::{self, Fault, Shape};
use crate::execute::saga::{Event, Helped, Saga, State};
use crate::model::runbook::RunEffect;
use crate::model::{Effect, Outcome, Plan, Reason, Step};

fn isolate() -> Plan {
    fakes::plan(fakes::steps(Shape::IsolateRestartRecover, Fault::Nothing))
}

const SNAPSHOT: usize = 0;
const DRAIN: usize = 1;
const RESTART: usize = 3;
const RESTORE: usize = 5;
const VERIFY: usize = 6;

fn intended(step: usize) -> Event {
    Event::Intended { step, preimage: json!({ "step": step }) }
}

fn done(step: usize) -> Event {
    Event::Done { step, detail: String::new(), helped: None, note: None }
}

fn failed(step: usize, reason: Reason, untouched: bool) -> Event {
    Event::Failed { step, reason, detail: "broken".into(), untouched }
}

fn interrupted() -> Event {
    Event::Interrupted { reason: Reason::ShuttingDown, detail: String::new() }
}

fn undone(step: usize) -> Event {
    Event::Undone { step, detail: String::new() }
}

fn refused(step: usize) -> Event {
    Event::UndoRefused { step, reason: Reason::RecordChanged, detail: String::new() }
}

fn withdrawing() -> Event {
    Event::Withdrawing { preimage: Value::Null }
}

fn withdrawn(drained: bool) -> Event {
    Event::Withdrawn { drained, detail: String::new() }
}

/// The saga of the isolating runbook up to `step`: at it, or with its intent journaled.
fn up_to(step: usize, acting: bool) -> Saga {
    let mut saga = Saga::new(isolate());
    for before in 0..step {
        saga.apply(intended(before)).unwrap();
        saga.apply(done(before)).unwrap();
    }
    if acting {
        saga.apply(intended(step)).unwrap();
    }
    saga
}

fn after(mut saga: Saga, events: &[Event]) -> Saga {
    for event in events {
        saga.apply(event.clone()).unwrap();
    }
    saga
}

/// Every event that there is, for a plan of this length.
fn every_event(length: usize) -> Vec<Event> {
    let mut all = vec![interrupted(), withdrawing(), withdrawn(true), withdrawn(false)];
    for helped in [Helped::Yes, Helped::Unknown, Helped::No] {
        all.push(Event::Judged { helped, detail: String::new() });
    }
    for step in 0..=length {
        all.extend([intended(step), done(step), undone(step), refused(step), Event::Stopped { step }]);
        all.push(Event::Done { step, detail: String::new(), helped: Some(Helped::No), note: None });
        for untouched in [false, true] {
            all.extend([failed(step, Reason::StepFailed, untouched)]);
            all.extend([failed(step, Reason::UnhealthyAfterRestore, untouched)]);
        }
    }
    all
}

/// What may follow, said once more and in other words than the code.
fn may_follow(state: &State, event: &Event) -> bool {
    match state {
        State::Ready { step: at } => match event {
            Event::Intended { step, .. } | Event::Failed { step, .. } => step == at,
            Event::Interrupted { .. } => *at <= RESTART,
            _ => false,
        },
        State::Acting { step: at } => match event {
            Event::Done { step, .. } | Event::Failed { step, .. } => step == at,
            Event::Interrupted { .. } => *at < RESTART,
            Event::Stopped { step } => (*step, *at) == (RESTART, RESTART),
            _ => false,
        },
        State::Unwinding { left, .. } => match event {
            Event::Undone { step, .. } | Event::UndoRefused { step, .. } => left.last() == Some(step),
            _ => false,
        },
        State::Withdraw { intended, .. } => match event {
            Event::Withdrawing { .. } => true,
            Event::Withdrawn { .. } => *intended,
            _ => false,
        },
        State::Judging => matches!(event, Event::Judged { .. }),
        State::Rests(_) => false,
    }
}

#[test]
fn every_event_in_every_state_is_legal_or_a_typed_refusal_that_changes_nothing() {
    let length = isolate().steps.len();
    let mut sagas: Vec<Saga> = (0..length).flat_map(|step| [up_to(step, false), up_to(step, true)]).collect();
    let ill = after(up_to(VERIFY, true), &[failed(VERIFY, Reason::UnhealthyAfterRestore, false)]);
    sagas.extend([
        after(up_to(DRAIN, true), &[interrupted()]),
        after(up_to(DRAIN, true), &[interrupted(), undone(DRAIN)]),
        after(up_to(DRAIN, true), &[interrupted(), refused(DRAIN)]),
        after(ill.clone(), &[withdrawing()]),
        after(ill.clone(), &[withdrawing(), withdrawn(true)]),
        ill,
        after(up_to(VERIFY, true), &[done(VERIFY)]),
        after(up_to(VERIFY, true), &[done(VERIFY), Event::Judged { helped: Helped::Yes, detail: String::new() }]),
    ]);
    let mut counts = (0, 0);
    for saga in &sagas {
        for event in every_event(length) {
            let mut next = saga.clone();
            match next.apply(event.clone()) {
                Ok(()) => counts.0 += 1,
                Err(illegal) => {
                    counts.1 += 1;
                    assert_eq!((&*illegal.state, &*illegal.event), (saga.state(), &event));
                    assert_eq!(format!("{next:?}"), format!("{saga:?}"), "a refused event changed something");
                }
            }
            let legal = format!("{next:?}") != format!("{saga:?}") || is_repeated_withdrawal(saga, &event);
            assert_eq!(legal, may_follow(saga.state(), &event), "{event:?} in {:?}", saga.state());
        }
    }
    println!("{} states, {} legal and {} refused events", sagas.len(), counts.0, counts.1);
}

#[test]
fn a_service_is_stopped_once() {
    let mut saga = after(up_to(RESTART, true), &[Event::Stopped { step: RESTART }]);
    assert!(saga.apply(Event::Stopped { step: RESTART }).is_err());
    assert!(after(saga, &[done(RESTART)]).past_pivot());
}

/// Withdrawing twice is as once: after a crash it is journaled again.
fn is_repeated_withdrawal(saga: &Saga, event: &Event) -> bool {
    matches!((saga.state(), event), (State::Withdraw { intended: true, .. }, Event::Withdrawing { .. }))
}

#[test]
fn a_failure_unwinds_before_the_pivot_and_is_stuck_behind_it() {
    for (step, acting, untouched, left, outcome) in [
        (SNAPSHOT, true, false, None, Outcome::Unwound),
        (DRAIN, false, true, None, Outcome::Unwound),
        (DRAIN, true, false, Some(DRAIN), Outcome::Unwound),
        (RESTART, false, true, Some(DRAIN), Outcome::Unwound),
        (RESTART, true, true, Some(DRAIN), Outcome::Unwound),
        (RESTART, true, false, None, Outcome::Stuck),
        (RESTORE, true, false, None, Outcome::Stuck),
        (VERIFY, true, false, None, Outcome::Stuck),
    ] {
        let saga = after(up_to(step, acting), &[failed(step, Reason::StepFailed, untouched)]);
        match (saga.state(), left) {
            (State::Unwinding { left: undo, why }, Some(step)) => {
                assert_eq!((undo.as_slice(), why.outcome), ([step].as_slice(), outcome));
                assert!(saga.holds_drain());
            }
            (State::Rests(ending), None) => {
                assert_eq!(ending.outcome, outcome, "{step}");
                let drained = outcome == Outcome::Stuck && step <= RESTORE;
                assert_eq!(saga.holds_drain_at_rest(), drained, "{step}");
            }
            (state, _) => panic!("{step}: {state:?}"),
        }
    }
}

#[test]
fn the_drain_is_held_from_its_intent_to_the_restore() {
    for step in 0..isolate().steps.len() {
        assert_eq!(up_to(step, false).holds_drain(), step > DRAIN && step <= RESTORE, "ready for {step}");
        assert_eq!(up_to(step, true).holds_drain(), (DRAIN..=RESTORE).contains(&step), "acting {step}");
        assert_eq!(up_to(step, false).past_pivot(), step > RESTART);
        assert_eq!(up_to(step, true).past_pivot(), step >= RESTART);
    }
}

#[test]
fn unhealthy_once_put_back_is_taken_out_again_with_a_pivot_or_without() {
    let without: Vec<Step> = fakes::steps(Shape::IsolateRestartRecover, Fault::Nothing)
        .into_iter()
        .filter(|step| !matches!(step, Step::Restart { .. }))
        .collect();
    for plan in [isolate(), fakes::plan(without)] {
        let mut saga = Saga::new(plan.clone());
        let last = plan.steps.len() - 1;
        for step in 0..last {
            saga = after(saga, &[intended(step), done(step)]);
        }
        saga = after(saga, &[intended(last), failed(last, Reason::UnhealthyAfterRestore, false)]);
        assert!(matches!(saga.state(), State::Withdraw { intended: false, .. }), "{:?}", saga.state());
        for drained in [true, false] {
            let rests = after(saga.clone(), &[withdrawing(), withdrawn(drained)]);
            assert!(matches!(rests.state(), State::Rests(ending) if ending.outcome == Outcome::Stuck));
            assert_eq!(rests.holds_drain_at_rest(), drained);
        }
    }
}

/// Runbooks as `config` lets them through: what comes before what is its business.
fn plans() -> impl Strategy<Value = Plan> {
    let run = prop_oneof![
        Just(RunEffect::ReadOnly),
        Just(RunEffect::Compensable { undo: vec!["/bin/undo".into()] }),
        Just(RunEffect::Pivot),
        Just(RunEffect::Retryable),
    ];
    let commands = proptest::collection::vec(proptest::option::of(run), 6);
    (commands, any::<bool>(), any::<bool>()).prop_map(|(commands, drains, restarts)| {
        let shipped = fakes::steps(Shape::IsolateRestartRecover, Fault::Nothing);
        let mut steps = Vec::new();
        for (index, step) in shipped.into_iter().enumerate() {
            let kept = match step {
                Step::Drain { .. } | Step::WaitDrained { .. } | Step::Restore { .. } => drains,
                Step::Restart { .. } => restarts,
                _ => true,
            };
            if kept {
                steps.push(step);
            }
            if let Some(Some(effect)) = commands.get(index) {
                let argv = vec!["/bin/run".into()];
                steps.push(Step::Run { argv, effect: effect.clone(), deadline: std::time::Duration::from_secs(1) });
            }
        }
        fakes::plan(steps)
    })
}

/// What the world holds, told by the events alone.
#[derive(Default)]
struct Holds {
    drained: bool,
    others: Vec<usize>,
}

impl Holds {
    fn follow(&mut self, plan: &Plan, event: &Event) {
        let is = |step: &usize, name: &str| plan.steps[*step].step.name() == name;
        match event {
            Event::Intended { step, .. } if is(step, "drain") => self.drained = true,
            Event::Intended { step, .. } if plan.steps[*step].effect == Effect::Compensable => self.others.push(*step),
            Event::Done { step, .. } if is(step, "restore") => self.drained = false,
            Event::Undone { step, .. } if is(step, "drain") => self.drained = false,
            Event::Undone { step, .. } => self.others.retain(|other| other != step),
            Event::Withdrawing { .. } => self.drained = true,
            Event::Withdrawn { drained, .. } => self.drained = *drained,
            _ => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_walks_leave_no_drain_behind_and_are_rebuilt_from_their_journal(
        plan in plans(),
        choices in proptest::collection::vec(any::<prop::sample::Index>(), 60),
    ) {
        let mut saga = Saga::new(plan.clone());
        let mut journal: Vec<Event> = Vec::new();
        let mut holds = Holds::default();
        let events = every_event(plan.steps.len());
        for choice in choices {
            let legal: Vec<&Event> = events.iter().filter(|event| saga.clone().apply((*event).clone()).is_ok()).collect();
            if legal.is_empty() {
                break;
            }
            let event = legal[choice.index(legal.len())].clone();
            saga.apply(event.clone()).unwrap();
            holds.follow(&plan, &event);
            journal.push(event);
            if let State::Rests(ending) = saga.state() {
                if ending.outcome != Outcome::Stuck {
                    prop_assert!(!holds.drained, "{:?} with a drain: {journal:?}", ending);
                }
                if ending.outcome == Outcome::Unwound {
                    prop_assert!(holds.others.is_empty(), "not undone: {:?}: {journal:?}", holds.others);
                }
                prop_assert_eq!(saga.holds_drain_at_rest(), ending.outcome == Outcome::Stuck && holds.drained, "{:?}", journal);
            } else if !matches!(saga.state(), State::Withdraw { .. }) {
                prop_assert_eq!(saga.holds_drain(), holds.drained, "{:?}", journal);
            }
        }
        let unwinds_nothing = matches!(saga.state(), State::Unwinding { left, .. } if left.is_empty());
        prop_assert!(!unwinds_nothing);
        let text: Vec<String> = journal.iter().map(|event| serde_json::to_string(event).unwrap()).collect();
        let read: Vec<Event> = text.iter().map(|event| serde_json::from_str(event).unwrap()).collect();
        let rebuilt = Saga::rebuild(plan.clone(), read).unwrap();
        prop_assert_eq!(format!("{rebuilt:?}"), format!("{saga:?}"));
        let kept: Plan = serde_json::from_str(&serde_json::to_string(&plan).unwrap()).unwrap();
        prop_assert_eq!(kept, plan);
    }
}

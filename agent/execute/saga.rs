//! The saga's pure state machine: one transition function from a state and an event to a state.
//!
//! Nothing here does I/O. The driver asks [`Saga::task`] what is to be done, does it, and feeds back what
//! happened; the journal is the list of those events, and a saga is rebuilt by feeding it again.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::model::incident::Ending;
use crate::model::{Effect, Leaked, Outcome, Plan, Reason, Step};

/// What happened; one row of the journal each.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum Event {
    /// The step is about to take effect; `preimage` is what was there before.
    Intended { step: usize, preimage: Value },
    /// A pivot of two halves has had its first: the service is being stopped at our word, and is ours to start.
    Stopped { step: usize },
    /// The step took effect. `helped`: what a step that can tell has found; journals of former versions say it by a boolean.
    /// `note`: what the incident's end is to say besides.
    Done {
        step: usize,
        detail: String,
        #[serde(default, deserialize_with = "helped_or_boolean")]
        helped: Option<Helped>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        note: Option<String>,
    },
    /// The step failed. `untouched` speaks of a pivot alone: it provably did not begin, or the service is as it was.
    Failed { step: usize, reason: Reason, detail: String, untouched: bool },
    /// Ended from outside before the pivot: a guard, a shutdown, a restart of the agent.
    Interrupted { reason: Reason, detail: String },
    /// A compensable step was taken back.
    Undone { step: usize, detail: String },
    /// A compensable step must not, or cannot, be taken back.
    UndoRefused { step: usize, reason: Reason, detail: String },
    /// Unhealthy after it was put back: about to take the service out again.
    Withdrawing { preimage: Value },
    /// It is out again, or (`drained: false`) could not be taken out.
    Withdrawn { drained: bool, detail: String },
    /// Every step is done, and the leaked sockets were looked for again: whether it helped, and by what that is known.
    Judged { helped: Helped, detail: String },
}

/// Whether the steps helped; of two the later one in this order stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Helped {
    Yes,
    Unknown,
    No,
}

fn helped_or_boolean<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Helped>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Helped(Helped),
        Boolean(bool),
    }
    Ok(Option::<Written>::deserialize(from)?.map(|written| match written {
        Written::Helped(helped) => helped,
        Written::Boolean(true) => Helped::Yes,
        Written::Boolean(false) => Helped::No,
    }))
}

/// Where a saga stands.
#[derive(Clone, Debug, PartialEq)]
pub enum State {
    /// The step is next.
    Ready {
        step: usize,
    },
    /// The step's intent is journaled; its effect may or may not have taken place.
    Acting {
        step: usize,
    },
    /// Steps are being taken back, the last of `left` first.
    Unwinding {
        left: Vec<usize>,
        why: Ending,
    },
    /// The service became unhealthy after it was put back.
    Withdraw {
        intended: bool,
        why: Ending,
    },
    /// Every step is done; what they came to is to be looked at.
    Judging,
    Rests(Ending),
}

/// What the driver is to do next.
#[derive(Clone, Debug, PartialEq)]
pub enum Task {
    /// Journal the intent of this step, then act.
    Begin(usize),
    /// The intent is journaled: act. After a crash the effect may have taken place already.
    Act(usize),
    Undo {
        step: usize,
        preimage: Value,
    },
    Withdraw,
    /// Look whether the steps helped.
    Judge,
    Rest(Ending),
}

/// An event that cannot follow from the state: data that was damaged, or a defect of the driver.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("the event {event:?} cannot follow the state {state:?}")]
pub struct Illegal {
    pub state: Box<State>,
    pub event: Box<Event>,
}

/// The key of a pre-image under which the leaked sockets stand.
pub(super) const LEAKED: &str = "leaked";

#[derive(Clone, Debug)]
pub struct Saga {
    plan: Plan,
    state: State,
    preimages: BTreeMap<usize, Value>,
    /// The step whose first half is done.
    stopped: Option<usize>,
    /// What the steps that can tell have found so far.
    helped: Helped,
    /// What the end is to say besides.
    notes: Vec<String>,
    /// Our drain was in force when the saga came to rest.
    left_drained: bool,
}

impl Saga {
    pub fn new(plan: Plan) -> Self {
        let state = if plan.steps.is_empty() { State::Rests(kept()) } else { State::Ready { step: 0 } };
        Self {
            plan,
            state,
            preimages: BTreeMap::new(),
            stopped: None,
            helped: Helped::Yes,
            notes: Vec::new(),
            left_drained: false,
        }
    }

    /// A saga as its journal tells it.
    pub fn rebuild(plan: Plan, events: impl IntoIterator<Item = Event>) -> Result<Self, Illegal> {
        let mut saga = Self::new(plan);
        for event in events {
            saga.apply(event)?;
        }
        Ok(saga)
    }

    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// What it is at, for people: a step's name, or what else it does.
    pub fn is_at(&self) -> &'static str {
        match &self.state {
            State::Ready { step } | State::Acting { step } => self.plan.steps[*step].step.name(),
            State::Unwinding { .. } => "unwinding",
            State::Withdraw { .. } => "withdrawing",
            State::Judging => "judging",
            State::Rests(_) => "ending",
        }
    }

    pub fn state(&self) -> &State {
        &self.state
    }

    /// What was there before the step took effect.
    pub fn preimage(&self, step: usize) -> Option<&Value> {
        self.preimages.get(&step)
    }

    /// The sockets that were leaked just before the pivot, as its intent was journaled with them; an error says why they are
    /// not known.
    pub fn leaked(&self) -> Result<Leaked, String> {
        let before = self.plan.judged_from().and_then(|step| self.preimage(step));
        match before.and_then(|before| before.get(LEAKED)) {
            Some(Value::String(why)) => Err(why.clone()),
            Some(known) => serde_json::from_value(known.clone()).map_err(|error| error.to_string()),
            None => Err("its journal has none".into()),
        }
    }

    /// Has the step under way stopped the service, so that starting it is all that is left of it?
    pub fn has_stopped_the_service(&self) -> bool {
        matches!(self.state, State::Acting { step } if self.stopped == Some(step))
    }

    /// What the drain found: what restore, or a person, puts back.
    pub fn drain_preimage(&self) -> Option<&Value> {
        self.drain_step().and_then(|step| self.preimage(step))
    }

    /// Is our own drain in force, as far as the journal knows? True from the drain's intent until it is undone
    /// or restored.
    pub fn holds_drain(&self) -> bool {
        match (&self.state, self.drain_step(), self.restore_step()) {
            (State::Rests(_), ..) | (_, None, _) => false,
            (State::Ready { step }, Some(drain), restore) | (State::Acting { step }, Some(drain), restore) => {
                self.preimages.contains_key(&drain) && restore.is_none_or(|restore| *step <= restore)
            }
            (State::Unwinding { left, .. }, Some(drain), _) => left.contains(&drain),
            (State::Judging, Some(drain), restore) => self.preimages.contains_key(&drain) && restore.is_none(),
            (State::Withdraw { .. }, ..) => true,
        }
    }

    /// Once at rest: was the service left out of traffic by us?
    pub fn holds_drain_at_rest(&self) -> bool {
        matches!(&self.state, State::Rests(ending) if ending.outcome == Outcome::Stuck) && self.left_drained
    }

    /// Has the point of no return been passed, or may it have been?
    pub fn past_pivot(&self) -> bool {
        self.plan.pivot().is_some_and(|pivot| match self.state {
            State::Ready { step } => step > pivot,
            State::Acting { step } => step >= pivot,
            State::Unwinding { .. } => false,
            State::Withdraw { .. } => true,
            State::Judging | State::Rests(_) => self.preimages.contains_key(&pivot),
        })
    }

    /// Has anything been changed, or may it have been?
    pub fn changed_anything(&self) -> bool {
        self.preimages.keys().any(|step| self.plan.steps[*step].effect != Effect::ReadOnly)
    }

    pub fn task(&self) -> Task {
        match &self.state {
            State::Ready { step } => Task::Begin(*step),
            State::Acting { step } => Task::Act(*step),
            State::Unwinding { left, why } => match left.last() {
                Some(step) => Task::Undo { step: *step, preimage: self.preimages[step].clone() },
                None => Task::Rest(why.clone()),
            },
            State::Withdraw { .. } => Task::Withdraw,
            State::Judging => Task::Judge,
            State::Rests(ending) => Task::Rest(ending.clone()),
        }
    }

    /// The one transition function.
    pub fn apply(&mut self, event: Event) -> Result<(), Illegal> {
        let next = match (self.state.clone(), event.clone()) {
            (State::Ready { step: at }, Event::Intended { step, preimage }) if at == step => {
                self.preimages.insert(step, preimage);
                State::Acting { step }
            }
            (State::Acting { step: at }, Event::Stopped { step }) if at == step && self.may_stop(step) => {
                self.stopped = Some(step);
                State::Acting { step }
            }
            (State::Acting { step: at }, Event::Done { step, helped, note, .. }) if at == step => {
                self.helped = self.helped.max(helped.unwrap_or(Helped::Yes));
                self.notes.extend(note);
                self.after(step)
            }
            // A step that is refused before its intent is journaled has no effect of its own to take back.
            (
                State::Ready { step: at } | State::Acting { step: at },
                Event::Failed { step, reason, detail, untouched },
            ) if at == step => self.failed(step, reason, detail, untouched),
            (State::Ready { .. } | State::Acting { .. }, Event::Interrupted { reason, detail })
                if !self.past_pivot() =>
            {
                self.unwind(reason, detail)
            }
            (State::Unwinding { mut left, why }, Event::Undone { step, .. }) if left.last() == Some(&step) => {
                left.pop();
                if left.is_empty() { State::Rests(why) } else { State::Unwinding { left, why } }
            }
            (State::Unwinding { left, .. }, Event::UndoRefused { step, reason, detail })
                if left.last() == Some(&step) =>
            {
                State::Rests(Ending { outcome: Outcome::Stuck, reason, detail })
            }
            (State::Withdraw { why, .. }, Event::Withdrawing { .. }) => State::Withdraw { intended: true, why },
            (State::Withdraw { why, intended: true }, Event::Withdrawn { detail, .. }) => {
                State::Rests(Ending { detail: format!("{}; {detail}", why.detail), ..why })
            }
            (State::Judging, Event::Judged { helped, detail }) => State::Rests(self.judged(helped, &detail)),
            (state, event) => return Err(Illegal { state: Box::new(state), event: Box::new(event) }),
        };
        if let State::Rests(_) = &next {
            self.left_drained = match &event {
                Event::Withdrawn { drained, .. } => *drained,
                _ => self.holds_drain(),
            };
        }
        self.state = next;
        Ok(())
    }

    fn may_stop(&self, step: usize) -> bool {
        self.plan.steps[step].effect == Effect::Pivot && self.stopped != Some(step)
    }

    fn after(&self, step: usize) -> State {
        if step + 1 < self.plan.steps.len() {
            return State::Ready { step: step + 1 };
        }
        if self.changed_anything() { State::Judging } else { State::Rests(kept()) }
    }

    /// A step that found no help is not outvoted by what is gone.
    fn judged(&self, helped: Helped, detail: &str) -> Ending {
        let reason = match self.helped.max(helped) {
            Helped::Yes => Reason::Recovered,
            Helped::No => Reason::NotHelped,
            Helped::Unknown => Reason::Unverified,
        };
        let detail = self.notes.iter().fold(detail.to_owned(), |says, note| format!("{says}; {note}"));
        Ending { outcome: Outcome::Completed, reason, detail }
    }

    fn failed(&self, step: usize, reason: Reason, detail: String, untouched: bool) -> State {
        let why = |outcome| Ending { outcome, reason, detail: detail.clone() };
        // With or without a pivot: what is put back and unhealthy is taken out again; of several registries, also where it
        // was put back in some of them alone.
        let put_back = self.restore_step().is_some_and(|restore| restore <= step);
        if put_back && reason == Reason::UnhealthyAfterRestore {
            return State::Withdraw { intended: false, why: why(Outcome::Stuck) };
        }
        let pivot = self.plan.pivot();
        match pivot.is_none_or(|pivot| step < pivot || (step == pivot && untouched)) {
            true => self.unwind(reason, detail),
            false => State::Rests(why(Outcome::Stuck)),
        }
    }

    fn unwind(&self, reason: Reason, detail: String) -> State {
        let why = Ending { outcome: Outcome::Unwound, reason, detail };
        // What a later step of the runbook has put back already is not ours to undo any more.
        let restored = matches!(self.state, State::Ready { step } | State::Acting { step }
            if self.restore_step().is_some_and(|restore| step > restore));
        let left: Vec<usize> = self
            .preimages
            .keys()
            .copied()
            .filter(|step| self.plan.steps[*step].effect == Effect::Compensable)
            .filter(|step| !(restored && Some(*step) == self.drain_step()))
            .collect();
        if left.is_empty() { State::Rests(why) } else { State::Unwinding { left, why } }
    }

    pub fn drain_step(&self) -> Option<usize> {
        self.plan.steps.iter().position(|planned| matches!(planned.step, Step::Drain { .. }))
    }

    fn restore_step(&self) -> Option<usize> {
        self.plan.steps.iter().position(|planned| matches!(planned.step, Step::Restore { .. }))
    }
}

fn kept() -> Ending {
    Ending { outcome: Outcome::Completed, reason: Reason::EvidenceKept, detail: Reason::EvidenceKept.says().into() }
}

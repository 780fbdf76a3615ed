//! Whatever the clocks do, nothing ends sooner than was said, and nothing lasts twice as long: cooldowns, budgets,
//! silences, pauses, approvals and reminders, over random sequences of steps of the wall clock, suspends, reboots and
//! restarts of the agent, against what really went by.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use jiff::SignedDuration;
use proptest::prelude::*;

use super::scenery::{Scenery, scenery};
use super::*;
use crate::clock::Clock;
use crate::decide::guards::Guard;
use crate::execute::tell::EndFacts;
use crate::model::incident::Ending;
use crate::model::{EventKind, IncidentId, Message, Outcome, Reason, ServiceName};
use crate::store::{Approval, ApprovalState, Audience, OrphanedDrain, Pause, Store};

#[derive(Clone, Debug)]
enum Happens {
    /// So many seconds go by.
    Runs(u64),
    /// The wall clock is set by so many seconds.
    WallStep(i64),
    /// The host sleeps: its clocks go on, and nothing runs.
    Suspend,
    /// The host is off for so many seconds, and boots.
    Reboot(u64),
    AgentRestarts,
    /// Something begins to hold.
    Begins(What),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, strum::EnumIter)]
enum What {
    Cooldown,
    Budget,
    Silence,
    Pause,
    Approval,
    Reminder,
}

const MINUTE: u64 = 60;
const HOUR: u64 = 3_600;
const TEN_YEARS: i64 = 10 * 365 * 86_400;

impl What {
    fn lasts(self) -> Duration {
        seconds(match self {
            Self::Cooldown => 30 * MINUTE,
            Self::Budget => 6 * HOUR,
            Self::Silence => 2 * HOUR,
            Self::Pause => HOUR,
            Self::Approval => 30 * MINUTE,
            Self::Reminder => 24 * HOUR,
        })
    }
}

fn happens() -> impl Strategy<Value = Happens> {
    prop_oneof![
        4 => (1..2 * HOUR).prop_map(Happens::Runs),
        2 => prop_oneof![Just(3_600), Just(-3_600), Just(TEN_YEARS), Just(-TEN_YEARS)].prop_map(Happens::WallStep),
        1 => Just(Happens::Suspend),
        1 => (1..12 * HOUR).prop_map(Happens::Reboot),
        1 => Just(Happens::AgentRestarts),
        3 => prop_oneof![
            Just(What::Cooldown),
            Just(What::Budget),
            Just(What::Silence),
            Just(What::Pause),
            Just(What::Approval),
            Just(What::Reminder)
        ]
        .prop_map(Happens::Begins),
    ]
}

/// The scenery with what really went by.
struct World {
    scenery: Scenery,
    path: std::path::PathBuf,
    /// In truth, since the beginning.
    at: Duration,
    booted: Duration,
    /// When each began last, in truth.
    began: BTreeMap<What, Duration>,
    incidents: u32,
}

impl World {
    fn new(dir: &Path) -> Self {
        let mut scenery = scenery();
        scenery.plan.limits.per_host.incidents = 1_000_000;
        scenery.plan.limits.per_service.incidents = 1;
        scenery.take_slot = false;
        let mut world = Self {
            scenery,
            path: dir.join("unwait.db"),
            at: Duration::ZERO,
            booted: Duration::ZERO,
            began: BTreeMap::new(),
            incidents: 0,
        };
        world.open();
        world
    }

    fn open(&mut self) {
        self.scenery.store = Arc::new(Store::open_with(&self.path, self.scenery.clock.clone()).unwrap());
        self.scenery.gate.store = self.scenery.store.clone();
    }

    fn ending(outcome: Outcome) -> Ending {
        Ending { outcome, reason: Reason::Unhealthy, detail: String::new() }
    }

    fn message(&self) -> Message {
        crate::execute::tell::MessageBuilder {
            plan: &self.scenery.plan,
            host: "bj1-03",
            labels: &[],
            at: self.scenery.now(),
        }
        .end(EventKind::Stuck, &Self::ending(Outcome::Stuck), None, &EndFacts::default())
    }

    fn plays(&mut self, happens: &Happens) {
        let clock = &self.scenery.clock;
        match *happens {
            Happens::Runs(length) => {
                clock.advance(seconds(length));
                self.at += seconds(length);
            }
            Happens::WallStep(by) => clock.step_wall(clock.now() + SignedDuration::from_secs(by)),
            Happens::Suspend => {
                clock.advance(seconds(HOUR));
                self.at += seconds(HOUR);
            }
            Happens::Reboot(off) => {
                clock.advance(seconds(off));
                clock.reboot(Duration::ZERO);
                self.at += seconds(off);
                self.booted = self.at;
                self.open();
                // So that the agent's own warm-up is no part of it.
                self.scenery.gate.warm_up = Duration::ZERO;
            }
            Happens::AgentRestarts => self.open(),
            Happens::Begins(what) => self.begins(what),
        }
    }

    fn begins(&mut self, what: What) {
        let (now, store) = (self.scenery.now(), self.scenery.store.clone());
        self.incidents += 1;
        let id = format!("i-{}", self.incidents);
        match what {
            // Each of the two is an incident that begins and ends now, and changes something.
            What::Cooldown | What::Budget => {
                self.scenery.incident(&id, "rpc-order.service", false, true, Some(Outcome::Completed));
                self.began.insert(What::Cooldown, self.at);
                self.began.insert(What::Budget, self.at);
                return;
            }
            What::Silence => self.scenery.silence(None, what.lasts()),
            What::Pause => {
                let until = Some(now + what.lasts());
                store.pause(&Pause { who: "ann".into(), why: "release".into(), since: now, until }).unwrap();
            }
            What::Approval => {
                let plan = &self.scenery.plan;
                let ask = Approval {
                    // Each is another plan's: the same plan is not asked about twice.
                    hash: id.clone(),
                    id,
                    policy: plan.policy.clone(),
                    service: plan.target.service.to_string(),
                    runbook: plan.runbook.clone(),
                    created: now,
                    expires: now + what.lasts(),
                    state: ApprovalState::Pending,
                    who: None,
                    why: None,
                    decided: None,
                };
                store.ask_approval(&ask, &plan.matters(), &Audience::default(), &self.message()).unwrap();
            }
            What::Reminder => {
                let (service, incident) = (ServiceName::parse("other.service").unwrap(), IncidentId("other".into()));
                store.unlatch(&service, &incident).unwrap();
                let ending = Self::ending(Outcome::Stuck);
                let orphan = OrphanedDrain::of(&incident);
                store.latch_orphan(&service, &orphan, &ending, now, &Audience::default(), &self.message()).unwrap();
            }
        }
        self.began.insert(what, self.at);
    }

    fn holds(&self, what: What, refusing: &[Guard]) -> bool {
        let (now, store) = (self.scenery.now(), &self.scenery.store);
        match what {
            What::Cooldown => refusing.contains(&Guard::Cooldown),
            What::Budget => refusing.contains(&Guard::Budgets),
            What::Silence => refusing.contains(&Guard::Silence),
            What::Pause => refusing.contains(&Guard::Paused),
            What::Approval => store.open_approvals(now).unwrap().len() == 1,
            What::Reminder => store.due_reminders(now, what.lasts()).unwrap().is_empty(),
        }
    }

    fn is_as_said(&self) -> Result<(), TestCaseError> {
        let refusing: Vec<Guard> = self.scenery.all().into_iter().map(|refusal| refusal.guard).collect();
        for (what, began) in &self.began {
            let gone_by = self.at - *began;
            let holds = self.holds(*what, &refusing);
            if gone_by < what.lasts() {
                prop_assert!(holds, "{what:?} ended after {gone_by:?} of {:?}", what.lasts());
            }
            // Without a reboot it ends when it was said to; after one, at the latest that long after it.
            if self.at - (*began).max(self.booted) >= what.lasts() {
                prop_assert!(!holds, "{what:?} still holds after {gone_by:?} of {:?}", what.lasts());
            }
        }
        Ok(())
    }
}

/// As many as `UNWAIT_FAULTS=long` makes of them, and what `tests/run` plays.
fn sequences() -> u32 {
    if std::env::var("UNWAIT_FAULTS").is_ok_and(|how| how == "long") { 5_000 } else { 150 }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(sequences()) })]

    #[test]
    fn nothing_ends_sooner_than_said_nor_lasts_twice_as_long_whatever_the_clocks_do(
        sequence in prop::collection::vec(happens(), 1..40)
    ) {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let mut world = World::new(dir.path());
        for what in &sequence {
            world.plays(what);
            world.is_as_said()?;
        }
    }
}

#[test]
fn a_message_that_is_tried_later_is_not_held_up_by_a_wall_clock_that_is_set_back() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let world = World::new(dir.path());
    let (store, clock) = (&world.scenery.store, &world.scenery.clock);
    let audience = Audience::of(vec![("chat".into(), vec![EventKind::Stuck])]);
    store.tell(&audience, &[world.message()]);
    clock.step_wall(clock.now() - SignedDuration::from_secs(TEN_YEARS));
    let [one] = store.due(clock.now(), 9).unwrap().try_into().unwrap();
    store.try_later(&one.id, clock.now(), seconds(30), "429").unwrap();
    clock.step_wall(clock.now() - SignedDuration::from_secs(TEN_YEARS));
    clock.advance(seconds(29));
    assert!(store.due(clock.now(), 9).unwrap().is_empty());
    clock.advance(seconds(1));
    assert_eq!(store.due(clock.now(), 9).unwrap().len(), 1);
}

#[test]
fn what_a_host_shows_of_a_silence_is_by_its_present_clock() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let world = World::new(dir.path());
    world.scenery.silence(None, seconds(2 * HOUR));
    let clock = &world.scenery.clock;
    clock.advance(seconds(HOUR));
    clock.step_wall(clock.now() + SignedDuration::from_secs(TEN_YEARS));
    let [silence] = world.scenery.store.silences(clock.now()).unwrap().try_into().unwrap();
    assert_eq!(silence.until, clock.now() + seconds(HOUR));
    // Of a reader who opens the file beside the agent, as well.
    let reader = Store::open_to_read(&world.path, clock.clone()).unwrap();
    assert_eq!(reader.silences(clock.now()).unwrap(), [silence]);
}

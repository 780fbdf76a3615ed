//! What the agent tells and remembers beside its sagas, over a real configuration and a real store: breakers, approvals,
//! reminders, and what the fleet hears of breaches.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::oneshot;

use super::breaches::Published;
use super::fleet_status::TellsFleet;
use super::orders::{self, Order};
use super::{approvals, breaches, breaker, messages, remind, review, sweep};
use crate::clock::{Clock, ManualClock};
use crate::decide::detector::Detector;
use crate::model::incident::Ending;
use crate::model::plan::short_hash;
use crate::model::{
    EventKind, HostBreach, HostState, IncidentId, Message, Mode, Outcome, Plan, Policy, Readings, Reason, ServiceName,
    Signal, Trigger,
};
use crate::ports::fleet::SKEW;
use crate::ports::fleet::fake::FakeStore;
use crate::store::{
    ApprovalState, Audience, AuditRow, Implied, JournalRow, OrderVerb, OrphanedDrain, Pause, Person, Store, Word,
};
use crate::view::request::Reply;
use crate::wiring::{Host, OnMessage, Wiring, plans};
use crate::{config, trust};

const AGENT: &str = "\
remind: 1h
notify: [{ to: { slack: { url_file: URL } }, events: [approval, review, stuck] }]
registries: { file: { path: REGISTRY } }
services:
  - service: process:rpc-order
    restart: { process: { argv: [/usr/bin/true], pid_file: /nonexistent/rpc-order.pid } }
    register: [{ registry: file, id: rpc-order-1 }]
";
const POLICY: &str = "\
policy: leak
services: [process:rpc-order]
when: close_wait > 200
for: 0s
mode: approve
guards: { fleet_slots: none, common_cause: 55% }
runbook: restart
";
const RUNBOOK: &str = "\
runbook: restart
steps:
  - restart
  - verify: { expect: [close_wait < 20] }
";
const REGISTRY: &str =
    r#"{"instances": [{"id": "rpc-order-1", "name": "rpc-order", "address": "127.0.0.1:7801", "healthy": true}]}"#;

/// One agent's wiring; a clone of the fleet's store is what other hosts see.
pub(in crate::daemon) struct Set {
    pub(in crate::daemon) wiring: Wiring,
    pub(in crate::daemon) store: Arc<Store>,
    pub(in crate::daemon) clock: Arc<ManualClock>,
    pub(in crate::daemon) fleet: FakeStore,
    pub(in crate::daemon) told: Arc<Mutex<Vec<Message>>>,
    pub(in crate::daemon) dir: tempfile::TempDir,
}

pub(in crate::daemon) fn set() -> Set {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let host = AGENT
        .replace("URL", &path("url").display().to_string())
        .replace("REGISTRY", &path("registry.json").display().to_string());
    // The fleet is put in below: what the configuration names would be a real one.
    let host = format!("{host}fleet: {{ consul: {{ url: \"http://127.0.0.1:1\" }} }}\n");
    std::fs::create_dir(path("policies")).unwrap();
    std::fs::create_dir(path("runbooks")).unwrap();
    for (name, text) in [
        ("agent.yaml", host.as_str()),
        ("policies/p.yaml", POLICY),
        ("runbooks/r.yaml", RUNBOOK),
        ("url", "https://127.0.0.1:1/nobody"),
        ("registry.json", REGISTRY),
    ] {
        trust::write_secret(&path(name), text);
    }
    let config = config::load(dir.path()).unwrap_or_else(|wrong| panic!("{wrong}"));
    let clock = Arc::new(ManualClock::new("2026-11-22T18:43:29Z".parse().unwrap()));
    let told: Arc<Mutex<Vec<Message>>> = Arc::default();
    let hears = told.clone();
    let on_message: OnMessage = Arc::new(move |message| hears.lock().unwrap().push(message.clone()));
    let host = Host { name: "bj1-03".into(), clock: clock.clone(), on_message };
    let mut wiring = Wiring::new(config, host, None).unwrap();
    let fleet = FakeStore::default();
    wiring.ports.fleet = Some(fleet.host("bj1-03", clock.clone()));
    let store = Arc::new(Store::open(Path::new(":memory:")).unwrap());
    Set { wiring, store, clock, fleet, told, dir }
}

impl Set {
    /// Ann's word on an approval, where she has read its plan.
    fn decides(&self, id: &str, approved: bool) -> Reply {
        let asked = self.store.approval("leak", &service(), self.clock.now()).unwrap();
        self.says(id, approved, asked.as_ref().map(|asked| short_hash(&asked.hash)))
    }

    fn says(&self, id: &str, approved: bool, hash: Option<&str>) -> Reply {
        let by = Person { who: "ann".into(), why: None };
        let verb = if approved { OrderVerb::Approve } else { OrderVerb::Deny };
        let (reply, mut answered) = oneshot::channel();
        let order = Order::begin(&self.store, AuditRow::new(verb, &by, self.clock.now()), Some(reply));
        let word = Word { approved, hash, who: "ann", why: None, at: self.clock.now() };
        approvals::decide(&self.store, id, &word, order);
        answered.try_recv().unwrap()
    }

    pub(in crate::daemon) fn policy(&self) -> &Policy {
        &self.wiring.config.policies[0]
    }

    fn plan(&self, incident: &str) -> Plan {
        block(self.plan_of(incident))
    }

    pub(in crate::daemon) async fn plan_of(&self, incident: &str) -> Plan {
        let service = service();
        let proposed = plans::propose(&self.wiring, &self.store, self.policy(), &service, Trigger::Breach, false);
        Plan { incident: IncidentId(incident.into()), ..proposed.await.plan }
    }

    /// An incident of the policy that is carried out, and ends now.
    fn ends(&self, incident: &str, reason: Reason) {
        let (plan, now) = (self.plan(incident), self.clock.now());
        let audience = Audience::default();
        self.store.begin_incident(&plan, now, &audience, &[]).unwrap();
        let ending = Ending { outcome: Outcome::Completed, reason, detail: String::new() };
        let implied = Implied {
            step: "restart",
            changed: true,
            ending: Some(&ending),
            latch: None,
            audience: &audience,
            messages: &[],
        };
        let row = JournalRow { seq: 0, at: now, event: String::new() };
        self.store.append(&plan.incident, &[row], &implied).unwrap();
        self.clock.advance(Duration::from_secs(60));
    }

    /// What was told since this was last asked, by event and title; each of it is in the outbox as well.
    pub(in crate::daemon) fn told(&self) -> Vec<(EventKind, String)> {
        let told = std::mem::take(&mut *self.told.lock().unwrap());
        let outbox = self.store.undelivered(99).unwrap();
        assert!(told.iter().all(|message| outbox.iter().any(|outgoing| outgoing.message == *message)), "{told:?}");
        told.into_iter().map(|message| (message.event, message.title)).collect()
    }

    fn breaker_is_open(&self) -> bool {
        breaker::is_open(&self.wiring, &self.store, self.policy(), &service())
    }
}

pub(in crate::daemon) fn service() -> ServiceName {
    ServiceName::parse("process:rpc-order").unwrap()
}

fn block<T>(asked: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(asked)
}

#[test]
fn a_policy_that_did_not_help_twice_goes_back_to_dry_run_and_is_told_once() {
    let set = set();
    set.ends("i-1", Reason::NotHelped);
    set.ends("i-2", Reason::Recovered);
    set.ends("i-3", Reason::NotHelped);
    assert!(!set.breaker_is_open());
    set.ends("i-4", Reason::NotHelped);
    assert_eq!(set.told(), []);
    assert!(set.breaker_is_open() && set.breaker_is_open());
    assert_eq!(set.told(), [(EventKind::Stuck, "process:rpc-order on bj1-03: leak goes back to dry-run".to_string())]);

    set.store.rearm("leak", None, &Person::default(), set.clock.now()).unwrap();
    set.clock.advance(Duration::from_secs(1));
    assert!(!set.breaker_is_open());
    set.ends("i-5", Reason::NotHelped);
    assert!(!set.breaker_is_open(), "it counts anew");
    set.ends("i-6", Reason::NotHelped);
    assert!(set.breaker_is_open());
    assert_eq!(set.told().len(), 1);
}

#[test]
fn people_are_asked_about_a_plan_and_their_word_is_taken_once() {
    let set = set();
    let plan = set.plan("i-1");
    approvals::ask(&set.wiring, &set.store, set.policy(), &plan, vec!["close_wait > 200: now 288".into()]);
    let approval = set.store.approval("leak", &service(), set.clock.now()).unwrap().unwrap();
    assert_eq!((approval.state, approval.hash), (ApprovalState::Pending, plan.hash()));
    assert_eq!(approval.expires, set.clock.now() + Duration::from_secs(30 * 60));
    let message = set.told.lock().unwrap()[0].clone();
    let says = message.to_string();
    for word in ["close_wait > 200: now 288", "steps: restart, verify", &format!("unwait approve {}", approval.id)] {
        assert!(says.contains(word), "{word}: {says}");
    }
    assert_eq!(set.told()[0].0, EventKind::Approval);

    assert!(!set.decides("00000000", true).ok);
    assert!(set.decides(&approval.id, true).ok);
    let again = set.decides(&approval.id, true);
    assert!(!again.ok && again.text.contains("approved already"), "{again:?}");
    set.ends("i-2", Reason::Recovered);
    let used = set.decides(&approval.id, false);
    assert!(!used.ok && used.text.contains("used already"), "{used:?}");
}

#[test]
fn an_approval_names_the_plan_that_was_read_by_its_hash() {
    let set = set();
    let plan = set.plan("i-1");
    approvals::ask(&set.wiring, &set.store, set.policy(), &plan, Vec::new());
    let approval = set.store.approval("leak", &service(), set.clock.now()).unwrap().unwrap();
    let (id, hash) = (approval.id, plan.hash());
    let to_type = format!("unwait approve {id} {}", &hash[..12]);
    assert!(set.told.lock().unwrap()[0].to_string().contains(&to_type));
    for (read, says) in
        [(None, "does not name the plan"), (Some("0123456789ab"), "not 0123456789ab"), (Some(&hash[..7]), "not")]
    {
        let reply = set.says(&id, true, read);
        assert!(!reply.ok && reply.text.contains(says) && reply.text.ends_with(&to_type), "{reply:?}");
    }
    assert!(set.says(&id, true, Some(&hash[..8].to_uppercase())).ok);
    // A denial harms nobody.
    assert!(set.says(&id, false, None).ok);
}

#[test]
fn a_plan_that_has_changed_is_asked_about_anew_with_what_changed_and_the_same_one_is_not_asked_about_twice() {
    let set = set();
    let plan = set.plan("i-1");
    let ask = |plan: &Plan| approvals::ask(&set.wiring, &set.store, set.policy(), plan, Vec::new());
    ask(&plan);
    ask(&plan);
    assert_eq!(set.told().len(), 1);
    let first = set.store.approval("leak", &service(), set.clock.now()).unwrap().unwrap().id;

    let mut other = plan.clone();
    other.target.bindings[0].id = "rpc-order-9".into();
    set.clock.advance(Duration::from_secs(1));
    ask(&other);

    let message = set.told.lock().unwrap()[0].to_string();
    let changed = format!("asked anew: the plan changed since {first} was asked ({})", &plan.hash()[..12]);
    for word in [changed.as_str(), r#"target.bindings[0].id: was "rpc-order-1", is "rpc-order-9""#] {
        assert!(message.contains(word), "{word}: {message}");
    }
    let late = set.says(&first, true, Some(&plan.hash()));
    assert!(!late.ok && late.text.contains("is closed: another plan has taken its place"), "{late:?}");
}

#[test]
fn what_people_did_is_told_once_also_where_no_agent_ran_then() {
    let set = set();
    let pause = Pause { who: "ann".into(), why: "release 41".into(), since: set.clock.now(), until: None };
    set.store.pause(&pause).unwrap();
    let by = Person { who: "bob".into(), why: None };
    let under_way = Order::begin(&set.store, AuditRow::new(OrderVerb::Act, &by, set.clock.now()), None);
    let under_way = under_way.of(service().as_str());

    orders::tell(&set.wiring, &set.store);
    orders::tell(&set.wiring, &set.store);
    under_way.answer(Reply::refused("paused by ann"));
    orders::tell(&set.wiring, &set.store);

    let told = set.told.lock().unwrap();
    let said: Vec<(EventKind, String)> = told.iter().map(|message| (message.event, message.to_string())).collect();
    let paused = "unwait on bj1-03: paused by ann\nno action until `unwait resume`\nwhy: release 41";
    let refused = format!("{} on bj1-03: `act` by bob was refused\npaused by ann", service());
    assert_eq!(said, [(EventKind::Operator, paused.to_owned()), (EventKind::Operator, refused)]);
}

#[test]
fn what_people_did_is_told_although_the_disk_does_not_take_it_and_is_in_the_audit_once_it_does() {
    let by = Person { who: "bob".into(), why: None };
    for written_before in [false, true] {
        let set = set();
        set.store.refuse_writes(!written_before);
        let order = Order::begin(&set.store, AuditRow::new(OrderVerb::Resolve, &by, set.clock.now()), None);
        set.store.refuse_writes(true);
        order.of(service().as_str()).answer(Reply::done("left as it is"));
        for _ in 0..3 {
            orders::tell(&set.wiring, &set.store);
        }
        set.store.refuse_writes(false);
        for _ in 0..3 {
            orders::tell(&set.wiring, &set.store);
        }

        let title = format!("{} on bj1-03: resolved by bob", service());
        let told: Vec<String> = set.told.lock().unwrap().iter().map(|message| message.title.clone()).collect();
        assert_eq!(told, [title], "written before: {written_before}");
        let rows = set.store.audit_rows(None, 9).unwrap();
        let done: Vec<_> = rows.iter().map(|row| (row.done, row.detail.as_str())).collect();
        assert_eq!(done, [(Some(true), "left as it is")], "written before: {written_before}");
    }
}

#[test]
fn who_hears_that_a_reload_was_rejected_does_not_hear_that_it_was_refused_as_well() {
    let mut set = set();
    let events = [
        ("both", vec![EventKind::Stuck, EventKind::Operator]),
        ("operator", vec![EventKind::Operator]),
        ("stuck", vec![EventKind::Stuck]),
    ];
    set.wiring.audience = Arc::new(Audience::of(events.map(|(name, events)| (name.to_owned(), events))));
    let by = Person { who: "bob".into(), why: None };
    for verb in [OrderVerb::Reload, OrderVerb::Act] {
        Order::begin(&set.store, AuditRow::new(verb, &by, set.clock.now()), None).answer(Reply::refused("no"));
    }

    orders::tell_beside(&set.wiring, &set.store, Some(EventKind::Stuck));

    let due = set.store.due(set.clock.now(), 10).unwrap();
    let mut told: Vec<_> = due.iter().map(|one| (&*one.destination, &*one.message.title)).collect();
    told.sort_unstable();
    let (reload, act) = ("unwait on bj1-03: `reload` by bob was refused", "unwait on bj1-03: `act` by bob was refused");
    assert_eq!(told, [("both", act), ("operator", act), ("operator", reload)]);
}

#[test]
fn a_word_that_comes_too_late_is_refused() {
    let set = set();
    approvals::ask(&set.wiring, &set.store, set.policy(), &set.plan("i-1"), Vec::new());
    let id = set.store.approval("leak", &service(), set.clock.now()).unwrap().unwrap().id;
    set.clock.advance(Duration::from_secs(30 * 60));
    let late = set.decides(&id, true);
    assert!(!late.ok && late.text.contains("expired at 2026-11-22T19:13:29Z"), "{late:?}");
}

#[test]
fn a_latch_is_told_again_each_period() {
    let set = set();
    let ending = Ending { outcome: Outcome::Stuck, reason: Reason::Unhealthy, detail: "no answer".into() };
    let first = messages::recovered(&set.wiring, set.policy(), &service());
    let incident = IncidentId("i-1".into());
    set.store
        .latch_orphan(&service(), &OrphanedDrain::of(&incident), &ending, set.clock.now(), &Audience::default(), &first)
        .unwrap();
    let mut told = Vec::new();
    for minute in 1..=150 {
        set.clock.advance(Duration::from_secs(60));
        remind::of_latches(&set.wiring, &set.store);
        told.extend(set.told().into_iter().map(|(event, title)| (minute, event, title)));
    }
    let title = |hours| format!("process:rpc-order on bj1-03: still needs a person, for {hours}h now: unhealthy");
    assert_eq!(told, [(60, EventKind::Stuck, title(1)), (120, EventKind::Stuck, title(2))]);
}

#[test]
fn a_slot_that_the_fleets_store_does_not_take_back_is_told_within_minutes_and_again_each_period() {
    let set = set();
    let incident = IncidentId("i-1".into());
    set.store.note_slot(&incident, "rpc-order").unwrap();
    set.fleet.set_unreachable(true);
    let mut told = Vec::new();
    let mut before = 0;
    for minute in [0, 1, 2, 3, 30, 61, 62, 63] {
        set.clock.advance(Duration::from_secs(60 * (minute - before)));
        before = minute;
        block(sweep::release_slots(&set.wiring.ports, &set.store, set.clock.now()));
        remind::of_slots(&set.wiring, &set.store);
        told.extend(set.told().into_iter().map(|(event, title)| (minute, event, title)));
    }
    let title = |lasts| {
        format!("rpc-order on bj1-03: its fleet slot could not be given back for {lasts}; no other host gets it")
    };
    assert_eq!(told, [(2, EventKind::Stuck, title("2m")), (62, EventKind::Stuck, title("1h2m"))]);
    let [slot] = set.store.unreturned_slots().unwrap().try_into().unwrap();
    assert_eq!((slot.service.as_str(), slot.error.as_str()), ("rpc-order", "fleet: nobody answers"));

    set.fleet.set_unreachable(false);
    block(sweep::release_slots(&set.wiring.ports, &set.store, set.clock.now()));
    assert_eq!(set.store.unreturned_slots().unwrap(), []);
}

#[test]
fn a_dry_run_of_two_weeks_is_told_once_with_what_it_would_have_done() {
    let set = set();
    set.store.note_policies(&[("leak", Mode::DryRun)], set.clock.now()).unwrap();
    let dry = Plan { dry_run: true, ..set.plan("i-1") };
    set.store.begin_incident(&dry, set.clock.now(), &Audience::default(), &[]).unwrap();
    set.clock.advance(Duration::from_secs(14 * 86_400 - 1));
    review::tell_of_dry_runs(&set.wiring, &set.store);
    assert_eq!(set.told(), []);
    set.clock.advance(Duration::from_secs(1));
    review::tell_of_dry_runs(&set.wiring, &set.store);
    let message = set.told.lock().unwrap()[0].clone();
    assert_eq!(
        message.to_string(),
        "unwait on bj1-03: leak has run dry for 14 days; it would have acted once\n`auto` would have restarted \
         process:rpc-order once in 14d; the end of 1 was not seen.\nlook: unwait review --since 14d --policy leak"
    );
    assert_eq!(set.told().len(), 1);
    review::tell_of_dry_runs(&set.wiring, &set.store);
    assert_eq!(set.told(), []);
}

#[test]
fn a_breach_stands_in_the_fleet_while_it_lasts_and_no_longer() {
    let set = set();
    let others = set.fleet.host("bj1-04", set.clock.clone());
    let known = || block(others.breaches("rpc-order")).unwrap();
    let (mut detector, mut published) = (Detector::default(), Published::default());
    let mut look = |close_wait: f64, published: &mut Published| {
        set.clock.advance(Duration::from_secs(15));
        let mut readings = Readings::default();
        readings.set(Signal::CloseWait, close_wait);
        detector.tick(set.policy(), &service(), &readings, set.clock.monotonic(), Duration::from_secs(15));
        block(published.follow(&set.wiring, &breaches::shared(&set.wiring.config, &detector)));
    };
    look(10.0, &mut published);
    assert!(known().is_empty());
    // Longer than a lease, and each look would meet its end.
    for _ in 0..20 {
        look(288.0, &mut published);
        assert_eq!(known(), ["bj1-03"]);
    }
    look(10.0, &mut published);
    assert!(known().is_empty(), "taken back at once");

    // A host that died is not counted for long.
    look(288.0, &mut published);
    assert_eq!(known(), ["bj1-03"]);
    set.clock.advance(Duration::from_secs(60) + SKEW);
    assert!(known().is_empty());
}

#[test]
fn a_store_that_does_not_answer_is_tried_again_and_not_at_every_look() {
    let set = set();
    let others = set.fleet.host("bj1-04", set.clock.clone());
    let (mut detector, mut published) = (Detector::default(), Published::default());
    let mut readings = Readings::default();
    readings.set(Signal::CloseWait, 288.0);
    set.fleet.set_unreachable(true);
    for second in 0..40 {
        set.clock.advance(Duration::from_secs(1));
        detector.tick(set.policy(), &service(), &readings, set.clock.monotonic(), Duration::from_secs(1));
        block(published.follow(&set.wiring, &breaches::shared(&set.wiring.config, &detector)));
        if second == 20 {
            set.fleet.set_unreachable(false);
        }
    }
    assert_eq!(block(others.breaches("rpc-order")).unwrap(), ["bj1-03"]);
}

#[tokio::test]
async fn the_fleet_is_told_how_this_host_is_where_that_has_changed_and_otherwise_seldom() {
    let set = set();
    let mut tells = TellsFleet::default();
    let breach = |held: Option<&str>| HostBreach {
        service: "process:rpc-order".into(),
        policy: "leak".into(),
        since: "2026-11-22T18:43:00Z".parse().unwrap(),
        held: held.map(Into::into),
    };
    let mut writes = async |breaches: Vec<HostBreach>, passes: u64| {
        set.clock.advance(Duration::from_secs(passes));
        let (_, before) = set.fleet.asked();
        tells.follow(&set.wiring, &set.store, breaches, true).await;
        set.fleet.asked().1 - before
    };
    assert_eq!(writes(vec![], 0).await, 1);
    assert_eq!(writes(vec![breach(None)], 10).await, 0, "too soon");
    assert_eq!(writes(vec![breach(None)], 20).await, 1);
    assert_eq!(writes(vec![breach(None)], 30).await, 0, "nothing has changed");
    assert_eq!(writes(vec![breach(Some("paused"))], 1).await, 1);
    assert_eq!(writes(vec![breach(Some("paused"))], 299).await, 0);
    assert_eq!(writes(vec![breach(Some("paused"))], 1).await, 1, "before it counts as old");
    set.fleet.set_unreachable(true);
    assert_eq!(writes(vec![], 30).await, 0);
    set.fleet.set_unreachable(false);
    assert_eq!(writes(vec![], 59).await, 0, "it was away just now");
    assert_eq!(writes(vec![], 1).await, 1);
    let hosts = set.wiring.ports.fleet.as_ref().unwrap().statuses().await.unwrap();
    let [(host, Ok(told))] = hosts.as_slice() else { panic!("{hosts:?}") };
    assert_eq!((host.as_str(), told.status.state, told.status.breaches.len()), ("bj1-03", HostState::AtWork, 0));
}

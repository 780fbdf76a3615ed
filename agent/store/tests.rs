use super::*;
use crate::execute::fakes::{self, Fault, Shape};
use crate::model::incident::Ending;
use crate::model::{EventKind, IncidentId, Message, Outcome, Plan, Reason, ServiceName};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

mod hanging;
mod outbox;

impl Store {
    /// A store that goes by the times that it is told, and not by the host's clocks.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let connection = Connection::open(path).map_err(|source| StoreError::Sqlite { path: path.into(), source })?;
        schema::prepare(&connection, path)?;
        Self::over(connection, path, Timeline::Told, &(Arc::new(crate::clock::SystemClock) as Arc<dyn Clock>))
    }

    /// As a disk that is full, or read-only: each write fails until it is called off.
    pub fn refuse_writes(&self, refuse: bool) {
        self.take().connection().pragma_update(None, "query_only", refuse).expect("a pragma of the connection's own");
    }

    fn take(&self) -> lane::Taken<'_> {
        self.writer.take(false).expect("no disk hangs")
    }

    /// What waits in memory.
    pub fn spilled(&self) -> Vec<Outgoing> {
        self.outbox.waiting().iter().map(|one| one.outgoing.clone()).collect()
    }

    /// What is due for everybody, the oldest first, and for each so many.
    pub fn due(&self, now: Timestamp, at_most: usize) -> Result<Vec<Outgoing>, StoreError> {
        let mut due = Vec::new();
        for destination in self.destinations_due(now)? {
            let queue = self.queue(&destination, now, at_most)?;
            due.extend(queue.into_iter().filter(|one| one.is_due).map(|one| one.outgoing));
        }
        due.sort_by_key(|outgoing| outgoing.message.at);
        Ok(due)
    }

    /// As a process that dies.
    pub fn forget_spilled(&self) {
        self.outbox.waiting().clear();
    }
}

fn now() -> Timestamp {
    "2026-11-22T18:43:29Z".parse().unwrap()
}

fn memory() -> Store {
    Store::open(Path::new(":memory:")).unwrap()
}

fn plan(incident: &str) -> Plan {
    let mut plan = fakes::plan(fakes::steps(Shape::IsolateRestartRecover, Fault::Nothing));
    plan.incident = IncidentId(incident.into());
    plan
}

fn service() -> ServiceName {
    ServiceName::parse("rpc-order.service").unwrap()
}

fn message(event: EventKind) -> Message {
    Message { service: Some(service()), ..Message::new(event, "bj1-03", now(), event.to_string()) }
}

fn everybody() -> Audience {
    let all = vec![EventKind::Start, EventKind::End, EventKind::Stuck];
    Audience::of(vec![("chat".into(), all), ("pager".into(), vec![EventKind::Stuck])])
}

fn row(seq: u32) -> JournalRow {
    JournalRow { seq, at: now() + Duration::from_secs(seq.into()), event: format!("event {seq}") }
}

fn ending(outcome: Outcome, reason: Reason) -> Ending {
    Ending { outcome, reason, detail: "what happened".into() }
}

fn append(store: &Store, incident: &str, rows: &[JournalRow], ended: Option<&Ending>) -> Result<(), StoreError> {
    let (audience, messages, service) = (everybody(), [message(EventKind::Stuck)], service());
    let stuck = ended.filter(|ending| ending.outcome == Outcome::Stuck);
    let implied = Implied {
        step: "restart",
        changed: true,
        ending: ended,
        latch: stuck.map(|ending| (&service, ending)),
        audience: &audience,
        messages: if ended.is_some() { &messages } else { &[] },
    };
    store.append(&IncidentId(incident.into()), rows, &implied)
}

fn begin(store: &Store, incident: &str) {
    store.begin_incident(&plan(incident), now(), &everybody(), &[message(EventKind::Start)]).unwrap();
}

#[test]
fn a_file_is_made_synced_and_found_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("unwait.db");
    {
        let store = Store::open(&path).unwrap();
        begin(&store, "i-1");
        append(&store, "i-1", &[row(0)], None).unwrap();
        let pragma = |name: &str| -> String {
            let row = |row: &rusqlite::Row<'_>| row.get::<_, rusqlite::types::Value>(0);
            format!("{:?}", store.take().connection().query_row(&format!("PRAGMA {name}"), [], row).unwrap())
        };
        assert_eq!(pragma("journal_mode"), "Text(\"wal\")");
        assert_eq!(pragma("synchronous"), "Integer(2)", "FULL");
        assert_eq!(pragma("foreign_keys"), "Integer(1)");
    }
    let store = Store::open(&path).unwrap();
    let open = store.open_incidents().unwrap();
    assert_eq!(open.len(), 1);
    assert_eq!(open[0].plan, plan("i-1"), "the plan is read back as it was");
    assert_eq!(open[0].journal, [row(0)]);
}

#[test]
fn an_older_file_migrates_and_a_newer_one_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("unwait.db");
    rusqlite::Connection::open(&path).unwrap();
    let version = |path: &Path| -> i64 {
        let connection = rusqlite::Connection::open(path).unwrap();
        connection.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap()
    };
    assert_eq!(version(&path), 0);
    drop(Store::open(&path).unwrap());
    let known = version(&path);
    assert!(known > 0);
    drop(Store::open(&path).unwrap());

    rusqlite::Connection::open(&path).unwrap().pragma_update(None, "user_version", known + 1).unwrap();
    let before = std::fs::read(&path).unwrap();
    let refused = Store::open(&path).unwrap_err();
    assert!(matches!(refused, StoreError::Newer { found, known: k, .. } if found == known + 1 && k == known));
    assert!(refused.to_string().contains("newer unwait"), "{refused}");
    assert_eq!(std::fs::read(&path).unwrap(), before, "a newer file was touched");
}

#[test]
fn what_is_no_database_is_a_clear_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("unwait.db");
    std::fs::write(&path, "not a database, but long enough to be looked at as one".repeat(40)).unwrap();
    let error = Store::open(&path).unwrap_err().to_string();
    assert!(error.contains("unwait.db"), "{error}");
}

#[test]
fn an_event_that_is_written_again_is_there_once() {
    let store = memory();
    begin(&store, "i-1");
    append(&store, "i-1", &[row(0)], None).unwrap();
    append(&store, "i-1", &[row(0), row(1)], None).unwrap();
    append(&store, "i-1", &[JournalRow { event: "another".into(), ..row(1) }, row(2)], None).unwrap();
    assert_eq!(store.journal(&IncidentId("i-1".into())).unwrap(), [row(0), row(1), row(2)], "the first word stands");
}

#[test]
fn the_ending_the_latch_and_the_messages_are_one_transaction() {
    let store = memory();
    begin(&store, "i-1");
    let stuck = ending(Outcome::Stuck, Reason::Unhealthy);
    // A constraint that fails last, at the outbox, takes everything with it.
    store
        .take()
        .connection()
        .execute_batch("CREATE TRIGGER full BEFORE INSERT ON outbox BEGIN SELECT RAISE(ABORT, 'full'); END")
        .unwrap();
    append(&store, "i-1", &[row(0)], Some(&stuck)).unwrap_err();
    assert!(store.journal(&IncidentId("i-1".into())).unwrap().is_empty());
    assert_eq!(store.latch(&service()).unwrap(), None);
    assert_eq!(store.open_incidents().unwrap().len(), 1);
    assert_eq!(store.last_ended(&service(), false, now()).unwrap().with_effect, None);

    store.take().connection().execute_batch("DROP TRIGGER full").unwrap();
    append(&store, "i-1", &[row(0)], Some(&stuck)).unwrap();
    let latch = store.latch(&service()).unwrap().unwrap();
    assert_eq!((latch.incident.as_str(), latch.reason.as_str()), ("i-1", "unhealthy"));
    assert!(store.open_incidents().unwrap().is_empty());
    assert_eq!(store.last_ended(&service(), false, now()).unwrap().with_effect, Some(row(0).at));
    let told: Vec<(String, EventKind)> =
        store.undelivered(10).unwrap().into_iter().map(|out| (out.destination, out.message.event)).collect();
    for wanted in [("chat", EventKind::Start), ("chat", EventKind::Stuck), ("pager", EventKind::Stuck)] {
        assert!(told.contains(&(wanted.0.into(), wanted.1)), "{wanted:?} of {told:?}");
    }
    assert_eq!(told.len(), 3, "the pager did not ask for the start");
}

#[test]
fn a_message_is_due_tried_later_refused_and_forgotten() {
    let store = memory();
    let pager = Audience::of(vec![("pager".into(), vec![EventKind::Stuck])]);
    store.tell(&pager, &[message(EventKind::Stuck), message(EventKind::Start)]);
    let due = |at: Timestamp| store.due(at, 10).unwrap();
    let [one] = due(now()).try_into().unwrap();
    assert_eq!((one.attempts, &one.message), (0, &message(EventKind::Stuck)));

    store.try_later(&one.id, now(), Duration::from_secs(30), "429").unwrap();
    assert!(due(now() + Duration::from_millis(29_999)).is_empty());
    let [again] = due(now() + Duration::from_secs(30)).try_into().unwrap();
    assert_eq!((again.id == one.id, again.attempts, again.error.as_deref()), (true, 1, Some("429")));

    store.refused(&one.id, "404").unwrap();
    assert!(due(now() + Duration::from_secs(3_600)).is_empty(), "refused is not tried again");
    assert_eq!(store.undelivered(10).unwrap()[0].error.as_deref(), Some("404"), "and is shown");
    store.forget_told(now()).unwrap();
    assert_eq!(store.undelivered(10).unwrap().len(), 1, "not older than the bound");
    store.forget_told(now() + Duration::from_secs(1)).unwrap();
    assert!(store.undelivered(10).unwrap().is_empty());

    store.tell(&pager, &[message(EventKind::Stuck)]);
    let [one] = due(now()).try_into().unwrap();
    store.delivered(std::slice::from_ref(&one.id), None).unwrap();
    assert!(store.undelivered(10).unwrap().is_empty());
}

#[test]
fn what_the_disk_refuses_waits_in_memory_and_the_health_follows_the_last_write() {
    let store = memory();
    begin(&store, "i-1");
    assert_eq!(store.health(), Health::Sound);
    store.refuse_writes(true);
    store.tell(&everybody(), &[message(EventKind::Stuck)]);
    assert_eq!(store.health(), Health::Failing);
    append(&store, "i-1", &[row(0)], None).unwrap_err();
    store.test_write(now()).unwrap_err();

    assert_eq!(store.spilled().len(), 2, "for chat and for the pager");

    store.refuse_writes(false);
    assert_eq!(store.health(), Health::Failing, "until a write has succeeded");
    store.test_write(now()).unwrap();
    assert_eq!(store.health(), Health::Sound);
}

#[test]
fn cooldowns_and_budgets_count_what_changed_something_and_keep_dry_run_apart() {
    let store = memory();
    for (incident, dry_run, changed, after) in
        [("real", false, true, 0), ("dry", true, true, 10), ("looked", false, false, 20), ("later", false, true, 30)]
    {
        let plan = Plan { dry_run, ..plan(incident) };
        store.begin_incident(&plan, now() + Duration::from_secs(after), &Audience::default(), &[]).unwrap();
        let audience = Audience::default();
        let completed = match changed {
            true => ending(Outcome::Completed, Reason::Recovered),
            false => ending(Outcome::Unwound, Reason::EvidenceNotKept),
        };
        let implied = Implied {
            step: "restart",
            changed,
            ending: Some(&completed),
            latch: None,
            audience: &audience,
            messages: &[],
        };
        store.append(&plan.incident, &[row(100 + after as u32)], &implied).unwrap();
    }
    let at = |seconds: u64| now() + Duration::from_secs(seconds);
    let ended = |service: &ServiceName, dry_run| store.last_ended(service, dry_run, now()).unwrap();
    assert_eq!(ended(&service(), false), LastEnded { with_effect: Some(at(130)), without: Some(at(120)) });
    assert_eq!(ended(&service(), true), LastEnded { with_effect: Some(at(110)), without: None });
    let (hour, nobody) = (Duration::from_secs(3_600), IncidentId("nobody".into()));
    let later = IncidentId("later".into());
    assert_eq!(store.changes_since(None, false, at(40), hour, &later).unwrap(), [at(0)], "who asks does not count");
    assert_eq!(store.changes_since(None, false, at(40), hour, &nobody).unwrap(), [at(0), at(30)]);
    assert_eq!(store.changes_since(Some(&service()), true, at(40), hour, &nobody).unwrap(), [at(10)]);
    assert_eq!(
        store.changes_since(None, false, at(3_600), hour, &nobody).unwrap(),
        [at(30)],
        "as old as the window is out"
    );
    let other = ServiceName::parse("other.service").unwrap();
    assert!(store.changes_since(Some(&other), false, at(40), hour, &nobody).unwrap().is_empty());
    assert_eq!(ended(&other, false), LastEnded { with_effect: None, without: None });
}

#[test]
fn slots_are_given_back_once_their_incident_has_ended_and_is_not_latched() {
    let store = memory();
    let released = || -> Vec<String> { store.slots_to_release().unwrap().into_iter().map(|(id, _)| id.0).collect() };
    begin(&store, "runs");
    begin(&store, "stuck");
    begin(&store, "ended");
    for incident in ["runs", "stuck", "ended", "never-began"] {
        store.note_slot(&IncidentId(incident.into()), &format!("of-{incident}")).unwrap();
    }
    append(&store, "stuck", &[row(0)], Some(&ending(Outcome::Stuck, Reason::Unhealthy))).unwrap();
    append(&store, "ended", &[row(0)], Some(&ending(Outcome::Completed, Reason::Recovered))).unwrap();
    assert_eq!(released(), ["ended", "never-began"]);
    assert!(!store.unlatch(&service(), &IncidentId("ended".into())).unwrap(), "only the incident that latched it");
    assert!(store.unlatch(&service(), &IncidentId("stuck".into())).unwrap());
    assert!(released().contains(&"stuck".to_string()), "a person has decided");
    for incident in ["ended", "never-began", "stuck"] {
        store.forget_slot(&IncidentId(incident.into())).unwrap();
    }
    assert!(released().is_empty());
}

#[test]
fn a_slot_that_is_not_taken_back_is_told_of_after_a_while_again_each_period_and_no_more_once_it_is() {
    let store = memory();
    let audience = Audience::of(vec![("chat".into(), vec![EventKind::Stuck])]);
    let id = IncidentId("ended".into());
    let (patience, every) = (Duration::from_secs(120), Duration::from_secs(3_600));
    let at = |second: u64| now() + Duration::from_secs(second);
    begin(&store, "ended");
    store.note_slot(&id, "rpc-order").unwrap();
    append(&store, "ended", &[row(0)], Some(&ending(Outcome::Completed, Reason::Recovered))).unwrap();
    assert_eq!(store.unreturned_slots().unwrap(), [], "it was not tried yet");
    let before = store.undelivered(99).unwrap().len();
    let mut told = Vec::new();
    for minute in 0..=130 {
        let now = at(minute * 60);
        let first = store.slot_not_taken_back(&id, &format!("500 at {minute}"), now, patience).unwrap();
        assert_eq!(first, minute == 0);
        for slot in store.due_slots(now).unwrap() {
            let message = Message::new(EventKind::Stuck, "bj1-03", now, "");
            assert!(store.tell_of_slot(&slot, now, every, &audience, &message).unwrap());
            assert!(!store.tell_of_slot(&slot, now, every, &audience, &message).unwrap(), "told already");
            told.push(minute);
        }
    }
    assert_eq!(told, [2, 62, 122]);
    assert_eq!(store.undelivered(99).unwrap().len(), before + 3);
    let error = "500 at 130".into();
    let stands = UnreturnedSlot { incident: "ended".into(), service: "rpc-order".into(), error, since: at(0) };
    assert_eq!(store.unreturned_slots().unwrap(), [stands]);
    store.forget_slot(&id).unwrap();
    assert_eq!(store.unreturned_slots().unwrap(), []);
}

/// A counting lock knows the host, and not for which incident: what one gives back the other would lose.
#[test]
fn a_slot_that_an_incident_still_needs_is_not_given_back_for_another_of_its_name() {
    let store = memory();
    let id = |incident: &str| IncidentId(incident.into());
    let needs = |incident: &str| store.slot_needed_by_another(&id(incident), "rpc-order").unwrap();
    begin(&store, "first");
    for incident in ["first", "second"] {
        store.note_slot(&id(incident), "rpc-order").unwrap();
    }
    assert_eq!((needs("second"), needs("first")), (Some(id("first")), None));
    assert_eq!(store.slots_to_release().unwrap(), [], "the first runs");
    assert_eq!(store.slot_needed_by_another(&id("second"), "rpc-user").unwrap(), None, "another name");
    append(&store, "first", &[row(0)], Some(&ending(Outcome::Stuck, Reason::Unhealthy))).unwrap();
    assert_eq!(needs("second"), Some(id("first")));
    assert_eq!(store.slots_to_release().unwrap(), [], "the first rests stuck");
    assert!(store.unlatch(&service(), &id("first")).unwrap());
    assert_eq!(needs("second"), None);
    assert_eq!(store.slots_to_release().unwrap().len(), 2);
}

#[test]
fn what_is_in_an_incidents_way_stands_until_its_next_event() {
    let store = memory();
    let id = IncidentId("i-1".into());
    begin(&store, "i-1");
    let waits_for = || store.open_incidents().unwrap().pop().and_then(|open| open.waits_for);
    for seq in [0, 1] {
        store.set_waits_for(&id, "consul: nobody answers").unwrap();
        assert_eq!(waits_for().as_deref(), Some("consul: nobody answers"));
        append(&store, "i-1", &[row(seq)], None).unwrap();
        assert_eq!(waits_for(), None);
    }
    store.set_waits_for(&id, "consul: nobody answers").unwrap();
    let ended = ending(Outcome::Stuck, Reason::Unhealthy);
    append(&store, "i-1", &[row(2)], Some(&ended)).unwrap();
    store.set_waits_for(&id, "too late").unwrap();
    assert_eq!(store.incident(&id).unwrap().unwrap().detail, Some(ended.detail));
}

#[test]
fn the_step_under_way_is_told_without_reading_the_journal() {
    let store = memory();
    let step = || store.under_way().unwrap().pop().map(|open| open.step);
    begin(&store, "i-1");
    assert_eq!(step().as_deref(), Some("snapshot"), "the plan's first");
    append(&store, "i-1", &[row(0)], None).unwrap();
    store.take().connection().execute_batch("ALTER TABLE journal RENAME TO elsewhere").unwrap();
    assert_eq!(step().as_deref(), Some("restart"), "as the last event left it");
}

#[test]
fn a_pause_holds_until_its_time_and_is_ended_by_hand() {
    let store = memory();
    let pause = |until| Pause { who: "ann".into(), why: "deploy".into(), since: now(), until };
    let until = now() + Duration::from_secs(60);
    store.pause(&pause(Some(until))).unwrap();
    assert_eq!(store.paused(until - Duration::from_millis(1)).unwrap(), Some(pause(Some(until))));
    assert_eq!(store.paused(until).unwrap(), None);
    store.pause(&pause(None)).unwrap();
    assert!(store.paused(until + Duration::from_secs(1 << 30)).unwrap().is_some());
    assert!(store.resume(&Person::default(), now()).unwrap());
    assert!(!store.resume(&Person::default(), now()).unwrap());
    assert_eq!(store.paused(now()).unwrap(), None);
}

#[test]
fn neither_a_pause_nor_a_silence_is_shortened_by_a_shorter_one() {
    let store = memory();
    let after = |seconds| now() + Duration::from_secs(seconds);
    let pause = |who: &str, until| Pause { who: who.into(), why: "deploy".into(), since: now(), until };
    let in_force = || store.paused(now()).unwrap().unwrap();
    assert_eq!(store.pause(&pause("ann", Some(after(60)))).unwrap(), None);
    assert_eq!(store.pause(&pause("script", Some(after(60)))).unwrap(), Some(pause("ann", Some(after(60)))));
    assert_eq!(store.pause(&pause("bob", Some(after(61)))).unwrap(), None);
    assert_eq!(in_force(), pause("bob", Some(after(61))));
    assert_eq!(store.pause(&pause("unwait", None)).unwrap(), None);
    for shorter in [Some(after(1 << 30)), None] {
        assert_eq!(store.pause(&pause("script", shorter)).unwrap(), Some(pause("unwait", None)));
    }
    assert_eq!(in_force(), pause("unwait", None));

    let silence = |service: Option<&str>, who: &str, until| {
        let service = service.map(Into::into);
        Silence { service, who: who.into(), why: "migration".into(), since: now(), until, until_clear: false }
    };
    for service in [None, Some("rpc-order.service")] {
        assert_eq!(store.silence(&silence(service, "ann", after(60))).unwrap(), None);
        let stands = store.silence(&silence(service, "script", after(1))).unwrap();
        assert_eq!(stands, Some(silence(service, "ann", after(60))));
        assert_eq!(store.silence(&silence(service, "bob", after(90))).unwrap(), None);
    }
    assert!(store.silences(now()).unwrap().iter().all(|silence| silence.who == "bob"));
    // What is over stands in nobody's way.
    let later = Silence { since: after(90), until: after(91), ..silence(None, "cid", now()) };
    assert_eq!(store.silence(&later).unwrap(), None);
}

#[test]
fn the_state_directory_is_one_agents_and_private() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("deep/state");
    let taken = StateDir::take(&state).unwrap();
    assert_eq!(std::fs::metadata(&state).unwrap().permissions().mode() & 0o777, 0o700);
    let refused = StateDir::take(&state).unwrap_err();
    assert!(
        matches!(&refused, StateDirError::Taken { pid, .. } if *pid == std::process::id().to_string()),
        "{refused}"
    );
    drop(taken);
    drop(StateDir::take(&state).unwrap());

    for mode in [0o750, 0o701, 0o777] {
        std::fs::set_permissions(&state, std::fs::Permissions::from_mode(mode)).unwrap();
        assert!(matches!(StateDir::take(&state), Err(StateDirError::NotPrivate { .. })), "{mode:o}");
    }
    std::fs::set_permissions(&state, std::fs::Permissions::from_mode(0o700)).unwrap();
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&state, &link).unwrap();
    assert!(matches!(StateDir::take(&link), Err(StateDirError::NotPrivate { .. })), "a link was followed");
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    StateDir::take(&file).unwrap_err();
    // A link in the lock's place leads nowhere.
    std::fs::remove_file(state.join("agent.lock")).unwrap();
    std::os::unix::fs::symlink(&file, state.join("agent.lock")).unwrap();
    assert!(matches!(StateDir::take(&state), Err(StateDirError::Io { .. })), "the lock was followed elsewhere");
    assert_eq!(std::fs::read(&file).unwrap(), b"");
}

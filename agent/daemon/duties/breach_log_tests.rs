use std::path::Path;

use super::*;
use crate::model::policy::{Comparison, GuardSettings, Limits};
use crate::model::{Condition, Mode, NetNs, Runbook, SocketId};
use crate::store::BreachRow;

const INTERVAL: Duration = Duration::from_secs(15);

fn policy() -> Policy {
    let above = Comparison { signal: Signal::CloseWait, operator: Operator::Above, threshold: 100.0 };
    Policy {
        name: "leak".into(),
        description: String::new(),
        services: Vec::new(),
        when: Condition::Compare(above),
        hold: Duration::ZERO,
        clear: None,
        mode: Mode::DryRun,
        held_mode: None,
        runbook: Runbook { name: String::new(), description: String::new(), steps: Vec::new() },
        further: Vec::new(),
        limits: Limits::default(),
        guards: GuardSettings::default(),
    }
}

fn service() -> ServiceName {
    ServiceName::parse("rpc-order.service").unwrap()
}

fn key() -> Key {
    ("leak".into(), service())
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn readings(close_wait: f64) -> Readings {
    let mut readings = Readings::default();
    readings.set(Signal::CloseWait, close_wait);
    readings
}

fn leaked(boot: &str) -> Leaked {
    let socket = |n| SocketId { namespace: NetNs(1), cookie: n, inode: n };
    Leaked { boot: boot.into(), at_least: Duration::ZERO, sockets: (1..=200).map(socket).collect() }
}

fn store() -> Store {
    Store::open(Path::new(":memory:")).unwrap()
}

fn fresh() -> (Store, BreachLog) {
    let store = store();
    let log = BreachLog::of(&store, "b", Duration::ZERO);
    (store, log)
}

fn row(store: &Store) -> BreachRow {
    let [row] = store.breaches(None, at(0)).unwrap().try_into().unwrap();
    row
}

fn tick(log: &mut BreachLog, store: &Store, close_wait: f64, change: Option<Change>, second: i64) {
    log.tick(&policy(), &service(), &readings(close_wait), change, at(second));
    write(store, &log.take());
}

/// What is due now is found so; false where nothing is due.
fn look(log: &mut BreachLog, store: &Store, incarnation: &str, remain: Option<usize>, second: u64) -> bool {
    let due = log.due(Duration::from_secs(second));
    let found = |sought: Sought| Found {
        id: sought.id,
        service: sought.service,
        incarnation: Some(incarnation.into()),
        sockets: Ok(match sought.leaked {
            None => FoundSockets::Noted(leaked("b")),
            Some(_) => FoundSockets::Remain(remain),
        }),
    };
    let found: Vec<Found> = due.into_iter().map(found).collect();
    let is_due = !found.is_empty();
    log.found(found, INTERVAL, (at(second as i64), Duration::from_secs(second)));
    write(store, &log.take());
    is_due
}

#[test]
fn a_breach_is_written_with_its_worst_value_its_holds_and_the_end_of_its_sockets() {
    let (store, mut log) = fresh();
    tick(&mut log, &store, 200.0, Some(Change::Breach), 0);
    assert!(look(&mut log, &store, "1", None, 0), "they are noted at once");
    assert!(!look(&mut log, &store, "1", Some(200), 59), "and looked for four intervals later");
    log.held(&key(), Guard::Cooldown, Reason::Cooldown, at(15));
    log.held(&key(), Guard::Cooldown, Reason::Cooldown, at(30));
    tick(&mut log, &store, 288.0, None, 30);
    log.acts(&key(), true, at(45));
    assert!(look(&mut log, &store, "1", None, 60), "not all could be looked for: nothing is known");
    assert!(look(&mut log, &store, "1", Some(90), 120));
    tick(&mut log, &store, 50.0, Some(Change::Cleared), 130);
    assert!(look(&mut log, &store, "1", Some(40), 131), "a last time");
    assert!(!look(&mut log, &store, "1", Some(0), 10_000));

    let row = row(&store);
    assert_eq!((row.began, row.ended, row.cleared, row.worst), (at(0), Some(at(130)), true, 288.0));
    assert_eq!(row.holds.iter().map(|hold| hold.lasted.as_secs()).collect::<Vec<_>>(), [30]);
    let sockets = row.sockets.unwrap();
    assert_eq!((sockets.of, sockets.remain, sockets.half_gone, sockets.all_gone), (200, 40, Some(at(120)), None));
    assert!(log.entries.is_empty(), "{log:?}");
}

#[test]
fn a_leak_that_stands_is_looked_for_less_and_less_often() {
    let (store, mut log) = fresh();
    tick(&mut log, &store, 200.0, Some(Change::Breach), 0);
    let fortnight = 14 * 86_400;
    let looks = (0..fortnight).step_by(15).filter(|second| look(&mut log, &store, "1", Some(200), *second)).count();
    assert!((100..250).contains(&looks), "{looks}");
}

#[test]
fn a_restart_by_somebody_else_and_an_action_of_ours_are_no_healing() {
    let (store, mut log) = fresh();
    tick(&mut log, &store, 200.0, Some(Change::Breach), 0);
    look(&mut log, &store, "1", None, 0);
    look(&mut log, &store, "2", Some(0), 60);
    assert!(row(&store).sockets.unwrap().restarted);
    assert!(!look(&mut log, &store, "2", Some(0), 10_000), "they are followed no further");

    let (store, mut log) = fresh();
    tick(&mut log, &store, 200.0, Some(Change::Breach), 0);
    look(&mut log, &store, "1", None, 0);
    log.acts(&key(), false, at(30));
    assert!(!look(&mut log, &store, "2", Some(0), 10_000));
    assert_eq!(row(&store).sockets.unwrap().all_gone, None);
}

#[test]
fn a_breach_goes_on_over_a_restart_of_the_agent_and_its_sockets_do_not_over_a_boot() {
    let (store, mut log) = fresh();
    tick(&mut log, &store, 200.0, Some(Change::Breach), 0);
    look(&mut log, &store, "1", None, 0);
    look(&mut log, &store, "1", Some(150), 60);
    log.held(&key(), Guard::Silence, Reason::Silenced, at(60));
    log.rest(at(90));
    write(&store, &log.take());

    let mut log = BreachLog::of(&store, "b", Duration::from_secs(1_000));
    assert_eq!(log.left().cloned().collect::<Vec<_>>(), [service()]);
    // It holds again, but not for its whole `for` yet: neither over nor another one.
    tick(&mut log, &store, 200.0, None, 1_000);
    tick(&mut log, &store, 210.0, Some(Change::Breach), 1_015);
    assert_eq!(log.left().count(), 0);
    look(&mut log, &store, "1", Some(0), 1_020);
    tick(&mut log, &store, 0.0, Some(Change::Cleared), 1_030);
    let seen = row(&store);
    assert!(seen.interrupted && seen.cleared, "{seen:?}");
    assert_eq!((seen.holds[0].lasted, seen.worst), (Duration::from_secs(30), 210.0));
    assert_eq!(seen.sockets.unwrap().all_gone, Some(at(1_020)));

    // Another boot ends all sockets, which tells nothing of the leak. That it is over is seen at the first look.
    tick(&mut log, &store, 200.0, Some(Change::Breach), 2_000);
    look(&mut log, &store, "1", None, 2_000);
    let mut log = BreachLog::of(&store, "another", Duration::ZERO);
    assert_eq!(log.next_id, 3);
    assert!(!look(&mut log, &store, "1", Some(0), 3_000));
    tick(&mut log, &store, 0.0, None, 3_000);
    let rows = store.breaches(None, at(0)).unwrap();
    assert_eq!((rows[1].ended, rows[1].cleared, rows[1].sockets.unwrap().remain), (Some(at(3_000)), true, 200));
}

#[test]
fn a_configuration_that_asks_for_something_else_ends_what_is_watched() {
    let (store, mut log) = fresh();
    tick(&mut log, &store, 200.0, Some(Change::Breach), 0);
    log.keep(&Detector::default(), |_, _| true, at(60));
    write(&store, &log.take());
    let row = row(&store);
    assert_eq!((row.ended, row.cleared), (Some(at(60)), false));
    assert!(log.entries.is_empty() && log.standing.is_empty(), "{log:?}");
}

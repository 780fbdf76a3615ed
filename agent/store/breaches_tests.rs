use std::path::Path;

use super::*;
use crate::model::{NetNs, SocketId};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn service() -> ServiceName {
    ServiceName::parse("rpc-order.service").unwrap()
}

fn begin(store: &Store, id: i64, second: i64) {
    store.note_breaches(&[began(id, second)]).unwrap();
}

fn began(id: i64, second: i64) -> BreachNote {
    BreachNote::Began(NewBreach {
        id,
        policy: "leak".into(),
        service: service(),
        mode: Mode::DryRun,
        began: at(second),
        signal: "close_wait".into(),
        worst: 210.0,
    })
}

fn held(by: Option<(&'static str, Reason)>, second: i64, worst: f64) -> BreachNote {
    BreachNote::Held { id: 1, by, at: at(second), worst }
}

fn follow(second: i64) -> BreachNote {
    BreachNote::Follow { id: 1, leaked: Arc::new(leaked(4)), incarnation: Some("1".into()), at: at(second) }
}

fn leaked(count: u64) -> Leaked {
    let socket = |n| SocketId { namespace: NetNs(1), cookie: n, inode: 100 + n };
    Leaked { boot: "b".into(), at_least: Duration::ZERO, sockets: (1..=count).map(socket).collect() }
}

fn found(remain: u32, second: i64) -> BreachNote {
    let found = FollowedSockets { remain, restarted: false, is_last: remain == 0 };
    BreachNote::Followed { id: 1, found, at: at(second) }
}

#[test]
fn a_breach_is_told_with_its_holds_and_with_what_became_of_its_sockets() {
    let store = Store::open(Path::new(":memory:")).unwrap();
    begin(&store, 1, 0);
    let notes = [
        held(Some(("cooldown", Reason::Cooldown)), 10, 220.0),
        held(Some(("silence", Reason::Silenced)), 40, 230.0),
        held(Some(("cooldown", Reason::Cooldown)), 50, 240.0),
        held(None, 55, 240.0),
        follow(1),
        found(3, 60),
        found(2, 120),
        found(1, 180),
        found(0, 240),
        BreachNote::Ended { id: 1, at: at(300), cleared: true, worst: 288.0 },
    ];
    store.note_breaches(&notes).unwrap();

    let hold = |guard: &str, reason, seconds| HoldRow {
        guard: guard.into(),
        reason: Recorded::Known(reason),
        lasted: Duration::from_secs(seconds),
        since: None,
    };
    let expected = BreachRow {
        policy: "leak".into(),
        service: service().to_string(),
        mode: Recorded::Known(Mode::DryRun),
        began: at(0),
        ended: Some(at(300)),
        cleared: true,
        interrupted: false,
        signal: "close_wait".into(),
        worst: 288.0,
        sockets: Some(LeakedSockets {
            of: 4,
            remain: 0,
            looked: at(240),
            half_gone: Some(at(120)),
            all_gone: Some(at(240)),
            restarted: false,
        }),
        holds: vec![hold("cooldown", Reason::Cooldown, 35), hold("silence", Reason::Silenced, 10)],
    };
    assert_eq!(store.breaches(None, at(300)).unwrap(), std::slice::from_ref(&expected));
    assert_eq!(store.breaches(Some("leak"), at(0)).unwrap(), [expected]);
    assert_eq!(store.breaches(Some("another"), at(0)).unwrap(), []);
    assert_eq!(store.breaches(None, at(301)).unwrap(), []);
    let left = store.left_breaches().unwrap();
    assert!(left.standing.is_empty() && left.next_id == 2, "{left:?}");
}

#[test]
fn what_a_former_agent_left_standing_goes_on_and_nobody_guesses_what_held_it_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("unwait.db");
    let store = Store::open(&path).unwrap();
    begin(&store, 1, 0);
    store.note_breaches(&[follow(1), found(3, 60), held(Some(("silence", Reason::Silenced)), 70, 230.0)]).unwrap();
    drop(store);

    let store = Store::open(&path).unwrap();
    let [left] = store.left_breaches().unwrap().standing.try_into().unwrap();
    assert_eq!((left.id, left.policy.as_str(), &left.service, left.worst), (1, "leak", &service(), 230.0));
    assert_eq!((left.leaked, left.incarnation.as_deref(), left.remain), (Some(leaked(4)), Some("1"), Some(3)));
    let [row] = store.breaches(None, at(0)).unwrap().try_into().unwrap();
    assert!(row.interrupted && row.ended.is_none(), "{row:?}");
    assert_eq!((row.holds[0].lasted, row.holds[0].since), (Duration::ZERO, None));
}

#[test]
fn the_newest_are_kept() {
    let store = Store::open(Path::new(":memory:")).unwrap();
    begin(&store, 1, 0);
    store.note_breaches(&[held(Some(("silence", Reason::Silenced)), 1, 1.0)]).unwrap();
    // An agent that could not read how far they were counted begins far beyond.
    let far = i64::from(u32::MAX);
    begin(&store, far, 2);
    assert_eq!(store.breaches(None, at(0)).unwrap().len(), 2);
    let more: Vec<BreachNote> = (1..KEPT).map(|n| began(far + n, 2)).collect();
    store.note_breaches(&more).unwrap();
    let kept = store.breaches(None, at(0)).unwrap();
    assert_eq!((kept.len() as i64, kept.iter().filter(|row| row.began == at(0)).count()), (KEPT, 0));
    let holds = |connection: &rusqlite::Connection| {
        connection.query_row("SELECT count(*) FROM breach_hold", [], |row| row.get::<_, i64>(0))
    };
    assert_eq!(store.read(holds).unwrap(), 0);
}

#[test]
fn a_disk_that_takes_no_account_does_not_end_all_action() {
    let store = Store::open(Path::new(":memory:")).unwrap();
    begin(&store, 1, 0);
    store.refuse_writes(true);
    assert!(store.note_breaches(&[held(None, 1, 1.0)]).is_err());
    assert_eq!(store.health(), crate::store::Health::Sound);
}

use std::path::Path;

use super::*;
use crate::store::{Pause, Silence};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn store() -> Store {
    Store::open(Path::new(":memory:")).unwrap()
}

fn ann(why: Option<&str>) -> Person {
    Person { who: "ann".into(), why: why.map(Into::into) }
}

#[test]
fn what_is_written_straight_to_the_store_leaves_its_row_and_nothing_where_it_cannot() {
    let store = store();
    let service = ServiceName::parse("rpc-order.service").unwrap();
    let pause = |until| Pause { who: "ann".into(), why: "release".into(), since: at(1), until };
    let silence = Silence {
        until_clear: false,
        service: Some(service.to_string()),
        who: "ann".into(),
        why: "release".into(),
        since: at(3),
        until: at(60),
    };
    store.pause(&pause(Some(at(90)))).unwrap();
    store.pause(&pause(Some(at(80)))).unwrap();
    store.resume(&ann(None), at(2)).unwrap();
    store.resume(&ann(None), at(2)).unwrap();
    store.silence(&silence).unwrap();
    store.end_silence(Some(&service), &ann(Some("over")), at(4)).unwrap();
    store.rearm("leak", Some(&service), &ann(None), at(5)).unwrap();
    store.refuse_writes(true);
    store.pause(&pause(None)).unwrap_err();
    store.refuse_writes(false);

    let rows = store.audit_rows(None, 99).unwrap().into_iter().rev();
    let said = rows.map(|row| {
        let AuditRow { at, who, verb, service, why, done, detail, .. } = row;
        let on = service.unwrap_or_default();
        let done = if done == Some(true) { "" } else { "refused: " };
        format!("{} {who} {verb} {on} {}: {done}{detail}", at.as_second() % 100, why.unwrap_or_default())
    });
    let expected = [
        "1 ann pause  release: no action until 2027-01-15T08:01:30Z",
        "1 ann pause  release: a pause that lasts as long or longer was in force, and stays",
        "2 ann resume  : the pause is over",
        "2 ann resume  : no pause was in force",
        "3 ann silence rpc-order.service release: no action until 2027-01-15T08:01:00Z",
        "4 ann end_silence rpc-order.service over: the silence is over",
        "5 ann rearm rpc-order.service : refused: no breaker of leak is open",
    ];
    assert_eq!(said.collect::<Vec<_>>(), expected);
}

#[test]
fn an_order_stands_in_the_audit_before_it_is_carried_out_and_is_answered_where_its_agent_died() {
    let store = store();
    let row = AuditRow::new(OrderVerb::Resolve, &ann(None), at(1)).of(Some("rpc-order.service"));
    let id = store.audit(&row).unwrap();
    assert_eq!(store.audit_rows(None, 9).unwrap(), std::slice::from_ref(&row));
    assert_eq!(store.audit_untold().unwrap(), [], "not before it is answered");

    store.audit_left().unwrap();

    let [(untold, left)] = &store.audit_untold().unwrap()[..] else { panic!("one row") };
    assert_eq!((*untold, left.done), (id, Some(false)));
    assert!(left.is_unanswered() && left.detail.contains("ended before it answered"), "{left:?}");
    let answered = row.answered(true, "unlatched");
    store.audit_answer(id, &answered).unwrap();
    assert_eq!(store.audit_rows(None, 9).unwrap(), [answered]);
}

#[test]
fn an_incident_shows_what_was_done_about_it_its_service_and_the_host_in_its_time() {
    let store = store();
    let write = |second: i64, service: Option<&str>, incident: Option<&str>| {
        let row = AuditRow::new(OrderVerb::Act, &ann(Some(&second.to_string())), at(second)).of(service);
        store.audit(&AuditRow { incident: incident.map(|id| IncidentId(id.into())), ..row }).unwrap();
    };
    write(1, Some("a.service"), None);
    write(10, Some("a.service"), None);
    write(11, Some("b.service"), None);
    write(12, None, None);
    write(90, Some("a.service"), Some("i-1"));
    let of = |rows: Vec<AuditRow>| rows.into_iter().filter_map(|row| row.why).collect::<Vec<_>>();
    let incident = IncidentId("i-1".into());
    let shown = store.audit_of(&incident, "a.service", at(5), at(20)).unwrap();
    assert_eq!(of(shown), ["10", "12", "90"]);
    let service = ServiceName::parse("a.service").unwrap();
    assert_eq!(of(store.audit_rows(Some(&service), 3).unwrap()), ["90", "12", "10"]);
}

#[test]
fn the_newest_rows_are_kept() {
    let store = store();
    let row = AuditRow::new(OrderVerb::Act, &ann(None), at(1));
    store
        .write(|transaction| {
            transaction.execute("INSERT INTO audit(id, at, who, verb) VALUES (?1, 0, 'bob', 'act')", [KEPT])?;
            transaction.execute("INSERT INTO audit(id, at, who, verb) VALUES (1, 0, 'old', 'act')", [])
        })
        .unwrap();
    store.audit(&row).unwrap();
    let who: Vec<String> = store.audit_rows(None, 9).unwrap().into_iter().map(|row| row.who).collect();
    assert_eq!(who, ["ann", "bob"]);
}

//! Who is told of what, and what waits for whom.

use super::*;

#[test]
fn who_asks_for_ends_and_for_what_is_stuck_hears_once_of_an_incident_that_ends_stuck() {
    let store = Store::open(Path::new(":memory:")).unwrap();
    let ends = |name: &str, events: &[EventKind]| (name.to_owned(), events.to_vec());
    let audience = Audience::of(vec![
        ends("both", &[EventKind::End, EventKind::Stuck]),
        ends("log", &[EventKind::End]),
        ends("pager", &[EventKind::Stuck]),
    ]);
    let of = |incident: &str, event| Message { incident: Some(IncidentId(incident.into())), ..message(event) };
    store.tell(&audience, &[of("i-1", EventKind::End), of("i-1", EventKind::Stuck)]);
    store.tell(&audience, &[of("i-2", EventKind::End)]);
    let told: Vec<_> =
        store.undelivered(9).unwrap().into_iter().map(|one| (one.destination, one.message.event)).collect();
    let told: Vec<(&str, EventKind)> = told.iter().map(|(to, event)| (to.as_str(), *event)).collect();
    let expected = [
        ("log", EventKind::End),
        ("both", EventKind::Stuck),
        ("pager", EventKind::Stuck),
        ("both", EventKind::End),
        ("log", EventKind::End),
    ];
    assert_eq!(told, expected);
}

#[test]
fn a_message_that_waits_in_memory_is_due_tried_later_delivered_and_refused_there() {
    let store = memory();
    store.refuse_writes(true);
    store.tell(&everybody(), &[message(EventKind::Stuck)]);
    let [chat, pager] = store.due(now(), 10).unwrap().try_into().unwrap();
    assert_eq!((chat.destination.as_str(), pager.destination.as_str()), ("chat", "pager"));
    store.try_later(&chat.id, now(), Duration::from_secs(30), "429").unwrap();
    assert_eq!(store.due(now(), 10).unwrap(), std::slice::from_ref(&pager));
    let again = Outgoing { attempts: 1, error: Some("429".into()), ..chat };
    assert_eq!(store.due(now() + Duration::from_secs(30), 10).unwrap(), [again.clone(), pager.clone()]);
    store.delivered(std::slice::from_ref(&pager.id), None).unwrap();
    assert_eq!(store.spilled(), std::slice::from_ref(&again));
    store.refused(&again.id, "404").unwrap();
    assert_eq!(store.spilled(), []);
}

#[test]
fn of_each_destination_so_many_are_due_and_the_oldest_first() {
    let store = memory();
    let at = |second| Message { at: now() + Duration::from_secs(second), ..message(EventKind::Stuck) };
    for second in [3, 1, 2] {
        store.tell(&everybody(), &[at(second)]);
    }
    store.refuse_writes(true);
    store.tell(&everybody(), &[at(0)]);
    let due = || -> Vec<(String, Timestamp)> {
        let due = store.due(now() + Duration::from_secs(9), 2).unwrap();
        due.into_iter().map(|one| (one.destination, one.message.at)).collect()
    };
    let [chat, pager] = ["chat", "pager"].map(|to| [0, 1].map(|second| (to.to_string(), at(second).at)));
    assert_eq!(due(), [chat[0].clone(), pager[0].clone(), chat[1].clone(), pager[1].clone()]);
    // What was delivered, and cannot be noted, takes no place.
    for one in store.due(now() + Duration::from_secs(9), 2).unwrap() {
        let noted = store.delivered(std::slice::from_ref(&one.id), None);
        assert_eq!(noted.is_ok(), one.message.at == now(), "what waits in memory is not on the disk");
    }
    assert_eq!(due().iter().map(|(_, at)| *at).collect::<Vec<_>>(), [2, 2, 3, 3].map(|second| at(second).at));
}

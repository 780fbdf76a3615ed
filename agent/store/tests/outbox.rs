//! Who is told of what.

use super::*;

#[test]
fn who_asks_for_ends_and_for_what_is_stuck_hears_once_of_an_incident_that_ends_stuck() {
    let store = Store::open(Path::new(":memory:")).unwrap();
    let ends = |name: &str, events: &[EventKind]| (name.to_owned(), events.to_vec());
    let audience = Audience(vec![
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

//! Any queue keeps the rules; and 200 incidents.

use proptest::prelude::*;

use super::*;
use crate::model::IncidentId;
use crate::store::Outgoing;

const SLACK: Pace = Pace { every: Duration::from_secs(1), joined_bytes: Some(2_500) };
const AT_ONCE: usize = 10;

const TOLD: &str = "2026-11-22T18:43:29Z";

/// Nothing gathers any more.
fn later() -> Timestamp {
    TOLD.parse::<Timestamp>().unwrap() + SOON
}

fn queued(nth: usize, service: Option<usize>, event: EventKind, policy: usize) -> Queued {
    let host = "bj1-03";
    let name = service.map(|service| format!("s{service}.service"));
    let title = format!("{} on {host}: {event} {nth}", name.as_deref().unwrap_or("unwait"));
    let message = Message {
        service: name.map(|name| ServiceName::parse(&name).unwrap()),
        policy: Some(format!("policy-{policy}")),
        incident: service.map(|service| IncidentId(format!("i-{service}"))),
        lines: vec!["look:   unwait show ID".into(), format!("decide: unwait resolve {nth}")],
        ..Message::new(event, host, TOLD.parse().unwrap(), title)
    };
    let outgoing = Outgoing { id: nth.to_string(), destination: "slack".into(), message, attempts: 0, error: None };
    Queued { outgoing, is_due: true }
}

fn any_queue() -> impl Strategy<Value = Vec<Queued>> {
    let event = prop::sample::select(vec![
        EventKind::Breach,
        EventKind::Start,
        EventKind::Step,
        EventKind::End,
        EventKind::Stuck,
        EventKind::Approval,
    ]);
    let one = (prop::option::weighted(0.9, 0..6usize), event, 0..2usize, prop::bool::weighted(0.9), 0..8u32);
    prop::collection::vec(one, 0..80).prop_map(|all| {
        let one = |(nth, (service, event, policy, is_due, attempts))| {
            let mut one = queued(nth, service, event, policy);
            (one.is_due, one.outgoing.attempts) = (is_due, attempts);
            one
        };
        all.into_iter().enumerate().map(one).collect()
    })
}

fn find<'a>(queue: &'a [Queued], id: &str) -> &'a Queued {
    &queue[id.parse::<usize>().unwrap()]
}

/// Those that a message of the same service keeps waiting.
fn waits(queue: &[Queued], nth: usize) -> bool {
    let blocks =
        |before: &Queued| of(before) == of(&queue[nth]) && !before.is_due && before.outgoing.attempts < GIVES_WAY_AFTER;
    queue[..nth].iter().any(blocks)
}

proptest! {
    #[test]
    fn each_message_that_may_go_is_in_one_batch(queue in any_queue()) {
        let mut sent: Vec<String> = batches(&queue, later(), SLACK, &BTreeSet::new()).into_iter().flat_map(|batch| batch.ids).collect();
        sent.sort_by_key(|id| id.parse::<usize>().unwrap());
        let may = |nth: &usize| queue[*nth].is_due && !waits(&queue, *nth);
        let expected: Vec<String> = (0..queue.len()).filter(may).map(|nth| nth.to_string()).collect();
        prop_assert_eq!(sent, expected);
    }

    #[test]
    fn of_each_service_the_order_is_kept(queue in any_queue()) {
        let mut last: BTreeMap<Option<ServiceName>, usize> = BTreeMap::new();
        for batch in batches(&queue, later(), SLACK, &BTreeSet::new()) {
            for id in &batch.ids {
                let nth: usize = id.parse().unwrap();
                let before = last.insert(of(&queue[nth]).cloned(), nth);
                prop_assert!(before.is_none_or(|before| before < nth), "{before:?} before {nth}");
            }
        }
    }

    #[test]
    fn what_asks_a_person_stands_whole_and_before_all_that_is_not_of_its_service(mut queue in any_queue()) {
        queue.iter_mut().for_each(|one| one.outgoing.attempts = 0);
        let batches = batches(&queue, later(), SLACK, &BTreeSet::new());
        for (place, batch) in batches.iter().enumerate() {
            for id in &batch.ids {
                let one = find(&queue, id);
                if is_urgent(one) {
                    let own = &one.outgoing.message;
                    prop_assert!(batch.message == *own || batch.message.to_string().contains(&own.to_string()));
                }
            }
            let asks = |batch: &Batch| batch.ids.iter().map(|id| find(&queue, id)).any(is_urgent);
            let later: Vec<&Batch> = batches[place..].iter().filter(|batch| asks(batch)).collect();
            let are_of_later = |id: &String| {
                later.iter().any(|later| later.ids.iter().any(|urgent| of(find(&queue, urgent)) == of(find(&queue, id))))
            };
            prop_assert!(later.is_empty() || batch.ids.iter().all(are_of_later), "{place}");
        }
    }

    #[test]
    fn a_joined_message_is_shown_whole_and_counts_what_it_does_not_name(queue in any_queue()) {
        for batch in batches(&queue, later(), SLACK, &BTreeSet::new()) {
            if batch.ids.len() < 2 {
                continue;
            }
            prop_assert!(batch.message.to_string().len() <= 2_500, "{}", batch.message);
            let all: Vec<&Queued> = batch.ids.iter().map(|id| find(&queue, id)).collect();
            let named = all.iter().filter(|one| batch.message.lines.contains(&one.outgoing.message.title)).count();
            let more = all.len() - named;
            let counted = format!("and {more} more: unwait history");
            prop_assert_eq!(more > 0, batch.message.lines.contains(&counted), "{}", batch.message);
        }
    }

    #[test]
    fn what_goes_out_soon_is_not_joined(queue in any_queue()) {
        let few = &queue[..queue.len().min(AT_ONCE)];
        for sent in batches(few, later(), SLACK, &BTreeSet::new()).iter().chain(&batches(&queue, later(), Pace::UNLIMITED, &BTreeSet::new())) {
            prop_assert_eq!(sent, &alone(find(&queue, &sent.id)));
        }
    }
}

#[test]
fn two_hundred_incidents_are_six_messages_and_the_one_that_is_stuck_goes_first() {
    let mut queue = Vec::new();
    for service in 0..200 {
        for event in [EventKind::Breach, EventKind::Start, EventKind::End] {
            let event = if service == 150 && event == EventKind::End { EventKind::Stuck } else { event };
            queue.push(queued(queue.len(), Some(service), event, 0));
        }
    }
    let sent = batches(&queue, later(), SLACK, &BTreeSet::new());
    let told: Vec<(EventKind, usize)> = sent.iter().map(|batch| (batch.message.event, batch.ids.len())).collect();
    let expected = [
        (EventKind::Breach, 1),
        (EventKind::Start, 1),
        (EventKind::Stuck, 1),
        (EventKind::Breach, 199),
        (EventKind::Start, 199),
        (EventKind::End, 199),
    ];
    assert_eq!(told, expected);
    assert_eq!(sent[5].message.title, "policy-0 on bj1-03: 199 incidents ended");
    assert_eq!(sent[5].message.lines[0], "s0.service on bj1-03: end 2");
    assert!(sent[5].message.lines.last().unwrap().starts_with("and 1"), "{}", sent[5].message);
}

#[test]
fn what_was_refused_joined_goes_by_itself() {
    let queue: Vec<Queued> = (0..30).map(|nth| queued(nth, Some(nth), EventKind::Breach, 0)).collect();
    let [joined] = &batches(&queue, later(), SLACK, &BTreeSet::new())[..] else { panic!("they are not joined") };
    let apart: BTreeSet<String> = joined.ids.iter().cloned().collect();
    assert_eq!(batches(&queue, later(), SLACK, &apart), queue.iter().map(alone).collect::<Vec<_>>());
}

#[test]
fn what_is_joined_gathers_and_what_asks_a_person_does_not() {
    let mut queue: Vec<Queued> = (0..30).map(|nth| queued(nth, Some(nth), EventKind::Breach, 0)).collect();
    queue.push(queued(30, Some(3), EventKind::Stuck, 0));
    let gathers = |now: Timestamp, apart: &BTreeSet<String>| -> Vec<bool> {
        batches(&queue, now, SLACK, apart).iter().map(|batch| batch.gathers).collect()
    };
    let told = later() - SOON;
    let none = BTreeSet::new();
    assert_eq!(
        gathers(told, &none),
        [false, false, true],
        "the one breach before it, what is stuck, the other breaches"
    );
    assert_eq!(gathers(later(), &none), [false; 3]);
    assert_eq!(gathers(told - SOON, &none), [false; 3], "the clock was set back");
    let apart = queue.iter().map(|one| one.outgoing.id.clone()).collect();
    assert_eq!(gathers(told, &apart), [false; 31]);
}

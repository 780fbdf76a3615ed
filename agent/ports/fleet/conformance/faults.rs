//! Two hosts work their way through one slot while one question of any of them fails, whichever it is: never are two at
//! work, and both come to an end.

use std::cell::Cell;
use std::time::Duration;

use super::{clock, is_yes};
use crate::ports::fleet::fake::FakeStore;
use crate::ports::fleet::{Fleet, FleetError};

/// As a host does it: what fails is asked again at the next look; a change begins on a yes of `begin` alone.
async fn works(host: &dyn Fleet, incident: &str, at_work: &Cell<u32>) {
    const SERVICE: &str = "rpc-order";
    loop {
        let acquired = host.acquire(SERVICE, incident, 1).await;
        if acquired.is_ok_and(|acquired| is_yes(&acquired)) && host.begin(SERVICE, incident).await.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_secs(15)).await;
    }
    at_work.set(at_work.get() + 1);
    assert_eq!(at_work.get(), 1, "two at work");
    tokio::time::sleep(Duration::from_secs(40)).await;
    let _ = host.drained(SERVICE, incident).await;
    tokio::time::sleep(Duration::from_secs(40)).await;
    at_work.set(at_work.get() - 1);
    while host.release(SERVICE, incident).await.is_err() {
        tokio::time::sleep(Duration::from_secs(30)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn whichever_question_fails_two_hosts_never_work_at_once_and_both_get_their_turn() {
    let passing = |says: &str| FleetError::Unreachable(says.into());
    let refused = |says: &str| FleetError::Refused(says.into());
    for error in [
        passing("503: etcdserver: leader changed"),
        passing("429: etcdserver: mvcc: database space exceeded"),
        passing("connection reset by peer"),
        passing("no answer within the deadline"),
        refused("400: etcdserver: revision of auth store is old"),
        refused("401: etcdserver: invalid auth token"),
    ] {
        let mut played = 0;
        for nth in 0.. {
            let store = FakeStore::default();
            let clock = clock();
            let [a, b] = ["a", "b"].map(|host| store.host(host, clock.clone()));
            store.fail_nth(nth, error.clone());
            let at_work = Cell::new(0);
            let both = async { tokio::join!(works(&*a, "ia", &at_work), works(&*b, "ib", &at_work)) };
            let ended = tokio::time::timeout(Duration::from_secs(600), both).await;
            assert!(ended.is_ok(), "question {nth} failed with {error}");
            let failed = store.has_failed();
            assert_eq!(a.holders("rpc-order").await.unwrap(), [], "question {nth} failed with {error}");
            if !failed {
                break;
            }
            played += 1;
        }
        assert!(played > 20, "{played} questions");
    }
}

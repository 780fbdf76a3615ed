//! One suite over every store: the same story, told to each.

mod cable;
mod etcd;
mod faults;
mod lock_server;
mod stores;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::fake::FakeStore;
use super::*;
use crate::clock::{Clock, ManualClock};
use crate::model::HostState;

/// A store that hosts share, and what can happen to it.
#[async_trait(?Send)]
trait World {
    /// The fleet as a host sees it that goes by this clock.
    fn host(&self, name: &str, clock: &Arc<ManualClock>) -> Arc<dyn Fleet>;
    /// Another hand writes the document of a service's slots.
    async fn put(&self, service: &str, text: &str);
    async fn get(&self, service: &str) -> Option<String>;
    /// The next writes are done, and their answers are lost on the way.
    fn lose_answers(&self, writes: u32);
    /// The next writes are lost on the way.
    fn lose_requests(&self, writes: u32);
    /// Questions are taken, and never answered.
    fn set_silent(&self, silent: bool);
}

fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::new("2026-11-22T18:43:29Z".parse().unwrap()))
}

fn is_yes(acquired: &Acquired) -> bool {
    matches!(acquired, Acquired::Yes { .. })
}

async fn conforms(world: &dyn World) {
    a_slot_is_taken_renewed_lost_kept_and_given_back(world).await;
    a_slot_that_would_be_taken_is_told_as_it_is_taken(world).await;
    a_slot_is_given_back_by_another_hand(world).await;
    let clock = clock();
    a_slot_is_kept_from_the_hosts_next_incident(&*world.host("a", &clock), &*world.host("b", &clock)).await;
    clocks_that_differ_never_let_two_hosts_change(world).await;
    two_hosts_race_for_one_slot_and_never_both_win(world).await;
    fifty_hosts_get_as_many_slots_as_there_are(world).await;
    what_came_of_a_write_without_an_answer_is_looked_up(world).await;
    a_document_that_is_not_ours_is_named_and_never_written_over(world).await;
    breaches_are_told_told_again_and_end(world).await;
    each_host_shows_its_own_status_until_it_is_gone_for_a_month(world).await;
    a_silent_store_is_an_error_in_time(world).await;
}

async fn a_slot_is_taken_renewed_lost_kept_and_given_back(world: &dyn World) {
    const SERVICE: &str = "rpc-order@1.service";
    let clock = clock();
    let (a, b) = (world.host("a", &clock), world.host("b", &clock));
    assert_eq!(a.services().await.unwrap(), [""; 0]);
    assert_eq!(a.holders(SERVICE).await.unwrap(), []);
    let until = clock.monotonic() + LEASE;
    assert_eq!(a.acquire(SERVICE, "ia", 1).await.unwrap(), Acquired::Yes { until });
    assert!(matches!(b.acquire(SERVICE, "ib", 1).await.unwrap(), Acquired::No { held, .. } if held[0].holder == "a"));
    assert_eq!(a.services().await.unwrap(), [SERVICE]);
    assert_eq!(b.blocked_by(SERVICE, "ib", 1).await.unwrap(), a.holders(SERVICE).await.unwrap());
    assert_eq!(b.blocked_by(SERVICE, "ib", 2).await.unwrap(), []);

    // Renewed, the lease counts from now on.
    clock.advance(LEASE / 2);
    assert!(is_yes(&a.acquire(SERVICE, "ia", 1).await.unwrap()));
    clock.advance(LEASE / 2);
    assert!(!is_yes(&b.acquire(SERVICE, "ib", 1).await.unwrap()));

    // Run out, it is lost to its holder at once, and to another host after the margin.
    clock.advance(LEASE / 2);
    let lost = a.begin(SERVICE, "ia").await.unwrap_err();
    assert!(matches!(&lost, FleetError::Lost(why) if why.contains("lease ended")), "{lost}");
    assert!(!is_yes(&b.acquire(SERVICE, "ib", 1).await.unwrap()));
    clock.advance(SKEW);
    assert!(is_yes(&b.acquire(SERVICE, "ib", 1).await.unwrap()));
    assert!(matches!(a.begin(SERVICE, "ia").await.unwrap_err(), FleetError::Lost(_)));

    // Changing, it never ends by itself, and is asked for again and again.
    for _ in 0..2 {
        assert_eq!(b.begin(SERVICE, "ib").await.unwrap(), clock.monotonic() + LEASE);
        clock.advance(LEASE * 10_000);
        let Acquired::No { held, .. } = a.acquire(SERVICE, "ia", 1).await.unwrap() else { panic!("taken twice") };
        assert_eq!(held[0].phase, Phase::Changing);
        assert!(is_yes(&b.acquire(SERVICE, "ib", 1).await.unwrap()));
    }

    // Drained neither; whose slot it is not changes nothing.
    a.drained(SERVICE, "ia").await.unwrap();
    b.drained(SERVICE, "ib").await.unwrap();
    b.drained(SERVICE, "ib").await.unwrap();
    assert_eq!(b.begin(SERVICE, "ib").await.unwrap(), clock.monotonic() + LEASE);
    clock.advance(LEASE * 10_000);
    let Acquired::No { held, .. } = a.acquire(SERVICE, "ia", 1).await.unwrap() else { panic!("taken twice") };
    assert_eq!((held.len(), &held[0].phase), (1, &Phase::Drained));

    // Given back once; what another holds is not given back for it.
    a.release(SERVICE, "ib").await.unwrap();
    assert_eq!(b.holders(SERVICE).await.unwrap().len(), 1);
    b.release(SERVICE, "ib").await.unwrap();
    b.release(SERVICE, "ib").await.unwrap();
    assert!(matches!(b.begin(SERVICE, "ib").await.unwrap_err(), FleetError::Lost(_)));
    assert!(is_yes(&a.acquire(SERVICE, "ia", 1).await.unwrap()));
    for name in ["", ".", ".."] {
        assert!(matches!(a.acquire(name, "ia", 1).await.unwrap_err(), FleetError::Refused(_)), "{name:?}");
    }
}

async fn a_slot_that_would_be_taken_is_told_as_it_is_taken(world: &dyn World) {
    const SERVICE: &str = "told-before";
    let clock = clock();
    let (a, b) = (world.host("a", &clock), world.host("b", &clock));
    let told = a.would_take(SERVICE, "ia", 1).await.unwrap().expect("a call");
    assert_eq!((world.get(SERVICE).await, a.holders(SERVICE).await.unwrap()), (None, vec![]), "nothing was taken");
    assert!(is_yes(&a.acquire(SERVICE, "ia", 1).await.unwrap()));
    let written = world.get(SERVICE).await.expect("a document");
    assert!(told.contains(&written) && told.contains(SERVICE), "{told}: {written}");
    assert_eq!(a.would_take(SERVICE, "ia", 1).await.unwrap(), None, "it has it");
    assert_eq!(b.would_take(SERVICE, "ib", 1).await.unwrap(), None, "it gets none");
    a.release(SERVICE, "ia").await.unwrap();
}

/// The host that was thought to be gone may not go on.
async fn a_slot_is_given_back_by_another_hand(world: &dyn World) {
    const SERVICE: &str = "another-hand";
    let clock = clock();
    let (a, b) = (world.host("a", &clock), world.host("b", &clock));
    assert!(is_yes(&a.acquire(SERVICE, "ia", 1).await.unwrap()));
    a.begin(SERVICE, "ia").await.unwrap();
    let given_back = b.release_host(SERVICE, "a").await.unwrap();
    assert_eq!(given_back.iter().map(|slot| slot.incident.as_str()).collect::<Vec<_>>(), ["ia"]);
    assert_eq!(b.release_host(SERVICE, "a").await.unwrap(), []);
    assert!(is_yes(&b.acquire(SERVICE, "ic", 1).await.unwrap()));
    assert!(matches!(a.begin(SERVICE, "ia").await.unwrap_err(), FleetError::Lost(_)));
}

/// What a host has begun to change it holds its one slot for, and the next incident under the same name has none to give
/// back. What it only waited for gives way.
async fn a_slot_is_kept_from_the_hosts_next_incident(a: &dyn Fleet, b: &dyn Fleet) {
    const SERVICE: &str = "next-incident";
    assert!(is_yes(&a.acquire(SERVICE, "i0", 1).await.unwrap()));
    assert!(is_yes(&a.acquire(SERVICE, "i1", 1).await.unwrap()));
    a.release(SERVICE, "i0").await.unwrap();
    assert!(!is_yes(&b.acquire(SERVICE, "ib", 1).await.unwrap()), "i1 has it now");
    assert!(matches!(a.begin(SERVICE, "i0").await.unwrap_err(), FleetError::Lost(_)));
    for _ in 0..2 {
        a.begin(SERVICE, "i1").await.unwrap();
        assert!(is_yes(&a.acquire(SERVICE, "i1", 1).await.unwrap()));
        let Acquired::No { held, .. } = a.acquire(SERVICE, "i2", 2).await.unwrap() else { panic!("given to both") };
        assert_eq!((held[0].holder.as_str(), held[0].incident.as_str()), ("a", "i1"));
        assert!(matches!(a.begin(SERVICE, "i2").await.unwrap_err(), FleetError::Lost(_)));
        a.release(SERVICE, "i2").await.unwrap();
        assert!(!is_yes(&b.acquire(SERVICE, "ib", 1).await.unwrap()), "i1 has it still");
    }
    a.release(SERVICE, "i1").await.unwrap();
    assert!(is_yes(&b.acquire(SERVICE, "ib", 1).await.unwrap()));
    // Lost to another, it is not in the way of the next.
    assert!(!is_yes(&a.acquire(SERVICE, "i2", 1).await.unwrap()));
    b.release(SERVICE, "ib").await.unwrap();
    assert!(is_yes(&a.acquire(SERVICE, "i3", 1).await.unwrap()));
}

async fn clocks_that_differ_never_let_two_hosts_change(world: &dyn World) {
    let hour = 3_600;
    for (round, ahead) in [-87_600 * hour, -hour, -30, -5, 0, 5, 30, hour, 87_600 * hour].into_iter().enumerate() {
        let service = format!("clocks-{round}");
        let (at_a, at_b) = (clock(), clock());
        at_b.step_wall(at_a.now() + jiff::SignedDuration::from_secs(ahead));
        let (a, b) = (world.host("a", &at_a), world.host("b", &at_b));
        assert!(is_yes(&a.acquire(&service, "ia", 1).await.unwrap()));
        let taken_away = is_yes(&b.acquire(&service, "ib", 1).await.unwrap());
        // Only a clock that is further ahead than the lease and its margin ends it early; then its holder knows.
        assert_eq!(taken_away, ahead >= (LEASE + SKEW).as_secs() as i64, "{ahead} s ahead");
        assert_eq!(b.begin(&service, "ib").await.is_ok(), taken_away, "{ahead} s ahead");
        assert_eq!(a.begin(&service, "ia").await.is_ok(), !taken_away, "{ahead} s ahead");
        let changing = a.holders(&service).await.unwrap();
        assert_eq!(changing.len(), 1, "{ahead} s ahead: {changing:?}");
    }
}

async fn two_hosts_race_for_one_slot_and_never_both_win(world: &dyn World) {
    const SERVICE: &str = "race";
    let clock = clock();
    let (a, b) = (world.host("a", &clock), world.host("b", &clock));
    let go = async |host: &dyn Fleet, incident: &str| {
        is_yes(&host.acquire(SERVICE, incident, 1).await.unwrap()) && host.begin(SERVICE, incident).await.is_ok()
    };
    let mut won = [0, 0];
    for round in 0..200 {
        let (by_a, by_b) = tokio::join!(go(&*a, "ia"), go(&*b, "ib"));
        assert!(by_a != by_b, "round {round}: a {by_a}, b {by_b}");
        assert_eq!(a.holders(SERVICE).await.unwrap().len(), 1);
        won[usize::from(by_b)] += 1;
        let (by_a, by_b) = tokio::join!(a.release(SERVICE, "ia"), b.release(SERVICE, "ib"));
        by_a.unwrap();
        by_b.unwrap();
    }
    assert!(won[0] + won[1] == 200, "{won:?}");
}

async fn fifty_hosts_get_as_many_slots_as_there_are(world: &dyn World) {
    let clock = clock();
    for slots in [3, 50] {
        let service = format!("fifty-{slots}");
        let hosts: Vec<_> = (0..50).map(|host| world.host(&format!("bj1-{host:02}"), &clock)).collect();
        let asked: Vec<_> = hosts
            .iter()
            .map(|host| {
                let (host, service) = (host.clone(), service.clone());
                tokio::spawn(async move {
                    // A store on a busy machine may be too slow for fifty at once: asked again, as at the next tick.
                    for _ in 0..5 {
                        match host.acquire(&service, "i", slots).await {
                            Err(error) if error.is_passing() => {}
                            answered => return answered,
                        }
                    }
                    host.acquire(&service, "i", slots).await
                })
            })
            .collect();
        let mut taken = 0;
        for asked in asked {
            taken += u32::from(is_yes(&asked.await.unwrap().unwrap()));
        }
        assert_eq!(taken, slots);
        assert_eq!(hosts[0].holders(&service).await.unwrap().len(), slots as usize);
    }
}

async fn what_came_of_a_write_without_an_answer_is_looked_up(world: &dyn World) {
    const SERVICE: &str = "unsure";
    let clock = clock();
    let (a, b) = (world.host("a", &clock), world.host("b", &clock));
    let lose_one = |answer: bool| if answer { world.lose_answers(1) } else { world.lose_requests(1) };
    for answer in [true, false] {
        lose_one(answer);
        assert!(is_yes(&a.acquire(SERVICE, "ia", 1).await.unwrap()));
        lose_one(answer);
        a.begin(SERVICE, "ia").await.unwrap();
        assert!(!is_yes(&b.acquire(SERVICE, "ib", 1).await.unwrap()));
        lose_one(answer);
        a.release(SERVICE, "ia").await.unwrap();
        assert_eq!(a.holders(SERVICE).await.unwrap(), []);
        lose_one(answer);
        a.publish_breach(SERVICE, clock.now() + LEASE).await.unwrap();
        assert_eq!(b.breaches(SERVICE).await.unwrap(), ["a"]);
        a.publish_breach(SERVICE, clock.now()).await.unwrap();
        assert_eq!(b.breaches(SERVICE).await.unwrap(), [""; 0]);
    }

    // None arrives: an error, and nothing is held.
    world.lose_requests(9);
    let error = a.acquire(SERVICE, "ia", 1).await.unwrap_err();
    assert!(error.is_passing(), "{error}");
    world.lose_requests(0);
    assert_eq!(b.holders(SERVICE).await.unwrap(), []);

    // Dead between the write and its answer: the next start of the same incident goes on, another host waits, and what
    // was only waited for gives way to the next incident.
    world.lose_answers(1);
    let _ = tokio::time::timeout(Duration::from_millis(1), a.acquire(SERVICE, "ia", 1)).await;
    world.lose_answers(0);
    let again = world.host("a", &clock);
    assert!(is_yes(&again.acquire(SERVICE, "ia2", 1).await.unwrap()));
    again.begin(SERVICE, "ia2").await.unwrap();
    let once_more = world.host("a", &clock);
    once_more.begin(SERVICE, "ia2").await.unwrap();
    assert!(!is_yes(&once_more.acquire(SERVICE, "ia3", 1).await.unwrap()));
    assert!(!is_yes(&b.acquire(SERVICE, "ib", 1).await.unwrap()));
}

async fn a_document_that_is_not_ours_is_named_and_never_written_over(world: &dyn World) {
    const SERVICE: &str = "not-ours";
    let a = world.host("a", &clock());
    for (wrong, why) in [
        ("", "no list of slots"),
        ("{}", "missing field `version`"),
        ("\u{1}", "no list of slots"),
        (r#"{"version":1,"slots":[{"holder":"a""#, "no list of slots"),
        (r#"{"version":3,"slots":[]}"#, "version 3"),
    ] {
        world.put(SERVICE, wrong).await;
        for error in [
            a.acquire(SERVICE, "ia", 9).await.unwrap_err(),
            a.begin(SERVICE, "ia").await.unwrap_err(),
            a.release(SERVICE, "ia").await.unwrap_err(),
            a.release_host(SERVICE, "b").await.unwrap_err(),
            a.blocked_by(SERVICE, "ia", 9).await.unwrap_err(),
        ] {
            assert!(matches!(error, FleetError::Refused(_)), "{error}");
            let says = error.to_string();
            assert!(says.contains("unwait/slots/not-ours") && says.contains(why), "{wrong:?}: {says}");
        }
        assert_eq!(world.get(SERVICE).await.unwrap(), wrong);
    }
    assert!(a.services().await.unwrap().contains(&SERVICE.into()), "it is listed all the same");
}

async fn breaches_are_told_told_again_and_end(world: &dyn World) {
    const SERVICE: &str = "rpc-order";
    let clock = clock();
    let (a, b) = (world.host("a", &clock), world.host("b", &clock));
    let soon = || clock.now() + Duration::from_secs(45);
    assert_eq!(a.breaches(SERVICE).await.unwrap(), [""; 0]);
    b.publish_breach(SERVICE, soon()).await.unwrap();
    a.publish_breach(SERVICE, soon()).await.unwrap();
    a.publish_breach("rpc-cart", soon()).await.unwrap();
    a.publish_breach("rpc-order/v2", soon()).await.unwrap();
    assert_eq!(a.breaches(SERVICE).await.unwrap(), ["a", "b"]);
    assert_eq!(b.breaches("rpc-cart").await.unwrap(), ["a"]);
    assert_eq!(b.breaches("rpc-order/v2").await.unwrap(), ["a"]);

    clock.advance(Duration::from_secs(30));
    a.publish_breach(SERVICE, soon()).await.unwrap();
    clock.advance(Duration::from_secs(15) + SKEW);
    assert_eq!(b.breaches(SERVICE).await.unwrap(), ["a"], "b has not told it again");
    a.publish_breach(SERVICE, clock.now()).await.unwrap();
    a.publish_breach(SERVICE, clock.now()).await.unwrap();
    assert_eq!(b.breaches(SERVICE).await.unwrap(), [""; 0]);

    // What hosts that are gone have left is swept, one a look; whoever comes back tells it anew.
    clock.advance(Duration::from_secs(2 * 3_600));
    b.breaches(SERVICE).await.unwrap();
    b.publish_breach(SERVICE, soon()).await.unwrap();
    assert_eq!(a.breaches(SERVICE).await.unwrap(), ["b"]);

    let hosts: Vec<_> = (0..50).map(|host| world.host(&format!("bj1-{host:02}"), &clock)).collect();
    let told: Vec<_> = hosts
        .iter()
        .map(|host| {
            let (host, until) = (host.clone(), soon());
            tokio::spawn(async move { host.publish_breach("everywhere", until).await })
        })
        .collect();
    for told in told {
        told.await.unwrap().unwrap();
    }
    assert_eq!(a.breaches("everywhere").await.unwrap().len(), 50);
}

async fn each_host_shows_its_own_status_until_it_is_gone_for_a_month(world: &dyn World) {
    const DAY: Duration = Duration::from_secs(86_400);
    let clock = clock();
    let (a, b) = (world.host("a", &clock), world.host("b", &clock));
    let status = |version: &str| HostStatus {
        version: version.into(),
        state: HostState::AtWork,
        breaches: Vec::new(),
        stuck: Vec::new(),
        under_way: Vec::new(),
        left_out: 0,
    };
    let seen = async || {
        let hosts = a.statuses().await.unwrap();
        let of = |(host, told): (String, Result<Told, String>)| (host, told.unwrap().status.version);
        hosts.into_iter().map(of).collect::<Vec<_>>()
    };
    let host = |name: &str, version: &str| (name.to_owned(), version.to_owned());
    assert_eq!(seen().await, []);
    let soon = || clock.now() + Duration::from_secs(900);
    b.publish_status(&status("1"), soon()).await.unwrap();
    a.publish_status(&status("1"), soon()).await.unwrap();
    a.publish_status(&status("2"), soon()).await.unwrap();
    assert_eq!(seen().await, [host("a", "2"), host("b", "1")]);

    clock.advance(DAY * 30);
    assert_eq!(seen().await, [host("a", "2"), host("b", "1")], "whoever looks sees since when nothing was heard of it");
    a.publish_status(&status("2"), soon()).await.unwrap();
    clock.advance(DAY * 2);
    assert_eq!(seen().await, [host("a", "2")]);
    b.publish_status(&status("3"), soon()).await.unwrap();
    assert_eq!(seen().await, [host("a", "2"), host("b", "3")]);
    for host in [&a, &b] {
        host.publish_status(&status("3"), clock.now()).await.unwrap();
    }
    clock.advance(DAY * 32);
    seen().await;
    assert_eq!(seen().await, [], "one is swept at each look");
}

async fn a_silent_store_is_an_error_in_time(world: &dyn World) {
    const SERVICE: &str = "silent";
    let clock = clock();
    let a = world.host("a", &clock);
    world.set_silent(true);
    let until = clock.now() + LEASE;
    let all = async {
        tokio::join!(
            a.acquire(SERVICE, "ia", 1),
            a.begin(SERVICE, "ia"),
            a.release(SERVICE, "ia"),
            a.release_host(SERVICE, "b"),
            a.blocked_by(SERVICE, "ia", 1),
            a.services(),
            a.publish_breach(SERVICE, until),
            a.breaches(SERVICE),
        )
    };
    let all = tokio::time::timeout(DEADLINE + Duration::from_secs(2), all).await.expect("each ends by its deadline");
    let errors = [
        all.0.unwrap_err(),
        all.1.unwrap_err(),
        all.2.unwrap_err(),
        all.3.unwrap_err(),
        all.4.unwrap_err(),
        all.5.unwrap_err(),
        all.6.unwrap_err(),
        all.7.unwrap_err(),
    ];
    for error in errors {
        assert!(error.is_passing(), "{error}");
    }
    world.set_silent(false);
    assert!(is_yes(&a.acquire(SERVICE, "ia", 1).await.unwrap()));
}

#[async_trait(?Send)]
impl World for FakeStore {
    fn host(&self, name: &str, clock: &Arc<ManualClock>) -> Arc<dyn Fleet> {
        Self::host(self, name, clock.clone())
    }

    async fn put(&self, service: &str, text: &str) {
        Self::put(self, service, text);
    }

    async fn get(&self, service: &str) -> Option<String> {
        Self::get(self, service)
    }

    fn lose_answers(&self, writes: u32) {
        Self::lose_answers(self, writes);
    }

    fn lose_requests(&self, writes: u32) {
        Self::lose_requests(self, writes);
    }

    fn set_silent(&self, silent: bool) {
        self.set_unreachable(silent);
    }
}

#[tokio::test]
async fn the_fake_conforms() {
    conforms(&FakeStore::default()).await;
}

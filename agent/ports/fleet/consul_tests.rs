//! The slots on a real Consul.

use std::sync::Arc;

use jiff::Timestamp;

use super::consul::ConsulSlots;
use super::dry::DrySlots;
use super::*;
use crate::clock::ManualClock;
use crate::ports::testing_consul::TestConsul;

const SERVICE: &str = "rpc-order@1.service";

struct Fleet {
    consul: TestConsul,
    clock: Arc<ManualClock>,
}

impl Fleet {
    async fn start() -> Self {
        let clock = Arc::new(ManualClock::new("2026-11-22T18:43:29Z".parse::<Timestamp>().unwrap()));
        Self { consul: TestConsul::start().await, clock }
    }

    fn host(&self, name: &str) -> ConsulSlots {
        ConsulSlots::new(&self.consul.url, None, name, self.clock.clone()).unwrap()
    }
}

#[tokio::test]
async fn two_hosts_race_for_one_slot_and_one_wins() {
    let fleet = Fleet::start().await;
    for round in 0..10 {
        let service = format!("rpc-{round}.service");
        let (a, b) = (fleet.host("a"), fleet.host("b"));
        let (a, b) = tokio::join!(a.acquire(&service, "ia", 1), b.acquire(&service, "ib", 1));
        let won = [a.unwrap(), b.unwrap()].iter().filter(|taken| **taken == Acquired::Yes).count();
        assert_eq!(won, 1, "round {round}");
        assert_eq!(fleet.host("a").holders(&service).await.unwrap().len(), 1);
    }
}

#[tokio::test]
async fn begin_after_the_slot_was_lost_fails_and_changing_never_expires() {
    let fleet = Fleet::start().await;
    let (a, b) = (fleet.host("a"), fleet.host("b"));
    assert_eq!(a.acquire(SERVICE, "ia", 1).await.unwrap(), Acquired::Yes);
    assert!(matches!(b.acquire(SERVICE, "ib", 1).await.unwrap(), Acquired::No { held } if held[0].holder == "a"));

    // Renewed, the lease counts from now on.
    fleet.clock.advance(LEASE / 2);
    assert_eq!(a.acquire(SERVICE, "ia", 1).await.unwrap(), Acquired::Yes);
    fleet.clock.advance(LEASE / 2);
    assert!(matches!(b.acquire(SERVICE, "ib", 1).await.unwrap(), Acquired::No { .. }));

    // Run out, it is lost: first by the clock, then to the other host.
    fleet.clock.advance(LEASE / 2);
    let lost = a.begin(SERVICE, "ia").await.unwrap_err().to_string();
    assert!(lost.contains("lease ended"), "{lost}");
    assert_eq!(b.acquire(SERVICE, "ib", 1).await.unwrap(), Acquired::Yes);
    assert!(a.begin(SERVICE, "ia").await.is_err());

    b.begin(SERVICE, "ib").await.unwrap();
    b.begin(SERVICE, "ib").await.unwrap();
    fleet.clock.advance(LEASE * 10_000);
    assert!(
        matches!(a.acquire(SERVICE, "ia", 1).await.unwrap(), Acquired::No { held } if held[0].phase == Phase::Changing)
    );
    assert_eq!(b.acquire(SERVICE, "ib", 1).await.unwrap(), Acquired::Yes);

    // Given back once; what another holds is not given back for it.
    a.release(SERVICE, "ib").await.unwrap();
    assert_eq!(b.holders(SERVICE).await.unwrap().len(), 1);
    b.release(SERVICE, "ib").await.unwrap();
    b.release(SERVICE, "ib").await.unwrap();
    assert_eq!(a.acquire(SERVICE, "ia", 1).await.unwrap(), Acquired::Yes);
}

#[tokio::test]
async fn a_corrupt_document_is_named_and_never_overwritten() {
    let fleet = Fleet::start().await;
    let path = format!("/v1/kv/unwait/slots/{SERVICE}");
    for corrupt in ["", "{}", "[{\"holder\": \"a\"}]", "\u{1}"] {
        fleet.consul.put(&path, corrupt).await;
        let a = fleet.host("a");
        for error in [
            a.acquire(SERVICE, "ia", 9).await.unwrap_err(),
            a.begin(SERVICE, "ia").await.unwrap_err(),
            a.release(SERVICE, "ia").await.unwrap_err(),
        ] {
            assert!(error.to_string().contains(&format!("unwait/slots/{SERVICE}")), "{error}");
        }
        let raw = reqwest::get(format!("{}{path}?raw", fleet.consul.url)).await.unwrap();
        assert_eq!(raw.text().await.unwrap(), corrupt);
    }
}

#[tokio::test]
async fn dry_slots_say_what_would_be_and_take_none() {
    let fleet = Fleet::start().await;
    let dry = DrySlots::new(Arc::new(fleet.host("a")), "a", fleet.clock.clone());
    assert_eq!(dry.acquire(SERVICE, "ia", 1).await.unwrap(), Acquired::Yes);
    dry.begin(SERVICE, "ia").await.unwrap();
    assert!(dry.holders(SERVICE).await.unwrap().is_empty());
    assert_eq!(fleet.host("b").acquire(SERVICE, "ib", 1).await.unwrap(), Acquired::Yes);
    assert!(matches!(dry.acquire(SERVICE, "ia", 1).await.unwrap(), Acquired::No { .. }));
    dry.release(SERVICE, "ib").await.unwrap();
    assert_eq!(dry.holders(SERVICE).await.unwrap().len(), 1);
}

#[tokio::test]
async fn an_absent_consul_and_a_refused_token_are_errors_without_the_token() {
    let fleet = ConsulSlots::new(
        "http://127.0.0.1:1",
        Some("hush-hush".to_owned().into()),
        "a",
        Arc::new(ManualClock::new(Timestamp::UNIX_EPOCH)),
    )
    .unwrap();
    let error = fleet.acquire(SERVICE, "ia", 1).await.unwrap_err();
    assert!(error.to_string().contains("refused"), "{error}");
    assert!(!format!("{fleet:?} {error:?}").contains("hush"));

    let consul = TestConsul::start_with_acl().await;
    let cut = consul.token(r#"key_prefix "other/" { policy = "write" }"#).await;
    let fleet =
        ConsulSlots::new(&consul.url, Some(cut.clone().into()), "a", Arc::new(ManualClock::new(Timestamp::UNIX_EPOCH)))
            .unwrap();
    let error = fleet.acquire(SERVICE, "ia", 1).await.unwrap_err();
    assert!(error.to_string().contains("permission") && !error.to_string().contains(&cut), "{error}");
}

//! One suite over every store: the same story, told to each.

use std::sync::Arc;
use std::time::Duration;

use super::fake::FakeStore;
use super::*;
use crate::clock::{Clock, ManualClock};

/// A fleet whose hosts share one store, each with a clock of its own.
pub(super) trait World {
    fn host(&self, name: &str, clock: Arc<ManualClock>) -> Arc<dyn Fleet>;
}

impl World for FakeStore {
    fn host(&self, name: &str, clock: Arc<ManualClock>) -> Arc<dyn Fleet> {
        Self::host(self, name, clock)
    }
}

const SERVICE: &str = "rpc-order@1.service";

fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::new("2026-11-22T18:43:29Z".parse().unwrap()))
}

fn is_yes(acquired: &Acquired) -> bool {
    matches!(acquired, Acquired::Yes { .. })
}

/// Taking, renewing, losing, changing, giving back.
pub(super) async fn slots_conform(world: &dyn World) {
    let clock = clock();
    let (a, b) = (world.host("a", clock.clone()), world.host("b", clock.clone()));
    assert_eq!(a.services().await.unwrap(), [""; 0]);
    assert_eq!(a.holders(SERVICE).await.unwrap(), []);
    let until = clock.monotonic() + LEASE;
    assert_eq!(a.acquire(SERVICE, "ia", 1).await.unwrap(), Acquired::Yes { until });
    assert!(matches!(b.acquire(SERVICE, "ib", 1).await.unwrap(), Acquired::No { held } if held[0].holder == "a"));
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
        let Acquired::No { held } = a.acquire(SERVICE, "ia", 1).await.unwrap() else { panic!("taken twice") };
        assert_eq!(held[0].phase, Phase::Changing);
        assert!(is_yes(&b.acquire(SERVICE, "ib", 1).await.unwrap()));
    }

    // Given back once; what another holds is not given back for it.
    a.release(SERVICE, "ib").await.unwrap();
    assert_eq!(b.holders(SERVICE).await.unwrap().len(), 1);
    b.release(SERVICE, "ib").await.unwrap();
    b.release(SERVICE, "ib").await.unwrap();
    assert!(matches!(b.begin(SERVICE, "ib").await.unwrap_err(), FleetError::Lost(_)));
    assert!(is_yes(&a.acquire(SERVICE, "ia", 1).await.unwrap()));

    // Given back by another hand: the host that was thought to be gone may not go on.
    a.begin(SERVICE, "ia").await.unwrap();
    let given_back = b.release_host(SERVICE, "a").await.unwrap();
    assert_eq!(given_back.iter().map(|slot| slot.incident.as_str()).collect::<Vec<_>>(), ["ia"]);
    assert_eq!(b.release_host(SERVICE, "a").await.unwrap(), []);
    assert!(is_yes(&b.acquire(SERVICE, "ic", 1).await.unwrap()));
    assert!(matches!(a.begin(SERVICE, "ia").await.unwrap_err(), FleetError::Lost(_)));
    b.release(SERVICE, "ic").await.unwrap();
}

/// Told, told again, ended, taken back.
pub(super) async fn breaches_conform(world: &dyn World) {
    let clock = clock();
    let (a, b) = (world.host("a", clock.clone()), world.host("b", clock.clone()));
    let soon = || clock.now() + Duration::from_secs(45);
    assert_eq!(a.breaches(SERVICE).await.unwrap(), [""; 0]);
    b.publish_breach(SERVICE, soon()).await.unwrap();
    a.publish_breach(SERVICE, soon()).await.unwrap();
    a.publish_breach("rpc-cart", soon()).await.unwrap();
    assert_eq!(a.breaches(SERVICE).await.unwrap(), ["a", "b"]);
    assert_eq!(b.breaches("rpc-cart").await.unwrap(), ["a"]);

    clock.advance(Duration::from_secs(30));
    a.publish_breach(SERVICE, soon()).await.unwrap();
    clock.advance(Duration::from_secs(15) + SKEW);
    assert_eq!(b.breaches(SERVICE).await.unwrap(), ["a"], "b has not told it again");
    a.publish_breach(SERVICE, clock.now()).await.unwrap();
    a.publish_breach(SERVICE, clock.now()).await.unwrap();
    assert_eq!(b.breaches(SERVICE).await.unwrap(), [""; 0]);
}

#[tokio::test]
async fn the_fake_conforms() {
    let store = FakeStore::default();
    slots_conform(&store).await;
    breaches_conform(&store).await;
}

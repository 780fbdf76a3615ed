//! A registry breaks, and the service falls ill, while it is put back.

use super::*;

/// A registry that does not answer once a service is to be put back into it; and from then on the service is ill.
struct Breaks {
    real: Arc<FakeRegistry>,
    scene: OnceLock<Arc<Scene>>,
}

#[async_trait]
impl Registry for Breaks {
    async fn would(&self, _: TrafficChange, _: &str, _: &Marker) -> Result<Vec<String>, RegistryError> {
        Ok(Vec::new())
    }

    async fn observe(&self, id: &str) -> Result<Registration, RegistryError> {
        self.real.observe(id).await
    }

    async fn drain(&self, id: &str, marker: &Marker) -> Result<(), RegistryError> {
        self.real.drain(id, marker).await
    }

    async fn restore(&self, _id: &str, _marker: &Marker, _record: &Value) -> Result<Restored, RegistryError> {
        self.scene.get().expect("the run has begun").service().healthy = false;
        Err(RegistryError::Unreachable { registry: "registry-1".into(), detail: "nobody answers".into() })
    }

    async fn others(&self, id: &str) -> Result<Others, RegistryError> {
        self.real.others(id).await
    }

    async fn markers(&self) -> Result<Vec<FoundMarker>, RegistryError> {
        self.real.markers().await
    }

    async fn names(&self) -> Result<HashMap<SocketAddr, String>, RegistryError> {
        self.real.names().await
    }

    async fn takes_writes(&self, _id: &str, _marker: &Marker) -> Result<bool, RegistryError> {
        Ok(true)
    }

    async fn clients_find(&self, id: &str) -> Result<bool, RegistryError> {
        crate::ports::registry::found_by_record(self, id).await
    }

    fn clients_follow(&self) -> Duration {
        Duration::ZERO
    }
}

#[test]
fn a_service_that_falls_ill_when_some_of_its_registries_have_it_back_is_taken_out_of_all() {
    let reals: Vec<Arc<FakeRegistry>> =
        (0..2).map(|at| Arc::new(FakeRegistry::new(&format!("registry-{at}")))).collect();
    for real in &reals {
        real.register(ONE, "rpc-order", "127.0.0.1:7801");
        real.register("rpc-order-2", "rpc-order", "10.0.0.2:7801");
    }
    let breaks = Arc::new(Breaks { real: Arc::clone(&reals[1]), scene: OnceLock::new() });
    let asked: [Arc<dyn Registry>; 2] = [reals[0].clone(), breaks.clone()];
    let bound = asked.into_iter().zip(&reals).enumerate().map(|(at, (asked, real))| {
        let binding = Binding::new(format!("registry-{at}"), ONE);
        Bound { binding, asked, real: real.clone() }
    });
    let run = Run::new(bound.collect());
    breaks.scene.set(Arc::clone(&run.scene)).expect("once");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let ending = runtime.block_on(run.rests());
    assert_eq!((ending.outcome, ending.reason), (Outcome::Stuck, Reason::UnhealthyAfterRestore), "{}", ending.detail);
    // Both why, and what was done about it.
    for word in
        ["just before the restore", "taken out of traffic again: registry-0/rpc-order-1, registry-1/rpc-order-1"]
    {
        assert!(ending.detail.contains(word), "no {word:?} in {}", ending.detail);
    }
    for real in &reals {
        assert!(matches!(real.traffic(ONE), Some(Traffic::DrainedBy(_))), "{:?}: {}", real.traffic(ONE), ending.detail);
    }
    assert!(run.is_latched());
}

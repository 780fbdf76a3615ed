//! A person decides to put back what rests stuck: once it is healthy, and only what is still ours.

use std::sync::Arc;

use crate::execute::fakes::{self, Fault, ID, Scene, Shape};
use crate::execute::resolve::{ResolveError, restore};
use crate::execute::steps::drain;
use crate::execute::world::World;
use crate::model::plan::Binding;
use crate::model::{IncidentId, Marker, Plan};
use crate::ports::registry::{Registry, Traffic};

struct Stuck {
    scene: Arc<Scene>,
    world: World,
    plan: Plan,
}

impl Stuck {
    /// Drained by this very plan.
    async fn drained() -> Self {
        let scene = Scene::new(Fault::Nothing);
        let world = fakes::world(&scene);
        let plan = fakes::plan(fakes::steps(Shape::IsolateRestartRecover, Fault::Nothing));
        scene.registry.drain(ID, &drain::marker(&plan, &world)).await.unwrap();
        Self { scene, world, plan }
    }

    /// How it is refused; nothing changes by that.
    async fn refused(&self) -> ResolveError {
        let before = self.scene.registry.traffic(ID);
        let error = restore(&self.plan, None, &self.world).await.unwrap_err();
        assert_eq!(self.scene.registry.traffic(ID), before, "{error}");
        error
    }
}

fn assert_refused(error: &ResolveError, words: &[&str]) {
    assert!(matches!(error, ResolveError::Refused(_)), "{error:?}");
    for word in words {
        assert!(error.to_string().contains(word), "no {word:?} in {error}");
    }
}

#[tokio::test]
async fn what_is_healthy_and_drained_by_us_is_put_back() {
    let stuck = Stuck::drained().await;
    let said = restore(&stuck.plan, None, &stuck.world).await.unwrap();
    assert!(said.starts_with("put back: "), "{said}");
    assert_eq!(stuck.scene.registry.traffic(ID), Some(Traffic::Passing));
}

#[tokio::test]
async fn what_is_not_healthy_stays_out() {
    let stuck = Stuck::drained().await;
    stuck.scene.service().healthy = false;
    assert_refused(&stuck.refused().await, &["rpc-order.service is not healthy", "connection refused", "--leave"]);
    assert!(matches!(stuck.scene.registry.traffic(ID), Some(Traffic::DrainedBy(_))));
}

#[tokio::test]
async fn a_registry_that_does_not_answer_is_asked_again_by_the_person() {
    let mut stuck = Stuck::drained().await;
    stuck.scene.registry.set_unreachable(true);
    let error = restore(&stuck.plan, None, &stuck.world).await.unwrap_err();
    assert!(matches!(&error, ResolveError::Later(_)), "{error:?}");
    assert!(error.to_string().ends_with("; try again"), "{error}");

    // It may be named again, too.
    stuck.plan.target.bindings = vec![Binding::new("renamed", ID)];
    let error = restore(&stuck.plan, None, &stuck.world).await.unwrap_err();
    assert!(matches!(&error, ResolveError::Later(_)), "{error:?}");
    assert!(error.to_string().contains("name it again"), "{error}");
}

#[tokio::test]
async fn what_somebody_else_did_since_is_left_to_them() {
    let stuck = Stuck::drained().await;
    stuck.scene.registry.deregister(ID);
    assert_refused(&stuck.refused().await, &["is not registered any more", "put it right in the registry"]);

    stuck.scene.registry.register(ID, "rpc-order", "127.0.0.1:7801");
    let other = Marker { incident: IncidentId("20260102T030405Z-rpc-order-0000".into()), host: "web-7".into() };
    stuck.scene.registry.drain(ID, &other).await.unwrap();
    assert_refused(&stuck.refused().await, &["drained by another incident", &other.incident.0]);

    stuck.scene.registry.deregister(ID);
    stuck.scene.registry.register(ID, "rpc-order", "127.0.0.1:7801");
    stuck.scene.registry.isolate(ID, Some("deploy of release 41"));
    assert_refused(&stuck.refused().await, &["taken out by somebody else", "deploy of release 41"]);
}

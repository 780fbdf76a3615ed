//! What the gentler steps say of what they found: whether it helped, and what is left.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::execute::fakes::{self, Fault, Scene, Shape};
use crate::execute::saga::{Event, Helped, Saga};
use crate::execute::steps::{self, Done, Failure};
use crate::execute::world::{Closed, Kernel};
use crate::model::runbook::{Floor, Recycle};
use crate::model::{Plan, Reason, Step, Worker};

/// Closes so many of so many.
struct Closes(Closed);

#[async_trait]
impl Kernel for Closes {
    async fn end(&self, _workers: &[Worker], _how: &Recycle) -> Result<Vec<Worker>, String> {
        panic!("no worker is to be ended");
    }

    async fn close_sockets(&self, _plan: &Plan, _older_than: Duration, _at_most: u64) -> Result<Closed, String> {
        Ok(self.0)
    }
}

/// The second step of this shape, behind the evidence, with its intent journaled.
async fn second_step(shape: Shape, kernel: Option<Closes>, change: impl FnOnce(&mut Plan)) -> Result<Done, Failure> {
    let scene = Scene::new(Fault::Nothing);
    let mut world = fakes::world(&scene);
    if let Some(kernel) = kernel {
        world.kernel = Arc::new(kernel);
    }
    let mut plan = fakes::plan(fakes::steps(shape, Fault::Nothing));
    change(&mut plan);
    let mut saga = Saga::new(plan);
    for step in [0, 1] {
        let preimage = steps::preimage(&saga, step, &world).await.unwrap();
        saga.apply(Event::Intended { step, preimage }).unwrap();
        if step == 0 {
            saga.apply(Event::Done { step, detail: String::new(), helped: None, note: None }).unwrap();
        }
    }
    steps::apply(&saga, 1, None, &world).await
}

#[tokio::test]
async fn where_no_socket_is_old_enough_nothing_was_done_and_so_nothing_is_judged() {
    let none = Closes(Closed { found: 0, closed: 0, leaked: Some(0) });
    let failure = second_step(Shape::CloseSockets, Some(none), |_| {}).await.unwrap_err();
    assert_eq!(failure.reason, Reason::NothingToDo);
    assert!(failure.detail.contains("no socket has been in CLOSE_WAIT for 10m"), "{failure:?}");
}

#[tokio::test]
async fn closed_sockets_helped_only_where_their_descriptors_are_known_to_be_free() {
    for (closed, helped, words) in [
        (
            Closed { found: 9, closed: 9, leaked: Some(0) },
            None,
            "9 sockets were closed, and their descriptors are free",
        ),
        (Closed { found: 9, closed: 7, leaked: Some(0) }, None, "(of 9; 2 are left, or had gone by themselves)"),
        (Closed { found: 9, closed: 9, leaked: Some(4) }, Some(Helped::No), "4 of their descriptors STAY LEAKED"),
        (Closed { found: 9, closed: 9, leaked: None }, Some(Helped::Unknown), "their descriptors may still be held"),
    ] {
        let done = second_step(Shape::CloseSockets, Some(Closes(closed)), |_| {}).await.unwrap();
        assert_eq!(done.helped, helped, "{closed:?}: {}", done.detail);
        assert!(done.detail.contains(words), "{closed:?}: {}", done.detail);
    }
}

#[tokio::test]
async fn no_worker_is_ended_where_all_of_them_must_live() {
    let all_live = |plan: &mut Plan| {
        let Step::RecycleWorkers(recycle) = &mut plan.steps[1].step else { panic!("{:?}", plan.steps[1]) };
        recycle.floor = Floor::Share(1.0);
    };
    let done = second_step(Shape::RecycleWorkers, None, all_live).await.unwrap();
    assert_eq!(done.helped, Some(Helped::No));
    let says = "unwait ended 0 and may end no more: 6 must keep serving (`floor: 100%`), and 6 do";
    assert!(done.detail.contains(says), "{}", done.detail);
}

#[tokio::test]
async fn sockets_are_closed_also_where_nothing_can_tell_one_lifetime_from_another() {
    let closed = Closes(Closed { found: 9, closed: 9, leaked: Some(0) });
    let done = second_step(Shape::CloseSockets, Some(closed), |plan| plan.target.restart = None).await.unwrap();
    assert!(done.detail.contains("9 sockets were closed"), "{}", done.detail);
}

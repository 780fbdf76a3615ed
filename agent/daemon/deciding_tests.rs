//! What the loop makes of the guards' answers.

use tokio::sync::watch;

use super::agent::Agent;
use super::duties::{Set, service, set};
use super::event::{Beginning, Considered};
use crate::clock::Clock;
use crate::decide::guards::{Guard, Refusal};
use crate::model::{EventKind, Readings, Reason, Signal, Trigger};
use crate::wiring::plans::{self, Proposal};

/// An agent that has considered a breach of the set's policy; no guard but that of approval was against it.
async fn considering(set: &Set) -> (Agent, Considered, watch::Sender<bool>) {
    let (stops, stop) = watch::channel(false);
    let mut agent = Agent::start(set.dir.path(), set.wiring.clone(), set.store.clone(), stop).await.unwrap();
    let (policy, service) = (set.policy().clone(), service());
    let mut readings = Readings::default();
    readings.set(Signal::CloseWait, 288.0);
    let now = set.wiring.host.clock.monotonic();
    agent.detector.tick(&policy, &service, &readings, now, set.wiring.config.host.interval);
    let breached = agent.detector.breached_since(&policy.name, &service);
    assert!(breached.is_some());
    let proposal = plans::propose(&set.wiring, &set.store, &policy, &service, Trigger::Breach, false).await;
    let proposal = Proposal { breached, ..proposal };
    let world = set.wiring.world_of(&proposal.plan, &set.store, agent.started);
    let configuration = agent.configuration;
    let beginning = Beginning { proposal, world, policy, readings, configuration, order: None };
    let refusal = Refusal { guard: Guard::Approval, reason: Reason::NeedsApproval, detail: String::new(), until: None };
    (agent, Considered { beginning, answer: Err(refusal), another_tells: false }, stops)
}

fn asked(set: &Set) -> usize {
    set.told().iter().filter(|(event, _)| *event == EventKind::Approval).count()
}

#[tokio::test]
async fn people_are_asked_by_the_configuration_in_force_alone_and_not_by_an_agent_that_ends() {
    for (another, ends, times) in [(false, false, 1), (true, false, 0), (false, true, 0)] {
        let set = set();
        let (mut agent, considered, stops) = considering(&set).await;
        agent.configuration += u64::from(another);
        stops.send_replace(ends);
        agent.considered(considered);
        agent.scribe.written().await;
        assert_eq!(asked(&set), times, "another configuration: {another}; ends: {ends}");
        assert_eq!(set.store.open_approvals(set.clock.now()).unwrap().len(), times);
    }
}

//! What the loop makes of the guards' answers.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::watch;

use super::agent::Agent;
use super::duties::{Set, service, set};
use super::event::{Beginning, Considered};
use crate::clock::Clock;
use crate::decide::guards::{Guard, Refusal};
use crate::measure::{Measurements, Meter};
use crate::model::census::Census;
use crate::model::socket::{PassedOver, Quality};
use crate::model::{EventKind, Readings, Reason, Signal, Trigger};
use crate::store::Silence;
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
    let beginning = Beginning { proposal, world, policy, readings, configuration, order: None, slot: None };
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

/// A whole look at a host on which nothing leaks.
fn measured(set: &Set) -> Measurements {
    Meter::new([]).feed(&Census {
        at: set.clock.now(),
        monotonic: set.clock.monotonic(),
        services: BTreeMap::new(),
        unattributed: BTreeMap::new(),
        of_no_service: BTreeMap::new(),
        unowned_listeners: 0,
        passed_over: PassedOver::default(),
        quality: Quality::Complete,
    })
}

#[tokio::test]
async fn a_silence_until_clear_ends_once_no_condition_holds_and_no_other_silence_does() {
    let set = set();
    let (mut agent, ..) = considering(&set).await;
    let now = set.clock.now();
    let silence = |service: &str, until_clear| {
        let (service, who, why) = (Some(service.to_owned()), "ann".into(), "a move".into());
        let silence = Silence { service, who, why, since: now, until: now + Duration::from_secs(3_600), until_clear };
        set.store.silence(&silence).unwrap();
    };
    let ours = service();
    silence(ours.as_str(), true);
    silence(ours.as_str(), false);
    // No policy speaks of it.
    silence("other.service", true);
    let in_force = || -> Vec<(Option<String>, bool)> {
        set.store.silences(now).unwrap().into_iter().map(|one| (one.service, one.until_clear)).collect()
    };
    let seen = measured(&set);
    agent.end_silences(&seen, &[ours.clone()].into());
    agent.scribe.written().await;
    assert_eq!(in_force().len(), 3, "the breach stands");

    let (at, spacing) = (set.clock.monotonic(), set.wiring.config.host.interval);
    agent.detector.tick(set.policy(), &ours, &seen.of(&ours), at, spacing);
    agent.end_silences(&seen, &[ours.clone()].into());
    agent.scribe.written().await;
    let (other, ours) = (Some("other.service".to_owned()), Some(ours.to_string()));
    assert_eq!(in_force(), [(other, true), (ours.clone(), false)]);
    let audit = set.store.audit_rows(None, 9).unwrap();
    let ended = audit.iter().find(|row| row.who == "unwait").unwrap();
    assert_eq!((ended.service.clone(), ended.detail.as_str()), (ours, "the condition is over"));
}

//! What is carried out: plans of the shipped shapes, and of some that an operator may write.

use std::time::Duration;

use super::{Fault, ID, REGISTRY};
use crate::model::plan::{Binding, Health, Restart, Target};
use crate::model::policy::{GuardSettings, Limits, Operator};
use crate::model::runbook::{Floor, OnTimeout, Recycle, RunEffect, StopSignal};
use crate::model::{
    Comparison, Condition, Incarnation, IncidentId, Plan, PlannedStep, ServiceName, Signal, Step, Trigger,
};

/// The shipped runbooks' shapes, with short times; and one with commands of the operator's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::EnumIter)]
pub enum Shape {
    IsolateRestartRecover,
    RestartInPlace,
    EvidenceOnly,
    /// Besides, a command with an undo before the pivot and one that may be repeated after it.
    WithCommands,
    /// Commands that declare nothing, and so must never be run twice: one before the restart, one behind it.
    WithPivots,
    Reload,
    RecycleWorkers,
    CloseSockets,
    IsolateAndCall,
    /// A gentler step in a drained service.
    IsolateAndRecycle,
}

pub fn steps(shape: Shape, fault: Fault) -> Vec<Step> {
    let seconds = Duration::from_secs;
    let snapshot = Step::Snapshot { deadline: seconds(20), required: true, commands: Vec::new() };
    let drain = Step::Drain { settle: seconds(5), deadline: seconds(30), on_busy: OnTimeout::Unwind };
    let wait = Step::WaitDrained {
        inbound_at_most: 0,
        idle_for: None,
        timeout: seconds(3),
        on_timeout: if fault == Fault::NeverEmpty { OnTimeout::Unwind } else { OnTimeout::Proceed },
    };
    let restart = Step::Restart { deadline: None };
    let health = Step::HealthCheck { timeout: seconds(10), successes: 3, interval: seconds(2) };
    let restore = Step::Restore { deadline: seconds(2) };
    let expect = Comparison {
        signal: Signal::CloseWaitAged(Duration::from_secs(60)),
        operator: Operator::Below,
        threshold: 20.0,
    };
    let verify = Step::Verify { soak: seconds(6), expect: vec![expect] };
    let recycle = Step::RecycleWorkers(Recycle {
        older_than: seconds(60),
        batch: 3,
        floor: Floor::Share(0.6),
        signal: StopSignal::Term,
        wait: seconds(3),
        kill_after: None,
    });
    let close = Step::CloseSockets { older_than: seconds(600), at_most: 1_000 };
    let pause = Step::Pause { length: seconds(2) };
    let run = |program: &str, effect| Step::Run { argv: vec![program.into()], effect, deadline: seconds(5) };
    let undone = RunEffect::Compensable { undo: vec!["/bin/unquiet".into()] };
    match shape {
        Shape::IsolateRestartRecover => vec![snapshot, drain, wait, restart, health, restore, verify],
        Shape::RestartInPlace => vec![snapshot, restart, health, verify],
        Shape::EvidenceOnly => vec![snapshot],
        Shape::WithCommands => vec![
            snapshot,
            run("/bin/quiet", undone),
            drain,
            restart,
            run("/bin/warm", RunEffect::Retryable),
            health,
            restore,
            verify,
            Step::Notify { text: "done".into() },
        ],
        Shape::Reload => vec![snapshot, Step::Reload { deadline: seconds(90) }, health, verify],
        Shape::RecycleWorkers => vec![snapshot, recycle, health, verify],
        Shape::CloseSockets => vec![snapshot, close, health, verify],
        Shape::IsolateAndCall => vec![snapshot, drain, wait, Step::Call { text: String::new() }],
        Shape::IsolateAndRecycle => vec![snapshot, drain, pause, recycle, health, restore, verify],
        Shape::WithPivots => vec![
            snapshot,
            drain,
            run("/bin/once-before", RunEffect::Pivot),
            restart,
            health,
            run("/bin/once-behind", RunEffect::Pivot),
            restore,
            verify,
        ],
    }
}

pub fn plan(steps: Vec<Step>) -> Plan {
    let drains = steps.iter().any(|step| matches!(step, Step::Drain { .. }));
    let binding = Binding::new(REGISTRY, ID);
    Plan {
        incident: IncidentId("20261122T184329Z-rpc-order-1f3a".into()),
        trigger: Trigger::Breach,
        policy: "close-wait-leak".into(),
        dry_run: false,
        runbook: "under-test".into(),
        target: Target {
            service: ServiceName::parse("rpc-order.service").unwrap(),
            bindings: if drains { vec![binding] } else { Vec::new() },
            health: Some(Health::RedisPing("127.0.0.1:7801".parse().unwrap())),
            restart: Some(Restart::Systemd { unit: "rpc-order.service".into(), with_dependents: false }),
        },
        incarnation: Some(Incarnation("lifetime-1".into())),
        when: Condition::Compare(Comparison { signal: Signal::CloseWait, operator: Operator::Above, threshold: 200.0 }),
        clear: None,
        rung: None,
        limits: Limits::default(),
        guards: GuardSettings::default(),
        fleet_scope: None,
        steps: steps.into_iter().map(|step| PlannedStep { effect: step.effect(), step }).collect(),
    }
}

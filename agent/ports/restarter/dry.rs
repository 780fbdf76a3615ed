//! A restarter that restarts nothing: what would be refused is refused, and what would be done is told as done.
//!
//! One is made for each dry saga. After a dry restart `observe` tells the real state under a made-up incarnation, for
//! as long as the lifetime that would have ended goes on; once somebody really restarts the service, the real one.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;

use super::{Liveness, RestartError, Restarted, Restarter, Revival, RunState};
use crate::model::Incarnation;
use crate::model::plan;

pub struct DryRestarter {
    real: Arc<dyn Restarter>,
    restarted: Mutex<Vec<Pretence>>,
}

#[derive(Debug)]
struct Pretence {
    target: plan::Restart,
    /// The real lifetime that goes on.
    real: Incarnation,
    pretended: Incarnation,
}

impl DryRestarter {
    pub fn new(real: Arc<dyn Restarter>) -> Self {
        Self { real, restarted: Mutex::default() }
    }

    fn restarted(&self) -> std::sync::MutexGuard<'_, Vec<Pretence>> {
        self.restarted.lock().expect("nothing panics while it holds the list")
    }
}

impl std::fmt::Debug for DryRestarter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DryRestarter").field("restarted", &self.restarted).finish_non_exhaustive()
    }
}

#[async_trait]
impl Restarter for DryRestarter {
    async fn observe(&self, target: &plan::Restart) -> Result<Liveness, RestartError> {
        let mut seen = self.real.observe(target).await?;
        let restarted = self.restarted();
        let last = restarted.iter().rev().find(|restarted| restarted.target == *target);
        if let Some(last) = last.filter(|last| seen.incarnation.as_ref() == Some(&last.real)) {
            seen.incarnation = Some(last.pretended.clone());
        }
        Ok(seen)
    }

    async fn container_id(&self, target: &plan::Restart) -> Result<Option<String>, RestartError> {
        self.real.container_id(target).await
    }

    async fn remember(&self, target: &plan::Restart, incarnation: &Incarnation) -> Result<Value, RestartError> {
        self.real.remember(target, incarnation).await
    }

    async fn would(&self, revival: Revival, target: &plan::Restart) -> Result<String, RestartError> {
        self.real.would(revival, target).await
    }

    async fn restart(&self, target: &plan::Restart, _deadline: Duration) -> Result<Restarted, RestartError> {
        let seen = self.real.observe(target).await?;
        let service = super::named(target);
        let refused = |detail: String| RestartError::Refused { service: service.clone(), detail };
        if let plan::Restart::Systemd { with_dependents: false, .. } | plan::Restart::Docker { .. } = target {
            super::alone(&service, &self.real.dependents(target).await?)?;
        }
        let real = match (seen.state, seen.incarnation) {
            (RunState::Active, Some(real)) => real,
            (state, _) => return Err(refused(format!("the service is {state}"))),
        };
        let mut restarted = self.restarted();
        let pretended = Incarnation(format!("dry-run-{}-after-{real}", restarted.len() + 1));
        restarted.push(Pretence { target: target.clone(), real, pretended: pretended.clone() });
        Ok(Restarted::NewIncarnation(pretended))
    }

    async fn no_reload(&self, target: &plan::Restart) -> Result<Option<String>, RestartError> {
        self.real.no_reload(target).await
    }

    async fn reload(&self, target: &plan::Restart, _deadline: Duration) -> Result<(), RestartError> {
        let refused = |detail: String| RestartError::Refused { service: super::named(target), detail };
        match (self.real.no_reload(target).await?, self.real.observe(target).await?.state) {
            (Some(why), _) => Err(refused(why)),
            (None, RunState::Active) => Ok(()),
            (None, state) => Err(refused(format!("the service is {state}"))),
        }
    }

    async fn own_deadline(&self, target: &plan::Restart) -> Result<Duration, RestartError> {
        self.real.own_deadline(target).await
    }

    async fn dependents(&self, target: &plan::Restart) -> Result<Vec<String>, RestartError> {
        self.real.dependents(target).await
    }

    async fn unfit(&self, target: &plan::Restart) -> Result<Option<String>, RestartError> {
        self.real.unfit(target).await
    }

    async fn would_not_start(&self, target: &plan::Restart) -> Result<Option<String>, RestartError> {
        self.real.would_not_start(target).await
    }

    async fn caveats(&self, target: &plan::Restart) -> Vec<String> {
        self.real.caveats(target).await
    }

    async fn settles_within(&self, _target: &plan::Restart) -> Result<Duration, RestartError> {
        Ok(Duration::ZERO)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs under one incarnation until a test sets another; a restart panics.
    struct Real(Mutex<Liveness>, Vec<String>);

    impl Real {
        fn running(incarnation: &str, dependents: &[&str]) -> Arc<Self> {
            let state = Mutex::new(running(incarnation));
            Arc::new(Self(state, dependents.iter().map(|unit| unit.to_string()).collect()))
        }
    }

    fn running(incarnation: &str) -> Liveness {
        Liveness {
            state: RunState::Active,
            incarnation: Some(Incarnation(incarnation.into())),
            main_pid: Some(7),
            up_for: Some(Duration::from_secs(9)),
        }
    }

    #[async_trait]
    impl Restarter for Real {
        async fn observe(&self, _target: &plan::Restart) -> Result<Liveness, RestartError> {
            Ok(self.0.lock().unwrap().clone())
        }

        async fn restart(&self, _target: &plan::Restart, _deadline: Duration) -> Result<Restarted, RestartError> {
            panic!("a dry run restarted the service");
        }

        async fn would(&self, revival: Revival, _target: &plan::Restart) -> Result<String, RestartError> {
            Ok(format!("{revival:?}"))
        }

        async fn no_reload(&self, _target: &plan::Restart) -> Result<Option<String>, RestartError> {
            Ok(self.1.first().map(|_| "the unit has no ExecReload=".into()))
        }

        async fn reload(&self, _target: &plan::Restart, _deadline: Duration) -> Result<(), RestartError> {
            panic!("a dry run reloaded the service");
        }

        async fn own_deadline(&self, _target: &plan::Restart) -> Result<Duration, RestartError> {
            Ok(Duration::from_secs(1))
        }

        async fn dependents(&self, _target: &plan::Restart) -> Result<Vec<String>, RestartError> {
            Ok(self.1.clone())
        }

        async fn settles_within(&self, _target: &plan::Restart) -> Result<Duration, RestartError> {
            Ok(Duration::ZERO)
        }
    }

    fn unit(with_dependents: bool) -> plan::Restart {
        plan::Restart::Systemd { unit: "a.service".into(), with_dependents }
    }

    #[tokio::test]
    async fn a_dry_restart_is_a_new_incarnation_until_somebody_really_restarts_it() {
        let real = Real::running("A", &[]);
        let dry = DryRestarter::new(real.clone());
        let first = dry.restart(&unit(false), Duration::ZERO).await.unwrap().new_incarnation();
        assert_eq!(
            dry.observe(&unit(false)).await.unwrap(),
            Liveness { incarnation: Some(first.clone()), ..running("") }
        );
        let second = dry.restart(&unit(false), Duration::ZERO).await.unwrap().new_incarnation();
        assert!(first != second && first.0 != "A");
        *real.0.lock().unwrap() = running("B");
        assert_eq!(dry.observe(&unit(false)).await.unwrap(), running("B"));
    }

    #[tokio::test]
    async fn what_a_real_restart_would_refuse_is_refused() {
        let stopped = Real::running("A", &[]);
        stopped.0.lock().unwrap().state = RunState::Inactive;
        for (real, target) in [(stopped, unit(false)), (Real::running("A", &["b.service"]), unit(false))] {
            let refused = DryRestarter::new(real).restart(&target, Duration::ZERO).await;
            assert!(matches!(refused, Err(RestartError::Refused { .. })), "{refused:?}");
        }
        let no_reload =
            DryRestarter::new(Real::running("A", &["b.service"])).reload(&unit(false), Duration::ZERO).await;
        assert!(matches!(no_reload, Err(RestartError::Refused { .. })), "{no_reload:?}");
        let reloads = DryRestarter::new(Real::running("A", &[]));
        assert!(reloads.reload(&unit(false), Duration::ZERO).await.is_ok());
        assert_eq!(reloads.observe(&unit(false)).await.unwrap(), running("A"), "the same lifetime");
        let along = DryRestarter::new(Real::running("A", &["b.service"]));
        assert!(along.restart(&unit(true), Duration::ZERO).await.is_ok());
    }
}

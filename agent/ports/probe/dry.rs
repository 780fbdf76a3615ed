//! A probe for dry-run: the service is asked once, and its answer is remembered for as long as the dry saga lasts. How healthy
//! a service is before a restart that does not take place says nothing of how it would be after it: [`Probe::ask`] counts as
//! passed, and [`DryProbe::now`] is what people are told. Commands are not run.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use nix::unistd::{AccessFlags, access};
use tokio::sync::OnceCell;

use super::{Probe, ProbeFailure};
use crate::model::plan::Health;

/// One is made for each dry saga, whose plan has one probe.
pub struct DryProbe {
    real: Arc<dyn Probe>,
    answer: OnceCell<Result<(), ProbeFailure>>,
}

impl DryProbe {
    pub fn new(real: Arc<dyn Probe>) -> Self {
        Self { real, answer: OnceCell::new() }
    }

    /// What the service answers now, before anything is done to it; `None` where the probe is a command.
    pub async fn now(&self, health: &Health, deadline: Duration) -> Option<Result<(), ProbeFailure>> {
        match health {
            Health::Exec(_) => None,
            health => Some(self.answer.get_or_init(|| self.real.ask(health, deadline)).await.clone()),
        }
    }
}

impl std::fmt::Debug for DryProbe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DryProbe").field("answer", &self.answer).finish_non_exhaustive()
    }
}

#[async_trait]
impl Probe for DryProbe {
    async fn ask(&self, health: &Health, deadline: Duration) -> Result<(), ProbeFailure> {
        self.now(health, deadline).await;
        Ok(())
    }

    /// Of a command only whether it is there.
    async fn can_be_asked(&self, health: &Health, deadline: Duration) -> Result<(), ProbeFailure> {
        if let Health::Exec(argv) = health {
            let program = argv.first().map_or("", String::as_str);
            return access(program, AccessFlags::X_OK).map_err(|error| ProbeFailure {
                asked: super::asked(health),
                answer: format!("cannot be started: {error}"),
                is_an_answer: false,
            });
        }
        match self.now(health, deadline).await {
            Some(Err(failure)) if !failure.is_an_answer => Err(failure),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Fails each time, and counts.
    #[derive(Default)]
    struct Ill(AtomicUsize);

    #[async_trait]
    impl Probe for Ill {
        async fn ask(&self, health: &Health, _deadline: Duration) -> Result<(), ProbeFailure> {
            self.0.fetch_add(1, Ordering::SeqCst);
            Err(ProbeFailure { asked: super::super::asked(health), answer: "503".into(), is_an_answer: true })
        }
    }

    #[tokio::test]
    async fn the_service_is_asked_once_and_what_it_answered_is_told_and_hinders_nothing() {
        let (real, health) = (Arc::new(Ill::default()), Health::Tcp("127.0.0.1:1".parse().unwrap()));
        let dry = DryProbe::new(real.clone());
        for _ in 0..63 {
            dry.ask(&health, Duration::ZERO).await.unwrap();
            dry.can_be_asked(&health, Duration::ZERO).await.unwrap();
        }
        let told = dry.now(&health, Duration::ZERO).await.unwrap().unwrap_err();
        assert_eq!((told.to_string().as_str(), real.0.load(Ordering::SeqCst)), ("tcp 127.0.0.1:1: 503", 1));
    }

    #[tokio::test]
    async fn a_command_is_not_run() {
        let dry = DryProbe::new(Arc::new(Ill::default()));
        let there = |program: &str| Health::Exec(vec![program.into()]);
        assert_eq!(dry.now(&there("/bin/true"), Duration::ZERO).await, None);
        dry.can_be_asked(&there("/bin/true"), Duration::ZERO).await.unwrap();
        let failure = dry.can_be_asked(&there("/nowhere"), Duration::ZERO).await.unwrap_err();
        assert!(failure.to_string().starts_with("exec /nowhere: cannot be started: "), "{failure}");
    }
}

//! One restarter for each way in which a service is restarted.

use std::sync::Arc;

use super::restarter::Restarter;
use crate::model::plan::Restart;

#[derive(Clone)]
pub struct Restarters {
    pub systemd: Arc<dyn Restarter>,
    pub process: Arc<dyn Restarter>,
    pub docker: Arc<dyn Restarter>,
    pub supervisord: Arc<dyn Restarter>,
    pub supervise: Arc<dyn Restarter>,
}

impl std::fmt::Debug for Restarters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Restarters").finish_non_exhaustive()
    }
}

impl Restarters {
    /// The same one for all.
    #[cfg(any(test, feature = "crash-points"))]
    pub fn all(one: Arc<dyn Restarter>) -> Self {
        let again = || Arc::clone(&one);
        Self { systemd: again(), process: again(), docker: again(), supervisord: again(), supervise: again() }
    }

    /// The one that restarts in this way.
    pub fn of(&self, restart: &Restart) -> &Arc<dyn Restarter> {
        match restart {
            Restart::Systemd { .. } => &self.systemd,
            Restart::Process(_) => &self.process,
            Restart::Docker { .. } => &self.docker,
            Restart::Supervisord { .. } => &self.supervisord,
            Restart::Supervise(_) => &self.supervise,
        }
    }

    /// Each with the same around it.
    pub fn wrapped<T: Restarter + 'static>(&self, around: impl Fn(Arc<dyn Restarter>) -> T) -> Self {
        let wrap = |one: &Arc<dyn Restarter>| Arc::new(around(Arc::clone(one))) as Arc<dyn Restarter>;
        Self {
            systemd: wrap(&self.systemd),
            process: wrap(&self.process),
            docker: wrap(&self.docker),
            supervisord: wrap(&self.supervisord),
            supervise: wrap(&self.supervise),
        }
    }
}

//! Services whose main process only their supervisor knows: its programs share one cgroup, which does not tell them
//! apart. Their pids are asked for before each look and handed to the sensor, which asks nobody but the kernel.

use std::sync::Arc;
use std::time::Duration;

use super::Wiring;
use crate::clock::Clock;
use crate::config::{Config, ServiceConfig};
use crate::model::ServiceName;
use crate::model::plan::Restart;
use crate::ports::restarter::{Restarter, supervisord::SupervisordRestarter};

/// For all of them: a tick does not wait longer. Who has not answered by then keeps the pid that was told last.
const WITHIN: Duration = Duration::from_secs(2);

/// Is the service's main process to be asked for?
pub fn is_asked_for(restart: Option<&Restart>) -> bool {
    matches!(restart, Some(Restart::Supervisord { .. }))
}

/// Tells the sensor the present main processes.
pub async fn tell(wiring: &Wiring) {
    let mains = mains(&wiring.config, &wiring.host.clock).await;
    wiring.sensor.lock().supervised(mains);
}

/// The main processes of the supervised services that the configuration names; whose supervisor does not answer is left
/// out.
pub async fn mains(config: &Config, clock: &Arc<dyn Clock>) -> Vec<(ServiceName, u32)> {
    let supervisord = SupervisordRestarter::new(Arc::clone(clock));
    let mut mains = Vec::new();
    let ask_all = async {
        for ServiceConfig { service, .. } in config.host.services.values() {
            let Some(restart @ Restart::Supervisord { .. }) = config.target_for(service).restart else { continue };
            match supervisord.observe(&restart).await {
                Ok(seen) => mains.extend(seen.main_pid.map(|pid| (service.clone(), pid))),
                Err(error) => tracing::warn!(%error, "its main process is not known anew"),
            }
        }
    };
    if tokio::time::timeout(WITHIN, ask_all).await.is_err() {
        tracing::warn!("a supervisor takes its time: some main processes are not known anew");
    }
    mains
}

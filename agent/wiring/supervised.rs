//! What only a supervisor or a container's daemon knows: the main process of a service that shares a cgroup with others,
//! and which container bears a name now. They are asked before each look, and their words handed to the sensor, which
//! asks nobody but the kernel.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use super::Wiring;
use crate::attribute::container_by_id;
use crate::clock::Clock;
use crate::config::Config;
use crate::model::plan::Restart;
use crate::model::{ServiceName, duration};
use crate::ports::restarter::docker::DockerRestarter;
use crate::ports::restarter::supervise::SuperviseRestarter;
use crate::ports::restarter::supervisord::SupervisordRestarter;
use crate::ports::restarter::{RestartError, Restarter};
use crate::sense::sensor::Told;

/// For each of them, all at once: a tick does not wait longer. What was told last is kept for who has not answered by
/// then.
const WITHIN: Duration = Duration::from_secs(2);

enum Answer {
    Main(u32),
    Container(ServiceName),
    /// Nobody needs to be asked, or nothing runs.
    Nothing,
}

/// Is the service's main process to be asked for?
pub fn has_a_main(restart: Option<&Restart>) -> bool {
    matches!(restart, Some(Restart::Supervisord { .. } | Restart::Supervise(_)))
}

/// Asks, and tells the sensor.
pub async fn tell(wiring: &Wiring) {
    let told = ask(&wiring.config, &wiring.host.clock).await;
    wiring.sensor.acquire().await.told(told);
}

/// Asks about the services that the configuration names; who does not answer is left out.
pub async fn ask(config: &Config, clock: &Arc<dyn Clock>) -> Told {
    let mut asked = JoinSet::new();
    for service in config.host.services.keys() {
        let Some(restart) = config.target_for(service).restart else { continue };
        let (service, clock) = (service.clone(), Arc::clone(clock));
        asked.spawn(async move {
            let answer = tokio::time::timeout(WITHIN, answer(&restart, clock)).await;
            (service, answer)
        });
    }
    let mut told = Told::default();
    for (service, answer) in asked.join_all().await {
        match answer {
            Ok(Ok(Answer::Main(pid))) => told.mains.push((service, pid)),
            Ok(Ok(Answer::Container(by_id))) => told.containers.push((service, by_id)),
            Ok(Ok(Answer::Nothing)) => {}
            Ok(Err(error)) => tracing::warn!(
                %service,
                %error,
                "cannot ask the supervisor of {service} for its process: {error}; its last answer is used",
            ),
            Err(_) => tracing::warn!(
                %service,
                "the supervisor of {service} did not answer within {}; its last answer is used",
                duration::format(WITHIN),
            ),
        }
    }
    told
}

async fn answer(restart: &Restart, clock: Arc<dyn Clock>) -> Result<Answer, RestartError> {
    let main = match restart {
        Restart::Supervisord { .. } => SupervisordRestarter::new(clock).observe(restart).await?.main_pid,
        Restart::Supervise(_) => SuperviseRestarter::new(clock).observe(restart).await?.main_pid,
        Restart::Docker { container, .. } if !is_id(container) => {
            let id = DockerRestarter::new(clock).id(restart).await?;
            return Ok(container_by_id(&id).map_or(Answer::Nothing, Answer::Container));
        }
        Restart::Docker { .. } | Restart::Systemd { .. } | Restart::Process(_) => None,
    };
    Ok(main.map_or(Answer::Nothing, Answer::Main))
}

/// Named as its cgroup names it.
fn is_id(container: &str) -> bool {
    container.len() == 12 && container.bytes().all(|byte| byte.is_ascii_hexdigit())
}

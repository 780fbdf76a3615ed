//! What only a supervisor or a container's daemon knows: the main process of a service that shares a cgroup with others,
//! and which container bears a name now. They are asked before each look, and their words handed to the sensor, which
//! asks nobody but the kernel.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use super::{Wiring, adapters};
use crate::attribute::container_by_id;
use crate::clock::Clock;
use crate::config::Config;
use crate::model::plan::Restart;
use crate::model::{ServiceName, duration};
use crate::ports::Restarters;
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
    let told = ask(&wiring.config, &wiring.ports.restarters).await;
    wiring.sensor.acquire().await.told(told);
}

/// The same for a look of its own, by this host's restarters.
pub async fn told(config: &Config, clock: &Arc<dyn Clock>) -> Told {
    ask(config, &adapters::restarters(clock)).await
}

/// Asks about the services that the configuration names; who does not answer is left out.
async fn ask(config: &Config, restarters: &Restarters) -> Told {
    let mut asked = JoinSet::new();
    for service in config.host.services.keys() {
        let Some(restart) = config.target_for(service).restart else { continue };
        let (service, restarter) = (service.clone(), Arc::clone(restarters.of(&restart)));
        asked.spawn(async move {
            let answer = tokio::time::timeout(WITHIN, answer(&restart, restarter.as_ref())).await;
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

async fn answer(restart: &Restart, restarter: &dyn Restarter) -> Result<Answer, RestartError> {
    Ok(match restart {
        Restart::Docker { container, .. } if !is_id(container) => {
            let id = restarter.container_id(restart).await?;
            id.and_then(|id| container_by_id(&id)).map_or(Answer::Nothing, Answer::Container)
        }
        restart if has_a_main(Some(restart)) => {
            restarter.observe(restart).await?.main_pid.map_or(Answer::Nothing, Answer::Main)
        }
        _ => Answer::Nothing,
    })
}

/// Named as its cgroup names it.
fn is_id(container: &str) -> bool {
    container.len() == 12 && container.bytes().all(|byte| byte.is_ascii_hexdigit())
}

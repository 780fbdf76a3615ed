//! Where it comes from: the running agent where one answers, else looks of this command, as `unwait scan` makes them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::past;
use super::state::{LooksWanted, TopEvent, TopLook};
use crate::cli::{ConfigArguments, open, order, scan};
use crate::clock::{Clock, SystemClock};
use crate::config::{self, Config};
use crate::model::{ServiceName, Signal};
use crate::sense::sensor::{Effort, Sensor, SharedSensor, on_blocking_thread};
use crate::view::request::Request;
use crate::view::services::{HostLimit, ServiceRow, ServicesNow, SocketsOfService};
use crate::view::status::{AgentNow, Status};
use crate::wiring;

/// For the running agent: it answers at once what it knows.
const AGENT_WITHIN: Duration = Duration::from_secs(5);
/// It looks through the descriptors of all processes.
const SOCKETS_WITHIN: Duration = Duration::from_secs(20);
/// Nothing is asked more often, however often the agent looks.
const LEAST_BETWEEN: Duration = Duration::from_secs(1);
/// The same of the sockets of an opened service.
const SOCKETS_EVERY: Duration = Duration::from_secs(5);

/// Both ways to what is so now, and the way to the past.
#[derive(Debug)]
pub struct LookSource {
    /// Where an agent would listen; why that is not known.
    state: Result<PathBuf, String>,
    config: Option<Config>,
    /// From one look of its own to the next.
    every: Duration,
    own: Mutex<Option<SharedSensor>>,
}

impl LookSource {
    /// A configuration that cannot be read keeps nobody from looking.
    pub fn new(place: &ConfigArguments, every: Duration) -> Self {
        let state = open::state_unchecked(&place.config);
        let state = state.ok_or_else(|| {
            format!("no agent can be asked: no configuration can be read in {}", place.config.display())
        });
        Self { state, config: config::load(&place.config).ok(), every, own: Mutex::new(None) }
    }

    /// Looks at what the screen wants, again and again, and tells of it, until nobody listens.
    pub async fn look_on(self: Arc<Self>, mut wanted: watch::Receiver<LooksWanted>, tell: mpsc::Sender<TopEvent>) {
        let part = |wanted: &LooksWanted| (wanted.past, wanted.asked);
        loop {
            let (past, asked) = part(&wanted.borrow_and_update());
            let (event, again) = match past {
                Some(at) => (TopEvent::Past(at, self.past(at).await.map(Box::new)), None),
                None => {
                    let seen = self.now().await;
                    let every = seen.as_ref().map_or(self.every, |seen| seen.every).max(LEAST_BETWEEN.min(self.every));
                    (seen.map_or_else(TopEvent::NotSeen, |seen| TopEvent::Seen(Box::new(seen))), Some(every))
                }
            };
            if tell.send(event).await.is_err() || changed(&mut wanted, (past, asked), part, again).await.is_err() {
                return;
            }
        }
    }

    /// The same of the sockets of the service that is opened. The registries are asked for names once.
    pub async fn look_closely(self: Arc<Self>, mut wanted: watch::Receiver<LooksWanted>, tell: mpsc::Sender<TopEvent>) {
        let part = |wanted: &LooksWanted| (wanted.sockets_of.clone(), wanted.asked);
        let mut named = None;
        loop {
            let (service, asked) = part(&wanted.borrow_and_update());
            if let Some(service) = &service {
                let seen = self.sockets(service, named.as_ref() != Some(service)).await;
                named = seen.is_ok().then(|| service.clone());
                if tell.send(TopEvent::Sockets(service.clone(), seen.map(Box::new))).await.is_err() {
                    return;
                }
            } else {
                named = None;
            }
            let again = service.is_some().then_some(SOCKETS_EVERY);
            if changed(&mut wanted, (service, asked), part, again).await.is_err() {
                return;
            }
        }
    }

    async fn now(&self) -> Result<TopLook, String> {
        let asked = match &self.state {
            Ok(state) => self.agent(state).await,
            Err(why) => Err(why.clone()),
        };
        let why = match asked {
            Ok(Some(seen)) => return Ok(seen),
            Ok(None) => "no agent runs here: what policies and guards say is not known".to_owned(),
            Err(why) => why,
        };
        let mut seen = self.own_look().await?;
        seen.notes.insert(0, why);
        Ok(seen)
    }

    /// `None`: no agent listens.
    async fn agent(&self, state: &Path) -> Result<Option<TopLook>, String> {
        let Some(services) = ask::<ServicesNow>(state, Request::Services, AGENT_WITHIN).await? else { return Ok(None) };
        let status = ask::<Status>(state, Request::Status, AGENT_WITHIN).await?;
        let Some(agent) = status.as_ref().and_then(|status| status.agent.as_ref()) else { return Ok(None) };
        let (every, notes) = (agent.looks_every, notes(agent));
        Ok(Some(TopLook { services, every, notes, status, by_agent: true }))
    }

    async fn sockets(&self, service: &ServiceName, names: bool) -> Result<SocketsOfService, String> {
        let request = Request::Sockets { service: service.to_string(), names };
        let asked = match &self.state {
            Ok(state) => ask(state, request, SOCKETS_WITHIN).await,
            Err(_) => Ok(None),
        };
        let why = match asked {
            Ok(Some(seen)) => return Ok(seen),
            Ok(None) => None,
            Err(why) => Some(why),
        };
        let (sensor, of) = (self.sensor()?, service.clone());
        let found = on_blocking_thread(move || sensor.sockets_of(&of)).await.map_err(|error| error.to_string())?;
        let not_seen = why.into_iter().chain(found.not_seen).collect();
        Ok(SocketsOfService::of(found.at, service.clone(), found.sockets, &HashMap::new(), not_seen))
    }

    async fn past(&self, at: jiff::Timestamp) -> Result<ServicesNow, String> {
        past::at(self.state.as_ref().map_err(|why| format!("the past cannot be read: {why}"))?, at).await
    }

    fn sensor(&self) -> Result<SharedSensor, String> {
        let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        if own.is_none() {
            let matches = self.config.as_ref().map(wiring::matches).unwrap_or_default();
            let asked = vec![
                scan::AGED,
                scan::GROWTH,
                Signal::FdUsed,
                Signal::FdRatio,
                Signal::FdClosed,
                Signal::FdExhaustedIn,
            ];
            let sensor = Sensor::new(matches, asked, Arc::new(SystemClock)).map_err(|error| error.to_string())?;
            *own = Some(SharedSensor::new(sensor));
        }
        own.clone().ok_or_else(|| "there is no sensor".into())
    }

    async fn own_look(&self) -> Result<TopLook, String> {
        let sensor = self.sensor()?;
        let told = match &self.config {
            Some(config) => {
                let clock: Arc<dyn Clock> = Arc::new(SystemClock);
                Some(wiring::supervised::told(config, &clock).await)
            }
            None => None,
        };
        let looked = on_blocking_thread(move || {
            let mut sensor = sensor.lock();
            told.into_iter().for_each(|told| sensor.told(told));
            sensor.discover();
            let look = sensor.look(Effort::Afresh).map_err(|error| error.to_string())?;
            let cautions = sensor.cautions();
            let services = look.measurements.services();
            let of = |(service, readings)| ServiceRow::of(service, readings, &sensor.meter().history(service));
            let services: Vec<ServiceRow> = services.filter_map(of).collect();
            Ok::<_, String>((services, cautions, look))
        });
        let (services, cautions, look) = looked.await?;
        if let Some(why) = &look.measurements.untrusted {
            return Err(format!("the look was partial, and no count of it can be trusted: {why}"));
        }
        let listed = ServicesNow {
            at: Some(look.measurements.at),
            host: wiring::host_name().unwrap_or_else(|_| "this host".into()),
            host_close_wait: Some(look.host_close_wait),
            host_limit: self.config.as_ref().and_then(|config| HostLimit::of(&config.policies)),
            unattributed: look.unattributed.iter().map(|(why, count)| (why.to_string(), *count)).collect(),
            ..ServicesNow::default()
        };
        let not_seen = scan::not_seen(&look, &cautions).into_iter().map(|what| format!("NOT SEEN: {what}"));
        let notes = not_seen.chain(scan::mind(&cautions)).collect();
        Ok(TopLook { services: listed.list(services), status: None, by_agent: false, every: self.every, notes })
    }
}

/// What a person should know of the agent's looks, first what is wrong.
fn notes(agent: &AgentNow) -> Vec<String> {
    let hangs = agent.observe_only.then(|| {
        let why = agent.disk_hangs.as_deref().unwrap_or("the state directory cannot be written");
        format!("OBSERVE-ONLY: {why}")
    });
    let failed = agent.last_failure.iter().map(|why| format!("NOT MEASURING: {why}"));
    let rejected =
        agent.rejected_configuration.iter().map(|rejected| format!("CONFIGURATION REJECTED: {}", rejected.why));
    let held = agent.held_modes.iter().map(|(policy, held)| format!("HELD MODE of {policy}: {held}"));
    let not_seen = agent.not_seen.iter().map(|what| format!("NOT SEEN: {what}"));
    hangs.into_iter().chain(failed).chain(rejected).chain(held).chain(not_seen).collect()
}

/// Asks the running agent; `None` where none listens.
async fn ask<T: serde::de::DeserializeOwned>(
    state: &Path,
    request: Request,
    within: Duration,
) -> Result<Option<T>, String> {
    match tokio::time::timeout(within, order::call(state, request, None)).await {
        Err(_) => Err(format!(
            "THE AGENT HANGS: it did not answer within {}; `unwait status` asks it again",
            crate::model::duration::format(within)
        )),
        Ok(Err(failure)) => Err(failure.text().to_owned()),
        Ok(Ok(None)) => Ok(None),
        Ok(Ok(Some(reply))) if !reply.ok => Err(format!("the agent refused: {}", reply.text)),
        Ok(Ok(Some(reply))) => reply.carries().map(Some),
    }
}

/// Waits until this part of what is wanted is another, or it is time to look again; an error where nobody wants anything.
async fn changed<T: PartialEq>(
    wanted: &mut watch::Receiver<LooksWanted>,
    was: T,
    part: impl Fn(&LooksWanted) -> T,
    again: Option<Duration>,
) -> Result<(), watch::error::RecvError> {
    let until = again.map(|again| Instant::now() + again);
    let other = wanted.wait_for(|now| part(now) != was);
    match until {
        Some(until) => tokio::time::timeout_at(until, other).await.map_or(Ok(()), |changed| changed.map(drop)),
        None => other.await.map(drop),
    }
}

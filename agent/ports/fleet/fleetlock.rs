//! Slots from any server of the FleetLock protocol (<https://coreos.github.io/zincati/development/fleetlock/protocol>;
//! airlock, and others): `POST v1/pre-reboot` takes one, `v1/steady-state` gives it back, both as often as one likes.
//!
//! It is a counting lock and no more: see [`FleetLock::caveats`]. The group is the service's name, or the one that the
//! host's file gives; the id is `HOST/SERVICE`, so that one host's services do not share a lock by chance, and another
//! hand can give it back for a host that is gone.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use reqwest::{Client, StatusCode, Url};
use serde::Deserialize;
use serde_json::json;

use super::{Acquired, CALL_DEADLINE, Fleet, FleetError, LEASE, Slot};
use crate::clock::Clock;
use crate::ports::http;

pub struct FleetLock {
    base: Url,
    client: Client,
    group: Option<String>,
    host: String,
    clock: Arc<dyn Clock>,
    /// The incident that holds each service's lock, which the server does not know: what an earlier one gives back
    /// late must not be taken from it.
    held_for: Mutex<BTreeMap<String, String>>,
}

impl std::fmt::Debug for FleetLock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FleetLock").field("group", &self.group).field("host", &self.host).finish_non_exhaustive()
    }
}

/// What the server makes of a question.
enum Answer {
    Done,
    /// All slots of the group are held.
    Full,
}

impl FleetLock {
    /// `url` is the server's base; `host` is the name that this host holds slots under.
    pub fn new(url: &str, group: Option<String>, host: &str, clock: Arc<dyn Clock>) -> Result<Self, FleetError> {
        let base = http::address(url).map_err(FleetError::Refused)?;
        let client = http::client(&base, CALL_DEADLINE).map_err(FleetError::Refused)?;
        Ok(Self { base, client, group, host: host.into(), clock, held_for: Mutex::default() })
    }

    /// A group is made of letters, digits, dots and dashes; anything else of a service's name becomes a dash. Two
    /// services whose names then agree share their slots, which is fewer and never more.
    fn group(&self, service: &str) -> String {
        let word = |c: char| if c.is_ascii_alphanumeric() || c == '.' || c == '-' { c } else { '-' };
        self.group.clone().unwrap_or_else(|| service.chars().map(word).collect())
    }

    /// Both questions may be asked again, so one without an answer is.
    async fn ask(&self, endpoint: &str, service: &str, host: &str) -> Result<Answer, FleetError> {
        match self.ask_once(endpoint, service, host).await {
            Err(FleetError::Unreachable(_)) => self.ask_once(endpoint, service, host).await,
            answer => answer,
        }
    }

    async fn ask_once(&self, endpoint: &str, service: &str, host: &str) -> Result<Answer, FleetError> {
        let asked = format!("FleetLock: POST /v1/{endpoint}");
        let unreachable = |why: String| FleetError::Unreachable(format!("{asked}: {why}"));
        let mut url = self.base.clone();
        url.path_segments_mut().expect("an http url has a path").pop_if_empty().extend(["v1", endpoint]);
        let body = json!({ "client_params": { "id": format!("{host}/{service}"), "group": self.group(service) } });
        let request = self.client.post(url).header("fleet-lock-protocol", "true").json(&body);
        let response = request.send().await.map_err(|error| unreachable(http::failure(error)))?;
        let status = response.status();
        let body = http::body(response, http::MAX_ANSWER_BYTES).await.map_err(unreachable)?;
        let says = says(&body);
        match status {
            StatusCode::OK => Ok(Answer::Done),
            // The protocol names no status for it, and airlock answers 500 with words.
            StatusCode::CONFLICT | StatusCode::LOCKED => Ok(Answer::Full),
            _ if says.contains("currently locked") || says.contains("all_slots_full") => Ok(Answer::Full),
            status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                Err(unreachable(format!("{status}: {says}")))
            }
            status => Err(FleetError::Refused(format!(
                "{asked}: {status}: {says}; does the server know the group `{}`?",
                self.group(service)
            ))),
        }
    }

    fn until(&self) -> Duration {
        self.clock.monotonic() + LEASE
    }
}

/// `{"kind": …, "value": …}`, or the text as it is; what we sent holds no secret that it could repeat.
fn says(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Says {
        kind: String,
        value: String,
    }
    let text = match serde_json::from_slice(body) {
        Ok(Says { kind, value }) => format!("{kind}: {value}"),
        Err(_) => String::from_utf8_lossy(body).into_owned(),
    };
    text.lines().next().unwrap_or_default().chars().take(160).collect()
}

#[async_trait]
impl Fleet for FleetLock {
    async fn acquire(&self, service: &str, incident: &str, _slots: u32) -> Result<Acquired, FleetError> {
        let until = self.until();
        match self.ask("pre-reboot", service, &self.host).await? {
            Answer::Done => {
                let mut held_for = self.held_for.lock().unwrap_or_else(PoisonError::into_inner);
                held_for.insert(service.into(), incident.into());
                Ok(Acquired::Yes { until })
            }
            Answer::Full => Ok(Acquired::No { held: Vec::new() }),
        }
    }

    async fn begin(&self, service: &str, _incident: &str) -> Result<Duration, FleetError> {
        let until = self.until();
        match self.ask("pre-reboot", service, &self.host).await? {
            Answer::Done => Ok(until),
            Answer::Full => Err(FleetError::Lost(format!("the slot for {service} is lost: others hold them all"))),
        }
    }

    async fn release(&self, service: &str, incident: &str) -> Result<(), FleetError> {
        let holder = self.held_for.lock().unwrap_or_else(PoisonError::into_inner).get(service).cloned();
        if holder.is_some_and(|holder| holder != incident) {
            return Ok(());
        }
        self.ask("steady-state", service, &self.host).await?;
        self.held_for.lock().unwrap_or_else(PoisonError::into_inner).remove(service);
        Ok(())
    }

    /// Nobody can tell without taking one.
    async fn blocked_by(&self, _service: &str, _incident: &str, _slots: u32) -> Result<Vec<Slot>, FleetError> {
        Ok(Vec::new())
    }

    /// Whether it held one is not said.
    async fn release_host(&self, service: &str, host: &str) -> Result<Vec<Slot>, FleetError> {
        self.ask("steady-state", service, host).await.map(|_| Vec::new())
    }

    fn caveats(&self) -> &'static [&'static str] {
        &[
            "how many hosts may work at once is set on the server, for each group; `fleet_slots` of a policy is not sent",
            "who holds a slot, since when and in which phase is not shown; `plan` and dry-run cannot tell whether one is free",
            "hosts that begin at the same moment do not count each other in `min_healthy`: only a group of one slot is safe",
            "a host that vanishes while it waits keeps its slot until `unwait slot release HOST --service SERVICE`",
            "no breaches are shared: `common_cause` cannot be asked",
        ]
    }
}

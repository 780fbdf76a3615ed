//! Slots from any server of the FleetLock protocol (<https://coreos.github.io/zincati/development/fleetlock/protocol>;
//! airlock, and others): `POST v1/pre-reboot` takes one, `v1/steady-state` gives it back, both as often as one likes.
//!
//! It is a counting lock and no more: see [`FleetLock::caveats`]. The group is the service's name, or the one that the
//! host's file gives; the id is `HOST/SERVICE`, so that one host's services do not share a lock by chance, and another
//! hand can give it back for a host that is gone. It does not name the incident: that hand could not know it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use reqwest::{Client, StatusCode, Url};
use serde::Deserialize;
use serde_json::json;

use super::{Acquired, CALL_DEADLINE, Fleet, FleetError, LEASE, Phase, Slot};
use crate::clock::Clock;
use crate::ports::http;

pub struct FleetLock {
    base: Url,
    client: Client,
    group: Option<String>,
    host: String,
    clock: Arc<dyn Clock>,
    /// What this process has taken of each service, and for which incident: the server knows the host alone, and says
    /// yes to its next incident as well. What was held at an earlier start the store's notes keep apart
    /// (`Store::slot_needed_by_another`).
    held: Mutex<BTreeMap<String, Slot>>,
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
        Ok(Self { base, client, group, host: host.into(), clock, held: Mutex::default() })
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

    fn held(&self) -> MutexGuard<'_, BTreeMap<String, Slot>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What this host holds for another incident than this one.
    fn held_for_another(&self, service: &str, incident: &str) -> Option<Slot> {
        self.held().get(service).filter(|slot| slot.incident != incident).cloned()
    }

    /// Waiting, then changing, and never back.
    fn hold(&self, service: &str, incident: &str, phase: Phase) {
        let mut held = self.held();
        let before = held.get(service).filter(|slot| slot.incident == incident);
        if before.is_none_or(|slot| phase.is_begun() && !slot.phase.is_begun()) {
            let since = self.clock.now();
            let slot = Slot { holder: self.host.clone(), incident: incident.into(), since, phase };
            held.insert(service.into(), slot);
        }
    }

    fn hold_no_more(&self, service: &str) {
        self.held().remove(service);
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
    /// What this host waited for in an earlier incident gives way; what it was changing does not.
    async fn acquire(&self, service: &str, incident: &str, _slots: u32) -> Result<Acquired, FleetError> {
        let until = self.until();
        if let Some(begun) = self.held_for_another(service, incident).filter(|slot| slot.phase.is_begun()) {
            return Ok(Acquired::No { held: vec![begun] });
        }
        match self.ask("pre-reboot", service, &self.host).await? {
            Answer::Done => {
                self.hold(service, incident, Phase::Waiting { until: self.clock.now() + LEASE });
                Ok(Acquired::Yes { until })
            }
            Answer::Full => {
                self.hold_no_more(service);
                Ok(Acquired::No { held: Vec::new() })
            }
        }
    }

    async fn begin(&self, service: &str, incident: &str) -> Result<Duration, FleetError> {
        let until = self.until();
        let lost = |why: String| FleetError::Lost(format!("the slot for {service} is lost: {why}"));
        if let Some(other) = self.held_for_another(service, incident) {
            return Err(lost(format!("this host holds it for incident {}", other.incident)));
        }
        match self.ask("pre-reboot", service, &self.host).await? {
            Answer::Done => {
                self.hold(service, incident, Phase::Changing);
                Ok(until)
            }
            Answer::Full => {
                self.hold_no_more(service);
                Err(lost("others hold them all".into()))
            }
        }
    }

    async fn release(&self, service: &str, incident: &str) -> Result<(), FleetError> {
        if self.held_for_another(service, incident).is_some() {
            return Ok(());
        }
        self.ask("steady-state", service, &self.host).await?;
        self.hold_no_more(service);
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

//! Slots from any server of the FleetLock protocol (<https://coreos.github.io/zincati/development/fleetlock/protocol>;
//! airlock, and others): `POST v1/pre-reboot` takes one, `v1/steady-state` gives it back, both as often as one likes.
//!
//! It is a counting lock and no more: see [`FleetLock::caveats`]. The group is the service's name, or the one that the
//! host's file gives; the id is made of `HOST/SERVICE`, or as the host's file says, so that another hand can give it back
//! for a host that is gone. It does not name the incident: that hand could not know it. Services that share group and id
//! on a host contend under one name (`FleetConfig::scope`), so that one never gives back the other's lock.
//!
//! How the servers answer (airlock a3585ed, poseidon c42d494): full is 500 with words, 423 with the holder's name, or 409; a
//! race that was lost is a 500 of airlock's, and is asked again.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use reqwest::{Method, StatusCode, Url};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Acquired, CALL_DEADLINE, Fleet, FleetError, LEASE, Phase, Slot};
use crate::clock::Clock;
use crate::ports::http::{self, Client, FailureKind, Servers};

pub struct FleetLock {
    base: Url,
    client: Client,
    lock: Lock,
    host: String,
    clock: Arc<dyn Clock>,
    /// What this process has taken of each service, and for which incident: the server knows the host alone, and says
    /// yes to its next incident as well. What was held at an earlier start the store's notes keep apart
    /// (`Store::slot_needed_by_another`).
    held: Mutex<BTreeMap<String, Slot>>,
}

/// What a server knows a host's lock by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lock {
    /// One for all services; else each service has its own.
    pub group: Option<String>,
    /// With `{host}`, and mostly `{service}`.
    pub id: String,
}

impl std::fmt::Debug for FleetLock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FleetLock").field("lock", &self.lock).field("host", &self.host).finish_non_exhaustive()
    }
}

/// What the server makes of a question.
enum Answer {
    /// The server's own words.
    Done(String),
    /// All slots of the group are held; the server's own words.
    Full(String),
}

enum Failed {
    /// An answer that may be another the next time.
    Broken(String),
    /// None came.
    Unanswered(String),
    /// By TLS.
    Distrusted(String),
    Refused(String),
}

/// How often a question is asked again that a server gave up on: of 30 hosts at once, airlock gives up on most.
const AGAIN: u32 = 5;
/// Before the first of these; another share of it on each host, and more each time.
const PAUSE: Duration = Duration::from_millis(100);

impl FleetLock {
    /// `server` has the server's base; `host` is the name that this host holds slots under.
    pub fn new(server: impl Into<Servers>, lock: Lock, host: &str, clock: Arc<dyn Clock>) -> Result<Self, FleetError> {
        let Servers { urls, via } = server.into();
        let base = http::address(urls.first().map_or("", String::as_str)).map_err(FleetError::Refused)?;
        let client = Client::new(&via, CALL_DEADLINE).map_err(FleetError::Refused)?;
        Ok(Self { base, client, lock, host: host.into(), clock, held: Mutex::default() })
    }

    /// A group is made of letters, digits, dots and dashes; anything else of a service's name becomes a dash. Two
    /// services whose names then agree share their slots, which is fewer and never more.
    fn group(&self, service: &str) -> String {
        let word = |c: char| if c.is_ascii_alphanumeric() || c == '.' || c == '-' { c } else { '-' };
        self.lock.group.clone().unwrap_or_else(|| service.chars().map(word).collect())
    }

    fn id(&self, service: &str, host: &str) -> String {
        self.lock.id.replace("{service}", service).replace("{host}", host)
    }

    /// Where it is asked, and by which body.
    fn question(&self, endpoint: &str, service: &str, host: &str) -> (Url, Value) {
        let mut url = self.base.clone();
        url.path_segments_mut().expect("an http url has a path").pop_if_empty().extend(["v1", endpoint]);
        (url, json!({ "client_params": { "id": self.id(service, host), "group": self.group(service) } }))
    }

    /// Both questions may be asked again.
    async fn ask(&self, endpoint: &str, service: &str, host: &str) -> Result<Answer, FleetError> {
        let (mut broken, mut unanswered) = (0, 0);
        loop {
            match self.ask_once(endpoint, service, host).await {
                Ok(answer) => return Ok(answer),
                Err(Failed::Broken(_)) if broken < AGAIN => broken += 1,
                Err(Failed::Unanswered(_)) if unanswered == 0 => unanswered += 1,
                Err(Failed::Broken(why) | Failed::Unanswered(why)) => return Err(FleetError::Unreachable(why)),
                Err(Failed::Distrusted(why)) => return Err(FleetError::Distrusted(why)),
                Err(Failed::Refused(why)) => return Err(FleetError::Refused(why)),
            }
            let share = (RandomState::new().hash_one(()) % 1_000) as f64 / 1_000.0;
            tokio::time::sleep(PAUSE.mul_f64(share * f64::from(broken))).await;
        }
    }

    async fn ask_once(&self, endpoint: &str, service: &str, host: &str) -> Result<Answer, Failed> {
        let asked = format!("FleetLock: POST /v1/{endpoint}");
        let unanswered = |why: String| Failed::Unanswered(format!("{asked}: {why}"));
        let (url, body) = self.question(endpoint, service, host);
        let request = self.client.post(url).header("fleet-lock-protocol", "true").json(&body);
        let response = self.client.send(request).await.map_err(|failure| match failure.kind {
            FailureKind::Distrusted => Failed::Distrusted(format!("{asked}: {}", failure.words)),
            _ => unanswered(failure.words),
        })?;
        let status = response.status();
        let body = http::body(response, http::MAX_ANSWER_BYTES).await.map_err(unanswered)?;
        let says = says(&body);
        match status {
            StatusCode::OK => Ok(Answer::Done(says)),
            // The protocol names no status for it, and airlock answers 500 with words.
            StatusCode::CONFLICT | StatusCode::LOCKED => Ok(Answer::Full(says)),
            _ if says.contains("currently locked") || says.contains("all_slots_full") => Ok(Answer::Full(says)),
            status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                Err(Failed::Broken(format!("{asked}: {status}: {says}")))
            }
            status => Err(Failed::Refused(format!(
                "{asked}: {status}: {says}; the server may lack the group `{}`",
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
            return Ok(Acquired::No { held: vec![begun], says: None });
        }
        match self.ask("pre-reboot", service, &self.host).await? {
            Answer::Done(_) => {
                self.hold(service, incident, Phase::Waiting { until: self.clock.now() + LEASE });
                Ok(Acquired::Yes { until })
            }
            Answer::Full(says) => {
                self.hold_no_more(service);
                Ok(Acquired::No { held: Vec::new(), says: Some(says) })
            }
        }
    }

    /// The server does not tell whether it would say yes.
    async fn would_take(&self, service: &str, incident: &str, _slots: u32) -> Result<Option<String>, FleetError> {
        let (url, body) = self.question("pre-reboot", service, &self.host);
        let is_anothers = self.held_for_another(service, incident).is_some_and(|slot| slot.phase.is_begun());
        Ok((!is_anothers).then(|| format!("{}: {body}", http::shown(&Method::POST, url))))
    }

    async fn begin(&self, service: &str, incident: &str) -> Result<Duration, FleetError> {
        let until = self.until();
        let lost = |why: String| FleetError::Lost(format!("the slot for {service} is lost: {why}"));
        if let Some(other) = self.held_for_another(service, incident) {
            return Err(lost(format!("this host's slot is taken by its incident {}", other.incident)));
        }
        match self.ask("pre-reboot", service, &self.host).await? {
            Answer::Done(_) => {
                self.hold(service, incident, Phase::Changing);
                Ok(until)
            }
            Answer::Full(says) => {
                self.hold_no_more(service);
                Err(lost(format!("other hosts hold all slots; the server says: {says}")))
            }
        }
    }

    async fn release(&self, service: &str, incident: &str) -> Result<(), FleetError> {
        if self.held_for_another(service, incident).is_some() {
            return Ok(());
        }
        if let Answer::Full(says) = self.ask("steady-state", service, &self.host).await? {
            tracing::warn!(
                service,
                "the FleetLock server had already given the slot of {service} to another host; the server says: {says}",
            );
        }
        self.hold_no_more(service);
        Ok(())
    }

    /// Nobody can tell without taking one.
    async fn blocked_by(&self, _service: &str, _incident: &str, _slots: u32) -> Result<Vec<Slot>, FleetError> {
        Ok(Vec::new())
    }

    /// Whether it held one is not said.
    async fn release_host(&self, service: &str, host: &str) -> Result<Vec<Slot>, FleetError> {
        match self.ask("steady-state", service, host).await? {
            // Poseidon's, where nobody holds the group's lock; airlock answers alike whether the id held one or not.
            Answer::Done(says) if !says.contains("already unlocked") => Ok(Vec::new()),
            Answer::Done(says) | Answer::Full(says) => {
                let id = self.id(service, host);
                Err(FleetError::Refused(format!("no slot was given back: `{id}` holds none; the server says: {says}")))
            }
        }
    }

    fn caveats(&self) -> &'static [&'static str] {
        match self.lock.id.contains("{service}") {
            true => &CAVEATS[1..],
            false => &CAVEATS,
        }
    }

    async fn keep(&self, _needed: &[(String, String)]) -> Result<Vec<(String, Slot)>, FleetError> {
        Ok(Vec::new())
    }
}

static CAVEATS: [&str; 7] = [
    "`id` has no {service}: services of a host that share a group share its lock, and only one of them is worked on at a time",
    "the number of hosts that may act at once is set on the server for each group; `fleet_slots` of a policy has no \
     effect",
    "the server does not show the holders of slots, so `plan` and a dry run cannot tell whether a slot is free",
    "hosts that begin at the same moment do not count each other in `min_healthy`: use a group of one slot",
    "a host that vanishes while it waits keeps its slot until `unwait slot release HOST --service SERVICE`",
    "breaches are not shared between hosts: `common_cause` cannot be used",
    "poseidon's server cordons and drains the Kubernetes node of the id when it gives the lock, and accepts no lock \
     back from an id that is no node",
];

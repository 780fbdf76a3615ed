//! Slots in Consul's KV store: the document `unwait/slots/<service>`, changed by `?cas=<ModifyIndex>`, read by
//! `?consistent`. The token needs `key_prefix "unwait/" { policy = "write" }`.
//!
//! A document that is not one of ours is never overwritten: it may be another version's, and hold a slot.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use secrecy::SecretString;
use serde::Deserialize;

use super::document::{self, Asker, Begin, Take};
use super::{Acquired, FleetError, FleetSlots, Slot};
use crate::clock::Clock;
use crate::ports::consul::{Api, ApiError};

/// Lost races before giving up. Each lost one means that another host has won, so a fleet that starts in step needs at
/// most as many as it has hosts for this service; ten covers what can contend within a second.
const TRIES: u32 = 10;
const BETWEEN_TRIES: Duration = Duration::from_millis(30);

pub struct ConsulSlots {
    api: Api,
    host: String,
    clock: Arc<dyn Clock>,
}

impl std::fmt::Debug for ConsulSlots {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConsulSlots").field("api", &self.api).field("host", &self.host).finish_non_exhaustive()
    }
}

/// The document as read, and what a change must compare with; 0 where there is none yet.
struct Read {
    slots: Vec<Slot>,
    modify_index: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Pair {
    /// Base64; absent where the value is empty.
    value: Option<String>,
    modify_index: u64,
}

impl ConsulSlots {
    /// `url` is the local agent's; `host` is the name that this host holds slots under.
    pub fn new(url: &str, token: Option<SecretString>, host: &str, clock: Arc<dyn Clock>) -> Result<Self, FleetError> {
        let api = Api::new(url, token).map_err(|detail| FleetError { detail })?;
        Ok(Self { api, host: host.into(), clock })
    }

    fn asker<'a>(&'a self, incident: &'a str) -> Asker<'a> {
        Asker { host: &self.host, incident, now: self.clock.now() }
    }

    async fn read(&self, service: &str) -> Result<Read, FleetError> {
        let answer = self.api.get(&["kv", "unwait", "slots", service], &[("consistent", "")]).await.map_err(told)?;
        if !answer.found {
            return if answer.indexed {
                Ok(Read { slots: Vec::new(), modify_index: 0 })
            } else {
                Err(FleetError { detail: "404 without Consul's index; is the url Consul's?".into() })
            };
        }
        let pairs: Vec<Pair> = answer.json().map_err(told)?;
        let [pair] = pairs.as_slice() else {
            return Err(FleetError { detail: format!("{} entries for one key", pairs.len()) });
        };
        let corrupt = |why: String| FleetError {
            detail: format!(
                "the document `unwait/slots/{service}` in Consul is no list of slots and is left as it is: {why}; \
                 look at it with `consul kv get`, and delete it where no host works on the service"
            ),
        };
        let text = STANDARD.decode(pair.value.as_deref().unwrap_or_default()).map_err(|e| corrupt(e.to_string()))?;
        let slots = serde_json::from_slice(&text).map_err(|error| corrupt(error.to_string()))?;
        Ok(Read { slots, modify_index: pair.modify_index })
    }

    /// False where somebody else has changed it meanwhile.
    async fn write(&self, service: &str, read: &Read, slots: &[Slot]) -> Result<bool, FleetError> {
        let index = read.modify_index.to_string();
        let text = serde_json::to_vec_pretty(slots).expect("strings and timestamps are JSON");
        let path = ["kv", "unwait", "slots", service];
        match self.api.put(&path, &[("cas", &index)], text).await.map_err(told)?.text().as_str() {
            "true" => Ok(true),
            "false" => Ok(false),
            other => Err(FleetError { detail: format!("Consul answered `{other}` to a compare-and-swap") }),
        }
    }

    fn contended(service: &str) -> FleetError {
        FleetError { detail: format!("`unwait/slots/{service}` was changed by others at each of {TRIES} tries") }
    }
}

fn told(error: ApiError) -> FleetError {
    match error {
        ApiError::Unreachable(detail) | ApiError::Refused(detail) => FleetError { detail },
    }
}

#[async_trait]
impl FleetSlots for ConsulSlots {
    async fn acquire(&self, service: &str, incident: &str, slots: u32) -> Result<Acquired, FleetError> {
        for _ in 0..TRIES {
            let read = self.read(service).await?;
            match document::take(&read.slots, self.asker(incident), slots) {
                Take::Held => return Ok(Acquired::Yes),
                Take::No(held) => return Ok(Acquired::No { held }),
                Take::Write(after) if self.write(service, &read, &after).await? => {
                    // Read back: the swap was said to be done.
                    let now = self.read(service).await?.slots;
                    if now.iter().any(|slot| slot.holder == self.host && slot.incident == incident) {
                        return Ok(Acquired::Yes);
                    }
                }
                Take::Write(_) => {}
            }
            tokio::time::sleep(BETWEEN_TRIES).await;
        }
        Err(Self::contended(service))
    }

    async fn begin(&self, service: &str, incident: &str) -> Result<(), FleetError> {
        for _ in 0..TRIES {
            let read = self.read(service).await?;
            match document::begin(&read.slots, self.asker(incident)) {
                Begin::Begun => return Ok(()),
                Begin::Lost(why) => {
                    return Err(FleetError { detail: format!("the slot for {service} is lost: {why}") });
                }
                // Written or not: the next look tells whether it now stands.
                Begin::Write(after) => {
                    if !self.write(service, &read, &after).await? {
                        tokio::time::sleep(BETWEEN_TRIES).await;
                    }
                }
            }
        }
        Err(Self::contended(service))
    }

    async fn release(&self, service: &str, incident: &str) -> Result<(), FleetError> {
        for _ in 0..TRIES {
            let read = self.read(service).await?;
            match document::release(&read.slots, &self.host, incident) {
                None => return Ok(()),
                Some(after) => {
                    if !self.write(service, &read, &after).await? {
                        tokio::time::sleep(BETWEEN_TRIES).await;
                    }
                }
            }
        }
        Err(Self::contended(service))
    }

    async fn holders(&self, service: &str) -> Result<Vec<Slot>, FleetError> {
        Ok(self.read(service).await?.slots)
    }
}

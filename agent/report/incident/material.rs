//! What a report is made of, read from the store and from the bundle.

use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::diagnosis::{self, Hint, Seen};
use crate::evidence::peers::Peers;
use crate::evidence::{Bundle, Facts, Holders, Limits, Manifest, SocketLine, Vault};
use crate::model::{IncidentId, Sample};
use crate::store::{Store, StoreError};
use crate::view::incident::IncidentShown;

/// So long before an incident began, and after it ended, its signals are shown.
const AROUND: Duration = Duration::from_secs(3600);

/// One incident, whole.
#[derive(Clone, Debug)]
pub struct Material {
    pub shown: IncidentShown,
    pub host: Option<String>,
    /// `None`, with the reason: no evidence was kept, or it cannot be read.
    pub evidence: Result<Evidence, String>,
    /// From an hour before until an hour after, oldest first.
    pub samples: Vec<Sample>,
}

/// What the bundle holds.
#[derive(Clone, Debug)]
pub struct Evidence {
    pub manifest: Manifest,
    pub peers: Peers,
    pub sockets: Vec<SocketLine>,
    pub processes: Vec<Facts>,
    pub holders: Holders,
    /// The sockets in CLOSE_WAIT at the ticks before the breach, which the history keeps by steps alone.
    pub ticks: Vec<(Timestamp, f64)>,
}

/// A line of `signals.jsonl`, as far as it is read here.
#[derive(Deserialize)]
struct SignalsLine {
    at: Timestamp,
    /// Of what is down-sampled.
    step: Option<String>,
    close_wait: Option<f64>,
}

impl Material {
    /// From the store, and from the bundles of this directory; `None` where the store knows no such incident. Blocks on the
    /// disk.
    pub fn of(store: &Store, bundles: &Path, id: &IncidentId) -> Result<Option<Self>, StoreError> {
        let Some(shown) = IncidentShown::of(store, id)? else { return Ok(None) };
        let row = &shown.incident;
        let evidence = match &row.evidence {
            None => Err("no evidence was kept".into()),
            Some(_) => Vault::new(bundles.into(), Limits::default())
                .read(id)
                .map_err(|error| error.to_string())
                .and_then(|bundle| Evidence::of(&bundle)),
        };
        let from = row.began.saturating_sub(AROUND).unwrap_or(Timestamp::MIN);
        let until = row.ended.map_or(Timestamp::MAX, |ended| ended.saturating_add(AROUND).unwrap_or(Timestamp::MAX));
        let samples = store.samples(&shown.plan.target.service, from, until)?;
        let host = evidence.as_ref().ok().map(|evidence| evidence.manifest.host.clone());
        Ok(Some(Self { host, evidence, samples, shown }))
    }
}

/// The files of an incident's bundle, each with its text. Blocks on the disk.
pub fn bundle_texts(bundles: &Path, id: &IncidentId) -> Result<Vec<(String, String)>, String> {
    let bundle = Vault::new(bundles.into(), Limits::default()).read(id).map_err(|error| error.to_string())?;
    let text = |name: &String| bundle.text(name).map(|text| (name.clone(), text)).map_err(|error| error.to_string());
    bundle.manifest.files.iter().map(|file| text(&file.name)).collect()
}

impl Evidence {
    /// A bundle of a former version has no `holders.json`.
    fn of(bundle: &Bundle) -> Result<Self, String> {
        let text = |file: &str| bundle.text(file).map_err(|error| error.to_string());
        let damaged = |file: &str, error: serde_json::Error| format!("{}: {error}", bundle.dir.join(file).display());
        let peers = serde_json::from_str(&text("peers.json")?).map_err(|error| damaged("peers.json", error))?;
        let holders = text("holders.json").map(|text| serde_json::from_str(&text));
        let signals: Vec<SignalsLine> =
            lines(&text("signals.jsonl")?).map_err(|error| damaged("signals.jsonl", error))?;
        let tick = |line: SignalsLine| line.close_wait.filter(|_| line.step.is_none()).map(|count| (line.at, count));
        Ok(Self {
            ticks: signals.into_iter().filter_map(tick).collect(),
            manifest: bundle.manifest.clone(),
            peers,
            sockets: lines(&text("sockets.jsonl")?).map_err(|error| damaged("sockets.jsonl", error))?,
            processes: lines(&text("processes.jsonl")?).map_err(|error| damaged("processes.jsonl", error))?,
            holders: holders.unwrap_or_else(|_| Ok(Holders::default())).map_err(|e| damaged("holders.json", e))?,
        })
    }

    pub fn hints(&self) -> Vec<Hint> {
        diagnosis::diagnose(Seen { sockets: &self.sockets, processes: &self.processes, holders: &self.holders })
    }
}

fn lines<T: DeserializeOwned>(text: &str) -> serde_json::Result<Vec<T>> {
    text.lines().map(serde_json::from_str).collect()
}

//! Whose drains stand, for balancers that keep no reason beside a drain: a small file in the state directory.
//!
//! Written and synced before a drain begins, and taken back only once the instance is in traffic again: what stands here
//! may be no drain yet, or none any more, and is never too little. `{"rpc-order/s1": "unwait: drained incident=…"}`

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::model::Marker;

#[derive(Debug)]
pub(super) struct Ledger(PathBuf);

impl Ledger {
    pub fn new(path: PathBuf) -> Self {
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Every drain, by its instance. No file: no drain was ever made.
    pub fn drains(&self) -> Result<BTreeMap<String, Marker>, String> {
        let told = |why: String| format!("{}: {why}", self.0.display());
        let text = match fs::read(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
            read => read.map_err(|error| told(error.to_string()))?,
        };
        let lines: BTreeMap<String, String> =
            serde_json::from_slice(&text).map_err(|error| told(format!("no list of drains: {error}")))?;
        let marker = |(id, line): (String, String)| match Marker::parse(&line) {
            Some(marker) => Ok((id, marker)),
            None => Err(told(format!("what stands for `{id}` is no marker of ours"))),
        };
        lines.into_iter().map(marker).collect()
    }

    /// From now on this drain stands, or with `None` no drain of this instance.
    pub fn set(&self, id: &str, marker: Option<&Marker>) -> Result<(), String> {
        let mut drains = self.drains()?;
        let before = drains.clone();
        match marker {
            Some(marker) => drains.insert(id.into(), marker.clone()),
            None => drains.remove(id),
        };
        if drains == before {
            return Ok(());
        }
        let lines: BTreeMap<String, String> = drains.into_iter().map(|(id, marker)| (id, marker.to_string())).collect();
        let text = serde_json::to_vec_pretty(&lines).expect("names and lines are JSON");
        replace(&self.0, &text).map_err(|error| format!("writing {}: {error}", self.0.display()))
    }
}

/// Written beside, synced, renamed, and the directory synced.
fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    let beside = path.with_extension("tmp");
    let mut file = File::create(&beside)?;
    file.write_all(text)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
}

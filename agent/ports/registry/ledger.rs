//! Whose drains stand, for balancers that keep no reason beside a drain: a small file in the state directory.
//!
//! Written and synced before a drain begins, and taken back only once the instance is in traffic again: what stands here
//! may be no drain yet, or none any more, and is never too little. `{"rpc-order/s1": "unwait: drained incident=…"}`
//!
//! Nothing that is put back waits for the disk: a line that cannot be taken back now counts no more, and goes once the
//! disk takes it. Where the agent ends before that, the line is a drain that no incident knows of, and is told.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::model::Marker;

#[derive(Debug)]
pub struct Ledger(PathBuf);

type Ended = BTreeMap<PathBuf, BTreeSet<String>>;

/// Instances whose line stands in a file still although their drain has ended. A file's, not an adapter's: one that a
/// new configuration brings reads the same file. Held while a file is changed.
static ENDED: Mutex<Ended> = Mutex::new(Ended::new());

fn ended() -> MutexGuard<'static, Ended> {
    ENDED.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Ledger {
    pub fn new(path: PathBuf) -> Self {
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Every drain, by its instance. No file: no drain was ever made.
    pub fn drains(&self) -> Result<BTreeMap<String, Marker>, String> {
        self.standing(&mut ended())
    }

    /// What the file says, without what has ended; the lines of that are taken back where the disk takes it now.
    fn standing(&self, ended: &mut Ended) -> Result<BTreeMap<String, Marker>, String> {
        let mut drains = self.read()?;
        if let Some(gone) = ended.get(&self.0) {
            drains.retain(|id, _| !gone.contains(id));
            if self.write(&drains).is_ok() {
                ended.remove(&self.0);
            }
        }
        Ok(drains)
    }

    fn read(&self) -> Result<BTreeMap<String, Marker>, String> {
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

    /// From now on this drain stands, or with `None` no drain of this instance, whatever the disk says to that.
    pub fn set(&self, id: &str, marker: Option<&Marker>) -> Result<(), String> {
        let mut ended = ended();
        let mut drains = self.standing(&mut ended)?;
        let before = drains.clone();
        match marker {
            Some(marker) => drains.insert(id.into(), marker.clone()),
            None => drains.remove(id),
        };
        if drains == before {
            return Ok(());
        }
        match (self.write(&drains), marker) {
            (Ok(()), _) => drop(ended.remove(&self.0)),
            (Err(error), Some(_)) => return Err(error),
            (Err(error), None) => {
                tracing::warn!(id, error, "the drain has ended, and stands in the file until the disk takes it");
                ended.entry(self.0.clone()).or_default().insert(id.into());
            }
        }
        Ok(())
    }

    fn write(&self, drains: &BTreeMap<String, Marker>) -> Result<(), String> {
        let lines: BTreeMap<&String, String> = drains.iter().map(|(id, marker)| (id, marker.to_string())).collect();
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::IncidentId;

    #[test]
    fn a_disk_that_is_full_when_a_drain_ends_does_not_keep_the_drain() {
        let state = tempfile::tempdir().unwrap();
        let path = state.path().join("drains.json");
        let [ledger, of_a_reload] = [(); 2].map(|()| Ledger::new(path.clone()));
        let [i, j] = ["i", "j"].map(|name| Marker { incident: IncidentId(name.into()), host: "h".into() });
        let both: BTreeMap<String, Marker> = [("a/1".into(), i.clone()), ("b/1".into(), j.clone())].into();
        let ids = |ledger: &Ledger| ledger.drains().unwrap().into_keys().collect::<Vec<_>>();
        both.iter().for_each(|(id, marker)| ledger.set(id, Some(marker)).unwrap());

        // What is written beside cannot be written.
        let full = state.path().join("drains.tmp");
        fs::create_dir(&full).unwrap();
        ledger.set("a/1", None).unwrap();
        assert_eq!(ids(&ledger), ["b/1"]);
        assert_eq!(ids(&of_a_reload), ["b/1"]);
        assert_eq!(ledger.read().unwrap(), both);
        ledger.set("a/1", Some(&j)).unwrap_err();
        assert_eq!(ids(&ledger), ["b/1"], "no drain begins that is not noted");

        fs::remove_dir(&full).unwrap();
        assert_eq!(ids(&of_a_reload), ["b/1"]);
        assert_eq!(ledger.read().unwrap().into_keys().collect::<Vec<_>>(), ["b/1"]);
        ledger.set("a/1", Some(&j)).unwrap();
        assert_eq!(ids(&of_a_reload), ["a/1", "b/1"]);
    }
}

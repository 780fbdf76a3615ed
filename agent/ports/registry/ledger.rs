//! Whose drains stand, for balancers that keep no reason beside a drain: a small file in the state directory.
//!
//! Written and synced before a drain begins, written again once it was seen, and taken back only once the instance is in
//! traffic again: what stands here may be no drain yet, or none any more, and is never too little.
//! `{"rpc-order/s1": "unwait: drained incident=… host=…"}`, with the word `begun` at its end until the drain was seen.
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

/// What is noted of one instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    pub marker: Marker,
    /// The drain was seen once. Until then it may never have been one, and is not held.
    pub seen: bool,
}

/// Behind the marker of a drain that was not seen yet. Older releases read the marker alone.
const BEGUN: &str = " begun";

impl Note {
    fn parse(line: &str) -> Option<Self> {
        Some(Self { marker: Marker::parse(line)?, seen: !line.ends_with(BEGUN) })
    }

    fn line(&self) -> String {
        format!("{}{}", self.marker, if self.seen { "" } else { BEGUN })
    }
}

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

    /// Every note, by its instance. No file: no drain was ever begun.
    pub fn notes(&self) -> Result<BTreeMap<String, Note>, String> {
        self.standing(&mut ended())
    }

    /// From now on this drain may be. A note of the same one stays what it is.
    pub fn begin(&self, id: &str, marker: &Marker) -> Result<(), String> {
        self.change(|notes| match notes.get(id) {
            Some(note) if note.marker == *marker => {}
            _ => drop(notes.insert(id.into(), Note { marker: marker.clone(), seen: false })),
        })
    }

    /// The drain was seen: from now on it is one.
    pub fn seen(&self, id: &str, marker: &Marker) -> Result<(), String> {
        self.change(|notes| drop(notes.insert(id.into(), Note { marker: marker.clone(), seen: true })))
    }

    /// What the file says, without what has ended; the lines of that are taken back where the disk takes it now.
    fn standing(&self, ended: &mut Ended) -> Result<BTreeMap<String, Note>, String> {
        let mut notes = self.read()?;
        if let Some(gone) = ended.get(&self.0) {
            notes.retain(|id, _| !gone.contains(id));
            if self.write(&notes).is_ok() {
                ended.remove(&self.0);
            }
        }
        Ok(notes)
    }

    fn read(&self) -> Result<BTreeMap<String, Note>, String> {
        let told = |why: String| format!("{}: {why}", self.0.display());
        let text = match fs::read(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
            read => read.map_err(|error| told(error.to_string()))?,
        };
        let lines: BTreeMap<String, String> =
            serde_json::from_slice(&text).map_err(|error| told(format!("not a list of drains: {error}")))?;
        let note = |(id, line): (String, String)| match Note::parse(&line) {
            Some(note) => Ok((id, note)),
            None => Err(told(format!("the entry of `{id}` is no drain marker of unwait"))),
        };
        lines.into_iter().map(note).collect()
    }

    /// From now on there is no drain of this instance, whatever the disk says to that.
    pub fn end(&self, id: &str) -> Result<(), String> {
        let mut ended = ended();
        let mut notes = self.standing(&mut ended)?;
        if notes.remove(id).is_none() {
            return Ok(());
        }
        match self.write(&notes) {
            Ok(()) => drop(ended.remove(&self.0)),
            Err(error) => {
                tracing::warn!(
                    id,
                    error,
                    "the drain of {id} has ended, and its entry in {} cannot be deleted: {error}; retrying at the next drain or restore",
                    self.0.display(),
                );
                ended.entry(self.0.clone()).or_default().insert(id.into());
            }
        }
        Ok(())
    }

    fn change(&self, change: impl FnOnce(&mut BTreeMap<String, Note>)) -> Result<(), String> {
        let mut ended = ended();
        let mut notes = self.standing(&mut ended)?;
        let before = notes.clone();
        change(&mut notes);
        if notes != before {
            self.write(&notes)?;
            ended.remove(&self.0);
        }
        Ok(())
    }

    fn write(&self, notes: &BTreeMap<String, Note>) -> Result<(), String> {
        let lines: BTreeMap<&String, String> = notes.iter().map(|(id, note)| (id, note.line())).collect();
        let text = serde_json::to_vec_pretty(&lines).expect("names and lines are JSON");
        replace(&self.0, &text).map_err(|error| format!("cannot write {}: {error}", self.0.display()))
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
        let ids = |ledger: &Ledger| ledger.notes().unwrap().into_keys().collect::<Vec<_>>();
        ledger.seen("a/1", &i).unwrap();
        ledger.begin("b/1", &j).unwrap();
        let both = ledger.read().unwrap();
        assert_eq!(both.keys().collect::<Vec<_>>(), ["a/1", "b/1"]);

        // What is written beside cannot be written.
        let full = state.path().join("drains.tmp");
        fs::create_dir(&full).unwrap();
        ledger.end("a/1").unwrap();
        assert_eq!(ids(&ledger), ["b/1"]);
        assert_eq!(ids(&of_a_reload), ["b/1"]);
        assert_eq!(ledger.read().unwrap(), both);
        ledger.begin("a/1", &j).unwrap_err();
        assert_eq!(ids(&ledger), ["b/1"], "no drain begins that is not noted");

        fs::remove_dir(&full).unwrap();
        assert_eq!(ids(&of_a_reload), ["b/1"]);
        assert_eq!(ledger.read().unwrap().into_keys().collect::<Vec<_>>(), ["b/1"]);
        ledger.begin("a/1", &j).unwrap();
        assert_eq!(ids(&of_a_reload), ["a/1", "b/1"]);
    }

    #[test]
    fn a_drain_is_begun_and_then_seen_and_older_releases_read_both() {
        let state = tempfile::tempdir().unwrap();
        let ledger = Ledger::new(state.path().join("drains.json"));
        let [i, j] = ["i", "j"].map(|name| Marker { incident: IncidentId(name.into()), host: "h".into() });
        let noted = || ledger.notes().unwrap().remove("a/1").unwrap();
        let note = |marker: &Marker, seen| Note { marker: marker.clone(), seen };
        ledger.begin("a/1", &i).unwrap();
        assert_eq!(noted(), note(&i, false));
        ledger.seen("a/1", &i).unwrap();
        ledger.begin("a/1", &i).unwrap();
        assert_eq!(noted(), note(&i, true), "it was seen, and is");
        ledger.begin("a/1", &j).unwrap();
        assert_eq!(noted(), note(&j, false));
        let text = fs::read_to_string(ledger.path()).unwrap();
        assert!(text.contains("unwait: drained incident=j host=h begun"), "{text}");
        assert_eq!(Marker::parse("unwait: drained incident=j host=h begun"), Some(j));
    }
}

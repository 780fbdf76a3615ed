//! `unwait show INCIDENT --share DIR`: the incident's page, its record and its evidence in a folder to hand on, in which hosts
//! and addresses have pseudonyms, the same in all files.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::{Failure, Outcome, render, show};
use crate::model::IncidentId;
use crate::report::incident::{self, Material};
use crate::report::share::Pseudonyms;
use crate::store::{StateDir, Store};
use crate::wiring;

/// `into`: a folder that is not there yet. `hidden`: further names of hosts.
pub fn share(state: &Path, store: &Store, id: &IncidentId, into: &Path, hidden: &[String]) -> Outcome {
    let unreachable = |error: String| Failure::Unreachable(error);
    let evidence = StateDir::evidence_of(state);
    let material = Material::of(store, &evidence, id).map_err(|error| unreachable(error.to_string()))?;
    let material = material.ok_or_else(|| show::unknown(id))?;
    let record = serde_json::to_string_pretty(&material.shown).map_err(|error| unreachable(error.to_string()))?;
    let mut texts = vec![("report.html".to_owned(), incident::page(&material)), ("incident.json".to_owned(), record)];
    if material.shown.incident.evidence.is_some() {
        texts.extend(incident::bundle_texts(&evidence, id).map_err(unreachable)?);
    }
    let own = wiring::host_name().map_err(|error| unreachable(error.to_string()))?;
    let mut hosts: Vec<&str> = material.host.as_deref().into_iter().chain([own.as_str()]).collect();
    hosts.dedup();
    hosts.extend(hidden.iter().map(String::as_str));
    let mut pseudonyms = Pseudonyms::for_hosts(hosts);
    write(into, texts.into_iter().map(|(name, text)| (name, pseudonyms.replace(&text))).collect())
        .map_err(|(path, error)| Failure::Unreachable(format!("{}: {error}", path.display())))?;
    println!("{} holds the incident with these pseudonyms; keep this list to yourself:\n", into.display());
    let rows: Vec<Vec<String>> = pseudonyms.pairs().map(|(real, shown)| vec![shown, real]).collect();
    render::table(&["PSEUDONYM", "STANDS FOR"], &rows);
    println!(
        "\nNot replaced: names of services, users and files, and names of other hosts in what others have written (`--hide NAME` \
         replaces one). Read the files before you hand them on."
    );
    Ok(())
}

/// Readable by nobody else, as the evidence is.
fn write(into: &Path, texts: Vec<(String, String)>) -> Result<(), (PathBuf, std::io::Error)> {
    let make = |folder: &Path| DirBuilder::new().mode(0o700).create(folder).map_err(|error| (folder.to_owned(), error));
    make(into)?;
    let folders: BTreeSet<&Path> = texts.iter().filter_map(|(name, _)| Path::new(name).parent()).collect();
    for folder in folders.into_iter().filter(|folder| !folder.as_os_str().is_empty()) {
        make(&into.join(folder))?;
    }
    for (name, text) in &texts {
        let path = into.join(name);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        file.and_then(|mut file| file.write_all(text.as_bytes())).map_err(|error| (path, error))?;
    }
    fs::File::open(into).and_then(|folder| folder.sync_all()).map_err(|error| (into.to_owned(), error))
}

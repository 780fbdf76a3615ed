//! The directory: which files there are, and everything that is wrong with any of them.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::compile::policy::Surroundings;
use super::compile::{self, Compiling};
use super::decode::{Decoded, decode};
use super::diagnostic::{Diagnostic, Diagnostics};
use super::expand::Environment;
use super::host::{FleetConfig, HostConfig};
use super::place::Place;
use super::source::Source;
use super::spec::host::HostSpec;
use super::spec::policy::PolicySpec;
use super::spec::runbook::{self, RunbookSpec};
use super::{Config, DEFAULT_CREDENTIALS};
use crate::model::PolicyTest;
use crate::model::{Policy, Runbook};
use crate::trust;

const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";

/// Loads `agent.yaml`, `policies/*.yaml` and `runbooks/*.yaml` of a directory, with the process' environment; without
/// `CREDENTIALS_DIRECTORY` the credentials of the unit that runs are meant.
/// It is all of it or nothing: any error in any file is an error, and every one of them is in it.
pub fn load(dir: &Path) -> Result<Config, Diagnostics> {
    let of_the_unit = |name: &str| (name == CREDENTIALS).then(|| DEFAULT_CREDENTIALS.to_owned());
    load_with(dir, &|name| std::env::var(name).ok().or_else(|| of_the_unit(name)))
}

/// As [`load`], with the variables that `${…}` reads given.
pub fn load_with(dir: &Path, environment: &dyn Fn(&str) -> Option<String>) -> Result<Config, Diagnostics> {
    let mut out = Diagnostics::default();
    if !dir.is_dir() {
        out.push(Diagnostic::of_file(
            dir,
            "does not exist: create it with agent.yaml, policies/ and runbooks/ in it, or name another by --config",
        ));
        return Err(out);
    }
    let host = read_host(dir, environment, &mut out);
    let runbooks = read_runbooks(dir, &mut out);
    let around = Surroundings {
        runbooks: &runbooks.by_name,
        some_runbook_is_nameless: runbooks.some_are_nameless,
        has_fleet: host.has_fleet,
        has_prometheus: host.has_prometheus,
        shares_breaches: host.shares_breaches,
        may_lose_slots: host.may_lose_slots,
        notify: host.config.as_ref().map(|host| &*host.notify).filter(|_| host.notify_is_whole),
        ceiling: host.config.as_ref().and_then(|host| host.mode_at_most.clone()),
        interval: host.interval,
    };
    let (policies, tests) = read_policies(dir, &around, &mut out);
    if out.is_empty() {
        let named = host.config.iter().flat_map(|host| &host.policies_named);
        for (name, at) in named.filter(|(name, _)| !policies.iter().any(|policy| policy.name == *name)) {
            out.push(at.saying(format!("no policy is named `{name}`, so its messages would reach nobody here")));
        }
    }
    match host.config {
        Some(host) if out.is_empty() => Ok(Config { host, policies, runbooks: runbooks.by_name, tests }),
        _ => Err(out.sorted()),
    }
}

/// The places that name the file of a secret which cannot be read, or which others can; what is in it does not matter here. Not an error of
/// [`load`]: a configuration may be read, and tested, by who may not read its secrets.
pub fn unreadable_secrets(host: &HostConfig) -> Diagnostics {
    let mut out = Diagnostics::default();
    let has_no_directory = std::env::var_os(CREDENTIALS).is_none() && !Path::new(DEFAULT_CREDENTIALS).exists();
    for (path, at) in &host.secrets {
        if has_no_directory && path.starts_with(DEFAULT_CREDENTIALS) {
            // One line for all of them.
            out = Diagnostics::default();
            out.push(at.saying(format!(
                "no unit unwait.service runs, whose credentials could be read: set {CREDENTIALS} to the directory with the \
                 credentials"
            )));
            return out;
        }
        if let Err(error) = trust::read_secret(path) {
            out.push(at.saying(format!("{}: {error}", path.display())));
        }
    }
    out.sorted()
}

/// The host's file, and what the policies must know of it: `None` where that part was wrong.
#[derive(Default)]
struct Host {
    config: Option<HostConfig>,
    has_fleet: Option<bool>,
    has_prometheus: Option<bool>,
    shares_breaches: Option<bool>,
    may_lose_slots: bool,
    notify_is_whole: bool,
    interval: Option<Duration>,
}

fn read_host(dir: &Path, environment: Environment, out: &mut Diagnostics) -> Host {
    let path = dir.join("agent.yaml");
    // One that may not be looked at is told by the attempt to read it.
    if path.try_exists().is_ok_and(|there| !there) {
        let what = "does not exist: create it; a first one may be as short as `interval: 15s`";
        out.push(Diagnostic::of_file(&path, what));
        return Host::default();
    }
    let Some((source, mut decoded)) = read::<HostSpec>(&path, |_| {}, out) else { return Host::default() };
    let (written, mut compiling) = decoded.begin(&source, out);
    let fleet_is_written = written.fleet.is_some();
    let prometheus_is_written = written.prometheus.is_some();
    let host = compile::host::compile(written, &mut compiling, environment);
    let whole = |key: &str| !compiling.said(&Place::root().key(key));
    let shares_breaches = match &host.fleet {
        Some(fleet) => Some(fleet.shares_breaches()),
        None => (!fleet_is_written && whole("fleet")).then_some(false),
    };
    Host {
        shares_breaches,
        may_lose_slots: host.fleet.as_ref().is_some_and(FleetConfig::may_lose_slots_unsaid),
        has_prometheus: (prometheus_is_written || whole("prometheus")).then_some(prometheus_is_written),
        has_fleet: (fleet_is_written || whole("fleet")).then_some(fleet_is_written),
        notify_is_whole: whole("notify"),
        interval: whole("interval").then_some(host.interval),
        config: Some(host),
    }
}

#[derive(Default)]
struct Runbooks {
    by_name: BTreeMap<String, Runbook>,
    /// Some file could not be read as far as its name.
    some_are_nameless: bool,
}

fn read_runbooks(dir: &Path, out: &mut Diagnostics) -> Runbooks {
    let mut runbooks = Runbooks::default();
    let mut files: BTreeMap<String, PathBuf> = BTreeMap::new();
    for path in yaml_files(&dir.join("runbooks"), out) {
        let compiled = read::<RunbookSpec>(&path, runbook::lengthen, out).and_then(|(source, mut decoded)| {
            let (spec, mut compiling) = decoded.begin(&source, out);
            let runbook = compile::runbook::compile(spec, &mut compiling)?;
            first_of_its_name(&mut files, &runbook.name, "runbook", &mut compiling);
            Some(runbook)
        });
        match compiled {
            Some(runbook) => {
                runbooks.by_name.insert(runbook.name.clone(), runbook);
            }
            None => runbooks.some_are_nameless = true,
        }
    }
    runbooks
}

fn read_policies(
    dir: &Path,
    around: &Surroundings,
    out: &mut Diagnostics,
) -> (Vec<Policy>, BTreeMap<String, Vec<PolicyTest>>) {
    let mut policies = Vec::new();
    let mut tests = BTreeMap::new();
    let mut files: BTreeMap<String, PathBuf> = BTreeMap::new();
    for path in yaml_files(&dir.join("policies"), out) {
        let Some((source, mut decoded)) = read::<PolicySpec>(&path, |_| {}, out) else { continue };
        let (spec, mut compiling) = decoded.begin(&source, out);
        if let Some(name) = spec.policy.as_ref().map(|name| name.0.clone()) {
            first_of_its_name(&mut files, &name, "policy", &mut compiling);
        }
        let Some((policy, own_tests)) = compile::policy::compile(spec, &mut compiling, around) else { continue };
        if !own_tests.is_empty() {
            tests.insert(policy.name.clone(), own_tests);
        }
        policies.push(policy);
    }
    policies.sort_by(|a, b| a.name.cmp(&b.name));
    (policies, tests)
}

fn first_of_its_name(files: &mut BTreeMap<String, PathBuf>, name: &str, key: &str, to: &mut Compiling) {
    match files.entry(name.to_owned()) {
        Entry::Vacant(free) => {
            free.insert(to.source.path.clone());
        }
        Entry::Occupied(first) => {
            let first = first.get().file_name().unwrap_or_default().display().to_string();
            to.wrong(
                &Place::root().key(key),
                format!("another {key} is named `{name}` too, in {first}: rename one of them"),
            );
        }
    }
}

fn read<T: DeserializeOwned>(
    path: &Path,
    prepare: impl FnOnce(&mut Value),
    out: &mut Diagnostics,
) -> Option<(Source, Decoded<T>)> {
    match Source::read(path) {
        Ok(source) => {
            let decoded = decode(&source, prepare, out)?;
            Some((source, decoded))
        }
        Err(wrong) => {
            out.push(wrong);
            None
        }
    }
}

/// `*.yaml` of a directory, in the order of their names; a directory that is not there has none. `.yml` is refused
/// rather than passed over: nobody notices a policy that is not read.
fn yaml_files(dir: &Path, out: &mut Diagnostics) -> Vec<PathBuf> {
    let entries = match dir.read_dir() {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            out.push(Diagnostic::of_file(dir, format!("cannot be read: {error}")));
            return Vec::new();
        }
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = match entry {
            Ok(entry) => entry.path(),
            Err(error) => {
                out.push(Diagnostic::of_file(dir, format!("cannot be read: {error}")));
                continue;
            }
        };
        // An editor's own copy.
        if path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".")) {
            continue;
        }
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("yaml") => files.push(path),
            Some("yml") => out.push(Diagnostic::of_file(&path, "is not read: its name must end in .yaml")),
            _ => {}
        }
    }
    files.sort();
    files
}

//! `unwait check`: the files of a directory, judged by who will read them: the running agent, with its secrets and its
//! capabilities; where none runs, the verb itself.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::clock::Clock;
use crate::config::{self, Config, Diagnostics};
use crate::decide::rehearse::rehearse;
use crate::model::policy::Selector;
use crate::model::service::ServiceKind;
use crate::model::{Mode, Runbook, ServiceName};
use crate::ports::registry::RegistryError;
use crate::ports::restarter::RestartError;
use crate::sense::sensor::on_blocking_thread;
use crate::view::findings::{
    AskedParty, CertificateShown, Checked, CheckedPolicy, Finding, FindingKind, Judge, TlsShown,
};
use crate::wiring::asking::{Asked, Certificate};
use crate::wiring::{Host, Wiring, WiringError, certificates, plans};

/// Reads the directory, and judges it. With `ask` each party is asked once. A file that root may not believe is refused
/// by the reading, as at a reload. `agent_reads`: the directory that the agent works by, where it is the agent that judges.
///
/// # Errors
/// Where the host does not let its sockets be read.
pub async fn check(
    directory: &Path,
    ask: bool,
    host: Host,
    agent_reads: Option<PathBuf>,
) -> Result<Checked, WiringError> {
    let (dir, clock) = (directory.to_owned(), host.clock.clone());
    let wired = on_blocking_thread(move || {
        let judge = Judge::this_process(agent_reads.map(|reads| reads.canonicalize().unwrap_or(reads)));
        (judge, loaded(&dir, clock.as_ref()).map(|(config, soon)| (Wiring::new(config, host, None), soon)))
    });
    let (judged_by, wired) = wired.await;
    let (wiring, soon) = match wired {
        Ok((wiring, soon)) => (wiring?, soon),
        Err(errors) => return Ok(Checked::refused(directory.into(), judged_by, errors)),
    };
    let mut findings = of_the_files(&wiring.config);
    findings.extend(another_directory(&judged_by, directory));
    findings.extend(soon.iter().map(|soon| {
        let place = format!("{}:{}", soon.file.display(), soon.line.unwrap_or_default());
        Finding::new(FindingKind::CertificateEndsSoon, place, &soon.message)
    }));
    findings.extend(of_the_host(&wiring).await);
    let mut asked = Vec::new();
    if ask {
        findings.extend(not_registered(&wiring).await);
        asked = wiring.ask_all().await.into_iter().map(shown).collect();
        let silent = asked.iter().filter(|party| !party.ok);
        findings.extend(silent.map(|party| Finding::new(FindingKind::NoAnswer, &party.party, &party.says)));
    }
    findings.sort();
    findings.dedup();
    let of = |policy: &crate::model::Policy| CheckedPolicy {
        policy: policy.name.clone(),
        mode: policy.mode,
        held_mode: policy.held_mode.clone(),
        runbooks: policy.rungs().map(|runbook| runbook.name.clone()).collect(),
    };
    Ok(Checked {
        ok: true,
        directory: directory.into(),
        judged_by,
        errors: Diagnostics::default(),
        policies: wiring.config.policies.iter().map(of).collect(),
        runbooks: wiring.config.runbooks.len(),
        services: wiring.config.host.services.len(),
        findings,
        asked,
    })
}

/// Where other files than those that the agent works by are judged by it.
fn another_directory(judge: &Judge, directory: &Path) -> Option<Finding> {
    let reads = judge.agent_reads.as_deref().filter(|reads| *reads != directory)?;
    let what =
        format!("the agent that runs on this state (pid {}) reads {}, not these files", judge.pid, reads.display());
    Some(Finding::new(FindingKind::AnotherDirectory, directory.display().to_string(), what))
}

/// With what is warned of.
fn loaded(dir: &Path, clock: &dyn Clock) -> Result<(Config, Diagnostics), Diagnostics> {
    let config = config::load(dir)?;
    let unreadable = config::unreadable_secrets(&config.host);
    if !unreadable.is_empty() {
        return Err(unreadable);
    }
    match certificates::look(&config.host, clock.now()) {
        (wrong, soon) if wrong.is_empty() => Ok((config, soon)),
        (wrong, _) => Err(wrong),
    }
}

/// What the files tell by themselves.
fn of_the_files(config: &Config) -> Vec<Finding> {
    use FindingKind::{
        BothLeakPolicies, FailingTest, LabelOfNoService, MetAtOnce, OlderThanTheBreach, RandomId, ShortSoak,
        TwoPoliciesAct,
    };
    let mut all = Vec::new();
    for policy in &config.policies {
        let tests = config.tests.get(&policy.name).map(Vec::as_slice).unwrap_or_default();
        let failed = tests.iter().map(|test| rehearse(policy, test)).filter_map(|one| Some((one.name, one.failure?)));
        let failing =
            |(name, failure)| Finding::new(FailingTest, &policy.name, format!("its test `{name}`: {failure}"));
        all.extend(failed.map(failing));
        let of_none = config.labels_of_none(policy).into_iter();
        all.extend(of_none.map(|label| {
            Finding::new(LabelOfNoService, &policy.name, format!("no service of this host carries the label `{label}`"))
        }));
    }
    let met = config.already_met().into_iter();
    all.extend(met.map(|(policy, runbook, says)| Finding::new(MetAtOnce, format!("{policy}, {runbook}"), says)));
    let older = config.too_old().into_iter();
    all.extend(
        older.map(|(policy, runbook, says)| Finding::new(OlderThanTheBreach, format!("{policy}, {runbook}"), says)),
    );
    let random = config.random_ids().into_iter();
    all.extend(random.map(|(service, says)| Finding::new(RandomId, service.to_string(), says)));
    all.extend(config.short_soaks().into_iter().map(|(runbook, says)| Finding::new(ShortSoak, runbook, says)));
    all.extend(config.two_that_act().into_iter().map(|(place, says)| Finding::new(TwoPoliciesAct, place, says)));
    all.extend(config.both_leak_policies().map(|(place, says)| Finding::new(BothLeakPolicies, place, says)));
    all
}

/// What the host adds, as its service managers and its sockets tell.
async fn of_the_host(wiring: &Wiring) -> Vec<Finding> {
    let mut all = not_actionable(wiring).await;
    all.extend(no_such_services(wiring).await);
    // A configuration may be checked far from its host: there, nothing is found.
    let sensor = wiring.sensor.clone();
    let cautions = on_blocking_thread(move || sensor.lock().cautions_of_an_agent()).await;
    all.extend(cautions.iter().map(|caution| Finding::new(FindingKind::Caution, "note", caution.to_string())));
    let limit = |of: String, says: &str| Finding::new(FindingKind::Limit, format!("limit of {of}"), says);
    let fleet = wiring.ports.fleet.as_ref().map(|fleet| fleet.caveats()).unwrap_or_default();
    all.extend(fleet.iter().map(|says| limit("the fleet".into(), says)));
    for (service, caveats) in plans::restart_caveats(wiring).await {
        all.extend(caveats.iter().map(|says| limit(service.to_string(), says)));
    }
    for (name, registry) in &wiring.ports.registries {
        all.extend(registry.caveats().iter().map(|says| limit(format!("registry {name}"), says)));
    }
    all
}

/// What each policy that decides could not do for the services that the host's file names.
async fn not_actionable(wiring: &Wiring) -> Vec<Finding> {
    let config = &wiring.config;
    let unknown = plans::unknown_services(wiring).await;
    let mut all = Vec::new();
    for policy in config.policies.iter().filter(|policy| policy.mode != Mode::Observe) {
        for service in config.host.services.keys().filter(|service| config.selects(policy, service).is_some()) {
            let target = config.target_for(service);
            let mut lacks = config.lacks(policy, &target);
            for runbook in policy.rungs() {
                let short = plans::short_deadlines(wiring, &runbook.steps, &target).await.into_iter();
                let place = format!("{} for {service}", runbook.name);
                all.extend(short.map(|says| Finding::new(FindingKind::ShortDeadline, &place, says)));
                lacks.extend(plans::lacks_here(wiring, runbook, &target).await);
            }
            if policy.rungs().any(Runbook::changes_anything) {
                lacks.extend(unknown.get(service).cloned());
            }
            if !lacks.is_empty() {
                let what = format!("cannot act on {service}: {}", lacks.join("; "));
                all.push(Finding::new(FindingKind::NotActionable, &policy.name, what));
            }
        }
    }
    all
}

/// Names that policies write out, that `services:` does not have, and that nothing on this host bears.
async fn no_such_services(wiring: &Wiring) -> Vec<Finding> {
    let config = &wiring.config;
    let mut all = Vec::new();
    for policy in &config.policies {
        let names: BTreeSet<ServiceName> = policy
            .services
            .iter()
            .filter_map(|selector| match selector {
                Selector::Name(name) => ServiceName::parse(name).ok(),
                Selector::Glob(_) | Selector::Label { .. } => None,
            })
            .filter(|name| config.service_config(name).is_none())
            .collect();
        for name in names {
            let what = match config.target_for(&name).restart {
                Some(restart) => match wiring.ports.restarter(&restart).observe(&restart).await {
                    Err(error @ RestartError::Unknown { .. }) => error.to_string(),
                    _ => continue,
                },
                None if name.kind() == ServiceKind::Process => {
                    format!("{name} stands nowhere under `services:`, so no process of this host bears that name")
                }
                None => continue,
            };
            all.push(Finding::new(FindingKind::NoSuchService, &policy.name, what));
        }
    }
    all
}

/// Ids under which a registry that answers knows nobody.
async fn not_registered(wiring: &Wiring) -> Vec<Finding> {
    let mut all = Vec::new();
    for (service, config) in &wiring.config.host.services {
        for binding in &config.bindings {
            let Some(registry) = wiring.ports.registries.get(&binding.registry) else { continue };
            if let Err(error @ RegistryError::NotRegistered { .. }) = registry.observe(&binding.id).await {
                all.push(Finding::new(FindingKind::NotRegistered, service.to_string(), error.to_string()));
            }
        }
    }
    all
}

fn shown(party: Asked) -> AskedParty {
    let Asked { of, address, server, answer, tls, own } = party;
    let certificate = |certificate: Certificate| {
        let Certificate { subject, issuer, names, until, .. } = certificate;
        CertificateShown { subject, issuer, names, until }
    };
    let own = own.map(certificate);
    let tls = tls.map(|seen| TlsShown {
        version: seen.version.map(Into::into),
        certificate: seen.theirs.map(certificate),
        asks_for_ours: seen.asks_for_ours,
        own,
    });
    let (ok, says) = match answer {
        Ok(says) => (true, says),
        Err(why) => (false, why),
    };
    AskedParty { party: of, address, server, ok, says, tls }
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;

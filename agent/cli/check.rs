//! `unwait check`: the configuration, with every error at once; and what each policy could not do for the services
//! that the host's file names.

use clap::Args;
use serde_json::json;

use super::{ConfigArguments, Failure, Outcome, asking, open, render};
use crate::clock::{Clock, SystemClock};
use crate::config;
use crate::model::{Mode, Runbook, ServiceName};
use crate::wiring::{certificates, plans};

#[derive(Debug, Args)]
pub struct Arguments {
    /// Ask each registry, the fleet's store, each probe and each webhook once: what answers, by which certificate, until
    /// when. Nothing is changed or posted.
    #[arg(long)]
    ask: bool,
    #[command(flatten)]
    place: ConfigArguments,
}

pub async fn check(arguments: Arguments) -> Outcome {
    let place = &arguments.place;
    let loaded = config::load(&place.config).and_then(|config| {
        let unreadable = config::unreadable_secrets(&config.host);
        let (wrong, soon) = certificates::look(&config.host, SystemClock.now());
        match (unreadable.is_empty(), wrong.is_empty()) {
            (true, true) => Ok((config, soon)),
            (false, _) => Err(unreadable),
            (true, false) => Err(wrong),
        }
    });
    let (config, soon) = match loaded {
        Ok(loaded) => loaded,
        Err(diagnostics) => {
            if place.json {
                render::json(&json!({ "ok": false, "errors": diagnostics }));
                return Err(Failure::Usage(String::new()));
            }
            return Err(Failure::Usage(diagnostics.to_string()));
        }
    };
    let wiring = open::wiring(config)?;
    let config = &wiring.config;
    let unknown = plans::unknown_services(&wiring).await;
    let mut lacking = Vec::new();
    let mut short = Vec::new();
    for policy in config.policies.iter().filter(|policy| policy.mode != Mode::Observe) {
        for service in config.host.services.keys() {
            if config.selects(policy, service).is_none() {
                continue;
            }
            let target = config.target_for(service);
            let mut lacks = config.lacks(policy, &target);
            for runbook in policy.rungs() {
                for said in plans::short_deadlines(&wiring, &runbook.steps, &target).await {
                    short.push((runbook.name.clone(), service.clone(), said));
                }
                lacks.extend(plans::lacks_here(&wiring, runbook, &target).await);
            }
            if policy.rungs().any(Runbook::changes_anything) {
                lacks.extend(unknown.get(service).cloned());
            }
            if !lacks.is_empty() {
                lacking.push((policy.name.clone(), service.clone(), lacks));
            }
        }
    }
    let mut of_none = Vec::new();
    for policy in &config.policies {
        of_none.extend(config.labels_of_none(policy).into_iter().map(|label| (policy.name.clone(), label)));
    }
    // Policies may share a runbook.
    short.sort();
    short.dedup();
    let random_ids = config.random_ids();
    let met = config.already_met();
    let caveats = wiring.ports.fleet.as_ref().map(|fleet| fleet.caveats()).unwrap_or_default();
    let restarts = plans::restart_caveats(&wiring).await;
    // A configuration may be checked far from its host: there, nothing is found.
    let cautions: Vec<String> =
        wiring.sensor.acquire().await.cautions_of_an_agent().iter().map(ToString::to_string).collect();
    let registries = &wiring.ports.registries;
    let asked = if arguments.ask { wiring.ask_all().await } else { Vec::new() };
    if place.json {
        let cannot: serde_json::Map<_, _> =
            registries.iter().map(|(name, registry)| (name.clone(), json!(registry.caveats()))).collect();
        let lacking: Vec<_> = lacking
            .iter()
            .map(|(policy, service, lacks)| json!({ "policy": policy, "service": service, "lacks": lacks }))
            .collect();
        let short: Vec<_> = short
            .iter()
            .map(|(runbook, service, says)| json!({ "runbook": runbook, "service": service, "says": says }))
            .collect();
        let of_none: Vec<_> =
            of_none.iter().map(|(policy, label)| json!({ "policy": policy, "label": label })).collect();
        let random_ids: Vec<_> =
            random_ids.iter().map(|(service, says)| json!({ "service": service, "says": says })).collect();
        let at_once: Vec<_> = met
            .iter()
            .map(|(policy, runbook, says)| json!({ "policy": policy, "runbook": runbook, "says": says }))
            .collect();
        let policies: Vec<&str> = config.policies.iter().map(|policy| policy.name.as_str()).collect();
        render::json(&json!({
            "ok": true, "policies": policies, "not_actionable": lacking, "fleet_cannot_promise": caveats,
            "restart_cannot_promise": restarts, "short_deadlines": short,
            "cautions": cautions, "labels_of_no_service": of_none, "random_ids": random_ids,
            "expectations_met_at_once": at_once,
            "registries_cannot_promise": cannot, "certificates_end_soon": soon,
            "asked": asked.iter().map(asking::json).collect::<Vec<_>>(),
        }));
    } else {
        say(config, &lacking);
        for warning in soon.iter() {
            println!("{warning}");
        }
        for (policy, label) in &of_none {
            println!("{policy}: no service of this host carries the label `{label}`");
        }
        for (service, says) in &random_ids {
            println!("{service}: {says}");
        }
        for (policy, runbook, says) in &met {
            println!("{policy}, {runbook}: {says}");
        }
        for (runbook, service, says) in &short {
            println!("{runbook} for {service}: {says}");
        }
        for caution in &cautions {
            println!("note: {caution}");
        }
        for caveat in caveats {
            println!("limit of the fleet: {caveat}");
        }
        for (service, caveat) in restarts.iter().flat_map(|(service, all)| all.iter().map(move |one| (service, one))) {
            println!("limit of {service}: {caveat}");
        }
        for (name, registry) in registries {
            for caveat in registry.caveats() {
                println!("limit of registry {name}: {caveat}");
            }
        }
        for party in &asked {
            asking::say(party);
        }
    }
    match asked.iter().filter(|party| party.answer.is_err()).count() {
        0 => Ok(()),
        1 => Err(Failure::Wrong("1 party could not be asked".into())),
        count => Err(Failure::Wrong(format!("{count} parties could not be asked"))),
    }
}

fn say(config: &config::Config, lacking: &[(String, ServiceName, Vec<String>)]) {
    println!(
        "{} policies, {} runbooks, {} services named: no errors.",
        config.policies.len(),
        config.runbooks.len(),
        config.host.services.len()
    );
    let rows: Vec<Vec<String>> = config
        .policies
        .iter()
        .map(|policy| {
            let rungs: Vec<&str> = policy.rungs().map(|runbook| runbook.name.as_str()).collect();
            vec![policy.name.clone(), policy.mode.to_string(), rungs.join(", then ")]
        })
        .collect();
    if !rows.is_empty() {
        render::table(&["POLICY", "MODE", "RUNBOOK"], &rows);
    }
    for (policy, service, lacks) in lacking {
        println!("{policy} cannot act on {service}: {}", lacks.join("; "));
    }
}

//! What `unwait top` shows: the services as the last look at everything saw them, and one service's sockets, looked at now.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use super::agent::Agent;
use crate::decide::inaction::{self, Standing};
use crate::model::ServiceName;
use crate::sense::sensor::on_blocking_thread;
use crate::view::request::Reply;
use crate::view::services::{HostLimit, PolicyStands, ServiceRow, ServicesNow, SocketsOfService};
use crate::wiring::saga_world::peer_names;

/// For whoever looks at that moment; the last looks' counts are left out where that takes longer.
const TICKS_WITHIN: Duration = Duration::from_millis(500);
/// For each registry to say what it calls the peers.
const NAMES_WITHIN: Duration = Duration::from_secs(1);

/// As the agent stands now. Nobody outside is asked, and nothing is looked at anew.
pub(super) fn now(agent: &Agent) -> impl Future<Output = Reply> + Send + 'static {
    let config = &agent.wiring.config;
    let mut modes = BTreeMap::new();
    for policy in &config.policies {
        *modes.entry(policy.mode.to_string()).or_default() += 1;
    }
    let listed = ServicesNow {
        host: agent.wiring.host.name.clone(),
        host_limit: HostLimit::of(&config.policies),
        modes,
        ..ServicesNow::default()
    };
    let look = agent.last_whole.clone();
    let policies: HashMap<ServiceName, Vec<PolicyStands>> = look
        .iter()
        .flat_map(|look| look.measurements.services())
        .map(|(service, readings)| {
            let stands = config.selecting(service).into_iter().map(|policy| PolicyStands {
                policy: policy.name.clone(),
                reason: inaction::reason(Standing {
                    policy,
                    readings,
                    watch: Some(agent.detector.watch(&policy.name, service)),
                    refused: agent.held.get(&(policy.name.clone(), service.clone())).map(|held| held.refusal.reason),
                    // The store knows, of which `status` tells.
                    breaker_is_open: false,
                }),
            });
            (service.clone(), stands.collect())
        })
        .collect();
    let sensor = agent.wiring.sensor.clone();
    async move {
        let Some(look) = look else { return Reply::with(&listed) };
        let wanted: Vec<ServiceName> = look.measurements.services().map(|(service, _)| service.clone()).collect();
        let ticks = on_blocking_thread(move || {
            let sensor = sensor.lock();
            wanted.into_iter().map(|service| (sensor.meter().history(&service), service)).collect::<Vec<_>>()
        });
        let ticks = tokio::time::timeout(TICKS_WITHIN, ticks).await.unwrap_or_default();
        let ticks: HashMap<ServiceName, _> = ticks.into_iter().map(|(ticks, service)| (service, ticks)).collect();
        let of = |(service, readings)| {
            let ticks = ticks.get(service).map_or(&[][..], Vec::as_slice);
            let policies = policies.get(service).cloned().unwrap_or_default();
            ServiceRow::of(service, readings, ticks).map(|now| ServiceRow { policies, ..now })
        };
        let services = look.measurements.services().filter_map(of).collect();
        let unattributed = look.unattributed.iter().map(|(why, count)| (why.to_string(), *count)).collect();
        let (at, host) = (Some(look.measurements.at), Some(look.host_close_wait));
        Reply::with(&ServicesNow { at, host_close_wait: host, unattributed, ..listed }.list(services))
    }
}

/// Looked at now, by the tables that the kernel has and the descriptors of all processes: seconds on a busy host. Looks go on
/// meanwhile.
pub(super) fn sockets(agent: &Agent, service: String, names: bool) -> impl Future<Output = Reply> + Send + 'static {
    let wiring = agent.wiring.clone();
    async move {
        let service = match ServiceName::parse(&service) {
            Ok(service) => service,
            Err(error) => return Reply::refused(error),
        };
        let names = if names { peer_names(&wiring, NAMES_WITHIN).await } else { HashMap::new() };
        let (sensor, of) = (wiring.sensor.clone(), service.clone());
        match on_blocking_thread(move || sensor.sockets_of(&of)).await {
            Ok(found) => Reply::with(&SocketsOfService::of(found.at, service, found.sockets, &names, found.not_seen)),
            Err(error) => Reply::refused(error.to_string()),
        }
    }
}

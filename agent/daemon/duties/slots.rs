//! The fleet's slots as a person looks at them: who holds which, and giving one back for a host that is gone.

use crate::model::IncidentId;
use crate::model::moment::after;
use crate::ports::fleet::{Fleet, FleetError, Phase, SKEW, Slot, Told};
use crate::store::{Store, StoreError};
use crate::view::fleet::{FleetShown, HostShown, UnreadableHost};
use crate::view::slots::{HeldSlot, SlotPhase, SlotsShown, UnreadableSlots};
use crate::wiring::Wiring;

#[derive(Debug, thiserror::Error)]
pub enum SlotsError {
    #[error("agent.yaml names no `fleet`: the hosts share no slots")]
    NoFleet,
    #[error("{0}: say which one with --service")]
    ServiceNotNamed(FleetError),
    #[error("{0}")]
    Fleet(#[from] FleetError),
    #[error("{0}")]
    Store(#[from] StoreError),
    #[error(
        "nothing was released: this host still uses the fleet slot of {service} for its incident {incident}. The agent gives \
         the slot back when the incident has ended: see `unwait status`. An incident that waits for a person (latched) \
         ends by `unwait resolve`"
    )]
    AtWork { service: String, incident: IncidentId },
    #[error("{0} holds no slot; `unwait slot` shows who does")]
    HoldsNone(String),
}

impl SlotsError {
    /// May it pass by itself?
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Fleet(error) if error.is_passing())
    }
}

fn fleet_of(wiring: &Wiring) -> Result<&dyn Fleet, SlotsError> {
    wiring.ports.fleet.as_deref().ok_or(SlotsError::NoFleet)
}

/// The slots of one service, or of all that somebody holds or has waited for some of.
pub async fn held(wiring: &Wiring, service: Option<String>) -> Result<SlotsShown, SlotsError> {
    let fleet = fleet_of(wiring)?;
    let services = match service {
        Some(service) => vec![service],
        None => fleet.services().await?,
    };
    let mut shown = SlotsShown::default();
    for service in services {
        match fleet.holders(&service).await {
            Ok(slots) => shown.slots.extend(slots.into_iter().map(|slot| seen(&service, slot, wiring))),
            Err(error @ FleetError::Refused(_)) => {
                shown.unreadable.push(UnreadableSlots { error: error.to_string(), service });
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(shown)
}

/// Every host as it has told of itself, and every slot.
pub async fn fleet(wiring: &Wiring) -> Result<FleetShown, SlotsError> {
    let at = wiring.host.clock.now();
    let mut shown = FleetShown { at, hosts: Vec::new(), unreadable: Vec::new(), slots: held(wiring, None).await? };
    for (host, told) in fleet_of(wiring)?.statuses().await? {
        match told {
            Ok(Told { told, until, status, .. }) => {
                shown.hosts.push(HostShown { host, told, silent: after(until, SKEW) < at, status });
            }
            Err(error) => shown.unreadable.push(UnreadableHost { host, error }),
        }
    }
    Ok(shown)
}

fn seen(service: &str, slot: Slot, wiring: &Wiring) -> HeldSlot {
    let (phase, until) = match slot.phase {
        Phase::Waiting { until } => (SlotPhase::Waiting, Some(until)),
        Phase::Changing => (SlotPhase::Changing, None),
        Phase::Drained => (SlotPhase::Drained, None),
    };
    let ended = !slot.counts(wiring.host.clock.now());
    let Slot { holder, incident, since, .. } = slot;
    HeldSlot { service: service.into(), holder, phase, until, ended, since, incident }
}

/// What was given back for a host.
#[derive(Debug)]
pub struct GivenBack {
    pub slots: Vec<HeldSlot>,
    /// The store took back what the host held, and does not say what that was.
    pub untold: bool,
    /// What could not be given back, after the rest was.
    pub failed: Option<SlotsError>,
}

/// Gives back what `host` holds: of one service, or of all. Refused for this very host (`store` is its state, where it
/// has one) as long as an incident of its own needs it.
pub async fn give_back(
    wiring: &Wiring,
    store: Option<&Store>,
    host: &str,
    service: Option<String>,
) -> Result<GivenBack, SlotsError> {
    let fleet = fleet_of(wiring)?;
    let services = match service {
        Some(service) => vec![service],
        None => fleet.services().await.map_err(|error| match error {
            FleetError::Cannot(_) => SlotsError::ServiceNotNamed(error),
            error => error.into(),
        })?,
    };
    let scopes: Vec<String> = services
        .iter()
        .map(|service| match &wiring.config.host.fleet {
            Some(fleet) => fleet.scope(service.clone()),
            None => service.clone(),
        })
        .collect();
    if host == wiring.host.name
        && let Some(store) = store
        && let Some((service, incident)) = at_work(store, &scopes)?
    {
        return Err(SlotsError::AtWork { service, incident });
    }
    let mut given_back = GivenBack { slots: Vec::new(), untold: false, failed: None };
    for service in services {
        match fleet.release_host(&service, host).await {
            Ok(slots) => given_back.slots.extend(slots.into_iter().map(|slot| seen(&service, slot, wiring))),
            Err(error) => {
                given_back.failed.get_or_insert(error.into());
                continue;
            }
        }
        given_back.untold |= matches!(fleet.holders(&service).await, Err(FleetError::Cannot(_)));
    }
    match given_back {
        GivenBack { slots, untold: false, failed } if slots.is_empty() => {
            Err(failed.unwrap_or_else(|| SlotsError::HoldsNone(host.into())))
        }
        given_back => Ok(given_back),
    }
}

/// An incident of this host that is open or latched, and contends under one of these names.
fn at_work(store: &Store, scopes: &[String]) -> Result<Option<(String, IncidentId)>, StoreError> {
    let mut plans = store.open_plans()?;
    for latch in store.latches()? {
        plans.extend(store.plan(&IncidentId(latch.incident))?);
    }
    Ok(plans.into_iter().filter(|plan| !plan.dry_run).find_map(|plan| {
        let scope = plan.fleet_scope.filter(|scope| scopes.contains(scope))?;
        Some((scope, plan.incident))
    }))
}

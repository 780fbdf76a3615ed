//! What pages and `/api/v1` are made of: from the last bulletin and from the store. Nobody else is asked.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::Served;
use super::shelf::Shelf;
use crate::model::{IncidentId, ServiceName, Signal};
use crate::report::incident::Material;
use crate::view::bulletin::Bulletin;
use crate::view::incident::{IncidentShown, IncidentsShown, ToldIncident};
use crate::view::service::{History, HistoryRange, ServiceQuery, ServiceShown, ServicesShown};
use crate::view::slots::FleetSlots;
use crate::view::status::Status;

/// A month of fifty services takes some hundred milliseconds; a page waits no longer for plots.
const HISTORIES_WITHIN: Duration = Duration::from_millis(500);
/// Incidents on one page of their list.
const INCIDENTS_ON_A_PAGE: usize = 50;

pub struct Desk {
    served: Served,
    shelf: Shelf,
}

impl Desk {
    pub fn new(served: Served) -> Self {
        let shelf = Shelf::new(Arc::clone(&served.store));
        Self { served, shelf }
    }

    pub fn host(&self) -> &str {
        &self.served.host
    }

    pub fn hosts(&self) -> &[String] {
        &self.served.hosts
    }

    pub fn bulletin(&self) -> Arc<Bulletin> {
        Arc::clone(&self.served.bulletins.borrow())
    }

    pub fn since_boot(&self) -> Duration {
        self.served.clock.monotonic()
    }

    pub fn now(&self) -> Timestamp {
        self.served.clock.now()
    }

    pub async fn status(&self) -> Status {
        let (now, agent) = (self.now(), self.bulletin().agent.clone());
        let alone = agent.clone();
        match self.shelf.read(move |store| Status::of(store, agent, now)).await {
            Ok(status) => status,
            Err(why) => Status { agent: alone, store_unread: Some(why), ..Status::default() },
        }
    }

    pub async fn services(&self, query: &ServiceQuery) -> ServicesShown {
        ServicesShown::of(&self.bulletin(), &self.status().await, query)
    }

    /// `None`: nothing is known of it.
    pub async fn service(&self, name: &ServiceName, range: HistoryRange) -> Option<ServiceShown> {
        let (bulletin, status) = (self.bulletin(), self.status().await);
        let now = ServiceShown::now(&bulletin, &status, name);
        let (history, store_unread) = match self.history(name, range, None).await {
            Ok(history) => (Some(history), None),
            Err(why) => (None, Some(why)),
        };
        let is_latched = status.latches.iter().any(|latch| latch.service == name.as_str());
        let was_measured = history.as_ref().is_none_or(|history| {
            let is_seen = |value: &Option<f64>| value.is_some_and(|value| value > 0.0);
            let own = history.signals.iter().filter(|signal| !signal.signal.is_of_the_host());
            own.flat_map(|signal| &signal.most).any(is_seen)
        });
        (now.is_some() || is_latched || was_measured).then_some(ServiceShown {
            now,
            looked: bulletin.looked,
            history,
            store_unread,
        })
    }

    /// `only`: these signals, or all.
    pub async fn history(
        &self,
        service: &ServiceName,
        range: HistoryRange,
        only: Option<BTreeSet<Signal>>,
    ) -> Result<History, String> {
        let wanted = vec![(service.clone(), only)];
        self.histories(wanted, range).await.map(|mut all| all.remove(0))
    }

    /// Of each of these services, as many of the first as can be read in half a second.
    pub async fn histories(
        &self,
        wanted: Vec<(ServiceName, Option<BTreeSet<Signal>>)>,
        range: HistoryRange,
    ) -> Result<Vec<History>, String> {
        let now = self.now();
        let grid = History::grid(range, self.bulletin().period, now);
        let until = now.saturating_add(Duration::from_secs(1)).unwrap_or(Timestamp::MAX);
        let clock = Arc::clone(&self.served.clock);
        self.shelf
            .read(move |store| {
                let begun = clock.monotonic();
                let mut read = Vec::new();
                for (service, only) in wanted {
                    if !read.is_empty() && clock.monotonic().saturating_sub(begun) > HISTORIES_WITHIN {
                        break;
                    }
                    let samples = store.samples(&service, grid.0, until)?;
                    read.push(History::of(&samples, range, grid, only.as_ref()));
                }
                Ok(read)
            })
            .await
    }

    /// Newest first, `before` that one.
    pub async fn incidents(
        &self,
        before: Option<IncidentId>,
        service: Option<ServiceName>,
    ) -> Result<IncidentsShown, String> {
        self.shelf
            .read(move |store| {
                let mut incidents = store.history_before(before.as_ref(), service.as_ref(), INCIDENTS_ON_A_PAGE + 1)?;
                let more = incidents.len() > INCIDENTS_ON_A_PAGE;
                incidents.truncate(INCIDENTS_ON_A_PAGE);
                let older = incidents.last().filter(|_| more).map(|last| last.incident.clone());
                Ok(IncidentsShown { incidents, older })
            })
            .await
    }

    /// `None`: the store knows no such incident.
    pub async fn incident(&self, id: IncidentId) -> Result<Option<ToldIncident>, String> {
        self.shelf.read(move |store| Ok(IncidentShown::of(store, &id)?.map(ToldIncident::from))).await
    }

    /// The same with its evidence and what was measured around it.
    pub async fn material(&self, id: IncidentId) -> Result<Option<Material>, String> {
        let evidence = self.served.evidence.clone();
        self.shelf.read(move |store| Material::of(store, &evidence, &id)).await
    }

    /// Where no fleet is named, that is why none are known.
    pub fn slots(&self) -> FleetSlots {
        let none = || FleetSlots {
            unread: Some("agent.yaml names no `fleet`: the hosts share no slots".into()),
            ..FleetSlots::default()
        };
        self.bulletin().fleet_slots.clone().unwrap_or_else(none)
    }
}

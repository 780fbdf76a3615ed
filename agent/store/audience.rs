//! Who is told what.

use std::collections::BTreeMap;

use crate::model::policy::Selector;
use crate::model::{EventKind, Message, ServiceName};

/// The destinations, each with what it asks for.
#[derive(Clone, Debug, Default)]
pub struct Audience {
    pub routes: Vec<Route>,
    /// The labels of the services that the host's file names.
    pub labels: BTreeMap<ServiceName, BTreeMap<String, String>>,
}

/// What one destination asks for. What stands in a list restricts; an empty list does not, and a message that speaks of no
/// policy, or of no service, is restricted by its event alone: the agent's own troubles reach whoever asks for that event.
#[derive(Clone, Debug)]
pub struct Route {
    pub destination: String,
    pub events: Vec<EventKind>,
    pub policies: Vec<String>,
    pub services: Vec<Selector>,
}

/// The list by which a destination is not told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::Display)]
#[strum(serialize_all = "lowercase")]
pub enum NotTold {
    Events,
    Policies,
    Services,
}

/// What a message speaks of.
#[derive(Clone, Copy, Debug)]
pub struct RouteSubject<'a> {
    pub event: EventKind,
    pub policy: Option<&'a str>,
    pub service: Option<&'a ServiceName>,
}

impl<'a> From<&'a Message> for RouteSubject<'a> {
    fn from(message: &'a Message) -> Self {
        Self { event: message.event, policy: message.policy.as_deref(), service: message.service.as_ref() }
    }
}

impl Audience {
    /// Destinations that ask for events alone.
    #[cfg(test)]
    pub fn of(all: impl IntoIterator<Item = (String, Vec<EventKind>)>) -> Self {
        let route = |(destination, events)| Route { destination, events, policies: Vec::new(), services: Vec::new() };
        Self { routes: all.into_iter().map(route).collect(), labels: BTreeMap::new() }
    }

    /// Who does not hear of that event.
    pub fn without(&self, event: EventKind) -> Self {
        let routes = self.routes.iter().filter(|route| !route.events.contains(&event)).cloned().collect();
        Self { routes, labels: self.labels.clone() }
    }

    /// Is this destination told, and if not, why?
    pub fn judge(&self, route: &Route, subject: RouteSubject<'_>) -> Result<(), NotTold> {
        let RouteSubject { event, policy, service } = subject;
        let selects = |service: &ServiceName| {
            let labels = self.labels.get(service);
            route.services.iter().any(|selector| selector.selects(service, labels))
        };
        if !route.events.contains(&event) {
            return Err(NotTold::Events);
        }
        if !route.policies.is_empty() && policy.is_some_and(|policy| !route.policies.iter().any(|name| name == policy))
        {
            return Err(NotTold::Policies);
        }
        if !route.services.is_empty() && service.is_some_and(|service| !selects(service)) {
            return Err(NotTold::Services);
        }
        Ok(())
    }

    /// The destinations that a message goes to.
    pub(super) fn told(&self, message: &Message) -> impl Iterator<Item = &str> {
        let subject = RouteSubject::from(message);
        self.routes
            .iter()
            .filter(move |route| self.judge(route, subject).is_ok())
            .map(|route| route.destination.as_str())
    }
}

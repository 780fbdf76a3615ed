//! Who is told of an event of a service, and by which lines of the host's file.

use serde::{Deserialize, Serialize};

use crate::model::{EventKind, ServiceName};
use crate::store::{Audience, NotTold, Route, RouteSubject};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Routes {
    pub service: ServiceName,
    pub event: EventKind,
    /// A row for each destination and policy.
    pub rows: Vec<RouteNow>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteNow {
    pub destination: String,
    /// `None`: no policy selects the service.
    pub policy: Option<String>,
    pub is_told: bool,
    /// The lines that let the message through; or the one that does not.
    pub why: String,
}

impl Routes {
    pub fn of(audience: &Audience, service: &ServiceName, event: EventKind, policies: &[&str]) -> Self {
        let policies: Vec<Option<&str>> = match policies {
            [] => vec![None],
            all => all.iter().copied().map(Some).collect(),
        };
        let each = policies.iter().flat_map(|policy| audience.routes.iter().map(move |route| (*policy, route)));
        let row = |(policy, route): (Option<&str>, &Route)| {
            let judged = audience.judge(route, RouteSubject { event, policy, service: Some(service) });
            RouteNow {
                destination: route.destination.clone(),
                policy: policy.map(Into::into),
                is_told: judged.is_ok(),
                why: match judged {
                    Ok(()) => lines(route),
                    Err(by) => refusal(by, route),
                },
            }
        };
        Self { service: service.clone(), event, rows: each.map(row).collect() }
    }
}

fn listed(all: &[impl ToString]) -> String {
    all.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn line(by: NotTold, route: &Route) -> Option<String> {
    let all = match by {
        NotTold::Events => listed(&route.events),
        NotTold::Policies => listed(&route.policies),
        NotTold::Services => listed(&route.services),
    };
    (!all.is_empty()).then(|| format!("{by}: [{all}]"))
}

fn lines(route: &Route) -> String {
    let lines = [NotTold::Events, NotTold::Policies, NotTold::Services].map(|by| line(by, route));
    lines.into_iter().flatten().collect::<Vec<_>>().join("; ")
}

fn refusal(by: NotTold, route: &Route) -> String {
    format!("not among its {}", line(by, route).unwrap_or_else(|| by.to_string()))
}

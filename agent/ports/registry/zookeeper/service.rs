//! One service as it stands in ZooKeeper: who provides it, and what its consumers follow.

use std::collections::{BTreeMap, BTreeSet};

use super::super::dubbo::rule::{Rule, Tag};
use super::super::dubbo::{application, by_address, disables, is_off};
use super::super::{RegistryError, Traffic};
use super::{BY_APPLICATION, Override, ZooKeeper};
use crate::model::Marker;
use crate::ports::zookeeper::Session;

/// The providers of one service, and the applications that they are of.
pub(super) struct Service {
    /// By their addresses. A provider that is found by its application alone has no URL.
    pub providers: BTreeMap<String, Vec<String>>,
    pub rules: BTreeMap<String, Option<Rule>>,
    pub overrides: Vec<String>,
}

impl ZooKeeper {
    /// What is registered under a name, and what consumers of it follow. By interface where any provider is, or else by
    /// application.
    pub(super) async fn service(
        &self,
        session: &mut Session,
        name: &str,
        instance: &str,
    ) -> Result<Service, RegistryError> {
        let mut providers = by_address(self.urls(session, name, "providers").await?);
        let mut applications: BTreeSet<String> =
            providers.values().flatten().filter_map(|url| application(url)).map(Into::into).collect();
        if !providers.contains_key(instance) {
            let known = self.children(session, &format!("{BY_APPLICATION}/{name}")).await?.unwrap_or_default();
            if known.iter().any(|known| known == instance) {
                providers = known.into_iter().map(|known| (known, vec![])).collect();
                applications = BTreeSet::from([name.to_owned()]);
            }
        }
        if !providers.contains_key(instance) {
            let id = format!("{name}/{instance}");
            return Err(RegistryError::NotRegistered { registry: self.registry.clone(), id });
        }
        // In this order: an instance that is drained meanwhile is not counted as healthy.
        let mut rules = BTreeMap::new();
        for application in applications {
            let rule = self.rule(session, &application).await?.map(|(rule, _)| rule);
            rules.insert(application, rule);
        }
        let mut overrides = self.urls(session, name, "configurators").await?;
        overrides.retain(|url| is_off(url));
        Ok(Service { providers, rules, overrides })
    }
}

impl Service {
    /// All tags that take this address out, of all applications' rules.
    pub(super) fn tags<'a>(&'a self, instance: &'a str) -> impl Iterator<Item = &'a Tag> {
        self.rules.values().flatten().flat_map(move |rule| rule.over(instance))
    }

    /// As the rules have it; `None` where one of them leaves the address alone.
    pub(super) fn by_rule(&self, id: &str, instance: &str) -> Option<Traffic> {
        // Of several names of one address its own first.
        let ours = |rule: &Option<Rule>| {
            rule.as_ref()?
                .over(instance)
                .filter_map(Tag::ours)
                .min_by_key(|(_, of)| *of != id)
                .map(|(marker, _)| marker)
        };
        let drained = self.rules.values().map(ours).collect::<Option<Vec<Marker>>>();
        if let Some(marker) = drained.into_iter().flatten().next() {
            return Some(Traffic::DrainedBy(marker));
        }
        let theirs = self.tags(instance).find(|tag| tag.ours().is_none())?;
        let applications: Vec<&str> = self.rules.keys().map(String::as_str).collect();
        let (name, applications) = (&theirs.name, applications.join(", "));
        Some(Traffic::Isolated { reason: format!("tag `{name}` of the tag rule of application {applications}") })
    }

    /// Whose overrides disable all that the instance offers.
    pub(super) fn by_override(&self, instance: &str, ours: &[Override]) -> Option<Marker> {
        let off = |provider: &String| ours.iter().any(|found| disables(&found.url, provider));
        self.providers[instance].iter().all(off).then(|| ours.first().map(|found| found.marker.clone())).flatten()
    }
}

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
    /// Of the instance that is looked at.
    pub application: Option<String>,
    /// Of all applications that provide it.
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
        let of = |url: &String| application(url).map(String::from);
        let mut applications: BTreeSet<String> = providers.values().flatten().filter_map(of).collect();
        let mut own = providers.get(instance).into_iter().flatten().find_map(of);
        if !providers.contains_key(instance) {
            let known = self.children(session, &format!("{BY_APPLICATION}/{name}")).await?.unwrap_or_default();
            if !known.iter().any(|known| known == instance) {
                let id = format!("{name}/{instance}");
                return Err(RegistryError::NotRegistered { registry: self.registry.clone(), id });
            }
            (applications, own) = (BTreeSet::from([name.to_owned()]), Some(name.to_owned()));
            providers = known.into_iter().map(|known| (known, vec![])).collect();
        }
        // In this order: an instance that is drained meanwhile is not counted as healthy.
        let mut rules = BTreeMap::new();
        for application in applications {
            let rule = self.rule(session, &application).await?.map(|(rule, _)| rule);
            rules.insert(application, rule);
        }
        let mut overrides = self.urls(session, name, "configurators").await?;
        overrides.retain(|url| is_off(url));
        Ok(Service { providers, application: own, rules, overrides })
    }
}

impl Service {
    /// All tags that take this address out, of all applications' rules.
    pub(super) fn tags<'a>(&'a self, instance: &'a str) -> impl Iterator<Item = &'a Tag> {
        self.rules.values().flatten().flat_map(move |rule| rule.over(instance))
    }

    /// As the rule of the instance's own application has it; `None` where that leaves the address alone.
    pub(super) fn by_rule(&self, id: &str, instance: &str) -> Option<Traffic> {
        let application = self.application.as_ref()?;
        let over: Vec<&Tag> = self.rules[application].iter().flat_map(|rule| rule.over(instance)).collect();
        // Of several names of one address its own first.
        let ours = over.iter().filter_map(|tag| tag.ours()).min_by_key(|(_, of)| *of != id);
        let theirs = |tag: &&Tag| Traffic::Isolated {
            reason: format!("tag `{}` of the tag rule of application {application}", tag.name),
        };
        ours.map(|(marker, _)| Traffic::DrainedBy(marker)).or_else(|| over.first().map(theirs))
    }

    /// Whose overrides disable all that the instance offers.
    pub(super) fn by_override(&self, instance: &str, ours: &[Override]) -> Option<Marker> {
        let off = |provider: &String| ours.iter().any(|found| disables(&found.url, provider));
        self.providers[instance].iter().all(off).then(|| ours.first().map(|found| found.marker.clone())).flatten()
    }
}

//! The tag rules of applications in ZooKeeper: read, and changed by the version that was read.

use super::super::RegistryError;
use super::super::dubbo::rule::{self, Change, Rule, Tag};
use super::ZooKeeper;
use crate::model::Marker;
use crate::ports::zookeeper::Session;

/// Hosts that change one rule at the same moment: each of them wins one round.
const TRIES: u32 = 50;

/// Behind an application's name.
const RULE: &str = ".tag-router";

impl ZooKeeper {
    pub(super) fn rule_path(&self, application: &str) -> String {
        format!("{}/config/dubbo/{application}{RULE}", self.root)
    }

    /// The text of an application's rule, with its node's version.
    async fn text(&self, session: &mut Session, application: &str) -> Result<Option<(String, i32)>, RegistryError> {
        let node = session.read(&self.rule_path(application)).await.map_err(|error| self.told(error))?;
        Ok(node.map(|node| (String::from_utf8_lossy(&node.data).into_owned(), node.version)))
    }

    fn read(&self, application: &str, text: &str) -> Result<Rule, RegistryError> {
        let path = self.rule_path(application);
        Rule::read(text).map_err(|error| self.refused(format!("the tag rule `{path}` cannot be read: {error}")))
    }

    /// The rule of an application, with its node's version.
    pub(super) async fn rule(
        &self,
        session: &mut Session,
        application: &str,
    ) -> Result<Option<(Rule, i32)>, RegistryError> {
        let Some((text, version)) = self.text(session, application).await? else { return Ok(None) };
        Ok(Some((self.read(application, &text)?, version)))
    }

    /// All drains of ours that stand in rules, by the ids of their instances.
    pub(super) async fn drains(&self, session: &mut Session) -> Result<Vec<(String, Marker)>, RegistryError> {
        let mut drains = Vec::new();
        let names = self.children(session, &format!("{}/config/dubbo", self.root)).await?.unwrap_or_default();
        for application in names.iter().filter_map(|name| name.strip_suffix(RULE)) {
            let Some((text, _)) = self.text(session, application).await? else { continue };
            match self.read(application, &text) {
                Ok(rule) => {
                    let ours = rule.tags.iter().filter_map(Tag::ours);
                    drains.extend(ours.map(|(marker, id)| (id.to_owned(), marker)));
                }
                Err(error) if Rule::may_carry_ours(&text) => return Err(error),
                // Dubbo heeds it no more than we can read it.
                Err(_) => {}
            }
        }
        Ok(drains)
    }

    /// What an application's rule becomes with our tag; `None` where it has it.
    pub(super) fn tagged(
        &self,
        application: &str,
        rule: Option<&Rule>,
        id: &str,
        instance: &str,
        marker: &Marker,
    ) -> Result<Option<Change>, RegistryError> {
        let ours = Some((marker.clone(), id));
        let Some(rule) = rule else { return Ok(Some(Change::Write(rule::new(application, marker, id, instance)))) };
        if rule.over(instance).any(|tag| tag.ours() == ours) {
            return Ok(None);
        }
        let whose = || format!("the tag rule of application `{application}` (`{}`)", self.rule_path(application));
        if !rule.is_ours() && !self.merge {
            return Err(self.refused(format!(
                "`{id}` is left alone: {} belongs to somebody else; set `merge: true` of this registry to have our tag \
                 added                  and taken out again",
                whose()
            )));
        }
        let refused = |why| self.refused(format!("`{id}` is left alone: {} cannot take our tag: {why}", whose()));
        rule.with(marker, id, instance).map(Some).map_err(refused)
    }

    /// Changes a rule as it is read, and again as it is read then where another changed it meanwhile. True where it was
    /// changed.
    pub(super) async fn change(
        &self,
        session: &mut Session,
        application: &str,
        into: impl Fn(Option<&Rule>) -> Result<Option<Change>, RegistryError>,
    ) -> Result<bool, RegistryError> {
        let path = self.rule_path(application);
        for _ in 0..TRIES {
            let found = self.rule(session, application).await?;
            let Some(change) = into(found.as_ref().map(|(rule, _)| rule))? else { return Ok(false) };
            let taken = match (change, found) {
                (Change::Write(text), Some((_, version))) => session.write(&path, text.as_bytes(), version).await,
                (Change::Write(text), None) => {
                    self.make_folder(session).await?;
                    session.create(&path, text.as_bytes()).await
                }
                (Change::Delete, found) => session.delete(&path, found.map_or(-1, |(_, version)| version)).await,
            };
            if taken.map_err(|error| self.told(error))? {
                return Ok(true);
            }
        }
        Err(self.changed_ever_again(&path))
    }

    /// Would a change of the rule be taken? Nothing is asked where it is gone.
    pub(super) async fn would_change(&self, session: &mut Session, application: &str) -> Result<(), RegistryError> {
        let path = self.rule_path(application);
        for _ in 0..TRIES {
            let Some(node) = session.read(&path).await.map_err(|error| self.told(error))? else { return Ok(()) };
            if session.would_write(&path, &node.data, node.version).await.map_err(|error| self.told(error))? {
                return Ok(());
            }
        }
        Err(self.changed_ever_again(&path))
    }

    fn changed_ever_again(&self, path: &str) -> RegistryError {
        let detail = format!("others changed the tag rule `{path}` {TRIES} times during our change");
        RegistryError::Unreachable { registry: self.registry.clone(), detail }
    }

    /// That of the rules. Not all who may write there may create what is there already.
    async fn make_folder(&self, session: &mut Session) -> Result<(), RegistryError> {
        for path in [format!("{}/config", self.root), format!("{}/config/dubbo", self.root)] {
            if self.children(session, &path).await?.is_none() {
                session.create(&path, &[]).await.map_err(|error| self.told(error))?;
            }
        }
        Ok(())
    }
}

//! Who stands in Redis: the instances of one service, and those of all.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use super::super::{RegistryError, dubbo};
use super::{Entries, configurators};
use crate::model::RedisProfile;

/// For naming peers: keys that one look reads.
const NAMES_KEYS: usize = 500;
/// Scores above are milliseconds: as seconds it is the year 5138, as milliseconds 1973.
const SCORE_IN_MS: f64 = 1e11;

impl Entries {
    /// The instances that stand under the service's name now, and whether each is healthy. Of Dubbo's those that stand in for
    /// `own`, where that stands there.
    pub(super) async fn standing(&self, service: &str, own: &str) -> Result<BTreeMap<String, bool>, RegistryError> {
        let key = self.key(service, "{instance}");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match self.layout.profile {
            RedisProfile::Set => {
                let members: Vec<Vec<u8>> = self.ask(&key, &[b"SMEMBERS", key.as_bytes()]).await?;
                Ok(members.iter().map(|member| (text(member), true)).collect())
            }
            RedisProfile::Hash => {
                let fields: Vec<Vec<u8>> = self.ask(&key, &[b"HKEYS", key.as_bytes()]).await?;
                Ok(fields.iter().map(|field| (text(field), true)).collect())
            }
            RedisProfile::SortedSet { stale_after } => {
                let now = self.server_time(&key).await?;
                let scored: Vec<(Vec<u8>, f64)> =
                    self.ask(&key, &[b"ZRANGE", key.as_bytes(), b"0", b"-1", b"WITHSCORES"]).await?;
                Ok(scored.iter().map(|(member, score)| (text(member), is_fresh(*score, now, stale_after))).collect())
            }
            RedisProfile::TtlKey => {
                let (before, behind) = key.split_once("{instance}").unwrap_or((&key, ""));
                let pattern = format!("{}*{}", glob_escaped(before), glob_escaped(behind));
                let keys = self.api.scan(pattern.as_bytes()).await.map_err(|error| self.told(error))?;
                let instance = |key: &Vec<u8>| {
                    let key = String::from_utf8_lossy(key);
                    Some(key.strip_prefix(before)?.strip_suffix(behind)?.to_owned())
                };
                Ok(keys.iter().filter_map(instance).map(|instance| (instance, true)).collect())
            }
            RedisProfile::Dubbo => {
                let now = self.server_time(&key).await?;
                let providers: Vec<(String, String)> = self.ask(&key, &[b"HGETALL", key.as_bytes()]).await?;
                let overridden = configurators(&key);
                let overrides: Vec<String> = self.ask(&overridden, &[b"HKEYS", overridden.as_bytes()]).await?;
                let lives = |ends: &String| ends.parse().is_ok_and(|ends| Duration::from_millis(ends) >= now);
                let living = providers.iter().filter(|(_, ends)| lives(ends)).map(|(url, _)| url.clone());
                let living = dubbo::by_address(living);
                let living = dubbo::stand_ins(&living, &overrides, own);
                let all = dubbo::by_address(providers.iter().map(|(url, _)| url.clone()));
                let all = dubbo::stand_ins(&all, &overrides, own);
                Ok(all.keys().map(|at| (String::from(*at), living.get(at) == Some(&true))).collect())
            }
        }
    }

    /// Of the server that holds the key.
    async fn server_time(&self, key: &str) -> Result<Duration, RegistryError> {
        let (seconds, micros): (u64, u64) = self.ask(key, &[b"TIME"]).await?;
        Ok(Duration::from_secs(seconds) + Duration::from_micros(micros))
    }

    /// Every instance of every service, by its id.
    pub(super) async fn read_all(&self, all: &mut Vec<(String, String, SocketAddr)>) -> Result<(), RegistryError> {
        let (before, behind) = self.layout.key.split_once("{service}").unwrap_or((&self.layout.key, ""));
        // Of a key an instance, the instance follows the service behind one separator.
        let (behind, instance) = match behind.split_once("{instance}") {
            Some((between, _)) => (between, true),
            None => (behind, false),
        };
        let pattern = format!("{}*{}{}", glob_escaped(before), glob_escaped(behind), if instance { "*" } else { "" });
        let keys = self.api.scan(pattern.as_bytes()).await.map_err(|error| self.told(error))?;
        let service = |key: &Vec<u8>| {
            let key = String::from_utf8_lossy(key).into_owned();
            let rest = key.strip_prefix(before)?;
            let service = match instance {
                true => rest.split_once(behind)?.0,
                false => rest.strip_suffix(behind)?,
            };
            Some(service.to_owned())
        };
        let services: BTreeSet<String> = keys.iter().filter_map(service).collect();
        for service in services.into_iter().take(NAMES_KEYS) {
            let standing = self.standing(&service, "").await?;
            let named = |instance: &String| {
                Some((service.clone(), format!("{service}/{instance}"), instance.parse::<SocketAddr>().ok()?))
            };
            all.extend(standing.keys().filter_map(named));
        }
        Ok(())
    }
}

pub(super) fn is_fresh(score: f64, now: Duration, stale_after: Duration) -> bool {
    let seconds = if score > SCORE_IN_MS { score / 1000.0 } else { score };
    now.as_secs_f64() - seconds <= stale_after.as_secs_f64()
}

/// As Redis' patterns want it: `\` before what means something there.
fn glob_escaped(text: &str) -> String {
    text.chars().flat_map(|c| r"*?[]^-\".contains(c).then_some('\\').into_iter().chain([c])).collect()
}

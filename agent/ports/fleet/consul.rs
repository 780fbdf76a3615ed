//! The fleet in Consul's KV store: keys below `unwait/`, changed by `?cas=<ModifyIndex>`, read by `?consistent`. The
//! token needs `key_prefix "unwait/" { policy = "write" }`.

use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::Method;
use serde::Deserialize;

use super::documents::{Documents, Key, Text, folder_path};
use super::shared::SharedFleet;
use super::{Fleet, FleetError};
use crate::clock::Clock;
use crate::ports::consul::{Answer, Api};
use crate::ports::{Secret, Servers};

/// `servers` are agents or servers of one datacenter, the local agent's first; `host` is the name that this host holds
/// slots under.
pub fn consul(
    servers: impl Into<Servers>,
    token: Option<Secret>,
    host: &str,
    clock: Arc<dyn Clock>,
) -> Result<Arc<dyn Fleet>, FleetError> {
    let api = Api::new(servers.into(), token).map_err(FleetError::Refused)?;
    Ok(Arc::new(SharedFleet::new(Consul(api), host, clock)))
}

#[derive(Debug)]
struct Consul(Api);

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Pair {
    key: String,
    /// Base64; absent where the value is empty.
    value: Option<String>,
    modify_index: u64,
}

impl Pair {
    fn text(&self) -> Result<Text, FleetError> {
        let text = STANDARD
            .decode(self.value.as_deref().unwrap_or_default())
            .map_err(|error| FleetError::Refused(format!("Consul's value of `{}` is not base64: {error}", self.key)))?;
        Ok(Text { text, revision: self.modify_index })
    }
}

/// Everything below `unwait/` by its segments.
fn path<'a>(key: Key<'a>) -> Vec<&'a str> {
    ["kv", "unwait"].into_iter().chain(key.folder.iter().copied()).chain([key.name]).collect()
}

/// The pairs; none where Consul itself says that nothing is there.
fn pairs(answer: &Answer) -> Result<Vec<Pair>, FleetError> {
    match (answer.found, answer.indexed) {
        (true, _) => answer.json().map_err(FleetError::from),
        (false, true) => Ok(Vec::new()),
        (false, false) => Err(FleetError::Refused("404 without Consul's index; the url may not be Consul's".into())),
    }
}

#[async_trait]
impl Documents for Consul {
    async fn read(&self, key: Key<'_>) -> Result<Option<Text>, FleetError> {
        let answer = self.0.get(&path(key), &[("consistent", "")]).await.map_err(FleetError::from)?;
        match pairs(&answer)?.as_slice() {
            [] => Ok(None),
            [pair] => pair.text().map(Some),
            pairs => Err(FleetError::Refused(format!("{} entries for the key `{}`", pairs.len(), key.path()))),
        }
    }

    async fn swap(&self, key: Key<'_>, revision: u64, text: Option<&[u8]>) -> Result<bool, FleetError> {
        let index = revision.to_string();
        let cas = [("cas", index.as_str())];
        let answer = match text {
            Some(text) => self.0.put(&path(key), &cas, text.to_vec()).await,
            None => self.0.delete(&path(key), &cas).await,
        };
        match answer.map_err(FleetError::from)?.text().as_str() {
            "true" => Ok(true),
            "false" => Ok(false),
            other => Err(FleetError::Refused(format!("Consul answered `{other}` to a compare-and-swap"))),
        }
    }

    fn shown(&self, key: Key<'_>, revision: u64, text: &str) -> String {
        let call = self.0.shown(&Method::PUT, &path(key), &[("cas", &revision.to_string())]);
        format!("{call}: {text}")
    }

    async fn list(&self, folder: &[&str]) -> Result<Vec<(String, Text)>, FleetError> {
        let segments: Vec<&str> = ["kv", "unwait"].into_iter().chain(folder.iter().copied()).chain([""]).collect();
        let answer = self.0.get(&segments, &[("recurse", ""), ("consistent", "")]).await.map_err(FleetError::from)?;
        let prefix = format!("{}/", folder_path(folder));
        pairs(&answer)?
            .iter()
            .filter_map(|pair| pair.key.strip_prefix(&prefix).map(|name| Ok((name.to_owned(), pair.text()?))))
            .collect()
    }

    async fn server(&self) -> Result<Option<String>, FleetError> {
        Ok(Some(self.0.version().await?))
    }
}

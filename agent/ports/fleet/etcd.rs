//! The fleet in etcd: keys below `unwait/`, changed by a transaction that compares `mod_revision`, read linearizably.
//!
//! With access control the user needs read and write on the prefix `unwait/`.

use std::sync::Arc;

use async_trait::async_trait;

use super::documents::{Documents, Key, Text, folder_path};
use super::shared::SharedFleet;
use super::{CALL_DEADLINE, Fleet, FleetError};
use crate::clock::Clock;
use crate::ports::etcd::{Api, Pair};
use crate::ports::{Login, Servers};

/// `servers` are members of one cluster; `host` is the name that this host holds slots under.
pub fn etcd(
    servers: impl Into<Servers>,
    login: Option<Arc<Login>>,
    host: &str,
    clock: Arc<dyn Clock>,
) -> Result<Arc<dyn Fleet>, FleetError> {
    let api = Api::new(servers.into(), login, CALL_DEADLINE).map_err(FleetError::Refused)?;
    Ok(Arc::new(SharedFleet::new(Etcd(api), host, clock)))
}

#[derive(Debug)]
struct Etcd(Api);

impl From<Pair> for Text {
    fn from(pair: Pair) -> Self {
        Self { text: pair.value, revision: pair.mod_revision }
    }
}

#[async_trait]
impl Documents for Etcd {
    async fn read(&self, key: Key<'_>) -> Result<Option<Text>, FleetError> {
        Ok(self.0.get(&key.path()).await.map_err(FleetError::from)?.map(Text::from))
    }

    async fn swap(&self, key: Key<'_>, revision: u64, text: Option<&[u8]>) -> Result<bool, FleetError> {
        self.0.swap(&key.path(), revision, text).await.map_err(FleetError::from)
    }

    fn shown(&self, key: Key<'_>, revision: u64, text: &str) -> String {
        let (call, key) = (self.0.shown("kv/txn"), key.path());
        format!("{call}: put {key} = {text}, where its mod_revision is {revision}")
    }

    async fn list(&self, folder: &[&str]) -> Result<Vec<(String, Text)>, FleetError> {
        let prefix = format!("{}/", folder_path(folder));
        let named = |pair: Pair| (pair.key.strip_prefix(&prefix).unwrap_or(&pair.key).to_owned(), pair.into());
        Ok(self.0.below(&prefix).await.map_err(FleetError::from)?.into_iter().map(named).collect())
    }

    async fn server(&self) -> Result<Option<String>, FleetError> {
        Ok(self.0.version().await?.map(|version| format!("etcd {version}")))
    }

    fn caveats(&self) -> &'static [&'static str] {
        &["an etcd that is full (NOSPACE) gives no slots; a slot can be given back only where no other host holds one \
           of that service"]
    }
}

//! What a store must be able to do to keep slots: hold small named texts, each changed by compare-and-swap. Consul, etcd
//! and Redis do it each in its own way; the rules of slots and breaches stand above, in `shared`, once.

use std::time::Duration;

use async_trait::async_trait;

use super::{DEADLINE, FleetError, YOUNG};
use crate::model::duration;

/// Where a text lies: `unwait/slots/<service>`, or `unwait/breaches/<service>/<host>`. Stores that know no folders
/// keep the folder as one map from names to texts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Key<'a> {
    pub folder: &'a [&'a str],
    pub name: &'a str,
}

impl Key<'_> {
    /// For people, and for what is asked by one string.
    pub fn path(&self) -> String {
        format!("{}/{}", folder_path(self.folder), self.name)
    }
}

/// `unwait/breaches/rpc-order`
pub(super) fn folder_path(folder: &[&str]) -> String {
    format!("unwait/{}", folder.join("/"))
}

/// A text as it stood at one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Text {
    pub text: Vec<u8>,
    pub revision: u64,
}

/// Which line of masters a store stands in. Another one than before may have forgotten what this one had acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lineage {
    pub id: String,
    /// Since somebody first saw it, by the store's clock.
    pub age: Duration,
}

/// The revision of what is not there.
pub(super) const ABSENT: u64 = 0;

#[async_trait]
pub(super) trait Documents: Send + Sync {
    /// As it stands now, and not as some follower remembers it.
    async fn read(&self, key: Key<'_>) -> Result<Option<Text>, FleetError>;

    /// May it forget what it has acknowledged? Then it tells its line of masters.
    fn may_forget(&self) -> bool {
        false
    }

    /// The same, with the store's line of masters, which is noted in the store where it is new.
    async fn look(&self, key: Key<'_>) -> Result<(Option<Text>, Option<Lineage>), FleetError> {
        Ok((self.read(key).await?, None))
    }

    /// Does what was read last outlive the server that showed it? Asked where that is in doubt.
    async fn confirm(&self, _key: Key<'_>) -> Result<(), FleetError> {
        Ok(())
    }

    /// Puts `text` there, or removes what is there, where it still stands at `revision` ([`ABSENT`] where nothing is to
    /// be there). False where it does not. [`FleetError::Unreachable`] where it is not known what came of it.
    async fn swap(&self, key: Key<'_>, revision: u64, text: Option<&[u8]>) -> Result<bool, FleetError>;

    /// The call that [`Documents::swap`] sends to put `text` there, for people.
    fn shown(&self, key: Key<'_>, revision: u64, text: &str) -> String;

    /// Everything in one folder, by name.
    async fn list(&self, folder: &[&str]) -> Result<Vec<(String, Text)>, FleetError>;

    /// See [`super::Fleet::server`].
    async fn server(&self) -> Result<Option<String>, FleetError> {
        Ok(None)
    }

    /// See [`super::Fleet::caveats`].
    fn caveats(&self) -> &'static [&'static str] {
        &[]
    }
}

/// A read that fails may be asked again, once.
pub(super) async fn asked_again<T, F: Future<Output = Result<T, FleetError>> + Send>(
    read: impl Fn() -> F + Send,
) -> Result<T, FleetError> {
    match read().await {
        Err(FleetError::Unreachable(_)) => read().await,
        answer => answer,
    }
}

pub(super) async fn in_time<T>(
    path: &str,
    asked: impl Future<Output = Result<T, FleetError>> + Send,
) -> Result<T, FleetError> {
    match tokio::time::timeout(DEADLINE, asked).await {
        Ok(answer) => answer,
        Err(_) => Err(FleetError::Unreachable(format!("`{path}` was not read within {} s", DEADLINE.as_secs()))),
    }
}

/// Why nobody gets a slot of this store now; `None` where hosts do.
pub(super) fn not_yet(lineage: Option<&Lineage>) -> Option<String> {
    let age = lineage?.age;
    (age < YOUNG).then(|| {
        format!(
            "the fleet store was restarted, or has another master, since {}: slots are given again in {}, when every \
             host at work has written its own again",
            duration::format(Duration::from_secs(age.as_secs())),
            duration::format(Duration::from_secs((YOUNG - age).as_secs() + 1)),
        )
    })
}

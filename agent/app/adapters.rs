//! The adapters that the host's file asks for, made with their secrets.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use secrecy::SecretString;

use super::{Host, WiringError};
use crate::clock::Clock;
use crate::config::{Destination, FleetConfig, Login, RegistryConfig, To};
use crate::ports::fleet::{self as stores, Fleet};
use crate::ports::notifier::{DeliveryError, Notifier, generic::Generic, slack::Slack};
use crate::ports::registry::{
    Registry, RegistryError,
    consul::Consul,
    etcd::Etcd,
    eureka::Eureka,
    file::FileRegistry,
    haproxy::HaProxy,
    health_file::HealthFile,
    hook::{ExecHooks, Hooked, HttpHooks},
    nacos::Nacos,
    redis::Redis,
    zookeeper::ZooKeeper,
};
use crate::ports::unmade::Unmade;
use crate::ports::{Secret, User, login};
use crate::store::StateDir;

/// What becomes of an adapter that cannot be made, mostly for a secret that cannot be read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    IsAnError,
    /// It is one that does not answer, and says why.
    DoesNotAnswer,
}

impl Missing {
    pub fn or<T: ?Sized>(
        self,
        name: &str,
        made: Result<Arc<T>, WiringError>,
        unmade: impl FnOnce(Unmade) -> Arc<T>,
    ) -> Result<Arc<T>, WiringError> {
        match made {
            Err(error) if self == Self::DoesNotAnswer => {
                tracing::error!(%error, adapter = name, "{name} cannot be asked");
                Ok(unmade(Unmade { name: name.into(), why: error.to_string() }))
            }
            made => made,
        }
    }
}

/// The logins of this host to servers that give tokens: one for all adapters that ask the same server as the same user,
/// also of a configuration that follows.
#[derive(Clone, Debug, Default)]
pub struct Logins(Arc<Mutex<BTreeMap<Whom, Weak<login::Login>>>>);

/// The servers' addresses, the user's name, and the file of the password.
type Whom = (Vec<String>, String, PathBuf);

impl Logins {
    fn of(
        &self,
        urls: &[String],
        login: Option<&Login>,
        what: &'static str,
    ) -> Result<Option<Arc<login::Login>>, WiringError> {
        let Some(named) = login else { return Ok(None) };
        let key = (urls.to_vec(), named.user.clone(), named.password_file.clone());
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(login) = known.get(&key).and_then(Weak::upgrade) {
            return Ok(Some(login));
        }
        let made = user(login, what)?.map(login::Login::new);
        if let Some(login) = &made {
            known.insert(key, Arc::downgrade(login));
        }
        Ok(made)
    }
}

/// The adapter that the host's file asks for under this name.
pub fn registry(
    name: &str,
    registry: &RegistryConfig,
    state: &Path,
    host: &str,
    logins: &Logins,
) -> Result<Arc<dyn Registry>, WiringError> {
    Ok(match registry {
        RegistryConfig::Consul { url, token_file, scope } => {
            Arc::new(Consul::new(name, url, token(token_file.as_ref())?, host)?.draining(*scope))
        }
        RegistryConfig::Exec(hook) => {
            let ledger = StateDir::drains_by(state, name);
            Arc::new(Hooked::new(name, ExecHooks(hook.clone()), ledger, hook.hold_every, host))
        }
        RegistryConfig::File { path } => Arc::new(FileRegistry::new(name, path)),
        RegistryConfig::HaProxy { sockets } => {
            let ledger = StateDir::drains_of(state);
            Arc::new(HaProxy::new(name, sockets.clone(), ledger))
        }
        RegistryConfig::HealthFile { directory, hold_every } => {
            Arc::new(HealthFile::new(name, directory, *hold_every, host))
        }
        RegistryConfig::Http { hook, headers_file } => {
            let headers = headers_file.as_ref().map(|path| secret(path, "the hook's headers")).transpose()?;
            let hooks = HttpHooks::new(hook.as_ref().clone(), headers.as_ref())
                .map_err(|detail| RegistryError::Refused { registry: name.into(), detail })?;
            let ledger = StateDir::drains_by(state, name);
            Arc::new(Hooked::new(name, hooks, ledger, hook.hold_every, host))
        }
        RegistryConfig::Redis { url, login, layout } => {
            let user = user(login.as_ref(), REGISTRY_PASSWORD)?;
            Arc::new(Redis::new(name, url, user, layout.clone(), host)?)
        }
        RegistryConfig::Etcd { urls, login, layout } => {
            let login = logins.of(urls, login.as_ref(), REGISTRY_PASSWORD)?;
            Arc::new(Etcd::new(name, urls, login, layout.clone(), host)?)
        }
        RegistryConfig::ZooKeeper { servers, root, merge, login } => {
            let user = user(login.as_ref(), REGISTRY_PASSWORD)?;
            Arc::new(ZooKeeper::new(name, servers.clone(), user, root, *merge, host))
        }
        RegistryConfig::Nacos { urls, login, layout } => {
            let user = user(login.as_ref(), REGISTRY_PASSWORD)?;
            let ledger = StateDir::drains_by(state, name);
            Arc::new(Nacos::new(name, urls, user, layout.clone(), ledger)?)
        }
        RegistryConfig::Eureka { urls, login } => {
            let user = user(login.as_ref(), REGISTRY_PASSWORD)?;
            let ledger = StateDir::drains_by(state, name);
            Arc::new(Eureka::new(name, urls, user, ledger)?)
        }
    })
}

pub fn notifier(destination: &Destination, clock: &Arc<dyn Clock>) -> Result<Arc<dyn Notifier>, WiringError> {
    Ok(match &destination.to {
        To::Slack { url_file } => {
            let url = secret(url_file, "the webhook's address")?;
            Arc::new(Slack::new(url).map_err(|error| refused(&destination.name, &error, &[url_file]))?)
        }
        To::Generic { url_file, key_file } => {
            let url = secret(url_file, "the webhook's address")?;
            let key = secret(key_file, "the webhook's signing key")?;
            let generic = Generic::new(url, Some(key), Arc::clone(clock));
            Arc::new(generic.map_err(|error| refused(&destination.name, &error, &[url_file, key_file]))?)
        }
    })
}

/// The store that the host's file names, as this host sees it.
pub fn fleet(config: &FleetConfig, host: &Host, logins: &Logins) -> Result<Arc<dyn Fleet>, WiringError> {
    let clock = Arc::clone(&host.clock);
    Ok(match config {
        FleetConfig::Consul { urls, token_file } => {
            stores::consul::consul(urls, token(token_file.as_ref())?, &host.name, clock)?
        }
        FleetConfig::Etcd { urls, login } => {
            let login = logins.of(urls, login.as_ref(), FLEET_PASSWORD)?;
            stores::etcd::etcd(urls, login, &host.name, clock)?
        }
        FleetConfig::Redis { url, login } => {
            stores::redis::redis(url, user(login.as_ref(), FLEET_PASSWORD)?, &host.name, clock)?
        }
        FleetConfig::FleetLock { url, group, id } => {
            let lock = stores::fleetlock::Lock { group: group.clone(), id: id.clone() };
            Arc::new(stores::fleetlock::FleetLock::new(url, lock, &host.name, clock)?)
        }
    })
}

const FLEET_PASSWORD: &str = "the fleet's password";
const REGISTRY_PASSWORD: &str = "the registry's password";

fn user(login: Option<&Login>, what: &'static str) -> Result<Option<User>, WiringError> {
    let of = |login: &Login| {
        let password = renewable(&login.password_file, what)?;
        Ok(User { name: login.user.clone(), password })
    };
    login.map(of).transpose()
}

/// Says where what it was made from stands.
fn refused(destination: &str, error: &DeliveryError, files: &[&PathBuf]) -> WiringError {
    let files: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
    let detail = format!("{error}; it is read from {}", files.join(" and "));
    WiringError::Notifier { destination: destination.into(), detail }
}

fn token(file: Option<&PathBuf>) -> Result<Option<Secret>, WiringError> {
    file.map(|path| renewable(path, "the ACL token")).transpose()
}

/// One that is read again where the server refuses it.
fn renewable(path: &Path, what: &'static str) -> Result<Secret, WiringError> {
    Secret::in_file(path.into()).map_err(|source| WiringError::Secret { path: path.into(), what, source })
}

/// A secret stands alone in its file; white space around it does not count.
pub fn secret(path: &PathBuf, what: &'static str) -> Result<SecretString, WiringError> {
    let text =
        std::fs::read_to_string(path).map_err(|source| WiringError::Secret { path: path.clone(), what, source })?;
    Ok(SecretString::from(text.trim().to_owned()))
}

//! The adapters that the host's file asks for, made with their secrets.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use secrecy::SecretString;

use super::{Host, WiringError};
use crate::clock::Clock;
use crate::config::{FleetConfig, Login, RedisConfig, RegistryConfig};
use crate::model::Tls;
use crate::ports::fleet::{self as stores, Fleet};
use crate::ports::registry::consul::Consul;
use crate::ports::registry::etcd::Etcd;
use crate::ports::registry::eureka::Eureka;
use crate::ports::registry::file::FileRegistry;
use crate::ports::registry::haproxy::HaProxy;
use crate::ports::registry::health_file::HealthFile;
use crate::ports::registry::hook::{ExecHooks, Hooked, HttpHooks};
use crate::ports::registry::nacos::Nacos;
use crate::ports::registry::redis::Redis;
use crate::ports::registry::zookeeper::ZooKeeper;
use crate::ports::registry::{Registry, RegistryError};
use crate::ports::restarter::docker::DockerRestarter;
use crate::ports::restarter::process::ProcessRestarter;
use crate::ports::restarter::supervise::SuperviseRestarter;
use crate::ports::restarter::supervisord::SupervisordRestarter;
use crate::ports::restarter::systemd::SystemdRestarter;
use crate::ports::tls::{Contexts, TlsContext};
use crate::ports::unavailable::UnavailableAdapter;
use crate::ports::{Ensemble, RedisAccess, Restarters, Secret, Servers, User, Via, login};
use crate::store::StateDir;
use crate::trust;

/// Those of this host.
pub fn restarters(clock: &Arc<dyn Clock>) -> Restarters {
    Restarters {
        systemd: Arc::new(SystemdRestarter::new(Arc::clone(clock))),
        process: Arc::new(ProcessRestarter::new(Arc::clone(clock))),
        docker: Arc::new(DockerRestarter::new(Arc::clone(clock))),
        supervisord: Arc::new(SupervisordRestarter::new(Arc::clone(clock))),
        supervise: Arc::new(SuperviseRestarter::new(Arc::clone(clock))),
    }
}

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
        unmade: impl FnOnce(UnavailableAdapter) -> Arc<T>,
    ) -> Result<Arc<T>, WiringError> {
        match made {
            Err(error) if self == Self::DoesNotAnswer => {
                tracing::error!(
                    %error,
                    adapter = name,
                    "{name} is unavailable: {error}; everything that needs {name} is held",
                );
                Ok(unmade(UnavailableAdapter { name: name.into(), why: error.to_string() }))
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

/// What adapters of this host share, also those of a configuration that follows.
#[derive(Clone, Debug, Default)]
pub struct Shared {
    pub logins: Logins,
    pub contexts: Contexts,
}

impl Shared {
    /// `of` says whose connections they are.
    pub fn tls(&self, of: &str, tls: &Tls) -> Result<Arc<TlsContext>, WiringError> {
        self.contexts.of(of, tls).map_err(|detail| WiringError::Tls { of: of.into(), detail })
    }

    fn servers(&self, of: &str, urls: &[String], tls: &Tls) -> Result<Servers, WiringError> {
        Ok(Servers { urls: urls.to_vec(), via: self.tls(of, tls)?.into() })
    }
}

/// The adapter that the host's file asks for under this name.
pub fn registry(
    name: &str,
    registry: &RegistryConfig,
    state: &Path,
    host: &str,
    shared: &Shared,
) -> Result<Arc<dyn Registry>, WiringError> {
    let of = format!("registry {name}");
    Ok(match registry {
        RegistryConfig::Consul { url, tls, token_file, scope } => {
            let server = shared.servers(&of, std::slice::from_ref(url), tls)?;
            Arc::new(Consul::new(name, server, token(token_file.as_ref())?, host)?.draining(*scope))
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
        RegistryConfig::Http { hook, tls, proxy, headers_file } => {
            let headers = headers_file.as_ref().map(|path| renewable(path, "the hook's headers")).transpose()?;
            let via = Via { tls: shared.tls(&of, tls)?, proxy: proxy.clone() };
            let hooks = HttpHooks::new(hook.as_ref().clone(), &via, headers)
                .map_err(|detail| RegistryError::Refused { registry: name.into(), detail })?;
            let ledger = StateDir::drains_by(state, name);
            Arc::new(Hooked::new(name, hooks, ledger, hook.hold_every, host))
        }
        RegistryConfig::Redis { access, layout } => {
            let access = redis(access, &of, REGISTRY_PASSWORD, shared)?;
            Arc::new(Redis::new(name, access, layout.clone(), host))
        }
        RegistryConfig::Etcd { urls, tls, login, layout } => {
            let login = shared.logins.of(urls, login.as_ref(), REGISTRY_PASSWORD)?;
            Arc::new(Etcd::new(name, shared.servers(&of, urls, tls)?, login, layout.clone(), host)?)
        }
        RegistryConfig::ZooKeeper { servers, tls, root, merge, login } => {
            let user = user(login.as_ref(), REGISTRY_PASSWORD)?;
            let tls = tls.as_ref().map(|tls| shared.tls(&of, tls)).transpose()?;
            let ensemble = Ensemble { servers: servers.clone(), tls };
            Arc::new(ZooKeeper::new(name, ensemble, user, root, *merge, host))
        }
        RegistryConfig::Nacos { urls, tls, login, layout } => {
            let user = user(login.as_ref(), REGISTRY_PASSWORD)?;
            let ledger = StateDir::drains_by(state, name);
            Arc::new(Nacos::new(name, shared.servers(&of, urls, tls)?, user, layout.clone(), ledger)?)
        }
        RegistryConfig::Eureka { urls, tls, login } => {
            let user = user(login.as_ref(), REGISTRY_PASSWORD)?;
            let ledger = StateDir::drains_by(state, name);
            Arc::new(Eureka::new(name, shared.servers(&of, urls, tls)?, user, ledger)?)
        }
    })
}

/// The store that the host's file names, as this host sees it.
pub fn fleet(config: &FleetConfig, host: &Host, shared: &Shared) -> Result<Arc<dyn Fleet>, WiringError> {
    let clock = Arc::clone(&host.clock);
    Ok(match config {
        FleetConfig::Consul { urls, tls, token_file } => {
            stores::consul::consul(shared.servers(FLEET, urls, tls)?, token(token_file.as_ref())?, &host.name, clock)?
        }
        FleetConfig::Etcd { urls, tls, login } => {
            let login = shared.logins.of(urls, login.as_ref(), FLEET_PASSWORD)?;
            stores::etcd::etcd(shared.servers(FLEET, urls, tls)?, login, &host.name, clock)?
        }
        FleetConfig::Redis { access, .. } => {
            stores::redis::redis(redis(access, FLEET, FLEET_PASSWORD, shared)?, &host.name, clock)
        }
        FleetConfig::FleetLock { url, tls, group, id } => {
            let lock = stores::fleetlock::Lock { group: group.clone(), id: id.clone() };
            let server = shared.servers(FLEET, std::slice::from_ref(url), tls)?;
            Arc::new(stores::fleetlock::FleetLock::new(server, lock, &host.name, clock)?)
        }
    })
}

/// Whose connections those to the fleet's store are.
pub const FLEET: &str = "fleet";
const FLEET_PASSWORD: &str = "the fleet's password";
const REGISTRY_PASSWORD: &str = "the registry's password";

fn user(login: Option<&Login>, what: &'static str) -> Result<Option<User>, WiringError> {
    let of = |login: &Login| {
        let password = renewable(&login.password_file, what)?;
        Ok(User { name: login.user.clone(), password })
    };
    login.map(of).transpose()
}

fn redis(config: &RedisConfig, of: &str, what: &'static str, shared: &Shared) -> Result<RedisAccess, WiringError> {
    let sentinels = format!("{of}'s sentinels");
    Ok(RedisAccess {
        servers: config.servers.clone(),
        user: user(config.login.as_ref(), what)?,
        tls: config.tls.as_ref().map(|tls| shared.tls(of, tls)).transpose()?,
        sentinel_user: user(config.sentinel_login.as_ref(), "the sentinels' password")?,
        sentinel_tls: config.sentinel_tls.as_ref().map(|tls| shared.tls(&sentinels, tls)).transpose()?,
    })
}

fn token(file: Option<&PathBuf>) -> Result<Option<Secret>, WiringError> {
    file.map(|path| renewable(path, "the ACL token")).transpose()
}

/// One that is read again where the server refuses it.
fn renewable(path: &Path, what: &'static str) -> Result<Secret, WiringError> {
    Secret::in_file(path.into()).map_err(|source| WiringError::Secret { path: path.into(), what, source })
}

/// A secret stands alone in its file; white space around it does not count.
pub fn secret(path: &Path, what: &'static str) -> Result<SecretString, WiringError> {
    let text = trust::read_secret(path).map_err(|source| WiringError::Secret { path: path.into(), what, source })?;
    Ok(SecretString::from(text.trim().to_owned()))
}

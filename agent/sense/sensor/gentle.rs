//! What the gentler steps look at: a service's workers, and its sockets that may be closed from outside.

use std::collections::HashSet;
use std::time::Duration;

use super::Sensor;
use crate::collect::destroy::Destroyed;
use crate::model::census::Owned;
use crate::model::socket::Quality;
use crate::model::{ServiceCensus, ServiceName};

/// For looking through the descriptors of one service's processes: some 3 µs each.
pub const LOOK_WITHIN: Duration = Duration::from_secs(2);

/// Sockets that were closed from outside.
#[derive(Debug)]
pub struct Closing {
    service: ServiceName,
    /// Where the service's processes are found, also once it holds no socket any more.
    held: ServiceCensus,
    /// That were old enough.
    pub found: u64,
    /// By their inodes.
    pub closed: HashSet<u64>,
}

impl Sensor {
    /// The service's sockets that have been in CLOSE_WAIT for so long, by their inodes.
    pub fn leaked(&mut self, service: &ServiceName, older_than: Duration) -> Result<HashSet<u64>, String> {
        let census = self.census().map_err(|error| error.to_string())?;
        if let Quality::Partial { why } = census.quality {
            return Err(why);
        }
        let held = census.services.get(service).cloned().unwrap_or_default();
        Ok(leaked(&held, older_than))
    }

    /// Closes those of the service's sockets that have been in CLOSE_WAIT for so long, so many at most, which its own
    /// processes hold.
    pub fn close(&mut self, service: &ServiceName, older_than: Duration, at_most: u64) -> Result<Closing, String> {
        let (held, sockets) = self.oldest_leaks(service, older_than)?;
        let found = sockets.len() as u64;
        let most = usize::try_from(at_most).unwrap_or(usize::MAX);
        let sockets = sockets.into_iter().take(most).map(|owned| (owned.socket.cookie, owned.socket.inode)).collect();
        let destroyed = self.collector.destroy(&self.namespaces(&held), &sockets).map_err(|error| error.to_string())?;
        match destroyed {
            Destroyed { inodes, left: 0 } => Ok(Closing { service: service.clone(), held, found, closed: inodes }),
            Destroyed { inodes, left } => {
                Err(format!("{left} sockets are still in CLOSE_WAIT, {} were closed", inodes.len()))
            }
        }
    }

    /// How many could be closed so.
    pub fn closable(&mut self, service: &ServiceName, older_than: Duration) -> Result<u64, String> {
        Ok(self.oldest_leaks(service, older_than)?.1.len() as u64)
    }

    /// How many of the closed sockets' descriptors the service's processes still hold; `None` where that is not known.
    pub fn still_open(&mut self, closing: &Closing) -> Option<u64> {
        let Closing { service, held, closed, .. } = closing;
        let open = self.attributor.held_of(service, held, closed.clone(), self.clock.as_ref(), LOOK_WITHIN)?;
        Some(open.len() as u64)
    }

    fn oldest_leaks(
        &mut self,
        service: &ServiceName,
        older_than: Duration,
    ) -> Result<(ServiceCensus, Vec<Owned>), String> {
        let detail = self.collector.detail(self.clock.as_ref()).map_err(|error| error.to_string())?;
        let (mut census, mut sockets) = self.attributor.owned(detail, service, self.clock.as_ref());
        if let Quality::Partial { why } = census.quality {
            return Err(why);
        }
        let held = census.services.remove(service).unwrap_or_default();
        let old = leaked(&held, older_than);
        // A cgroup tells who made a socket, and not who holds it now.
        let own = self.attributor.held_of(service, &held, old, self.clock.as_ref(), LOOK_WITHIN);
        let own = own.ok_or("some processes of the service cannot be read, so the owner of the sockets is unknown")?;
        sockets.retain(|owned| owned.socket.cookie != 0 && own.contains(&owned.socket.inode));
        // The oldest first, where not all may be closed.
        sockets.sort_by_key(|owned| std::cmp::Reverse(owned.socket.age));
        Ok((held, sockets))
    }
}

/// Inodes of those that have been in CLOSE_WAIT for so long and do not send any more. What no process has accepted yet
/// has none.
fn leaked(held: &ServiceCensus, older_than: Duration) -> HashSet<u64> {
    let old = held.sockets().filter(|socket| !socket.sending && socket.age() >= older_than && socket.inode != 0);
    old.map(|socket| u64::from(socket.inode)).collect()
}

//! A service's inbound connections that somebody still uses, and the ports at which they come in.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use super::Sensor;
use crate::execute::world::{Inbound, Talk};
use crate::model::socket::{Quality, accepts, canonical};
use crate::model::{Census, Connection, ServiceName};

impl Sensor {
    /// Connections to the ports that the service listens on which somebody still uses: established ones, and those
    /// that the peer has half-closed while data still leaves. What merely leaks never drains, and is not waited for.
    /// Active are those by which data came or went less than `quiet` ago, or of which that is not known.
    pub fn inbound(&mut self, service: &ServiceName, quiet: Duration) -> Result<Inbound, String> {
        let mut inbound = Inbound { left: 0, active: 0 };
        for one in self.in_use(service)? {
            inbound.left += 1;
            inbound.active += u64::from(one.send_q > 0 || one.idle.is_none_or(|idle| idle < quiet));
        }
        Ok(inbound)
    }

    /// The same connections, one by one.
    pub fn talks(&mut self, service: &ServiceName) -> Result<Vec<Talk>, String> {
        let talk = |one: Connection| Talk { cookie: one.cookie, peer: canonical(one.remote).ip(), bytes: one.bytes };
        // Without a number of its own, one connection cannot be told from the next.
        Ok(self.in_use(service)?.into_iter().filter(|one| one.cookie != 0).map(talk).collect())
    }

    /// The ports that the service listens on, where no other service of the host does, in whichever network namespace: a
    /// port is counted in all of them at once.
    pub fn ports_of_its_own(&mut self, service: &ServiceName) -> Result<BTreeSet<u16>, String> {
        let census = self.whole_census()?;
        let of = |service: &ServiceName| -> BTreeSet<u16> {
            let listening = census.services.get(service).map(|held| &held.listening).into_iter().flatten();
            listening.map(|(_, local)| local.port()).collect()
        };
        let ports = of(service);
        for other in census.services.keys().filter(|other| *other != service) {
            if let Some(port) = of(other).intersection(&ports).next() {
                return Err(format!("{other} also listens on port {port}"));
            }
        }
        Ok(ports)
    }

    fn in_use(&mut self, service: &ServiceName) -> Result<Vec<Connection>, String> {
        let census = self.whole_census()?;
        let held = census.services.get(service).cloned().unwrap_or_default();
        if held.listening.is_empty() && census.unowned_listeners > 0 {
            return Err(format!(
                "the inbound connections of {service} are unknown: this kernel does not tell which service a listening socket belongs \
                 to (kernels from 5.8 with cgroup v2 do)"
            ));
        }
        let mut all = self.collector.connections(&self.namespaces(&held)).map_err(|error| error.to_string())?;
        let ours = |local: SocketAddr| held.listening.iter().any(|(_, bound)| accepts(*bound, local));
        all.retain(|one| (one.established || one.send_q > 0) && ours(one.local));
        Ok(all)
    }

    fn whole_census(&mut self) -> Result<Census, String> {
        let census = self.census().map_err(|error| error.to_string())?;
        match census.quality {
            Quality::Partial { why } => Err(why),
            Quality::Complete => Ok(census),
        }
    }
}

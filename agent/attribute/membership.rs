//! The cgroups of one process, as /proc/PID/cgroup tells them, and the one service that they lead to. Pure; called by
//! `holders`.
//!
//! A process has one path in the v2 tree and, on hybrid and v1-only hosts, one in each v1 hierarchy. systemd keeps
//! units in its own hierarchy (`name=systemd`) and, where there is one, in the v2 tree. Container runtimes that
//! drive v1 put a container into the v1 hierarchies alone: its v2 path is then the runtime's own unit
//! (`/system.slice/containerd.service`), or the root. So a container that any line names is believed before a unit,
//! and a unit is taken from the v2 and systemd's lines, since controllers' paths are often somebody's own. Lines
//! that name two different services of the same rank contradict each other, and then none is believed.

use crate::model::census::NoOwner;
use crate::model::service::ServiceKind;

use super::unit::ServiceCgroup;

/// One process' paths, each from the root of its hierarchy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Membership {
    /// Of the v2 tree and of `name=systemd`, in this order.
    units: Vec<String>,
    /// Of v1 controllers; each path once.
    controllers: Vec<String>,
}

impl Membership {
    /// Reads `hierarchy:controllers:path` lines (cgroups(7)); what is not of that form is passed over.
    pub fn parse(text: &str) -> Self {
        let mut found = Self::default();
        for line in text.lines() {
            let mut fields = line.splitn(3, ':');
            let (Some(hierarchy), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
                continue;
            };
            match (hierarchy, controllers) {
                ("0", "") => found.units.insert(0, path.to_owned()),
                (_, "name=systemd") => found.units.push(path.to_owned()),
                _ if found.controllers.iter().any(|known| known == path) => {}
                _ => found.controllers.push(path.to_owned()),
            }
        }
        found
    }

    /// The service that the paths lead to, and where all of it lies; `place` tells it of a single path.
    pub fn place(&self, place: &impl Fn(&str) -> Result<ServiceCgroup, NoOwner>) -> Result<ServiceCgroup, NoOwner> {
        let mut best: Option<(u8, ServiceCgroup)> = None;
        let mut contradicted = false;
        let by_units = self.units.iter().map(|path| (path, true));
        let by_controllers = self.controllers.iter().map(|path| (path, false));
        for (path, may_name_a_unit) in by_units.chain(by_controllers) {
            let Ok(found) = place(path) else { continue };
            let rank = match found.service.kind() {
                ServiceKind::Process | ServiceKind::Program => 2, // the config's own word
                ServiceKind::Container => 1,
                ServiceKind::Unit if may_name_a_unit => 0,
                ServiceKind::Unit => continue,
            };
            match &best {
                Some((held, _)) if *held > rank => {}
                Some((held, same)) if *held == rank => contradicted |= same.service != found.service,
                _ => (best, contradicted) = (Some((rank, found)), false),
            }
        }
        match best {
            _ if contradicted => Err(NoOwner::Contradicted),
            Some((_, place)) => Ok(place),
            None => Err(NoOwner::NotAService),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::unit::place;
    use super::*;

    const ID: &str = "4f1c2d3e4f5061728394a5b6c7d8e9f00112233445566778899aabbccddeeff0";

    #[test]
    fn the_lines_of_a_process_lead_to_one_service_or_to_none() {
        use NoOwner::{Contradicted, NotAService};
        let other = ID.replace('4', "5");
        for (what, text, expected) in [
            ("v2", "0::/system.slice/a.service\n".to_owned(), Ok("a.service")),
            ("v1 only", "3:cpu,cpuacct:/\n1:name=systemd:/system.slice/a.service\n".into(), Ok("a.service")),
            ("hybrid", "4:memory:/x\n1:name=systemd:/a.service\n0::/a.service\n".into(), Ok("a.service")),
            ("systemd's own hierarchy alone", "1:name=systemd:/system.slice/a.service\n0::/\n".into(), Ok("a.service")),
            ("the v2 tree alone", "1:name=systemd:/\n0::/system.slice/a.service/b\n".into(), Ok("a.service")),
            ("they differ", "1:name=systemd:/b.service\n0::/a.service\n".into(), Err(Contradicted)),
            ("a controller names no unit", "4:memory:/b.service\n0::/a.service\n".into(), Ok("a.service")),
            ("a controller alone neither", "4:memory:/b.service\n0::/\n".into(), Err(NotAService)),
            (
                "docker by v1: the v2 path is the daemon's",
                format!("5:devices:/docker/{ID}\n1:name=systemd:/docker/{ID}\n0::/system.slice/containerd.service\n"),
                Ok("container:4f1c2d3e4f50"),
            ),
            (
                "Kubernetes by v1",
                format!("3:cpu:/kubepods/besteffort/pod1/{ID}\n1:name=systemd:/kubepods/besteffort/pod1/{ID}\n0::/\n"),
                Ok("container:4f1c2d3e4f50"),
            ),
            (
                "systemd in a container of LXC",
                "4:memory:/lxc/web/a.slice\n1:name=systemd:/lxc/web/system.slice/a.service\n".into(),
                Ok("container:lxc:web"),
            ),
            (
                "two containers",
                format!("5:devices:/docker/{ID}\n1:name=systemd:/docker/{other}\n0::/a.service\n"),
                Err(Contradicted),
            ),
            (
                "units that differ do not matter in a container",
                format!("5:devices:/docker/{ID}\n1:name=systemd:/b.service\n0::/a.service\n"),
                Ok("container:4f1c2d3e4f50"),
            ),
            ("a login", "1:name=systemd:/user.slice/user-0.slice/session-1.scope\n0::/\n".into(), Err(NotAService)),
            ("a removed cgroup", "0::/a.service (deleted)\n".into(), Err(NotAService)),
            ("a colon in the path", "0::/system.slice/a:b.service\n".into(), Ok("a:b.service")),
            ("nothing", "nonsense\n\n".into(), Err(NotAService)),
        ] {
            let found = Membership::parse(&text).place(&place);
            assert_eq!(found.as_ref().map(|found| found.service.as_str()).map_err(|why| *why), expected, "{what}");
        }
    }
}

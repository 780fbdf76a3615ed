//! Tells a process of the host from one in a container, which only its runtime can start again.

use std::fs;

use super::membership::Membership;
use super::unit::place;
use crate::model::ServiceName;
use crate::model::service::ServiceKind;

/// Where a process lives that is not the host's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Elsewhere {
    /// In this container, by its cgroup.
    Container(ServiceName),
    /// In another pid namespace than ours, and so by its cgroup in this service, where that tells one.
    PidNamespace(Option<ServiceName>),
}

/// `None` for a process of our own pid namespace that is in no container, or in the same one as ourselves; and where neither can
/// be read. A mount namespace tells nothing: hardened units have their own.
pub fn elsewhere(pid: u32) -> Option<Elsewhere> {
    let service = service(&pid.to_string());
    if let Some(container) = service.clone().filter(|service| service.kind() == ServiceKind::Container)
        && self::service("self").as_ref() != Some(&container)
    {
        return Some(Elsewhere::Container(container));
    }
    let namespace = |process: &str| fs::read_link(format!("/proc/{process}/ns/pid")).ok();
    let (theirs, ours) = (namespace(&pid.to_string())?, namespace("self")?);
    (theirs != ours).then_some(Elsewhere::PidNamespace(service))
}

fn service(process: &str) -> Option<ServiceName> {
    let cgroup = fs::read_to_string(format!("/proc/{process}/cgroup")).ok()?;
    Membership::parse(&cgroup).place(&place).ok().map(|place| place.service)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_pid_namespace_is_another_place_and_a_mount_namespace_is_not() {
        for (flags, is_elsewhere) in [(["--mount", "--fork"], false), (["--pid", "--fork"], true)] {
            let mut outer = Command::new("unshare")
                .args(flags)
                .args(["--kill-child=KILL", "cat"])
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .spawn()
                .unwrap();
            let children = format!("/proc/{0}/task/{0}/children", outer.id());
            let inner: u32 = loop {
                if let Ok(pid) = fs::read_to_string(&children).unwrap().trim().parse() {
                    break pid;
                }
                std::thread::yield_now();
            };
            let found = elsewhere(inner);
            assert_eq!(matches!(found, Some(Elsewhere::PidNamespace(_))), is_elsewhere, "{flags:?}: {found:?}");
            drop(outer.stdin.take());
            outer.wait().unwrap();
        }
        assert_eq!(elsewhere(std::process::id()), None);
    }
}

//! From a cgroup's path to the service that it belongs to. Pure; called by the attributor.
//!
//! - A container's cgroup (`docker-<id>.scope`, `libpod-<id>.scope`, `cri-containerd-<id>.scope`, `/docker/<id>`)
//!   is the container, whatever it runs inside: systemd's units in a container are the container's own.
//! - Otherwise the *outermost* `NAME.service` is the unit. What lies below it is delegated to it (its sub-cgroups,
//!   or the units of a manager that it runs itself) and counts to it: no unit of the host lies below another.
//! - `NAME.socket` is the service of the same name: systemd made the socket before the service began.
//! - `user@UID.service` and all below is a login's own: our names speak of the host's units, and restarting a
//!   user's whole manager for one program of theirs is never meant. It is no service.
//! - Sessions, other scopes, bare slices and the root are no service.

use crate::model::ServiceName;
use crate::model::census::NoOwner;

/// Hex digits of a container id that its name here keeps, as `docker ps` shows it.
const SHORT_ID: usize = 12;

/// A service, and the cgroup that holds all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub service: ServiceName,
    /// The path of the service's own cgroup; the one that was asked for is this one or lies below it.
    pub root: String,
}

/// The service that a cgroup's path (from the mount's root, starting with `/`) belongs to.
pub(super) fn place(path: &str) -> Result<Place, NoOwner> {
    let components = || path.split('/').skip(1).enumerate();
    if let Some((depth, id)) = components().find_map(|(depth, name)| Some((depth, container_id(path, depth, name)?))) {
        return named(format!("container:{}", &id[..SHORT_ID]), upto(path, depth));
    }
    let is_unit = |name: &str| name.ends_with(".service") || name.ends_with(".socket");
    match components().find(|(_, name)| is_unit(name)) {
        Some((_, name)) if name.starts_with("user@") => Err(NoOwner::NotAService),
        Some((depth, name)) => match name.strip_suffix(".socket") {
            Some(stem) => {
                let service = format!("{stem}.service");
                let parent = depth.checked_sub(1).map_or(String::new(), |depth| upto(path, depth));
                named(service.clone(), format!("{parent}/{service}"))
            }
            None => named(name.to_owned(), upto(path, depth)),
        },
        None => Err(NoOwner::NotAService),
    }
}

fn named(name: String, root: String) -> Result<Place, NoOwner> {
    ServiceName::parse(&name).map(|service| Place { service, root }).map_err(|_| NoOwner::NotAService)
}

/// The path up to and with the component of this depth.
fn upto(path: &str, depth: usize) -> String {
    path.split('/').skip(1).take(depth + 1).flat_map(|name| ["/", name]).collect()
}

/// The id, where this component is a container's: 64 hex digits behind a runtime's prefix, or bare below a
/// directory that the runtime (cgroupfs driver) or Kubernetes names.
fn container_id<'a>(path: &str, depth: usize, name: &'a str) -> Option<&'a str> {
    let is_id = |text: &&str| text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
    if let Some(scope) = name.strip_suffix(".scope") {
        return ["docker-", "libpod-", "cri-containerd-", "crio-"]
            .iter()
            .find_map(|prefix| scope.strip_prefix(prefix))
            .filter(is_id);
    }
    let parents = || path.split('/').skip(1).take(depth);
    let runtime = |parent: &str| parent == "docker" || parent == "libpod" || parent.starts_with("kubepods");
    let bare = name.strip_prefix("libpod-payload-").unwrap_or(name);
    Some(bare).filter(is_id).filter(|_| bare != name || parents().any(runtime))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "4f1c2d3e4f5061728394a5b6c7d8e9f00112233445566778899aabbccddeeff0";

    #[test]
    fn a_path_belongs_to_the_unit_or_container_that_it_names() {
        for (path, service, root) in [
            ("/system.slice/rpc-order.service", "rpc-order.service", "/system.slice/rpc-order.service"),
            ("/rpc.slice/rpc-x.slice/rpc@1.service/worker/3", "rpc@1.service", "/rpc.slice/rpc-x.slice/rpc@1.service"),
            (
                "/system.slice/nspawn.service/payload/system.slice/in.service",
                "nspawn.service",
                "/system.slice/nspawn.service",
            ),
            ("/system.slice/gate.socket", "gate.service", "/system.slice/gate.service"),
            ("/gate.socket", "gate.service", "/gate.service"),
            (
                &format!("/system.slice/docker-{ID}.scope"),
                "container:4f1c2d3e4f50",
                &format!("/system.slice/docker-{ID}.scope"),
            ),
            (
                &format!("/machine.slice/libpod-{ID}.scope/container"),
                "container:4f1c2d3e4f50",
                &format!("/machine.slice/libpod-{ID}.scope"),
            ),
            (&format!("/docker/{ID}/system.slice/nginx.service"), "container:4f1c2d3e4f50", &format!("/docker/{ID}")),
            (
                &format!("/system.slice/podman.service/libpod-payload-{ID}"),
                "container:4f1c2d3e4f50",
                &format!("/system.slice/podman.service/libpod-payload-{ID}"),
            ),
            (
                &format!("/kubepods/burstable/pod1/{ID}"),
                "container:4f1c2d3e4f50",
                &format!("/kubepods/burstable/pod1/{ID}"),
            ),
        ] {
            let expected = Place { service: ServiceName::parse(service).unwrap(), root: root.into() };
            assert_eq!(place(path), Ok(expected), "{path}");
        }
    }

    #[test]
    fn what_is_nobodys_service_is_not_made_one() {
        for path in [
            "/",
            "/init.scope",
            "/system.slice",
            "/user.slice/user-1000.slice/session-3.scope",
            "/user.slice/user-1000.slice/user@1000.service/app.slice/x.service",
            "/user.slice/user-1000.slice/user@1000.service/init.scope",
            "/machine.slice/libpod-conmon-4f1c.scope",
            "/docker/buildkit",
            &format!("/jobs/{ID}"),
            "/system.slice/odd name.service",
        ] {
            assert_eq!(place(path), Err(NoOwner::NotAService), "{path}");
        }
    }
}

//! From a cgroup's path to the service that it belongs to. Pure; called by the attributor and by [`Membership`].
//!
//! - A container's cgroup is the container, whatever it runs inside: systemd's units in a container are the
//!   container's own, and a container in a container is the outer one's. Its name here is the first twelve digits of
//!   its id, as `docker ps` shows it, until whoever knows its own name tells it ([`Attributor::containers`]). How the runtimes name the cgroup, by systemd and by cgroupfs drivers:
//!   docker `docker-<id>.scope`, `/docker/<id>`; podman `libpod-<id>.scope`, `libpod-<id>`, `libpod-payload-<id>`;
//!   nerdctl `nerdctl-<id>.scope`, `/default/<id>` (containerd's namespace); cri-o `crio-<id>.scope`, `crio-<id>`;
//!   Kubernetes by containerd `cri-containerd-<id>.scope`, `/kubepods/…/pod<uid>/<id>`, and, where the kubelet and
//!   containerd disagree about the driver, `<slice>:cri-containerd:<id>`. Their monitors (conmon) are no service.
//! - LXC, LXD and Incus: `lxc.payload.NAME`, `/lxc.payload/NAME`, `/lxc/NAME`; registered with systemd-machined:
//!   `machine-NAME.scope`. Their names are a person's, so the kind is kept (`container:lxc:NAME`): another runtime's
//!   container may have the same one. Virtual machines (`machine-qemu…`) are no service.
//! - Otherwise the *outermost* `NAME.service` is the unit. What lies below it is delegated to it (its sub-cgroups,
//!   or the units of a manager that it runs itself) and counts to it: no unit of the host lies below another.
//!   `systemd-nspawn@NAME.service` is a unit also where containers run inside; and a container that podman has put into a
//!   unit's own cgroup (`--cgroups=split`, as Quadlet does) is that unit, which alone can restart it.
//! - `NAME@N-LOCAL-REMOTE.service` (newer systemd: `NAME@N-COOKIE-LOCAL-REMOTE.service`) is one connection's process,
//!   made by a `.socket` with `Accept=yes` and named so by systemd alone (`instance_from_socket` in its socket.c): all
//!   of them are one service, the template `NAME@.service`. Those of a unix socket (`N-PID-UID`) look like what a person may
//!   call an instance, and stay services of their own, as every other instance does.
//! - `NAME.socket` is the service of the same name: systemd made the socket before the service began. Which service
//!   a `Service=` or `Accept=yes` means instead is told by no path: whoever must know asks who holds the socket.
//! - `user@UID.service` and all below is a login's own: our names speak of the host's units, and restarting a
//!   user's whole manager for one program of theirs is never meant. It is no service; a rootless container is.
//! - Sessions, other scopes, bare slices and the root are no service; nor is a unit's path from outside of our
//!   cgroup namespace (`/../x.service`), of which the upper part is not told.
//!
//! [`Membership`]: super::membership::Membership
//! [`Attributor::containers`]: super::Attributor::containers

use std::net::IpAddr;

use crate::model::ServiceName;
use crate::model::census::NoOwner;

/// Hex digits of a container id that its name here keeps, as `docker ps` shows it.
const SHORT_ID: usize = 12;

/// A service, and the cgroup that holds all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ServiceCgroup {
    pub service: ServiceName,
    /// The path of the service's own cgroup; the one that was asked for is this one or lies below it.
    pub root: String,
}

/// The name of a container by its id (64 hex digits), as long as its real name is unknown.
pub fn by_id(id: &str) -> Option<ServiceName> {
    is_id(id).then(|| ServiceName::parse(&format!("container:{}", &id[..SHORT_ID])).ok()).flatten()
}

/// The service that a cgroup's path (from the mount's root, starting with `/`) belongs to.
pub(super) fn place(path: &str) -> Result<ServiceCgroup, NoOwner> {
    let components = || path.split('/').skip(1).enumerate();
    let nspawn = components().position(|(_, name)| name.starts_with("systemd-nspawn@")).unwrap_or(usize::MAX);
    let container = components().find_map(|(depth, name)| Some((depth, container(path, depth, name)?)));
    if let Some((depth, name)) = container.filter(|(depth, _)| *depth < nspawn && !is_a_units(path, *depth)) {
        return named(format!("container:{name}"), upto(path, depth));
    }
    if path.starts_with("/..") {
        return Err(NoOwner::NotAService);
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
            None => named(of_one_connection(name).unwrap_or_else(|| name.to_owned()), upto(path, depth)),
        },
        None => Err(NoOwner::NotAService),
    }
}

/// The template, where the unit is the process of one connection.
fn of_one_connection(unit: &str) -> Option<String> {
    let (stem, instance) = unit.strip_suffix(".service")?.split_once('@')?;
    let address = |text: &str| {
        let (ip, port) = text.rsplit_once(':')?;
        Some((ip.parse::<IpAddr>().ok()?, port.parse::<u16>().ok()?))
    };
    let [numbers @ .., local, remote] = &instance.split('-').collect::<Vec<_>>()[..] else { return None };
    let numbered = matches!(numbers.len(), 1 | 2) && numbers.iter().all(|number| number.parse::<u64>().is_ok());
    (numbered && address(local).is_some() && address(remote).is_some()).then(|| format!("{stem}@.service"))
}

/// Is the component at this depth podman's container, directly in the cgroup of the host's unit that started it?
fn is_a_units(path: &str, depth: usize) -> bool {
    let names: Vec<&str> = path.split('/').skip(1).take(depth + 1).collect();
    let owner = names.iter().position(|name| name.ends_with(".service"));
    // Rootless ones are a login's own, and podman.service is the API's.
    let may_own = |unit: &str| !unit.starts_with("user@") && !RUNTIME_UNITS.contains(&unit);
    owner.is_some_and(|at| at + 1 == depth && may_own(names[at])) && names[depth].starts_with("libpod-payload-")
}

/// Units of container runtimes; their containers have cgroups of their own, but not always in the v2 tree.
const RUNTIME_UNITS: [&str; 4] = ["docker.service", "containerd.service", "podman.service", "crio.service"];

/// Whether the cgroup in which a socket was made tells whose it is. Not the root, where everything is that the v2 tree
/// does not sort, nor systemd's own; not a `.socket` unit, which may belong to a service of another name; and not a
/// container runtime's own unit, where its containers lie for the v2 tree if it drives v1. There the holder tells.
pub(super) fn tells(path: &str) -> bool {
    if path == "/" || path == "/init.scope" || path.starts_with("/..") {
        return false;
    }
    let unit = path.split('/').find(|name| name.ends_with(".service") || name.ends_with(".socket"));
    let is_runtime = |unit: &str| RUNTIME_UNITS.contains(&unit) && path.ends_with(unit);
    unit.is_none_or(|unit| !unit.ends_with(".socket") && !is_runtime(unit))
}

fn named(name: String, root: String) -> Result<ServiceCgroup, NoOwner> {
    ServiceName::parse(&name).map(|service| ServiceCgroup { service, root }).map_err(|_| NoOwner::NotAService)
}

/// The path up to and with the component of this depth.
fn upto(path: &str, depth: usize) -> String {
    path.split('/').skip(1).take(depth + 1).flat_map(|name| ["/", name]).collect()
}

/// Runtimes that put their name before the id: `docker-<id>.scope`, `crio-<id>`, `<slice>:cri-containerd:<id>`.
const RUNTIMES: [&str; 6] = ["docker", "libpod", "libpod-payload", "cri-containerd", "crio", "nerdctl"];

/// The container's name, where this component is a container's: an id of 64 hex digits behind a runtime's name, or
/// bare below a directory that the runtime (cgroupfs driver) or Kubernetes names.
fn container(path: &str, depth: usize, name: &str) -> Option<String> {
    let parents = || path.split('/').skip(1).take(depth);
    let parent = parents().last().unwrap_or_default();
    if let Some(id) = behind_a_runtime(name).filter(|id| is_id(id)) {
        return Some(id[..SHORT_ID].to_owned());
    }
    if is_id(name) {
        let runtime = |parent: &str| parent == "docker" || parent == "libpod" || parent.starts_with("kubepods");
        let of_containerd = depth == 1 && parent == "default";
        return (of_containerd || parents().any(runtime)).then(|| name[..SHORT_ID].to_owned());
    }
    let lxc = match (depth, parent) {
        (1, "lxc" | "lxc.payload") => Some(name),
        _ => name.strip_prefix("lxc.payload."),
    };
    if let Some(name) = lxc.filter(|name| !name.is_empty()) {
        return Some(format!("lxc:{name}"));
    }
    // systemd-machined escapes the dashes of the machine's name; libvirt's begin with the driver's.
    let machine = name.strip_prefix("machine-")?.strip_suffix(".scope").filter(|_| parent == "machine.slice")?;
    (!machine.starts_with(r"qemu\x2d")).then(|| format!("machine:{}", machine.replace(r"\x2d", "-")))
}

fn is_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

fn behind_a_runtime(name: &str) -> Option<&str> {
    if let Some((slice, scope)) = name.split_once(".slice:") {
        let (runtime, id) = scope.split_once(':')?;
        return (!slice.is_empty() && RUNTIMES.contains(&runtime)).then_some(id);
    }
    let (runtime, id) = name.strip_suffix(".scope").unwrap_or(name).rsplit_once('-')?;
    RUNTIMES.contains(&runtime).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "4f1c2d3e4f5061728394a5b6c7d8e9f00112233445566778899aabbccddeeff0";

    const EACH: &str = "/each.slice/each@3-127.0.0.1:9000-127.0.0.1:5555.service";
    const TO: &str = "/to@a-10.0.0.1:80-10.0.0.2:9.service";

    #[test]
    fn a_path_belongs_to_the_unit_that_it_names() {
        for (path, service, root) in [
            ("/system.slice/rpc-order.service", "rpc-order.service", "/system.slice/rpc-order.service"),
            ("/rpc.slice/rpc-x.slice/rpc@1.service/worker/3", "rpc@1.service", "/rpc.slice/rpc-x.slice/rpc@1.service"),
            (
                "/system.slice/nspawn.service/payload/system.slice/in.service",
                "nspawn.service",
                "/system.slice/nspawn.service",
            ),
            (
                &format!("/machine.slice/systemd-nspawn@web.service/payload/docker/{ID}"),
                "systemd-nspawn@web.service",
                "/machine.slice/systemd-nspawn@web.service",
            ),
            (&format!("/system.slice/web.service/libpod-payload-{ID}/x"), "web.service", "/system.slice/web.service"),
            ("/system.slice/gate.socket", "gate.service", "/system.slice/gate.service"),
            ("/gate.socket", "gate.service", "/gate.service"),
            ("/each.slice/each@3-127.0.0.1:9000-127.0.0.1:5555.service", "each@.service", EACH),
            ("/each@3-::1:9000-fe80::2:5555.service/sub", "each@.service", "/each@3-::1:9000-fe80::2:5555.service"),
            ("/each@3-71-10.0.0.1:80-10.0.0.2:9.service", "each@.service", "/each@3-71-10.0.0.1:80-10.0.0.2:9.service"),
            ("/worker@1.service", "worker@1.service", "/worker@1.service"),
            ("/day@2026-01-02.service", "day@2026-01-02.service", "/day@2026-01-02.service"),
            ("/at@10.0.0.1:80.service", "at@10.0.0.1:80.service", "/at@10.0.0.1:80.service"),
            ("/to@a-10.0.0.1:80-10.0.0.2:9.service", "to@a-10.0.0.1:80-10.0.0.2:9.service", TO),
        ] {
            let expected = ServiceCgroup { service: ServiceName::parse(service).unwrap(), root: root.into() };
            assert_eq!(place(path), Ok(expected), "{path}");
        }
    }

    #[test]
    fn a_path_belongs_to_the_container_that_it_names_by_every_runtime_and_driver() {
        const POD: &str = "kubepods-burstable-pod36b6d6be73b1065af369b3985edafa09.slice";
        for (root, below) in [
            (format!("/system.slice/docker-{ID}.scope"), ""),
            (format!("/docker/{ID}"), "/system.slice/nginx.service"),
            (format!("/docker/{ID}"), &*format!("/system.slice/web.service/libpod-payload-{ID}")),
            (format!("/user.slice/user-1000.slice/user@1000.service/user.slice/docker-{ID}.scope"), ""),
            (format!("/../docker-{ID}.scope"), ""),
            (format!("/machine.slice/libpod-{ID}.scope"), "/container"),
            (format!("/machine.slice/machine-libpod_pod_{ID}.slice/libpod-{ID}.scope"), ""),
            (format!("/libpod_parent/libpod-{ID}"), ""),
            (format!("/system.slice/podman.service/libpod-payload-{ID}"), ""),
            (format!("/system.slice/nerdctl-{ID}.scope"), ""),
            (format!("/default/{ID}"), ""),
            (format!("/kubepods/burstable/pod1/{ID}"), ""),
            (format!("/kubepods/besteffort/pod1/crio-{ID}"), ""),
            (format!("/kubepods.slice/kubepods-burstable.slice/{POD}/cri-containerd-{ID}.scope"), ""),
            (format!("/kubepods.slice/kubepods-burstable.slice/{POD}/crio-{ID}.scope"), "/container"),
            (format!("/kubepods.slice/{POD}/docker-{ID}.scope"), ""),
            (format!("/system.slice/containerd.service/{POD}:cri-containerd:{ID}"), ""),
            (format!("/docker/{ID}"), &*format!("/kubepods/besteffort/pod1/{}", ID.replace('4', "5"))),
        ] {
            let service = ServiceName::parse("container:4f1c2d3e4f50").unwrap();
            assert_eq!(place(&format!("{root}{below}")), Ok(ServiceCgroup { service, root }), "{below}");
        }
        for (root, below, service) in [
            ("/lxc.payload.web-1", "/system.slice/nginx.service", "container:lxc:web-1"),
            ("/lxc.payload.shop_web", "/init.scope", "container:lxc:shop_web"),
            ("/lxc.payload/web", "", "container:lxc:web"),
            ("/lxc/101", "/ns/system.slice/x.service", "container:lxc:101"),
            (r"/machine.slice/machine-web\x2d1.scope", "/payload/init.scope", "container:machine:web-1"),
        ] {
            let service = ServiceName::parse(service).unwrap();
            assert_eq!(place(&format!("{root}{below}")), Ok(ServiceCgroup { service, root: root.into() }), "{root}");
        }
    }

    #[test]
    fn some_cgroups_do_not_tell_whose_a_socket_is() {
        for (path, expected) in [
            ("/", false),
            ("/init.scope", false),
            ("/../other.service", false),
            ("/system.slice/gate.socket", false),
            ("/system.slice/docker.service", false),
            ("/system.slice/docker.service/sub", true),
            ("/system.slice/rpc-order.service", true),
            ("/system.slice/rpc-order.service/docker.service", true),
            ("/user.slice/user-1000.slice/session-3.scope", true),
        ] {
            assert_eq!(tells(path), expected, "{path}");
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
            &format!("/machine.slice/libpod-conmon-{ID}.scope"),
            &format!("/kubepods.slice/crio-conmon-{ID}.scope"),
            r"/machine.slice/machine-qemu\x2d1\x2dweb.scope/libvirt",
            "/other.slice/machine-web.scope",
            "/lxc.monitor.web",
            "/lxc.monitor/web",
            "/lxc.payload.",
            "/jobs/lxc/web",
            "/docker/buildkit",
            "/../x.service",
            &format!("/jobs/default/{ID}"),
            &format!("/a.slice:x:{ID}"),
            &format!("/jobs/{ID}"),
            "/system.slice/odd name.service",
        ] {
            assert_eq!(place(path), Err(NoOwner::NotAService), "{path}");
        }
    }
}

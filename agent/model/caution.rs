//! Cases in which a count misleads: services that share a process or port which the configuration separates, and
//! sockets that no count reaches. Found by the attributor's survey; shown by `scan`, `check` and `status`.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::{ServiceName, duration};

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Caution {
    /// One process listens on ports that the configuration gives to several services.
    OneProcess { services: Vec<ServiceName>, pid: u32, comm: String },
    /// Processes of the name that the configuration gives run in several containers, or in one and outside of it.
    SeveralPlaces { service: ServiceName, name: String, places: Vec<String> },
    /// The pid file names the host's own process: a program inside a container writes the number that it has there.
    HostsOwn { service: ServiceName, pid_file: PathBuf, pid: u32 },
    /// There are so many network namespaces beside the host's own; a new one is found within this time.
    NewNamespaces { beside: usize, within: Duration },
    /// A port of the service is listened on in so many other network namespaces too.
    ElsewhereToo { service: ServiceName, port: u16, namespaces: usize },
    /// A container whose connections are its runtime's own, and not the kernel's.
    NotTheKernels { container: String, runtime: &'static str },
    /// So many connections of a container's userland proxy wait for the container to close its side.
    BehindAProxy { container: SocketAddr, host_port: String, connections: usize },
}

impl Caution {
    /// No connection of the container is visible.
    pub fn is_blindness(&self) -> bool {
        matches!(self, Self::NotTheKernels { .. })
    }
}

impl fmt::Display for Caution {
    /// The case, its effect on the counts, and the remedy.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OneProcess { services, pid, comm } => {
                let names: Vec<&str> = services.iter().map(ServiceName::as_str).collect();
                // A process may call itself anything, over several lines too.
                let (names, comm) = (names.join(" and "), comm.escape_debug());
                write!(
                    f,
                    "{names} are one process, pid {pid} ({comm}), which listens on the ports of each. All of its sockets count for one of these services, and none for the others: make them one service under `services:`"
                )
            }
            Self::SeveralPlaces { service, name, places } => write!(
                f,
                "{service} counts the processes named `{name}` of {} together. Containers are services by themselves: remove `match: {{ process }}`, or name a path that only one of them has",
                places.join(", ")
            ),
            Self::HostsOwn { service, pid_file, pid } => write!(
                f,
                "{service}: {} names pid {pid}, which is a process of the host and of no service; the file is ignored. A program in a container writes its pid inside the container: use the container as the service",
                pid_file.display()
            ),
            Self::NewNamespaces { beside, within } => write!(
                f,
                "{beside} network namespaces exist beside the host's own; sockets in a new one (a container that starts, PrivateNetwork=) are counted within {}",
                duration::format(*within)
            ),
            Self::ElsewhereToo { service, port, namespaces } => write!(
                f,
                "{service}: {namespaces} other network namespaces also have a listener on port {port}; `match: {{ ports }}` counts only in the host's own namespace"
            ),
            Self::NotTheKernels { container, runtime } => write!(
                f,
                "connections inside {container} are not counted: {runtime} has a network stack of its own, which the host's kernel does not show"
            ),
            Self::BehindAProxy { container, host_port, connections } => write!(
                f,
                "{connections} connections of docker-proxy (host port {host_port}) wait in FIN_WAIT_2 for {container} to close its side: the leak is inside that container"
            ),
        }
    }
}

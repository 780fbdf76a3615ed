//! HAProxy: a server drained in every balancer that is listed, over their stats sockets (level admin).
//! An instance's id is `BACKEND/SERVER`.
//!
//! Measured with HAProxy 2.6:
//!
//! - `set server B/S state drain` takes no new clients, `ready` takes them again. Success is an empty line; an error is
//!   text. So each change is read back from `show servers state`.
//! - A drain carries no reason, and a reload forgets it. So whose it is stands in a [`Ledger`] of this host, and drained
//!   is held: a balancer that is ready again while our drain stands is drained again.
//! - A server that is drained, in maintenance or of weight 0 without standing in the ledger is somebody else's.
//!
//! All balancers or none: where one cannot be drained, those that were are made ready again.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use super::ledger::Ledger;
use super::ledger_registry::{Backend, LedgerRegistry};
use super::whose::{Shown, whose};
use super::{Others, Registration, RegistryError, Traffic, TrafficChange};
use crate::model::Marker;
use crate::ports::said;

/// For one command to one balancer.
const CALL_DEADLINE: Duration = Duration::from_secs(5);
/// Some 40,000 servers at 200 B.
const MAX_ANSWER_BYTES: u64 = 8 << 20;
/// A reload that undoes a drain is in force for so long at most.
const HOLD_EVERY: Duration = Duration::from_secs(1);

/// `srv_op_state`: the server takes traffic as far as its checks say.
const RUNNING: u32 = 2;
/// `srv_admin_state`, a bit each: drained by a command; everything else was set by others.
const FORCED_DRAIN: u32 = 0x08;

pub type HaProxy = LedgerRegistry<Balancers>;

#[derive(Debug)]
pub struct Balancers {
    registry: String,
    /// A path, or `HOST:PORT`.
    sockets: Vec<String>,
    ledger: Ledger,
}

/// One line of `show servers state`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Server {
    backend: String,
    name: String,
    address: String,
    port: u16,
    operational: u32,
    admin: u32,
    weight: u32,
}

impl Server {
    fn passes(&self) -> bool {
        self.operational == RUNNING && self.admin == 0 && self.weight > 0
    }

    fn socket(&self) -> Option<SocketAddr> {
        Some(SocketAddr::new(self.address.parse::<IpAddr>().ok()?, self.port))
    }

    /// What others than us have done to it.
    fn isolated(&self) -> Option<&'static str> {
        match self.admin & !FORCED_DRAIN {
            0 if self.weight == 0 => Some("the server's weight is 0"),
            0 => None,
            _ => Some("the server is in maintenance, or its drain is inherited"),
        }
    }
}

impl HaProxy {
    /// `name` is the registry's in the host's file; `ledger` a file that this agent alone writes.
    pub fn new(name: &str, sockets: Vec<String>, ledger: PathBuf) -> Self {
        let balancers = Balancers { registry: name.into(), sockets, ledger: Ledger::new(ledger) };
        Self::over(balancers, HOLD_EVERY)
    }
}

impl Balancers {
    async fn ask(&self, socket: &str, command: &str) -> Result<String, RegistryError> {
        let asked = async {
            if socket.starts_with('/') {
                converse(UnixStream::connect(socket).await?, command).await
            } else {
                converse(TcpStream::connect(socket).await?, command).await
            }
        };
        let unreachable = |why: String| RegistryError::Unreachable {
            registry: self.registry.clone(),
            detail: format!("{socket}: {why}"),
        };
        match tokio::time::timeout(CALL_DEADLINE, asked).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(unreachable(error.to_string())),
            Err(_) => Err(unreachable(format!("no answer within {} s", CALL_DEADLINE.as_secs()))),
        }
    }

    /// The servers of one balancer. A backend that it does not have has none.
    async fn servers(&self, socket: &str, backend: &str) -> Result<Vec<Server>, RegistryError> {
        let answer = self.ask(socket, format!("show servers state {backend}").trim_end()).await?;
        if answer.trim() == "Can't find backend." {
            return Ok(vec![]);
        }
        parsed(&answer).map_err(|why| self.refused(format!("{socket}: show servers state: {why}")))
    }

    /// A socket of a lower level shows everything and sets nothing: that is said before any other balancer is changed.
    async fn may_set(&self, socket: &str) -> Result<(), RegistryError> {
        match self.ask(socket, "show cli level").await?.trim() {
            level @ ("user" | "operator") => Err(self.refused(format!(
                "{socket}: the socket has `level {level}`, and a drain needs `level admin`: set it at `stats socket` \
                 in HAProxy's configuration, and reload"
            ))),
            _ => Ok(()),
        }
    }

    /// The server as each balancer has it: all of them or none, otherwise it is refused.
    async fn everywhere(&self, id: &str) -> Result<Vec<(&str, Server)>, RegistryError> {
        let (backend, name) = self.split(id)?;
        let mut found = Vec::new();
        for socket in &self.sockets {
            self.may_set(socket).await?;
            let servers = self.servers(socket, backend).await?;
            found
                .extend(servers.into_iter().find(|server| server.name == name).map(|server| (socket.as_str(), server)));
        }
        match found.len() {
            0 => Err(RegistryError::NotRegistered { registry: self.registry.clone(), id: id.into() }),
            some if some < self.sockets.len() => {
                Err(self.refused(format!("only {some} of {} balancers have the server `{id}`", self.sockets.len())))
            }
            _ => Ok(found),
        }
    }

    /// Names go into a command: nothing in them may end it.
    fn split<'a>(&self, id: &'a str) -> Result<(&'a str, &'a str), RegistryError> {
        let plain =
            |name: &str| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.:".contains(c));
        id.split_once('/')
            .filter(|(backend, server)| plain(backend) && plain(server))
            .ok_or_else(|| self.refused(format!("`{id}` names no server: expected BACKEND/SERVER, as in rpc-order/s1")))
    }

    async fn command(&self, socket: &str, server: &Server, drain: bool) -> Result<(), RegistryError> {
        let command = set_state(&server.backend, &server.name, drain);
        let said = self.ask(socket, &command).await?;
        match said.trim().is_empty() {
            true => Ok(()),
            false => Err(self.refused(format!("{socket}: {command}: {}", said::first_line(&said, [])))),
        }
    }

    /// Sets one balancer's server to `drain` or `ready`, and reads it back. False where it was so already.
    async fn set(&self, socket: &str, server: &Server, drain: bool) -> Result<bool, RegistryError> {
        let wanted = if drain { FORCED_DRAIN } else { 0 };
        if server.admin == wanted {
            return Ok(false);
        }
        self.command(socket, server, drain).await?;
        let (backend, name) = (&server.backend, &server.name);
        let state = state(drain);
        let now = self.servers(socket, backend).await?;
        match now.iter().find(|server| server.name == *name) {
            Some(now) if now.admin == wanted => Ok(true),
            now => {
                let admin = now.map_or("no such server".into(), |now| format!("admin state {:#x}", now.admin));
                Err(self
                    .refused(format!("{socket}: {backend}/{name} was set to {state}, but HAProxy shows it as {admin}")))
            }
        }
    }

    /// True where any balancer had it in traffic.
    async fn drain_all(&self, id: &str) -> Result<bool, RegistryError> {
        let mut changed = false;
        for (socket, server) in self.everywhere(id).await? {
            changed |= self.set(socket, &server, true).await?;
        }
        Ok(changed)
    }

    /// In as many balancers as can be reached; the first failure is told at the end.
    async fn ready_all(&self, id: &str) -> Result<(), RegistryError> {
        let (backend, name) = self.split(id)?;
        let mut outcome = Ok(());
        for socket in &self.sockets {
            let ready = async {
                let servers = self.servers(socket, backend).await?;
                match servers.iter().find(|server| server.name == name) {
                    Some(server) => self.set(socket, server, false).await.map(drop),
                    None => Ok(()),
                }
            };
            outcome = outcome.and(ready.await);
        }
        outcome
    }
}

fn set_state(backend: &str, server: &str, drain: bool) -> String {
    format!("set server {backend}/{server} state {}", state(drain))
}

fn state(drain: bool) -> &'static str {
    if drain { "drain" } else { "ready" }
}

async fn converse(mut stream: impl AsyncRead + AsyncWrite + Unpin, command: &str) -> std::io::Result<String> {
    stream.write_all(format!("{command}\n").as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER_BYTES).read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// `show servers state`: a version, a line that names the columns, a line for each server.
fn parsed(answer: &str) -> Result<Vec<Server>, String> {
    let mut lines = answer.lines().map(str::trim).filter(|line| !line.is_empty());
    let (Some("1"), Some(names)) = (lines.next(), lines.next().and_then(|line| line.strip_prefix("# "))) else {
        return Err(format!("expected its version 1, found: {}", said::first_line(answer, [])));
    };
    let names: Vec<&str> = names.split(' ').collect();
    let column = |name: &str| names.iter().position(|found| *found == name).ok_or(format!("no column {name}"));
    let [backend, name, address, port, operational, admin, weight] = [
        column("be_name")?,
        column("srv_name")?,
        column("srv_addr")?,
        column("srv_port")?,
        column("srv_op_state")?,
        column("srv_admin_state")?,
        column("srv_uweight")?,
    ];
    let server = |line: &str| {
        let fields: Vec<&str> = line.split(' ').collect();
        let text = |at: usize| fields.get(at).map(|field| (*field).to_owned());
        let number = |at: usize| fields.get(at)?.parse::<u32>().ok();
        Some(Server {
            backend: text(backend)?,
            name: text(name)?,
            address: text(address)?,
            port: u16::try_from(number(port)?).ok()?,
            operational: number(operational)?,
            admin: number(admin)?,
            weight: number(weight)?,
        })
    };
    lines
        .map(|line| server(line).ok_or_else(|| format!("a line that is cut: {}", said::first_line(line, []))))
        .collect()
}

#[async_trait]
impl Backend for Balancers {
    type Instance = Registration;

    fn registry(&self) -> &str {
        &self.registry
    }

    fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    async fn look(&self, id: &str) -> Result<Registration, RegistryError> {
        let servers = self.everywhere(id).await?;
        let isolated = servers.iter().find_map(|(socket, server)| Some(format!("{socket}: {}", server.isolated()?)));
        let drained = servers.iter().find(|(_, server)| server.admin == FORCED_DRAIN);
        let drained = drained.map(|(socket, _)| format!("{socket}: it is drained"));
        let shown = match (&isolated, &drained) {
            (Some(why), _) => Shown::OutOtherwise(why),
            (None, Some(why)) => Shown::Out(why),
            (None, None) => Shown::In { passing: servers.iter().all(|(_, server)| server.passes()) },
        };
        let traffic = whose(shown, None, self.note(id)?.as_ref());
        let record = |(socket, server): &(&str, Server)| json!({ "socket": socket, "admin_state": server.admin, "weight": server.weight });
        let record = json!(servers.iter().map(record).collect::<Vec<_>>());
        let (backend, _) = self.split(id)?;
        Ok(Registration { name: backend.into(), traffic, record })
    }

    fn registration(seen: &Registration) -> &Registration {
        seen
    }

    async fn take_out(&self, id: &str, _marker: &Marker) -> Result<bool, RegistryError> {
        match self.look(id).await?.traffic {
            // What a person has done to it meanwhile is left alone.
            Traffic::Isolated { .. } => Ok(false),
            _ => self.drain_all(id).await,
        }
    }

    async fn put_back(
        &self,
        id: &str,
        _marker: &Marker,
        _seen: Registration,
        _record: &Value,
    ) -> Result<(), RegistryError> {
        self.ready_all(id).await
    }

    async fn would(&self, change: TrafficChange, id: &str, _marker: &Marker) -> Result<Vec<String>, RegistryError> {
        let (backend, name) = self.split(id)?;
        let command = set_state(backend, name, change == TrafficChange::Drain);
        Ok(self.sockets.iter().map(|socket| format!("{socket}: {command}")).collect())
    }

    /// All balancers or none: those that were drained are made ready again.
    async fn is_undone(&self, id: &str, _error: &RegistryError) -> bool {
        self.ready_all(id).await.is_ok()
    }

    /// A reload may have left the socket a lower level than `admin`.
    async fn write_again(&self, id: &str, _marker: &Marker, _seen: Registration) -> Result<(), RegistryError> {
        for (socket, server) in self.everywhere(id).await? {
            if server.admin == FORCED_DRAIN {
                self.command(socket, &server, true).await?;
            }
        }
        Ok(())
    }

    /// Clients ask the balancers themselves: where one has it in traffic, they find it.
    async fn clients_find(&self, id: &str) -> Result<bool, RegistryError> {
        match self.everywhere(id).await {
            Ok(servers) => Ok(servers.iter().any(|(_, server)| server.passes())),
            Err(RegistryError::NotRegistered { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn others(&self, id: &str) -> Result<Others, RegistryError> {
        let (backend, name) = self.split(id)?;
        self.everywhere(id).await?;
        let mut others = Others { healthy: u32::MAX, registered: 0 };
        // By the balancer that sees the fewest of them.
        for socket in &self.sockets {
            let servers = self.servers(socket, backend).await?;
            // An answer without ourselves proves nothing of the others.
            if !servers.iter().any(|server| server.name == name) {
                return Err(
                    self.refused(format!("{socket}: show servers state: no server {name} in {backend} any more"))
                );
            }
            let healthy = servers.iter().filter(|server| server.name != name && server.passes()).count();
            others.healthy = others.healthy.min(healthy as u32);
            others.registered = others.registered.max(servers.len() as u32);
        }
        Ok(others)
    }

    /// The first balancer's.
    async fn server(&self) -> Result<Option<String>, RegistryError> {
        let Some(socket) = self.sockets.first() else { return Ok(None) };
        let info = self.ask(socket, "show info").await?;
        let version = info.lines().find_map(|line| line.strip_prefix("Version:"));
        Ok(version.map(|version| format!("HAProxy {}", said::first_line(version, []))))
    }

    async fn names(&self) -> Result<HashMap<SocketAddr, String>, RegistryError> {
        let mut names = HashMap::new();
        for socket in &self.sockets {
            let named = |server: Server| Some((server.socket()?, server.backend));
            names.extend(self.servers(socket, "").await?.into_iter().filter_map(named));
        }
        Ok(names)
    }

    /// By the first balancer: what they do not all have is refused when it is bound.
    async fn instances(&self) -> Result<Vec<(String, SocketAddr)>, RegistryError> {
        let Some(socket) = self.sockets.first() else { return Ok(vec![]) };
        let servers = self.servers(socket, "").await?;
        let named = |server: &Server| Some((format!("{}/{}", server.backend, server.name), server.socket()?));
        Ok(servers.iter().filter_map(named).collect())
    }

    fn caveats(&self) -> &'static [&'static str] {
        &[
            "a reload (SIGUSR2 to `-W`, `-sf`) puts the service into traffic until the agent drains it again, within 1 \
             s; without a running agent it stays in traffic; HAProxy keeps the drain where each reload saves `show \
             servers state` into its `server-state-file` first (deploy/README.md)",
            "a `server-state-file` saved during a drain takes the service out again when HAProxy reads it after the \
             restore, and looks like somebody else's drain: save the file at each reload, and remove it before a start",
            "clients bound to a drained server by a cookie, and open sessions, still reach it",
        ]
    }
}

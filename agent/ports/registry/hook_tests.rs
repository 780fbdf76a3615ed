//! Hooks: the suite over the shipped ones before a real nginx, and over HTTP before a small server.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::conformance::{OURS, Tells, World, conforms, marker, nobody_answers};
use super::hook::{ExecHooks, Hooked, HttpHooks};
use super::*;
use crate::model::{ExecHook, HttpCall, HttpCount, HttpHook, IncludesUs};
use crate::ports::testing_consul::{free_ports, wait_for};
use crate::ports::testing_nginx::TestNginx;

pub(super) const NEVER: Duration = Duration::from_secs(3600);
pub(super) const OFTEN: Duration = Duration::from_millis(50);

/// No hook tells of addresses.
const TELLS: Tells = Tells { addresses: false, ..Tells::ALL };

pub(super) fn exec(hook: ExecHook, state: &tempfile::TempDir) -> Hooked<ExecHooks> {
    let (hold_every, ledger) = (hook.hold_every, state.path().join("drains.json"));
    Hooked::new("hook", ExecHooks(hook), ledger, hold_every, "bj1-03")
}

pub(super) fn words(argv: &[&str]) -> Vec<String> {
    argv.iter().map(|word| (*word).to_owned()).collect()
}

struct Upstreams {
    nginx: TestNginx,
    state: tempfile::TempDir,
    addresses: BTreeMap<&'static str, String>,
    registry: Hooked<ExecHooks>,
}

/// Answers every request with its name.
async fn backend(name: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut request = [0; 4096];
            let _ = client.read(&mut request).await;
            let answer = format!("HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n{name}", name.len());
            let _ = client.write_all(answer.as_bytes()).await;
        }
    });
    address
}

impl Upstreams {
    async fn new() -> Self {
        let mut addresses = BTreeMap::new();
        for name in ["rpc-order-1", "rpc-order-2", "rpc-order-3", "rpc-cart-1"] {
            addresses.insert(name, backend(name).await);
        }
        let upstreams = format!(
            "upstream rpc-order {{\n  server {};\n  server {} max_fails=0;\n  server {};\n}}\nupstream rpc-cart {{\n  \
             server {};\n}}\n",
            addresses["rpc-order-1"], addresses["rpc-order-2"], addresses["rpc-order-3"], addresses["rpc-cart-1"]
        );
        let block =
            "location /rpc-order { proxy_pass http://rpc-order; } location /rpc-cart { proxy_pass http://rpc-cart; }";
        let nginx = TestNginx::start(&upstreams, block).await;
        let state = tempfile::tempdir().unwrap();
        let registry = exec(Self::hook(&nginx), &state);
        Self { nginx, state, addresses, registry }
    }

    /// As runbooks/hooks/nginx.yaml has it.
    fn hook(nginx: &TestNginx) -> ExecHook {
        let program = concat!(env!("CARGO_MANIFEST_DIR"), "/runbooks/hooks/nginx");
        let file = |name: &str| nginx.directory().join(name).display().to_string();
        let (upstreams, pid) = (file("upstreams.conf"), file("nginx.pid"));
        let argv = |verb| words(&[program, verb, &upstreams, &pid, "{service}", "{instance}", "{marker}"]);
        ExecHook {
            isolate: argv("isolate"),
            restore: argv("restore"),
            observe: argv("observe"),
            count: Some(argv("count")),
            files: BTreeMap::new(),
            deadline: Duration::from_secs(10),
            hold_every: NEVER,
        }
    }

    fn line(&self, id: &str) -> (PathBuf, String) {
        let path = self.nginx.directory().join("upstreams.conf");
        let text = std::fs::read_to_string(&path).unwrap();
        let (_, address) = id.split_once('/').unwrap();
        (path, text.lines().find(|line| line.contains(address)).unwrap().to_owned())
    }
}

#[async_trait(?Send)]
impl World for Upstreams {
    fn registry(&self) -> &dyn Registry {
        &self.registry
    }

    fn later(&self) -> Arc<dyn Registry> {
        Arc::new(exec(Self::hook(&self.nginx), &self.state))
    }

    /// Commands that do not end.
    fn silent(&self) -> Option<Arc<dyn Registry>> {
        let sleep = || words(&["/bin/sleep", "60"]);
        let hook = ExecHook {
            isolate: sleep(),
            restore: sleep(),
            observe: sleep(),
            count: Some(sleep()),
            files: BTreeMap::new(),
            deadline: Duration::from_secs(1),
            hold_every: NEVER,
        };
        Some(Arc::new(exec(hook, &self.state)))
    }

    async fn finds(&self, id: &str) -> bool {
        let (service, address) = id.split_once('/').unwrap();
        for _ in 0..6 {
            let (_, name) = self.nginx.get(&format!("/{service}")).await;
            if self.addresses.get(name.as_str()).is_some_and(|found| found == address) {
                return true;
            }
        }
        false
    }

    async fn set_healthy(&self, _id: &str, _healthy: bool) {}

    async fn isolate(&self, id: &str, reason: Option<&str>) {
        let (path, line) = self.line(id);
        let (begin, _) = line.split_once([';']).unwrap();
        let begin = begin.trim_end_matches(" down");
        let by_hand = reason.map_or(format!("{begin};"), |reason| format!("{begin} down; # {reason}"));
        let text = std::fs::read_to_string(&path).unwrap().replace(&line, &by_hand);
        std::fs::write(path, text).unwrap();
    }

    async fn deregister(&self, id: &str) {
        let (path, line) = self.line(id);
        let text = std::fs::read_to_string(&path).unwrap().replace(&format!("{line}\n"), "");
        std::fs::write(path, text).unwrap();
    }

    async fn comes_back(&self, id: &str) {
        self.isolate(id, None).await;
        let pid = std::fs::read_to_string(self.nginx.directory().join("nginx.pid")).unwrap();
        kill(Pid::from_raw(pid.trim().parse().unwrap()), Signal::SIGHUP).unwrap();
        wait_for("nginx to send clients there", async || self.finds(id).await).await;
    }

    /// The former workers may take a client yet.
    async fn by_hand(&self, id: &str) {
        let pid = std::fs::read_to_string(self.nginx.directory().join("nginx.pid")).unwrap();
        let workers = || {
            let pids = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", pid.trim())).unwrap();
            pids.split_whitespace().map(str::to_owned).collect::<BTreeSet<String>>()
        };
        let former = workers();
        self.comes_back(id).await;
        wait_for("the former workers to end", async || workers().is_disjoint(&former)).await;
    }

    async fn renew(&self, id: &str) {
        let (path, line) = self.line(id);
        let text = std::fs::read_to_string(&path).unwrap().replace(&line, &line.replace(" down;", " weight=2 down;"));
        std::fs::write(path, text).unwrap();
    }

    async fn record(&self, id: &str) -> String {
        self.line(id).1
    }

    fn id(&self, plain: &str) -> String {
        match plain {
            "rpc-none-1" => "rpc-none/127.0.0.1:1".into(),
            _ => format!("{}/{}", plain.trim_end_matches("-1"), self.addresses[plain]),
        }
    }

    fn tells(&self) -> Tells {
        Tells { health: false, ..TELLS }
    }
}

#[tokio::test]
async fn the_shipped_hook_for_nginx_conforms() {
    conforms(&Upstreams::new().await).await;
}

#[tokio::test]
async fn what_nginx_refused_to_load_is_not_restored_although_the_file_says_so() {
    let world = Upstreams::new().await;
    let (ours, us, nothing) = (marker("i"), world.id(OURS), Value::Null);
    let config = world.nginx.directory().join("nginx.conf");
    let sound = std::fs::read_to_string(&config).unwrap();
    world.registry.drain(&us, &ours).await.unwrap();
    std::fs::write(&config, format!("{sound}\nno_such_directive;\n")).unwrap();
    // As a restore leaves it that was refused, or killed before the reload.
    world.isolate(&us, None).await;
    let refused = world.registry.restore(&us, &ours, &nothing).await.unwrap_err();
    assert!(refused.is_passing() && refused.to_string().contains("has not loaded"), "{refused}");
    assert!(!world.finds(&us).await);
    std::fs::write(&config, sound).unwrap();
    assert_eq!(world.registry.restore(&us, &ours, &nothing).await.unwrap(), Restored::Done);
    assert!(world.finds(&us).await);
}

#[tokio::test]
async fn a_server_of_nginx_that_takes_no_connection_is_not_counted_as_healthy() {
    let world = Upstreams::new().await;
    let (path, line) = world.line(&format!("rpc-order/{}", world.addresses["rpc-order-3"]));
    let [closed] = free_ports();
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(path, text.replace(&line, &format!("  server 127.0.0.1:{closed};"))).unwrap();
    let counted = world.registry.others(&world.id(OURS)).await.unwrap();
    assert_eq!(counted, Others { healthy: 1, registered: 3 });
}

/// A backend that speaks HTTP: `PUT /SERVICE/INSTANCE/out` and `/in`, `GET /SERVICE/INSTANCE`, `GET /SERVICE`.
#[derive(Clone, Default)]
struct Gate(Arc<Mutex<BTreeMap<String, Entry>>>);

#[derive(Clone, Default)]
struct Entry {
    ill: bool,
    marker: Option<String>,
    weight: u32,
}

impl Gate {
    async fn serve(self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                self.answer(client).await;
            }
        });
        address
    }

    async fn answer(&self, client: TcpStream) {
        let mut client = BufReader::new(client);
        let (mut request, mut length, mut authorized) = (String::new(), 0, false);
        client.read_line(&mut request).await.unwrap();
        loop {
            let mut header = String::new();
            client.read_line(&mut header).await.unwrap();
            let header = header.trim().to_lowercase();
            if header.is_empty() {
                break;
            }
            authorized |= header == "authorization: bearer hush";
            length = header.strip_prefix("content-length: ").map_or(length, |length| length.parse().unwrap());
        }
        let mut body = vec![0; length];
        client.read_exact(&mut body).await.unwrap();
        let (status, answer) = match authorized {
            true => self.told(request.split(' ').nth(1).unwrap(), &body),
            false => (403, Value::Null),
        };
        let text = answer.to_string();
        let whole = format!("HTTP/1.0 {status} Said\r\nContent-Length: {}\r\n\r\n{text}", text.len());
        client.write_all(whole.as_bytes()).await.unwrap();
    }

    fn told(&self, path: &str, body: &[u8]) -> (u16, Value) {
        let mut entries = self.0.lock().unwrap();
        let path = path.trim_start_matches('/').replace("%3A", ":");
        let (id, verb) = match path.rsplit_once('/') {
            Some((id, verb @ ("in" | "out"))) => (id.to_owned(), verb),
            Some(_) => (path, "look"),
            None => {
                let of_it: Vec<&Entry> = entries
                    .iter()
                    .filter(|(id, _)| id.starts_with(&format!("{path}/")))
                    .map(|(_, entry)| entry)
                    .collect();
                let up: Vec<u32> = of_it.iter().filter(|e| !e.ill && e.marker.is_none()).map(|e| e.weight).collect();
                let listed = of_it.iter().filter(|entry| entry.marker.is_none()).count();
                return (200, json!({ "up": up, "listed": listed, "total": of_it.len() }));
            }
        };
        let Some(entry) = entries.get_mut(&id) else { return (404, Value::Null) };
        match verb {
            "out" => {
                entry.marker = Some(serde_json::from_slice::<Value>(body).unwrap()["why"].as_str().unwrap().into())
            }
            "in" => entry.marker = None,
            _ => {}
        }
        let state = match (&entry.marker, entry.ill) {
            (Some(_), _) => "out",
            (None, true) => "ill",
            (None, false) => "up",
        };
        (200, json!({ "state": [state], "why": entry.marker }))
    }
}

struct Gated {
    gate: Gate,
    address: String,
    state: tempfile::TempDir,
    registry: Hooked<HttpHooks>,
}

impl Gated {
    async fn new() -> Self {
        let gate = Gate::default();
        for id in ["rpc-order/10.0.0.1:1", "rpc-order/10.0.0.2:1", "rpc-order/10.0.0.3:1", "rpc-cart/10.0.0.1:2"] {
            gate.0.lock().unwrap().insert(id.into(), Entry { weight: 1, ..Entry::default() });
        }
        let address = gate.clone().serve().await;
        let state = tempfile::tempdir().unwrap();
        let registry = Self::of(&address, Some("Authorization: Bearer hush"), &state);
        Self { gate, address, state, registry }
    }

    fn hook(address: &str) -> HttpHook {
        let call = |method: &str, path: &str| HttpCall {
            method: method.into(),
            url: format!("http://{address}/{path}"),
            body: (method == "PUT").then(|| "{\"why\": \"{marker}\"}".into()),
            expect: vec![],
        };
        let list = |word: &str| vec![word.to_owned()];
        HttpHook {
            isolate: call("PUT", "{service}/{instance}/out"),
            restore: call("PUT", "{service}/{instance}/in"),
            observe: call("GET", "{service}/{instance}"),
            absent: vec![404],
            traffic: "/state/0".into(),
            passing: list("up"),
            failing: list("ill"),
            drained: list("out"),
            isolated: vec![],
            marker: Some("/why".into()),
            count: Some(HttpCount {
                call: call("GET", "{service}"),
                healthy: "/up".into(),
                registered: "/total".into(),
                includes_us: IncludesUs::InTraffic,
            }),
            deadline: Duration::from_secs(2),
            hold_every: OFTEN,
        }
    }

    fn of(address: &str, headers: Option<&str>, state: &tempfile::TempDir) -> Hooked<HttpHooks> {
        let headers = headers.map(|headers| headers.to_owned().into());
        let hooks = HttpHooks::new(Self::hook(address), headers.as_ref()).unwrap();
        Hooked::new("gate", hooks, state.path().join("drains.json"), OFTEN, "bj1-03")
    }

    fn change(&self, id: &str, change: impl FnOnce(&mut Entry)) {
        change(self.gate.0.lock().unwrap().get_mut(id).unwrap());
    }
}

#[async_trait(?Send)]
impl World for Gated {
    fn registry(&self) -> &dyn Registry {
        &self.registry
    }

    fn later(&self) -> Arc<dyn Registry> {
        Arc::new(Self::of(&self.address, Some("Authorization: Bearer hush\n"), &self.state))
    }

    fn silent(&self) -> Option<Arc<dyn Registry>> {
        Some(Arc::new(Self::of(&nobody_answers(), None, &self.state)))
    }

    async fn cut(&self) -> Vec<Arc<dyn Registry>> {
        vec![Arc::new(Self::of(&self.address, None, &self.state))]
    }

    async fn finds(&self, id: &str) -> bool {
        self.gate.0.lock().unwrap().get(id).is_some_and(|entry| !entry.ill && entry.marker.is_none())
    }

    async fn set_healthy(&self, id: &str, healthy: bool) {
        self.change(id, |entry| entry.ill = !healthy);
    }

    async fn isolate(&self, id: &str, reason: Option<&str>) {
        self.change(id, |entry| entry.marker = reason.map(str::to_owned));
    }

    async fn deregister(&self, id: &str) {
        self.gate.0.lock().unwrap().remove(id);
    }

    fn looked(&self) -> Duration {
        10 * OFTEN
    }

    async fn renew(&self, id: &str) {
        self.change(id, |entry| entry.weight = 2);
    }

    async fn record(&self, id: &str) -> String {
        self.gate.0.lock().unwrap()[id].weight.to_string()
    }

    fn id(&self, plain: &str) -> String {
        match plain {
            OURS => "rpc-order/10.0.0.1:1",
            "rpc-none-1" => "rpc-none/10.0.0.1:3",
            _ => "rpc-cart/10.0.0.1:2",
        }
        .into()
    }

    fn tells(&self) -> Tells {
        TELLS
    }
}

#[tokio::test]
async fn hooks_by_http_conform() {
    conforms(&Gated::new().await).await;
    let wrong = HttpHooks::new(Gated::hook("127.0.0.1:1"), Some(&"no header, hush".to_owned().into())).unwrap_err();
    assert!(wrong.contains("headers_file") && !wrong.contains("hush"), "{wrong}");
}

#[tokio::test]
async fn a_list_that_leaves_out_what_is_drained_counts_us_while_our_drain_stands() {
    let world = Gated::new().await;
    let mut hook = Gated::hook(&world.address);
    hook.count.as_mut().unwrap().registered = "/listed".into();
    let hooks = HttpHooks::new(hook, Some(&"Authorization: Bearer hush".to_owned().into())).unwrap();
    let registry = Hooked::new("gate", hooks, world.state.path().join("drains.json"), NEVER, "bj1-03");
    let (us, counted) = (world.id(OURS), Others { healthy: 2, registered: 3 });
    assert_eq!(registry.others(&us).await.unwrap(), counted);
    registry.drain(&us, &marker("i")).await.unwrap();
    assert_eq!(registry.others(&us).await.unwrap(), counted);
    registry.restore(&us, &marker("i"), &Value::Null).await.unwrap();
    // Another hand's: we are not what is missing in the list.
    world.isolate(&us, Some("deploy")).await;
    assert!(matches!(registry.others(&us).await, Err(RegistryError::Refused { .. })));
}

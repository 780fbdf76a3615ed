//! Hooks that are commands: the suite over the shipped one before a real nginx.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::conformance::{OURS, Tells, World, conforms, marker};
use super::hook::{ExecHooks, Hooked};
use super::*;
use crate::model::ExecHook;
use crate::ports::testing_consul::{free_ports, wait_for};
use crate::ports::testing_nginx::TestNginx;

pub(super) const NEVER: Duration = Duration::from_secs(3600);
pub(super) const OFTEN: Duration = Duration::from_millis(50);

/// No hook tells of addresses.
pub(super) const TELLS: Tells = Tells { addresses: false, ..Tells::ALL };

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

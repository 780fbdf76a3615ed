//! Real Caddy and Traefik for the tests beside the adapters, each a child with files of its own; small upstreams behind them,
//! and clients before them that count what is lost.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use super::installed::installed;
use super::testing_consul::wait_for;

pub struct TestProxy {
    child: Child,
    directory: tempfile::TempDir,
}

impl TestProxy {
    /// Answers on `port` by this Caddyfile, its administration left out.
    pub async fn caddy(caddyfile: &str, port: u16) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let global = "{\n\tadmin off\n\tpersist_config off\n\tauto_https disable_redirects\n\tskip_install_trust\n}\n";
        std::fs::write(directory.path().join("Caddyfile"), format!("{global}{caddyfile}")).unwrap();
        let mut caddy = Command::new(installed("caddy-2.11.7").join("bin/caddy"));
        caddy.args(["run", "--adapter", "caddyfile", "--config"]).arg(directory.path().join("Caddyfile"));
        Self::start(caddy, directory, port).await
    }

    /// Answers on `port` by `dynamic.yml` of its directory, and its API on `api`.
    pub async fn traefik(dynamic: &str, port: u16, api: u16, throttle: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("dynamic.yml");
        std::fs::write(&file, dynamic).unwrap();
        let mut traefik = Command::new(installed("traefik-3.7.15").join("bin/traefik"));
        traefik
            .arg(format!("--entryPoints.web.address=127.0.0.1:{port}"))
            .arg(format!("--entryPoints.traefik.address=127.0.0.1:{api}"))
            .arg(format!("--providers.file.filename={}", file.display()))
            .arg(format!("--providers.providersThrottleDuration={throttle}"))
            .args(["--api.insecure=true", "--global.checkNewVersion=false", "--global.sendAnonymousUsage=false"]);
        Self::start(traefik, directory, port).await
    }

    async fn start(mut command: Command, directory: tempfile::TempDir, port: u16) -> Self {
        let at = directory.path();
        command.env("HOME", at).env("XDG_DATA_HOME", at).env("XDG_CONFIG_HOME", at).current_dir(at);
        let log = std::fs::File::create(at.join("log")).unwrap();
        let child = command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        let proxy = Self { child, directory };
        wait_for("the proxy to answer", async || TcpStream::connect(("127.0.0.1", port)).await.is_ok()).await;
        proxy
    }

    pub fn directory(&self) -> &Path {
        self.directory.path()
    }
}

impl Drop for TestProxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A server of HTTP that answers with its name, and keeps connections.
pub struct Upstream {
    name: &'static str,
    address: String,
    served: Arc<AtomicUsize>,
    serving: JoinHandle<()>,
}

impl Upstream {
    /// On `host` and a port of its own.
    pub async fn start(name: &'static str, host: &str) -> Self {
        let listener = TcpListener::bind((host, 0)).await.unwrap();
        let (address, served) = (listener.local_addr().unwrap().to_string(), Arc::default());
        let serving = tokio::spawn(serve(listener, name, Arc::clone(&served)));
        Self { name, address, served, serving }
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    pub fn served(&self) -> usize {
        self.served.load(Ordering::SeqCst)
    }

    /// Its connections end, and it listens no more.
    async fn stop(&mut self) {
        self.serving.abort();
        let _ = (&mut self.serving).await;
    }

    async fn start_again(&mut self) {
        let listener = TcpListener::bind(&self.address).await.unwrap();
        self.serving = tokio::spawn(serve(listener, self.name, Arc::clone(&self.served)));
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(listener: TcpListener, name: &'static str, served: Arc<AtomicUsize>) {
    // They end with it.
    let mut clients = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        clients.spawn(answer(client, name, Arc::clone(&served)));
    }
}

async fn answer(client: TcpStream, name: &str, served: Arc<AtomicUsize>) {
    let mut client = BufReader::new(client);
    loop {
        let mut length = 0;
        loop {
            let mut line = String::new();
            match client.read_line(&mut line).await {
                Ok(0) | Err(_) => return,
                Ok(_) if line.trim().is_empty() => break,
                Ok(_) => {}
            }
            let header = line.to_lowercase();
            length = header.strip_prefix("content-length:").map_or(length, |length| length.trim().parse().unwrap());
        }
        let mut body = vec![0; length];
        if client.read_exact(&mut body).await.is_err() {
            return;
        }
        served.fetch_add(1, Ordering::SeqCst);
        let text = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{name}", name.len());
        if client.write_all(text.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// Four clients that ask one proxy without a pause, by GET and by POST, which nobody sends twice.
pub struct Clients {
    ends: Arc<AtomicBool>,
    heard: Arc<Mutex<Heard>>,
    asking: JoinSet<()>,
}

#[derive(Default)]
struct Heard {
    /// By the names of the upstreams.
    answered: BTreeMap<String, usize>,
    lost: Vec<String>,
}

impl Clients {
    pub fn of(port: u16) -> Self {
        let client = reqwest::Client::builder().no_proxy().tls_certs_only([]).build().unwrap();
        let (ends, heard, mut asking) = (Arc::<AtomicBool>::default(), Arc::<Mutex<Heard>>::default(), JoinSet::new());
        for _ in 0..4 {
            let (client, ends, heard) = (client.clone(), Arc::clone(&ends), Arc::clone(&heard));
            asking.spawn(async move {
                let url = format!("http://127.0.0.1:{port}/");
                while !ends.load(Ordering::SeqCst) {
                    for request in [client.get(&url), client.post(&url).body("a")] {
                        let said = async { request.send().await?.error_for_status()?.text().await };
                        let said = said.await;
                        let mut heard = heard.lock().unwrap();
                        match said {
                            Ok(name) => *heard.answered.entry(name).or_default() += 1,
                            Err(error) => heard.lost.push(format!("{error:?}")),
                        }
                    }
                }
            });
        }
        Self { ends, heard, asking }
    }

    fn answered(&self) -> usize {
        self.heard.lock().unwrap().answered.values().sum()
    }

    /// Until so many more have been answered.
    pub async fn ask(&self, more: usize) {
        let before = self.answered();
        wait_for("the proxy to answer its clients", async || self.answered() >= before + more).await;
    }

    /// Until none of some hundred requests in a row came to this upstream.
    async fn leave(&self, upstream: &Upstream) {
        wait_for("clients to leave the drained upstream", async || {
            let before = upstream.served();
            self.ask(300).await;
            upstream.served() == before
        })
        .await;
    }

    async fn come_back_to(&self, upstream: &Upstream) {
        let before = upstream.served();
        wait_for("clients to come back to the upstream", async || upstream.served() > before + 20).await;
    }

    /// How many were answered; panics where one was not.
    async fn end(mut self) -> usize {
        self.ends.store(true, Ordering::SeqCst);
        while self.asking.join_next().await.is_some() {}
        let heard = self.heard.lock().unwrap();
        assert!(heard.lost.is_empty(), "{} requests were lost: {:?}", heard.lost.len(), heard.lost.first());
        heard.answered.values().sum()
    }
}

/// Takes an upstream out by `drain`, restarts it, and puts it back by `restore`, while clients ask the proxy.
pub async fn no_request_is_lost(port: u16, ours: &mut Upstream, drain: impl Future, restore: impl Future) {
    // Its first checks may have come before what they ask.
    let asks = reqwest::Client::builder().no_proxy().tls_certs_only([]).pool_max_idle_per_host(0).build().unwrap();
    wait_for("the proxy to find the upstream well", async || {
        let _ = asks.get(format!("http://127.0.0.1:{port}/")).send().await;
        ours.served() > 0
    })
    .await;
    let clients = Clients::of(port);
    clients.come_back_to(ours).await;
    drain.await;
    clients.leave(ours).await;
    let served = ours.served();
    ours.stop().await;
    clients.ask(1000).await;
    ours.start_again().await;
    clients.ask(1000).await;
    assert_eq!(ours.served(), served, "nobody is sent to a drained upstream");
    restore.await;
    clients.come_back_to(ours).await;
    assert!(clients.end().await > 2000);
}

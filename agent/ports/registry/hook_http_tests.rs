//! Hooks that are HTTP requests: the suite before a small server, and what each key of theirs does.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::conformance::{OURS, Tells, World, conforms, marker, nobody_answers};
use super::hook::{Hooked, HttpHooks};
use super::hook_tests::{NEVER, OFTEN, TELLS};
use super::*;
use crate::model::{Having, HttpCall, HttpCount, HttpHook, IncludesUs, Ourselves};
use crate::ports::tls::TlsContext;

/// A backend that speaks HTTP: `PUT /SERVICE/INSTANCE/out` and `/in`, `GET /SERVICE/INSTANCE` (with `?status`, 503 where it
/// is out), `GET /SERVICE`, and `GET /all`, which leaves out what is out.
#[derive(Clone, Default)]
struct Gate(Arc<Mutex<BTreeMap<String, Entry>>>);

#[derive(Clone, Default)]
struct Entry {
    ill: bool,
    marker: Option<String>,
    weight: u32,
    /// Its ETag.
    version: u32,
    /// So many looks are followed by a change of others.
    meddled: u32,
}

/// What it heard, as far as it matters.
#[derive(Default)]
struct Asked {
    path: String,
    authorized: bool,
    if_match: Option<String>,
    content_type: String,
    body: Vec<u8>,
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
        let (mut request, mut length, mut asked) = (String::new(), 0, Asked::default());
        client.read_line(&mut request).await.unwrap();
        asked.path = request.split(' ').nth(1).unwrap().to_owned();
        loop {
            let mut header = String::new();
            client.read_line(&mut header).await.unwrap();
            let header = header.trim().to_lowercase();
            match header.split_once(": ") {
                None => break,
                Some(("authorization", value)) => asked.authorized = value == "bearer hush-hush",
                Some(("if-match", value)) => asked.if_match = Some(value.into()),
                Some(("content-type", value)) => asked.content_type = value.into(),
                Some(("content-length", value)) => length = value.parse().unwrap(),
                Some(_) => {}
            }
        }
        asked.body = vec![0; length];
        client.read_exact(&mut asked.body).await.unwrap();
        let (status, version, text) = match asked.authorized {
            true => self.told(&asked),
            false => (403, 0, "no such key: hush-hush\nline two".into()),
        };
        let length = text.len();
        let whole = format!("HTTP/1.0 {status} Said\r\nETag: \"{version}\"\r\nContent-Length: {length}\r\n\r\n{text}");
        client.write_all(whole.as_bytes()).await.unwrap();
    }

    fn told(&self, asked: &Asked) -> (u16, u32, String) {
        let mut entries = self.0.lock().unwrap();
        let path = asked.path.trim_start_matches('/').replace("%3A", ":");
        let (path, by_status) = path.strip_suffix("?status").map_or((path.as_str(), false), |path| (path, true));
        let (id, verb) = match path.rsplit_once('/') {
            Some((id, verb @ ("in" | "out"))) => (id, verb),
            Some(_) => (path, "look"),
            None if path == "all" => {
                let shown = entries.iter().filter(|(_, entry)| entry.marker.is_none()).map(|(id, entry)| {
                    let (service, instance) = id.split_once('/').unwrap();
                    json!({ "service": service, "at": instance, "state": if entry.ill { "ill" } else { "up" } })
                });
                return (200, 0, Value::from_iter(shown).to_string());
            }
            None => {
                let of_it: Vec<&Entry> = entries
                    .iter()
                    .filter(|(id, _)| id.starts_with(&format!("{path}/")))
                    .map(|(_, entry)| entry)
                    .collect();
                let up: Vec<u32> = of_it.iter().filter(|e| !e.ill && e.marker.is_none()).map(|e| e.weight).collect();
                let listed = of_it.iter().filter(|entry| entry.marker.is_none()).count();
                return (200, 0, json!({ "up": up, "listed": listed, "total": of_it.len() }).to_string());
            }
        };
        let Some(entry) = entries.get_mut(id) else { return (404, 0, String::new()) };
        let version = entry.version;
        if verb != "look" {
            if asked.if_match.as_ref().is_some_and(|tag| *tag != format!("\"{version}\"")) {
                return (412, version, "it is another version".into());
            }
            entry.version += 1;
        }
        match verb {
            "out" if asked.content_type != "application/json" => {
                return (415, version, format!("{} is no JSON", asked.content_type));
            }
            "out" => {
                let why = serde_json::from_slice::<Value>(&asked.body).unwrap()["why"].as_str().unwrap().to_owned();
                entry.marker = Some(why);
            }
            "in" => entry.marker = None,
            _ if entry.meddled > 0 => {
                entry.meddled -= 1;
                entry.version += 1;
            }
            _ => {}
        }
        let state = match (&entry.marker, entry.ill) {
            (Some(_), _) if by_status => return (503, version, "it is out".into()),
            (Some(_), _) => "out",
            (None, true) => "ill",
            (None, false) => "up",
        };
        match by_status {
            true => (200, version, json!(state).to_string()),
            false => (200, version, json!({ "state": [state], "why": entry.marker }).to_string()),
        }
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
        let registry = Self::of(&address, Some("Authorization: Bearer hush-hush"), &state);
        Self { gate, address, state, registry }
    }

    fn hook(address: &str) -> HttpHook {
        let call = |method: &str, path: &str| HttpCall {
            method: method.into(),
            url: format!("http://{address}/{path}"),
            body: (method == "PUT").then(|| "{\"why\": \"{marker}\"}".into()),
            ..HttpCall::default()
        };
        let list = |word: &str| vec![word.to_owned()];
        HttpHook {
            isolate: call("PUT", "{service}/{instance}/out"),
            restore: call("PUT", "{service}/{instance}/in"),
            observe: call("GET", "{service}/{instance}"),
            absent: vec![404],
            drained_status: vec![],
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
                only: Having::new(),
                only_healthy: Having::new(),
                ourselves: Ourselves::Included(IncludesUs::InTraffic),
            }),
            deadline: Duration::from_secs(2),
            hold_every: OFTEN,
        }
    }

    fn of(address: &str, headers: Option<&str>, state: &tempfile::TempDir) -> Hooked<HttpHooks> {
        Self::by(Self::hook(address), headers, state, OFTEN)
    }

    fn by(hook: HttpHook, headers: Option<&str>, state: &tempfile::TempDir, hold_every: Duration) -> Hooked<HttpHooks> {
        let headers = headers.map(|headers| headers.to_owned().into());
        let hooks = HttpHooks::new(hook, &TlsContext::plain("a test").into(), headers).unwrap();
        Hooked::new("gate", hooks, state.path().join("drains.json"), hold_every, "bj1-03")
    }

    /// One whose hooks are a little otherwise.
    fn with(&self, change: impl FnOnce(&mut HttpHook)) -> Hooked<HttpHooks> {
        let mut hook = Self::hook(&self.address);
        change(&mut hook);
        Self::by(hook, Some("Authorization: Bearer hush-hush"), &self.state, NEVER)
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
        Arc::new(Self::of(&self.address, Some("Authorization: Bearer hush-hush\n"), &self.state))
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
    let wrong = HttpHooks::new(
        Gated::hook("127.0.0.1:1"),
        &TlsContext::plain("a test").into(),
        Some("no header, hush-hush".to_owned().into()),
    )
    .unwrap_err();
    assert!(wrong.contains("headers_file") && !wrong.contains("hush"), "{wrong}");
}

#[tokio::test]
async fn a_list_that_leaves_out_what_is_drained_counts_us_while_our_drain_stands() {
    let world = Gated::new().await;
    let registry = world.with(|hook| hook.count.as_mut().unwrap().registered = "/listed".into());
    let (us, counted) = (world.id(OURS), Others { healthy: 2, registered: 3 });
    assert_eq!(registry.others(&us).await.unwrap(), counted);
    registry.drain(&us, &marker("i")).await.unwrap();
    assert_eq!(registry.others(&us).await.unwrap(), counted);
    registry.restore(&us, &marker("i"), &Value::Null).await.unwrap();
    // Another hand's: we are not what is missing in the list.
    world.isolate(&us, Some("deploy")).await;
    assert!(matches!(registry.others(&us).await, Err(RegistryError::Refused { .. })));
}

fn having(pairs: &[(&str, &str)]) -> Having {
    pairs.iter().map(|(at, word)| ((*at).to_owned(), (*word).to_owned())).collect()
}

#[tokio::test]
async fn the_items_of_a_list_are_counted_by_what_stands_in_them_and_one_without_us_proves_nothing() {
    let world = Gated::new().await;
    let registry = world.with(|hook| {
        let count = hook.count.as_mut().unwrap();
        count.call.url = format!("http://{}/all", world.address);
        (count.healthy, count.registered) = (String::new(), String::new());
        count.only = having(&[("/service", "{service}")]);
        count.only_healthy = having(&[("/state", "up")]);
        count.ourselves = Ourselves::Having(having(&[("/at", "{instance}")]));
    });
    let us = world.id(OURS);
    assert_eq!(registry.others(&us).await.unwrap(), Others { healthy: 2, registered: 3 });
    world.set_healthy("rpc-order/10.0.0.2:1", false).await;
    assert_eq!(registry.others(&us).await.unwrap(), Others { healthy: 1, registered: 3 });
    let cart = world.id("rpc-cart-1");
    assert_eq!(registry.others(&cart).await.unwrap(), Others { healthy: 0, registered: 1 });

    // Out by our drain, it is missing in the list for a reason; the last of its name leaves a list of nobody.
    for id in [&us, &cart] {
        registry.drain(id, &marker("i")).await.unwrap();
    }
    assert_eq!(registry.others(&us).await.unwrap(), Others { healthy: 1, registered: 3 });
    let nobody = registry.others(&cart).await.unwrap_err();
    assert!(matches!(&nobody, RegistryError::Refused { detail, .. } if detail.contains("may lack others")), "{nobody}");
    registry.restore(&us, &marker("i"), &Value::Null).await.unwrap();

    // A list that is behind, or of another place, is no list without us.
    let elsewhere = world.with(|hook| {
        let count = hook.count.as_mut().unwrap();
        count.call.url = format!("http://{}/all", world.address);
        (count.healthy, count.registered) = (String::new(), String::new());
        count.ourselves = Ourselves::Having(having(&[("/at", "{instance}:2")]));
    });
    let without_us = elsewhere.others(&us).await.unwrap_err();
    assert!(matches!(&without_us, RegistryError::Refused { detail, .. } if detail.contains("lacks `")));
}

#[tokio::test]
async fn a_status_means_drained_and_the_whole_answer_may_be_the_state() {
    let world = Gated::new().await;
    let registry = world.with(|hook| {
        hook.observe.url.push_str("?status");
        (hook.drained_status, hook.traffic) = (vec![503], String::new());
        (hook.drained, hook.marker) = (vec![], None);
    });
    let us = world.id(OURS);
    assert_eq!(registry.observe(&us).await.unwrap().traffic, Traffic::Passing);
    registry.drain(&us, &marker("i")).await.unwrap();
    assert!(!world.finds(&us).await);
    assert_eq!(registry.observe(&us).await.unwrap().traffic, Traffic::DrainedBy(marker("i")));
    assert_eq!(registry.restore(&us, &marker("i"), &Value::Null).await.unwrap(), Restored::Done);
    assert_eq!(registry.observe(&us).await.unwrap().traffic, Traffic::Passing);
}

#[tokio::test]
async fn what_others_have_changed_since_it_was_read_is_not_written_over() {
    let world = Gated::new().await;
    let registry = world.with(|hook| (hook.isolate.if_match, hook.restore.if_match) = (true, true));
    let us = world.id(OURS);
    // Twice others are quicker, and it is read anew.
    world.change(&us, |entry| entry.meddled = 3);
    registry.drain(&us, &marker("i")).await.unwrap();
    world.change(&us, |entry| entry.meddled = 1);
    let stale = registry.restore(&us, &marker("i"), &Value::Null).await.unwrap_err();
    assert!(stale.is_passing() && stale.to_string().contains("412"), "{stale}");
    assert!(stale.to_string().contains("it is another version"), "{stale}");
    assert!(!world.finds(&us).await);
    assert_eq!(registry.restore(&us, &marker("i"), &Value::Null).await.unwrap(), Restored::Done);

    world.change(&us, |entry| entry.meddled = 100);
    assert!(registry.drain(&us, &marker("j")).await.unwrap_err().is_passing());
    assert!(world.finds(&us).await);
}

#[tokio::test]
async fn a_refusal_is_told_in_the_servers_own_words_and_without_ours() {
    let world = Gated::new().await;
    let registry = world.with(|hook| hook.isolate.content_type = Some("text/plain".into()));
    let refused = registry.drain(&world.id(OURS), &marker("i")).await.unwrap_err();
    assert!(matches!(refused, RegistryError::Refused { .. }) && refused.to_string().contains("text/plain is no JSON"));
    let [cut] = world.cut().await.try_into().ok().unwrap();
    let denied = cut.observe(&world.id(OURS)).await.unwrap_err().to_string();
    assert!(denied.contains("403 Forbidden: no such key: hush-hush"), "nobody's secret here: {denied}");
    let wrong = Gated::by(Gated::hook(&world.address), Some("Authorization: hush-hush"), &world.state, NEVER);
    let denied = wrong.observe(&world.id(OURS)).await.unwrap_err().to_string();
    assert!(denied.contains("403") && !denied.contains("hush"), "{denied}");
}

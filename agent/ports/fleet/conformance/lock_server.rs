//! FleetLock, against servers that answer as the real ones do: a counting lock for each group.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::cable::Cable;
use super::{a_slot_is_kept_from_the_hosts_next_incident, clock, is_yes};
use crate::clock::{Clock, ManualClock};
use crate::ports::fleet::dry::DryFleet;
use crate::ports::fleet::fleetlock::{FleetLock, Lock};
use crate::ports::fleet::{Acquired, DEADLINE, Fleet, FleetError, LEASE};

/// The slots of each group, and the ids that hold some.
type Groups = BTreeMap<String, (usize, BTreeSet<String>)>;

/// Which server's answers; as these programs gave them when they ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// airlock, commit a3585ed.
    Airlock,
    /// poseidon/fleetlock, commit c42d494; whose nodes are those of a Kubernetes.
    Poseidon,
    /// Others that were read and not run: 409 where all slots are held.
    Other,
}

struct State {
    kind: Kind,
    groups: Groups,
    /// So many answers are those of a race that was lost (airlock).
    conflicts: u32,
    /// Poseidon: the ids that name a node.
    nodes: BTreeSet<String>,
}

struct LockServer {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl LockServer {
    async fn start(groups: &[(&str, usize)]) -> Self {
        Self::of(Kind::Airlock, groups).await
    }

    async fn of(kind: Kind, groups: &[(&str, usize)]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let groups = groups.iter().map(|(group, slots)| (group.to_string(), (*slots, BTreeSet::new()))).collect();
        let state = Arc::new(Mutex::new(State { kind, groups, conflicts: 0, nodes: BTreeSet::new() }));
        let server = Self { address: listener.local_addr().unwrap(), state };
        let state = server.state.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, state.clone()));
            }
        });
        server
    }

    fn holders(&self, group: &str) -> Vec<String> {
        self.state.lock().unwrap().groups[group].1.iter().cloned().collect()
    }

    fn lose_races(&self, conflicts: u32) {
        self.state.lock().unwrap().conflicts = conflicts;
    }

    fn add_node(&self, name: &str) {
        self.state.lock().unwrap().nodes.insert(name.into());
    }
}

async fn serve(mut stream: TcpStream, state: Arc<Mutex<State>>) {
    let mut request = Vec::new();
    let (head, body) = loop {
        if !stream.read_buf(&mut request).await.is_ok_and(|read| read > 0) {
            return;
        }
        let text = String::from_utf8(request.clone()).unwrap();
        if let Some((head, body)) = text.split_once("\r\n\r\n")
            && let Ok(body) = serde_json::from_str::<Value>(body)
        {
            break (head.to_ascii_lowercase(), body);
        }
    };
    let client = &body["client_params"];
    let (id, group) = (client["id"].as_str().unwrap_or(""), client["group"].as_str().unwrap_or(""));
    let (status, words) = answer(&head, id, group, &mut state.lock().unwrap());
    let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{words}", words.len());
    let _ = stream.write_all(answer.as_bytes()).await;
}

fn answer(head: &str, id: &str, group: &str, state: &mut State) -> (&'static str, String) {
    let asked = match head.lines().next().unwrap() {
        "post /base/v1/pre-reboot http/1.1" => Asked::Lock,
        "post /base/v1/steady-state http/1.1" => Asked::Unlock,
        other => return ("404 Not Found", other.into()),
    };
    if !head.contains("fleet-lock-protocol: true") || id.is_empty() || group.is_empty() {
        return ("400 Bad Request", "wrong 'fleet-lock-protocol' header, id or group".into());
    }
    match state.kind {
        Kind::Airlock => airlock(asked, id, group, state),
        Kind::Poseidon => poseidon(asked, id, group, state),
        Kind::Other => match airlock(asked, id, group, state) {
            ("500 Internal Server Error", _) => {
                ("409 Conflict", r#"{"kind":"all_slots_full","value":"try later"}"#.into())
            }
            answer => answer,
        },
    }
}

enum Asked {
    Lock,
    Unlock,
}

fn airlock(asked: Asked, id: &str, group: &str, state: &mut State) -> (&'static str, String) {
    let Some((slots, holders)) = state.groups.get_mut(group) else {
        return ("400 Bad Request", format!("unknown group {group:?}\n"));
    };
    if state.conflicts > 0 {
        state.conflicts -= 1;
        return ("500 Internal Server Error", "conflict on semaphore detected, aborting\n".into());
    }
    match asked {
        Asked::Lock if holders.contains(id) || holders.len() < *slots => {
            holders.insert(id.into());
            ("200 OK", String::new())
        }
        Asked::Lock => ("500 Internal Server Error", format!("all {slots} semaphore slots currently locked\n")),
        Asked::Unlock => {
            holders.remove(id);
            ("200 OK", String::new())
        }
    }
}

/// One lock a group, which it makes when it is asked for.
fn poseidon(asked: Asked, id: &str, group: &str, state: &mut State) -> (&'static str, String) {
    let says = |kind: &str, value: String| json!({ "kind": kind, "value": value }).to_string();
    let (_, holders) = state.groups.entry(group.into()).or_insert((1, BTreeSet::new()));
    let holder = holders.first().cloned();
    match (asked, holder) {
        (Asked::Lock, None) => {
            holders.insert(id.into());
            ("200 OK", "obtained reboot lease".into())
        }
        (Asked::Lock, Some(holder)) if holder == id => ("200 OK", "retained reboot lease".into()),
        (Asked::Lock, Some(holder)) => {
            ("423 Locked", says("lock_held", format!("reboot lease lock unavailable, held by {holder}")))
        }
        (Asked::Unlock, None) => ("200 OK", "reboot lease already unlocked".into()),
        (Asked::Unlock, Some(holder)) if holder != id => {
            ("423 Locked", says("lock_held", format!("reboot lease unlock unavailable, held by {holder}")))
        }
        (Asked::Unlock, Some(_)) if !state.nodes.contains(id) => {
            ("500 Internal Server Error", says("internal_error", "error uncordoning node".into()))
        }
        (Asked::Unlock, Some(_)) => {
            holders.clear();
            ("200 OK", format!("unlocked reboot lease for {id}"))
        }
    }
}

fn host(at: SocketAddr, group: Option<&str>, name: &str, clock: &Arc<ManualClock>) -> Arc<FleetLock> {
    host_as("{host}/{service}", at, group, name, clock)
}

fn host_as(id: &str, at: SocketAddr, group: Option<&str>, name: &str, clock: &Arc<ManualClock>) -> Arc<FleetLock> {
    let lock = Lock { group: group.map(str::to_owned), id: id.into() };
    Arc::new(FleetLock::new(&format!("http://{at}/base/"), lock, name, clock.clone()).unwrap())
}

const NO_ONE: fn(&str) -> Acquired = |says| Acquired::No { held: Vec::new(), says: Some(says.into()) };

#[tokio::test]
async fn poseidons_words_name_the_holder_and_an_id_that_is_no_node_is_never_taken_back() {
    let server = LockServer::of(Kind::Poseidon, &[]).await;
    let clock = clock();
    let [a, b] = ["a", "b"].map(|name| host_as("{host}", server.address, None, name, &clock));
    server.add_node("a");
    assert!(is_yes(&a.acquire("rpc-order", "ia", 1).await.unwrap()));
    let held = "lock_held: reboot lease lock unavailable, held by a";
    assert_eq!(b.acquire("rpc-order", "ib", 1).await.unwrap(), NO_ONE(held));
    let lost = b.begin("rpc-order", "ib").await.unwrap_err();
    assert!(matches!(&lost, FleetError::Lost(why) if why.contains("held by a")), "{lost}");

    // Given back for one who does not hold it: said so, and not "released".
    // As long as nobody holds it, neither.
    let nobody = a.release_host("another", "b").await.unwrap_err();
    assert!(nobody.to_string().contains("reboot lease already unlocked"), "{nobody}");
    let not = a.release_host("rpc-order", "b").await.unwrap_err();
    assert!(matches!(&not, FleetError::Refused(_)), "{not:?}");
    for word in ["no slot was given back", "reboot lease unlock unavailable, held by a"] {
        assert!(not.to_string().contains(word), "{not}");
    }
    assert_eq!(server.holders("rpc-order"), ["a"]);
    // What this host gives back late is not its own any more, and harmless.
    b.release("rpc-order", "ib").await.unwrap();
    a.release("rpc-order", "ia").await.unwrap();
    assert!(is_yes(&b.acquire("rpc-order", "ib", 1).await.unwrap()));

    let stays = b.release("rpc-order", "ib").await.unwrap_err();
    assert!(stays.is_passing() && stays.to_string().contains("500 Internal Server Error"), "{stays}");
    assert!(stays.to_string().contains("internal_error: error uncordoning node"), "{stays}");
    assert_eq!(server.holders("rpc-order"), ["b"]);
}

#[tokio::test]
async fn a_race_that_the_server_gives_up_on_is_run_again_and_full_is_full_in_each_servers_words() {
    let clock = clock();
    for (kind, full) in [
        (Kind::Airlock, "all 1 semaphore slots currently locked"),
        (Kind::Poseidon, "lock_held: reboot lease lock unavailable, held by a/rpc-order"),
        (Kind::Other, "all_slots_full: try later"),
    ] {
        let server = LockServer::of(kind, &[("rpc-order", 1)]).await;
        let (a, b) = (host(server.address, None, "a", &clock), host(server.address, None, "b", &clock));
        if kind == Kind::Airlock {
            server.lose_races(3);
        }
        assert!(is_yes(&a.acquire("rpc-order", "ia", 1).await.unwrap()));
        assert_eq!(b.acquire("rpc-order", "ib", 1).await.unwrap(), NO_ONE(full), "{kind:?}");
    }
    let server = LockServer::start(&[("rpc-order", 1)]).await;
    let a = host(server.address, None, "a", &clock);
    assert!(is_yes(&a.acquire("rpc-order", "ia", 1).await.unwrap()));
    server.lose_races(3);
    a.release("rpc-order", "ia").await.unwrap();
    server.lose_races(1_000);
    let error = a.acquire("rpc-order", "ia", 1).await.unwrap_err();
    assert!(error.is_passing() && error.to_string().contains("conflict on semaphore detected"), "{error}");
}

#[tokio::test]
async fn a_fleetlock_server_gives_slots_and_takes_them_back() {
    let server = LockServer::start(&[("rpc-order-1.service", 1), ("workers", 2)]).await;
    const SERVICE: &str = "rpc-order@1.service";
    let clock = clock();
    let (a, b) = (host(server.address, None, "a", &clock), host(server.address, None, "b", &clock));
    let until = clock.monotonic() + LEASE;
    assert_eq!(a.acquire(SERVICE, "ia", 9).await.unwrap(), Acquired::Yes { until });
    assert_eq!(server.holders("rpc-order-1.service"), ["a/rpc-order@1.service"]);
    assert_eq!(b.acquire(SERVICE, "ib", 9).await.unwrap(), NO_ONE("all 1 semaphore slots currently locked"));
    assert!(matches!(b.begin(SERVICE, "ib").await.unwrap_err(), FleetError::Lost(_)));
    assert_eq!(a.begin(SERVICE, "ia").await.unwrap(), until);
    clock.advance(LEASE * 1_000);
    assert!(!is_yes(&b.acquire(SERVICE, "ib", 9).await.unwrap()));

    // What an earlier incident gives back late is not taken from the one that holds it now.
    a.release(SERVICE, "earlier").await.unwrap();
    assert_eq!(server.holders("rpc-order-1.service").len(), 1);
    a.release(SERVICE, "ia").await.unwrap();
    a.release(SERVICE, "ia").await.unwrap();
    assert!(is_yes(&b.acquire(SERVICE, "ib", 9).await.unwrap()));

    // Given back by another hand; the host that was thought to be gone may not go on.
    assert_eq!(a.release_host(SERVICE, "b").await.unwrap(), []);
    assert!(is_yes(&a.acquire(SERVICE, "ic", 9).await.unwrap()));
    assert!(matches!(b.begin(SERVICE, "ib").await.unwrap_err(), FleetError::Lost(_)));

    // One group for all: two services of one host hold two of its slots.
    let a = host(server.address, Some("workers"), "a", &clock);
    for service in ["rpc-order", "rpc-cart"] {
        assert!(is_yes(&a.acquire(service, "ia", 1).await.unwrap()));
    }
    assert!(!is_yes(&a.acquire("rpc-user", "ia", 1).await.unwrap()));
    a.release("rpc-order", "ia").await.unwrap();
    assert_eq!(server.holders("workers"), ["a/rpc-cart"]);
}

#[tokio::test]
async fn a_fleetlock_slot_is_kept_from_the_hosts_next_incident() {
    let server = LockServer::start(&[("next-incident", 1)]).await;
    let clock = clock();
    let (a, b) = (host(server.address, None, "a", &clock), host(server.address, None, "b", &clock));
    a_slot_is_kept_from_the_hosts_next_incident(&*a, &*b).await;
    // i3 goes on after a restart, and changes something: it is known again whose it is.
    let a = host(server.address, None, "a", &clock);
    a.begin("next-incident", "i3").await.unwrap();
    assert!(!is_yes(&a.acquire("next-incident", "i4", 1).await.unwrap()));
    // Given away by a person and lost to another host, it is in nobody's way.
    a.release_host("next-incident", "a").await.unwrap();
    assert!(is_yes(&b.acquire("next-incident", "ib", 1).await.unwrap()));
    assert!(!is_yes(&a.acquire("next-incident", "i3", 1).await.unwrap()));
    b.release("next-incident", "ib").await.unwrap();
    assert!(is_yes(&a.acquire("next-incident", "i4", 1).await.unwrap()));
}

#[tokio::test]
async fn two_hosts_race_for_one_fleetlock_slot_and_one_wins() {
    let server = LockServer::start(&[("race", 1)]).await;
    let clock = clock();
    let (a, b) = (host(server.address, None, "a", &clock), host(server.address, None, "b", &clock));
    let go = async |host: &FleetLock| {
        is_yes(&host.acquire("race", "i", 1).await.unwrap()) && host.begin("race", "i").await.is_ok()
    };
    for round in 0..200 {
        let (by_a, by_b) = tokio::join!(go(&a), go(&b));
        assert!(by_a != by_b, "round {round}: a {by_a}, b {by_b}");
        let loser = if by_a { &b } else { &a };
        loser.release("race", "i").await.unwrap();
        assert_eq!(server.holders("race").len(), 1, "round {round}");
        (if by_a { &a } else { &b }).release("race", "i").await.unwrap();
    }
}

#[tokio::test]
async fn what_fleetlock_cannot_do_is_said() {
    let server = LockServer::start(&[]).await;
    let clock = clock();
    let a = host(server.address, None, "a", &clock);
    let cannot = |error: FleetError| assert!(matches!(error, FleetError::Cannot(_)), "{error:?}");
    cannot(a.services().await.unwrap_err());
    cannot(a.holders("rpc-order").await.unwrap_err());
    cannot(a.publish_breach("rpc-order", clock.now()).await.unwrap_err());
    cannot(a.breaches("rpc-order").await.unwrap_err());
    assert_eq!(a.caveats().len(), 6);
    let shared = host_as("{host}", server.address, None, "a", &clock);
    assert!(shared.caveats()[0].contains("only one of them"), "{:?}", shared.caveats());
    // What only looks finds nothing in the way, and takes nothing.
    let dry = DryFleet::new(a.clone(), clock.clone());
    let call = format!(
        r#"POST http://{}/base/v1/pre-reboot: {{"client_params":{{"id":"a/rpc-order","group":"rpc-order"}}}}"#,
        server.address
    );
    assert_eq!(dry.would_take("rpc-order", "ia", 1).await.unwrap(), Some(call));
    assert!(is_yes(&dry.acquire("rpc-order", "ia", 1).await.unwrap()));

    let unknown = a.acquire("rpc-order", "ia", 1).await.unwrap_err();
    assert!(matches!(unknown, FleetError::Refused(_)), "{unknown:?}");
    assert!(unknown.to_string().contains("the server may lack the group `rpc-order`"), "{unknown}");
    let lock = Lock { group: None, id: "{host}/{service}".into() };
    let elsewhere = FleetLock::new(&format!("http://{}/", server.address), lock, "a", clock.clone()).unwrap();
    let elsewhere = elsewhere.acquire("rpc-order", "ia", 1).await.unwrap_err();
    assert!(matches!(elsewhere, FleetError::Refused(_)), "{elsewhere:?}");
}

#[tokio::test]
async fn a_fleetlock_answer_that_is_lost_is_asked_for_again_and_silence_ends_in_time() {
    let server = LockServer::start(&[("rpc-order", 1)]).await;
    let cable = Cable::to(server.address, "POST ").await;
    let a = host(cable.address, None, "a", &clock());
    for lose in [Cable::lose_answers, Cable::lose_requests] as [fn(&Cable, u32); 2] {
        lose(&cable, 1);
        assert!(is_yes(&a.acquire("rpc-order", "ia", 1).await.unwrap()));
        lose(&cable, 1);
        a.release("rpc-order", "ia").await.unwrap();
        assert_eq!(server.holders("rpc-order"), [""; 0]);
        lose(&cable, 2);
        assert!(a.acquire("rpc-order", "ia", 1).await.unwrap_err().is_passing());
        a.release("rpc-order", "ia").await.unwrap();
    }
    cable.set_silent(true);
    let all = async {
        tokio::join!(a.acquire("rpc-order", "ia", 1), a.begin("rpc-order", "ia"), a.release("rpc-order", "ia"))
    };
    let (acquired, begun, released) = tokio::time::timeout(DEADLINE, all).await.expect("each ends by its deadline");
    for error in [acquired.unwrap_err(), begun.unwrap_err(), released.unwrap_err()] {
        assert!(error.is_passing(), "{error}");
    }
}

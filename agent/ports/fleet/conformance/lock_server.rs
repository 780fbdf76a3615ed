//! FleetLock, against a server that follows its protocol: a counting lock for each group that it knows.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::cable::Cable;
use super::{a_slot_is_kept_from_the_hosts_next_incident, clock, is_yes};
use crate::clock::{Clock, ManualClock};
use crate::ports::fleet::dry::DryFleet;
use crate::ports::fleet::fleetlock::FleetLock;
use crate::ports::fleet::{Acquired, DEADLINE, Fleet, FleetError, LEASE};

/// The slots of each group, and the ids that hold some.
type Groups = BTreeMap<String, (usize, BTreeSet<String>)>;

/// As airlock does it: 200, 400 for a group that it does not know, 500 with words where all slots are held.
struct LockServer {
    address: SocketAddr,
    groups: Arc<Mutex<Groups>>,
}

impl LockServer {
    async fn start(groups: &[(&str, usize)]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let groups = groups.iter().map(|(group, slots)| (group.to_string(), (*slots, BTreeSet::new()))).collect();
        let server = Self { address: listener.local_addr().unwrap(), groups: Arc::new(Mutex::new(groups)) };
        let groups = server.groups.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, groups.clone()));
            }
        });
        server
    }

    fn holders(&self, group: &str) -> Vec<String> {
        self.groups.lock().unwrap()[group].1.iter().cloned().collect()
    }
}

async fn serve(mut stream: TcpStream, groups: Arc<Mutex<Groups>>) {
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
    let answer = answer(&head, id, group, &mut groups.lock().unwrap());
    let _ = stream.write_all(format!("HTTP/1.1 {answer}").as_bytes()).await;
}

fn answer(head: &str, id: &str, group: &str, groups: &mut Groups) -> String {
    let with = |status: &str, words: &str| format!("{status}\r\ncontent-length: {}\r\n\r\n{words}", words.len());
    if !head.contains("fleet-lock-protocol: true") || id.is_empty() || group.is_empty() {
        return with("400 Bad Request", "wrong 'fleet-lock-protocol' header, id or group");
    }
    let Some((slots, holders)) = groups.get_mut(group) else {
        return with("400 Bad Request", &format!("unknown group {group:?}"));
    };
    match head.lines().next().unwrap() {
        "post /base/v1/pre-reboot http/1.1" if holders.contains(id) || holders.len() < *slots => {
            holders.insert(id.into());
            with("200 OK", "")
        }
        "post /base/v1/pre-reboot http/1.1" => {
            with("500 Internal Server Error", &format!("all {slots} semaphore slots currently locked"))
        }
        "post /base/v1/steady-state http/1.1" => {
            holders.remove(id);
            with("200 OK", "")
        }
        other => with("404 Not Found", other),
    }
}

fn host(at: SocketAddr, group: Option<&str>, name: &str, clock: &Arc<ManualClock>) -> Arc<FleetLock> {
    let url = format!("http://{at}/base/");
    Arc::new(FleetLock::new(&url, group.map(str::to_owned), name, clock.clone()).unwrap())
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
    assert_eq!(b.acquire(SERVICE, "ib", 9).await.unwrap(), Acquired::No { held: Vec::new() });
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
    assert_eq!(a.caveats().len(), 5);
    // What only looks finds nothing in the way, and takes nothing.
    let dry = DryFleet::new(a.clone(), clock.clone());
    assert!(is_yes(&dry.acquire("rpc-order", "ia", 1).await.unwrap()));

    let unknown = a.acquire("rpc-order", "ia", 1).await.unwrap_err();
    assert!(matches!(unknown, FleetError::Refused(_)), "{unknown:?}");
    assert!(unknown.to_string().contains("does the server know the group `rpc-order`?"), "{unknown}");
    let elsewhere = FleetLock::new(&format!("http://{}/", server.address), None, "a", clock.clone()).unwrap();
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

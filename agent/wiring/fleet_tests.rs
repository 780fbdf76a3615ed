//! A fleet that the host's file names otherwise while a slot is held.

use std::path::Path;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::testing::wire;
use super::*;
use crate::clock::SystemClock;
use crate::daemon::duties::sweep;
use crate::model::IncidentId;

/// Takes back whatever it is asked to, as airlock does; tells the questions.
async fn server() -> (String, mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (tell, asked) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = Vec::new();
            while !request.ends_with(b"}}") {
                assert!(stream.read_buf(&mut request).await.unwrap() > 0);
            }
            let _ = tell.send(String::from_utf8(request).unwrap());
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await.unwrap();
        }
    });
    (url, asked)
}

fn wiring(dir: &Path, fleet: &str) -> Wiring {
    wire(
        dir,
        &format!("services: [{{ service: process:gate, match: {{ ports: [9001] }} }}]\n{fleet}"),
        "process:gate",
        "snapshot",
    )
}

#[tokio::test]
async fn a_slot_is_given_back_where_it_was_taken_and_only_then_another_store_is_asked() {
    let dir = tempfile::tempdir().unwrap();
    let (url, mut asked) = server().await;
    let of = |id: &str| format!("fleet: {{ fleetlock: {{ url: \"{url}\", id: \"{id}\" }} }}\n");
    let store = Store::open(Path::new(":memory:")).unwrap();
    let mut former = wiring(dir.path(), &of("{host}/{service}"));
    former.follow_fleet(&store, true);
    let taken_in = former.config.host.fleet.clone();
    let incident = IncidentId("i".into());
    store.note_slot(&incident, "rpc-order").unwrap();

    // Another id; no store at all. A reload as well as an agent that starts.
    for named in [of("{host}-{service}"), String::new()] {
        let mut wiring = wiring(dir.path(), &named);
        for idle in [false, true] {
            let another = wiring.config.host.fleet != taken_in;
            assert_eq!(wiring.follow_fleet(&store, idle), another, "another store is asked from now on");
            assert_eq!(wiring.config.host.fleet, taken_in, "{named}");
        }
        assert_eq!(fleet::in_force(wiring.named_fleet.as_ref(), &store, true).unwrap(), taken_in);
    }
    let mut wiring = wiring(dir.path(), &of("{host}-{service}"));
    wiring.follow_fleet(&store, true);
    sweep::release_slots(&wiring.ports, &store, SystemClock.now()).await;
    let question = asked.recv().await.unwrap();
    assert!(question.contains("steady-state") && question.contains("bj1-03/rpc-order"), "{question}");
    assert!(!store.notes_a_slot().unwrap());

    // It is back; but a saga that asks the former may take one yet.
    assert!(!wiring.follow_fleet(&store, false));
    assert_eq!(wiring.config.host.fleet, taken_in);
    assert!(wiring.follow_fleet(&store, true));
    assert_eq!(wiring.config.host.fleet, wiring.named_fleet);
    assert_ne!(wiring.config.host.fleet, taken_in);
    store.note_slot(&incident, "rpc-order").unwrap();
    wiring.follow_fleet(&store, true);
    sweep::release_slots(&wiring.ports, &store, SystemClock.now()).await;
    let question = asked.recv().await.unwrap();
    assert!(question.contains("bj1-03-rpc-order"), "{question}");
}

/// Told within minutes, and shown by `status`, as any slot that is not given back.
#[tokio::test]
async fn a_slot_whose_store_is_not_asked_is_one_that_is_not_given_back() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(Path::new(":memory:")).unwrap();
    store.note_slot(&IncidentId("i".into()), "rpc-order").unwrap();
    let wiring = wiring(dir.path(), "");
    sweep::release_slots(&wiring.ports, &store, SystemClock.now()).await;
    let [left] = store.unreturned_slots().unwrap().try_into().unwrap();
    assert!(left.error.contains("agent.yaml has no `fleet`"), "{}", left.error);
}

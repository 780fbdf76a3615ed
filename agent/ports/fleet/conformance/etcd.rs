//! What is etcd's own: elections, tokens that end, a disk that is full; on the releases that answer differently.

use std::sync::Arc;
use std::time::Duration;

use super::cable::Cable;
use super::is_yes;
use super::stores::{clock, refuses, user};
use crate::ports::fleet::{Fleet, etcd};
use crate::ports::testing_etcd::{Release, TestEtcd};
use crate::ports::{Login, User};

const SERVICE: &str = "rpc-order";

fn fleet(store: &TestEtcd, user: Option<User>, host: &str) -> Arc<dyn Fleet> {
    etcd::etcd(std::slice::from_ref(&store.url), user.map(Login::new), host, clock()).unwrap()
}

#[tokio::test]
async fn the_user_who_may_is_taken_and_no_other_and_each_refusal_is_in_etcds_own_words() {
    for release in [Release::V3_4, Release::V3_7] {
        let store = TestEtcd::start(release).await;
        store.lock_down("unwait", "hush-hush", "unwait/").await;
        let may = fleet(&store, user("unwait", "hush-hush"), "a");
        may.acquire(SERVICE, "ia", 1).await.unwrap();
        may.begin(SERVICE, "ia").await.unwrap();
        assert_eq!(may.services().await.unwrap(), [SERVICE]);
        assert!(may.server().await.unwrap().is_some_and(|name| name.starts_with("etcd 3.")));
        refuses(&*fleet(&store, user("unwait", "wrong-word"), "a"), "authentication failed", "wrong-word").await;
        refuses(&*fleet(&store, None, "a"), "user name is empty", "no secret here").await;
        store.add_user("blind", "hush-hush", &[("READ", "other/")]).await;
        refuses(&*fleet(&store, user("blind", "hush-hush"), "a"), "permission denied", "hush-hush").await;
    }
}

/// 400 "revision of auth store is old", at each change.
#[tokio::test]
async fn a_change_of_users_costs_no_call_where_tokens_are_jwt() {
    let store = TestEtcd::start_with_jwt(Release::V3_7).await;
    store.lock_down("unwait", "hush-hush", "unwait/").await;
    let host = fleet(&store, user("unwait", "hush-hush"), "a");
    assert!(is_yes(&host.acquire(SERVICE, "ia", 1).await.unwrap()));
    for nth in 0..3 {
        store.add_user(&format!("other-{nth}"), "word", &[("READ", "other/")]).await;
        host.begin(SERVICE, "ia").await.unwrap();
        assert_eq!(host.holders(SERVICE).await.unwrap().len(), 1);
    }
    store.add_user("last", "word", &[]).await;
    host.release(SERVICE, "ia").await.unwrap();
}

/// 401 "invalid auth token": simple tokens end with the server.
#[tokio::test]
async fn a_restart_of_the_server_costs_no_call_where_tokens_are_simple() {
    let mut store = TestEtcd::start(Release::V3_7).await;
    store.lock_down("unwait", "hush-hush", "unwait/").await;
    let host = fleet(&store, user("unwait", "hush-hush"), "a");
    assert!(is_yes(&host.acquire(SERVICE, "ia", 1).await.unwrap()));
    store.restart().await;
    host.begin(SERVICE, "ia").await.unwrap();
    host.release(SERVICE, "ia").await.unwrap();
}

/// What a member may answer to a question, whatever it is: as 3.6.16 and 3.7.3 do, and a connection that breaks.
const FAULTS: [&str; 5] = [
    "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 51\r\n\r\n{\"code\":14, \"message\":\"etcdserver: leader changed\"}",
    "HTTP/1.1 400 Bad Request\r\ncontent-length: 65\r\n\r\n{\"code\":3, \"message\":\"etcdserver: revision of auth store is old\"}",
    "HTTP/1.1 401 Unauthorized\r\ncontent-length: 55\r\n\r\n{\"code\":16, \"message\":\"etcdserver: invalid auth token\"}",
    "HTTP/1.1 429 Too Many Requests\r\ncontent-length: 53\r\n\r\n{\"code\":8, \"message\":\"etcdserver: too many requests\"}",
    "",
];

/// Over all questions of a slot's life, one at a time.
#[tokio::test]
async fn no_fault_of_one_question_surfaces_and_two_hosts_never_work_at_once() {
    let store = TestEtcd::start(Release::V3_7).await;
    store.lock_down("unwait", "hush-hush", "unwait/").await;
    let address = store.url.trim_start_matches("http://").parse().unwrap();
    let cable = Cable::to(address, "POST /v3/kv/txn").await;
    let login = user("unwait", "hush-hush").map(Login::new);
    let urls = [format!("http://{}", cable.address)];
    let [a, b] = ["a", "b"].map(|host| etcd::etcd(&urls, login.clone(), host, clock()).unwrap());
    // With a token from here on: how a login fails is told elsewhere.
    a.services().await.unwrap();
    let mut played = 0;
    for (which, fault) in FAULTS.into_iter().enumerate() {
        for nth in 0.. {
            let service = format!("fault-{which}-{nth}");
            cable.answer_nth(nth, fault);
            let yes =
                async |host: &dyn Fleet, incident: &str| is_yes(&host.acquire(&service, incident, 1).await.unwrap());
            assert!(yes(&*a, "ia").await, "{service}");
            assert!(!yes(&*b, "ib").await, "{service}");
            a.begin(&service, "ia").await.unwrap();
            assert!(!yes(&*b, "ib").await && b.begin(&service, "ib").await.is_err(), "{service}");
            a.drained(&service, "ia").await.unwrap();
            assert_eq!(b.holders(&service).await.unwrap().len(), 1, "{service}");
            a.release(&service, "ia").await.unwrap();
            assert!(yes(&*b, "ib").await, "{service}");
            b.begin(&service, "ib").await.unwrap();
            assert!(!yes(&*a, "ia2").await, "{service}");
            b.release(&service, "ib").await.unwrap();
            if !cable.has_answered() {
                break;
            }
            played += 1;
        }
    }
    assert!(played > 5 * 20, "{played} faults");
}

/// Answers to reads in flight are 503 "leader changed", 503 "request timed out", or none.
#[tokio::test]
async fn the_leaders_death_surfaces_in_no_answer_and_the_slot_stays_one() {
    let mut members = TestEtcd::cluster(Release::V3_7).await;
    let urls: Vec<String> = members.iter().map(|member| member.url.clone()).collect();
    // Each asks another member first.
    let host = |nth: usize| {
        let mut urls = urls.clone();
        urls.rotate_left(nth);
        etcd::etcd(&urls, None, &format!("bj1-{nth:02}"), clock()).unwrap()
    };
    let hosts: Vec<Arc<dyn Fleet>> = (0..3).map(host).collect();
    assert!(is_yes(&hosts[0].acquire(SERVICE, "i0", 1).await.unwrap()));
    hosts[0].begin(SERVICE, "i0").await.unwrap();
    let (stop, _) = tokio::sync::watch::channel(false);
    let asking: Vec<_> = hosts
        .iter()
        .enumerate()
        .map(|(nth, host)| {
            let (host, stop) = (Arc::clone(host), stop.subscribe());
            tokio::spawn(async move {
                let mut asked = 0;
                while !*stop.borrow() {
                    let got = host.acquire(SERVICE, &format!("i{nth}"), 1).await.map(|acquired| is_yes(&acquired));
                    assert_eq!(got, Ok(nth == 0), "bj1-{nth:02}, after {asked} answers");
                    assert_eq!(host.holders(SERVICE).await.map(|held| held.len()), Ok(1), "bj1-{nth:02}");
                    asked += 1;
                }
                asked
            })
        })
        .collect();
    for _ in 0..2 {
        let leader = TestEtcd::leader(&members).await;
        let leader = &mut members[leader];
        leader.stop();
        // The others elect, and answer again; then it comes back.
        hosts[1].publish_breach(SERVICE, jiff::Timestamp::MAX).await.unwrap();
        leader.restart().await;
    }
    stop.send_replace(true);
    for asking in asking {
        let asked = tokio::time::timeout(Duration::from_secs(30), asking).await.expect("each call ends").unwrap();
        assert!(asked > 0);
    }
}

/// 429, code 8: puts are refused, and what only deletes is taken.
#[tokio::test]
async fn a_full_etcd_takes_the_last_slot_back_and_says_why_it_gives_none() {
    for release in [Release::V3_4, Release::V3_7] {
        let store = TestEtcd::start_small(release).await;
        let (a, b) = (fleet(&store, None, "a"), fleet(&store, None, "b"));
        assert!(is_yes(&a.acquire(SERVICE, "ia", 2).await.unwrap()));
        a.begin(SERVICE, "ia").await.unwrap();
        store.fill().await;
        let none = b.acquire(SERVICE, "ib", 2).await.unwrap_err();
        assert!(none.is_passing() && none.to_string().contains("database space exceeded"), "{none}");
        a.release(SERVICE, "ia").await.unwrap();
        assert_eq!(b.holders(SERVICE).await.unwrap(), []);
    }
}

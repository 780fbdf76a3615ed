//! Redis as it is run: each kind of server is known for what it is, sentinels are asked in their majority, and in a Cluster each
//! key is found, also while its slot moves.

use nix::sys::signal::Signal;

use super::*;
use crate::model::Tls;
use crate::ports::testing_redis::{Goes, Make, TestCluster, TestRedis, TestSentinels};
use crate::ports::testing_tls::{TestCa, Wanted};

fn api(at: RedisAt) -> Api {
    Api::new(RedisAccess::to(RedisServers { at, database: 0 }))
}

fn get(key: &str) -> Cmd {
    let mut command = redis::cmd("GET");
    command.arg(key);
    command
}

fn set(key: &str, value: &str) -> Cmd {
    let mut command = redis::cmd("SET");
    command.arg(key).arg(value);
    command
}

async fn refused(api: &Api) -> String {
    match api.ask::<Option<String>>(b"a", &get("a")).await {
        Err(ApiError::Refused(words)) => words,
        other => panic!("{other:?}"),
    }
}

async fn unreachable(api: &Api) -> String {
    match api.ask::<Option<String>>(b"a", &get("a")).await {
        Err(ApiError::Unreachable(words)) => words,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_server_that_is_not_what_the_file_says_is_named_for_what_it_is() {
    for make in [Make::Redis, Make::Valkey] {
        let (redis, set_up, cluster) =
            (TestRedis::started(make, &[]).await, TestSentinels::start(make).await, TestCluster::start(make).await);
        let one = |server: &TestRedis| api(RedisAt::One(server.address()));
        let sentinels =
            |of: &TestRedis| RedisAt::Sentinels { sentinels: vec![of.address()], master: "mymaster".into() };
        for (api, words) in [
            (one(&set_up.sentinels[0]), "the server is a sentinel, not a Redis"),
            (one(&cluster.nodes[1]), "the server is a node of a Redis Cluster"),
            (api(RedisAt::Cluster { nodes: vec![redis.address()] }), "the server is no node of a Redis Cluster"),
            (api(sentinels(&redis)), "the server is a Redis, not a sentinel"),
        ] {
            let says = refused(&api).await;
            assert!(says.contains(words) && says.contains("127.0.0.1:"), "{says}");
        }
        let says = unreachable(&one(&set_up.servers[1])).await;
        let expected = format!("the server is a replica of 127.0.0.1:{}", set_up.servers[0].port);
        assert!(says.contains(&expected), "{says}");
        assert_eq!(one(&redis).ask::<Option<String>>(b"a", &get("a")).await.unwrap(), None);
    }
}

#[tokio::test]
async fn what_closes_at_our_first_word_or_speaks_something_else_is_said() {
    for (answer, words) in
        [("", "a port with TLS does so"), ("HTTP/1.1 400 Bad Request\r\n\r\n", "does not speak Redis' protocol")]
    {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        tokio::spawn(async move {
            use tokio::io::{AsyncReadExt, AsyncWriteExt};
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.read(&mut [0; 64]).await;
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        let api = api(RedisAt::One(RedisAddress::Tcp { host: "127.0.0.1".into(), port: at.port() }));
        let says = match api.ask::<Option<String>>(b"a", &get("a")).await {
            Err(ApiError::Refused(words) | ApiError::Unreachable(words)) => words,
            other => panic!("{other:?}"),
        };
        assert!(says.contains(words), "{says}");
    }
}

#[tokio::test]
async fn a_redis_is_asked_over_its_socket() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("redis.sock");
    let redis = TestRedis::started(Make::Redis, &["--unixsocket", socket.to_str().unwrap()]).await;
    let servers = RedisServers::of_url(&format!("unix://{}", socket.display())).unwrap();
    let api = Api::new(RedisAccess::to(RedisServers { database: 3, ..servers }));
    api.ask::<()>(b"a", &set("a", "1")).await.unwrap();
    assert_eq!(api.scan(b"*").await.unwrap(), [b"a"]);
    assert!(redis.says(&["INFO", "keyspace"]).await.contains("db3:keys=1"));
    drop(redis);
    assert!(unreachable(&api).await.contains("redis.sock: no connection: "));
}

#[tokio::test]
async fn the_master_is_the_one_that_most_sentinels_name() {
    let set_up = TestSentinels::start(Make::Redis).await;
    let api = Api::new(set_up.access());
    api.change::<()>(b"a", &set("a", "1")).await.unwrap();
    // One that hangs holds nobody up; one that is alone is not believed.
    set_up.sentinels[0].signal(Signal::SIGSTOP);
    assert_eq!(api.ask::<String>(b"a", &get("a")).await.unwrap(), "1");
    set_up.sentinels[1].signal(Signal::SIGSTOP);
    let says = unreachable(&api).await;
    assert!(says.contains("fewer than 2 of 3 sentinels name the same master for `mymaster`"), "{says}");
    assert!(
        says.contains(&format!("names 127.0.0.1:{}", set_up.servers[0].port)) && says.contains("no answer"),
        "{says}"
    );
    for sentinel in &set_up.sentinels[..2] {
        sentinel.signal(Signal::SIGCONT);
    }
    let sentinels = set_up.sentinels.iter().map(TestRedis::address).collect();
    let another = super::tests::api(RedisAt::Sentinels { sentinels, master: "other".into() });
    assert!(refused(&another).await.contains("has no master of that name"));
    // Nobody has it but the master: that is no yes.
    for replica in &set_up.servers[1..] {
        replica.signal(Signal::SIGSTOP);
    }
    match api.change::<()>(b"a", &set("a", "2")).await {
        Err(ApiError::Unreachable(says)) => assert!(says.contains("none of its replicas has"), "{says}"),
        other => panic!("{other:?}"),
    }
}

/// Also while the former one answers OK, and says that it is the master.
#[tokio::test]
async fn a_master_that_was_replaced_is_never_asked_again() {
    for (make, how) in [(Make::Redis, Goes::Paused), (Make::Valkey, Goes::Planned), (Make::Redis, Goes::Killed)] {
        let set_up = TestSentinels::start(make).await;
        let api = Api::new(set_up.access());
        api.change::<()>(b"a", &set("a", "1")).await.unwrap();
        let former = set_up.go(how).await;
        let master = set_up.replaced(former).await;
        if matches!(how, Goes::Paused) {
            former.signal(Signal::SIGCONT);
            assert!(former.says(&["INFO", "replication"]).await.contains("role:master"));
        }
        for nth in 0..10 {
            let value = nth.to_string();
            while api.change::<()>(b"b", &set("b", &value)).await.is_err() {}
            assert_eq!(master.says(&["GET", "b"]).await, value, "{make:?} {how:?}");
        }
        assert_eq!(api.ask::<String>(b"a", &get("a")).await.unwrap(), "1", "{make:?} {how:?}");
    }
}

#[tokio::test]
async fn in_a_cluster_each_key_is_found_also_while_its_slot_moves() {
    for make in [Make::Redis, Make::Valkey] {
        let cluster = TestCluster::start(make).await;
        let api = Api::new(cluster.access());
        // As the Cluster itself says where a key lies.
        for key in ["a", "unwait:slots", "unwait:drained:{rpc:order}", "{}x", "a{b}c", "ä{ö"] {
            let slot: u16 = redis::from_redis_value(cluster.nodes[0].ask(&["CLUSTER", "KEYSLOT", key]).await).unwrap();
            assert_eq!(cluster::slot(key.as_bytes()), slot, "{key}");
        }
        let keys: Vec<String> = (0..30).map(|nth| format!("k{nth}")).collect();
        for key in &keys {
            api.change::<()>(key.as_bytes(), &set(key, key)).await.unwrap();
        }
        let mut all = keys.clone();
        all.sort();
        let scanned = api.scan(b"k*").await.unwrap();
        assert_eq!(scanned.iter().map(|key| String::from_utf8_lossy(key).into_owned()).collect::<Vec<_>>(), all);

        let slot = cluster::slot(b"k0");
        let from = (0..3).find(|nth| slot < [5461, 10923, 16384][*nth]).unwrap();
        cluster
            .move_slot(slot, [from, (from + 1) % 3], async {
                // Gone (ASK), and new there.
                assert_eq!(api.ask::<String>(b"k0", &get("k0")).await.unwrap(), "k0");
                api.ask::<()>(b"k0", &set("k0", "moved")).await.unwrap();
                assert_eq!(api.ask::<Option<String>>(b"x{k0}", &get("x{k0}")).await.unwrap(), None);
                // One key here and one there: asked again until the slot has moved.
                api.ask::<()>(b"y{k0}", &set("y{k0}", "y")).await.unwrap();
            })
            .await;
        assert_eq!(api.ask::<String>(b"k0", &get("k0")).await.unwrap(), "moved");
        assert_eq!(api.ask::<String>(b"y{k0}", &get("y{k0}")).await.unwrap(), "y");

        // A node that is gone takes its slots along, until it is replaced; the others go on.
        let gone = &cluster.nodes[2];
        gone.signal(Signal::SIGKILL);
        let lost = keys.iter().find(|key| (10923..).contains(&cluster::slot(key.as_bytes())) && *key != "k0").unwrap();
        match api.ask::<Option<String>>(lost.as_bytes(), &get(lost)).await {
            Err(ApiError::Unreachable(says)) => assert!(says.contains("127.0.0.1:"), "{says}"),
            other => panic!("{other:?}"),
        }
    }
}

/// It accepts, and never answers; until a replica takes its place, and after that.
#[tokio::test]
async fn a_node_of_a_cluster_that_hangs_holds_up_no_question_about_what_others_have() {
    let cluster = TestCluster::start_with_replicas(Make::Valkey).await;
    let api = Api::new(cluster.access_by_all());
    let of = async |at: usize| {
        let mut keys = (0..).map(|nth| format!("k{nth}"));
        loop {
            let key = keys.next().unwrap();
            if cluster.at(&key).await.1 == at {
                return key;
            }
        }
    };
    let [hangs, other] = [of(0).await, of(1).await];
    for key in [&hangs, &other] {
        api.change::<()>(key.as_bytes(), &set(key, "1")).await.unwrap();
    }
    // The first that anybody who knows nothing asks, and the one that the slot was learnt to be at.
    cluster.nodes[0].signal(Signal::SIGSTOP);
    let anew = Api::new(cluster.access_by_all());
    assert_eq!(anew.ask::<String>(other.as_bytes(), &get(&other)).await.unwrap(), "1");
    assert!(anew.server().await.unwrap().is_some_and(|name| name.starts_with("Valkey ")));
    cluster.goes(0, Goes::Paused).await;
    api.change::<()>(hangs.as_bytes(), &set(&hangs, "2")).await.unwrap();
    assert_eq!(cluster.nodes[3].says(&["GET", &hangs]).await, "2");
    // It comes back as its replica's replica, which knows who is the master.
    cluster.nodes[0].signal(Signal::SIGCONT);
    assert_eq!(api.ask::<String>(hangs.as_bytes(), &get(&hangs)).await.unwrap(), "2");
}

#[tokio::test]
async fn replicas_of_a_cluster_tell_who_has_a_key() {
    for make in [Make::Redis, Make::Valkey] {
        let cluster = TestCluster::start_with_replicas(make).await;
        let nodes = cluster.nodes[3..].iter().map(TestRedis::address).collect();
        let by_replicas = api(RedisAt::Cluster { nodes });
        for nth in 0..10 {
            let key = format!("k{nth}");
            by_replicas.change::<()>(key.as_bytes(), &set(&key, "1")).await.unwrap();
            assert_eq!(by_replicas.ask::<String>(key.as_bytes(), &get(&key)).await.unwrap(), "1");
        }
        assert_eq!(by_replicas.scan(b"k*").await.unwrap().len(), 10);
    }
}

/// A server that wants certificates of both sides, as production has it; and what a plain question to it is told.
#[tokio::test]
async fn redis_by_tls_knows_both_sides() {
    let ca = TestCa::made();
    let (cert, key) = ca.make("server", Wanted::default());
    let (own, own_key) = ca.make("client", Wanted { subject: "/CN=unwait", ..Wanted::default() });
    let [tls_port] = crate::ports::testing_consul::free_ports();
    let text = |path: &std::path::Path| path.to_str().unwrap().to_owned();
    let (port, cert, key, authority) = (tls_port.to_string(), text(&cert), text(&key), text(&ca.ca_file()));
    let files = ["--tls-cert-file", &cert, "--tls-key-file", &key, "--tls-ca-cert-file", &authority];
    let redis = TestRedis::started(Make::Redis, &[&["--tls-port", &port][..], &files].concat()).await;
    let with = |tls: Option<Tls>| {
        let tls = tls.map(|files| TlsContext::new("redis", files).unwrap());
        let at = RedisAt::One(RedisAddress::Tcp { host: "127.0.0.1".into(), port: tls_port });
        Api::new(RedisAccess { tls, ..RedisAccess::to(RedisServers { at, database: 0 }) })
    };
    let ca_file = Some(ca.ca_file());
    let known = Tls { ca_file: ca_file.clone(), cert_file: Some(own), key_file: Some(own_key), server_name: None };
    assert_eq!(with(Some(known)).ask::<Option<String>>(b"a", &get("a")).await.unwrap(), None);
    let unnamed = Tls { ca_file, ..Tls::default() };
    let stranger = Tls { server_name: Some("redis.corp".into()), ..unnamed.clone() };
    for (tls, words) in [(unnamed, "client certificate"), (stranger, "redis.corp")] {
        match with(Some(tls)).ask::<Option<String>>(b"a", &get("a")).await {
            Err(ApiError::Distrusted(says)) => assert!(says.contains(words), "{says}"),
            other => panic!("{other:?}"),
        }
    }
    let says = unreachable(&with(None)).await;
    assert!(says.contains("a port with TLS does so"), "{says}");
    // The other way round: by what the handshake happens to hold, it waits for more of it, or answers in plain text.
    let by_tls = TlsContext::new("redis", Tls { ca_file: Some(ca.ca_file()), ..Tls::default() }).unwrap();
    let at = RedisAt::One(redis.address());
    let plain = Api::new(RedisAccess { tls: Some(by_tls), ..RedisAccess::to(RedisServers { at, database: 0 }) });
    match plain.ask::<Option<String>>(b"a", &get("a")).await {
        Err(ApiError::Unreachable(says) | ApiError::Distrusted(says)) => assert!(says.contains("TLS"), "{says}"),
        other => panic!("{other:?}"),
    }
}

/// A login and certificates of the sentinels' own, beside a Redis in plain text.
#[tokio::test]
async fn sentinels_are_asked_by_tls_and_a_login_of_their_own() {
    let ca = TestCa::made();
    let (cert, key) = ca.make("sentinel", Wanted::default());
    let ports: [u16; 3] = crate::ports::testing_consul::free_ports();
    let text = |path: &std::path::Path| path.to_str().unwrap().to_owned();
    let files =
        [("--tls-cert-file", text(&cert)), ("--tls-key-file", text(&key)), ("--tls-ca-cert-file", text(&ca.ca_file()))];
    let set_up = TestSentinels::start_with(Make::Redis, |nth| {
        let mut more = vec!["--tls-port".to_owned(), ports[nth].to_string(), "--tls-auth-clients".into(), "no".into()];
        more.extend(files.iter().flat_map(|(name, path)| [(*name).to_owned(), path.clone()]));
        more
    })
    .await;
    for sentinel in &set_up.sentinels {
        let rights = ["+info", "+sentinel|get-master-addr-by-name"];
        sentinel.ask(&[&["ACL", "SETUSER", "unwait", "on", ">hush-hush"][..], &rights].concat()).await;
        sentinel.ask(&["ACL", "SETUSER", "default", "-info", "-sentinel"]).await;
    }
    let with = |password: Option<&str>, tls: bool| {
        let at = ports.map(|port| RedisAddress::Tcp { host: "127.0.0.1".into(), port });
        let at = RedisAt::Sentinels { sentinels: at.into(), master: crate::ports::testing_redis::MASTER.into() };
        let user = |word: &str| User { name: "unwait".into(), password: word.to_owned().into() };
        let believing = Tls { ca_file: Some(ca.ca_file()), ..Tls::default() };
        Api::new(RedisAccess {
            sentinel_user: password.map(user),
            sentinel_tls: tls.then(|| TlsContext::new("redis", believing).unwrap()),
            ..RedisAccess::to(RedisServers { at, database: 0 })
        })
    };
    let known = with(Some("hush-hush"), true);
    assert_eq!(known.ask::<Option<String>>(b"a", &get("a")).await.unwrap(), None);
    for wrong in [with(Some("wrong-word"), true), with(None, true)] {
        let says = refused(&wrong).await;
        assert!(says.contains("fewer than 2 of 3 sentinels") && !says.contains("wrong-word"), "{says}");
    }
    let says = unreachable(&with(Some("hush-hush"), false)).await;
    assert!(says.contains("a port with TLS does so"), "{says}");
}

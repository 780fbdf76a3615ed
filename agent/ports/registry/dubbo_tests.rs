//! Real providers and consumers of Dubbo, asked in place of our adapters: through a drain, a restart of the provider and a
//! restore, whom do the consumers' calls reach?
//!
//! In a network namespace of the test's own thread, with an address for each provider and one for the consumers: Dubbo takes
//! no loopback address for its own, and where two share an address its rules mislead.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use nix::sched::{CloneFlags, unshare};
use serde_json::Value;

use super::conformance::marker;
use super::redis::Redis;
use super::zookeeper::ZooKeeper;
use super::*;
use crate::model::{RedisLayout, RedisProfile};
use crate::ports::installed::installed;
use crate::ports::testing_consul::wait_for;
use crate::ports::testing_redis::TestRedis;
use crate::ports::testing_zookeeper::TestZooKeeper;

const FIRST: &str = "10.77.0.1";
const SECOND: &str = "10.77.0.2";
const CONSUMERS: &str = "10.77.0.3";
/// How Dubbo 3 can be told to find providers; the second is what it does untold. Dubbo 2.7 goes by the interface.
const WAYS: [&str; 3] = ["FORCE_INTERFACE", "APPLICATION_FIRST", "FORCE_APPLICATION"];
/// Calls in a row of each way: a second.
const STEADY: usize = 40;
/// A tenth of a second each.
const LOOKS: u32 = 600;

fn enter_namespace() {
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    for words in [
        "link set lo up".to_owned(),
        "link add near type veth peer name far".into(),
        format!("address add {FIRST}/24 dev near"),
        format!("address add {SECOND}/24 dev near"),
        format!("address add {CONSUMERS}/24 dev near"),
        "link set near up".into(),
        "link set far up".into(),
    ] {
        assert!(Command::new("ip").args(words.split(' ')).status().unwrap().success(), "ip {words}");
    }
}

/// The mains of `tests/lab/dubbo`.
fn compiled() -> tempfile::TempDir {
    let classes = tempfile::tempdir().unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lab/dubbo");
    let sources = ["Greeter.java", "Provider.java", "Consumer.java"].map(|name| source.join(name));
    let mut javac = Command::new("javac");
    javac.arg("-cp").arg(installed("dubbo-3.3.6").join("*")).arg("-d").arg(classes.path()).args(sources);
    assert!(javac.status().expect("`tests/run` installs openjdk-17-jdk-headless").success());
    classes
}

/// A program that runs until it is dropped, and what it has said.
struct Jvm {
    child: Child,
    said: Arc<Mutex<Vec<String>>>,
}

impl Jvm {
    fn start(classes: &Path, dubbo: &str, words: &[&str]) -> Self {
        let jars: PathBuf = installed(dubbo).join("*");
        let mut child = Command::new("java")
            .args(["-Xmx96m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"])
            // What Dubbo 2.7 asks of a Java of today's.
            .args(["--add-opens", "java.base/java.lang=ALL-UNNAMED", "--add-opens", "java.base/java.math=ALL-UNNAMED"])
            .arg("-cp")
            .arg(format!("{}:{}", classes.display(), jars.display()))
            .args(words)
            .env("DUBBO_IP_TO_REGISTRY", if words[0] == "Consumer" { CONSUMERS } else { words[2] })
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("`tests/run` installs openjdk-17-jdk-headless");
        let said: Arc<Mutex<Vec<String>>> = Arc::default();
        let (to, lines) = (Arc::clone(&said), BufReader::new(child.stdout.take().unwrap()).lines());
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(|line| to.lock().unwrap().push(line)));
        Self { child, said }
    }

    fn provider(classes: &Path, dubbo: &str, registry: &str, ip: &str) -> Self {
        Self::start(classes, dubbo, &["Provider", registry, ip, "20880"])
    }

    async fn is_ready(&self) {
        wait_for("the provider to be ready", async || self.said.lock().unwrap().iter().any(|line| line == "ready"))
            .await;
    }

    fn spoken(&self) -> usize {
        self.said.lock().unwrap().len()
    }

    /// Who answered, by the consumer's ways, in what was said from here on; and how often.
    fn answers(&self, from: usize) -> BTreeMap<String, BTreeMap<String, usize>> {
        let mut answers: BTreeMap<String, BTreeMap<String, usize>> = BTreeMap::new();
        for line in &self.said.lock().unwrap()[from..] {
            if let Some((way, who)) = line.split_once(' ')
                && WAYS.contains(&way)
            {
                *answers.entry(way.into()).or_default().entry(who.into()).or_default() += 1;
            }
        }
        answers
    }
}

impl Drop for Jvm {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until each way of each consumer is answered by these, and by nobody else, for [`STEADY`] calls.
async fn all_reach(consumers: &[(Jvm, &[&str])], whom: &[&str]) {
    for (consumer, ways) in consumers {
        let mut from = consumer.spoken();
        let mut left = LOOKS;
        loop {
            let answers = consumer.answers(from);
            let steady = |way: &&str| {
                answers.get(*way).is_some_and(|who| who.len() == whom.len() && who.values().sum::<usize>() >= STEADY)
            };
            if !answers.values().flat_map(BTreeMap::keys).all(|who| whom.contains(&who.as_str())) {
                from = consumer.spoken();
            } else if ways.iter().all(steady) {
                break;
            }
            assert!(left > 0, "waited a minute for {whom:?} to answer alone; answered have {answers:?}");
            left -= 1;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

#[tokio::test]
async fn consumers_of_zookeeper_leave_a_drained_provider_and_come_back() {
    enter_namespace();
    let (server, classes) = (TestZooKeeper::start_newest().await, compiled());
    let registry = format!("zookeeper://{}", server.server);
    let provide = |ip| Jvm::provider(classes.path(), "dubbo-3.3.6", &registry, ip);
    let (mut first, second) = (provide(FIRST), provide(SECOND));
    first.is_ready().await;
    second.is_ready().await;
    let consume = |dubbo, ways: &'static [&'static str]| {
        (Jvm::start(classes.path(), dubbo, &[&["Consumer", &registry], ways].concat()), ways)
    };
    let consumers = [consume("dubbo-3.3.6", &WAYS), consume("dubbo-2.7.23", &WAYS[..1])];
    all_reach(&consumers, &[FIRST, SECOND]).await;

    let adapter = |merge| ZooKeeper::new("zookeeper", vec![server.server.clone()], None, "/dubbo", merge, "bj1-03");
    let (plain, merging) = (adapter(false), adapter(true));
    let rule = "/dubbo/config/dubbo/shop.tag-router";
    let theirs =
        "force: true\nenabled: true\nruntime: true\nkey: shop\ntags:\n  - name: gray\n    addresses: ['10.77.0.9:1']\n";
    // By interface, where the provider is restarted meanwhile; by its application; and into a person's rule.
    for (id, zookeeper, restarts) in [
        ("Greeter/10.77.0.1:20880", &plain, true),
        ("shop/10.77.0.1:20880", &plain, false),
        ("Greeter/10.77.0.1:20880", &merging, false),
    ] {
        if !restarts && id.starts_with("Greeter") {
            assert!(server.session().await.create(rule, theirs.as_bytes()).await.unwrap());
        }
        let before = zookeeper.observe(id).await.unwrap();
        assert_eq!(before.traffic, Traffic::Passing);
        assert_eq!(zookeeper.others(id).await.unwrap(), Others { healthy: 1, registered: 2 });
        zookeeper.drain(id, &marker("i")).await.unwrap();
        all_reach(&consumers, &[SECOND]).await;
        if restarts {
            let spoken: Vec<usize> = consumers.iter().map(|(consumer, _)| consumer.spoken()).collect();
            drop(first);
            first = provide(FIRST);
            first.is_ready().await;
            assert!(!zookeeper.hold(id, &marker("i")).await.unwrap());
            all_reach(&consumers, &[SECOND]).await;
            for ((consumer, ways), from) in consumers.iter().zip(spoken) {
                let answers = consumer.answers(from);
                assert!(ways.iter().all(|way| !answers[*way].contains_key(FIRST)), "{answers:?}");
            }
        }
        assert_eq!(zookeeper.restore(id, &marker("i"), &before.record).await.unwrap(), Restored::Done);
        all_reach(&consumers, &[FIRST, SECOND]).await;
    }
    let left = server.session().await.read(rule).await.unwrap().unwrap();
    assert_eq!(String::from_utf8(left.data).unwrap(), theirs);
}

/// A provider that registers by its application as well is one whose override half of the consumers would not heed.
#[tokio::test]
async fn consumers_of_redis_leave_a_drained_provider_and_come_back() {
    enter_namespace();
    let (redis, classes) = (TestRedis::start().await, compiled());
    let provide = |ip| Jvm::provider(classes.path(), "dubbo-2.7.23", &redis.url, ip);
    let providers = [provide(FIRST), provide(SECOND)];
    for provider in &providers {
        provider.is_ready().await;
    }
    let words = ["Consumer", &redis.url, WAYS[0]];
    let consumers = [(Jvm::start(classes.path(), "dubbo-2.7.23", &words), &WAYS[..1])];
    all_reach(&consumers, &[FIRST, SECOND]).await;

    let layout = RedisLayout {
        profile: RedisProfile::Dubbo,
        key: "/dubbo/{service}/providers".into(),
        hold_every: Duration::from_secs(3600),
    };
    let (adapter, id) = (Redis::new("redis", redis.access(None), layout, "bj1-03"), "Greeter/10.77.0.1:20880");
    for _ in 0..2 {
        assert_eq!(adapter.observe(id).await.unwrap().traffic, Traffic::Passing);
        adapter.drain(id, &marker("i")).await.unwrap();
        all_reach(&consumers, &[SECOND]).await;
        assert_eq!(adapter.others(id).await.unwrap(), Others { healthy: 1, registered: 2 });
        assert_eq!(adapter.restore(id, &marker("i"), &Value::Null).await.unwrap(), Restored::Done);
        all_reach(&consumers, &[FIRST, SECOND]).await;
    }
}

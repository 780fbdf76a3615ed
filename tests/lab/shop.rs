//! Dubbo 3.3.6 with its defaults, in a bare lab: ZooKeeper 3.9.5, two providers of `tests/lab/dubbo`, of which the first
//! leaks and is the [`Gate`]'s service, and a consumer that finds them in each way that Dubbo 3 knows. Each side has an address of its own:
//! Dubbo takes no loopback address for its own, and where two share an address its rules mislead.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::cast::Peer;
use super::deadline::wait_until_seen;
use super::gate::Gate;
use super::installed::installed;
use super::{Lab, Spawned};

const ADDRESSES: [&str; 3] = ["10.77.0.1", "10.77.0.2", "10.77.0.3"];
const ZOOKEEPER: &str = "127.0.0.1:2181";
const WAYS: [&str; 3] = ["FORCE_INTERFACE", "APPLICATION_FIRST", "FORCE_APPLICATION"];
/// Far beyond what five JVMs take on a busy machine.
const STARTS_WITHIN: Duration = Duration::from_secs(120);

pub struct Shop<'lab> {
    pub gate: Gate<'lab>,
    consumer: Spawned,
    first: String,
}

impl<'lab> Shop<'lab> {
    /// `port` and the next are this story's alone. Returns when each way of the consumer is answered by both providers.
    pub fn open(lab: &'lab Lab, port: u16) -> Self {
        for words in ["add near type veth peer name far", "set near up", "set far up"] {
            lab.run(&[&["ip", "link"], &words.split(' ').collect::<Vec<_>>()[..]].concat());
        }
        for address in ADDRESSES {
            lab.run(&["ip", "address", "add", &format!("{address}/24"), "dev", "near"]);
        }
        let classes = compile(lab);
        let zookeeper = start_zookeeper(lab);
        let peer = Peer::listen(lab).address().port().to_string();
        let start = |who: &str, address: &str, words: &[&str]| {
            let (own, registry) = (format!("DUBBO_IP_TO_REGISTRY={address}"), format!("zookeeper://{ZOOKEEPER}"));
            let path = format!("{}:{}/*", classes.display(), installed("dubbo-3.3.6").display());
            lab.spawn(&[&["env", own.as_str()], &java(&path)[..], &[who, registry.as_str()], words].concat())
        };
        let provide = |nth: u16| {
            let (address, port) = (ADDRESSES[usize::from(nth)], (port + nth).to_string());
            let words = [address, &port, &peer];
            start("Provider", address, &words[..if nth == 0 { 3 } else { 2 }])
        };
        let providers = [provide(0), provide(1)];
        for provider in &providers {
            wait_until_seen("a provider", STARTS_WITHIN, || match provider.output() {
                said if said.contains("ready") => Ok(()),
                said => Err(said),
            });
        }
        let consumer = start("Consumer", ADDRESSES[2], &WAYS);
        fs::write(lab.dir().join("gate-1.pid"), providers[0].pid().to_string())
            .expect("the lab's directory is writable");
        let [first, second] = providers;
        // It is never restarted.
        let service = format!(
            "    health: {{ exec: [/usr/bin/true] }}\n    \
             restart: {{ process: {{ argv: [/usr/bin/true], pid_file: {}/gate-1.pid }} }}\n",
            lab.dir().display()
        );
        let gate = Gate::of(lab, port, vec![zookeeper, first, second], &service);
        let shop = Self { gate, consumer, first: format!("{}:{port}", ADDRESSES[0]) };
        shop.wait_for_calls_to_both();
        shop
    }

    /// Waits until each way of the consumer is answered by both, among its next calls.
    pub fn wait_for_calls_to_both(&self) {
        let from = self.consumer.output().len();
        wait_until_seen("calls to both providers in each way", STARTS_WITHIN, || {
            let said = self.consumer.output();
            let reaches = |way: &str, whom: &str| said[from..].lines().any(|line| line == format!("{way} {whom}"));
            match WAYS.iter().find(|way| !ADDRESSES[..2].iter().all(|whom| reaches(way, whom))) {
                None => Ok(()),
                Some(way) => Err(format!("not {way}")),
            }
        });
    }

    /// A drain as it is done by hand for Dubbo 2: the override of interface level, which Dubbo 3 heeds only where a consumer
    /// goes by the interface. `observe` reads it back, and is right.
    pub fn register_with_the_old_override(&self) {
        let url = format!(
            "override://{}/Greeter?category=configurators&disabled=true&dynamic=false&enabled=true&group=blue&version=1.0",
            self.first
        );
        let node = [":", "/", "?", "=", "&"]
            .iter()
            .fold(url, |url, sign| url.replace(sign, &format!("%{:02X}", sign.as_bytes()[0])));
        let java = java(&client_jars()).join(" ");
        let text = format!(
            "#!/bin/sh -e\nin=/dubbo/Greeter/configurators\nnode='{node}'\n\
             zk() {{ {java} org.apache.zookeeper.ZooKeeperMain -server {ZOOKEEPER} \"$@\" 2>/dev/null; }}\n\
             stands() {{ zk ls $in | grep -qF \"$node\"; }}\n\
             case $1 in\nisolate) stands || zk create \"$in/$node\" x ;;\nrestore) ! stands || zk delete \"$in/$node\" ;;\n\
             observe) if stands; then echo '{{\"traffic\": \"drained\"}}'; else echo '{{\"traffic\": \"passing\"}}'; fi ;;\n\
             count) echo '{{\"healthy\": 1, \"registered\": 2}}' ;;\nesac\n"
        );
        let hook = self.gate.program("override", &text);
        let verbs =
            ["isolate", "restore", "observe", "count"].map(|verb| format!("{verb}: [{}, {verb}]", hook.display()));
        let binding = format!("registry: override, id: \"Greeter/{}\", clients_leave: true", self.first);
        self.gate.register(&format!("exec: {{ override: {{ {}, deadline: 1m }} }}", verbs.join(", ")), &binding);
    }
}

/// Small and quick to start, on a machine of two cores that runs other tests.
fn java(path: &str) -> [&str; 6] {
    ["java", "-Xmx96m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", path]
}

fn compile(lab: &Lab) -> PathBuf {
    let (classes, source) = (lab.dir().join("classes"), Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lab/dubbo"));
    let sources = ["Greeter.java", "Provider.java", "Consumer.java"].map(|name| source.join(name));
    let mut javac = Command::new("javac");
    javac.arg("-cp").arg(installed("dubbo-3.3.6").join("*")).arg("-d").arg(&classes).args(sources);
    assert!(javac.status().expect("`tests/run` installs openjdk-17-jdk-headless").success());
    classes
}

fn start_zookeeper(lab: &Lab) -> Spawned {
    let (config, data) = (lab.dir().join("zoo.cfg"), lab.dir().join("zookeeper"));
    let text = format!(
        "dataDir={}\nclientPortAddress=127.0.0.1\nclientPort=2181\ntickTime=2000\nadmin.enableServer=false\n",
        data.display()
    );
    fs::write(&config, text).expect("the lab's directory is writable");
    let jars = format!("{}/*", installed("zookeeper_newest-3.9.5").display());
    let main = ["org.apache.zookeeper.server.quorum.QuorumPeerMain", config.to_str().expect("UTF-8")];
    let runs = lab.spawn(&[&java(&jars)[..], &main].concat());
    let address = ZOOKEEPER.parse().expect("an address");
    wait_until_seen("ZooKeeper", STARTS_WITHIN, || lab.network().connect(address));
    runs
}

/// Of the client that a person has: Debian's.
fn client_jars() -> String {
    let folder = installed("zookeeper").join("usr/share/java");
    let jars = ["zookeeper", "zookeeper-jute", "slf4j-api", "metrics-core", "snappy-java", "commons-cli"];
    jars.map(|jar| folder.join(format!("{jar}.jar")).display().to_string()).join(":")
}

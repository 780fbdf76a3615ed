//! Real Redis and Valkey servers for the tests beside the adapters: one, a master with replicas and sentinels, a Cluster. Own
//! ports, nothing kept, each ended by its pid.

use std::cell::Cell;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::installed::{installed, redis_server};
use super::testing_consul::{free_ports, wait_for};
use super::{RedisAccess, User};
use crate::model::{RedisAddress, RedisAt, RedisServers};

const KNOWN_FOR_LONG: &str = "
local line = string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
redis.call('HSET', KEYS[1], 'line', line, 'since', 1)
";

/// Whose program it is.
#[derive(Clone, Copy, Debug)]
pub enum Make {
    Redis,
    /// It knows what came after Redis 7.2.
    Valkey,
}

#[derive(Debug)]
pub struct TestRedis {
    child: Child,
    /// A replica writes there what it gets, and a server that starts reads what lies there.
    _dir: tempfile::TempDir,
    pub port: u16,
    pub url: String,
    client: redis::Client,
}

impl Make {
    fn command(self) -> Command {
        match self {
            Self::Redis => {
                let mut server = Command::new(redis_server());
                server.arg0("redis-server");
                server
            }
            Self::Valkey => Command::new(installed("valkey-9.1.2").join("bin/valkey-server")),
        }
    }
}

impl TestRedis {
    pub async fn start() -> Self {
        Self::started(Make::Redis, &[]).await
    }

    pub async fn start_valkey() -> Self {
        Self::started(Make::Valkey, &[]).await
    }

    pub async fn started(make: Make, more: &[&str]) -> Self {
        let mut server = make.command();
        server.args(["--save", "", "--appendonly", "no"]).args(more);
        Self::listening(server).await
    }

    /// On a port that nobody has; where another process was quicker to take it, on the next.
    async fn listening(mut server: Command) -> Self {
        let dir = tempfile::tempdir().unwrap();
        server.arg("--dir").arg(dir.path()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        for _ in 0..10 {
            let [port] = free_ports();
            let mut child = server
                .args(["--bind", "127.0.0.1", "--port", &port.to_string()])
                .spawn()
                .unwrap_or_else(|error| panic!("{server:?}: {error}: `tests/run` installs redis-tools"));
            let url = format!("redis://127.0.0.1:{port}");
            let client = redis::Client::open(url.as_str()).unwrap();
            let (own, ended) = (format!("process_id:{}\r", child.id()), Cell::new(false));
            let child_ref = std::cell::RefCell::new(&mut child);
            wait_for("redis-server to answer", async || {
                ended.set(child_ref.borrow_mut().try_wait().unwrap().is_some());
                ended.get() || asked(&client, &["INFO", "server"]).await.is_ok_and(|says| said(says).contains(&own))
            })
            .await;
            if !ended.get() {
                return Self { child, _dir: dir, port, url, client };
            }
        }
        panic!("{server:?} finds no port");
    }

    pub fn access(&self, user: Option<User>) -> RedisAccess {
        RedisAccess::by_url(&self.url, user).unwrap()
    }

    pub fn address(&self) -> RedisAddress {
        RedisAddress::Tcp { host: "127.0.0.1".into(), port: self.port }
    }

    /// The fleet's slots are taken at once: its line of masters is none that has just come to be.
    pub async fn known_for_long(&self) {
        self.ask(&["EVAL", KNOWN_FOR_LONG, "1", "unwait:line:{unwait:slots}"]).await;
    }

    pub async fn try_ask(&self, words: &[&str]) -> redis::RedisResult<redis::Value> {
        asked(&self.client, words).await
    }

    pub async fn ask(&self, words: &[&str]) -> redis::Value {
        self.try_ask(words).await.unwrap()
    }

    pub async fn says(&self, words: &[&str]) -> String {
        said(self.ask(words).await)
    }

    pub async fn field(&self, hash: &str, field: &str) -> Option<String> {
        redis::from_redis_value(self.ask(&["HGET", hash, field]).await).unwrap()
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }
}

impl Drop for TestRedis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn asked(client: &redis::Client, words: &[&str]) -> redis::RedisResult<redis::Value> {
    let mut connection = client.get_multiplexed_async_connection().await?;
    let mut command = redis::cmd(words[0]);
    command.arg(&words[1..]);
    command.query_async(&mut connection).await
}

fn said(value: redis::Value) -> String {
    redis::from_redis_value(value).unwrap()
}

/// How a master goes.
#[derive(Clone, Copy, Debug)]
pub enum Goes {
    Killed,
    /// It comes back by [`TestSentinels::back`], and believes itself the master.
    Paused,
    Planned,
}

/// A master, two replicas, three sentinels that replace it after a second.
#[derive(Debug)]
pub struct TestSentinels {
    pub servers: Vec<TestRedis>,
    pub sentinels: Vec<TestRedis>,
    _state: tempfile::TempDir,
}

pub const MASTER: &str = "mymaster";

impl TestSentinels {
    pub async fn start(make: Make) -> Self {
        Self::start_with(make, |_| Vec::new()).await
    }

    /// `more` are further arguments of the n-th sentinel.
    pub async fn start_with(make: Make, more: impl Fn(usize) -> Vec<String>) -> Self {
        let state = tempfile::tempdir().unwrap();
        let master = TestRedis::started(make, &["--repl-diskless-sync-delay", "0"]).await;
        let port = master.port.to_string();
        let mut servers = vec![master];
        for _ in 0..2 {
            let more = ["--repl-diskless-sync-delay", "0", "--replicaof", "127.0.0.1", &port];
            servers.push(TestRedis::started(make, &more).await);
        }
        wait_for("the replicas", async || {
            servers[0].says(&["INFO", "replication"]).await.matches("state=online").count() == 2
        })
        .await;
        let mut sentinels = Vec::new();
        for nth in 0..3 {
            let file = state.path().join(format!("sentinel-{nth}.conf"));
            let settings = format!(
                "sentinel monitor {MASTER} 127.0.0.1 {port} 2\nsentinel down-after-milliseconds {MASTER} 1000\n\
                 sentinel failover-timeout {MASTER} 6000\nsentinel parallel-syncs {MASTER} 2\n"
            );
            std::fs::write(&file, settings).unwrap();
            let mut sentinel = make.command();
            sentinel.arg(file).arg("--sentinel").args(more(nth));
            sentinels.push(TestRedis::listening(sentinel).await);
        }
        let all = Self { servers, sentinels, _state: state };
        all.settled().await;
        all
    }

    /// Each sentinel knows the others, and two replicas that follow the master.
    pub async fn settled(&self) {
        wait_for("the sentinels to know each other", async || {
            for sentinel in &self.sentinels {
                let known = sentinel.says(&["INFO", "sentinel"]).await;
                if !known.contains("status=ok") || !known.contains("slaves=2,sentinels=3") {
                    return false;
                }
            }
            true
        })
        .await;
    }

    pub fn access(&self) -> RedisAccess {
        let sentinels = self.sentinels.iter().map(TestRedis::address).collect();
        let at = RedisAt::Sentinels { sentinels, master: MASTER.into() };
        RedisAccess::to(RedisServers { at, database: 0 })
    }

    /// Whom each of the sentinels names.
    async fn named(&self) -> Vec<u16> {
        let mut named = Vec::new();
        for sentinel in &self.sentinels {
            let answer = sentinel.ask(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER]).await;
            named.push(redis::from_redis_value::<(String, u16)>(answer).unwrap().1);
        }
        named
    }

    /// The master that all sentinels name.
    pub async fn master(&self) -> &TestRedis {
        let found = Cell::new(0);
        wait_for("the sentinels to agree", async || {
            let named = self.named().await;
            found.set(named[0]);
            named.iter().all(|port| *port == found.get())
        })
        .await;
        self.servers.iter().find(|server| server.port == found.get()).unwrap()
    }

    /// The replicas have something else than the master, as if they had never got its last writes: in one go, `script` with this
    /// key.
    pub async fn replicas_lack(&self, script: &str, key: &str) {
        let master = self.master().await.port;
        for server in self.servers.iter().filter(|server| server.port != master) {
            if server.try_ask(&["CONFIG", "SET", "replica-read-only", "no"]).await.is_ok() {
                server.ask(&["EVAL", script, "1", key]).await;
                server.ask(&["CONFIG", "SET", "replica-read-only", "yes"]).await;
            }
        }
    }

    /// Ends the master's rule; the new one is not waited for.
    pub async fn go(&self, how: Goes) -> &TestRedis {
        let master = self.master().await;
        match how {
            Goes::Killed => master.signal(Signal::SIGKILL),
            Goes::Paused => master.signal(Signal::SIGSTOP),
            Goes::Planned => drop(self.sentinels[0].ask(&["SENTINEL", "FAILOVER", MASTER]).await),
        }
        master
    }

    /// All sentinels name another master than this one.
    pub async fn replaced(&self, former: &TestRedis) -> &TestRedis {
        wait_for("another master", async || self.named().await.iter().all(|port| *port != former.port)).await;
        self.master().await
    }
}

/// The masters of a Cluster; behind them, where it has such, a replica of each in the same order.
#[derive(Debug)]
pub struct TestCluster {
    pub nodes: Vec<TestRedis>,
}

fn cluster_node(bus: &str) -> [&str; 8] {
    let timeout = ["--cluster-node-timeout", "2000", "--cluster-replica-validity-factor", "0"];
    ["--cluster-enabled", "yes", "--cluster-port", bus, timeout[0], timeout[1], timeout[2], timeout[3]]
}

impl TestCluster {
    /// Three, a third of the slots each.
    pub async fn start(make: Make) -> Self {
        let buses: [u16; 3] = free_ports();
        Self::of(make, &buses, &[["0", "5460"], ["5461", "10922"], ["10923", "16383"]]).await
    }

    /// The same, and a replica of each, which takes its place some seconds after it is gone, however old its data are.
    pub async fn start_with_replicas(make: Make) -> Self {
        let mut cluster = Self::start(make).await;
        for (nth, bus) in free_ports::<3>().into_iter().enumerate() {
            let bus = bus.to_string();
            let more = [&cluster_node(&bus)[..], &["--repl-diskless-sync-delay", "0"]].concat();
            let replica = TestRedis::started(make, &more).await;
            let master = cluster.id(nth).await;
            cluster.nodes[0].ask(&["CLUSTER", "MEET", "127.0.0.1", &replica.port.to_string(), &bus]).await;
            let is_one = async || replica.try_ask(&["CLUSTER", "REPLICATE", &master]).await.is_ok();
            wait_for("the replica to know its master", is_one).await;
            cluster.nodes.push(replica);
        }
        wait_for("the replicas", async || {
            for node in &cluster.nodes {
                let (knows, says) = (node.says(&["CLUSTER", "NODES"]).await, node.says(&["INFO", "replication"]).await);
                let copied = says.contains("master_link_status:up") || says.contains("state=online");
                if knows.matches(" slave ").count() + knows.matches(",slave ").count() != 3 || !copied {
                    return false;
                }
            }
            true
        })
        .await;
        cluster
    }

    /// Ends the rule of the n-th of three masters; its replica rules then, and the others know it.
    pub async fn goes(&self, nth: usize, how: Goes) {
        let replica = &self.nodes[nth + 3];
        match how {
            Goes::Killed => self.nodes[nth].signal(Signal::SIGKILL),
            Goes::Paused => self.nodes[nth].signal(Signal::SIGSTOP),
            Goes::Planned => drop(replica.ask(&["CLUSTER", "FAILOVER"]).await),
        }
        let port = format!(":{}@", replica.port);
        wait_for("the replica to rule", async || {
            for other in (0..3).filter(|other| *other != nth) {
                let known = self.nodes[other].says(&["CLUSTER", "NODES"]).await;
                let rules = known.lines().any(|line| line.contains(&port) && line.contains("master"));
                let is_whole = self.nodes[other].says(&["CLUSTER", "INFO"]).await.contains("cluster_state:ok");
                if !rules || !is_whole {
                    return false;
                }
            }
            true
        })
        .await;
    }

    /// Which of three masters has had the slot of this key from the start.
    pub async fn at(&self, key: &str) -> (u16, usize) {
        let slot: u16 = redis::from_redis_value(self.nodes[0].ask(&["CLUSTER", "KEYSLOT", key]).await).unwrap();
        (slot, (0..3).find(|nth| slot <= [5460, 10922, 16383][*nth]).unwrap())
    }

    /// One that has all slots: the rules of a Cluster, and one server to look at.
    pub async fn start_alone(make: Make) -> Self {
        let buses: [u16; 1] = free_ports();
        Self::of(make, &buses, &[["0", "16383"]]).await
    }

    async fn of(make: Make, buses: &[u16], ranges: &[[&str; 2]]) -> Self {
        let mut nodes = Vec::new();
        for bus in buses {
            let bus = bus.to_string();
            nodes.push(TestRedis::started(make, &cluster_node(&bus)).await);
        }
        for (nth, slots) in ranges.iter().enumerate() {
            let (port, bus) = (nodes[nth].port.to_string(), buses[nth].to_string());
            nodes[nth].ask(&["CLUSTER", "ADDSLOTSRANGE", slots[0], slots[1]]).await;
            nodes[nth].ask(&["CLUSTER", "SET-CONFIG-EPOCH", &(nth + 1).to_string()]).await;
            nodes[0].ask(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus]).await;
        }
        let all = format!("cluster_known_nodes:{}\r", nodes.len());
        wait_for("the Cluster", async || {
            for node in &nodes {
                let says = node.says(&["CLUSTER", "INFO"]).await;
                if !says.contains("cluster_state:ok") || !says.contains(&all) {
                    return false;
                }
            }
            true
        })
        .await;
        Self { nodes }
    }

    async fn id(&self, nth: usize) -> String {
        self.nodes[nth].says(&["CLUSTER", "MYID"]).await
    }

    /// The slot's keys go from one node to another, and `meanwhile` is played when it has moved half-way: the keys that are
    /// there have gone, and the slot has not.
    pub async fn move_slot(&self, slot: u16, [from, to]: [usize; 2], meanwhile: impl Future<Output = ()>) {
        let (name, ids) = (slot.to_string(), [self.id(from).await, self.id(to).await]);
        self.nodes[to].ask(&["CLUSTER", "SETSLOT", &name, "IMPORTING", &ids[0]]).await;
        self.nodes[from].ask(&["CLUSTER", "SETSLOT", &name, "MIGRATING", &ids[1]]).await;
        let keys = self.nodes[from].ask(&["CLUSTER", "GETKEYSINSLOT", &name, "1000"]).await;
        let port = self.nodes[to].port.to_string();
        for key in redis::from_redis_value::<Vec<String>>(keys).unwrap() {
            self.nodes[from].ask(&["MIGRATE", "127.0.0.1", &port, &key, "0", "5000"]).await;
        }
        meanwhile.await;
        for node in [to, from] {
            self.nodes[node].ask(&["CLUSTER", "SETSLOT", &name, "NODE", &ids[1]]).await;
        }
    }

    /// By all of them: some may be gone.
    pub fn access_by_all(&self) -> RedisAccess {
        let nodes = self.nodes.iter().map(TestRedis::address).collect();
        RedisAccess::to(RedisServers { at: RedisAt::Cluster { nodes }, database: 0 })
    }

    pub fn access(&self) -> RedisAccess {
        // One of them: the others are found by what it says.
        let at = RedisAt::Cluster { nodes: vec![self.nodes[0].address()] };
        RedisAccess::to(RedisServers { at, database: 0 })
    }
}

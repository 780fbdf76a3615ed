//! A real redis-server for the tests beside the adapters: own port, keeps nothing, ended by its pid.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use super::installed::{installed, redis_server};
use super::testing_consul::{free_ports, wait_for};

#[derive(Debug)]
pub struct TestRedis {
    child: Child,
    pub url: String,
    client: redis::Client,
}

impl TestRedis {
    pub async fn start() -> Self {
        let mut server = Command::new(redis_server());
        server.arg0("redis-server");
        Self::of(server).await
    }

    /// Of those that know what came after Redis 7.2.
    pub async fn start_valkey() -> Self {
        Self::of(Command::new(installed("valkey-9.1.2").join("bin/valkey-server"))).await
    }

    async fn of(mut server: Command) -> Self {
        let [port] = free_ports();
        let child = server
            .args(["--port", &port.to_string()])
            .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", "/"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{server:?}: {error}: `tests/run` installs redis-tools"));
        let url = format!("redis://127.0.0.1:{port}");
        let client = redis::Client::open(url.as_str()).unwrap();
        let redis = Self { child, url, client };
        wait_for("redis-server to answer", async || redis.try_ask(&["PING"]).await.is_ok()).await;
        redis
    }

    async fn try_ask(&self, words: &[&str]) -> redis::RedisResult<redis::Value> {
        let mut connection = self.client.get_multiplexed_async_connection().await?;
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        command.query_async(&mut connection).await
    }

    pub async fn ask(&self, words: &[&str]) -> redis::Value {
        self.try_ask(words).await.unwrap()
    }

    pub async fn field(&self, hash: &str, field: &str) -> Option<String> {
        redis::from_redis_value(self.ask(&["HGET", hash, field]).await).unwrap()
    }
}

impl Drop for TestRedis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

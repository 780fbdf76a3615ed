//! A real nginx for the tests beside the adapters: own port and files, ended by its pid.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::net::TcpStream;

use super::installed::installed;
use super::testing_consul::{free_ports, wait_for};

pub struct TestNginx {
    child: Child,
    directory: tempfile::TempDir,
    pub port: u16,
}

impl TestNginx {
    /// One server whose block is this; these upstreams stand in a file of their own.
    pub async fn start(upstreams: &str, block: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let [port] = free_ports();
        let here = directory.path().display();
        std::fs::write(directory.path().join("upstreams.conf"), upstreams).unwrap();
        let config = format!(
            "daemon off;\nuser root;\npid {here}/nginx.pid;\nerror_log {here}/error.log;\nevents {{}}\n\
             http {{\n  access_log off;\n  client_body_temp_path {here}/1;\n  proxy_temp_path {here}/2;\n  \
             fastcgi_temp_path {here}/3;\n  uwsgi_temp_path {here}/4;\n  scgi_temp_path {here}/5;\n  \
             include {here}/upstreams.conf;\n  server {{\n    listen 127.0.0.1:{port};\n    {block}\n  }}\n}}\n"
        );
        std::fs::write(directory.path().join("nginx.conf"), config).unwrap();
        let child = Command::new(installed("nginx").join("usr/sbin/nginx"))
            .args(["-p", &here.to_string(), "-e", &format!("{here}/error.log"), "-c"])
            .arg(directory.path().join("nginx.conf"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let nginx = Self { child, directory, port };
        wait_for("nginx to answer", async || TcpStream::connect(("127.0.0.1", port)).await.is_ok()).await;
        nginx
    }

    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// What a client is answered.
    pub async fn get(&self, path: &str) -> (u16, String) {
        let client =
            reqwest::Client::builder().no_proxy().tls_certs_only([]).pool_max_idle_per_host(0).build().unwrap();
        let answer = client.get(format!("http://127.0.0.1:{}{path}", self.port)).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }
}

impl Drop for TestNginx {
    fn drop(&mut self) {
        // By SIGTERM the master ends its workers too.
        let _ = kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM);
        let _ = self.child.wait();
    }
}

//! `discover` over a real Consul that asks a service's health by HTTP.

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::discover::{discover, yaml};
use super::testing::wire;
use crate::ports::testing_consul::TestConsul;

#[tokio::test]
async fn the_http_check_that_consul_has_tried_is_proposed_also_while_it_fails() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 4096]).await;
            let answer = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\nConnection: close\r\n\r\nill\n";
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    let (consul, dir) = (TestConsul::start().await, tempfile::tempdir().unwrap());
    let host_file = format!(
        "registries: {{ consul: {{ url: \"{}\" }} }}\n\
         services: [{{ service: \"process:rpc-order\", match: {{ ports: [{port}] }} }}]\n",
        consul.url
    );
    let wiring = wire(dir.path(), &host_file, "process:rpc-order", "snapshot");
    let url = format!("http://127.0.0.1:{port}/health?deep=1");
    let check = json!({ "HTTP": url, "Interval": "200ms", "Timeout": "5s" });
    let service =
        json!({ "ID": "rpc-order-1", "Name": "rpc-order", "Address": "127.0.0.1", "Port": port, "Check": check });
    consul.put("/v1/agent/service/register", service.to_string()).await;

    let untried = yaml(&discover(&wiring, false).await.unwrap());
    consul
        .wait_for("the check to be tried", async || consul.get("/v1/agent/checks").await.to_string().contains("503"))
        .await;
    let tried = yaml(&discover(&wiring, false).await.unwrap());

    assert!(untried.contains("id: \"rpc-order-1\""), "{untried}");
    assert!(tried.contains(&format!("health: {{ http: \"{url}\" }}")), "{tried}");
}

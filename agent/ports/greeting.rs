//! A connection, and nothing said on it: what `unwait check --ask` does to a server that is only ever written to.

use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::http::{self, Via};
use crate::model::duration;

/// In TLS 1.3 a server that refuses a client says so after the handshake: so long it is listened to.
const LISTENED: Duration = Duration::from_millis(300);
/// Of a proxy's answer, in bytes.
const MOST: u64 = 16 << 10;

/// Connects as a request to `url` would, by the proxy and TLS that it would take, and hangs up. No error shows the url.
pub async fn greet(url: &str, via: &Via, deadline: Duration) -> Result<(), String> {
    let url = http::address(url)?;
    let (host, port) = (url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or(443));
    let greeted = async {
        let stream = match &via.proxy {
            None => connect(host, port).await?,
            Some(proxy) => tunnel(proxy, host, port).await?,
        };
        if url.scheme() != "https" {
            return Ok(());
        }
        let mut stream = via.tls.connect(stream, host).await.map_err(|failure| failure.words)?;
        match tokio::time::timeout(LISTENED, stream.read_u8()).await {
            Ok(Err(error)) => via.tls.failed(&error).map_or(Ok(()), |failure| Err(failure.words)),
            Ok(Ok(_)) | Err(_) => Ok(()),
        }
    };
    let silent = || Err(format!("no answer within {}", duration::format(deadline)));
    tokio::time::timeout(deadline, greeted).await.unwrap_or_else(|_| silent())
}

async fn connect(host: &str, port: u16) -> Result<TcpStream, String> {
    let name = host.trim_start_matches('[').trim_end_matches(']');
    TcpStream::connect((name, port)).await.map_err(|error| error.to_string())
}

/// By `CONNECT` (RFC 9110, section 9.3.6).
async fn tunnel(proxy: &str, host: &str, port: u16) -> Result<TcpStream, String> {
    let address = http::address(proxy)?;
    let (at, its_port) = (address.host_str().unwrap_or_default(), address.port_or_known_default().unwrap_or(80));
    let through = |why: String| format!("through the proxy {at}:{its_port}: {why}");
    let mut stream = connect(at, its_port).await.map_err(through)?;
    let asked = async {
        let request = format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        // A byte at a time, so that none of what comes behind the answer is taken.
        let mut answer = BufReader::with_capacity(1, &mut stream).take(MOST);
        let (mut status, mut line) = (String::new(), String::new());
        answer.read_line(&mut status).await?;
        while answer.read_line(&mut line).await? > 2 {
            line.clear();
        }
        std::io::Result::Ok(status)
    };
    let status = asked.await.map_err(|error| through(error.to_string()))?;
    match status.split_whitespace().nth(1) {
        Some("200") => Ok(stream),
        _ => Err(through(format!("it answers {:?} to CONNECT", status.trim()))),
    }
}

//! The demo's "chat": a webhook receiver on loopback, so that somebody is told.
//!
//! One request a connection, answered 204; enough of HTTP/1.1 for a client that sends a Content-Length.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::model::Message;

/// A message is some hundred bytes.
const MAX_REQUEST_BYTES: usize = 64 << 10;
const READ_WITHIN: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub struct Chat {
    pub at: SocketAddr,
    told: Arc<Mutex<Vec<String>>>,
    receiver: JoinHandle<()>,
}

impl Chat {
    pub async fn open() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let at = listener.local_addr()?;
        let told = Arc::<Mutex<Vec<String>>>::default();
        let write = Arc::clone(&told);
        let receiver = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                if let Ok(Ok(message)) = tokio::time::timeout(READ_WITHIN, receive(stream)).await {
                    write.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(message.title);
                }
            }
        });
        Ok(Self { at, told, receiver })
    }

    /// The head of each message, in the order of their coming.
    pub fn told(&self) -> Vec<String> {
        self.told.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }
}

impl Drop for Chat {
    fn drop(&mut self) {
        self.receiver.abort();
    }
}

async fn receive(mut stream: TcpStream) -> io::Result<Message> {
    let mut request = Vec::new();
    let body = loop {
        if let Some(body) = body(&request) {
            break serde_json::from_slice(body)?;
        }
        if request.len() > MAX_REQUEST_BYTES || stream.read_buf(&mut request).await? == 0 {
            return Err(io::ErrorKind::InvalidData.into());
        }
    };
    stream.write_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n").await?;
    Ok(body)
}

/// The body, once all of it has come.
fn body(request: &[u8]) -> Option<&[u8]> {
    let end_of_head = request.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&request[..end_of_head]).ok()?;
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    })?;
    request[end_of_head + 4..].get(..length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_read_when_all_of_it_has_come() {
        for (request, expected) in [
            ("POST / HTTP/1.1\r\ncontent-length: 2\r\n\r\n{}", Some("{}")),
            ("POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\n{}", None),
            ("POST / HTTP/1.1\r\nContent-Length: 2\r\n", None),
            ("POST / HTTP/1.1\r\nHost: a\r\n\r\n{}", None),
        ] {
            assert_eq!(body(request.as_bytes()), expected.map(str::as_bytes), "{request:?}");
        }
    }
}

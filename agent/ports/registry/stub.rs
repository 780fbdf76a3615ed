//! Just enough of an HTTP server for registries that cannot be had here: a question, an answer, and the end.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::clock::{Clock, SystemClock};

#[derive(Clone)]
pub(super) struct Request {
    pub method: String,
    /// As it was asked, without what follows the `?`.
    pub path: String,
    pub query: BTreeMap<String, String>,
    /// In lower case, with their values as they came.
    pub headers: BTreeMap<String, String>,
    pub body: String,
}

impl Request {
    fn read(head: &str, body: &str) -> Self {
        let mut lines = head.lines();
        let mut words = lines.next().unwrap().split(' ');
        let (method, target) = (words.next().unwrap().to_owned(), words.next().unwrap());
        let url = reqwest::Url::parse(&format!("http://stub{target}")).unwrap();
        let query = url.query_pairs().into_owned().collect();
        let headers = lines.filter_map(|line| line.split_once(": "));
        let headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())).collect();
        Self { method, path: url.path().to_owned(), query, headers, body: body.to_owned() }
    }

    pub fn parameter(&self, name: &str) -> &str {
        self.query.get(name).map_or("", String::as_str)
    }
}

/// Answers each request with a status and a body, for as long as the test lives.
pub(super) async fn serve(answer: impl Fn(&Request) -> (u16, String) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let answer = Arc::new(answer);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let answer = Arc::clone(&answer);
            tokio::spawn(converse(stream, answer));
        }
    });
    address
}

/// How long a change takes from one peer to the other.
const REPLICATED: Duration = Duration::from_millis(500);

/// Two peers behind one address, asked in turn; what the one is told, the other hears of a while later.
pub(super) struct Peers<S> {
    pub servers: [Mutex<S>; 2],
    turn: AtomicUsize,
    /// Changes on their way.
    under_way: AtomicUsize,
}

impl<S: Send + 'static> Peers<S> {
    pub async fn serve(servers: [S; 2], answer: fn(&mut S, &Request) -> (u16, String)) -> (Arc<Self>, SocketAddr) {
        let servers = servers.map(Mutex::new);
        let peers = Arc::new(Self { servers, turn: AtomicUsize::new(0), under_way: AtomicUsize::new(0) });
        let asked = Arc::clone(&peers);
        let address = serve(move |request| {
            let at = asked.turn.fetch_add(1, Ordering::Relaxed) % 2;
            let answered = answer(&mut asked.servers[at].lock().unwrap(), request);
            if request.method != "GET" {
                asked.under_way.fetch_add(1, Ordering::Relaxed);
                let (peers, request) = (Arc::clone(&asked), request.clone());
                tokio::spawn(async move {
                    tokio::time::sleep(REPLICATED).await;
                    answer(&mut peers.servers[1 - at].lock().unwrap(), &request);
                    peers.under_way.fetch_sub(1, Ordering::Relaxed);
                });
            }
            answered
        })
        .await;
        (peers, address)
    }

    pub fn agree(&self) -> bool {
        self.under_way.load(Ordering::Relaxed) == 0
    }
}

/// Two before the same answers: one refuses everything, the other all but reading.
pub(super) async fn refusing(answer: impl Fn(&Request) -> (u16, String) + Send + Sync + 'static) -> [SocketAddr; 2] {
    let refused = || (403, String::new());
    let reading = move |request: &Request| if request.method == "GET" { answer(request) } else { refused() };
    [serve(move |_| refused()).await, serve(reading).await]
}

async fn converse(mut stream: TcpStream, answer: Arc<impl Fn(&Request) -> (u16, String)>) {
    let mut bytes = Vec::new();
    let request = loop {
        if !stream.read_buf(&mut bytes).await.is_ok_and(|read| read > 0) {
            return;
        }
        let text = String::from_utf8(bytes.clone()).unwrap();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let request = Request::read(head, body);
            let length = request.headers.get("content-length").map_or(0, |length| length.parse().unwrap());
            if body.len() >= length {
                break request;
            }
        }
    };
    let (status, body) = answer(&request);
    let date = jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&SystemClock.now()).unwrap();
    let length = body.len();
    let head = format!("HTTP/1.1 {status} .\r\ndate: {date}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
    let _ = stream.write_all(format!("{head}{body}").as_bytes()).await;
}

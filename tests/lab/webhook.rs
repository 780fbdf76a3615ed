//! A webhook receiver inside the lab's network that remembers every request and answers as it is told.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::socket::{Shutdown, shutdown};

use super::Lab;
use super::deadline::dawdle;
use super::http::{Request, read_request};
use super::net::loopback;

/// What the receiver answers to each request.
#[derive(Debug, Clone)]
pub struct Reply {
    pub status: u16,
    pub body: String,
    /// How long it takes over it.
    pub delay: Duration,
}

impl Reply {
    pub fn new(status: u16, body: &str) -> Self {
        Self { status, body: body.to_owned(), delay: Duration::ZERO }
    }
}

/// The receiver. It answers `200 ok` until told otherwise.
pub struct Webhook<'lab> {
    lab: &'lab Lab,
    address: SocketAddr,
    shared: Arc<Shared>,
    listening: Option<Listening>,
}

struct Shared {
    requests: Mutex<Vec<Request>>,
    arrived: Condvar,
    reply: Mutex<Reply>,
}

struct Listening {
    listener: Arc<TcpListener>,
    thread: JoinHandle<()>,
}

impl<'lab> Webhook<'lab> {
    pub fn start(lab: &'lab Lab) -> Self {
        let shared =
            Shared { requests: Mutex::default(), arrived: Condvar::new(), reply: Mutex::new(Reply::new(200, "ok")) };
        let mut webhook = Self { lab, address: loopback(0), shared: Arc::new(shared), listening: None };
        webhook.listen();
        webhook
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Answers like this from now on.
    pub fn reply_with(&self, reply: Reply) {
        *self.shared.reply.lock().expect("no thread panicked with it") = reply;
    }

    /// Stops listening: connections are refused by the kernel.
    pub fn refuse(&mut self) {
        if let Some(Listening { listener, thread }) = self.listening.take() {
            shutdown(listener.as_raw_fd(), Shutdown::Both).expect("a listener can be shut down");
            thread.join().expect("the receiver's thread does not panic");
        }
    }

    /// Listens again on the same port after [`Webhook::refuse`].
    pub fn listen(&mut self) {
        self.refuse();
        let listener = self.lab.network().listen(self.address).expect("a port in the lab");
        self.address = listener.local_addr().expect("a listener has an address");
        let listener = Arc::new(listener);
        let (accepting, shared) = (Arc::clone(&listener), Arc::clone(&self.shared));
        let thread = std::thread::spawn(move || {
            // Ends when `refuse` shuts the listener down.
            while let Ok((stream, _)) = accepting.accept() {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || {
                    if let Err(error) = shared.answer(stream) {
                        eprintln!("webhook: {error}");
                    }
                });
            }
        });
        self.listening = Some(Listening { listener, thread });
    }

    /// All requests so far, in the order of arrival.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.requests().clone()
    }

    /// Waits for a request, past or future, and returns the first that fits.
    ///
    /// # Panics
    /// When none has come by then, with those that have.
    pub fn wait_for(&self, what: &str, deadline: Duration, fits: impl Fn(&Request) -> bool) -> Request {
        let end = Instant::now() + deadline;
        let mut requests = self.shared.requests();
        loop {
            if let Some(found) = requests.iter().find(|request| fits(request)) {
                return found.clone();
            }
            let left = end.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "waited {deadline:?} for a request: {what}; came: {requests:#?}");
            requests = self.shared.arrived.wait_timeout(requests, left).expect("no thread panicked with it").0;
        }
    }
}

impl Drop for Webhook<'_> {
    fn drop(&mut self) {
        self.refuse();
    }
}

impl Shared {
    fn requests(&self) -> MutexGuard<'_, Vec<Request>> {
        self.requests.lock().expect("no thread panicked with it")
    }

    fn answer(&self, mut stream: TcpStream) -> io::Result<()> {
        let request = read_request(&stream)?;
        let reply = self.reply.lock().expect("no thread panicked with it").clone();
        self.requests().push(request);
        self.arrived.notify_all();
        dawdle(reply.delay);
        let Reply { status, body, .. } = reply;
        let length = body.len();
        let answer = format!("HTTP/1.1 {status} Answer\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}");
        stream.write_all(answer.as_bytes())
    }
}

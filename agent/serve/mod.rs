#![doc = include_str!("README.md")]

mod exposition;
mod health;
mod metrics;

#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, oneshot, watch};

use exposition::Exposition;

use crate::view::bulletin::Bulletin;

/// Services of which a bulletin speaks at the most: with every signal some 20 series each.
pub const MOST_SERVICES: usize = 500;

/// Time since boot.
pub type SinceBoot = Arc<dyn Fn() -> Duration + Send + Sync>;

/// What a client may take of us.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    connections: usize,
    /// From the connection to the last byte of the answer.
    within: Duration,
}

const BOUNDS: Bounds = Bounds { connections: 16, within: Duration::from_secs(10) };
/// A request's head.
const HEAD_BYTES: usize = 8 * 1024; // the least that hyper takes
const HEADERS: usize = 64;
/// A port that is taken is tried again.
const BIND_AGAIN: Duration = Duration::from_secs(10);

/// Answers until it is dropped.
#[derive(Debug)]
pub struct Server {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Answers at `listen` from the last bulletin, on a thread of its own.
    ///
    /// # Errors
    /// Where the thread could not be started. An address that cannot be had is told in the log, and tried again.
    pub fn start(
        listen: SocketAddr,
        bulletins: watch::Receiver<Arc<Bulletin>>,
        since_boot: SinceBoot,
    ) -> std::io::Result<Self> {
        Self::start_within(BOUNDS, bind(listen), Answers { bulletins, since_boot })
    }

    fn start_within(
        bounds: Bounds,
        listener: impl Future<Output = TcpListener> + Send + 'static,
        answers: Answers,
    ) -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new().name("unwait-http".into()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = serve(bounds, listener, answers) => {}
                    // Dropped without a word, it means the same.
                    _ = stopped => {}
                }
            });
        })?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        // It waits for nobody but its own sockets, and ends at once: the address is free for the next one.
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn serve(bounds: Bounds, listener: impl Future<Output = TcpListener>, answers: Answers) {
    let listener = listener.await;
    let places = Arc::new(Semaphore::new(bounds.connections));
    loop {
        let place = Arc::clone(&places).acquire_owned().await.expect("nobody closes it");
        match listener.accept().await {
            Ok((stream, _)) => {
                let answers = answers.clone();
                tokio::spawn(async move {
                    // Who is slower than this is let go.
                    let _ = tokio::time::timeout(bounds.within, converse(stream, answers)).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept an HTTP connection: {error}; retrying in 1s");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

async fn bind(listen: SocketAddr) -> TcpListener {
    let mut told = false;
    loop {
        match TcpListener::bind(listen).await {
            Ok(listener) => {
                tracing::info!(%listen, "/metrics, /healthz and /readyz are served on {listen}");
                return listener;
            }
            Err(error) if !told => {
                told = true;
                tracing::error!(
                    %listen,
                    %error,
                    "cannot listen on {listen} (`http: listen`): {error}; /metrics, /healthz and /readyz are not \
                     served, retrying every {}",
                    crate::model::duration::format(BIND_AGAIN),
                );
            }
            Err(_) => {}
        }
        tokio::time::sleep(BIND_AGAIN).await;
    }
}

/// One request and its answer.
async fn converse(stream: TcpStream, answers: Answers) {
    let service = service_fn(move |request: Request<Incoming>| {
        let answer = answers.to(request.method(), request.uri().path());
        async move { Ok::<_, Infallible>(answer) }
    });
    let conversed = http1::Builder::new()
        .keep_alive(false)
        .max_buf_size(HEAD_BYTES)
        .max_headers(HEADERS)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = conversed {
        tracing::debug!(%error, "an HTTP connection ended early: {error}");
    }
}

#[derive(Clone)]
struct Answers {
    bulletins: watch::Receiver<Arc<Bulletin>>,
    since_boot: SinceBoot,
}

impl Answers {
    fn to(&self, method: &Method, path: &str) -> Response<Full<Bytes>> {
        if method != Method::GET && method != Method::HEAD {
            let mut refused = answer(StatusCode::METHOD_NOT_ALLOWED, PLAIN, "GET and HEAD only\n");
            refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return refused;
        }
        let bulletin = Arc::clone(&self.bulletins.borrow());
        let verdict = |verdict: Result<(), String>| match verdict {
            Ok(()) => answer(StatusCode::OK, PLAIN, "ok\n"),
            Err(why) => answer(StatusCode::SERVICE_UNAVAILABLE, PLAIN, format!("{why}\n")),
        };
        match path {
            "/metrics" => answer(StatusCode::OK, Exposition::CONTENT_TYPE, metrics::text(&bulletin)),
            "/healthz" => verdict(health::alive(&bulletin, (self.since_boot)())),
            "/readyz" => verdict(health::ready(&bulletin, (self.since_boot)())),
            _ => answer(StatusCode::NOT_FOUND, PLAIN, "here are /metrics, /healthz and /readyz\n"),
        }
    }
}

const PLAIN: &str = "text/plain; charset=utf-8";

/// For a HEAD, hyper sends the same headers and no body.
fn answer(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
}

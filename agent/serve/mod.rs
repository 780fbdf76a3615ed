#![doc = include_str!("README.md")]

mod address;
mod answer;
mod api;
mod assets;
mod desk;
mod door;
mod exposition;
mod health;
mod metrics;
mod pages;
mod shelf;

#[cfg(test)]
mod api_tests;
#[cfg(test)]
mod chromium_tests;
#[cfg(test)]
mod fixture;
#[cfg(test)]
mod html_check;
#[cfg(test)]
mod page_tests;
#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, oneshot, watch};

use crate::clock::Clock;
use crate::store::Store;
use crate::view::bulletin::Bulletin;
use desk::Desk;

/// Services of which a bulletin speaks at the most: with every signal some 20 series each.
pub const MOST_SERVICES: usize = 500;

/// What is served, and to whom.
#[derive(Clone)]
pub struct Served {
    /// This host's name.
    pub host: String,
    /// By which names and addresses browsers may call it besides loopback's and its own address.
    pub hosts: Vec<String>,
    pub bulletins: watch::Receiver<Arc<Bulletin>>,
    pub store: Arc<Store>,
    /// Where the evidence lies.
    pub evidence: PathBuf,
    pub clock: Arc<dyn Clock>,
}

impl std::fmt::Debug for Served {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Served").field("host", &self.host).field("hosts", &self.hosts).finish_non_exhaustive()
    }
}

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
    /// Answers at `listen` from the last bulletin and from the store, on a thread of its own.
    ///
    /// # Errors
    /// Where the thread could not be started. An address that cannot be had is told in the log, and tried again.
    pub fn start(listen: SocketAddr, served: Served) -> std::io::Result<Self> {
        Self::start_within(BOUNDS, bind(listen), served)
    }

    fn start_within(
        bounds: Bounds,
        listener: impl Future<Output = TcpListener> + Send + 'static,
        served: Served,
    ) -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
        let (stop, stopped) = oneshot::channel();
        let desk = Arc::new(Desk::new(served));
        let thread = std::thread::Builder::new().name("unwait-http".into()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = serve(bounds, listener, desk) => {}
                    // Dropped without a word, it means the same.
                    _ = stopped => {}
                }
            });
            // A disk that hangs keeps the threads that read it, and nobody waits for those.
            runtime.shutdown_background();
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

async fn serve(bounds: Bounds, listener: impl Future<Output = TcpListener>, desk: Arc<Desk>) {
    let listener = listener.await;
    let places = Arc::new(Semaphore::new(bounds.connections));
    loop {
        let place = Arc::clone(&places).acquire_owned().await.expect("nobody closes it");
        match listener.accept().await {
            Ok((stream, _)) => {
                let desk = Arc::clone(&desk);
                tokio::spawn(async move {
                    // Who is slower than this is let go.
                    let _ = tokio::time::timeout(bounds.within, converse(stream, desk)).await;
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
                tracing::info!(%listen, "the status page, /metrics, /healthz and /readyz are served on {listen}");
                return listener;
            }
            Err(error) if !told => {
                told = true;
                tracing::error!(
                    %listen,
                    %error,
                    "cannot listen on {listen} (`http: listen`): {error}; the status page, /metrics, /healthz and \
                     /readyz are not served, retrying every {}",
                    crate::model::duration::format(BIND_AGAIN),
                );
            }
            Err(_) => {}
        }
        tokio::time::sleep(BIND_AGAIN).await;
    }
}

/// One request and its answer.
async fn converse(stream: TcpStream, desk: Arc<Desk>) {
    let Ok(local) = stream.local_addr() else { return };
    let service = service_fn(move |request: Request<Incoming>| {
        let desk = Arc::clone(&desk);
        async move { Ok::<_, Infallible>(answer::to(&desk, &request, local).await) }
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

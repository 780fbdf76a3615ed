//! The state, opened; where the disk does not let it, or hangs, people are told, and it is tried again until it does.
//!
//! An agent that merely ended here would be started again and again, and nobody would hear of it: what a former one had
//! drained would stay out of traffic untold.

use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::ErrorCode;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::control::{self, Listening};
use super::duties::{delivery, messages};
use crate::config::Diagnostics;
use crate::model::Message;
use crate::store::{Access, StateDir, StateDirError, Store, StoreError};
use crate::wiring::{Wiring, WiringError};

/// How often a state that cannot be opened is tried again, and how long it may take before it is said to hang.
const AGAIN: Duration = Duration::from_secs(5);

/// What an agent holds for as long as it runs.
#[derive(Debug)]
pub(crate) struct Opened {
    pub directory: StateDir,
    pub store: Arc<Store>,
    pub control: Listening,
}

/// Opens the state directory, the store in it and the control socket, as soon as the disk lets it; `None` where the agent
/// is asked to end before.
///
/// # Errors
/// At once, where waiting does not help: another agent holds the directory, its permissions are wrong, a newer version
/// wrote the file.
pub(crate) async fn open(wiring: &Wiring, mut stop: watch::Receiver<bool>) -> Result<Option<Opened>, RunError> {
    let clock = &wiring.host.clock;
    let mut attempt = Attempt::begin(wiring);
    let mut waiting: Option<(Waiting<'_>, Duration)> = None;
    loop {
        let outcome = tokio::select! {
            outcome = attempt.outcome() => outcome,
            _ = stop.wait_for(|stop| *stop) => {
                if let Some((waiting, _)) = waiting {
                    waiting.end().await;
                }
                return Ok(None);
            }
        };
        let error = match outcome {
            Ok(opened) => {
                if let Some((waiting, _)) = waiting {
                    waiting.tell(messages::state_again(wiring));
                    waiting.end().await;
                }
                return Ok(Some(opened));
            }
            Err(error) if error.is_of_the_disk() => error,
            Err(error) => return Err(error),
        };
        let now = clock.monotonic();
        let (waiting, told) = match &mut waiting {
            Some(waiting) => waiting,
            None => {
                let (waiting, _) = waiting.insert((Waiting::of(wiring)?, now));
                waiting.tell(messages::no_state(wiring, &error));
                continue;
            }
        };
        if now.saturating_sub(*told) >= wiring.config.host.remind {
            waiting.tell(messages::no_state(wiring, &error));
            *told = now;
        }
    }
}

/// To open the state, again and again; on a thread that a disk may let hang.
struct Attempt {
    wiring: Wiring,
    opening: JoinHandle<Result<Opened, RunError>>,
    began: Instant,
    has_failed: bool,
}

impl Attempt {
    fn begin(wiring: &Wiring) -> Self {
        Self { wiring: wiring.clone(), opening: opened_apart(wiring.clone()), began: Instant::now(), has_failed: false }
    }

    /// What became of it, or that it still hangs; asked again after an error, it waits, and begins anew where it had ended.
    async fn outcome(&mut self) -> Result<Opened, RunError> {
        if self.has_failed {
            tokio::time::sleep(AGAIN).await;
            self.opening = opened_apart(self.wiring.clone());
            (self.began, self.has_failed) = (Instant::now(), false);
        }
        match tokio::time::timeout(AGAIN, &mut self.opening).await {
            Ok(ended) => {
                let opened = ended.unwrap_or_else(|panicked| std::panic::resume_unwind(panicked.into_panic()));
                self.has_failed = opened.is_err();
                opened
            }
            Err(_) => {
                let (path, lasts) = (StateDir::database_of(&self.wiring.config.host.state), self.began.elapsed());
                let lasts = Duration::from_secs(lasts.as_secs());
                Err(StoreError::Hangs { path, access: Access::Read, lasts }.into())
            }
        }
    }
}

fn opened_apart(wiring: Wiring) -> JoinHandle<Result<Opened, RunError>> {
    tokio::task::spawn_blocking(move || open_now(&wiring))
}

fn open_now(wiring: &Wiring) -> Result<Opened, RunError> {
    let state = &wiring.config.host.state;
    let directory = StateDir::take(state)?;
    let store = Arc::new(Store::open_or_set_aside(&directory.database(), Arc::clone(&wiring.host.clock))?);
    let control = control::listen(state).map_err(RunError::Control)?;
    Ok(Opened { directory, store, control })
}

/// An outbox in memory: there is no other.
struct Waiting<'a> {
    wiring: &'a Wiring,
    store: Arc<Store>,
    delivery: delivery::Delivery,
}

impl<'a> Waiting<'a> {
    fn of(wiring: &'a Wiring) -> Result<Self, StoreError> {
        let store = Arc::new(Store::open_with(Path::new(":memory:"), Arc::clone(&wiring.host.clock))?);
        let delivery = delivery::Delivery::start(delivery::of(wiring, &store));
        Ok(Self { wiring, store, delivery })
    }

    fn tell(&self, message: Message) {
        self.store.tell(&self.wiring.audience, std::slice::from_ref(&message));
        (self.wiring.host.on_message)(&message);
    }

    /// What is not delivered by then is in the log alone.
    async fn end(self) {
        self.delivery.end(delivery::LAST).await;
    }
}

/// Why the agent does not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("{0}")]
    Config(Diagnostics),
    #[error(transparent)]
    Wiring(#[from] WiringError),
    #[error(transparent)]
    StateDir(#[from] crate::store::StateDirError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the control socket: {0}")]
    Control(std::io::Error),
    #[error("signals: {0}")]
    Signals(std::io::Error),
}

impl RunError {
    /// Will it pass without a change to the configuration, or by who else runs here?
    fn is_of_the_disk(&self) -> bool {
        match self {
            Self::StateDir(StateDirError::Io { source, .. }) | Self::Control(source) => fails(source),
            Self::Store(StoreError::SetAside { source, .. }) => fails(source),
            Self::Store(StoreError::Hangs { .. }) => true,
            Self::Store(StoreError::Sqlite { source, .. }) => matches!(
                source.sqlite_error_code(),
                Some(ErrorCode::ReadOnly | ErrorCode::DiskFull | ErrorCode::SystemIoFailure | ErrorCode::CannotOpen)
            ),
            _ => false,
        }
    }
}

/// Is it the disk, and not its permissions?
fn fails(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ReadOnlyFilesystem | ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
        || matches!(error.raw_os_error(), Some(libc::EIO | libc::ENODEV | libc::ENXIO | libc::ESTALE))
}

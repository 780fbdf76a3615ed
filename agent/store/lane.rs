//! A connection that one at a time uses, and that nobody waits for longer than a bounded time.
//!
//! A file system that hangs lets a call into the kernel not return, and no signal ends that (state D): the one who made the
//! call is lost until it does. So what may hang in a transaction, its beginning (it locks pages in the shared memory beside
//! the file) and its commit, is carried out by a thread of the lane's own, and whoever asked gives it up after
//! [`GIVEN_UP_AFTER`]. A step that was given up still takes place where the file system comes back: a commit is then in the
//! file although its writer was told an error.

use std::sync::mpsc::{Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use rusqlite::Connection;
use tokio::runtime::{Handle, RuntimeFlavor};

use crate::clock::Clock;

/// From then on a step counts as hanging: a synced write of a busy disk takes less.
pub(super) const GIVEN_UP_AFTER: Duration = Duration::from_secs(5);

/// For so long the one who has the connection has had it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hangs(pub Duration);

type Step = fn(&Connection) -> rusqlite::Result<()>;
type Job = Box<dyn FnOnce() + Send>;

pub(super) struct Lane {
    place: Arc<Place>,
    /// `None`: who uses the connection carries out everything itself, and waits for as long as it takes.
    thread: Option<Sender<Job>>,
}

struct Place {
    stands: Mutex<Standing>,
    is_free: Condvar,
    clock: Arc<dyn Clock>,
}

struct Standing {
    /// `None` while somebody has it.
    connection: Option<Connection>,
    taken: Duration,
}

impl std::fmt::Debug for Lane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lane").finish_non_exhaustive()
    }
}

impl Lane {
    /// In which whoever uses the connection waits for the disk.
    pub fn of(connection: Connection, clock: Arc<dyn Clock>) -> Self {
        let stands = Mutex::new(Standing { connection: Some(connection), taken: Duration::ZERO });
        Self { place: Arc::new(Place { stands, is_free: Condvar::new(), clock }), thread: None }
    }

    /// In which nobody does, where a runtime of several threads is at work: the agent's.
    pub fn with_a_thread(connection: Connection, clock: Arc<dyn Clock>) -> std::io::Result<Self> {
        let mut lane = Self::of(connection, clock);
        if is_of_several_threads() {
            let (jobs, to_do) = channel::<Job>();
            std::thread::Builder::new()
                .name("unwait-store".into())
                .spawn(move || to_do.iter().for_each(|job| job()))?;
            lane.thread = Some(jobs);
        }
        Ok(lane)
    }

    /// The connection, once it is free; not where somebody has had it for too long, unless `patiently`.
    pub fn take(&self, patiently: bool) -> Result<Taken<'_>, Hangs> {
        let mut stands = self.place.lock();
        loop {
            if let Some(connection) = stands.connection.take() {
                stands.taken = self.place.clock.monotonic();
                return Ok(Taken { lane: self, connection: Some(connection), patiently });
            }
            let Hangs(lasts) = self.place.lasts(&stands);
            let left = match (patiently, GIVEN_UP_AFTER.saturating_sub(lasts)) {
                (true, _) => GIVEN_UP_AFTER,
                (false, Duration::ZERO) => return Err(Hangs(lasts)),
                (false, left) => left,
            };
            let waited = self.place.is_free.wait_timeout(stands, left);
            stands = waited.unwrap_or_else(|poisoned| poisoned.into_inner()).0;
        }
    }

    /// The connection, where it is free now.
    pub fn take_if_free(&self) -> Option<Taken<'_>> {
        let mut stands = self.place.lock();
        let connection = stands.connection.take()?;
        stands.taken = self.place.clock.monotonic();
        Some(Taken { lane: self, connection: Some(connection), patiently: false })
    }

    /// Nobody has it now.
    pub fn is_free(&self) -> bool {
        self.place.lock().connection.is_some()
    }

    /// Since when somebody has had it, where that is too long.
    pub fn hangs(&self) -> Option<Hangs> {
        let stands = self.place.lock();
        let Hangs(lasts) = self.place.lasts(&stands);
        (stands.connection.is_none() && lasts >= GIVEN_UP_AFTER).then_some(Hangs(lasts))
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        let Some(connection) = self.place.lock().connection.take() else { return };
        let (closed, is_closed) = sync_channel(1);
        let close = move || {
            drop(connection);
            let _ = closed.send(());
        };
        if thread.send(Box::new(close)).is_ok() {
            let _ = apart(|| is_closed.recv_timeout(GIVEN_UP_AFTER));
        }
    }
}

impl Place {
    fn lock(&self) -> MutexGuard<'_, Standing> {
        self.stands.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn lasts(&self, stands: &Standing) -> Hangs {
        Hangs(self.clock.monotonic().saturating_sub(stands.taken))
    }

    /// What was begun and not committed is not done.
    fn put_back(&self, connection: Connection) {
        if !connection.is_autocommit() {
            // Where even that fails, the next beginning does and says so.
            let _ = connection.execute_batch("ROLLBACK");
        }
        self.lock().connection = Some(connection);
        self.is_free.notify_one();
    }
}

/// The connection for as long as one uses it; what is not committed by then is rolled back.
pub(super) struct Taken<'a> {
    lane: &'a Lane,
    /// `None` once a step was given up.
    connection: Option<Connection>,
    patiently: bool,
}

impl Taken<'_> {
    pub fn connection(&self) -> &Connection {
        self.connection.as_ref().expect("nothing is done after a step that was given up")
    }

    /// Begins a transaction that writes.
    pub fn begin(&mut self) -> Result<rusqlite::Result<()>, Hangs> {
        self.step(|connection| connection.execute_batch("BEGIN IMMEDIATE"))
    }

    /// Commits it, synced.
    pub fn commit(&mut self) -> Result<rusqlite::Result<()>, Hangs> {
        self.step(|connection| connection.execute_batch("COMMIT"))
    }

    /// An error: it was given up, and may still take place.
    fn step(&mut self, step: Step) -> Result<rusqlite::Result<()>, Hangs> {
        let connection = self.connection.take().expect("nothing is done after a step that was given up");
        let Some(thread) = &self.lane.thread else {
            let done = step(&connection);
            self.connection = Some(connection);
            return Ok(done);
        };
        let place = Arc::clone(&self.lane.place);
        // Without a buffer: the connection is either handed over or still the thread's.
        let (hand_over, over): (SyncSender<(Connection, _)>, _) = sync_channel(0);
        let job = move || {
            let done = step(&connection);
            if let Err(nobody) = hand_over.send((connection, done)) {
                let (connection, _) = nobody.0;
                place.put_back(connection);
            }
        };
        thread.send(Box::new(job)).expect("the thread lives as long as its lane");
        let handed_over = match self.patiently {
            true => over.recv().ok(),
            false => over.recv_timeout(GIVEN_UP_AFTER).ok(),
        };
        let Some((connection, done)) = handed_over else {
            return Err(self.lane.place.lasts(&self.lane.place.lock()));
        };
        self.connection = Some(connection);
        Ok(done)
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            self.lane.place.put_back(connection);
        }
    }
}

/// Does what may wait for a disk. A runtime of several threads gives what else this thread had to do to another meanwhile.
pub(super) fn apart<T>(work: impl FnOnce() -> T) -> T {
    match is_of_several_threads() {
        true => tokio::task::block_in_place(work),
        false => work(),
    }
}

fn is_of_several_threads() -> bool {
    Handle::try_current().is_ok_and(|handle| handle.runtime_flavor() == RuntimeFlavor::MultiThread)
}

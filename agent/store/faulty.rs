//! A disk that fails, for tests: SQLite's own way to the disk, in between.
//!
//! A VFS (sqlite.org/vfs.html) that hands everything on to the default one, but fails what a test asks for on this thread:
//! the n-th write, sync, truncation, growth of the shared memory or making of a file, once or from then on. It never
//! really syncs: what is tested is what SQLite is told, and not the kernel.

use std::cell::Cell;
use std::ffi::{c_char, c_int, c_void};
use std::path::Path;
use std::sync::{Arc, Once};

use rusqlite::ffi;
use rusqlite::{Connection, OpenFlags};

use super::timeline::Timeline;
use super::{Store, StoreError, schema};
use crate::clock::{Clock, SystemClock};

/// How the disk fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disk {
    /// ENOSPC.
    Full,
    /// EIO, after half of what was to be written.
    Erring,
    ReadOnly,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    Open,
    Write,
    Truncate,
    Sync,
    Grow,
}

#[derive(Clone, Copy)]
struct Plan {
    disk: Disk,
    from: u64,
    for_ever: bool,
}

thread_local! {
    static PLAN: Cell<Option<Plan>> = const { Cell::new(None) };
    static GIVEN_UP: Cell<Option<(u64, bool)>> = const { Cell::new(None) };
    static SEEN: Cell<u64> = const { Cell::new(0) };
    static STRUCK: Cell<bool> = const { Cell::new(false) };
}

/// From here on the `from`-th act of this thread's connections fails; `for_ever`, every later one as well.
pub fn fail(disk: Disk, from: u64, for_ever: bool) {
    PLAN.set(Some(Plan { disk, from, for_ever }));
    SEEN.set(0);
    STRUCK.set(false);
}

/// From here on the `from`-th commit of this thread takes place, and its writer has given it up by then; `for_ever`, every later
/// one as well.
pub fn give_up(from: u64, for_ever: bool) {
    GIVEN_UP.set(Some((from, for_ever)));
    SEEN.set(0);
    STRUCK.set(false);
}

/// Has the writer given up the commit that has just been made?
pub(super) fn is_given_up() -> bool {
    let Some((from, for_ever)) = GIVEN_UP.get() else { return false };
    let now = SEEN.get();
    SEEN.set(now + 1);
    let strikes = now == from || (now > from && for_ever);
    STRUCK.set(STRUCK.get() || strikes);
    strikes
}

/// The disk is well again. Says whether anything failed.
pub fn end() -> bool {
    PLAN.set(None);
    GIVEN_UP.set(None);
    STRUCK.get()
}

impl Store {
    /// As the agent opens it at its start, over this disk, and by the times that it is told.
    pub fn open_faulty(path: &Path) -> Result<Self, StoreError> {
        register();
        let flags = OpenFlags::default();
        let connection = Connection::open_with_flags_and_vfs(path, flags, c"unwait-faulty")
            .map_err(|source| StoreError::Sqlite { path: path.into(), source })?;
        schema::prepare(&connection, path)?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        Self::over(connection, path, Timeline::Told, &clock)?.checked()
    }
}

/// What this act is to fail with.
fn strikes(act: Act) -> Option<c_int> {
    let plan = PLAN.get()?;
    let now = SEEN.get();
    SEEN.set(now + 1);
    if now < plan.from || (now > plan.from && !plan.for_ever) {
        return None;
    }
    STRUCK.set(true);
    Some(match (plan.disk, act) {
        (_, Act::Open) => ffi::SQLITE_CANTOPEN,
        (_, Act::Grow) => ffi::SQLITE_IOERR_SHMSIZE,
        (_, Act::Sync) => ffi::SQLITE_IOERR_FSYNC,
        (Disk::ReadOnly, _) => ffi::SQLITE_READONLY,
        (Disk::Full, _) => ffi::SQLITE_FULL,
        (Disk::Erring, Act::Truncate) => ffi::SQLITE_IOERR_TRUNCATE,
        (Disk::Erring, _) => ffi::SQLITE_IOERR_WRITE,
    })
}

/// The real file follows in the same allocation: `szOsFile` has room for both.
#[repr(C)]
struct File {
    base: ffi::sqlite3_file,
}

const METHODS: ffi::sqlite3_io_methods = ffi::sqlite3_io_methods {
    // Without xFetch: no memory is mapped, and every write is a call.
    iVersion: 2,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(lock),
    xUnlock: Some(unlock),
    xCheckReservedLock: Some(check_reserved_lock),
    xFileControl: Some(file_control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(device_characteristics),
    xShmMap: Some(shm_map),
    xShmLock: Some(shm_lock),
    xShmBarrier: Some(shm_barrier),
    xShmUnmap: Some(shm_unmap),
    xFetch: None,
    xUnfetch: None,
};
static SHARED_METHODS: Shared<ffi::sqlite3_io_methods> = Shared(METHODS);

/// Only read, by any thread.
struct Shared<T>(T);
// SAFETY: a table of functions that nobody writes to.
unsafe impl<T> Sync for Shared<T> {}

fn register() {
    static ONCE: Once = Once::new();
    // SAFETY: the default VFS lives as long as the process. The copy is leaked, so that it does as well; it differs in the
    // name, the size of a file and how one is opened, and the unix VFS uses its own `pVfs` for nothing else.
    ONCE.call_once(|| unsafe {
        ffi::sqlite3_initialize();
        let base = default();
        let faulty = Box::leak(Box::new(*base));
        faulty.pNext = std::ptr::null_mut();
        faulty.zName = c"unwait-faulty".as_ptr();
        faulty.szOsFile = size_of::<File>() as c_int + (*base).szOsFile;
        faulty.xOpen = Some(open);
        assert_eq!(ffi::sqlite3_vfs_register(faulty, 0), ffi::SQLITE_OK);
    });
}

unsafe fn default() -> *mut ffi::sqlite3_vfs {
    // SAFETY: SQLite is initialized before any of its calls into a VFS.
    unsafe { ffi::sqlite3_vfs_find(std::ptr::null()) }
}

/// The default VFS's own file, behind ours.
unsafe fn real(file: *mut ffi::sqlite3_file) -> *mut ffi::sqlite3_file {
    // SAFETY: SQLite allocates `szOsFile` bytes, aligned to 8; ours are 8 of them.
    unsafe { file.cast::<File>().add(1).cast() }
}

unsafe extern "C" fn open(
    _vfs: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    // SAFETY: as SQLite calls it: `file` has room for both files, the other pointers are handed on as they are.
    unsafe {
        (*file).pMethods = std::ptr::null();
        if flags & ffi::SQLITE_OPEN_CREATE != 0
            && let Some(code) = strikes(Act::Open)
        {
            return code;
        }
        let (base, real) = (default(), real(file));
        let code = (*base).xOpen.expect("every VFS opens")(base, name, real, flags, out_flags);
        if !(*real).pMethods.is_null() {
            (*file).pMethods = &raw const SHARED_METHODS.0;
        }
        code
    }
}

unsafe extern "C" fn write(
    file: *mut ffi::sqlite3_file,
    from: *const c_void,
    bytes: c_int,
    at: ffi::sqlite3_int64,
) -> c_int {
    // SAFETY: the arguments are SQLite's; half of what may be read of `from` may be.
    unsafe {
        let real = real(file);
        let write = (*(*real).pMethods).xWrite.expect("every file is written to");
        match strikes(Act::Write) {
            Some(code @ ffi::SQLITE_IOERR_WRITE) => {
                write(real, from, bytes / 2, at);
                code
            }
            Some(code) => code,
            None => write(real, from, bytes, at),
        }
    }
}

unsafe extern "C" fn truncate(file: *mut ffi::sqlite3_file, size: ffi::sqlite3_int64) -> c_int {
    // SAFETY: the arguments are SQLite's.
    unsafe {
        let real = real(file);
        let truncate = (*(*real).pMethods).xTruncate.expect("every file is truncated");
        strikes(Act::Truncate).unwrap_or_else(|| truncate(real, size))
    }
}

unsafe extern "C" fn sync(_file: *mut ffi::sqlite3_file, _flags: c_int) -> c_int {
    strikes(Act::Sync).unwrap_or(ffi::SQLITE_OK)
}

unsafe extern "C" fn shm_map(
    file: *mut ffi::sqlite3_file,
    page: c_int,
    size: c_int,
    extend: c_int,
    out: *mut *mut c_void,
) -> c_int {
    // SAFETY: the arguments are SQLite's.
    unsafe {
        if extend != 0
            && let Some(code) = strikes(Act::Grow)
        {
            *out = std::ptr::null_mut();
            return code;
        }
        let real = real(file);
        (*(*real).pMethods).xShmMap.expect("the unix VFS shares memory")(real, page, size, extend, out)
    }
}

/// Methods that are handed on as they are.
macro_rules! handed_on {
    ($($name:ident = $method:ident($($argument:ident: $kind:ty),*) $(-> $answer:ty)?;)*) => {$(
        unsafe extern "C" fn $name(file: *mut ffi::sqlite3_file $(, $argument: $kind)*) $(-> $answer)? {
            // SAFETY: the arguments are SQLite's, and the real file was opened by the default VFS.
            unsafe {
                let real = real(file);
                (*(*real).pMethods).$method.expect("the unix VFS has it")(real $(, $argument)*)
            }
        }
    )*};
}

handed_on! {
    close = xClose() -> c_int;
    read = xRead(into: *mut c_void, bytes: c_int, at: ffi::sqlite3_int64) -> c_int;
    file_size = xFileSize(size: *mut ffi::sqlite3_int64) -> c_int;
    lock = xLock(level: c_int) -> c_int;
    unlock = xUnlock(level: c_int) -> c_int;
    check_reserved_lock = xCheckReservedLock(out: *mut c_int) -> c_int;
    file_control = xFileControl(operation: c_int, argument: *mut c_void) -> c_int;
    sector_size = xSectorSize() -> c_int;
    device_characteristics = xDeviceCharacteristics() -> c_int;
    shm_lock = xShmLock(offset: c_int, count: c_int, flags: c_int) -> c_int;
    shm_barrier = xShmBarrier();
    shm_unmap = xShmUnmap(delete: c_int) -> c_int;
}

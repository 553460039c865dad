//! The open database and the log in front of it. In: a disk. Out: the database for whoever reads or writes, until it is
//! closed, with all that the log had; and the same database frozen (readable only) after a write failed.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockWriteGuard};
use std::time::{Duration, Instant};

use redb::{Database, DatabaseError, ReadableDatabase, StorageBackend, TableError};

use super::disk::{Backend, Disk, Head};
use super::log::{self, Log, Unreadable};
use super::read::Snapshot;
use super::schema::{FORMAT, META, META_FORMAT};
use super::{engine_error, upgrade, writer};
use crate::{Error, Revision};

/// How long closing waits for reads that are under way; they take milliseconds.
const CLOSE_WAIT: Duration = Duration::from_secs(5);

/// How much the embedded engine takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// The page cache, in bytes.
    pub(super) cache_bytes: usize,
    /// The log, in bytes: what a start after a crash reads at most, and how much the database's durable commits lag behind.
    pub(super) log_bytes: u64,
}

/// The database while it is open.
pub(super) struct Handle {
    disk: Box<dyn Disk>,
    path: PathBuf,
    limits: Limits,
    db: RwLock<Option<Arc<Database>>>,
    /// What a freeze goes back to.
    head: Arc<Head>,
    /// No read shows anything later than this revision.
    revision: AtomicU64,
    /// Whether something was acknowledged that the database does not show yet.
    behind: AtomicBool,
}

impl Handle {
    /// Opens the database, making it if there is none; and the log, or why it can only be read.
    pub(super) fn open(disk: Box<dyn Disk>, path: &Path, limits: Limits) -> Result<(Self, Result<Log, Error>), Error> {
        let io = |what: &'static str| move |source: io::Error| io_error(what, path, source);
        let guard = disk.lock().map_err(io("cannot lock"))?;
        if !disk.exists().map_err(io("cannot open"))? {
            let draft = disk.draft().map_err(io("cannot create"))?;
            let draft = Backend::live(draft, Arc::default()).map_err(io("cannot create"))?;
            let db = open_database(draft, path, limits.cache_bytes)?;
            writer::initialise(&db)?;
            drop(db);
            disk.make_log().map_err(io("cannot create the log of"))?;
            disk.publish().map_err(io("cannot create"))?;
        }
        let (db, head, revision) = (RwLock::new(None), Arc::default(), AtomicU64::new(0));
        let handle = Handle { disk, path: path.to_owned(), limits, db, head, revision, behind: AtomicBool::new(false) };
        let log = match handle.start() {
            // A disk that cannot be written may still be read.
            Err(error @ (Error::NoSpace(_) | Error::Io { .. } | Error::Engine(_))) => match handle.freeze(None) {
                Ok(()) => Err(error),
                Err(_) => return Err(error),
            },
            started => Ok(started?),
        };
        drop(guard);
        Ok((handle, log))
    }

    /// Opens the file for reading and writing.
    fn start(&self) -> Result<Log, Error> {
        let live = |file| Backend::live(file, Arc::clone(&self.head))?.sync_early(self.disk.open_beside()?);
        let file = self.disk.open().and_then(live);
        let file = file.map_err(|source| io_error("cannot open", &self.path, source))?;
        let db = open_database(file, &self.path, self.limits.cache_bytes)?;
        match format_of(&db)? {
            None | Some(upgrade::WITHOUT_LOG) => {
                let failed = |source| io_error("cannot create the log of", &self.path, source);
                self.disk.make_log().map_err(failed)?;
                writer::initialise(&db)?;
            }
            _ if upgrade::with_log(&db)? => {}
            Some(found) => return Err(Error::Format { path: self.path.clone(), found, supported: FORMAT }),
        }
        let file = self.open_log()?;
        let id = self.catch_up(&db, &*file, None)?;
        let log = Log::new(file, id, self.limits.log_bytes).map_err(|source| self.log_error(source))?;
        // What the last process left in the page cache only is on the disk by now: opening has synced the file.
        self.head.commit();
        self.will_show(Snapshot::take(&db)?.revision);
        self.slot().replace(Arc::new(db));
        Ok(log)
    }

    fn open_log(&self) -> Result<Box<dyn StorageBackend>, Error> {
        self.disk.log().map_err(|source| match source.kind() {
            // An empty one in its place would hide that acknowledged writes are gone.
            io::ErrorKind::NotFound => Error::corrupt("the log that belongs to the file is missing"),
            _ => self.log_error(source),
        })
    }

    fn log_error(&self, source: io::Error) -> Error {
        io_error("cannot read the log of", &self.path, source)
    }

    /// Does in the database what the log has (before the offset `until`), for good. Returns the number of the log to go on with.
    fn catch_up(&self, db: &Database, log: &dyn StorageBackend, until: Option<u64>) -> Result<u64, Error> {
        catch_up(db, log, until).map_err(|error| match error {
            Unreadable::Io(source) => self.log_error(source),
            Unreadable::Other(error) => error,
        })
    }

    /// The database; hold it no longer than a read takes.
    pub(super) fn database(&self) -> Result<Arc<Database>, Error> {
        self.db.read().unwrap_or_else(PoisonError::into_inner).clone().ok_or(Error::Closed)
    }

    /// The revision that a read which begins now shows, or one that it is about to: never less than what somebody has read.
    pub(super) fn revision(&self) -> Result<Revision, Error> {
        // Whoever asks learns, too, whether there is anything to read.
        self.database()?;
        Ok(self.revision.load(Ordering::Acquire))
    }

    /// Says which revision reads are about to show.
    pub(super) fn will_show(&self, revision: Revision) {
        self.revision.store(revision, Ordering::Release);
    }

    /// Says which revision reads are about to show, once the writer has been asked to let them.
    pub(super) fn will_show_more(&self, revision: Revision) {
        self.behind.store(true, Ordering::Release);
        self.will_show(revision);
    }

    /// Says that reads show all that was acknowledged.
    pub(super) fn shows_all(&self) {
        self.behind.store(false, Ordering::Release);
    }

    /// Whether the writer has to be asked before a read shows all that was acknowledged.
    pub(super) fn is_behind(&self) -> bool {
        self.behind.load(Ordering::Acquire)
    }

    /// Says that a durable commit has succeeded: what a freeze goes back to.
    pub(super) fn committed(&self) {
        self.head.commit();
    }

    /// Takes the database away from everybody and lets go of the file.
    pub(super) fn close(&self) {
        let taken = self.slot().take();
        if let Some(db) = taken {
            release(db);
        }
    }

    /// Opens the database anew so that it can be read, after a write failed: as the last durable commit that succeeded left
    /// it, and with what the log has (before the offset `until`).
    pub(super) fn freeze(&self, until: Option<u64>) -> Result<(), Error> {
        // Readers wait here instead of being told that the store is closed.
        let mut slot = self.slot();
        self.head.seal();
        if let Some(db) = slot.take() {
            release(db);
        }
        let file = self.disk.open().and_then(|file| Backend::frozen(file, &self.head));
        let file = file.map_err(|source| io_error("cannot reopen", &self.path, source))?;
        let db = open_database(file, &self.path, self.limits.cache_bytes)?;
        // What an earlier format is rewritten to stays in memory here.
        if upgrade::with_log(&db)? {
            let log = self.open_log()?;
            self.catch_up(&db, &*log, until)?;
        }
        self.will_show(Snapshot::take(&db)?.revision);
        self.shows_all();
        *slot = Some(Arc::new(db));
        Ok(())
    }

    fn slot(&self) -> RwLockWriteGuard<'_, Option<Arc<Database>>> {
        self.db.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn io_error(what: &'static str, path: &Path, source: io::Error) -> Error {
    match source.kind() {
        io::ErrorKind::ResourceBusy => Error::Locked { path: path.to_owned() },
        io::ErrorKind::StorageFull => Error::NoSpace(source.into()),
        _ => Error::Io { what, path: path.to_owned(), source },
    }
}

pub(super) fn open_database(backend: Backend, path: &Path, cache_bytes: usize) -> Result<Database, Error> {
    let opened = Database::builder().set_cache_size(cache_bytes).create_with_backend(backend);
    opened.map_err(|error| match error {
        DatabaseError::DatabaseAlreadyOpen => Error::Locked { path: path.to_owned() },
        DatabaseError::Storage(redb::StorageError::Io(source)) => io_error("cannot open", path, source),
        error => engine_error(error),
    })
}

/// Does in a database what its log has (before the offset `until`). Returns the number of the log to go on with.
pub(super) fn catch_up(db: &Database, log: &dyn StorageBackend, until: Option<u64>) -> Result<u64, Unreadable> {
    let mut replay = writer::Replay::new(db).map_err(Unreadable::Other)?;
    let id = replay.log_id();
    log::read(log, id, until, |entry| replay.add(entry))?;
    replay.finish().map_err(Unreadable::Other)
}

/// The format version in the file; none if it is new.
pub(super) fn format_of(db: &Database) -> Result<Option<u64>, Error> {
    let txn = db.begin_read().map_err(engine_error)?;
    let meta = match txn.open_table(META) {
        Ok(meta) => meta,
        Err(TableError::TableDoesNotExist(_)) => return Ok(None),
        Err(error) => return Err(engine_error(error)),
    };
    let version = meta.get(META_FORMAT).map_err(engine_error)?;
    Ok(version.map(|version| version.value()))
}

/// Drops the database once nobody reads from it any more.
fn release(db: Arc<Database>) {
    let start = Instant::now();
    while Arc::strong_count(&db) > 1 && start.elapsed() < CLOSE_WAIT {
        std::thread::sleep(Duration::from_millis(1));
    }
    drop(db);
}

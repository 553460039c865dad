//! The open database. In: a disk. Out: the database for whoever reads or writes, until it is closed; and the same
//! database frozen (readable only) after a write failed.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, RwLockWriteGuard};
use std::time::{Duration, Instant};

use redb::{Database, DatabaseError, ReadableDatabase, TableError};

use super::disk::{Backend, Disk, Head};
use super::schema::{FORMAT, META, META_FORMAT};
use super::{engine_error, writer};
use crate::Error;

/// How long closing waits for reads that are under way; they take milliseconds.
const CLOSE_WAIT: Duration = Duration::from_secs(5);

/// The database while it is open.
pub(super) struct Handle {
    disk: Box<dyn Disk>,
    path: PathBuf,
    cache_bytes: usize,
    db: RwLock<Option<Arc<Database>>>,
    /// What a freeze goes back to.
    head: Arc<Head>,
}

impl Handle {
    /// Opens the database, making it if there is none; and why it can only be read, if that is so.
    pub(super) fn open(disk: Box<dyn Disk>, path: &Path, cache_bytes: usize) -> Result<(Self, Option<Error>), Error> {
        let io = |what: &'static str| move |source: io::Error| io_error(what, path, source);
        let guard = disk.lock().map_err(io("cannot lock"))?;
        if !disk.exists().map_err(io("cannot open"))? {
            let draft = disk.draft().map_err(io("cannot create"))?;
            let draft = Backend::live(draft, Arc::default()).map_err(io("cannot create"))?;
            let db = open_database(draft, path, cache_bytes)?;
            writer::initialise(&db)?;
            drop(db);
            disk.publish().map_err(io("cannot create"))?;
        }
        let handle = Handle { disk, path: path.to_owned(), cache_bytes, db: RwLock::new(None), head: Arc::default() };
        let stopped = match handle.start() {
            Ok(()) => None,
            // A disk that cannot be written may still be read.
            Err(error @ (Error::NoSpace(_) | Error::Io { .. } | Error::Engine(_))) => match handle.freeze() {
                Ok(()) => Some(error),
                Err(_) => return Err(error),
            },
            Err(error) => return Err(error),
        };
        drop(guard);
        Ok((handle, stopped))
    }

    /// Opens the file for reading and writing.
    fn start(&self) -> Result<(), Error> {
        let file = self.disk.open().and_then(|file| Backend::live(file, Arc::clone(&self.head)));
        let file = file.map_err(|source| io_error("cannot open", &self.path, source))?;
        let db = open_database(file, &self.path, self.cache_bytes)?;
        match format_of(&db)? {
            None => writer::initialise(&db)?,
            Some(FORMAT) => {}
            Some(found) => return Err(Error::Format { path: self.path.clone(), found, supported: FORMAT }),
        }
        // What the last process left in the page cache only is on the disk by now: opening has synced the file.
        self.head.commit();
        self.slot().replace(Arc::new(db));
        Ok(())
    }

    /// The database; hold it no longer than a read takes.
    pub(super) fn database(&self) -> Result<Arc<Database>, Error> {
        self.db.read().unwrap_or_else(PoisonError::into_inner).clone().ok_or(Error::Closed)
    }

    /// Says that a commit has succeeded: what a freeze goes back to.
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

    /// Opens the database anew so that it can be read, after a write failed: as the last commit that succeeded left it.
    pub(super) fn freeze(&self) -> Result<(), Error> {
        // Readers wait here instead of being told that the store is closed.
        let mut slot = self.slot();
        if let Some(db) = slot.take() {
            release(db);
        }
        let file = self.disk.open().and_then(|file| Backend::frozen(file, &self.head));
        let file = file.map_err(|source| io_error("cannot reopen", &self.path, source))?;
        let db = open_database(file, &self.path, self.cache_bytes)?;
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

/// The format version in the file; none if it is new.
fn format_of(db: &Database) -> Result<Option<u64>, Error> {
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

//! The open database. In: a disk. Out: the database for whoever reads or writes, until it is closed; and the same
//! database frozen (readable only) after a write failed.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use redb::{Database, DatabaseError, ReadableDatabase, TableError};

use super::disk::{Backend, Disk};
use super::read::Snapshot;
use super::schema::{FORMAT, META, META_FORMAT};
use super::{engine_error, writer};
use crate::{Error, Revision};

/// How long closing waits for reads that are under way; they take milliseconds.
const CLOSE_WAIT: Duration = Duration::from_secs(5);

/// The database while it is open.
pub(super) struct Handle {
    disk: Box<dyn Disk>,
    path: PathBuf,
    cache_bytes: usize,
    db: RwLock<Option<Arc<Database>>>,
}

impl Handle {
    /// Opens the database, making it if there is none.
    pub(super) fn open(disk: Box<dyn Disk>, path: &Path, cache_bytes: usize) -> Result<Self, Error> {
        let backend = disk.open().map_err(|source| Error::Io { what: "cannot open", path: path.to_owned(), source })?;
        let db = open_database(Backend::live(backend), path, cache_bytes)?;
        let found = format_of(&db)?;
        match found {
            None => writer::initialise(&db)?,
            Some(FORMAT) => {}
            Some(found) => return Err(Error::Format { path: path.to_owned(), found, supported: FORMAT }),
        }
        Ok(Handle { disk, path: path.to_owned(), cache_bytes, db: RwLock::new(Some(Arc::new(db))) })
    }

    /// The database; hold it no longer than a read takes.
    pub(super) fn database(&self) -> Result<Arc<Database>, Error> {
        self.db.read().unwrap_or_else(PoisonError::into_inner).clone().ok_or(Error::Closed)
    }

    /// Takes the database away from everybody and lets go of the file.
    pub(super) fn close(&self) {
        let taken = self.db.write().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(db) = taken {
            release(db);
        }
    }

    /// Opens the database anew so that it can be read, after a write failed. Returns the revision it is at.
    pub(super) fn freeze(&self) -> Result<Revision, Error> {
        // Readers wait here instead of being told that the store is closed.
        let mut slot = self.db.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(db) = slot.take() {
            release(db);
        }
        let io = |source| Error::Io { what: "cannot reopen", path: self.path.clone(), source };
        let backend = Backend::frozen(self.disk.open().map_err(io)?).map_err(io)?;
        let db = open_database(backend, &self.path, self.cache_bytes)?;
        let revision = Snapshot::take(&db)?.revision;
        *slot = Some(Arc::new(db));
        Ok(revision)
    }
}

fn open_database(backend: Backend, path: &Path, cache_bytes: usize) -> Result<Database, Error> {
    let opened = Database::builder().set_cache_size(cache_bytes).create_with_backend(backend);
    opened.map_err(|error| match error {
        DatabaseError::DatabaseAlreadyOpen => Error::Locked { path: path.to_owned() },
        DatabaseError::Storage(redb::StorageError::Io(source)) => {
            Error::Io { what: "cannot open", path: path.to_owned(), source }
        }
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

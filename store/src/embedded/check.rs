//! Checks the checksums and the structure of the embedded engine's file and log. In: files that nobody has open. Out: whether they
//! are whole. Nothing is written: what a repair would change stays in memory.

use std::path::Path;

use super::disk::{Backend, Disk, FileDisk, Head};
use super::log::Unreadable;
use super::{FILE_NAME, engine_error, handle, upgrade};
use crate::Error;

/// Whether there is a file.
pub(crate) fn exists(dir: &Path) -> bool {
    dir.join(FILE_NAME).is_file()
}

/// Whether every page of the file in `dir` is as it was written.
pub(crate) fn is_whole(dir: &Path) -> Result<bool, Error> {
    let path = dir.join(FILE_NAME);
    let io = |source: std::io::Error| Error::Io { what: "cannot open", path: path.clone(), source };
    let file = FileDisk(path.clone()).open().map_err(io)?;
    let backend = Backend::frozen(file, &Head::default()).map_err(io)?;
    let mut db = handle::open_database(backend, &path, 64 << 20)?;
    let whole = db.check_integrity().map_err(|error| match error {
        redb::DatabaseError::Storage(error) => engine_error(error),
        error => engine_error(error),
    })?;
    if whole && upgrade::with_log(&db)? {
        let log = FileDisk(path.clone()).log().map_err(io)?;
        handle::catch_up(&db, &*log, None).map_err(|error| match error {
            Unreadable::Io(source) => io(source),
            Unreadable::Other(error) => error,
        })?;
    }
    Ok(whole)
}

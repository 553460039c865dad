//! Checks the checksums and the structure of the embedded engine's file. In: a file that nobody has open. Out: whether it is
//! whole. Nothing is written: what a repair would change stays in memory.

use std::path::Path;

use super::disk::{Backend, Disk, FileDisk, Head};
use super::{FILE_NAME, engine_error, handle};
use crate::Error;

/// Whether there is a file.
pub(crate) fn exists(dir: &Path) -> bool {
    dir.join(FILE_NAME).is_file()
}

/// Whether every page of the file in `dir` is as it was written.
pub(crate) fn is_whole(dir: &Path) -> Result<bool, Error> {
    let path = dir.join(FILE_NAME);
    let io = |source| Error::Io { what: "cannot open", path: path.clone(), source };
    let file = FileDisk(path.clone()).open().map_err(io)?;
    let backend = Backend::frozen(file, &Head::default()).map_err(io)?;
    let mut db = handle::open_database(backend, &path, 64 << 20)?;
    db.check_integrity().map_err(|error| match error {
        redb::DatabaseError::Storage(error) => engine_error(error),
        error => engine_error(error),
    })
}

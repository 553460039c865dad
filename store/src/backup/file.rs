//! A backup on disk: written beside its place, made durable, and only then given its name.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures::{Stream, StreamExt};

use super::{BackupError, Header, Reader};

/// Writes the stream to `path`, for its owner only. It is read back and checked before it gets its name, so whatever has that
/// name is a whole backup. `progress` is told how many bytes have come. Returns what it says of itself, and how many objects it has.
///
/// # Errors
/// When the stream or the disk fails, or what came is no backup. What was at `path` before is still there then.
pub async fn write_file<E>(
    stream: impl Stream<Item = Result<Bytes, E>> + Send,
    path: &Path,
    mut progress: impl FnMut(u64) + Send,
) -> Result<(Header, u64), BackupError>
where
    E: Into<crate::Source>,
{
    let draft = draft_of(path);
    let written = async {
        let failed = |source| BackupError::Io { what: "cannot write", path: draft.clone(), source };
        let mut file = create(&draft).map_err(failed)?;
        let mut stream = std::pin::pin!(stream);
        let mut bytes = 0;
        while let Some(part) = stream.next().await {
            let part = part.map_err(|error| BackupError::Source(error.into()))?;
            bytes += part.len() as u64;
            // A few hundred KiB at a time into the page cache; the wait for the disk comes once, below.
            file.write_all(&part).map_err(failed)?;
            progress(bytes);
        }
        let (draft, path) = (draft.clone(), path.to_owned());
        tokio::task::spawn_blocking(move || finish(&file, &draft, &path))
            .await
            .map_err(|error| BackupError::Source(error.into()))?
    };
    let result = written.await;
    if result.is_err() {
        // It may not even have been made.
        let _ = fs::remove_file(&draft);
    }
    result
}

/// The name a backup has until it is whole.
fn draft_of(path: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}.partial", std::process::id()));
    path.with_file_name(name)
}

fn create(path: &Path) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

/// Makes the draft durable, reads it back, and gives it its name.
fn finish(file: &File, draft: &Path, path: &Path) -> Result<(Header, u64), BackupError> {
    let failed = |source| BackupError::Io { what: "cannot write", path: path.to_owned(), source };
    file.sync_all().map_err(failed)?;
    let (mut reader, header) = Reader::open(std::io::BufReader::new(File::open(draft).map_err(failed)?))?;
    while reader.next_chunk()?.is_some() {}
    fs::rename(draft, path).map_err(failed)?;
    if cfg!(unix) {
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed)?;
    }
    Ok((header, reader.records()))
}

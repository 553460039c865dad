//! Between redb and the file. In: redb's reads and writes. Out: the same on the real file, or, once a write has failed,
//! reads of the file as it is with all further writes kept in memory.
//!
//! redb refuses everything, reads too, after one failed write. Reopening it *frozen* brings the reads back: whatever
//! redb's recovery wants to write goes to memory and the file stays as the failure left it, for the next start. The
//! first block, which says where everything is, is read as it was after the last commit that succeeded: what a failed
//! one did may be in the page cache and yet not on the disk, and nobody shall see what may be gone again. What was acknowledged
//! since that commit is in the log ([`super::log`]) and done again in memory.
//!
//! A new file is made under another name and gets its own when all of it is on the disk, so that there is never half a
//! file, whenever the power goes.

use std::collections::BTreeMap;
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex};

use redb::backends::FileBackend;
use redb::{BackendError, StorageBackend};

/// Opens the bytes a database is in; a seam for tests that let disks fail.
pub(super) trait Disk: Send + Sync + 'static {
    /// Keeps others from opening or making the database until the guard is dropped; `ResourceBusy` if another does.
    fn lock(&self) -> io::Result<Box<dyn Send>>;
    /// Whether there is a database.
    fn exists(&self) -> io::Result<bool>;
    /// Opens it, again if need be.
    fn open(&self) -> io::Result<Box<dyn StorageBackend>>;
    /// Opens it once more, to have what was written go to the disk beside the writing; none where that makes no difference.
    fn open_beside(&self) -> io::Result<Option<std::fs::File>> {
        Ok(None)
    }
    /// Begins a new, empty one that is not yet there under its name.
    fn draft(&self) -> io::Result<Box<dyn StorageBackend>>;
    /// Opens the log, which is there.
    fn log(&self) -> io::Result<Box<dyn StorageBackend>>;
    /// Makes an empty log for good, if there is none.
    fn make_log(&self) -> io::Result<()>;
    /// Gives the draft its name, for good.
    fn publish(&self) -> io::Result<()>;
}

/// A file on the real disk.
pub(super) struct FileDisk(pub(super) PathBuf);

impl FileDisk {
    fn beside(&self, extension: &str) -> PathBuf {
        self.0.with_extension(extension)
    }

    fn sync_dir(&self) -> io::Result<()> {
        #[cfg(unix)]
        if let Some(dir) = self.0.parent() {
            std::fs::File::open(dir)?.sync_all()?;
        }
        Ok(())
    }
}

impl Disk for FileDisk {
    fn lock(&self) -> io::Result<Box<dyn Send>> {
        let file = open_file(&self.beside("lock"))?;
        match file.try_lock() {
            Ok(()) => Ok(Box::new(file)),
            Err(std::fs::TryLockError::WouldBlock) => Err(io::ErrorKind::ResourceBusy.into()),
            Err(std::fs::TryLockError::Error(error)) => Err(error),
        }
    }

    fn exists(&self) -> io::Result<bool> {
        self.0.try_exists()
    }

    fn open(&self) -> io::Result<Box<dyn StorageBackend>> {
        backend(open_file(&self.0)?)
    }

    fn open_beside(&self) -> io::Result<Option<std::fs::File>> {
        open_file(&self.0).map(Some)
    }

    fn draft(&self) -> io::Result<Box<dyn StorageBackend>> {
        let file = open_file(&self.beside("new"))?;
        // Remains of a start that was cut short.
        file.set_len(0)?;
        backend(file)
    }

    fn log(&self) -> io::Result<Box<dyn StorageBackend>> {
        backend(std::fs::OpenOptions::new().read(true).write(true).open(self.beside(LOG_EXTENSION))?)
    }

    fn make_log(&self) -> io::Result<()> {
        open_file(&self.beside(LOG_EXTENSION))?;
        self.sync_dir()
    }

    fn publish(&self) -> io::Result<()> {
        std::fs::rename(self.beside("new"), &self.0)?;
        self.sync_dir()
    }
}

/// The end of the log's name, which is otherwise the file's.
pub(super) const LOG_EXTENSION: &str = "log";

/// Opens a file to be read and written, for its owner only; makes it if need be.
fn open_file(path: &Path) -> io::Result<std::fs::File> {
    let mut options = std::fs::OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

fn backend(file: std::fs::File) -> io::Result<Box<dyn StorageBackend>> {
    Ok(Box::new(FileBackend::new(file).map_err(io::Error::other)?))
}

/// What redb sees.
#[derive(Debug)]
pub(super) struct Backend {
    inner: Box<dyn StorageBackend>,
    /// Absent once frozen.
    head: Option<Arc<Head>>,
    early: Option<EarlySync>,
    /// Present once frozen.
    overlay: Option<Mutex<Overlay>>,
}

/// A thread that syncs the file now and then, so that a durable commit, for which everybody waits, has little left to write.
/// Nothing is promised by it: an error is met again by the sync of the commit, through a file of its own.
#[derive(Debug)]
struct EarlySync {
    /// How many bytes were written since the thread was last asked.
    written: AtomicU64,
    ask: SyncSender<()>,
}

/// How much is written before the thread is asked: what a disk takes in a few milliseconds.
const EARLY_BYTES: u64 = 4 << 20;

impl EarlySync {
    fn start(file: std::fs::File) -> io::Result<Self> {
        // One request may wait while the thread is busy; more would ask for the same.
        let (ask, asked) = sync_channel(1);
        let work = move || {
            while let Ok(()) = asked.recv() {
                if let Err(error) = file.sync_data() {
                    tracing::debug!(%error, "the database could not be synced early");
                }
            }
        };
        std::thread::Builder::new().name("store-sync".to_owned()).spawn(work)?;
        Ok(EarlySync { written: AtomicU64::new(0), ask })
    }

    fn wrote(&self, bytes: u64) {
        if self.written.fetch_add(bytes, Ordering::Relaxed) + bytes >= EARLY_BYTES {
            self.written.store(0, Ordering::Relaxed);
            // It has been asked already, or has ended: then a commit syncs everything itself.
            let _ = self.ask.try_send(());
        }
    }
}

/// What was written since the freeze, in blocks.
#[derive(Debug)]
struct Overlay {
    len: u64,
    blocks: BTreeMap<u64, Block>,
}

/// The overlay's unit. redb writes pages of at least this size.
const BLOCK_BYTES: usize = 4096;

/// As many bytes.
type Block = Box<[u8]>;

/// The first block of the file, as last written and as the last commit that succeeded left it. It is kept in memory
/// because the file cannot be asked once something has failed.
#[derive(Debug, Default)]
pub(super) struct Head {
    written: Mutex<Option<Block>>,
    committed: Mutex<Option<Block>>,
    /// The file's length, likewise: a commit that is in doubt may have cut the file, though nothing that the one before needs.
    len: AtomicU64,
    committed_len: AtomicU64,
    sealed: AtomicBool,
}

impl Head {
    /// Refuses all further writes: what is in the file stays as it is.
    pub(super) fn seal(&self) {
        self.sealed.store(true, Ordering::Release);
    }

    fn check(&self) -> io::Result<()> {
        if self.sealed.load(Ordering::Acquire) {
            return Err(io::Error::other("the file is frozen"));
        }
        Ok(())
    }

    /// Says that a durable commit has succeeded.
    pub(super) fn commit(&self) {
        let written = lock(&self.written).clone();
        *lock(&self.committed) = written;
        self.committed_len.store(self.len.load(Ordering::Acquire), Ordering::Release);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let Some(from) = usize::try_from(offset).ok().filter(|from| *from < BLOCK_BYTES) else { return };
        let mut written = lock(&self.written);
        let block = written.get_or_insert_with(|| vec![0; BLOCK_BYTES].into_boxed_slice());
        let count = data.len().min(BLOCK_BYTES - from);
        block[from..from + count].copy_from_slice(&data[..count]);
    }
}

impl Backend {
    /// Passes everything through, and keeps what `head` is to know.
    pub(super) fn live(inner: Box<dyn StorageBackend>, head: Arc<Head>) -> io::Result<Self> {
        let len = inner.len()?;
        head.len.store(len, Ordering::Release);
        if len >= BLOCK_BYTES as u64 {
            let mut block = vec![0; BLOCK_BYTES];
            inner.read(0, &mut block)?;
            head.write(0, &block);
        }
        Ok(Backend { inner, head: Some(head), early: None, overlay: None })
    }

    /// From now on what is written goes to the disk soon.
    pub(super) fn sync_early(mut self, beside: Option<std::fs::File>) -> io::Result<Self> {
        self.early = beside.map(EarlySync::start).transpose()?;
        Ok(self)
    }

    /// Writes nothing to `inner` any more, and shows the last commit that `head` knows of, if it knows of one.
    pub(super) fn frozen(inner: Box<dyn StorageBackend>, head: &Head) -> io::Result<Self> {
        let len = inner.len()?.max(head.committed_len.load(Ordering::Acquire));
        let blocks = lock(&head.committed).clone().map(|block| (0, block)).into_iter().collect();
        Ok(Backend { inner, head: None, early: None, overlay: Some(Mutex::new(Overlay { len, blocks })) })
    }
}

impl Overlay {
    /// A block as it is now.
    fn block(&self, inner: &dyn StorageBackend, number: u64) -> io::Result<Block> {
        if let Some(block) = self.blocks.get(&number) {
            return Ok(block.clone());
        }
        let mut block = vec![0; BLOCK_BYTES].into_boxed_slice();
        let from = number * BLOCK_BYTES as u64;
        let there = inner.len()?.min(self.len).saturating_sub(from).min(BLOCK_BYTES as u64);
        if there > 0 {
            inner.read(from, &mut block[..usize::try_from(there).unwrap_or(BLOCK_BYTES)])?;
        }
        Ok(block)
    }

    /// Calls `with` for each block that `len` bytes from `offset` touch: its number, the range in it, the range in the
    /// bytes.
    fn each_block(
        offset: u64,
        len: usize,
        mut with: impl FnMut(u64, std::ops::Range<usize>, std::ops::Range<usize>) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut done = 0;
        while done < len {
            let at = offset + done as u64;
            let within = usize::try_from(at % BLOCK_BYTES as u64).unwrap_or(0);
            let count = (BLOCK_BYTES - within).min(len - done);
            with(at / BLOCK_BYTES as u64, within..within + count, done..done + count)?;
            done += count;
        }
        Ok(())
    }

    fn read(&self, inner: &dyn StorageBackend, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if offset.checked_add(out.len() as u64).is_none_or(|end| end > self.len) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Self::each_block(offset, out.len(), |number, within, bytes| {
            out[bytes].copy_from_slice(&self.block(inner, number)?[within]);
            Ok(())
        })
    }

    fn write(&mut self, inner: &dyn StorageBackend, offset: u64, data: &[u8]) -> io::Result<()> {
        Self::each_block(offset, data.len(), |number, within, bytes| {
            let mut block = self.block(inner, number)?;
            block[within].copy_from_slice(&data[bytes]);
            self.blocks.insert(number, block);
            Ok(())
        })?;
        self.len = self.len.max(offset + data.len() as u64);
        Ok(())
    }

    /// Growing adds zeroes; shrinking forgets what was behind the new end.
    fn set_len(&mut self, inner: &dyn StorageBackend, len: u64) -> io::Result<()> {
        if len > self.len {
            // What the file still has between an earlier, shorter end and the new one must read as zeroes.
            let hidden = inner.len()?.min(len);
            let (from, count) = (self.len, hidden.saturating_sub(self.len));
            self.len = len;
            let zeroes = vec![0; BLOCK_BYTES];
            let mut done = 0;
            while done < count {
                let part = (count - done).min(BLOCK_BYTES as u64);
                self.write(inner, from + done, &zeroes[..usize::try_from(part).unwrap_or(BLOCK_BYTES)])?;
                done += part;
            }
        } else {
            let edge = len / BLOCK_BYTES as u64;
            let within = usize::try_from(len % BLOCK_BYTES as u64).unwrap_or(0);
            self.blocks.retain(|number, _| *number <= edge);
            if let Some(block) = self.blocks.get_mut(&edge) {
                block[within..].fill(0);
            }
        }
        self.len = len;
        Ok(())
    }
}

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        match &self.overlay {
            None => self.inner.len(),
            Some(overlay) => Ok(lock(overlay).len),
        }
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        match &self.overlay {
            None => self.inner.read(offset, out),
            Some(overlay) => lock(overlay).read(&*self.inner, offset, out),
        }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        match &self.overlay {
            None => {
                self.head.as_ref().map_or(Ok(()), |head| head.check())?;
                self.inner.set_len(len)?;
                if let Some(head) = &self.head {
                    head.len.store(len, Ordering::Release);
                }
                Ok(())
            }
            Some(overlay) => lock(overlay).set_len(&*self.inner, len),
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        if self.overlay.is_some() { Ok(()) } else { self.inner.sync_data() }
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        match &self.overlay {
            None => {
                if let Some(head) = &self.head {
                    head.check()?;
                    head.write(offset, data);
                }
                self.inner.write(offset, data)?;
                if let Some(early) = &self.early {
                    early.wrote(data.len() as u64);
                }
                Ok(())
            }
            Some(overlay) => lock(overlay).write(&*self.inner, offset, data),
        }
    }

    fn close(&self) -> io::Result<()> {
        self.inner.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.query_lock_range(start, end)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use redb::backends::InMemoryBackend;

    use super::*;

    /// The overlay behaves as a plain copy of the bytes would, and leaves the bytes beneath alone.
    #[test]
    fn a_frozen_backend_reads_what_is_there_and_writes_elsewhere() {
        let inner = InMemoryBackend::new();
        inner.set_len(10_000).unwrap();
        let original: Vec<u8> = (0..10_000u32).map(|i| i as u8).collect();
        inner.write(0, &original).unwrap();
        let frozen = Backend::frozen(Box::new(inner), &Head::default()).unwrap();
        let mut model = original.clone();
        let mut set = |len: usize| {
            frozen.set_len(len as u64).unwrap();
            model.resize(len, 0);
        };
        set(6_000);
        set(9_000);
        frozen.write(4_000, &[7; 300]).unwrap();
        model[4_000..4_300].fill(7);
        frozen.write(8_190, &[9; 5]).unwrap();
        model[8_190..8_195].fill(9);
        let mut out = vec![1; 9_000];
        frozen.read(0, &mut out).unwrap();
        assert_eq!(out, model);
        assert!(frozen.read(8_999, &mut [0; 2]).is_err());
        let mut beneath = vec![0; 10_000];
        frozen.inner.read(0, &mut beneath).unwrap();
        assert_eq!(beneath, original);
    }
}

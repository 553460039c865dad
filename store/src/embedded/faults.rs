//! Tests of the embedded engine on disks that fail: full, or refusing to write or to sync.

use std::io;
use std::ops::Bound;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use redb::{BackendError, StorageBackend};

use super::Embedded;
use super::disk::{Disk, FileDisk};
use crate::{Error, Op, Options, Store};

/// What the disk does from now on.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(u8)]
enum Mood {
    Well,
    Full,
    NoWrites,
    NoSync,
}

#[derive(Debug)]
struct Moody {
    inner: Box<dyn StorageBackend>,
    mood: Arc<AtomicU8>,
}

struct MoodyDisk {
    file: PathBuf,
    mood: Arc<AtomicU8>,
}

impl Disk for MoodyDisk {
    fn lock(&self) -> io::Result<Box<dyn Send>> {
        FileDisk(self.file.clone()).lock()
    }

    fn exists(&self) -> io::Result<bool> {
        FileDisk(self.file.clone()).exists()
    }

    fn draft(&self) -> io::Result<Box<dyn StorageBackend>> {
        FileDisk(self.file.clone()).draft()
    }

    fn publish(&self) -> io::Result<()> {
        FileDisk(self.file.clone()).publish()
    }

    fn open(&self) -> io::Result<Box<dyn StorageBackend>> {
        Ok(Box::new(Moody { inner: FileDisk(self.file.clone()).open()?, mood: Arc::clone(&self.mood) }))
    }

    fn log(&self) -> io::Result<Box<dyn StorageBackend>> {
        Ok(Box::new(Moody { inner: FileDisk(self.file.clone()).log()?, mood: Arc::clone(&self.mood) }))
    }

    fn make_log(&self) -> io::Result<()> {
        FileDisk(self.file.clone()).make_log()
    }
}

impl Moody {
    fn fail_in(&self, moods: &[Mood]) -> io::Result<()> {
        let mood = self.mood.load(Ordering::SeqCst);
        match moods.iter().find(|m| **m as u8 == mood) {
            Some(Mood::Full) => Err(io::ErrorKind::StorageFull.into()),
            Some(_) => Err(io::Error::other("the disk is broken")),
            None => Ok(()),
        }
    }
}

impl StorageBackend for Moody {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.inner.read(offset, out)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.fail_in(&[Mood::Full, Mood::NoWrites])?;
        self.inner.set_len(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.fail_in(&[Mood::NoSync])?;
        self.inner.sync_data()
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.fail_in(&[Mood::NoWrites])?;
        self.inner.write(offset, data)
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

fn big(key: usize) -> Vec<Op> {
    vec![Op::Put { key: format!("k{key:04}"), value: Bytes::from(vec![b'x'; 500_000]), precondition: None }]
}

/// Writes until it fails; what was acknowledged, and the error.
async fn fill(store: &Embedded) -> (usize, Error) {
    for written in 0.. {
        if let Err(error) = store.txn(big(10 + written)).await {
            return (written, error);
        }
    }
    unreachable!("a disk that fails fails some time")
}

async fn scenario(mood: Mood) -> Error {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("store.redb");
    let switch = Arc::new(AtomicU8::new(Mood::Well as u8));
    let options = Options { progress_interval: Duration::from_millis(50), ..Options::default() };
    let disk = MoodyDisk { file: file.clone(), mood: Arc::clone(&switch) };
    let store = Embedded::open_on(Box::new(disk), file.clone(), &options).await.unwrap();
    for key in 0..10 {
        store.txn(big(key)).await.unwrap();
    }
    let before = store.current_revision().await.unwrap();
    let mut watch = store.watch("", before).await.unwrap();
    switch.store(mood as u8, Ordering::SeqCst);
    let (written, error) = fill(&store).await;

    // No more writes, and a word why; reads of all that was acknowledged go on.
    let refused = store.txn(big(0)).await;
    assert!(matches!(refused, Err(Error::WritesStopped { .. })), "{refused:?}");
    let page = store.list("", None, 0, None).await.unwrap();
    let stored = page.items.len() - 10;
    assert_eq!(stored, written, "what is not acknowledged is not shown: {error:?}");
    assert!(store.get("k0003").await.unwrap().0.is_some());
    assert_eq!(store.list("", None, 0, Some(before)).await.unwrap().items.len(), 10);
    // A watch tells exactly what reads show.
    let mut seen = 0;
    loop {
        let batch = watch.next().await.unwrap().unwrap();
        seen += batch.events.len();
        if batch.revision == page.revision {
            break;
        }
    }
    assert_eq!(seen, stored);
    store.close().await.unwrap();

    // With a healthy disk everything acknowledged is there, and writes work.
    switch.store(Mood::Well as u8, Ordering::SeqCst);
    let store = Embedded::open(dir.path(), &options).await.unwrap();
    assert!(store.list("", None, 0, None).await.unwrap().items.len() >= 10 + written);
    assert!(store.txn(big(0)).await.unwrap() > before);
    store.close().await.unwrap();
    error
}

#[tokio::test]
async fn a_full_disk_stops_writes_and_keeps_reads() {
    let error = scenario(Mood::Full).await;
    assert!(matches!(error, Error::NoSpace(_)), "{error:?}");
}

#[tokio::test]
async fn a_disk_that_refuses_writes_stops_writes_and_keeps_reads() {
    let error = scenario(Mood::NoWrites).await;
    assert!(matches!(error, Error::UnknownOutcome(_) | Error::WritesStopped { .. }), "{error:?}");
}

#[tokio::test]
async fn a_failed_sync_leaves_the_outcome_open_and_stops_writes() {
    let error = scenario(Mood::NoSync).await;
    assert!(matches!(error, Error::UnknownOutcome(_)), "{error:?}");
}

#[tokio::test]
async fn a_disk_that_cannot_be_written_at_the_start_can_still_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("store.redb");
    let switch = Arc::new(AtomicU8::new(Mood::Well as u8));
    let options = Options::default();
    let open = || {
        let disk = MoodyDisk { file: file.clone(), mood: Arc::clone(&switch) };
        Embedded::open_on(Box::new(disk), file.clone(), &options)
    };
    let store = open().await.unwrap();
    let revision = store.txn(big(1)).await.unwrap();
    store.close().await.unwrap();
    switch.store(Mood::NoWrites as u8, Ordering::SeqCst);
    let store = open().await.unwrap();
    assert_eq!(store.get("k0001").await.unwrap().0.unwrap().mod_revision, revision);
    let refused = store.txn(big(2)).await;
    assert!(matches!(&refused, Err(Error::WritesStopped { reason }) if reason.contains("broken")), "{refused:?}");
    store.close().await.unwrap();
    switch.store(Mood::Well as u8, Ordering::SeqCst);
    assert!(open().await.unwrap().txn(big(2)).await.unwrap() > revision);
}

#[tokio::test]
async fn a_file_of_another_version_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options::default();
    Embedded::open(dir.path(), &options).await.unwrap().close().await.unwrap();
    let file = dir.path().join("store.redb");
    let set_format = |version: u64| {
        let db = redb::Database::open(&file).unwrap();
        let txn = db.begin_write().unwrap();
        txn.open_table(super::schema::META).unwrap().insert(super::schema::META_FORMAT, version).unwrap();
        txn.commit().unwrap();
    };
    set_format(99);
    let refused = Embedded::open(dir.path(), &options).await.err();
    assert!(matches!(&refused, Some(Error::Format { found: 99, supported: 3, path }) if *path == file), "{refused:?}");
    set_format(3);
    Embedded::open(dir.path(), &options).await.unwrap().txn(big(1)).await.unwrap();
}

#[tokio::test]
async fn a_file_of_before_there_was_a_log_gets_one() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options::default();
    let store = Embedded::open(dir.path(), &options).await.unwrap();
    let revision = store.txn(big(1)).await.unwrap();
    store.close().await.unwrap();
    let (file, log) = (dir.path().join("store.redb"), dir.path().join("store.log"));
    let db = redb::Database::open(&file).unwrap();
    let txn = db.begin_write().unwrap();
    {
        let mut meta = txn.open_table(super::schema::META).unwrap();
        meta.insert(super::schema::META_FORMAT, super::upgrade::WITHOUT_LOG).unwrap();
        meta.remove(super::schema::META_LOG).unwrap();
    }
    txn.commit().unwrap();
    drop(db);
    std::fs::remove_file(&log).unwrap();
    let store = Embedded::open(dir.path(), &options).await.unwrap();
    assert_eq!(store.current_revision().await.unwrap(), revision);
    let next = store.txn(big(2)).await.unwrap();
    store.close().await.unwrap();
    assert!(log.exists());
    let store = Embedded::open(dir.path(), &options).await.unwrap();
    assert_eq!(store.get("k0002").await.unwrap().0.unwrap().mod_revision, next);
}

#[tokio::test]
async fn a_store_without_its_log_or_with_a_damaged_one_is_not_opened() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options::default();
    let store = Embedded::open(dir.path(), &options).await.unwrap();
    for key in 0..3 {
        store.txn(big(key)).await.unwrap();
    }
    // As kill -9 leaves it.
    let crashed = tempfile::tempdir().unwrap();
    for name in ["store.redb", "store.log"] {
        std::fs::copy(dir.path().join(name), crashed.path().join(name)).unwrap();
    }
    store.close().await.unwrap();
    let log = crashed.path().join("store.log");
    let whole = std::fs::read(&log).unwrap();
    let mut damaged = whole.clone();
    damaged[600_000] ^= 1;
    std::fs::write(&log, &damaged).unwrap();
    let refused = Embedded::open(crashed.path(), &options).await.err();
    assert!(matches!(&refused, Some(Error::Corrupt { what }) if what.contains("good record")), "{refused:?}");
    assert!(super::is_whole(crashed.path()).await.is_err());
    std::fs::remove_file(&log).unwrap();
    let refused = Embedded::open(crashed.path(), &options).await.err();
    assert!(matches!(&refused, Some(Error::Corrupt { what }) if what.contains("missing")), "{refused:?}");
    std::fs::write(&log, &whole).unwrap();
    assert!(super::is_whole(crashed.path()).await.unwrap());
    let store = Embedded::open(crashed.path(), &options).await.unwrap();
    assert_eq!(store.list("", None, 0, None).await.unwrap().items.len(), 3, "the log has them");
    store.close().await.unwrap();
}

//! The embedded engine: a redb file in a directory, for one process.
//!
//! ```text
//!   txn ──▶ queue ──▶ writer thread ──▶ one synced record in the log for all that wait ──▶ answers
//!                                                     └──▶ hub ──▶ watchers (or, behind the hub's ring, the file)
//!   get, list ──▶ read transaction of redb (a snapshot; never waits for the writer)
//! ```
//!
//! The whole history that is kept is in the file ([`schema`]), so a restart loses no watcher its place. What the file does not
//! have on the disk yet is in the log ([`log`]).

mod check;
mod disk;
#[cfg(test)]
mod faults;
mod handle;
mod hub;
mod intake;
mod log;
mod read;
mod retain;
mod schema;
#[cfg(test)]
mod simulation;
mod tables;
mod upgrade;
mod writer;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use self::disk::{Disk, FileDisk, LOG_EXTENSION};
use self::handle::{Handle, Limits};
use self::hub::{Hub, Look, Watcher};
use self::intake::{Command, Intake};
use self::read::Snapshot;
use self::writer::Writer;
use crate::{
    Error, EventBatch, FIRST_REVISION, KeyValue, Op, Options, Page, Revision, Status, Store, Watch, check_key,
    check_ops, ops_bytes, page_limit,
};

/// The file in the store's directory.
const FILE_NAME: &str = "store.redb";
/// The longest log. When it is full the database is made durable, which takes as long as writing about as much, and which a
/// start after a crash does too.
const LOG_BYTES_MAX: u64 = 32 << 20;
/// The most commands that wait for the writer: more than a commit takes, so that the next one is always ready.
const QUEUE_COMMANDS_MAX: usize = 4_096;
/// The most bytes of transactions that wait or are being written, so that large objects don't fill the memory.
const QUEUE_BYTES_MAX: usize = 64 << 20;

/// The embedded engine.
pub(crate) struct Embedded {
    handle: Arc<Handle>,
    hub: Arc<Hub>,
    commands: mpsc::Sender<Command>,
    queue_bytes: Arc<Semaphore>,
    path: PathBuf,
    progress_interval: Duration,
    closed: AtomicBool,
    /// Cancelled when the writer thread has ended and the file is released.
    ended: CancellationToken,
}

impl Embedded {
    /// Opens the store in the directory `dir`, making both if need be.
    pub(crate) async fn open(dir: &Path, options: &Options) -> Result<Self, Error> {
        let path = dir.join(FILE_NAME);
        let (dir, file) = (dir.to_owned(), path.clone());
        run_blocking(move || make_dir(&dir)).await?;
        Self::open_on(Box::new(FileDisk(file)), path, options).await
    }

    /// Opens the store on a disk; `path` is for error messages.
    async fn open_on(disk: Box<dyn Disk>, path: PathBuf, options: &Options) -> Result<Self, Error> {
        let (shown, limits) = (path.clone(), Limits { cache_bytes: options.cache_bytes, log_bytes: LOG_BYTES_MAX });
        let (handle, log, revision, oldest) = run_blocking(move || {
            let (handle, log) = Handle::open(disk, &shown, limits)?;
            let now = Snapshot::take(&*handle.database()?)?;
            let mut log = log.map_err(|error| writer::describe(&error));
            if let Ok(log) = &mut log {
                let failed = |source| Error::Io { what: "cannot start the log of", path: shown.clone(), source };
                log.append_beside().map_err(failed)?;
            }
            let (revision, oldest) = (now.revision, now.oldest);
            Ok((Arc::new(handle), log, revision, oldest))
        })
        .await?;
        let hub = Arc::new(Hub::new(revision));
        let (commands, queue) = mpsc::channel(QUEUE_COMMANDS_MAX);
        let ended = CancellationToken::new();
        let (shared, hub_of) = (Arc::clone(&handle), Arc::clone(&hub));
        let writer = Writer {
            handle: shared,
            hub: hub_of,
            intake: Intake::new(queue),
            revision,
            oldest,
            log,
            compacted: 0,
            unshown: None,
        };
        let guard = ended.clone().drop_guard();
        std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || {
                let _guard = guard;
                writer.run();
            })
            .map_err(|source| Error::Io { what: "cannot start the writer of", path: path.clone(), source })?;
        tokio::spawn(retain::run(options.retention, Arc::clone(&hub), commands.downgrade(), ended.clone()));
        Ok(Embedded {
            handle,
            hub,
            commands,
            queue_bytes: Arc::new(Semaphore::new(QUEUE_BYTES_MAX)),
            path,
            progress_interval: options.progress_interval,
            closed: AtomicBool::new(false),
            ended,
        })
    }

    async fn snapshot(&self) -> Result<Snapshot, Error> {
        see_all(&self.handle, || Some(self.commands.clone())).await;
        Snapshot::take(&*self.handle.database()?)
    }

    /// The writer's answer; if there is none the writer ended first.
    async fn answer<T>(&self, reply: oneshot::Receiver<Result<T, Error>>) -> Result<T, Error> {
        match reply.await {
            Ok(answer) => answer,
            Err(_) if self.closed.load(Ordering::Acquire) => Err(Error::Closed),
            Err(_) => Err(Error::UnknownOutcome("the writer thread ended".into())),
        }
    }

    async fn send(&self, command: Command) -> Result<(), Error> {
        self.commands.send(command).await.map_err(|_| Error::Closed)
    }
}

#[async_trait]
impl Store for Embedded {
    async fn txn(&self, ops: Vec<Op>) -> Result<Revision, Error> {
        check_ops(&ops)?;
        let bytes = ops_bytes(&ops);
        let share = u32::try_from(bytes).unwrap_or(u32::MAX);
        let permit = Arc::clone(&self.queue_bytes).acquire_many_owned(share).await.map_err(|_| Error::Closed)?;
        let (reply, answer) = oneshot::channel();
        self.send(Command::Txn { ops, bytes, waiting: (reply, permit) }).await?;
        self.answer(answer).await
    }

    async fn get(&self, key: &str) -> Result<(Option<KeyValue>, Revision), Error> {
        check_key(key)?;
        // A handful of page reads, nearly always out of the cache: not worth a thread.
        let snapshot = self.snapshot().await?;
        Ok((snapshot.get(key)?, snapshot.revision))
    }

    async fn list(
        &self,
        prefix: &str,
        start_after: Option<&str>,
        limit: usize,
        at: Option<Revision>,
    ) -> Result<Page, Error> {
        let snapshot = self.snapshot().await?;
        let (prefix, start_after) = (prefix.to_owned(), start_after.map(str::to_owned));
        run_blocking(move || snapshot.list(&prefix, start_after.as_deref(), page_limit(limit), at)).await
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, Error> {
        // Nothing ever happens at the first revision, so 0 is as good a start.
        let after = after.max(FIRST_REVISION);
        self.snapshot().await?.check(after)?;
        let follower = Follower {
            watcher: self.hub.watcher(prefix, after),
            handle: Arc::clone(&self.handle),
            commands: self.commands.downgrade(),
            ready: VecDeque::new(),
            progress_interval: self.progress_interval,
        };
        Ok(Watch::new(futures::stream::unfold(follower, |mut follower| async move {
            let item = follower.next().await;
            Some((item, follower))
        })))
    }

    async fn request_progress(&self) -> Result<(), Error> {
        self.hub.request_progress(self.handle.revision()?);
        Ok(())
    }

    async fn current_revision(&self) -> Result<Revision, Error> {
        self.handle.revision()
    }

    async fn compact(&self, before: Revision) -> Result<(), Error> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Compact { before, reply }).await?;
        self.answer(answer).await
    }

    async fn status(&self) -> Result<Status, Error> {
        let snapshot = self.snapshot().await?;
        let size_of = |path: PathBuf| match std::fs::metadata(&path) {
            Ok(metadata) => Ok(metadata.len()),
            Err(source) => Err(Error::Io { what: "cannot look at", path, source }),
        };
        let size_bytes = size_of(self.path.clone())? + size_of(self.path.with_extension(LOG_EXTENSION))?;
        Ok(Status { engine: "embedded", size_bytes, revision: snapshot.revision, oldest_revision: snapshot.oldest })
    }

    async fn close(&self) -> Result<(), Error> {
        self.closed.store(true, Ordering::Release);
        // If the writer is gone already there is nobody to tell.
        let _ = self.commands.send(Command::Close).await;
        self.ended.cancelled().await;
        Ok(())
    }
}

/// A watch: follows the hub, and the file when it is behind the hub.
struct Follower {
    watcher: Watcher,
    handle: Arc<Handle>,
    commands: mpsc::WeakSender<Command>,
    /// Found and not yet taken: at most what one look or one part of a replay finds.
    ready: VecDeque<EventBatch>,
    progress_interval: Duration,
}

impl Follower {
    async fn next(&mut self) -> Result<EventBatch, Error> {
        loop {
            if let Some(batch) = self.ready.pop_front() {
                return Ok(batch);
            }
            match self.watcher.look() {
                Look::Batches(batches) => self.ready = batches,
                Look::Behind { after, to } => self.replay(after, to).await?,
                Look::Progress(revision) => return Ok(EventBatch { revision, events: Vec::new() }),
                Look::Closed => return Err(Error::Closed),
                Look::Idle => {
                    if tokio::time::timeout(self.progress_interval, self.watcher.woken()).await.is_err()
                        && let Some(revision) = self.watcher.progress()
                    {
                        return Ok(EventBatch { revision, events: Vec::new() });
                    }
                }
            }
        }
    }

    async fn replay(&mut self, after: Revision, to: Revision) -> Result<(), Error> {
        see_all(&self.handle, || self.commands.upgrade()).await;
        let (handle, prefix) = (Arc::clone(&self.handle), self.watcher.prefix().to_owned());
        let replay = run_blocking(move || {
            let snapshot = Snapshot::take(&*handle.database()?)?;
            match snapshot.replay(&prefix, after, to) {
                Err(Error::Compacted { oldest }) => Err(Error::Lagged { oldest }),
                other => other,
            }
        })
        .await?;
        self.watcher.replayed(replay.through);
        self.ready = replay.batches.into();
        Ok(())
    }
}

/// Has the writer make visible what was acknowledged, unless it is. Where there is no writer any more, it has been made so, or the
/// store is closed.
async fn see_all(handle: &Handle, writer: impl FnOnce() -> Option<mpsc::Sender<Command>>) {
    if !handle.is_behind() {
        return;
    }
    let Some(commands) = writer() else { return };
    let (reply, shown) = oneshot::channel();
    if commands.send(Command::Show { reply }).await.is_ok() {
        let _ = shown.await;
    }
}

/// Runs what reads much, or syncs, on a thread that may block.
async fn run_blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.map_err(|error| Error::Engine(error.into()))?
}

/// Whether `dir` holds a store.
pub(crate) fn file_exists(dir: &Path) -> bool {
    check::exists(dir)
}

/// Whether every page of the store in `dir`, which nobody may have open, is as it was written.
pub(crate) async fn is_whole(dir: &Path) -> Result<bool, Error> {
    let dir = dir.to_owned();
    run_blocking(move || check::is_whole(&dir)).await
}

/// Makes the store's directory, for its owner only.
fn make_dir(dir: &Path) -> Result<(), Error> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir).map_err(|source| Error::Io { what: "cannot create", path: dir.to_owned(), source })
}

/// An error of redb as one of ours.
fn engine_error(error: impl Into<redb::Error>) -> Error {
    match error.into() {
        redb::Error::Io(error) if error.kind() == std::io::ErrorKind::StorageFull => Error::NoSpace(error.into()),
        redb::Error::Corrupted(what) => Error::Corrupt { what },
        redb::Error::DatabaseClosed => Error::Closed,
        error => Error::Engine(error.into()),
    }
}

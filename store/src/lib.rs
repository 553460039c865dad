//! Gantry's store: revisions in, ordered events out.
//!
//! ```text
//!                txn ──▶ ┌────────┐ ──▶ watch   every change, once, in revision order
//!  get, list at a  ◀──── │ Store  │
//!  revision              └────────┘ ◀── compact drops old history
//!                     embedded │ etcd
//! ```
//!
//! The store knows keys and bytes, never kinds. [`Store`] is the contract; two engines keep it and one test suite
//! (`tests/contract`) runs on both:
//!
//! * **embedded** – a redb file and a log in a directory, for one process. Transactions that wait at the same time share one
//!   durable commit, and watchers are fed straight from the commit path.
//! * **etcd** – etcd 3.4 or later; several processes may use the same keys.
//!
//! # Guarantees
//!
//! * **One order.** Each transaction that changes something gets the next revision. Revisions only grow, over all keys
//!   and across restarts. An empty store is at revision 1, so no stored key ever has revision 0 or 1 and 0 is
//!   free to mean "none". On etcd other users of the same cluster take revisions too: there may be holes.
//! * **Atomic.** All operations of a transaction, and the judging of all its preconditions, happen at one revision, or
//!   nothing happens. Nobody sees a part.
//! * **Linearizable.** A read that starts after a write was acknowledged, by any process, sees it; and one that starts after
//!   another read has ended sees no less than that. A write that starts after another was acknowledged has the
//!   higher revision.
//! * **Durable.** An acknowledged write survives `kill -9` and power loss, and what a read has shown does too. The embedded
//!   engine opens after either, in a time that does not grow with what is stored.
//! * **Told apart.** A failed write says whether it surely did not happen, or may have ([`Error::UnknownOutcome`]); the
//!   latter happens as a whole or not at all, and at most once. Until the embedded engine is opened again after a failed
//!   commit, reads show what was acknowledged and nothing of what is in doubt.
//! * **Snapshots.** All pages of a list read at one revision show the same moment, whatever is written meanwhile.
//! * **Watches are complete.** Every change after the starting revision, if that is retained, is delivered once, in order, all
//!   events of a transaction together, with what was there before; a deletion carries the last value. A watch made
//!   anew from the last batch's revision goes on exactly there. If the store cannot do that any more the watch ends with an
//!   error.
//! * **Progress.** A watch that has nothing to tell says now and then, and when asked, how far it is.
//! * **Compaction** takes history only, never what is stored; who asks for what is gone is told so, and what is left.
//!
//! # Where they are held to it
//!
//! `tests/contract` runs every scenario on both engines, etcd being three members with TLS, certificates and a password, and
//! plays random histories against a model. `tests/linearizability` has concurrent clients judged by a
//! linearizability checker and by the revision order while etcd's leader is killed and partitioned. `tests/crash.rs`
//! kills a writing process, and `embedded/simulation` does so twelve thousand times on a simulated disk that loses, tears and
//! reorders what was not synced in either file, fails to write, read or sync, and fills up.

pub mod backup;
mod embedded;
mod error;
mod etcd;
mod shift;
mod target;
pub mod transfer;
mod watch;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

pub use error::{Error, Source};
pub use target::{EtcdLogin, EtcdOptions, EtcdTls, Options, Retention, Target};
pub use watch::Watch;

/// A point in the store's one order of changes. Never 0 for a stored key; strictly increasing over all keys.
pub type Revision = u64;

/// The revision of an empty store, as in etcd. Nothing is ever stored at it.
pub const FIRST_REVISION: Revision = 1;

/// The longest key, in bytes.
pub const KEY_BYTES_MAX: usize = 2048;
/// The most bytes of keys and values in one transaction: etcd's request limit (1.5 MiB) less room for its framing.
pub const TXN_BYTES_MAX: usize = 1_536_000;
/// The most operations in one transaction: etcd's default limit.
pub const TXN_OPS_MAX: usize = 128;
/// The most items in one page of a list, whatever limit was asked for.
pub const PAGE_ITEMS_MAX: usize = 10_000;
/// A page ends early once it holds this many bytes of values, so that one page fits in memory whatever the objects.
pub const PAGE_BYTES_MAX: usize = 32 << 20;

/// A key and what is stored under it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    /// The key.
    pub key: String,
    /// The value.
    pub value: Bytes,
    /// The revision that created the key; deleting and creating it again starts afresh.
    pub create_revision: Revision,
    /// The revision that last changed it.
    pub mod_revision: Revision,
}

/// What must hold of a key for a transaction to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precondition {
    /// The key is not stored.
    Absent,
    /// The key is stored and was last changed at this revision, which must not be 0.
    ModRevision(Revision),
    /// The key is stored.
    Present,
}

/// One change in a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Stores a value. Storing the same bytes again is a change too and takes a revision.
    Put {
        /// Under which key.
        key: String,
        /// Which bytes.
        value: Bytes,
        /// What must hold.
        precondition: Option<Precondition>,
    },
    /// Removes a key. Removing what is not stored changes nothing (and fails if the precondition says so).
    Delete {
        /// Which key.
        key: String,
        /// What must hold.
        precondition: Option<Precondition>,
    },
}

impl Op {
    /// The key it changes.
    #[must_use]
    pub fn key(&self) -> &str {
        match self {
            Op::Put { key, .. } | Op::Delete { key, .. } => key,
        }
    }

    /// What must hold for it.
    #[must_use]
    pub fn precondition(&self) -> Option<Precondition> {
        match self {
            Op::Put { precondition, .. } | Op::Delete { precondition, .. } => *precondition,
        }
    }
}

/// What happened to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// It was created or its value replaced: created if and only if `create_revision == mod_revision`.
    Put,
    /// It was removed.
    Delete,
}

/// A change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// The key after the change. For a deletion: the last value and its `create_revision`, with the deletion's
    /// revision as `mod_revision`.
    pub kv: KeyValue,
    /// The key before the change; none if the change created it.
    pub prev: Option<KeyValue>,
}

/// The events of one transaction that a watch asked for, or, with no events, a progress notification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventBatch {
    /// The transaction's revision. The watch has now delivered all it has to deliver up to and including it, so a
    /// later `watch(prefix, revision)` goes on exactly here.
    pub revision: Revision,
    /// The events, at most one a key. Empty: nothing new, but everything up to `revision` has been delivered.
    pub events: Vec<Event>,
}

/// A part of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The keys and values, in the byte order of the keys.
    pub items: Vec<KeyValue>,
    /// The revision this is a snapshot of; pass it as `at` for the following pages.
    pub revision: Revision,
    /// Whether more keys follow the last of `items`.
    pub more: bool,
}

/// What a store says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// `embedded` or `etcd`.
    pub engine: &'static str,
    /// The bytes it takes up on disk.
    pub size_bytes: u64,
    /// The current revision.
    pub revision: Revision,
    /// The oldest revision that can be read and that a watch can start after.
    pub oldest_revision: Revision,
}

/// An ordered store of keys and bytes; the crate's documentation lists the guarantees every implementation gives.
///
/// # Cancellation
///
/// Dropping a future of a read or of a [`Watch`] is free. Dropping a future of [`Store::txn`] leaves the outcome
/// unknown: the transaction may still happen (as a whole) afterwards.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Does all of `ops` at one new revision and returns it, or does nothing.
    ///
    /// Preconditions are judged against the state before the transaction. The write is durable when this returns.
    /// If nothing changed (every operation deletes what is not stored, or there are none) no revision is taken
    /// and the current one is returned.
    ///
    /// # Errors
    ///
    /// [`Error::Conflict`] if a precondition does not hold. [`Error::Invalid`] for an empty key, a key named twice,
    /// more than [`TXN_OPS_MAX`] operations or `ModRevision(0)`; [`Error::TooLarge`]; [`Error::NoSpace`];
    /// [`Error::WritesStopped`]; [`Error::UnknownOutcome`] – the only one after which the write may have happened.
    async fn txn(&self, ops: Vec<Op>) -> Result<Revision, Error>;

    /// What is stored under `key` now, and the revision at which that was read (at least the revision of every write
    /// acknowledged before the call). Linearizable.
    async fn get(&self, key: &str) -> Result<(Option<KeyValue>, Revision), Error>;

    /// The keys that start with `prefix` and follow `start_after` (which need not be stored), in byte order, with
    /// their values, as they were at revision `at`, or now (linearizable) if none is given.
    ///
    /// A page has at most `limit` items; 0 asks for as many as the store gives at once. It never has more than
    /// [`PAGE_ITEMS_MAX`] and may end earlier at about [`PAGE_BYTES_MAX`], so `more` alone says whether to go
    /// on, with the last key as `start_after` and the page's revision as `at`. A page with `more` is never empty.
    ///
    /// # Errors
    ///
    /// [`Error::Compacted`] if `at` is older than the history kept, [`Error::FutureRevision`] if not yet reached.
    async fn list(
        &self,
        prefix: &str,
        start_after: Option<&str>,
        limit: usize,
        at: Option<Revision>,
    ) -> Result<Page, Error>;

    /// Every change with a revision greater than `after` of keys that start with `prefix`, in revision order, with no
    /// gap and no duplicate, for as long as the stream is polled; connections lost meanwhile are made again unseen.
    ///
    /// To follow a list, pass the page's revision; 0 means from the very beginning. All events of a transaction come in one batch. An idle
    /// watch yields progress notifications (see [`EventBatch`]) now and then, and soon after
    /// [`Store::request_progress`]. One watch over everything (`""`) is cheaper than many and sees each revision.
    ///
    /// A watcher that is polled too slowly never blocks writers and never loses an event silently: what it has
    /// not yet taken stays in the history, and when compaction overtakes it the stream yields [`Error::Lagged`].
    /// An error is the last item of the stream.
    ///
    /// # Errors
    ///
    /// [`Error::Compacted`] if changes after `after` are no longer kept, [`Error::FutureRevision`] if `after` has not
    /// been reached.
    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, Error>;

    /// Asks that every open watch of this store yields, soon, a batch or progress notification with a revision of at
    /// least the current one.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] on etcd before 3.4.25 and 3.5.8, whose answers to such requests can overtake events; read
    /// from the store itself there.
    async fn request_progress(&self) -> Result<(), Error>;

    /// The revision of the last change: at least that of every write acknowledged before the call. Linearizable.
    async fn current_revision(&self) -> Result<Revision, Error>;

    /// Drops the history before revision `before`: snapshots at `before` and later stay readable, and watches can start
    /// after `before` or later. What is stored now is not touched. Compacting what is already compacted succeeds.
    /// Space is freed in the background.
    ///
    /// # Errors
    ///
    /// [`Error::FutureRevision`] if `before` has not been reached.
    async fn compact(&self, before: Revision) -> Result<(), Error>;

    /// Size, revisions and the engine's name.
    async fn status(&self) -> Result<Status, Error>;

    /// Finishes the writes that wait, ends every watch with [`Error::Closed`] and lets go of files and connections.
    /// Calls after it return [`Error::Closed`]. Closing twice is fine.
    async fn close(&self) -> Result<(), Error>;
}

/// Opens the store that `target` names.
///
/// # Errors
///
/// Embedded: [`Error::Locked`] if another process has it open, [`Error::Format`], [`Error::Io`]. etcd:
/// [`Error::Unavailable`] if no endpoint answers, with what each endpoint's trouble is; [`Error::Denied`] if the
/// certificate or the password is refused; [`Error::Io`] for a file that cannot be read.
/// Both: [`Error::Incomplete`].
pub async fn open(target: &Target, options: Options) -> Result<Arc<dyn Store>, Error> {
    shift::shifted(open_engine(target, options).await?).await
}

/// Whether there is a store already. Of an etcd this is not known before it is opened.
pub fn exists(target: &Target) -> bool {
    match target {
        Target::Embedded(dir) => embedded::file_exists(dir),
        Target::Etcd(_) => true,
    }
}

/// Checks every page of an embedded store's file, which nobody may have open, and says whether it is whole. etcd checks its own.
///
/// # Errors
/// [`Error::Locked`] if somebody has it open, [`Error::Io`], [`Error::Corrupt`].
pub async fn is_whole(target: &Target) -> Result<bool, Error> {
    match target {
        Target::Embedded(dir) => embedded::is_whole(dir).await,
        Target::Etcd(_) => Ok(true),
    }
}

/// Opens the engine beneath, with its own revisions and the store's own keys.
async fn open_engine(target: &Target, options: Options) -> Result<Arc<dyn Store>, Error> {
    match target {
        Target::Embedded(path) => Ok(Arc::new(embedded::Embedded::open(path, &options).await?)),
        Target::Etcd(endpoints) => Ok(Arc::new(etcd::Etcd::connect(endpoints, &options).await?)),
    }
}

/// Checks what both engines refuse, so that they refuse the same.
fn check_ops(ops: &[Op]) -> Result<(), Error> {
    if ops.len() > TXN_OPS_MAX {
        return Err(Error::invalid(format!("{} operations in one transaction; the most is {TXN_OPS_MAX}", ops.len())));
    }
    let mut keys: Vec<&str> = Vec::with_capacity(ops.len());
    for op in ops {
        check_key(op.key())?;
        if op.precondition() == Some(Precondition::ModRevision(0)) {
            return Err(Error::invalid("a precondition on revision 0; use Absent"));
        }
        keys.push(op.key());
    }
    keys.sort_unstable();
    if let Some(pair) = keys.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(Error::invalid(format!("key {:?} twice in one transaction", pair[0])));
    }
    let size = ops_bytes(ops);
    if size > TXN_BYTES_MAX {
        return Err(Error::TooLarge { what: "transaction", size, limit: Some(TXN_BYTES_MAX) });
    }
    Ok(())
}

/// A key must not be empty, nor longer than both engines take.
fn check_key(key: &str) -> Result<(), Error> {
    if key.is_empty() {
        return Err(Error::invalid("an empty key"));
    }
    if key.len() > KEY_BYTES_MAX {
        return Err(Error::TooLarge { what: "key", size: key.len(), limit: Some(KEY_BYTES_MAX) });
    }
    Ok(())
}

/// The bytes of keys and values in a transaction.
fn ops_bytes(ops: &[Op]) -> usize {
    let bytes = |op: &Op| match op {
        Op::Put { key, value, .. } => key.len() + value.len(),
        Op::Delete { key, .. } => key.len(),
    };
    ops.iter().map(bytes).sum()
}

/// How many items a page may have when the caller asked for `limit`.
fn page_limit(limit: usize) -> usize {
    if limit == 0 { PAGE_ITEMS_MAX } else { limit.min(PAGE_ITEMS_MAX) }
}

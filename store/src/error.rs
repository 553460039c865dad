//! What can go wrong in a store, engine by engine mapped onto one enum.
//! In: errors of redb, etcd and the operating system. Out: [`Error`], whose variants are what a caller acts on.

use std::path::PathBuf;

use crate::{KeyValue, Revision};

/// The error an engine hands on as the cause of one of ours.
pub type Source = Box<dyn std::error::Error + Send + Sync + 'static>;

/// Why a store refused or failed. Unless a variant says otherwise, a failed call changed nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A precondition of a transaction did not hold. `key` is the first operation's (in the order given) whose
    /// precondition failed, `current` what is stored under it, read in the same atomic step.
    #[error("the precondition on {key:?} failed")]
    Conflict {
        /// The key whose precondition failed.
        key: String,
        /// What is stored under that key, or none.
        current: Option<KeyValue>,
    },
    /// The revision asked for is older than the history that is kept. Read the present state instead.
    #[error("the requested revision has been compacted; the oldest kept is {oldest}")]
    Compacted {
        /// The oldest revision that can still be read, and the oldest that a watch can start after.
        oldest: Revision,
    },
    /// The revision asked for has not been reached.
    #[error("revision {requested} is in the future; the current one is {current}")]
    FutureRevision {
        /// What was asked for.
        requested: Revision,
        /// The store's revision at that moment.
        current: Revision,
    },
    /// A running watch fell so far behind that history it had not yet delivered was compacted. Nothing was skipped
    /// before this error, and nothing follows it: read the present state and watch from there.
    #[error("the watch fell behind the kept history, whose oldest revision is {oldest}")]
    Lagged {
        /// The oldest revision that can still be read.
        oldest: Revision,
    },
    /// The request can never succeed: an empty key, one key twice in a transaction, and the like.
    #[error("invalid request: {reason}")]
    Invalid {
        /// What is wrong with it.
        reason: String,
    },
    /// A key, a value or a transaction is larger than the store takes.
    #[error("{what} of {size} bytes exceeds {}", limit.map_or("what etcd was told to take".to_owned(), |limit| format!("the limit of {limit}")))]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Its size in bytes.
        size: usize,
        /// The limit; none if it is etcd's own (`--max-request-bytes`), which it does not tell.
        limit: Option<usize>,
    },
    /// Another process has the embedded store open.
    #[error("{} is in use by another process", path.display())]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// The file was written by a version of the store that this one does not know.
    #[error("{} has format version {found}; this program reads version {supported}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// The version found in it.
        found: u64,
        /// The version this program reads and writes.
        supported: u64,
    },
    /// The disk, or the database quota of etcd, is full. Reads keep working. etcd may have done the write that filled it, and
    /// none after.
    #[error("the store is out of space")]
    NoSpace(#[source] Source),
    /// The embedded engine stopped taking writes after a write failed. Reads keep working; writes
    /// come back with the next start of the process. This transaction was not started.
    #[error("the store takes no more writes since one failed: {reason}")]
    WritesStopped {
        /// The failure that stopped the writes.
        reason: String,
    },
    /// The write may or may not have happened, now or shortly: the connection or the disk failed while it was under
    /// way. It did not happen in part. Read the keys again to find out.
    #[error("the outcome of the write is unknown")]
    UnknownOutcome(#[source] Source),
    /// The store cannot be reached at the moment; a retry may succeed.
    #[error("the store is unavailable")]
    Unavailable(#[source] Source),
    /// etcd does not let this client in, or not at these keys: certificate, user, password or role are not right.
    #[error("the store refuses access")]
    Denied(#[source] Source),
    /// Objects were being copied or restored into it and that was not finished.
    #[error("the store is incomplete: a copy or restore into it was interrupted; run it again with --force")]
    Incomplete,
    /// The engine in use cannot do this; the text says what to do instead.
    #[error("not supported by this store: {what}")]
    Unsupported {
        /// What, and the way around it.
        what: &'static str,
    },
    /// A value is encrypted and cannot be decrypted, or should be and cannot be encrypted. Of the engines none returns this;
    /// it is for stores that transform values.
    #[error("cannot decrypt or encrypt {key:?}")]
    Unreadable {
        /// Which key's value.
        key: String,
        /// Why.
        #[source]
        source: Source,
    },
    /// What is stored contradicts itself.
    #[error("the store is damaged: {what}")]
    Corrupt {
        /// The contradiction.
        what: String,
    },
    /// The operating system refused something about a file.
    #[error("{what} {}", path.display())]
    Io {
        /// What was tried, as in "cannot create".
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The engine failed in a way that no other variant describes.
    #[error("the storage engine failed")]
    Engine(#[source] Source),
    /// The store has been closed.
    #[error("the store is closed")]
    Closed,
}

impl Error {
    /// An [`Error::Invalid`] with this reason.
    pub(crate) fn invalid(reason: impl Into<String>) -> Self {
        Error::Invalid { reason: reason.into() }
    }

    /// An [`Error::Corrupt`] saying this.
    pub(crate) fn corrupt(what: impl Into<String>) -> Self {
        Error::Corrupt { what: what.into() }
    }
}

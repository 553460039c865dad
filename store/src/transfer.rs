//! Filling a store with what another held. In: objects in key order, and the highest revision that any client may have seen of
//! them. Out: a store with the same keys and values, all of whose revisions are higher.
//!
//! While it is under way the store carries a mark with which it cannot be opened for anything else, so a transfer that was
//! interrupted is not taken for a cluster.

use std::sync::Arc;

use futures::{Stream, TryStreamExt};

use crate::shift::{INCOMPLETE_KEY, OFFSET_KEY, OWN_KEYS, own};
use crate::{Error, KeyValue, Op, Options, Revision, Source, Store, TXN_OPS_MAX, Target};

/// A transaction of a transfer holds no more bytes than this; it is well below what a store takes.
const TXN_BYTES: usize = 1 << 20;
/// How many transactions wait for the disk at once: they share its syncs.
const TXNS_AT_ONCE: usize = 16;

/// What a transfer did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transferred {
    /// How many objects were written.
    pub records: u64,
    /// The store's revision afterwards.
    pub revision: Revision,
}

/// Why a transfer failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransferError {
    /// The target holds objects, and it was not said that they may be replaced.
    #[error("{0} is not empty")]
    NotEmpty(String),
    /// The target failed.
    #[error("cannot write to {target}")]
    Target {
        /// Which store.
        target: String,
        /// The cause.
        #[source]
        source: Error,
    },
    /// Where the objects come from failed.
    #[error("cannot read what is to be written")]
    Source(#[source] Source),
}

/// Writes `records` into `target`, which must be empty unless `replace`, and must be used by nobody meanwhile. Afterwards every
/// revision is higher than `seen` and than any that the target had before. `progress` is told how many objects are written.
///
/// # Errors
/// [`TransferError`]; after one other than [`TransferError::NotEmpty`] the target may be incomplete, which it remembers.
pub async fn fill<E: Into<Source>>(
    target: &Target,
    options: Options,
    records: impl Stream<Item = Result<Vec<KeyValue>, E>> + Send,
    seen: Revision,
    replace: bool,
    progress: impl FnMut(u64) + Send,
) -> Result<Transferred, TransferError> {
    let failed = |source| TransferError::Target { target: target.to_string(), source };
    let store = crate::open_engine(target, options).await.map_err(failed)?;
    let filled = fill_store(&store, target, records, seen, replace, progress).await;
    store.close().await.map_err(failed)?;
    filled
}

async fn fill_store<E: Into<Source>>(
    store: &Arc<dyn Store>,
    target: &Target,
    records: impl Stream<Item = Result<Vec<KeyValue>, E>> + Send,
    seen: Revision,
    replace: bool,
    mut progress: impl FnMut(u64) + Send,
) -> Result<Transferred, TransferError> {
    let failed = |source| TransferError::Target { target: target.to_string(), source };
    let first = store.list("", None, 10, None).await.map_err(failed)?;
    if !replace && first.items.iter().any(|kv| !kv.key.starts_with(OWN_KEYS)) {
        return Err(TransferError::NotEmpty(target.to_string()));
    }
    let before = own(store.as_ref()).await.map_err(failed)?;
    // Beyond whatever anybody may have seen of either store.
    let offset = seen.max(before.offset.saturating_add(first.revision));
    let put = |key: &str, value: String| Op::Put { key: key.to_owned(), value: value.into(), precondition: None };
    store
        .txn(vec![put(INCOMPLETE_KEY, target.to_string()), put(OFFSET_KEY, offset.to_string())])
        .await
        .map_err(failed)?;
    clear(store.as_ref()).await.map_err(failed)?;

    let mut written = 0;
    let txns = records
        .map_err(|error| TransferError::Source(error.into()))
        .map_ok(|records| futures::stream::iter(batches(records).into_iter().map(Ok)))
        .try_flatten()
        .map_ok(|ops| async move {
            let count = ops.len() as u64;
            store
                .txn(ops)
                .await
                .map(|_| count)
                .map_err(|source| TransferError::Target { target: target.to_string(), source })
        })
        .try_buffer_unordered(TXNS_AT_ONCE);
    let mut txns = std::pin::pin!(txns);
    while let Some(count) = txns.try_next().await? {
        written += count;
        progress(written);
    }
    let done = Op::Delete { key: INCOMPLETE_KEY.to_owned(), precondition: None };
    let revision = store.txn(vec![done]).await.map_err(failed)?;
    Ok(Transferred { records: written, revision: revision.saturating_add(offset) })
}

/// Removes everything but the store's own keys.
async fn clear(store: &dyn Store) -> Result<(), Error> {
    loop {
        let page = store.list("", None, TXN_OPS_MAX, None).await?;
        let keys = page.items.into_iter().map(|kv| kv.key).filter(|key| !key.starts_with(OWN_KEYS));
        let ops: Vec<Op> = keys.map(|key| Op::Delete { key, precondition: None }).collect();
        if ops.is_empty() {
            return Ok(());
        }
        store.txn(ops).await?;
    }
}

/// The transactions that write some objects.
fn batches(records: Vec<KeyValue>) -> Vec<Vec<Op>> {
    let mut batches: Vec<Vec<Op>> = Vec::new();
    let mut bytes = 0;
    for KeyValue { key, value, .. } in records {
        let size = key.len() + value.len();
        match batches.last_mut() {
            Some(batch) if batch.len() < TXN_OPS_MAX && bytes + size <= TXN_BYTES => {
                bytes += size;
                batch.push(Op::Put { key, value, precondition: None });
            }
            _ => {
                bytes = size;
                batches.push(vec![Op::Put { key, value, precondition: None }]);
            }
        }
    }
    batches
}

#[cfg(test)]
mod tests;

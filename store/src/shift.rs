//! Revisions that go on from another store's. In: an engine and a number kept in it. Out: the same store with the number added to
//! every revision.
//!
//! When objects move to another store, clients still hold revisions of the first. An engine's own count cannot be set on etcd, so
//! the distance is kept under a key that nobody sees, and added here. Whatever is at or before it is history that this store
//! never had: reading it is [`Error::Compacted`], as after a compaction, and clients list again.

use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt;

use crate::{Error, Event, EventBatch, KeyValue, Op, Page, Precondition, Revision, Status, Store, Watch};

/// Keys that belong to the store itself start with this; no other key comes before them.
pub(crate) const OWN_KEYS: &str = "\u{1}";
/// Holds the number, in decimal.
pub(crate) const OFFSET_KEY: &str = "\u{1}revision-offset";
/// Is there while a copy into the store is not complete.
pub(crate) const INCOMPLETE_KEY: &str = "\u{1}transfer-incomplete";
/// Follows every key of the store itself and precedes all others.
const OWN_KEYS_END: &str = "\u{1}~";

/// A store whose revisions are those of `inner` plus `offset`.
pub(crate) struct Shifted {
    inner: Arc<dyn Store>,
    offset: Revision,
}

/// What the store keeps for itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Own {
    pub(crate) offset: Revision,
    pub(crate) incomplete: bool,
}

/// Reads what the store keeps for itself.
pub(crate) async fn own(inner: &dyn Store) -> Result<Own, Error> {
    let mut own = Own::default();
    for kv in inner.list(OWN_KEYS, None, 0, None).await?.items {
        match kv.key.as_str() {
            OFFSET_KEY => {
                let text = std::str::from_utf8(&kv.value).ok().and_then(|text| text.parse().ok());
                own.offset = text.ok_or_else(|| Error::corrupt("the offset of its revisions is no number"))?;
            }
            INCOMPLETE_KEY => own.incomplete = true,
            _ => {}
        }
    }
    Ok(own)
}

/// `inner`, shifted if it says so.
pub(crate) async fn shifted(inner: Arc<dyn Store>) -> Result<Arc<dyn Store>, Error> {
    let own = match own(inner.as_ref()).await {
        Ok(own) if own.incomplete => Err(Error::Incomplete),
        other => other,
    };
    match own {
        Ok(Own { offset: 0, .. }) => Ok(inner),
        Ok(Own { offset, .. }) => Ok(Arc::new(Shifted { inner, offset })),
        Err(error) => {
            let _ = inner.close().await;
            Err(error)
        }
    }
}

impl Shifted {
    fn up(&self, revision: Revision) -> Revision {
        revision.saturating_add(self.offset)
    }

    /// A revision of ours as the engine's; none if the engine never had it.
    fn down(&self, revision: Revision) -> Option<Revision> {
        revision.checked_sub(self.offset).filter(|revision| *revision > 0)
    }

    fn kv(&self, kv: KeyValue) -> KeyValue {
        lift(kv, self.offset)
    }

    fn error(&self, error: Error) -> Error {
        match error {
            Error::Conflict { key, current } => Error::Conflict { key, current: current.map(|kv| self.kv(kv)) },
            Error::Compacted { oldest } => Error::Compacted { oldest: self.up(oldest) },
            Error::Lagged { oldest } => Error::Lagged { oldest: self.up(oldest) },
            Error::FutureRevision { requested, current } => {
                Error::FutureRevision { requested: self.up(requested), current: self.up(current) }
            }
            other => other,
        }
    }

    async fn before_history(&self) -> Error {
        match self.inner.status().await {
            Ok(status) => Error::Compacted { oldest: self.up(status.oldest_revision) },
            Err(error) => error,
        }
    }
}

fn lift(kv: KeyValue, offset: Revision) -> KeyValue {
    let up = |revision: Revision| revision.saturating_add(offset);
    KeyValue { create_revision: up(kv.create_revision), mod_revision: up(kv.mod_revision), ..kv }
}

#[async_trait]
impl Store for Shifted {
    async fn txn(&self, ops: Vec<Op>) -> Result<Revision, Error> {
        let lower = |precondition: Option<Precondition>| match precondition {
            // 0 is refused by the engine; what the engine never had holds of no key.
            Some(Precondition::ModRevision(revision)) if revision > 0 => {
                Some(Precondition::ModRevision(self.down(revision).unwrap_or(i64::MAX as u64)))
            }
            other => other,
        };
        let ops = ops.into_iter().map(|op| match op {
            Op::Put { key, value, precondition } => Op::Put { key, value, precondition: lower(precondition) },
            Op::Delete { key, precondition } => Op::Delete { key, precondition: lower(precondition) },
        });
        self.inner.txn(ops.collect()).await.map(|revision| self.up(revision)).map_err(|error| self.error(error))
    }

    async fn get(&self, key: &str) -> Result<(Option<KeyValue>, Revision), Error> {
        let (found, revision) = self.inner.get(key).await?;
        Ok((found.map(|kv| self.kv(kv)), self.up(revision)))
    }

    async fn list(
        &self,
        prefix: &str,
        start_after: Option<&str>,
        limit: usize,
        at: Option<Revision>,
    ) -> Result<Page, Error> {
        let at = match at {
            None => None,
            Some(at) => match self.down(at) {
                Some(at) => Some(at),
                None => return Err(self.before_history().await),
            },
        };
        // The store's own keys come first, so skipping them is a matter of where to begin.
        let start_after = if prefix.is_empty() { start_after.max(Some(OWN_KEYS_END)) } else { start_after };
        let page = self.inner.list(prefix, start_after, limit, at).await.map_err(|error| self.error(error))?;
        let items = page.items.into_iter().map(|kv| self.kv(kv)).collect();
        Ok(Page { items, revision: self.up(page.revision), more: page.more })
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, Error> {
        let Some(after) = self.down(after) else { return Err(self.before_history().await) };
        let events = self.inner.watch(prefix, after).await.map_err(|error| self.error(error))?;
        let offset = self.offset;
        Ok(Watch::new(events.map(move |batch| match batch {
            Ok(EventBatch { revision, events }) => {
                let events = events.into_iter().filter(|event| !event.kv.key.starts_with(OWN_KEYS));
                let lifted = events.map(|event| Event {
                    kind: event.kind,
                    kv: lift(event.kv, offset),
                    prev: event.prev.map(|kv| lift(kv, offset)),
                });
                Ok(EventBatch { revision: revision.saturating_add(offset), events: lifted.collect() })
            }
            Err(Error::Lagged { oldest }) => Err(Error::Lagged { oldest: oldest.saturating_add(offset) }),
            Err(error) => Err(error),
        })))
    }

    async fn request_progress(&self) -> Result<(), Error> {
        self.inner.request_progress().await
    }

    async fn current_revision(&self) -> Result<Revision, Error> {
        Ok(self.up(self.inner.current_revision().await?))
    }

    async fn compact(&self, before: Revision) -> Result<(), Error> {
        match self.down(before) {
            Some(before) => self.inner.compact(before).await.map_err(|error| self.error(error)),
            None => Ok(()),
        }
    }

    async fn status(&self) -> Result<Status, Error> {
        let status = self.inner.status().await?;
        Ok(Status { revision: self.up(status.revision), oldest_revision: self.up(status.oldest_revision), ..status })
    }

    async fn close(&self) -> Result<(), Error> {
        self.inner.close().await
    }
}

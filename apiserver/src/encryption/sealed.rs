//! The store as the API server sees it: values are sealed on their way in and opened on their way out, here and nowhere else.
//! The registry and the watch cache hold plain bytes; the engines hold sealed ones.

use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt;
use gantry_store::{Error, Event, EventBatch, KeyValue, Op, Page, Revision, Status, Store, Watch};

use super::Encryption;
use super::keyring::Keyring;

/// What is done about a value that does not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Closed {
    /// The read fails.
    Fail,
    /// The value is handed on as it is stored.
    Pass,
}

/// A store whose values are sealed.
pub struct Sealed {
    inner: Arc<dyn Store>,
    encryption: Arc<Encryption>,
    closed: Closed,
}

impl Sealed {
    /// Reads of values that do not open fail.
    pub fn new(inner: Arc<dyn Store>, encryption: Arc<Encryption>) -> Self {
        Self { inner, encryption, closed: Closed::Fail }
    }

    /// The same store, whose lists and watches hand on sealed what does not open: whoever reads everything must not fail
    /// because of some of it.
    pub fn lenient(&self) -> Self {
        Self { inner: Arc::clone(&self.inner), encryption: Arc::clone(&self.encryption), closed: Closed::Pass }
    }

    /// The store beneath.
    pub fn inner(&self) -> &Arc<dyn Store> {
        &self.inner
    }

    fn open(&self, ring: &Keyring, kv: KeyValue) -> Result<KeyValue, Error> {
        open(ring, kv, self.closed)
    }
}

fn open(ring: &Keyring, kv: KeyValue, closed: Closed) -> Result<KeyValue, Error> {
    match ring.open(&kv.key, &kv.value) {
        Ok(value) => Ok(KeyValue { value, ..kv }),
        Err(_) if closed == Closed::Pass => Ok(kv),
        Err(reason) => Err(Error::Unreadable { key: kv.key, source: reason.into() }),
    }
}

fn open_event(ring: &Keyring, event: Event, closed: Closed) -> Result<Event, Error> {
    // What was before is of use to some and never worth failing for.
    let prev = event.prev.map(|kv| open(ring, kv, Closed::Pass)).transpose()?;
    Ok(Event { kind: event.kind, kv: open(ring, event.kv, closed)?, prev })
}

#[async_trait]
impl Store for Sealed {
    async fn txn(&self, ops: Vec<Op>) -> Result<Revision, Error> {
        let ring = self.encryption.keyring();
        let seal = |op: Op| match op {
            Op::Put { key, value, precondition } => match ring.seal(&key, value) {
                Ok(value) => Ok(Op::Put { key, value, precondition }),
                Err(reason) => Err(Error::Unreadable { key, source: reason.into() }),
            },
            delete @ Op::Delete { .. } => Ok(delete),
        };
        let ops = ops.into_iter().map(seal).collect::<Result<Vec<_>, _>>()?;
        match self.inner.txn(ops).await {
            Err(Error::Conflict { key, current: Some(current) }) => {
                Err(Error::Conflict { key, current: Some(self.open(&ring, current)?) })
            }
            other => other,
        }
    }

    async fn get(&self, key: &str) -> Result<(Option<KeyValue>, Revision), Error> {
        let (found, revision) = self.inner.get(key).await?;
        let found = found.map(|kv| self.open(&self.encryption.keyring(), kv)).transpose()?;
        Ok((found, revision))
    }

    async fn list(
        &self,
        prefix: &str,
        start_after: Option<&str>,
        limit: usize,
        at: Option<Revision>,
    ) -> Result<Page, Error> {
        let page = self.inner.list(prefix, start_after, limit, at).await?;
        let ring = self.encryption.keyring();
        let items = page.items.into_iter().map(|kv| self.open(&ring, kv)).collect::<Result<_, _>>()?;
        Ok(Page { items, ..page })
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, Error> {
        let events = self.inner.watch(prefix, after).await?;
        let (encryption, closed) = (Arc::clone(&self.encryption), self.closed);
        Ok(Watch::new(events.map(move |batch| {
            let EventBatch { revision, events } = batch?;
            let ring = encryption.keyring();
            let events = events.into_iter().map(|event| open_event(&ring, event, closed)).collect::<Result<_, _>>()?;
            Ok(EventBatch { revision, events })
        })))
    }

    async fn request_progress(&self) -> Result<(), Error> {
        self.inner.request_progress().await
    }

    async fn current_revision(&self) -> Result<Revision, Error> {
        self.inner.current_revision().await
    }

    async fn compact(&self, before: Revision) -> Result<(), Error> {
        self.inner.compact(before).await
    }

    async fn status(&self) -> Result<Status, Error> {
        self.inner.status().await
    }

    async fn close(&self) -> Result<(), Error> {
        self.inner.close().await
    }
}

//! What the tests share: stores of every kind in temporary places, and short ways to write and to follow a watch.

#![allow(dead_code, reason = "each test program uses a part of it")]

pub mod certs;
pub mod etcd;
pub mod net;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use gantry_store::{Error, EventBatch, KeyValue, Op, Options, Precondition, Retention, Revision, Store, Target, Watch};
use tempfile::TempDir;

use etcd::{EtcdCluster, Setup};

/// Longer than anything here takes on a loaded machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A place for a store, gone when dropped.
pub struct Engine {
    pub target: Target,
    pub options: Options,
    _dir: Option<TempDir>,
    pub etcd: Option<EtcdCluster>,
}

impl Engine {
    pub fn embedded() -> Self {
        let dir = TempDir::new().unwrap();
        let target = Target::Embedded(dir.path().join("store"));
        Engine { target, options: test_options(), _dir: Some(dir), etcd: None }
    }

    /// Three members that want certificates and a password. None where etcd is not installed.
    pub async fn etcd() -> Option<Self> {
        Self::etcd_with(Setup { tls: true, auth: true, ..Setup::default() }).await
    }

    pub async fn etcd_with(setup: Setup) -> Option<Self> {
        let etcd = EtcdCluster::start(setup).await?;
        let options = Options { etcd: etcd.options(), ..test_options() };
        Some(Engine { target: etcd.target(), options, _dir: None, etcd: Some(etcd) })
    }

    pub fn is_etcd(&self) -> bool {
        self.etcd.is_some()
    }

    pub async fn open(&self) -> Arc<dyn Store> {
        gantry_store::open(&self.target, self.options.clone()).await.unwrap()
    }
}

/// No compaction behind a test's back.
pub fn test_options() -> Options {
    Options {
        retention: Retention { age: Duration::from_secs(3600), revisions: u64::MAX },
        progress_interval: Duration::from_millis(200),
        ..Options::default()
    }
}

pub fn put(key: &str, value: &str) -> Op {
    Op::Put { key: key.to_owned(), value: Bytes::copy_from_slice(value.as_bytes()), precondition: None }
}

pub fn put_if(key: &str, value: &str, precondition: Precondition) -> Op {
    Op::Put { key: key.to_owned(), value: Bytes::copy_from_slice(value.as_bytes()), precondition: Some(precondition) }
}

pub fn delete(key: &str) -> Op {
    Op::Delete { key: key.to_owned(), precondition: None }
}

pub fn delete_if(key: &str, precondition: Precondition) -> Op {
    Op::Delete { key: key.to_owned(), precondition: Some(precondition) }
}

pub fn kv(key: &str, value: &str, create_revision: Revision, mod_revision: Revision) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Bytes::copy_from_slice(value.as_bytes()), create_revision, mod_revision }
}

/// One operation on its own.
pub async fn write(store: &dyn Store, op: Op) -> Revision {
    store.txn(vec![op]).await.unwrap()
}

/// Every key and value under a prefix at a revision, page by page.
pub async fn list_all(
    store: &dyn Store,
    prefix: &str,
    limit: usize,
    at: Option<Revision>,
) -> (Vec<KeyValue>, Revision) {
    let mut page = store.list(prefix, None, limit, at).await.unwrap();
    let revision = page.revision;
    let mut items = std::mem::take(&mut page.items);
    while page.more {
        let last = items.last().expect("a page with more is not empty").key.clone();
        page = store.list(prefix, Some(&last), limit, Some(revision)).await.unwrap();
        assert_eq!(page.revision, revision);
        items.append(&mut page.items);
    }
    (items, revision)
}

/// The next batch with events.
pub async fn next_events(watch: &mut Watch) -> Result<EventBatch, Error> {
    loop {
        let batch =
            tokio::time::timeout(PATIENCE, watch.next()).await.expect("an event in time").expect("not ended")?;
        if !batch.events.is_empty() {
            return Ok(batch);
        }
    }
}

/// The batches with events up to and including the one of revision `last`.
pub async fn events_through(watch: &mut Watch, last: Revision) -> Vec<EventBatch> {
    try_events_through(watch, last).await.unwrap()
}

/// The same, of a watch that may end.
pub async fn try_events_through(watch: &mut Watch, last: Revision) -> Result<Vec<EventBatch>, Error> {
    let mut batches: Vec<EventBatch> = Vec::new();
    while batches.last().is_none_or(|batch| batch.revision < last) {
        let batch = next_events(watch).await?;
        if let Some(before) = batches.last() {
            assert!(before.revision < batch.revision, "{} after {}", batch.revision, before.revision);
        }
        batches.push(batch);
    }
    assert_eq!(batches.last().map(|batch| batch.revision), Some(last));
    Ok(batches)
}

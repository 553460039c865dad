//! What an administrator does with the store while it is in use, and what the server does by itself: status, snapshots,
//! compaction, change of keys, scheduled backups; and [`verify`], which also looks at stores and backups that nobody serves.
//!
//! In: the engine beneath the encryption, and its keys. Out: streams and reports. Values leave here as they are stored: what is
//! encrypted stays so.

mod schedule;
pub mod verify;

use std::sync::Arc;

use bytes::Bytes;
use futures::Stream;
use gantry_store::{Revision, Store};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use serde::{Deserialize, Serialize};

use crate::cacher::Cacher;
use crate::encryption::{Encryption, EncryptionError, RotateOptions, Rotation};

pub use schedule::{BackupOptions, run as run_schedule};

/// The store's state, as it is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StoreStatus {
    /// Which store.
    pub store: String,
    /// `embedded` or `etcd`.
    pub engine: String,
    /// The current revision.
    pub revision: Revision,
    /// The oldest revision that can be read.
    pub oldest_revision: Revision,
    /// Its bytes on disk.
    pub size_bytes: u64,
    /// The key that encrypts what is written; none if nothing is encrypted.
    pub encryption_key: Option<String>,
    /// When the last scheduled backup was made, in seconds since 1970; none if there was none since the server started.
    pub last_backup: Option<i64>,
}

/// What backups count.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    last_success: Gauge,
    last_revision: Gauge,
    last_bytes: Gauge,
    made: Counter,
    failed: Counter,
}

impl Metrics {
    /// Registers the metrics.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register_with_unit(
            "store_backup_last_success_timestamp",
            "When the last scheduled backup was made, since 1970",
            Unit::Seconds,
            metrics.last_success.clone(),
        );
        registry.register(
            "store_backup_last_revision",
            "The revision of the last scheduled backup",
            metrics.last_revision.clone(),
        );
        registry.register_with_unit(
            "store_backup_last_size",
            "The last scheduled backup's size",
            Unit::Bytes,
            metrics.last_bytes.clone(),
        );
        registry.register("store_backups", "Scheduled backups that were made", metrics.made.clone());
        registry.register("store_backup_failures", "Scheduled backups that failed", metrics.failed.clone());
        metrics
    }
}

/// The store's administration.
#[derive(Clone)]
pub struct Operations {
    /// Which store, as users name it.
    pub store: String,
    /// The engine, whose values are sealed.
    pub engine: Arc<dyn Store>,
    /// The keys.
    pub encryption: Arc<Encryption>,
    /// The caches, which try again what they could not read once keys have changed.
    pub cacher: Arc<Cacher>,
    /// What backups count.
    pub metrics: Metrics,
}

impl Operations {
    /// How the store is.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn status(&self) -> Result<StoreStatus, gantry_store::Error> {
        let last = self.metrics.last_success.get();
        Ok(StoreStatus {
            last_backup: (last > 0).then_some(last),
            ..status_of(&self.store, self.engine.as_ref(), &self.encryption).await?
        })
    }

    /// Everything that is stored, as a backup.
    pub fn snapshot(&self) -> impl Stream<Item = Result<Bytes, gantry_store::Error>> + Send + use<> {
        gantry_store::backup::snapshot(Arc::clone(&self.engine))
    }

    /// Drops the history before a revision, or before the present one, and returns which.
    ///
    /// # Errors
    /// When the store fails or the revision is not reached.
    pub async fn compact(&self, before: Option<Revision>) -> Result<Revision, gantry_store::Error> {
        compact(self.engine.as_ref(), before).await
    }

    /// Changes keys; see [`Encryption::rotate`].
    ///
    /// # Errors
    /// As there.
    pub async fn rotate(&self, options: RotateOptions) -> Result<Rotation, EncryptionError> {
        let rotation = self.encryption.rotate(&self.engine, options, |_| {}).await;
        self.cacher.try_unreadable_again();
        rotation
    }
}

/// How a store is.
///
/// # Errors
/// When it fails.
pub async fn status_of(
    name: &str,
    store: &dyn Store,
    encryption: &Encryption,
) -> Result<StoreStatus, gantry_store::Error> {
    let status = store.status().await?;
    let ring = encryption.keyring();
    let key = ring.config().and_then(|config| config.resources.iter().find_map(|rule| rule.first_key()));
    Ok(StoreStatus {
        store: name.to_owned(),
        engine: status.engine.to_owned(),
        revision: status.revision,
        oldest_revision: status.oldest_revision,
        size_bytes: status.size_bytes,
        encryption_key: key.map(|key| key.name.clone()),
        last_backup: None,
    })
}

/// Drops the history before a revision, or before the present one, and returns which.
///
/// # Errors
/// When the store fails or the revision is not reached.
pub async fn compact(store: &dyn Store, before: Option<Revision>) -> Result<Revision, gantry_store::Error> {
    let before = match before {
        Some(before) => before,
        None => store.current_revision().await?,
    };
    store.compact(before).await.map(|()| before)
}

//! The watch cache: everything stored, kept in memory as bytes, and one ordered log of changes per resource.
//!
//! ```text
//! store ──one watch over all keys──▶ feed ──▶ ResourceCache (objects, log, watchers) ──▶ gets, lists, watches
//!                                     └─────▶ revision: everything up to it has been applied and handed on
//! ```
//!
//! In: batches of the store's one watch. Out: reads. Because there is one feed, one revision says for every resource how
//! far reads have come, and a consistent read is one that waits for it to reach the store's.

mod event;
mod filter;
mod recall;
mod resource;
mod told;
mod watchers;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use futures::StreamExt;
use gantry_api::kinds::{Catalog, Resource};
use gantry_store::{Store, Watch};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use recall::History;
use resource::Snapshot;

pub use event::{Change, Entry, Kind};
pub use filter::{Filter, NODE_FIELD};
pub use resource::{CacheStats, Page, ResourceCache, Subscription, WatchStart};
pub use told::{Telling, Told};
pub use watchers::{Delivery, WATCHER_QUEUE_MAX};

/// All keys of the API live below this prefix.
pub const ROOT: &str = "/registry/";
/// How long a consistent read waits for the cache before it reads the store instead.
pub const FRESH_WAIT: Duration = Duration::from_secs(3);
/// How long to wait before the feed is started again after the store failed.
const FEED_RETRY: Duration = Duration::from_millis(500);
/// How many objects are read at a time when all are: what is read is in memory twice for a moment.
const LOAD_ITEMS: usize = 1_000;

/// The caches of all resources and the feed's progress.
#[derive(Debug)]
pub struct Cacher {
    caches: RwLock<HashMap<String, Arc<ResourceCache>>>,
    revision: watch::Sender<u64>,
    /// False while the feed is being started again: reads then go to the store.
    following: watch::Sender<bool>,
    /// Told when what could not be read may have become readable.
    again: tokio::sync::Notify,
    lagged_watchers: AtomicU64,
    told: Arc<Told>,
}

impl Cacher {
    /// Empty caches for every stored resource of the catalog.
    pub fn new(catalog: &Catalog) -> Self {
        let cacher = Self {
            caches: RwLock::default(),
            revision: watch::Sender::new(0),
            following: watch::Sender::new(false),
            again: tokio::sync::Notify::new(),
            lagged_watchers: AtomicU64::new(0),
            told: Arc::default(),
        };
        let mut caches = HashMap::new();
        for resource in catalog.iter().filter(|resource| resource.stored() && resource.conversion.is_none()) {
            caches.insert(resource.storage_prefix.clone(), Arc::new(ResourceCache::new(Arc::clone(resource))));
        }
        *cacher.caches.write().unwrap_or_else(std::sync::PoisonError::into_inner) = caches;
        cacher
    }

    /// The cache that holds a resource's objects, in whichever version they are stored. That of a custom kind is there once it
    /// was [filled](Self::ensure).
    pub fn resource(&self, resource: &Resource) -> Option<Arc<ResourceCache>> {
        self.by_prefix(&resource.storage_prefix).filter(|cache| resource.custom.is_none() || cache.is_filled())
    }

    /// The cache of a custom kind, made and filled when it is first used. `stored` is the stored version.
    pub async fn ensure(
        &self,
        stored: &Arc<Resource>,
        store: &dyn Store,
    ) -> Result<Arc<ResourceCache>, gantry_store::Error> {
        let cache = {
            let mut caches = self.caches.write().unwrap_or_else(std::sync::PoisonError::into_inner);
            let made = || Arc::new(ResourceCache::new(Arc::clone(stored)));
            Arc::clone(caches.entry(stored.storage_prefix.clone()).or_insert_with(made))
        };
        if cache.is_filled() {
            return Ok(cache);
        }
        let filling = cache.filling.lock().await;
        while !cache.is_filled() {
            cache.begin_filling();
            match cache.fill(read_all(store, &stored.storage_prefix, &cache.resource()).await?) {
                Ok(_) => {}
                Err(error) => error!(resource = stored.plural, %error, "a stored object cannot be read"),
            }
        }
        drop(filling);
        Ok(cache)
    }

    /// Forgets a custom kind: its watches end, its memory is freed.
    pub fn forget(&self, prefix: &str) {
        let removed = self.caches.write().unwrap_or_else(std::sync::PoisonError::into_inner).remove(prefix);
        if let Some(cache) = removed {
            cache.close_watches();
        }
    }

    /// Tells the cache of a custom kind, if there is one, that its definition changed.
    pub fn redefine(&self, stored: &Arc<Resource>) {
        if let Some(cache) = self.by_prefix(&stored.storage_prefix)
            && let Err(error) = cache.redefine(Arc::clone(stored))
        {
            error!(resource = stored.plural, %error, "a stored object cannot be read");
        }
    }

    fn by_prefix(&self, prefix: &str) -> Option<Arc<ResourceCache>> {
        self.caches.read().unwrap_or_else(std::sync::PoisonError::into_inner).get(prefix).cloned()
    }

    fn all(&self) -> Vec<Arc<ResourceCache>> {
        self.caches.read().unwrap_or_else(std::sync::PoisonError::into_inner).values().cloned().collect()
    }

    /// Everything up to this revision has been applied and handed to watchers.
    pub fn revision(&self) -> u64 {
        *self.revision.borrow()
    }

    /// Tells when the revision grows.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }

    /// Whether the caches follow the store.
    pub fn is_following(&self) -> bool {
        *self.following.borrow()
    }

    /// What those who write tell of what they write.
    pub fn told(&self) -> &Arc<Told> {
        &self.told
    }

    /// How many watchers were closed because they did not keep up.
    pub fn lagged_watchers(&self) -> u64 {
        self.lagged_watchers.load(Ordering::Relaxed)
    }

    /// Sizes by resource.
    pub fn stats(&self) -> Vec<(Arc<Resource>, CacheStats)> {
        self.all().into_iter().map(|cache| (cache.resource(), cache.stats())).collect()
    }

    /// Waits until the caches have reached `revision`; false if they have not within `wait`.
    pub async fn wait_for(&self, revision: u64, wait: Duration) -> bool {
        if self.revision() >= revision && self.is_following() {
            return true;
        }
        let mut seen = self.revision.subscribe();
        let mut following = self.following.subscribe();
        let reached = async {
            let _ = following.wait_for(|following| *following).await;
            let _ = seen.wait_for(|seen| *seen >= revision).await;
        };
        tokio::time::timeout(wait, reached).await.is_ok()
    }

    /// Loads everything once, with the latest changes, and returns the revision; the caches can be read from then on.
    pub async fn load(&self, store: &dyn Store) -> Result<u64, gantry_store::Error> {
        let mut loaded: HashMap<String, Vec<Entry>> = HashMap::new();
        let mut unreadable: HashMap<String, Vec<(String, String)>> = HashMap::new();
        let mut at = None;
        let mut start_after: Option<String> = None;
        loop {
            let page = store.list(ROOT, start_after.as_deref(), LOAD_ITEMS, at).await?;
            at = Some(page.revision);
            for item in &page.items {
                let Some(prefix) = resource_prefix(&item.key) else { continue };
                let Some(cache) = self.by_prefix(prefix) else { continue };
                match Entry::new(&cache.resource(), &item.key, item.mod_revision, &item.value) {
                    Ok(entry) => loaded.entry(prefix.to_owned()).or_default().push(entry),
                    Err(error) => {
                        let reason = resource::reason(&item.value, &error);
                        error!(key = item.key, reason, "a stored object cannot be read");
                        unreadable.entry(prefix.to_owned()).or_default().push((item.key.clone(), reason));
                    }
                }
            }
            if !page.more {
                break;
            }
            start_after = page.items.last().map(|item| item.key.clone());
        }
        let revision = at.unwrap_or_default();
        let resource_of = |prefix: &str| Some(self.by_prefix(prefix)?.resource());
        let mut history = History::read(store, ROOT, revision, resource_of).await;
        for cache in self.all() {
            let resource = cache.resource();
            let prefix = resource.storage_prefix.as_str();
            cache.replace(Snapshot {
                revision,
                entries: loaded.remove(prefix).unwrap_or_default(),
                unreadable: unreadable.remove(prefix).unwrap_or_default(),
                recent: history.take(prefix),
            });
        }
        self.told.clear();
        self.revision.send_replace(revision);
        self.following.send_replace(true);
        Ok(revision)
    }

    /// Follows the store until shutdown, loading everything again whenever its watch breaks.
    pub async fn follow(&self, store: Arc<dyn Store>, mut after: u64, shutdown: CancellationToken) {
        loop {
            let broken = tokio::select! {
                () = shutdown.cancelled() => break,
                result = self.follow_once(store.as_ref(), after) => Some(result),
                () = self.again.notified() => None,
            };
            self.following.send_replace(false);
            match broken {
                Some(error) => warn!(%error, "the watch of the store ended; loading everything again"),
                None => tracing::info!("loading everything again"),
            }
            loop {
                tokio::select! {
                    () = shutdown.cancelled() => return self.close(),
                    () = tokio::time::sleep(FEED_RETRY) => {}
                }
                match self.load(store.as_ref()).await {
                    Ok(revision) => {
                        after = revision;
                        break;
                    }
                    Err(error) => warn!(%error, "the store cannot be listed"),
                }
            }
        }
        self.close();
    }

    async fn follow_once(&self, store: &dyn Store, after: u64) -> gantry_store::Error {
        let mut events: Watch = match store.watch(ROOT, after).await {
            Ok(events) => events,
            Err(error) => return error,
        };
        loop {
            match events.next().await {
                Some(Ok(batch)) => self.apply(&batch),
                Some(Err(error)) => return error,
                None => return gantry_store::Error::Closed,
            }
        }
    }

    fn apply(&self, batch: &gantry_store::EventBatch) {
        let now = Instant::now();
        for event in &batch.events {
            let Some(cache) = resource_prefix(&event.kv.key).and_then(|prefix| self.by_prefix(prefix)) else {
                continue;
            };
            let facts = self.told.take(&event.kv.key, &event.kv.value);
            match cache.apply(event, facts, now) {
                Ok(0) => {}
                Ok(lagged) => {
                    debug!(resource = cache.resource().plural, lagged, "closed watchers that did not keep up");
                    self.lagged_watchers.fetch_add(lagged as u64, Ordering::Relaxed);
                }
                Err(error) => error!(key = event.kv.key, %error, "a stored object cannot be read"),
            }
        }
        self.revision.send_if_modified(|revision| {
            let newer = batch.revision > *revision;
            *revision = batch.revision.max(*revision);
            newer
        });
    }

    /// Reads everything again if something could not be read: the keys have changed.
    pub fn try_unreadable_again(&self) {
        if self.all().iter().any(|cache| cache.unreadable(ROOT).is_some()) {
            self.again.notify_one();
        }
    }

    /// Ends all watches.
    pub fn close(&self) {
        for cache in self.all() {
            cache.close_watches();
        }
    }
}

/// Everything below a prefix, which is that of a resource.
async fn read_all(store: &dyn Store, prefix: &str, resource: &Arc<Resource>) -> Result<Snapshot, gantry_store::Error> {
    let mut entries = Vec::new();
    let mut at = None;
    let mut start_after: Option<String> = None;
    loop {
        let page = store.list(prefix, start_after.as_deref(), 0, at).await?;
        at = Some(page.revision);
        for item in &page.items {
            match Entry::new(resource, &item.key, item.mod_revision, &item.value) {
                Ok(entry) => entries.push(entry),
                Err(error) => error!(key = item.key, %error, "a stored object cannot be read"),
            }
        }
        if !page.more {
            let revision = page.revision;
            let resource_of = |_: &str| Some(Arc::clone(resource));
            let recent = History::read(store, prefix, revision, resource_of).await.take(prefix);
            return Ok(Snapshot { revision, entries, unreadable: Vec::new(), recent });
        }
        start_after = page.items.last().map(|item| item.key.clone());
    }
}

/// `/registry/apps/deployments/` of `/registry/apps/deployments/ns/name`.
fn resource_prefix(key: &str) -> Option<&str> {
    let rest = key.strip_prefix(ROOT)?;
    let group = rest.find('/')?;
    let plural = rest[group + 1..].find('/')?;
    Some(&key[..ROOT.len() + group + 1 + plural + 1])
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

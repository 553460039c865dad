//! Keeps a controller from acting twice on the same picture.
//!
//! A watch lags behind our own writes. Each controller notes here what it has written for a key and does not plan
//! for that key again until the cache has caught up: until it has delivered the resourceVersion of the newest
//! create or update, and no longer holds as live what was deleted. A relist that began after the write counts
//! too, and a write that never shows up (lost with a broken watch) is forgiven after a while.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use kube::{Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use super::cache::{Cache, Key, version_of};

/// After this long a write that has not shown up no longer holds its key back.
const FORGIVEN_AFTER: Duration = Duration::from_secs(300);

/// See the module's description. One entry for each key with writes under way: bounded by the number of objects.
#[derive(Debug, Default)]
pub struct Freshness {
    pending: Mutex<HashMap<Key, Pending>>,
}

#[derive(Debug)]
struct Pending {
    version: u64,
    deleted: Vec<(Key, String)>,
    /// How many lists the watch had begun when this was noted.
    lists_started: u64,
    since: Instant,
}

impl Freshness {
    /// Notes that an object of `cache`'s kind was created or updated on behalf of `key`.
    pub fn wrote<K>(&self, key: &Key, cache: &Cache<K>, object: &K)
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    {
        let version = version_of(object);
        self.note(key, cache.lists().0, |pending| {
            pending.version = pending.version.max(version);
        });
    }

    /// Notes that the object `target` with this UID was deleted on behalf of `key`.
    pub fn deleted<K>(&self, key: &Key, cache: &Cache<K>, target: Key, uid: String)
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    {
        self.note(key, cache.lists().0, |pending| {
            pending.deleted.push((target, uid));
        });
    }

    fn note(&self, key: &Key, lists_started: u64, change: impl FnOnce(&mut Pending)) {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = pending.entry(key.clone()).or_insert_with(|| Pending {
            version: 0,
            deleted: Vec::new(),
            lists_started,
            since: Instant::now(),
        });
        entry.lists_started = lists_started;
        entry.since = Instant::now();
        change(entry);
    }

    /// Whether `cache` shows all that was written for `key`.
    pub fn caught_up<K>(&self, key: &Key, cache: &Cache<K>) -> bool
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    {
        let mut all = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(pending) = all.get_mut(key) else {
            return true;
        };
        pending.deleted.retain(|(target, uid)| {
            cache.get(target).is_some_and(|object| {
                object.uid().as_deref() == Some(uid) && object.meta().deletion_timestamp.is_none()
            })
        });
        let shown = pending.version <= cache.latest_version() && pending.deleted.is_empty();
        let relisted = cache.lists().1 > pending.lists_started;
        if shown || relisted || pending.since.elapsed() > FORGIVEN_AFTER {
            all.remove(key);
            return true;
        }
        false
    }

    /// Forgets a key whose object is gone.
    pub fn forget(&self, key: &Key) {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use kube::runtime::watcher::Event;
    use serde_json::json;

    use super::*;

    fn pod(name: &str, uid: &str, version: u64) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"namespace": "a", "name": name, "uid": uid, "resourceVersion": version.to_string()},
        }))
        .unwrap()
    }

    #[tokio::test]
    async fn a_created_object_holds_its_key_until_the_watch_has_passed_it() {
        let cache = Cache::<Pod>::new(|_| Vec::new());
        let fresh = Freshness::default();
        let key = Key::new("a", "set");
        assert!(fresh.caught_up(&key, &cache));
        fresh.wrote(&key, &cache, &pod("p", "u", 7));
        cache.receive(Event::Apply(pod("other", "v", 6)), &mut Vec::new());
        assert!(!fresh.caught_up(&key, &cache));
        // Created and deleted before we looked: the delete's version tells.
        cache.receive(Event::Delete(pod("p", "u", 8)), &mut Vec::new());
        assert!(fresh.caught_up(&key, &cache));
    }

    #[tokio::test]
    async fn a_deleted_object_holds_its_key_until_it_is_gone() {
        let cache = Cache::<Pod>::new(|_| Vec::new());
        let fresh = Freshness::default();
        let key = Key::new("a", "set");
        cache.receive(Event::Apply(pod("p", "u", 7)), &mut Vec::new());
        fresh.deleted(&key, &cache, Key::new("a", "p"), "u".into());
        assert!(!fresh.caught_up(&key, &cache));
        cache.receive(Event::Apply(pod("p", "another", 9)), &mut Vec::new());
        assert!(fresh.caught_up(&key, &cache));
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_that_never_shows_up_is_forgiven() {
        let cache = Cache::<Pod>::new(|_| Vec::new());
        let fresh = Freshness::default();
        let key = Key::new("a", "set");
        fresh.wrote(&key, &cache, &pod("p", "u", 7));
        tokio::time::advance(FORGIVEN_AFTER + Duration::from_secs(1)).await;
        assert!(fresh.caught_up(&key, &cache));
    }
}

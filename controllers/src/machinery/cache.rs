//! One watch for each resource type, shared by every controller of the process.
//!
//! In: `kube_runtime`'s watcher. Out: a store that can be read by key, namespace or index, and calls to handlers
//! with the old and the new object of each change. Handlers must be quick; they put keys on queues.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Debug;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use futures::{StreamExt, TryStreamExt};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch};
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::watch as signal;
use tokio_util::sync::CancellationToken;

/// Where an object lives; the namespace is empty for cluster-scoped objects.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The namespace, or "".
    pub namespace: String,
    /// The name.
    pub name: String,
}

impl Key {
    /// A key from its parts.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Key { namespace: namespace.into(), name: name.into() }
    }

    /// The key of a cluster-scoped object.
    pub fn cluster(name: impl Into<String>) -> Self {
        Key::new("", name)
    }

    /// The key of an object.
    pub fn of<K: Resource>(object: &K) -> Self {
        Key::new(object.namespace().unwrap_or_default(), object.name_any())
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.namespace.is_empty() { f.write_str(&self.name) } else { write!(f, "{}/{}", self.namespace, self.name) }
    }
}

/// One change of the cache: at least one side is there.
#[derive(Debug)]
pub struct Change<'a, K> {
    /// The object before, if it was known.
    pub old: Option<&'a Arc<K>>,
    /// The object now, if it still exists.
    pub new: Option<&'a Arc<K>>,
}

impl<'a, K> Change<'a, K> {
    /// The sides that are there, the old one first.
    pub fn sides(&self) -> impl Iterator<Item = &'a Arc<K>> + use<'a, K> {
        self.old.into_iter().chain(self.new)
    }
}

type Handler<K> = Box<dyn Fn(&Change<'_, K>) + Send + Sync>;
type Indexer<K> = fn(&K) -> Vec<String>;

/// See the module's description.
pub struct Cache<K> {
    state: RwLock<State<K>>,
    handlers: RwLock<Vec<Handler<K>>>,
    indexer: Indexer<K>,
    synced: signal::Sender<bool>,
    latest_version: AtomicU64,
    lists_done: AtomicU64,
    lists_started: AtomicU64,
}

struct State<K> {
    objects: BTreeMap<Key, Arc<K>>,
    index: HashMap<String, BTreeSet<Key>>,
}

impl<K> Debug for Cache<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cache").finish_non_exhaustive()
    }
}

impl<K> Cache<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    /// An empty cache whose objects can also be found under the names that `indexer` gives them.
    pub fn new(indexer: Indexer<K>) -> Self {
        Cache {
            state: RwLock::new(State { objects: BTreeMap::new(), index: HashMap::new() }),
            handlers: RwLock::new(Vec::new()),
            indexer,
            synced: signal::channel(false).0,
            latest_version: AtomicU64::new(0),
            lists_done: AtomicU64::new(0),
            lists_started: AtomicU64::new(0),
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, State<K>> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State<K>> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls `handler` on each change from now on; handlers are added before the watch starts.
    pub fn on_change(&self, handler: impl Fn(&Change<'_, K>) + Send + Sync + 'static) {
        self.handlers.write().unwrap_or_else(PoisonError::into_inner).push(Box::new(handler));
    }

    /// The object of this key.
    pub fn get(&self, key: &Key) -> Option<Arc<K>> {
        self.read().objects.get(key).cloned()
    }

    /// Every object.
    pub fn all(&self) -> Vec<Arc<K>> {
        self.read().objects.values().cloned().collect()
    }

    /// Every object of a namespace.
    pub fn in_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        self.read()
            .objects
            .range(Key::new(namespace, "")..)
            .take_while(|(key, _)| key.namespace == namespace)
            .map(|(_, object)| object.clone())
            .collect()
    }

    /// Every object that the indexer put under this name.
    pub fn indexed(&self, name: &str) -> Vec<Arc<K>> {
        let state = self.read();
        let keys = state.index.get(name).into_iter().flatten();
        keys.filter_map(|key| state.objects.get(key).cloned()).collect()
    }

    /// The highest resourceVersion that this watch has delivered.
    pub fn latest_version(&self) -> u64 {
        self.latest_version.load(Ordering::Acquire)
    }

    /// How many lists this watch has begun and how many it has finished.
    pub fn lists(&self) -> (u64, u64) {
        (self.lists_started.load(Ordering::Acquire), self.lists_done.load(Ordering::Acquire))
    }

    /// Waits until the first list is in.
    pub async fn synced(&self) {
        // The sender lives as long as self, so waiting can't fail.
        let _ = self.synced.subscribe().wait_for(|done| *done).await;
    }

    /// Watches until shutdown. `strip` takes away what no controller reads, to save memory.
    pub async fn run(&self, api: Api<K>, config: watcher::Config, strip: fn(&mut K), shutdown: CancellationToken) {
        let mut stream = watch(api, config)
            .modify(move |object| {
                object.meta_mut().managed_fields = None;
                strip(object);
            })
            .default_backoff()
            .into_stream()
            .boxed();
        let mut listing: Vec<K> = Vec::new();
        loop {
            let event = tokio::select! {
                () = shutdown.cancelled() => return,
                event = stream.next() => event,
            };
            match event {
                None => return,
                Some(Err(error)) => {
                    tracing::warn!(kind = %K::kind(&()), error = &error as &dyn std::error::Error, "watch failed, trying again");
                }
                Some(Ok(event)) => self.receive(event, &mut listing),
            }
        }
    }

    /// Takes one event of the watch in.
    pub fn receive(&self, event: Event<K>, listing: &mut Vec<K>) {
        match event {
            Event::Init => {
                self.lists_started.fetch_add(1, Ordering::AcqRel);
                listing.clear();
            }
            Event::InitApply(object) => listing.push(object),
            Event::InitDone => {
                self.replace(std::mem::take(listing));
                self.lists_done.fetch_add(1, Ordering::AcqRel);
                self.synced.send_replace(true);
            }
            Event::Apply(object) => self.apply(object),
            Event::Delete(object) => {
                let version = version_of(&object);
                self.remove(&Key::of(&object), version);
            }
        }
    }

    fn apply(&self, object: K) {
        let key = Key::of(&object);
        let version = version_of(&object);
        let new = Arc::new(object);
        let old = {
            let mut state = self.write();
            let old = state.objects.insert(key.clone(), new.clone());
            if let Some(old) = &old {
                state.unindex(&key, &(self.indexer)(old));
            }
            for name in (self.indexer)(&new) {
                state.index.entry(name).or_default().insert(key.clone());
            }
            old
        };
        self.seen(version);
        self.notify(&Change { old: old.as_ref(), new: Some(&new) });
    }

    fn remove(&self, key: &Key, version: u64) {
        let old = {
            let mut state = self.write();
            let old = state.objects.remove(key);
            if let Some(old) = &old {
                state.unindex(key, &(self.indexer)(old));
            }
            old
        };
        self.seen(version);
        if old.is_some() {
            self.notify(&Change { old: old.as_ref(), new: None });
        }
    }

    fn replace(&self, objects: Vec<K>) {
        let present: BTreeSet<Key> = objects.iter().map(Key::of).collect();
        let gone: Vec<Key> = self.read().objects.keys().filter(|key| !present.contains(*key)).cloned().collect();
        for key in gone {
            self.remove(&key, 0);
        }
        for object in objects {
            self.apply(object);
        }
    }

    fn seen(&self, version: u64) {
        self.latest_version.fetch_max(version, Ordering::AcqRel);
    }

    fn notify(&self, change: &Change<'_, K>) {
        let handlers = self.handlers.read().unwrap_or_else(PoisonError::into_inner);
        for handler in handlers.iter() {
            handler(change);
        }
    }
}

impl<K> State<K> {
    fn unindex(&mut self, key: &Key, names: &[String]) {
        for name in names {
            if let Some(keys) = self.index.get_mut(name) {
                keys.remove(key);
                if keys.is_empty() {
                    self.index.remove(name);
                }
            }
        }
    }
}

/// The object's resourceVersion as a number; 0 if it has none.
pub fn version_of<K: Resource>(object: &K) -> u64 {
    object.meta().resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use k8s_openapi::api::core::v1::Pod;
    use serde_json::json;

    use super::*;

    fn pod(namespace: &str, name: &str, node: &str, version: u64) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"namespace": namespace, "name": name, "resourceVersion": version.to_string()},
            "spec": {"nodeName": node, "containers": []},
        }))
        .unwrap()
    }

    fn by_node(pod: &Pod) -> Vec<String> {
        pod.spec.iter().filter_map(|spec| spec.node_name.clone()).collect()
    }

    #[test]
    fn reads_by_key_namespace_and_index() {
        let cache = Cache::new(by_node);
        let mut listing = Vec::new();
        for (ns, name, node) in [("a", "1", "x"), ("a", "2", "y"), ("b", "1", "x")] {
            cache.receive(Event::Apply(pod(ns, name, node, 5)), &mut listing);
        }
        assert_eq!(cache.in_namespace("a").len(), 2);
        assert_eq!(cache.indexed("x").len(), 2);
        cache.receive(Event::Apply(pod("a", "1", "y", 9)), &mut listing);
        assert_eq!(cache.indexed("x").len(), 1);
        assert_eq!(cache.indexed("y").len(), 2);
        assert_eq!(cache.latest_version(), 9);
        cache.receive(Event::Delete(pod("a", "2", "y", 11)), &mut listing);
        assert_eq!(cache.indexed("y").len(), 1);
        assert!(cache.get(&Key::new("a", "2")).is_none());
        assert_eq!(cache.latest_version(), 11);
    }

    #[test]
    fn a_new_list_tells_handlers_of_what_went_missing() {
        let cache = Cache::new(by_node);
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = seen.clone();
        cache.on_change(move |change| {
            let name = change.sides().next().unwrap().name_any();
            let what = match (change.old, change.new) {
                (None, _) => "added",
                (_, None) => "deleted",
                _ => "changed",
            };
            log.lock().unwrap().push(format!("{what} {name}"));
        });
        let mut listing = Vec::new();
        for event in [
            Event::Init,
            Event::InitApply(pod("a", "1", "x", 1)),
            Event::InitApply(pod("a", "2", "x", 2)),
            Event::InitDone,
            Event::Init,
            Event::InitApply(pod("a", "2", "x", 3)),
            Event::InitDone,
        ] {
            cache.receive(event, &mut listing);
        }
        assert_eq!(*seen.lock().unwrap(), ["added 1", "added 2", "deleted 1", "changed 2"]);
        assert_eq!(cache.lists(), (2, 2));
    }
}

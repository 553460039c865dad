//! The cache of one resource: its objects in key order, the log of recent changes, and the open watches.
//!
//! In: events of the store, applied by the feed in order. Out: gets, list pages and watches. All state is behind one
//! lock that is held for short computations only, never across an await.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Bound;
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use gantry_api::ApiError;
use gantry_api::codec::ObjectFacts;
use gantry_api::kinds::Resource;
use tokio::sync::mpsc;

use crate::encryption::keyring::sealed_with;

use super::event::{Change, Entry, Kind};
use super::filter::{Filter, Scope, node_of};
use super::recall::Recent;
use super::watchers::{Delivery, Watchers, kind_for};

/// Changes younger than this stay in the log (unless the limits below are reached), so that a client that reconnects
/// within it resumes instead of listing again. Kubernetes' etcd keeps five minutes as well.
const LOG_AGE: Duration = Duration::from_secs(300);
/// This many changes stay however old they are: they cost little and help rarely changing resources.
const LOG_CHANGES_MIN: usize = 100;
/// No more changes than this are kept: at five hundred a second it is over two minutes.
const LOG_CHANGES_MAX: usize = 65_536;
/// No more bytes of changes than this are kept per resource.
const LOG_BYTES_MAX: usize = 64 << 20;

/// How many events are kept while a cache is being filled: what happens to one kind during one list. If it is more, the list
/// is read again.
const EARLY_MAX: usize = 4096;

/// The cache of one resource.
#[derive(Debug)]
pub struct ResourceCache {
    /// In the version it is stored in; a custom kind's changes with its definition.
    resource: RwLock<Arc<Resource>>,
    state: RwLock<State>,
    /// Held by whoever fills the cache of a custom kind.
    pub(super) filling: tokio::sync::Mutex<()>,
}

/// Objects in key order.
type Objects = BTreeMap<Arc<str>, Arc<Entry>>;

#[derive(Debug, Default)]
struct State {
    objects: Objects,
    /// The same objects by the node they are on, for kinds whose objects are on nodes: what a node agent asks for costs what
    /// runs on its node.
    by_node: HashMap<String, Objects>,
    log: VecDeque<Arc<Change>>,
    log_bytes: usize,
    /// A watch can start after this revision or any later one.
    log_after: u64,
    /// The revision of the last change of this resource.
    changed: u64,
    watchers: Watchers,
    object_bytes: usize,
    /// Whether it holds what is stored.
    filled: bool,
    /// The revision of the snapshot that it was filled with.
    filled_at: u64,
    /// Events that came while it was being filled.
    early: Vec<gantry_store::Event>,
    /// Whether more came than are kept.
    early_lost: bool,
    /// What is stored but cannot be read, with the reason: reads that would have to show it fail.
    unreadable: BTreeMap<Arc<str>, String>,
}

/// What the store has of one resource.
#[derive(Debug)]
pub(super) struct Snapshot {
    /// The revision it is of.
    pub(super) revision: u64,
    /// All objects that can be read.
    pub(super) entries: Vec<Entry>,
    /// The keys of those that cannot, with the reasons.
    pub(super) unreadable: Vec<(String, String)>,
    /// What led up to it.
    pub(super) recent: Recent,
}

/// A page of a list.
#[derive(Debug)]
pub struct Page {
    /// The selected objects, in key order.
    pub entries: Vec<Arc<Entry>>,
    /// The key of the last object looked at, if there are more.
    pub more_after: Option<Arc<str>>,
    /// How many objects follow, known only without selectors.
    pub remaining: Option<u64>,
    /// The revision of the resource's last change.
    pub changed: u64,
}

/// An open watch: a snapshot or backlog to send first, then the queue.
#[derive(Debug)]
pub struct Subscription {
    /// Objects to be sent as ADDED first.
    pub initial: Vec<Arc<Entry>>,
    /// Changes to be sent before the queue.
    pub backlog: Vec<Delivery>,
    /// The changes from then on.
    pub queue: mpsc::Receiver<Delivery>,
    /// Takes the watcher out of the index when dropped.
    pub guard: Guard,
}

/// Removes its watcher when dropped.
#[derive(Debug)]
pub struct Guard {
    cache: Arc<ResourceCache>,
    scope: Scope,
    id: u64,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.cache.write().watchers.remove(&self.scope, self.id);
    }
}

/// From where a watch starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WatchStart {
    /// With the objects there are now.
    Now,
    /// With the changes after this revision.
    After(u64),
}

/// What a cache holds, for metrics.
#[derive(Debug, Clone, Copy, Default)]
pub struct CacheStats {
    /// Objects.
    pub objects: usize,
    /// Their bytes.
    pub bytes: usize,
    /// Open watches.
    pub watchers: usize,
}

impl ResourceCache {
    /// An empty cache.
    pub fn new(resource: Arc<Resource>) -> Self {
        // The feed knows the built-in kinds from its first event; a custom kind comes later and is filled.
        let state = State { filled: resource.custom.is_none(), ..State::default() };
        Self { resource: RwLock::new(resource), state: RwLock::new(state), filling: tokio::sync::Mutex::default() }
    }

    /// The resource it holds, in the version it is stored in.
    pub fn resource(&self) -> Arc<Resource> {
        Arc::clone(&self.resource.read().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// Whether it holds what is stored and can be read.
    pub fn is_filled(&self) -> bool {
        self.read().filled
    }

    /// Forgets the events that came before a new attempt to fill it.
    pub(super) fn begin_filling(&self) {
        let mut state = self.write();
        state.early.clear();
        state.early_lost = false;
    }

    /// Fills it with what is stored and with what has happened since; false if that was too much to keep.
    pub(super) fn fill(&self, snapshot: Snapshot) -> Result<bool, ApiError> {
        let mut state = self.write();
        if state.filled {
            return Ok(true);
        }
        if state.early_lost {
            return Ok(false);
        }
        let revision = snapshot.revision;
        let now = Instant::now();
        state.load(snapshot, now);
        let early = std::mem::take(&mut state.early);
        for event in early.iter().filter(|event| event.kv.mod_revision > revision) {
            self.apply_to(&mut state, event, None, now)?;
        }
        Ok(true)
    }

    /// From now on the kind is as its definition says now. Objects take the form of the new schema; nobody is told, since
    /// nothing that is stored has changed.
    pub fn redefine(&self, resource: Arc<Resource>) -> Result<(), ApiError> {
        let mut state = self.write();
        let mut changed = Vec::new();
        for entry in state.objects.values() {
            if let Some(entry) = entry.settled(&resource)? {
                changed.push(Arc::new(entry));
            }
        }
        for entry in changed {
            state.put(entry);
        }
        *self.resource.write().unwrap_or_else(std::sync::PoisonError::into_inner) = resource;
        Ok(())
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Replaces everything by what is stored; open watches end, and go on where they ended if it knows what led up to it.
    pub(super) fn replace(&self, snapshot: Snapshot) {
        self.write().load(snapshot, Instant::now());
    }

    /// Applies one event of the store, of whose value the facts may be known, and hands it on to watchers; returns how many of
    /// those were closed for lagging.
    pub fn apply(
        &self,
        event: &gantry_store::Event,
        facts: Option<ObjectFacts>,
        now: Instant,
    ) -> Result<usize, ApiError> {
        let mut state = self.write();
        if !state.filled {
            if state.early.len() < EARLY_MAX {
                state.early.push(event.clone());
            } else {
                state.early_lost = true;
            }
            return Ok(0);
        }
        // It was filled with a snapshot that the feed had not reached yet.
        if event.kv.mod_revision <= state.filled_at {
            return Ok(0);
        }
        self.apply_to(&mut state, event, facts, now)
    }

    fn apply_to(
        &self,
        state: &mut State,
        event: &gantry_store::Event,
        facts: Option<ObjectFacts>,
        now: Instant,
    ) -> Result<usize, ApiError> {
        let kv = &event.kv;
        let previous = state.objects.get(kv.key.as_str()).cloned();
        let kind = match (event.kind, &previous) {
            (gantry_store::EventKind::Put, None) => Kind::Added,
            (gantry_store::EventKind::Put, Some(_)) => Kind::Modified,
            (gantry_store::EventKind::Delete, Some(_)) => Kind::Deleted,
            (gantry_store::EventKind::Delete, None) => {
                state.unreadable.remove(kv.key.as_str());
                return Ok(0);
            }
        };
        let resource = self.resource();
        let change = match facts {
            Some(facts) => Ok(Change::with_facts(&kv.key, kind, kv.mod_revision, &kv.value, facts, previous, now)),
            None => Change::new(&resource, &kv.key, kind, kv.mod_revision, &kv.value, previous, now),
        };
        let change = match change {
            Ok(change) => Arc::new(change),
            Err(error) => {
                state.close_over(&kv.key, reason(&kv.value, &error));
                return Err(error);
            }
        };
        state.unreadable.remove(kv.key.as_str());
        if kind == Kind::Deleted {
            state.take(&kv.key);
        } else {
            state.put(Arc::clone(&change.entry));
        }
        state.changed = change.revision;
        state.remember(Arc::clone(&change), now);
        Ok(state.watchers.dispatch(&change))
    }

    /// The first object whose key starts with `prefix` that is stored but cannot be read, and why.
    pub fn unreadable(&self, prefix: &str) -> Option<(Arc<str>, String)> {
        let state = self.read();
        let (key, reason) = state.unreadable.range::<str, _>((Bound::Included(prefix), Bound::Unbounded)).next()?;
        key.starts_with(prefix).then(|| (Arc::clone(key), reason.clone()))
    }

    /// Whether there is nothing in it, and nothing is stored that cannot be read.
    pub fn is_empty(&self) -> bool {
        let state = self.read();
        state.objects.is_empty() && state.unreadable.is_empty()
    }

    /// One object.
    pub fn get(&self, key: &str) -> Option<Arc<Entry>> {
        self.read().objects.get(key).cloned()
    }

    /// What is on a node, in key order.
    pub fn on_node(&self, node: &str) -> Vec<Arc<Entry>> {
        self.read().by_node.get(node).map(|objects| objects.values().cloned().collect()).unwrap_or_default()
    }

    /// The revision of the last change of this resource.
    pub fn changed(&self) -> u64 {
        self.read().changed
    }

    /// The selected objects whose keys start with `prefix` and follow `start_after`, at most `limit` (0: all).
    pub fn list(&self, prefix: &str, start_after: Option<&str>, limit: usize, filter: &Filter) -> Page {
        let state = self.read();
        let lower = match start_after {
            Some(key) => Bound::Excluded(key),
            None => Bound::Included(prefix),
        };
        let mut entries = Vec::new();
        let candidates = state.candidates(filter).range::<str, _>((lower, Bound::Unbounded));
        let mut range = candidates.take_while(|(key, _)| key.starts_with(prefix));
        let mut more_after = None;
        for (key, entry) in range.by_ref() {
            if !filter.matches(&entry.facts) {
                continue;
            }
            entries.push(Arc::clone(entry));
            if limit != 0 && entries.len() == limit {
                more_after = Some(Arc::clone(key));
                break;
            }
        }
        let mut remaining = None;
        if more_after.is_some() {
            let left = if filter.is_selective() {
                range.any(|(_, entry)| filter.matches(&entry.facts)).then_some(None)
            } else {
                match range.count() as u64 {
                    0 => None,
                    count => Some(Some(count)),
                }
            };
            match left {
                Some(count) => remaining = count,
                None => more_after = None,
            }
        }
        Page { entries, more_after, remaining, changed: state.changed }
    }

    /// Opens a watch and says which revision of the resource its initial objects or backlog lead up to; or says after
    /// which revision the oldest possible watch can start.
    pub fn watch(
        self: &Arc<Self>,
        prefix: &str,
        filter: Arc<Filter>,
        start: WatchStart,
    ) -> Result<(Subscription, u64), u64> {
        let mut state = self.write();
        let mut initial = Vec::new();
        let mut backlog = Vec::new();
        let after = match start {
            WatchStart::Now => {
                let range = state.candidates(&filter).range::<str, _>((Bound::Included(prefix), Bound::Unbounded));
                for (_, entry) in range.take_while(|(key, _)| key.starts_with(prefix)) {
                    if filter.matches(&entry.facts) {
                        initial.push(Arc::clone(entry));
                    }
                }
                0
            }
            WatchStart::After(revision) if revision < state.log_after => return Err(state.log_after),
            WatchStart::After(revision) => {
                let from = state.log.partition_point(|change| change.revision <= revision);
                for change in state.log.range(from..) {
                    if let Some(kind) = kind_for(&filter, change) {
                        backlog.push(Delivery { kind, change: Arc::clone(change) });
                    }
                }
                revision
            }
        };
        let scope = filter.scope();
        let (id, queue) = state.watchers.add(filter, after);
        let changed = state.changed;
        drop(state);
        let guard = Guard { cache: Arc::clone(self), scope, id };
        Ok((Subscription { initial, backlog, queue, guard }, changed))
    }

    /// Ends all watches.
    pub fn close_watches(&self) {
        self.write().watchers.close_all();
    }

    /// Sizes, for metrics.
    pub fn stats(&self) -> CacheStats {
        let state = self.read();
        CacheStats { objects: state.objects.len(), bytes: state.object_bytes, watchers: state.watchers.len() }
    }

    /// Calls `look` for each object, in key order.
    pub fn for_each(&self, mut look: impl FnMut(&Entry)) {
        for entry in self.read().objects.values() {
            look(entry);
        }
    }

    /// Calls `look` for each object whose key starts with `prefix`, in key order.
    pub fn for_each_below(&self, prefix: &str, mut look: impl FnMut(&Entry)) {
        let state = self.read();
        let range = state.objects.range::<str, _>((Bound::Included(prefix), Bound::Unbounded));
        for (_, entry) in range.take_while(|(key, _)| key.starts_with(prefix)) {
            look(entry);
        }
    }

    /// Whether any object satisfies `look`.
    pub fn any(&self, mut look: impl FnMut(&Entry) -> bool) -> bool {
        self.read().objects.values().any(|entry| look(entry))
    }
}

/// Why a stored value cannot be read.
pub(super) fn reason(stored: &[u8], error: &ApiError) -> String {
    match sealed_with(stored) {
        Some(name) => {
            format!("it does not open with the key {name:?} of the encryption configuration, if there is one")
        }
        None => error.message.clone(),
    }
}

impl State {
    /// Replaces everything; open watches end.
    fn load(&mut self, snapshot: Snapshot, now: Instant) {
        let Snapshot { revision, entries, unreadable, recent } = snapshot;
        self.unreadable = unreadable.into_iter().map(|(key, reason)| (Arc::from(key), reason)).collect();
        self.watchers.close_all();
        self.log.clear();
        self.log_bytes = 0;
        self.log_after = recent.after;
        self.changed = revision;
        self.filled = true;
        self.filled_at = revision;
        self.objects.clear();
        self.by_node.clear();
        self.object_bytes = 0;
        for entry in entries {
            self.put(Arc::new(entry));
        }
        // Objects and the log share what they both have.
        for entry in recent.objects.into_values() {
            if self.has(&entry) {
                self.put(entry);
            }
        }
        for change in recent.changes {
            self.remember(change, now);
        }
    }

    /// Whether this version of an object is there.
    fn has(&self, entry: &Entry) -> bool {
        self.objects.get(&entry.key).is_some_and(|here| here.revision == entry.revision)
    }

    /// Puts an object in the place of what was there.
    fn put(&mut self, entry: Arc<Entry>) {
        self.object_bytes += entry.object.len();
        if let Some(before) = self.objects.insert(Arc::clone(&entry.key), Arc::clone(&entry)) {
            self.object_bytes -= before.object.len();
            if node_of(&before.facts) != node_of(&entry.facts) {
                self.leave_node(&before);
            }
        }
        if let Some(node) = node_of(&entry.facts) {
            let on_node = match self.by_node.get_mut(node) {
                Some(on_node) => on_node,
                None => self.by_node.entry(node.to_owned()).or_default(),
            };
            on_node.insert(Arc::clone(&entry.key), entry);
        }
    }

    /// Takes an object out.
    fn take(&mut self, key: &str) {
        if let Some(entry) = self.objects.remove(key) {
            self.object_bytes -= entry.object.len();
            self.leave_node(&entry);
        }
    }

    fn leave_node(&mut self, entry: &Entry) {
        let Some(node) = node_of(&entry.facts) else { return };
        if let Some(on_node) = self.by_node.get_mut(node) {
            on_node.remove(&entry.key);
            if on_node.is_empty() {
                self.by_node.remove(node);
            }
        }
    }

    /// The objects among which everything is that a filter selects.
    fn candidates(&self, filter: &Filter) -> &Objects {
        const NOTHING: &Objects = &BTreeMap::new();
        match filter.node() {
            Some(node) => self.by_node.get(node).unwrap_or(NOTHING),
            None => &self.objects,
        }
    }

    /// Notes that an object cannot be read any more. Watches end: what they have shown is not what is stored.
    fn close_over(&mut self, key: &str, reason: String) {
        self.take(key);
        self.unreadable.insert(Arc::from(key), reason);
        self.watchers.close_all();
    }

    fn remember(&mut self, change: Arc<Change>, now: Instant) {
        self.log_bytes += change.weight();
        self.log.push_back(change);
        while self.log.len() > LOG_CHANGES_MIN {
            let Some(oldest) = self.log.front() else { break };
            let old = now.saturating_duration_since(oldest.seen) > LOG_AGE;
            if !old && self.log.len() <= LOG_CHANGES_MAX && self.log_bytes <= LOG_BYTES_MAX {
                break;
            }
            self.log_after = oldest.revision;
            self.log_bytes -= oldest.weight();
            self.log.pop_front();
        }
    }
}

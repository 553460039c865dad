//! The open watches of one resource, indexed by what they can select.
//!
//! In: changes, in order. Out: deliveries on each watcher's own bounded queue. A watcher whose queue is full is closed:
//! its client resumes from the last revision it saw, and nobody else waits for it.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::mpsc;

use super::event::{Change, Kind};
use super::filter::{Filter, Scope, node_of};

/// How many undelivered changes a watcher may have. A client that stops reading for about a second while four
/// thousand objects change a second can still catch up; a queued change is one pointer to what the log holds anyway.
pub const WATCHER_QUEUE_MAX: usize = 4096;

/// A change on its way to one watcher, with the kind it has in that watcher's view.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// What happened in the watcher's view.
    pub kind: Kind,
    /// The change.
    pub change: Arc<Change>,
}

#[derive(Debug)]
struct Watcher {
    id: u64,
    filter: Arc<Filter>,
    /// Only changes after this revision concern the watcher.
    after: u64,
    queue: mpsc::Sender<Delivery>,
}

/// The watchers of one resource.
#[derive(Debug, Default)]
pub struct Watchers {
    by_scope: HashMap<Scope, Vec<Watcher>>,
    count: usize,
    next_id: u64,
}

/// The kind a change has for a filter, or none if it does not concern it.
pub fn kind_for(filter: &Filter, change: &Change) -> Option<Kind> {
    let now = change.kind != Kind::Deleted && filter.matches(&change.entry.facts);
    let before = change.previous.as_ref().is_some_and(|previous| filter.matches(&previous.facts));
    match (before, now) {
        (false, true) => Some(Kind::Added),
        (true, true) => Some(Kind::Modified),
        (true, false) => Some(Kind::Deleted),
        (false, false) => None,
    }
}

impl Watchers {
    /// Adds a watcher and returns its id and queue.
    pub fn add(&mut self, filter: Arc<Filter>, after: u64) -> (u64, mpsc::Receiver<Delivery>) {
        let (queue, receiver) = mpsc::channel(WATCHER_QUEUE_MAX);
        self.next_id += 1;
        let id = self.next_id;
        let scope = filter.scope();
        self.by_scope.entry(scope).or_default().push(Watcher { id, filter, after, queue });
        self.count += 1;
        (id, receiver)
    }

    /// Removes a watcher that went away.
    pub fn remove(&mut self, scope: &Scope, id: u64) {
        if let Some(bucket) = self.by_scope.get_mut(scope) {
            let before = bucket.len();
            bucket.retain(|watcher| watcher.id != id);
            self.count -= before - bucket.len();
            if bucket.is_empty() {
                self.by_scope.remove(scope);
            }
        }
    }

    /// How many are open.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Closes all: their queues end once drained.
    pub fn close_all(&mut self) {
        self.by_scope.clear();
        self.count = 0;
    }

    /// Hands a change to everyone it concerns; returns how many watchers were closed because they lagged.
    pub fn dispatch(&mut self, change: &Arc<Change>) -> usize {
        if self.count == 0 {
            return 0;
        }
        let facts = &change.entry.facts;
        let node = node_of(facts).map(str::to_owned);
        let previous_node = change.previous.as_ref().and_then(|previous| node_of(&previous.facts)).map(str::to_owned);
        let mut closed = self.dispatch_scope(&Scope::All, change);
        if !facts.namespace.is_empty() {
            closed += self.dispatch_scope(&Scope::Namespace(facts.namespace.to_string()), change);
            // A name selected over all namespaces.
            closed += self.dispatch_scope(&Scope::Name(String::new(), facts.name.to_string()), change);
        }
        closed += self.dispatch_scope(&Scope::Name(facts.namespace.to_string(), facts.name.to_string()), change);
        if previous_node.is_some() && previous_node != node {
            closed += previous_node.map_or(0, |node| self.dispatch_scope(&Scope::Node(node), change));
        }
        closed + node.map_or(0, |node| self.dispatch_scope(&Scope::Node(node), change))
    }

    fn dispatch_scope(&mut self, scope: &Scope, change: &Arc<Change>) -> usize {
        let Some(bucket) = self.by_scope.get_mut(scope) else {
            return 0;
        };
        let before = bucket.len();
        bucket.retain(|watcher| {
            if change.revision <= watcher.after {
                return true;
            }
            let Some(kind) = kind_for(&watcher.filter, change) else {
                return true;
            };
            watcher.queue.try_send(Delivery { kind, change: Arc::clone(change) }).is_ok()
        });
        let closed = before - bucket.len();
        self.count -= closed;
        if bucket.is_empty() {
            self.by_scope.remove(scope);
        }
        closed
    }
}

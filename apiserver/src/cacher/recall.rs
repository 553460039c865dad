//! What happened before a cache was loaded, read from the store's history. In: a watch of the past. Out: the changes that the
//! log begins with, so that watches which a restart broke go on where they ended and nobody has to list again.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use gantry_api::ApiError;
use gantry_api::kinds::Resource;
use gantry_store::{Error, Event, EventKind, Store};
use tracing::{error, info};

use super::event::{Change, Entry, Kind};

/// How many revisions are recalled: a minute at a hundred and thirty a second, and the clients of a quiet kind are told about
/// once a minute how far they are. They take the memory that the log would have if there had been no restart.
const REVISIONS_MAX: u64 = 8_192;
/// How long reading them may take; without them clients list again.
const WAIT_MAX: Duration = Duration::from_secs(5);
/// How often the store is asked how far its watch is, if nothing comes: the last changes may be of other keys.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// The latest changes of one resource.
#[derive(Debug)]
pub(super) struct Recent {
    /// All changes after this revision are known.
    pub(super) after: u64,
    /// In the order of their revisions.
    pub(super) changes: Vec<Arc<Change>>,
    /// What they have made of the objects that they are about and that are there.
    pub(super) objects: HashMap<Arc<str>, Arc<Entry>>,
}

impl Recent {
    /// Nothing is known of what happened up to this revision.
    pub(super) fn after(revision: u64) -> Self {
        Self { after: revision, changes: Vec::new(), objects: HashMap::new() }
    }

    /// Takes in the next change.
    pub(super) fn add(&mut self, resource: &Resource, event: &Event, now: Instant) {
        match self.change(resource, event, now) {
            Ok(change) => {
                match change.kind {
                    Kind::Deleted => drop(self.objects.remove(&change.entry.key)),
                    _ => drop(self.objects.insert(Arc::clone(&change.entry.key), Arc::clone(&change.entry))),
                }
                self.changes.push(Arc::new(change));
            }
            Err(error) => {
                error!(key = event.kv.key, %error, "a change that is kept cannot be read");
                *self = Self::after(event.kv.mod_revision);
            }
        }
    }

    fn change(&self, resource: &Resource, event: &Event, now: Instant) -> Result<Change, ApiError> {
        let kv = &event.kv;
        let previous = match (self.objects.get(kv.key.as_str()), &event.prev) {
            (Some(known), _) => Some(Arc::clone(known)),
            (None, Some(prev)) => Some(Arc::new(Entry::new(resource, &prev.key, prev.mod_revision, &prev.value)?)),
            (None, None) => None,
        };
        let kind = match (event.kind, &previous) {
            (EventKind::Delete, _) => Kind::Deleted,
            (EventKind::Put, None) => Kind::Added,
            (EventKind::Put, Some(_)) => Kind::Modified,
        };
        Change::new(resource, &kv.key, kind, kv.mod_revision, &kv.value, previous, now)
    }
}

/// The latest changes of several resources.
#[derive(Debug)]
pub(super) struct History {
    /// All changes after this revision are known.
    after: u64,
    /// Of the resources that have some, by prefix.
    changed: HashMap<String, Recent>,
}

impl History {
    /// Reads what happened below `prefix` up to `revision` to the resources that `resource_of` knows by their prefixes; nothing if
    /// the store cannot tell all of it.
    pub(super) async fn read(
        store: &dyn Store,
        prefix: &str,
        revision: u64,
        resource_of: impl Fn(&str) -> Option<Arc<Resource>>,
    ) -> Self {
        let now = Instant::now();
        let mut changed: HashMap<String, Recent> = HashMap::new();
        let each = |after: u64, event: &Event| {
            let Some(prefix) = super::resource_prefix(&event.kv.key) else { return };
            let Some(resource) = resource_of(prefix) else { return };
            changed.entry(prefix.to_owned()).or_insert_with(|| Recent::after(after)).add(&resource, event, now);
        };
        let why = match tokio::time::timeout(WAIT_MAX, replay(store, prefix, revision, each)).await {
            Ok(Ok(after)) => return Self { after, changed },
            Ok(Err(error)) => error.to_string(),
            Err(elapsed) => elapsed.to_string(),
        };
        info!(why, prefix, "the latest changes cannot be read again; clients list again");
        Self { after: revision, changed: HashMap::new() }
    }

    /// What it has of one resource.
    pub(super) fn take(&mut self, prefix: &str) -> Recent {
        self.changed.remove(prefix).unwrap_or_else(|| Recent::after(self.after))
    }
}

/// Hands on the changes, in order, with the revision after which they begin, and returns that.
async fn replay(
    store: &dyn Store,
    prefix: &str,
    revision: u64,
    mut each: impl FnMut(u64, &Event),
) -> Result<u64, Error> {
    let oldest = store.status().await?.oldest_revision;
    let after = oldest.max(revision.saturating_sub(REVISIONS_MAX)).min(revision);
    if after == revision {
        return Ok(after);
    }
    let mut past = store.watch(prefix, after).await?;
    store.request_progress().await?;
    loop {
        let Ok(batch) = tokio::time::timeout(ASK_AGAIN, past.next()).await else {
            store.request_progress().await?;
            continue;
        };
        let batch = batch.unwrap_or(Err(Error::Closed))?;
        if batch.revision <= revision {
            batch.events.iter().for_each(|event| each(after, event));
        }
        if batch.revision >= revision {
            return Ok(after);
        }
    }
}

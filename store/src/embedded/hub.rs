//! From the commit path to the watchers. In: the batches of each commit, in revision order. Out: for each watcher
//! the batches under its prefix, or word that it must read them from the file.
//!
//! No watcher has a queue. The latest batches are kept once, in a ring, and a watcher that falls behind the ring
//! reads on in the file, so a slow one costs neither memory nor the writers' time.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::Notify;

use crate::{EventBatch, Revision};

/// The most batches in the ring: about a second of history under full load, which is as far as a live watcher that is
/// merely busy falls behind.
const RING_BATCHES_MAX: usize = 8_192;
/// The most bytes of values in the ring, so that large objects don't make it large: the API server's cache has them, too.
const RING_BYTES_MAX: usize = 8 << 20;
/// The most batches a watcher looks at in one go, which bounds how long it holds the lock the commit path needs.
const DRAIN_BATCHES_MAX: usize = 512;

/// Hands each commit's batches to the watchers.
pub(super) struct Hub {
    state: Mutex<State>,
}

struct State {
    /// The last revision handed on.
    published: Revision,
    closed: bool,
    /// The last batches, one a revision without holes, the last being `published`'s.
    ring: VecDeque<Arc<EventBatch>>,
    ring_bytes: usize,
    watchers: HashMap<u64, Slot>,
    next_id: u64,
}

/// What the commit path knows of a watcher.
struct Slot {
    prefix: String,
    /// The first revision that may matter to it and that it has not taken.
    pending: Option<Revision>,
    /// Somebody asked for word that everything up to this revision has been given.
    progress_asked: Option<Revision>,
    wake: Arc<Notify>,
}

/// A watcher's end.
pub(super) struct Watcher {
    hub: Arc<Hub>,
    id: u64,
    prefix: String,
    /// It has been given everything up to here.
    cursor: Revision,
    wake: Arc<Notify>,
}

/// What a watcher finds when it looks.
pub(super) enum Look {
    /// These, in order; look again.
    Batches(VecDeque<EventBatch>),
    /// Changes after `after` and up to `to` are no longer in the ring: replay them from the file and
    /// say how far with [`Watcher::replayed`].
    Behind { after: Revision, to: Revision },
    /// Nothing new up to this revision, and somebody asked for word of it.
    Progress(Revision),
    /// Nothing.
    Idle,
    /// The store is closed.
    Closed,
}

impl Hub {
    /// A hub of a store whose present revision is `published`.
    pub(super) fn new(published: Revision) -> Self {
        Hub {
            state: Mutex::new(State {
                published,
                closed: false,
                ring: VecDeque::new(),
                ring_bytes: 0,
                watchers: HashMap::new(),
                next_id: 0,
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while holding it; if it ever did, every step leaves the state usable.
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The last revision handed on.
    pub(super) fn published(&self) -> Revision {
        self.lock().published
    }

    /// Hands on what a commit did: every revision after the last one, each once.
    pub(super) fn publish(&self, batches: Vec<EventBatch>) {
        let mut state = self.lock();
        for batch in batches {
            for slot in state.watchers.values_mut() {
                if slot.pending.is_none() && batch.events.iter().any(|event| event.kv.key.starts_with(&slot.prefix)) {
                    slot.pending = Some(batch.revision);
                    slot.wake.notify_one();
                }
            }
            state.published = batch.revision;
            state.ring_bytes += batch_bytes(&batch);
            state.ring.push_back(Arc::new(batch));
        }
        for slot in state.watchers.values().filter(|slot| slot.progress_asked.is_some()) {
            slot.wake.notify_one();
        }
        while state.ring.len() > RING_BATCHES_MAX || state.ring_bytes > RING_BYTES_MAX {
            let Some(oldest) = state.ring.pop_front() else { break };
            state.ring_bytes -= batch_bytes(&oldest);
        }
    }

    /// Makes every watcher yield a batch or a progress notification of at least `revision`, which may be in the very
    /// commit that is about to be handed on.
    pub(super) fn request_progress(&self, revision: Revision) {
        for slot in self.lock().watchers.values_mut() {
            slot.progress_asked = Some(revision);
            slot.wake.notify_one();
        }
    }

    /// Ends every watcher.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        for slot in state.watchers.values() {
            slot.wake.notify_one();
        }
    }

    /// A watcher of everything under `prefix` after revision `after`.
    pub(super) fn watcher(self: &Arc<Self>, prefix: &str, after: Revision) -> Watcher {
        let wake = Arc::new(Notify::new());
        let mut state = self.lock();
        let id = state.next_id;
        state.next_id += 1;
        let pending = (after < state.published).then_some(after + 1);
        let slot = Slot { prefix: prefix.to_owned(), pending, progress_asked: None, wake: Arc::clone(&wake) };
        state.watchers.insert(id, slot);
        Watcher { hub: Arc::clone(self), id, prefix: prefix.to_owned(), cursor: after, wake }
    }
}

impl State {
    /// The revision of the first batch in the ring, or the next one if it is empty.
    fn ring_start(&self) -> Revision {
        self.published + 1 - self.ring.len() as Revision
    }
}

impl Watcher {
    /// What it watches.
    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Returns when there may be something new. A wake-up that comes between a look and this call is not lost.
    pub(super) async fn woken(&self) {
        self.wake.notified().await;
    }

    /// Looks at what is new.
    pub(super) fn look(&mut self) -> Look {
        let mut state = self.hub.lock();
        let state = &mut *state;
        if state.closed {
            return Look::Closed;
        }
        let (published, ring_start) = (state.published, state.ring_start());
        let Some(slot) = state.watchers.get_mut(&self.id) else { return Look::Closed };
        let Some(pending) = slot.pending.take().map(|first| first.max(self.cursor + 1)).filter(|p| *p <= published)
        else {
            // A start in the very commit that is about to be handed on is ahead of `published`.
            self.cursor = self.cursor.max(published);
            if slot.progress_asked.take_if(|asked| *asked <= self.cursor).is_some() {
                return Look::Progress(self.cursor);
            }
            return Look::Idle;
        };
        if pending < ring_start {
            slot.pending = Some(pending);
            return Look::Behind { after: pending - 1, to: published };
        }
        let skip = usize::try_from(pending - ring_start).unwrap_or(usize::MAX);
        let mut found = VecDeque::new();
        for batch in state.ring.iter().skip(skip).take(DRAIN_BATCHES_MAX) {
            self.cursor = batch.revision;
            found.extend(under_prefix(batch, &self.prefix));
        }
        slot.pending = (self.cursor < published).then_some(self.cursor + 1);
        Look::Batches(found)
    }

    /// Says that everything up to `through` has been read from the file.
    pub(super) fn replayed(&mut self, through: Revision) {
        self.cursor = through;
        let mut state = self.hub.lock();
        let published = state.published;
        if let Some(slot) = state.watchers.get_mut(&self.id) {
            slot.pending = (through < published).then_some(through + 1);
        }
    }

    /// The revision up to which there is nothing more to yield, if that is so.
    pub(super) fn progress(&mut self) -> Option<Revision> {
        let state = self.hub.lock();
        let idle = !state.closed && state.watchers.get(&self.id).is_some_and(|slot| slot.pending.is_none());
        idle.then(|| {
            self.cursor = self.cursor.max(state.published);
            self.cursor
        })
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.hub.lock().watchers.remove(&self.id);
    }
}

/// The part of a batch that is under `prefix`.
fn under_prefix(batch: &EventBatch, prefix: &str) -> Option<EventBatch> {
    let events: Vec<_> = batch.events.iter().filter(|event| event.kv.key.starts_with(prefix)).cloned().collect();
    (!events.is_empty()).then_some(EventBatch { revision: batch.revision, events })
}

/// About how much memory a batch takes.
fn batch_bytes(batch: &EventBatch) -> usize {
    let event = |e: &crate::Event| e.kv.key.len() + e.kv.value.len() + e.prev.as_ref().map_or(0, |kv| kv.value.len());
    batch.events.iter().map(event).sum()
}

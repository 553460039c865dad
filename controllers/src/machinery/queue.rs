//! A keyed work queue: each key waits at most once, is worked on by one task at a time, can be put off to a
//! later time, and backs off when its work fails.
//!
//! The queue holds each key once, so its size is bounded by the number of objects that exist.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// The wait after a key's first failure; it doubles with each further one.
const BACKOFF_FIRST: Duration = Duration::from_millis(5);
/// The longest wait between two attempts.
const BACKOFF_MAX: Duration = Duration::from_secs(120);

/// See the module's description.
#[derive(Debug)]
pub struct Queue<T> {
    state: Mutex<State<T>>,
    wake: Notify,
}

#[derive(Debug)]
struct State<T> {
    ready: VecDeque<T>,
    /// Keys that wait in `ready`, or will once their present work is done.
    dirty: HashSet<T>,
    working: HashSet<T>,
    failures: HashMap<T, u32>,
    timers: BTreeMap<(Instant, u64), T>,
    timer_of: HashMap<T, (Instant, u64)>,
    sequence: u64,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Queue {
            state: Mutex::new(State {
                ready: VecDeque::new(),
                dirty: HashSet::new(),
                working: HashSet::new(),
                failures: HashMap::new(),
                timers: BTreeMap::new(),
                timer_of: HashMap::new(),
                sequence: 0,
            }),
            wake: Notify::new(),
        }
    }
}

impl<T: Clone + Eq + Hash + Debug> Queue<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // No user code runs under the lock, so a poisoned state is still a whole one.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for `key` to be worked on as soon as possible.
    pub fn add(&self, key: T) {
        self.lock().add(key);
        self.wake.notify_one();
    }

    /// Asks for `key` to be worked on after `delay`; of several such wishes the earliest counts.
    pub fn add_after(&self, key: T, delay: Duration) {
        self.lock().add_at(key, Instant::now() + delay);
        self.wake.notify_one();
    }

    /// Asks for `key` again after a wait that grows with each failure in a row.
    pub fn retry(&self, key: T) {
        let delay = {
            let mut state = self.lock();
            let failures = state.failures.entry(key.clone()).or_insert(0);
            let delay = BACKOFF_FIRST.saturating_mul(1 << (*failures).min(20));
            *failures = failures.saturating_add(1);
            delay.min(BACKOFF_MAX)
        };
        self.add_after(key, delay);
    }

    /// Forgets the failures of `key`.
    pub fn forget(&self, key: &T) {
        self.lock().failures.remove(key);
    }

    /// Waits for the next key. The caller must call [`Queue::done`] for it.
    pub async fn next(&self) -> T {
        loop {
            let timer = {
                let mut state = self.lock();
                state.fire_timers(Instant::now());
                if let Some(key) = state.take() {
                    if !state.ready.is_empty() {
                        self.wake.notify_one();
                    }
                    return key;
                }
                state.timers.keys().next().map(|(at, _)| *at)
            };
            match timer {
                Some(at) => {
                    tokio::select! {
                        () = self.wake.notified() => {}
                        () = tokio::time::sleep_until(at) => {}
                    }
                }
                None => self.wake.notified().await,
            }
        }
    }

    /// The work on `key` has ended; if it was asked for meanwhile it waits again.
    pub fn done(&self, key: &T) {
        let mut state = self.lock();
        state.working.remove(key);
        if state.dirty.contains(key) {
            state.ready.push_back(key.clone());
            drop(state);
            self.wake.notify_one();
        }
    }

    /// How many keys wait to be worked on now.
    pub fn len(&self) -> usize {
        self.lock().ready.len()
    }
}

impl<T: Clone + Eq + Hash> State<T> {
    fn add(&mut self, key: T) {
        if self.dirty.insert(key.clone()) && !self.working.contains(&key) {
            self.ready.push_back(key);
        }
    }

    fn add_at(&mut self, key: T, at: Instant) {
        if let Some(present) = self.timer_of.get(&key) {
            if present.0 <= at {
                return;
            }
            let present = *present;
            self.timers.remove(&present);
        }
        self.sequence += 1;
        let slot = (at, self.sequence);
        self.timer_of.insert(key.clone(), slot);
        self.timers.insert(slot, key);
    }

    fn fire_timers(&mut self, now: Instant) {
        while let Some(entry) = self.timers.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let key = entry.remove();
            self.timer_of.remove(&key);
            self.add(key);
        }
    }

    fn take(&mut self) -> Option<T> {
        let key = self.ready.pop_front()?;
        self.dirty.remove(&key);
        self.working.insert(key.clone());
        Some(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn try_next(queue: &Queue<&'static str>) -> Option<&'static str> {
        tokio::time::timeout(Duration::from_millis(1), queue.next()).await.ok()
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_waits_once_and_is_not_worked_on_twice_at_a_time() {
        let queue = Queue::default();
        queue.add("a");
        queue.add("a");
        assert_eq!(queue.next().await, "a");
        queue.add("a");
        assert_eq!(try_next(&queue).await, None);
        queue.done(&"a");
        assert_eq!(try_next(&queue).await, Some("a"));
        queue.done(&"a");
        assert_eq!(try_next(&queue).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn the_earliest_of_several_delays_counts() {
        let queue = Queue::default();
        queue.add_after("a", Duration::from_secs(60));
        queue.add_after("a", Duration::from_secs(2));
        queue.add_after("a", Duration::from_secs(30));
        let start = Instant::now();
        assert_eq!(queue.next().await, "a");
        assert_eq!(start.elapsed().as_secs(), 2);
        queue.done(&"a");
        assert_eq!(try_next(&queue).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn failures_in_a_row_wait_longer_up_to_a_limit() {
        let queue = Queue::default();
        let mut waits = Vec::new();
        for _ in 0..20 {
            let start = Instant::now();
            queue.retry("a");
            let key = queue.next().await;
            waits.push(start.elapsed());
            queue.done(&key);
        }
        assert!(waits[0] < Duration::from_millis(8));
        assert!(waits.windows(2).all(|pair| pair[0] <= pair[1] + Duration::from_millis(1)));
        assert!(waits[19] <= BACKOFF_MAX + Duration::from_millis(2));
        queue.forget(&"a");
        let start = Instant::now();
        queue.retry("a");
        queue.next().await;
        assert!(start.elapsed() < Duration::from_millis(8));
    }
}

//! The pods that wait: active (by priority, then time), backing off, unschedulable, gated.
//!
//! Pure: time comes in as the span since the driver's start. The queue holds a few dozen bytes a
//! pod that has no node yet, so its bound is the number of such pods that the API server stores.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::core::{ClassId, PluginSet, PodKey, PodMap};
use crate::fair::{QueueId, Tree};

/// Times that govern the queue.
#[derive(Clone, Copy, Debug)]
pub struct Delays {
    /// Back-off after the first failed attempt; it doubles with each.
    pub backoff_initial: Duration,
    /// The longest back-off.
    pub backoff_max: Duration,
    /// After this long an unschedulable pod is tried again whether or not anything happened.
    pub unschedulable_max: Duration,
}

impl Default for Delays {
    fn default() -> Self {
        Delays {
            backoff_initial: Duration::from_secs(1),
            backoff_max: Duration::from_secs(10),
            unschedulable_max: Duration::from_secs(300),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Active(ActiveKey),
    Backoff(Duration, u64),
    Unschedulable(Duration, u64),
    /// Held back by a queue.
    Held(QueueId, HeldKey),
    Gated,
    /// Popped: being placed or bound.
    Out,
}

/// In what order pods are tried: the more important, then those that waited longer.
pub type ActiveKey = (Reverse<i32>, Duration, u64);
/// The same for those that are held back, whenever they were last tried.
type HeldKey = (Reverse<i32>, u64);

#[derive(Clone, Copy, Debug)]
struct Entry {
    place: Place,
    priority: i32,
    class: ClassId,
    attempts: u32,
    last_attempt: Duration,
    /// When it came, in turn.
    number: u64,
}

/// The unschedulable pods of one class.
#[derive(Clone, Debug, Default)]
pub struct Waiting {
    pods: BTreeSet<PodKey>,
    clues: Clues,
}

/// What may help the unschedulable pods of a class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clues {
    /// The rules that refused it.
    pub plugins: PluginSet,
    /// The highest priority among those that others may have to make room for.
    pub preempting: Option<i32>,
    /// How far changes of nodes had been noted when the class was last looked at.
    pub cursor: u64,
}

impl Waiting {
    /// What may help.
    pub fn clues(&self) -> Clues {
        self.clues
    }
}

/// How an attempt failed for lack of a node.
#[derive(Clone, Copy, Debug)]
pub struct Refused {
    /// The rules that refused the pod.
    pub plugins: PluginSet,
    /// Others of lower priority have to make room for it, if that helps.
    pub preempts: bool,
    /// How far changes of nodes had been noted.
    pub cursor: u64,
}

/// How many pods wait where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Ready to be tried.
    pub active: usize,
    /// Waiting for their back-off to pass.
    pub backoff: usize,
    /// Waiting for something to change.
    pub unschedulable: usize,
    /// Waiting for their gates to be removed.
    pub gated: usize,
}

/// See the module's description.
#[derive(Clone, Debug, Default)]
pub struct Queue {
    delays: Delays,
    entries: PodMap<Entry>,
    /// Active pods that name no queue.
    active: BTreeMap<ActiveKey, PodKey>,
    /// The queues, with their active pods.
    pub fair: Tree<ActiveKey, PodKey>,
    /// How many of those there are.
    fair_active: usize,
    /// The queues of the pods that are in one.
    lines: PodMap<QueueId>,
    held: BTreeMap<QueueId, BTreeMap<HeldKey, PodKey>>,
    held_count: usize,
    backoff: BTreeMap<(Duration, u64), PodKey>,
    unschedulable: BTreeMap<(Duration, u64), PodKey>,
    waiting: BTreeMap<ClassId, Waiting>,
    gated: usize,
    sequence: u64,
}

impl Queue {
    /// An empty queue.
    pub fn new(delays: Delays) -> Self {
        Queue { delays, ..Queue::default() }
    }

    /// The longest back-off.
    pub fn backoff_max(&self) -> Duration {
        self.delays.backoff_max
    }

    /// How many pods wait where.
    pub fn counts(&self) -> Counts {
        Counts {
            active: self.active.len() + self.fair_active,
            backoff: self.backoff.len(),
            unschedulable: self.unschedulable.len() + self.held_count,
            gated: self.gated,
        }
    }

    /// Adds a pod, or starts a changed one afresh: active at once.
    pub fn add(&mut self, pod: PodKey, class: ClassId, priority: i32, now: Duration) {
        let before = self.take(pod);
        let attempts = before.map_or(0, |entry| entry.attempts);
        let number = before.map_or_else(|| self.next_sequence(), |entry| entry.number);
        let entry = Entry { place: Place::Out, priority, class, attempts, last_attempt: now, number };
        self.entries.insert(pod, entry);
        self.activate(pod, now);
    }

    /// Adds a pod that must not be tried.
    pub fn gate(&mut self, pod: PodKey, class: ClassId, priority: i32) {
        self.take(pod);
        self.gated += 1;
        let (last_attempt, number) = (Duration::ZERO, self.next_sequence());
        let entry = Entry { place: Place::Gated, priority, class, attempts: 0, last_attempt, number };
        self.entries.insert(pod, entry);
    }

    /// Forgets a pod.
    pub fn remove(&mut self, pod: PodKey) {
        self.take(pod);
        self.entries.remove(&pod);
        self.set_line(pod, None);
    }

    /// The queue that a pod is in. One that changes is to be added anew.
    pub fn set_line(&mut self, pod: PodKey, line: Option<QueueId>) {
        let before = self.line_of(pod);
        if before == line {
            return;
        }
        self.take(pod);
        match line {
            Some(line) => {
                self.fair.waits(line, true);
                self.lines.insert(pod, line)
            }
            None => self.lines.remove(&pod),
        };
        if let Some(before) = before {
            self.fair.waits(before, false);
        }
    }

    /// The queue that a waiting pod is in.
    pub fn line_of(&self, pod: PodKey) -> Option<QueueId> {
        if self.lines.is_empty() { None } else { self.lines.get(&pod).copied() }
    }

    /// Puts back a popped pod that a queue holds back, until it may have more.
    pub fn put_held(&mut self, pod: PodKey, queue: QueueId) {
        let Some(entry) = self.entries.get_mut(&pod).filter(|entry| entry.place == Place::Out) else { return };
        let key = (Reverse(entry.priority), entry.number);
        entry.place = Place::Held(queue, key);
        self.held.entry(queue).or_default().insert(key, pod);
        self.held_count += 1;
    }

    /// The pods that a queue holds back, in the order in which they may go.
    pub fn held_by(&self, queue: QueueId) -> impl Iterator<Item = PodKey> + '_ {
        self.held.get(&queue).into_iter().flat_map(BTreeMap::values).copied()
    }

    /// Does a queue, or one above it, hold back pods?
    pub fn holds_back(&self, queue: QueueId) -> bool {
        self.held.keys().any(|at| self.fair.is_under(queue, *at))
    }

    /// A pod that was held back is tried again.
    pub fn let_try(&mut self, pod: PodKey, now: Duration) {
        if self.entries.get(&pod).is_some_and(|entry| matches!(entry.place, Place::Held(..))) {
            self.take(pod);
            self.activate(pod, now);
        }
    }

    /// The next pod to try.
    pub fn pop(&mut self, now: Duration) -> Option<PodKey> {
        self.advance(now);
        let pod = self.pop_first()?;
        if let Some(entry) = self.entries.get_mut(&pod) {
            entry.place = Place::Out;
            entry.attempts += 1;
            entry.last_attempt = now;
        }
        Some(pod)
    }

    /// Pods that name no queue come in turn with the first pod of the queue that is next.
    fn pop_first(&mut self) -> Option<PodKey> {
        let line = if self.fair_active > 0 { self.fair.first() } else { None };
        match (line, self.active.keys().next()) {
            (Some((line, turn)), alone) if alone.is_none_or(|alone| turn < *alone) => {
                self.fair_active -= 1;
                self.fair.remove(line, turn)
            }
            _ => self.active.pop_first().map(|(_, pod)| pod),
        }
    }

    /// A popped pod turns out to be of another class.
    pub fn set_class(&mut self, pod: PodKey, class: ClassId) {
        if let Some(entry) = self.entries.get_mut(&pod).filter(|entry| entry.place == Place::Out) {
            entry.class = class;
        }
    }

    /// Takes a pod out to be tried with another one of its group, wherever it waits.
    pub fn take_out(&mut self, pod: PodKey, now: Duration) {
        if self.take(pod).is_some_and(|entry| entry.place == Place::Out) {
            return;
        }
        if let Some(entry) = self.entries.get_mut(&pod) {
            entry.attempts += 1;
            entry.last_attempt = now;
        }
    }

    /// How often the pod was tried.
    pub fn attempts(&self, pod: PodKey) -> u32 {
        self.entries.get(&pod).map_or(0, |entry| entry.attempts)
    }

    /// Puts back a popped pod that no node takes, with why, and whether others may have to go for it.
    pub fn put_unschedulable(&mut self, pod: PodKey, refused: Refused, now: Duration) {
        let sequence = self.next_sequence();
        let Some(entry) = self.entries.get_mut(&pod).filter(|entry| entry.place == Place::Out) else { return };
        entry.place = Place::Unschedulable(now, sequence);
        self.unschedulable.insert((now, sequence), pod);
        let waiting = self.waiting.entry(entry.class).or_default();
        waiting.pods.insert(pod);
        let preempting = waiting.clues.preempting.max(refused.preempts.then_some(entry.priority));
        waiting.clues = Clues { plugins: refused.plugins, preempting, cursor: refused.cursor };
    }

    /// Puts back a popped pod whose attempt failed for another reason than lack of a node.
    pub fn put_back(&mut self, pod: PodKey, now: Duration) {
        if self.entries.get(&pod).is_some_and(|entry| entry.place == Place::Out) {
            self.back_off(pod, now);
        }
    }

    /// Puts back a popped pod as if it had been tried just now.
    pub fn put_back_tried(&mut self, pod: PodKey, now: Duration) {
        if let Some(entry) = self.entries.get_mut(&pod).filter(|entry| entry.place == Place::Out) {
            entry.last_attempt = now;
            self.back_off(pod, now);
        }
    }

    /// The classes of unschedulable pods.
    pub fn waiting_classes(&self) -> impl Iterator<Item = (ClassId, &Waiting)> {
        self.waiting.iter().map(|(class, waiting)| (*class, waiting))
    }

    /// Something changed that may let this class in: its unschedulable pods are tried again, each
    /// when its back-off has passed.
    pub fn wake(&mut self, class: ClassId, now: Duration) {
        let Some(waiting) = self.waiting.remove(&class) else { return };
        for pod in waiting.pods {
            if let Some(Entry { place: Place::Unschedulable(since, sequence), .. }) = self.entries.get(&pod) {
                self.unschedulable.remove(&(*since, *sequence));
                self.back_off(pod, now);
            }
        }
    }

    /// Moves on what time alone moves on.
    pub fn advance(&mut self, now: Duration) {
        while let Some((key, pod)) = self.backoff.first_key_value().map(|(key, pod)| (*key, *pod)) {
            if key.0 > now {
                break;
            }
            self.backoff.remove(&key);
            self.activate(pod, now);
        }
        while let Some(((since, _), pod)) = self.unschedulable.first_key_value().map(|(key, pod)| (*key, *pod)) {
            if since + self.delays.unschedulable_max > now {
                break;
            }
            self.take(pod);
            self.activate(pod, now);
        }
    }

    /// When [`Self::advance`] will have something to do.
    pub fn next_deadline(&self) -> Option<Duration> {
        let backoff = self.backoff.keys().next().map(|(until, _)| *until);
        let unschedulable = self.unschedulable.keys().next().map(|(since, _)| *since + self.delays.unschedulable_max);
        backoff.into_iter().chain(unschedulable).min()
    }

    /// The class was looked at: nothing up to `cursor` helps it.
    pub fn looked(&mut self, class: ClassId, cursor: u64) {
        if let Some(waiting) = self.waiting.get_mut(&class) {
            waiting.clues.cursor = cursor;
        }
    }

    /// Lets one unschedulable pod try again when its back-off has passed.
    pub fn wake_one(&mut self, pod: PodKey, now: Duration) {
        if self.entries.get(&pod).is_some_and(|entry| matches!(entry.place, Place::Unschedulable(..))) {
            self.take(pod);
            self.back_off(pod, now);
        }
    }

    fn back_off(&mut self, pod: PodKey, now: Duration) {
        let sequence = self.next_sequence();
        let Some(entry) = self.entries.get_mut(&pod) else { return };
        let doublings = entry.attempts.saturating_sub(1).min(16);
        let delay = (self.delays.backoff_initial * (1 << doublings)).min(self.delays.backoff_max);
        let until = entry.last_attempt + delay;
        if until <= now {
            return self.activate(pod, now);
        }
        entry.place = Place::Backoff(until, sequence);
        self.backoff.insert((until, sequence), pod);
    }

    fn activate(&mut self, pod: PodKey, now: Duration) {
        let sequence = self.next_sequence();
        let Some(entry) = self.entries.get_mut(&pod) else { return };
        let key = (Reverse(entry.priority), now, sequence);
        entry.place = Place::Active(key);
        match self.line_of(pod) {
            Some(line) => {
                self.fair.push(line, key, pod);
                self.fair_active += 1;
            }
            None => drop(self.active.insert(key, pod)),
        }
    }

    fn next_sequence(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }

    /// Takes a pod out of where it waits; its entry stays, as if popped. Gives the entry as it was.
    fn take(&mut self, pod: PodKey) -> Option<Entry> {
        let entry = self.entries.get_mut(&pod)?;
        let before = *entry;
        match std::mem::replace(&mut entry.place, Place::Out) {
            Place::Active(key) => match self.lines.get(&pod) {
                Some(line) => self.fair_active -= usize::from(self.fair.remove(*line, key).is_some()),
                None => drop(self.active.remove(&key)),
            },
            Place::Held(queue, key) => {
                self.held_count -= 1;
                if let Some(held) = self.held.get_mut(&queue) {
                    held.remove(&key);
                    if held.is_empty() {
                        self.held.remove(&queue);
                    }
                }
            }
            Place::Backoff(until, sequence) => {
                self.backoff.remove(&(until, sequence));
            }
            Place::Unschedulable(since, sequence) => {
                self.unschedulable.remove(&(since, sequence));
                if let Some(waiting) = self.waiting.get_mut(&entry.class) {
                    waiting.pods.remove(&pod);
                    if waiting.pods.is_empty() {
                        self.waiting.remove(&entry.class);
                    }
                }
            }
            Place::Gated => self.gated -= 1,
            Place::Out => {}
        }
        Some(before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{ClassSpec, Engine, Plugin};

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn class() -> ClassId {
        Engine::new().acquire(&ClassSpec::default())
    }

    #[test]
    fn pods_come_by_priority_and_then_by_time() {
        let mut queue = Queue::new(Delays::default());
        for (pod, priority) in [(1, 0), (2, 10), (3, 0), (4, 10)] {
            queue.add(PodKey(pod), class(), priority, seconds(pod as u64));
        }
        let order: Vec<_> = std::iter::from_fn(|| queue.pop(seconds(9))).map(|pod| pod.0).collect();
        assert_eq!(order, [2, 4, 1, 3]);
    }

    #[test]
    fn backoff_doubles_up_to_its_limit() {
        let mut queue = Queue::new(Delays::default());
        queue.add(PodKey(1), class(), 0, Duration::ZERO);
        let mut now = Duration::ZERO;
        let mut gaps = Vec::new();
        for _ in 0..6 {
            assert_eq!(queue.pop(now), Some(PodKey(1)));
            queue.put_back(PodKey(1), now);
            let next = queue.next_deadline().unwrap();
            gaps.push((next - now).as_secs());
            assert_eq!(queue.pop(next - Duration::from_millis(1)), None);
            now = next;
        }
        assert_eq!(gaps, [1, 2, 4, 8, 10, 10]);
    }

    #[test]
    fn an_unschedulable_pod_waits_for_its_class_to_be_woken_or_five_minutes() {
        let mut queue = Queue::new(Delays::default());
        let plugins = PluginSet::NONE.with(Plugin::NodeResourcesFit);
        queue.add(PodKey(1), class(), 0, Duration::ZERO);
        queue.pop(Duration::ZERO);
        let refused = Refused { plugins, preempts: false, cursor: 0 };
        queue.put_unschedulable(PodKey(1), refused, Duration::ZERO);
        let waiting: Vec<_> =
            queue.waiting_classes().map(|(class, waiting)| (class, waiting.clues().plugins)).collect();
        assert_eq!(waiting, [(class(), plugins)]);
        assert_eq!(queue.pop(seconds(299)), None);

        queue.wake(class(), Duration::ZERO);
        assert_eq!(queue.counts(), Counts { backoff: 1, ..Counts::default() });
        assert_eq!(queue.pop(seconds(1)), Some(PodKey(1)));
        queue.put_unschedulable(PodKey(1), refused, seconds(1));
        // Woken after its back-off has long passed, it is active at once.
        queue.wake(class(), seconds(60));
        assert_eq!(queue.pop(seconds(60)), Some(PodKey(1)));

        queue.put_unschedulable(PodKey(1), refused, seconds(60));
        assert_eq!(queue.next_deadline(), Some(seconds(360)));
        assert_eq!(queue.pop(seconds(360)), Some(PodKey(1)));
        assert_eq!(queue.waiting_classes().count(), 0);
    }

    #[test]
    fn gated_pods_are_never_popped_and_removed_ones_are_gone() {
        let mut queue = Queue::new(Delays::default());
        queue.gate(PodKey(1), class(), 0);
        queue.add(PodKey(2), class(), 0, Duration::ZERO);
        queue.remove(PodKey(2));
        assert_eq!(queue.pop(seconds(1_000)), None);
        assert_eq!(queue.counts().gated, 1);
        queue.add(PodKey(1), class(), 0, seconds(5));
        assert_eq!(queue.counts(), Counts { active: 1, ..Counts::default() });
    }
}

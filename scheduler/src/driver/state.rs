//! What the driver knows and decides: events in, actions out. Pure; time comes in as an argument.
//!
//! Exact accounting under races rests on one rule: a pod holds room on a node from the moment it is
//! assumed there until it is known not to be there (its binding was refused for good, it is bound
//! elsewhere, it has ended, or it is gone). A doubtful answer to a binding is not knowledge.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use super::facts::PodFacts;
use super::queue::{Counts, Delays, Queue};
use crate::core::{ClassId, ClassSpec, Diagnosis, Engine, NodeChange, NodeSpec, PluginSet, PodKey, PodMap};

/// A repeated failure with the same message is told again by an event after this long.
const EVENT_REPEAT: Duration = Duration::from_secs(60);

/// The reason of the condition of a pod that no node takes.
pub const UNSCHEDULABLE: &str = "Unschedulable";
/// The reason of the condition of a pod whose binding failed.
pub const SCHEDULER_ERROR: &str = "SchedulerError";
/// The reason of the condition of a pod with scheduling gates.
pub const SCHEDULING_GATED: &str = "SchedulingGated";
const GATED_MESSAGE: &str = "Scheduling is blocked due to non-empty scheduling gates";

/// Which pod an action is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodRef {
    /// The UID as a number.
    pub key: PodKey,
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// `metadata.resourceVersion` as last seen.
    pub resource_version: String,
    /// `metadata.generation` as last seen.
    pub generation: Option<i64>,
    /// The scheduler name that the pod asked for.
    pub scheduler_name: String,
}

/// What is to be done outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Bind the pod to the node, and tell how it went with [`State::bound`].
    Bind {
        /// The pod.
        pod: PodRef,
        /// The node's name.
        node: Arc<str>,
        /// How many attempts it took.
        attempts: u32,
        /// When the pod was first seen.
        first_seen: Duration,
    },
    /// Write the pod's `PodScheduled` condition, status `False`.
    Condition {
        /// The pod.
        pod: PodRef,
        /// The condition's reason.
        reason: &'static str,
        /// The condition's message.
        message: String,
    },
    /// Record a `FailedScheduling` event.
    FailedEvent {
        /// The pod.
        pod: PodRef,
        /// The event's note.
        message: String,
    },
}

/// How a binding went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BindOutcome {
    /// The API server has it. The watch will confirm.
    Bound,
    /// The pod is gone or going, or another one has its name.
    Gone,
    /// The pod is bound to another node.
    Elsewhere(String),
    /// It was refused for good, with this message; the pod is not bound.
    Refused(String),
}

/// The result of one attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// A node was found, the binding is under way.
    Assumed,
    /// No node takes the pod.
    Unschedulable,
}

#[derive(Debug)]
struct Pending {
    pod: PodRef,
    class: ClassId,
    class_spec: ClassSpec,
    priority: i32,
    never_preempts: bool,
    gated: bool,
    first_seen: Duration,
    assumed: bool,
    /// The reason and message that the pod's condition has, or will have.
    reported: Option<(String, String)>,
    last_event: Option<(Duration, String)>,
}

/// See the module's description.
#[derive(Debug)]
pub struct State {
    engine: Engine,
    queue: Queue,
    scheduler_names: Vec<String>,
    pending: PodMap<Pending>,
    assumed: usize,
    /// During a relist: what it has shown so far.
    relist_pods: Option<HashSet<PodKey>>,
    relist_nodes: Option<HashSet<String>>,
    nodes: HashSet<String>,
    /// Rules that changes of nodes since the last wake may have turned.
    turned: PluginSet,
    changed: bool,
    /// The last diagnosis, which holds for its class until something changes.
    diagnosed: Option<(ClassId, u64, Arc<Diagnosis>)>,
}

impl State {
    /// A state that knows nothing yet.
    pub fn new(scheduler_names: Vec<String>, delays: Delays) -> Self {
        State {
            engine: Engine::new(),
            queue: Queue::new(delays),
            scheduler_names,
            pending: PodMap::default(),
            assumed: 0,
            relist_pods: None,
            relist_nodes: None,
            nodes: HashSet::new(),
            turned: PluginSet::NONE,
            changed: false,
            diagnosed: None,
        }
    }

    /// A list of all pods begins.
    pub fn pods_relist(&mut self) {
        self.relist_pods = Some(HashSet::new());
    }

    /// The list of all pods is complete: what it did not show is gone.
    pub fn pods_listed(&mut self) {
        let Some(shown) = self.relist_pods.take() else { return };
        let known = self.pending.keys().copied().chain(self.engine.pods());
        let gone: Vec<PodKey> = known.filter(|pod| !shown.contains(pod)).collect();
        for pod in gone {
            self.pod_gone(pod);
        }
    }

    /// A list of all nodes begins.
    pub fn nodes_relist(&mut self) {
        self.relist_nodes = Some(HashSet::new());
    }

    /// The list of all nodes is complete.
    pub fn nodes_listed(&mut self) {
        let Some(shown) = self.relist_nodes.take() else { return };
        let gone: Vec<String> = self.nodes.iter().filter(|node| !shown.contains(*node)).cloned().collect();
        for node in gone {
            self.node_gone(&node);
        }
    }

    /// A node is new or has changed.
    pub fn node_seen(&mut self, node: NodeSpec) -> NodeChange {
        if let Some(shown) = &mut self.relist_nodes {
            shown.insert(node.name.clone());
        }
        if !self.nodes.contains(&node.name) {
            self.nodes.insert(node.name.clone());
        }
        let change = self.engine.set_node(node);
        if change.any() {
            self.turned = self.turned.union(change.may_help());
            self.changed = true;
        }
        change
    }

    /// A node is gone.
    pub fn node_gone(&mut self, name: &str) {
        self.nodes.remove(name);
        self.engine.remove_node(name);
    }

    /// A pod is new or has changed.
    pub fn pod_seen(&mut self, pod: PodFacts, now: Duration) -> Option<Action> {
        if let Some(shown) = &mut self.relist_pods {
            shown.insert(pod.key);
        }
        if pod.finished {
            self.pod_gone(pod.key);
            return None;
        }
        if let Some(node) = &pod.node_name {
            self.pod_assigned(pod.key, node, &pod);
            return None;
        }
        let assumed = self.pending.get(&pod.key).is_some_and(|pending| pending.assumed);
        if assumed {
            // Its binding is under way and will decide; remember only what is to be reported.
            if let Some(pending) = self.pending.get_mut(&pod.key) {
                pending.reported = pod.not_scheduled;
            }
            return None;
        }
        if pod.terminating || !self.scheduler_names.contains(&pod.scheduler_name) {
            self.drop_pending(pod.key);
            return None;
        }
        self.pod_waits(pod, now)
    }

    fn pod_assigned(&mut self, key: PodKey, node: &str, pod: &PodFacts) {
        // What was assumed is now known; add_pod moves it if it is somewhere else.
        if self.drop_pending_entry(key).is_some() || self.engine.node_of(key).is_some() {
            self.changed = true;
        }
        self.engine.add_pod(key, node, &pod.class.demand, pod.priority);
    }

    fn pod_waits(&mut self, pod: PodFacts, now: Duration) -> Option<Action> {
        let reference = PodRef {
            key: pod.key,
            uid: pod.uid,
            namespace: pod.namespace,
            name: pod.name,
            resource_version: pod.resource_version,
            generation: pod.generation,
            scheduler_name: pod.scheduler_name,
        };
        if let Some(known) = self.pending.get_mut(&pod.key) {
            known.pod = reference;
            known.never_preempts = pod.never_preempts;
            let same = known.class_spec == pod.class && known.priority == pod.priority && known.gated == pod.gated;
            if same {
                known.reported = pod.not_scheduled;
                return None;
            }
            let class = self.engine.acquire(&pod.class);
            self.engine.release(known.class);
            known.class = class;
            known.class_spec = pod.class;
            known.priority = pod.priority;
            known.gated = pod.gated;
            known.reported = pod.not_scheduled;
        } else {
            let class = self.engine.acquire(&pod.class);
            let pending = Pending {
                pod: reference,
                class,
                class_spec: pod.class,
                priority: pod.priority,
                never_preempts: pod.never_preempts,
                gated: pod.gated,
                first_seen: now,
                assumed: false,
                reported: pod.not_scheduled,
                last_event: None,
            };
            self.pending.insert(pod.key, pending);
        }
        let pending = self.pending.get_mut(&pod.key)?;
        if !pending.gated {
            self.queue.add(pod.key, pending.class, pending.priority, now);
            return None;
        }
        self.queue.gate(pod.key, pending.class, pending.priority);
        pending.report(SCHEDULING_GATED, GATED_MESSAGE)
    }

    /// A pod is gone, or has ended.
    pub fn pod_gone(&mut self, key: PodKey) {
        self.drop_pending_entry(key);
        if self.engine.remove_pod(key).is_some() {
            self.changed = true;
        }
    }

    /// Forgets a pod that waits, and what it was assumed to hold.
    fn drop_pending(&mut self, key: PodKey) {
        if self.drop_pending_entry(key).is_some_and(|pending| pending.assumed) {
            self.engine.remove_pod(key);
            self.changed = true;
        }
    }

    fn drop_pending_entry(&mut self, key: PodKey) -> Option<Pending> {
        let pending = self.pending.remove(&key)?;
        self.assumed -= usize::from(pending.assumed);
        self.queue.remove(key);
        self.engine.release(pending.class);
        Some(pending)
    }

    /// After a batch of events: lets those pods try again whom the changes may help. A class that
    /// now has a node is woken, and so is one that was refused by a rule that a node's change may
    /// have turned, if only to learn the new reasons.
    pub fn wake(&mut self, now: Duration) {
        let turned = std::mem::take(&mut self.turned);
        if !std::mem::take(&mut self.changed) {
            return;
        }
        let waiting: Vec<_> = self.queue.waiting_classes().collect();
        for (class, plugins) in waiting {
            if plugins.overlaps(turned) || self.engine.place(class).is_some() {
                self.queue.wake(class, now);
            }
        }
    }

    /// Tries the next pod. `None` when no pod is ready.
    pub fn schedule_next(&mut self, now: Duration, actions: &mut Vec<Action>) -> Option<Attempt> {
        let key = self.queue.pop(now)?;
        let attempts = self.queue.attempts(key);
        let pending = self.pending.get_mut(&key)?;
        if let Some(node) = self.engine.place(pending.class) {
            self.engine.assume(key, pending.class, node, pending.priority);
            pending.assumed = true;
            self.assumed += 1;
            actions.push(Action::Bind {
                pod: pending.pod.clone(),
                node: self.engine.node_name(node).clone(),
                attempts,
                first_seen: pending.first_seen,
            });
            return Some(Attempt::Assumed);
        }
        let version = self.engine.version();
        let diagnosis = match &self.diagnosed {
            Some((class, at, diagnosis)) if *class == pending.class && *at == version => diagnosis.clone(),
            _ => {
                let diagnosis = Arc::new(self.engine.diagnose(pending.class));
                self.diagnosed = Some((pending.class, version, diagnosis.clone()));
                diagnosis
            }
        };
        let preemption = self.engine.preemption(pending.priority, pending.never_preempts);
        let message = diagnosis.message(preemption);
        // Without nodes any change may help, so wait for any.
        let plugins = if diagnosis.nodes == 0 { PluginSet::ALL } else { diagnosis.plugins };
        self.queue.put_unschedulable(key, plugins, now);
        actions.extend(pending.report(UNSCHEDULABLE, &message));
        actions.extend(pending.event(message, now));
        Some(Attempt::Unschedulable)
    }

    /// A binding has ended.
    pub fn bound(&mut self, key: PodKey, outcome: BindOutcome, now: Duration, actions: &mut Vec<Action>) {
        let Some(pending) = self.pending.get_mut(&key).filter(|pending| pending.assumed) else {
            return; // the watch was faster
        };
        match outcome {
            BindOutcome::Bound => {}
            BindOutcome::Gone => self.pod_gone(key),
            BindOutcome::Elsewhere(node) => {
                let (demand, priority) = (pending.class_spec.demand.clone(), pending.priority);
                self.drop_pending_entry(key);
                self.engine.add_pod(key, &node, &demand, priority);
                self.changed = true;
            }
            BindOutcome::Refused(message) => {
                pending.assumed = false;
                self.assumed -= 1;
                actions.extend(pending.report(SCHEDULER_ERROR, &message));
                actions.extend(pending.event(message, now));
                self.engine.remove_pod(key);
                self.queue.put_back(key, now);
                self.changed = true;
            }
        }
    }

    /// When time alone will make a pod ready.
    pub fn next_deadline(&self) -> Option<Duration> {
        self.queue.next_deadline()
    }

    /// Is some pod ready to be tried?
    pub fn is_ready(&mut self, now: Duration) -> bool {
        self.queue.advance(now);
        self.queue.counts().active > 0
    }

    /// How many pods wait where.
    pub fn queue_counts(&self) -> Counts {
        self.queue.counts()
    }

    /// How many nodes, accounted pods and assumed pods there are.
    pub fn cache_counts(&self) -> (usize, usize, usize) {
        (self.engine.nodes().count(), self.engine.pod_count(), self.assumed)
    }

    /// The engine, to look at.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }
}

impl Pending {
    fn report(&mut self, reason: &'static str, message: &str) -> Option<Action> {
        let same = |(old_reason, old): &(String, String)| old_reason == reason && old == message;
        if self.reported.as_ref().is_some_and(same) {
            return None;
        }
        self.reported = Some((reason.to_owned(), message.to_owned()));
        Some(Action::Condition { pod: self.pod.clone(), reason, message: message.to_owned() })
    }

    fn event(&mut self, message: String, now: Duration) -> Option<Action> {
        let recent = |(at, last): &(Duration, String)| *last == message && now < *at + EVENT_REPEAT;
        if self.last_event.as_ref().is_some_and(recent) {
            return None;
        }
        self.last_event = Some((now, message.clone()));
        Some(Action::FailedEvent { pod: self.pod.clone(), message })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{PodDemand, Resources};

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn state() -> State {
        State::new(vec!["default-scheduler".into()], Delays::default())
    }

    fn node(name: &str, milli_cpu: i64) -> NodeSpec {
        let allocatable = Resources { milli_cpu, memory: 8 << 30, pods: 110, ..Resources::default() };
        NodeSpec { name: name.into(), allocatable, ..NodeSpec::default() }
    }

    fn pod(number: u128, milli_cpu: i64) -> PodFacts {
        let requests = Resources { milli_cpu, ..Resources::default() };
        let demand = PodDemand { scoring_milli_cpu: milli_cpu, requests, ..PodDemand::default() };
        PodFacts {
            key: PodKey(number),
            uid: format!("uid-{number}"),
            namespace: "default".into(),
            name: format!("pod-{number}"),
            scheduler_name: "default-scheduler".into(),
            class: ClassSpec { demand, ..ClassSpec::default() },
            ..PodFacts::default()
        }
    }

    fn on(node: &str, pod: PodFacts) -> PodFacts {
        PodFacts { node_name: Some(node.into()), ..pod }
    }

    /// Tries all that is ready; gives `pod>node` for bindings and the messages of conditions.
    fn run(state: &mut State, now: Duration) -> Vec<String> {
        let mut actions = Vec::new();
        state.wake(now);
        while state.schedule_next(now, &mut actions).is_some() {}
        actions
            .into_iter()
            .filter_map(|action| match action {
                Action::Bind { pod, node, .. } => Some(format!("{}>{node}", pod.name)),
                Action::Condition { message, .. } => Some(message),
                Action::FailedEvent { .. } => None,
            })
            .collect()
    }

    fn bound(state: &mut State, number: u128, outcome: BindOutcome, now: Duration) -> Vec<Action> {
        let mut actions = Vec::new();
        state.bound(PodKey(number), outcome, now, &mut actions);
        actions
    }

    const FULL: &str = "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: \
                        1 No preemption victims found for incoming pod.";

    #[test]
    fn pods_are_packed_and_the_one_too_many_waits_for_a_departure() {
        let mut state = state();
        state.node_seen(node("a", 2_000));
        for number in 1..=3 {
            state.pod_seen(pod(number, 1_000), seconds(0));
        }
        assert_eq!(run(&mut state, seconds(0)), ["pod-1>a", "pod-2>a", FULL]);
        bound(&mut state, 1, BindOutcome::Bound, seconds(0));
        state.pod_seen(on("a", pod(1, 1_000)), seconds(0));
        assert_eq!(run(&mut state, seconds(2)), [""; 0]);

        state.pod_gone(PodKey(1));
        assert_eq!(run(&mut state, seconds(2)), ["pod-3>a"]);
        assert_eq!(state.queue_counts(), Counts::default());
    }

    #[test]
    fn the_back_off_holds_even_when_room_comes_at_once() {
        let mut state = state();
        state.node_seen(node("a", 1_000));
        state.pod_seen(on("a", pod(1, 1_000)), seconds(0));
        state.pod_seen(pod(2, 1_000), seconds(0));
        run(&mut state, seconds(0));
        state.pod_gone(PodKey(1));
        assert_eq!(run(&mut state, Duration::from_millis(900)), [""; 0]);
        assert_eq!(state.next_deadline(), Some(seconds(1)));
        assert_eq!(run(&mut state, seconds(1)), ["pod-2>a"]);
    }

    #[test]
    fn changes_that_cannot_help_wake_nobody() {
        let mut state = state();
        state.node_seen(node("a", 1_000));
        state.pod_seen(pod(1, 2_000), seconds(0));
        run(&mut state, seconds(0));
        state.pod_seen(on("a", pod(2, 100)), seconds(1));
        state.pod_gone(PodKey(2));
        state.node_seen(NodeSpec { labels: [("a".into(), "b".into())].into(), ..node("a", 1_000) });
        state.wake(seconds(20));
        assert_eq!(state.queue_counts().unschedulable, 1);
        state.node_seen(node("a", 3_000));
        assert_eq!(run(&mut state, seconds(20)), ["pod-1>a"]);
    }

    #[test]
    fn a_condition_is_written_once_and_again_when_its_message_changes() {
        let mut state = state();
        state.pod_seen(pod(1, 1_000), seconds(0));
        assert_eq!(run(&mut state, seconds(0)), ["no nodes available to schedule pods"]);
        state.node_seen(node("a", 500));
        let messages = run(&mut state, seconds(5));
        assert!(messages[0].starts_with("0/1 nodes are available: 1 Insufficient cpu."), "{messages:?}");
        assert_eq!(run(&mut state, seconds(400)), [""; 0]);
    }

    #[test]
    fn gated_pods_are_told_so_and_start_when_ungated() {
        let mut state = state();
        state.node_seen(node("a", 1_000));
        let gated = PodFacts { gated: true, ..pod(1, 100) };
        let action = state.pod_seen(gated.clone(), seconds(0));
        assert!(matches!(action, Some(Action::Condition { reason: SCHEDULING_GATED, .. })));
        let reported = PodFacts { not_scheduled: Some((SCHEDULING_GATED.into(), GATED_MESSAGE.into())), ..gated };
        assert_eq!(state.pod_seen(reported, seconds(1)), None);
        assert_eq!(run(&mut state, seconds(1)), [""; 0]);
        assert_eq!(state.queue_counts().gated, 1);
        state.pod_seen(pod(1, 100), seconds(2));
        assert_eq!(run(&mut state, seconds(2)), ["pod-1>a"]);
    }

    #[test]
    fn a_refused_binding_gives_the_room_back_and_is_tried_later() {
        let mut state = state();
        state.node_seen(node("a", 1_000));
        state.pod_seen(pod(1, 1_000), seconds(0));
        assert_eq!(run(&mut state, seconds(0)), ["pod-1>a"]);
        let actions = bound(&mut state, 1, BindOutcome::Refused("no".into()), seconds(0));
        assert_eq!(actions.len(), 2, "condition and event");
        assert_eq!(state.cache_counts(), (1, 0, 0));
        assert_eq!(run(&mut state, Duration::from_millis(500)), [""; 0]);
        assert_eq!(run(&mut state, seconds(1)), ["pod-1>a"]);
    }

    #[test]
    fn a_pod_bound_by_someone_else_moves_to_where_it_is() {
        let mut state = state();
        state.node_seen(node("a", 1_000));
        state.node_seen(node("b", 100));
        state.pod_seen(pod(1, 1_000), seconds(0));
        assert_eq!(run(&mut state, seconds(0)), ["pod-1>a"]);
        bound(&mut state, 1, BindOutcome::Elsewhere("b".into()), seconds(0));
        assert_eq!(state.engine().node_of(PodKey(1)), Some("b"));
        state.pod_seen(pod(2, 1_000), seconds(1));
        assert_eq!(run(&mut state, seconds(1)), ["pod-2>a"]);
    }

    #[test]
    fn the_watch_may_be_faster_than_the_answer() {
        let mut state = state();
        state.node_seen(node("a", 1_000));
        state.pod_seen(pod(1, 1_000), seconds(0));
        run(&mut state, seconds(0));
        state.pod_seen(on("a", pod(1, 1_000)), seconds(0));
        assert_eq!(bound(&mut state, 1, BindOutcome::Refused("late".into()), seconds(0)), []);
        assert_eq!(state.cache_counts(), (1, 1, 0));
        state.pod_gone(PodKey(1));
        assert_eq!(bound(&mut state, 1, BindOutcome::Bound, seconds(0)), []);
        assert_eq!(state.cache_counts(), (1, 0, 0));
    }

    #[test]
    fn an_assumed_pod_keeps_its_room_through_stale_updates_of_itself() {
        let mut state = state();
        state.node_seen(node("a", 1_000));
        state.pod_seen(pod(1, 1_000), seconds(0));
        run(&mut state, seconds(0));
        state.pod_seen(pod(1, 1_000), seconds(1));
        state.pod_seen(pod(2, 1_000), seconds(1));
        assert_eq!(run(&mut state, seconds(1)), [FULL]);
    }

    #[test]
    fn a_relist_forgets_what_is_gone() {
        let mut state = state();
        state.node_seen(node("a", 1_000));
        state.node_seen(node("b", 1_000));
        state.pod_seen(on("a", pod(1, 1_000)), seconds(0));
        state.pod_seen(pod(2, 5_000), seconds(0));
        run(&mut state, seconds(0));
        state.pods_relist();
        state.pod_seen(pod(3, 1_000), seconds(1));
        state.pods_listed();
        state.nodes_relist();
        state.node_seen(node("b", 1_000));
        state.nodes_listed();
        assert_eq!(run(&mut state, seconds(1)), ["pod-3>b"]);
        assert_eq!(state.cache_counts(), (1, 1, 1));
        assert_eq!(state.queue_counts(), Counts::default());
    }

    #[test]
    fn ended_terminating_and_foreign_pods_are_not_placed() {
        let mut state = state();
        state.node_seen(node("a", 1_000));
        state.pod_seen(on("a", pod(1, 1_000)), seconds(0));
        state.pod_seen(PodFacts { finished: true, ..on("a", pod(1, 1_000)) }, seconds(0));
        assert_eq!(state.cache_counts().1, 0, "an ended pod holds nothing");
        state.pod_seen(PodFacts { terminating: true, ..pod(2, 100) }, seconds(0));
        state.pod_seen(PodFacts { scheduler_name: "other".into(), ..pod(3, 100) }, seconds(0));
        state.pod_seen(pod(4, 100), seconds(0));
        state.pod_seen(PodFacts { terminating: true, ..pod(4, 100) }, seconds(0));
        assert_eq!(run(&mut state, seconds(0)), [""; 0]);
    }

    #[test]
    fn a_deleted_node_keeps_its_pods_accounted_and_takes_no_more() {
        let mut state = state();
        state.node_seen(node("a", 2_000));
        state.pod_seen(on("a", pod(1, 1_000)), seconds(0));
        state.node_gone("a");
        state.pod_seen(pod(2, 1_500), seconds(0));
        assert_eq!(run(&mut state, seconds(0)), ["no nodes available to schedule pods"]);
        state.node_seen(node("a", 2_000));
        assert!(run(&mut state, seconds(5))[0].starts_with("0/1 nodes are available: 1 Insufficient cpu."));
        state.pod_gone(PodKey(1));
        assert_eq!(run(&mut state, seconds(20)), ["pod-2>a"]);
    }
}

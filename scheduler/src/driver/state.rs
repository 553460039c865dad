//! What the driver knows and decides: events in, actions out. Pure; time comes in as an argument.
//!
//! Exact accounting under races rests on one rule: a pod holds room on a node from the moment it is
//! assumed there until it is known not to be there (its binding was refused for good, it is bound
//! elsewhere, it has ended, or it is gone). A doubtful answer to a binding is not knowledge.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use super::facts::{ObjectKey, PodFacts};
use super::gangs::Gangs;
use super::owners::{OwnerKind, Owners};
use super::queue::{Counts, Queue};
use super::relist::Known;
use super::volumes::{Choice, Claimant, Storage};
use crate::config::{Configuration, Profile};
use crate::core::{Ask, Budgets, ClassId, ClassSpec, Engine, NodeId, PluginSet, PodChange, PodKey, PodMap, Standing};

mod actions;
mod clearing;
mod ganging;
mod holding;
mod moving;
mod preempting;
mod providing;
mod queueing;
mod surroundings;
mod trial;
mod underway;

use actions::GATED_MESSAGE;
pub use actions::{Action, Attempt, BindOutcome, PodRef, SCHEDULER_ERROR, SCHEDULING_GATED, UNSCHEDULABLE};
use holding::Holders;
pub use moving::{Clearing, Effort, Move, Search};
pub use preempting::Victim;
use preempting::{Diagnosed, PlacedName};
use providing::{Going, Outlook, Sources};
use queueing::Members;
pub use queueing::QueueReport;
pub use trial::{Leaver, Outcome, Trial};
use underway::Moves;

#[derive(Clone, Debug)]
struct Pending {
    pod: PodRef,
    class: ClassId,
    class_spec: ClassSpec,
    controller: Option<(OwnerKind, String)>,
    claimant: Option<Claimant>,
    sources: Sources,
    /// Why it cannot be placed yet, whatever the nodes say.
    hindrance: Option<String>,
    /// It has its node and waits for its volumes.
    going: Option<Going>,
    /// The node that is held for it while the rest of its group is waited for.
    held: Option<Found>,
    priority: i32,
    never_preempts: bool,
    gated: bool,
    /// The queue that it names.
    queue: Option<String>,
    first_seen: Duration,
    assumed: bool,
    /// The node that its status says it waits for.
    nominated: Option<String>,
    /// The reason and message that the pod's condition has, or will have.
    reported: Option<(String, String)>,
    last_event: Option<(Duration, String)>,
}

/// Where a pod goes.
#[derive(Clone, Debug)]
struct Found {
    ask: Ask,
    node: NodeId,
    choice: Choice,
}

/// See the module's description.
#[derive(Clone, Debug)]
pub struct State {
    pub(super) engine: Engine,
    pub(super) queue: Queue,
    /// By scheduler name.
    profiles: BTreeMap<String, Profile>,
    owners: Owners,
    storage: Storage,
    /// The generation of the storage that pods with claims were last looked at with.
    storage_at: u64,
    /// Pods that have a node and use claims.
    holders: Holders,
    /// Pods without a node that use claims.
    claimants: BTreeSet<PodKey>,
    /// Those that have a node and wait for their volumes, by since when, and the generation that they were last looked
    /// at with.
    going: BTreeSet<(Duration, PodKey)>,
    going_at: u64,
    pending: PodMap<Pending>,
    assumed: usize,
    /// What the pods that have a node are called.
    names: PodMap<PlacedName>,
    /// During a relist: what it has shown so far.
    relist_pods: Option<HashSet<PodKey>>,
    nodes: Known<String>,
    csi_nodes: Known<String>,
    namespaces: Known<String>,
    known_budgets: Known<ObjectKey>,
    budgets: Budgets,
    pub(super) known_queues: Known<String>,
    /// The resources of which the statuses of queues say that they use some.
    pub(super) told_used: BTreeMap<String, BTreeSet<String>>,
    members: Members,
    /// Nodes came, changed or went since the queues last knew what there is in all.
    capacity_changed: bool,
    gangs: Gangs,
    /// Groups that have got another pod, or ask for something else.
    stirred: BTreeSet<Arc<ObjectKey>>,
    /// Rules that changes of nodes since the last wake may have turned.
    turned: PluginSet,
    /// Pods left, nodes changed: anyone who waits may fit now.
    freed: bool,
    /// Pods came or changed: who looks at others may fit now.
    came: bool,
    /// Pods that waited for a node which is gone.
    left_alone: Vec<PodKey>,
    moves: Moves,
    /// The last diagnosis, which holds for its class until something changes.
    diagnosed: Option<Diagnosed>,
    /// The scores of the nodes that pods were given, where someone wants to know.
    scores: Option<PodMap<i64>>,
}

impl State {
    /// A state that knows nothing yet.
    pub fn new(configuration: &Configuration) -> Self {
        let profiles = configuration.profiles.iter();
        State {
            engine: Engine::new(),
            queue: Queue::new(configuration.delays),
            profiles: profiles.map(|profile| (profile.scheduler_name.clone(), profile.clone())).collect(),
            owners: Owners::default(),
            storage: Storage::default(),
            storage_at: 0,
            holders: Holders::default(),
            claimants: BTreeSet::new(),
            going: BTreeSet::new(),
            going_at: 0,
            pending: PodMap::default(),
            assumed: 0,
            names: PodMap::default(),
            relist_pods: None,
            nodes: Known::default(),
            csi_nodes: Known::default(),
            namespaces: Known::default(),
            known_budgets: Known::default(),
            budgets: Budgets::new(),
            known_queues: Known::default(),
            told_used: BTreeMap::new(),
            members: Members::default(),
            capacity_changed: false,
            gangs: Gangs::default(),
            stirred: BTreeSet::new(),
            turned: PluginSet::NONE,
            freed: false,
            came: false,
            left_alone: Vec::new(),
            moves: Moves::default(),
            diagnosed: None,
            scores: None,
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

    /// A pod is new or has changed.
    pub fn pod_seen(&mut self, pod: PodFacts, now: Duration) -> Option<Action> {
        if let Some(shown) = &mut self.relist_pods {
            shown.insert(pod.key);
        }
        if pod.finished {
            self.pod_gone(pod.key);
            return None;
        }
        self.note_group(&pod, now);
        self.note_made_anew(&pod);
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
        let Some(profile) = self.profiles.get(&pod.scheduler_name).filter(|_| !pod.terminating) else {
            self.drop_pending(pod.key);
            return None;
        };
        let class = ClassSpec { scoring: profile.scoring.clone(), ..pod.class };
        let (pod, outlook) = self.look_around(PodFacts { class, ..pod });
        self.pod_waits(pod, outlook, now)
    }

    /// Takes down to which group a pod belongs.
    fn note_group(&mut self, pod: &PodFacts, now: Duration) {
        let waits = pod.node_name.is_none();
        let is_ours = !waits || (self.profiles.contains_key(&pod.scheduler_name) && !pod.terminating);
        let group = pod.group.as_ref().filter(|_| is_ours);
        if waits && self.gangs.of(pod.key).is_some_and(|known| Some(&known.1) != group) {
            self.leave_group(pod.key, now);
        }
        match group {
            Some(group) => self.stirred.extend(self.gangs.saw(pod.key, &pod.namespace, group, waits)),
            None => self.gangs.gone(pod.key),
        }
    }

    /// The owners of pods, to be told what becomes of them. A pod is spread by those there are when it is tried.
    pub fn owners(&mut self) -> &mut Owners {
        &mut self.owners
    }

    fn pod_assigned(&mut self, key: PodKey, node: &str, pod: &PodFacts) {
        // What was assumed is now known; add_pod moves it if it is somewhere else.
        self.drop_pending_entry(key);
        let standing = Standing {
            priority: pod.priority,
            terminating: pod.terminating,
            preempted: pod.preempted,
            started: pod.started,
        };
        self.names.insert(key, PlacedName::of(pod));
        match &pod.claimant {
            Some(claimant) => self.holder_assigned(key, node, claimant, &pod.class, standing),
            None => self.pod_added(key, node, &pod.class, standing),
        }
        self.seat_member(key, &pod.namespace, pod.queue.as_deref());
    }

    fn pod_added(&mut self, key: PodKey, node: &str, spec: &ClassSpec, standing: Standing) {
        match self.engine.add_pod(key, node, spec, standing) {
            PodChange::None => {}
            PodChange::Came => self.came = true,
            PodChange::Changed => self.freed = true,
        }
    }

    fn pod_waits(&mut self, pod: PodFacts, outlook: Outlook, now: Duration) -> Option<Action> {
        let has_moved = self.line_up(&pod);
        let reference = PodRef {
            key: pod.key,
            uid: pod.uid,
            namespace: pod.namespace,
            name: pod.name,
            resource_version: pod.resource_version,
            generation: pod.generation,
            scheduler_name: pod.scheduler_name,
        };
        let node = self.nomination(pod.key, pod.nominated.as_ref());
        if let Some(known) = self.pending.get_mut(&pod.key) {
            known.pod = reference;
            known.nominated = pod.nominated;
            known.sources = outlook.sources;
            known.controller = pod.controller;
            known.never_preempts = pod.never_preempts;
            let same = known.hindrance == outlook.hindrance;
            known.hindrance = outlook.hindrance;
            known.queue = pod.queue;
            let same = same && !has_moved;
            let same =
                same && known.class_spec == pod.class && known.priority == pod.priority && known.gated == pod.gated;
            if same {
                known.reported = pod.not_scheduled;
                let ask = Ask { pod: pod.key, class: known.class, priority: known.priority };
                self.renominate(ask, node);
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
                controller: pod.controller,
                claimant: pod.claimant,
                sources: outlook.sources,
                hindrance: outlook.hindrance,
                going: None,
                held: None,
                priority: pod.priority,
                never_preempts: pod.never_preempts,
                gated: pod.gated,
                queue: pod.queue,
                first_seen: now,
                assumed: false,
                nominated: pod.nominated,
                reported: pod.not_scheduled,
                last_event: None,
            };
            if pending.claimant.is_some() {
                self.claimants.insert(pod.key);
            }
            self.pending.insert(pod.key, pending);
        }
        let pending = self.pending.get(&pod.key)?;
        let ask = Ask { pod: pod.key, class: pending.class, priority: pending.priority };
        self.engine.unnominate(pod.key);
        self.renominate(ask, node);
        let pending = self.pending.get_mut(&pod.key)?;
        if !pending.gated {
            self.queue.add(pod.key, pending.class, pending.priority, now);
            return None;
        }
        self.queue.gate(pod.key, pending.class, pending.priority);
        pending.report(SCHEDULING_GATED, GATED_MESSAGE, None)
    }

    /// A pod is gone, or has ended.
    pub fn pod_gone(&mut self, key: PodKey) {
        self.gangs.gone(key);
        self.moves.gone(key);
        self.drop_pending_entry(key);
        self.names.remove(&key);
        self.holders.gone(key);
        self.unseat(key);
        self.note_left(key);
        if self.engine.remove_pod(key).is_some() {
            self.freed = true;
        }
    }

    /// Forgets a pod that waits, and what it was assumed to hold.
    fn drop_pending(&mut self, key: PodKey) {
        if self.drop_pending_entry(key).is_some_and(|pending| pending.assumed) {
            self.unseat(key);
            self.engine.remove_pod(key);
            self.freed = true;
        }
    }

    fn drop_pending_entry(&mut self, key: PodKey) -> Option<Pending> {
        let pending = self.pending.remove(&key)?;
        self.assumed -= usize::from(pending.assumed);
        self.claimants.remove(&key);
        if let Some(going) = &pending.going {
            self.going.remove(&(going.since, key));
            self.storage.forget(&going.choice);
        }
        if let Some(held) = &pending.held {
            self.storage.forget(&held.choice);
        }
        self.queue.remove(key);
        self.freed |= self.engine.unnominate(key);
        self.engine.release(pending.class);
        Some(pending)
    }

    /// After a batch of events: lets those pods try again whom the changes may help. A class that
    /// now has a node is woken, and so is one that was refused by a rule that a node's change may
    /// have turned, if only to learn the new reasons.
    pub fn wake(&mut self, now: Duration) {
        for pod in std::mem::take(&mut self.left_alone) {
            self.queue.wake_one(pod, now);
        }
        self.look_at_holders();
        self.wake_claimants(now);
        self.wake_gangs(now);
        self.wake_queues(now);
        let turned = std::mem::take(&mut self.turned);
        let (freed, came) = (std::mem::take(&mut self.freed), std::mem::take(&mut self.came));
        if !freed && !came {
            return;
        }
        let waiting: Vec<_> = self.queue.waiting_classes().map(|(class, waiting)| (class, waiting.clues())).collect();
        for (class, clues) in waiting {
            let concerned = freed || self.engine.looks_at_others(class);
            let preempts = |engine: &mut Engine| {
                let priority = clues.preempting.filter(|_| freed);
                priority.is_some_and(|priority| engine.may_preempt(class, priority, clues.cursor))
            };
            if clues.plugins.overlaps(turned)
                || (concerned && (self.engine.place(class).is_some() || preempts(&mut self.engine)))
            {
                self.queue.wake(class, now);
            } else if freed {
                self.queue.looked(class, self.engine.cursor());
            }
        }
    }

    /// Tries the next pod. `None` when no pod is ready.
    pub fn schedule_next(&mut self, now: Duration, actions: &mut Vec<Action>) -> Option<Attempt> {
        let key = self.next_pod(now, actions)?;
        self.attempt(key, now, actions)
    }

    /// Takes the next pod to be tried out of the queue.
    fn next_pod(&mut self, now: Duration, actions: &mut Vec<Action>) -> Option<PodKey> {
        self.look_at_going(now, actions);
        self.end_holds(now, actions);
        self.look_at_moves(now, actions);
        if self.queue.fair.is_loosened() {
            self.wake_queues(now);
        }
        let key = self.queue.pop(now)?;
        self.refresh_class(key);
        Some(key)
    }

    /// Tries a pod that was taken out of the queue, with its group if it has one.
    fn attempt(&mut self, key: PodKey, now: Duration, actions: &mut Vec<Action>) -> Option<Attempt> {
        self.pending.get(&key)?;
        Some(match self.gangs.of(key) {
            Some(group) => self.attempt_gang(key, &group, now, actions),
            None => self.attempt_alone(key, now, actions),
        })
    }

    fn attempt_alone(&mut self, key: PodKey, now: Duration, actions: &mut Vec<Action>) -> Attempt {
        match self.find(key) {
            Some(found) => {
                self.hold(key, &found);
                self.send(key, found, now, actions);
                Attempt::Assumed
            }
            None => {
                self.refuse(key, now, actions);
                Attempt::Unschedulable
            }
        }
    }

    /// The best place for a pod, as things are.
    fn find(&mut self, key: PodKey) -> Option<Found> {
        if self.blocked(key).is_some() {
            return None;
        }
        let pending = self.pending.get(&key)?;
        let ask = Ask { pod: key, class: pending.class, priority: pending.priority };
        match (&pending.hindrance, &pending.claimant) {
            (Some(_), _) => None,
            (None, None) => self.engine.place_for(ask).map(|node| Found { ask, node, choice: Choice::default() }),
            (None, Some(_)) => self.place_with_volumes(ask).map(|(ask, node, choice)| Found { ask, node, choice }),
        }
    }

    /// The pod holds its place from now on.
    fn hold(&mut self, key: PodKey, Found { ask, node, choice }: &Found) {
        if let Some(scores) = &mut self.scores {
            scores.extend(self.engine.score_on(*ask, *node).map(|score| (key, score)));
        }
        // Room that was kept for it elsewhere is for others now.
        self.freed |= self.engine.nominated_node(key).is_some_and(|kept| kept != self.engine.node_name(*node));
        self.engine.assume(key, ask.class, *node, ask.priority);
        self.seat_waiting(key);
        self.assumed += 1;
        self.came = true;
        self.storage.assume(choice);
        if let Some(pending) = self.pending.get_mut(&key) {
            pending.assumed = true;
        }
    }

    /// Sends a pod to the place that it holds.
    fn send(&mut self, key: PodKey, Found { node, choice, .. }: Found, now: Duration, actions: &mut Vec<Action>) {
        let attempts = self.queue.attempts(key);
        let node = self.engine.node_name(node).clone();
        let devices = self.engine.given_devices(key).to_vec();
        let Some(pending) = self.pending.get_mut(&key) else { return };
        if choice == Choice::default() {
            let (pod, first_seen) = (pending.pod.clone(), pending.first_seen);
            actions.push(Action::Bind { pod, node, devices, attempts, first_seen });
        } else {
            self.going.insert((now, key));
            actions.push(Action::Provide { pod: pending.pod.clone(), node: node.clone(), choice: choice.clone() });
            pending.going = Some(Going { choice, node, attempts, since: now });
        }
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
                let standing = Standing { priority: pending.priority, ..Standing::default() };
                if let Some(pending) = self.drop_pending_entry(key) {
                    self.names.insert(key, PlacedName::named(&pending.pod));
                    self.pod_added(key, &node, &pending.class_spec, standing);
                }
            }
            BindOutcome::Refused(message) => self.give_up(key, message, now, actions),
        }
    }

    /// A pod does not get to the node that it was assumed on.
    fn give_up(&mut self, key: PodKey, message: String, now: Duration, actions: &mut Vec<Action>) {
        let Some(pending) = self.pending.get_mut(&key).filter(|pending| pending.assumed) else { return };
        pending.assumed = false;
        self.assumed -= 1;
        if let Some(going) = pending.going.take() {
            self.going.remove(&(going.since, key));
            self.storage.forget(&going.choice);
        }
        let nominated = pending.nominated.take().map(|_| None);
        actions.extend(pending.report(SCHEDULER_ERROR, &message, nominated));
        actions.extend(pending.event(message, now));
        self.unseat(key);
        self.engine.remove_pod(key);
        self.queue.put_back(key, now);
        self.freed = true;
    }

    /// When time alone will make a pod ready.
    pub fn next_deadline(&self) -> Option<Duration> {
        let waits = self.going_deadline().into_iter().chain(self.gangs.deadline()).chain(self.moves.deadline());
        self.queue.next_deadline().into_iter().chain(waits).min()
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

#[cfg(test)]
mod tests;

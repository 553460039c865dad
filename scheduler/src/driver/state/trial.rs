//! What the scheduler would do, tried out on a copy of what it knows.
//!
//! A [`Trial`] is a copy of the [`State`] with a clock of its own. It is told events, as the state is, and then let go on
//! until nothing moves any more: pods are decided by the same code, pods that have to make room are gone at once, and
//! back-offs pass. Nothing of that reaches the state that it was copied from.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use super::super::facts::PodFacts;
use super::super::gangs::GroupSpec;
use super::super::owners::OwnerKind;
use super::{Action, PlacedName, PodRef, State, Victim};
use crate::core::{Ask, NodeSpec, Opinion, PodKey, PodMap, Requirement};

/// How long the clock of a trial runs on at most. Less than what unschedulable pods wait to be tried for no reason
/// (and than what volumes may take), so that all that happens has a cause.
const TIME_MAX: Duration = Duration::from_secs(240);

/// A pod that would have to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaver {
    /// The pod.
    pub pod: Victim,
    /// Its priority.
    pub priority: i32,
}

/// What becomes of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The pod.
    pub pod: PodRef,
    /// The node that it gets.
    pub node: Option<Arc<str>>,
    /// That node's score when it was chosen, in thousandths of Kubernetes' points.
    pub score: Option<i64>,
    /// Who has to make room for it.
    pub victims: Vec<Leaver>,
    /// Why it gets no node.
    pub message: Option<String>,
    /// What each node says, if that is wanted: when its node was chosen, or when it last got none.
    pub opinions: Vec<Opinion>,
}

/// See the module's description.
#[derive(Debug)]
pub struct Trial {
    pub(super) state: State,
    pub(super) now: Duration,
    /// When the copy was made.
    pub(super) began: Duration,
    pub(super) end: Duration,
    pub(super) outcomes: PodMap<Outcome>,
    /// The pods that something became of, as it came about.
    pub(super) order: Vec<PodKey>,
    /// Pods for which the nodes are all asked.
    pub(super) surveyed: HashSet<PodKey>,
    pub(super) made: u128,
}

impl State {
    /// A copy to try things out on.
    pub fn trial(&self, now: Duration) -> Trial {
        let mut state = self.clone();
        state.scores = Some(PodMap::default());
        state.moves.freeze();
        Trial {
            state,
            now,
            began: now,
            end: now + TIME_MAX,
            outcomes: PodMap::default(),
            order: Vec::new(),
            surveyed: HashSet::new(),
            made: 0,
        }
    }

    /// The pod is bound where it was assumed, as the watch would tell.
    fn confirm(&mut self, key: PodKey) {
        if let Some(pending) = self.drop_pending_entry(key) {
            self.names.insert(key, PlacedName::named(&pending.pod));
            if let Some(group) = self.gangs.of(key) {
                self.stirred.extend(self.gangs.saw(key, &group.0, &group.1, false));
            }
        }
    }

    fn survey(&mut self, key: PodKey) -> Vec<Opinion> {
        match self.pending.get(&key) {
            Some(pending) if pending.hindrance.is_none() => {
                let ask = Ask { pod: key, class: pending.class, priority: pending.priority };
                self.engine.survey(ask)
            }
            _ => Vec::new(),
        }
    }
}

impl Trial {
    /// A key that no pod of the cluster has: UIDs are random, with a mark of their kind that this lacks.
    pub fn new_key(&mut self) -> PodKey {
        self.made += 1;
        PodKey(u128::MAX - self.made)
    }

    /// What is known of a node.
    pub fn node(&self, name: &str) -> Option<&NodeSpec> {
        self.state.engine.node(name)
    }

    /// The names of the nodes with this value of a label, in order.
    pub fn nodes_labelled(&self, keys: &[&str], value: &str) -> Vec<String> {
        let is_there = |node: &&NodeSpec| keys.iter().any(|key| node.labels.get(*key).is_some_and(|one| one == value));
        let mut names: Vec<String> = self.state.engine.specs().filter(is_there).map(|node| node.name.clone()).collect();
        names.sort_unstable();
        names
    }

    /// How many nodes there are.
    pub fn node_count(&self) -> usize {
        self.state.engine.nodes().count()
    }

    /// A node is new or changes.
    pub fn set_node(&mut self, node: NodeSpec) {
        self.state.node_seen(node);
    }

    /// A node goes. Its pods stay accounted until they go too.
    pub fn remove_node(&mut self, name: &str) {
        self.state.node_gone(&name.to_owned());
    }

    /// A controller that owns pods is there.
    pub fn add_owner(&mut self, kind: OwnerKind, namespace: &str, name: &str, selector: Option<Vec<Requirement>>) {
        self.state.owners().seen(kind, (namespace.to_owned(), name.to_owned()), selector);
    }

    /// A group is there, or asks for something else. In a trial it holds no nodes: it gets them, or does not.
    pub fn set_group(&mut self, namespace: &str, name: &str, min_member: usize) {
        let spec = GroupSpec { min_member, hold: Duration::ZERO };
        self.state.group_seen(&(namespace.to_owned(), name.to_owned()), spec);
    }

    /// A pod is made. Returns whether it is for this scheduler to place.
    pub fn add_pod(&mut self, pod: PodFacts) -> bool {
        let key = pod.key;
        self.state.pod_seen(pod, self.now);
        self.state.pending.contains_key(&key)
    }

    /// A pod goes.
    pub fn remove_pod(&mut self, pod: PodKey) {
        self.state.pod_gone(pod);
    }

    /// All nodes are to be asked about this pod.
    pub fn ask_all_nodes(&mut self, pod: PodKey) {
        self.surveyed.insert(pod);
    }

    /// A while later: whoever waits has backed off for long enough.
    pub fn pause(&mut self) {
        self.now += self.state.queue.backoff_max();
    }

    /// What has happened so far lets those try who waited for it, ahead of those that come.
    pub fn wake(&mut self) {
        self.state.wake(self.now);
    }

    /// Goes on as the scheduler would until nothing moves any more.
    pub fn settle(&mut self) {
        let mut actions = Vec::new();
        while self.now < self.end {
            let mut leaving = Vec::new();
            self.state.wake(self.now);
            while let Some(key) = self.state.next_pod(self.now, &mut actions) {
                let opinions = if self.surveyed.contains(&key) { self.state.survey(key) } else { Vec::new() };
                self.state.attempt(key, self.now, &mut actions);
                for action in actions.drain(..) {
                    self.note(action, &mut leaving);
                }
                self.conclude(key, opinions);
            }
            for victim in &leaving {
                self.state.pod_gone(*victim);
            }
            self.state.wake(self.now);
            if !self.state.is_ready(self.now) {
                let Some(next) = self.state.next_deadline().filter(|_| self.state.queue_counts().backoff > 0) else {
                    return;
                };
                self.now = self.now.max(next);
            }
        }
    }

    fn note(&mut self, action: Action, leaving: &mut Vec<PodKey>) {
        match action {
            Action::Bind { pod, node, .. } => {
                self.placed(&pod, node);
                self.state.confirm(pod.key);
            }
            // Its volumes take their time; it has its node.
            Action::Provide { pod, node, .. } => self.placed(&pod, node),
            Action::Preempt { pod, victims, .. } => {
                leaving.extend(victims.iter().map(|victim| victim.key));
                let engine = &self.state.engine;
                let leaver = |pod: Victim| Leaver { priority: engine.priority_of(pod.key).unwrap_or(0), pod };
                let leavers: Vec<Leaver> = victims.into_iter().map(leaver).collect();
                self.outcome_of(&pod).victims.extend(leavers);
            }
            // Nobody sets moves going in a trial.
            Action::Status { .. } | Action::FailedEvent { .. } | Action::Move(_) => {}
        }
    }

    fn placed(&mut self, pod: &PodRef, node: Arc<str>) {
        let score = self.state.scores.as_mut().and_then(|scores| scores.remove(&pod.key));
        let outcome = self.outcome_of(pod);
        (outcome.node, outcome.score) = (Some(node), score);
    }

    fn outcome_of(&mut self, pod: &PodRef) -> &mut Outcome {
        let order = &mut self.order;
        self.outcomes.entry(pod.key).or_insert_with(|| {
            order.push(pod.key);
            let (victims, opinions) = (Vec::new(), Vec::new());
            Outcome { pod: pod.clone(), node: None, score: None, victims, message: None, opinions }
        })
    }

    /// Takes down what the nodes said when a pod was tried.
    fn conclude(&mut self, key: PodKey, opinions: Vec<Opinion>) {
        match self.state.pending.get(&key) {
            Some(pending) => {
                let pod = pending.pod.clone();
                self.outcome_of(&pod).opinions = opinions;
            }
            None => drop(self.outcomes.get_mut(&key).map(|outcome| outcome.opinions = opinions)),
        }
    }

    /// What became of a pod. A pod with gates is never tried, and says so.
    pub fn outcome(&self, key: PodKey) -> Option<Outcome> {
        let pending = self.state.pending.get(&key);
        let (victims, opinions) = (Vec::new(), Vec::new());
        let new = |pod: PodRef| Outcome { pod, node: None, score: None, victims, message: None, opinions };
        let known = self.outcomes.get(&key).cloned();
        let mut outcome = known.or_else(|| pending.map(|pending| new(pending.pod.clone())))?;
        if outcome.node.is_none() {
            let reported = pending.and_then(|pending| pending.reported.as_ref());
            outcome.message = reported.map(|(_, message)| message.clone());
        }
        Some(outcome)
    }

    /// The pods that something became of so far, as it came about, with their nodes.
    pub fn decided(&self) -> Vec<(PodKey, Option<Arc<str>>)> {
        self.order.iter().filter_map(|key| Some((*key, self.outcomes.get(key)?.node.clone()))).collect()
    }
}

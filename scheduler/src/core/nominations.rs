//! Pods that wait on a node for others to go: the room is theirs, against pods that matter no more.
//!
//! A pod is placed as if the nominated pods of its own or a higher priority were where they are to
//! be, and must fit without them too: they may still go elsewhere. To have both at the price of a
//! look-up, nominated pods are accounted to their nodes down to a *level* of priority. Pods come in
//! the order of their priority, so the level mostly sinks, and each nominated pod is accounted once.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::class::ClassId;
use super::counters::KindId;
use super::engine::{Engine, PodKey, PodMap};
use super::nodes::NodeId;
use super::resources::Demand;
use super::rules;

/// Above every priority: no nominated pod is accounted.
const NONE: i64 = i64::MAX;

/// A pod that asks for a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    /// The pod.
    pub pod: PodKey,
    /// Its class.
    pub class: ClassId,
    /// Its priority.
    pub priority: i32,
}

#[derive(Clone, Debug)]
struct Nominated {
    node: Arc<str>,
    priority: i32,
    demand: Arc<Demand>,
    kind: KindId,
    /// The slot that it is accounted to now.
    slot: Option<u32>,
}

/// All nominated pods.
#[derive(Clone, Debug)]
pub struct Nominations {
    pods: PodMap<Nominated>,
    by_priority: BTreeSet<(i32, PodKey)>,
    /// Those of this priority and above are accounted to their nodes, but for `without`.
    level: i64,
    without: Option<PodKey>,
    /// How many are accounted.
    accounted: usize,
}

impl Default for Nominations {
    fn default() -> Self {
        Nominations { pods: PodMap::default(), by_priority: BTreeSet::new(), level: NONE, without: None, accounted: 0 }
    }
}

impl Engine {
    /// The pod waits for the node, with the room that it needs there.
    pub fn nominate(&mut self, ask: Ask, node: &str) {
        self.unnominate(ask.pod);
        let Some(class) = self.classes.get(ask.class) else { return };
        let (demand, kind) = (class.demand.clone(), class.kind);
        self.counters.hold_kind(kind);
        let nominated = Nominated { node: node.into(), priority: ask.priority, demand, kind, slot: None };
        self.nominations.pods.insert(ask.pod, nominated);
        self.nominations.by_priority.insert((ask.priority, ask.pod));
        if i64::from(ask.priority) >= self.nominations.level {
            self.account(ask.pod);
        }
    }

    /// The pod waits for no node any more. Returns whether it did.
    pub fn unnominate(&mut self, pod: PodKey) -> bool {
        if self.nominations.pods.is_empty() {
            return false;
        }
        self.lift(pod);
        let Some(nominated) = self.nominations.pods.remove(&pod) else { return false };
        self.nominations.by_priority.remove(&(nominated.priority, pod));
        self.counters.release_kind(nominated.kind);
        true
    }

    /// The node that the pod waits for.
    pub fn nominated_node(&self, pod: PodKey) -> Option<&Arc<str>> {
        self.nominations.pods.get(&pod).map(|nominated| &nominated.node)
    }

    /// The pods below a priority that wait for a node, the lowest first.
    pub fn nominated_below(&self, node: &str, priority: i32) -> Vec<PodKey> {
        let below = self.nominations.by_priority.range(..(priority, PodKey(0)));
        below.map(|(_, pod)| *pod).filter(|pod| self.nominated_node(*pod).is_some_and(|at| &**at == node)).collect()
    }

    /// The pods that wait for a node.
    pub fn nominated_on(&self, node: &str) -> Vec<PodKey> {
        let all = self.nominations.by_priority.iter().map(|(_, pod)| *pod);
        all.filter(|pod| self.nominated_node(*pod).is_some_and(|at| &**at == node)).collect()
    }

    /// The best node for the pod: the one that it waits for if that takes it now, or else the best
    /// of all.
    pub fn place_for(&mut self, ask: Ask) -> Option<NodeId> {
        if self.nominations.pods.is_empty() {
            return self.place(ask.class);
        }
        self.view_for(ask);
        if let Some(slot) = self.nominated_node(ask.pod).and_then(|node| self.nodes.slot(node))
            && self.nodes.spec(slot).is_some()
            && self.takes(ask, slot)
        {
            return Some(NodeId(slot));
        }
        let best = self.best(ask.class);
        if best.is_none_or(|node| self.takes_without(ask, node.0)) {
            return best;
        }
        // It would lean on a pod that is not there yet.
        self.view_none();
        let best = self.best(ask.class);
        self.view_for(ask);
        best.filter(|node| self.takes(ask, node.0))
    }

    /// Does the node take the pod, with the nominated pods that matter and without any? The view is
    /// the asker's.
    pub(super) fn takes(&mut self, ask: Ask, slot: u32) -> bool {
        self.judges(ask.class, slot).is_none() && self.takes_without(ask, slot)
    }

    /// Does a node that takes the pod with the nominated pods take it without them? What they take
    /// away can only be missed by rules that want other pods to be there.
    fn takes_without(&mut self, ask: Ask, slot: u32) -> bool {
        if self.nominations.accounted == 0 || !self.looks_at_others(ask.class) {
            return true;
        }
        self.view_none();
        let takes = self.judges(ask.class, slot).is_none();
        self.view_for(ask);
        takes
    }

    /// What the rules say to a pod of the class as things are.
    pub(super) fn judges(&mut self, class: ClassId, slot: u32) -> Option<super::explain::Verdict> {
        self.classes.refresh(class, &mut self.counters, &self.nodes);
        let candidate = self.classes.candidate(class, &self.counters)?;
        rules::judge(candidate, &self.nodes, slot)
    }

    /// Accounts the nominated pods that matter to the asker, and no others.
    pub(super) fn view_for(&mut self, ask: Ask) {
        self.view(i64::from(ask.priority), Some(ask.pod));
    }

    /// Accounts no nominated pods.
    pub(super) fn view_none(&mut self) {
        self.view(NONE, None);
    }

    fn view(&mut self, level: i64, without: Option<PodKey>) {
        if self.nominations.pods.is_empty() {
            self.nominations.level = level;
            self.nominations.without = without;
            return;
        }
        let bound = |level: i64| (i32::try_from(level).unwrap_or(i32::MAX), PodKey(0));
        let (before, by_priority) = (self.nominations.level, &self.nominations.by_priority);
        let (low, high) = (level.min(before), level.max(before));
        let between = || by_priority.range(bound(low)..).take_while(move |(priority, _)| i64::from(*priority) < high);
        let crossed: Vec<PodKey> = if low == high { Vec::new() } else { between().map(|(_, pod)| *pod).collect() };
        let returning = self.nominations.without.filter(|pod| Some(*pod) != without);
        self.nominations.level = level;
        self.nominations.without = without;
        for pod in crossed {
            if level < before { self.account(pod) } else { self.lift(pod) }
        }
        if let Some(pod) = returning {
            self.account(pod);
        }
        if let Some(pod) = without {
            self.lift(pod);
        }
    }

    /// Accounts a nominated pod to its node, if it is to be.
    fn account(&mut self, pod: PodKey) {
        let Nominations { pods, level, without, accounted, .. } = &mut self.nominations;
        let Some(nominated) = pods.get_mut(&pod) else { return };
        if nominated.slot.is_some() || i64::from(nominated.priority) < *level || *without == Some(pod) {
            return;
        }
        let slot = self.nodes.slot_or_new(&nominated.node);
        nominated.slot = Some(slot);
        *accounted += 1;
        // Of its devices only the sums: those that it will get may still be in use.
        self.nodes.charge(slot, &nominated.demand, &[], 1);
        self.log.push(slot, false);
        self.counters.count(nominated.kind, slot, 1, &self.nodes, &mut self.log);
    }

    /// The reverse of [`Self::account`].
    fn lift(&mut self, pod: PodKey) {
        let Some(nominated) = self.nominations.pods.get_mut(&pod) else { return };
        let Some(slot) = nominated.slot.take() else { return };
        self.nominations.accounted -= 1;
        self.log.push(slot, false);
        self.counters.count(nominated.kind, slot, -1, &self.nodes, &mut self.log);
        self.nodes.charge(slot, &nominated.demand, &[], -1);
    }
}

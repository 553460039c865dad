//! Room for a pod that waits, made by moving others: which pods would leave which node, and where they would go.
//!
//! Tried out as everything else is: on a copy, a set of pods leaves a node, is made anew by whoever makes them, and all that
//! waits is decided by the same code. What is proposed is what then happened: the pod has the node, each of those that left
//! has another one, and nobody had to go.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::super::facts::PodFacts;
use super::preempting::PlacedName;
use super::{Action, PodRef, State, Trial, Victim};
use crate::convert;
use crate::core::{Ask, Leaver, NodeId, PodKey, PodMap};

/// Steps of the search for sets of pods, for one that waits: some tenths of a second.
const LOOKS_MAX: usize = 60_000;
/// Sets that are tried out for one that waits: each is a copy of all that is known.
const TRIES_MAX: usize = 64;
/// The same for all that one look is about: some seconds on a large cluster.
const TRIES_OF_LOOK: usize = 128;

/// A pod that leaves its node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    /// The pod.
    pub pod: Victim,
    /// Where the one that takes its place is expected.
    pub to: Arc<str>,
}

/// What makes room for a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clearing {
    /// The pod that waits.
    pub pod: PodRef,
    /// The node that it gets.
    pub node: Arc<str>,
    /// Those that leave it.
    pub moves: Vec<Move>,
    /// What is known of them, to see once more whether it helps when it begins.
    pub leaving: Vec<PodFacts>,
}

/// What one look for moves may cost, for all pods together.
#[derive(Debug)]
pub struct Effort {
    tries: usize,
    stop: CancellationToken,
}

impl Effort {
    /// As much as one look may cost; none is left once `stop` is.
    pub fn new(stop: CancellationToken) -> Self {
        Effort { tries: TRIES_OF_LOOK, stop }
    }

    /// Nothing more can be tried out.
    pub fn is_spent(&self) -> bool {
        self.tries == 0 || self.stop.is_cancelled()
    }
}

/// What a search for moves came to.
#[derive(Debug)]
pub struct Search {
    /// The fewest moves that make room.
    pub found: Option<Clearing>,
    /// All sets were looked at that might do with fewer moves.
    pub is_complete: bool,
}

/// The pods on one node that may leave it.
struct Stall<'a> {
    least: usize,
    node: NodeId,
    pods: Vec<&'a PodFacts>,
    leavers: Vec<Leaver>,
}

impl State {
    fn ask_of(&self, pod: PodKey) -> Option<Ask> {
        let pending = self.pending.get(&pod)?;
        Some(Ask { pod, class: pending.class, priority: pending.priority })
    }

    /// Is the pod one that waits for nothing but room?
    fn is_stranded(&self, pod: PodKey) -> bool {
        let Some(pending) = self.pending.get(&pod) else { return false };
        let waits = !pending.gated && !pending.assumed && pending.held.is_none() && pending.hindrance.is_none();
        let is_alone = self.gangs.of(pod).is_none() && self.engine.nominated_node(pod).is_none();
        waits && is_alone && self.blocked(pod).is_none()
    }

    /// Is there a pod that has waited for so long for nothing but room?
    pub fn has_stranded(&self, waited: Duration, now: Duration) -> bool {
        self.pending.iter().any(|(pod, pending)| pending.first_seen + waited <= now && self.is_stranded(*pod))
    }

    /// Sets moves going, if they still help, which is tried out once more: the pod waits for its node from now on.
    pub fn start_moves(&mut self, clearing: &Clearing, now: Duration, actions: &mut Vec<Action>) -> bool {
        let Some(ask) = self.ask_of(clearing.pod.key).filter(|ask| self.is_stranded(ask.pod)) else { return false };
        let is_there = |key: PodKey| self.engine.node_of(key) == Some(&*clearing.node) && self.stays(key);
        if self.engine.node(&clearing.node).is_none() || !clearing.moves.iter().all(|one| is_there(one.pod.key)) {
            return false;
        }
        // Who came, went or grew since may have taken what was free for those that leave.
        let Some(clearing) = self.trial(now).moved_again(clearing) else { return false };
        let leaving: Vec<PodKey> = clearing.moves.iter().map(|one| one.pod.key).collect();
        self.moves.begin(&clearing, now);
        self.take_room(ask, &clearing.node, &leaving, false, actions);
        if let Some(pending) = self.pending.get(&ask.pod) {
            let (pod, nominated) = (pending.pod.clone(), Some(Some(clearing.node.clone())));
            actions.push(Action::Status { pod, condition: None, nominated });
        }
        actions.push(Action::Move(clearing));
        true
    }

    /// The pod has a node, and nobody wants it gone.
    fn stays(&self, pod: PodKey) -> bool {
        self.names.get(&pod).is_some_and(PlacedName::stays) && !self.engine.is_preempted(pod)
    }

    fn stalls<'a>(&mut self, ask: Ask, movable: &'a [PodFacts], most: usize) -> Vec<Stall<'a>> {
        let mut by_node: HashMap<&str, Vec<&PodFacts>> = HashMap::new();
        for pod in movable.iter().filter(|pod| pod.priority <= ask.priority) {
            let at = pod.node_name.as_deref().filter(|node| self.engine.node_of(pod.key) == Some(node));
            if let Some(node) = at.filter(|_| self.stays(pod.key)) {
                by_node.entry(node).or_default().push(pod);
            }
        }
        let mut stalls = Vec::new();
        for (least, node) in self.engine.nodes_to_clear(ask, most) {
            let Some(mut pods) = by_node.remove(&**self.engine.node_name(node)) else { continue };
            // Those that matter least leave first, and of equals the youngest.
            pods.sort_by_key(|pod| (pod.priority, Reverse(pod.started.unwrap_or(i64::MAX)), pod.key));
            pods.retain(|pod| !self.others_come_first(pod));
            let (pods, leavers) = self.leavers(&pods);
            stalls.push(Stall { least, node, pods, leavers });
        }
        stalls
    }

    /// Does its queue, or one above it, hold back pods? These would have its share before it is made anew.
    fn others_come_first(&self, pod: &PodFacts) -> bool {
        self.seat_of(pod.key).is_some_and(|queue| self.queue.holds_back(queue))
    }

    /// Those of a node's pods that budgets let go, and which of them are alike.
    fn leavers<'a>(&self, pods: &[&'a PodFacts]) -> (Vec<&'a PodFacts>, Vec<Leaver>) {
        let (mut chosen, mut leavers): (Vec<&PodFacts>, Vec<Leaver>) = (Vec::new(), Vec::new());
        for pod in pods {
            let mut budgets = self.engine.budgets_of(pod.key, Some(&pod.name), &self.budgets);
            // One that two budgets are about cannot be evicted.
            if budgets.len() > 1 {
                continue;
            }
            let budget = budgets.pop();
            let same = |other: &(&&PodFacts, &Leaver)| {
                let (one, leaver) = *other;
                let counted = leaver.budget == budget && one.priority == pod.priority && one.class == pod.class;
                let placed = one.controller == pod.controller && one.queue == pod.queue && one.group == pod.group;
                let plain = one.claimant.is_none() && pod.claimant.is_none();
                counted && placed && plain && self.engine.devices_of(one.key).is_empty()
            };
            let alike = chosen.iter().zip(&leavers).find(same).map(|(_, leaver)| leaver.alike);
            leavers.push(Leaver { pod: pod.key, alike: alike.unwrap_or(leavers.len()), budget });
            chosen.push(pod);
        }
        (chosen, leavers)
    }
}

impl Trial {
    /// Pods that have waited for so long for nothing but room, those that matter most first.
    pub fn stranded(&self, waited: Duration) -> Vec<PodKey> {
        let is_late = |pod: &&PodKey| {
            let pending = self.state.pending.get(pod);
            pending.is_some_and(|pending| pending.first_seen + waited <= self.began) && self.state.is_stranded(**pod)
        };
        let mut pods: Vec<PodKey> = self.state.pending.keys().filter(is_late).copied().collect();
        pods.sort_by_key(|pod| self.state.pending.get(pod).map(|one| (Reverse(one.priority), one.first_seen, *pod)));
        pods
    }

    /// Does the pod wait for nothing but room?
    pub fn is_stranded(&self, pod: PodKey) -> bool {
        self.state.is_stranded(pod)
    }

    /// Whether two pods that wait are the same to all nodes.
    pub fn are_alike(&self, one: PodKey, other: PodKey) -> bool {
        let likes = |pod| self.state.ask_of(pod).map(|ask| (ask.class, ask.priority));
        likes(one) == likes(other)
    }

    /// The nodes that might take the pod if no more than `most` pods left, those with the fewest first.
    pub fn nodes_to_clear(&mut self, pod: PodKey, most: usize) -> Vec<Arc<str>> {
        let Some(ask) = self.state.ask_of(pod) else { return Vec::new() };
        let nodes = self.state.engine.nodes_to_clear(ask, most);
        nodes.into_iter().map(|(_, node)| self.state.engine.node_name(node).clone()).collect()
    }

    /// The fewest moves, `most` at most, of these pods that make room for one that waits; they have happened afterwards.
    pub fn make_room(&mut self, pod: PodKey, movable: &[PodFacts], most: usize, effort: &mut Effort) -> Search {
        let nothing = |is_complete| Search { found: None, is_complete };
        self.state.refresh_class(pod);
        let Some(ask) = self.state.ask_of(pod).filter(|_| self.state.is_stranded(pod)) else { return nothing(true) };
        let stalls = self.state.stalls(ask, movable, most);
        let (mut looks, mut tries) = (LOOKS_MAX, TRIES_MAX);
        for count in 1..=most {
            if effort.is_spent() {
                return nothing(false);
            }
            let mut sets: Vec<(bool, NodeId, Vec<&PodFacts>)> = Vec::new();
            for stall in stalls.iter().filter(|stall| stall.least <= count && stall.leavers.len() >= count) {
                let State { engine, budgets, .. } = &mut self.state;
                let found = engine.leaving_sets(ask, stall.node, &stall.leavers, count, budgets, &mut looks);
                sets.extend(found.into_iter().map(|set| {
                    let pods = set.leavers.iter().map(|index| stall.pods[*index]).collect();
                    (!set.is_enough, stall.node, pods)
                }));
            }
            sets.sort_by_key(|(is_doubtful, ..)| *is_doubtful);
            for (_, node, pods) in sets {
                if tries == 0 || effort.is_spent() {
                    return nothing(false);
                }
                tries -= 1;
                effort.tries -= 1;
                let node = self.state.engine.node_name(node).clone();
                if let Some((after, clearing)) = self.moved(ask, &node, &pods) {
                    *self = after;
                    return Search { found: Some(clearing), is_complete: looks > 0 };
                }
            }
        }
        nothing(looks > 0)
    }

    /// What comes of moves now that were found before; none if they do not help any more.
    fn moved_again(mut self, clearing: &Clearing) -> Option<Clearing> {
        let pod = clearing.pod.key;
        self.settle();
        self.state.refresh_class(pod);
        let ask = self.state.ask_of(pod).filter(|_| self.state.is_stranded(pod))?;
        let leaving: Vec<&PodFacts> = clearing.leaving.iter().collect();
        self.moved(ask, &clearing.node, &leaving).map(|(_, clearing)| clearing)
    }

    /// What comes of it if these pods leave the node for the one that asks; none if that is not what is wanted.
    pub fn moved(&self, ask: Ask, node: &Arc<str>, leaving: &[&PodFacts]) -> Option<(Trial, Clearing)> {
        // Those that are made anew first are placed first: the large ones, that the small ones fit beside them. Which of
        // those that are alike leave makes no difference then.
        let mut leaving = leaving.to_vec();
        leaving.sort_by_cached_key(|pod| {
            let asked = &pod.class.demand.requests;
            let size = (pod.priority, asked.milli_cpu, asked.memory);
            (Reverse(size), pod.namespace.clone(), pod.class.labels.clone(), pod.controller.clone(), pod.key)
        });
        let mut after = self.copy();
        after.pause();
        let pod = after.state.pending.get(&ask.pod)?.pod.clone();
        after.state.engine.nominate(ask, node);
        for pod in &leaving {
            after.state.engine.spend(pod.key, Some(&pod.name), &mut after.state.budgets);
            after.state.pod_gone(pod.key);
        }
        let mut anew = Vec::new();
        for pod in &leaving {
            let key = after.new_key();
            let (uid, node_name, nominated) = (convert::usual_uid(key), None, None);
            if !after.add_pod(PodFacts { key, uid, node_name, nominated, ..(*pod).clone() }) {
                return None;
            }
            anew.push(key);
        }
        after.settle();
        let goes = |key: PodKey| after.outcomes.get(&key).and_then(|outcome| outcome.node.clone());
        if goes(ask.pod).as_ref() != Some(node) || after.outcomes.values().any(|one| !one.victims.is_empty()) {
            return None;
        }
        let mut moves = Vec::new();
        for (pod, key) in leaving.iter().zip(anew) {
            let to = goes(key).filter(|to| to != node)?;
            let (uid, namespace, name) = (pod.uid.clone(), pod.namespace.clone(), pod.name.clone());
            moves.push(Move { pod: Victim { key: pod.key, uid, namespace, name }, to });
        }
        let leaving = leaving.into_iter().cloned().collect();
        Some((after, Clearing { pod, node: node.clone(), moves, leaving }))
    }

    /// A trial that goes on from here, in which nothing has become of anyone yet.
    fn copy(&self) -> Trial {
        Trial {
            state: self.state.clone(),
            now: self.now,
            began: self.began,
            end: self.end,
            outcomes: PodMap::default(),
            order: Vec::new(),
            surveyed: HashSet::new(),
            made: self.made,
        }
    }

    /// How a waiting pod asks for a place.
    pub fn ask_of(&self, pod: PodKey) -> Option<Ask> {
        self.state.ask_of(pod)
    }
}

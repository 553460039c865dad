//! Classes of pods: interned specs, and for each the index of the nodes it may use.
//!
//! The index of a class is a few [`Tournament`]s, one for each distinct preference (sum of preferred
//! affinity weights, number of intolerable `PreferNoSchedule` taints) among its nodes. Within one,
//! only packing differs, which depends on the node alone; between them the points depend on the
//! highest preference among *feasible* nodes, as in Kubernetes, so they are compared when deciding.

use std::collections::HashMap;
use std::sync::Arc;

use super::bitset::Bitset;
use super::changelog::ChangeLog;
use super::nodes::Nodes;
use super::resources::Demand;
use super::rules::{self, Candidate, RULES, node_affinity, taints};
use super::spec::ClassSpec;
use super::tournament::{Key, Tournament};
use super::{score, selector};

/// A class of pods that are the same to the scheduler.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClassId(pub(super) u32);

/// One class.
#[derive(Clone, Debug)]
pub struct Class {
    pub(super) spec: Arc<ClassSpec>,
    pub(super) demand: Arc<Demand>,
    pub(super) references: u32,
    pub(super) last_used: u64,
    index: Option<Index>,
}

/// Nodes by preference and score.
#[derive(Clone, Debug)]
struct Index {
    /// How far the log has been read.
    cursor: u64,
    /// The epoch of name order that the keys are of.
    epoch: u64,
    groups: Vec<Group>,
    leaves: LeafMap,
}

#[derive(Clone, Debug)]
struct Group {
    affinity: i64,
    taints: u32,
    tree: Tournament,
}

/// A node's sum of matching preferred weights and its number of intolerable taints.
type Preference = (i64, u32);

/// Where a node's leaf is.
#[derive(Clone, Copy, Debug)]
struct Leaf {
    group: u32,
    position: u32,
}

const NO_LEAF: Leaf = Leaf { group: u32::MAX, position: 0 };

/// From slot to leaf: an array when the class may use many nodes, a map when few.
#[derive(Clone, Debug)]
enum LeafMap {
    Dense(Vec<Leaf>),
    Sparse(HashMap<u32, Leaf>),
}

impl LeafMap {
    #[inline]
    fn get(&self, slot: u32) -> Option<Leaf> {
        match self {
            LeafMap::Dense(leaves) => leaves.get(slot as usize).copied().filter(|leaf| leaf.group != u32::MAX),
            LeafMap::Sparse(leaves) => leaves.get(&slot).copied(),
        }
    }

    fn set(&mut self, slot: u32, leaf: Option<Leaf>) {
        match self {
            LeafMap::Dense(leaves) => {
                if slot as usize >= leaves.len() {
                    leaves.resize(slot as usize + 1, NO_LEAF);
                }
                leaves[slot as usize] = leaf.unwrap_or(NO_LEAF);
            }
            LeafMap::Sparse(leaves) => {
                match leaf {
                    Some(leaf) => leaves.insert(slot, leaf),
                    None => leaves.remove(&slot),
                };
            }
        }
    }
}

impl Class {
    pub(super) fn new(spec: Arc<ClassSpec>, demand: Arc<Demand>) -> Self {
        Class { spec, demand, references: 0, last_used: 0, index: None }
    }

    pub(super) fn candidate(&self) -> Candidate<'_> {
        Candidate { spec: &self.spec, demand: &self.demand }
    }

    /// Brings the index up to date and returns the best node's slot.
    pub(super) fn best(&mut self, nodes: &Nodes, log: &ChangeLog) -> Option<u32> {
        let candidate = Candidate { spec: &self.spec, demand: &self.demand };
        let epoch = nodes.order().epoch();
        match &mut self.index {
            Some(index) if index.epoch == epoch && log.reaches_back_to(index.cursor) => {
                index.catch_up(candidate, nodes, log);
            }
            stale => *stale = Some(Index::compile(candidate, nodes, log.end())),
        }
        self.index.as_ref().and_then(Index::best)
    }

    /// How many leaves the index holds: what it costs in memory.
    pub(super) fn leaves(&self) -> usize {
        let index = self.index.as_ref();
        index.map_or(0, |index| match &index.leaves {
            LeafMap::Dense(leaves) => leaves.len(),
            LeafMap::Sparse(leaves) => leaves.len(),
        })
    }

    /// Drops the index; the next decision compiles it again.
    pub(super) fn forget_index(&mut self) {
        self.index = None;
    }
}

impl Index {
    fn compile(candidate: Candidate<'_>, nodes: &Nodes, cursor: u64) -> Index {
        let mut eligible = nodes.present().clone();
        for rule in RULES {
            rule.narrow(candidate, nodes, &mut eligible);
        }
        let count = eligible.len();
        let preferred: Vec<(i64, Bitset)> = candidate
            .spec
            .preferred
            .iter()
            .map(|preferred| (i64::from(preferred.weight), selector::select(&preferred.term, nodes, &eligible)))
            .collect();
        let mut disliked: HashMap<u32, u32> = HashMap::new();
        for (taints, slots) in nodes.postings().taint_sets() {
            match taints::intolerable(candidate.spec, taints) {
                0 => {}
                number => disliked.extend(slots.iter().map(|slot| (*slot, number))),
            }
        }

        let mut building: Vec<(Preference, Vec<(u32, Key)>)> = Vec::new();
        let mut leaves = if count * 8 < nodes.capacity() {
            LeafMap::Sparse(HashMap::with_capacity(count))
        } else {
            LeafMap::Dense(vec![NO_LEAF; nodes.capacity()])
        };
        for slot in eligible.iter() {
            let affinity = preferred.iter().filter(|(_, set)| set.contains(slot)).map(|(weight, _)| weight).sum();
            let wanted: Preference = (affinity, disliked.get(&slot).copied().unwrap_or(0));
            let group = building.iter().position(|(preference, _)| *preference == wanted).unwrap_or_else(|| {
                building.push((wanted, Vec::new()));
                building.len() - 1
            });
            let members = &mut building[group].1;
            leaves.set(slot, Some(Leaf { group: group as u32, position: members.len() as u32 }));
            members.push((slot, key(candidate, nodes, slot)));
        }
        let groups = building
            .into_iter()
            .map(|((affinity, taints), members)| Group { affinity, taints, tree: Tournament::build(members) })
            .collect();
        Index { cursor, epoch: nodes.order().epoch(), groups, leaves }
    }

    fn catch_up(&mut self, candidate: Candidate<'_>, nodes: &Nodes, log: &ChangeLog) {
        for change in log.since(self.cursor) {
            if change.is_static {
                self.place_leaf(candidate, nodes, change.slot);
            } else if let Some(leaf) = self.leaves.get(change.slot) {
                self.groups[leaf.group as usize].tree.set(leaf.position, key(candidate, nodes, change.slot));
            }
        }
        self.cursor = log.end();
    }

    /// Puts a node whose labels, taints or presence changed where it now belongs.
    fn place_leaf(&mut self, candidate: Candidate<'_>, nodes: &Nodes, slot: u32) {
        let wanted = nodes.spec(slot).filter(|_| rules::accepts_statically(candidate, nodes, slot)).map(|node| {
            let affinity = node_affinity::preference(candidate.spec, node);
            (affinity, taints::intolerable(candidate.spec, &node.taints))
        });
        if let Some(leaf) = self.leaves.get(slot) {
            let group = &mut self.groups[leaf.group as usize];
            if wanted == Some((group.affinity, group.taints)) {
                group.tree.set(leaf.position, key(candidate, nodes, slot));
                return;
            }
            group.tree.remove(leaf.position);
            self.leaves.set(slot, None);
        }
        let Some((affinity, taints)) = wanted else { return };
        let same = |group: &Group| group.affinity == affinity && group.taints == taints;
        let group = self.groups.iter().position(same).unwrap_or_else(|| {
            // A group that has emptied is taken over, so that groups stay few.
            let fresh = Group { affinity, taints, tree: Tournament::default() };
            match self.groups.iter().position(|group| group.tree.len() == 0) {
                Some(index) => {
                    self.groups[index] = fresh;
                    index
                }
                None => {
                    self.groups.push(fresh);
                    self.groups.len() - 1
                }
            }
        });
        let position = self.groups[group].tree.add(slot, key(candidate, nodes, slot));
        self.leaves.set(slot, Some(Leaf { group: group as u32, position }));
    }

    fn best(&self) -> Option<u32> {
        if let [group] = self.groups.as_slice() {
            return group.tree.best().map(|(slot, _)| slot);
        }
        let tops = || self.groups.iter().filter_map(|group| Some((group, group.tree.best()?)));
        let affinity_max = tops().map(|(group, _)| group.affinity).max()?;
        let taints_max = tops().map(|(group, _)| group.taints).max()?;
        tops()
            .map(|(group, (slot, key))| {
                let preference = score::preference(group.affinity, affinity_max, group.taints, taints_max);
                (key.score + preference, std::cmp::Reverse(key.order), slot)
            })
            .max()
            .map(|(_, _, slot)| slot)
    }
}

/// The key of a statically acceptable node: its packing score if the pod fits now.
#[inline]
fn key(candidate: Candidate<'_>, nodes: &Nodes, slot: u32) -> Key {
    if rules::accepts_usage(candidate, nodes, slot) {
        Key { score: score::packing(candidate.demand, nodes, slot), order: nodes.order().label(slot) }
    } else {
        Key { score: Key::OUT.score, order: nodes.order().label(slot) }
    }
}

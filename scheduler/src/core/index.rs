//! The index of a class: its nodes by what they are to it, and within that by score.
//!
//! Nodes that differ only in how full they are form a group, a [`Tournament`]. What makes groups
//! differ is the node's *signature*: the sum of preferred affinity weights, the number of
//! intolerable `PreferNoSchedule` taints, the node's place in each coarse topology that the class
//! has a constraint about, and for fine topologies what the counts there come to. So a pod that
//! comes to a zone changes the zone's count, which is looked up when deciding between groups, and
//! touches no other node of the zone; a pod that comes to a host moves that one node to another group.
//!
//! Points that depend on the highest or lowest among *feasible* nodes, as many of Kubernetes' do,
//! are worked out over groups when deciding.

use std::collections::HashMap;

use super::bitset::Bitset;
use super::changelog::ChangeLog;
use super::constraints::Hard;
use super::counters::CounterId;
use super::nodes::Nodes;
use super::rules::pod_affinity::{self, Nearness};
use super::rules::{self, Candidate, RULES, node_affinity, spread, taints};
use super::score::{self, Range};
use super::selector;
use super::spec::NodeSpec;
use super::topology::TopologyId;
use super::tournament::{Key, Tournament};

/// In a signature: the node has no place in this topology.
const NOWHERE: i64 = -1;
/// Where a signature's places begin: after affinity and taints.
const PLACES: usize = 2;

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

#[derive(Clone, Debug)]
struct Group {
    signature: Box<[i64]>,
    tree: Tournament,
}

/// Where in the signature each constraint finds what it needs; `None` is in what was folded together.
#[derive(Clone, Debug, Default)]
struct Layout {
    places: Vec<TopologyId>,
    affinity: Vec<(CounterId, Option<usize>)>,
    anti_affinity: Vec<(CounterId, Option<usize>)>,
    attraction: Vec<(CounterId, i64, Option<usize>)>,
    /// Position, and whether it holds a place or a count.
    hard: Vec<(Hard, usize, bool)>,
    soft: Vec<(CounterId, f64, usize, bool)>,
    soft_needs_all_keys: bool,
    /// Nearness and anti-affinity in fine topologies.
    folded: Option<usize>,
    folded_attraction: Option<usize>,
    width: usize,
}

impl Layout {
    fn new(candidate: Candidate<'_>) -> Layout {
        let (constraints, counters) = (candidate.constraints, candidate.counters);
        let mut layout = Layout { soft_needs_all_keys: constraints.soft_needs_all_keys, ..Layout::default() };
        let topology = |id: CounterId| counters.get(id).topology;
        let is_fine = |id: CounterId| counters.topologies.is_fine(topology(id));
        let mut place = |id: CounterId| {
            let found = layout.places.iter().position(|one| *one == topology(id)).unwrap_or_else(|| {
                layout.places.push(topology(id));
                layout.places.len() - 1
            });
            PLACES + found
        };
        let mut coarse = |id: CounterId| (!is_fine(id)).then(|| place(id));
        layout.affinity = constraints.affinity.iter().map(|id| (*id, coarse(*id))).collect();
        let anti = constraints.anti_affinity.iter().chain(&constraints.avoided);
        layout.anti_affinity = anti.map(|id| (*id, coarse(*id))).collect();
        layout.attraction = constraints.attraction.iter().map(|(id, weight)| (*id, *weight, coarse(*id))).collect();
        let hard: Vec<_> = constraints.hard.iter().map(|hard| (*hard, coarse(hard.counter))).collect();
        // How many places there are among the feasible nodes matters, so that these are told apart.
        let soft: Vec<_> =
            constraints.soft.iter().map(|soft| (soft, (!soft.is_hostname).then(|| place(soft.counter)))).collect();

        let mut next = PLACES + layout.places.len();
        let mut take = || {
            next += 1;
            next - 1
        };
        let folds = layout.affinity.iter().chain(&layout.anti_affinity).any(|(_, place)| place.is_none());
        layout.folded = folds.then(&mut take);
        let folds = layout.attraction.iter().any(|(_, _, place)| place.is_none());
        layout.folded_attraction = folds.then(&mut take);
        for (hard, place) in hard {
            layout.hard.push((hard, place.unwrap_or_else(&mut take), place.is_some()));
        }
        for (soft, place) in soft {
            let base = (soft.max_skew - 1) as f64;
            layout.soft.push((soft.counter, base, place.unwrap_or_else(&mut take), place.is_some()));
        }
        layout.width = next;
        layout
    }

    /// Does nothing but the node itself and its usage matter?
    fn is_plain(&self) -> bool {
        self.width == PLACES
    }

    /// Is there a part that changes with the counts around a node?
    fn has_fine_parts(&self) -> bool {
        self.width > PLACES + self.places.len()
    }

    /// Writes the parts that only a change of the node itself changes.
    fn sign_static(&self, candidate: Candidate<'_>, slot: u32, preference: (i64, u32), signature: &mut Vec<i64>) {
        signature.clear();
        signature.extend([preference.0, i64::from(preference.1)]);
        let topologies = &candidate.counters.topologies;
        let places = self.places.iter().map(|id| topologies.domain(*id, slot).map_or(NOWHERE, i64::from));
        signature.extend(places);
        signature.resize(self.width, 0);
    }

    /// Writes the parts that change with the counts around a node.
    fn sign_fine(&self, candidate: Candidate<'_>, slot: u32, signature: &mut [i64]) {
        let fine = |list: &[(CounterId, Option<usize>)], ask: &mut dyn FnMut(CounterId)| {
            list.iter().filter(|(_, place)| place.is_none()).for_each(|(id, _)| ask(*id));
        };
        if let Some(position) = self.folded {
            let mut nearness = Nearness::Near;
            fine(&self.affinity, &mut |id| nearness = nearness.max(pod_affinity::nearness(candidate, id, slot)));
            let mut kept_away = false;
            fine(&self.anti_affinity, &mut |id| kept_away |= pod_affinity::count(candidate, id, slot) > 0);
            signature[position] = nearness as i64 | i64::from(kept_away) << 2;
        }
        if let Some(position) = self.folded_attraction {
            let fine = self.attraction.iter().filter(|(_, _, place)| place.is_none());
            signature[position] = fine.map(|(id, weight, _)| weight * pod_affinity::count(candidate, *id, slot)).sum();
        }
        let topologies = &candidate.counters.topologies;
        for (hard, position, _) in self.hard.iter().filter(|(_, _, is_place)| !is_place) {
            let counter = candidate.counters.get(hard.counter);
            let domain = topologies.domain(counter.topology, slot);
            signature[*position] = domain.map_or(NOWHERE, |domain| counter.in_domain(domain));
        }
        for (id, _, position, _) in self.soft.iter().filter(|(_, _, _, is_place)| !is_place) {
            let counter = candidate.counters.get(*id);
            let has_place = topologies.domain(counter.topology, slot).is_some();
            signature[*position] = if has_place { counter.on_node(slot) } else { NOWHERE };
        }
    }

    /// The count that a signature stands for, none without a place.
    fn count(candidate: Candidate<'_>, id: CounterId, part: i64) -> i64 {
        if part == NOWHERE { 0 } else { candidate.counters.get(id).in_domain(part as u32) }
    }

    /// Do the rules about places accept nodes with this signature?
    fn accepts(&self, candidate: Candidate<'_>, signature: &[i64]) -> bool {
        let folded = self.folded.map_or(0, |position| signature[position]);
        let mut nearness = match folded & 3 {
            0 => Nearness::Near,
            1 => Nearness::Lonely,
            _ => Nearness::Nowhere,
        };
        for (id, position) in &self.affinity {
            let Some(part) = position.map(|position| signature[position]) else { continue };
            nearness = nearness.max(match part {
                NOWHERE => Nearness::Nowhere,
                place if Layout::count(candidate, *id, place) > 0 => Nearness::Near,
                _ => Nearness::Lonely,
            });
        }
        let kept_away = |(id, position): &(CounterId, Option<usize>)| {
            position.is_some_and(|position| Layout::count(candidate, *id, signature[position]) > 0)
        };
        folded & 4 == 0
            && pod_affinity::accepts(candidate, nearness)
            && !self.anti_affinity.iter().any(kept_away)
            && self.hard.iter().all(|(hard, position, is_place)| {
                let part = signature[*position];
                let count = if *is_place { Layout::count(candidate, hard.counter, part) } else { part };
                part != NOWHERE && spread::accepts(candidate, hard, count)
            })
    }

    fn attraction(&self, candidate: Candidate<'_>, signature: &[i64]) -> i64 {
        let coarse = self.attraction.iter().filter_map(|(id, weight, position)| {
            position.map(|position| weight * Layout::count(candidate, *id, signature[position]))
        });
        coarse.sum::<i64>() + self.folded_attraction.map_or(0, |position| signature[position])
    }

    /// Does the node lack a key that makes it the last choice for spreading?
    fn is_last_choice(&self, signature: &[i64]) -> bool {
        self.soft_needs_all_keys && self.soft.iter().any(|(_, _, position, _)| signature[*position] == NOWHERE)
    }
}

/// A group that is in the running, by its best node.
#[derive(Clone, Copy, Debug)]
struct Top {
    group: usize,
    slot: u32,
    key: Key,
    attraction: i64,
    /// The imbalance, or that it is not judged by that.
    imbalance: Option<i64>,
}

/// What the points of groups are relative to.
struct Scale {
    affinity_max: i64,
    taints_max: i64,
    attraction: Range,
    imbalance: Range,
}

/// See the module's description.
#[derive(Clone, Debug)]
pub struct Index {
    /// How far the log has been read.
    cursor: u64,
    /// The epochs of name order, topologies, scores and claims that the keys and signatures are of.
    epochs: [u64; 4],
    layout: Layout,
    groups: Vec<Group>,
    by_signature: HashMap<Box<[i64]>, u32>,
    /// Groups that have emptied, to be taken over.
    vacant: Vec<u32>,
    leaves: LeafMap,
    signature: Vec<i64>,
    tops: Vec<Top>,
    places: Vec<i64>,
}

impl Index {
    /// Can it be brought up to date, or must it be made afresh?
    pub(super) fn is_current(&self, candidate: Candidate<'_>, nodes: &Nodes, log: &ChangeLog) -> bool {
        self.epochs == epochs(candidate, nodes) && log.reaches_back_to(self.cursor)
    }

    /// How many leaves it holds: what it costs in memory.
    pub(super) fn leaves(&self) -> usize {
        match &self.leaves {
            LeafMap::Dense(leaves) => leaves.len(),
            LeafMap::Sparse(leaves) => leaves.len(),
        }
    }

    pub(super) fn compile(candidate: Candidate<'_>, nodes: &Nodes, cursor: u64) -> Index {
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
        let leaves = if count * 8 < nodes.capacity() {
            LeafMap::Sparse(HashMap::with_capacity(count))
        } else {
            LeafMap::Dense(vec![NO_LEAF; nodes.capacity()])
        };
        let mut index = Index {
            cursor,
            epochs: epochs(candidate, nodes),
            layout: Layout::new(candidate),
            groups: Vec::new(),
            by_signature: HashMap::new(),
            vacant: Vec::new(),
            leaves,
            signature: Vec::new(),
            tops: Vec::new(),
            places: Vec::new(),
        };
        let mut members: Vec<Vec<(u32, Key)>> = Vec::new();
        for slot in eligible.iter() {
            let affinity = preferred.iter().filter(|(_, set)| set.contains(slot)).map(|(weight, _)| weight).sum();
            let preference = (affinity, disliked.get(&slot).copied().unwrap_or(0));
            index.layout.sign_static(candidate, slot, preference, &mut index.signature);
            index.layout.sign_fine(candidate, slot, &mut index.signature);
            let group = index.group();
            members.resize(index.groups.len(), Vec::new());
            let position = members[group as usize].len() as u32;
            index.leaves.set(slot, Some(Leaf { group, position }));
            members[group as usize].push((slot, key(candidate, nodes, slot)));
        }
        for (group, members) in index.groups.iter_mut().zip(members) {
            group.tree = Tournament::build(members);
        }
        index
    }

    /// The group of the signature at hand, made if need be.
    fn group(&mut self) -> u32 {
        if let Some(group) = self.by_signature.get(self.signature.as_slice()) {
            return *group;
        }
        let signature: Box<[i64]> = self.signature.as_slice().into();
        let group = match self.vacant.pop() {
            Some(group) => {
                let vacant = &mut self.groups[group as usize];
                self.by_signature.remove(&vacant.signature);
                vacant.signature = signature.clone();
                group
            }
            None => {
                self.groups.push(Group { signature: signature.clone(), tree: Tournament::default() });
                self.groups.len() as u32 - 1
            }
        };
        self.by_signature.insert(signature, group);
        group
    }

    pub(super) fn catch_up(&mut self, candidate: Candidate<'_>, nodes: &Nodes, log: &ChangeLog) {
        let has_fine_parts = self.layout.has_fine_parts();
        for change in log.since(self.cursor) {
            if change.is_static {
                self.place_leaf(candidate, nodes, change.slot);
            } else if let Some(leaf) = self.leaves.get(change.slot) {
                if has_fine_parts {
                    self.signature.clear();
                    self.signature.extend_from_slice(&self.groups[leaf.group as usize].signature);
                    self.layout.sign_fine(candidate, change.slot, &mut self.signature);
                    self.move_leaf(candidate, nodes, change.slot, Some(leaf));
                } else {
                    self.groups[leaf.group as usize].tree.set(leaf.position, key(candidate, nodes, change.slot));
                }
            }
        }
        self.cursor = log.end();
    }

    /// Puts a node whose labels, taints or presence changed where it now belongs.
    fn place_leaf(&mut self, candidate: Candidate<'_>, nodes: &Nodes, slot: u32) {
        let leaf = self.leaves.get(slot);
        match nodes.spec(slot).filter(|_| rules::accepts_statically(candidate, nodes, slot)) {
            Some(node) => {
                self.layout.sign_static(candidate, slot, preference(candidate, node), &mut self.signature);
                self.layout.sign_fine(candidate, slot, &mut self.signature);
                self.move_leaf(candidate, nodes, slot, leaf);
            }
            None => {
                if let Some(leaf) = leaf {
                    self.remove(leaf);
                    self.leaves.set(slot, None);
                }
            }
        }
    }

    /// Puts a node into the group of the signature at hand.
    fn move_leaf(&mut self, candidate: Candidate<'_>, nodes: &Nodes, slot: u32, leaf: Option<Leaf>) {
        let key = key(candidate, nodes, slot);
        if let Some(leaf) = leaf {
            let group = &mut self.groups[leaf.group as usize];
            if *group.signature == *self.signature {
                group.tree.set(leaf.position, key);
                return;
            }
            self.remove(leaf);
        }
        let group = self.group();
        let tree = &mut self.groups[group as usize].tree;
        if tree.len() == 0 {
            // It may have been given up when it emptied.
            self.vacant.retain(|vacant| *vacant != group);
        }
        let position = tree.add(slot, key);
        self.leaves.set(slot, Some(Leaf { group, position }));
    }

    fn remove(&mut self, leaf: Leaf) {
        let tree = &mut self.groups[leaf.group as usize].tree;
        tree.remove(leaf.position);
        if tree.len() == 0 {
            self.vacant.push(leaf.group);
        }
    }

    /// The slot of the best node.
    pub(super) fn best(&mut self, candidate: Candidate<'_>) -> Option<u32> {
        if let ([group], true) = (self.groups.as_slice(), self.layout.is_plain()) {
            return group.tree.best().map(|(slot, _)| slot);
        }
        let scale = self.weigh(candidate)?;
        let best = self
            .tops
            .iter()
            .map(|top| (top.key.score + self.bonus(top, &scale), std::cmp::Reverse(top.key.order), top.slot));
        best.max().map(|(_, _, slot)| slot)
    }

    /// The scores of all nodes that fit, by slot: those by which [`Self::best`] chooses.
    pub(super) fn scores(&mut self, candidate: Candidate<'_>) -> HashMap<u32, i64> {
        let Some(scale) = self.weigh(candidate) else { return HashMap::new() };
        let groups = self.tops.iter().map(|top| (&self.groups[top.group].tree, self.bonus(top, &scale)));
        groups.flat_map(|(tree, bonus)| tree.fitting().map(move |(slot, key)| (slot, key.score + bonus))).collect()
    }

    /// The score of one node; none if it does not fit.
    pub(super) fn score(&mut self, candidate: Candidate<'_>, slot: u32) -> Option<i64> {
        let leaf = self.leaves.get(slot)?;
        let scale = self.weigh(candidate)?;
        let top = self.tops.iter().find(|top| top.group == leaf.group as usize)?;
        let key = self.groups[top.group].tree.key(leaf.position).filter(|key| key.score >= 0)?;
        Some(key.score + self.bonus(top, &scale))
    }

    /// Finds the groups that are in the running, and what their points are relative to; none if no node fits.
    fn weigh(&mut self, candidate: Candidate<'_>) -> Option<Scale> {
        self.tops.clear();
        for (index, group) in self.groups.iter().enumerate() {
            if let Some((slot, key)) = group.tree.best()
                && self.layout.accepts(candidate, &group.signature)
            {
                let attraction = self.layout.attraction(candidate, &group.signature);
                self.tops.push(Top { group: index, slot, key, attraction, imbalance: None });
            }
        }
        if !self.layout.soft.is_empty() {
            self.weigh_imbalance(candidate);
        }
        let part = |top: &Top, part: usize| self.groups[top.group].signature[part];
        Some(Scale {
            affinity_max: self.tops.iter().map(|top| part(top, 0)).max()?,
            taints_max: self.tops.iter().map(|top| part(top, 1)).max()?,
            attraction: Range::of(self.tops.iter().map(|top| top.attraction)),
            imbalance: Range::of(self.tops.iter().filter_map(|top| top.imbalance)),
        })
    }

    /// The points that a group's nodes have beside those for usage.
    fn bonus(&self, top: &Top, scale: &Scale) -> i64 {
        let part = |part: usize| self.groups[top.group].signature[part];
        score::preference(part(0), scale.affinity_max, part(1), scale.taints_max)
            + score::attraction(top.attraction, scale.attraction)
            + top.imbalance.map_or(0, |one| score::balance(one, scale.imbalance))
    }

    /// Works out the imbalance of each group in the running. The more places there are among
    /// feasible nodes, the more a pod in one of them counts.
    fn weigh_imbalance(&mut self, candidate: Candidate<'_>) {
        let Index { layout, groups, tops, places, .. } = self;
        let judged = |top: &Top| !layout.is_last_choice(&groups[top.group].signature);
        for top in tops.iter_mut() {
            top.imbalance = judged(top).then_some(0);
        }
        let mut weights = [0.0; 8];
        let mut more_weights = Vec::new();
        let weights = match layout.soft.len() {
            few @ ..=8 => &mut weights[..few],
            many => {
                more_weights.resize(many, 0.0);
                &mut more_weights
            }
        };
        for ((_, _, position, is_place), weight) in layout.soft.iter().zip(weights.iter_mut()) {
            let in_running = tops.iter().filter(|top| top.imbalance.is_some());
            let size = if *is_place {
                places.clear();
                places.extend(in_running.map(|top| groups[top.group].signature[*position]));
                places.sort_unstable();
                places.dedup();
                places.len()
            } else {
                in_running.map(|top| groups[top.group].tree.feasible()).sum()
            };
            *weight = score::topology_weight(size);
        }
        for top in tops.iter_mut().filter(|top| top.imbalance.is_some()) {
            let signature = &groups[top.group].signature;
            let mut sum = 0.0;
            for ((id, base, position, is_place), weight) in layout.soft.iter().zip(weights.iter()) {
                let part = signature[*position];
                if part == NOWHERE {
                    continue;
                }
                let count = if *is_place { Layout::count(candidate, *id, part) } else { part };
                sum += count as f64 * weight + base;
            }
            top.imbalance = Some(sum.round() as i64);
        }
    }
}

fn epochs(candidate: Candidate<'_>, nodes: &Nodes) -> [u64; 4] {
    let scores = nodes.score_epoch(&candidate.scoring.strategy);
    // Who uses a claim that is for one pod at a time matters on all nodes, but to few classes.
    let claims = if candidate.demand.exclusive.is_empty() { 0 } else { nodes.exclusive_epoch() };
    [nodes.order().epoch(), candidate.counters.topologies.epoch(), scores, claims]
}

/// A node's sum of matching preferred weights and its number of intolerable taints.
fn preference(candidate: Candidate<'_>, node: &NodeSpec) -> (i64, u32) {
    (node_affinity::preference(candidate.spec, node), taints::intolerable(candidate.spec, &node.taints))
}

/// The key of a statically acceptable node: its packing score if the pod fits now.
#[inline]
fn key(candidate: Candidate<'_>, nodes: &Nodes, slot: u32) -> Key {
    if rules::accepts_usage(candidate, nodes, slot) {
        Key { score: score::usage(candidate, nodes, slot), order: nodes.order().label(slot) }
    } else {
        Key { score: Key::OUT.score, order: nodes.order().label(slot) }
    }
}

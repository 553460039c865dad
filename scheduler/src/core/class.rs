//! Classes of pods, interned, and the indexes of the nodes they may use.
//!
//! Pods that are the same to the scheduler are one class. Classes that differ only in labels or
//! namespace, and about which no selector says different things, share one index: the pods of a
//! StatefulSet, each with labels of its own, cost one index together.

use std::collections::HashMap;
use std::sync::Arc;

use super::changelog::ChangeLog;
use super::constraints::Constraints;
use super::counters::{Counters, KindId};
use super::expected::Shape;
use super::index::Index;
use super::nodes::Nodes;
use super::resources::{Demand, ResourceTable, ScoringColumns};
use super::rules::Candidate;
use super::spec::ClassSpec;

/// Leaves that all indexes together may hold: some 36 bytes each, so about 600 MiB at most. The
/// least recently used indexes make way; they are compiled again when needed.
const LEAVES_MAX: usize = 16 << 20;
/// Classes that are kept though no pod of theirs is waiting: the next pod of a ReplicaSet.
const IDLE_CLASSES_MAX: usize = 64;

/// A class of pods that are the same to the scheduler.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClassId(u32);

/// One class.
#[derive(Clone, Debug)]
pub struct Class {
    pub(super) spec: Arc<ClassSpec>,
    pub(super) demand: Arc<Demand>,
    scoring: ScoringColumns,
    /// What its pods are to the selectors of others.
    pub(super) kind: KindId,
    /// What its pods are among those that take devices.
    pub(super) device_shape: Option<Arc<Shape>>,
    /// The spec without what only selectors look at.
    shape: Arc<ClassSpec>,
    constraints: Constraints,
    /// The counters' epoch that the constraints are of.
    epoch: u64,
    index: u32,
    references: u32,
    last_used: u64,
}

impl Class {
    fn candidate<'a>(&'a self, counters: &'a Counters) -> Candidate<'a> {
        Candidate {
            spec: &self.spec,
            demand: &self.demand,
            scoring: &self.scoring,
            constraints: &self.constraints,
            counters,
        }
    }
}

/// What decides which nodes a class may use, and how good they are.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct IndexKey {
    shape: Arc<ClassSpec>,
    constraints: Constraints,
}

#[derive(Clone, Debug)]
struct SharedIndex {
    key: Arc<IndexKey>,
    classes: u32,
    last_used: u64,
    index: Option<Index>,
}

impl SharedIndex {
    fn leaves(&self) -> usize {
        self.index.as_ref().map_or(0, Index::leaves)
    }
}

/// All classes and their indexes.
#[derive(Clone, Debug, Default)]
pub struct Classes {
    classes: Vec<Option<Class>>,
    ids: HashMap<Arc<ClassSpec>, ClassId>,
    free: Vec<u32>,
    idle: usize,
    shapes: HashMap<Arc<ClassSpec>, u32>,
    indexes: Vec<Option<SharedIndex>>,
    index_ids: HashMap<Arc<IndexKey>, u32>,
    free_indexes: Vec<u32>,
    leaves: usize,
    uses: u64,
}

impl Classes {
    /// A class, if there is one with this id.
    pub fn get(&self, id: ClassId) -> Option<&Class> {
        self.classes.get(id.0 as usize)?.as_ref()
    }

    fn get_mut(&mut self, id: ClassId) -> Option<&mut Class> {
        self.classes.get_mut(id.0 as usize)?.as_mut()
    }

    /// The class as rules see it. What others' terms say of it is as of the last [`Self::refresh`].
    pub fn candidate<'a>(&'a self, id: ClassId, counters: &'a Counters) -> Option<Candidate<'a>> {
        let class = self.get(id)?;
        Some(class.candidate(counters))
    }

    /// The classes that pods wait for, by what these are among pods that take devices, and how many wait.
    pub fn waiting(&self) -> impl Iterator<Item = (Option<&Arc<Shape>>, u64)> {
        let waiting = self.classes.iter().flatten().filter(|class| class.references > 0);
        waiting.map(|class| (class.device_shape.as_ref(), u64::from(class.references)))
    }

    /// The class of pods like `spec`, with one reference more.
    pub fn acquire(
        &mut self,
        spec: &ClassSpec,
        table: &mut ResourceTable,
        counters: &mut Counters,
        nodes: &Nodes,
    ) -> ClassId {
        if let Some(id) = self.ids.get(spec).copied() {
            if let Some(class) = self.get_mut(id) {
                class.references += 1;
                if class.references == 1 {
                    self.idle -= 1;
                }
            }
            return id;
        }
        let demand = table.demand(&spec.demand);
        let scoring = table.scoring(&spec.scoring);
        let spec = Arc::new(spec.clone());
        let kind = counters.acquire_kind(&spec, false, nodes);
        let constraints = Constraints::resolve(&spec, counters, nodes);
        let shape = self.shape(&spec);
        let index = self.acquire_index(shape.clone(), constraints.clone());
        let epoch = counters.epoch();
        let class = Class {
            spec: spec.clone(),
            demand,
            scoring,
            kind,
            device_shape: Shape::of(&spec),
            shape,
            constraints,
            epoch,
            index,
            references: 1,
            last_used: 0,
        };
        let id = match self.free.pop() {
            Some(index) => {
                self.classes[index as usize] = Some(class);
                ClassId(index)
            }
            None => {
                self.classes.push(Some(class));
                ClassId(self.classes.len() as u32 - 1)
            }
        };
        self.ids.insert(spec, id);
        id
    }

    /// The spec without what only selectors look at, shared.
    fn shape(&mut self, spec: &ClassSpec) -> Arc<ClassSpec> {
        let shape = ClassSpec { namespace: String::new(), labels: Default::default(), ..spec.clone() };
        match self.shapes.get_key_value(&shape) {
            Some((known, _)) => {
                let known = known.clone();
                *self.shapes.entry(known.clone()).or_default() += 1;
                known
            }
            None => {
                let shape = Arc::new(shape);
                self.shapes.insert(shape.clone(), 1);
                shape
            }
        }
    }

    fn acquire_index(&mut self, shape: Arc<ClassSpec>, constraints: Constraints) -> u32 {
        let key = IndexKey { shape, constraints };
        if let Some(id) = self.index_ids.get(&key).copied() {
            if let Some(shared) = self.indexes[id as usize].as_mut() {
                shared.classes += 1;
            }
            return id;
        }
        let key = Arc::new(key);
        let shared = SharedIndex { key: key.clone(), classes: 1, last_used: 0, index: None };
        let id = self.free_indexes.pop().unwrap_or_else(|| {
            self.indexes.push(None);
            self.indexes.len() as u32 - 1
        });
        self.indexes[id as usize] = Some(shared);
        self.index_ids.insert(key, id);
        id
    }

    fn release_index(&mut self, id: u32) {
        let Some(shared) = self.indexes[id as usize].as_mut() else { return };
        shared.classes -= 1;
        if shared.classes > 0 {
            return;
        }
        if let Some(shared) = self.indexes[id as usize].take() {
            self.leaves -= shared.leaves();
            self.index_ids.remove(&shared.key);
            self.free_indexes.push(id);
        }
    }

    /// Gives a reference back. A class without any is kept for a while.
    pub fn release(&mut self, id: ClassId, counters: &mut Counters) {
        let Some(class) = self.get_mut(id) else { return };
        class.references = class.references.saturating_sub(1);
        if class.references > 0 {
            return;
        }
        self.idle += 1;
        if self.idle > IDLE_CLASSES_MAX {
            self.drop_idle(counters);
        }
    }

    /// Drops the older half of the idle classes.
    fn drop_idle(&mut self, counters: &mut Counters) {
        let mut idle: Vec<(u64, u32)> = self
            .classes
            .iter()
            .enumerate()
            .filter_map(|(index, class)| Some((class.as_ref().filter(|class| class.references == 0)?, index)))
            .map(|(class, index)| (class.last_used, index as u32))
            .collect();
        idle.sort_unstable();
        for (_, index) in idle.iter().take(IDLE_CLASSES_MAX / 2) {
            if let Some(class) = self.classes[*index as usize].take() {
                self.ids.remove(&class.spec);
                self.free.push(*index);
                self.idle -= 1;
                self.release_index(class.index);
                class.constraints.release(counters);
                counters.release_kind(class.kind);
                if let Some(uses) = self.shapes.get_mut(&class.shape) {
                    *uses -= 1;
                    if *uses == 0 {
                        self.shapes.remove(&class.shape);
                    }
                }
            }
        }
    }

    /// Takes note of terms, carried by other pods, that bear on the class since it was last asked.
    pub fn refresh(&mut self, id: ClassId, counters: &mut Counters, nodes: &Nodes) {
        let epoch = counters.epoch();
        let Some(class) = self.get_mut(id).filter(|class| class.epoch != epoch) else { return };
        let constraints = Constraints::resolve(&class.spec, counters, nodes);
        class.epoch = counters.epoch();
        let before = std::mem::replace(&mut class.constraints, constraints.clone());
        let (shape, index) = (class.shape.clone(), class.index);
        if before != constraints {
            let fresh = self.acquire_index(shape, constraints);
            if let Some(class) = self.get_mut(id) {
                class.index = fresh;
            }
            self.release_index(index);
        }
        before.release(counters);
    }

    /// The best node for a pod of this class, if there is any. Changes nothing but indexes.
    pub fn best(&mut self, id: ClassId, counters: &Counters, nodes: &Nodes, log: &ChangeLog) -> Option<u32> {
        self.with_index(id, counters, nodes, log, Index::best)?
    }

    /// The scores of all nodes that fit, by slot.
    pub fn scores(
        &mut self,
        id: ClassId,
        counters: &Counters,
        nodes: &Nodes,
        log: &ChangeLog,
    ) -> Option<HashMap<u32, i64>> {
        self.with_index(id, counters, nodes, log, Index::scores)
    }

    /// The score of a node that fits.
    pub fn score(
        &mut self,
        id: ClassId,
        slot: u32,
        counters: &Counters,
        nodes: &Nodes,
        log: &ChangeLog,
    ) -> Option<i64> {
        self.with_index(id, counters, nodes, log, |index, candidate| index.score(candidate, slot))?
    }

    /// Asks the class's index, made or brought up to date.
    #[inline]
    fn with_index<T>(
        &mut self,
        id: ClassId,
        counters: &Counters,
        nodes: &Nodes,
        log: &ChangeLog,
        ask: impl FnOnce(&mut Index, Candidate<'_>) -> T,
    ) -> Option<T> {
        self.uses += 1;
        let class = self.classes.get_mut(id.0 as usize)?.as_mut()?;
        class.last_used = self.uses;
        let candidate = class.candidate(counters);
        let shared = self.indexes[class.index as usize].as_mut()?;
        shared.last_used = self.uses;
        let before = shared.leaves();
        match &mut shared.index {
            Some(index) if index.is_current(candidate, nodes, log) => index.catch_up(candidate, nodes, log),
            stale => *stale = Some(Index::compile(candidate, nodes, log.end())),
        }
        let answer = shared.index.as_mut().map(|index| ask(index, candidate));
        self.leaves = self.leaves + shared.leaves() - before;
        if self.leaves > LEAVES_MAX {
            let keep = class.index;
            self.shrink_indexes(keep);
        }
        answer
    }

    /// Drops the least recently used indexes, but not `keep`, down to half the limit.
    fn shrink_indexes(&mut self, keep: u32) {
        let mut by_use: Vec<(u64, usize)> = self
            .indexes
            .iter()
            .enumerate()
            .filter_map(|(id, shared)| Some((shared.as_ref()?.last_used, id)))
            .filter(|(_, id)| *id != keep as usize)
            .collect();
        by_use.sort_unstable();
        for (_, id) in by_use {
            if self.leaves <= LEAVES_MAX / 2 {
                break;
            }
            if let Some(shared) = self.indexes[id].as_mut() {
                self.leaves -= shared.leaves();
                shared.index = None;
            }
        }
    }
}

//! The engine: nodes, the pods on them, and the classes that ask for a place.
//!
//! Everything is applied in the order it is told; equal inputs give equal answers.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use super::changelog::ChangeLog;
use super::class::{Class, ClassId};
use super::explain::{Diagnosis, Explanation, Preemption, Verdict};
use super::nodes::{NodeId, Nodes};
use super::resources::{Demand, PodDemand, ResourceId, ResourceTable};
use super::rules::{self, Plugin, PluginSet, node_affinity};
use super::spec::{ClassSpec, NodeSpec};

/// Leaves that all indexes together may hold: some 36 bytes each, so about 600 MiB at most. The
/// least recently used indexes make way; they are compiled again when needed.
const LEAVES_MAX: usize = 16 << 20;
/// Classes that are kept though no pod of theirs is waiting: the next pod of a ReplicaSet.
const IDLE_CLASSES_MAX: usize = 64;

/// A pod's identity (its UID as a number).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodKey(pub u128);

/// UIDs are random already; mixing them once is hash enough.
#[derive(Clone, Copy, Debug, Default)]
pub struct UidHasher(u64);

impl Hasher for UidHasher {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0.rotate_left(5) ^ u64::from(*byte)).wrapping_mul(0x517c_c1b7_2722_0a95);
        }
    }

    fn write_u128(&mut self, value: u128) {
        self.0 = (value as u64 ^ (value >> 64) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// A map by pod.
pub type PodMap<V> = HashMap<PodKey, V, BuildHasherDefault<UidHasher>>;

/// A pod on a node.
#[derive(Clone, Debug)]
struct PodRecord {
    demand: Arc<Demand>,
    slot: u32,
    priority: i32,
}

/// What an update of a node changed, as far as waiting pods may care.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeChange {
    /// The node is new.
    pub added: bool,
    /// It can give more of something.
    pub allocatable_up: bool,
    /// It can give less of something.
    pub allocatable_down: bool,
    /// Its labels changed.
    pub labels: bool,
    /// Its taints changed.
    pub taints: bool,
    /// It was marked unschedulable or no longer is.
    pub unschedulable: bool,
}

impl NodeChange {
    /// Did anything change?
    pub fn any(self) -> bool {
        self != NodeChange::default()
    }

    /// The rules that may now accept what they refused before.
    pub fn may_help(self) -> PluginSet {
        use Plugin::{NodeAffinity, NodeName, NodePorts, NodeResourcesFit, NodeUnschedulable, TaintToleration};
        let causes = [
            (
                self.added,
                &[NodeUnschedulable, NodeName, TaintToleration, NodeAffinity, NodePorts, NodeResourcesFit][..],
            ),
            // A pod is told the first rule that refuses it, so a node that a static rule refused
            // may have turned into one where it fits.
            (self.allocatable_up, &[NodeResourcesFit][..]),
            (self.labels, &[NodeAffinity][..]),
            (self.taints, &[TaintToleration][..]),
            (self.unschedulable, &[NodeUnschedulable][..]),
        ];
        PluginSet::of(causes.into_iter().filter(|(holds, _)| *holds).flat_map(|(_, rules)| rules.iter().copied()))
    }
}

/// What taking a pod off its node freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodRemoval {
    /// The node it was on.
    pub node: NodeId,
    /// Did it hold host ports?
    pub freed_ports: bool,
}

impl PodRemoval {
    /// The rules that may now accept what they refused before.
    pub fn may_help(self) -> PluginSet {
        let freed = PluginSet::NONE.with(Plugin::NodeResourcesFit);
        if self.freed_ports { freed.with(Plugin::NodePorts) } else { freed }
    }
}

/// See the module's description.
#[derive(Clone, Debug, Default)]
pub struct Engine {
    nodes: Nodes,
    table: ResourceTable,
    pods: PodMap<PodRecord>,
    /// How many placed pods have which priority.
    priorities: BTreeMap<i32, usize>,
    log: ChangeLog,
    classes: Vec<Option<Class>>,
    class_ids: HashMap<Arc<ClassSpec>, ClassId>,
    free_classes: Vec<u32>,
    idle_classes: usize,
    leaves: usize,
    uses: u64,
}

impl Engine {
    /// An engine that knows nothing yet.
    pub fn new() -> Self {
        Engine::default()
    }

    /// The nodes.
    pub fn nodes(&self) -> &Nodes {
        &self.nodes
    }

    /// How many pods are placed.
    pub fn pod_count(&self) -> usize {
        self.pods.len()
    }

    /// Rises with every change of anything that decisions depend on.
    pub fn version(&self) -> u64 {
        self.log.end()
    }

    /// Adds a node or updates it, and says what changed.
    pub fn set_node(&mut self, spec: NodeSpec) -> NodeChange {
        if let Some(slot) = self.nodes.slot(&spec.name)
            && self.nodes.spec(slot) == Some(&spec)
        {
            return NodeChange::default();
        }
        let slot = self.nodes.slot_or_new(&spec.name);
        let before = self.nodes.set(slot, spec, &mut self.table);
        let change = match (before, self.nodes.spec(slot)) {
            (Some(before), Some(now)) => compare(&before, now),
            _ => NodeChange { added: true, ..NodeChange::default() },
        };
        let is_static = change.added || change.labels || change.taints || change.unschedulable;
        self.log.push(slot, is_static);
        change
    }

    /// Removes a node. Its pods stay accounted until they are removed too.
    pub fn remove_node(&mut self, name: &str) -> bool {
        let Some(slot) = self.nodes.slot(name) else { return false };
        let removed = self.nodes.unset(slot).is_some();
        if removed {
            self.log.push(slot, true);
        }
        removed
    }

    /// Accounts a pod to a node, which need not be known yet and need not have room. A pod that is
    /// accounted already moves or changes. Returns false if nothing changed.
    pub fn add_pod(&mut self, pod: PodKey, node_name: &str, demand: &PodDemand, priority: i32) -> bool {
        let demand = self.table.demand(demand);
        if let Some(record) = self.pods.get(&pod) {
            let same_node = self.nodes.name(record.slot) == node_name;
            if same_node && record.demand == demand && record.priority == priority {
                return false;
            }
            self.remove_pod(pod);
        }
        let slot = self.nodes.slot_or_new(node_name);
        self.insert_pod(pod, PodRecord { demand, slot, priority });
        true
    }

    /// Accounts a pod of `class` to the node that [`Self::place`] gave.
    pub fn assume(&mut self, pod: PodKey, class: ClassId, node: NodeId, priority: i32) {
        if self.pods.contains_key(&pod) {
            self.remove_pod(pod);
        }
        if let Some(class) = self.class_ref(class) {
            let demand = class.demand.clone();
            self.insert_pod(pod, PodRecord { demand, slot: node.0, priority });
        }
    }

    fn insert_pod(&mut self, pod: PodKey, record: PodRecord) {
        self.nodes.charge(record.slot, &record.demand, 1);
        self.log.push(record.slot, false);
        *self.priorities.entry(record.priority).or_default() += 1;
        self.pods.insert(pod, record);
    }

    /// Takes a pod off its node.
    pub fn remove_pod(&mut self, pod: PodKey) -> Option<PodRemoval> {
        let record = self.pods.remove(&pod)?;
        self.nodes.charge(record.slot, &record.demand, -1);
        self.log.push(record.slot, false);
        if let Some(count) = self.priorities.get_mut(&record.priority) {
            *count -= 1;
            if *count == 0 {
                self.priorities.remove(&record.priority);
            }
        }
        Some(PodRemoval { node: NodeId(record.slot), freed_ports: !record.demand.ports.is_empty() })
    }

    /// The pods that are accounted to nodes.
    pub fn pods(&self) -> impl Iterator<Item = PodKey> + '_ {
        self.pods.keys().copied()
    }

    /// The name of the node that a pod is accounted to.
    pub fn node_of(&self, pod: PodKey) -> Option<&str> {
        self.pods.get(&pod).map(|record| self.nodes.name(record.slot))
    }

    /// A node's name.
    pub fn node_name(&self, node: NodeId) -> &Arc<str> {
        self.nodes.shared_name(node.0)
    }

    /// The class of pods like `spec`, with one reference more.
    pub fn acquire(&mut self, spec: &ClassSpec) -> ClassId {
        if let Some(id) = self.class_ids.get(spec).copied() {
            if let Some(class) = self.class_mut(id) {
                class.references += 1;
                if class.references == 1 {
                    self.idle_classes -= 1;
                }
            }
            return id;
        }
        let demand = self.table.demand(&spec.demand);
        let spec = Arc::new(spec.clone());
        let mut class = Class::new(spec.clone(), demand);
        class.references = 1;
        let id = match self.free_classes.pop() {
            Some(index) => {
                self.classes[index as usize] = Some(class);
                ClassId(index)
            }
            None => {
                self.classes.push(Some(class));
                ClassId(self.classes.len() as u32 - 1)
            }
        };
        self.class_ids.insert(spec, id);
        id
    }

    /// Gives a reference back. A class without any is kept for a while.
    pub fn release(&mut self, id: ClassId) {
        let Some(class) = self.class_mut(id) else { return };
        class.references = class.references.saturating_sub(1);
        if class.references > 0 {
            return;
        }
        self.idle_classes += 1;
        if self.idle_classes > IDLE_CLASSES_MAX {
            self.drop_idle_classes();
        }
    }

    /// Drops the older half of the idle classes.
    fn drop_idle_classes(&mut self) {
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
                self.leaves -= class.leaves();
                self.class_ids.remove(&class.spec);
                self.free_classes.push(*index);
                self.idle_classes -= 1;
            }
        }
    }

    fn class_ref(&self, id: ClassId) -> Option<&Class> {
        self.classes.get(id.0 as usize)?.as_ref()
    }

    fn class_mut(&mut self, id: ClassId) -> Option<&mut Class> {
        self.classes.get_mut(id.0 as usize)?.as_mut()
    }

    /// The best node for a pod of this class, if there is any. Changes nothing but indexes.
    pub fn place(&mut self, id: ClassId) -> Option<NodeId> {
        self.nodes.settle_order();
        self.uses += 1;
        let uses = self.uses;
        let class = self.classes.get_mut(id.0 as usize)?.as_mut()?;
        class.last_used = uses;
        let before = class.leaves();
        let best = class.best(&self.nodes, &self.log);
        self.leaves = self.leaves + class.leaves() - before;
        if self.leaves > LEAVES_MAX {
            self.shrink_indexes(id);
        }
        best.map(NodeId)
    }

    /// Drops the least recently used indexes, but not that of `keep`, down to half the limit.
    fn shrink_indexes(&mut self, keep: ClassId) {
        let mut by_use: Vec<(u64, usize)> = self
            .classes
            .iter()
            .enumerate()
            .filter_map(|(index, class)| Some((class.as_ref()?.last_used, index)))
            .filter(|(_, index)| *index != keep.0 as usize)
            .collect();
        by_use.sort_unstable();
        for (_, index) in by_use {
            if self.leaves <= LEAVES_MAX / 2 {
                break;
            }
            if let Some(class) = self.classes[index].as_mut() {
                self.leaves -= class.leaves();
                class.forget_index();
            }
        }
    }

    /// Per node, in name order: why a pod of this class can't go there, or that it can.
    pub fn explain(&self, id: ClassId) -> Explanation {
        let verdicts = self.class_ref(id).map(|class| {
            let candidate = class.candidate();
            self.nodes
                .in_name_order()
                .map(|slot| (self.nodes.shared_name(slot).clone(), rules::judge(candidate, &self.nodes, slot)))
                .collect()
        });
        Explanation { nodes: verdicts.unwrap_or_default() }
    }

    /// The reasons of all nodes, counted.
    pub fn diagnose(&self, id: ClassId) -> Diagnosis {
        let mut diagnosis = Diagnosis { nodes: self.nodes.count(), ..Diagnosis::default() };
        let Some(class) = self.class_ref(id) else { return diagnosis };
        let candidate = class.candidate();
        if node_affinity::names(candidate.spec).is_some_and(|names| names.is_empty()) {
            diagnosis.conflict = true;
            diagnosis.unresolvable = diagnosis.nodes;
            diagnosis.plugins = PluginSet::NONE.with(Plugin::NodeAffinity);
            return diagnosis;
        }
        let mut counts = HashMap::new();
        for slot in self.nodes.present().iter() {
            match rules::judge(candidate, &self.nodes, slot) {
                None => diagnosis.feasible += 1,
                Some(Verdict { plugin, reasons, unresolvable }) => {
                    diagnosis.plugins = diagnosis.plugins.with(plugin);
                    diagnosis.unresolvable += usize::from(unresolvable);
                    for reason in reasons {
                        *counts.entry(reason).or_insert(0) += 1;
                    }
                }
            }
        }
        for (reason, count) in counts {
            let text = reason.text(|resource: ResourceId| self.table.name(resource).to_owned());
            diagnosis.reasons.insert(text, count);
        }
        diagnosis
    }

    /// What can be said about preemption for a pod of this priority.
    pub fn preemption(&self, priority: i32, never: bool) -> Preemption {
        let lowest = self.priorities.keys().next();
        match lowest {
            _ if never => Preemption::Never,
            Some(lowest) if *lowest < priority => Preemption::NotExamined,
            _ => Preemption::NoLowerPriority,
        }
    }

    /// The name of a resource column.
    pub fn resource_name(&self, resource: ResourceId) -> &str {
        self.table.name(resource)
    }
}

fn compare(before: &NodeSpec, now: &NodeSpec) -> NodeChange {
    let amounts = |spec: &NodeSpec| -> BTreeMap<String, i64> {
        spec.allocatable.iter().map(|(name, amount)| (name.to_owned(), amount)).collect()
    };
    let (old, new) = (amounts(before), amounts(now));
    let exceeds = |a: &BTreeMap<String, i64>, b: &BTreeMap<String, i64>| {
        a.iter().any(|(name, amount)| *amount > b.get(name).copied().unwrap_or(0))
    };
    NodeChange {
        added: false,
        allocatable_up: exceeds(&new, &old),
        allocatable_down: exceeds(&old, &new),
        labels: before.labels != now.labels,
        taints: before.taints != now.taints,
        unschedulable: before.unschedulable != now.unschedulable,
    }
}

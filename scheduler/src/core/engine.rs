//! The engine: nodes, the pods on them, and the classes that ask for a place.
//!
//! Everything is applied in the order it is told; equal inputs give equal answers.

use std::collections::{BTreeMap, HashMap};
use std::hash::BuildHasherDefault;
use std::sync::Arc;

use super::changelog::ChangeLog;
use super::class::{ClassId, Classes};
use super::counters::{Counters, KindId};
use super::expected::{Census, Shape};
use super::explain::{Diagnosis, Explanation, Reason, Verdict};
use super::maps::NumberHasher;
use super::nodes::{NodeId, Nodes};
use super::nominations::{Ask, Nominations};
use super::residents::Residents;
use super::resources::{Demand, ResourceId, ResourceTable};
use super::rules::{self, Plugin, PluginSet, node_affinity};
use super::score;
use super::spec::{ClassSpec, NodeSpec};

/// A pod's identity (its UID as a number).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodKey(pub u128);

/// A map by pod.
pub type PodMap<V> = HashMap<PodKey, V, BuildHasherDefault<NumberHasher>>;

/// A pod on a node.
#[derive(Clone, Debug)]
pub(super) struct PodRecord {
    pub(super) demand: Arc<Demand>,
    /// Of a pod that takes devices. Apart, for the sake of the many that take none.
    held: Option<Box<Held>>,
    pub(super) kind: KindId,
    pub(super) slot: u32,
    /// Where it is among the node's pods.
    position: u32,
    pub(super) priority: i32,
    pub(super) started: i64,
    pub(super) preempted: bool,
}

/// The devices of a pod.
#[derive(Clone, Debug)]
struct Held {
    /// What it is among the pods that take some.
    shape: Arc<Shape>,
    /// Those that it has, by their numbers.
    devices: Box<[u16]>,
}

impl PodRecord {
    fn shape(&self) -> Option<&Arc<Shape>> {
        self.held.as_ref().map(|held| &held.shape)
    }

    /// The devices that it has, by their numbers.
    pub(super) fn devices(&self) -> &[u16] {
        self.held.as_ref().map_or(&[], |held| &held.devices)
    }
}

fn held(shape: Option<Arc<Shape>>, devices: Vec<u16>) -> Option<Box<Held>> {
    shape.map(|shape| Box::new(Held { shape, devices: devices.into() }))
}

/// What matters about a placed pod beside its class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// `spec.priority`.
    pub priority: i32,
    /// It is about to go.
    pub terminating: bool,
    /// It is about to go because a pod that matters more wants its room.
    pub preempted: bool,
    /// When it started, in seconds; `None` is not yet.
    pub started: Option<i64>,
}

impl Standing {
    fn started(&self) -> i64 {
        self.started.unwrap_or(i64::MAX)
    }
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
    /// Other numbers of volumes may be attached to it.
    pub attach_limits: bool,
}

impl NodeChange {
    /// Did anything change?
    pub fn any(self) -> bool {
        self != NodeChange::default()
    }

    /// The rules that may now accept what they refused before.
    pub fn may_help(self) -> PluginSet {
        use Plugin::{
            InterPodAffinity, NodeAffinity, NodeResourcesFit, NodeUnschedulable, NodeVolumeLimits, PodOs,
            PodTopologySpread, TaintToleration, VolumeBinding, VolumeZone,
        };
        let causes = [
            (self.added, PluginSet::ALL),
            // A pod is told the first rule that refuses it, so a node that a static rule refused
            // may have turned into one where it fits.
            (self.allocatable_up, PluginSet::of([NodeResourcesFit])),
            (
                self.labels,
                PluginSet::of([NodeAffinity, PodOs, PodTopologySpread, InterPodAffinity, VolumeBinding, VolumeZone]),
            ),
            (self.taints, PluginSet::of([TaintToleration, PodTopologySpread])),
            (self.unschedulable, PluginSet::of([NodeUnschedulable])),
            (self.attach_limits, PluginSet::of([NodeVolumeLimits])),
        ];
        causes.into_iter().filter(|(holds, _)| *holds).fold(PluginSet::NONE, |set, (_, rules)| set.union(rules))
    }
}

/// What a pod's coming to a node, or its change there, was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodChange {
    /// It was there as it is.
    None,
    /// It is new on a node.
    Came,
    /// It left another node, or changed what it holds or is.
    Changed,
}

impl PodChange {
    /// The rules that may now accept what they refused before.
    pub fn may_help(self) -> PluginSet {
        match self {
            PodChange::None => PluginSet::NONE,
            PodChange::Came => PluginSet::of([Plugin::InterPodAffinity, Plugin::PodTopologySpread]),
            PodChange::Changed => PluginSet::ALL,
        }
    }
}

/// What taking a pod off its node freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodRemoval {
    /// The node it was on.
    pub node: NodeId,
    /// Did it hold host ports?
    pub freed_ports: bool,
    /// Did it use volumes of which there can be too many, or only one user?
    pub freed_volumes: bool,
}

impl PodRemoval {
    /// The rules that may now accept what they refused before.
    pub fn may_help(self) -> PluginSet {
        let freed = PluginSet::of([Plugin::NodeResourcesFit, Plugin::InterPodAffinity, Plugin::PodTopologySpread]);
        let freed = if self.freed_ports { freed.with(Plugin::NodePorts) } else { freed };
        let volumes = PluginSet::of([Plugin::VolumeRestrictions, Plugin::NodeVolumeLimits]);
        if self.freed_volumes { freed.union(volumes) } else { freed }
    }
}

/// See the module's description.
#[derive(Clone, Debug, Default)]
pub struct Engine {
    pub(super) nodes: Nodes,
    pub(super) table: ResourceTable,
    pub(super) pods: PodMap<PodRecord>,
    pub(super) residents: Residents,
    /// How many placed pods have which priority.
    pub(super) priorities: BTreeMap<i32, usize>,
    pub(super) log: ChangeLog,
    pub(super) counters: Counters,
    pub(super) classes: Classes,
    pub(super) nominations: Nominations,
    census: Census,
    /// How many placed pods take devices.
    device_users: usize,
}

impl Engine {
    /// An engine that knows nothing yet.
    pub fn new() -> Self {
        Engine::default()
    }

    /// What is known of the node of this name.
    pub fn node(&self, name: &str) -> Option<&NodeSpec> {
        self.nodes.slot(name).and_then(|slot| self.nodes.spec(slot))
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
        self.log.end() + self.counters.epoch()
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
        if change.added || change.labels || change.taints {
            self.counters.node_changes(slot, &self.nodes, &mut self.log);
        }
        change
    }

    /// Removes a node. Its pods stay accounted until they are removed too.
    pub fn remove_node(&mut self, name: &str) -> bool {
        let Some(slot) = self.nodes.slot(name) else { return false };
        let removed = self.nodes.unset(slot, &mut self.table).is_some();
        if removed {
            self.log.push(slot, true);
            self.counters.node_changes(slot, &self.nodes, &mut self.log);
        }
        removed
    }

    /// Sets the labels of a namespace, and says whether that changed anything.
    pub fn set_namespace(&mut self, name: &str, labels: BTreeMap<String, String>) -> bool {
        self.counters.set_namespace(name, Some(labels), &self.nodes, &mut self.log)
    }

    /// Forgets a namespace, and says whether that changed anything.
    pub fn remove_namespace(&mut self, name: &str) -> bool {
        self.counters.set_namespace(name, None, &self.nodes, &mut self.log)
    }

    /// Accounts a pod to a node, which need not be known yet and need not have room. A pod that is
    /// accounted already moves or changes.
    pub fn add_pod(&mut self, pod: PodKey, node_name: &str, spec: &ClassSpec, standing: Standing) -> PodChange {
        let Standing { priority, terminating, mut preempted, .. } = standing;
        let demand = self.table.demand(&spec.demand);
        let kind = self.counters.acquire_kind(spec, terminating, &self.nodes);
        let shape = Shape::of(spec);
        let mut devices = spec.held_devices.clone();
        let mut change = PodChange::Came;
        if let Some(record) = self.pods.get_mut(&pod) {
            let same_room = self.nodes.name(record.slot) == node_name && record.demand == demand;
            if same_room && devices.is_empty() {
                devices = record.devices().to_vec();
            }
            let same =
                same_room && record.priority == priority && record.kind == kind && record.shape() == shape.as_ref();
            if same && record.devices() == devices {
                record.started = standing.started();
                record.preempted |= preempted;
                self.counters.release_kind(kind);
                return PodChange::None;
            }
            // The mark may be there before the pod's status tells.
            preempted |= record.preempted;
            self.remove_pod(pod);
            change = PodChange::Changed;
        } else if shape.is_some() {
            self.census.came();
        }
        self.unnominate(pod);
        let slot = self.nodes.slot_or_new(node_name);
        let started = standing.started();
        if devices.is_empty() {
            devices = self.nodes.devices(slot).likely(demand.devices);
        }
        self.insert_pod(
            pod,
            PodRecord { demand, held: held(shape, devices), kind, slot, position: 0, priority, started, preempted },
        );
        change
    }

    /// Accounts a pod of `class` to the node that [`Self::place`] gave.
    pub fn assume(&mut self, pod: PodKey, class: ClassId, node: NodeId, priority: i32) {
        let is_known = self.pods.contains_key(&pod);
        if is_known {
            self.remove_pod(pod);
        }
        self.unnominate(pod);
        let Some(candidate) = self.classes.candidate(class, &self.counters) else { return };
        let mut devices = score::devices(candidate, &self.nodes, node.0);
        if devices.is_empty() {
            devices = self.nodes.devices(node.0).likely(candidate.demand.devices);
        }
        if let Some(class) = self.classes.get(class) {
            let (demand, kind, shape) = (class.demand.clone(), class.kind, class.device_shape.clone());
            if shape.is_some() && !is_known {
                self.census.came();
            }
            self.counters.hold_kind(kind);
            let (slot, started) = (node.0, i64::MAX);
            let preempted = false;
            self.insert_pod(
                pod,
                PodRecord { demand, held: held(shape, devices), kind, slot, position: 0, priority, started, preempted },
            );
        }
    }

    pub(super) fn insert_pod(&mut self, pod: PodKey, mut record: PodRecord) {
        record.position = self.residents.add(record.slot, pod);
        self.nodes.charge(record.slot, &record.demand, record.devices(), 1);
        if let Some(shape) = record.shape() {
            self.census.count(shape, 1);
            self.device_users += 1;
        }
        self.log.push(record.slot, false);
        self.counters.count(record.kind, record.slot, 1, &self.nodes, &mut self.log);
        *self.priorities.entry(record.priority).or_default() += 1;
        self.pods.insert(pod, record);
    }

    /// Takes a pod off its node.
    pub fn remove_pod(&mut self, pod: PodKey) -> Option<PodRemoval> {
        let record = self.pods.remove(&pod)?;
        if let Some(moved) = self.residents.remove(record.slot, record.position).and_then(|pod| self.pods.get_mut(&pod))
        {
            moved.position = record.position;
        }
        self.log.push(record.slot, false);
        self.counters.count(record.kind, record.slot, -1, &self.nodes, &mut self.log);
        self.counters.release_kind(record.kind);
        self.nodes.charge(record.slot, &record.demand, record.devices(), -1);
        if let Some(shape) = record.shape() {
            self.census.count(shape, -1);
            self.device_users -= 1;
        }
        if let Some(count) = self.priorities.get_mut(&record.priority) {
            *count -= 1;
            if *count == 0 {
                self.priorities.remove(&record.priority);
            }
        }
        let Demand { ports, attachments, exclusive, .. } = &*record.demand;
        let (freed_ports, freed_volumes) = (!ports.is_empty(), !attachments.is_empty() || !exclusive.is_empty());
        Some(PodRemoval { node: NodeId(record.slot), freed_ports, freed_volumes })
    }

    /// The pods that are accounted to nodes.
    pub fn pods(&self) -> impl Iterator<Item = PodKey> + '_ {
        self.pods.keys().copied()
    }

    /// The name of the node that a pod is accounted to.
    pub fn node_of(&self, pod: PodKey) -> Option<&str> {
        self.pods.get(&pod).map(|record| self.nodes.name(record.slot))
    }

    /// The priority of a pod that is accounted to a node.
    pub fn priority_of(&self, pod: PodKey) -> Option<i32> {
        self.pods.get(&pod).map(|record| record.priority)
    }

    /// What a pod takes that is accounted to a node.
    pub fn demand_of(&self, pod: PodKey) -> Option<&Arc<Demand>> {
        self.pods.get(&pod).map(|record| &record.demand)
    }

    /// What pods of a class ask for.
    pub fn class_demand(&self, class: ClassId) -> Option<&Arc<Demand>> {
        self.classes.get(class).map(|class| &class.demand)
    }

    /// The column of the resource called `name`, made if it is new.
    pub fn resource(&mut self, name: &str) -> ResourceId {
        self.table.id(name)
    }

    /// What all nodes can give together.
    pub fn capacity(&self) -> BTreeMap<ResourceId, i64> {
        self.nodes.sums().filter(|(_, amount)| *amount > 0).collect()
    }

    /// The nodes, in no order.
    pub fn specs(&self) -> impl Iterator<Item = &NodeSpec> {
        self.nodes.present().iter().filter_map(|slot| self.nodes.spec(slot))
    }

    /// The devices that a pod has on its node, by their numbers.
    pub fn devices_of(&self, pod: PodKey) -> &[u16] {
        self.pods.get(&pod).map_or(&[], PodRecord::devices)
    }

    /// The devices that a pod is to be told to use: on a node that gives shares it matters which.
    pub fn given_devices(&self, pod: PodKey) -> &[u16] {
        let shares = |record: &&PodRecord| self.nodes.allocatable(ResourceId::GPU_MILLI, record.slot) > 0;
        self.pods.get(&pod).filter(shares).map_or(&[], PodRecord::devices)
    }

    /// A node's name.
    pub fn node_name(&self, node: NodeId) -> &Arc<str> {
        self.nodes.shared_name(node.0)
    }

    /// The class of pods like `spec`, with one reference more.
    pub fn acquire(&mut self, spec: &ClassSpec) -> ClassId {
        self.classes.acquire(spec, &mut self.table, &mut self.counters, &self.nodes)
    }

    /// Gives a reference back. A class without any is kept for a while.
    pub fn release(&mut self, id: ClassId) {
        self.classes.release(id, &mut self.counters);
    }

    /// The best node for a pod of this class, if there is any. Changes nothing but indexes.
    pub fn place(&mut self, id: ClassId) -> Option<NodeId> {
        self.view_none();
        self.best(id)
    }

    /// The best node as nominated pods are accounted now.
    pub(super) fn best(&mut self, id: ClassId) -> Option<NodeId> {
        self.settle(id);
        self.classes.best(id, &self.counters, &self.nodes, &self.log).map(NodeId)
    }

    /// Brings what a class is judged by up to date.
    pub(super) fn settle(&mut self, id: ClassId) {
        self.nodes.settle_order();
        self.learn();
        self.classes.refresh(id, &mut self.counters, &self.nodes);
    }

    /// Looks anew at what pods are to be expected, when it is time to.
    fn learn(&mut self) {
        if !self.nodes.have_devices() || !self.census.is_due() {
            return;
        }
        let mut plain = (self.pods.len() - self.device_users) as u64;
        plain += self.classes.waiting().filter(|(shape, _)| shape.is_none()).map(|(_, count)| count).sum::<u64>();
        let waiting = self.classes.waiting().filter_map(|(shape, count)| Some((shape?.clone(), count)));
        let frequencies = self.census.frequencies(waiting, plain);
        self.nodes.expect(frequencies);
    }

    /// Does it matter to this class where other pods are, beyond the room that they take? To have more
    /// pods around can then help.
    pub fn looks_at_others(&self, id: ClassId) -> bool {
        self.classes.candidate(id, &self.counters).is_some_and(|candidate| {
            let constraints = candidate.constraints;
            // A volume that another pod has attached need not be attached again.
            let shares = !candidate.demand.attachments.is_empty();
            shares || !constraints.affinity.is_empty() || !constraints.hard.is_empty()
        })
    }

    /// Per node, in name order: why a pod of this class can't go there, or that it can.
    pub fn explain(&mut self, id: ClassId) -> Explanation {
        self.view_none();
        self.classes.refresh(id, &mut self.counters, &self.nodes);
        let verdicts = self.classes.candidate(id, &self.counters).map(|candidate| {
            self.nodes
                .in_name_order()
                .map(|slot| (self.nodes.shared_name(slot).clone(), rules::judge(candidate, &self.nodes, slot)))
                .collect()
        });
        Explanation { nodes: verdicts.unwrap_or_default() }
    }

    /// The reasons of all nodes, counted, with the nominated pods that matter to the asker.
    pub fn diagnose_for(&mut self, ask: Ask) -> Diagnosis {
        self.view_for(ask);
        self.count_reasons(ask.class)
    }

    /// The reasons of all nodes, counted.
    pub fn diagnose(&mut self, id: ClassId) -> Diagnosis {
        self.view_none();
        self.count_reasons(id)
    }

    fn count_reasons(&mut self, id: ClassId) -> Diagnosis {
        self.classes.refresh(id, &mut self.counters, &self.nodes);
        let mut diagnosis = Diagnosis { nodes: self.nodes.count(), ..Diagnosis::default() };
        let Some(candidate) = self.classes.candidate(id, &self.counters) else { return diagnosis };
        if node_affinity::names(candidate.spec).is_some_and(|names| names.is_empty()) {
            let text = Reason::AffinityConflict.text(|_| String::new());
            return Diagnosis::refused_at_once(diagnosis.nodes, text, Plugin::NodeAffinity);
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
        allocatable_up: exceeds(&new, &old) || now.devices > before.devices,
        allocatable_down: exceeds(&old, &new) || now.devices < before.devices,
        labels: before.labels != now.labels,
        taints: before.taints != now.taints,
        unschedulable: before.unschedulable != now.unschedulable,
        attach_limits: before.attach_limits != now.attach_limits,
    }
}

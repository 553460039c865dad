//! The nodes, as a structure of arrays.
//!
//! A node is a slot. What it can give and what its pods have asked for stands side by side for the
//! first few resources, so that looking at a node touches two lines of cache; the rest, which few
//! nodes have, is in columns. A slot outlives its node while pods are still accounted to it, and a slot may
//! exist before its node is known: the watches of pods and nodes race.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::bitset::Bitset;
use super::devices::{Devices, WHOLE};
use super::expected::{Expected, Frequencies};
use super::labels::Postings;
use super::order::NameOrder;
use super::resources::{Demand, GPU_MILLI, ResourceId, ResourceTable};
use super::spec::{Attachment, HostPort, NodeSpec, Strategy};

/// A node's slot. Valid until the node is gone and its last pod too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NodeId(pub(super) u32);

/// Columns of amounts; a column that nobody has is empty.
#[derive(Clone, Debug, Default)]
struct Columns(Vec<Vec<i64>>);

impl Columns {
    fn get(&self, resource: ResourceId, slot: u32) -> i64 {
        self.0.get(resource.0 as usize).and_then(|column| column.get(slot as usize)).copied().unwrap_or(0)
    }

    fn cell(&mut self, resource: ResourceId, slot: u32) -> &mut i64 {
        let index = resource.0 as usize;
        if index >= self.0.len() {
            self.0.resize(index + 1, Vec::new());
        }
        let column = &mut self.0[index];
        if slot as usize >= column.len() {
            column.resize(slot as usize + 1, 0);
        }
        &mut column[slot as usize]
    }
}

/// Resources whose amounts stand in a node's row. With the two sums for the score, a row is 128 bytes.
const IN_ROW: usize = 7;

/// Amounts of one node: for each resource what it can give and what is asked for, then CPU and memory
/// in use for the score.
#[derive(Clone, Copy, Debug, Default)]
#[repr(align(128))]
struct Row {
    amounts: [(i64, i64); IN_ROW],
    scoring_milli_cpu: i64,
    scoring_memory: i64,
}

/// All nodes.
#[derive(Clone, Debug, Default)]
pub struct Nodes {
    names: Vec<Arc<str>>,
    slots: HashMap<Arc<str>, u32>,
    free: Vec<u32>,
    present: Bitset,
    count: usize,
    schedulable_off: Bitset,
    specs: Vec<Option<Box<NodeSpec>>>,
    /// Beyond the row.
    allocatable: Columns,
    requested: Columns,
    rows: Vec<Row>,
    /// Host ports in use, for the few nodes that have any; an entry twice is two pods.
    ports: HashMap<u32, Vec<HostPort>>,
    /// Volumes attached, for the few nodes that have any, with how many pods use each.
    attached: HashMap<u32, BTreeMap<Attachment, u32>>,
    /// Claims that are for one pod at a time, with how many pods on nodes use each.
    exclusive: HashMap<String, u32>,
    /// Rises when a claim of those gets users or loses them: that matters on all nodes.
    exclusive_epoch: u64,
    /// Devices by slot, up to the last slot that has any.
    devices: Vec<Devices>,
    /// How many nodes have devices.
    with_devices: usize,
    expected: Expected,
    largest: Largest,
    order: NameOrder,
    postings: Postings,
}

static NO_DEVICES: Devices = Devices::NONE;

/// The largest amounts that a node has, by resource.
#[derive(Clone, Debug, Default)]
struct Largest {
    /// How many nodes have which amount.
    amounts: HashMap<ResourceId, BTreeMap<i64, u32>>,
    /// What all have together.
    sums: HashMap<ResourceId, i64>,
    /// Rises when a largest amount becomes another.
    epoch: u64,
}

impl Largest {
    fn get(&self, resource: ResourceId) -> i64 {
        let amounts = self.amounts.get(&resource);
        amounts.and_then(|amounts| amounts.last_key_value()).map_or(0, |(amount, _)| *amount)
    }

    fn count(&mut self, resource: ResourceId, amount: i64, comes: bool) {
        let before = self.get(resource);
        // Wrapping keeps coming and going exact inverses whatever the amounts are.
        let sum = self.sums.entry(resource).or_default();
        *sum = if comes { sum.wrapping_add(amount) } else { sum.wrapping_sub(amount) };
        let amounts = self.amounts.entry(resource).or_default();
        let nodes = amounts.entry(amount).or_default();
        *nodes = if comes { *nodes + 1 } else { nodes.saturating_sub(1) };
        if *nodes == 0 {
            amounts.remove(&amount);
        }
        self.epoch += u64::from(self.get(resource) != before);
    }
}

fn count(users: &mut u32, sign: i64) {
    *users = if sign > 0 { users.saturating_add(1) } else { users.saturating_sub(1) };
}

impl Nodes {
    /// The slot of a name, known or not yet.
    pub fn slot(&self, name: &str) -> Option<u32> {
        self.slots.get(name).copied()
    }

    /// The slot of a name, made if need be.
    pub(super) fn slot_or_new(&mut self, name: &str) -> u32 {
        if let Some(slot) = self.slots.get(name) {
            return *slot;
        }
        let name: Arc<str> = name.into();
        let slot = self.free.pop().unwrap_or_else(|| {
            self.names.push(name.clone());
            self.specs.push(None);
            self.rows.push(Row::default());
            self.names.len() as u32 - 1
        });
        self.names[slot as usize] = name.clone();
        self.slots.insert(name.clone(), slot);
        self.order.insert(name, slot);
        slot
    }

    /// Sets what is known of a node and returns what it was before.
    pub(super) fn set(&mut self, slot: u32, spec: NodeSpec, table: &mut ResourceTable) -> Option<Box<NodeSpec>> {
        let before = self.specs[slot as usize].take();
        if let Some(before) = &before {
            self.postings.remove(slot, before);
            self.measure(before, table, false);
        } else {
            self.count += 1;
        }
        self.clear_allocatable(slot);
        for (name, amount) in spec.allocatable.iter() {
            *self.allocatable_mut(table.id(name), slot) = amount;
        }
        self.measure(&spec, table, true);
        self.set_devices(slot, before.as_ref().map_or(0, |before| before.devices), spec.devices);
        self.expected.node_changes(slot, &spec);
        self.present.insert(slot);
        if spec.unschedulable {
            self.schedulable_off.insert(slot);
        } else {
            self.schedulable_off.remove(slot);
        }
        self.postings.insert(slot, &spec);
        self.specs[slot as usize] = Some(Box::new(spec));
        before
    }

    /// Takes a node that comes or goes into account for the largest.
    fn measure(&mut self, spec: &NodeSpec, table: &mut ResourceTable, comes: bool) {
        for (name, amount) in spec.allocatable.iter().filter(|(name, _)| *name != GPU_MILLI) {
            self.largest.count(table.id(name), amount, comes);
        }
        if spec.devices > 0 {
            self.largest.count(ResourceId::GPU_MILLI, i64::from(spec.devices) * i64::from(WHOLE), comes);
        }
    }

    fn set_devices(&mut self, slot: u32, before: u16, now: u16) {
        if before == now {
            return;
        }
        let had_any = self.with_devices > 0;
        self.with_devices = self.with_devices + usize::from(now > 0) - usize::from(before > 0);
        if had_any != (self.with_devices > 0) {
            self.expected.touch();
        }
        self.devices_mut(slot).set_count(now);
    }

    fn devices_mut(&mut self, slot: u32) -> &mut Devices {
        if slot as usize >= self.devices.len() {
            self.devices.resize(slot as usize + 1, Devices::default());
        }
        &mut self.devices[slot as usize]
    }

    fn clear_allocatable(&mut self, slot: u32) {
        for (allocatable, _) in &mut self.rows[slot as usize].amounts {
            *allocatable = 0;
        }
        for index in 0..self.allocatable.0.len() {
            *self.allocatable.cell(ResourceId(index as u32), slot) = 0;
        }
    }

    fn allocatable_mut(&mut self, resource: ResourceId, slot: u32) -> &mut i64 {
        match self.rows[slot as usize].amounts.get_mut(resource.0 as usize) {
            Some((allocatable, _)) => allocatable,
            None => self.allocatable.cell(resource, slot),
        }
    }

    fn requested_mut(&mut self, resource: ResourceId, slot: u32) -> &mut i64 {
        match self.rows[slot as usize].amounts.get_mut(resource.0 as usize) {
            Some((_, requested)) => requested,
            None => self.requested.cell(resource, slot),
        }
    }

    /// Forgets a node; its pods stay accounted.
    pub(super) fn unset(&mut self, slot: u32, table: &mut ResourceTable) -> Option<Box<NodeSpec>> {
        let before = self.specs[slot as usize].take()?;
        self.postings.remove(slot, &before);
        self.present.remove(slot);
        self.schedulable_off.remove(slot);
        self.count -= 1;
        self.clear_allocatable(slot);
        self.measure(&before, table, false);
        self.set_devices(slot, before.devices, 0);
        self.release_if_unused(slot);
        Some(before)
    }

    /// Takes from (`sign` 1) or gives back to (-1) a node what a pod asks for, and these devices.
    pub(super) fn charge(&mut self, slot: u32, demand: &Demand, devices: &[u16], sign: i64) {
        // Wrapping keeps take and give back exact inverses whatever the amounts are.
        let add = |cell: &mut i64, amount: i64| *cell = cell.wrapping_add(sign * amount);
        for (resource, amount) in &demand.requests {
            add(self.requested_mut(*resource, slot), *amount);
        }
        add(self.requested_mut(ResourceId::PODS, slot), 1);
        let row = &mut self.rows[slot as usize];
        add(&mut row.scoring_milli_cpu, demand.scoring_milli_cpu);
        add(&mut row.scoring_memory, demand.scoring_memory);
        if !devices.is_empty() {
            self.devices_mut(slot).charge(devices, demand.devices, sign);
        }
        if !demand.ports.is_empty() {
            let used = self.ports.entry(slot).or_default();
            for port in &demand.ports {
                if sign > 0 {
                    used.push(port.clone());
                } else if let Some(index) = used.iter().position(|one| one == port) {
                    used.swap_remove(index);
                }
            }
            if used.is_empty() {
                self.ports.remove(&slot);
            }
        }
        self.charge_volumes(slot, demand, sign);
        if sign < 0 {
            self.release_if_unused(slot);
        }
    }

    fn charge_volumes(&mut self, slot: u32, demand: &Demand, sign: i64) {
        if !demand.attachments.is_empty() {
            let attached = self.attached.entry(slot).or_default();
            for attachment in &demand.attachments {
                count(attached.entry(attachment.clone()).or_default(), sign);
            }
            attached.retain(|_, users| *users > 0);
            if attached.is_empty() {
                self.attached.remove(&slot);
            }
        }
        for claim in &demand.exclusive {
            let users = self.exclusive.entry(claim.clone()).or_default();
            count(users, sign);
            if *users == 0 {
                self.exclusive.remove(claim);
            }
            self.exclusive_epoch += 1;
        }
    }

    fn release_if_unused(&mut self, slot: u32) {
        if self.specs[slot as usize].is_none() && self.requested(ResourceId::PODS, slot) == 0 {
            let name = self.names[slot as usize].clone();
            if self.slots.remove(&name).is_some() {
                self.order.remove(&name);
                self.free.push(slot);
            }
        }
    }

    /// How many nodes there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// How many slots there are, an upper bound of every slot number.
    pub fn capacity(&self) -> usize {
        self.names.len()
    }

    /// A node's name.
    pub fn name(&self, slot: u32) -> &str {
        &self.names[slot as usize]
    }

    pub(super) fn shared_name(&self, slot: u32) -> &Arc<str> {
        &self.names[slot as usize]
    }

    /// What is known of a node; `None` for a slot that only has pods.
    pub fn spec(&self, slot: u32) -> Option<&NodeSpec> {
        self.specs[slot as usize].as_deref()
    }

    /// The slots that hold a known node.
    pub fn present(&self) -> &Bitset {
        &self.present
    }

    /// The slots of nodes marked unschedulable.
    pub fn unschedulable(&self) -> &Bitset {
        &self.schedulable_off
    }

    /// The present slots in the order of node names.
    pub fn in_name_order(&self) -> impl Iterator<Item = u32> + '_ {
        self.order.slots().filter(|slot| self.present.contains(*slot))
    }

    /// What a node can give of a resource.
    #[inline]
    pub fn allocatable(&self, resource: ResourceId, slot: u32) -> i64 {
        match self.rows[slot as usize].amounts.get(resource.0 as usize) {
            Some((allocatable, _)) => *allocatable,
            None => self.allocatable.get(resource, slot),
        }
    }

    /// What the pods on a node have asked for of a resource.
    #[inline]
    pub fn requested(&self, resource: ResourceId, slot: u32) -> i64 {
        match self.rows[slot as usize].amounts.get(resource.0 as usize) {
            Some((_, requested)) => *requested,
            None => self.requested.get(resource, slot),
        }
    }

    /// CPU in use for the score, with the defaults for containers without a request.
    pub fn scoring_milli_cpu(&self, slot: u32) -> i64 {
        self.rows[slot as usize].scoring_milli_cpu
    }

    /// Memory in use for the score, likewise.
    pub fn scoring_memory(&self, slot: u32) -> i64 {
        self.rows[slot as usize].scoring_memory
    }

    /// The host ports in use on a node.
    pub fn ports(&self, slot: u32) -> &[HostPort] {
        if self.ports.is_empty() {
            return &[];
        }
        self.ports.get(&slot).map_or(&[], Vec::as_slice)
    }

    /// The volumes attached to a node.
    pub fn attached(&self, slot: u32) -> impl Iterator<Item = &Attachment> {
        self.attached.get(&slot).into_iter().flat_map(BTreeMap::keys)
    }

    /// Is the volume attached to the node?
    pub fn is_attached(&self, slot: u32, attachment: &Attachment) -> bool {
        self.attached.get(&slot).is_some_and(|attached| attached.contains_key(attachment))
    }

    /// Does a pod on a node use a claim that is for one pod at a time?
    pub fn is_in_use(&self, claim: &str) -> bool {
        self.exclusive.contains_key(claim)
    }

    /// Rises when the answer of [`Self::is_in_use`] may have become another.
    pub(super) fn exclusive_epoch(&self) -> u64 {
        self.exclusive_epoch
    }

    /// The devices of a node.
    #[inline]
    pub fn devices(&self, slot: u32) -> &Devices {
        self.devices.get(slot as usize).unwrap_or(&NO_DEVICES)
    }

    /// Has some node devices?
    #[inline]
    pub fn have_devices(&self) -> bool {
        self.with_devices > 0
    }

    /// What pods are to be expected.
    pub fn expected(&self) -> &Expected {
        &self.expected
    }

    /// Takes over what pods are to be expected.
    pub(super) fn expect(&mut self, frequencies: Frequencies) {
        let specs = &self.specs;
        self.expected.learn(frequencies, &self.present, |slot| specs[slot as usize].as_deref());
    }

    /// What all nodes can give together.
    pub fn sums(&self) -> impl Iterator<Item = (ResourceId, i64)> + '_ {
        self.largest.sums.iter().map(|(resource, sum)| (*resource, *sum))
    }

    /// The largest amount of a resource that a node has.
    pub fn largest(&self, resource: ResourceId) -> i64 {
        self.largest.get(resource)
    }

    /// Rises when the scores of all nodes may have changed: with what is the largest, or what is expected.
    pub(super) fn score_epoch(&self, strategy: &Strategy) -> u64 {
        match strategy {
            Strategy::BestFit | Strategy::DotProduct => self.largest.epoch,
            Strategy::BinPacking | Strategy::Fragmentation => self.expected.epoch(),
            Strategy::MostAllocated | Strategy::LeastAllocated | Strategy::RequestedToCapacityRatio(_) => 0,
        }
    }

    pub(super) fn order(&self) -> &NameOrder {
        &self.order
    }

    pub(super) fn settle_order(&mut self) {
        self.order.settle();
    }

    pub(super) fn postings(&self) -> &Postings {
        &self.postings
    }
}

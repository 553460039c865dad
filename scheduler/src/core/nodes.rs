//! The nodes, as a structure of arrays.
//!
//! A node is a slot. What it can give and what its pods have asked for stands side by side for the
//! first few resources, so that looking at a node touches two lines of cache; the rest, which few
//! nodes have, is in columns. A slot outlives its node while pods are still accounted to it, and a slot may
//! exist before its node is known: the watches of pods and nodes race.

use std::collections::HashMap;
use std::sync::Arc;

use super::bitset::Bitset;
use super::labels::Postings;
use super::order::NameOrder;
use super::resources::{Demand, ResourceId, ResourceTable};
use super::spec::{HostPort, NodeSpec};

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
    order: NameOrder,
    postings: Postings,
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
        } else {
            self.count += 1;
        }
        self.clear_allocatable(slot);
        for (name, amount) in spec.allocatable.iter() {
            *self.allocatable_mut(table.id(name), slot) = amount;
        }
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
    pub(super) fn unset(&mut self, slot: u32) -> Option<Box<NodeSpec>> {
        let before = self.specs[slot as usize].take()?;
        self.postings.remove(slot, &before);
        self.present.remove(slot);
        self.schedulable_off.remove(slot);
        self.count -= 1;
        self.clear_allocatable(slot);
        self.release_if_unused(slot);
        Some(before)
    }

    /// Takes from (`sign` 1) or gives back to (-1) a node what a pod asks for.
    pub(super) fn charge(&mut self, slot: u32, demand: &Demand, sign: i64) {
        // Wrapping keeps take and give back exact inverses whatever the amounts are.
        let add = |cell: &mut i64, amount: i64| *cell = cell.wrapping_add(sign * amount);
        for (resource, amount) in &demand.requests {
            add(self.requested_mut(*resource, slot), *amount);
        }
        add(self.requested_mut(ResourceId::PODS, slot), 1);
        let row = &mut self.rows[slot as usize];
        add(&mut row.scoring_milli_cpu, demand.scoring_milli_cpu);
        add(&mut row.scoring_memory, demand.scoring_memory);
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
        if sign < 0 {
            self.release_if_unused(slot);
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

//! The nodes, as a structure of arrays.
//!
//! A node is a slot; each resource is two `i64` columns, what a node can give and what its pods
//! have asked for. A slot outlives its node while pods are still accounted to it, and a slot may
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
    allocatable: Columns,
    requested: Columns,
    scoring_milli_cpu: Vec<i64>,
    scoring_memory: Vec<i64>,
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
            self.scoring_milli_cpu.push(0);
            self.scoring_memory.push(0);
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
        for index in 0..self.allocatable.0.len() {
            *self.allocatable.cell(ResourceId(index as u32), slot) = 0;
        }
        for (name, amount) in spec.allocatable.iter() {
            *self.allocatable.cell(table.id(name), slot) = amount;
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

    /// Forgets a node; its pods stay accounted.
    pub(super) fn unset(&mut self, slot: u32) -> Option<Box<NodeSpec>> {
        let before = self.specs[slot as usize].take()?;
        self.postings.remove(slot, &before);
        self.present.remove(slot);
        self.schedulable_off.remove(slot);
        self.count -= 1;
        for index in 0..self.allocatable.0.len() {
            *self.allocatable.cell(ResourceId(index as u32), slot) = 0;
        }
        self.release_if_unused(slot);
        Some(before)
    }

    /// Takes from (`sign` 1) or gives back to (-1) a node what a pod asks for.
    pub(super) fn charge(&mut self, slot: u32, demand: &Demand, sign: i64) {
        // Wrapping keeps take and give back exact inverses whatever the amounts are.
        let add = |cell: &mut i64, amount: i64| *cell = cell.wrapping_add(sign * amount);
        for (resource, amount) in &demand.requests {
            add(self.requested.cell(*resource, slot), *amount);
        }
        add(self.requested.cell(ResourceId::PODS, slot), 1);
        add(&mut self.scoring_milli_cpu[slot as usize], demand.scoring_milli_cpu);
        add(&mut self.scoring_memory[slot as usize], demand.scoring_memory);
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
    pub fn allocatable(&self, resource: ResourceId, slot: u32) -> i64 {
        self.allocatable.get(resource, slot)
    }

    /// What the pods on a node have asked for of a resource.
    pub fn requested(&self, resource: ResourceId, slot: u32) -> i64 {
        self.requested.get(resource, slot)
    }

    /// CPU in use for the score, with the defaults for containers without a request.
    pub fn scoring_milli_cpu(&self, slot: u32) -> i64 {
        self.scoring_milli_cpu[slot as usize]
    }

    /// Memory in use for the score, likewise.
    pub fn scoring_memory(&self, slot: u32) -> i64 {
        self.scoring_memory[slot as usize]
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

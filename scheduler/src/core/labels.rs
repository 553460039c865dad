//! Postings: for each label key and value, and each set of taints, the nodes that have it.
//!
//! Compiling a class reads these instead of every node's labels.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::bitset::Bitset;
use super::spec::{NodeSpec, Operator, Requirement, Taint};

/// Who has which label and which taints.
#[derive(Clone, Debug, Default)]
pub struct Postings {
    labels: HashMap<String, HashMap<String, BTreeSet<u32>>>,
    taints: HashMap<Arc<[Taint]>, BTreeSet<u32>>,
}

impl Postings {
    /// Enters a node.
    pub fn insert(&mut self, slot: u32, node: &NodeSpec) {
        for (key, value) in &node.labels {
            let values = self.labels.entry(key.clone()).or_default();
            values.entry(value.clone()).or_default().insert(slot);
        }
        match self.taints.get_mut(node.taints.as_slice()) {
            Some(slots) => slots.insert(slot),
            None => self.taints.entry(node.taints.clone().into()).or_default().insert(slot),
        };
    }

    /// Takes a node out, as it was entered.
    pub fn remove(&mut self, slot: u32, node: &NodeSpec) {
        for (key, value) in &node.labels {
            let Some(values) = self.labels.get_mut(key) else { continue };
            if let Some(slots) = values.get_mut(value) {
                slots.remove(&slot);
                if slots.is_empty() {
                    values.remove(value);
                }
            }
            if values.is_empty() {
                self.labels.remove(key);
            }
        }
        if let Some(slots) = self.taints.get_mut(node.taints.as_slice()) {
            slots.remove(&slot);
            if slots.is_empty() {
                self.taints.remove(node.taints.as_slice());
            }
        }
    }

    /// The distinct lists of taints, each with its nodes.
    pub fn taint_sets(&self) -> impl Iterator<Item = (&[Taint], &BTreeSet<u32>)> {
        self.taints.iter().map(|(taints, slots)| (&**taints, slots))
    }

    /// The nodes whose label `key` is `value`, one by one.
    pub fn slots(&self, key: &str, value: &str) -> impl Iterator<Item = u32> {
        let slots = self.labels.get(key).and_then(|values| values.get(value));
        slots.into_iter().flatten().copied()
    }

    /// The nodes that have a label `key` with another value than this.
    pub fn with_other_value<'a>(&'a self, key: &str, value: &'a str) -> impl Iterator<Item = u32> + 'a {
        let others = self.labels.get(key).into_iter().flatten().filter(move |(other, _)| *other != value);
        others.flat_map(|(_, slots)| slots).copied()
    }

    /// Nodes whose label `key` is `value`.
    pub fn with_label(&self, key: &str, value: &str) -> Bitset {
        let slots = self.labels.get(key).and_then(|values| values.get(value));
        slots.into_iter().flatten().copied().collect()
    }

    /// Keeps in `eligible` the nodes whose labels meet `requirement`.
    pub fn narrow(&self, requirement: &Requirement, eligible: &mut Bitset) {
        let values = self.labels.get(&requirement.key);
        let matching = |wanted: &dyn Fn(&str) -> bool| -> Bitset {
            let all = values.into_iter().flatten();
            all.filter(|(value, _)| wanted(value)).flat_map(|(_, slots)| slots).copied().collect()
        };
        let listed = || -> Bitset {
            let slots = requirement.values.iter().filter_map(|value| values?.get(value));
            slots.flatten().copied().collect()
        };
        let bound = requirement.values.first().and_then(|value| value.parse::<i64>().ok());
        let number = |value: &str| value.parse::<i64>().ok().zip(bound);
        match requirement.operator {
            Operator::In => eligible.intersect(&listed()),
            Operator::NotIn => eligible.subtract(&listed()),
            Operator::Exists => eligible.intersect(&matching(&|_| true)),
            Operator::DoesNotExist => eligible.subtract(&matching(&|_| true)),
            Operator::Gt => {
                eligible.intersect(&matching(&|value| number(value).is_some_and(|(value, bound)| value > bound)));
            }
            Operator::Lt => {
                eligible.intersect(&matching(&|value| number(value).is_some_and(|(value, bound)| value < bound)));
            }
            Operator::Unknown => *eligible = Bitset::default(),
        }
    }
}

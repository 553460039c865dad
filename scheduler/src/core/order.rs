//! Node names in order, as numbers that can be compared without touching the names.
//!
//! Each slot gets a 64-bit label such that a smaller name has a smaller label. A new name takes the
//! middle between its neighbours; when there is no room left, all labels are spread afresh and the
//! epoch rises, which tells the classes to rebuild their indexes.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

/// The names in use and their labels.
#[derive(Clone, Debug, Default)]
pub struct NameOrder {
    by_name: BTreeMap<Arc<str>, u32>,
    /// Per slot; 0 is "not labelled yet".
    labels: Vec<u64>,
    unlabelled: Vec<Arc<str>>,
    epoch: u64,
}

impl NameOrder {
    /// Adds a name. Its label is made by the next [`Self::settle`].
    pub fn insert(&mut self, name: Arc<str>, slot: u32) {
        if slot as usize >= self.labels.len() {
            self.labels.resize(slot as usize + 1, 0);
        }
        self.labels[slot as usize] = 0;
        self.unlabelled.push(name.clone());
        self.by_name.insert(name, slot);
    }

    /// Takes a name out.
    pub fn remove(&mut self, name: &str) {
        self.by_name.remove(name);
    }

    /// Labels what has no label yet.
    pub fn settle(&mut self) {
        if self.unlabelled.is_empty() {
            return;
        }
        let mut names = std::mem::take(&mut self.unlabelled);
        names.sort_unstable();
        // With many new names at once (a start), spreading all evenly is cheaper and lasts longer.
        if names.len() > 64 && names.len() * 8 > self.by_name.len() {
            return self.spread();
        }
        for name in &names {
            if !self.label_between_neighbours(name) {
                return self.spread();
            }
        }
    }

    fn label_between_neighbours(&mut self, name: &Arc<str>) -> bool {
        let Some(slot) = self.by_name.get(name).copied() else {
            return true; // removed again in the meantime
        };
        if self.labels[slot as usize] != 0 {
            return true;
        }
        let label_of = |slot: &u32| Some(self.labels[*slot as usize]).filter(|label| *label != 0);
        let below = self.by_name.range::<str, _>((Bound::Unbounded, Bound::Excluded(&**name)));
        let above = self.by_name.range::<str, _>((Bound::Excluded(&**name), Bound::Unbounded));
        let low = below.rev().find_map(|(_, slot)| label_of(slot)).unwrap_or(0);
        let high = above.into_iter().find_map(|(_, slot)| label_of(slot)).unwrap_or(u64::MAX);
        if high - low < 2 {
            return false;
        }
        self.labels[slot as usize] = low + (high - low) / 2;
        true
    }

    fn spread(&mut self) {
        self.epoch += 1;
        let step = u64::MAX / (self.by_name.len() as u64 + 1);
        for (rank, slot) in self.by_name.values().enumerate() {
            self.labels[*slot as usize] = (rank as u64 + 1) * step;
        }
    }

    /// The label of a slot.
    pub fn label(&self, slot: u32) -> u64 {
        self.labels.get(slot as usize).copied().unwrap_or(0)
    }

    /// Rises whenever existing labels changed.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The slots in name order.
    pub fn slots(&self) -> impl Iterator<Item = u32> + '_ {
        self.by_name.values().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_follow_names_through_any_sequence() {
        let mut order = NameOrder::default();
        for number in 0..2_000u32 {
            // 7919 is prime, so names come in a scattered order; every third is settled alone.
            let name: Arc<str> = format!("node-{}", (number * 7919) % 2_000).into();
            order.insert(name, number);
            if number % 3 == 0 {
                order.settle();
            }
            if number % 50 == 49 {
                order.remove(&format!("node-{}", ((number - 20) * 7919) % 2_000));
            }
        }
        order.settle();
        let labels: Vec<u64> = order.slots().map(|slot| order.label(slot)).collect();
        assert!(labels.is_sorted() && labels.iter().all(|label| *label != 0));
        assert!(labels.windows(2).all(|pair| pair[0] < pair[1]));
    }
}

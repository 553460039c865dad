//! Maps by number, with the cheapest hash that will do.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// Multiplies once: slots and ids are small numbers, UIDs are random already.
#[derive(Clone, Copy, Debug, Default)]
pub struct NumberHasher(u64);

impl Hasher for NumberHasher {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0.rotate_left(5) ^ u64::from(*byte)).wrapping_mul(0x517c_c1b7_2722_0a95);
        }
    }

    fn write_u32(&mut self, value: u32) {
        // The table takes its bits from both ends of the product.
        self.0 = (u64::from(value) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32);
    }

    fn write_u128(&mut self, value: u128) {
        self.0 = (value as u64 ^ (value >> 64) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// A map by slot or id.
pub type NumberMap<V> = HashMap<u32, V, BuildHasherDefault<NumberHasher>>;

/// Amounts by slot or domain, without zeros: a map while few, an array once that costs no more.
#[derive(Clone, Debug)]
pub enum Amounts {
    /// Few, with a bound of the keys there were.
    Sparse(NumberMap<i64>, usize),
    /// Many, with the number of those that are not zero.
    Dense(Vec<i64>, usize),
}

/// An entry of a map takes about as much as this many of an array.
const DENSE_FACTOR: usize = 3;
/// Below this many, a map is as good.
const DENSE_MIN: usize = 64;

impl Default for Amounts {
    fn default() -> Self {
        Amounts::Sparse(NumberMap::default(), 0)
    }
}

impl Amounts {
    /// The amount of `key`.
    #[inline]
    pub fn get(&self, key: u32) -> i64 {
        match self {
            Amounts::Sparse(map, _) => map.get(&key).copied().unwrap_or(0),
            Amounts::Dense(amounts, _) => amounts.get(key as usize).copied().unwrap_or(0),
        }
    }

    /// Are all amounts zero?
    pub fn is_empty(&self) -> bool {
        match self {
            Amounts::Sparse(map, _) => map.is_empty(),
            Amounts::Dense(_, used) => *used == 0,
        }
    }

    /// The amounts that are not zero.
    pub fn iter(&self) -> impl Iterator<Item = (u32, i64)> + '_ {
        let (sparse, dense) = match self {
            Amounts::Sparse(map, _) => (Some(map), None),
            Amounts::Dense(amounts, _) => (None, Some(amounts)),
        };
        let sparse = sparse.into_iter().flatten().map(|(key, amount)| (*key, *amount));
        let dense = dense.into_iter().flatten().enumerate().map(|(key, amount)| (key as u32, *amount));
        sparse.chain(dense.filter(|(_, amount)| *amount != 0))
    }

    /// Adds to an amount; gives what it was and is.
    pub fn add(&mut self, key: u32, amount: i64) -> (i64, i64) {
        match self {
            Amounts::Dense(amounts, used) => {
                if key as usize >= amounts.len() {
                    amounts.resize(key as usize + 1, 0);
                }
                let cell = &mut amounts[key as usize];
                let before = *cell;
                *cell += amount;
                *used = *used + usize::from(*cell != 0) - usize::from(before != 0);
                (before, *cell)
            }
            Amounts::Sparse(map, end) => {
                let changed = add_sparse(map, key, amount);
                *end = (*end).max(key as usize + 1);
                if map.len() >= DENSE_MIN && map.len() * DENSE_FACTOR > *end {
                    let mut amounts = vec![0; *end];
                    for (key, amount) in map.iter() {
                        amounts[*key as usize] = *amount;
                    }
                    let used = map.len();
                    *self = Amounts::Dense(amounts, used);
                }
                changed
            }
        }
    }
}

fn add_sparse(map: &mut NumberMap<i64>, key: u32, amount: i64) -> (i64, i64) {
    use std::collections::hash_map::Entry;
    match map.entry(key) {
        Entry::Occupied(mut entry) => {
            let before = *entry.get();
            let now = before + amount;
            if now == 0 {
                entry.remove();
            } else {
                *entry.get_mut() = now;
            }
            (before, now)
        }
        Entry::Vacant(entry) => {
            if amount != 0 {
                entry.insert(amount);
            }
            (0, amount)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn amounts_are_the_same_sparse_and_dense() {
        let mut amounts = Amounts::default();
        let mut plain = BTreeMap::new();
        let mut seed = 3u64;
        for step in 0..20_000u64 {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            // First few keys far apart, then many close together.
            let key = if step < 200 { (seed >> 33) % 1_000_000 } else { (seed >> 33) % 500 } as u32;
            let amount = ((seed >> 20) % 5) as i64 - 2;
            let before = plain.get(&key).copied().unwrap_or(0);
            assert_eq!(amounts.add(key, amount), (before, before + amount));
            plain.insert(key, before + amount);
            plain.retain(|_, amount| *amount != 0);
            if step == 200 {
                // What is left of the far ones would keep it a map.
                amounts = Amounts::default();
                plain.clear();
            }
        }
        assert!(matches!(amounts, Amounts::Dense(..)));
        let mut listed: Vec<_> = amounts.iter().collect();
        listed.sort_unstable();
        assert_eq!(listed, plain.into_iter().collect::<Vec<_>>());
        assert_eq!(amounts.get(1_000_000), 0);
        for (key, amount) in listed {
            amounts.add(key, -amount);
        }
        assert!(amounts.is_empty());
    }
}

//! A tournament tree: the best of many leaves, with a leaf changed in O(log n) and no allocation.
//!
//! A leaf is a node that a class may use; its key is (score, name order), the higher score and then
//! the smaller name winning. A leaf that does not fit at the moment stays, with no score.

/// What a leaf competes with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// The node's score; negative for a node that is not feasible now.
    pub score: i64,
    /// The node's place in name order.
    pub order: u64,
}

impl Key {
    /// Loses against every feasible key.
    pub const OUT: Key = Key { score: -1, order: u64::MAX };

    fn beats(self, other: Key) -> bool {
        self.score > other.score || (self.score == other.score && self.order < other.order)
    }
}

/// The tree, with the slot that each leaf stands for.
#[derive(Clone, Debug, Default)]
pub struct Tournament {
    keys: Vec<Key>,
    slots: Vec<u32>,
    /// `winners[1]` is the winner of all, `winners[i]` that of `winners[2i]` and `winners[2i + 1]`;
    /// from `keys.len()` on, the leaves themselves (not stored).
    winners: Vec<u32>,
    free: Vec<u32>,
    /// Leaves that are feasible now.
    feasible: usize,
}

impl Tournament {
    /// Builds the tree in O(n).
    pub fn build(leaves: Vec<(u32, Key)>) -> Self {
        let mut tree = Tournament::default();
        let count = leaves.len();
        for (slot, key) in leaves {
            tree.slots.push(slot);
            tree.keys.push(key);
            tree.feasible += usize::from(key.score >= 0);
        }
        tree.grow(count);
        tree
    }

    /// The number of leaves in use.
    pub fn len(&self) -> usize {
        self.keys.len() - self.free.len()
    }

    /// The number of leaves that are feasible now.
    pub fn feasible(&self) -> usize {
        self.feasible
    }

    /// The slot and key of the best feasible leaf.
    pub fn best(&self) -> Option<(u32, Key)> {
        let winner = match self.keys.len() {
            0 => return None,
            1 => 0,
            _ => self.winners[1] as usize,
        };
        (self.keys[winner].score >= 0).then(|| (self.slots[winner], self.keys[winner]))
    }

    /// Adds a leaf and returns its position.
    pub fn add(&mut self, slot: u32, key: Key) -> u32 {
        let position = match self.free.pop() {
            Some(position) => position,
            None => {
                let used = self.keys.len();
                self.grow(used + 1);
                // Growing may have made more than one leaf: hand out the lowest.
                self.free.extend((used as u32 + 1..self.keys.len() as u32).rev());
                used as u32
            }
        };
        self.slots[position as usize] = slot;
        self.set(position, key);
        position
    }

    /// Takes a leaf out.
    pub fn remove(&mut self, position: u32) {
        self.set(position, Key::OUT);
        self.free.push(position);
    }

    /// Gives a leaf another key.
    pub fn set(&mut self, position: u32, key: Key) {
        if self.keys[position as usize] == key {
            return;
        }
        self.feasible += usize::from(key.score >= 0);
        self.feasible -= usize::from(self.keys[position as usize].score >= 0);
        self.keys[position as usize] = key;
        let mut parent = (position as usize + self.keys.len()) / 2;
        while parent >= 1 {
            let winner = self.play(parent);
            // Above an unchanged winner whose key did not change either, nothing can change.
            if self.winners[parent] == winner && winner != position {
                break;
            }
            self.winners[parent] = winner;
            parent /= 2;
        }
    }

    fn play(&self, parent: usize) -> u32 {
        let side = |child: usize| match child.checked_sub(self.keys.len()) {
            Some(leaf) => leaf as u32,
            None => self.winners[child],
        };
        let (left, right) = (side(2 * parent), side(2 * parent + 1));
        if self.keys[right as usize].beats(self.keys[left as usize]) { right } else { left }
    }

    /// Makes room for at least `wanted` leaves, a power of two, and replays everything.
    fn grow(&mut self, wanted: usize) {
        if wanted == 0 {
            return;
        }
        let used = self.keys.len();
        let size = wanted.next_power_of_two();
        self.keys.resize(size, Key::OUT);
        self.slots.resize(size, u32::MAX);
        self.winners = vec![0; size];
        for parent in (1..size).rev() {
            self.winners[parent] = self.play(parent);
        }
        // After a bulk build, the leaves beyond the given ones are free.
        if used == wanted {
            self.free.extend((used as u32..size as u32).rev());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_leaf_is_always_known() {
        let mut tree = Tournament::default();
        assert_eq!(tree.best(), None);
        let mut plain: Vec<Option<(u32, Key)>> = Vec::new();
        let mut seed = 7u64;
        let mut random = move |below: u64| {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (seed >> 33) % below
        };
        for step in 0..5_000u32 {
            match random(10) {
                0..=3 => {
                    let key = Key { score: random(20) as i64 - 1, order: u64::from(step) };
                    let position = tree.add(step, key) as usize;
                    if position >= plain.len() {
                        plain.resize(position + 1, None);
                    }
                    assert!(plain[position].is_none());
                    plain[position] = Some((step, key));
                }
                4 => {
                    if let Some(position) = plain.iter().position(Option::is_some) {
                        tree.remove(position as u32);
                        plain[position] = None;
                    }
                }
                _ => {
                    let position = random(plain.len().max(1) as u64) as usize;
                    if let Some(Some((_, key))) = plain.get_mut(position) {
                        key.score = random(20) as i64 - 1;
                        tree.set(position as u32, *key);
                    }
                }
            }
            let expected = plain
                .iter()
                .flatten()
                .filter(|(_, key)| key.score >= 0)
                .max_by_key(|(_, key)| (key.score, std::cmp::Reverse(key.order)))
                .copied();
            assert_eq!(tree.best(), expected);
            assert_eq!(tree.len(), plain.iter().flatten().count());
            assert_eq!(tree.feasible(), plain.iter().flatten().filter(|(_, key)| key.score >= 0).count());
        }
    }

    #[test]
    fn bulk_build_equals_adding_one_by_one() {
        for count in 0..20u32 {
            let leaves: Vec<_> =
                (0..count).map(|slot| (slot, Key { score: i64::from(slot * 7 % 5), order: u64::from(slot) })).collect();
            let mut one_by_one = Tournament::default();
            for (slot, key) in &leaves {
                one_by_one.add(*slot, *key);
            }
            let mut bulk = Tournament::build(leaves);
            assert_eq!(bulk.best(), one_by_one.best());
            assert_eq!(bulk.len(), count as usize);
            assert_eq!(bulk.add(99, Key { score: 9, order: 0 }), count);
        }
    }
}

//! A tournament tree: the best of many leaves, with a leaf changed in O(log n) and no allocation.
//!
//! A leaf is a node that a class may use; its key is (score, name order), the higher score and then
//! the smaller name winning. A leaf that does not fit at the moment stays, with no score.
//!
//! Each match is between eight neighbours, and the winner's key goes up with it: a change looks at two
//! lines of cache a level, and a hundred times the leaves are two levels more.

/// How many compete in a match.
const WIDTH: usize = 8;

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

    #[inline]
    fn beats(self, other: Key) -> bool {
        self.score > other.score || (self.score == other.score && self.order < other.order)
    }
}

/// The winners of a round's matches.
#[derive(Clone, Debug, Default)]
struct Round {
    keys: Vec<Key>,
    /// The leaves that they are.
    leaves: Vec<u32>,
}

/// The tree, with the slot that each leaf stands for.
#[derive(Clone, Debug, Default)]
pub struct Tournament {
    keys: Vec<Key>,
    slots: Vec<u32>,
    /// Each round is played by the winners of the one before, the first by the leaves; the last is one match.
    rounds: Vec<Round>,
    free: Vec<u32>,
    /// Leaves that are feasible now.
    feasible: usize,
}

/// The best of one match: who, by its place in the round before.
fn play(keys: &[Key], number: usize) -> usize {
    let first = number * WIDTH;
    let players = &keys[first..keys.len().min(first + WIDTH)];
    let mut best = 0;
    for (index, key) in players.iter().enumerate().skip(1) {
        if key.beats(players[best]) {
            best = index;
        }
    }
    first + best
}

impl Tournament {
    /// Builds the tree in O(n).
    pub fn build(leaves: Vec<(u32, Key)>) -> Self {
        let mut tree = Tournament::default();
        for (slot, key) in leaves {
            tree.slots.push(slot);
            tree.keys.push(key);
            tree.feasible += usize::from(key.score >= 0);
        }
        while tree.top() > 1 {
            tree.add_round();
        }
        tree
    }

    /// How many there are after the last round.
    fn top(&self) -> usize {
        self.rounds.last().map_or(self.keys.len(), |round| round.keys.len())
    }

    /// Plays another round, of the winners of the last.
    fn add_round(&mut self) {
        let matches = self.top().div_ceil(WIDTH);
        let mut next = Round::default();
        for number in 0..matches {
            let (key, leaf) = self.winner(self.rounds.len(), number);
            next.keys.push(key);
            next.leaves.push(leaf);
        }
        self.rounds.push(next);
    }

    /// The winner of a match of a round.
    fn winner(&self, round: usize, number: usize) -> (Key, u32) {
        match round.checked_sub(1).map(|before| &self.rounds[before]) {
            None => {
                let leaf = play(&self.keys, number);
                (self.keys[leaf], leaf as u32)
            }
            Some(before) => {
                let winner = play(&before.keys, number);
                (before.keys[winner], before.leaves[winner])
            }
        }
    }

    /// The number of leaves in use.
    pub fn len(&self) -> usize {
        self.keys.len() - self.free.len()
    }

    /// The number of leaves that are feasible now.
    pub fn feasible(&self) -> usize {
        self.feasible
    }

    /// The slots and keys of all feasible leaves.
    pub fn fitting(&self) -> impl Iterator<Item = (u32, Key)> {
        let all = self.slots.iter().copied().zip(self.keys.iter().copied());
        all.filter(|(_, key)| key.score >= 0)
    }

    /// The key of a leaf.
    pub fn key(&self, position: u32) -> Option<Key> {
        self.keys.get(position as usize).copied()
    }

    /// The slot and key of the best feasible leaf.
    pub fn best(&self) -> Option<(u32, Key)> {
        let winner = match self.rounds.last() {
            Some(last) => last.leaves[0] as usize,
            None if self.keys.is_empty() => return None,
            None => 0,
        };
        (self.keys[winner].score >= 0).then(|| (self.slots[winner], self.keys[winner]))
    }

    /// Adds a leaf and returns its position.
    pub fn add(&mut self, slot: u32, key: Key) -> u32 {
        let position = match self.free.pop() {
            Some(position) => {
                self.slots[position as usize] = slot;
                position
            }
            None => self.grow(slot),
        };
        self.set(position, key);
        position
    }

    /// Makes a leaf that is out, and the matches that it needs.
    fn grow(&mut self, slot: u32) -> u32 {
        let position = self.keys.len() as u32;
        self.keys.push(Key::OUT);
        self.slots.push(slot);
        let mut players = self.keys.len();
        for round in &mut self.rounds {
            players = players.div_ceil(WIDTH);
            if round.keys.len() < players {
                round.keys.push(Key::OUT);
                round.leaves.push(position);
            }
        }
        if self.top() > 1 {
            self.add_round();
        }
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
        let mut number = position as usize;
        for round in 0..self.rounds.len() {
            number /= WIDTH;
            let before = (self.rounds[round].keys[number], self.rounds[round].leaves[number]);
            let now = match before {
                // The winner may have become worse: its match is played again.
                (was, leaf) if leaf == position && was.beats(key) => self.winner(round, number),
                (was, leaf) if leaf == position || key.beats(was) => (key, position),
                // Nothing changes for the winner, nor in any match above.
                _ => return,
            };
            self.rounds[round].keys[number] = now.0;
            self.rounds[round].leaves[number] = now.1;
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
        for count in (0..20u32).chain([63, 64, 65, 520]) {
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

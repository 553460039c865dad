//! A growable set of small numbers, one bit each: the nodes a compiled class may use.

/// A set of node slots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bitset {
    words: Vec<u64>,
}

impl Bitset {
    /// An empty set with room for slots below `capacity`.
    pub fn with_capacity(capacity: usize) -> Self {
        Bitset { words: vec![0; capacity.div_ceil(64)] }
    }

    /// Puts `slot` in, growing if needed.
    pub fn insert(&mut self, slot: u32) {
        let word = slot as usize / 64;
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        self.words[word] |= 1 << (slot % 64);
    }

    /// Takes `slot` out.
    pub fn remove(&mut self, slot: u32) {
        if let Some(word) = self.words.get_mut(slot as usize / 64) {
            *word &= !(1 << (slot % 64));
        }
    }

    /// Is `slot` in the set?
    pub fn contains(&self, slot: u32) -> bool {
        self.words.get(slot as usize / 64).is_some_and(|word| word & (1 << (slot % 64)) != 0)
    }

    /// Keeps what is in both.
    pub fn intersect(&mut self, other: &Bitset) {
        for (index, word) in self.words.iter_mut().enumerate() {
            *word &= other.words.get(index).copied().unwrap_or(0);
        }
    }

    /// Takes out what is in `other`.
    pub fn subtract(&mut self, other: &Bitset) {
        for (word, out) in self.words.iter_mut().zip(&other.words) {
            *word &= !out;
        }
    }

    /// Adds what is in `other`.
    pub fn union(&mut self, other: &Bitset) {
        if self.words.len() < other.words.len() {
            self.words.resize(other.words.len(), 0);
        }
        for (word, more) in self.words.iter_mut().zip(&other.words) {
            *word |= more;
        }
    }

    /// How many slots are in the set.
    pub fn len(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Is nothing in the set?
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    /// The slots in the set, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.words.iter().enumerate().flat_map(|(index, word)| {
            let mut rest = *word;
            std::iter::from_fn(move || {
                if rest == 0 {
                    return None;
                }
                let bit = rest.trailing_zeros();
                rest &= rest - 1;
                Some(index as u32 * 64 + bit)
            })
        })
    }
}

impl FromIterator<u32> for Bitset {
    fn from_iter<I: IntoIterator<Item = u32>>(slots: I) -> Self {
        let mut set = Bitset::default();
        for slot in slots {
            set.insert(slot);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn set_operations_agree_with_plain_sets() {
        let a: Bitset = [0, 3, 63, 64, 200].into_iter().collect();
        let b: Bitset = [3, 64, 65].into_iter().collect();
        let both = |f: fn(&mut Bitset, &Bitset)| {
            let mut set = a.clone();
            f(&mut set, &b);
            set.iter().collect::<Vec<_>>()
        };
        assert_eq!(both(Bitset::intersect), [3, 64]);
        assert_eq!(both(Bitset::subtract), [0, 63, 200]);
        assert_eq!(both(Bitset::union), [0, 3, 63, 64, 65, 200]);
        assert_eq!(a.len(), 5);
        assert!(a.contains(200) && !a.contains(201) && !a.contains(100_000));
    }
}

//! What a kind's objects are called, and which of them a new list no longer shows.

use std::collections::HashSet;
use std::hash::Hash;

/// The names known of one kind.
#[derive(Clone, Debug)]
pub struct Known<K> {
    names: HashSet<K>,
    /// During a list: what it has shown so far.
    shown: Option<HashSet<K>>,
}

impl<K> Default for Known<K> {
    fn default() -> Self {
        Known { names: HashSet::new(), shown: None }
    }
}

impl<K: Clone + Eq + Hash> Known<K> {
    /// A list of all begins.
    pub fn relist(&mut self) {
        self.shown = Some(HashSet::new());
    }

    /// An object was seen.
    pub fn saw(&mut self, name: &K) {
        if let Some(shown) = &mut self.shown {
            shown.insert(name.clone());
        }
        if !self.names.contains(name) {
            self.names.insert(name.clone());
        }
    }

    /// An object is gone.
    pub fn gone(&mut self, name: &K) {
        self.names.remove(name);
        if let Some(shown) = &mut self.shown {
            shown.remove(name);
        }
    }

    /// The list is complete: the names that it did not show, which are gone.
    pub fn listed(&mut self) -> Vec<K> {
        let Some(shown) = self.shown.take() else { return Vec::new() };
        let gone = self.names.iter().filter(|name| !shown.contains(*name)).cloned().collect();
        self.names = shown;
        gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_list_does_not_show_is_gone() {
        let mut known = Known::default();
        known.saw(&"a");
        known.saw(&"b");
        assert_eq!(known.listed(), [""; 0], "no list was begun");
        known.relist();
        known.saw(&"b");
        known.saw(&"c");
        assert_eq!(known.listed(), ["a"]);
        known.gone(&"c");
        known.relist();
        assert_eq!(known.listed(), ["b"]);
    }
}

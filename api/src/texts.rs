//! Small maps of text in two allocations: what the watch cache keeps of every object must not weigh more than the object.

use std::ops::Index;

use crate::selector::Labels;

/// Texts by key, in key order. Looking one up goes through all keys before it, of which there are few.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Texts {
    /// Each key followed by its value.
    text: Box<str>,
    /// Where each key and each value ends, in turn.
    ends: Box<[u32]>,
}

impl Texts {
    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.iter()
            .take_while(|(candidate, _)| *candidate <= key)
            .find_map(|(name, value)| (name == key).then_some(value))
    }

    /// All keys with their values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> + Clone {
        let mut start = 0;
        let mut next = move |end: u32| {
            let from = std::mem::replace(&mut start, end as usize);
            self.text.get(from..end as usize).unwrap_or_default()
        };
        self.ends.chunks_exact(2).map(move |ends| (next(ends[0]), next(ends[1])))
    }
}

impl Texts {
    /// The texts of keys that come in order, each once.
    pub fn of_sorted<'a, K, V>(pairs: impl IntoIterator<Item = (&'a K, &'a V)> + Clone) -> Self
    where
        K: AsRef<str> + ?Sized + 'a,
        V: AsRef<str> + ?Sized + 'a,
    {
        let (mut count, mut length) = (0, 0);
        for (key, value) in pairs.clone() {
            count += 1;
            length += key.as_ref().len() + value.as_ref().len();
        }
        let (mut text, mut ends) = (String::with_capacity(length), Vec::with_capacity(2 * count));
        for (key, value) in pairs {
            for part in [key.as_ref(), value.as_ref()] {
                text.push_str(part);
                // Objects are a few megabytes at most.
                ends.push(u32::try_from(text.len()).unwrap_or(u32::MAX));
            }
        }
        Self { text: text.into(), ends: ends.into() }
    }
}

impl Labels for Texts {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key)
    }
}

impl Index<&str> for Texts {
    type Output = str;

    fn index(&self, key: &str) -> &str {
        self.get(key).expect("the key is there")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_the_map_it_was_made_of(map in proptest::collection::btree_map("[a-c]{0,2}", ".{0,4}", 0..6), key in "[a-c]{0,2}") {
            let texts = Texts::of_sorted(&map);
            prop_assert_eq!(texts.get(&key), map.get(&key).map(String::as_str));
            prop_assert!(texts.iter().eq(map.iter().map(|(key, value)| (key.as_str(), value.as_str()))));
        }
    }
}

//! What writers know of the values that they store. In: a value with its facts, from who writes it. Out: the facts, when the
//! store's watch brings the very same bytes, which then need not be gone through again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use gantry_api::codec::ObjectFacts;

/// The facts of values that are being written or that the watch has not brought yet: as many as there are writes under way.
#[derive(Debug, Default)]
pub struct Told {
    by_key: Mutex<HashMap<String, (Bytes, ObjectFacts)>>,
}

/// What was told of one write; forgotten when this is dropped, which says that the write has failed.
#[derive(Debug)]
pub struct Telling {
    /// None once the value is stored.
    told: Option<Arc<Told>>,
    key: String,
}

impl Told {
    /// Says what the facts of `value` are, which is about to be stored under `key`.
    pub fn tell(self: &Arc<Self>, key: &str, value: &Bytes, facts: ObjectFacts) -> Telling {
        self.lock().insert(key.to_owned(), (value.clone(), facts));
        Telling { told: Some(Arc::clone(self)), key: key.to_owned() }
    }

    /// The facts of what was stored under `key`, if they were told of these bytes: not of bytes like these, and of no others
    /// that lie where they lay, since they are kept.
    pub(super) fn take(&self, key: &str, value: &Bytes) -> Option<ObjectFacts> {
        let (told, facts) = self.lock().remove(key)?;
        (told.as_ptr() == value.as_ptr() && told.len() == value.len()).then_some(facts)
    }

    /// Forgets everything: what was stored so far comes in no watch.
    pub(super) fn clear(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, (Bytes, ObjectFacts)>> {
        self.by_key.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Telling {
    /// The value is stored: the watch will take the facts, if it has not yet.
    pub fn stored(mut self) {
        self.told = None;
    }
}

impl Drop for Telling {
    fn drop(&mut self) {
        if let Some(told) = &self.told {
            told.lock().remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_of_the_very_bytes_and_forgotten_with_a_write_that_fails() {
        const KEY: &str = "/registry/core/pods/t/p";
        let told = Arc::new(Told::default());
        let value = Bytes::from(vec![b'x'; 64]);
        let facts = ObjectFacts { name: "p".to_owned(), ..ObjectFacts::default() };
        told.tell(KEY, &value, facts.clone()).stored();
        assert_eq!(told.take("/registry/core/pods/t/q", &value), None);
        assert_eq!(told.take(KEY, &value.clone()), Some(facts.clone()));
        assert_eq!(told.take(KEY, &value), None, "once");
        told.tell(KEY, &value, facts.clone()).stored();
        assert_eq!(told.take(KEY, &Bytes::from(vec![b'x'; 64])), None, "who wrote those?");
        drop(told.tell(KEY, &value, facts));
        assert_eq!(told.take(KEY, &value), None, "the write has failed");
        assert!(told.lock().is_empty());
    }
}

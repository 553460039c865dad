//! One cluster for all the tests of a file: started by the first, taken down after the last.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::cluster::{Cluster, Options};

/// A place for a shared cluster; make it a `static`.
pub struct Shared {
    place: Mutex<Weak<Cluster>>,
    options: fn() -> Options,
}

impl Default for Shared {
    fn default() -> Self {
        Self::new()
    }
}

impl Shared {
    /// An empty place.
    pub const fn new() -> Self {
        Self::with(Options::default)
    }

    /// An empty place for a cluster of another kind.
    pub const fn with(options: fn() -> Options) -> Self {
        Self { place: Mutex::new(Weak::new()), options }
    }

    /// The cluster; started now if no other test holds it. `None` when the machine lacks a tool.
    pub fn get(&self) -> Option<Arc<Cluster>> {
        // A test that failed while it held the lock leaves the weak pointer as it was.
        let mut place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cluster) = place.upgrade() {
            return Some(cluster);
        }
        let cluster = Arc::new(Cluster::start((self.options)())?);
        *place = Arc::downgrade(&cluster);
        Some(cluster)
    }
}

//! One cluster for all the tests of a file: started by the first, taken down after the last.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::cluster::{Cluster, Options};

/// A place for a shared cluster; make it a `static`.
#[derive(Default)]
pub struct Shared(Mutex<Weak<Cluster>>);

impl Shared {
    /// An empty place.
    pub const fn new() -> Self {
        Self(Mutex::new(Weak::new()))
    }

    /// The cluster; started now if no other test holds it. `None` when the machine lacks a tool.
    pub fn get(&self) -> Option<Arc<Cluster>> {
        // A test that failed while it held the lock leaves the weak pointer as it was.
        let mut place = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cluster) = place.upgrade() {
            return Some(cluster);
        }
        let cluster = Arc::new(Cluster::start(Options::default())?);
        *place = Arc::downgrade(&cluster);
        Some(cluster)
    }
}

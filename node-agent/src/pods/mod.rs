//! The pods of this node: one worker each, and a directory of what they know.

use std::collections::HashMap;
use std::sync::{Arc, RwLock};

use k8s_openapi::api::core::v1::Pod;

use crate::runtime::PodRecord;

mod act;
mod admission;
mod app_armor;
mod backoff;
mod check;
pub mod config;
pub mod context;
pub(crate) mod env;
pub mod events;
mod fields;
pub mod files;
mod images;
mod keyring;
mod ledger;
mod manager;
mod memory;
mod mirror;
mod objects;
mod plan;
mod probes;
mod publish;
mod pulled;
mod resize;
pub mod resources;
pub mod rotation;
pub(crate) mod spec;
mod start;
mod status;
mod termination;
pub mod verification;
pub mod volumes;
mod worker;

#[cfg(test)]
mod tests;

pub use images::Images;
pub use keyring::repository;
pub use ledger::Ledger;
pub use manager::{Addressed, Manager};
pub use objects::Objects;
pub use pulled::Pulled;
pub use volumes::Tokens;

/// A word of the node to one of its pods: it has to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// The reason in its status, such as `Evicted`.
    pub reason: String,
    /// A sentence.
    pub message: String,
    /// Seconds that its containers get at most.
    pub grace_s: i64,
    /// Whether it is the node's doing, not the pod's own: then it has the condition DisruptionTarget.
    pub disrupts: bool,
}

/// What the agent knows of one pod.
#[derive(Clone, Debug)]
pub struct PodEntry {
    /// The pod as the API last had it, with the status that was last computed here.
    pub pod: Arc<Pod>,
    /// What the runtime last had of it.
    pub record: Arc<PodRecord>,
}

/// All pods of this node by (namespace, name); written by the workers, read by the node's API.
#[derive(Clone, Debug, Default)]
pub struct PodDirectory {
    entries: Arc<RwLock<HashMap<(String, String), PodEntry>>>,
}

impl PodDirectory {
    /// The pod of that namespace and name.
    pub fn find(&self, namespace: &str, name: &str) -> Option<PodEntry> {
        let entries = self.entries.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        entries.get(&(namespace.to_owned(), name.to_owned())).cloned()
    }

    /// All pods, in no order.
    pub fn list(&self) -> Vec<PodEntry> {
        let entries = self.entries.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        entries.values().cloned().collect()
    }

    /// Puts or replaces a pod.
    pub fn put(&self, namespace: &str, name: &str, entry: PodEntry) {
        let mut entries = self.entries.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        entries.insert((namespace.to_owned(), name.to_owned()), entry);
    }

    /// Removes a pod, unless another pod of the same name has taken its place.
    pub(crate) fn remove(&self, namespace: &str, name: &str, uid: &str) {
        let mut entries = self.entries.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        let key = (namespace.to_owned(), name.to_owned());
        if entries.get(&key).is_some_and(|entry| entry.pod.metadata.uid.as_deref() == Some(uid)) {
            entries.remove(&key);
        }
    }
}

//! The kinds of which the state is told, and does no more with an event than take note of it.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::{CSIDriver, CSINode, CSIStorageCapacity, StorageClass};
use kube::ResourceExt;

use super::facts::{WatchedBudget, WatchedNamespace, WatchedNode};
use super::gangs::WatchedGroup;
use super::queues::WatchedQueue;
use super::state::State;
use super::volumes::StorageKind;

/// Such a kind.
pub(super) trait Followed: Sized {
    /// What its objects are called in paths.
    const PLURAL: &'static str;

    /// A list of all begins.
    fn relist(state: &mut State);

    /// The object is new or has changed.
    fn seen(self, state: &mut State);

    /// The object is gone.
    fn gone(self, state: &mut State);

    /// The list of all is complete.
    fn listed(state: &mut State);
}

impl Followed for WatchedNode {
    const PLURAL: &'static str = "nodes";

    fn relist(state: &mut State) {
        state.nodes_relist();
    }

    fn seen(self, state: &mut State) {
        state.node_seen(self.spec);
    }

    fn gone(self, state: &mut State) {
        state.node_gone(&self.spec.name);
    }

    fn listed(state: &mut State) {
        state.nodes_listed();
    }
}

impl Followed for WatchedNamespace {
    const PLURAL: &'static str = "namespaces";

    fn relist(state: &mut State) {
        state.namespaces_relist();
    }

    fn seen(self, state: &mut State) {
        let (name, labels) = self.into_parts();
        state.namespace_seen(name, labels);
    }

    fn gone(self, state: &mut State) {
        state.namespace_gone(&self.into_parts().0);
    }

    fn listed(state: &mut State) {
        state.namespaces_listed();
    }
}

impl Followed for WatchedBudget {
    const PLURAL: &'static str = "poddisruptionbudgets";

    fn relist(state: &mut State) {
        state.budgets_relist();
    }

    fn seen(self, state: &mut State) {
        let (key, budget) = self.into_parts();
        state.budget_seen(key, budget);
    }

    fn gone(self, state: &mut State) {
        state.budget_gone(&self.into_parts().0);
    }

    fn listed(state: &mut State) {
        state.budgets_listed();
    }
}

impl Followed for WatchedGroup {
    const PLURAL: &'static str = "podgroups";

    fn relist(state: &mut State) {
        state.groups_relist();
    }

    fn seen(self, state: &mut State) {
        let (key, spec) = self.into_parts();
        state.group_seen(&key, spec);
    }

    fn gone(self, state: &mut State) {
        state.group_gone(&self.into_parts().0);
    }

    fn listed(state: &mut State) {
        state.groups_listed();
    }
}

impl Followed for WatchedQueue {
    const PLURAL: &'static str = "queues";

    fn relist(state: &mut State) {
        state.queues_relist();
    }

    fn seen(self, state: &mut State) {
        state.queue_seen(self);
    }

    fn gone(self, state: &mut State) {
        state.queue_gone(&self.into_name());
    }

    fn listed(state: &mut State) {
        state.queues_listed();
    }
}

impl Followed for CSINode {
    const PLURAL: &'static str = "csinodes";

    fn relist(state: &mut State) {
        state.csi_nodes_relist();
    }

    fn seen(self, state: &mut State) {
        state.csi_node_seen(&self);
    }

    fn gone(self, state: &mut State) {
        state.csi_node_gone(&self.name_any());
    }

    fn listed(state: &mut State) {
        state.csi_nodes_listed();
    }
}

/// A kind that is about storage.
macro_rules! storage {
    ($type:ty, $plural:literal, $kind:ident, $seen:ident, $gone:ident, $key:expr) => {
        impl Followed for $type {
            const PLURAL: &'static str = $plural;

            fn relist(state: &mut State) {
                state.storage().relist(StorageKind::$kind);
            }

            fn seen(self, state: &mut State) {
                state.storage().$seen(&self);
            }

            fn gone(self, state: &mut State) {
                let key: fn(&$type) -> _ = $key;
                state.storage().$gone(&key(&self));
            }

            fn listed(state: &mut State) {
                state.storage().listed(StorageKind::$kind);
            }
        }
    };
}

fn name<K: ResourceExt>(object: &K) -> String {
    object.name_any()
}

fn key<K: ResourceExt>(object: &K) -> (String, String) {
    (object.namespace().unwrap_or_default(), object.name_any())
}

storage!(PersistentVolumeClaim, "persistentvolumeclaims", Claims, claim_seen, claim_gone, key);
storage!(PersistentVolume, "persistentvolumes", Volumes, volume_seen, volume_gone, name);
storage!(StorageClass, "storageclasses", Classes, class_seen, class_gone, name);
storage!(CSIDriver, "csidrivers", Drivers, driver_seen, driver_gone, name);
storage!(CSIStorageCapacity, "csistoragecapacities", Capacities, capacity_seen, capacity_gone, key);

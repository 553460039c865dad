//! Pods that hold volumes on their nodes, or claims that are for one pod at a time: what they hold is what their claims come to
//! now, and changes with these.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::storage::v1::CSINode;

use super::super::facts::ObjectKey;
use super::super::volumes::{Claimant, Held};
use super::State;
use crate::core::{ClassSpec, PodKey, PodMap, Standing};

/// A pod on a node that uses claims.
#[derive(Clone, Debug)]
struct Holder {
    node: String,
    claimant: Claimant,
    class: ClassSpec,
    standing: Standing,
    held: Held,
}

/// All of them, by themselves and by their claims.
#[derive(Clone, Debug, Default)]
pub(super) struct Holders {
    pods: PodMap<Holder>,
    by_claim: BTreeMap<ObjectKey, BTreeSet<PodKey>>,
}

fn keys(claimant: &Claimant) -> impl Iterator<Item = ObjectKey> + '_ {
    claimant.claims.iter().map(|claim| (claimant.namespace.clone(), claim.name.clone()))
}

impl Holders {
    pub(super) fn gone(&mut self, pod: PodKey) {
        let Some(holder) = self.pods.remove(&pod) else { return };
        for key in keys(&holder.claimant) {
            if let Some(pods) = self.by_claim.get_mut(&key) {
                pods.remove(&pod);
                if pods.is_empty() {
                    self.by_claim.remove(&key);
                }
            }
        }
    }

    fn came(&mut self, pod: PodKey, holder: Holder) {
        self.gone(pod);
        for key in keys(&holder.claimant) {
            self.by_claim.entry(key).or_default().insert(pod);
        }
        self.pods.insert(pod, holder);
    }
}

/// The class with what the pod's claims come to.
pub(super) fn with_held(class: &ClassSpec, held: &Held) -> ClassSpec {
    let mut class = class.clone();
    class.demand.attachments.clone_from(&held.attachments);
    class.demand.exclusive.clone_from(&held.exclusive);
    class
}

impl State {
    /// A pod that uses claims has a node.
    pub(super) fn holder_assigned(
        &mut self,
        key: PodKey,
        node: &str,
        claimant: &Claimant,
        class: &ClassSpec,
        standing: Standing,
    ) {
        let held = self.storage.held(claimant);
        self.pod_added(key, node, &with_held(class, &held), standing);
        let (node, claimant, class) = (node.to_owned(), claimant.clone(), class.clone());
        self.holders.came(key, Holder { node, claimant, class, standing, held });
    }

    /// After changes of claims: accounts what the pods that use them hold now.
    pub(super) fn look_at_holders(&mut self) {
        let touched = self.storage.take_touched();
        if touched.is_none() {
            return;
        }
        let pods: BTreeSet<PodKey> = match touched.claims() {
            None => self.holders.pods.keys().copied().collect(),
            Some(claims) => claims.iter().filter_map(|key| self.holders.by_claim.get(key)).flatten().copied().collect(),
        };
        for key in pods {
            let Some(holder) = self.holders.pods.get_mut(&key) else { continue };
            let held = self.storage.held(&holder.claimant);
            if held == holder.held {
                continue;
            }
            let (node, class, standing) = (holder.node.clone(), with_held(&holder.class, &held), holder.standing);
            holder.held = held;
            self.pod_added(key, &node, &class, standing);
        }
    }

    /// How many volumes a node can have attached is new or has changed.
    pub fn csi_node_seen(&mut self, node: &CSINode) {
        let name = self.storage.csi_node_seen(node);
        self.csi_nodes.saw(&name);
        self.limits_changed(&name);
    }

    /// Nothing is known any more of how many volumes a node can have attached.
    pub fn csi_node_gone(&mut self, name: &String) {
        self.csi_nodes.gone(name);
        self.storage.csi_node_gone(name);
        self.limits_changed(name);
    }

    fn limits_changed(&mut self, name: &str) {
        if let Some(mut node) = self.engine.node(name).cloned() {
            node.attach_limits = self.storage.limits(name);
            self.set_node(node);
        }
    }

    /// A list of how many volumes nodes can have attached begins.
    pub fn csi_nodes_relist(&mut self) {
        self.csi_nodes.relist();
    }

    /// The list of how many volumes nodes can have attached is complete.
    pub fn csi_nodes_listed(&mut self) {
        for name in self.csi_nodes.listed() {
            self.csi_node_gone(&name);
        }
    }
}

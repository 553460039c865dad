//! Who owns whom: every object that the garbage collector knows, by UID, and the dependents of every owner, known
//! or not. Pure.
//!
//! Each change answers with the UIDs that have to be looked at because of it.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::discovery::ApiResource;

/// The finalizer of foreground deletion.
pub const FOREGROUND: &str = "foregroundDeletion";
/// The finalizer of orphaning deletion.
pub const ORPHAN: &str = "orphan";
/// How many owners known to be absent are remembered, to spare a request for each of many dependents.
const ABSENT_MAX: usize = 500;

/// A resource type and whether its objects live in namespaces.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Type {
    /// Group, version, kind and plural name.
    pub resource: ApiResource,
    /// Whether its objects live in namespaces.
    pub namespaced: bool,
}

/// One object, reduced to what matters here.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// What it is.
    pub kind: Arc<Type>,
    /// The namespace, "" if it has none.
    pub namespace: String,
    /// The name.
    pub name: String,
    /// Its owners.
    pub owners: Vec<OwnerReference>,
    /// It is being deleted.
    pub deleting: bool,
    /// It carries the finalizer of foreground deletion.
    pub foreground: bool,
    /// It carries the finalizer of orphaning.
    pub orphan: bool,
}

impl Node {
    /// A node from an object's metadata.
    pub fn new(kind: Arc<Type>, meta: &ObjectMeta) -> Self {
        let has = |finalizer: &str| meta.finalizers.iter().flatten().any(|f| f == finalizer);
        Node {
            kind,
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
            owners: meta.owner_references.clone().unwrap_or_default(),
            deleting: meta.deletion_timestamp.is_some(),
            foreground: has(FOREGROUND),
            orphan: has(ORPHAN),
        }
    }

    /// It waits for its dependents to be deleted.
    pub fn waits_for_dependents(&self) -> bool {
        self.deleting && self.foreground
    }

    /// It waits for its dependents to be let go.
    pub fn waits_for_orphaning(&self) -> bool {
        self.deleting && self.orphan
    }

    /// Whether this node blocks the foreground deletion of the owner with this UID.
    pub fn blocks(&self, owner: &str) -> bool {
        self.owners.iter().any(|o| o.uid == owner && o.block_owner_deletion == Some(true))
    }

    /// Whether a reference carried by an object in `namespace` means this node.
    pub fn is_meant_by(&self, reference: &OwnerReference, namespace: &str) -> bool {
        let group = reference.api_version.rsplit_once('/').map_or("", |(group, _)| group);
        self.name == reference.name
            && self.kind.resource.kind == reference.kind
            && self.kind.resource.group == group
            && (!self.kind.namespaced || self.namespace == namespace)
    }
}

/// See the module's description. Its size is that of the metadata of all objects.
#[derive(Debug, Default)]
pub struct Graph {
    nodes: HashMap<String, Node>,
    dependents: HashMap<String, HashSet<String>>,
    absent: HashSet<String>,
    absent_order: VecDeque<String>,
}

impl Graph {
    /// Takes in an object as it is now.
    pub fn observe(&mut self, uid: &str, node: Node) -> BTreeSet<String> {
        let mut affected = BTreeSet::new();
        let old = self.nodes.get(uid);
        if old == Some(&node) {
            return affected;
        }
        let old_owners = old.map(|old| old.owners.clone()).unwrap_or_default();
        let waited = old.is_some_and(Node::waits_for_dependents);
        // Owners that may no longer be blocked by this node.
        for owner in &old_owners {
            let waits = |o: &Node| o.waits_for_dependents();
            if self.nodes.get(&owner.uid).is_some_and(waits) && !node.blocks(&owner.uid) {
                affected.insert(owner.uid.clone());
            }
            if !node.owners.iter().any(|o| o.uid == owner.uid) {
                self.unlink(&owner.uid, uid);
            }
        }
        for owner in &node.owners {
            self.dependents.entry(owner.uid.clone()).or_default().insert(uid.to_owned());
        }
        let waits = node.waits_for_dependents();
        let newly_waits = waits && !waited;
        if waits || node.waits_for_orphaning() || self.is_suspicious(&node) {
            affected.insert(uid.to_owned());
        }
        if newly_waits {
            affected.extend(self.dependents_of(uid));
        }
        self.nodes.insert(uid.to_owned(), node);
        affected
    }

    /// Takes in that an object is gone.
    pub fn remove(&mut self, uid: &str) -> BTreeSet<String> {
        let mut affected: BTreeSet<String> = self.dependents_of(uid).into_iter().collect();
        if !affected.is_empty() {
            self.note_absent(uid);
        }
        if let Some(node) = self.nodes.remove(uid) {
            for owner in node.owners {
                self.unlink(&owner.uid, uid);
                let waits = |o: &Node| o.waits_for_dependents();
                if self.nodes.get(&owner.uid).is_some_and(waits) {
                    affected.insert(owner.uid);
                }
            }
        }
        affected
    }

    /// Forgets an object without concluding anything: its type is no longer watched.
    pub fn forget(&mut self, uid: &str) {
        if let Some(node) = self.nodes.remove(uid) {
            for owner in node.owners {
                self.unlink(&owner.uid, uid);
            }
        }
    }

    fn unlink(&mut self, owner: &str, dependent: &str) {
        if let Some(dependents) = self.dependents.get_mut(owner) {
            dependents.remove(dependent);
            if dependents.is_empty() {
                self.dependents.remove(owner);
            }
        }
    }

    /// Some owner is not here as the reference says, or is on its way out.
    fn is_suspicious(&self, node: &Node) -> bool {
        !node.deleting
            && node.owners.iter().any(|reference| {
                self.nodes
                    .get(&reference.uid)
                    .is_none_or(|owner| owner.waits_for_dependents() || !owner.is_meant_by(reference, &node.namespace))
            })
    }

    /// The object of this UID.
    pub fn get(&self, uid: &str) -> Option<&Node> {
        self.nodes.get(uid)
    }

    /// The UIDs of all objects that name `uid` as an owner.
    pub fn dependents_of(&self, uid: &str) -> Vec<String> {
        self.dependents.get(uid).into_iter().flatten().cloned().collect()
    }

    /// Remembers that no object of this UID exists; UIDs never come back.
    pub fn note_absent(&mut self, uid: &str) {
        if self.absent.insert(uid.to_owned()) {
            self.absent_order.push_back(uid.to_owned());
            if self.absent_order.len() > ABSENT_MAX
                && let Some(oldest) = self.absent_order.pop_front()
            {
                self.absent.remove(&oldest);
            }
        }
    }

    /// Whether the owner of this UID is known not to exist.
    pub fn is_absent(&self, uid: &str) -> bool {
        self.absent.contains(uid)
    }
}

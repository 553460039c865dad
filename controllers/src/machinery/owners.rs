//! Owner references: who controls an object, by UID, and the patches that adopt and release.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::{Resource, ResourceExt};
use serde_json::{Value, json};

/// The reference to the object's controller.
pub fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))
}

/// Whether `owner` is the controller of the object with this metadata.
pub fn is_controlled_by<K: Resource>(meta: &ObjectMeta, owner: &K) -> bool {
    match (controller_of(meta), owner.meta().uid.as_deref()) {
        (Some(reference), Some(uid)) => reference.uid == uid,
        _ => false,
    }
}

/// A reference that makes `owner` the controller of the object that carries it.
pub fn controller_reference<K: Resource<DynamicType = ()>>(owner: &K) -> OwnerReference {
    OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name: owner.name_any(),
        uid: owner.uid().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// The strategic merge patch by which `owner` adopts the object with the UID `uid`.
pub fn adopt_patch<K: Resource<DynamicType = ()>>(owner: &K, uid: &str) -> Value {
    json!({"metadata": {"ownerReferences": [controller_reference(owner)], "uid": uid}})
}

/// The strategic merge patch by which the owner with the UID `owner_uid` lets go of the object.
pub fn release_patch(owner_uid: &str, uid: &str) -> Value {
    json!({"metadata": {"ownerReferences": [{"$patch": "delete", "uid": owner_uid}], "uid": uid}})
}

/// Names for a cache's index: under which controller an object is, or that it is an orphan of its namespace.
pub fn controller_index(meta: &ObjectMeta) -> Vec<String> {
    match controller_of(meta) {
        Some(owner) => vec![controlled_by(&owner.uid)],
        None => vec![orphans_of(meta.namespace.as_deref().unwrap_or_default())],
    }
}

/// The index name for what the owner of this UID controls.
pub fn controlled_by(uid: &str) -> String {
    format!("controller/{uid}")
}

/// The index name for what nobody controls in a namespace.
pub fn orphans_of(namespace: &str) -> String {
    format!("orphan/{namespace}")
}

//! When a claim or a volume that is to be deleted may go. Pure.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;

use crate::machinery::pods;

/// Holds a claim while pods use it.
pub const CLAIM_FINALIZER: &str = "kubernetes.io/pvc-protection";
/// Holds a volume while a claim has it.
pub const VOLUME_FINALIZER: &str = "kubernetes.io/pv-protection";

/// Holds a class of attributes while a claim or a volume has it.
pub const ATTRIBUTES_CLASS_FINALIZER: &str = "kubernetes.io/vac-protection";

/// The finalizers that are left, if this one is there to be taken and `in_use` does not hold the object.
pub fn without(meta: &ObjectMeta, finalizer: &str, in_use: bool) -> Option<Vec<String>> {
    let finalizers = meta.finalizers.as_ref()?;
    let is_due = meta.deletion_timestamp.is_some() && !in_use && finalizers.iter().any(|one| one == finalizer);
    is_due.then(|| finalizers.iter().filter(|one| *one != finalizer).cloned().collect())
}

/// The claims that a pod names: with those that are made for it, which are called after it.
pub fn claims_of(pod: &Pod) -> Vec<String> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let names = volumes.filter_map(|volume| match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(claim), _) => Some(claim.claim_name.clone()),
        (None, Some(_)) => Some(format!("{}-{}", pod.name_any(), volume.name)),
        _ => None,
    });
    names.collect()
}

/// Does a pod that has a node use the claim? One without is not let onto a claim that goes.
pub fn uses(pod: &Pod, claim: &PersistentVolumeClaim) -> bool {
    let name = claim.name_any();
    let own = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()).any(|volume| {
        let made_for_it = volume.ephemeral.is_some() && format!("{}-{}", pod.name_any(), volume.name) == name;
        let owned = || claim.owner_references().iter().any(|owner| Some(&owner.uid) == pod.metadata.uid.as_ref());
        let named = volume.persistent_volume_claim.as_ref().is_some_and(|one| one.claim_name == name);
        named || (made_for_it && !pods::is_terminal(pod) && owned())
    });
    own && !pods::node_name(pod).is_empty()
}

/// Does a claim have the volume?
pub fn is_bound(volume: &PersistentVolume) -> bool {
    volume.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Bound"))
}

/// The classes of attributes that a claim has, wants, or is being given.
pub fn classes_of_claim(claim: &PersistentVolumeClaim) -> impl Iterator<Item = &str> {
    let status = claim.status.as_ref();
    let wanted = claim.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.as_deref());
    let has = status.and_then(|status| status.current_volume_attributes_class_name.as_deref());
    let gets = status.and_then(|status| status.modify_volume_status.as_ref());
    let gets = gets.and_then(|gets| gets.target_volume_attributes_class_name.as_deref());
    [wanted, has, gets].into_iter().flatten()
}

/// The class of attributes that a volume has.
pub fn class_of_volume(volume: &PersistentVolume) -> Option<&str> {
    volume.spec.as_ref()?.volume_attributes_class_name.as_deref()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn claim(name: &str) -> PersistentVolumeClaim {
        let owner = json!([{"apiVersion": "v1", "kind": "Pod", "name": "web", "uid": "p"}]);
        let meta = json!({"name": name, "ownerReferences": owner, "finalizers": ["a", CLAIM_FINALIZER]});
        serde_json::from_value(json!({ "metadata": meta })).unwrap()
    }

    fn pod(node: &str, volume: Value) -> Pod {
        let spec = json!({"nodeName": node, "containers": [], "volumes": [volume]});
        serde_json::from_value(json!({"metadata": {"name": "web", "uid": "p"}, "spec": spec})).unwrap()
    }

    #[test]
    fn a_claim_goes_when_no_pod_on_a_node_uses_it() {
        let mut meta = claim("data").metadata;
        assert_eq!(without(&meta, CLAIM_FINALIZER, false), None, "nobody wants it to go");
        meta.deletion_timestamp = serde_json::from_value(json!("2024-01-01T00:00:00Z")).unwrap();
        assert_eq!(without(&meta, CLAIM_FINALIZER, true), None);
        assert_eq!(without(&meta, CLAIM_FINALIZER, false), Some(vec!["a".to_owned()]));
        assert_eq!(without(&meta, VOLUME_FINALIZER, false), None);
    }

    #[test]
    fn a_class_of_attributes_is_held_by_all_that_have_it_or_will() {
        let claim: PersistentVolumeClaim = serde_json::from_value(json!({
            "spec": {"volumeAttributesClassName": "gold"},
            "status": {"currentVolumeAttributesClassName": "tin",
                       "modifyVolumeStatus": {"status": "InProgress", "targetVolumeAttributesClassName": "silver"}}}))
        .unwrap();
        assert_eq!(classes_of_claim(&claim).collect::<Vec<_>>(), ["gold", "tin", "silver"]);
        let volume = serde_json::from_value(json!({"spec": {"volumeAttributesClassName": "gold"}})).unwrap();
        assert_eq!(class_of_volume(&volume), Some("gold"));
        assert_eq!(class_of_volume(&PersistentVolume::default()), None);
    }

    #[test]
    fn pods_use_the_claims_that_they_name_and_those_made_for_them() {
        let named = json!({"name": "v", "persistentVolumeClaim": {"claimName": "data"}});
        let made = json!({"name": "v", "ephemeral": {}});
        assert!(uses(&pod("n", named.clone()), &claim("data")));
        assert!(!uses(&pod("", named.clone()), &claim("data")), "it has no node");
        assert!(!uses(&pod("n", named), &claim("other")));
        assert_eq!(claims_of(&pod("n", made.clone())), ["web-v"]);
        let mut ended = pod("n", made);
        assert!(uses(&ended, &claim("web-v")));
        ended.status = serde_json::from_value(json!({"phase": "Failed"})).unwrap();
        assert!(!uses(&ended, &claim("web-v")));
    }
}

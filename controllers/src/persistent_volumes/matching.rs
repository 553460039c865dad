//! Which volume suits a claim. Pure.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use gantry_api::quantity::Quantity as Amount;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::ResourceExt;
use kube::core::{Selector, SelectorExt};

/// The older way to name a storage class.
const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";

/// The storage class that a claim names; empty is none.
pub fn claim_class(claim: &PersistentVolumeClaim) -> &str {
    let annotated = claim.annotations().get(CLASS_ANNOTATION).map(String::as_str);
    annotated.or(claim.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref())).unwrap_or_default()
}

/// Does the claim leave its class to the cluster?
pub fn leaves_class_open(claim: &PersistentVolumeClaim) -> bool {
    !claim.annotations().contains_key(CLASS_ANNOTATION)
        && claim.spec.as_ref().is_none_or(|spec| spec.storage_class_name.is_none())
}

/// The storage class that a volume is of; empty is none.
pub fn volume_class(volume: &PersistentVolume) -> &str {
    let annotated = volume.annotations().get(CLASS_ANNOTATION).map(String::as_str);
    annotated.or(volume.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref())).unwrap_or_default()
}

/// Is the volume reserved for this claim, or bound to it?
pub fn is_for(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let Some(reference) = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()) else { return false };
    let of = reference.uid.as_deref().filter(|uid| !uid.is_empty());
    reference.name == claim.metadata.name
        && reference.namespace == claim.metadata.namespace
        && of.is_none_or(|uid| Some(uid) == claim.metadata.uid.as_deref())
}

/// The volume of `volumes` that the claim gets: the one reserved for it, or else the smallest that is free and suits,
/// the first by name among equals. With `only_reserved` no other is taken: the scheduler will choose.
pub fn find<'a>(
    claim: &PersistentVolumeClaim,
    volumes: impl Iterator<Item = &'a PersistentVolume>,
    only_reserved: bool,
) -> Option<&'a PersistentVolume> {
    let mut smallest: Option<&PersistentVolume> = None;
    for volume in volumes.filter(|volume| volume.metadata.deletion_timestamp.is_none()) {
        if too_small(volume, claim) || modes_differ(volume, claim) || attributes_differ(volume, claim) {
            continue;
        }
        if is_for(volume, claim) {
            return Some(volume);
        }
        let is_claimed = volume.spec.as_ref().is_some_and(|spec| spec.claim_ref.is_some());
        let is_free = !is_claimed && phase(volume) == "Available" && !only_reserved;
        if !is_free
            || volume_class(volume) != claim_class(claim)
            || !selected(volume, claim)
            || !accessible(volume, claim)
        {
            continue;
        }
        let order = |other: &PersistentVolume| {
            compare(capacity(volume), capacity(other)).then(volume.name_any().cmp(&other.name_any()))
        };
        if smallest.is_none_or(|smallest| order(smallest) == Ordering::Less) {
            smallest = Some(volume);
        }
    }
    smallest
}

/// Why a volume that a claim asks for by name cannot be its own.
pub fn mismatch(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Option<String> {
    let reason = if volume.metadata.deletion_timestamp.is_some() {
        return Some(format!("the volume is marked for deletion {:?}", volume.name_any()));
    } else if too_small(volume, claim) {
        "requested PV is too small"
    } else if volume_class(volume) != claim_class(claim) {
        "storageClassName does not match"
    } else if attributes_differ(volume, claim) {
        "volumeAttributesClassName does not match"
    } else if modes_differ(volume, claim) {
        "incompatible volumeMode"
    } else if !accessible(volume, claim) {
        "incompatible accessMode"
    } else {
        return None;
    };
    Some(reason.to_owned())
}

/// `status.phase`, empty if there is none.
pub fn phase(volume: &PersistentVolume) -> &str {
    volume.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

fn capacity(volume: &PersistentVolume) -> Option<&Quantity> {
    volume.spec.as_ref()?.capacity.as_ref()?.get("storage")
}

fn compare(a: Option<&Quantity>, b: Option<&Quantity>) -> Ordering {
    let amount = |quantity: Option<&Quantity>| quantity.and_then(|quantity| Amount::parse(&quantity.0).ok());
    match (amount(a), amount(b)) {
        (Some(a), Some(b)) => a.sub(&b).signum().cmp(&0),
        (a, b) => a.is_some().cmp(&b.is_some()),
    }
}

fn too_small(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let resources = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref());
    let wanted = resources.and_then(|resources| resources.requests.as_ref()?.get("storage"));
    compare(capacity(volume), wanted) == Ordering::Less
}

/// Is one a file system and the other a raw device?
pub fn modes_differ(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let default = "Filesystem";
    let of_volume = volume.spec.as_ref().and_then(|spec| spec.volume_mode.as_deref()).unwrap_or(default);
    let of_claim = claim.spec.as_ref().and_then(|spec| spec.volume_mode.as_deref()).unwrap_or(default);
    of_volume != of_claim
}

fn attributes_differ(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let of_volume = volume.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.as_deref());
    let of_claim = claim.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.as_deref());
    of_volume.unwrap_or_default() != of_claim.unwrap_or_default()
}

fn accessible(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let offered = volume.spec.as_ref().and_then(|spec| spec.access_modes.as_deref()).unwrap_or_default();
    let wanted = claim.spec.as_ref().and_then(|spec| spec.access_modes.as_deref()).unwrap_or_default();
    wanted.iter().all(|mode| offered.contains(mode))
}

fn selected(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let wanted: Option<&LabelSelector> = claim.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    let labels: &BTreeMap<String, String> = volume.labels();
    wanted.is_none_or(|wanted| Selector::try_from(wanted.clone()).is_ok_and(|selector| selector.matches(labels)))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn volume(name: &str, size: &str, spec: Value) -> PersistentVolume {
        let mut volume = json!({"metadata": {"name": name, "labels": {"disk": "fast"}},
            "spec": {"capacity": {"storage": size}, "accessModes": ["ReadWriteOnce"], "storageClassName": "local"},
            "status": {"phase": "Available"}});
        for (key, value) in spec.as_object().unwrap() {
            volume["spec"][key] = value.clone();
        }
        serde_json::from_value(volume).unwrap()
    }

    fn claim(spec: Value) -> PersistentVolumeClaim {
        let mut claim = json!({"metadata": {"name": "data", "namespace": "shop", "uid": "u"},
            "spec": {"resources": {"requests": {"storage": "1Gi"}}, "accessModes": ["ReadWriteOnce"],
                "storageClassName": "local"}});
        for (key, value) in spec.as_object().unwrap() {
            claim["spec"][key] = value.clone();
        }
        serde_json::from_value(claim).unwrap()
    }

    fn found(volumes: &[PersistentVolume], claim: &PersistentVolumeClaim, only_reserved: bool) -> Option<String> {
        find(claim, volumes.iter(), only_reserved).map(ResourceExt::name_any)
    }

    #[test]
    fn the_smallest_that_suits_is_taken() {
        let volumes = [
            volume("large", "3000Mi", json!({})),
            volume("b", "2Gi", json!({})),
            volume("a", "2048Mi", json!({})),
            volume("tiny", "1000Mi", json!({})),
            volume("device", "1Gi", json!({"volumeMode": "Block"})),
            volume("other", "1Gi", json!({"storageClassName": "else"})),
            volume("shared", "1Gi", json!({"accessModes": ["ReadOnlyMany"]})),
            volume("taken", "1Gi", json!({"claimRef": {"namespace": "shop", "name": "other"}})),
            volume("of-another-life", "1Gi", json!({"claimRef": {"namespace": "shop", "name": "data", "uid": "old"}})),
        ];
        assert_eq!(found(&volumes, &claim(json!({})), false).as_deref(), Some("a"));
        assert_eq!(found(&volumes, &claim(json!({})), true), None, "the scheduler chooses");
        let wants = |key: &str| claim(json!({"selector": {"matchLabels": {"disk": key}}}));
        assert_eq!(found(&volumes, &wants("fast"), false).as_deref(), Some("a"));
        assert_eq!(found(&volumes, &wants("slow"), false), None);
    }

    #[test]
    fn one_that_is_reserved_goes_before_all_others() {
        let reserved = json!({"claimRef": {"namespace": "shop", "name": "data"}, "storageClassName": "whatever"});
        let volumes = [volume("a", "1Gi", json!({})), volume("mine", "9Gi", reserved)];
        for only_reserved in [false, true] {
            assert_eq!(found(&volumes, &claim(json!({})), only_reserved).as_deref(), Some("mine"));
        }
    }

    #[test]
    fn a_volume_asked_for_by_name_must_suit_too() {
        let cases = [
            (json!({}), None),
            (json!({"resources": {"requests": {"storage": "2Gi"}}}), Some("requested PV is too small")),
            (json!({"storageClassName": ""}), Some("storageClassName does not match")),
            (json!({"volumeMode": "Block"}), Some("incompatible volumeMode")),
            (json!({"accessModes": ["ReadWriteMany"]}), Some("incompatible accessMode")),
            (json!({"volumeAttributesClassName": "gold"}), Some("volumeAttributesClassName does not match")),
        ];
        for (spec, expected) in cases {
            assert_eq!(mismatch(&volume("a", "1Gi", json!({})), &claim(spec.clone())).as_deref(), expected, "{spec}");
        }
    }
}

//! The next step in the life of a claim or a volume. Pure.
//!
//! A binding is made in four writes: the volume says whose it is, then its phase; the claim says which it has, then
//! its phase. Each look plans the first that is missing, so it does not matter where an earlier try ended, and whoever
//! else (a scheduler, a user) made one of them.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimStatus};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::ResourceExt;
use serde_json::{Value, json};

use super::matching::{self, claim_class, is_for, phase};

/// The claim has been bound once.
pub const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// The binding was the controller's choice, not the user's.
pub const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
/// The node for which the scheduler wants a volume.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// Who made a volume.
const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// Who is to make a volume, for a claim.
const PROVISIONER: [&str; 2] =
    ["volume.beta.kubernetes.io/storage-provisioner", "volume.kubernetes.io/storage-provisioner"];
/// The provisioner of classes whose volumes people make.
const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";

/// One write, or none.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// All is as it should be.
    Nothing,
    /// Merge this into the claim.
    PatchClaim(Value),
    /// Write the claim's status.
    ClaimStatus(PersistentVolumeClaimStatus),
    /// Merge this into a volume.
    PatchVolume(String, Value),
    /// Write a volume's phase, and why.
    VolumePhase(String, &'static str, String),
    /// A volume is bound to a claim that does not know it yet: look at that.
    LookAtClaim,
}

/// What users are told beside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Is it a warning?
    pub warning: bool,
    /// The event's reason.
    pub reason: &'static str,
    /// The event's message.
    pub message: String,
}

impl Notice {
    fn normal(reason: &'static str, message: impl Into<String>) -> Option<Notice> {
        Some(Notice { warning: false, reason, message: message.into() })
    }

    fn warning(reason: &'static str, message: impl Into<String>) -> Option<Notice> {
        Some(Notice { warning: true, reason, message: message.into() })
    }
}

/// A step and what is told.
pub type Planned = (Step, Option<Notice>);

/// What a claim's plan looks at.
pub trait World {
    /// The volume of this name.
    fn volume(&self, name: &str) -> Option<&PersistentVolume>;
    /// The volumes that may suit: those of the claim's class and those reserved for it.
    fn volumes(&self) -> impl Iterator<Item = &PersistentVolume>;
    /// The class that the claim names, if there is one.
    fn class(&self) -> Option<&StorageClass>;
    /// The class of claims that name none, if there is one.
    fn default_class(&self) -> Option<String>;
    /// The pods without a node that use the claim.
    fn waiting_pods(&self) -> Vec<String>;
}

/// Plans for a claim.
pub fn plan_claim(claim: &PersistentVolumeClaim, world: &impl World) -> Planned {
    if claim.metadata.deletion_timestamp.is_some() && !has(claim.annotations(), BIND_COMPLETED) {
        return (Step::Nothing, None);
    }
    let wanted = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).filter(|name| !name.is_empty());
    match (has(claim.annotations(), BIND_COMPLETED), wanted) {
        (false, None) => plan_open(claim, world),
        (false, Some(name)) => plan_wanted(claim, name, world),
        (true, None) => {
            lost(claim, "ClaimLost", "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!")
        }
        (true, Some(name)) => match world.volume(name) {
            None => lost(claim, "ClaimLost", "Bound claim has lost its PersistentVolume. Data on the volume is lost!"),
            Some(volume) => match claim_ref(volume) {
                Some(reference) if reference.uid != claim.metadata.uid => {
                    let message = "Two claims are bound to the same volume, this one is bound incorrectly";
                    lost(claim, "ClaimMisbound", message)
                }
                _ => (bind(volume, claim), None),
            },
        },
    }
}

/// A claim that takes any volume that suits.
fn plan_open(claim: &PersistentVolumeClaim, world: &impl World) -> Planned {
    let waits = world.class().is_some_and(|class| class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"));
    if let Some(volume) = matching::find(claim, world.volumes(), waits) {
        return (bind(volume, claim), None);
    }
    if matching::leaves_class_open(claim)
        && let Some(class) = world.default_class()
    {
        return (Step::PatchClaim(json!({"spec": {"storageClassName": class}})), None);
    }
    let class = claim_class(claim);
    if waits && !has(claim.annotations(), SELECTED_NODE) {
        let pods = world.waiting_pods();
        let notice = match pods.as_slice() {
            [] => Notice::normal("WaitForFirstConsumer", "waiting for first consumer to be created before binding"),
            [pod] => Notice::normal("WaitForPodScheduled", format!("waiting for pod {pod} to be scheduled")),
            pods => {
                Notice::normal("WaitForPodScheduled", format!("waiting for pods {} to be scheduled", pods.join(",")))
            }
        };
        return (pending(claim), notice);
    }
    if class.is_empty() {
        let message = "no persistent volumes available for this claim and no storage class is set";
        return (pending(claim), Notice::normal("FailedBinding", message));
    }
    let Some(found) = world.class() else {
        let message = format!("storageclass.storage.k8s.io {class:?} not found");
        return (pending(claim), Notice::warning("ProvisioningFailed", message));
    };
    let provisioner = found.provisioner.as_str();
    if provisioner == NO_PROVISIONER {
        let message = format!("no volume plugin matched name: {NO_PROVISIONER}");
        return (pending(claim), Notice::warning("ProvisioningFailed", message));
    }
    if PROVISIONER.iter().any(|key| claim.annotations().get(*key).map(String::as_str) != Some(provisioner)) {
        let annotations = json!({PROVISIONER[0]: provisioner, PROVISIONER[1]: provisioner});
        return (Step::PatchClaim(json!({"metadata": {"annotations": annotations}})), None);
    }
    let message = format!(
        "Waiting for a volume to be created either by the external provisioner '{provisioner}' or manually by the system \
         administrator. If volume creation is delayed, please verify that the provisioner is running and correctly \
         registered."
    );
    (pending(claim), Notice::normal("ExternalProvisioning", message))
}

/// A claim that asks for a volume by name.
fn plan_wanted(claim: &PersistentVolumeClaim, name: &str, world: &impl World) -> Planned {
    let Some(volume) = world.volume(name) else { return (pending(claim), None) };
    if is_for(volume, claim) {
        return (bind(volume, claim), None);
    }
    if claim_ref(volume).is_some() {
        let message = format!("volume {name:?} already bound to a different claim.");
        return (pending(claim), Notice::warning("FailedBinding", message));
    }
    match matching::mismatch(volume, claim) {
        None => (bind(volume, claim), None),
        Some(why) => {
            let message = format!("Cannot bind to requested volume {name:?}: {why}");
            (pending(claim), Notice::warning("VolumeMismatch", message))
        }
    }
}

/// The first of the four writes that is missing.
fn bind(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Step {
    let name = volume.name_any();
    let is_complete = claim_ref(volume).is_some_and(|reference| reference.uid == claim.metadata.uid);
    if !is_complete {
        let reference = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": claim.metadata.namespace,
            "name": claim.metadata.name, "uid": claim.metadata.uid, "resourceVersion": claim.metadata.resource_version});
        let mut patch = json!({"spec": {"claimRef": reference}});
        if !is_for(volume, claim) {
            patch["metadata"] = json!({"annotations": {BOUND_BY_CONTROLLER: "yes"}});
        }
        return Step::PatchVolume(name, patch);
    }
    if phase(volume) != "Bound" {
        return Step::VolumePhase(name, "Bound", String::new());
    }
    let has_it = claim.spec.as_ref().is_some_and(|spec| spec.volume_name.as_deref() == Some(name.as_str()));
    if !has_it || !has(claim.annotations(), BIND_COMPLETED) {
        let mut annotations = json!({BIND_COMPLETED: "yes"});
        if !has_it {
            annotations[BOUND_BY_CONTROLLER] = json!("yes");
        }
        return Step::PatchClaim(json!({"metadata": {"annotations": annotations}, "spec": {"volumeName": name}}));
    }
    let spec = volume.spec.clone().unwrap_or_default();
    let status = claim.status.clone().unwrap_or_default();
    let was_bound = status.phase.as_deref() == Some("Bound");
    let wanted = PersistentVolumeClaimStatus {
        phase: Some("Bound".into()),
        access_modes: spec.access_modes,
        // Once bound, only growing the volume changes it.
        capacity: if was_bound && status.capacity.is_some() { status.capacity.clone() } else { spec.capacity },
        current_volume_attributes_class_name: if was_bound {
            status.current_volume_attributes_class_name.clone()
        } else {
            spec.volume_attributes_class_name
        },
        ..status.clone()
    };
    if wanted == status { Step::Nothing } else { Step::ClaimStatus(wanted) }
}

fn pending(claim: &PersistentVolumeClaim) -> Step {
    in_phase(claim, "Pending")
}

fn in_phase(claim: &PersistentVolumeClaim, phase: &str) -> Step {
    let status = claim.status.clone().unwrap_or_default();
    if status.phase.as_deref() == Some(phase) {
        return Step::Nothing;
    }
    // What it had is no longer its own.
    let status =
        PersistentVolumeClaimStatus { phase: Some(phase.into()), access_modes: None, capacity: None, ..status };
    Step::ClaimStatus(status)
}

fn lost(claim: &PersistentVolumeClaim, reason: &'static str, message: &str) -> Planned {
    match in_phase(claim, "Lost") {
        Step::Nothing => (Step::Nothing, None),
        step => (step, Notice::warning(reason, message)),
    }
}

/// Plans for a volume; `claim` is the one that it names, if that is there.
pub fn plan_volume(volume: &PersistentVolume, claim: Option<&PersistentVolumeClaim>) -> Planned {
    let name = volume.name_any();
    let Some(reference) =
        claim_ref(volume).filter(|reference| reference.uid.as_ref().is_some_and(|uid| !uid.is_empty()))
    else {
        return (to_phase(volume, "Available", ""), None);
    };
    let Some(claim) = claim.filter(|claim| claim.metadata.uid == reference.uid) else { return release(volume) };
    let has = |key: &str| has(volume.annotations(), key);
    match claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).filter(|name| !name.is_empty()) {
        None if matching::modes_differ(volume, claim) => {
            let claim = claim.name_any();
            let message = format!(
                "Cannot bind PersistentVolume to requested PersistentVolumeClaim {claim:?} due to incompatible volumeMode."
            );
            (Step::Nothing, Notice::warning("VolumeMismatch", message))
        }
        None => (Step::LookAtClaim, None),
        Some(bound) if bound == name => (to_phase(volume, "Bound", ""), None),
        Some(_) if has(PROVISIONED_BY) && reclaim_policy(volume) == "Delete" => release(volume),
        // The claim has another volume. This one is free again, but for whom a user reserved it.
        Some(_) if has(BOUND_BY_CONTROLLER) => {
            let patch = json!({"metadata": {"annotations": {BOUND_BY_CONTROLLER: null}}, "spec": {"claimRef": null}});
            (Step::PatchVolume(name, patch), None)
        }
        Some(_) => (Step::PatchVolume(name, json!({"spec": {"claimRef": {"uid": null}}})), None),
    }
}

/// A volume whose claim is gone.
fn release(volume: &PersistentVolume) -> Planned {
    if !matches!(phase(volume), "Released" | "Failed") {
        return (to_phase(volume, "Released", ""), None);
    }
    // Who made it takes it away. Made by hand, with the wish to be deleted, it is for people to delete: what is in it
    // is on some machine.
    match reclaim_policy(volume) {
        policy @ ("Delete" | "Recycle")
            if !has(volume.annotations(), PROVISIONED_BY) && phase(volume) == "Released" =>
        {
            let (reason, what) = match policy {
                "Delete" => ("VolumeFailedDelete", "deleter volume plugin"),
                _ => ("VolumeFailedRecycle", "recycler volume plugin"),
            };
            let kind = if policy == "Delete" { "deletable" } else { "recyclable" };
            let message =
                format!("error getting {what} for volume {:?}: no {kind} volume plugin matched", volume.name_any());
            (to_phase(volume, "Failed", &message), Notice::warning(reason, message))
        }
        _ => (Step::Nothing, None),
    }
}

fn to_phase(volume: &PersistentVolume, wanted: &'static str, message: &str) -> Step {
    if phase(volume) == wanted {
        return Step::Nothing;
    }
    Step::VolumePhase(volume.name_any(), wanted, message.to_owned())
}

fn reclaim_policy(volume: &PersistentVolume) -> &str {
    let policy = volume.spec.as_ref().and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref());
    policy.unwrap_or("Retain")
}

fn claim_ref(volume: &PersistentVolume) -> Option<&k8s_openapi::api::core::v1::ObjectReference> {
    volume.spec.as_ref()?.claim_ref.as_ref()
}

fn has(annotations: &std::collections::BTreeMap<String, String>, key: &str) -> bool {
    annotations.contains_key(key)
}

#[cfg(test)]
mod tests;

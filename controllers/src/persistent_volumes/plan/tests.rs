//! Claims and volumes step by step, until nothing is left to do.

use serde_json::json;

use super::*;

#[derive(Default)]
struct Small {
    volumes: Vec<PersistentVolume>,
    class: Option<StorageClass>,
    default: Option<String>,
    pods: Vec<String>,
}

impl World for Small {
    fn volume(&self, name: &str) -> Option<&PersistentVolume> {
        self.volumes.iter().find(|volume| volume.name_any() == name)
    }

    fn volumes(&self) -> impl Iterator<Item = &PersistentVolume> {
        self.volumes.iter()
    }

    fn class(&self) -> Option<&StorageClass> {
        self.class.as_ref()
    }

    fn default_class(&self) -> Option<String> {
        self.default.clone()
    }

    fn waiting_pods(&self) -> Vec<String> {
        self.pods.clone()
    }
}

fn merge(into: &mut Value, patch: &Value) {
    let Some(patch) = patch.as_object() else {
        *into = patch.clone();
        return;
    };
    if !into.is_object() {
        *into = json!({});
    }
    for (key, value) in patch {
        if value.is_null() {
            into.as_object_mut().unwrap().remove(key);
        } else {
            merge(&mut into[key], value);
        }
    }
}

fn merged<K: serde::Serialize + serde::de::DeserializeOwned>(object: &K, patch: &Value) -> K {
    let mut value = serde_json::to_value(object).unwrap();
    merge(&mut value, patch);
    serde_json::from_value(value).unwrap()
}

impl Small {
    fn apply_volume(&mut self, name: &str, patch: &Value) {
        let volume = self.volumes.iter_mut().find(|volume| volume.name_any() == name).unwrap();
        *volume = merged(volume, patch);
    }

    fn apply(&mut self, claim: &mut PersistentVolumeClaim, step: Step) {
        match step {
            Step::Nothing | Step::LookAtClaim => {}
            Step::PatchClaim(patch) => *claim = merged(claim, &patch),
            Step::ClaimStatus(status) => claim.status = Some(status),
            Step::PatchVolume(name, patch) => self.apply_volume(&name, &patch),
            Step::VolumePhase(name, phase, message) => {
                self.apply_volume(&name, &json!({"status": {"phase": phase, "message": message}}));
            }
        }
    }

    /// Takes steps for the claim and all volumes until there is none; returns the last notice for the claim.
    fn settle(&mut self, claim: &mut PersistentVolumeClaim) -> Option<Notice> {
        let mut last = None;
        for _ in 0..30 {
            let (step, notice) = plan_claim(claim, self);
            last = notice.or(last);
            let mut idle = step == Step::Nothing;
            self.apply(claim, step);
            for name in self.volumes.iter().map(ResourceExt::name_any).collect::<Vec<_>>() {
                let (step, _) = plan_volume(self.volume(&name).unwrap(), Some(claim));
                idle &= matches!(step, Step::Nothing | Step::LookAtClaim);
                self.apply(claim, step);
            }
            if idle {
                return last;
            }
        }
        panic!("it never comes to rest: {claim:?} {:?}", self.volumes);
    }

    fn phases(&self) -> Vec<String> {
        self.volumes.iter().map(|volume| format!("{} {}", volume.name_any(), phase(volume))).collect()
    }
}

fn volume(name: &str, spec: Value) -> PersistentVolume {
    let whole = json!({"metadata": {"name": name}, "spec": {"capacity": {"storage": "5Gi"},
        "accessModes": ["ReadWriteOnce"], "storageClassName": "local", "persistentVolumeReclaimPolicy": "Retain"}});
    merged(&serde_json::from_value(whole).unwrap(), &json!({ "spec": spec }))
}

fn claim(spec: Value) -> PersistentVolumeClaim {
    let whole = json!({"metadata": {"name": "data", "namespace": "shop", "uid": "u1", "resourceVersion": "7"},
        "spec": {"resources": {"requests": {"storage": "1Gi"}}, "accessModes": ["ReadWriteOnce"],
            "storageClassName": "local"}});
    merged(&serde_json::from_value(whole).unwrap(), &json!({ "spec": spec }))
}

fn class(provisioner: &str, mode: &str) -> Option<StorageClass> {
    let class = json!({"metadata": {"name": "local"}, "provisioner": provisioner, "volumeBindingMode": mode});
    Some(serde_json::from_value(class).unwrap())
}

fn status(claim: &PersistentVolumeClaim) -> &str {
    claim.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

#[test]
fn a_claim_and_a_volume_find_each_other() {
    let mut world = Small { volumes: vec![volume("a", json!({})), volume("b", json!({}))], ..Small::default() };
    let mut claim = claim(json!({}));
    world.settle(&mut claim);
    assert_eq!(world.phases(), ["a Bound", "b Available"]);
    assert_eq!(status(&claim), "Bound");
    assert_eq!(claim.spec.as_ref().unwrap().volume_name.as_deref(), Some("a"));
    assert_eq!(claim.status.as_ref().unwrap().capacity.as_ref().unwrap()["storage"].0, "5Gi");
    let marks = [BIND_COMPLETED, BOUND_BY_CONTROLLER];
    assert!(marks.iter().all(|mark| claim.annotations().contains_key(*mark)));
    let reference = claim_ref(&world.volumes[0]).unwrap();
    assert_eq!((reference.uid.as_deref(), reference.name.as_deref()), (Some("u1"), Some("data")));
    assert!(world.volumes[0].annotations().contains_key(BOUND_BY_CONTROLLER));
}

#[test]
fn a_claim_may_ask_for_a_volume_and_a_volume_for_a_claim() {
    let mut world = Small { volumes: vec![volume("a", json!({})), volume("b", json!({}))], ..Small::default() };
    let mut asks = claim(json!({"volumeName": "b"}));
    world.settle(&mut asks);
    assert_eq!((status(&asks), world.phases()), ("Bound", vec!["a Available".to_owned(), "b Bound".to_owned()]));
    assert!(!asks.annotations().contains_key(BOUND_BY_CONTROLLER), "it was the user's choice");

    let reserved = volume("z", json!({"claimRef": {"namespace": "shop", "name": "data"}}));
    let mut world = Small { volumes: vec![volume("a", json!({})), reserved], ..Small::default() };
    let mut claim = claim(json!({}));
    world.settle(&mut claim);
    assert_eq!(claim.spec.unwrap().volume_name.as_deref(), Some("z"));
    assert!(!world.volumes[1].annotations().contains_key(BOUND_BY_CONTROLLER));
}

#[test]
fn what_does_not_suit_or_is_not_there_leaves_a_claim_pending_and_says_why() {
    let other = json!({"claimRef": {"namespace": "shop", "name": "other", "uid": "u9"}});
    let cases = [
        (json!({"volumeName": "none"}), None, None),
        (json!({"volumeName": "taken"}), None, Some("volume \"taken\" already bound to a different claim.")),
        (
            json!({"volumeName": "free", "resources": {"requests": {"storage": "9Gi"}}}),
            None,
            Some("Cannot bind to requested volume \"free\": requested PV is too small"),
        ),
        (json!({"storageClassName": "gone"}), None, Some("storageclass.storage.k8s.io \"gone\" not found")),
        (
            json!({"storageClassName": ""}),
            None,
            Some("no persistent volumes available for this claim and no storage class is set"),
        ),
        (
            json!({"resources": {"requests": {"storage": "9Gi"}}}),
            class("kubernetes.io/no-provisioner", "Immediate"),
            Some("no volume plugin matched name: kubernetes.io/no-provisioner"),
        ),
    ];
    for (spec, class, expected) in cases {
        let volumes = vec![volume("free", json!({})), volume("taken", other.clone())];
        let mut claim = claim(spec.clone());
        let (step, notice) = plan_claim(&claim, &Small { volumes, class, ..Small::default() });
        Small::default().apply(&mut claim, step);
        assert_eq!(
            (status(&claim), notice.as_ref().map(|notice| notice.message.as_str())),
            ("Pending", expected),
            "{spec}"
        );
    }
}

#[test]
fn a_class_that_waits_leaves_the_choice_to_the_scheduler() {
    let mut world = Small {
        volumes: vec![volume("a", json!({}))],
        class: class("kubernetes.io/no-provisioner", "WaitForFirstConsumer"),
        ..Small::default()
    };
    let mut claim = claim(json!({}));
    let told = world.settle(&mut claim).unwrap();
    assert_eq!((told.reason, status(&claim)), ("WaitForFirstConsumer", "Pending"));
    world.pods = vec!["web-1".into(), "web-2".into()];
    assert_eq!(world.settle(&mut claim).unwrap().message, "waiting for pods web-1,web-2 to be scheduled");
    // The scheduler says which, and the rest follows.
    let reference = json!({"namespace": "shop", "name": "data", "uid": "u1"});
    world.apply_volume(
        "a",
        &json!({"metadata": {"annotations": {BOUND_BY_CONTROLLER: "yes"}}, "spec": {"claimRef": reference}}),
    );
    world.settle(&mut claim);
    assert_eq!((status(&claim), world.phases()), ("Bound", vec!["a Bound".to_owned()]));
}

#[test]
fn a_volume_is_asked_of_the_provisioner_of_the_class() {
    let mut world = Small { class: class("disks.example.com", "Immediate"), ..Small::default() };
    let mut asking = claim(json!({}));
    let told = world.settle(&mut asking).unwrap();
    assert_eq!((told.reason, status(&asking)), ("ExternalProvisioning", "Pending"));
    assert!(told.message.contains("external provisioner 'disks.example.com'"));
    assert!(PROVISIONER.iter().all(|key| asking.annotations()[*key] == "disks.example.com"));
    // One that waits for a pod is asked for only once a node is chosen.
    world.class = class("disks.example.com", "WaitForFirstConsumer");
    let mut waiting = claim(json!({}));
    assert_eq!(world.settle(&mut waiting).unwrap().reason, "WaitForFirstConsumer");
    waiting.metadata.annotations.get_or_insert_default().insert(SELECTED_NODE.into(), "n".into());
    assert_eq!(world.settle(&mut waiting).unwrap().reason, "ExternalProvisioning");
    // A claim that names no class gets the cluster's when there is one.
    let mut open = claim(json!({"storageClassName": null}));
    world.default = Some("local".into());
    world.settle(&mut open);
    assert_eq!(open.spec.unwrap().storage_class_name.as_deref(), Some("local"));
}

#[test]
fn a_bound_claim_whose_volume_goes_is_lost() {
    let mut world = Small { volumes: vec![volume("a", json!({}))], ..Small::default() };
    let mut claim = claim(json!({}));
    world.settle(&mut claim);
    let mut misbound = claim.clone();
    misbound.metadata.uid = Some("u2".into());
    assert_eq!(world.settle(&mut misbound.clone()).unwrap().reason, "ClaimMisbound");
    world.volumes.clear();
    let told = world.settle(&mut claim).unwrap();
    assert_eq!((told.reason, status(&claim)), ("ClaimLost", "Lost"));
    assert_eq!(plan_claim(&claim, &world), (Step::Nothing, None), "it is told once");
}

#[test]
fn a_volume_outlives_its_claim_as_its_policy_says() {
    let bound = |spec: Value| {
        let mut volume = volume("a", spec);
        volume.spec.as_mut().unwrap().claim_ref =
            serde_json::from_value(json!({"namespace": "shop", "name": "data", "uid": "u1"})).unwrap();
        merged(&volume, &json!({"status": {"phase": "Bound"}}))
    };
    let end = |mut volume: PersistentVolume, claim: Option<&PersistentVolumeClaim>| {
        for _ in 0..5 {
            match plan_volume(&volume, claim).0 {
                Step::VolumePhase(_, phase, message) => {
                    volume = merged(&volume, &json!({"status": {"phase": phase, "message": message}}));
                }
                Step::PatchVolume(_, patch) => volume = merged(&volume, &patch),
                _ => break,
            }
        }
        (phase(&volume).to_owned(), claim_ref(&volume).is_some())
    };
    let state = |phase: &str, claimed| (phase.to_owned(), claimed);
    let delete = || json!({"persistentVolumeReclaimPolicy": "Delete"});
    assert_eq!(end(bound(json!({})), None), state("Released", true));
    assert_eq!(end(bound(delete()), None), state("Failed", true), "nobody knows how to delete it");
    let made = merged(&bound(delete()), &json!({"metadata": {"annotations": {PROVISIONED_BY: "disks.example.com"}}}));
    assert_eq!(end(made.clone(), None), state("Released", true), "its provisioner deletes it");

    let elsewhere = claim(json!({"volumeName": "other"}));
    let ours = merged(&bound(json!({})), &json!({"metadata": {"annotations": {BOUND_BY_CONTROLLER: "yes"}}}));
    assert_eq!(end(ours, Some(&elsewhere)), state("Available", false));
    assert_eq!(end(bound(json!({})), Some(&elsewhere)), state("Available", true), "the user reserved it");
    assert_eq!(end(made, Some(&elsewhere)), state("Released", true));
}

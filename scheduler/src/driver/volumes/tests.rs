//! Claims and volumes as the API shows them, and what becomes of pods that use them.

use serde_json::{Value, json};

use super::*;

fn merge(into: &mut Value, changes: &Value) {
    match (into, changes) {
        (Value::Object(into), Value::Object(changes)) => {
            for (key, value) in changes {
                merge(into.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (into, changes) => *into = changes.clone(),
    }
}

fn claim(name: &str, changes: Value) -> PersistentVolumeClaim {
    let mut claim = json!({"metadata": {"name": name, "namespace": "shop", "uid": format!("uid-{name}"),
            "resourceVersion": "1"},
        "spec": {"storageClassName": "local", "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}}}});
    merge(&mut claim, &changes);
    serde_json::from_value(claim).unwrap()
}

fn bound(name: &str, volume: &str) -> PersistentVolumeClaim {
    let annotations = json!({"pv.kubernetes.io/bind-completed": "yes"});
    claim(name, json!({"metadata": {"annotations": annotations}, "spec": {"volumeName": volume}}))
}

fn on(nodes: &[&str]) -> Value {
    let expression = json!({"key": "kubernetes.io/hostname", "operator": "In", "values": nodes});
    json!({"spec": {"nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}}}})
}

fn volume(name: &str, size: &str, changes: Value) -> PersistentVolume {
    let mut volume = json!({"metadata": {"name": name, "resourceVersion": "5"},
        "spec": {"storageClassName": "local", "accessModes": ["ReadWriteOnce"], "capacity": {"storage": size}},
        "status": {"phase": "Available"}});
    merge(&mut volume, &changes);
    serde_json::from_value(volume).unwrap()
}

fn class(provisioner: &str, mode: &str) -> StorageClass {
    let class = json!({"metadata": {"name": "local"}, "provisioner": provisioner, "volumeBindingMode": mode});
    serde_json::from_value(class).unwrap()
}

fn waiting() -> StorageClass {
    class(NO_PROVISIONER, "WaitForFirstConsumer")
}

fn pod(claims: &[&str]) -> Claimant {
    let claims = claims.iter().map(|name| ClaimUse { name: (*name).to_owned(), ephemeral: false }).collect();
    Claimant { namespace: "shop".into(), name: "web".into(), uid: "u".into(), claims }
}

fn node(name: &str) -> NodeSpec {
    let labels = [("kubernetes.io/hostname".to_owned(), name.to_owned())].into();
    NodeSpec { name: name.into(), labels, ..NodeSpec::default() }
}

/// Which of the nodes a, b and c all needs accept.
fn nodes(storage: &Storage, pod: &Claimant) -> Vec<&'static str> {
    let needs = storage.needs(pod).unwrap();
    let accepts = |name: &str| needs.iter().all(|need| need.terms.iter().any(|term| term.matches(&node(name))));
    ["a", "b", "c"].into_iter().filter(|name| accepts(name)).collect()
}

#[test]
fn claims_that_are_not_ready_hold_a_pod_up() {
    let mut storage = Storage::default();
    let mut told = |claim: Option<PersistentVolumeClaim>| {
        if let Some(claim) = &claim {
            storage.claim_seen(claim);
        }
        storage.needs(&pod(&["data"])).unwrap_err()
    };
    assert_eq!(told(None), "persistentvolumeclaim \"data\" not found");
    assert_eq!(told(Some(claim("data", json!({})))), "pod has unbound immediate PersistentVolumeClaims");
    let lost = json!({"spec": {"volumeName": "v"}, "status": {"phase": "Lost"}});
    assert_eq!(
        told(Some(claim("data", lost))),
        "persistentvolumeclaim \"data\" bound to non-existent persistentvolume \"v\""
    );
    let going = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}});
    assert_eq!(told(Some(claim("data", going))), "persistentvolumeclaim \"data\" is being deleted");
    let mut own = pod(&["web-scratch"]);
    own.claims[0].ephemeral = true;
    assert!(storage.needs(&own).unwrap_err().starts_with("waiting for ephemeral volume controller to create"));
    storage.claim_seen(&bound("web-scratch", "v"));
    assert!(storage.needs(&own).unwrap_err().ends_with("was not created for pod shop/web (pod is not owner)"));
}

#[test]
fn a_claim_with_a_volume_wants_a_node_that_reaches_it() {
    let mut storage = Storage::default();
    storage.claim_seen(&bound("data", "v"));
    let gone = VolumeNeed { kind: VolumeNeedKind::Gone, terms: Vec::new() };
    assert_eq!(storage.needs(&pod(&["data"])), Ok(vec![gone]));
    storage.volume_seen(&volume("v", "1Gi", json!({})));
    assert_eq!(nodes(&storage, &pod(&["data"])), ["a", "b", "c"]);
    storage.volume_seen(&volume("v", "1Gi", on(&["b", "c"])));
    assert_eq!(nodes(&storage, &pod(&["data"])), ["b", "c"]);
    let zoned = json!({"metadata": {"labels": {"topology.kubernetes.io/zone": "x__y"}}});
    storage.volume_seen(&volume("v", "1Gi", zoned));
    let needs = storage.needs(&pod(&["data"])).unwrap();
    let zone = needs.iter().find(|need| need.kind == VolumeNeedKind::Zone).unwrap();
    let in_zone = |zone: &str| {
        let mut node = node("a");
        node.labels.insert("topology.kubernetes.io/zone".into(), zone.into());
        node
    };
    let met = |node: &NodeSpec| zone.terms.iter().any(|term| term.matches(node));
    assert_eq!((met(&in_zone("x")), met(&in_zone("y")), met(&in_zone("z"))), (true, true, false));
    assert!(met(&node("a")), "it does not say where it is");
}

#[test]
fn claims_that_wait_get_the_smallest_volumes_of_the_node_and_no_one_else_does() {
    let mut storage = Storage::default();
    storage.class_seen(&waiting());
    for (name, size, host) in [("a1", "1Gi", "a"), ("b1", "1Gi", "b"), ("b2", "2Gi", "b")] {
        storage.volume_seen(&volume(name, size, on(&[host])));
    }
    storage.claim_seen(&claim("large", json!({"spec": {"resources": {"requests": {"storage": "2Gi"}}}})));
    storage.claim_seen(&claim("small", json!({})));
    let both = pod(&["large", "small"]);
    assert_eq!(nodes(&storage, &both), ["b"]);
    assert_eq!(nodes(&storage, &pod(&["small"])), ["a", "b"]);
    let choice = storage.choose(&both, &node("b")).unwrap();
    let pairs: Vec<_> = choice.bind.iter().map(|one| (one.volume.as_str(), one.claim.key.1.as_str())).collect();
    assert_eq!(pairs, [("b1", "small"), ("b2", "large")]);
    assert_eq!(storage.choose(&both, &node("a")), None);

    storage.assume(&choice);
    storage.claim_seen(&claim("other", json!({})));
    assert_eq!(nodes(&storage, &pod(&["other"])), ["a"]);
    assert_eq!(storage.progress(&both, &choice, &node("b")), Progress::Waiting);
    // Both are written, and the claims are told.
    for (volume_name, claim_name, size) in [("b1", "small", "1Gi"), ("b2", "large", "2Gi")] {
        let mut taken = on(&["b"]);
        let reference = json!({"namespace": "shop", "name": claim_name, "uid": format!("uid-{claim_name}")});
        merge(&mut taken, &json!({"spec": {"claimRef": reference}, "status": {"phase": "Bound"}}));
        storage.volume_seen(&volume(volume_name, size, taken));
    }
    assert_eq!(storage.progress(&both, &choice, &node("b")), Progress::Waiting);
    storage.claim_seen(&bound("small", "b1"));
    storage.claim_seen(&bound("large", "b2"));
    assert_eq!(storage.progress(&both, &choice, &node("b")), Progress::Ready);
    let elsewhere = "pv \"b2\" node affinity doesn't match node \"a\"".to_owned();
    assert_eq!(storage.progress(&both, &choice, &node("a")), Progress::Failed(elsewhere));
}

#[test]
fn what_was_decided_and_did_not_come_about_is_free_again() {
    let mut storage = Storage::default();
    storage.class_seen(&waiting());
    storage.volume_seen(&volume("a1", "1Gi", on(&["a"])));
    storage.claim_seen(&claim("one", json!({})));
    storage.claim_seen(&claim("two", json!({})));
    let choice = storage.choose(&pod(&["one"]), &node("a")).unwrap();
    storage.assume(&choice);
    assert_eq!(nodes(&storage, &pod(&["two"])), [""; 0]);
    storage.forget(&choice);
    assert_eq!(nodes(&storage, &pod(&["two"])), ["a"]);
    let reset = "ClaimRef got reset for pv \"a1\"".to_owned();
    assert_eq!(storage.progress(&pod(&["one"]), &choice, &node("a")), Progress::Failed(reset));
    assert_eq!(storage.choose(&pod(&["one", "two"]), &node("a")), None, "there is one volume for two claims");
}

#[test]
fn volumes_are_made_where_the_class_says_for_the_node_that_is_chosen() {
    let mut storage = Storage::default();
    let mut made = class("disks.example.com", "WaitForFirstConsumer");
    storage.class_seen(&made);
    storage.claim_seen(&claim("data", json!({})));
    assert_eq!(nodes(&storage, &pod(&["data"])), ["a", "b", "c"]);
    let places = json!([{"matchLabelExpressions": [{"key": "kubernetes.io/hostname", "values": ["a", "b"]}]}]);
    made.allowed_topologies = serde_json::from_value(places).unwrap();
    storage.class_seen(&made);
    assert_eq!(nodes(&storage, &pod(&["data"])), ["a", "b"]);
    assert_eq!(storage.choose(&pod(&["data"]), &node("c")), None);
    let choice = storage.choose(&pod(&["data"]), &node("b")).unwrap();
    assert_eq!((choice.bind.len(), choice.provision[0].key.1.as_str()), (0, "data"));

    let marked = |version: &str, mark: Value| {
        claim(
            "data",
            json!({"metadata": {"resourceVersion": version, "annotations": {"volume.kubernetes.io/selected-node": mark}}}),
        )
    };
    storage.claim_seen(&marked("2", json!("b")));
    assert_eq!(nodes(&storage, &pod(&["data"])), ["b"], "it is under way");
    assert_eq!(storage.progress(&pod(&["data"]), &choice, &node("b")), Progress::Waiting);
    // A volume cannot be made there: the mark is taken away.
    storage.claim_seen(&claim("data", json!({"metadata": {"resourceVersion": "3"}})));
    let failed = "provisioning failed for PVC \"data\"".to_owned();
    assert_eq!(storage.progress(&pod(&["data"]), &choice, &node("b")), Progress::Failed(failed));
}

#[test]
fn a_list_forgets_what_it_does_not_show() {
    let mut storage = Storage::default();
    storage.claim_seen(&bound("data", "v"));
    storage.volume_seen(&volume("v", "1Gi", json!({})));
    storage.class_seen(&waiting());
    for kind in [StorageKind::Claims, StorageKind::Volumes, StorageKind::Classes] {
        storage.relist(kind);
        storage.listed(kind);
    }
    assert!(storage.claims.is_empty() && storage.volumes.is_empty() && storage.classes.is_empty());
    assert!(storage.volumes_of.is_empty());
}

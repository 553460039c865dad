//! Volumes that are attached, claims for one pod at a time, and room for new volumes.

use super::*;

/// A volume of the driver `disk`, bound to the claim of the same name.
fn attachable(state: &mut State, name: &str, mode: &str) {
    let claim_ref = json!({"namespace": "default", "name": name, "uid": format!("uid-{name}")});
    let csi = json!({"driver": "disk", "volumeHandle": format!("handle-{name}")});
    let volume = json!({"metadata": {"name": format!("pv-{name}")}, "status": {"phase": "Bound"},
        "spec": {"capacity": {"storage": "1Gi"}, "accessModes": [mode], "csi": csi, "claimRef": claim_ref}});
    let claim = json!({"metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}"),
            "annotations": {"pv.kubernetes.io/bind-completed": "yes"}},
        "spec": {"volumeName": format!("pv-{name}"), "accessModes": [mode],
            "resources": {"requests": {"storage": "1Gi"}}}});
    state.storage().volume_seen(&read(volume));
    state.storage().claim_seen(&read(claim));
}

fn limit(state: &mut State, node: &str, count: Option<i32>) {
    let driver = json!({"name": "disk", "nodeID": node, "allocatable": {"count": count}});
    state.csi_node_seen(&read(json!({"metadata": {"name": node}, "spec": {"drivers": [driver]}})));
}

fn important(number: u128, claim: &str) -> PodFacts {
    PodFacts { priority: 10, ..with_claim(number, claim) }
}

const TOO_MANY: &str = "0/1 nodes are available: 1 node(s) exceed max volume count. preemption: 0/1 nodes are available: \
                        1 No preemption victims found for incoming pod.";
const IN_USE: &str = "0/2 nodes are available: 2 node has pod using PersistentVolumeClaim with the same name and \
                      ReadWriteOncePod access mode. preemption: 0/2 nodes are available: \
                      2 No preemption victims found for incoming pod.";

#[test]
fn a_node_has_no_more_volumes_attached_than_it_can_and_each_counts_once() {
    let mut state = state();
    limit(&mut state, "a", Some(2));
    state.node_seen(node("a", 9_000));
    for name in ["one", "two", "three"] {
        attachable(&mut state, name, "ReadWriteMany");
    }
    // Two of these use one volume.
    for (number, claim) in [(1, "one"), (2, "two"), (3, "two"), (4, "three")] {
        state.pod_seen(with_claim(number, claim), seconds(0));
    }
    assert_eq!(run(&mut state, seconds(0)), ["pod-1>a", "pod-2>a", "pod-3>a", TOO_MANY]);
    for (number, claim) in [(1, "one"), (2, "two"), (3, "two")] {
        state.pod_seen(on("a", with_claim(number, claim)), seconds(1));
    }
    // The volume stays, as another pod uses it.
    state.pod_gone(PodKey(2));
    state.wake(seconds(20));
    assert_eq!(state.queue_counts().unschedulable, 1);
    state.pod_gone(PodKey(3));
    assert_eq!(run(&mut state, seconds(20)), ["pod-4>a"]);
    assert_eq!(state.queue_counts(), Counts::default());
}

#[test]
fn a_pod_is_tried_when_a_node_can_have_more_volumes_and_only_then() {
    let mut state = state();
    state.node_seen(node("a", 9_000));
    limit(&mut state, "a", Some(1));
    for name in ["one", "two", "three"] {
        attachable(&mut state, name, "ReadWriteOnce");
    }
    // It was there before its claim was known.
    let mut early = with_claim(1, "early");
    early.claimant.as_mut().unwrap().claims.push(ClaimUse { name: "one".into(), ephemeral: false });
    state.pod_seen(on("a", early), seconds(0));
    state.pod_seen(with_claim(2, "two"), seconds(0));
    assert_eq!(run(&mut state, seconds(0)), [TOO_MANY]);
    limit(&mut state, "a", Some(2));
    attachable(&mut state, "early", "ReadWriteOnce");
    assert_eq!(run(&mut state, seconds(5)), [""; 0], "what became room has been taken");
    limit(&mut state, "a", Some(3));
    assert_eq!(run(&mut state, seconds(20)), ["pod-2>a"]);
    state.pod_seen(with_claim(3, "three"), seconds(20));
    assert_eq!(run(&mut state, seconds(20)), [TOO_MANY]);
    limit(&mut state, "a", None);
    assert_eq!(run(&mut state, seconds(40)), ["pod-3>a"], "a driver that says nothing has no limit");
}

#[test]
fn a_claim_for_one_pod_at_a_time_waits_for_that_pod_or_makes_it_leave() {
    let mut state = state();
    state.node_seen(node("a", 9_000));
    state.node_seen(node("b", 9_000));
    attachable(&mut state, "single", "ReadWriteOncePod");
    state.pod_seen(on("a", with_claim(1, "single")), seconds(0));
    state.pod_seen(with_claim(2, "single"), seconds(0));
    assert_eq!(run(&mut state, seconds(0)), [IN_USE]);
    state.pod_gone(PodKey(1));
    assert_eq!(run(&mut state, seconds(5)), ["pod-2>a"]);
    state.pod_seen(on("a", with_claim(2, "single")), seconds(5));
    // Only where it is would its going help.
    state.pod_seen(important(3, "single"), seconds(6));
    let told = run(&mut state, seconds(6));
    assert_eq!(told[0], "pod-3 makes pod-2 leave a", "{told:?}");
    state.pod_gone(PodKey(2));
    assert_eq!(run(&mut state, seconds(20)), ["pod-3>a"]);
}

#[test]
fn a_volume_is_made_where_its_driver_has_room_for_it() {
    let mut state = state();
    state.node_seen(node("a", 9_000));
    state.node_seen(NodeSpec { labels: [("rack".to_owned(), "r".to_owned())].into(), ..node("b", 1_000) });
    let class =
        json!({"metadata": {"name": "fast"}, "provisioner": "disk", "volumeBindingMode": "WaitForFirstConsumer"});
    state.storage().class_seen(&read(class));
    let claim = json!({"metadata": {"name": "data", "namespace": "default", "uid": "uid-data"},
        "spec": {"storageClassName": "fast", "resources": {"requests": {"storage": "5Gi"}}}});
    state.storage().claim_seen(&read(claim));
    state.storage().driver_seen(&read(json!({"metadata": {"name": "disk"}, "spec": {"storageCapacity": true}})));
    let capacity = |name: &str, size: &str, topology: serde_json::Value| {
        read(json!({"metadata": {"name": name, "namespace": "disk"}, "storageClassName": "fast", "capacity": size,
            "nodeTopology": topology}))
    };
    state.storage().capacity_seen(&capacity("everywhere", "4Gi", json!({})));
    state.pod_seen(with_claim(1, "data"), seconds(0));
    let told = run(&mut state, seconds(0));
    assert!(told[0].contains("2 node(s) did not have enough free storage."), "{told:?}");
    state.storage().capacity_seen(&capacity("rack", "6Gi", json!({"matchLabels": {"rack": "r"}})));
    assert_eq!(run(&mut state, seconds(20)), ["pod-1 gets  for b"]);
}

//! Decides which pods of a set to make or delete, and what status to show.
//!
//! In: the set, the pods that it controls, for ranking also the pods of its siblings, and the time. Out: a [`Change`] and a
//! status. No I/O.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use super::kind::{Condition, Counts, Replicas};
use crate::machinery::objects::{has_all, time};
use crate::machinery::pods;
use crate::machinery::workload::Failure;

/// At most this many pods are made or deleted at a time; the rest follows when the cache has caught up.
pub const BURST: usize = 500;
/// Pods can't be made or deleted.
pub const REPLICA_FAILURE: &str = "ReplicaFailure";

/// What to do about the pods.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// There are as many as there should be.
    None,
    /// Make this many.
    Create(usize),
    /// Delete these.
    Delete(Vec<Arc<Pod>>),
}

/// Decides about the number of pods. `owned` are all pods of the set, `related` those of all sets of the same
/// owner.
pub fn plan<S: Replicas>(set: &S, owned: &[Arc<Pod>], related: &[Arc<Pod>], now: Timestamp) -> Change {
    if set.meta().deletion_timestamp.is_some() {
        return Change::None;
    }
    let active: Vec<Arc<Pod>> = owned.iter().filter(|pod| pods::is_active(pod)).cloned().collect();
    let wanted = usize::try_from(set.replicas()).unwrap_or(0);
    match active.len().cmp(&wanted) {
        Ordering::Equal => Change::None,
        Ordering::Less => Change::Create((wanted - active.len()).min(BURST)),
        Ordering::Greater => {
            let excess = (active.len() - wanted).min(BURST);
            Change::Delete(first_to_go(active, related, excess, now))
        }
    }
}

fn first_to_go(mut active: Vec<Arc<Pod>>, related: &[Arc<Pod>], excess: usize, now: Timestamp) -> Vec<Arc<Pod>> {
    if excess < active.len() {
        let mut on_node: HashMap<&str, usize> = HashMap::new();
        for pod in related.iter().filter(|pod| pods::is_active(pod)) {
            *on_node.entry(pods::node_name(pod)).or_default() += 1;
        }
        let crowd = |pod: &Pod| on_node.get(pods::node_name(pod)).copied().unwrap_or(0);
        active.sort_by(|a, b| goes_before(a, crowd(a), b, crowd(b), now));
    }
    active.truncate(excess);
    active
}

/// Orders pods by how little is lost when they go: unassigned before assigned, pending before running, not ready
/// before ready, cheap before dear, crowded before alone, lately ready before long ready, often restarted before
/// stable, young before old. Ages count by their order of magnitude, so that similar ones spread.
fn goes_before(a: &Pod, crowd_a: usize, b: &Pod, crowd_b: usize, now: Timestamp) -> Ordering {
    let assigned = |pod: &Pod| !pods::node_name(pod).is_empty();
    let stage = |pod: &Pod| match pods::phase(pod) {
        "Unknown" => 1,
        "Running" => 2,
        _ => 0,
    };
    assigned(a)
        .cmp(&assigned(b))
        .then_with(|| stage(a).cmp(&stage(b)))
        .then_with(|| pods::is_ready(a).cmp(&pods::is_ready(b)))
        .then_with(|| deletion_cost(a).cmp(&deletion_cost(b)))
        .then_with(|| crowd_b.cmp(&crowd_a))
        .then_with(|| younger_first(pods::ready_since(a), pods::ready_since(b), now))
        .then_with(|| pods::restarts_max(b).cmp(&pods::restarts_max(a)))
        .then_with(|| younger_first(created(a), created(b), now))
        .then_with(|| a.metadata.uid.cmp(&b.metadata.uid))
}

fn created(pod: &Pod) -> Option<Timestamp> {
    pod.creation_timestamp().map(|time| time.0)
}

fn younger_first(a: Option<Timestamp>, b: Option<Timestamp>, now: Timestamp) -> Ordering {
    let magnitude = |since: Timestamp| {
        let age = now.duration_since(since).as_nanos();
        if age <= 0 { -1 } else { i64::from(age.ilog2()) }
    };
    // Without a time it counts as the latest.
    match (a, b) {
        (None, None) => Ordering::Equal,
        (None, Some(_)) => Ordering::Less,
        (Some(_), None) => Ordering::Greater,
        (Some(a), Some(b)) => magnitude(a).cmp(&magnitude(b)),
    }
}

fn deletion_cost(pod: &Pod) -> i32 {
    pod.annotations().get(pods::DELETION_COST).and_then(|cost| cost.parse().ok()).unwrap_or(0)
}

/// The status that the set's pods give.
pub fn status<S: Replicas>(set: &S, owned: &[Arc<Pod>], failure: Option<&Failure>, now: Timestamp) -> S::Status {
    let min_ready = set.min_ready_seconds();
    let template = set.template().and_then(|template| template.metadata.as_ref());
    let labels = template.and_then(|meta| meta.labels.clone()).unwrap_or_default();
    let count = |counts: &dyn Fn(&Pod) -> bool| {
        i32::try_from(owned.iter().filter(|pod| counts(pod)).count()).unwrap_or(i32::MAX)
    };
    let counts = Counts {
        active: count(&pods::is_active),
        fully_labeled: count(&|pod| pods::is_active(pod) && has_all(pod.labels(), &labels)),
        ready: count(&|pod| pods::is_active(pod) && pods::is_ready(pod)),
        available: count(&|pod| pods::is_active(pod) && pods::is_available(pod, min_ready, now)),
        terminating: count(&pods::is_terminating),
    };
    set.new_status(counts, conditions(set, failure, now))
}

fn conditions<S: Replicas>(set: &S, failure: Option<&Failure>, now: Timestamp) -> Vec<Condition> {
    let mut conditions = set.conditions();
    let present = conditions.iter().any(|condition| condition.type_ == REPLICA_FAILURE);
    match failure {
        None => conditions.retain(|condition| condition.type_ != REPLICA_FAILURE),
        Some(failure) if !present => conditions.push(Condition {
            type_: REPLICA_FAILURE.into(),
            status: "True".into(),
            reason: Some(failure.reason.into()),
            message: Some(failure.message.clone()),
            last_transition_time: Some(time(now)),
        }),
        Some(_) => {}
    }
    conditions
}

/// When the next ready pod becomes an available one.
pub fn next_available<S: Replicas>(set: &S, owned: &[Arc<Pod>], now: Timestamp) -> Option<Duration> {
    let min_ready = Some(set.min_ready_seconds()).filter(|seconds| *seconds > 0)?;
    owned
        .iter()
        .filter(|pod| pods::is_active(pod) && !pods::is_available(pod, min_ready, now))
        .filter_map(|pod| pods::ready_since(pod))
        .map(|since| SignedDuration::from_secs(min_ready.into()) - now.duration_since(since))
        .min()
        .map(|left| Duration::try_from(left).unwrap_or(Duration::ZERO))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::ReplicaSet;
    use serde_json::{Value, json};

    use super::*;
    use crate::machinery::workload::pod_of_template;

    const NOW: i64 = 1_700_000_000;

    fn now() -> Timestamp {
        Timestamp::from_second(NOW).unwrap()
    }

    fn ago(seconds: i64) -> String {
        Timestamp::from_second(NOW - seconds).unwrap().to_string()
    }

    fn set(replicas: i32) -> ReplicaSet {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "a", "uid": "u", "generation": 3},
            "spec": {
                "replicas": replicas,
                "selector": {"matchLabels": {"app": "web"}},
                "template": {"metadata": {"labels": {"app": "web", "tier": "front"}}, "spec": {"containers": []}},
            },
        }))
        .unwrap()
    }

    fn pod(name: &str, extra: Value) -> Arc<Pod> {
        let mut value = json!({
            "metadata": {"name": name, "namespace": "a", "uid": name, "labels": {"app": "web"},
                "creationTimestamp": ago(1000)},
            "spec": {"containers": [], "nodeName": "n1"},
            "status": {"phase": "Running", "conditions": [
                {"type": "Ready", "status": "True", "lastTransitionTime": ago(900)}]},
        });
        json_patch_merge(&mut value, &extra);
        Arc::new(serde_json::from_value(value).unwrap())
    }

    fn json_patch_merge(target: &mut Value, patch: &Value) {
        match (target, patch) {
            (Value::Object(target), Value::Object(patch)) => {
                for (key, value) in patch {
                    json_patch_merge(target.entry(key.clone()).or_insert(Value::Null), value);
                }
            }
            (target, patch) => *target = patch.clone(),
        }
    }

    #[test]
    fn pods_that_ended_or_leave_are_replaced() {
        let pods = [
            pod("ok", json!({})),
            pod("failed", json!({"status": {"phase": "Failed"}})),
            pod("leaving", json!({"metadata": {"deletionTimestamp": ago(1)}})),
        ];
        assert_eq!(plan(&set(3), &pods, &pods, now()), Change::Create(2));
        assert_eq!(plan(&set(1), &pods, &pods, now()), Change::None);
        assert_eq!(plan(&set(5000), &pods, &pods, now()), Change::Create(BURST));
    }

    #[test]
    fn a_set_that_is_being_deleted_does_nothing() {
        let mut leaving = set(3);
        leaving.metadata.deletion_timestamp = Some(time(now()));
        assert_eq!(plan(&leaving, &[], &[], now()), Change::None);
    }

    #[test]
    fn pods_are_deleted_in_kubernetes_order() {
        let not_ready = json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}});
        // Each goes before all that follow.
        let ranked = [
            pod("unassigned", json!({"spec": {"nodeName": ""}, "status": {"phase": "Pending", "conditions": []}})),
            pod("pending", json!({"status": {"phase": "Pending", "conditions": []}})),
            pod("not-ready", not_ready),
            pod("cheap", json!({"metadata": {"annotations": {pods::DELETION_COST: "-5"}}})),
            pod("crowded", json!({"spec": {"nodeName": "n2"}})),
            pod(
                "lately-ready",
                json!({"status": {"conditions": [
                {"type": "Ready", "status": "True", "lastTransitionTime": ago(10)}]}}),
            ),
            pod(
                "restarted",
                json!({"status": {"containerStatuses": [
                {"name": "c", "restartCount": 4, "image": "", "imageID": "", "ready": true}]}}),
            ),
            pod("young", json!({"metadata": {"creationTimestamp": ago(450)}})),
            pod("old", json!({})),
            pod("dear", json!({"metadata": {"annotations": {pods::DELETION_COST: "5"}}})),
        ];
        let mut related = ranked.to_vec();
        for n in 0..10 {
            related.push(pod(&format!("sibling-{n}"), json!({"spec": {"nodeName": "n2"}})));
        }
        let mut shuffled = ranked.to_vec();
        shuffled.reverse();
        shuffled.swap(1, 6);
        for left in 1..ranked.len() {
            let wanted = i32::try_from(left).unwrap();
            let Change::Delete(gone) = plan(&set(wanted), &shuffled, &related, now()) else {
                panic!("pods must go");
            };
            let names: Vec<String> = gone.iter().map(|pod| pod.name_any()).collect();
            let expected: Vec<String> = ranked[..ranked.len() - left].iter().map(|pod| pod.name_any()).collect();
            assert_eq!(names, expected);
        }
    }

    #[test]
    fn the_status_counts_what_users_see() {
        let mut set = set(4);
        set.spec.as_mut().unwrap().min_ready_seconds = Some(100);
        let pods = [
            pod("old", json!({"metadata": {"labels": {"tier": "front"}}})),
            pod(
                "fresh",
                json!({"status": {"conditions": [
                {"type": "Ready", "status": "True", "lastTransitionTime": ago(30)}]}}),
            ),
            pod("leaving", json!({"metadata": {"deletionTimestamp": ago(1)}})),
        ];
        let status = status(&set, &pods, None, now());
        assert_eq!(status.replicas, 2);
        assert_eq!(status.ready_replicas, Some(2));
        assert_eq!(status.available_replicas, Some(1));
        assert_eq!(status.fully_labeled_replicas, Some(1));
        assert_eq!(status.terminating_replicas, Some(1));
        assert_eq!(status.observed_generation, Some(3));
        assert_eq!(next_available(&set, &pods, now()), Some(Duration::from_secs(70)));
    }

    #[test]
    fn a_failure_shows_as_a_condition_until_it_is_over() {
        let failure = Failure { reason: "FailedCreate", message: "no quota".into() };
        let mut set = set(1);
        let failed = status(&set, &[], Some(&failure), now());
        let condition = &failed.conditions.as_ref().unwrap()[0];
        assert_eq!(condition.type_, REPLICA_FAILURE);
        assert_eq!(condition.message.as_deref(), Some("no quota"));
        set.status = Some(failed);
        assert_eq!(status(&set, &[], None, now()).conditions, None);
    }

    #[test]
    fn a_new_pod_carries_the_template_and_its_owner() {
        let set = set(1);
        let pod = pod_of_template(&set, set.template());
        assert_eq!(pod.metadata.generate_name.as_deref(), Some("web-"));
        assert_eq!(pod.labels().get("tier").unwrap(), "front");
        assert_eq!(pod.metadata.owner_references.unwrap()[0].uid, "u");
    }
}

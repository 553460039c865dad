//! What the garbage collector asks of the API.

use k8s_openapi::api::core::v1::Pod;
use kube::runtime::watcher::Event;

use super::*;
use crate::machinery::testing::{Asked, Log, context, failure};

fn pod(finalizers: &[&str], owner: Option<&str>) -> Value {
    let owners: Vec<Value> = owner
        .map(|uid| {
            json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": uid,
                "controller": true, "blockOwnerDeletion": true})
        })
        .into_iter()
        .collect();
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p",
        "namespace": "a", "uid": "p", "resourceVersion": "7", "finalizers": finalizers,
        "ownerReferences": owners}});
    if !finalizers.is_empty() {
        pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    }
    pod
}

async fn collect(
    pod: Value,
    answer: impl Fn(&Asked) -> (u16, Value) + Send + Sync + 'static,
) -> (Result<Outcome, Error>, Log) {
    let (context, log) = context(answer);
    let (collector, _) = GarbageCollector::new(context.clone());
    collector.shared.set_served(vec![Served {
        resource: ApiResource::erase::<k8s_openapi::api::apps::v1::ReplicaSet>(&()),
        namespaced: true,
        watchable: true,
        deletable: true,
        collection_deletable: true,
    }]);
    collector.shared.set_complete(true);
    let pod: Pod = serde_json::from_value(pod).unwrap();
    context.caches.pods.receive(Event::Apply(pod), &mut Vec::new());
    let uid = "p".to_owned();
    (collector.reconcile(&uid).await, log)
}

fn lines(log: &Log) -> Vec<String> {
    log.lock().unwrap().iter().map(Asked::line).collect()
}

const OWNER: &str = "GET /apis/apps/v1/namespaces/a/replicasets/web";
const POD: &str = "/api/v1/namespaces/a/pods/p";

#[tokio::test]
async fn a_dependent_goes_only_after_the_api_denied_its_owner() {
    let (result, log) = collect(pod(&[], Some("gone")), |asked| match asked.line() {
        line if line == OWNER => failure(404, "NotFound", "no"),
        _ => (200, pod(&[], Some("gone"))),
    })
    .await;
    result.unwrap();
    assert_eq!(lines(&log), [OWNER.to_owned(), format!("GET {POD}"), format!("DELETE {POD}")]);
    let log = log.lock().unwrap();
    let preconditions = &log[2].body["preconditions"];
    assert_eq!(preconditions["uid"], "p");
    assert_eq!(preconditions["resourceVersion"], "7");
    assert_eq!(log[2].body["propagationPolicy"], "Background");
}

#[tokio::test]
async fn an_owner_of_the_same_name_and_another_uid_does_not_count() {
    let (result, log) = collect(pod(&[], Some("gone")), |asked| match asked.line() {
        line if line == OWNER => (
            200,
            json!({"apiVersion": "apps/v1", "kind": "ReplicaSet",
                "metadata": {"name": "web", "namespace": "a", "uid": "new"}}),
        ),
        _ => (200, pod(&[], Some("gone"))),
    })
    .await;
    result.unwrap();
    assert_eq!(lines(&log).last().unwrap(), &format!("DELETE {POD}"));
}

#[tokio::test]
async fn nothing_goes_while_the_api_does_not_answer() {
    let (result, log) = collect(pod(&[], Some("gone")), |asked| match asked.line() {
        line if line == OWNER => failure(500, "InternalError", "broken"),
        _ => (200, pod(&[], Some("gone"))),
    })
    .await;
    assert!(result.is_err());
    assert_eq!(lines(&log), [OWNER]);
}

#[tokio::test]
async fn a_dependent_that_was_adopted_meanwhile_stays() {
    let (result, log) = collect(pod(&[], Some("gone")), |asked| match asked.line() {
        line if line == OWNER => failure(404, "NotFound", "no"),
        _ => (200, pod(&[], Some("other"))),
    })
    .await;
    assert!(matches!(result, Err(Error::Retry(_))));
    assert!(!lines(&log).iter().any(|line| line.starts_with("DELETE")));
}

#[tokio::test]
async fn an_owner_without_blocking_dependents_loses_its_finalizer() {
    let waiting = || pod(&["example.com/other", "foregroundDeletion"], None);
    let (result, log) = collect(waiting(), move |_| (200, waiting())).await;
    result.unwrap();
    assert_eq!(lines(&log), [format!("GET {POD}"), format!("PATCH {POD}")]);
    let log = log.lock().unwrap();
    let meta = &log[1].body["metadata"];
    assert_eq!(meta["finalizers"], json!(["example.com/other"]));
    assert_eq!(meta["resourceVersion"], "7");
}

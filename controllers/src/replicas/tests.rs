//! What the ReplicaSet controller asks of the API.

use std::sync::atomic::{AtomicUsize, Ordering};

use kube::runtime::watcher::Event;
use serde_json::{Value, json};

use k8s_openapi::api::apps::v1::ReplicaSet;

use super::*;
use crate::machinery::testing::{Log, context, failure};

fn set(replicas: i32) -> ReplicaSet {
    serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "a", "uid": "s", "generation": 1, "resourceVersion": "5"},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": []}}},
    }))
    .unwrap()
}

fn pod(n: usize, version: usize) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": format!("web-{n}"), "namespace": "a", "uid": format!("p{n}"),
            "resourceVersion": version.to_string(), "labels": {"app": "web"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web",
                "uid": "s", "controller": true}]},
        "spec": {"containers": []}})
}

fn count(log: &Log, method: &str) -> usize {
    let log = log.lock().unwrap();
    log.iter().filter(|asked| asked.method == method).count()
}

#[tokio::test]
async fn pods_are_not_made_twice_while_the_watch_lags() {
    let made = AtomicUsize::new(0);
    let (context, log) = context(move |asked| {
        if asked.path.contains("replicasets") {
            return (200, serde_json::to_value(set(3)).unwrap());
        }
        let n = made.fetch_add(1, Ordering::Relaxed);
        (201, pod(n, 100 + n))
    });
    let controller = ReplicasController::<ReplicaSet>::new(context.clone());
    let key = Key::new("a", "web");
    let sets = &context.caches.replica_sets;
    sets.receive(Event::Apply(set(3)), &mut Vec::new());
    controller.reconcile(&key).await.unwrap();
    assert_eq!(count(&log, "POST"), 3);
    // The watch has shown one of the three.
    let show = |n: usize| {
        let pod = serde_json::from_value(pod(n, 100 + n)).unwrap();
        context.caches.pods.receive(Event::Apply(pod), &mut Vec::new());
    };
    show(0);
    assert_eq!(controller.reconcile(&key).await.unwrap(), Outcome::After(STALE_RETRY));
    assert_eq!(count(&log, "POST"), 3);
    show(1);
    show(2);
    controller.reconcile(&key).await.unwrap();
    assert_eq!(count(&log, "POST"), 3);
    assert_eq!(count(&log, "PATCH"), 1);
}

#[tokio::test]
async fn a_refusal_ends_the_batches_and_shows_in_the_status() {
    let made = AtomicUsize::new(0);
    let (context, log) = context(move |asked| match &*asked.method {
        "POST" => match made.fetch_add(1, Ordering::Relaxed) {
            n @ 0..2 => (201, pod(n, 100 + n)),
            _ => failure(403, "Forbidden", "exceeded quota"),
        },
        _ => (200, serde_json::to_value(set(100)).unwrap()),
    });
    let controller = ReplicasController::<ReplicaSet>::new(context.clone());
    let sets = &context.caches.replica_sets;
    sets.receive(Event::Apply(set(100)), &mut Vec::new());
    let result = controller.reconcile(&Key::new("a", "web")).await;
    assert!(matches!(result, Err(Error::Partial { .. })));
    // Batches of 1 and 2, and no more.
    assert_eq!(count(&log, "POST"), 3);
    let log = log.lock().unwrap();
    let status = &log.last().unwrap().body["status"];
    assert_eq!(status["conditions"][0]["reason"], "FailedCreate");
    assert_eq!(status["conditions"][0]["message"], "exceeded quota");
}

#[tokio::test]
async fn an_orphan_is_adopted_only_for_a_living_owner() {
    for (live_uid, adopted) in [("s", 1), ("another", 0)] {
        let (context, log) = context(move |asked| {
            let mut live = set(1);
            live.metadata.uid = Some(live_uid.into());
            match asked.path.contains("replicasets") {
                true => (200, serde_json::to_value(live).unwrap()),
                false => (200, pod(0, 9)),
            }
        });
        let controller = ReplicasController::<ReplicaSet>::new(context.clone());
        let mut orphan: Pod = serde_json::from_value(pod(0, 8)).unwrap();
        orphan.metadata.owner_references = None;
        context.caches.pods.receive(Event::Apply(orphan), &mut Vec::new());
        let sets = &context.caches.replica_sets;
        sets.receive(Event::Apply(set(1)), &mut Vec::new());
        controller.reconcile(&Key::new("a", "web")).await.unwrap();
        let log = log.lock().unwrap();
        let adoptions = log.iter().filter(|asked| asked.line() == "PATCH /api/v1/namespaces/a/pods/web-0").count();
        assert_eq!(adoptions, adopted, "{live_uid}");
    }
}

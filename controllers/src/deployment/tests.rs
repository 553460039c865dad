//! What the Deployment controller asks of the API.

use kube::runtime::watcher::Event;

use super::*;
use crate::machinery::testing::{context, failure};

fn deployment() -> Deployment {
    serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "a", "uid": "d", "generation": 1, "resourceVersion": "5"},
        "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "web"}},
            "progressDeadlineSeconds": 600,
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": []}}},
    }))
    .unwrap()
}

const SETS: &str = "/apis/apps/v1/namespaces/a/replicasets";

#[tokio::test]
async fn a_name_taken_by_another_set_changes_the_hash() {
    let (context, log) = context(|asked| match (&*asked.method, &*asked.path) {
        ("POST", SETS) => failure(409, "AlreadyExists", "exists"),
        ("GET", _) => (
            200,
            json!({"metadata": {"name": "web-x", "namespace": "a", "uid": "other"},
                "spec": {"selector": {}}}),
        ),
        _ => (200, serde_json::to_value(deployment()).unwrap()),
    });
    let controller = DeploymentController::new(context.clone());
    let cache = &context.caches.deployments;
    cache.receive(Event::Apply(deployment()), &mut Vec::new());
    let result = controller.reconcile(&Key::new("a", "web")).await;
    assert!(matches!(result, Err(Error::Retry(_))));
    let log = log.lock().unwrap();
    let last = log.last().unwrap();
    assert_eq!(last.line(), "PATCH /apis/apps/v1/namespaces/a/deployments/web/status");
    assert_eq!(last.body["status"]["collisionCount"], 1);
    assert_eq!(last.body["metadata"]["resourceVersion"], "5");
}

#[tokio::test]
async fn a_set_that_cannot_be_made_shows_in_the_conditions() {
    let (context, log) = context(|asked| match &*asked.method {
        "POST" => failure(403, "Forbidden", "exceeded quota"),
        _ => (200, serde_json::to_value(deployment()).unwrap()),
    });
    let controller = DeploymentController::new(context.clone());
    let cache = &context.caches.deployments;
    cache.receive(Event::Apply(deployment()), &mut Vec::new());
    assert!(controller.reconcile(&Key::new("a", "web")).await.is_err());
    let log = log.lock().unwrap();
    let condition = &log.last().unwrap().body["status"]["conditions"][0];
    assert_eq!(condition["type"], "Progressing");
    assert_eq!(condition["status"], "False");
    assert_eq!(condition["reason"], "ReplicaSetCreateError");
    assert!(condition["message"].as_str().unwrap().ends_with("exceeded quota"));
}

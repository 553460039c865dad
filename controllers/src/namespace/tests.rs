//! What the namespace controller asks of the API.

use serde_json::{Value, json};

use super::*;
use crate::machinery::testing::{Asked, context};

fn namespace() -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop", "uid": "n",
            "resourceVersion": "3", "deletionTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Terminating"}})
}

fn discovery(path: &str) -> Value {
    let resource = |plural: &str, kind: &str, scope: &str| {
        json!({"resource": plural, "scope": scope, "singularResource": "",
            "responseKind": {"group": "", "version": "v1", "kind": kind},
            "verbs": ["get", "list", "watch", "delete", "deletecollection"]})
    };
    let resources = json!([
        resource("configmaps", "ConfigMap", "Namespaced"),
        resource("nodes", "Node", "Cluster"),
        resource("pods", "Pod", "Namespaced"),
    ]);
    let items = match path {
        "/api" => json!([{"metadata": {"name": ""},
            "versions": [{"version": "v1", "freshness": "Current", "resources": resources}]}]),
        _ => json!([]),
    };
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2",
        "metadata": {}, "items": items})
}

fn list(items: Value) -> Value {
    json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadataList",
        "metadata": {"resourceVersion": "9"}, "items": items})
}

/// The requests that are made when `pods` are left after all were deleted.
async fn requests(pods: Value) -> (Outcome, Vec<Asked>) {
    let (context, log) = context(move |asked| match (&*asked.method, &*asked.path) {
        ("GET", "/api" | "/apis") => (200, discovery(&asked.path)),
        ("GET", "/api/v1/namespaces/shop/pods") => (200, list(pods.clone())),
        ("GET", "/api/v1/namespaces/shop/configmaps") => (200, list(json!([]))),
        ("DELETE", _) => (200, json!({"kind": "Status", "apiVersion": "v1", "status": "Success"})),
        _ => (200, namespace()),
    });
    let controller = NamespaceController::new(context);
    let outcome = controller.reconcile(&"shop".to_owned()).await.unwrap();
    let log = log.lock().unwrap().clone();
    (outcome, log)
}

#[tokio::test]
async fn an_empty_namespace_is_let_go() {
    let (outcome, log) = requests(json!([])).await;
    assert_eq!(outcome, Outcome::Done);
    let lines: Vec<String> = log.iter().map(Asked::line).collect();
    assert!(lines.contains(&"DELETE /api/v1/namespaces/shop/pods".to_owned()));
    assert!(lines.contains(&"DELETE /api/v1/namespaces/shop/configmaps".to_owned()));
    assert!(!lines.iter().any(|line| line.contains("nodes")));
    let last = log.last().unwrap();
    assert_eq!(last.line(), "PUT /api/v1/namespaces/shop/finalize");
    assert!(last.body["spec"]["finalizers"].as_array().is_none_or(Vec::is_empty));
}

#[tokio::test]
async fn the_rest_waits_for_the_pods() {
    let left = json!([{"metadata": {"name": "p", "namespace": "shop", "finalizers": ["a.b/c"]}}]);
    let (outcome, log) = requests(left).await;
    assert!(matches!(outcome, Outcome::After(_)));
    assert!(!log.iter().any(|asked| asked.path.contains("configmaps")));
    let status = log.iter().find(|asked| asked.line() == "PATCH /api/v1/namespaces/shop/status").unwrap();
    let conditions = status.body["status"]["conditions"].as_array().unwrap();
    let message = |kind: &str| {
        let condition = conditions.iter().find(|c| c["type"] == kind).unwrap();
        condition["message"].as_str().unwrap().to_owned()
    };
    assert_eq!(message("NamespaceContentRemaining"), "Some resources are remaining: pods. has 1 resource instances");
    assert!(message("NamespaceFinalizersRemaining").contains("a.b/c in 1 resource instances"));
}

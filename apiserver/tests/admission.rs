//! What admission adds to pods.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use common::{Server, config_map, pod};
use serde_json::json;

#[tokio::test]
async fn a_pod_gets_its_account_token_priority_and_tolerations() {
    let server = Server::start().await;
    let admin = server.namespace("t").await;
    let created = admin.post("/api/v1/namespaces/t/pods", &pod("p")).await.expect(201);
    let spec = &created["spec"];
    assert_eq!(
        (spec["serviceAccountName"].as_str(), spec["priority"].as_i64(), spec["preemptionPolicy"].as_str()),
        (Some("default"), Some(0), Some("PreemptLowerPriority"))
    );
    assert!(spec["volumes"][0]["name"].as_str().unwrap().starts_with("kube-api-access-"));
    assert_eq!(spec["containers"][0]["volumeMounts"][0]["mountPath"], "/var/run/secrets/kubernetes.io/serviceaccount");
    assert_eq!(spec["tolerations"].as_array().unwrap().len(), 2);
    assert_eq!(created["status"]["phase"], "Pending");
    let mut without = pod("without");
    without["spec"]["automountServiceAccountToken"] = json!(false);
    let created = admin.post("/api/v1/namespaces/t/pods", &without).await.expect(201);
    assert_eq!(created["spec"].get("volumes"), None);
    server.stop().await;
}

#[tokio::test]
async fn a_pod_needs_its_account_and_its_priority_class() {
    let server = Server::start().await;
    let admin = server.namespace("t").await;
    let mut other = pod("p");
    other["spec"]["serviceAccountName"] = json!("missing");
    admin.post("/api/v1/namespaces/t/pods", &other).await.refused(
        403,
        "Forbidden",
        "pods \"p\" is forbidden: error looking up service account t/missing: serviceaccount \"missing\" not found",
    );
    let mut urgent = pod("p");
    urgent["spec"]["priorityClassName"] = json!("missing");
    admin.post("/api/v1/namespaces/t/pods", &urgent).await.refused(
        403,
        "Forbidden",
        "no PriorityClass with name missing was found",
    );
    urgent["spec"]["priorityClassName"] = json!("system-node-critical");
    let created = admin.post("/api/v1/namespaces/t/pods", &urgent).await.expect(201);
    assert_eq!(created["spec"]["priority"], 2_000_001_000);
    server.stop().await;
}

#[tokio::test]
async fn a_pod_waits_for_the_default_account_of_a_new_namespace() {
    let server = Server::start().await;
    let admin = server.admin();
    admin
        .post("/api/v1/namespaces", &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "new"}}))
        .await
        .expect(201);
    let creating = tokio::spawn({
        let admin = admin.clone();
        async move { admin.post("/api/v1/namespaces/new/pods", &pod("p")).await.expect(201) }
    });
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    admin.post("/api/v1/namespaces/new/serviceaccounts", &account).await.expect(201);
    creating.await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn nothing_is_created_in_a_missing_namespace() {
    let server = Server::start().await;
    let answer = server.admin().post("/api/v1/namespaces/missing/configmaps", &config_map("c")).await;
    answer.refused(404, "NotFound", "namespaces \"missing\" not found");
    server.stop().await;
}

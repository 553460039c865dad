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

#[tokio::test]
async fn an_account_may_limit_its_pods_to_its_own_secrets() {
    let server = Server::start().await;
    let admin = server.namespace("t").await;
    let account = json!({
        "apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": {"name": "limited", "annotations": {"kubernetes.io/enforce-mountable-secrets": "true"}},
        "secrets": [{"name": "own"}], "imagePullSecrets": [{"name": "pull"}], "automountServiceAccountToken": false,
    });
    admin.post("/api/v1/namespaces/t/serviceaccounts", &account).await.expect(201);
    let with = |secret: &str| {
        let mut pod = pod("p");
        pod["spec"]["serviceAccountName"] = json!("limited");
        pod["spec"]["volumes"] = json!([{"name": "v", "secret": {"secretName": secret}}]);
        pod
    };
    admin.post("/api/v1/namespaces/t/pods", &with("other")).await.refused(
        403,
        "Forbidden",
        "volume with secret.secretName=\"other\" is not allowed because service account limited does not reference that secret",
    );
    let made = admin.post("/api/v1/namespaces/t/pods", &with("own")).await.expect(201);
    // The account's own secrets for pulling images are given, and no token is mounted.
    assert_eq!(made["spec"]["imagePullSecrets"], json!([{"name": "pull"}]));
    assert_eq!(made["spec"]["volumes"].as_array().unwrap().len(), 1);
    server.stop().await;
}

#[tokio::test]
async fn a_token_that_is_kept_in_a_secret_ends_with_it() {
    let server = Server::start().await;
    let admin = server.namespace("t").await;
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "robot"}});
    admin.post("/api/v1/namespaces/t/serviceaccounts", &account).await.expect(201);
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/service-account-token",
        "metadata": {"name": "kept", "annotations": {"kubernetes.io/service-account.name": "robot"}},
    });
    let path = "/api/v1/namespaces/t/secrets/kept";
    let secret = admin.post("/api/v1/namespaces/t/secrets", &secret).await.expect(201);
    let request = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
        "spec": {"audiences": [], "expirationSeconds": 4_294_967_296i64, "boundObjectRef": {
            "apiVersion": "v1", "kind": "Secret", "name": "kept", "uid": secret["metadata"]["uid"],
        }},
    });
    let tokens = "/api/v1/namespaces/t/serviceaccounts/robot/token";
    let token = admin.post(tokens, &request).await.expect(201);
    assert_eq!(token["spec"]["expirationSeconds"], 4_294_967_296i64);
    let token = token["status"]["token"].as_str().unwrap().to_owned();
    let robot = server.bearer(&token);
    let version = || robot.get("/api");
    // It is good while the Secret holds it.
    assert_eq!(version().await.code, 401);
    admin.patch(path, "merge-patch", &json!({"stringData": {"token": token}})).await.expect(200);
    common::eventually(|| async { version().await.code == 200 }).await;
    admin.patch(path, "merge-patch", &json!({"stringData": {"token": "other"}})).await.expect(200);
    common::eventually(|| async { version().await.code == 401 }).await;
    admin.patch(path, "merge-patch", &json!({"stringData": {"token": token}})).await.expect(200);
    common::eventually(|| async { version().await.code == 200 }).await;
    admin.delete(path, &json!(null)).await.expect(200);
    common::eventually(|| async { version().await.code == 401 }).await;
    server.stop().await;
}

#[tokio::test]
async fn a_pod_is_resized_through_its_subresource_alone() {
    let server = Server::start().await;
    let admin = server.namespace("t").await;
    let mut pod = pod("p");
    pod["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "100m"}});
    admin.post("/api/v1/namespaces/t/pods", &pod).await.expect(201);
    let path = "/api/v1/namespaces/t/pods/p";
    let name = pod["spec"]["containers"][0]["name"].clone();
    let to = |cpu: &str| json!({"spec": {"containers": [{"name": name, "resources": {"requests": {"cpu": cpu}}}]}});
    admin.patch(path, "strategic-merge-patch", &to("200m")).await.refused(422, "Invalid", "pod updates may not change");
    let resized = admin.patch(&format!("{path}/resize"), "strategic-merge-patch", &to("200m")).await.expect(200);
    assert_eq!(resized["spec"]["containers"][0]["resources"]["requests"]["cpu"], "200m");
    assert_eq!(resized["metadata"]["generation"], 2);
    let mut other = to("300m");
    other["metadata"] = json!({"labels": {"a": "b"}});
    other["spec"]["containers"][0]["image"] = json!("other");
    let resized = admin.patch(&format!("{path}/resize"), "strategic-merge-patch", &other).await.expect(200);
    assert_eq!(resized["metadata"].get("labels").and_then(|labels| labels.get("a")), None);
    assert_ne!(resized["spec"]["containers"][0]["image"], "other");
    let gone = json!({"spec": {"containers": [{"name": name, "resources": {"requests": {"cpu": null}}}]}});
    admin.patch(&format!("{path}/resize"), "strategic-merge-patch", &gone).await.refused(
        422,
        "Invalid",
        "resource requests cannot be removed",
    );
    server.stop().await;
}

#[tokio::test]
async fn the_health_of_components_is_computed() {
    let server = Server::start().await;
    let admin = server.admin();
    let answer = admin.get("/api/v1/componentstatuses").await;
    assert!(answer.headers["warning"].to_str().unwrap().contains("v1 ComponentStatus is deprecated in v1.19+"));
    let list = answer.expect(200);
    let healthy = |list: &serde_json::Value, name: &str| {
        let all = list["items"].as_array().unwrap();
        all.iter().find(|c| c["metadata"]["name"] == name).unwrap()["conditions"][0]["status"] == "True"
    };
    assert_eq!((list["kind"].as_str(), list["items"].as_array().unwrap().len()), (Some("ComponentStatusList"), 3));
    assert!(healthy(&list, "etcd-0") && !healthy(&list, "scheduler"), "{list}");
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": "kube-scheduler", "namespace": "kube-system"},
        "spec": {"holderIdentity": "me", "leaseDurationSeconds": 3600, "renewTime": format!("{:.6}", jiff::Timestamp::now())},
    });
    admin.post("/apis/coordination.k8s.io/v1/namespaces/kube-system/leases", &lease).await.expect(201);
    common::eventually(|| async {
        let one = admin.get("/api/v1/componentstatuses/scheduler").await.expect(200);
        one["conditions"][0]["status"] == "True"
    })
    .await;
    admin.get("/api/v1/componentstatuses/other").await.refused(
        404,
        "NotFound",
        "componentstatuses \"other\" not found",
    );
    admin.post("/api/v1/componentstatuses", &json!({})).await.refused(405, "MethodNotAllowed", "");
    server.stop().await;
}

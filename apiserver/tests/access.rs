//! Who may do what: credentials, identities, tokens, nodes, reviews.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use common::{Server, config_map, pod};
use serde_json::{Value, json};

#[tokio::test]
async fn the_matrix_of_identities() {
    let server = Server::start().await;
    server.namespace("t").await;
    let clients = [
        ("anonymous", server.anonymous()),
        ("admin", server.admin()),
        ("stranger", server.user("somebody", &["people"])),
        ("scheduler", server.user("system:kube-scheduler", &[])),
        ("controllers", server.user("system:kube-controller-manager", &[])),
        ("node", server.user("system:node:n1", &["system:nodes"])),
    ];
    // Path, then the code for each client in the order above.
    let table = [
        ("/healthz", [200, 200, 200, 200, 200, 200]),
        ("/livez", [200, 200, 200, 200, 200, 200]),
        ("/readyz", [200, 200, 200, 200, 200, 200]),
        ("/version", [200, 200, 200, 200, 200, 200]),
        ("/api", [403, 200, 200, 200, 200, 200]),
        ("/apis/apps/v1", [403, 200, 200, 200, 200, 200]),
        ("/openapi/v3", [403, 200, 200, 200, 200, 200]),
        ("/metrics", [403, 200, 403, 200, 200, 403]),
        ("/api/v1/namespaces", [403, 200, 403, 200, 200, 200]),
        ("/api/v1/pods", [403, 200, 403, 200, 200, 403]),
        ("/api/v1/pods?fieldSelector=spec.nodeName%3Dn1", [403, 200, 403, 200, 200, 200]),
        ("/api/v1/pods?fieldSelector=spec.nodeName%3Dn2", [403, 200, 403, 200, 200, 403]),
        ("/api/v1/namespaces/t/secrets", [403, 200, 403, 403, 200, 403]),
        ("/apis/apps/v1/deployments", [403, 200, 403, 200, 200, 403]),
    ];
    for (path, codes) in table {
        for ((name, client), code) in clients.iter().zip(codes) {
            let answer = client.get(path).await;
            assert_eq!(answer.code, code, "{name} {path}: {}", answer.text());
        }
    }
    let refused = server.user("somebody", &[]).get("/api/v1/namespaces/t/configmaps/x").await;
    refused.refused(403, "Forbidden", "configmaps \"x\" is forbidden: User \"somebody\" cannot get resource \"configmaps\" in API group \"\" in the namespace \"t\"");
    server.anonymous().get("/apis").await.refused(
        403,
        "Forbidden",
        "forbidden: User \"system:anonymous\" cannot get path \"/apis\"",
    );
    server.bearer("rubbish").get("/version").await.refused(401, "Unauthorized", "Unauthorized");
    server.stop().await;
}

#[tokio::test]
async fn tokens_of_service_accounts_live_and_die_with_them() {
    let server = Server::start().await;
    let admin = server.namespace("t").await;
    let path = "/api/v1/namespaces/t/serviceaccounts/default";
    let request =
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 600}});
    let issued = admin.post(&format!("{path}/token"), &request).await.expect(201);
    assert!(issued["status"]["expirationTimestamp"].is_string());
    let bearer = server.bearer(issued["status"]["token"].as_str().unwrap());
    bearer.get("/apis").await.expect(200);
    bearer.get("/api/v1/namespaces/t/pods").await.refused(
        403,
        "Forbidden",
        "User \"system:serviceaccount:t:default\" cannot list resource \"pods\"",
    );
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let whoami = bearer.post("/apis/authentication.k8s.io/v1/selfsubjectreviews", &review).await.expect(201);
    assert_eq!(whoami["status"]["userInfo"]["username"], "system:serviceaccount:t:default");
    let groups = whoami["status"]["userInfo"]["groups"].as_array().unwrap();
    assert!(groups.contains(&json!("system:serviceaccounts:t")) && groups.contains(&json!("system:authenticated")));
    let mut short = request.clone();
    short["spec"]["expirationSeconds"] = json!(5);
    admin.post(&format!("{path}/token"), &short).await.refused(
        422,
        "Invalid",
        "may not specify a duration less than 10 minutes",
    );

    // Bound to a pod: it ends with the pod.
    let created = admin.post("/api/v1/namespaces/t/pods", &pod("p")).await.expect(201);
    let mut bound = request.clone();
    bound["spec"]["boundObjectRef"] =
        json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": created["metadata"]["uid"]});
    let issued = admin.post(&format!("{path}/token"), &bound).await.expect(201);
    let of_pod = server.bearer(issued["status"]["token"].as_str().unwrap());
    let whoami = of_pod.post("/apis/authentication.k8s.io/v1/selfsubjectreviews", &review).await.expect(201);
    assert_eq!(whoami["status"]["userInfo"]["extra"]["authentication.kubernetes.io/pod-name"], json!(["p"]));
    let token_review =
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": of_pod.token}});
    let reviewed = admin.post("/apis/authentication.k8s.io/v1/tokenreviews", &token_review).await.expect(201);
    assert_eq!(reviewed["status"]["authenticated"], true);
    admin.delete("/api/v1/namespaces/t/pods/p", &Value::Null).await.expect(200);
    until_unauthorized(&of_pod).await;
    let reviewed = admin.post("/apis/authentication.k8s.io/v1/tokenreviews", &token_review).await.expect(201);
    assert_ne!(reviewed["status"]["authenticated"], true);

    // The account's own tokens end with the account, and a new one of the same name does not revive them.
    admin.delete(path, &Value::Null).await.expect(200);
    until_unauthorized(&bearer).await;
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    admin.post("/api/v1/namespaces/t/serviceaccounts", &account).await.expect(201);
    until_unauthorized(&bearer).await;
    server.stop().await;
}

async fn until_unauthorized(client: &common::Client) {
    for _ in 0..50 {
        if client.get("/apis").await.code == 401 {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("the token is still good");
}

#[tokio::test]
async fn a_node_reads_what_its_pods_need_and_writes_what_is_its_own() {
    let server = Server::start().await;
    let admin = server.namespace("t").await;
    let node = server.user("system:node:n1", &["system:nodes"]);
    let object = |name: &str| json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}});
    let registered = node.post("/api/v1/nodes", &object("n1")).await.expect(201);
    assert_eq!(registered["spec"]["taints"][0]["key"], "node.kubernetes.io/not-ready", "a new node takes no pods yet");
    node.post("/api/v1/nodes", &object("n2")).await.refused(
        403,
        "Forbidden",
        "node \"n1\" is not allowed to modify node \"n2\"",
    );
    let untaint = json!({"spec": {"taints": null}});
    node.patch("/api/v1/nodes/n1", "merge-patch", &untaint).await.refused(
        403,
        "Forbidden",
        "is not allowed to modify taints",
    );
    admin.post("/api/v1/nodes", &object("n2")).await.expect(201);
    let status = json!({"status": {"phase": "Running"}});
    node.patch("/api/v1/nodes/n1/status", "merge-patch", &json!({"status": {"capacity": {"cpu": "4"}}}))
        .await
        .expect(200);
    node.patch("/api/v1/nodes/n2/status", "merge-patch", &status).await.refused(403, "Forbidden", "");

    for name in ["mine", "other"] {
        admin.post("/api/v1/namespaces/t/configmaps", &config_map(name)).await.expect(201);
        let mut using = pod(name);
        using["spec"]["nodeName"] = json!(if name == "mine" { "n1" } else { "n2" });
        using["spec"]["volumes"] = json!([{"name": "v", "configMap": {"name": name}}]);
        admin.post("/api/v1/namespaces/t/pods", &using).await.expect(201);
    }
    wait_for_cache(&admin).await;
    node.get("/api/v1/namespaces/t/configmaps/mine").await.expect(200);
    node.get("/api/v1/namespaces/t/configmaps/other").await.refused(
        403,
        "Forbidden",
        "no relationship found between node 'n1' and this object",
    );
    let own_watch = node
        .get("/api/v1/namespaces/t/configmaps?watch=true&timeoutSeconds=1&fieldSelector=metadata.name%3Dmine")
        .await;
    assert_eq!(own_watch.code, 200);
    node.patch("/api/v1/namespaces/t/pods/mine/status", "merge-patch", &status).await.expect(200);
    node.patch("/api/v1/namespaces/t/pods/other/status", "merge-patch", &status).await.refused(
        403,
        "Forbidden",
        "can only update pod status for pods with spec.nodeName set to itself",
    );
    let force = json!({"gracePeriodSeconds": 0});
    node.delete("/api/v1/namespaces/t/pods/other", &force).await.refused(
        403,
        "Forbidden",
        "can only delete pods with spec.nodeName set to itself",
    );
    node.delete("/api/v1/namespaces/t/pods/mine", &force).await.expect(200);
    node.post("/api/v1/namespaces/t/pods", &pod("made")).await.refused(403, "Forbidden", "can only create mirror pods");

    let lease = |name: &str| json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name}, "spec": {"leaseDurationSeconds": 40}});
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    node.post(leases, &lease("n1")).await.expect(201);
    node.post(leases, &lease("n2")).await.refused(403, "Forbidden", "can only access node lease with the same name");
    server.stop().await;
}

/// A consistent list returns once the cache has seen every write before it.
async fn wait_for_cache(client: &common::Client) {
    client.get("/api/v1/pods").await.expect(200);
}

#[tokio::test]
async fn reviews_answer_through_the_same_authorizer() {
    let server = Server::start().await;
    let admin = server.admin();
    let can = |client: common::Client, attributes: Value| async move {
        let review =
            json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec": attributes});
        client.post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", &review).await.expect(201)["status"]["allowed"]
            == true
    };
    let create_pods = json!({"resourceAttributes": {"verb": "create", "resource": "pods", "namespace": "t"}});
    assert!(can(admin.clone(), create_pods.clone()).await);
    assert!(!can(server.user("somebody", &[]), create_pods.clone()).await);
    assert!(can(server.user("system:kube-controller-manager", &[]), create_pods.clone()).await);
    assert!(
        can(server.user("somebody", &[]), json!({"nonResourceAttributes": {"verb": "get", "path": "/healthz"}})).await
    );
    let of_another = json!({
        "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
        "spec": {"user": "system:kube-scheduler", "resourceAttributes": {"verb": "create", "resource": "pods", "subresource": "binding"}},
    });
    let answer = admin.post("/apis/authorization.k8s.io/v1/subjectaccessreviews", &of_another).await.expect(201);
    assert_eq!(answer["status"]["allowed"], true);
    let rules =
        json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview", "spec": {"namespace": "t"}});
    let answer = admin.post("/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", &rules).await.expect(201);
    assert_eq!(answer["status"]["resourceRules"][0]["verbs"], json!(["*"]));
    // Masters may act as others, who then may only what they may.
    let as_other = [("impersonate-user", "somebody")];
    let answer = admin.request("GET", "/api/v1/pods", &as_other, axum::body::Body::empty()).await;
    answer.refused(403, "Forbidden", "User \"somebody\" cannot list");
    let answer = server
        .user("somebody", &[])
        .request("GET", "/apis", &[("impersonate-user", "kubernetes-admin")], axum::body::Body::empty())
        .await;
    answer.refused(403, "Forbidden", "cannot impersonate resource \"users\"");
    server.stop().await;
}

#[tokio::test]
async fn clients_in_the_process_have_the_identity_they_are_given() {
    use tower::ServiceExt;
    let server = Server::start().await;
    let get = |user: &'static str, groups: &'static [&'static str], path: &'static str| {
        let router = server.handle.in_process_client(user, groups);
        async move {
            let request = http::Request::get(path).body(axum::body::Body::empty()).unwrap();
            router.oneshot(request).await.unwrap().status().as_u16()
        }
    };
    assert_eq!(get("root", &["system:masters"], "/api/v1/secrets").await, 200);
    assert_eq!(get("system:kube-scheduler", &[], "/api/v1/pods").await, 200);
    assert_eq!(get("system:kube-scheduler", &[], "/api/v1/secrets").await, 403);
    server.stop().await;
}

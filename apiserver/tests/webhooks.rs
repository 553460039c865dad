//! Admission webhooks: real TLS servers that complete and refuse writes.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use common::backend::{Backend, patching, webhooks};
use common::{Client, Server, config_map, deployment, pod};
use serde_json::{Value, json};

const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";

/// One webhook for config maps, with changes.
fn hook(backend: &Backend, path: &str, change: Value) -> Value {
    let mut hook = json!({
        "name": format!("{}.example.com", path.trim_start_matches('/')),
        "admissionReviewVersions": ["v1"], "sideEffects": "None", "clientConfig": backend.client_config(path),
        "rules": [{"operations": ["CREATE", "UPDATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}],
    });
    for (key, value) in change.as_object().unwrap() {
        hook[key] = value.clone();
    }
    hook
}

async fn configure(admin: &Client, kind: &str, name: &str, hooks: &[Value]) {
    let configuration = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": format!("{kind}WebhookConfiguration"),
        "metadata": {"name": name}, "webhooks": hooks,
    });
    let path = format!("{GROUP}/{}webhookconfigurations", kind.to_lowercase());
    admin.post(&path, &configuration).await.expect(201);
}

fn set(key: &str, value: &str) -> Value {
    patching(&json!([{"op": "add", "path": format!("/data/{key}"), "value": value}]))
}

#[tokio::test]
async fn mutating_webhooks_complete_in_order_and_validating_ones_see_the_result() {
    let server = Server::start().await;
    let admin = server.namespace("t").await;
    let (backend, asked) = webhooks(|path, request| match path {
        "/first" => set("order", "first"),
        "/second" if request["object"]["data"]["order"] == "first" => set("order", "second"),
        "/check" if request["object"]["data"]["order"] == "second" => json!({"allowed": true, "warnings": ["seen"]}),
        _ => json!({"allowed": false}),
    })
    .await;
    configure(&admin, "Mutating", "b", &[hook(&backend, "/second", json!({}))]).await;
    configure(&admin, "Mutating", "a", &[hook(&backend, "/first", json!({}))]).await;
    configure(&admin, "Validating", "v", &[hook(&backend, "/check", json!({}))]).await;

    let answer = admin.post("/api/v1/namespaces/t/configmaps?fieldManager=me", &config_map("c")).await;
    assert_eq!(answer.headers["warning"], "299 - \"seen\"");
    assert_eq!(answer.expect(201)["data"], json!({"key": "value", "order": "second"}));

    let asked = asked.lock().unwrap().clone();
    let paths: Vec<&str> = asked.iter().map(|(path, _)| path.as_str()).collect();
    assert_eq!(paths, ["/first", "/second", "/check"]);
    let request = &asked[0].1;
    assert_eq!(request["kind"], json!({"group": "", "version": "v1", "kind": "ConfigMap"}));
    assert_eq!(request["resource"], json!({"group": "", "version": "v1", "resource": "configmaps"}));
    assert_eq!(
        (&request["operation"], &request["name"], &request["namespace"], &request["dryRun"], &request["oldObject"]),
        (&json!("CREATE"), &json!("c"), &json!("t"), &json!(false), &Value::Null)
    );
    assert_eq!(request["options"]["kind"], "CreateOptions");
    assert_eq!(request["options"]["fieldManager"], "me");
    assert!(request["userInfo"]["groups"].as_array().unwrap().contains(&json!("system:masters")));
    server.stop().await;
}

#[tokio::test]
async fn a_refusal_is_told_with_the_webhooks_name_and_status() {
    let server = Server::start().await;
    let admin = server.namespace("t").await;
    let (backend, _) = webhooks(|path, request| match path {
        "/deny" if request["operation"] == "DELETE" => {
            json!({"allowed": request["oldObject"]["data"]["keep"].is_null(), "status": {"message": "it is kept", "code": 403}})
        }
        "/deny" if request["object"]["data"]["bad"] == "1" => {
            json!({"allowed": false, "status": {"message": "the object is bad", "code": 403, "reason": "Forbidden"}, "warnings": ["told"]})
        }
        "/deny" => json!({"allowed": true}),
        _ => json!({"allowed": request["object"]["data"]["mute"].is_null()}),
    })
    .await;
    let all = json!([{"operations": ["*"], "apiGroups": [""], "apiVersions": ["*"], "resources": ["configmaps"]}]);
    let hooks = [hook(&backend, "/deny", json!({"rules": all})), hook(&backend, "/mute", json!({}))];
    configure(&admin, "Validating", "v", &hooks).await;
    let path = "/api/v1/namespaces/t/configmaps";
    let mut bad = config_map("c");
    bad["data"] = json!({"bad": "1"});
    let answer = admin.post(path, &bad).await;
    assert_eq!(answer.headers["warning"], "299 - \"told\"");
    let status = answer.refused(
        403,
        "Forbidden",
        "admission webhook \"deny.example.com\" denied the request: the object is bad",
    );
    assert_eq!(status["message"], "admission webhook \"deny.example.com\" denied the request: the object is bad");
    bad["data"] = json!({"mute": "1"});
    let answer = admin.post(path, &bad).await;
    answer.refused(400, "", "admission webhook \"mute.example.com\" denied the request without explanation");

    // Changes and deletions, one by one and all at once, are asked about with the object as it was.
    bad["data"] = json!({"keep": "1"});
    admin.post(path, &bad).await.expect(201);
    admin.post(path, &config_map("free")).await.expect(201);
    let patched = admin.patch(&format!("{path}/c"), "merge-patch", &json!({"data": {"bad": "1"}})).await;
    patched.refused(403, "Forbidden", "the object is bad");
    admin.delete(&format!("{path}/c"), &Value::Null).await.refused(403, "", "denied the request: it is kept");
    admin.delete(path, &Value::Null).await.refused(403, "", "denied the request: it is kept");
    let left = admin.get(path).await.expect(200);
    let left: Vec<&str> =
        left["items"].as_array().unwrap().iter().map(|item| item["metadata"]["name"].as_str().unwrap()).collect();
    assert_eq!(left, ["c"]);
    server.stop().await;
}

#[tokio::test]
async fn selectors_limit_a_webhook_to_namespaces_and_objects() {
    let server = Server::start().await;
    let admin = server.namespace("watched").await;
    server.namespace("free").await;
    let (backend, _) = webhooks(|_, _| json!({"allowed": false, "status": {"message": "no"}})).await;
    let change = json!({
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "watched"}},
        "objectSelector": {"matchExpressions": [{"key": "checked", "operator": "Exists"}]},
    });
    configure(&admin, "Validating", "v", &[hook(&backend, "/v", change)]).await;
    let mut checked = config_map("c");
    checked["metadata"]["labels"] = json!({"checked": "1"});
    admin.post("/api/v1/namespaces/free/configmaps", &checked).await.expect(201);
    admin.post("/api/v1/namespaces/watched/configmaps", &config_map("plain")).await.expect(201);
    admin.post("/api/v1/namespaces/watched/configmaps", &checked).await.refused(400, "", "denied the request: no");
    // A label that goes away is still the object's before.
    let unlabelled = json!({"metadata": {"labels": {"checked": null}}});
    admin.patch("/api/v1/namespaces/free/configmaps/c", "merge-patch", &unlabelled).await.expect(200);
    let labelled = json!({"metadata": {"labels": {"checked": "1"}}});
    let answer = admin.patch("/api/v1/namespaces/watched/configmaps/plain", "merge-patch", &labelled).await;
    answer.refused(400, "", "denied the request: no");
    server.stop().await;
}

#[tokio::test]
async fn conditions_decide_whether_a_webhook_is_asked() {
    let server = Server::start().await;
    let admin = server.namespace("t").await;
    let (backend, asked) = webhooks(|_, _| json!({"allowed": false})).await;
    let conditions = json!([
        {"name": "marked", "expression": "object.data.key == 'asked' || object.data.key == 'broken'"},
        {"name": "breaks", "expression": "object.data.key != 'broken' || object.data.nothing == '1'"},
    ]);
    configure(&admin, "Validating", "v", &[hook(&backend, "/v", json!({"matchConditions": conditions}))]).await;
    let path = "/api/v1/namespaces/t/configmaps";
    let with = |name: &str| {
        let mut object = config_map(name);
        object["data"] = json!({"key": name});
        object
    };
    admin.post(path, &with("free")).await.expect(201);
    admin.post(path, &with("asked")).await.refused(400, "", "denied the request without explanation");
    admin.post(path, &with("broken")).await.refused(403, "Forbidden", "resulted in error: no such key: nothing");
    assert_eq!(asked.lock().unwrap().len(), 1);
    server.stop().await;
}

#[tokio::test]
async fn a_webhook_that_cannot_be_asked_refuses_or_is_passed_over() {
    let server = Server::start().await;
    let admin = server.namespace("t").await;
    let (backend, _) = webhooks(|path, _| if path == "/null" { Value::Null } else { json!({"allowed": true}) }).await;
    let labelled = |name: &str| json!({"objectSelector": {"matchLabels": {"case": name}}});
    let with = |mut hook: Value, change: Value| {
        for (key, value) in change.as_object().unwrap() {
            hook[key] = value.clone();
        }
        hook
    };
    let gone = json!({"service": {"namespace": "t", "name": "gone", "path": "/x"}, "caBundle": backend.ca_bundle()});
    let hooks = [
        with(hook(&backend, "/null", labelled("null")), json!({})),
        with(hook(&backend, "/slow", labelled("slow")), json!({"timeoutSeconds": 1})),
        with(hook(&backend, "/open", labelled("open")), json!({"clientConfig": gone, "failurePolicy": "Ignore"})),
        with(hook(&backend, "/closed", labelled("closed")), json!({"clientConfig": gone})),
    ];
    configure(&admin, "Validating", "v", &hooks).await;
    let path = "/api/v1/namespaces/t/configmaps";
    let case = |name: &str| {
        let mut object = config_map(name);
        object["metadata"]["labels"] = json!({"case": name});
        object
    };
    admin.post(path, &case("null")).await.refused(
        500,
        "InternalError",
        "Internal error occurred: failed calling webhook \"null.example.com\": received invalid webhook response: webhook response was absent",
    );
    let slow = admin.post(path, &case("slow")).await;
    let url = format!("https://127.0.0.1:{}/slow?timeout=1s", backend.address.port());
    slow.refused(
        500,
        "InternalError",
        &format!("failed calling webhook \"slow.example.com\": failed to call webhook: Post \"{url}\": context deadline exceeded"),
    );
    admin.post(path, &case("closed")).await.refused(
        500,
        "InternalError",
        "failed calling webhook \"closed.example.com\": failed to call webhook: Post \"https://gone.t.svc:443/x?timeout=10s\": service \"gone\" not found",
    );
    admin.post(path, &case("open")).await.expect(201);
    server.stop().await;
}

#[tokio::test]
async fn dry_runs_only_ask_webhooks_without_side_effects() {
    let server = Server::start().await;
    let admin = server.namespace("t").await;
    let (backend, asked) = webhooks(|_, _| set("by", "webhook")).await;
    configure(&admin, "Mutating", "a", &[hook(&backend, "/safe", json!({"sideEffects": "NoneOnDryRun"}))]).await;
    let path = "/api/v1/namespaces/t/configmaps?dryRun=All";
    assert_eq!(admin.post(path, &config_map("c")).await.expect(201)["data"]["by"], "webhook");
    assert_eq!(asked.lock().unwrap()[0].1["dryRun"], true);
    let mut unsafe_one = hook(&backend, "/unsafe", json!({}));
    // Configurations of today cannot say so any more, but older ones that are stored do.
    unsafe_one["sideEffects"] = json!("Unknown");
    let configuration = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": "old"}, "webhooks": [unsafe_one],
    });
    let answer = admin.post(&format!("{GROUP}/mutatingwebhookconfigurations"), &configuration).await;
    if answer.code == 201 {
        admin.post(path, &config_map("c")).await.refused(
            400,
            "BadRequest",
            "admission webhook \"unsafe.example.com\" does not support dry run",
        );
    } else {
        answer.refused(422, "Invalid", "sideEffects");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_webhook_is_asked_again_after_later_changes_if_it_wants() {
    let server = Server::start().await;
    let admin = server.namespace("t").await;
    let (backend, asked) = webhooks(|path, request| match path {
        // Counts how many keys there are, so what comes later matters to it.
        "/count" => set("count", &request["object"]["data"].as_object().unwrap().len().to_string()),
        _ => set("late", "1"),
    })
    .await;
    let hooks =
        [hook(&backend, "/count", json!({"reinvocationPolicy": "IfNeeded"})), hook(&backend, "/late", json!({}))];
    configure(&admin, "Mutating", "a", &hooks).await;
    let created = admin.post("/api/v1/namespaces/t/configmaps", &config_map("c")).await.expect(201);
    assert_eq!(created["data"], json!({"key": "value", "late": "1", "count": "3"}));
    let paths: Vec<String> = asked.lock().unwrap().iter().map(|(path, _)| path.clone()).collect();
    assert_eq!(paths, ["/count", "/late", "/count"]);
    server.stop().await;
}

#[tokio::test]
async fn a_patch_is_read_like_any_input_and_may_not_rename() {
    let server = Server::start().await;
    let admin = server.namespace("t").await;
    let (backend, _) = webhooks(|path, request| match (path, request["object"]["metadata"]["name"].as_str()) {
        (_, Some("fill")) => patching(&json!([
            {"op": "add", "path": "/spec/containers/-", "value": {"name": "side", "image": "example/side", "unknown": 1}},
        ])),
        (_, Some("rename")) => patching(&json!([{"op": "replace", "path": "/metadata/name", "value": "other"}])),
        (_, Some("wrong")) => patching(&json!([{"op": "remove", "path": "/spec/nothing"}])),
        _ => patching(&json!([{"op": "replace", "path": "/spec/containers/0/image", "value": ""}])),
    })
    .await;
    let rules = json!([{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}]);
    configure(&admin, "Mutating", "a", &[hook(&backend, "/pods", json!({"rules": rules}))]).await;
    let path = "/api/v1/namespaces/t/pods";
    let filled = admin.post(path, &pod("fill")).await.expect(201);
    let side = &filled["spec"]["containers"][1];
    assert_eq!((&side["imagePullPolicy"], side.get("unknown")), (&json!("Always"), None));
    assert_eq!(side["terminationMessagePath"], "/dev/termination-log");
    admin.post(path, &pod("rename")).await.refused(422, "Invalid", "metadata.name");
    admin.post(path, &pod("wrong")).await.refused(500, "InternalError", "Internal error occurred");
    admin.post(path, &pod("empty")).await.refused(422, "Invalid", "spec.containers[0].image: Required value");
    let left = admin.get(path).await.expect(200);
    assert_eq!(left["items"].as_array().unwrap().len(), 1);
    server.stop().await;
}

#[tokio::test]
async fn subresources_and_connections_are_told_by_their_own_kinds() {
    let server = Server::start().await;
    let admin = server.namespace("t").await;
    let (backend, asked) = webhooks(|_, request| match request["operation"].as_str() {
        Some("CONNECT") => json!({"allowed": false, "status": {"message": "attaching to pod is not allowed"}}),
        _ => json!({"allowed": true}),
    })
    .await;
    let rules = json!([
        {"operations": ["CONNECT", "CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods/*"]},
        {"operations": ["UPDATE"], "apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["deployments/scale"]},
    ]);
    configure(&admin, "Validating", "v", &[hook(&backend, "/v", json!({"rules": rules}))]).await;
    admin.post("/api/v1/namespaces/t/pods", &pod("p")).await.expect(201);
    let attach = "/api/v1/namespaces/t/pods/p/attach?container=main&stdout=true";
    let answer = admin.request("POST", attach, &[], axum::body::Body::empty()).await;
    answer.refused(400, "", "denied the request: attaching to pod is not allowed");
    admin.post("/apis/apps/v1/namespaces/t/deployments", &deployment("d")).await.expect(201);
    let scale = json!({"spec": {"replicas": 4}});
    admin.patch("/apis/apps/v1/namespaces/t/deployments/d/scale", "merge-patch", &scale).await.expect(200);
    let binding = json!({
        "apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n"},
    });
    admin.post("/api/v1/namespaces/t/pods/p/binding", &binding).await.expect(201);

    let asked = asked.lock().unwrap().clone();
    let told: Vec<(&str, &str, &str)> = asked
        .iter()
        .map(|(_, request)| {
            let text = |path: &str| request.pointer(path).and_then(Value::as_str).unwrap_or_default();
            (text("/kind/kind"), text("/subResource"), text("/operation"))
        })
        .collect();
    assert_eq!(
        told,
        [
            ("Pod", "", "CREATE"),
            ("PodAttachOptions", "attach", "CONNECT"),
            ("Scale", "scale", "UPDATE"),
            ("Binding", "binding", "CREATE")
        ]
    );
    assert_eq!(asked[1].1["object"]["container"], "main");
    assert_eq!(
        (&asked[2].1["object"]["spec"]["replicas"], &asked[2].1["oldObject"]["spec"]["replicas"]),
        (&json!(4), &json!(1))
    );
    server.stop().await;
}

#[tokio::test]
async fn nothing_can_lock_everyone_out_of_the_configurations() {
    let server = Server::start().await;
    let admin = server.admin();
    let (backend, asked) = webhooks(|_, _| json!({"allowed": false})).await;
    let rules = json!([{"operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*/*"]}]);
    configure(&admin, "Validating", "all", &[hook(&backend, "/v", json!({"rules": rules}))]).await;
    configure(&admin, "Mutating", "more", &[]).await;
    let path = format!("{GROUP}/validatingwebhookconfigurations/all");
    let answer = admin.patch(&path, "merge-patch", &json!({"metadata": {"labels": {"a": "b"}}})).await;
    answer.expect(200);
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n"}});
    admin.post("/api/v1/namespaces", &namespace).await.refused(400, "", "denied the request without explanation");
    admin.delete(&path, &Value::Null).await.expect(200);
    admin.post("/api/v1/namespaces", &namespace).await.expect(201);
    assert!(
        asked.lock().unwrap().iter().all(|(_, request)| request["kind"]["kind"] != "ValidatingWebhookConfiguration")
    );
    server.stop().await;
}

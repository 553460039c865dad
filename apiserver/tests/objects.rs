//! Create, read, change and delete; `kinds.rs` takes every kind that way.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use common::{Client, Server, config_map, deployment, pod, revision};
use serde_json::{Value, json};

#[tokio::test]
async fn each_kind_of_patch() {
    let server = Server::start().await;
    let admin = server.namespace("t").await;
    admin.post("/apis/apps/v1/namespaces/t/deployments", &deployment("web")).await.expect(201);
    let path = "/apis/apps/v1/namespaces/t/deployments/web";
    let patched = admin
        .patch(path, "json-patch", &json!([{"op": "replace", "path": "/spec/replicas", "value": 3}]))
        .await
        .expect(200);
    assert_eq!((patched["spec"]["replicas"].as_i64(), patched["metadata"]["generation"].as_i64()), (Some(3), Some(2)));
    let sidecar = json!({"spec": {"template": {"spec": {"containers": [{"name": "side", "image": "s:1"}]}}}});
    let patched = admin.patch(path, "strategic-merge-patch", &sidecar).await.expect(200);
    assert_eq!(patched["spec"]["template"]["spec"]["containers"].as_array().unwrap().len(), 2);
    let patched = admin.patch(path, "merge-patch", &sidecar).await.expect(200);
    assert_eq!(patched["spec"]["template"]["spec"]["containers"].as_array().unwrap().len(), 1);
    // A patch that changes nothing writes nothing.
    let same = admin.patch(path, "merge-patch", &json!({"spec": {"replicas": 3}})).await.expect(200);
    assert_eq!(revision(&same), revision(&patched));
    // A stale resourceVersion in a patch is a conflict.
    let stale = json!({"metadata": {"resourceVersion": "1"}, "spec": {"replicas": 4}});
    admin.patch(path, "merge-patch", &stale).await.refused(409, "Conflict", "the object has been modified");
    admin
        .patch(path, "json-patch", &json!([{"op": "test", "path": "/spec/replicas", "value": 9}]))
        .await
        .refused(422, "Invalid", "");
    let answer = admin.request("PATCH", path, &[("content-type", "application/json")], "{}").await;
    answer.refused(415, "UnsupportedMediaType", "application/apply-patch+yaml");
    server.stop().await;
}

#[tokio::test]
async fn server_side_apply_creates_owns_and_conflicts() {
    let server = Server::start().await;
    let admin = server.namespace("t").await;
    let path = "/api/v1/namespaces/t/configmaps/c";
    let apply = |data: Value| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": data});
    admin.patch(path, "apply", &apply(json!({"a": "1"}))).await.refused(
        422,
        "Invalid",
        "fieldManager: Required value: is required for apply patch",
    );
    let created = admin
        .patch(&format!("{path}?fieldManager=one"), "apply", &apply(json!({"a": "1", "b": "1"})))
        .await
        .expect(201);
    assert_eq!(created["metadata"]["managedFields"][0]["operation"], "Apply");
    assert_eq!(created["metadata"]["managedFields"].as_array().unwrap().len(), 1, "only the applier owns anything");
    let conflict = admin.patch(&format!("{path}?fieldManager=two"), "apply", &apply(json!({"a": "2"}))).await;
    let status = conflict.refused(409, "Conflict", "Apply failed with 1 conflict");
    assert_eq!(status["details"]["causes"][0]["reason"], "FieldManagerConflict");
    let forced = admin
        .patch(&format!("{path}?fieldManager=two&force=true"), "apply", &apply(json!({"a": "2"})))
        .await
        .expect(200);
    assert_eq!(forced["data"], json!({"a": "2", "b": "1"}));
    // What an applier no longer names and nobody else owns goes.
    let dropped = admin.patch(&format!("{path}?fieldManager=one"), "apply", &apply(json!({}))).await.expect(200);
    assert_eq!(dropped["data"], json!({"a": "2"}));
    let wrong = admin.patch(&format!("{path}?force=true"), "merge-patch", &json!({})).await;
    wrong.refused(422, "Invalid", "force: Forbidden: may not be specified for non-apply patch");
    server.stop().await;
}

#[tokio::test]
async fn names_are_generated_and_dry_runs_store_nothing() {
    let server = Server::start().await;
    let admin = server.namespace("t").await;
    let mut generated = config_map("");
    generated["metadata"] = json!({"generateName": "made-"});
    let first = admin.post("/api/v1/namespaces/t/configmaps", &generated).await.expect(201);
    let second = admin.post("/api/v1/namespaces/t/configmaps", &generated).await.expect(201);
    assert_ne!(first["metadata"]["name"], second["metadata"]["name"]);
    assert_eq!(first["metadata"]["name"].as_str().unwrap().len(), "made-".len() + 5);
    let dry = admin.post("/api/v1/namespaces/t/configmaps?dryRun=All", &config_map("dry")).await.expect(201);
    assert!(dry["metadata"]["uid"].is_string());
    admin.get("/api/v1/namespaces/t/configmaps/dry").await.refused(404, "NotFound", "");
    let name = first["metadata"]["name"].as_str().unwrap();
    let path = format!("/api/v1/namespaces/t/configmaps/{name}");
    let patched =
        admin.patch(&format!("{path}?dryRun=All"), "merge-patch", &json!({"data": {"key": "other"}})).await.expect(200);
    assert_eq!(patched["data"]["key"], "other");
    assert_eq!(admin.get(&path).await.expect(200), first);
    admin.delete(&format!("{path}?dryRun=All"), &Value::Null).await.expect(200);
    assert_eq!(admin.get(&path).await.expect(200), first);
    let bad = admin.post("/api/v1/namespaces/t/configmaps?dryRun=Some", &config_map("dry")).await;
    bad.refused(422, "Invalid", "dryRun: Unsupported value: \"Some\"");
    server.stop().await;
}

#[tokio::test]
async fn status_and_scale_are_separate() {
    let server = Server::start().await;
    let admin = server.namespace("t").await;
    admin.post("/apis/apps/v1/namespaces/t/deployments", &deployment("web")).await.expect(201);
    let path = "/apis/apps/v1/namespaces/t/deployments/web";
    let status = json!({"status": {"replicas": 2, "readyReplicas": 2}, "spec": {"replicas": 9}});
    let after = admin.patch(&format!("{path}/status"), "merge-patch", &status).await.expect(200);
    assert_eq!((after["status"]["replicas"].as_i64(), after["spec"]["replicas"].as_i64()), (Some(2), Some(1)));
    assert_eq!(after["metadata"]["generation"], 1);
    let after = admin.patch(path, "merge-patch", &json!({"status": {"replicas": 7}})).await.expect(200);
    assert_eq!(after["status"]["replicas"], 2);
    let scale = admin.get(&format!("{path}/scale")).await.expect(200);
    assert_eq!(
        (scale["kind"].as_str(), scale["spec"]["replicas"].as_i64(), scale["status"]["selector"].as_str()),
        (Some("Scale"), Some(1), Some("app=web"))
    );
    let scaled =
        admin.patch(&format!("{path}/scale"), "merge-patch", &json!({"spec": {"replicas": 5}})).await.expect(200);
    assert_eq!((scaled["kind"].as_str(), scaled["spec"]["replicas"].as_i64()), (Some("Scale"), Some(5)));
    let mut put = scaled.clone();
    put["spec"]["replicas"] = json!(6);
    let scaled = admin.put(&format!("{path}/scale"), &put).await.expect(200);
    assert_eq!(scaled["spec"]["replicas"], 6);
    admin.put(&format!("{path}/scale"), &put).await.refused(409, "Conflict", "the object has been modified");
    let whole = admin.get(path).await.expect(200);
    assert_eq!((whole["spec"]["replicas"].as_i64(), whole["metadata"]["generation"].as_i64()), (Some(6), Some(3)));
    admin.get(&format!("{path}/nothing")).await.refused(404, "NotFound", "could not find the requested resource");
    server.stop().await;
}

#[tokio::test]
async fn a_pod_is_bound_once_and_ends_gracefully() {
    let server = Server::start().await;
    let admin = server.namespace("t").await;
    let labels = json!({"topology.kubernetes.io/zone": "z1", "color": "red"});
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1", "labels": labels}});
    admin.post("/api/v1/nodes", &node).await.expect(201);
    let created = admin.post("/api/v1/namespaces/t/pods", &pod("p")).await.expect(201);
    let path = "/api/v1/namespaces/t/pods/p";
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p", "annotations": {"by": "test"}, "labels": {"l": "1"}}, "target": {"kind": "Node", "name": "n1"}});
    admin.post(&format!("{path}/binding?dryRun=All"), &binding).await.expect(201);
    assert_eq!(admin.get(path).await.expect(200), created);
    admin.post(&format!("{path}/binding"), &binding).await.expect(201);
    let bound = admin.get(path).await.expect(200);
    assert_eq!(bound["spec"]["nodeName"], "n1");
    assert_eq!(bound["metadata"]["annotations"]["by"], "test");
    assert_eq!(bound["metadata"]["labels"], json!({"l": "1", "topology.kubernetes.io/zone": "z1"}));
    assert_eq!(bound["status"]["conditions"][0]["type"], "PodScheduled");
    // The binding is the server's own write: it makes nobody the owner of a field.
    for kept in ["managedFields", "generation"] {
        assert_eq!(bound["metadata"][kept], created["metadata"][kept]);
    }
    admin.post(&format!("{path}/binding"), &binding).await.refused(
        409,
        "Conflict",
        "pod p is already assigned to node \"n1\"",
    );
    let by_node = admin.get("/api/v1/pods?fieldSelector=spec.nodeName%3Dn1").await.expect(200);
    assert_eq!(by_node["items"].as_array().unwrap().len(), 1);
    let ending = admin.delete(path, &json!({"gracePeriodSeconds": 5})).await.expect(200);
    assert_eq!(ending["metadata"]["deletionGracePeriodSeconds"], 5);
    let wrong = admin.delete(path, &json!({"gracePeriodSeconds": 0, "preconditions": {"uid": "other"}})).await;
    wrong.refused(409, "Conflict", "Precondition failed: UID in precondition: other");
    let uid = bound["metadata"]["uid"].clone();
    let gone = admin.delete(path, &json!({"gracePeriodSeconds": 0, "preconditions": {"uid": uid}})).await.expect(200);
    assert_eq!(gone["kind"], "Pod");
    admin.get(path).await.refused(404, "NotFound", "pods \"p\" not found");
    // A pod that is nowhere yet goes at once; so does an evicted one.
    for way in ["delete", "evict"] {
        admin.post("/api/v1/namespaces/t/pods", &pod(way)).await.expect(201);
        let path = format!("/api/v1/namespaces/t/pods/{way}");
        if way == "delete" {
            admin.delete(&path, &Value::Null).await.expect(200);
        } else {
            let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": way}});
            admin.post(&format!("{path}/eviction"), &eviction).await.expect(201);
        }
        admin.get(&path).await.refused(404, "NotFound", "");
    }
    server.stop().await;
}

#[tokio::test]
async fn finalizers_hold_an_object() {
    let server = Server::start().await;
    let admin = server.namespace("t").await;
    let collection = "/apis/apps/v1/namespaces/t/deployments";
    for (policy, finalizer) in [("Foreground", "foregroundDeletion"), ("Orphan", "orphan")] {
        admin.post(collection, &deployment("web")).await.expect(201);
        let path = format!("{collection}/web");
        let held = admin.delete(&path, &json!({"propagationPolicy": policy})).await.expect(200);
        assert_eq!(held["metadata"]["finalizers"], json!([finalizer]));
        assert!(held["metadata"]["deletionTimestamp"].is_string());
        let again = admin.post(collection, &deployment("web")).await;
        again.refused(409, "AlreadyExists", "object is being deleted: deployments.apps \"web\" already exists");
        let last = admin.patch(&path, "merge-patch", &json!({"metadata": {"finalizers": null}})).await.expect(200);
        assert_eq!(last["metadata"]["name"], "web");
        admin.get(&path).await.refused(404, "NotFound", "");
    }
    let mut own = config_map("held");
    own["metadata"]["finalizers"] = json!(["example.com/wait"]);
    admin.post("/api/v1/namespaces/t/configmaps", &own).await.expect(201);
    let path = "/api/v1/namespaces/t/configmaps/held";
    let held = admin.delete(path, &Value::Null).await.expect(200);
    assert_eq!(held["metadata"]["deletionGracePeriodSeconds"], 0);
    let added = admin
        .patch(path, "merge-patch", &json!({"metadata": {"finalizers": ["example.com/wait", "example.com/more"]}}))
        .await;
    assert_eq!(added.code, 422, "no finalizer can be added to what is being deleted: {}", added.text());
    admin.patch(path, "json-patch", &json!([{"op": "remove", "path": "/metadata/finalizers/0"}])).await.expect(200);
    admin.get(path).await.refused(404, "NotFound", "");
    server.stop().await;
}

#[tokio::test]
async fn a_namespace_terminates_until_it_is_finalized() {
    let server = Server::start().await;
    let admin = server.namespace("t").await;
    admin.delete("/api/v1/namespaces/default", &Value::Null).await.refused(
        403,
        "Forbidden",
        "namespaces \"default\" is forbidden: this namespace may not be deleted",
    );
    let terminating = admin.delete("/api/v1/namespaces/t", &Value::Null).await.expect(200);
    assert_eq!(terminating["status"]["phase"], "Terminating");
    let refused = admin.post("/api/v1/namespaces/t/configmaps", &config_map("c")).await;
    let status =
        refused.refused(403, "Forbidden", "unable to create new content in namespace t because it is being terminated");
    assert_eq!(status["details"]["causes"][0]["reason"], "NamespaceTerminating");
    let mut finalized = admin.get("/api/v1/namespaces/t").await.expect(200);
    finalized["spec"]["finalizers"] = json!([]);
    admin.put("/api/v1/namespaces/t/finalize", &finalized).await.expect(200);
    admin.get("/api/v1/namespaces/t").await.refused(404, "NotFound", "namespaces \"t\" not found");
    server.stop().await;
}

#[tokio::test]
async fn a_collection_is_deleted_by_selector() {
    let server = Server::start().await;
    let admin = server.namespace("t").await;
    for index in 0..20 {
        let mut object = config_map(&format!("c{index}"));
        object["metadata"]["labels"] = json!({"half": if index % 2 == 0 { "even" } else { "odd" }});
        admin.post("/api/v1/namespaces/t/configmaps", &object).await.expect(201);
    }
    let deleted =
        admin.delete("/api/v1/namespaces/t/configmaps?labelSelector=half%3Dodd", &Value::Null).await.expect(200);
    assert_eq!(deleted["items"].as_array().unwrap().len(), 10);
    let left = admin.get("/api/v1/namespaces/t/configmaps").await.expect(200);
    assert_eq!(left["items"].as_array().unwrap().len(), 10);
    assert!(left["items"].as_array().unwrap().iter().all(|item| item["metadata"]["labels"]["half"] == "even"));
    server.stop().await;
}

#[tokio::test]
async fn concurrent_writers_lose_nothing() {
    let server = Server::start().await;
    let admin = server.namespace("t").await;
    admin.post("/api/v1/namespaces/t/configmaps", &config_map("shared")).await.expect(201);
    let writers = (0..16).map(|index| {
        let admin = admin.clone();
        tokio::spawn(async move {
            let patch = json!({"data": {format!("writer-{index}"): "was here"}});
            admin.patch("/api/v1/namespaces/t/configmaps/shared", "merge-patch", &patch).await.expect(200);
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    let object = admin.get("/api/v1/namespaces/t/configmaps/shared").await.expect(200);
    assert_eq!(object["data"].as_object().unwrap().len(), 17);
    server.stop().await;
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_a_restart() {
    let server = Server::start().await;
    let admin = server.namespace("t").await;
    let created = admin.post("/api/v1/namespaces/t/configmaps", &config_map("kept")).await.expect(201);
    let ca = server.handle.pki().ca_pem().to_owned();
    let dir = server.stop().await;
    let server = Server::start_in(dir).await;
    assert_eq!(server.handle.pki().ca_pem(), ca, "the authority stays");
    assert_eq!(server.admin().get("/api/v1/namespaces/t/configmaps/kept").await.expect(200), created);
    server.stop().await;
}

#[tokio::test]
async fn services_get_addresses_that_nobody_else_has() {
    let server = Server::start().await;
    let admin = server.namespace("t").await;
    let service = |name: &str, spec: Value| json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec});
    let collection = "/api/v1/namespaces/t/services";
    let kubernetes = admin.get("/api/v1/namespaces/default/services/kubernetes").await.expect(200);
    assert_eq!(kubernetes["spec"]["clusterIP"], "10.96.0.1");
    let first =
        admin.post(collection, &service("a", json!({"type": "NodePort", "ports": [{"port": 80}]}))).await.expect(201);
    let ip = first["spec"]["clusterIP"].as_str().unwrap().to_owned();
    let port = first["spec"]["ports"][0]["nodePort"].as_u64().unwrap();
    assert!(ip.starts_with("10.96.") && (30_000..=32_767).contains(&port));
    let same_ip = service("b", json!({"clusterIP": ip, "ports": [{"port": 80}]}));
    admin.post(collection, &same_ip).await.refused(422, "Invalid", "provided IP is already allocated");
    let same_port = service("b", json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": port}]}));
    admin.post(collection, &same_port).await.refused(422, "Invalid", "provided port is already allocated");
    let outside = service("b", json!({"clusterIP": "192.0.2.1", "ports": [{"port": 80}]}));
    admin.post(collection, &outside).await.refused(422, "Invalid", "not in the valid range");
    let headless =
        admin.post(collection, &service("h", json!({"clusterIP": "None", "ports": [{"port": 80}]}))).await.expect(201);
    assert_eq!(headless["spec"]["clusterIP"], "None");
    admin.delete(&format!("{collection}/a"), &Value::Null).await.expect(200);
    let again = admin.post(collection, &same_ip).await.expect(201);
    assert_eq!(again["spec"]["clusterIP"], ip.as_str());
    server.stop().await;
}

#[tokio::test]
async fn the_representation_is_negotiated() {
    let server = Server::start().await;
    let admin = server.namespace("t").await;
    admin.post("/api/v1/namespaces/t/configmaps", &config_map("c")).await.expect(201);
    let get = |accept: &'static str, path: &'static str| {
        let admin: Client = admin.clone();
        async move { admin.request("GET", path, &[("accept", accept)], axum::body::Body::empty()).await }
    };
    let table = get("application/json;as=Table;v=v1;g=meta.k8s.io,application/json", "/api/v1/namespaces/t/configmaps")
        .await
        .expect(200);
    assert_eq!((table["kind"].as_str(), table["rows"][0]["cells"][0].as_str()), (Some("Table"), Some("c")));
    let one =
        get("application/json;as=Table;v=v1;g=meta.k8s.io", "/api/v1/namespaces/t/configmaps/c").await.expect(200);
    assert_eq!(one["rows"].as_array().unwrap().len(), 1);
    let partial =
        get("application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io", "/api/v1/namespaces/t/configmaps")
            .await
            .expect(200);
    assert_eq!(partial["kind"], "PartialObjectMetadataList");
    assert_eq!(
        (partial["items"][0]["kind"].as_str(), partial["items"][0].get("data")),
        (Some("PartialObjectMetadata"), None)
    );
    let yaml = get("application/yaml", "/api/v1/namespaces/t/configmaps/c").await;
    assert_eq!(yaml.headers["content-type"], "application/yaml");
    assert!(yaml.text().contains("kind: ConfigMap"), "{}", yaml.text());
    get("text/html", "/api/v1/namespaces/t/configmaps/c").await.refused(
        406,
        "NotAcceptable",
        "only the following media types are accepted",
    );
    let preferred = get("application/json,application/vnd.kubernetes.protobuf", "/api/v1/namespaces/t/configmaps/c");
    assert_eq!(preferred.await.expect(200)["kind"], "ConfigMap");
    let pretty = admin.get("/api/v1/namespaces/t/configmaps/c?pretty=true").await;
    assert!(pretty.text().contains("\n  \"kind\""), "{}", pretty.text());
    let yaml_body = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: fromyaml\ndata:\n  a: b\n";
    let created = admin
        .request("POST", "/api/v1/namespaces/t/configmaps", &[("content-type", "application/yaml")], yaml_body)
        .await;
    assert_eq!(created.expect(201)["data"]["a"], "b");
    for index in 0..40 {
        let mut big = config_map(&format!("big{index}"));
        big["data"]["text"] = json!("x".repeat(5000));
        admin.post("/api/v1/namespaces/t/configmaps", &big).await.expect(201);
    }
    let zipped = admin
        .request("GET", "/api/v1/namespaces/t/configmaps", &[("accept-encoding", "gzip")], axum::body::Body::empty())
        .await;
    assert_eq!(zipped.headers["content-encoding"], "gzip");
    let mut text = String::new();
    std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&zipped.body[..]), &mut text).unwrap();
    assert!(zipped.body.len() * 10 < text.len());
    server.stop().await;
}

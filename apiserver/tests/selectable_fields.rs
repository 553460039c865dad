//! Custom objects selected by their fields, in a version that is stored and in another one that a webhook makes of it.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::time::Duration;

use common::backend::{Backend, webhooks};
use common::{Client, Server};
use serde_json::{Value, json};

const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const V1: &str = "/apis/example.com/v1/namespaces/t/endpoints";
const V2: &str = "/apis/example.com/v2/namespaces/t/endpoints";

fn version(name: &str, storage: bool, fields: &[&str]) -> Value {
    let properties: serde_json::Map<String, Value> =
        fields.iter().map(|field| ((*field).to_owned(), json!({"type": "string"}))).collect();
    let selectable: Vec<Value> = fields.iter().map(|field| json!({"jsonPath": format!(".{field}")})).collect();
    json!({
        "name": name, "served": true, "storage": storage, "selectableFields": selectable,
        "schema": {"openAPIV3Schema": {"type": "object", "properties": properties}},
    })
}

/// Version 1 says `hostPort: a:1`, version 2 `host: a` and `port: 1`; version 1 is stored.
async fn endpoints(admin: &Client) -> Backend {
    let (backend, _) = webhooks(|_, request| {
        let desired = request["desiredAPIVersion"].as_str().unwrap();
        let converted: Vec<Value> =
            request["objects"].as_array().unwrap().iter().map(|object| convert(object.clone(), desired)).collect();
        json!({"result": {"status": "Success"}, "convertedObjects": converted})
    })
    .await;
    let crd = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "endpoints.example.com"},
        "spec": {
            "group": "example.com", "scope": "Namespaced", "names": {"plural": "endpoints", "kind": "Endpoint"},
            "versions": [version("v1", true, &["hostPort"]), version("v2", false, &["host", "port"])],
            "conversion": {"strategy": "Webhook", "webhook": {
                "clientConfig": backend.client_config("/convert"), "conversionReviewVersions": ["v1"]}},
        },
    });
    establish(admin, &crd).await;
    backend
}

fn convert(mut object: Value, desired: &str) -> Value {
    let map = object.as_object_mut().unwrap();
    let mut take = |key: &str| map.remove(key).and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default();
    if desired.ends_with("v2") {
        let whole = take("hostPort");
        let (host, port) = whole.split_once(':').unwrap_or((&whole, ""));
        map.insert("host".to_owned(), json!(host));
        map.insert("port".to_owned(), json!(port));
    } else {
        let (host, port) = (take("host"), take("port"));
        map.insert("hostPort".to_owned(), json!(format!("{host}:{port}")));
    }
    object["apiVersion"] = json!(desired);
    object
}

async fn establish(admin: &Client, crd: &Value) {
    let path = format!("{CRDS}/{}", crd["metadata"]["name"].as_str().unwrap());
    admin.post(CRDS, crd).await.expect(201);
    for _ in 0..600 {
        let now = admin.get(&path).await.expect(200);
        let conditions = now["status"]["conditions"].as_array().cloned().unwrap_or_default();
        if conditions.iter().any(|c| c["type"] == "Established" && c["status"] == "True") {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{path} was not established");
}

async fn names(admin: &Client, path: &str, selector: &str) -> Vec<String> {
    let list = admin.get(&format!("{path}?fieldSelector={selector}")).await.expect(200);
    let name = |item: &Value| item["metadata"]["name"].as_str().unwrap().to_owned();
    list["items"].as_array().unwrap().iter().map(name).collect()
}

async fn make(admin: &Client, name: &str, host: &str, port: &str) {
    let object = json!({"apiVersion": "example.com/v2", "kind": "Endpoint", "metadata": {"name": name},
        "host": host, "port": port});
    admin.post(V2, &object).await.expect(201);
}

const HOST: &str = "host%3Dhost1";
const BOTH: &str = "host%3Dhost1,port%3D80";
const WHOLE: &str = "hostPort%3Dhost1:80";

#[tokio::test]
async fn a_field_of_a_converted_version_selects() {
    let server = Server::start().await;
    let admin = server.namespace("t").await;
    let _webhook = endpoints(&admin).await;
    let watch = |path: &str, selector: &str| {
        let path = format!("{path}?watch=true&fieldSelector={selector}");
        let admin = admin.clone();
        async move { admin.watch(&path).await }
    };
    let mut by_host = watch(V2, HOST).await;
    let mut by_both = watch(V2, BOTH).await;
    let mut by_whole = watch(V1, WHOLE).await;
    make(&admin, "a", "host1", "80").await;
    make(&admin, "b", "host1", "8080").await;
    make(&admin, "c", "host2", "80").await;

    assert_eq!(names(&admin, V2, HOST).await, ["a", "b"]);
    assert_eq!(names(&admin, V2, BOTH).await, ["a"]);
    assert_eq!(names(&admin, V2, "host%21%3Dhost1").await, ["c"]);
    assert_eq!(names(&admin, V2, "metadata.name%3Db,host%3Dhost1").await, ["b"]);
    assert_eq!(names(&admin, V1, WHOLE).await, ["a"]);
    admin.get(&format!("{V1}?fieldSelector={HOST}")).await.refused(
        400,
        "BadRequest",
        "field label not supported: host",
    );
    assert_eq!(by_host.step().await, ("ADDED".into(), "a".into()));
    assert_eq!(by_host.step().await, ("ADDED".into(), "b".into()));
    assert_eq!(by_both.step().await, ("ADDED".into(), "a".into()));
    assert_eq!(by_whole.step().await, ("ADDED".into(), "a".into()));
    // One that starts later has the same first.
    let mut late = watch(V2, BOTH).await;
    assert_eq!(late.step().await, ("ADDED".into(), "a".into()));

    // Only what is selected is deleted.
    let deleted = admin.delete(&format!("{V2}?fieldSelector={BOTH}"), &Value::Null).await.expect(200);
    assert_eq!(deleted["items"].as_array().unwrap().len(), 1);
    assert_eq!(names(&admin, V2, HOST).await, ["b"]);
    for (name, watch) in [("host", &mut by_host), ("both", &mut by_both), ("whole", &mut by_whole), ("late", &mut late)]
    {
        assert_eq!(watch.step().await, ("DELETED".into(), "a".into()), "{name}");
    }

    // An object leaves the selection as it was, at the revision of the change, and comes back into it.
    let moved = admin.patch(&format!("{V2}/b"), "merge-patch", &json!({"host": "host2"})).await.expect(200);
    let left = by_host.next().await.unwrap();
    assert_eq!((&left["type"], &left["object"]["host"]), (&json!("DELETED"), &json!("host1")));
    assert_eq!(left["object"]["metadata"]["resourceVersion"], moved["metadata"]["resourceVersion"]);
    admin.patch(&format!("{V1}/b"), "merge-patch", &json!({"hostPort": "host1:80"})).await.expect(200);
    for watch in [&mut by_host, &mut by_both, &mut by_whole] {
        assert_eq!(watch.step().await, ("ADDED".into(), "b".into()));
    }
    admin.patch(&format!("{V2}/b"), "merge-patch", &json!({"metadata": {"labels": {"x": "y"}}})).await.expect(200);
    assert_eq!(by_both.step().await, ("MODIFIED".into(), "b".into()));
    server.stop().await;
}

#[tokio::test]
async fn pages_of_a_selection_lead_to_all_of_it() {
    let server = Server::start().await;
    let admin = server.namespace("t").await;
    let _webhook = endpoints(&admin).await;
    for index in 0..9 {
        make(&admin, &format!("e{index}"), if index % 3 == 0 { "host1" } else { "host2" }, "80").await;
    }
    let (mut found, mut token) = (Vec::new(), String::new());
    loop {
        let page = admin.get(&format!("{V2}?limit=2&fieldSelector={HOST}&continue={token}")).await.expect(200);
        let items = page["items"].as_array().unwrap();
        assert!(items.len() <= 2 && page["metadata"].get("remainingItemCount").is_none(), "{page}");
        found.extend(items.iter().map(|item| item["metadata"]["name"].as_str().unwrap().to_owned()));
        match page["metadata"]["continue"].as_str() {
            Some(next) => token = next.to_owned(),
            None => break,
        }
    }
    assert_eq!(found, ["e0", "e3", "e6"]);
    server.stop().await;
}

#[tokio::test]
async fn a_field_that_only_the_other_version_offers_selects_without_a_webhook_too() {
    let server = Server::start().await;
    let admin = server.namespace("t").await;
    let mut second = version("v2", false, &["host"]);
    second["schema"]["openAPIV3Schema"]["properties"]["port"] = json!({"type": "string", "default": "80"});
    second["selectableFields"] = json!([{"jsonPath": ".host"}, {"jsonPath": ".port"}]);
    let mut first = version("v1", true, &["host"]);
    first.as_object_mut().unwrap().remove("selectableFields");
    let crd = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "endpoints.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced", "names": {"plural": "endpoints", "kind": "Endpoint"},
            "versions": [first, second]},
    });
    establish(&admin, &crd).await;
    let mut watch = admin.watch(&format!("{V2}?watch=true&fieldSelector={BOTH}")).await;
    make(&admin, "a", "host1", "80").await;
    make(&admin, "b", "host2", "80").await;
    assert_eq!(names(&admin, V2, HOST).await, ["a"]);
    assert_eq!(names(&admin, V2, BOTH).await, ["a"], "the default of the version that is asked for counts");
    assert_eq!(watch.step().await, ("ADDED".into(), "a".into()));
    admin.patch(&format!("{V1}/b"), "merge-patch", &json!({"host": "host1"})).await.expect(200);
    assert_eq!(watch.step().await, ("ADDED".into(), "b".into()));
    server.stop().await;
}

//! Custom kinds: definitions are served as soon as they are established, objects are pruned, defaulted and checked by their
//! schema, and everything goes with the definition.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::time::Duration;

use common::{Client, Server};
use serde_json::{Value, json};

const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// A definition with one version of everything that a test may want.
fn definition(plural: &str, kind: &str, schema: Value) -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.example.com")},
        "spec": {
            "group": "example.com", "scope": "Namespaced",
            "names": {"plural": plural, "kind": kind},
            "versions": [version("v1", true, schema)],
        },
    })
}

fn version(name: &str, storage: bool, schema: Value) -> Value {
    json!({"name": name, "served": true, "storage": storage, "schema": {"openAPIV3Schema": schema}})
}

fn widgets() -> Value {
    let mut crd = definition(
        "widgets",
        "Widget",
        json!({"type": "object", "properties": {
            "spec": {"type": "object", "required": ["size"], "properties": {
                "size": {"type": "integer", "minimum": 1},
                "color": {"type": "string", "default": "blue", "enum": ["blue", "red"]},
                "parts": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                    "items": {"type": "object", "required": ["name"], "properties": {
                        "name": {"type": "string"}, "count": {"type": "integer"}}}},
                "replicas": {"type": "integer"},
            }},
            "status": {"type": "object", "properties": {
                "replicas": {"type": "integer"}, "selector": {"type": "string"}, "phase": {"type": "string"}}},
        }}),
    );
    let version = &mut crd["spec"]["versions"][0];
    version["subresources"] = json!({"status": {}, "scale": {
        "specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas", "labelSelectorPath": ".status.selector"}});
    version["additionalPrinterColumns"] = json!([{"name": "Size", "type": "integer", "jsonPath": ".spec.size"}]);
    version["selectableFields"] = json!([{"jsonPath": ".spec.color"}]);
    crd["spec"]["names"]["shortNames"] = json!(["wd"]);
    crd["spec"]["names"]["categories"] = json!(["all"]);
    crd
}

fn widget(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": name}, "spec": spec})
}

/// Creates a definition and waits until it is established.
async fn establish(admin: &Client, crd: &Value) -> Value {
    admin.post(CRDS, crd).await.expect(201);
    established(admin, crd["metadata"]["name"].as_str().unwrap()).await
}

async fn established(admin: &Client, name: &str) -> Value {
    until(admin, &format!("{CRDS}/{name}"), |crd| condition(crd, "Established") == Some("True")).await
}

fn condition<'a>(crd: &'a Value, kind: &str) -> Option<&'a str> {
    let conditions = crd["status"]["conditions"].as_array()?;
    conditions.iter().find(|c| c["type"] == kind).and_then(|c| c["status"].as_str())
}

/// Reads until what is read is as wanted.
async fn until(admin: &Client, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let mut last = Value::Null;
    for _ in 0..600 {
        let answer = admin.get(path).await;
        last = answer.json();
        if wanted(&last) {
            return last;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{path} did not become as wanted: {last:#}");
}

const WIDGETS: &str = "/apis/example.com/v1/namespaces/t/widgets";

#[tokio::test]
async fn a_kind_is_served_as_soon_as_it_is_established() {
    let server = Server::start().await;
    let admin = server.namespace("t").await;
    assert_eq!(admin.get(WIDGETS).await.code, 404);
    let crd = establish(&admin, &widgets()).await;
    assert_eq!(crd["status"]["storedVersions"], json!(["v1"]));
    assert_eq!(crd["spec"]["names"]["singular"], "widget");
    assert_eq!(crd["spec"]["conversion"]["strategy"], "None");

    let made = admin.post(WIDGETS, &widget("a", json!({"size": 3, "unknown": 1}))).await;
    assert!(
        made.headers
            .get_all("warning")
            .iter()
            .any(|w| w.to_str().unwrap().contains("unknown field \\\"spec.unknown\\\""))
    );
    let made = made.expect(201);
    assert_eq!(made["spec"], json!({"size": 3, "color": "blue"}));
    assert_eq!(made["metadata"]["generation"], 1);

    let status = admin.post(WIDGETS, &widget("b", json!({"size": 0, "color": "green"}))).await.expect(422);
    let message = status["message"].as_str().unwrap();
    assert!(message.starts_with("Widget.example.com \"b\" is invalid: ["), "{message}");
    assert!(
        message.contains("spec.size: Invalid value: 0: spec.size in body should be greater than or equal to 1"),
        "{message}"
    );
    assert!(
        message.contains("spec.color: Unsupported value: \"green\": supported values: \"blue\", \"red\""),
        "{message}"
    );
    admin.post(&format!("{WIDGETS}?fieldValidation=Strict"), &widget("b", json!({"size": 1, "x": 1}))).await.refused(
        400,
        "BadRequest",
        "strict decoding error: unknown field \"spec.x\"",
    );

    let list = admin.get(WIDGETS).await.expect(200);
    assert_eq!((list["kind"].as_str(), list["items"].as_array().unwrap().len()), (Some("WidgetList"), 1));
    let resources = admin.get("/apis/example.com/v1").await.expect(200);
    assert_eq!(resources["resources"][0]["shortNames"], json!(["wd"]));
    let groups = admin.get("/apis").await.expect(200);
    assert!(groups["groups"].as_array().unwrap().iter().any(|group| group["name"] == "example.com"));
}

#[tokio::test]
async fn status_and_scale_are_parts_of_their_own() {
    let server = Server::start().await;
    let admin = server.namespace("t").await;
    establish(&admin, &widgets()).await;
    let mut object = widget("a", json!({"size": 3, "replicas": 2}));
    object["status"] = json!({"phase": "forged"});
    let made = admin.post(WIDGETS, &object).await.expect(201);
    assert_eq!(made.get("status"), None);

    let mut told = made.clone();
    told["status"] = json!({"replicas": 1, "selector": "app=a", "phase": "Ready"});
    told["spec"]["size"] = json!(99);
    let told = admin.put(&format!("{WIDGETS}/a/status"), &told).await.expect(200);
    assert_eq!((&told["spec"]["size"], &told["status"]["phase"]), (&json!(3), &json!("Ready")));
    assert_eq!(told["metadata"]["generation"], 1);

    let scale = admin.get(&format!("{WIDGETS}/a/scale")).await.expect(200);
    assert_eq!(scale["spec"], json!({"replicas": 2}));
    assert_eq!(scale["status"], json!({"replicas": 1, "selector": "app=a"}));
    let patched =
        admin.patch(&format!("{WIDGETS}/a/scale"), "merge-patch", &json!({"spec": {"replicas": 5}})).await.expect(200);
    assert_eq!(patched["spec"]["replicas"], 5);
    let now = admin.get(&format!("{WIDGETS}/a")).await.expect(200);
    assert_eq!((&now["spec"]["replicas"], &now["metadata"]["generation"]), (&json!(5), &json!(2)));
}

#[tokio::test]
async fn lists_of_type_map_merge_by_key_and_fields_select() {
    let server = Server::start().await;
    let admin = server.namespace("t").await;
    establish(&admin, &widgets()).await;
    let apply = |manager: &str, parts: Value| {
        let (admin, path) = (admin.clone(), format!("{WIDGETS}/a?fieldManager={manager}"));
        async move { admin.patch(&path, "apply", &widget("a", json!({"size": 1, "parts": parts}))).await }
    };
    apply("one", json!([{"name": "x", "count": 1}])).await.expect(201);
    let both = apply("two", json!([{"name": "y", "count": 2}])).await.expect(200);
    assert_eq!(both["spec"]["parts"].as_array().unwrap().len(), 2);
    let refused = apply("two", json!([{"name": "x", "count": 3}])).await;
    refused.refused(409, "Conflict", ".spec.parts[name=\"x\"].count");

    admin.post(WIDGETS, &widget("red", json!({"size": 1, "color": "red"}))).await.expect(201);
    let selected = admin.get(&format!("{WIDGETS}?fieldSelector=spec.color%3Dred")).await.expect(200);
    assert_eq!(selected["items"].as_array().unwrap().len(), 1);
    let refused = admin.get(&format!("{WIDGETS}?fieldSelector=spec.size%3D1")).await;
    refused.refused(400, "BadRequest", "field label not supported: spec.size");
    let header = [("accept", "application/json;as=Table;g=meta.k8s.io;v=v1")];
    let table = admin.request("GET", WIDGETS, &header, axum::body::Body::empty()).await.expect(200);
    assert_eq!(table["columnDefinitions"][1]["name"], "Size");
    assert_eq!(table["rows"][0]["cells"], json!(["a", 1]));
}

#[tokio::test]
async fn all_objects_go_with_their_definition() {
    let server = Server::start().await;
    let admin = server.namespace("t").await;
    establish(&admin, &widgets()).await;
    for name in ["a", "b"] {
        admin.post(WIDGETS, &widget(name, json!({"size": 1}))).await.expect(201);
    }
    let mut held = widget("held", json!({"size": 1}));
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    admin.post(WIDGETS, &held).await.expect(201);
    let crd = format!("{CRDS}/widgets.example.com");
    admin.request("DELETE", &crd, &[], axum::body::Body::empty()).await.expect(200);
    until(&admin, &crd, |crd| condition(crd, "Terminating") == Some("True")).await;
    until(&admin, WIDGETS, |list| list["items"].as_array().is_some_and(|items| items.len() == 1)).await;
    let refused = admin.post(WIDGETS, &widget("late", json!({"size": 1}))).await;
    refused.refused(405, "MethodNotAllowed", "create not allowed while custom resource definition is terminating");
    admin
        .patch(&format!("{WIDGETS}/held"), "merge-patch", &json!({"metadata": {"finalizers": null}}))
        .await
        .expect(200);
    until(&admin, &crd, |answer| answer["code"] == 404).await;
    until(&admin, WIDGETS, |answer| answer["code"] == 404).await;
    // Made again it starts empty.
    establish(&admin, &widgets()).await;
    assert_eq!(admin.get(WIDGETS).await.expect(200)["items"], json!([]));
}

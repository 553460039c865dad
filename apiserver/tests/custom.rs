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

#[tokio::test]
async fn rules_in_the_expression_language_judge_objects_and_their_changes() {
    let server = Server::start().await;
    let admin = server.namespace("t").await;
    let mut crd = widgets();
    let spec = &mut crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    spec["x-kubernetes-validations"] = json!([
        {"rule": "!has(self.replicas) || self.replicas <= self.size * 10", "messageExpression": "self.color + ' widgets have at most ten replicas for their size'", "fieldPath": ".replicas"},
        {"rule": "self.size >= oldSelf.size", "message": "size never shrinks", "reason": "FieldValueForbidden"},
    ]);
    let mut wrong = crd.clone();
    wrong["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["x-kubernetes-validations"][0]["rule"] =
        json!("self.nope > 1");
    let refused = admin.post(CRDS, &wrong).await;
    refused.refused(
        422,
        "Invalid",
        "x-kubernetes-validations[0].rule: Invalid value: \"self.nope > 1\": compilation failed",
    );
    establish(&admin, &crd).await;
    let refused = admin.post(WIDGETS, &widget("a", json!({"size": 1, "replicas": 11}))).await;
    refused.refused(
        422,
        "Invalid",
        "spec.replicas: Invalid value: blue widgets have at most ten replicas for their size",
    );
    admin.post(WIDGETS, &widget("a", json!({"size": 2, "replicas": 11}))).await.expect(201);
    let shrink = json!({"spec": {"size": 1, "replicas": 1}});
    let refused = admin.patch(&format!("{WIDGETS}/a"), "merge-patch", &shrink).await;
    refused.refused(422, "Invalid", "spec: Forbidden: size never shrinks");
    admin.patch(&format!("{WIDGETS}/a"), "merge-patch", &json!({"spec": {"size": 3}})).await.expect(200);
}

#[tokio::test]
async fn a_hostile_rule_refuses_the_object_and_holds_up_nothing() {
    let server = Server::start().await;
    let admin = server.namespace("t").await;
    let mut crd = widgets();
    // Of a list with so many items the estimate is within the limit, and going through it costs more than one call may.
    let spec = |items_max: u32| {
        json!({
            "type": "object",
            "properties": {"list": {"type": "array", "maxItems": items_max, "items": {"type": "integer"}}},
            "x-kubernetes-validations": [{"rule": "self.list.all(a, self.list.all(b, self.list.all(c, true)))"}],
        })
    };
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"] = spec(1_000);
    crd["spec"]["versions"][0].as_object_mut().unwrap().remove("selectableFields");
    crd["spec"]["versions"][0].as_object_mut().unwrap().remove("subresources");
    let refused = admin.post(CRDS, &crd).await;
    refused.refused(422, "Invalid", "estimated rule cost exceeds budget by factor of more than 100x");
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"] = spec(110);
    establish(&admin, &crd).await;
    let list: Vec<u32> = (0..110).collect();
    let refused = admin.post(WIDGETS, &widget("a", json!({"list": list}))).await;
    refused.refused(422, "Invalid", "no further validation rules will be run due to call cost exceeds limit");
    admin.post(WIDGETS, &widget("a", json!({"list": [1, 2]}))).await.expect(201);
}

#[tokio::test]
async fn versions_without_a_webhook_differ_in_their_schema_only() {
    let server = Server::start().await;
    let admin = server.namespace("t").await;
    let mut crd = widgets();
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "size": {"type": "integer"}, "shape": {"type": "string", "default": "round"}}}}});
    crd["spec"]["versions"].as_array_mut().unwrap().push(version("v2", false, schema));
    establish(&admin, &crd).await;
    admin.post(WIDGETS, &widget("a", json!({"size": 1}))).await.expect(201);
    let v2 = WIDGETS.replace("/v1/", "/v2/");
    let mut watch = admin.watch(&format!("{v2}?watch=true&resourceVersion=0")).await;
    let seen = watch.next().await.unwrap();
    assert_eq!(
        (&seen["object"]["apiVersion"], &seen["object"]["spec"]["shape"]),
        (&json!("example.com/v2"), &json!("round"))
    );
    let two = admin.get(&format!("{v2}/a")).await.expect(200);
    assert_eq!(two["spec"], json!({"size": 1, "shape": "round"}));
    // The second version becomes the stored one; what is written from now on is stored in it.
    let current = admin.get(&format!("{CRDS}/widgets.example.com")).await.expect(200);
    let mut migrated = current.clone();
    migrated["spec"]["versions"][0]["storage"] = json!(false);
    migrated["spec"]["versions"][1]["storage"] = json!(true);
    let migrated = admin.put(&format!("{CRDS}/widgets.example.com"), &migrated).await.expect(200);
    assert_eq!(migrated["status"]["storedVersions"], json!(["v1", "v2"]));
    let patched = admin.patch(&format!("{WIDGETS}/a"), "merge-patch", &json!({"spec": {"size": 5}})).await.expect(200);
    assert_eq!(patched["apiVersion"], "example.com/v1");
    assert_eq!(admin.get(&format!("{v2}/a")).await.expect(200)["spec"]["size"], 5);
    assert_eq!(watch.next().await.unwrap()["object"]["spec"]["size"], 5);
    let mut gone = migrated.clone();
    gone["spec"]["versions"].as_array_mut().unwrap().remove(0);
    let refused = admin.put(&format!("{CRDS}/widgets.example.com"), &gone).await;
    refused.refused(422, "Invalid", "status.storedVersions[0]: Invalid value: \"v1\": missing from spec.versions");
}

#[tokio::test]
async fn a_changed_schema_holds_for_what_is_stored_and_no_watch_is_lost() {
    let server = Server::start().await;
    let admin = server.namespace("t").await;
    establish(&admin, &widgets()).await;
    let made = admin.post(WIDGETS, &widget("a", json!({"size": 1}))).await.expect(201);
    let revision = made["metadata"]["resourceVersion"].as_str().unwrap();
    let mut watch = admin.watch(&format!("{WIDGETS}?watch=true&resourceVersion={revision}")).await;
    let path = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/weight";
    let patch = json!([{"op": "add", "path": path, "value": {"type": "integer", "default": 7}}]);
    admin.patch(&format!("{CRDS}/widgets.example.com"), "json-patch", &patch).await.expect(200);
    // Whoever changed the definition is served by it at once.
    let now = admin.get(&format!("{WIDGETS}/a")).await.expect(200);
    assert_eq!(now["spec"]["weight"], 7);
    admin.post(WIDGETS, &widget("b", json!({"size": 1, "weight": 9}))).await.expect(201);
    let seen = watch.next().await.unwrap();
    assert_eq!((&seen["type"], &seen["object"]["spec"]["weight"]), (&json!("ADDED"), &json!(9)));
    let document = admin.get("/openapi/v3/apis/example.com/v1").await.expect(200);
    let schemas = &document["components"]["schemas"];
    assert_eq!(schemas["com.example.v1.Widget"]["properties"]["spec"]["properties"]["weight"]["default"], 7);
}

#[tokio::test]
async fn a_deprecated_version_says_so_in_every_answer() {
    let server = Server::start().await;
    let admin = server.namespace("t").await;
    let mut crd = widgets();
    let mut second = crd["spec"]["versions"][0].clone();
    second["name"] = json!("v1beta1");
    second["storage"] = json!(false);
    second["deprecated"] = json!(true);
    crd["spec"]["versions"].as_array_mut().unwrap().push(second);
    establish(&admin, &crd).await;
    let old = WIDGETS.replace("/v1/", "/v1beta1/");
    let mut made = widget("a", json!({"size": 1}));
    made["apiVersion"] = json!("example.com/v1beta1");
    let told = "299 - \"example.com/v1beta1 Widget is deprecated; use example.com/v1 Widget\"";
    for answer in [admin.post(&old, &made).await, admin.get(&old).await, admin.get(&format!("{old}/a/scale")).await] {
        assert!(answer.code < 300, "{}", answer.text());
        let warnings: Vec<_> = answer.headers.get_all("warning").iter().collect();
        assert_eq!(warnings, [told]);
    }
    assert!(admin.get(WIDGETS).await.headers.get("warning").is_none());
}

#[tokio::test]
async fn keys_that_stand_twice_in_yaml_are_told_by_their_line() {
    let server = Server::start().await;
    let admin = server.namespace("t").await;
    let mut crd = widgets();
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["x-kubernetes-preserve-unknown-fields"] =
        json!(true);
    establish(&admin, &crd).await;
    let body = "\napiVersion: example.com/v1\nkind: Widget\nmetadata:\n  name: a\nspec:\n  size: 1\n  unknown: uk\n  color: blue\n  color: red\n";
    let apply = |validation: &'static str| {
        let (admin, path) = (admin.clone(), format!("{WIDGETS}/a?fieldManager=m&fieldValidation={validation}"));
        async move { admin.request("PATCH", &path, &[("content-type", "application/apply-patch+yaml")], body).await }
    };
    let told = "error strict decoding YAML: error converting YAML to JSON: yaml: unmarshal errors:\n  line 10: key \"color\" already set in map";
    apply("Strict").await.refused(400, "BadRequest", told);
    let made = apply("Warn").await;
    assert_eq!(made.headers["warning"], "299 - \"line 10: key \\\"color\\\" already set in map\"");
    assert_eq!(made.expect(201)["spec"], json!({"size": 1, "unknown": "uk", "color": "red"}));
}

/// A webhook that keeps `spec.size` of version 1 as `spec.dimensions.size` in version 2.
async fn converter() -> (String, String) {
    use axum::routing::post;
    let convert = |body: bytes::Bytes| async move {
        let review: Value = serde_json::from_slice(&body).unwrap();
        let desired = review["request"]["desiredAPIVersion"].as_str().unwrap().to_owned();
        let objects: Vec<Value> = review["request"]["objects"]
            .as_array()
            .unwrap()
            .iter()
            .map(|object| {
                let mut object = object.clone();
                let size = object["spec"].get("size").or(object["spec"].pointer("/dimensions/size")).cloned().unwrap();
                object["apiVersion"] = json!(desired);
                object["spec"] =
                    if desired.ends_with("v1") { json!({"size": size}) } else { json!({"dimensions": {"size": size}}) };
                object
            })
            .collect();
        let response =
            json!({"uid": review["request"]["uid"], "result": {"status": "Success"}, "convertedObjects": objects});
        json!({"kind": "ConversionReview", "apiVersion": "apiextensions.k8s.io/v1", "response": response}).to_string()
    };
    let router = axum::Router::new().route("/convert", post(convert));
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().self_signed(&key).unwrap();
    let tls =
        rustls::ServerConfig::builder_with_provider(std::sync::Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                rustls_pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            )
            .unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let url = format!("https://{}/convert", listener.local_addr().unwrap());
    let acceptor = axum_server::tls_rustls::RustlsConfig::from_config(std::sync::Arc::new(tls));
    let serving = axum_server::from_tcp_rustls(listener, acceptor).unwrap().serve(router.into_make_service());
    tokio::spawn(serving);
    (url, certificate.pem())
}

#[tokio::test]
async fn a_webhook_converts_between_versions() {
    use base64::Engine as _;
    let server = Server::start().await;
    let admin = server.namespace("t").await;
    let (url, ca) = converter().await;
    let mut crd = widgets();
    let second = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {"dimensions": {
        "type": "object", "properties": {"size": {"type": "integer"}}}}}}});
    crd["spec"]["versions"].as_array_mut().unwrap().push(version("v2", false, second));
    let bundle = base64::engine::general_purpose::STANDARD.encode(ca);
    crd["spec"]["conversion"] = json!({"strategy": "Webhook", "webhook": {
        "clientConfig": {"url": url, "caBundle": bundle}, "conversionReviewVersions": ["v1"]}});
    establish(&admin, &crd).await;
    admin.post(WIDGETS, &widget("a", json!({"size": 4}))).await.expect(201);
    let v2 = WIDGETS.replace("/v1/", "/v2/");
    assert_eq!(admin.get(&format!("{v2}/a")).await.expect(200)["spec"], json!({"dimensions": {"size": 4}}));
    let mut watch = admin.watch(&format!("{v2}?watch=true&resourceVersion=0")).await;
    assert_eq!(watch.next().await.unwrap()["object"]["spec"]["dimensions"]["size"], 4);
    let mut second = widget("b", json!({"dimensions": {"size": 6}}));
    second["apiVersion"] = json!("example.com/v2");
    let made = admin.post(&v2, &second).await.expect(201);
    assert_eq!(made["spec"]["dimensions"]["size"], 6);
    let seen = watch.next().await.unwrap();
    assert_eq!(
        (&seen["object"]["apiVersion"], &seen["object"]["spec"]["dimensions"]["size"]),
        (&json!("example.com/v2"), &json!(6))
    );
    let list = admin.get(WIDGETS).await.expect(200);
    let sizes: Vec<i64> =
        list["items"].as_array().unwrap().iter().map(|item| item["spec"]["size"].as_i64().unwrap()).collect();
    assert_eq!(sizes, [4, 6]);
    // Without the webhook only the stored version can be had, and the user is told why.
    let patch = json!({"spec": {"conversion": {"webhook": {"clientConfig": {"url": "https://127.0.0.1:1/convert"}}}}});
    admin.patch(&format!("{CRDS}/widgets.example.com"), "merge-patch", &patch).await.expect(200);
    admin.get(&format!("{WIDGETS}/a")).await.expect(200);
    let told = "conversion webhook for example.com/v1, Kind=Widget failed: Post \"https://127.0.0.1:1/convert?timeout=30s\": dial tcp 127.0.0.1:1: connect: connection refused";
    admin.get(&format!("{v2}/a")).await.refused(500, "InternalError", told);
}

#[tokio::test]
async fn a_watch_of_a_custom_kind_goes_on_after_a_restart() {
    const WIDGETS: &str = "/apis/example.com/v1/namespaces/t/widgets";
    let server = Server::start().await;
    let admin = server.namespace("t").await;
    establish(&admin, &widgets()).await;
    let first = admin.post(WIDGETS, &widget("first", json!({"size": 1}))).await.expect(201);
    admin.post(WIDGETS, &widget("second", json!({"size": 2}))).await.expect(201);
    let grown = json!({"spec": {"size": 3}});
    admin.patch(&format!("{WIDGETS}/first"), "merge-patch", &grown).await.expect(200);
    admin.delete(&format!("{WIDGETS}/second"), &Value::Null).await.expect(200);
    let server = Server::start_in(server.stop().await).await;
    let admin = server.admin();
    established(&admin, "widgets.example.com").await;
    let seen = common::revision(&first);
    let mut watch = admin.watch(&format!("{WIDGETS}?watch=true&resourceVersion={seen}")).await;
    admin.post(WIDGETS, &widget("third", json!({"size": 4}))).await.expect(201);
    for (step, name) in [("ADDED", "second"), ("MODIFIED", "first"), ("DELETED", "second"), ("ADDED", "third")] {
        assert_eq!(watch.step().await, (step.into(), name.into()));
    }
    server.stop().await;
}

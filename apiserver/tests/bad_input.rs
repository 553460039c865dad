//! Bad input gets Kubernetes' error and changes nothing.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use axum::body::Body;
use common::{Server, config_map, deployment};
use serde_json::{Value, json};

const CONFIG_MAPS: &str = "/api/v1/namespaces/t/configmaps";

#[tokio::test]
async fn bodies() {
    let server = Server::start().await;
    let admin = server.namespace("t").await;
    let before = admin.get(CONFIG_MAPS).await.expect(200)["items"].clone();
    let json_type = ("content-type", "application/json");
    let yaml_type = ("content-type", "application/yaml");
    let of = |extra: &str| {
        format!("{{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"metadata\":{{\"name\":\"x\"}}{extra}}}")
    };
    let table = vec![
        ("", json_type, "{".into(), 400, "BadRequest", ""),
        ("", json_type, String::new(), 400, "BadRequest", ""),
        ("", json_type, "[]".into(), 400, "BadRequest", ""),
        ("", json_type, "null".into(), 400, "BadRequest", ""),
        ("", json_type, "\u{0}".into(), 400, "BadRequest", ""),
        ("", yaml_type, "a: [b".into(), 400, "BadRequest", ""),
        (
            "",
            yaml_type,
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\ndata: [1]\n".into(),
            400,
            "BadRequest",
            "",
        ),
        (
            "",
            ("content-type", "text/plain"),
            of(""),
            415,
            "UnsupportedMediaType",
            "the body of the request was in an unknown format",
        ),
        ("", json_type, of("").replace("ConfigMap", "Secret"), 400, "BadRequest", ""),
        ("", json_type, of("").replace("\"v1\"", "\"v2\""), 400, "BadRequest", ""),
        ("", json_type, of(",\"data\":{\"a\":1}"), 400, "BadRequest", ""),
        ("", json_type, of(",\"data\":[]"), 400, "BadRequest", ""),
        ("?fieldValidation=Strict", json_type, of(",\"dta\":{}"), 400, "BadRequest", "unknown field \"dta\""),
        (
            "?fieldValidation=Strict",
            json_type,
            of(",\"data\":{\"a\":\"1\",\"a\":\"2\"}"),
            400,
            "BadRequest",
            "duplicate field",
        ),
        (
            "?fieldValidation=Sometimes",
            json_type,
            of(""),
            422,
            "Invalid",
            "fieldValidation: Unsupported value: \"Sometimes\"",
        ),
        ("", json_type, of("").replace("\"x\"", "\"X_Y\""), 422, "Invalid", "metadata.name: Invalid value: \"X_Y\""),
        ("", json_type, of("").replace("{\"name\":\"x\"}", "{}"), 422, "Invalid", "name or generateName is required"),
        ("", json_type, of("").replace("\"x\"", "\"x\",\"namespace\":\"other\""), 400, "BadRequest", "namespace"),
        (
            "",
            json_type,
            of("").replace("\"x\"", "\"x\",\"resourceVersion\":\"5\""),
            400,
            "BadRequest",
            "resourceVersion should not be set on objects to be created",
        ),
    ];
    for (query, content_type, body, code, reason, message) in table {
        let shown = body.clone();
        let answer = admin.request("POST", &format!("{CONFIG_MAPS}{query}"), &[content_type], body).await;
        assert_eq!(answer.code, code, "{shown}: {}", answer.text());
        answer.refused(code, reason, message);
    }
    let nested = format!(
        "{{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"metadata\":{{\"name\":\"x\"}},\"x\":{}{}}}",
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    assert_eq!(admin.request("POST", CONFIG_MAPS, &[json_type], nested).await.code, 400);
    let huge = config_map("x").to_string() + &" ".repeat(4 << 20);
    admin.request("POST", CONFIG_MAPS, &[json_type], huge).await.refused(
        413,
        "RequestEntityTooLarge",
        "limit is 3145728",
    );
    let mut large = config_map("x");
    large["data"]["big"] = json!("x".repeat(2 << 20));
    let answer = admin.post(CONFIG_MAPS, &large).await;
    assert!(matches!(answer.code, 413 | 422), "{}", answer.code);
    assert_eq!(admin.get(CONFIG_MAPS).await.expect(200)["items"], before);
    let warned =
        admin.request("POST", &format!("{CONFIG_MAPS}?fieldValidation=Warn"), &[json_type], of(",\"dta\":{}")).await;
    assert_eq!(warned.headers["warning"], "299 - \"unknown field \\\"dta\\\"\"");
    assert_eq!(warned.code, 201);
    server.stop().await;
}

#[tokio::test]
async fn paths_and_methods() {
    let server = Server::start().await;
    let admin = server.namespace("t").await;
    for (method, path, code, reason) in [
        ("GET", "/nothing", 404, "NotFound"),
        ("GET", "/api/v1/unknowns", 404, "NotFound"),
        ("GET", "/apis/unknown.example/v1/things", 404, "NotFound"),
        ("GET", "/api/v2/pods", 404, "NotFound"),
        ("GET", "/api/v1/namespaces/t/nodes/x", 404, "NotFound"),
        ("GET", "/api/v1/namespaces/t/pods/x/what", 404, "NotFound"),
        ("POST", "/api/v1/pods", 405, "MethodNotAllowed"),
        ("PUT", "/api/v1/namespaces/t/pods", 405, "MethodNotAllowed"),
        ("POST", "/api/v1/namespaces/t/pods/x", 405, "MethodNotAllowed"),
        ("POST", "/version", 405, "MethodNotAllowed"),
    ] {
        let answer = admin.request(method, path, &[("content-type", "application/json")], Body::empty()).await;
        assert_eq!(answer.code, code, "{method} {path}: {}", answer.text());
        answer.refused(code, reason, "");
    }
    admin.post(CONFIG_MAPS, &config_map("a")).await.expect(201);
    let path = format!("{CONFIG_MAPS}/a");
    admin.put(&path, &config_map("b")).await.refused(
        400,
        "BadRequest",
        "the name of the object (b) does not match the name on the URL (a)",
    );
    admin.put(&format!("{CONFIG_MAPS}/missing"), &config_map("missing")).await.refused(
        404,
        "NotFound",
        "configmaps \"missing\" not found",
    );
    admin.patch(&path, "merge-patch", &json!("text")).await.refused(400, "BadRequest", "");
    admin.patch(&path, "json-patch", &json!([{"op": "what"}])).await.refused(400, "BadRequest", "");
    admin.delete(&path, &json!({"propagationPolicy": "Sideways"})).await.refused(422, "Invalid", "propagationPolicy");
    admin.delete(&path, &Value::Null).await.expect(200);
    server.stop().await;
}

#[tokio::test]
async fn objects_that_break_rules() {
    let server = Server::start().await;
    let admin = server.namespace("t").await;
    let collection = "/apis/apps/v1/namespaces/t/deployments";
    let mut negative = deployment("web");
    negative["spec"]["replicas"] = json!(-1);
    let status = admin.post(collection, &negative).await.refused(
        422,
        "Invalid",
        "Deployment.apps \"web\" is invalid: spec.replicas: Invalid value: -1: must be greater than or equal to 0",
    );
    assert_eq!(status["details"]["causes"][0]["field"], "spec.replicas");
    let mut mismatched = deployment("web");
    mismatched["spec"]["selector"] = json!({"matchLabels": {"app": "other"}});
    admin.post(collection, &mismatched).await.refused(422, "Invalid", "`selector` does not match template `labels`");
    let mut wrong = deployment("web");
    wrong["spec"]["replicas"] = json!("three");
    admin.post(collection, &wrong).await.refused(400, "BadRequest", "");
    admin.post(collection, &deployment("web")).await.expect(201);
    let immutable = json!({"spec": {"selector": {"matchLabels": {"app": "other"}}, "template": {"metadata": {"labels": {"app": "other"}}}}});
    admin.patch(&format!("{collection}/web"), "merge-patch", &immutable).await.refused(
        422,
        "Invalid",
        "field is immutable",
    );
    server.stop().await;
}

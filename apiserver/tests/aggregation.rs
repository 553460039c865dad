//! Another server behind an APIService, over TLS with the front proxy's certificate.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use common::backend::Backend;
use common::{Client, Server};
use serde_json::{Value, json};

const SERVICES: &str = "/apis/apiregistration.k8s.io/v1/apiservices";
const FLUNDERS_ALL: &str = "/apis/wardle.example.com/v1/flunders";
const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
const FLUNDERS: &str = "/apis/wardle.example.com/v1/namespaces/t/flunders";

/// What the other server answers: discovery, a watch, and what it was told.
async fn answer(request: Request) -> Response {
    let (parts, body) = request.into_parts();
    match (parts.uri.path(), parts.uri.query()) {
        ("/apis/wardle.example.com/v1", _) => axum::Json(json!({
            "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "wardle.example.com/v1",
            "resources": [{"name": "flunders", "singularName": "flunder", "namespaced": true, "kind": "Flunder",
                           "shortNames": ["fl"], "verbs": ["create", "get", "list", "watch"]}],
        }))
        .into_response(),
        ("/openapi/v3", _) => {
            let at = json!({"serverRelativeURL": "/openapi/v3/apis/wardle.example.com/v1?hash=ABC"});
            axum::Json(json!({"paths": {"apis/wardle.example.com/v1": at}})).into_response()
        }
        ("/openapi/v2", _) => {
            let etag = "\"one\"";
            if parts.headers.get("if-none-match").is_some_and(|known| known == etag) {
                return (http::StatusCode::NOT_MODIFIED, [("etag", etag)]).into_response();
            }
            let to = |name: &str| json!({"$ref": format!("#/definitions/{name}")});
            let document = json!({
                "swagger": "2.0",
                "paths": {
                    FLUNDERS_ALL: {"get": {"responses": {"200": {"description": "OK", "schema": to("Flunder")}}}},
                    "/healthz": {},
                },
                "definitions": {
                    "Flunder": {"properties": {"metadata": to(OBJECT_META)}},
                    OBJECT_META: {"description": "as of another release", "type": "object"},
                },
            });
            ([("etag", etag)], axum::Json(document)).into_response()
        }
        ("/openapi/v3/apis/wardle.example.com/v1", _) => axum::Json(json!({"openapi": "3.0.0"})).into_response(),
        (FLUNDERS, Some("watch=true")) => {
            let frames = ["ADDED", "DELETED"].map(|kind| json!({"type": kind, "object": {"metadata": {"name": "a"}}}));
            let frames = frames.map(|frame| Ok::<_, std::convert::Infallible>(format!("{frame}\n")));
            Body::from_stream(futures::stream::iter(frames)).into_response()
        }
        (FLUNDERS, _) => {
            let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
            let headers: Vec<(String, String)> =
                parts.headers.iter().map(|(k, v)| (k.to_string(), v.to_str().unwrap().to_owned())).collect();
            let body = String::from_utf8_lossy(&body);
            axum::Json(json!({"headers": headers, "method": parts.method.as_str(), "body": body})).into_response()
        }
        _ => http::StatusCode::NOT_FOUND.into_response(),
    }
}

async fn available(admin: &Client, name: &str, wanted: (&str, &str)) -> Value {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let object = admin.get(&format!("{SERVICES}/{name}")).await;
        let condition = if object.code == 200 { object.json()["status"]["conditions"][0].clone() } else { Value::Null };
        if (condition["status"].as_str(), condition["reason"].as_str()) == (Some(wanted.0), Some(wanted.1)) {
            return condition;
        }
        assert!(Instant::now() < deadline, "{name} is {condition}, not {wanted:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// A server with another one behind `v1.wardle.example.com`.
async fn aggregated() -> (Server, Client, Backend) {
    let server = Server::start().await;
    let admin = server.namespace("t").await;
    let trusted = admin.get("/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication").await;
    let trusted = trusted.expect(200)["data"].clone();
    assert_eq!(trusted["requestheader-allowed-names"], "[\"front-proxy-client\"]");
    assert_ne!(trusted["client-ca-file"], trusted["requestheader-client-ca-file"]);
    let ca = trusted["requestheader-client-ca-file"].as_str().unwrap().to_owned();
    let backend = Backend::start_for(&["api.t.svc"], Router::new().fallback(answer), Some(&ca)).await;
    let port = backend.address.port();
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "api"},
        "spec": {"type": "ExternalName", "externalName": "localhost", "ports": [{"port": port}]},
    });
    admin.post("/api/v1/namespaces/t/services", &service).await.expect(201);
    let object = json!({
        "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": {"name": "v1.wardle.example.com"},
        "spec": {"group": "wardle.example.com", "version": "v1", "groupPriorityMinimum": 2000, "versionPriority": 200,
                 "caBundle": backend.ca_bundle(), "service": {"namespace": "t", "name": "api", "port": port}},
    });
    admin.post(SERVICES, &object).await.expect(201);
    available(&admin, "v1.wardle.example.com", ("True", "Passed")).await;
    (server, admin, backend)
}

#[tokio::test]
async fn requests_are_passed_on_for_who_made_them() {
    let (server, admin, _backend) = aggregated().await;
    let lies = [("x-remote-user", "somebody"), ("x-remote-group", "system:masters"), ("authorization", "Bearer x")];
    let refused = server.user("jane", &["devs"]).request("POST", FLUNDERS, &lies, "hello").await;
    // Access is decided here, before anything is passed on.
    let why = "User \"jane\" cannot create resource \"flunders\" in API group \"wardle.example.com\"";
    refused.refused(403, "Forbidden", why);
    let told = admin.request("POST", FLUNDERS, &lies, "hello").await.expect(200);
    assert_eq!((&told["method"], &told["body"]), (&json!("POST"), &json!("hello")));
    let all = |name: &str| -> Vec<String> {
        let headers = told["headers"].as_array().unwrap().iter();
        headers.filter(|header| header[0] == name).map(|header| header[1].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(all("x-remote-user"), ["kubernetes-admin"]);
    assert_eq!(all("x-remote-group"), ["system:masters", "system:authenticated"]);
    assert!(all("authorization").is_empty());
    let mut watch = admin.watch(&format!("{FLUNDERS}?watch=true")).await;
    assert_eq!(watch.step().await, ("ADDED".to_owned(), "a".to_owned()));
    assert_eq!(watch.step().await, ("DELETED".to_owned(), "a".to_owned()));
    server.stop().await;
}

#[tokio::test]
async fn discovery_shows_both_servers_groups() {
    let (server, admin, _backend) = aggregated().await;
    let groups = admin.get("/apis").await.expect(200)["groups"].clone();
    let names: Vec<&str> = groups.as_array().unwrap().iter().map(|group| group["name"].as_str().unwrap()).collect();
    assert!(names.contains(&"apps") && names.contains(&"wardle.example.com"), "{names:?}");
    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let answer = admin.request("GET", "/apis", &[("accept", accept)], Body::empty()).await;
    let etag = answer.headers["etag"].to_str().unwrap().to_owned();
    let items = answer.expect(200)["items"].clone();
    let group = items.as_array().unwrap().iter().find(|item| item["metadata"]["name"] == "wardle.example.com").unwrap();
    assert_eq!(group["versions"][0]["resources"][0]["responseKind"]["kind"], "Flunder");
    let again = admin.request("GET", "/apis", &[("accept", accept), ("if-none-match", &etag)], Body::empty()).await;
    assert_eq!(again.code, 304);
    assert_eq!(admin.get("/apis/wardle.example.com").await.expect(200)["kind"], "APIGroup");
    assert_eq!(admin.get("/apis/wardle.example.com/v1").await.expect(200)["resources"][0]["name"], "flunders");
    let index = admin.get("/openapi/v3").await.expect(200);
    let at = index["paths"]["apis/wardle.example.com/v1"]["serverRelativeURL"].as_str().unwrap();
    assert_eq!(admin.get(at).await.expect(200)["openapi"], "3.0.0");
    let document = admin.get("/openapi/v2").await.expect(200);
    assert!(document["paths"][FLUNDERS_ALL].is_object() && document["paths"]["/api/v1/pods"].is_object());
    assert!(document["paths"].get("/healthz").is_none_or(|path| path != &json!({})), "only its group is its own");
    // Both know objects' metadata, each in its own words.
    let meta = &document["definitions"]["Flunder"]["properties"]["metadata"];
    assert_eq!(meta["$ref"], format!("#/definitions/{OBJECT_META}_v2"));
    assert_eq!(document["definitions"][format!("{OBJECT_META}_v2")]["description"], "as of another release");
    assert!(document["definitions"][OBJECT_META]["properties"]["uid"].is_object());
    server.stop().await;
}

#[tokio::test]
async fn a_server_that_is_gone_is_known_to_be() {
    let (server, admin, backend) = aggregated().await;
    drop(backend);
    // Anything that changes makes the server look again at once.
    let look = json!({"metadata": {"labels": {"look": "again"}}});
    let path = format!("{SERVICES}/v1.wardle.example.com");
    admin.patch(&path, "merge-patch", &look).await.expect(200);
    let condition = available(&admin, "v1.wardle.example.com", ("False", "FailedDiscoveryCheck")).await;
    assert!(condition["message"].as_str().unwrap().contains("https://api.t.svc:"), "{condition}");
    let answer = admin.get(FLUNDERS).await;
    assert_eq!((answer.code, answer.text().trim()), (503, "service unavailable"));
    admin.delete("/api/v1/namespaces/t/services/api", &Value::Null).await.expect(200);
    let condition = available(&admin, "v1.wardle.example.com", ("False", "ServiceNotFound")).await;
    assert_eq!(condition["message"], "service/api in \"t\" is not present");
    admin.delete(&path, &Value::Null).await.expect(200);
    admin.get(FLUNDERS).await.refused(404, "NotFound", "the server could not find the requested resource");
    server.stop().await;
}

#[tokio::test]
async fn what_this_server_answers_has_local_services() {
    let server = Server::start().await;
    let admin = server.admin();
    let condition = available(&admin, "v1.apps", ("True", "Local")).await;
    assert_eq!(condition["message"], "Local APIServices are always available");
    available(&admin, "v1.", ("True", "Local")).await;
    // They come back.
    admin.delete(&format!("{SERVICES}/v1.apps"), &Value::Null).await.expect(200);
    available(&admin, "v1.apps", ("True", "Local")).await;
    server.stop().await;
}

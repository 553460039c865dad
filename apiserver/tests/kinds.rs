//! Every kind through the server: a small object of each is made, read, listed, printed, changed in every way and deleted;
//! discovery and OpenAPI know it; and what every cluster has is there.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use common::{Client, Server};
use gantry_api::kinds::{Catalog, Resource, Verb};
use serde_json::{Value, json};

const MINIMAL: &str = include_str!("../../api/tests/minimal.yaml");

/// A manifest with what it is of.
struct Object {
    resource: std::sync::Arc<Resource>,
    name: &'static str,
    manifest: &'static str,
}

fn objects() -> Vec<Object> {
    let catalog = Catalog::builtin();
    let of = |manifest: &'static str| {
        let line = |key: &str| {
            let found =
                manifest.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_else(|| panic!("{manifest}"));
            found.trim()
        };
        let api_version = line("apiVersion:");
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let resource = catalog.by_gvk(group, version, line("kind:")).unwrap().clone();
        let name = line("metadata: {name:").split([',', '}']).next().unwrap();
        Object { resource, name, manifest }
    };
    MINIMAL.split("\n---\n").map(of).collect()
}

fn collection(resource: &Resource, namespace: &str) -> String {
    let root = if resource.group.is_empty() { "/api".to_owned() } else { format!("/apis/{}", resource.group) };
    let namespace = if resource.namespaced { format!("/namespaces/{namespace}") } else { String::new() };
    format!("{root}/{}{namespace}/{}", resource.version, resource.plural)
}

#[tokio::test]
async fn an_object_of_every_kind_lives_and_dies() {
    let server = Server::start().await;
    let admin = server.namespace("kinds").await;
    for object in objects() {
        one_kind(&admin, &object).await;
    }
}

const YAML: (&str, &str) = ("content-type", "application/yaml");

async fn one_kind(admin: &Client, object: &Object) {
    let (resource, name) = (&object.resource, object.name);
    let namespace = if resource.plural == "events" { "default" } else { "kinds" };
    let path = collection(resource, namespace);
    let one = format!("{path}/{name}");
    let made = admin.request("POST", &path, &[YAML], object.manifest).await.expect(201);
    let uid = made["metadata"]["uid"].as_str().unwrap().to_owned();
    assert_eq!(admin.get(&one).await.expect(200)["spec"], made["spec"], "{resource:?}");

    let again = admin.request("POST", &path, &[YAML], object.manifest).await;
    again.refused(409, "AlreadyExists", "already exists");

    let list = admin.get(&path).await.expect(200);
    assert_eq!(list["kind"], resource.list_kind);
    assert!(list["items"].as_array().unwrap().iter().any(|item| item["metadata"]["uid"] == *uid), "{resource:?}");
    let selected = admin.get(&format!("{path}?fieldSelector=metadata.name%3D{name}")).await.expect(200);
    assert_eq!(selected["items"].as_array().unwrap().len(), 1, "{resource:?}");
    let accept = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    let table = admin.request("GET", &path, &accept, "").await.expect(200);
    assert_eq!(table["kind"], "Table", "{resource:?}");

    let patch = json!({"metadata": {"labels": {"patched": "yes"}}});
    let patched = admin.patch(&one, "merge-patch", &patch).await.expect(200);
    assert_eq!(patched["metadata"]["labels"]["patched"], "yes", "{resource:?}");
    let selected = admin.get(&format!("{path}?labelSelector=patched%3Dyes")).await.expect(200);
    assert_eq!(selected["items"].as_array().unwrap().len(), 1, "{resource:?}");
    let updated = update(admin, &one).await;
    let before = made["metadata"]["generation"].as_i64();
    let counted = i64::from(resource.strategy.annotations_count_as_spec());
    assert_eq!(updated["metadata"]["generation"].as_i64(), before.map(|count| count + counted), "{resource:?}");
    let stale = admin.put(&one, &made).await;
    stale.refused(409, "Conflict", "the object has been modified");

    let applied = format!("{one}?fieldManager=applier&force=true");
    let kind = ("content-type", "application/apply-patch+yaml");
    let applied = admin.request("PATCH", &applied, &[kind], object.manifest).await.expect(200);
    assert_eq!(applied["metadata"]["labels"], updated["metadata"]["labels"], "{resource:?}");
    assert_eq!(applied["metadata"]["uid"], *uid, "{resource:?}");
    if resource.subresources.status {
        assert_eq!(admin.get(&format!("{one}/status")).await.expect(200)["metadata"]["uid"], *uid);
    }
    if resource.subresources.scale.is_some() {
        let scale = admin.get(&format!("{one}/scale")).await.expect(200);
        assert_eq!((&scale["kind"], &scale["spec"]["replicas"]), (&json!("Scale"), &json!(1)), "{resource:?}");
        assert_eq!(scale["status"]["selector"], "app=web", "{resource:?}");
    }

    let deleted = admin.delete(&one, &json!({})).await;
    assert!(matches!(deleted.code, 200 | 202), "{resource:?}: {}", deleted.text());
    let held = |object: &Value| object["metadata"]["finalizers"].is_array() || object["spec"]["finalizers"].is_array();
    match admin.get(&one).await {
        gone if gone.code == 404 => {}
        held_back => {
            let object = held_back.expect(200);
            assert!(held(&object) && object["metadata"]["deletionTimestamp"].is_string(), "{object}");
        }
    }
}

/// Adds an annotation by a whole update, which a controller's write may get ahead of.
async fn update(admin: &Client, one: &str) -> Value {
    loop {
        let mut whole = admin.get(one).await.expect(200);
        whole["metadata"]["annotations"]["example.com/updated"] = json!("yes");
        match admin.put(one, &whole).await {
            raced if raced.code == 409 => {}
            answer => {
                let updated = answer.expect(200);
                assert_eq!(updated["metadata"]["annotations"]["example.com/updated"], "yes");
                return updated;
            }
        }
    }
}

#[tokio::test]
async fn discovery_and_openapi_know_every_kind() {
    let server = Server::start().await;
    let admin = server.admin();
    let paths = admin.get("/openapi/v3").await.expect(200);
    for resource in Catalog::builtin().iter() {
        let group_version = match resource.group.as_str() {
            "" => format!("api/{}", resource.version),
            group => format!("apis/{group}/{}", resource.version),
        };
        let document = admin.get(&format!("/{group_version}")).await.expect(200);
        let mut rows = document["resources"].as_array().unwrap().iter();
        let row = rows.find(|row| row["name"] == resource.plural).unwrap_or_else(|| panic!("{resource:?}"));
        assert_eq!(row["kind"], resource.kind);
        assert_eq!(row["namespaced"], resource.namespaced);
        let url = paths["paths"][&group_version]["serverRelativeURL"].as_str().unwrap();
        let document = admin.get(url).await.expect(200);
        let of_kind = |schema: &Value| {
            schema["x-kubernetes-group-version-kind"].as_array().into_iter().flatten().any(|gvk| {
                gvk["group"] == resource.group && gvk["version"] == resource.version && gvk["kind"] == resource.kind
            })
        };
        let schemas = document["components"]["schemas"].as_object().unwrap();
        assert!(schemas.values().any(of_kind), "OpenAPI does not know {resource:?}");
        if resource.allows(Verb::Get) {
            let path = collection(resource, "{namespace}");
            assert!(document["paths"][format!("{path}/{{name}}")].is_object(), "{path}");
        }
    }
}

#[tokio::test]
async fn a_new_cluster_has_what_clients_expect() {
    let server = Server::start().await;
    let admin = server.admin();
    for class in ["system-node-critical", "system-cluster-critical"] {
        let found = admin.get(&format!("/apis/scheduling.k8s.io/v1/priorityclasses/{class}")).await.expect(200);
        assert!(found["value"].as_i64().unwrap() >= 2_000_000_000);
    }
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let admins = admin.get(&format!("{rbac}/clusterrolebindings/cluster-admin")).await.expect(200);
    assert_eq!(admins["subjects"][0]["name"], "system:masters");
    let view = admin.get(&format!("{rbac}/clusterroles/view")).await.expect(200);
    assert!(!view["rules"].as_array().unwrap().is_empty());
    let flow = "/apis/flowcontrol.apiserver.k8s.io/v1";
    assert_eq!(admin.get(&format!("{flow}/flowschemas")).await.expect(200)["items"].as_array().unwrap().len(), 11);
    let levels = admin.get(&format!("{flow}/prioritylevelconfigurations")).await.expect(200);
    assert_eq!(levels["items"].as_array().unwrap().len(), 8);
    let range = admin.get("/apis/networking.k8s.io/v1/servicecidrs/kubernetes").await.expect(200);
    assert!(range["spec"]["cidrs"][0].as_str().unwrap().contains('/'));
}

#[tokio::test]
async fn an_autoscaler_is_one_object_in_two_versions() {
    let server = Server::start().await;
    let admin = server.namespace("kinds").await;
    let path = |version: &str| format!("/apis/autoscaling/{version}/namespaces/kinds/horizontalpodautoscalers");
    let target = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"});
    let old = json!({
        "apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "web"},
        "spec": {"scaleTargetRef": target, "maxReplicas": 5, "targetCPUUtilizationPercentage": 60},
    });
    admin.post(&path("v1"), &old).await.expect(201);
    let mut new = admin.get(&format!("{}/web", path("v2"))).await.expect(200);
    assert_eq!(new["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 60);
    let pods = json!({"type": "Pods", "pods": {
        "metric": {"name": "rate"}, "target": {"type": "AverageValue", "averageValue": "3"},
    }});
    new["spec"]["metrics"].as_array_mut().unwrap().push(pods);
    let new = admin.put(&format!("{}/web", path("v2")), &new).await.expect(200);
    let mut old = admin.get(&format!("{}/web", path("v1"))).await.expect(200);
    assert_eq!(old["spec"]["targetCPUUtilizationPercentage"], 60);
    old["spec"]["maxReplicas"] = json!(7);
    admin.put(&format!("{}/web", path("v1")), &old).await.expect(200);
    let both = admin.get(&format!("{}/web", path("v2"))).await.expect(200);
    assert_eq!(both["spec"]["maxReplicas"], 7);
    assert_eq!(both["spec"]["metrics"].as_array().unwrap().len(), 2);
    assert_eq!(both["metadata"]["uid"], new["metadata"]["uid"]);
}

#[tokio::test]
async fn a_certificate_request_is_approved_by_its_own_path_only() {
    let server = Server::start().await;
    let object = objects().into_iter().find(|o| o.resource.plural == "certificatesigningrequests").unwrap();
    let path = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    let admin = server.user("ada", &["system:masters", "editors"]);
    let forged = object.manifest.replace("  signerName:", "  username: somebody else\n  signerName:");
    let made = admin.request("POST", path, &[YAML], forged).await.expect(201);
    assert_eq!(made["spec"]["username"], "ada");
    let groups = made["spec"]["groups"].as_array().unwrap();
    assert!(groups.contains(&json!("editors")) && groups.contains(&json!("system:authenticated")), "{made}");
    let one = format!("{path}/minimal");
    let approval = json!({"status": {"conditions": [{
        "type": "Approved", "status": "True", "reason": "Known", "message": "she is known",
    }]}});
    let kind = "merge-patch";
    let unchanged = admin.patch(&one, kind, &approval).await.expect(200);
    assert!(unchanged["status"]["conditions"].is_null(), "{unchanged}");
    let refused = admin.patch(&format!("{one}/status"), kind, &approval).await;
    refused.refused(422, "Invalid", "updates may not add a condition of type \"Approved\"");
    let approved = admin.patch(&format!("{one}/approval"), kind, &approval).await.expect(200);
    assert_eq!(approved["status"]["conditions"][0]["type"], "Approved");
    let refused = admin.patch(&format!("{one}/approval"), kind, &json!({"status": {"conditions": []}})).await;
    refused.refused(422, "Invalid", "updates may not remove a condition of type \"Approved\"");
    let spec = json!({"spec": {"signerName": "example.com/others"}});
    assert_eq!(admin.patch(&one, kind, &spec).await.expect(200)["spec"]["signerName"], "example.com/visitors");
}

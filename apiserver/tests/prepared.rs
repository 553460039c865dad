//! Objects that are made of a body that was prepared before: they are what the long way makes, and whatever admission goes by
//! is looked at anew.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::collections::BTreeSet;

use common::{Client, Server};
use serde_json::{Value, json};

const PODS: &str = "/api/v1/namespaces/t/pods";

/// A pod whose name the server makes.
fn body() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"generateName": "web-", "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "main", "image": "example.com/web"}]},
    })
}

/// What differs between two objects of one body, taken out.
fn without_its_own(mut object: Value) -> Value {
    let metadata = object["metadata"].as_object_mut().unwrap();
    for key in ["name", "uid", "resourceVersion", "creationTimestamp"] {
        assert!(metadata.remove(key).is_some_and(|value| !value.as_str().unwrap().is_empty()), "{key}");
    }
    metadata["managedFields"][0]["time"].take();
    let account = object["spec"]["volumes"][0]["name"].take();
    assert!(account.as_str().unwrap().starts_with("kube-api-access-"), "{account}");
    assert_eq!(object["spec"]["containers"][0]["volumeMounts"][0]["name"].take(), account);
    object
}

async fn create(client: &Client) -> Value {
    client.post(PODS, &body()).await.expect(201)
}

#[tokio::test]
async fn the_same_body_makes_the_same_object_with_a_name_a_uid_and_a_time_of_its_own() {
    let server = Server::start().await;
    let admin = server.namespace("t").await;
    let first = create(&admin).await;
    let mut names = BTreeSet::from([first["metadata"]["name"].as_str().unwrap().to_owned()]);
    let mut uids = BTreeSet::from([first["metadata"]["uid"].as_str().unwrap().to_owned()]);
    for _ in 0..40 {
        let next = create(&admin).await;
        let metadata = &next["metadata"];
        assert_eq!(metadata["creationTimestamp"], metadata["managedFields"][0]["time"]);
        let name = metadata["name"].as_str().unwrap();
        assert!(name.starts_with("web-") && name.len() == "web-".len() + 5, "{name}");
        names.insert(name.to_owned());
        uids.insert(metadata["uid"].as_str().unwrap().to_owned());
        assert_eq!(admin.get(&format!("{PODS}/{name}")).await.expect(200), next);
        assert_eq!(without_its_own(next), without_its_own(first.clone()));
    }
    assert_eq!((names.len(), uids.len()), (41, 41));
    // Another body, another manager, another way of reading it: each goes the whole way.
    let mut other = body();
    other["metadata"]["labels"]["app"] = json!("api");
    assert_eq!(admin.post(PODS, &other).await.expect(201)["metadata"]["labels"]["app"], "api");
    let managed = admin.post(&format!("{PODS}?fieldManager=me"), &body()).await.expect(201);
    assert_eq!(managed["metadata"]["managedFields"][0]["manager"], "me");
    let dry = admin.post(&format!("{PODS}?dryRun=All"), &body()).await.expect(201);
    assert_eq!(admin.get(&format!("{PODS}/{}", dry["metadata"]["name"].as_str().unwrap())).await.code, 404);
    server.stop().await;
}

#[tokio::test]
async fn an_object_whose_name_or_uid_is_in_its_labels_too_goes_the_long_way() {
    let server = Server::start().await;
    let admin = server.namespace("t").await;
    let job = json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"generateName": "work-"},
        "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "main", "image": "example.com/work"}]}}},
    });
    for _ in 0..3 {
        let made = admin.post("/apis/batch/v1/namespaces/t/jobs", &job).await.expect(201);
        let labels = &made["spec"]["template"]["metadata"]["labels"];
        assert_eq!(labels["batch.kubernetes.io/job-name"], made["metadata"]["name"]);
        assert_eq!(labels["batch.kubernetes.io/controller-uid"], made["metadata"]["uid"]);
    }
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"generateName": "team-"}});
    for _ in 0..3 {
        let made = admin.post("/api/v1/namespaces", &namespace).await.expect(201);
        assert_eq!(made["metadata"]["labels"]["kubernetes.io/metadata.name"], made["metadata"]["name"]);
    }
    server.stop().await;
}

#[tokio::test]
async fn what_admission_goes_by_holds_for_the_next_object() {
    let server = Server::start().await;
    let admin = server.namespace("t").await;
    create(&admin).await;
    assert_eq!(create(&admin).await["spec"]["priority"], 0);

    // A default that comes, changes and goes.
    let limits = |cpu: &str| {
        json!({
            "apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "limits"},
            "spec": {"limits": [{"type": "Container", "default": {"cpu": cpu}}]},
        })
    };
    let cpu = |pod: &Value| pod["spec"]["containers"][0]["resources"]["limits"]["cpu"].clone();
    admin.post("/api/v1/namespaces/t/limitranges", &limits("1")).await.expect(201);
    assert_eq!(cpu(&create(&admin).await), "1");
    assert_eq!(cpu(&create(&admin).await), "1");
    admin.put("/api/v1/namespaces/t/limitranges/limits", &limits("2")).await.expect(200);
    assert_eq!(cpu(&create(&admin).await), "2");
    admin.delete("/api/v1/namespaces/t/limitranges/limits", &json!({})).await.expect(200);
    assert_eq!(cpu(&create(&admin).await), Value::Null);

    let class = json!({
        "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": "usual"}, "value": 7,
        "globalDefault": true,
    });
    admin.post("/apis/scheduling.k8s.io/v1/priorityclasses", &class).await.expect(201);
    assert_eq!(create(&admin).await["spec"]["priority"], 7);

    let account = json!({"imagePullSecrets": [{"name": "pull"}]});
    admin.patch("/api/v1/namespaces/t/serviceaccounts/default", "merge-patch", &account).await.expect(200);
    assert_eq!(create(&admin).await["spec"]["imagePullSecrets"][0]["name"], "pull");

    // A quota is charged for each object, and used up.
    let quota = json!({
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "few"}, "spec": {"hard": {"pods": "20"}},
    });
    let mut counted = admin.post("/api/v1/namespaces/t/resourcequotas", &quota).await.expect(201);
    // As the controller counts.
    counted["status"] = json!({"hard": {"pods": "20"}, "used": {"pods": "18"}});
    admin.put("/api/v1/namespaces/t/resourcequotas/few/status", &counted).await.expect(200);
    create(&admin).await;
    create(&admin).await;
    admin.post(PODS, &body()).await.refused(403, "Forbidden", "exceeded quota: few");
    admin.delete("/api/v1/namespaces/t/resourcequotas/few", &json!({})).await.expect(200);
    create(&admin).await;

    // A level of security that the pods do not reach.
    let strict = json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}});
    admin.patch("/api/v1/namespaces/t", "merge-patch", &strict).await.expect(200);
    assert_eq!(admin.post(PODS, &body()).await.code, 403);
    let lax = json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": null}}});
    admin.patch("/api/v1/namespaces/t", "merge-patch", &lax).await.expect(200);
    create(&admin).await;

    // A policy, and a namespace that goes.
    let policy = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy", "metadata": {"name": "none"},
        "spec": {
            "matchConstraints": {"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}]},
            "validations": [{"expression": "false", "message": "no pods today"}],
        },
    });
    let binding = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": "none"}, "spec": {"policyName": "none", "validationActions": ["Deny"]},
    });
    let root = "/apis/admissionregistration.k8s.io/v1";
    admin.post(&format!("{root}/validatingadmissionpolicies"), &policy).await.expect(201);
    admin.post(&format!("{root}/validatingadmissionpolicybindings"), &binding).await.expect(201);
    common::eventually(|| async { admin.post(PODS, &body()).await.code == 422 }).await;
    admin.delete(&format!("{root}/validatingadmissionpolicies/none"), &json!({})).await.expect(200);
    common::eventually(|| async { admin.post(PODS, &body()).await.code == 201 }).await;
    admin.delete("/api/v1/namespaces/t", &json!({})).await;
    let refused = admin.post(PODS, &body()).await;
    assert!(matches!(refused.code, 403 | 404), "{}", refused.text());
    server.stop().await;
}

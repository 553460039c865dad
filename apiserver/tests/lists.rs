//! Lists: pages of one snapshot, and Kubernetes' resourceVersion rules.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use common::{Server, config_map, revision};
use serde_json::{Value, json};

const CONFIG_MAPS: &str = "/api/v1/namespaces/t/configmaps";

fn names(list: &Value) -> Vec<String> {
    list["items"].as_array().unwrap().iter().map(|item| item["metadata"]["name"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn pages_show_one_snapshot_whatever_is_written_meanwhile() {
    let server = Server::start().await;
    let admin = server.namespace("t").await;
    for index in 0..25 {
        admin.post(CONFIG_MAPS, &config_map(&format!("c{index:02}"))).await.expect(201);
    }
    let first = admin.get(&format!("{CONFIG_MAPS}?limit=10")).await.expect(200);
    assert_eq!((names(&first).len(), first["metadata"]["remainingItemCount"].as_u64()), (10, Some(15)));
    // Unchanged so far: the cache has the second page. Then somebody writes: the store has the third.
    let token = first["metadata"]["continue"].as_str().unwrap();
    let second = admin.get(&format!("{CONFIG_MAPS}?limit=10&continue={token}")).await.expect(200);
    assert_eq!(revision(&second), revision(&first));
    admin.post(CONFIG_MAPS, &config_map("c99")).await.expect(201);
    admin.delete(&format!("{CONFIG_MAPS}/c22"), &Value::Null).await.expect(200);
    admin.patch(&format!("{CONFIG_MAPS}/c23"), "merge-patch", &json!({"data": {"key": "new"}})).await.expect(200);
    let token = second["metadata"]["continue"].as_str().unwrap();
    let third = admin.get(&format!("{CONFIG_MAPS}?limit=10&continue={token}")).await.expect(200);
    assert_eq!(revision(&third), revision(&first));
    assert_eq!(third["metadata"].get("continue"), None);
    let all: Vec<String> = [&first, &second, &third].iter().flat_map(|page| names(page)).collect();
    assert_eq!(all, (0..25).map(|index| format!("c{index:02}")).collect::<Vec<_>>());
    assert_eq!(third["items"][3]["data"]["key"], "value", "as it was");
    server.stop().await;
}

#[tokio::test]
async fn pages_with_selectors() {
    let server = Server::start().await;
    let admin = server.namespace("t").await;
    for index in 0..12 {
        let mut object = config_map(&format!("c{index:02}"));
        object["metadata"]["labels"] = json!({"third": (index % 3).to_string()});
        admin.post(CONFIG_MAPS, &object).await.expect(201);
    }
    let mut found = Vec::new();
    let mut token = String::new();
    loop {
        let page =
            admin.get(&format!("{CONFIG_MAPS}?limit=3&labelSelector=third%3D1&continue={token}")).await.expect(200);
        found.extend(names(&page));
        // A write between pages sends the next one to the store.
        admin.post(CONFIG_MAPS, &json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "z", "labels": {"third": "1"}}})).await.expect(201);
        match page["metadata"]["continue"].as_str() {
            Some(next) => token = next.to_owned(),
            None => break,
        }
    }
    assert_eq!(found, ["c01", "c04", "c07", "c10"]);
    server.stop().await;
}

#[tokio::test]
async fn resource_versions_choose_the_snapshot() {
    let server = Server::start().await;
    let admin = server.namespace("t").await;
    let one = admin.post(CONFIG_MAPS, &config_map("one")).await.expect(201);
    let at = revision(&one);
    admin.post(CONFIG_MAPS, &config_map("two")).await.expect(201);
    let list = |query: String| {
        let admin = admin.clone();
        async move { admin.get(&format!("{CONFIG_MAPS}?{query}")).await }
    };
    assert_eq!(names(&list(String::new()).await.expect(200)).len(), 2);
    assert_eq!(names(&list("resourceVersion=0".into()).await.expect(200)).len(), 2);
    assert_eq!(names(&list(format!("resourceVersion={at}")).await.expect(200)).len(), 2);
    let exact = list(format!("resourceVersion={at}&resourceVersionMatch=Exact")).await.expect(200);
    assert_eq!((names(&exact), revision(&exact)), (vec!["one".to_owned()], at));
    let status = list("resourceVersion=999999".into()).await.refused(504, "Timeout", "Too large resource version");
    assert_eq!(status["details"]["causes"][0]["reason"], "ResourceVersionTooLarge");
    list("resourceVersionMatch=Exact".into()).await.refused(
        422,
        "Invalid",
        "resourceVersionMatch is forbidden unless resourceVersion is provided",
    );
    list("continue=bogus".into()).await.refused(400, "BadRequest", "continue key is not valid");
    list("limit=x".into()).await.refused(400, "BadRequest", "strconv.ParseInt: parsing \"x\": invalid syntax");
    server.stop().await;
}

#[tokio::test]
async fn lists_over_all_namespaces_and_by_fields() {
    let server = Server::start().await;
    let admin = server.namespace("t").await;
    server.namespace("u").await;
    for namespace in ["t", "u"] {
        admin.post(&format!("/api/v1/namespaces/{namespace}/configmaps"), &config_map("same")).await.expect(201);
    }
    // Every cluster has objects of its own in kube-system.
    let of_people = "/api/v1/configmaps?fieldSelector=metadata.namespace%21%3Dkube-system";
    assert_eq!(names(&admin.get(of_people).await.expect(200)), ["same", "same"]);
    let by_name =
        admin.get("/api/v1/configmaps?fieldSelector=metadata.name%3Dsame,metadata.namespace%3Du").await.expect(200);
    assert_eq!(by_name["items"].as_array().unwrap().len(), 1);
    admin.get("/api/v1/configmaps?fieldSelector=spec.what%3Dever").await.refused(
        400,
        "BadRequest",
        "\"spec.what\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\"",
    );
    admin.get("/api/v1/configmaps?labelSelector=a%3D%3D%3D").await.refused(
        400,
        "BadRequest",
        "unable to parse requirement",
    );
    server.stop().await;
}

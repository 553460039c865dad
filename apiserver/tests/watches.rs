//! Watches: nothing missed, nothing twice, nothing that was not asked for.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use common::{Server, config_map, pod, revision};
use serde_json::{Value, json};

const CONFIG_MAPS: &str = "/api/v1/namespaces/t/configmaps";

#[tokio::test]
async fn a_watch_shows_what_is_there_and_then_what_changes() {
    let server = Server::start().await;
    let admin = server.namespace("t").await;
    admin.post(CONFIG_MAPS, &config_map("a")).await.expect(201);
    let mut watch = admin.watch(&format!("{CONFIG_MAPS}?watch=true")).await;
    assert_eq!(watch.step().await, ("ADDED".into(), "a".into()));
    admin.post(CONFIG_MAPS, &config_map("b")).await.expect(201);
    assert_eq!(watch.step().await, ("ADDED".into(), "b".into()));
    let patched =
        admin.patch(&format!("{CONFIG_MAPS}/b"), "merge-patch", &json!({"data": {"x": "y"}})).await.expect(200);
    let event = watch.next().await.unwrap();
    assert_eq!((event["type"].as_str(), &event["object"]), (Some("MODIFIED"), &patched));
    admin.delete(&format!("{CONFIG_MAPS}/b"), &Value::Null).await.expect(200);
    let event = watch.next().await.unwrap();
    assert_eq!(event["type"], "DELETED");
    assert!(revision(&event["object"]) > revision(&patched), "a deletion has a revision of its own");
    assert_eq!(event["object"]["data"]["x"], "y");
    server.stop().await;
    assert!(watch.next().await.is_none(), "a stopping server ends its watches");
}

#[tokio::test]
async fn a_watch_from_a_list_misses_nothing_while_others_write() {
    let server = Server::start().await;
    let admin = server.namespace("t").await;
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let admin = admin.clone();
            tokio::spawn(async move {
                for index in 0..40 {
                    let name = format!("w{writer}-{index}");
                    admin.post(CONFIG_MAPS, &config_map(&name)).await.expect(201);
                    if index % 2 == 0 {
                        admin
                            .patch(&format!("{CONFIG_MAPS}/{name}"), "merge-patch", &json!({"data": {"n": "1"}}))
                            .await
                            .expect(200);
                    }
                    if index % 4 == 0 {
                        admin.delete(&format!("{CONFIG_MAPS}/{name}"), &Value::Null).await.expect(200);
                    }
                }
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(150)).await;
    let list = admin.get(CONFIG_MAPS).await.expect(200);
    let start = revision(&list);
    let mut seen: BTreeMap<String, u64> = BTreeMap::new();
    for item in list["items"].as_array().unwrap() {
        seen.insert(item["metadata"]["name"].as_str().unwrap().to_owned(), revision(item));
    }
    let mut watch = admin.watch(&format!("{CONFIG_MAPS}?watch=true&resourceVersion={start}")).await;
    for writer in writers {
        writer.await.unwrap();
    }
    admin.post(CONFIG_MAPS, &config_map("the-end")).await.expect(201);
    let mut last = start;
    loop {
        let event = watch.next().await.unwrap();
        let object = &event["object"];
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        assert!(revision(object) > last, "revisions grow: {event}");
        last = revision(object);
        match event["type"].as_str().unwrap() {
            "ADDED" => assert!(seen.insert(name.clone(), last).is_none(), "{name} was added twice"),
            "MODIFIED" => assert!(seen.insert(name.clone(), last).is_some(), "{name} was changed before it was there"),
            "DELETED" => assert!(seen.remove(&name).is_some(), "{name} was deleted before it was there"),
            other => panic!("{other}"),
        }
        if name == "the-end" {
            break;
        }
    }
    let now = admin.get(CONFIG_MAPS).await.expect(200);
    let now: BTreeMap<String, u64> = now["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| (item["metadata"]["name"].as_str().unwrap().to_owned(), revision(item)))
        .collect();
    assert_eq!(seen, now);
    server.stop().await;
}

#[tokio::test]
async fn selectors_turn_changes_into_arrivals_and_departures() {
    let server = Server::start().await;
    let admin = server.namespace("t").await;
    let mut watch = admin.watch(&format!("{CONFIG_MAPS}?watch=true&labelSelector=app%3Dweb&resourceVersion=0")).await;
    admin.post(CONFIG_MAPS, &config_map("a")).await.expect(201);
    let label = |value: Value| json!({"metadata": {"labels": {"app": value}}});
    admin.patch(&format!("{CONFIG_MAPS}/a"), "merge-patch", &label(json!("web"))).await.expect(200);
    assert_eq!(watch.step().await, ("ADDED".into(), "a".into()));
    let left = admin.patch(&format!("{CONFIG_MAPS}/a"), "merge-patch", &label(Value::Null)).await.expect(200);
    let event = watch.next().await.unwrap();
    assert_eq!(event["type"], "DELETED");
    assert_eq!(event["object"]["metadata"]["labels"]["app"], "web", "the last state that was selected");
    assert_eq!(revision(&event["object"]), revision(&left), "at the revision of the change");
    admin.delete(&format!("{CONFIG_MAPS}/a"), &Value::Null).await.expect(200);
    assert!(watch.soon(Duration::from_millis(300)).await.is_none(), "what was not selected is not reported");
    server.stop().await;
}

#[tokio::test]
async fn a_node_hears_of_its_own_pods_only() {
    let server = Server::start().await;
    let admin = server.namespace("t").await;
    let path = "/api/v1/pods?watch=true&fieldSelector=spec.nodeName%3D";
    let (mut one, mut two) = (admin.watch(&format!("{path}n1")).await, admin.watch(&format!("{path}n2")).await);
    for (name, node) in [("p1", "n1"), ("p2", "n2")] {
        admin.post("/api/v1/namespaces/t/pods", &pod(name)).await.expect(201);
        let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, "target": {"kind": "Node", "name": node}});
        admin.post(&format!("/api/v1/namespaces/t/pods/{name}/binding"), &binding).await.expect(201);
    }
    assert_eq!(one.step().await, ("ADDED".into(), "p1".into()));
    assert_eq!(two.step().await, ("ADDED".into(), "p2".into()));
    assert!(one.soon(Duration::from_millis(200)).await.is_none());
    let mut named = admin.watch("/api/v1/namespaces/t/pods?watch=true&fieldSelector=metadata.name%3Dp2").await;
    assert_eq!(named.step().await, ("ADDED".into(), "p2".into()));
    server.stop().await;
}

#[tokio::test]
async fn a_watch_goes_on_after_a_restart() {
    let server = Server::start().await;
    let admin = server.namespace("t").await;
    let seen = revision(&admin.post(CONFIG_MAPS, &config_map("a")).await.expect(201));
    admin.post(CONFIG_MAPS, &config_map("b")).await.expect(201);
    let label = json!({"metadata": {"labels": {"app": "web"}}});
    admin.patch(&format!("{CONFIG_MAPS}/a"), "merge-patch", &label).await.expect(200);
    admin.delete(&format!("{CONFIG_MAPS}/b"), &Value::Null).await.expect(200);
    let server = Server::start_in(server.stop().await).await;
    let admin = server.admin();
    let mut watch = admin.watch(&format!("{CONFIG_MAPS}?watch=true&resourceVersion={seen}")).await;
    admin.post(CONFIG_MAPS, &config_map("c")).await.expect(201);
    for (step, name) in [("ADDED", "b"), ("MODIFIED", "a"), ("DELETED", "b"), ("ADDED", "c")] {
        assert_eq!(watch.step().await, (step.into(), name.into()));
    }
    server.stop().await;
}

#[tokio::test]
async fn a_revision_that_is_gone_is_told_so() {
    let server = Server::start().await;
    let admin = server.namespace("t").await;
    admin.post(CONFIG_MAPS, &config_map("a")).await.expect(201);
    admin.post("/gantry/store/compact", &Value::Null).await.expect(200);
    let dir = server.stop().await;
    let server = Server::start_in(dir).await;
    let admin = server.admin();
    // The log of changes goes back as far as the store's.
    let mut watch = admin.watch(&format!("{CONFIG_MAPS}?watch=true&resourceVersion=2")).await;
    let event = watch.next().await.unwrap();
    assert_eq!(event["type"], "ERROR");
    assert_eq!((event["object"]["code"].as_u64(), event["object"]["reason"].as_str()), (Some(410), Some("Expired")));
    assert!(event["object"]["message"].as_str().unwrap().starts_with("too old resource version: 2 ("), "{event}");
    assert!(watch.next().await.is_none());
    admin.get(&format!("{CONFIG_MAPS}?watch=true&resourceVersion=x")).await.refused(
        400,
        "BadRequest",
        "resourceVersion: Invalid value: \"x\"",
    );
    server.stop().await;
}

#[tokio::test]
async fn streaming_lists_end_with_a_marked_bookmark() {
    let server = Server::start().await;
    let admin = server.namespace("t").await;
    for name in ["a", "b", "c"] {
        admin.post(CONFIG_MAPS, &config_map(name)).await.expect(201);
    }
    let query = "watch=true&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan";
    let mut watch = admin.watch(&format!("{CONFIG_MAPS}?{query}")).await;
    let mut last = 0;
    for name in ["a", "b", "c"] {
        let event = watch.next().await.unwrap();
        assert_eq!((event["type"].as_str(), event["object"]["metadata"]["name"].as_str()), (Some("ADDED"), Some(name)));
        last = revision(&event["object"]);
    }
    let bookmark = watch.next().await.unwrap();
    assert_eq!(bookmark["type"], "BOOKMARK");
    assert_eq!(bookmark["object"]["kind"], "ConfigMap");
    assert_eq!(bookmark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    assert!(revision(&bookmark["object"]) >= last);
    admin.post(CONFIG_MAPS, &config_map("d")).await.expect(201);
    assert_eq!(watch.step().await, ("ADDED".into(), "d".into()));
    let wrong = admin.get(&format!("{CONFIG_MAPS}?watch=true&sendInitialEvents=true")).await;
    wrong.refused(422, "Invalid", "resourceVersionMatch: Forbidden");
    server.stop().await;
}

#[tokio::test]
async fn a_watch_ends_in_time_with_a_bookmark() {
    let server = Server::start().await;
    let admin = server.namespace("t").await;
    let created = admin.post(CONFIG_MAPS, &config_map("a")).await.expect(201);
    let from = revision(&created);
    let mut watch = admin
        .watch(&format!("{CONFIG_MAPS}?watch=true&resourceVersion={from}&timeoutSeconds=1&allowWatchBookmarks=true"))
        .await;
    let bookmark = watch.next().await.unwrap();
    assert_eq!(bookmark["type"], "BOOKMARK");
    assert!(revision(&bookmark["object"]) >= from);
    assert!(watch.next().await.is_none());
    server.stop().await;
}

#[tokio::test]
async fn watches_show_tables_metadata_and_other_versions() {
    let server = Server::start().await;
    let admin = server.namespace("t").await;
    let watch = |accept: &'static str, path: &'static str| {
        let admin = admin.clone();
        async move {
            let answer = admin.request("GET", path, &[("accept", accept)], axum::body::Body::empty()).await;
            assert_eq!(answer.code, 200, "{}", answer.text());
            serde_json::from_str::<Value>(answer.text().lines().next().unwrap()).unwrap()
        }
    };
    admin.post(CONFIG_MAPS, &config_map("a")).await.expect(201);
    let path = "/api/v1/namespaces/t/configmaps?watch=true&timeoutSeconds=1";
    let table = watch("application/json;as=Table;v=v1;g=meta.k8s.io", path).await;
    assert_eq!(
        (table["object"]["kind"].as_str(), table["object"]["rows"][0]["cells"][0].as_str()),
        (Some("Table"), Some("a"))
    );
    let partial = watch("application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io", path).await;
    assert_eq!(
        (partial["object"]["kind"].as_str(), partial["object"].get("data")),
        (Some("PartialObjectMetadata"), None)
    );
    let event = json!({
        "apiVersion": "v1", "kind": "Event", "metadata": {"name": "e", "namespace": "t"}, "reason": "Why", "message": "text", "type": "Normal",
        "involvedObject": {"kind": "Pod", "namespace": "t", "name": "p"}, "source": {"component": "c"},
    });
    admin.post("/api/v1/namespaces/t/events", &event).await.expect(201);
    let seen =
        watch("application/json", "/apis/events.k8s.io/v1/namespaces/t/events?watch=true&timeoutSeconds=1").await;
    assert_eq!(
        (seen["object"]["apiVersion"].as_str(), seen["object"]["note"].as_str()),
        (Some("events.k8s.io/v1"), Some("text"))
    );
    server.stop().await;
}

#![allow(clippy::unwrap_used)]
//! Pods moved by the driver, against a small API server in memory: what it evicts, what it only tells, and what it leaves.

#[path = "support/server.rs"]
mod server;

use std::time::Duration;

use gantry_scheduler::config::Configuration;
use gantry_scheduler::defrag::settings::{Mode, Settings};
use serde_json::{Value, json};
use server::{Api, Eviction, Running, node, pod, start_with, until};

/// Some looks take less than this.
const LOOKS: Duration = Duration::from_millis(400);

fn settings(mode: Mode) -> Settings {
    let interval = Duration::from_millis(20);
    Settings { mode, interval, wait: Duration::ZERO, cool_down: Duration::ZERO, ..Settings::default() }
}

/// A pod that a controller made, on a node.
fn owned(name: &str, cpu: &str, node: Option<&str>) -> Value {
    let mut pod = pod(name, cpu);
    pod["metadata"]["labels"] = json!({"app": "web"});
    pod["metadata"]["ownerReferences"] = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "uid-of-web", "controller": true}]);
    pod["status"] = json!({"phase": "Pending"});
    if let Some(node) = node {
        pod["spec"]["nodeName"] = json!(node);
        pod["status"] = json!({"phase": "Running", "startTime": "2026-01-02T03:04:05Z"});
    }
    pod
}

/// Two nodes with one and a half of two CPUs free, and a pod that wants two.
fn in_pieces() -> Api {
    let api = Api::new();
    for name in ["a", "b"] {
        api.put("nodes", node(name));
        api.put("pods", owned(&format!("web-{name}"), "500m", Some(name)));
    }
    api.put("pods", pod("big", "2"));
    api
}

async fn scheduler(api: &Api, settings: Settings) -> Running {
    start_with(api, Configuration { defragmentation: settings, ..Configuration::default() }).await
}

fn evictions(api: &Api) -> Vec<String> {
    api.objects.lock().unwrap().evictions.clone()
}

fn looks(api: &Api) -> usize {
    api.objects.lock().unwrap().looks.len()
}

fn is_going(api: &Api, pod: &str) -> bool {
    api.get("pods", pod).unwrap()["metadata"]["deletionTimestamp"].is_string()
}

fn budget(selector: Value, allowed: i64) -> Value {
    json!({"metadata": {"name": "budget", "namespace": "default"}, "spec": {"selector": selector},
        "status": {"disruptionsAllowed": allowed}})
}

#[tokio::test]
async fn a_pod_is_evicted_and_the_one_that_waits_has_its_node_when_it_is_gone() {
    let api = in_pieces();
    let running = scheduler(&api, settings(Mode::Move)).await;
    until("the eviction", || is_going(&api, "web-a")).await;
    until("the room's being kept", || api.get("pods", "big").unwrap()["status"]["nominatedNodeName"] == "a").await;
    until("what is told", || {
        api.has_event("RoomMade", "Made room on node a: moved default/web-a to b")
            && api.has_event("Moved", "Moved from node a to make room for pod default/big; node b has room for it")
    })
    .await;
    // Made anew before the other is gone.
    api.put("pods", owned("web-c", "500m", None));
    until("the other's new place", || api.node_of("web-c").as_deref() == Some("b")).await;
    assert_eq!(api.node_of("big"), None);
    api.delete("pods", "web-a");
    until("the binding", || api.node_of("big").as_deref() == Some("a")).await;
    assert_eq!(evictions(&api), ["web-a"]);
    let text = running.metrics();
    assert!(text.contains("defragmentation_moves_total{result=\"moved\"} 1"), "{text}");
    running.stop().await;
}

#[tokio::test]
async fn a_pod_that_a_budget_keeps_stays_and_its_room_is_not_kept_for_another() {
    let api = in_pieces();
    for name in ["web-a", "web-b"] {
        api.evictions.lock().unwrap().insert(name.to_owned(), Eviction::Refused);
    }
    let settings = Settings { moves_per_hour: 3, ..settings(Mode::Move) };
    let running = scheduler(&api, settings).await;
    until("refusals", || evictions(&api).len() == 3).await;
    tokio::time::sleep(LOOKS).await;
    assert_eq!(evictions(&api).len(), 3, "so many an hour, asked once each");
    let is_free = || api.get("pods", "big").unwrap()["status"]["nominatedNodeName"].is_null();
    until("the pod's waiting for no node", is_free).await;
    assert!(!is_going(&api, "web-a") && !is_going(&api, "web-b"));
    assert!(!api.has_event("RoomMade", "Made room on node a: moved default/web-a to b"));
    let text = running.metrics();
    assert!(text.contains("defragmentation_moves_total{result=\"refused\"} 3"), "{text}");
    // The room beside is for whoever comes.
    api.put("pods", pod("small", "1500m"));
    until("the binding of another", || api.node_of("small").is_some()).await;
    running.stop().await;
}

#[tokio::test]
async fn of_two_pods_the_second_need_not_go_if_the_first_has_to_stay() {
    let api = Api::new();
    for name in ["a", "b"] {
        api.put("nodes", node(name));
        for number in 0..2 {
            api.put("pods", owned(&format!("web-{name}{number}"), "500m", Some(name)));
        }
    }
    api.put("pods", pod("big", "2"));
    for name in ["web-a0", "web-a1", "web-b0", "web-b1"] {
        api.evictions.lock().unwrap().insert(name.to_owned(), Eviction::Refused);
    }
    let running = scheduler(&api, Settings { interval: Duration::from_secs(3_600), ..settings(Mode::Move) }).await;
    until("a refusal", || evictions(&api).len() == 1).await;
    until("what is counted", || running.metrics().contains("moves_total{result=\"refused\"} 2")).await;
    tokio::time::sleep(LOOKS).await;
    assert_eq!(evictions(&api).len(), 1);
    running.stop().await;
}

#[tokio::test]
async fn what_is_only_to_be_proposed_is_told_and_nobody_is_evicted() {
    let api = in_pieces();
    let running = scheduler(&api, settings(Mode::Propose)).await;
    let note = "Would fit on node a if default/web-a to b moved";
    until("the proposal", || api.has_event("MovesProposed", note)).await;
    tokio::time::sleep(LOOKS).await;
    assert_eq!(evictions(&api), [""; 0]);
    assert!(!is_going(&api, "web-a") && api.node_of("big").is_none());
    assert!(api.get("pods", "big").unwrap()["status"]["nominatedNodeName"].is_null());
    let text = running.metrics();
    assert!(text.contains("moves_total{result=\"proposed\"}") && !text.contains("result=\"moved\""), "{text}");
    running.stop().await;
}

#[tokio::test]
async fn nobody_looks_where_that_is_off_and_nobody_is_moved_who_lately_came() {
    let api = in_pieces();
    let running = scheduler(&api, settings(Mode::Off)).await;
    until("the pod's being refused", || !api.get("pods", "big").unwrap()["status"]["conditions"].is_null()).await;
    tokio::time::sleep(LOOKS).await;
    assert_eq!((looks(&api), evictions(&api).len()), (0, 0));
    running.stop().await;

    let running = scheduler(&api, Settings { cool_down: Duration::from_secs(1 << 40), ..settings(Mode::Move) }).await;
    until("some looks", || looks(&api) >= 4).await;
    assert_eq!(evictions(&api), [""; 0]);
    running.stop().await;
}

#[tokio::test]
async fn another_pod_that_took_the_name_is_not_evicted() {
    let api = in_pieces();
    api.evictions.lock().unwrap().insert("web-a".to_owned(), Eviction::Replaced);
    let running = scheduler(&api, settings(Mode::Move)).await;
    // It is what was moved, made anew: the room that it had is for the one that waits.
    until("the binding", || api.node_of("big").as_deref() == Some("a")).await;
    until("the other's binding", || api.node_of("web-a").as_deref() == Some("b")).await;
    assert_eq!(evictions(&api), ["web-a"]);
    let other = api.get("pods", "web-a").unwrap();
    assert_eq!(other["metadata"]["uid"], "another-uid-of-web-a");
    assert!(!is_going(&api, "web-a"));
    running.stop().await;
}

#[tokio::test]
async fn a_budget_with_an_empty_selector_is_about_all_pods_and_one_without_about_none() {
    let api = in_pieces();
    api.put("poddisruptionbudgets", budget(json!({}), 0));
    let running = scheduler(&api, settings(Mode::Move)).await;
    until("some looks", || looks(&api) >= 6).await;
    assert_eq!(evictions(&api), [""; 0], "none of all may go");
    api.put("poddisruptionbudgets", budget(json!({}), 1));
    until("the eviction", || is_going(&api, "web-a")).await;
    running.stop().await;

    let api = in_pieces();
    api.put("poddisruptionbudgets", budget(Value::Null, 0));
    let running = scheduler(&api, settings(Mode::Move)).await;
    until("the eviction", || is_going(&api, "web-a")).await;
    running.stop().await;
}

#[tokio::test]
async fn moves_are_dropped_that_help_no_more_when_they_are_to_begin() {
    for changes in [false, true] {
        let api = in_pieces();
        // What moves would do is looked at as things are; which pods may move is told a while later.
        let told = api.looking.lock().await;
        let running = scheduler(&api, Settings { interval: Duration::from_secs(3_600), ..settings(Mode::Move) }).await;
        until("the look", || looks(&api) > 0).await;
        if changes {
            // There is no room any more for what would have to go.
            for name in ["a", "b"] {
                let mut filler = pod(&format!("filler-{name}"), "1500m");
                filler["spec"]["nodeName"] = json!(name);
                api.put("pods", filler);
            }
        }
        let pods = if changes { 4 } else { 2 };
        let known = format!("cache_size{{type=\"pods\"}} {pods}");
        until("the change's being known", || running.metrics().contains(&known)).await;
        drop(told);
        until("the rest of the look", || looks(&api) == 2).await;
        if changes {
            tokio::time::sleep(LOOKS).await;
            assert_eq!(evictions(&api), [""; 0]);
            assert!(api.get("pods", "big").unwrap()["status"]["nominatedNodeName"].is_null());
        } else {
            until("the eviction", || evictions(&api) == ["web-a"]).await;
        }
        running.stop().await;
    }
}

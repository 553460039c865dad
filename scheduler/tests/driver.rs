#![allow(clippy::unwrap_used)]
//! The driver against a small API server in memory, with faults.

#[path = "support/server.rs"]
mod server;

use std::time::Duration;

use serde_json::{Value, json};
use server::{Api, Fault, node, pod, start, until};

#[tokio::test]
async fn pods_are_bound_and_the_one_too_many_is_told_why_and_bound_when_room_comes() {
    let api = Api::new();
    api.put("nodes", node("a"));
    for name in ["p1", "p2"] {
        api.put("pods", pod(name, "1"));
    }
    let running = start(&api).await;
    until("two bindings", || api.node_of("p1").is_some() && api.node_of("p2").is_some()).await;

    api.put("pods", pod("p3", "1"));
    let message = "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: \
                   1 No preemption victims found for incoming pod.";
    until("the condition", || {
        let condition = api.get("pods", "p3").unwrap()["status"]["conditions"][0].clone();
        condition["reason"] == "Unschedulable" && condition["status"] == "False" && condition["message"] == message
    })
    .await;
    let events = || api.objects.lock().unwrap().events.clone();
    let has = |reason: &str, note: &str| {
        events().iter().any(|event| {
            event["reason"] == reason && event["message"] == note && event["reportingComponent"] == "default-scheduler"
        })
    };
    until("the events", || {
        has("Scheduled", "Successfully assigned default/p1 to a") && has("FailedScheduling", message)
    })
    .await;

    api.delete("pods", "p1");
    until("the third binding", || api.node_of("p3").is_some()).await;
    let text = running.metrics();
    assert!(text.contains("scheduler_schedule_attempts_total{result=\"unschedulable\""), "{text}");
    assert!(text.contains("scheduler_pending_pods{queue=\"active\"} 0"), "{text}");
    running.stop().await;
}

#[tokio::test]
async fn lost_answers_refusals_and_rivals_never_over_commit() {
    let api = Api::new();
    api.put("nodes", node("a"));
    api.put("nodes", node("b"));
    let faults = [("p1", Fault::AnswerLost), ("p2", Fault::Unavailable), ("p3", Fault::BoundToB)];
    *api.faults.lock().unwrap() = faults.map(|(name, fault)| (name.to_owned(), fault)).into();
    for number in 1..=6 {
        api.put("pods", pod(&format!("p{number}"), "1"));
    }
    let running = start(&api).await;
    let bound = || (1..=6).filter_map(|number| api.node_of(&format!("p{number}"))).collect::<Vec<_>>();
    until("all room used", || bound().len() == 4).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let mut nodes = bound();
    nodes.sort();
    assert_eq!(nodes, ["a", "a", "b", "b"]);
    assert_eq!(api.node_of("p3").as_deref(), Some("b"));
    running.stop().await;
}

#[tokio::test]
async fn a_restart_accounts_what_is_there() {
    let api = Api::new();
    api.put("nodes", node("a"));
    let mut placed = pod("old", "1500m");
    placed["spec"]["nodeName"] = json!("a");
    api.put("pods", placed);
    api.put("pods", pod("big", "1"));
    api.put("pods", pod("small", "500m"));
    let running = start(&api).await;
    until("the small pod", || api.node_of("small").is_some()).await;
    assert_eq!(api.node_of("big"), None);
    running.stop().await;
    // Terminal pods give their room back, also across a restart.
    let mut ended = api.get("pods", "old").unwrap();
    ended["status"]["phase"] = json!("Succeeded");
    api.put("pods", ended);
    let running = start(&api).await;
    until("the big pod", || api.node_of("big").is_some()).await;
    running.stop().await;
}

#[tokio::test]
async fn each_gpu_is_accounted_for_also_after_a_restart() {
    let api = Api::new();
    let mut shared = node("a");
    shared["status"]["allocatable"]["nvidia.com/gpu"] = json!("2");
    shared["status"]["allocatable"]["gantry.io/gpu-milli"] = json!("2000");
    api.put("nodes", shared);
    let asking = |name: &str, resource: &str, amount: &str| {
        let mut pod = pod(name, "100m");
        pod["spec"]["containers"][0]["resources"]["requests"][resource] = json!(amount);
        pod
    };
    let given = |name: &str| api.get("pods", name).unwrap()["metadata"]["annotations"]["gantry.io/gpu-devices"].clone();
    let running = start(&api).await;
    for (name, device) in [("s1", "0"), ("s2", "1")] {
        api.put("pods", asking(name, "gantry.io/gpu-milli", "600"));
        until("a share", || api.node_of(name).is_some()).await;
        assert_eq!(given(name), device);
    }
    api.put("pods", asking("whole", "nvidia.com/gpu", "1"));
    until("the condition", || {
        let message = api.get("pods", "whole").unwrap()["status"]["conditions"][0]["message"].clone();
        message.as_str().is_some_and(|text| text.contains("1 node(s) didn't have free devices for the pod"))
    })
    .await;
    running.stop().await;

    // Only by its annotation can it be known that it is the first GPU that is free now.
    api.delete("pods", "s1");
    let running = start(&api).await;
    until("the whole GPU", || api.node_of("whole").is_some()).await;
    assert_eq!(given("whole"), "0");
    api.put("pods", asking("s3", "gantry.io/gpu-milli", "400"));
    until("the rest of the second", || api.node_of("s3").is_some()).await;
    assert_eq!(given("s3"), "1");
    running.stop().await;
}

fn with_priority(priority: i32, mut pod: Value) -> Value {
    pod["spec"]["priority"] = json!(priority);
    pod
}

#[tokio::test]
async fn a_pod_that_matters_more_takes_the_room_of_another_once_that_has_gone() {
    let api = Api::new();
    api.put("nodes", node("a"));
    api.put("nodes", node("b"));
    for (name, node, priority) in [("low", "a", 1), ("middle", "b", 5)] {
        let mut placed = with_priority(priority, pod(name, "2"));
        placed["spec"]["nodeName"] = json!(node);
        api.put("pods", placed);
    }
    let running = start(&api).await;
    api.put("pods", with_priority(10, pod("high", "1")));
    until("the pod's waiting", || api.get("pods", "high").unwrap()["status"]["nominatedNodeName"] == "a").await;
    until("the other's being asked to go", || {
        let low = api.get("pods", "low").unwrap();
        let condition = &low["status"]["conditions"][0];
        low["metadata"]["deletionTimestamp"].is_string()
            && condition["type"] == "DisruptionTarget"
            && condition["reason"] == "PreemptionByScheduler"
            && condition["message"] == "default-scheduler: preempting to accommodate a higher priority pod"
    })
    .await;
    until("the event", || {
        let events = api.objects.lock().unwrap().events.clone();
        events.iter().any(|event| {
            event["reason"] == "Preempted"
                && event["involvedObject"]["name"] == "low"
                && event["related"]["name"] == "high"
                && event["message"] == "Preempted by pod uid-of-high on node a"
        })
    })
    .await;
    assert_eq!(api.node_of("high"), None, "the room is not free yet");

    // A pod that matters less does not get the room that is left, for it is not for it.
    api.put("pods", pod("late", "1500m"));
    api.delete("pods", "low");
    until("the binding", || api.node_of("high").is_some()).await;
    assert_eq!((api.node_of("high").as_deref(), api.node_of("late")), (Some("a"), None));
    assert!(api.get("pods", "middle").unwrap()["metadata"]["deletionTimestamp"].is_null());
    let text = running.metrics();
    assert!(text.contains("scheduler_preemption_attempts_total 1"), "{text}");
    running.stop().await;
}

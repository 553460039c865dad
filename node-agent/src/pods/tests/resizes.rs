//! Pods that are to get other amounts of cpu and memory while they run.

use serde_json::{Value, json};

use super::super::config;
use super::super::resources::Amounts;
use super::harness::{Node, pod};
use crate::runtime::Usage;

fn sized(resources: Value) -> Value {
    json!({"containers": [{"name": "app", "resources": resources, "resizePolicy": [
        {"resourceName": "cpu", "restartPolicy": "NotRequired"},
        {"resourceName": "memory", "restartPolicy": "RestartContainer"},
    ]}]})
}

fn resize(node: &Node, resources: &Value) {
    node.change(|pod| {
        pod["spec"]["containers"][0]["resources"] = resources.clone();
        pod["metadata"]["generation"] = json!(pod["metadata"]["generation"].as_i64().unwrap() + 1);
    });
}

fn id(node: &Node) -> String {
    let id = node.container("app").container_id.unwrap_or_default();
    id.rsplit_once("://").map(|(_, id)| id.to_owned()).unwrap_or_default()
}

fn shown(node: &Node) -> (Value, Value) {
    let status = serde_json::to_value(node.container("app")).unwrap();
    (status["resources"].clone(), status["allocatedResources"].clone())
}

fn pending(node: &Node) -> Option<(String, String)> {
    let conditions = node.pod()?.status?.conditions?;
    let found = conditions.into_iter().find(|condition| condition.type_ == "PodResizePending")?;
    (found.status == "True").then(|| (found.reason.unwrap_or_default(), found.message.unwrap_or_default()))
}

#[tokio::test(start_paused = true)]
async fn a_container_gets_other_amounts_in_place() {
    let small = json!({"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"cpu": "200m", "memory": "64Mi"}});
    let mut node = Node::new(pod(sized(small.clone())));
    node.until(2, "runs", |node| node.condition("Ready")).await;
    let before = id(&node);
    assert_eq!(shown(&node), (small.clone(), small["requests"].clone()));
    let large = json!({"requests": {"cpu": "300m", "memory": "64Mi"}, "limits": {"cpu": "400m", "memory": "64Mi"}});
    resize(&node, &large);
    node.until(2, "resized", |node| shown(node).0 == large).await;
    assert_eq!(shown(&node).1, large["requests"]);
    assert_eq!((id(&node), node.container("app").restart_count), (before.clone(), 0));
    let given = node.runtime.given(&before).unwrap();
    assert_eq!(
        (given.cpu_quota_us, given.cpu_shares, given.memory_limit_bytes),
        (Some(40_000), Some(307), Some(64 << 20))
    );
    node.settle().await;
    assert!(!node.condition("PodResizeInProgress") && pending(&node).is_none());
    assert!(node.reasons().contains(&"ResizeCompleted".to_owned()));
    // An agent that knows nothing finds all as it should be.
    let told = node.reasons().len();
    node.start_agent();
    node.settle().await;
    assert_eq!((id(&node), node.reasons().len()), (before, told));
}

#[tokio::test(start_paused = true)]
async fn memory_that_is_in_use_is_not_taken_away() {
    let of = |memory: &str| json!({"requests": {"memory": memory}, "limits": {"memory": memory}});
    let node = Node::new(pod(json!({"containers": [{"name": "app", "resources": of("64Mi")}]})));
    node.until(2, "runs", |node| node.condition("Ready")).await;
    let before = id(&node);
    let uid = node.pod().unwrap().metadata.uid.unwrap();
    let cgroup = config::cgroup_parent(&node.context.settings.cgroup_root, &uid);
    let uses = |bytes| Usage { memory_bytes: bytes, ..Usage::default() };
    node.runtime.set_usage(&cgroup, uses(40 << 20));
    resize(&node, &of("32Mi"));
    node.until(2, "held up", |node| node.reasons().contains(&"ResizeError".to_owned())).await;
    let told = node.pod().unwrap().status.unwrap().conditions.unwrap();
    let progress = told.iter().find(|condition| condition.type_ == "PodResizeInProgress").unwrap();
    assert_eq!(progress.reason.as_deref(), Some("Error"));
    assert_eq!(
        progress.message.as_deref(),
        Some(
            "cannot decrease memory limits: attempting to set pod memory limit (33554432) below current usage (41943040)"
        )
    );
    assert!(node.runtime.given(&before).is_none());
    // The program gives some back.
    node.runtime.set_usage(&cgroup, uses(20 << 20));
    node.until(120, "resized", |node| shown(node).0 == of("32Mi")).await;
    assert_eq!(node.runtime.given(&before).unwrap().memory_limit_bytes, Some(32 << 20));
    node.until(2, "settled", |node| !node.condition("PodResizeInProgress")).await;
}

#[tokio::test(start_paused = true)]
async fn a_container_is_restarted_where_it_asks_for_that() {
    let of = |memory: &str| json!({"requests": {"memory": memory}, "limits": {"memory": memory, "cpu": "1"}});
    let node = Node::new(pod(sized(of("64Mi"))));
    node.until(2, "runs", |node| node.condition("Ready")).await;
    let before = id(&node);
    resize(&node, &of("128Mi"));
    node.until(5, "restarted", |node| node.container("app").restart_count == 1 && node.condition("Ready")).await;
    assert!(id(&node) != before && node.runtime.given(&before).is_none());
    node.until(2, "reported", |node| shown(node).0 == of("128Mi")).await;
}

#[tokio::test(start_paused = true)]
async fn what_the_node_cannot_give_is_told_and_waited_for() {
    let of = |cpu: &str| json!({"requests": {"cpu": cpu}});
    let node = Node::of_size(pod(sized(of("100m"))), Amounts::from([("cpu".into(), 1000)]));
    node.context.ledger.put("other", Amounts::from([("cpu".into(), 600)]));
    node.until(2, "runs", |node| node.condition("Ready")).await;
    let before = id(&node);
    resize(&node, &of("2"));
    node.until(2, "infeasible", |node| pending(node).is_some_and(|(reason, _)| reason == "Infeasible")).await;
    assert_eq!(pending(&node).unwrap().1, "Node didn't have enough capacity: cpu, requested: 2000, capacity: 1000");
    resize(&node, &of("500m"));
    node.until(2, "deferred", |node| pending(node).is_some_and(|(reason, _)| reason == "Deferred")).await;
    assert_eq!(shown(&node), (of("100m"), json!({"cpu": "100m"})));
    node.context.ledger.release("other");
    node.until(2, "resized", |node| shown(node) == (of("500m"), json!({"cpu": "500m"}))).await;
    assert_eq!(id(&node), before);
    node.until(2, "settled", |node| pending(node).is_none()).await;
    assert_eq!(node.context.ledger.used()["cpu"], 500);
}

//! What a worker does, seen from the API and from the runtime.

use serde_json::json;

use super::super::Order;
use super::harness::{Node, UID, pod};
use crate::runtime::simulated::Happening;

#[tokio::test(start_paused = true)]
async fn a_pod_is_started_reported_and_deleted() {
    let node = Node::new(pod(json!({"containers": [{"name": "app"}]})));
    node.until(2, "runs", |node| node.phase() == "Running").await;
    assert!(node.condition("Ready") && node.condition("PodReadyToStartContainers"));
    let app = node.container("app");
    assert!(app.ready && app.started == Some(true) && app.container_id.unwrap().starts_with("simulated://"));
    let status = node.pod().unwrap().status.unwrap();
    assert_eq!(status.host_ip.as_deref(), Some("192.168.0.1"));
    assert!(status.pod_ip.is_some());
    node.settle().await;
    assert_eq!(node.reasons(), ["Pulled", "Created", "Started"]);
    let patches = node.api.lock().unwrap().patches;
    assert!(patches <= 3, "{patches} patches for one start");

    node.delete(30);
    node.until(5, "deleted", |node| node.pod().is_none()).await;
    node.until(5, "forgotten", |node| node.runtime.is_empty()).await;
    assert!(node.reasons().contains(&"Killing".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn init_containers_and_sidecars_start_in_order() {
    let node = Node::new(pod(json!({
        "initContainers": [{"name": "one"}, {"name": "side", "restartPolicy": "Always"}, {"name": "two"}],
        "containers": [{"name": "app"}],
    })));
    node.until(2, "first init container", |node| node.runs() == ["one"]).await;
    node.settle().await;
    assert_eq!(node.waits("app"), "PodInitializing");
    assert_eq!(node.phase(), "Pending");
    node.runtime.end(UID, "one", 0);
    node.until(2, "sidecar and second", |node| node.runs() == ["side", "two"]).await;
    node.runtime.end(UID, "two", 0);
    node.until(2, "app", |node| node.runs() == ["side", "app"] && node.condition("Ready")).await;
    node.runtime.end(UID, "side", 1);
    node.until(2, "sidecar again", |node| node.runs() == ["app", "side"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_must_not_have_the_nodes_users_does_not_run_with_them() {
    let node = Node::new(pod(json!({"hostUsers": false, "containers": [{"name": "app"}]})));
    let told = "FailedCreatePodSandBox".to_owned();
    node.until(5, "told of", |node| node.reasons().contains(&told)).await;
    assert!(node.runtime.is_empty() && node.phase() == "Pending");
    let node = Node::new(pod(json!({"hostUsers": true, "containers": [{"name": "app"}]})));
    node.until(2, "runs", |node| node.phase() == "Running").await;
}

#[tokio::test(start_paused = true)]
async fn a_failing_init_container_fails_a_pod_that_never_restarts() {
    let node = Node::new(pod(json!({
        "restartPolicy": "Never",
        "initContainers": [{"name": "one"}],
        "containers": [{"name": "app"}],
    })));
    node.until(2, "init", |node| node.runs() == ["one"]).await;
    node.runtime.end(UID, "one", 3);
    node.until(2, "failed", |node| node.phase() == "Failed").await;
    assert!(node.runs().is_empty());
}

#[tokio::test(start_paused = true)]
async fn crashes_back_off_as_kubernetes_does() {
    let node = Node::new(pod(json!({"containers": [{"name": "app"}]})));
    node.until(2, "runs", |node| node.phase() == "Running").await;
    // The first restart is at once, then 10, 20, 40 seconds.
    node.runtime.end(UID, "app", 1);
    node.until(2, "first restart", |node| node.runs() == ["app"] && node.container("app").restart_count == 1).await;
    for (restarts, seconds) in [(2, 10), (3, 20), (4, 40)] {
        node.runtime.end(UID, "app", 1);
        node.until(2, "backs off", |node| node.waits("app") == "CrashLoopBackOff").await;
        assert!(!node.condition("Ready"));
        assert_eq!(node.container("app").last_state.unwrap().terminated.unwrap().exit_code, 1);
        node.until(seconds + 2, "restarts", |node| node.runs() == ["app"]).await;
        node.until(2, "reported", |node| node.container("app").restart_count == restarts).await;
    }
    assert!(node.reasons().contains(&"BackOff".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_job_like_pod_succeeds() {
    let node = Node::new(pod(json!({"restartPolicy": "OnFailure", "containers": [{"name": "a"}, {"name": "b"}]})));
    node.until(2, "runs", |node| node.runs() == ["a", "b"]).await;
    node.runtime.end(UID, "a", 0);
    node.runtime.end(UID, "b", 1);
    node.until(2, "b again, a not", |node| node.runs() == ["b"]).await;
    node.runtime.end(UID, "b", 0);
    node.until(2, "succeeded", |node| node.phase() == "Succeeded").await;
    let reason = node.container("a").state.unwrap().terminated.unwrap().reason;
    assert_eq!(reason.as_deref(), Some("Completed"));
}

#[tokio::test(start_paused = true)]
async fn a_missing_image_is_reported_and_tried_again() {
    let node = Node::new(pod(json!({"containers": [{"name": "app", "image": "gantry.local/none:1"}]})));
    node.until(2, "error", |node| node.waits("app") == "ErrImagePull").await;
    node.until(5, "back-off", |node| node.waits("app") == "ImagePullBackOff").await;
    node.runtime.add_image("gantry.local/none:1");
    node.until(25, "runs", |node| node.phase() == "Running").await;
    let never = Node::new(pod(json!({"containers": [{"name": "app", "image": "x:1", "imagePullPolicy": "Never"}]})));
    never.until(2, "never", |node| node.waits("app") == "ErrImageNeverPull").await;
}

#[tokio::test(start_paused = true)]
async fn a_missing_config_map_holds_the_container_until_it_is_there() {
    let node = Node::new(pod(json!({"containers": [{"name": "app",
        "env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "a"}}}]}]})));
    node.until(2, "held", |node| node.waits("app") == "CreateContainerConfigError").await;
    let message = node.container("app").state.unwrap().waiting.unwrap().message.unwrap();
    assert_eq!(message, "configmap \"cm\" not found");
    node.api.lock().unwrap().config_maps.push(json!({"metadata": {"name": "cm"}, "data": {"a": "1"}}));
    node.until(15, "runs", |node| node.phase() == "Running").await;
}

#[tokio::test(start_paused = true)]
async fn a_restarted_agent_touches_nothing() {
    let mut node = Node::new(pod(json!({
        "initContainers": [{"name": "one"}],
        "containers": [{"name": "a"}, {"name": "b"}],
    })));
    node.until(2, "init", |node| node.runs() == ["one"]).await;
    node.runtime.end(UID, "one", 0);
    node.until(2, "runs", |node| node.condition("Ready")).await;
    let before = node.runtime.happenings();
    for _ in 0..3 {
        node.start_agent();
        node.settle().await;
    }
    assert_eq!(node.runtime.happenings(), before);
    assert!(node.condition("Ready"));
    node.runtime.end(UID, "a", 1);
    node.until(2, "restarted", |node| node.container("a").restart_count == 1 && node.runs() == ["b", "a"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_lost_sandbox_is_made_anew_with_all_in_it() {
    let node = Node::new(pod(json!({"initContainers": [{"name": "one"}], "containers": [{"name": "app"}]})));
    node.until(2, "init", |node| node.runs() == ["one"]).await;
    node.runtime.end(UID, "one", 0);
    node.until(2, "runs", |node| node.condition("Ready")).await;
    node.runtime.lose_sandbox(UID);
    node.until(2, "init again", |node| node.runs() == ["one"]).await;
    node.runtime.end(UID, "one", 0);
    node.until(2, "app again", |node| node.runs() == ["app"] && node.condition("Ready")).await;
    assert_eq!(node.container("app").restart_count, 1);
    assert!(node.reasons().contains(&"SandboxChanged".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_pod_past_its_deadline_fails() {
    let node = Node::new(pod(json!({"activeDeadlineSeconds": 30, "containers": [{"name": "app"}]})));
    node.until(2, "runs", |node| node.phase() == "Running").await;
    node.until(40, "fails", |node| node.phase() == "Failed").await;
    let status = node.pod().unwrap().status.unwrap();
    assert_eq!(status.reason.as_deref(), Some("DeadlineExceeded"));
    assert!(node.runs().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_new_image_restarts_only_its_container() {
    let node = Node::new(pod(json!({"containers": [{"name": "a"}, {"name": "b"}]})));
    node.until(2, "runs", |node| node.condition("Ready")).await;
    node.runtime.add_image("gantry.local/app:2");
    node.change(|pod| {
        pod["metadata"]["generation"] = json!(2);
        pod["spec"]["containers"][0]["image"] = json!("gantry.local/app:2");
    });
    node.until(5, "a anew", |node| node.container("a").image == "gantry.local/app:2" && node.condition("Ready")).await;
    let starts = |name: &str| {
        let all = node.runtime.happenings();
        all.iter().filter(|happening| matches!(happening, Happening::Started { name: n, .. } if n == name)).count()
    };
    assert_eq!((starts("a"), starts("b")), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn a_failing_liveness_probe_restarts_and_readiness_follows_its_probe() {
    // Nothing listens on the address that the simulation gives out, and port 1 of the loopback refuses.
    let probe = |port: u16| json!({"tcpSocket": {"host": "127.0.0.1", "port": port}, "periodSeconds": 1, "failureThreshold": 2});
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let node = Node::new(pod(json!({"containers": [
        {"name": "good", "readinessProbe": probe(port)},
        {"name": "bad", "livenessProbe": probe(1)},
    ]})));
    node.until(10, "ready by its probe", |node| node.container("good").ready).await;
    node.until(20, "restarted by its probe", |node| node.container("bad").restart_count > 0).await;
    assert!(node.reasons().contains(&"Unhealthy".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_the_node_sends_away_ends_soon_and_says_why() {
    let mut node = Node::new(pod(json!({"terminationGracePeriodSeconds": 600, "containers": [
        {"name": "app", "lifecycle": {"preStop": {"sleep": {"seconds": 500}}}}]})));
    node.until(2, "runs", |node| node.phase() == "Running").await;
    let order = Order { reason: "Evicted".into(), message: "The node was low.".into(), grace_s: 1, disrupts: true };
    node.order(order);
    node.until(10, "ended", |node| node.phase() == "Failed" && node.runs().is_empty()).await;
    let status = node.pod().unwrap().status.unwrap();
    assert_eq!((status.reason.as_deref(), status.message.as_deref()), (Some("Evicted"), Some("The node was low.")));
    assert!(node.condition("DisruptionTarget") && !node.condition("Ready"));
    // It stays so, also for an agent that does not remember.
    node.start_agent();
    node.settle().await;
    let status = node.pod().unwrap().status.unwrap();
    assert_eq!(status.reason.as_deref(), Some("Evicted"));
    assert!(node.runs().is_empty());
}

#![allow(clippy::unwrap_used)]
//! The driver against a small API server in memory, with faults.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, patch, post};
use axum::{Json, Router};
use gantry_scheduler::config::Configuration;
use gantry_scheduler::driver::queue::Delays;
use gantry_scheduler::{Metrics, Options, run};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

#[derive(Default)]
struct Objects {
    revision: u64,
    objects: BTreeMap<(&'static str, String), Value>,
    log: Vec<(u64, &'static str, Value)>,
    events: Vec<Value>,
    bindings: usize,
}

/// What goes wrong with the bindings of one pod.
#[derive(Clone, Copy, PartialEq)]
enum Fault {
    /// The binding is made, the answer is an error.
    AnswerLost,
    /// The server is unwell and does nothing.
    Unavailable,
    /// Another scheduler was faster.
    BoundToB,
}

#[derive(Clone)]
struct Api {
    objects: Arc<Mutex<Objects>>,
    changed: Arc<watch::Sender<u64>>,
    faults: Arc<Mutex<BTreeMap<String, Fault>>>,
}

impl Api {
    fn new() -> Self {
        Api { objects: Arc::default(), changed: Arc::new(watch::Sender::new(0)), faults: Arc::default() }
    }

    fn put(&self, kind: &'static str, mut object: Value) {
        let mut objects = self.objects.lock().unwrap();
        objects.revision += 1;
        let revision = objects.revision;
        object["metadata"]["resourceVersion"] = json!(revision.to_string());
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        let type_ = if objects.objects.contains_key(&(kind, name.clone())) { "MODIFIED" } else { "ADDED" };
        objects.objects.insert((kind, name), object.clone());
        objects.log.push((revision, kind, json!({"type": type_, "object": object})));
        self.changed.send_replace(revision);
    }

    fn delete(&self, kind: &'static str, name: &str) {
        let mut objects = self.objects.lock().unwrap();
        objects.revision += 1;
        let revision = objects.revision;
        let mut object = objects.objects.remove(&(kind, name.to_owned())).unwrap();
        object["metadata"]["resourceVersion"] = json!(revision.to_string());
        objects.log.push((revision, kind, json!({"type": "DELETED", "object": object})));
        self.changed.send_replace(revision);
    }

    fn get(&self, kind: &'static str, name: &str) -> Option<Value> {
        self.objects.lock().unwrap().objects.get(&(kind, name.to_owned())).cloned()
    }

    fn node_of(&self, pod: &str) -> Option<String> {
        Some(self.get("pods", pod)?["spec"]["nodeName"].as_str()?.to_owned())
    }

    fn router(&self) -> Router {
        Router::new()
            .route("/api/v1/pods", get(|api, query| list(api, query, "pods")))
            .route("/api/v1/nodes", get(|api, query| list(api, query, "nodes")))
            .route("/api/v1/namespaces", get(|api, query| list(api, query, "namespaces")))
            .route("/apis/policy/v1/poddisruptionbudgets", get(|api, query| list(api, query, "poddisruptionbudgets")))
            .route("/api/v1/persistentvolumes", get(|api, query| list(api, query, "persistentvolumes")))
            .route("/api/v1/persistentvolumeclaims", get(|api, query| list(api, query, "persistentvolumeclaims")))
            .route("/apis/storage.k8s.io/v1/storageclasses", get(|api, query| list(api, query, "storageclasses")))
            .route("/apis/storage.k8s.io/v1/csinodes", get(|api, query| list(api, query, "csinodes")))
            .route("/apis/storage.k8s.io/v1/csidrivers", get(|api, query| list(api, query, "csidrivers")))
            .route(
                "/apis/storage.k8s.io/v1/csistoragecapacities",
                get(|api, query| list(api, query, "csistoragecapacities")),
            )
            .route("/api/v1/services", get(|api, query| list(api, query, "services")))
            .route("/api/v1/replicationcontrollers", get(|api, query| list(api, query, "replicationcontrollers")))
            .route("/apis/apps/v1/replicasets", get(|api, query| list(api, query, "replicasets")))
            .route("/apis/apps/v1/statefulsets", get(|api, query| list(api, query, "statefulsets")))
            .route("/api/v1/namespaces/default/pods/{name}", get(get_pod).delete(delete_pod))
            .route("/api/v1/namespaces/default/pods/{name}/binding", post(bind))
            .route("/api/v1/namespaces/default/pods/{name}/status", patch(patch_status))
            .route("/api/v1/namespaces/default/events", post(create_event))
            .with_state(self.clone())
    }
}

fn failure(code: u16, reason: &str) -> Response {
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason,
        "message": reason});
    (StatusCode::from_u16(code).unwrap(), Json(status)).into_response()
}

async fn list(State(api): State<Api>, Query(query): Query<BTreeMap<String, String>>, kind: &'static str) -> Response {
    if !query.contains_key("watch") {
        let objects = api.objects.lock().unwrap();
        let items: Vec<_> =
            objects.objects.iter().filter(|((of, _), _)| *of == kind).map(|(_, object)| object.clone()).collect();
        let kind = match kind {
            "pods" => "PodList",
            "nodes" => "NodeList",
            "poddisruptionbudgets" => "PodDisruptionBudgetList",
            "persistentvolumes" => "PersistentVolumeList",
            "persistentvolumeclaims" => "PersistentVolumeClaimList",
            "storageclasses" => "StorageClassList",
            "csinodes" => "CSINodeList",
            "csidrivers" => "CSIDriverList",
            "csistoragecapacities" => "CSIStorageCapacityList",
            "services" => "ServiceList",
            "replicationcontrollers" => "ReplicationControllerList",
            "replicasets" => "ReplicaSetList",
            "statefulsets" => "StatefulSetList",
            _ => "NamespaceList",
        };
        return Json(json!({"kind": kind, "apiVersion": "v1", "items": items,
            "metadata": {"resourceVersion": objects.revision.to_string()}}))
        .into_response();
    }
    let since: u64 = query["resourceVersion"].parse().unwrap();
    let stream = futures::stream::unfold((api.changed.subscribe(), since), move |(mut changed, seen)| {
        let api = api.clone();
        async move {
            loop {
                let revision = *changed.borrow_and_update();
                if revision > seen {
                    let objects = api.objects.lock().unwrap();
                    let news = objects.log.iter().filter(|(at, of, _)| *at > seen && *at <= revision && *of == kind);
                    let lines: String = news.map(|(_, _, event)| format!("{event}\n")).collect();
                    return Some((Ok::<_, std::io::Error>(Bytes::from(lines)), (changed.clone(), revision)));
                }
                changed.changed().await.ok()?;
            }
        }
    });
    Body::from_stream(stream).into_response()
}

async fn get_pod(State(api): State<Api>, Path(name): Path<String>) -> Response {
    api.get("pods", &name).map_or_else(|| failure(404, "NotFound"), |pod| Json(pod).into_response())
}

async fn bind(State(api): State<Api>, Path(name): Path<String>, Json(binding): Json<Value>) -> Response {
    api.objects.lock().unwrap().bindings += 1;
    let fault = api.faults.lock().unwrap().remove(&name);
    if fault == Some(Fault::Unavailable) {
        return failure(503, "ServiceUnavailable");
    }
    let Some(mut pod) = api.get("pods", &name) else { return failure(404, "NotFound") };
    if pod["spec"]["nodeName"].is_string() || pod["metadata"]["uid"] != binding["metadata"]["uid"] {
        return failure(409, "Conflict");
    }
    pod["spec"]["nodeName"] = match fault {
        Some(Fault::BoundToB) => json!("b"),
        _ => binding["target"]["name"].clone(),
    };
    for (key, value) in binding["metadata"]["annotations"].as_object().into_iter().flatten() {
        pod["metadata"]["annotations"][key] = value.clone();
    }
    api.put("pods", pod);
    match fault {
        Some(Fault::AnswerLost) => failure(500, "InternalError"),
        Some(Fault::BoundToB) => failure(409, "Conflict"),
        _ => (StatusCode::CREATED, Json(json!({"kind": "Status", "status": "Success"}))).into_response(),
    }
}

async fn patch_status(State(api): State<Api>, Path(name): Path<String>, Json(body): Json<Value>) -> Response {
    let Some(mut pod) = api.get("pods", &name) else { return failure(404, "NotFound") };
    for field in ["resourceVersion", "uid"] {
        let wanted = &body["metadata"][field];
        if !wanted.is_null() && pod["metadata"][field] != *wanted {
            return failure(409, "Conflict");
        }
    }
    for (field, value) in body["status"].as_object().unwrap() {
        pod["status"][field] = value.clone();
    }
    api.put("pods", pod.clone());
    Json(pod).into_response()
}

/// A pod is asked to go; the test says when it is gone.
async fn delete_pod(State(api): State<Api>, Path(name): Path<String>, body: Bytes) -> Response {
    let options: Value = serde_json::from_slice(&body).unwrap();
    let Some(mut pod) = api.get("pods", &name) else { return failure(404, "NotFound") };
    if pod["metadata"]["uid"] != options["preconditions"]["uid"] {
        return failure(409, "Conflict");
    }
    pod["metadata"]["deletionTimestamp"] = json!("2026-01-02T03:04:05Z");
    api.put("pods", pod.clone());
    Json(pod).into_response()
}

async fn create_event(State(api): State<Api>, Json(event): Json<Value>) -> Response {
    api.objects.lock().unwrap().events.push(event.clone());
    (StatusCode::CREATED, Json(event)).into_response()
}

fn node(name: &str) -> Value {
    json!({"metadata": {"name": name}, "status": {"allocatable": {"cpu": "2", "memory": "4Gi", "pods": "10"}}})
}

fn pod(name: &str, cpu: &str) -> Value {
    json!({"metadata": {"name": name, "namespace": "default", "uid": format!("uid-of-{name}")},
        "spec": {"schedulerName": "default-scheduler",
            "containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}})
}

struct Running {
    shutdown: CancellationToken,
    task: tokio::task::JoinHandle<Result<(), gantry_scheduler::Error>>,
    registry: prometheus_client::registry::Registry,
}

async fn start(api: &Api) -> Running {
    let mut registry = prometheus_client::registry::Registry::default();
    let metrics = Metrics::new(&mut registry);
    let client = kube::Client::new(api.router(), "default");
    let shutdown = CancellationToken::new();
    let (ready, is_ready) = tokio::sync::oneshot::channel();
    let delays = Delays {
        backoff_initial: Duration::from_millis(20),
        backoff_max: Duration::from_millis(100),
        ..Delays::default()
    };
    let options = Options { configuration: Configuration { delays, ..Configuration::default() }, ..Options::default() };
    let announce = move || ready.send(()).unwrap();
    let task = tokio::spawn(run(client, options, metrics, announce, shutdown.clone()));
    is_ready.await.unwrap();
    Running { shutdown, task, registry }
}

impl Running {
    async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.unwrap().unwrap();
    }
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(20), "waited too long for: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

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
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &running.registry).unwrap();
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
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &running.registry).unwrap();
    assert!(text.contains("scheduler_preemption_attempts_total 1"), "{text}");
    running.stop().await;
}

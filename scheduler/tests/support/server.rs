//! A small API server in memory, with faults, and the scheduler as it runs against it.
#![allow(dead_code)] // Each test uses a part of it.

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
pub struct Objects {
    pub revision: u64,
    pub objects: BTreeMap<(&'static str, String), Value>,
    pub log: Vec<(u64, &'static str, Value)>,
    pub events: Vec<Value>,
    pub bindings: usize,
    /// The pods that were asked to be evicted, in order.
    pub evictions: Vec<String>,
    /// The nodes of which the pods were asked for, in order.
    pub looks: Vec<String>,
}

/// What goes wrong with the bindings of one pod.
#[derive(Clone, Copy, PartialEq)]
pub enum Fault {
    /// The binding is made, the answer is an error.
    AnswerLost,
    /// The server is unwell and does nothing.
    Unavailable,
    /// Another scheduler was faster.
    BoundToB,
}

/// What becomes of evictions of one pod.
#[derive(Clone, Copy, PartialEq)]
pub enum Eviction {
    /// A disruption budget does not allow it.
    Refused,
    /// Before it comes, the pod is another one of the same name.
    Replaced,
}

#[derive(Clone)]
pub struct Api {
    pub evictions: Arc<Mutex<BTreeMap<String, Eviction>>>,
    /// While it is taken, nobody is told which pods a node has.
    pub looking: Arc<tokio::sync::Mutex<()>>,
    pub objects: Arc<Mutex<Objects>>,
    pub changed: Arc<watch::Sender<u64>>,
    pub faults: Arc<Mutex<BTreeMap<String, Fault>>>,
}

impl Api {
    pub fn new() -> Self {
        Api {
            evictions: Arc::default(),
            looking: Arc::default(),
            objects: Arc::default(),
            changed: Arc::new(watch::Sender::new(0)),
            faults: Arc::default(),
        }
    }

    pub fn put(&self, kind: &'static str, mut object: Value) {
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

    pub fn delete(&self, kind: &'static str, name: &str) {
        let mut objects = self.objects.lock().unwrap();
        objects.revision += 1;
        let revision = objects.revision;
        let mut object = objects.objects.remove(&(kind, name.to_owned())).unwrap();
        object["metadata"]["resourceVersion"] = json!(revision.to_string());
        objects.log.push((revision, kind, json!({"type": "DELETED", "object": object})));
        self.changed.send_replace(revision);
    }

    pub fn get(&self, kind: &'static str, name: &str) -> Option<Value> {
        self.objects.lock().unwrap().objects.get(&(kind, name.to_owned())).cloned()
    }

    pub fn node_of(&self, pod: &str) -> Option<String> {
        Some(self.get("pods", pod)?["spec"]["nodeName"].as_str()?.to_owned())
    }

    /// Was such an event recorded?
    pub fn has_event(&self, reason: &str, note: &str) -> bool {
        let objects = self.objects.lock().unwrap();
        objects.events.iter().any(|event| event["reason"] == reason && event["message"] == note)
    }

    pub fn router(&self) -> Router {
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
            .route("/api/v1/namespaces/default/pods/{name}/eviction", post(evict))
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
        let node = query.get("fieldSelector").and_then(|selector| selector.strip_prefix("spec.nodeName="));
        if let Some(node) = node {
            api.objects.lock().unwrap().looks.push(node.to_owned());
            drop(api.looking.lock().await);
        }
        let objects = api.objects.lock().unwrap();
        let is_there = |object: &Value| node.is_none_or(|node| object["spec"]["nodeName"] == *node);
        let of_kind = objects.objects.iter().filter(|((of, _), object)| *of == kind && is_there(object));
        let items: Vec<_> = of_kind.map(|(_, object)| object.clone()).collect();
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

/// The same, if nothing stands against it.
async fn evict(State(api): State<Api>, Path(name): Path<String>, Json(eviction): Json<Value>) -> Response {
    api.objects.lock().unwrap().evictions.push(name.clone());
    let fate = api.evictions.lock().unwrap().get(&name).copied();
    if fate == Some(Eviction::Refused) {
        return failure(429, "TooManyRequests");
    }
    let Some(mut pod) = api.get("pods", &name) else { return failure(404, "NotFound") };
    if fate == Some(Eviction::Replaced) {
        api.delete("pods", &name);
        pod["metadata"]["uid"] = json!(format!("another-uid-of-{name}"));
        pod["spec"].as_object_mut().unwrap().remove("nodeName");
        api.put("pods", pod.clone());
    }
    if pod["metadata"]["uid"] != eviction["deleteOptions"]["preconditions"]["uid"] {
        return failure(409, "Conflict");
    }
    pod["metadata"]["deletionTimestamp"] = json!("2026-01-02T03:04:05Z");
    api.put("pods", pod);
    (StatusCode::CREATED, Json(json!({"kind": "Status", "status": "Success"}))).into_response()
}

async fn create_event(State(api): State<Api>, Json(event): Json<Value>) -> Response {
    api.objects.lock().unwrap().events.push(event.clone());
    (StatusCode::CREATED, Json(event)).into_response()
}

pub fn node(name: &str) -> Value {
    json!({"metadata": {"name": name}, "status": {"allocatable": {"cpu": "2", "memory": "4Gi", "pods": "10"}}})
}

pub fn pod(name: &str, cpu: &str) -> Value {
    json!({"metadata": {"name": name, "namespace": "default", "uid": format!("uid-of-{name}")},
        "spec": {"schedulerName": "default-scheduler",
            "containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}})
}

pub struct Running {
    shutdown: CancellationToken,
    task: tokio::task::JoinHandle<Result<(), gantry_scheduler::Error>>,
    pub registry: prometheus_client::registry::Registry,
}

pub async fn start(api: &Api) -> Running {
    start_with(api, Configuration::default()).await
}

pub async fn start_with(api: &Api, configuration: Configuration) -> Running {
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
    let options = Options { configuration: Configuration { delays, ..configuration }, ..Options::default() };
    let announce = move || ready.send(()).unwrap();
    let task = tokio::spawn(run(client, options, metrics, announce, shutdown.clone()));
    is_ready.await.unwrap();
    Running { shutdown, task, registry }
}

impl Running {
    /// What the scheduler counts.
    pub fn metrics(&self) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        text
    }

    pub async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.unwrap().unwrap();
    }
}

pub async fn until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(20), "waited too long for: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

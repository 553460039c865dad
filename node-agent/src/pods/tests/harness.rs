//! A node with a simulated runtime, an API that keeps one pod, and the worker between them.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, Service};
use kube::Client;
use kube::client::Body;
use kube::runtime::reflector;
use serde_json::{Value, json};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::super::config::NodeSettings;
use super::super::context::Context;
use super::super::events::Recorder;
use super::super::resources::Amounts;
use super::super::verification::Verification;
use super::super::worker::{Inbox, Wanted, Worker};
use super::super::{Images, Objects, Order, PodDirectory, Tokens};
use crate::checkpoint::Checkpoint;
use crate::runtime::simulated::Simulated;
use crate::runtime::{DnsConfig, Runtime, RuntimeEvent};
use crate::{Metrics, Paths};

pub const UID: &str = "6f0c1a52-1111-4222-8333-944445555666";
pub const IMAGE: &str = "gantry.local/app:1";

/// What the API has and was told.
#[derive(Default)]
pub struct Api {
    /// The pod; none once it is deleted.
    pub pod: Option<Value>,
    /// ConfigMaps by name.
    pub config_maps: Vec<Value>,
    /// Events as (reason, message).
    pub events: Vec<(String, String)>,
    /// Status patches.
    pub patches: u64,
    version: u64,
}

pub struct Node {
    pub api: Arc<Mutex<Api>>,
    pub runtime: Arc<Simulated>,
    pub context: Arc<Context>,
    wanted: watch::Sender<Wanted>,
    changed: Arc<Notify>,
    order: watch::Sender<Option<Order>>,
    stop: CancellationToken,
    worker: Option<JoinHandle<()>>,
    _dir: tempfile::TempDir,
    _services: reflector::store::Writer<Service>,
}

pub fn pod(spec: Value) -> Pod {
    let mut pod = json!({
        "metadata": {"name": "web", "namespace": "default", "uid": UID, "generation": 1, "resourceVersion": "1"},
        "spec": spec,
        "status": {"phase": "Pending"},
    });
    for list in ["containers", "initContainers"] {
        for container in pod["spec"][list].as_array_mut().into_iter().flatten() {
            if container["image"].is_null() {
                container["image"] = json!(IMAGE);
            }
        }
    }
    serde_json::from_value(pod).unwrap()
}

fn merge(into: &mut Value, patch: &Value) {
    match (into, patch) {
        (Value::Object(into), Value::Object(patch)) => {
            for (key, value) in patch {
                if value.is_null() {
                    into.remove(key);
                } else {
                    merge(into.entry(key.clone()).or_insert(Value::Null), value);
                }
            }
        }
        (into, patch) => *into = patch.clone(),
    }
}

fn answer(api: &Mutex<Api>, method: &Method, path: &str, body: &Value) -> (StatusCode, Value) {
    let mut api = api.lock().unwrap();
    let not_found = || {
        let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404, "reason": "NotFound", "message": "not found"});
        (StatusCode::NOT_FOUND, status)
    };
    if path.ends_with("/events") {
        let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
        let event = (text("reason"), text("message"));
        api.events.push(event);
        return (StatusCode::CREATED, body.clone());
    }
    if path.contains("/events/") {
        return (StatusCode::OK, json!({"metadata": {}, "involvedObject": {}}));
    }
    if let Some(name) = path.split("/configmaps/").nth(1) {
        let found = api.config_maps.iter().find(|map| map["metadata"]["name"] == name);
        return found.map_or_else(not_found, |map| (StatusCode::OK, map.clone()));
    }
    if api.pod.is_none() {
        return not_found();
    }
    api.version += 1;
    let version = (api.version + 1).to_string();
    match *method {
        Method::DELETE => {
            assert_eq!(body["preconditions"]["uid"], UID, "deletes only its own pod");
            let pod = api.pod.take().unwrap();
            (StatusCode::OK, pod)
        }
        Method::PATCH => {
            api.patches += 1;
            let pod = api.pod.as_mut().unwrap();
            assert_eq!(body["metadata"]["uid"], UID);
            merge(pod, body);
            pod["metadata"]["resourceVersion"] = json!(version);
            (StatusCode::OK, pod.clone())
        }
        _ => panic!("unexpected request {method} {path}"),
    }
}

fn client(api: Arc<Mutex<Api>>) -> Client {
    let service = tower::service_fn(move |request: Request<Body>| {
        let api = api.clone();
        async move {
            let (parts, body) = request.into_parts();
            let bytes = body.collect().await.unwrap().to_bytes();
            let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
            let (code, value) = answer(&api, &parts.method, parts.uri.path(), &body);
            let response = Response::builder().status(code).header("content-type", "application/json");
            Ok::<_, Infallible>(response.body(Full::new(Bytes::from(value.to_string()))).unwrap())
        }
    });
    Client::new(service, "default")
}

impl Node {
    /// A node whose API has this pod, and its worker.
    pub fn new(pod: Pod) -> Self {
        Self::of_size(pod, Amounts::new())
    }

    /// The same for a node of which pods may have so much.
    pub fn of_size(pod: Pod, allocatable: Amounts) -> Self {
        let api = Arc::new(Mutex::new(Api { pod: Some(serde_json::to_value(&pod).unwrap()), ..Api::default() }));
        let runtime = Arc::new(Simulated::default());
        runtime.add_image(IMAGE);
        let dir = tempfile::tempdir().unwrap();
        let client = client(api.clone());
        let stop = CancellationToken::new();
        let (events, writer) = Recorder::new(client.clone(), "node".into(), stop.clone());
        tokio::spawn(writer);
        let (services, keeper) = reflector::store();
        let context = Arc::new(Context {
            client: client.clone(),
            runtime: runtime.clone(),
            paths: Paths::new(dir.path()),
            node_name: "node".into(),
            host_ips: vec!["192.168.0.1".parse().unwrap()],
            settings: NodeSettings {
                cgroup_root: "/gantry".into(),
                cluster_dns: Vec::new(),
                cluster_domain: "cluster.local".into(),
                resolvers: DnsConfig::default(),
                machine_memory: 1 << 32,
                app_armor: false,
            },
            allocatable,
            ledger: Default::default(),
            checkpoint: Checkpoint::none(),
            objects: Objects::new(client, Checkpoint::none()),
            services,
            node: watch::channel(None).1,
            events,
            directory: PodDirectory::default(),
            images: Images::open(dir.path().join("image_manager"), Verification::default()),
            peers: crate::peers::Peers::default(),
            tokens: Tokens::default(),
            volume_locks: Default::default(),
            drivers: Default::default(),
            in_use: Default::default(),
            devices: Default::default(),
            boot_id: "boot".into(),
            metrics: Metrics::new(&mut prometheus_client::registry::Registry::default()),
            start_slots: Semaphore::new(8),
        });
        let (order, _) = watch::channel(None);
        let (wanted, _) = watch::channel(Wanted { pod: Arc::new(pod), gone: false, kept: false });
        let changed = Arc::new(Notify::new());
        let mut events = runtime.subscribe();
        let (notify, cancelled) = (changed.clone(), stop.clone());
        tokio::spawn(cancelled.run_until_cancelled_owned(async move {
            while let Ok(RuntimeEvent::PodChanged(_)) = events.recv().await {
                notify.notify_one();
            }
        }));
        let mut node =
            Self { api, runtime, context, wanted, changed, order, stop, worker: None, _dir: dir, _services: keeper };
        node.start_agent();
        node
    }

    /// Starts a worker that knows nothing, as after a restart of the agent.
    pub fn start_agent(&mut self) {
        self.kill_agent();
        self.sync();
        let order = self.order.subscribe();
        let inbox = Inbox { wanted: self.wanted.subscribe(), changed: self.changed.clone(), order };
        let worker = Worker::new(self.context.clone(), inbox, None);
        self.worker = Some(tokio::spawn(worker.run(self.stop.clone())));
    }

    /// Ends the worker in the midst of whatever it does.
    pub fn kill_agent(&mut self) {
        if let Some(worker) = self.worker.take() {
            worker.abort();
        }
    }

    /// Tells the worker what the API has.
    pub fn sync(&self) {
        let pod = self.api.lock().unwrap().pod.clone();
        self.wanted.send_modify(|wanted| match pod {
            Some(pod) => wanted.pod = Arc::new(serde_json::from_value(pod).unwrap()),
            None => wanted.gone = true,
        });
    }

    /// Changes the pod in the API, as a user would, and tells the worker.
    pub fn change(&self, change: impl FnOnce(&mut Value)) {
        if let Some(pod) = self.api.lock().unwrap().pod.as_mut() {
            change(pod);
        }
        self.sync();
    }

    /// Asks for the pod's deletion.
    pub fn delete(&self, grace_s: i64) {
        self.change(|pod| {
            pod["metadata"]["deletionTimestamp"] = json!("2023-11-15T00:00:00Z");
            pod["metadata"]["deletionGracePeriodSeconds"] = json!(grace_s);
        });
    }

    /// Tells the pod to go.
    pub fn order(&self, order: Order) {
        self.order.send_replace(Some(order));
    }

    /// The pod as the API has it.
    pub fn pod(&self) -> Option<Pod> {
        self.api.lock().unwrap().pod.clone().map(|pod| serde_json::from_value(pod).unwrap())
    }

    pub fn phase(&self) -> String {
        self.pod().and_then(|pod| pod.status?.phase).unwrap_or_default()
    }

    pub fn condition(&self, kind: &str) -> bool {
        let conditions = self.pod().and_then(|pod| pod.status?.conditions).unwrap_or_default();
        conditions.iter().any(|condition| condition.type_ == kind && condition.status == "True")
    }

    /// The status of a container.
    pub fn container(&self, name: &str) -> ContainerStatus {
        let status = self.pod().and_then(|pod| pod.status).unwrap_or_default();
        let lists = [status.init_container_statuses, status.container_statuses];
        lists.into_iter().flatten().flatten().find(|status| status.name == name).unwrap_or_default()
    }

    /// Why a container waits.
    pub fn waits(&self, name: &str) -> String {
        self.container(name).state.and_then(|state| state.waiting?.reason).unwrap_or_default()
    }

    /// Names of the containers that run, in the order of their start.
    pub fn runs(&self) -> Vec<String> {
        use crate::runtime::ContainerState::Running;
        let mut running: Vec<_> =
            self.runtime.containers().into_iter().filter(|container| container.state == Running).collect();
        running.sort_by_key(|container| container.started_at);
        running.into_iter().map(|container| container.name).collect()
    }

    /// Lets the worker work until it has nothing more to do for a moment.
    pub async fn settle(&self) {
        for _ in 0..40 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.sync();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }

    /// Waits until `done`, for at most `seconds` of the simulated clock.
    pub async fn until(&self, seconds: u64, what: &str, done: impl Fn(&Self) -> bool) {
        for _ in 0..seconds * 10 {
            if done(self) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
            self.sync();
        }
        panic!(
            "not within {seconds} s: {what}; status {:#?}; events {:?}",
            self.pod().and_then(|p| p.status),
            self.api.lock().unwrap().events
        );
    }

    pub fn reasons(&self) -> Vec<String> {
        self.api.lock().unwrap().events.iter().map(|(reason, _)| reason.clone()).collect()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop.cancel();
        self.kill_agent();
    }
}

//! An API server in memory that binds as Kubernetes' does (the first binding of a pod wins) and, where a binding asks for it,
//! refuses what does not fit; an owner that makes its pods anew; and the ways in which what is said to and by them goes astray.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use gantry_api::meta::POD_GROUP_LABEL;
use gantry_api::policy::room::IF_FITS_ANNOTATION;
use gantry_scheduler::driver::queues::QUEUE_LABEL;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::random::Random;

/// Kinds of which there are objects; all others are empty.
pub const NODES: &str = "nodes";
pub const PODS: &str = "pods";
pub const GROUPS: &str = "podgroups";
pub const QUEUES: &str = "queues";
const OWNERS: &str = "replicasets";
const KINDS: [&str; 5] = [NODES, PODS, GROUPS, QUEUES, OWNERS];

/// How long the owner of pods takes to make one anew.
const REMAKE: Duration = Duration::from_millis(150);

/// What a pod is made of.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    pub requests: Value,
    pub priority: i64,
    pub group: Option<String>,
    pub queue: Option<&'static str>,
    /// It is made anew when it goes.
    pub is_owned: bool,
}

#[derive(Default)]
pub struct Objects {
    revision: u64,
    objects: BTreeMap<&'static str, BTreeMap<String, Value>>,
    log: Vec<(u64, &'static str, Value)>,
    history: Vec<String>,
    pub violations: Vec<String>,
    /// Groups to which something else happened than that all of their pods were bound.
    pub disturbed: BTreeSet<String>,
    /// One process at a time binds, and knows what was bound before: what it alone sees to holds, too.
    pub is_alone: bool,
}

/// The server.
#[derive(Clone)]
pub struct World {
    pub(super) objects: Arc<Mutex<Objects>>,
    changed: Arc<watch::Sender<u64>>,
}

/// How one process is connected to it.
#[derive(Clone)]
pub struct Link {
    world: World,
    random: Arc<Mutex<Random>>,
    /// Nothing goes astray any more.
    calm: Arc<watch::Sender<bool>>,
}

/// What becomes of a request.
enum Fate {
    Answered,
    AnswerLost,
    AnswerCut,
    Refused,
    /// The client is told that it failed, and then it happens.
    Late,
}

impl World {
    pub fn new() -> World {
        World { objects: Arc::default(), changed: Arc::new(watch::Sender::new(0)) }
    }

    pub fn put_node(&self, name: &str, milli_cpu: i64, pods: i64, gpus: i64) {
        let mut allocatable = json!({"cpu": format!("{milli_cpu}m"), "memory": "8Gi", "pods": pods.to_string()});
        if gpus > 0 {
            allocatable["nvidia.com/gpu"] = json!(gpus.to_string());
            allocatable["gantry.io/gpu-milli"] = json!((gpus * 1_000).to_string());
        }
        let node = json!({"metadata": {"name": name}, "status": {"allocatable": allocatable}});
        self.change(NODES, name, Some(node));
    }

    pub fn put_group(&self, name: &str, min: usize) {
        let group = json!({"metadata": {"name": name, "namespace": "default"}, "spec": {"minMember": min}});
        self.change(GROUPS, name, Some(group));
    }

    pub fn put_queue(&self, name: &str, spec: &Value) {
        self.change(QUEUES, name, Some(json!({"metadata": {"name": name}, "spec": spec})));
    }

    pub fn put_owner(&self) {
        let owner = json!({"metadata": {"name": "web", "namespace": "default", "uid": "uid-of-web"},
            "spec": {"selector": {"matchLabels": {"app": "web"}}}});
        self.change(OWNERS, "web", Some(owner));
    }

    pub fn put_pod(&self, name: &str, plan: &Plan) {
        let uid = format!("{name}-{}", self.objects.lock().unwrap().revision);
        let mut pod = json!({
            "metadata": {"name": name, "namespace": "default", "uid": uid, "labels": {}},
            "spec": {"schedulerName": "default-scheduler", "priority": plan.priority,
                "containers": [{"name": "main", "resources": {"requests": plan.requests}}]},
        });
        if let Some(group) = &plan.group {
            pod["metadata"]["labels"][POD_GROUP_LABEL] = json!(group);
        }
        if let Some(queue) = plan.queue {
            pod["metadata"]["labels"][QUEUE_LABEL] = json!(queue);
        }
        if plan.is_owned {
            pod["metadata"]["labels"]["app"] = json!("web");
            pod["metadata"]["ownerReferences"] = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "uid-of-web",
                    "controller": true}]);
        }
        self.change(PODS, name, Some(pod));
    }

    fn pod(&self, name: &str) -> Option<Value> {
        self.objects.lock().unwrap().get(PODS, name).cloned()
    }

    pub fn pods(&self) -> Vec<String> {
        let objects = self.objects.lock().unwrap();
        objects.objects.get(PODS).into_iter().flat_map(BTreeMap::keys).cloned().collect()
    }

    /// A pod goes: its owner makes another one.
    fn remake(&self, pod: &Value) {
        let (world, mut pod) = (self.clone(), pod.clone());
        if pod["metadata"]["ownerReferences"].is_null() || pod["status"]["phase"] == "Succeeded" {
            return;
        }
        tokio::spawn(async move {
            tokio::time::sleep(REMAKE).await;
            let name = format!("web-{}", world.objects.lock().unwrap().revision);
            (pod["metadata"]["uid"], pod["status"]) = (json!(format!("uid-of-{name}")), json!({}));
            pod["metadata"]["name"] = json!(name);
            for (at, field) in [("metadata", "deletionTimestamp"), ("metadata", "annotations"), ("spec", "nodeName")] {
                pod[at].as_object_mut().unwrap().remove(field);
            }
            world.change(PODS, &name, Some(pod));
        });
    }

    /// Nothing that was to happen together needs to any more.
    pub fn disturb_all(&self) {
        let mut objects = self.objects.lock().unwrap();
        let groups: Vec<String> = objects.all(GROUPS).map(|group| text(&group["metadata"]["name"])).collect();
        objects.disturbed.extend(groups);
    }

    /// The pod runs to its end, if it has begun.
    pub fn finish(&self, name: &str) {
        if let Some(mut pod) = self.pod(name).filter(|pod| pod["spec"]["nodeName"].is_string()) {
            pod["status"]["phase"] = json!("Succeeded");
            self.change(PODS, name, Some(pod));
        }
    }

    pub fn remove_pod(&self, name: &str) {
        if let Some(pod) = self.pod(name).filter(|pod| pod["metadata"]["deletionTimestamp"].is_null()) {
            self.remake(&pod);
        }
        self.change(PODS, name, None);
    }

    /// The pod is asked to go; a while later it is gone.
    fn terminate(&self, name: &str, after: Duration) {
        let Some(mut pod) = self.pod(name) else { return };
        if pod["metadata"]["deletionTimestamp"].is_string() {
            return;
        }
        self.remake(&pod);
        let uid = pod["metadata"]["uid"].clone();
        pod["metadata"]["deletionTimestamp"] = json!("2026-01-02T03:04:05Z");
        self.change(PODS, name, Some(pod));
        let (world, name) = (self.clone(), name.to_owned());
        tokio::spawn(async move {
            tokio::time::sleep(after).await;
            if world.pod(&name).is_some_and(|pod| pod["metadata"]["uid"] == uid) {
                world.remove_pod(&name);
            }
        });
    }

    fn change(&self, kind: &'static str, name: &str, object: Option<Value>) {
        let mut objects = self.objects.lock().unwrap();
        objects.change(kind, name, object);
        self.changed.send_replace(objects.revision);
    }

    /// Whatever was ever accepted beyond a node's capacity.
    pub fn violations(&self) -> Vec<String> {
        self.objects.lock().unwrap().violations.clone()
    }

    /// What happened, to be shown when something is wrong.
    pub fn history(&self) -> String {
        self.objects.lock().unwrap().history.join("\n")
    }

    pub fn bound(&self) -> usize {
        self.objects.lock().unwrap().all(PODS).filter(|pod| pod["spec"]["nodeName"].is_string()).count()
    }
}

/// A text in an object.
pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

impl Objects {
    pub fn all(&self, kind: &'static str) -> impl Iterator<Item = &Value> {
        self.objects.get(kind).into_iter().flat_map(BTreeMap::values)
    }

    pub fn get(&self, kind: &'static str, name: &str) -> Option<&Value> {
        self.objects.get(kind)?.get(name)
    }

    fn change(&mut self, kind: &'static str, name: &str, object: Option<Value>) {
        self.revision += 1;
        let revision = self.revision;
        let of_kind = self.objects.entry(kind).or_default();
        let before = of_kind.remove(name);
        let (type_, mut now) = match (&before, object) {
            (None, None) => return,
            (Some(before), None) => ("DELETED", before.clone()),
            (None, Some(object)) => ("ADDED", object),
            (Some(_), Some(object)) => ("MODIFIED", object),
        };
        now["metadata"]["resourceVersion"] = json!(revision.to_string());
        if type_ != "DELETED" {
            of_kind.insert(name.to_owned(), now.clone());
        }
        let ends = type_ == "DELETED" || now["metadata"]["deletionTimestamp"].is_string();
        if kind == PODS && (ends || now["status"]["phase"] == "Succeeded") {
            self.disturbed.insert(text(&now["metadata"]["labels"][POD_GROUP_LABEL]));
        }
        let told = &now["status"]["conditions"][0]["message"];
        let asks = &now["spec"]["containers"][0]["resources"]["requests"];
        let [node, phase, gives] = [&now["spec"]["nodeName"], &now["status"]["phase"], &now["status"]["allocatable"]];
        let [labels, spec] = [&now["metadata"]["labels"], if kind == QUEUES { &now["spec"] } else { &Value::Null }];
        let [priority, nominated] = [&now["spec"]["priority"], &now["status"]["nominatedNodeName"]];
        let what = [labels, spec, node, phase, gives, asks, told, priority, nominated];
        let what: Vec<String> = what.into_iter().filter(|value| !value.is_null()).map(Value::to_string).collect();
        self.history.push(format!("{revision}: {kind} {name} {type_} {}", what.join(" ")));
        self.log.push((revision, kind, json!({"type": type_, "object": now})));
    }

    fn bind(&mut self, name: &str, binding: &Value) -> Response {
        let Some(mut pod) = self.get(PODS, name).cloned() else { return failure(404, "NotFound") };
        let group = text(&pod["metadata"]["labels"][POD_GROUP_LABEL]);
        let node = binding["target"]["name"].as_str().unwrap().to_owned();
        let is_other = pod["metadata"]["uid"] != binding["metadata"]["uid"];
        if is_other || pod["metadata"]["deletionTimestamp"].is_string() || pod["spec"]["nodeName"].is_string() {
            self.disturbed.insert(group);
            return failure(409, "Conflict");
        }
        let mut annotations = binding["metadata"]["annotations"].as_object().cloned().unwrap_or_default();
        let if_fits = annotations.remove(IF_FITS_ANNOTATION).is_some();
        pod["metadata"]["annotations"] = Value::Object(annotations);
        let lacks = self.lacks(&node, &pod);
        if if_fits && !lacks.is_empty() {
            self.history.push(format!("refused: {name} to {node}: {lacks:?}"));
            self.disturbed.insert(group);
            return failure(409, "Conflict");
        }
        if !lacks.is_empty() {
            self.violations.push(format!("{name} was bound to {node}: {lacks:?}"));
        }
        pod["spec"]["nodeName"] = json!(node);
        self.change(PODS, name, Some(pod));
        if let Some(overfull) = self.overfull(&node) {
            self.violations.push(format!("after {name} was bound: {overfull}"));
        }
        let beyond = if self.is_alone { self.beyond_limit(name) } else { None };
        self.violations.extend(beyond.map(|beyond| format!("after {name} was bound: {beyond}")));
        (StatusCode::CREATED, axum::Json(json!({"kind": "Status", "status": "Success"}))).into_response()
    }
}

fn failure(code: u16, reason: &str) -> Response {
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason,
        "message": reason});
    (StatusCode::from_u16(code).unwrap(), axum::Json(status)).into_response()
}

impl Link {
    pub fn new(world: &World, seed: u64, calm: &Arc<watch::Sender<bool>>) -> Link {
        Link { world: world.clone(), random: Arc::new(Mutex::new(Random::new(seed))), calm: calm.clone() }
    }

    pub fn client(&self) -> kube::Client {
        kube::Client::new(Router::new().fallback(serve).with_state(self.clone()), "default")
    }

    fn is_calm(&self) -> bool {
        *self.calm.borrow()
    }

    fn chance(&self, part: usize, all: usize) -> bool {
        !self.is_calm() && self.random.lock().unwrap().chance(part, all)
    }

    async fn wait(&self, longest: i64) {
        let millis = if self.is_calm() { 1 } else { self.random.lock().unwrap().within(1, longest) };
        tokio::time::sleep(Duration::from_millis(millis.unsigned_abs())).await;
    }

    /// A binding goes astray: that of others of its group may be the only one.
    fn disturb(&self, pod: &str) {
        if let Some(pod) = self.world.pod(pod) {
            let group = text(&pod["metadata"]["labels"][POD_GROUP_LABEL]);
            self.world.objects.lock().unwrap().disturbed.insert(group);
        }
    }

    fn fate(&self) -> Fate {
        if self.is_calm() {
            return Fate::Answered;
        }
        match self.random.lock().unwrap().below(20) {
            0 | 1 => Fate::AnswerLost,
            2 => Fate::AnswerCut,
            3 | 4 => Fate::Refused,
            5 => Fate::Late,
            _ => Fate::Answered,
        }
    }

    /// Does what is asked, and finishes it though nobody may wait for the answer any more.
    async fn change(self, method: Method, path: Vec<String>, body: Bytes) -> Response {
        let fate = self.fate();
        if !matches!(fate, Fate::Answered) && path.last().is_some_and(|last| last == "binding") {
            self.disturb(&path[path.len() - 2]);
        }
        if matches!(fate, Fate::Refused) {
            self.wait(50).await;
            return failure(503, "ServiceUnavailable");
        }
        let is_late = matches!(fate, Fate::Late);
        let link = self.clone();
        let doing = tokio::spawn(async move {
            link.wait(if is_late { 2_000 } else { 100 }).await;
            link.done(&method, &path, &body)
        });
        if is_late {
            self.wait(100).await;
            return failure(504, "Timeout");
        }
        let response = doing.await.unwrap();
        self.wait(300).await;
        match fate {
            Fate::AnswerLost => failure(500, "InternalError"),
            Fate::AnswerCut if response.status().is_success() => {
                (response.status(), Body::from("{\"kind\": ")).into_response()
            }
            _ => response,
        }
    }

    fn done(&self, method: &Method, path: &[String], body: &Bytes) -> Response {
        let sent: Value = serde_json::from_slice(body).unwrap_or_default();
        // …/namespaces/default/pods/NAME/SUBRESOURCE
        let rest: Vec<&str> = path.iter().map(String::as_str).skip_while(|part| *part != "default").skip(1).collect();
        let world = &self.world;
        match (method, rest.as_slice()) {
            (&Method::POST, [PODS, name, "binding"]) => {
                let mut objects = world.objects.lock().unwrap();
                let answer = objects.bind(name, &sent);
                world.changed.send_replace(objects.revision);
                answer
            }
            (&Method::PATCH, [PODS, name, "status"]) => {
                let Some(mut pod) = world.pod(name) else { return failure(404, "NotFound") };
                let differs = |field: &str| {
                    !sent["metadata"][field].is_null() && sent["metadata"][field] != pod["metadata"][field]
                };
                if differs("uid") || differs("resourceVersion") {
                    return failure(409, "Conflict");
                }
                for (field, value) in sent["status"].as_object().unwrap() {
                    pod["status"][field] = value.clone();
                }
                world.change(PODS, name, Some(pod.clone()));
                axum::Json(pod).into_response()
            }
            (&Method::DELETE, [PODS, name]) => self.ended(name, &sent["preconditions"]["uid"]),
            (&Method::POST, [PODS, _, "eviction"]) if self.chance(1, 5) => failure(429, "TooManyRequests"),
            (&Method::POST, [PODS, name, "eviction"]) => {
                self.ended(name, &sent["deleteOptions"]["preconditions"]["uid"])
            }
            _ => (StatusCode::CREATED, axum::Json(sent)).into_response(),
        }
    }

    fn ended(&self, name: &str, uid: &Value) -> Response {
        let Some(pod) = self.world.pod(name) else { return failure(404, "NotFound") };
        if pod["metadata"]["uid"] != *uid {
            return failure(409, "Conflict");
        }
        self.world.terminate(name, Duration::from_millis(700));
        axum::Json(pod).into_response()
    }

    fn list(&self, kind: &str, node: Option<&str>) -> Response {
        let objects = self.world.objects.lock().unwrap();
        let is_there = |object: &&Value| node.is_none_or(|node| object["spec"]["nodeName"] == *node);
        let known = KINDS.iter().find(|known| **known == kind);
        let items: Vec<Value> =
            known.into_iter().flat_map(|kind| objects.all(kind)).filter(is_there).cloned().collect();
        let metadata = json!({"resourceVersion": objects.revision.to_string()});
        axum::Json(json!({"kind": "List", "apiVersion": "v1", "metadata": metadata, "items": items})).into_response()
    }

    /// Changes after a revision: some late, some twice, until the watch breaks off or is too old.
    fn watch(self, kind: String, since: u64) -> Response {
        let changed = self.world.changed.subscribe();
        let stream = futures::stream::unfold(Some((changed, since)), move |state| {
            let (link, kind) = (self.clone(), kind.clone());
            async move {
                let (mut changed, seen) = state?;
                loop {
                    changed.borrow_and_update();
                    let next = {
                        let objects = link.world.objects.lock().unwrap();
                        let from = objects.log.partition_point(|(at, ..)| *at <= seen);
                        objects.log[from..].iter().find(|(_, of, _)| **of == *kind).cloned()
                    };
                    let Some((revision, _, event)) = next else {
                        changed.changed().await.ok()?;
                        continue;
                    };
                    let slow = if link.chance(1, 10) { 2_000 } else { 60 };
                    link.wait(slow).await;
                    if link.chance(1, 60) {
                        let status = json!({"kind": "Status", "code": 410, "reason": "Expired", "message": "too old",
                            "status": "Failure"});
                        let event = json!({"type": "ERROR", "object": status});
                        return Some((Ok::<_, std::io::Error>(Bytes::from(format!("{event}\n"))), None));
                    }
                    if link.chance(1, 40) {
                        return None;
                    }
                    let times = if link.chance(1, 8) { 2 } else { 1 };
                    let lines = format!("{event}\n").repeat(times);
                    return Some((Ok(Bytes::from(lines)), Some((changed, revision))));
                }
            }
        });
        Body::from_stream(stream).into_response()
    }
}

async fn serve(State(link): State<Link>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let path: Vec<String> = parts.uri.path().split('/').map(str::to_owned).collect();
    let query = parts.uri.query().unwrap_or_default().to_owned();
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    if parts.method != Method::GET {
        return link.change(parts.method, path, body).await;
    }
    link.wait(30).await;
    let last = path.last().cloned().unwrap_or_default();
    if let Some(since) = query.split('&').find_map(|part| part.strip_prefix("resourceVersion="))
        && query.contains("watch=")
    {
        return link.watch(last, since.parse().unwrap());
    }
    if link.chance(1, 10) {
        return failure(500, "InternalError");
    }
    let response = match path.iter().rev().nth(1).map(String::as_str) {
        Some(PODS) => {
            link.world.pod(&last).map_or_else(|| failure(404, "NotFound"), |pod| axum::Json(pod).into_response())
        }
        _ => {
            let node = query.split('&').find_map(|part| part.strip_prefix("fieldSelector=spec.nodeName%3D"));
            link.list(&last, node)
        }
    };
    link.wait(200).await;
    response
}

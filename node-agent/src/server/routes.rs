//! The paths of the node's API and what they do.

use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use axum::{Extension, Json, Router};
use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, header};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerState as ApiState, ContainerStatus, Pod};
use tokio::sync::{broadcast, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use super::error::ApiError;
use super::logs::{self, LogOptions};
use super::tls::Caller;
use super::{ServerContext, backend, remote, tunnel, websocket};
use crate::pods::PodEntry;
use crate::runtime::{ContainerRecord, ContainerState, ExecRequest, PodRecord, Runtime, RuntimeEvent, StreamOptions};

use crate::stats::{exposition, summary};

/// Pieces of a log that wait for a slow reader.
const LOG_PIECES_WAITING: usize = 4;
/// The subprotocols in which WebSocket clients name ports by number.
const PORT_FORWARD_V4: &str = "v4.channel.k8s.io";

/// What the handlers share.
#[derive(Clone)]
struct Shared {
    context: ServerContext,
    /// Ends what goes on after its request: upgraded connections and followed logs.
    stop: CancellationToken,
}

/// The node's API.
pub(super) fn router(context: ServerContext, stop: CancellationToken) -> Router {
    let guarded = Router::new()
        .route("/pods", get(pods))
        .route("/metrics", get(metrics))
        .route("/stats/summary", get(stats_summary))
        .route("/metrics/resource", get(metrics_resource))
        .route("/metrics/cadvisor", get(metrics_cadvisor))
        .route("/containerLogs/{namespace}/{pod}/{container}", get(container_logs))
        .route("/exec/{namespace}/{pod}/{container}", any(exec))
        .route("/exec/{namespace}/{pod}/{uid}/{container}", any(exec_by_uid))
        .route("/attach/{namespace}/{pod}/{container}", any(attach))
        .route("/attach/{namespace}/{pod}/{uid}/{container}", any(attach_by_uid))
        .route("/portForward/{namespace}/{pod}", any(port_forward))
        .route("/portForward/{namespace}/{pod}/{uid}", any(port_forward_by_uid))
        .route_layer(middleware::from_fn(authorize));
    let offer = context.offer.clone();
    let open = Router::new().route("/healthz", get(async || "ok")).merge(guarded).with_state(Shared { context, stop });
    open.merge(super::give::router(offer))
}

async fn authorize(Extension(caller): Extension<Caller>, request: Request<Body>, next: Next) -> Response {
    if caller.is_allowed() {
        return next.run(request).await;
    }
    let method = request.method().as_str().to_lowercase();
    let text = format!("Forbidden (user={}, verb={method}, resource=nodes, subresource=proxy)", caller.user);
    ApiError::new(StatusCode::FORBIDDEN, text).into_response()
}

async fn pods(State(shared): State<Shared>) -> Response {
    let items: Vec<_> = shared.context.pods.list().into_iter().map(|entry| entry.pod).collect();
    let list = serde_json::json!({ "kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items });
    Json(list).into_response()
}

async fn stats_summary(State(shared): State<Shared>, RawQuery(query): RawQuery) -> Result<Response, ApiError> {
    let only = query_pairs(query).iter().any(|(name, value)| name == "only_cpu_and_memory" && value == "true");
    Ok(Json(summary::summary(&shared.context.stats, only).await?).into_response())
}

async fn metrics(State(shared): State<Shared>) -> Result<Response, ApiError> {
    let mut registry = prometheus_client::registry::Registry::default();
    shared.context.metrics.register(&mut registry);
    let mut text = String::new();
    let encoded = prometheus_client::encoding::text::encode(&mut text, &registry);
    encoded.map_err(|error| ApiError::internal(error.to_string()))?;
    Ok(exposed(text))
}

async fn metrics_resource(State(shared): State<Shared>) -> Response {
    exposed(exposition::resource(&shared.context.stats).await)
}

async fn metrics_cadvisor(State(shared): State<Shared>) -> Result<Response, ApiError> {
    Ok(exposed(exposition::cadvisor(&shared.context.stats).await?))
}

fn exposed(text: String) -> Response {
    ([(header::CONTENT_TYPE, exposition::CONTENT_TYPE)], text).into_response()
}

fn find(shared: &Shared, namespace: &str, name: &str, uid: Option<&str>) -> Result<PodEntry, ApiError> {
    let matches = |entry: &PodEntry| uid.is_none() || entry.pod.metadata.uid.as_deref() == uid;
    let found = shared.context.pods.find(namespace, name).filter(matches);
    found.ok_or_else(|| ApiError::not_found(format!("pod \"{name}_{namespace}\" does not exist")))
}

async fn record(shared: &Shared, pod: &Pod) -> Result<PodRecord, ApiError> {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    Ok(shared.context.runtime.pod(uid).await?)
}

fn query_pairs(query: Option<String>) -> Vec<(String, String)> {
    url::form_urlencoded::parse(query.unwrap_or_default().as_bytes()).into_owned().collect()
}

async fn container_logs(
    State(shared): State<Shared>,
    Path((namespace, name, container)): Path<(String, String, String)>,
    RawQuery(query): RawQuery,
    mut request: Request<Body>,
) -> Result<Response, ApiError> {
    let options = LogOptions::parse(&query_pairs(query), Timestamp::now()).map_err(ApiError::bad_request)?;
    let entry = find(&shared, &namespace, &name, None)?;
    let pod_record = record(&shared, &entry.pod).await?;
    let chosen = choose_instance(&entry.pod, &pod_record, &container, options.previous)?;
    let unavailable = || ApiError::not_found(format!("the log of container {container:?} is gone"));
    let path = chosen.log_path.clone().ok_or_else(unavailable)?;
    let (sender, receiver) = mpsc::channel::<std::io::Result<Bytes>>(LOG_PIECES_WAITING);
    if !path.exists() {
        return Err(unavailable());
    }
    let liveness = Liveness::new(&shared, &pod_record, &chosen);
    let stop = shared.stop.clone();
    tokio::spawn(async move {
        let failed = sender.clone();
        let reading = logs::stream(&path, &options, liveness, sender);
        if let Some(Err(error)) = stop.run_until_cancelled(reading).await {
            let _ = failed.send(Err(error)).await;
        }
    });
    if websocket::is_requested(request.headers()) {
        let protocol =
            websocket::choose_or_none(request.headers(), &websocket::STREAM_PROTOCOLS).ok_or_else(unknown_protocol)?;
        let (response, upgrade) = websocket::accept(&mut request, protocol).ok_or_else(backend::not_upgradable)?;
        let sending = websocket::send_stream(upgrade, protocol, receiver);
        tokio::spawn(shared.stop.run_until_cancelled_owned(async move {
            if let Err(error) = sending.await {
                tracing::debug!(%error, "a client left before its log had ended");
            }
        }));
        return Ok(response);
    }
    let mut response = Response::new(Body::from_stream(ReceiverStream::new(receiver)));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    Ok(response)
}

/// Knows whether a container runs; asks the runtime only when it said that something changed.
struct Liveness {
    runtime: std::sync::Arc<dyn Runtime>,
    events: broadcast::Receiver<RuntimeEvent>,
    uid: String,
    container: String,
    running: bool,
    asked: bool,
}

impl Liveness {
    fn new(shared: &Shared, pod: &PodRecord, container: &ContainerRecord) -> Self {
        Self {
            runtime: shared.context.runtime.clone(),
            events: shared.context.runtime.subscribe(),
            uid: pod.pod.uid.clone(),
            container: container.id.clone(),
            running: true,
            asked: false,
        }
    }

    fn changed(&mut self) -> bool {
        let mut changed = false;
        loop {
            match self.events.try_recv() {
                Ok(RuntimeEvent::PodChanged(uid)) => changed |= uid == self.uid,
                Ok(RuntimeEvent::Relist) | Err(broadcast::error::TryRecvError::Lagged(_)) => changed = true,
                Err(_) => return changed,
            }
        }
    }
}

impl logs::Writer for Liveness {
    async fn is_running(&mut self) -> bool {
        if self.running && (!self.asked || self.changed()) {
            self.asked = true;
            // A runtime that is away for a moment has not ended the container.
            self.running = match self.runtime.container(&self.container).await {
                Ok(record) => record.state != ContainerState::Exited,
                Err(crate::runtime::RuntimeError::NotFound(_)) => false,
                Err(_) => {
                    self.asked = false;
                    true
                }
            };
        }
        self.running
    }
}

/// The instance of the container whose log is asked for.
fn choose_instance(
    pod: &Pod,
    record: &PodRecord,
    container: &str,
    previous: bool,
) -> Result<ContainerRecord, ApiError> {
    let pod_name = pod.metadata.name.as_deref().unwrap_or_default();
    if !has_container(pod, container) {
        return Err(ApiError::bad_request(format!("container {container} not found in pod {pod_name}")));
    }
    let mut instances =
        record.containers.iter().filter(|each| each.name == container && each.state != ContainerState::Created);
    let newest = instances.next();
    if !previous {
        return newest.cloned().ok_or_else(|| {
            let reason = waiting_reason(pod, container);
            let text = format!("container {container:?} in pod {pod_name:?} is waiting to start: {reason}");
            ApiError::bad_request(text)
        });
    }
    let last = status_of(pod, container)
        .and_then(|status| status.last_state.as_ref()?.terminated.as_ref()?.container_id.as_deref())
        .and_then(|id| Some(id.split_once("://")?.1));
    let found = record.containers.iter().find(|each| Some(each.id.as_str()) == last).or_else(|| instances.next());
    found.cloned().ok_or_else(|| {
        ApiError::bad_request(format!("previous terminated container {container:?} in pod {pod_name:?} not found"))
    })
}

fn has_container(pod: &Pod, name: &str) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let ephemeral = spec.ephemeral_containers.iter().flatten().map(|each| &each.name);
    let mut names = spec.containers.iter().chain(spec.init_containers.iter().flatten()).map(|each| &each.name);
    names.any(|each| each == name) || ephemeral.into_iter().any(|each| each == name)
}

fn status_of<'pod>(pod: &'pod Pod, name: &str) -> Option<&'pod ContainerStatus> {
    let status = pod.status.as_ref()?;
    let all = [&status.container_statuses, &status.init_container_statuses, &status.ephemeral_container_statuses];
    all.into_iter().flatten().flatten().find(|status| status.name == name)
}

fn waiting_reason(pod: &Pod, container: &str) -> String {
    match status_of(pod, container).and_then(|status| status.state.as_ref()) {
        Some(ApiState { waiting: Some(waiting), .. }) => waiting.reason.clone().unwrap_or_default(),
        _ => "ContainerCreating".to_owned(),
    }
}

type ByName = Path<(String, String, String)>;
type ByUid = Path<(String, String, String, String)>;

async fn exec(
    State(shared): State<Shared>,
    Path((namespace, pod, container)): ByName,
    RawQuery(query): RawQuery,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    let entry = find(&shared, &namespace, &pod, None)?;
    remote_command(shared, entry, &container, query, true, request).await
}

async fn exec_by_uid(
    State(shared): State<Shared>,
    Path((namespace, pod, uid, container)): ByUid,
    RawQuery(query): RawQuery,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    let entry = find(&shared, &namespace, &pod, Some(&uid))?;
    remote_command(shared, entry, &container, query, true, request).await
}

async fn attach(
    State(shared): State<Shared>,
    Path((namespace, pod, container)): ByName,
    RawQuery(query): RawQuery,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    let entry = find(&shared, &namespace, &pod, None)?;
    remote_command(shared, entry, &container, query, false, request).await
}

async fn attach_by_uid(
    State(shared): State<Shared>,
    Path((namespace, pod, uid, container)): ByUid,
    RawQuery(query): RawQuery,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    let entry = find(&shared, &namespace, &pod, Some(&uid))?;
    remote_command(shared, entry, &container, query, false, request).await
}

/// The streams that the query asks for, by the kubelet's names or the API's.
fn stream_options(query: &[(String, String)]) -> Result<StreamOptions, ApiError> {
    let flag = |names: [&str; 2]| {
        query.iter().any(|(name, value)| names.contains(&name.as_str()) && matches!(value.as_str(), "1" | "true"))
    };
    let tty = flag(["tty", "tty"]);
    let streams = StreamOptions {
        tty,
        stdin: flag(["input", "stdin"]),
        stdout: flag(["output", "stdout"]),
        // A terminal has one output.
        stderr: flag(["error", "stderr"]) && !tty,
    };
    if !streams.stdin && !streams.stdout && !streams.stderr {
        return Err(ApiError::bad_request("you must specify at least 1 of stdin, stdout, stderr"));
    }
    Ok(streams)
}

async fn remote_command(
    shared: Shared,
    entry: PodEntry,
    container: &str,
    query: Option<String>,
    is_exec: bool,
    mut request: Request<Body>,
) -> Result<Response, ApiError> {
    let query = query_pairs(query);
    let streams = stream_options(&query)?;
    let record = record(&shared, &entry.pod).await?;
    let running = record.containers.iter().find(|each| each.name == container && each.state == ContainerState::Running);
    let running = running.ok_or_else(|| ApiError::not_found(format!("container not found ({container:?})")))?;
    let runtime = &shared.context.runtime;
    let endpoint = if is_exec {
        let command: Vec<_> = query.into_iter().filter(|(name, _)| name == "command").map(|(_, value)| value).collect();
        if command.is_empty() {
            return Err(ApiError::bad_request("you must specify at least 1 command for the container"));
        }
        runtime.exec(&running.id, &ExecRequest { command, streams }).await?
    } else {
        runtime.attach(&running.id, streams).await?
    };
    if websocket::is_spdy_requested(request.headers()) {
        return backend::pass_through(&endpoint.url, "", request, &[], shared.stop).await;
    }
    if !websocket::is_requested(request.headers()) {
        return Err(ApiError::bad_request("you must use the SPDY/3.1 or WebSocket protocol"));
    }
    let protocol = websocket::choose_or_none(request.headers(), &remote::PROTOCOLS).ok_or_else(unknown_protocol)?;
    let (response, upgrade) = websocket::accept(&mut request, protocol).ok_or_else(backend::not_upgradable)?;
    let connection = backend::remote_command(&endpoint.url).await?;
    tokio::spawn(shared.stop.run_until_cancelled_owned(async move {
        match websocket::socket(upgrade).await {
            Ok(socket) => remote::run(socket, protocol, connection, streams).await,
            Err(error) => tracing::debug!(%error, "a client left before its stream began"),
        }
    }));
    Ok(response)
}

async fn port_forward(
    State(shared): State<Shared>,
    Path((namespace, pod)): Path<(String, String)>,
    RawQuery(query): RawQuery,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    let entry = find(&shared, &namespace, &pod, None)?;
    forward_ports(shared, entry, query, request).await
}

async fn port_forward_by_uid(
    State(shared): State<Shared>,
    Path((namespace, pod, uid)): ByName,
    RawQuery(query): RawQuery,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    let entry = find(&shared, &namespace, &pod, Some(&uid))?;
    forward_ports(shared, entry, query, request).await
}

/// The ports in the query: `ports` repeated or separated by commas, or `port`.
fn ports(query: &[(String, String)]) -> Result<Vec<u16>, ApiError> {
    let values = query.iter().filter(|(name, _)| name == "ports" || name == "port").flat_map(|(_, v)| v.split(','));
    let parse = |value: &str| match value.trim().parse::<u16>() {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(ApiError::bad_request(format!("port {value:?} is not valid"))),
    };
    values.map(parse).collect()
}

async fn forward_ports(
    shared: Shared,
    entry: PodEntry,
    query: Option<String>,
    mut request: Request<Body>,
) -> Result<Response, ApiError> {
    let ports = ports(&query_pairs(query))?;
    let record = record(&shared, &entry.pod).await?;
    let sandbox = record.sandboxes.iter().find(|sandbox| sandbox.ready);
    let sandbox = sandbox.ok_or_else(|| {
        let name = entry.pod.metadata.name.as_deref().unwrap_or_default();
        ApiError::bad_request(format!("pod {name:?} is not running"))
    })?;
    let endpoint = shared.context.runtime.port_forward(&sandbox.id, &ports).await?;
    if websocket::is_spdy_requested(request.headers()) {
        return backend::pass_through(&endpoint.url, "", request, &[], shared.stop).await;
    }
    if !websocket::is_requested(request.headers()) {
        return Err(ApiError::bad_request("you must use the SPDY/3.1 or WebSocket protocol"));
    }
    let known = [tunnel::PROTOCOL, PORT_FORWARD_V4, "portforward.k8s.io"];
    let protocol = websocket::choose(request.headers(), &known).ok_or_else(unknown_protocol)?;
    if protocol != tunnel::PROTOCOL {
        // The runtime speaks this one itself; it wants to see no other, and its own query.
        let replace = [(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol))];
        let query: Vec<_> = ports.iter().map(|port| format!("port={port}")).collect();
        return backend::pass_through(&endpoint.url, &query.join("&"), request, &replace, shared.stop).await;
    }
    let (response, upgrade) = websocket::accept(&mut request, protocol).ok_or_else(backend::not_upgradable)?;
    let connection = backend::port_forward(&endpoint.url).await?;
    tokio::spawn(shared.stop.run_until_cancelled_owned(async move {
        match websocket::socket(upgrade).await {
            Ok(socket) => tunnel::run(socket, connection).await,
            Err(error) => tracing::debug!(%error, "a client left before its stream began"),
        }
    }));
    Ok(response)
}

fn unknown_protocol() -> ApiError {
    ApiError::new(StatusCode::FORBIDDEN, "unable to upgrade: none of the offered subprotocols is known")
}

//! HTTP: the outermost layer, and the only one that knows status codes.
//!
//! ```text
//! request ─▶ RequestInfo ─▶ identity ─▶ authorization ─▶ resource | discovery | health | proxy ─▶ response
//! ```
//!
//! In: requests of the network or of this process. Out: responses; every failure is a `Status`. What surrounds every
//! request is here: panics become a 500, requests that should be short end after a minute, big answers are compressed if
//! the client asks for it, and each request is counted and traced.

mod aggregate;
mod backends;
mod components;
mod discovery;
mod health;
pub mod metrics;
mod negotiate;
mod operations;
mod params;
mod proxy;
mod request_info;
mod resources;
mod respond;
mod reviews;
mod status;
mod tables;
mod token_request;
mod watch;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use axum::body::Body;
use bytes::Bytes;
use futures::FutureExt;
use gantry_api::{ApiError, Reason};
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use tokio_util::sync::CancellationToken;

use crate::admission::Notes;
use crate::aggregation::Aggregator;
use crate::auth::{self, Authenticator, Authorizer, Decision, Identity, PeerCertificate};
use crate::registry::Registry;

pub use discovery::Documents;
pub use metrics::Metrics;
use params::Params;
pub use proxy::NodeProxy;
use request_info::RequestInfo;

/// The largest request body: as large as etcd's largest request, twice over.
const BODY_BYTES_MAX: usize = 3 << 20;
/// How many requests are worked on at once, long-running ones excepted. Each may hold a body and an answer of a few
/// megabytes; those that wait hold next to nothing. Writes that wait together share a commit, so many are good.
const IN_FLIGHT_MAX: usize = 1024;
/// How long a request waits for its turn before its client is asked to come back.
const TURN_WAIT: Duration = Duration::from_secs(10);
/// Answers larger than this are compressed for clients that accept it.
const COMPRESS_BYTES_MIN: usize = 128 << 10;

/// Everything that requests are answered with.
pub struct App {
    /// What is stored.
    pub registry: Arc<Registry>,
    /// Who asks.
    pub authenticator: Authenticator,
    /// What they may.
    pub authorizer: Arc<dyn Authorizer>,
    /// Signs service account tokens.
    pub tokens: Arc<auth::tokens::Tokens>,
    /// Discovery and OpenAPI.
    pub documents: Documents,
    /// The way to nodes.
    pub proxy: NodeProxy,
    /// What other servers answer.
    pub aggregator: Arc<Aggregator>,
    /// What is counted.
    pub metrics: Metrics,
    /// Every metric of the process.
    pub exposition: prometheus_client::registry::Registry,
    /// How long a request that is not long-running may take.
    pub request_timeout: Duration,
    /// Who is being worked on.
    pub turns: Turns,
    /// The store's administration.
    pub operations: crate::operations::Operations,
    /// Who answers where pods would go, once someone is there to do it.
    pub placements: std::sync::OnceLock<Arc<dyn crate::placement::Reviewer>>,
    /// Ends watches.
    pub shutdown: CancellationToken,
    /// Set once the objects that every cluster has are there.
    pub bootstrapped: AtomicBool,
}

impl App {
    /// Whether the objects that every cluster has are there.
    pub fn is_bootstrapped(&self) -> bool {
        self.bootstrapped.load(Ordering::Acquire)
    }
}

/// The requests that are worked on at once.
#[derive(Debug)]
pub struct Turns(tokio::sync::Semaphore);

impl Default for Turns {
    fn default() -> Self {
        Self(tokio::sync::Semaphore::new(IN_FLIGHT_MAX))
    }
}

impl Turns {
    /// Waits for a turn, which lasts until the permit is dropped.
    async fn take(&self) -> Result<tokio::sync::SemaphorePermit<'_>, ApiError> {
        match tokio::time::timeout(TURN_WAIT, self.0.acquire()).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(ApiError::too_many_requests("too many requests, please try again later", 1)),
        }
    }
}

/// An identity that this process vouches for, put on requests that never were on a network.
#[derive(Debug, Clone)]
pub struct InProcess(pub Arc<Identity>);

/// Answers a request, whatever happens.
pub async fn serve(app: Arc<App>, request: Request<Body>) -> Response<Body> {
    let started = Instant::now();
    let params = Params::parse(request.uri().query());
    let info = RequestInfo::parse(
        request.method(),
        request.uri().path(),
        params.flag("watch"),
        params.field_name().as_deref(),
    );
    let gzip =
        negotiate::accepts_gzip(request.headers().get(header::ACCEPT_ENCODING).and_then(|value| value.to_str().ok()));
    let error_format =
        negotiate::error_format(request.headers().get(header::ACCEPT).and_then(|value| value.to_str().ok()));
    let in_flight = app.metrics.in_flight();
    let notes = Arc::new(Notes::default());
    // On the heap: what every verb needs is large, and it would be moved from hand to hand.
    let answered = AssertUnwindSafe(Box::pin(answer(&app, &info, &params, &notes, request))).catch_unwind();
    let result = if info.is_long_running() {
        answered.await
    } else {
        match app.turns.take().await {
            Err(error) => Ok(Err(error)),
            Ok(_turn) => {
                tokio::time::timeout(app.request_timeout, answered).await.unwrap_or_else(|_| Ok(Err(timed_out())))
            }
        }
    };
    drop(in_flight);
    let result = result.unwrap_or_else(|panic| {
        tracing::error!(path = info.path, panic = panic_text(panic.as_ref()), "a request panicked");
        Err(ApiError::internal("this request caused apiserver to panic. Look in the logs for details"))
    });
    let mut response = result.unwrap_or_else(|error| status::response(&error, error_format));
    respond::warn(response.headers_mut(), &notes.warnings());
    let code = response.status();
    let known = code != StatusCode::NOT_FOUND
        || app.registry.live_catalog().now().resource(&info.group, &info.version, &info.resource).is_some();
    app.metrics.answered(&info, known, code.as_u16(), started.elapsed());
    tracing::debug!(
        verb = info.verb,
        path = info.path,
        code = code.as_u16(),
        took_us = started.elapsed().as_micros(),
        annotations = ?notes.annotations(),
        "answered"
    );
    if gzip && !info.is_long_running() {
        response = compress(response).await;
    }
    response.headers_mut().entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-cache, private"));
    response
}

fn timed_out() -> ApiError {
    ApiError::new(Reason::Timeout, "Timeout: request did not complete within the allotted timeout")
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

async fn answer(
    app: &Arc<App>,
    info: &RequestInfo,
    params: &Params,
    notes: &Arc<Notes>,
    request: Request<Body>,
) -> Result<Response<Body>, ApiError> {
    let identity = identify(app, &request)?;
    let identity = impersonate(app, identity, &request)?;
    tracing::trace!(user = identity.user, verb = info.verb, path = info.path, "request");
    authorize(app, &identity, info, params)?;
    if let Some(route) = aggregate::route(app, info) {
        return Box::pin(aggregate::forward(app, &route, info, &identity, request)).await;
    }
    if info.is_resource {
        let call = resources::Call { app, info, params, identity: &identity, notes };
        return resources::handle(call, request).await;
    }
    if info.path.starts_with(operations::ROOT) {
        return operations::answer(app, &info.path, params, request).await;
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Err(ApiError::new(
            Reason::MethodNotAllowed,
            "the server does not allow this method on the requested resource",
        ));
    }
    if let Some(response) = health::answer(app, &info.path, params).await {
        return Ok(response);
    }
    match info.path.as_str() {
        "/metrics" => return Ok(health::metrics(app).await),
        "/" => {
            return Ok(respond::json(
                StatusCode::OK,
                &serde_json::json!({"paths": ["/api", "/apis", "/healthz", "/livez", "/metrics", "/openapi/v2", "/openapi/v3", "/readyz", "/version"]}),
            ));
        }
        "/.well-known/openid-configuration" => {
            return Ok(respond::json(StatusCode::OK, &app.tokens.openid_configuration()));
        }
        "/openid/v1/jwks" => {
            let keys = Bytes::from(app.tokens.jwks().to_string());
            return Ok(respond::respond(StatusCode::OK, "application/jwk-set+json", keys));
        }
        _ => {}
    }
    if let Some(response) = aggregate::documents(app, &info.path, request.headers()) {
        return response;
    }
    app.documents.answer(&info.path, request.headers(), &app.aggregator).ok_or_else(status::no_such_path)
}

fn identify(app: &App, request: &Request<Body>) -> Result<Arc<Identity>, ApiError> {
    if let Some(InProcess(identity)) = request.extensions().get() {
        return Ok(Arc::clone(identity));
    }
    let none = PeerCertificate::default();
    let peer = request.extensions().get::<PeerCertificate>().unwrap_or(&none);
    app.authenticator.authenticate(request.headers(), peer)
}

/// `Impersonate-User` and `Impersonate-Group`, for those who may impersonate.
fn impersonate(app: &App, identity: Arc<Identity>, request: &Request<Body>) -> Result<Arc<Identity>, ApiError> {
    let header =
        |name: &str| request.headers().get_all(name).iter().filter_map(|value| value.to_str().ok()).collect::<Vec<_>>();
    let users = header("impersonate-user");
    let groups = header("impersonate-group");
    let Some(user) = users.first() else {
        if groups.is_empty() {
            return Ok(identity);
        }
        return Err(ApiError::internal(format!("requested {groups:?} without impersonating a user")));
    };
    let asked = std::iter::once(("users", *user)).chain(groups.iter().map(|group| ("groups", *group)));
    for (resource, name) in asked {
        let attributes = auth::Request {
            verb: "impersonate".to_owned(),
            is_resource: true,
            resource: resource.to_owned(),
            name: name.to_owned(),
            ..auth::Request::default()
        };
        decide(app, &identity, &attributes)?;
    }
    Ok(Arc::new(Identity::new(*user, groups)))
}

fn authorize(app: &App, identity: &Identity, info: &RequestInfo, params: &Params) -> Result<(), ApiError> {
    let watches_a_node = matches!(info.verb, "list" | "watch") && info.resource == "pods";
    let request = auth::Request {
        verb: info.verb.to_owned(),
        is_resource: info.is_resource,
        group: info.group.clone(),
        resource: info.resource.clone(),
        subresource: info.subresource.clone(),
        namespace: info.namespace.clone(),
        name: info.name.clone(),
        path: info.path.clone(),
        node_selector: if watches_a_node { params.exact_field(crate::cacher::NODE_FIELD) } else { None },
    };
    decide(app, identity, &request)
}

fn decide(app: &App, identity: &Identity, request: &auth::Request) -> Result<(), ApiError> {
    match app.authorizer.authorize(identity, request) {
        Decision::Allow => Ok(()),
        Decision::Deny(reason) | Decision::NoOpinion(reason) => Err(forbidden(identity, request, &reason)),
    }
}

/// The refusal, as Kubernetes words it.
fn forbidden(identity: &Identity, request: &auth::Request, reason: &str) -> ApiError {
    let user = gantry_api::error::quote(&identity.user);
    let reason = if reason.is_empty() { String::new() } else { format!(": {reason}") };
    if !request.is_resource {
        return ApiError::forbidden(
            "",
            "",
            format!("User {user} cannot {} path \"{}\"{reason}", request.verb, request.path),
        );
    }
    let path = if request.subresource.is_empty() {
        request.resource.clone()
    } else {
        format!("{}/{}", request.resource, request.subresource)
    };
    let scope = if request.namespace.is_empty() {
        "at the cluster scope".to_owned()
    } else {
        format!("in the namespace \"{}\"", request.namespace)
    };
    let qualified = if request.group.is_empty() {
        request.resource.clone()
    } else {
        format!("{}.{}", request.resource, request.group)
    };
    let why = format!(
        "User {user} cannot {} resource \"{path}\" in API group \"{}\" {scope}{reason}",
        request.verb, request.group
    );
    ApiError::forbidden(&qualified, &request.name, why)
}

/// A whole request body, within the limit.
async fn read_body(body: Body) -> Result<Bytes, ApiError> {
    match Limited::new(body, BODY_BYTES_MAX).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => Err(ApiError::new(
            Reason::RequestEntityTooLarge,
            format!("Request entity too large: limit is {BODY_BYTES_MAX}"),
        )),
        Err(error) => Err(ApiError::bad_request(format!("the body of the request could not be read: {error}"))),
    }
}

/// The same response compressed, if it is large and not compressed yet.
async fn compress(response: Response<Body>) -> Response<Body> {
    let size = http_body::Body::size_hint(response.body()).exact().unwrap_or(0);
    if size < COMPRESS_BYTES_MIN as u64 || response.headers().contains_key(header::CONTENT_ENCODING) {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let Ok(collected) = body.collect().await else {
        return Response::from_parts(parts, Body::empty());
    };
    let bytes = collected.to_bytes();
    let plain = bytes.clone();
    let compressed = tokio::task::spawn_blocking(move || {
        use std::io::Write;
        // The fastest level: the network is near, the processor is shared.
        let mut encoder =
            flate2::write::GzEncoder::new(Vec::with_capacity(plain.len() / 8), flate2::Compression::fast());
        encoder.write_all(&plain).and_then(|()| encoder.finish())
    })
    .await;
    let Ok(Ok(compressed)) = compressed else {
        return Response::from_parts(parts, Body::from(bytes));
    };
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    parts.headers.append(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    Response::from_parts(parts, Body::from(compressed))
}

//! Keeps APIService objects: local ones for what this server answers, and the `Available` condition of all.
//!
//! Level-triggered: every round compares what there should be with what there is. A round starts when an object that it looks
//! at changed, and every half minute, since a server may die without any object changing.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use gantry_api::engine::BodyFormat;
use gantry_api::kinds::Resource;
use gantry_api::{ApiError, Reason, codec, meta, openapi};
use http::{HeaderValue, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::availability::{Available, fault, with_condition};
use super::local::{MANAGED, wanted};
use super::{Aggregator, Discovered, Published, Route, identity_headers};
use crate::auth::{Identity, MASTERS};
use crate::registry::{Caller, DeleteOptions, Registry, Target};

/// How often all servers are asked.
const EVERY: Duration = Duration::from_secs(30);
/// Changes that come together are worked on together.
const PAUSE: Duration = Duration::from_millis(200);
/// How long a server may take to answer.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);
/// How many times a server is asked before it counts as gone: one of its endpoints may just have ended.
const PROBES: usize = 3;
/// How many objects are worked on at once. They are few, and writes that wait together share a commit.
const PARALLEL_MAX: usize = 16;
/// The largest document that is read of another server.
const DOCUMENT_BYTES_MAX: usize = 8 << 20;

fn caller() -> Caller {
    Caller::new(Identity::new("system:kube-aggregator", [MASTERS]), "gantry-apiserver")
}

/// Runs until shutdown.
pub async fn keep(aggregator: Arc<Aggregator>, registry: Arc<Registry>, shutdown: CancellationToken) {
    let mut revisions = registry.cacher().subscribe();
    let mut seen = None;
    let mut last = tokio::time::Instant::now();
    loop {
        let now = changed(&aggregator, &registry);
        if seen != Some(now) || last.elapsed() >= EVERY {
            seen = Some(now);
            last = tokio::time::Instant::now();
            if shutdown.run_until_cancelled(round(&aggregator, &registry)).await.is_none() {
                return;
            }
        }
        let wake = async {
            let _ = tokio::time::timeout(EVERY, revisions.changed()).await;
            tokio::time::sleep(PAUSE).await;
        };
        if shutdown.run_until_cancelled(wake).await.is_none() {
            return;
        }
    }
}

/// What a round depends on: changes as soon as any of it does. Services and their endpoints only count if another server
/// answers anything.
fn changed(aggregator: &Aggregator, registry: &Registry) -> (u64, u64, u64) {
    let at = |resource: Option<&Arc<Resource>>| {
        resource.and_then(|resource| registry.cacher().resource(resource)).map_or(0, |cache| cache.changed())
    };
    let catalog = registry.catalog();
    let behind = if aggregator.all().is_empty() {
        0
    } else {
        at(catalog.resource("", "v1", "services")).max(at(catalog.resource("discovery.k8s.io", "v1", "endpointslices")))
    };
    (at(Some(&aggregator.services)), behind, registry.live_catalog().version())
}

async fn round(aggregator: &Aggregator, registry: &Registry) {
    let wanted = wanted(&registry.live_catalog().now());
    let mut found = Vec::new();
    if let Some(cache) = registry.cacher().resource(&aggregator.services) {
        cache.for_each_below(&aggregator.services.storage_prefix, |entry| {
            if let Ok(object) = codec::decode(&entry.object) {
                found.push(object);
            }
        });
    }
    let missing: Vec<&Value> = wanted
        .iter()
        .filter(|(name, _)| !found.iter().any(|object| meta::name(object) == name))
        .map(|(_, object)| object)
        .collect();
    let mut work: Vec<futures::future::BoxFuture<'_, Result<(), ApiError>>> = Vec::new();
    for object in missing {
        work.push(Box::pin(create(aggregator, registry, object)));
    }
    for object in &found {
        let name = meta::name(object);
        let managed = meta::get(object, &["metadata", "labels"]).and_then(|labels| labels.get(MANAGED)).is_some();
        if managed && !wanted.iter().any(|(known, _)| known == name) {
            work.push(Box::pin(remove(aggregator, registry, name)));
        } else {
            work.push(Box::pin(judge(aggregator, registry, object)));
        }
    }
    let routes: Vec<Arc<Route>> = aggregator.all().into_iter().map(|(route, _)| route).collect();
    aggregator.forget_all_but(&routes);
    let mut work = futures::stream::iter(work).buffer_unordered(PARALLEL_MAX);
    while let Some(done) = work.next().await {
        match done {
            // Somebody else was faster; the change it made starts the next round.
            Err(error) if matches!(error.reason, Reason::AlreadyExists | Reason::Conflict | Reason::NotFound) => {}
            Err(error) => tracing::warn!(%error, "an APIService could not be kept"),
            Ok(()) => {}
        }
    }
}

async fn create(aggregator: &Aggregator, registry: &Registry, object: &Value) -> Result<(), ApiError> {
    let written = registry.create_value(&aggregator.services, "", object.clone(), &caller()).await?;
    let created = codec::decode(&written.object)?;
    write(aggregator, registry, &created, &Available::local()).await
}

async fn remove(aggregator: &Aggregator, registry: &Registry, name: &str) -> Result<(), ApiError> {
    registry.delete(&aggregator.services, "", name, &DeleteOptions::default(), &caller()).await.map(|_| ())
}

/// Finds out whether the server of an APIService can be used, and writes it down.
async fn judge(aggregator: &Aggregator, registry: &Registry, object: &Value) -> Result<(), ApiError> {
    let available = match Route::from_object(object) {
        None => Available::local(),
        Some(route) => match found_fault(registry, &route) {
            Some(fault) => fault,
            None => match probe(aggregator, &route).await {
                Ok(found) => {
                    aggregator.remember(&route.name, found);
                    Available::passed()
                }
                Err(why) => Available::failed_discovery(why),
            },
        },
    };
    write(aggregator, registry, object, &available).await
}

async fn write(
    aggregator: &Aggregator,
    registry: &Registry,
    object: &Value,
    available: &Available,
) -> Result<(), ApiError> {
    let Some(changed) = with_condition(object, available, Timestamp::now()) else { return Ok(()) };
    let name = meta::name(object);
    let target = Target { resource: &aggregator.services, subresource: "status", namespace: "", name };
    registry.update(target, changed.to_string().as_bytes(), BodyFormat::Json, &caller()).await.map(|_| ())
}

fn found_fault(registry: &Registry, route: &Route) -> Option<Available> {
    let reference = route.service()?;
    let catalog = registry.catalog();
    let services = catalog.resource("", "v1", "services")?;
    let service = registry
        .cached(services, &reference.namespace, &reference.name)
        .and_then(|entry| codec::decode(&entry.object).ok());
    let slices = catalog.resource("discovery.k8s.io", "v1", "endpointslices")?;
    let mut found = Vec::new();
    if let Some(cache) = registry.cacher().resource(slices) {
        cache.for_each_below(&slices.prefix(Some(&reference.namespace)), |entry| {
            if entry.facts.labels.get("kubernetes.io/service-name").is_some_and(|name| *name == reference.name)
                && let Ok(slice) = codec::decode(&entry.object)
            {
                found.push(slice);
            }
        });
    }
    fault(reference, service.as_ref(), &found)
}

/// Asks a server for what it has.
async fn probe(aggregator: &Aggregator, route: &Route) -> Result<Discovered, String> {
    let path = route.path();
    let mut last = String::new();
    for _ in 0..PROBES {
        match tokio::time::timeout(PROBE_TIMEOUT, fetch(aggregator, route, &path, None)).await {
            Ok(Ok(found)) => {
                // Not every server has these.
                let index = tokio::time::timeout(PROBE_TIMEOUT, fetch(aggregator, route, "/openapi/v3", None)).await;
                let index = index.ok().and_then(Result::ok).and_then(|found| found.document).unwrap_or_default();
                let at = index["paths"][path.trim_start_matches('/')]["serverRelativeURL"].as_str();
                return Ok(Discovered {
                    resources: found.document.unwrap_or_default(),
                    openapi: at.unwrap_or_default().to_owned(),
                    openapi_v2: published(aggregator, route, &path).await,
                });
            }
            Ok(Err(why)) => last = why,
            Err(_) => last = "context deadline exceeded".to_owned(),
        }
    }
    let service = route.service().map(|s| format!("{}.{}.svc:{}", s.name, s.namespace, s.port)).unwrap_or_default();
    Err(format!("failing or missing response from https://{service}{path}: {last}"))
}

/// What a server says in OpenAPI version 2: large, so what is known already is only asked for if it changed.
async fn published(aggregator: &Aggregator, route: &Route, path: &str) -> Option<Arc<Published>> {
    let known = aggregator.discovered(&route.name).and_then(|found| found.openapi_v2.clone());
    let etag = known.as_ref().and_then(|known| known.etag.clone());
    let asked = tokio::time::timeout(PROBE_TIMEOUT, fetch(aggregator, route, "/openapi/v2", etag)).await;
    // One that does not answer just now says what it said.
    let Ok(Ok(fetched)) = asked else { return known };
    match fetched {
        Fetched { document: None, .. } => known,
        Fetched { document: Some(document), etag } => {
            let part = openapi::Part::of(document, path);
            // A server without entity tags sends the same again.
            let same = known.filter(|known| known.part == part && known.etag == etag);
            Some(same.unwrap_or_else(|| Arc::new(Published { etag, part })))
        }
    }
}

/// What a server sent.
struct Fetched {
    /// None if it is what was known.
    document: Option<Value>,
    etag: Option<HeaderValue>,
}

/// One document of a server, unless the one of this entity tag is still it. The server's certificate is not checked here: requests
/// that are passed on check it.
async fn fetch(
    aggregator: &Aggregator,
    route: &Route,
    path: &str,
    asked: Option<HeaderValue>,
) -> Result<Fetched, String> {
    let config = crate::webhook::ClientConfig { insecure: true, ..route.config.clone() };
    let stream = aggregator.client().stream(&config).await.map_err(|error| error.to_string())?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    // Ends with the sender.
    tokio::spawn(async move {
        let _ = connection.await;
    });
    let mut request = http::Request::new(Empty::<Bytes>::new());
    *request.uri_mut() = path.parse().map_err(|error: http::uri::InvalidUri| error.to_string())?;
    *request.headers_mut() = identity_headers(&caller().identity);
    let headers = request.headers_mut();
    headers.insert(header::HOST, HeaderValue::from_static("aggregated"));
    headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
    headers.extend(asked.clone().map(|etag| (header::IF_NONE_MATCH, etag)));
    let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
    let status = response.status();
    let etag = response.headers().get(header::ETAG).cloned();
    // Whether it says so or sends it again.
    if asked.is_some() && asked == etag {
        return Ok(Fetched { document: None, etag });
    }
    if !status.is_success() {
        return Err(format!("bad status from {path}: {}", status.as_u16()));
    }
    let body = Limited::new(response.into_body(), DOCUMENT_BYTES_MAX).collect().await;
    let body = body.map_err(|error| error.to_string())?.to_bytes();
    let document = serde_json::from_slice(&body).map_err(|error| error.to_string())?;
    Ok(Fetched { document: Some(document), etag })
}

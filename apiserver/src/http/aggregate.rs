//! Requests about groups and versions that another server answers, and discovery that shows them.
//!
//! In: a request and its [`Route`]. Out: the other server's answer, as it comes. The other server is told for whom it is asked in
//! headers that it believes because of the front proxy's certificate.

use axum::body::Body;
use bytes::Bytes;
use gantry_api::kinds::Catalog;
use gantry_api::{ApiError, discovery, openapi};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use serde_json::Value;

use super::proxy::{Onward, PassError, pass_on};
use super::request_info::RequestInfo;
use super::{App, negotiate, respond};
use crate::aggregation::{self, Route, identity_headers};
use crate::auth::Identity;

/// The way of a request, if it is not this server's to answer: `/apis/GROUP/VERSION`, everything below it, and its OpenAPI.
pub fn route(app: &App, info: &RequestInfo) -> Option<std::sync::Arc<Route>> {
    if info.is_resource {
        return app.aggregator.route(&info.group, &info.version);
    }
    let parts: Vec<&str> = info.path.split('/').filter(|part| !part.is_empty()).collect();
    match parts.as_slice() {
        ["apis", group, version] | ["openapi", "v3", "apis", group, version] => app.aggregator.route(group, version),
        ["api", version] | ["openapi", "v3", "api", version] => app.aggregator.route("", version),
        _ => None,
    }
}

/// Text, as the aggregator answers where the other server cannot.
fn unavailable(code: StatusCode, text: String) -> Response<Body> {
    respond::respond(code, "text/plain; charset=utf-8", Bytes::from(text + "\n"))
}

/// Passes a request on to the server behind `route`.
pub async fn forward(
    app: &App,
    route: &Route,
    info: &RequestInfo,
    identity: &Identity,
    request: Request<Body>,
) -> Result<Response<Body>, ApiError> {
    let out_of_service = || unavailable(StatusCode::SERVICE_UNAVAILABLE, "service unavailable".to_owned());
    if !route.available {
        return Ok(out_of_service());
    }
    let stream = match app.aggregator.client().stream(&route.config).await {
        Ok(stream) => stream,
        Err(error) => {
            tracing::warn!(service = route.name, %error, "an aggregated server cannot be reached");
            return Ok(unavailable(StatusCode::SERVICE_UNAVAILABLE, format!("error trying to reach service: {error}")));
        }
    };
    let path_and_query = request.uri().path_and_query().map_or("/", |path| path.as_str()).to_owned();
    let authority = authority(route);
    let onward = Onward { authority: &authority, path_and_query: &path_and_query, headers: identity_headers(identity) };
    match pass_on(app, info, stream, onward, request).await {
        Ok(response) => Ok(response),
        Err(PassError::Request(error)) => Err(error),
        Err(PassError::Connection(error)) => {
            tracing::warn!(service = route.name, %error, "an aggregated server did not answer");
            Ok(unavailable(StatusCode::SERVICE_UNAVAILABLE, format!("error trying to reach service: {error}")))
        }
    }
}

fn authority(route: &Route) -> String {
    match &route.config.endpoint {
        crate::webhook::Endpoint::Service(service) => {
            format!("{}.{}.svc:{}", service.name, service.namespace, service.port)
        }
        crate::webhook::Endpoint::Url(url) => url.clone(),
    }
}

/// The documents in which both this server's groups and those of others stand; none if there are no others, or the path is of
/// another document.
pub fn documents(app: &App, path: &str, headers: &HeaderMap) -> Option<Result<Response<Body>, ApiError>> {
    let all = app.aggregator.all();
    if all.is_empty() {
        return None;
    }
    let catalog: &Catalog = &app.registry.live_catalog().now();
    let routes = || all.iter().map(|(route, _)| route.as_ref());
    let found = || all.iter().map(|(route, found)| (route.as_ref(), found.as_deref()));
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    match parts.as_slice() {
        ["apis"] if negotiate::accepts_aggregated_discovery(accept) => {
            let document = aggregation::merge_aggregated(discovery::aggregated_apis(catalog), found());
            Some(Ok(tagged(Bytes::from(document.to_string()), super::discovery::AGGREGATED, headers)))
        }
        ["apis"] => {
            let document = aggregation::merge_groups(discovery::group_list(catalog), routes());
            Some(negotiated(&document, headers))
        }
        ["apis", group] => {
            let document = aggregation::merge_group(discovery::group(catalog, group), group, routes())?;
            Some(negotiated(&document, headers))
        }
        ["openapi", "v3"] => {
            let document = aggregation::merge_openapi(openapi::v3_index(catalog), found());
            Some(Ok(tagged(Bytes::from(document.to_string()), "application/json", headers)))
        }
        _ => None,
    }
}

/// A plain document in the form that the client accepts.
fn negotiated(document: &Value, headers: &HeaderMap) -> Result<Response<Body>, ApiError> {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    let format = negotiate::accept(accept, negotiate::Offer::DOCUMENT)?.format;
    let bytes = respond::in_format(format, Bytes::from(document.to_string()))?;
    Ok(tagged(bytes, format.content_type(), headers))
}

/// A document with its entity tag, or word that the client has it already.
fn tagged(bytes: Bytes, content_type: &'static str, headers: &HeaderMap) -> Response<Body> {
    let etag = super::discovery::etag(&bytes);
    let known = headers.get(header::IF_NONE_MATCH).is_some_and(|told| *told == etag);
    let mut response = if known {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else {
        respond::respond(StatusCode::OK, content_type, bytes)
    };
    let headers = response.headers_mut();
    headers.insert(header::ETAG, etag);
    headers.insert(header::VARY, HeaderValue::from_static("Accept"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public"));
    response
}

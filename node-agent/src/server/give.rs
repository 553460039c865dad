//! Parts of images for other nodes, in the way of registries.

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use axum::routing::get;
use axum::{Extension, Router};
use http::{Request, StatusCode};

use super::error::ApiError;
use super::tls::Caller;
use crate::peers::{CREDENTIALS, Offer, Refused, Wanted, offset, partial};

/// The paths, if anything is given.
pub(super) fn router(offer: Option<Offer>) -> Router {
    match offer {
        Some(offer) => Router::new().route("/v2/{*part}", get(give)).with_state(offer),
        None => Router::new(),
    }
}

async fn give(
    State(offer): State<Offer>,
    Extension(caller): Extension<Caller>,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    let to = caller.node().ok_or_else(|| {
        ApiError::new(StatusCode::FORBIDDEN, format!("Forbidden (user={}): images are for nodes", caller.user))
    })?;
    let uri = request.uri();
    let wanted = Wanted::parse(uri.path(), uri.query());
    let wanted = wanted.ok_or_else(|| ApiError::bad_request("a part of an image is asked for by its digest"))?;
    let proofs = request.headers().get(CREDENTIALS).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let offset = offset(request.headers());
    match offer.give(&wanted, offset, to, proofs).await {
        Ok(given) => Ok(partial(offset, given.total, Body::from_stream(given.bytes))),
        Err(error @ Refused::NotFound) => Err(ApiError::not_found(error.to_string())),
        Err(error @ Refused::Busy) => Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string())),
        Err(Refused::Runtime(error)) => Err(error.into()),
    }
}

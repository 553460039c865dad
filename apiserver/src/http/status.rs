//! The only place that knows HTTP status codes of errors.
//!
//! In: an [`ApiError`]. Out: its code and the `Status` response.

use axum::body::Body;
use bytes::Bytes;
use gantry_api::{ApiError, Reason};
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::{Value, json};

use super::negotiate::Format;
use super::respond;

/// The HTTP code of an error.
pub fn code(error: &ApiError) -> StatusCode {
    let told = error.status.as_ref().and_then(|status| status["code"].as_u64());
    if let Some(code) = told.and_then(|code| u16::try_from(code).ok()).and_then(|code| StatusCode::from_u16(code).ok())
    {
        return code;
    }
    match error.reason {
        Reason::BadRequest => StatusCode::BAD_REQUEST,
        Reason::Unauthorized => StatusCode::UNAUTHORIZED,
        Reason::Forbidden => StatusCode::FORBIDDEN,
        Reason::NotFound => StatusCode::NOT_FOUND,
        Reason::AlreadyExists | Reason::Conflict => StatusCode::CONFLICT,
        Reason::Gone | Reason::Expired => StatusCode::GONE,
        Reason::Invalid => StatusCode::UNPROCESSABLE_ENTITY,
        Reason::NotAcceptable => StatusCode::NOT_ACCEPTABLE,
        Reason::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        Reason::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
        Reason::RequestEntityTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Reason::Timeout => StatusCode::GATEWAY_TIMEOUT,
        Reason::TooManyRequests => StatusCode::TOO_MANY_REQUESTS,
        Reason::ServiceUnavailable => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// The response to a request that failed, in the form that its client reads.
pub fn response(error: &ApiError, format: Format) -> Response<Body> {
    let code = code(error);
    let json = Bytes::from(error.to_status(code.as_u16()).to_string());
    let (format, body) = match respond::in_format(format, json.clone()) {
        Ok(body) => (format, body),
        Err(_) => (Format::Json, json),
    };
    let mut response = respond::respond(code, format.content_type(), body);
    let retry_after = error.details.as_ref().map_or(0, |details| details.retry_after_seconds);
    if retry_after > 0 {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(retry_after));
    }
    response
}

/// The `Status` of a request that succeeded and has nothing else to say.
pub fn success(code: StatusCode) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": code.as_u16()})
}

/// The answer for a path nothing is served at.
pub fn no_such_path() -> ApiError {
    ApiError::new(Reason::NotFound, "the server could not find the requested resource")
        .with_details(gantry_api::error::Details::default())
}

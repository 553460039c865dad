//! Successful responses: objects and lists in the representation that was agreed on.
//!
//! In: encoded objects. Out: bytes and responses. JSON objects pass through untouched, lists of them piece by piece; protobuf is written from the same
//! bytes; only tables, YAML and pretty-printing parse anything.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Body;
use bytes::Bytes;
use gantry_api::codec::ListPieces;
use gantry_api::kinds::Resource;
use gantry_api::protobuf::{self, ProtobufError};
use gantry_api::table::IncludeObject;
use gantry_api::{ApiError, codec};
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use serde_json::{Value, json};

use super::negotiate::{Accepted, Format, Transform};
use super::params::Params;
use crate::registry::ListResult;

/// Longer lists than this are not rendered between other requests: an object takes some ten microseconds.
const WRITTEN_AT_ONCE_MAX: usize = 100;

/// How an object is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// As it is.
    Object,
    /// As `PartialObjectMetadata`.
    Metadata,
    /// As a `Table`.
    Table(IncludeObject),
}

/// What the client wants to see, from negotiation and parameters.
#[derive(Debug, Clone, Copy)]
pub struct Representation {
    /// How objects are shown.
    pub shape: Shape,
    /// How they are written.
    pub format: Format,
    pretty: bool,
}

impl Representation {
    /// Puts the pieces together.
    pub fn new(accepted: Accepted, params: &Params, headers: &HeaderMap) -> Result<Self, ApiError> {
        let shape = match accepted.transform {
            Transform::None => Shape::Object,
            Transform::MetadataOnly => Shape::Metadata,
            Transform::Table => Shape::Table(match params.text("includeObject") {
                None | Some("Metadata") => IncludeObject::Metadata,
                Some("None") => IncludeObject::None,
                Some("Object") => IncludeObject::Object,
                Some(other) => {
                    return Err(ApiError::bad_request(format!("unrecognized includeObject value: \"{other}\"")));
                }
            }),
        };
        let agent = headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let pretty = (accepted.pretty || params.pretty(agent)) && accepted.format == Format::Json;
        Ok(Self { shape, format: accepted.format, pretty })
    }

    /// A response with an object.
    pub fn object(&self, code: StatusCode, resource: &Resource, object: Bytes) -> Result<Response<Body>, ApiError> {
        if self.format == Format::Protobuf {
            return Ok(respond(code, self.format.content_type(), message(resource, &object, self.shape)?));
        }
        let shaped = shape_object(resource, object, self.shape)?;
        self.bytes(code, shaped)
    }

    /// A response with a list.
    pub async fn list(self, resource: &Arc<Resource>, list: ListResult) -> Result<Response<Body>, ApiError> {
        if (self.shape, self.format, self.pretty) == (Shape::Object, Format::Json, false) {
            let token = list.continue_token.as_deref();
            let pieces = codec::write_list(resource, list.revision, token, list.remaining, list.objects);
            return Ok(respond(StatusCode::OK, self.format.content_type(), Body::new(ListBody(pieces))));
        }
        if list.objects.len() <= WRITTEN_AT_ONCE_MAX {
            return self.write_list(resource, list);
        }
        let resource = Arc::clone(resource);
        tokio::task::spawn_blocking(move || self.write_list(&resource, list)).await.map_err(ApiError::internal)?
    }

    /// A list whose objects must be looked into.
    fn write_list(self, resource: &Resource, list: ListResult) -> Result<Response<Body>, ApiError> {
        let (token, items) = (list.continue_token.as_deref(), list.objects.iter());
        if self.format == Format::Protobuf {
            let message = match self.shape {
                Shape::Metadata => protobuf::metadata_list(list.revision, token, list.remaining, items),
                _ => protobuf::list(resource, list.revision, token, list.remaining, items),
            };
            let message = message.map_err(unwritable)?;
            return Ok(respond(StatusCode::OK, self.format.content_type(), message));
        }
        let bytes = match self.shape {
            Shape::Object => codec::write_list(resource, list.revision, token, list.remaining, list.objects).whole(),
            Shape::Metadata => codec::write_metadata_list(list.revision, token, list.remaining, items)?,
            Shape::Table(include) => super::tables::list(resource, &list, include)?,
        };
        self.bytes(StatusCode::OK, bytes)
    }

    /// A response with a document, given as JSON bytes.
    pub fn bytes(&self, code: StatusCode, bytes: Bytes) -> Result<Response<Body>, ApiError> {
        let bytes = if self.pretty {
            let value: Value = serde_json::from_slice(&bytes).map_err(ApiError::internal)?;
            Bytes::from(serde_json::to_vec_pretty(&value).map_err(ApiError::internal)?)
        } else {
            in_format(self.format, bytes)?
        };
        Ok(respond(code, self.format.content_type(), bytes))
    }

    /// A response with a document.
    pub fn document(&self, code: StatusCode, value: &Value) -> Result<Response<Body>, ApiError> {
        self.bytes(code, Bytes::from(value.to_string()))
    }
}

/// A JSON document in a format.
pub fn in_format(format: Format, json: Bytes) -> Result<Bytes, ApiError> {
    match format {
        Format::Json => Ok(json),
        Format::Yaml => {
            let value: Value = serde_json::from_slice(&json).map_err(ApiError::internal)?;
            serde_saphyr::to_string(&value).map(Bytes::from).map_err(ApiError::internal)
        }
        Format::Protobuf => protobuf::document(&json).map_err(unwritable),
    }
}

/// What has no messages is not acceptable as such; everything else is a fault of what was stored.
pub fn unwritable(error: ProtobufError) -> ApiError {
    match error {
        ProtobufError::NoMessage(_) => ApiError::not_acceptable(error.to_string()),
        error => ApiError::internal(error),
    }
}

/// One object in a shape, as a message.
pub fn message(resource: &Resource, object: &[u8], shape: Shape) -> Result<Bytes, ApiError> {
    let message = match shape {
        Shape::Metadata => protobuf::metadata(object),
        Shape::Object | Shape::Table(_) => protobuf::object(resource, object),
    };
    message.map_err(unwritable)
}

/// One object in a shape.
pub fn shape_object(resource: &Resource, object: Bytes, shape: Shape) -> Result<Bytes, ApiError> {
    match shape {
        Shape::Object => Ok(object),
        Shape::Metadata => codec::to_metadata_only(&object),
        Shape::Table(include) => super::tables::one(resource, &object, include, true),
    }
}

/// A BOOKMARK event of a watch for tables: a table without rows.
pub fn table_bookmark(revision: u64, initial_events_end: bool) -> Bytes {
    let mut metadata = json!({"resourceVersion": revision.to_string()});
    if initial_events_end {
        metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
    }
    let table = json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata, "columnDefinitions": null, "rows": []});
    codec::watch_frame("BOOKMARK", table.to_string().as_bytes())
}

/// A list that is written as the client reads it.
struct ListBody(ListPieces);

impl http_body::Body for ListBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.next().map(|piece| Ok(http_body::Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        http_body::SizeHint::with_exact(self.0.len() as u64)
    }
}

/// A response with a body.
pub fn respond(code: StatusCode, content_type: &'static str, body: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(body.into());
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// A JSON response.
pub fn json(code: StatusCode, value: &Value) -> Response<Body> {
    respond(code, "application/json", value.to_string())
}

/// Adds `Warning` headers.
pub fn warn(headers: &mut HeaderMap, warnings: &[String]) {
    for warning in warnings {
        let text: String = warning.chars().filter(|c| !c.is_control()).collect();
        if let Ok(value) = HeaderValue::from_str(&format!("299 - {}", gantry_api::error::quote(&text))) {
            headers.append(header::WARNING, value);
        }
    }
}

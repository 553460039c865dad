//! `/gantry/store/…`: the store's administration, for members of `system:masters` and whom a rule for these paths allows.
//!
//! | request | answer |
//! |---|---|
//! | `GET /gantry/store/status` | engine, revisions, size, key, last backup |
//! | `GET /gantry/store/snapshot` | a backup, as a stream |
//! | `POST /gantry/store/compact?before=REVISION` | the revision before which history is dropped |
//! | `POST /gantry/store/rotate` | what a change of keys did; the body says `{"newKey": …, "dropOld": …}` |

use axum::body::Body;
use futures::StreamExt;
use gantry_api::{ApiError, Reason};
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use serde::Deserialize;

use super::params::Params;
use super::{App, read_body, respond, status};
use crate::encryption::{EncryptionError, RotateOptions};
use crate::registry::errors;

/// Where the paths begin.
pub const ROOT: &str = "/gantry/store/";

/// What a change of keys is to do.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct Rotate {
    new_key: bool,
    drop_old: bool,
}

/// Answers a request below [`ROOT`]; the caller is authorized.
pub async fn answer(
    app: &App,
    path: &str,
    params: &Params,
    request: Request<Body>,
) -> Result<Response<Body>, ApiError> {
    let operations = &app.operations;
    let verb = path.strip_prefix(ROOT).unwrap_or_default();
    match (request.method(), verb) {
        (&Method::GET, "status") => object(&operations.status().await.map_err(errors::from_store)?),
        (&Method::GET, "snapshot") => {
            let stream = operations
                .snapshot()
                .map(|part| part.inspect_err(|error| tracing::warn!(%error, "a snapshot broke off")));
            let mut response = Response::new(Body::from_stream(stream));
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
            Ok(response)
        }
        (&Method::POST, "compact") => {
            let before = match params.text("before").filter(|text| !text.is_empty()) {
                None => None,
                Some(text) => {
                    Some(text.parse().map_err(|_| ApiError::bad_request(format!("before={text} is no revision")))?)
                }
            };
            match operations.compact(before).await {
                Ok(before) => object(&serde_json::json!({"before": before})),
                Err(gantry_store::Error::FutureRevision { requested, current }) => Err(ApiError::bad_request(format!(
                    "revision {requested} has not been reached; the current one is {current}"
                ))),
                Err(error) => Err(errors::from_store(error)),
            }
        }
        (&Method::POST, "rotate") => {
            let body = read_body(request.into_body()).await?;
            let Rotate { new_key, drop_old } = if body.is_empty() {
                Rotate::default()
            } else {
                serde_json::from_slice(&body).map_err(|error| ApiError::bad_request(error.to_string()))?
            };
            object(&operations.rotate(RotateOptions { new_key, drop_old }).await.map_err(refusal)?)
        }
        (_, "status" | "snapshot" | "compact" | "rotate") => Err(ApiError::new(
            Reason::MethodNotAllowed,
            "the server does not allow this method on the requested resource",
        )),
        _ => Err(status::no_such_path()),
    }
}

fn object(value: &impl serde::Serialize) -> Result<Response<Body>, ApiError> {
    let value = serde_json::to_value(value).map_err(ApiError::internal)?;
    Ok(respond::json(StatusCode::OK, &value))
}

fn refusal(error: EncryptionError) -> ApiError {
    match error {
        EncryptionError::Store(error) => errors::from_store(error),
        error => {
            let mut text = error.to_string();
            let mut cause = std::error::Error::source(&error);
            while let Some(error) = cause {
                text = format!("{text}: {error}");
                cause = error.source();
            }
            ApiError::internal(text)
        }
    }
}

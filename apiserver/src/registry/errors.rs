//! What the store's errors mean to a client.

use gantry_api::{ApiError, Reason};
use gantry_store::Error;

/// The answer to a request that failed in the store.
pub fn from_store(error: Error) -> ApiError {
    match error {
        Error::Compacted { .. } => expired_list(),
        Error::FutureRevision { requested, current } => too_large_resource_version(requested, current),
        Error::TooLarge { .. } => {
            ApiError::new(Reason::RequestEntityTooLarge, format!("Request entity too large: {error}"))
        }
        Error::UnknownOutcome(_) => {
            ApiError::new(Reason::Timeout, describe("Timeout: the write may or may not have happened", &error))
        }
        Error::Unavailable(_) | Error::Closed | Error::WritesStopped { .. } => {
            ApiError::new(Reason::ServiceUnavailable, describe("the store cannot be used at the moment", &error))
        }
        error => ApiError::internal(describe("the store failed", &error)),
    }
}

/// Something is stored that cannot be read.
pub fn unreadable(key: &str, reason: &str) -> ApiError {
    ApiError::internal(format!("cannot decrypt or read \"{key}\": {reason}"))
}

fn describe(what: &str, error: &Error) -> String {
    let mut text = format!("{what}: {error}");
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// A list cannot go on since its snapshot is gone; with `token` it can go on with what there is by now.
pub fn expired_continue(token: &str) -> ApiError {
    ApiError::expired(
        "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.",
    )
    .with_continue(token)
}

/// The snapshot that a list is to show is gone.
fn expired_list() -> ApiError {
    ApiError::expired("The resourceVersion for the provided list is too old.")
}

/// Whether this says that a snapshot is gone.
pub fn is_compacted(error: &Error) -> bool {
    matches!(error, Error::Compacted { .. })
}

/// A watch cannot start there any more.
pub fn too_old(requested: u64, oldest: u64) -> ApiError {
    ApiError::expired(format!("too old resource version: {requested} ({oldest})"))
}

/// A read of what has not happened yet.
pub fn too_large_resource_version(requested: u64, current: u64) -> ApiError {
    ApiError::new(Reason::Timeout, format!("Timeout: Too large resource version: {requested}, current: {current}"))
        .with_details(gantry_api::error::Details {
            causes: vec![gantry_api::Cause {
                reason: "ResourceVersionTooLarge".to_owned(),
                message: "Too large resource version".to_owned(),
                field: String::new(),
            }],
            retry_after_seconds: 1,
            ..Default::default()
        })
}

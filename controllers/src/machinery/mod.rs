//! What every controller stands on: one shared watch a resource type ([`cache`]), keyed work queues ([`queue`]),
//! the events recorder ([`events`]), knowing whether a cache has caught up with our own writes ([`freshness`]),
//! discovery of resource types ([`discovery`]) and small helpers on API objects.
//!
//! In: the API's watches. Out: keys for the controllers, and the requests that they make through a client whose
//! number of requests in flight is bounded.

pub mod cache;
pub mod claim;
pub mod client;
pub mod context;
pub mod discovery;
pub mod events;
pub mod freshness;
pub mod objects;
pub mod owners;
pub mod patch;
pub mod pods;
pub mod queue;
pub mod runner;
pub mod services;
#[cfg(test)]
pub mod testing;
pub mod workload;

use thiserror::Error;

/// What can go wrong while one key is reconciled. Every kind is retried with back-off by the [`queue`].
#[derive(Debug, Error)]
pub enum Error {
    /// The API refused or could not be reached.
    #[error("the API request failed")]
    Api(#[from] kube::Error),
    /// An object could not be turned into JSON.
    #[error("the object can't be encoded")]
    Encode(#[from] serde_json::Error),
    /// An object carries a selector that has no meaning.
    #[error("the selector of {object} is invalid: {reason}")]
    Selector {
        /// Which object.
        object: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Part of the work of a key failed; the rest was done.
    #[error("{failed} of {total} requests failed; the first: {first}")]
    Partial {
        /// How many failed.
        failed: usize,
        /// Of how many.
        total: usize,
        /// The first failure, in words.
        first: String,
    },
    /// The world is not yet as it has to be; trying again is all there is to do.
    #[error("{0}")]
    Retry(&'static str),
}

impl Error {
    /// The API's status code, when it answered with one.
    pub fn code(&self) -> Option<u16> {
        match self {
            Error::Api(kube::Error::Api(status)) => Some(status.code),
            _ => None,
        }
    }

    /// What went wrong in one line for the log: the API's own message where there is one.
    pub fn words(&self) -> String {
        match self {
            Error::Api(error) => message_of(error),
            other => other.to_string(),
        }
    }

    /// Somebody else wrote first, or the object is gone: the next look at the cache sorts it out.
    pub fn is_race(&self) -> bool {
        matches!(self.code(), Some(404 | 409)) || matches!(self, Error::Retry(_))
    }
}

/// Says in words what went wrong, for events and conditions: the API's own message where there is one.
pub fn message_of(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

/// The API has no such object.
pub fn is_not_found(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

/// A create met an object of the same name.
pub fn is_already_exists(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409 && status.reason == "AlreadyExists")
}

/// A write met a newer version, or a precondition did not hold.
pub fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409 && status.reason != "AlreadyExists")
}

/// A create was refused because its namespace is being deleted: not worth an event or a retry.
pub fn is_namespace_terminating(error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else {
        return false;
    };
    let by_cause =
        status.details.iter().flat_map(|details| &details.causes).any(|cause| cause.reason == "NamespaceTerminating");
    by_cause || (status.code == 403 && status.message.contains("because it is being terminated"))
}

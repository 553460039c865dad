//! Objects as bytes: what is stored, listed and sent to watchers.
//!
//! In: a [`Value`] once, when it is written; stored bytes ever after. Out: canonical JSON whose resourceVersion is
//! spliced in, lists as concatenations, watch frames, and the few facts the watch cache keeps.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::Value;

use crate::error::ApiError;
use crate::kinds::Resource;

/// The few decoded fields of an object that the watch cache keeps beside its bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ObjectFacts {
    /// The namespace; empty for a cluster-wide kind.
    pub namespace: String,
    /// The name.
    pub name: String,
    /// The UID.
    pub uid: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Selectable fields by label, with `metadata.name` and `metadata.namespace`.
    pub fields: BTreeMap<&'static str, String>,
    /// The UIDs of its owners.
    pub owners: Vec<String>,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// Whether finalizers hold it.
    pub finalized: bool,
}

/// Canonical bytes: keys sorted, but apiVersion, kind and metadata first; without `metadata.resourceVersion`.
pub fn encode(object: &Value) -> Bytes {
    let _ = object;
    unimplemented!()
}

/// Parses stored bytes.
pub fn decode(stored: &[u8]) -> Result<Value, ApiError> {
    let _ = stored;
    unimplemented!()
}

/// Stored bytes with their resourceVersion, without parsing.
pub fn with_resource_version(stored: &[u8], revision: u64) -> Bytes {
    let _ = (stored, revision);
    unimplemented!()
}

/// The facts of a stored object, without parsing all of it.
pub fn facts(resource: &Resource, stored: &[u8]) -> Result<ObjectFacts, ApiError> {
    let _ = (resource, stored);
    unimplemented!()
}

/// A list of objects: a concatenation of their bytes.
pub fn write_list<'a>(
    resource: &Resource,
    revision: u64,
    continue_token: Option<&str>,
    remaining: Option<u64>,
    items: impl Iterator<Item = &'a Bytes>,
) -> Bytes {
    let _ = (resource, revision, continue_token, remaining, items);
    unimplemented!()
}

/// The same, of `PartialObjectMetadata`.
pub fn write_metadata_list<'a>(
    revision: u64,
    continue_token: Option<&str>,
    remaining: Option<u64>,
    items: impl Iterator<Item = &'a Bytes>,
) -> Bytes {
    let _ = (revision, continue_token, remaining, items);
    unimplemented!()
}

/// One watch event (`ADDED`, `MODIFIED`, `DELETED`), with its newline.
pub fn watch_frame(event: &str, object: &[u8]) -> Bytes {
    let _ = (event, object);
    unimplemented!()
}

/// A BOOKMARK event of a resource; `initial_events_end` marks the end of a streaming list.
pub fn bookmark(resource: &Resource, revision: u64, initial_events_end: bool) -> Bytes {
    let _ = (resource, revision, initial_events_end);
    unimplemented!()
}

/// A BOOKMARK event of a watch for `PartialObjectMetadata`.
pub fn metadata_bookmark(revision: u64, initial_events_end: bool) -> Bytes {
    let _ = (revision, initial_events_end);
    unimplemented!()
}

/// An ERROR event around a Status.
pub fn error_frame(status: &Value) -> Bytes {
    let _ = status;
    unimplemented!()
}

/// An object's bytes as `PartialObjectMetadata`, without parsing all of it.
pub fn to_metadata_only(object: &[u8]) -> Result<Bytes, ApiError> {
    let _ = object;
    unimplemented!()
}

//! Server-side apply.
use jiff::Timestamp;
use serde_json::Value;

use crate::error::ApiError;
use crate::schema::SchemaRef;

/// Applies a configuration; the answer has its `metadata.managedFields`.
#[allow(clippy::too_many_arguments, reason = "the arguments of one apply request")]
pub fn apply(
    schema: SchemaRef<'_>,
    api_version: &str,
    current: Option<&Value>,
    applied: &Value,
    manager: &str,
    force: bool,
    subresource: Option<&str>,
    now: Timestamp,
) -> Result<Value, ApiError> {
    let _ = (schema, api_version, current, applied, manager, force, subresource, now);
    unimplemented!()
}

/// Records who set which field on create, update and patch.
pub fn track_update(
    schema: SchemaRef<'_>,
    api_version: &str,
    old: Option<&Value>,
    new: &mut Value,
    manager: &str,
    subresource: Option<&str>,
    now: Timestamp,
) {
    let _ = (schema, api_version, old, new, manager, subresource, now);
}

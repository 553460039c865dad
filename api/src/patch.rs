//! JSON patch, merge patch and strategic merge patch.
use serde_json::Value;

use crate::error::ApiError;
use crate::schema::SchemaRef;

/// RFC 6902.
pub fn json(current: &Value, body: &[u8]) -> Result<Value, ApiError> {
    let _ = (current, body);
    unimplemented!()
}

/// RFC 7386.
pub fn merge(current: &Value, body: &[u8]) -> Result<Value, ApiError> {
    let _ = (current, body);
    unimplemented!()
}

/// Kubernetes' strategic merge patch.
pub fn strategic(schema: SchemaRef<'_>, current: &Value, patch: &Value) -> Result<Value, ApiError> {
    let _ = (schema, current, patch);
    unimplemented!()
}

//! JSON patch (RFC 6902), with the bounds that keep a small body from becoming a large object.

use json_patch::{Patch, PatchOperation};
use serde_json::Value;

use super::{inapplicable, undecodable};
use crate::error::{ApiError, Reason};

/// No patch has more operations, as in Kubernetes.
const MAX_OPERATIONS: usize = 10_000;
/// What all `copy` operations together may copy: ten times the largest request body, as in Kubernetes. Without it a
/// few hundred bytes of copies double an object until memory ends.
const MAX_COPIED_BYTES: usize = 10 * 3 * 1024 * 1024;

/// How deep the object may nest while it is patched. Copies into themselves double the depth, and what walks an object
/// recurses. Decoding bounds the outcome more tightly.
const MAX_DEPTH: usize = 200;

/// Why operations cannot be applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JsonPatchError {
    /// They are none.
    #[error("{0}")]
    Undecodable(String),
    /// There are too many of them.
    #[error("Request entity is too large: The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {0}")]
    TooMany(usize),
    /// What they make is too large or too deep.
    #[error("the patched object would be too large")]
    TooLarge,
    /// A `test` among them failed.
    #[error("{0}")]
    Test(String),
    /// One of them does not fit the object.
    #[error("{0}")]
    Unfit(String),
}

/// Applies a list of operations, all or nothing.
pub fn json(current: &Value, body: &[u8]) -> Result<Value, ApiError> {
    let patch: Patch = serde_json::from_slice(body).map_err(undecodable)?;
    apply(current, &patch).map_err(|error| match error {
        JsonPatchError::TooMany(_) => ApiError::new(Reason::RequestEntityTooLarge, error.to_string()),
        _ => inapplicable(),
    })
}

/// Applies operations that were made here, all or nothing.
pub fn operations(current: &Value, operations: &[Value]) -> Result<Value, JsonPatchError> {
    let patch = serde_json::from_value(Value::from(operations.to_vec()));
    apply(current, &patch.map_err(|error| JsonPatchError::Undecodable(error.to_string()))?)
}

fn apply(current: &Value, patch: &Patch) -> Result<Value, JsonPatchError> {
    if patch.len() > MAX_OPERATIONS {
        return Err(JsonPatchError::TooMany(patch.len()));
    }
    let mut object = current.clone();
    let mut copied = 0;
    for operation in &patch.0 {
        if let PatchOperation::Copy(copy) = operation {
            copied += object.pointer(copy.from.as_str()).map_or(0, size);
            if copied > MAX_COPIED_BYTES {
                return Err(JsonPatchError::TooLarge);
            }
        }
        if nests_too_deep(&object, operation) {
            return Err(JsonPatchError::TooLarge);
        }
        if tests_absence(&object, operation) {
            continue;
        }
        json_patch::patch_unsafe(&mut object, std::slice::from_ref(operation)).map_err(|error| match operation {
            PatchOperation::Test(_) => JsonPatchError::Test(error.to_string()),
            _ => JsonPatchError::Unfit(error.to_string()),
        })?;
    }
    Ok(object)
}

/// Whether the operation tests that a field of an object is null, and the field is not there: Kubernetes' JSON patches take that
/// for the same, and clients add the first item of a list behind such a test.
fn tests_absence(object: &Value, operation: &PatchOperation) -> bool {
    let PatchOperation::Test(test) = operation else { return false };
    let Some((parent, field)) = test.path.split_back() else { return false };
    let parent = object.pointer(parent.as_str()).and_then(Value::as_object);
    test.value.is_null() && parent.is_some_and(|parent| !parent.contains_key(field.decoded().as_ref()))
}

/// Whether what the operation writes would stand too deep.
fn nests_too_deep(object: &Value, operation: &PatchOperation) -> bool {
    let written = match operation {
        PatchOperation::Add(add) => Some(&add.value),
        PatchOperation::Replace(replace) => Some(&replace.value),
        PatchOperation::Copy(copy) => object.pointer(copy.from.as_str()),
        PatchOperation::Move(moved) => object.pointer(moved.from.as_str()),
        PatchOperation::Remove(_) | PatchOperation::Test(_) => None,
    };
    let at = operation.path().tokens().count();
    written.is_some_and(|value| at > MAX_DEPTH || is_deeper(value, MAX_DEPTH - at))
}

/// Whether a value nests deeper than so many levels.
fn is_deeper(value: &Value, levels: usize) -> bool {
    let Some(below) = levels.checked_sub(1) else { return value.is_object() || value.is_array() };
    match value {
        Value::Array(items) => items.iter().any(|item| is_deeper(item, below)),
        Value::Object(map) => map.values().any(|value| is_deeper(value, below)),
        _ => false,
    }
}

/// About how many bytes a value takes as JSON.
fn size(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 8,
        Value::String(text) => text.len() + 2,
        Value::Array(items) => items.iter().map(|item| size(item) + 1).sum::<usize>() + 2,
        Value::Object(map) => map.iter().map(|(key, value)| key.len() + size(value) + 4).sum::<usize>() + 2,
    }
}

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

/// Applies a list of operations, all or nothing.
pub fn json(current: &Value, body: &[u8]) -> Result<Value, ApiError> {
    let patch: Patch = serde_json::from_slice(body).map_err(undecodable)?;
    if patch.len() > MAX_OPERATIONS {
        return Err(ApiError::new(
            Reason::RequestEntityTooLarge,
            format!(
                "Request entity is too large: The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}",
                patch.len()
            ),
        ));
    }
    let mut object = current.clone();
    let mut copied = 0;
    for operation in &patch.0 {
        if let PatchOperation::Copy(copy) = operation {
            copied += object.pointer(copy.from.as_str()).map_or(0, size);
            if copied > MAX_COPIED_BYTES {
                return Err(inapplicable());
            }
        }
        if nests_too_deep(&object, operation) {
            return Err(inapplicable());
        }
        json_patch::patch_unsafe(&mut object, std::slice::from_ref(operation)).map_err(|_| inapplicable())?;
    }
    Ok(object)
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

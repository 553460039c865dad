//! The three patches that change an object by a document: JSON patch, merge patch, strategic merge patch.
//!
//! In: the current object and a request body (for the strategic one: its parsed patch and the object's schema). Out:
//! the patched object, which still has to be decoded, defaulted and validated like any other input.

mod json;
mod strategic;
#[cfg(test)]
mod tests;

use serde_json::Value;

pub use json::{JsonPatchError, json, operations};
pub use strategic::strategic;

use crate::error::{ApiError, Details, Reason};

/// RFC 7386: the body is laid over the object and its nulls delete.
pub fn merge(current: &Value, body: &[u8]) -> Result<Value, ApiError> {
    let patch: Value = serde_json::from_slice(body).map_err(undecodable)?;
    if !patch.is_object() {
        return Err(undecodable("a merge patch must be a JSON object"));
    }
    let mut object = current.clone();
    json_patch::merge(&mut object, &patch);
    Ok(object)
}

/// A patch that is no patch.
fn undecodable(why: impl std::fmt::Display) -> ApiError {
    ApiError::bad_request(format!("error decoding patch: {why}"))
}

/// A patch that does not apply. Kubernetes says no more than this.
fn inapplicable() -> ApiError {
    ApiError::new(Reason::Invalid, "the server rejected our request due to an error in our request")
        .with_details(Details::default())
}

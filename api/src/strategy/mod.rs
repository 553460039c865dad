//! What a schema cannot say about a kind: dynamic defaults, resets, immutability and cross-field validation.
//!
//! In: an object that already has its schema's types and defaults. Out: the object completed, and the list of what is
//! wrong with it. One file a kind; the generic engine calls them.

use serde_json::Value;

use crate::error::FieldError;

/// The particulars of one kind. Every method has the answer of a kind without particulars.
pub trait Strategy: Send + Sync {
    /// Sets defaults that depend on other fields. Runs on every decode, so it must be idempotent.
    fn default(&self, object: &mut Value) {
        let _ = object;
    }

    /// Resets what a client may not set on create (the status is reset by the engine).
    fn prepare_create(&self, object: &mut Value) {
        let _ = object;
    }

    /// Takes from `old` what this update may not change (spec and status are separated by the engine).
    fn prepare_update(&self, subresource: Option<&str>, old: &Value, new: &mut Value) {
        let _ = (subresource, old, new);
    }

    /// Validates a new object.
    fn validate_create(&self, object: &Value, errors: &mut Vec<FieldError>) {
        let _ = (object, errors);
    }

    /// Validates an update. The engine has validated the new object as for create where `subresource` is none.
    fn validate_update(&self, subresource: Option<&str>, old: &Value, new: &Value, errors: &mut Vec<FieldError>) {
        let _ = (subresource, old, new, errors);
    }

    /// Warnings for the client on create and update.
    fn warnings(&self, object: &Value) -> Vec<String> {
        let _ = object;
        Vec::new()
    }
}

/// A kind without particulars.
pub struct Plain;

impl Strategy for Plain {}

//! The write path of every kind: bytes to a checked, completed object.
//!
//! In: a request's body and a [`Context`] with everything the outside knows (time, identity, unique names). Out: the
//! object to store or the error to answer. Nothing here does I/O.

mod parse;

use jiff::Timestamp;
use serde_json::Value;

use crate::error::ApiError;
use crate::kinds::Resource;

/// What to do about fields the schema does not know, and about duplicates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FieldValidation {
    /// Drop them silently.
    Ignore,
    /// Drop them and warn.
    #[default]
    Warn,
    /// Refuse the request.
    Strict,
}

/// The format of a request body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BodyFormat {
    /// `application/json`.
    #[default]
    Json,
    /// `application/yaml`.
    Yaml,
}

/// What a write needs to know from outside.
#[derive(Debug, Clone)]
pub struct Context<'a> {
    /// The time of the request.
    pub now: Timestamp,
    /// The UID a created object gets.
    pub new_uid: &'a str,
    /// Five characters that complete a `generateName`.
    pub random_suffix: &'a str,
    /// The field manager.
    pub manager: &'a str,
    /// What to do about unknown fields.
    pub field_validation: FieldValidation,
    /// Whether nothing will be stored.
    pub dry_run: bool,
    /// Warnings for the client, collected along the way.
    pub warnings: Vec<String>,
}

/// Whether an update changes anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Changed {
    /// There is something to write.
    Yes,
    /// The object is as it was: the server answers without writing.
    No,
}

/// The kind of a patch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PatchType {
    /// `application/json-patch+json`.
    Json,
    /// `application/merge-patch+json`.
    Merge,
    /// `application/strategic-merge-patch+json`.
    Strategic,
    /// `application/apply-patch+yaml`.
    Apply {
        /// Whether conflicts are overruled.
        force: bool,
    },
}

/// Reads an object of `resource` from a request body.
pub fn decode(resource: &Resource, body: &[u8], format: BodyFormat, ctx: &mut Context<'_>) -> Result<Value, ApiError> {
    let _ = (resource, body, format, ctx);
    unimplemented!()
}

/// Reads the body of a request to a subresource: the resource's own kind for `status`, `Scale`, `Binding`, ….
pub fn decode_subresource(
    resource: &Resource,
    subresource: &str,
    body: &[u8],
    format: BodyFormat,
    ctx: &mut Context<'_>,
) -> Result<Value, ApiError> {
    let _ = (resource, subresource, body, format, ctx);
    unimplemented!()
}

/// Reads `DeleteOptions` from the body of a DELETE; an empty body gives an empty object.
pub fn decode_delete_options(body: &[u8], format: BodyFormat) -> Result<Value, ApiError> {
    let _ = (body, format);
    unimplemented!()
}

/// Completes a new object before admission: namespace, name, system metadata, defaults, the strategy's resets.
pub fn prepare_create(
    resource: &Resource,
    object: &mut Value,
    namespace: Option<&str>,
    ctx: &mut Context<'_>,
) -> Result<(), ApiError> {
    let _ = (resource, object, namespace, ctx);
    unimplemented!()
}

/// Validates a new object after admission and records its field manager.
pub fn finish_create(resource: &Resource, object: &mut Value, ctx: &mut Context<'_>) -> Result<(), ApiError> {
    let _ = (resource, object, ctx);
    unimplemented!()
}

/// Completes an update before admission: what the client may not change is taken from `old`.
pub fn prepare_update(
    resource: &Resource,
    subresource: Option<&str>,
    old: &Value,
    new: &mut Value,
    ctx: &mut Context<'_>,
) -> Result<(), ApiError> {
    let _ = (resource, subresource, old, new, ctx);
    unimplemented!()
}

/// Validates an update after admission, bumps the generation and records the field manager.
pub fn finish_update(
    resource: &Resource,
    subresource: Option<&str>,
    old: &Value,
    new: &mut Value,
    ctx: &mut Context<'_>,
) -> Result<Changed, ApiError> {
    let _ = (resource, subresource, old, new, ctx);
    unimplemented!()
}

/// Applies a patch to the current object (absent: only for [`PatchType::Apply`]) and decodes the result. The answer
/// goes on to [`prepare_update`] or, for an absent object, [`prepare_create`].
pub fn patch(
    resource: &Resource,
    subresource: Option<&str>,
    current: Option<&Value>,
    kind: PatchType,
    body: &[u8],
    ctx: &mut Context<'_>,
) -> Result<Value, ApiError> {
    let _ = (resource, subresource, current, kind, body, ctx);
    unimplemented!()
}

/// The `autoscaling/v1` Scale of an object.
pub fn scale_view(resource: &Resource, object: &Value) -> Result<Value, ApiError> {
    let _ = (resource, object);
    unimplemented!()
}

/// Writes a Scale's `spec.replicas` into the object.
pub fn apply_scale(resource: &Resource, object: &mut Value, scale: &Value) -> Result<(), ApiError> {
    let _ = (resource, object, scale);
    unimplemented!()
}

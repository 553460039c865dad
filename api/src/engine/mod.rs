//! The write path of every kind: bytes to a checked, completed object.
//!
//! In: a request's body and a [`Context`] with everything the outside knows (time, identity, unique names). Out: the
//! object to store or the error to answer. Nothing here does I/O.
//!
//! ```text
//! create: decode ─▶ prepare_create ─▶ (admission) ─▶ finish_create
//! update: decode ─▶ prepare_update ─▶ (admission) ─▶ finish_update
//! patch:  patch  ─▶ prepare_update … or, for an apply to an absent object, prepare_create …
//! ```

mod binding;
mod decode;
mod mutation;
mod object_meta;
mod parse;
mod patching;
mod scale;
mod write;
mod yaml;

use jiff::Timestamp;

pub use binding::Binding;
pub use decode::{decode, decode_delete_options, decode_subresource, read, read_again, subresource_kind};
pub use mutation::{apply_configuration, json_patch};
pub(crate) use object_meta::validate_annotations;
pub use patching::patch;
pub use scale::{apply_scale, scale_view};
pub use write::{finish_create, finish_update, prepare_create, prepare_update};

/// What to do about fields the schema does not know, and about duplicates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum FieldValidation {
    /// Drop them silently.
    Ignore,
    /// Drop them and warn.
    #[default]
    Warn,
    /// Refuse the request.
    Strict,
}

impl FieldValidation {
    /// The directive as a request spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            FieldValidation::Ignore => "Ignore",
            FieldValidation::Warn => "Warn",
            FieldValidation::Strict => "Strict",
        }
    }
}

/// The format of a request body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum BodyFormat {
    /// `application/json`.
    #[default]
    Json,
    /// `application/yaml`.
    Yaml,
    /// `application/vnd.kubernetes.protobuf`, for built-in kinds.
    Protobuf,
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
    /// Set by [`patch`] when it applied, so that the fields' owners are recorded already. Starts as false.
    pub applied: bool,
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

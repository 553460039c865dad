//! What a schema cannot say about a kind: dynamic defaults, resets, immutability and cross-field validation.
//!
//! In: an object that already has its schema's types and defaults. Out: the object completed, and the list of what is
//! wrong with it. One file a kind or family; the generic engine calls them.

pub mod admission;
pub mod apps;
pub mod autoscaling;
pub mod certificates;
pub mod cluster;
pub mod config;
pub mod crd;
pub mod devices;
pub mod endpointslice;
pub mod event;
mod field;
pub mod flowcontrol;
pub mod job;
pub mod lease;
pub mod limits;
pub mod names;
pub mod namespace;
pub mod networking;
pub mod node;
pub mod pod;
pub mod rbac;
pub mod rules;
pub mod service;
pub mod serviceaccount;
pub mod storage;
pub mod volumes;
pub mod workloads;

use serde_json::Value;

pub use names::NameRule;

use crate::error::FieldError;

/// The particulars of one kind. Every method has the answer of a kind without particulars.
pub trait Strategy: Send + Sync {
    /// Which names its objects may have.
    fn name_rule(&self) -> NameRule {
        NameRule::Subdomain
    }

    /// Whether `metadata.generation` counts changes of the wanted state.
    fn tracks_generation(&self) -> bool {
        false
    }

    /// Whether a change of annotations counts as one of the wanted state.
    fn annotations_count_as_spec(&self) -> bool {
        false
    }

    /// Whether a change of the status counts as one of the wanted state (custom kinds without a status subresource).
    fn status_counts_as_spec(&self) -> bool {
        false
    }

    /// Whether an update is judged by [`validate_update`](Self::validate_update) alone, which leaves alone what did not change.
    fn validates_updates_by_change(&self) -> bool {
        false
    }

    /// A finalizer that an object gets when its deletion is asked for: the server cleans up after it.
    fn cleanup_finalizer(&self) -> Option<&'static str> {
        None
    }

    /// Whether a new object may bring its status along.
    fn keeps_status_on_create(&self) -> bool {
        false
    }

    /// Whether an update may come without a resourceVersion.
    fn allows_unconditional_update(&self) -> bool {
        true
    }

    /// Sets defaults that depend on other fields. Runs on every decode, so it must be idempotent.
    fn default(&self, object: &mut Value) {
        let _ = object;
    }

    /// Sets and resets what a client may not set on create (the status is reset by the engine before).
    fn prepare_create(&self, object: &mut Value) {
        let _ = object;
    }

    /// Settles what follows from a new object as admission has completed it.
    fn settle_create(&self, object: &mut Value) {
        let _ = object;
    }

    /// Takes from `old` what this update may not change (spec and status are separated by the engine).
    fn prepare_update(&self, subresource: Option<&str>, old: &Value, new: &mut Value) {
        let _ = (subresource, old, new);
    }

    /// Validates an object as a whole: on create, and the new object of an update that is not to a subresource.
    fn validate_create(&self, object: &Value, errors: &mut Vec<FieldError>) {
        let _ = (object, errors);
    }

    /// Validates what an update changes.
    fn validate_update(&self, subresource: Option<&str>, old: &Value, new: &Value, errors: &mut Vec<FieldError>) {
        let _ = (subresource, old, new, errors);
    }

    /// Warnings for the client on create and update.
    fn warnings(&self, object: &Value) -> Vec<String> {
        let _ = object;
        Vec::new()
    }

    /// Whether an update that changes what the user wants warns as a creation does.
    fn warns_of_updates(&self) -> bool {
        true
    }
}

/// A kind without particulars.
pub struct Plain;

impl Strategy for Plain {}

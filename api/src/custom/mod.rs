//! Custom kinds: from a CustomResourceDefinition to the resources that serve it.
//!
//! ```text
//! CustomResourceDefinition ─▶ naming (which names are accepted, is it established?) ─▶ status
//!            └──────────────▶ resources: one Resource a served version ─▶ the one engine of all kinds
//! ```
//!
//! A custom kind has no code path of its own: its schema is an arena like the built-in one, its rules and what else the definition
//! says are a strategy.

mod conversion;
mod expressions;
pub mod naming;
mod resource;
mod strategy;

use std::sync::Arc;

use serde_json::Value;

use crate::schema::rules::Rules;
use crate::schema::{Structural, walk};
use crate::table::CustomColumns;

pub use conversion::{Converter, WebhookConversion};
pub use expressions::{Costs as ExpressionCosts, Exhausted, Expressions, Place, problems as expression_problems};
pub use resource::{Definition, compare_versions};
pub use strategy::CustomStrategy;

/// The group of CustomResourceDefinitions.
pub const GROUP: &str = "apiextensions.k8s.io";
/// The finalizer that holds a definition until its objects are gone.
pub const CLEANUP_FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";

/// What a CustomResourceDefinition says about one of its versions, beyond what every resource has.
#[derive(Debug, Clone)]
pub struct CustomKind {
    /// The definition's name: `crontabs.stable.example.com`.
    pub definition: String,
    /// The definition's UID.
    pub uid: String,
    /// The definition's resourceVersion: which state of it this is.
    pub revision: u64,
    /// Whether the definition is being deleted: no more objects are made.
    pub terminating: bool,
    /// How objects go from version to version.
    pub converter: Converter,
    /// What `kubectl get` shows.
    pub columns: CustomColumns,
    /// The structure of an object.
    pub structural: Structural,
    /// The rules of an object.
    pub rules: Arc<Rules>,
    /// Its rules in the expression language.
    pub expressions: Arc<Expressions>,
    /// The schema as it is published; none where unknown fields are kept at the root and nothing is said of them.
    pub published: Value,
}

impl CustomKind {
    /// Brings a stored object into the form that this version has by its present schema: unknown fields gone, defaults
    /// of absent fields set.
    pub fn settle(&self, object: &mut Value) {
        let schema = self.structural.schema();
        if walk::clean(schema, object, &mut Vec::new()).is_ok() {
            walk::default(schema, object);
        }
    }
}

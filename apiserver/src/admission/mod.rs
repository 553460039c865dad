//! Admission: what the cluster adds to or refuses of a write, between decoding and validation.
//!
//! In: who does what, the object before and after. Out: the object completed, or the error. Plugins run in one fixed order, each
//! sees what the ones before it did; each is small and looks only at its own kinds.

mod namespace;
mod node;
mod pod;
mod service_account;

use async_trait::async_trait;
use gantry_api::ApiError;
use gantry_api::kinds::Resource;
use serde_json::Value;

use crate::auth::Identity;
use crate::registry::Registry;

/// What a write does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Creates an object.
    Create,
    /// Changes one.
    Update,
    /// Deletes one.
    Delete,
}

/// A write, as plugins see it.
#[derive(Debug, Clone, Copy)]
pub struct Attributes<'a> {
    /// What it does.
    pub operation: Operation,
    /// To which resource.
    pub resource: &'a Resource,
    /// Through which subresource; empty for none.
    pub subresource: &'a str,
    /// In which namespace; empty for cluster-wide objects.
    pub namespace: &'a str,
    /// The object's name.
    pub name: &'a str,
    /// Who.
    pub identity: &'a Identity,
    /// The object before.
    pub old: Option<&'a Value>,
    /// Whether nothing will be stored.
    pub dry_run: bool,
}

impl Attributes<'_> {
    /// Whether it is about this resource itself, not a subresource.
    pub fn is(&self, group: &str, plural: &str) -> bool {
        self.is_any(group, plural) && self.subresource.is_empty()
    }

    /// Whether it is about this resource or a subresource of it.
    pub fn is_any(&self, group: &str, plural: &str) -> bool {
        self.resource.group == group && self.resource.plural == plural
    }

    /// The refusal, as Kubernetes words it.
    pub fn forbidden(&self, why: impl std::fmt::Display) -> ApiError {
        ApiError::forbidden(&self.resource.qualified(), self.name, why)
    }
}

/// One admission plugin.
#[async_trait]
pub trait Plugin: Send + Sync {
    /// Kubernetes' name of it.
    fn name(&self) -> &'static str;

    /// Completes or refuses a write. `object` is none for deletions.
    async fn admit(
        &self,
        attributes: &Attributes<'_>,
        object: Option<&mut Value>,
        registry: &Registry,
    ) -> Result<(), ApiError>;
}

/// The plugins, in order.
pub struct Chain(Vec<Box<dyn Plugin>>);

impl Default for Chain {
    /// The order of Kubernetes.
    fn default() -> Self {
        Self(vec![
            Box::new(namespace::NamespaceLifecycle),
            Box::new(service_account::ServiceAccount),
            Box::new(node::NodeRestriction),
            Box::new(node::TaintNodesByCondition),
            Box::new(pod::Priority),
            Box::new(pod::DefaultTolerationSeconds),
        ])
    }
}

impl Chain {
    /// Asks every plugin.
    pub async fn admit(
        &self,
        attributes: &Attributes<'_>,
        mut object: Option<&mut Value>,
        registry: &Registry,
    ) -> Result<(), ApiError> {
        for plugin in &self.0 {
            let result = plugin.admit(attributes, object.as_deref_mut(), registry).await;
            if let Err(error) = result {
                tracing::debug!(plugin = plugin.name(), %error, "a write was refused");
                return Err(error);
            }
        }
        Ok(())
    }
}

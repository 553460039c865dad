//! Admission: what the cluster adds to or refuses of a write.
//!
//! ```text
//! engine (decode, prepare) ─▶ plugins complete (built-in ─▶ policies ─▶ webhooks; again if one wants it)
//!                          ─▶ engine (validate) ─▶ plugins check (built-in ─▶ policies ─▶ webhooks ─▶ quota) ─▶ store
//! ```
//!
//! In: who does what, the object before and after. Out: the object completed, or the error. Plugins run in one fixed order,
//! each sees what the ones before it did; each is small and looks only at its own kinds.

mod attributes;
mod certificates;
mod compiled;
mod conditions;
mod default_class;
mod expressions;
mod limits;
mod namespace;
mod node;
mod pod;
mod pod_security;
mod pod_topology;
mod policies;
mod priority;
mod quota;
mod rules;
mod runtime_class;
mod service_account;
mod storage;
mod webhooks;

use std::sync::Arc;

use async_trait::async_trait;
use gantry_api::ApiError;
use serde_json::Value;

pub use attributes::{Attributes, Notes, Operation, Rounds, labels};

use crate::registry::{Known, Registry};
use crate::webhook::Client;

/// The phases of a request that a plugin takes part in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Phases {
    /// It completes or refuses the write before validation.
    pub admit: bool,
    /// It refuses the write after validation.
    pub validate: bool,
}

impl Phases {
    /// It completes, under this condition.
    pub const fn admit_if(concerned: bool) -> Self {
        Self { admit: concerned, validate: false }
    }

    /// It checks, under this condition.
    pub const fn validate_if(concerned: bool) -> Self {
        Self { admit: false, validate: concerned }
    }

    /// It completes and checks, under this condition.
    pub const fn both_if(concerned: bool) -> Self {
        Self { admit: concerned, validate: concerned }
    }
}

/// What a plugin's verdict on a new object, and what it adds to one, depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dependence {
    /// The object alone.
    Object,
    /// The object and the objects of this kind.
    Kind(Known),
    /// Anything else, such as who asks.
    Request,
}

/// What admission of a new object goes by besides the object: of each kind that a plugin depends on the revision of its last
/// change. Two requests of the same body come to the same in equal surroundings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Surroundings(Vec<(Known, u64)>);

/// One admission plugin. It overrides the phases it takes part in.
#[async_trait]
pub trait Plugin: Send + Sync {
    /// Kubernetes' name of it.
    fn name(&self) -> &'static str;

    /// The phases of this request in which it has something to do. Asked before either, and cheap: most plugins have nothing
    /// to do with most requests, and should cost them nothing.
    fn phases(&self, attributes: &Attributes<'_>, registry: &Registry) -> Phases;

    /// What it depends on where it has something to do with a request that creates an object.
    fn depends_on(&self, attributes: &Attributes<'_>, registry: &Registry) -> Dependence {
        let _ = (attributes, registry);
        Dependence::Request
    }

    /// Completes or refuses a write before it is validated. `object` is none for deletions. May run twice for one write, and
    /// must come to the same on what it has completed already.
    async fn admit(
        &self,
        attributes: &Attributes<'_>,
        object: Option<&mut Value>,
        registry: &Registry,
    ) -> Result<(), ApiError> {
        let _ = (attributes, object, registry);
        Ok(())
    }

    /// Refuses a write after it was validated, when the object is what would be stored.
    async fn validate(
        &self,
        attributes: &Attributes<'_>,
        object: Option<&Value>,
        registry: &Registry,
    ) -> Result<(), ApiError> {
        let _ = (attributes, object, registry);
        Ok(())
    }
}

/// The plugins, in order.
pub struct Chain(Vec<Box<dyn Plugin>>);

impl Chain {
    /// The order of Kubernetes. Webhooks are asked with `client`.
    pub fn new(client: &Arc<Client>) -> Self {
        Self(vec![
            Box::new(namespace::NamespaceLifecycle),
            Box::new(limits::LimitRanger),
            Box::new(service_account::ServiceAccount),
            Box::new(node::NodeRestriction),
            Box::new(node::TaintNodesByCondition),
            Box::new(pod_security::PodSecurity),
            Box::new(priority::Priority),
            Box::new(certificates::CertificateRequester),
            Box::new(pod::DefaultTolerationSeconds),
            Box::new(default_class::STORAGE),
            Box::new(storage::StorageObjectInUseProtection),
            Box::new(storage::PersistentVolumeClaimResize),
            Box::new(runtime_class::RuntimeClass),
            Box::new(default_class::INGRESS),
            Box::new(pod_topology::PodTopologyLabels),
            // Built-in plugins end here: policies, webhooks and quota come last, in this order.
            Box::new(policies::MutatingPolicies::default()),
            Box::new(webhooks::MutatingWebhooks::new(Arc::clone(client))),
            Box::new(policies::ValidatingPolicies::default()),
            Box::new(webhooks::ValidatingWebhooks::new(Arc::clone(client))),
            Box::new(quota::ResourceQuota::default()),
        ])
    }

    /// What the admission of a new object goes by, as the cache has it; none if a plugin goes by more than can be told.
    pub fn surroundings(&self, attributes: &Attributes<'_>, registry: &Registry) -> Option<Surroundings> {
        let mut surroundings = Vec::new();
        for plugin in &self.0 {
            let phases = plugin.phases(attributes, registry);
            if !phases.admit && !phases.validate {
                continue;
            }
            match plugin.depends_on(attributes, registry) {
                Dependence::Object => {}
                Dependence::Kind(known) => surroundings.push((known, registry.known(known)?.changed())),
                Dependence::Request => return None,
            }
        }
        Some(Surroundings(surroundings))
    }

    /// Lets every plugin complete the write. If one asks for it because it changed the object, all are asked a second time.
    pub async fn admit(
        &self,
        attributes: &Attributes<'_>,
        mut object: Option<&mut Value>,
        registry: &Registry,
    ) -> Result<(), ApiError> {
        let rounds = Rounds::default();
        let attributes = Attributes { rounds: Some(&rounds), ..*attributes };
        self.admit_round(&attributes, object.as_deref_mut(), registry).await?;
        if rounds.start_second() {
            self.admit_round(&attributes, object, registry).await?;
        }
        Ok(())
    }

    async fn admit_round(
        &self,
        attributes: &Attributes<'_>,
        mut object: Option<&mut Value>,
        registry: &Registry,
    ) -> Result<(), ApiError> {
        for plugin in self.0.iter().filter(|plugin| plugin.phases(attributes, registry).admit) {
            let result = plugin.admit(attributes, object.as_deref_mut(), registry).await;
            result.inspect_err(|error| refused(plugin.as_ref(), error))?;
        }
        Ok(())
    }

    /// Lets every plugin check the write.
    pub async fn validate(
        &self,
        attributes: &Attributes<'_>,
        object: Option<&Value>,
        registry: &Registry,
    ) -> Result<(), ApiError> {
        for plugin in self.0.iter().filter(|plugin| plugin.phases(attributes, registry).validate) {
            let result = plugin.validate(attributes, object, registry).await;
            result.inspect_err(|error| refused(plugin.as_ref(), error))?;
        }
        Ok(())
    }
}

fn refused(plugin: &dyn Plugin, error: &ApiError) {
    tracing::debug!(plugin = plugin.name(), %error, "a write was refused");
}

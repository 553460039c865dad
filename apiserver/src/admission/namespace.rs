//! `NamespaceLifecycle`: nothing is created in a namespace that is missing or terminating, and the namespaces that the cluster
//! needs stay.

use async_trait::async_trait;
use gantry_api::error::{Cause, Details};
use gantry_api::{ApiError, codec, meta};
use serde_json::Value;

use super::{Attributes, Dependence, Operation, Phases, Plugin};
use crate::registry::{Known, Registry};

const IMMORTAL: &[&str] = &["default", "kube-system", "kube-public"];

pub(super) struct NamespaceLifecycle;

#[async_trait]
impl Plugin for NamespaceLifecycle {
    fn name(&self) -> &'static str {
        "NamespaceLifecycle"
    }

    fn phases(&self, attributes: &Attributes<'_>, _: &Registry) -> Phases {
        Phases::admit_if(match attributes.operation {
            Operation::Create => attributes.resource.namespaced,
            Operation::Delete => attributes.is("", "namespaces"),
            _ => false,
        })
    }

    fn depends_on(&self, _: &Attributes<'_>, _: &Registry) -> Dependence {
        Dependence::Kind(Known::Namespaces)
    }

    async fn admit(
        &self,
        attributes: &Attributes<'_>,
        _: Option<&mut Value>,
        registry: &Registry,
    ) -> Result<(), ApiError> {
        if attributes.operation == Operation::Delete {
            return match IMMORTAL.contains(&attributes.name) {
                true => Err(attributes.forbidden("this namespace may not be deleted")),
                false => Ok(()),
            };
        }
        let Some(namespaces) = registry.catalog().resource("", "v1", "namespaces") else {
            return Ok(());
        };
        // The cache answers unless it has not heard of the namespace, which may be new.
        let (deleting, bytes) = match registry.cached(namespaces, "", attributes.namespace) {
            Some(entry) => (entry.facts.deleting, entry.object.clone()),
            None => {
                let current = registry.current(namespaces, "", attributes.namespace).await?;
                (codec::facts(namespaces, &current.bytes)?.deleting, current.bytes)
            }
        };
        if deleting || is_terminating(&bytes)? {
            return Err(terminating(attributes));
        }
        Ok(())
    }
}

fn is_terminating(bytes: &[u8]) -> Result<bool, ApiError> {
    // The phase is only worth a parse if the word occurs.
    if memchr::memmem::find(bytes, b"\"Terminating\"").is_none() {
        return Ok(false);
    }
    Ok(meta::str_at(&codec::decode(bytes)?, &["status", "phase"]) == "Terminating")
}

fn terminating(attributes: &Attributes<'_>) -> ApiError {
    let namespace = attributes.namespace;
    let mut error = attributes
        .forbidden(format!("unable to create new content in namespace {namespace} because it is being terminated"));
    let mut details = error.details.map_or_else(Details::default, |details| *details);
    details.causes.push(Cause {
        reason: "NamespaceTerminating".to_owned(),
        message: format!("namespace {namespace} is being terminated"),
        field: "metadata.namespace".to_owned(),
    });
    error.details = Some(Box::new(details));
    error
}

//! `LimitRanger`: containers get the defaults of their namespace's limit ranges, and what breaks a bound is refused. What the
//! bounds say is decided by [`gantry_api::policy::limits`].

use async_trait::async_trait;
use gantry_api::policy::limits;
use gantry_api::{ApiError, codec, meta};
use serde_json::Value;

use super::{Attributes, Dependence, Operation, Phases, Plugin};
use crate::registry::{Known, Registry};

pub(super) struct LimitRanger;

#[async_trait]
impl Plugin for LimitRanger {
    fn name(&self) -> &'static str {
        "LimitRanger"
    }

    fn phases(&self, attributes: &Attributes<'_>, _: &Registry) -> Phases {
        let concerned = concerns(attributes);
        Phases { admit: concerned && attributes.is_any("", "pods"), validate: concerned }
    }

    fn depends_on(&self, _: &Attributes<'_>, _: &Registry) -> Dependence {
        Dependence::Kind(Known::LimitRanges)
    }

    async fn admit(
        &self,
        attributes: &Attributes<'_>,
        object: Option<&mut Value>,
        registry: &Registry,
    ) -> Result<(), ApiError> {
        if let Some(pod) = object {
            for range in ranges(attributes, registry).await? {
                limits::default_pod(&range, pod);
            }
        }
        Ok(())
    }

    async fn validate(
        &self,
        attributes: &Attributes<'_>,
        object: Option<&Value>,
        registry: &Registry,
    ) -> Result<(), ApiError> {
        let Some(object) = object else { return Ok(()) };
        for range in ranges(attributes, registry).await? {
            let broken = if attributes.is_any("", "pods") {
                limits::check_pod(&range, object)
            } else {
                limits::check_claim(&range, object)
            };
            if let Some(why) = limits::joined(broken) {
                return Err(attributes.forbidden(why));
            }
        }
        Ok(())
    }
}

/// Pods when they are made or resized, claims always: nothing else has resources that could change.
fn concerns(attributes: &Attributes<'_>) -> bool {
    if attributes.old.is_some_and(meta::is_deleting) {
        return false;
    }
    match (attributes.operation, attributes.subresource) {
        (Operation::Create, "") => attributes.is("", "pods") || attributes.is("", "persistentvolumeclaims"),
        (Operation::Update, "") => attributes.is("", "persistentvolumeclaims"),
        (Operation::Update, "resize") => attributes.is_any("", "pods"),
        _ => false,
    }
}

async fn ranges(attributes: &Attributes<'_>, registry: &Registry) -> Result<Vec<Value>, ApiError> {
    let catalog = registry.catalog();
    let Some(kind) = catalog.resource("", "v1", "limitranges") else {
        return Ok(Vec::new());
    };
    let found = attributes.all_of(kind, registry).await?;
    found.iter().map(|range| codec::decode(&range.bytes)).collect()
}

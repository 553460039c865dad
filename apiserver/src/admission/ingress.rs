//! `DefaultIngressClass`: an Ingress that asks for no class gets the cluster's default.

use async_trait::async_trait;
use gantry_api::{ApiError, meta};
use serde_json::{Value, json};

use super::storage::newest_marked;
use super::{Attributes, Operation, Plugin};
use crate::registry::Registry;

const GROUP: &str = "networking.k8s.io";
const CLASS: &str = "kubernetes.io/ingress.class";
const DEFAULT: &str = "ingressclass.kubernetes.io/is-default-class";

pub(super) struct DefaultIngressClass;

#[async_trait]
impl Plugin for DefaultIngressClass {
    fn name(&self) -> &'static str {
        "DefaultIngressClass"
    }

    async fn admit(
        &self,
        attributes: &Attributes<'_>,
        object: Option<&mut Value>,
        registry: &Registry,
    ) -> Result<(), ApiError> {
        let creates = attributes.operation == Operation::Create && attributes.is(GROUP, "ingresses");
        let Some(ingress) = object.filter(|_| creates) else {
            return Ok(());
        };
        let chosen =
            meta::annotation(ingress, CLASS).is_some() || meta::get(ingress, &["spec", "ingressClassName"]).is_some();
        let catalog = registry.catalog();
        if !chosen
            && let Some(classes) = catalog.resource(GROUP, "v1", "ingressclasses")
            && let Some(name) = newest_marked(classes, registry, &[DEFAULT])?
        {
            meta::object_mut(ingress, "spec").insert("ingressClassName".to_owned(), json!(name));
        }
        Ok(())
    }
}

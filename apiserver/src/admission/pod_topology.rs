//! `PodTopologyLabels`: a pod's labels tell the zone and the region of the node that it was given, for whatever looks at
//! pods alone, such as the downward API.

use async_trait::async_trait;
use gantry_api::{ApiError, meta};
use serde_json::{Value, json};

use super::{Attributes, Dependence, Operation, Phases, Plugin};
use crate::registry::Registry;

const COPIED: [&str; 2] = ["topology.kubernetes.io/region", "topology.kubernetes.io/zone"];

pub(super) struct PodTopologyLabels;

#[async_trait]
impl Plugin for PodTopologyLabels {
    fn name(&self) -> &'static str {
        "PodTopologyLabels"
    }

    fn phases(&self, attributes: &Attributes<'_>, _: &Registry) -> Phases {
        let concerns = matches!(attributes.subresource, "" | "binding") && attributes.is_any("", "pods");
        Phases::admit_if(attributes.operation == Operation::Create && concerns)
    }

    // A pod that is made with its node, and goes by that, is never a copy.
    fn depends_on(&self, _: &Attributes<'_>, _: &Registry) -> Dependence {
        Dependence::Object
    }

    async fn admit(
        &self,
        attributes: &Attributes<'_>,
        object: Option<&mut Value>,
        registry: &Registry,
    ) -> Result<(), ApiError> {
        let Some(object) = object else { return Ok(()) };
        let node = match attributes.subresource {
            "" => meta::str_at(object, &["spec", "nodeName"]),
            _ => meta::str_at(object, &["target", "name"]),
        };
        let nodes = registry.catalog().resource("", "v1", "nodes").filter(|_| !node.is_empty());
        let Some(node) = nodes.and_then(|nodes| registry.cached(nodes, "", node)) else { return Ok(()) };
        for key in COPIED {
            let Some(value) = node.facts.labels.get(key) else { continue };
            let labels = meta::metadata_mut(object).entry("labels").or_insert_with(|| json!({}));
            if let Some(labels) = labels.as_object_mut() {
                labels.insert(key.to_owned(), json!(value));
            }
        }
        Ok(())
    }
}

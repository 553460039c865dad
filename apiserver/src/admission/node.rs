//! `NodeRestriction`: a node writes its own Node, its own Lease and the pods bound to it, nothing else.
//! `TaintNodesByCondition`: a new node gets no pods until the node controller has seen it ready.

use async_trait::async_trait;
use gantry_api::{ApiError, codec, meta};
use serde_json::{Value, json};

use super::{Attributes, Operation, Phases, Plugin};
use crate::registry::Registry;

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const MIRROR: &str = "kubernetes.io/config.mirror";

pub(super) struct NodeRestriction;

#[async_trait]
impl Plugin for NodeRestriction {
    fn name(&self) -> &'static str {
        "NodeRestriction"
    }

    fn phases(&self, attributes: &Attributes<'_>, _: &Registry) -> Phases {
        Phases::admit_if(attributes.identity.node_name().is_some())
    }

    async fn admit(
        &self,
        attributes: &Attributes<'_>,
        object: Option<&mut Value>,
        registry: &Registry,
    ) -> Result<(), ApiError> {
        let Some(node) = attributes.identity.node_name() else {
            return Ok(());
        };
        let object = object.map(|object| &*object);
        if attributes.is_any("", "nodes") {
            return own_node(attributes, node, object);
        }
        if attributes.is_any("", "pods") {
            return own_pod(attributes, node, object);
        }
        if attributes.is("coordination.k8s.io", "leases")
            && (attributes.namespace != "kube-node-lease" || attributes.name != node)
        {
            return Err(attributes.forbidden(format!(
                "can only access node lease with the same name as the requesting node \"{node}\""
            )));
        }
        if attributes.is("storage.k8s.io", "csinodes") && attributes.name != node {
            return Err(attributes
                .forbidden(format!("can only access CSINode with the same name as the requesting node \"{node}\"")));
        }
        if attributes.is_any("", "serviceaccounts") && attributes.subresource == "token" {
            return own_token(attributes, node, object, registry).await;
        }
        Ok(())
    }
}

fn own_node(attributes: &Attributes<'_>, node: &str, object: Option<&Value>) -> Result<(), ApiError> {
    if attributes.name != node {
        return Err(
            attributes.forbidden(format!("node \"{node}\" is not allowed to modify node \"{}\"", attributes.name))
        );
    }
    if attributes.operation == Operation::Update
        && attributes.subresource.is_empty()
        && let (Some(old), Some(new)) = (attributes.old, object)
        && old.pointer("/spec/taints") != new.pointer("/spec/taints")
    {
        return Err(attributes.forbidden(format!("node \"{node}\" is not allowed to modify taints")));
    }
    if let Some(new) = object {
        let restricted = |value: &Value| -> Vec<(String, Value)> {
            let labels = value.pointer("/metadata/labels").and_then(Value::as_object);
            labels
                .into_iter()
                .flatten()
                .filter(|(key, _)| {
                    key.split('/').next().is_some_and(|domain| domain == "node-restriction.kubernetes.io")
                })
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect()
        };
        if restricted(new) != attributes.old.map(restricted).unwrap_or_default() {
            return Err(attributes.forbidden(format!(
                "is not allowed to modify labels: labels with the prefix node-restriction.kubernetes.io/ are not a node's (\"{node}\") to set"
            )));
        }
    }
    Ok(())
}

fn own_pod(attributes: &Attributes<'_>, node: &str, object: Option<&Value>) -> Result<(), ApiError> {
    let bound_to =
        |pod: Option<&Value>| pod.map(|pod| meta::str_at(pod, &["spec", "nodeName"]).to_owned()).unwrap_or_default();
    match (attributes.operation, attributes.subresource) {
        (Operation::Create, "") => {
            let Some(pod) = object else { return Ok(()) };
            if meta::annotation(pod, MIRROR).is_none() {
                return Err(attributes.forbidden(format!(
                    "pod does not have \"{MIRROR}\" annotation, node \"{node}\" can only create mirror pods"
                )));
            }
            if bound_to(object) != node {
                return Err(attributes
                    .forbidden(format!("node \"{node}\" can only create pods with spec.nodeName set to itself")));
            }
        }
        (Operation::Delete, "") | (Operation::Update, "status") => {
            if bound_to(attributes.old) != node {
                let what = if attributes.operation == Operation::Delete {
                    "delete pods"
                } else {
                    "update pod status for pods"
                };
                return Err(
                    attributes.forbidden(format!("node \"{node}\" can only {what} with spec.nodeName set to itself"))
                );
            }
        }
        (Operation::Create, "eviction") => {}
        (operation, subresource) => {
            return Err(attributes
                .forbidden(format!("unexpected operation {operation:?} of node \"{node}\" on pods/{subresource}")));
        }
    }
    Ok(())
}

/// A node asks for tokens only in the name of pods that run on it.
async fn own_token(
    attributes: &Attributes<'_>,
    node: &str,
    request: Option<&Value>,
    registry: &Registry,
) -> Result<(), ApiError> {
    let reference =
        request.and_then(|request| request.pointer("/spec/boundObjectRef")).filter(|reference| !reference.is_null());
    let Some(reference) = reference else {
        return Err(attributes.forbidden("node requested token not bound to a pod"));
    };
    if reference["kind"] != "Pod" {
        return Err(attributes.forbidden("node requested token not bound to a pod"));
    }
    let Some(pods) = registry.catalog().resource("", "v1", "pods") else {
        return Ok(());
    };
    let name = reference["name"].as_str().unwrap_or_default();
    let pod = codec::decode(&registry.current(pods, attributes.namespace, name).await?.bytes)?;
    if meta::uid(&pod) != reference["uid"].as_str().unwrap_or_default() {
        return Err(attributes.forbidden(format!(
            "the UID in the bound object reference does not match the UID in record ({})",
            meta::uid(&pod)
        )));
    }
    if meta::str_at(&pod, &["spec", "nodeName"]) != node {
        return Err(attributes
            .forbidden(format!("node requested token bound to a pod scheduled on a different node: \"{name}\"")));
    }
    Ok(())
}

pub(super) struct TaintNodesByCondition;

#[async_trait]
impl Plugin for TaintNodesByCondition {
    fn name(&self) -> &'static str {
        "TaintNodesByCondition"
    }

    fn phases(&self, attributes: &Attributes<'_>, _: &Registry) -> Phases {
        Phases::admit_if(attributes.operation == Operation::Create && attributes.is("", "nodes"))
    }

    async fn admit(&self, _: &Attributes<'_>, object: Option<&mut Value>, _: &Registry) -> Result<(), ApiError> {
        if let Some(node) = object {
            add_not_ready(node);
        }
        Ok(())
    }
}

fn add_not_ready(node: &mut Value) {
    let taints = meta::object_mut(node, "spec").entry("taints").or_insert_with(|| json!([]));
    if taints.is_null() {
        *taints = json!([]);
    }
    if let Some(taints) = taints.as_array_mut()
        && !taints.iter().any(|taint| taint["key"] == NOT_READY && taint["effect"] == "NoSchedule")
    {
        taints.push(json!({"key": NOT_READY, "effect": "NoSchedule"}));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_taint_is_added_once() {
        let mut node = json!({"metadata": {"name": "n"}});
        add_not_ready(&mut node);
        add_not_ready(&mut node);
        assert_eq!(node["spec"]["taints"], json!([{"key": NOT_READY, "effect": "NoSchedule"}]));
    }
}

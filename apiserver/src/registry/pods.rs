//! Binding, the action subresource of pods by which the scheduler decides.

use gantry_api::kinds::Resource;
use gantry_api::{ApiError, FieldError, meta};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::update::Target;
use super::{Caller, Registry, Written};
use crate::admission::{Attributes, Operation};

impl Registry {
    /// Binds a pod to a node, once.
    pub async fn bind(
        &self,
        pods: &Resource,
        namespace: &str,
        name: &str,
        binding: &Value,
        caller: &Caller,
    ) -> Result<Written, ApiError> {
        let node = meta::str_at(binding, &["target", "name"]).to_owned();
        let kind = meta::str_at(binding, &["target", "kind"]);
        let mut errors = Vec::new();
        if !matches!(kind, "" | "Node") {
            errors.push(FieldError::not_supported("target.kind", kind, &["Node", "<empty>"]));
        }
        if node.is_empty() {
            errors.push(FieldError::required("target.name", ""));
        }
        if !errors.is_empty() {
            return Err(ApiError::invalid("", "Binding", name, errors));
        }
        let target = Target { resource: pods, subresource: "binding", namespace, name };
        let mut admitted = binding.clone();
        self.admit(&Attributes::new(Operation::Create, target, caller), &mut admitted).await?;
        let (binding, node) = (&admitted, meta::str_at(&admitted, &["target", "name"]).to_owned());
        let uid = meta::uid(binding).to_owned();
        let annotations = meta::get(binding, &["metadata", "annotations"]).and_then(Value::as_object).cloned();
        self.modify(target, caller, |old, context| {
            let refuse = |why: String| ApiError::conflict("pods/binding", name, why);
            if !uid.is_empty() && uid != meta::uid(old) {
                return Err(refuse(format!(
                    "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                    meta::uid(old)
                )));
            }
            if meta::is_deleting(old) {
                return Err(refuse(format!("pod {name} is being deleted, cannot be assigned to a host")));
            }
            let bound = meta::str_at(old, &["spec", "nodeName"]);
            if !bound.is_empty() {
                return Err(refuse(format!("pod {name} is already assigned to node \"{bound}\"")));
            }
            let gated =
                old.pointer("/spec/schedulingGates").and_then(Value::as_array).is_some_and(|gates| !gates.is_empty());
            if gated {
                return Err(refuse(format!("pod {name} has non-empty .spec.schedulingGates")));
            }
            let mut new = old.clone();
            meta::object_mut(&mut new, "spec").insert("nodeName".to_owned(), json!(node));
            if let Some(annotations) = &annotations {
                let metadata = meta::metadata_mut(&mut new);
                let existing = metadata.entry("annotations").or_insert_with(|| json!({}));
                if let Some(existing) = existing.as_object_mut() {
                    existing.extend(annotations.clone());
                }
            }
            // Whoever looks for pods that wait for a node must not find one that has it.
            if let Some(status) = new.get_mut("status").and_then(Value::as_object_mut) {
                status.remove("nominatedNodeName");
            }
            set_scheduled(&mut new, context.now);
            Ok(new)
        })
        .await
    }
}

fn set_scheduled(pod: &mut Value, now: Timestamp) {
    let scheduled = json!({
        "type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": meta::time(now),
    });
    set_condition(pod, scheduled);
}

/// Sets a condition of a pod, by its type.
pub(super) fn set_condition(pod: &mut Value, condition: Value) {
    let status = meta::object_mut(pod, "status");
    let conditions = status.entry("conditions").or_insert_with(|| json!([]));
    let Some(conditions) = conditions.as_array_mut() else { return };
    match conditions.iter_mut().find(|present| present["type"] == condition["type"]) {
        Some(present) => *present = condition,
        None => conditions.push(condition),
    }
}

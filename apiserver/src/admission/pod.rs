//! `Priority` and `DefaultTolerationSeconds`: what every pod gets that does not say otherwise.

use async_trait::async_trait;
use gantry_api::{ApiError, meta};
use serde_json::{Value, json};

use super::{Attributes, Operation, Plugin};
use crate::registry::Registry;

/// Priorities that Kubernetes predefines; other classes are objects of a kind to come.
const SYSTEM_PRIORITIES: &[(&str, i64)] =
    &[("system-cluster-critical", 2_000_000_000), ("system-node-critical", 2_000_001_000)];
/// How long a pod stays on a node that is not ready or not reachable.
const DEFAULT_TOLERATION_SECONDS: i64 = 300;

pub(super) struct Priority;

#[async_trait]
impl Plugin for Priority {
    fn name(&self) -> &'static str {
        "Priority"
    }

    async fn admit(
        &self,
        attributes: &Attributes<'_>,
        object: Option<&mut Value>,
        _: &Registry,
    ) -> Result<(), ApiError> {
        if attributes.operation != Operation::Create || !attributes.is("", "pods") {
            return Ok(());
        }
        let Some(pod) = object else { return Ok(()) };
        let class = meta::str_at(pod, &["spec", "priorityClassName"]).to_owned();
        let priority = if class.is_empty() {
            0
        } else {
            match SYSTEM_PRIORITIES.iter().find(|(name, _)| *name == class) {
                Some((_, priority)) => *priority,
                None => return Err(attributes.forbidden(format!("no PriorityClass with name {class} was found"))),
            }
        };
        let spec = meta::object_mut(pod, "spec");
        if let Some(given) = spec.get("priority").and_then(Value::as_i64)
            && given != priority
        {
            return Err(attributes.forbidden(format!(
                "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed {priority} from the given PriorityClass name"
            )));
        }
        spec.insert("priority".to_owned(), json!(priority));
        spec.entry("preemptionPolicy").or_insert_with(|| json!("PreemptLowerPriority"));
        Ok(())
    }
}

pub(super) struct DefaultTolerationSeconds;

#[async_trait]
impl Plugin for DefaultTolerationSeconds {
    fn name(&self) -> &'static str {
        "DefaultTolerationSeconds"
    }

    async fn admit(
        &self,
        attributes: &Attributes<'_>,
        object: Option<&mut Value>,
        _: &Registry,
    ) -> Result<(), ApiError> {
        if attributes.operation == Operation::Create
            && attributes.is("", "pods")
            && let Some(pod) = object
        {
            add_tolerations(pod);
        }
        Ok(())
    }
}

fn add_tolerations(pod: &mut Value) {
    let tolerations = meta::object_mut(pod, "spec").entry("tolerations").or_insert_with(|| json!([]));
    if tolerations.is_null() {
        *tolerations = json!([]);
    }
    let Some(tolerations) = tolerations.as_array_mut() else { return };
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let covered = tolerations.iter().any(|toleration| {
            let effect = toleration["effect"].as_str().unwrap_or_default();
            let tolerated = toleration["key"].as_str().unwrap_or_default();
            (tolerated == key || tolerated.is_empty()) && matches!(effect, "NoExecute" | "")
        });
        if !covered {
            tolerations.push(json!({
                "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": DEFAULT_TOLERATION_SECONDS,
            }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tolerations_are_added_unless_covered() {
        let mut pod = json!({"spec": {}});
        add_tolerations(&mut pod);
        assert_eq!(pod["spec"]["tolerations"].as_array().unwrap().len(), 2);
        let mut tolerant = json!({"spec": {"tolerations": [{"operator": "Exists"}]}});
        add_tolerations(&mut tolerant);
        assert_eq!(tolerant["spec"]["tolerations"].as_array().unwrap().len(), 1);
    }
}

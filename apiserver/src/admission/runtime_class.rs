//! `RuntimeClass`: a pod costs what its runtime adds, and runs only where that runtime is.

use async_trait::async_trait;
use gantry_api::{ApiError, meta, resources};
use serde_json::{Value, json};

use super::{Attributes, Dependence, Operation, Phases, Plugin};
use crate::registry::{Known, Registry};

pub(super) struct RuntimeClass;

#[async_trait]
impl Plugin for RuntimeClass {
    fn name(&self) -> &'static str {
        "RuntimeClass"
    }

    fn phases(&self, attributes: &Attributes<'_>, _: &Registry) -> Phases {
        Phases::both_if(attributes.operation == Operation::Create && attributes.is("", "pods"))
    }

    fn depends_on(&self, _: &Attributes<'_>, _: &Registry) -> Dependence {
        Dependence::Kind(Known::RuntimeClasses)
    }

    async fn admit(
        &self,
        attributes: &Attributes<'_>,
        object: Option<&mut Value>,
        registry: &Registry,
    ) -> Result<(), ApiError> {
        let Some(pod) = object else { return Ok(()) };
        let Some(class) = class_of(attributes, pod, registry).await? else {
            return Ok(());
        };
        if let Some(overhead) = overhead(&class) {
            let given = meta::get(pod, &["spec", "overhead"]);
            if given.is_some_and(|given| !is_empty(given) && !same(given, overhead)) {
                return Err(mismatch(attributes));
            }
            meta::object_mut(pod, "spec").insert("overhead".to_owned(), overhead.clone());
        }
        match meta::get(&class, &["scheduling"]) {
            Some(scheduling) => schedule(attributes, pod, scheduling),
            None => Ok(()),
        }
    }

    async fn validate(
        &self,
        attributes: &Attributes<'_>,
        object: Option<&Value>,
        registry: &Registry,
    ) -> Result<(), ApiError> {
        let Some(pod) = object else { return Ok(()) };
        let given = meta::get(pod, &["spec", "overhead"]).filter(|given| !is_empty(given));
        let class = class_of(attributes, pod, registry).await?;
        match (class.as_ref().and_then(overhead), given) {
            (Some(overhead), given) if !given.is_some_and(|given| same(given, overhead)) => Err(mismatch(attributes)),
            (None, Some(_)) => Err(attributes
                .forbidden("pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead")),
            _ => Ok(()),
        }
    }
}

fn overhead(class: &Value) -> Option<&Value> {
    meta::get(class, &["overhead", "podFixed"])
}

fn is_empty(value: &Value) -> bool {
    value.as_object().is_none_or(serde_json::Map::is_empty)
}

fn same(a: &Value, b: &Value) -> bool {
    resources::parse(Some(a)) == resources::parse(Some(b))
}

fn mismatch(attributes: &Attributes<'_>) -> ApiError {
    attributes.forbidden("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead")
}

async fn class_of(attributes: &Attributes<'_>, pod: &Value, registry: &Registry) -> Result<Option<Value>, ApiError> {
    let name = meta::str_at(pod, &["spec", "runtimeClassName"]);
    let catalog = registry.catalog();
    let Some(classes) = catalog.resource("node.k8s.io", "v1", "runtimeclasses").filter(|_| !name.is_empty()) else {
        return Ok(None);
    };
    match registry.look_up(classes, "", name).await? {
        Some(class) => Ok(Some(class)),
        None => Err(attributes.forbidden(format!("pod rejected: RuntimeClass \"{name}\" not found"))),
    }
}

fn schedule(attributes: &Attributes<'_>, pod: &mut Value, scheduling: &Value) -> Result<(), ApiError> {
    let spec = meta::object_mut(pod, "spec");
    for (key, value) in scheduling["nodeSelector"].as_object().into_iter().flatten() {
        let selector = spec.entry("nodeSelector").or_insert_with(|| json!({}));
        if selector.is_null() {
            *selector = json!({});
        }
        let Some(selector) = selector.as_object_mut() else { continue };
        if let Some(present) = selector.get(key)
            && present != value
        {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            return Err(attributes.forbidden(format!(
                "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {}; pod.spec.nodeSelector[{key}] = {}",
                text(value),
                text(present)
            )));
        }
        selector.insert(key.clone(), value.clone());
    }
    let list = |value: Option<&Value>| value.and_then(Value::as_array).cloned().unwrap_or_default();
    let more = list(scheduling.get("tolerations"));
    if !more.is_empty() {
        let mut all = list(spec.get("tolerations"));
        all.extend(more);
        spec.insert("tolerations".to_owned(), Value::Array(merged(&all)));
    }
    Ok(())
}

/// The tolerations that no other of them includes.
fn merged(all: &[Value]) -> Vec<Value> {
    let mut kept: Vec<Value> = Vec::new();
    for (at, toleration) in all.iter().enumerate() {
        let later = &all[at + 1..];
        let redundant = kept.iter().any(|other| includes(other, toleration))
            || later.iter().any(|other| other != toleration && includes(other, toleration));
        if !redundant {
            kept.push(toleration.clone());
        }
    }
    kept
}

/// Whether `wide` tolerates all that `narrow` does.
fn includes(wide: &Value, narrow: &Value) -> bool {
    if wide == narrow {
        return true;
    }
    let text = |toleration: &Value, field: &str| toleration[field].as_str().unwrap_or_default().to_owned();
    let exists = text(wide, "operator") == "Exists";
    if text(narrow, "key") != text(wide, "key") && !(text(wide, "key").is_empty() && exists) {
        return false;
    }
    let effect = text(wide, "effect");
    if !effect.is_empty() && effect != text(narrow, "effect") {
        return false;
    }
    if text(wide, "effect") == "NoExecute"
        && let Some(seconds) = wide["tolerationSeconds"].as_i64()
        && narrow["tolerationSeconds"].as_i64().is_none_or(|narrow| narrow > seconds)
    {
        return false;
    }
    exists || (text(narrow, "operator") != "Exists" && text(wide, "value") == text(narrow, "value"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tolerations_that_another_includes_go() {
        let one = json!({"key": "a", "operator": "Equal", "value": "x", "effect": "NoSchedule"});
        let all = json!({"key": "a", "operator": "Exists"});
        let other = json!({"key": "b", "operator": "Exists"});
        assert_eq!(merged(&[one.clone(), other.clone(), all.clone()]), vec![other, all]);
        assert_eq!(merged(&[one.clone(), one.clone()]), vec![one]);
    }
}

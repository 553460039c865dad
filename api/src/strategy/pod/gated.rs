//! What may still change of where a pod is to go that waits at a scheduling gate: it may be told more closely.

use serde_json::{Value, json};

use crate::error::FieldError;
use crate::strategy::field::{at, child, deep, entries, list, set, unset};

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";

/// Validates that what was said of nodes is only added to.
pub(super) fn validate(was: &Value, is: &Value, errors: &mut Vec<FieldError>) {
    let selector = is.get("nodeSelector");
    if entries(was, "nodeSelector").any(|(key, value)| selector.and_then(|found| found.get(key)) != Some(value)) {
        let detail = "only additions to spec.nodeSelector are allowed (no mutations or deletions)";
        errors.push(FieldError::invalid("spec.nodeSelector", selector.cloned().unwrap_or_default(), detail));
    }
    let required = |spec: &Value| deep(spec, &["affinity", "nodeAffinity", REQUIRED]).cloned().unwrap_or_default();
    let (before, after) = (required(was), required(is));
    let (before, after) = (list(&before, "nodeSelectorTerms"), list(&after, "nodeSelectorTerms"));
    if before.is_empty() {
        return;
    }
    let path = format!("spec.affinity.nodeAffinity.{REQUIRED}.nodeSelectorTerms");
    if before.len() != after.len() {
        let detail = "no additions/deletions to non-empty NodeSelectorTerms list are allowed";
        errors.push(FieldError::invalid(path, json!(after), detail));
        return;
    }
    for (index, (before, after)) in before.iter().zip(after).enumerate() {
        // Terms of a term all hold; one that says nothing matches no node, and must not begin to match some.
        let kept = ["matchExpressions", "matchFields"].iter().all(|field| {
            let after = list(after, field);
            after.len() >= list(before, field).len() && list(before, field).iter().zip(after).all(|(b, a)| b == a)
        });
        let said_nothing = ["matchExpressions", "matchFields"].iter().all(|field| list(before, field).is_empty());
        if !kept || said_nothing && before != after {
            let detail = "only additions are allowed (no mutations or deletions)";
            errors.push(FieldError::invalid(format!("{path}[{index}]"), after.clone(), detail));
        }
    }
}

/// Takes back what changed of node affinity, so that what else changed can be seen.
pub(super) fn undo(was: &Value, spec: &mut Value) {
    let before = deep(was, &["affinity", "nodeAffinity"]).cloned();
    if before.is_none() && at(spec, "affinity").is_none() {
        return;
    }
    match before {
        Some(before) => set(child(spec, "affinity"), "nodeAffinity", before),
        None => unset(child(spec, "affinity"), "nodeAffinity"),
    }
    let is_empty = at(spec, "affinity").and_then(Value::as_object).is_some_and(|affinity| affinity.is_empty());
    if is_empty && at(was, "affinity").is_none() {
        unset(spec, "affinity");
    }
}

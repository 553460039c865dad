//! Deployment and ReplicaSet.

use serde_json::{Value, json};

use super::field::{at, child, deep, immutable, int, non_negative, set_default, text};
use super::{Strategy, names, pod};
use crate::error::FieldError;
use crate::selector::LabelSelector;

/// Deployment.
pub struct DeploymentStrategy;

/// ReplicaSet.
pub struct ReplicaSetStrategy;

impl Strategy for DeploymentStrategy {
    fn tracks_generation(&self) -> bool {
        true
    }

    fn annotations_count_as_spec(&self) -> bool {
        true
    }

    fn default(&self, object: &mut Value) {
        if at(object, "spec").is_none() {
            return;
        }
        let spec = child(object, "spec");
        default_template(spec);
        let strategy = child(spec, "strategy");
        if text(strategy, "type") == "RollingUpdate" {
            let update = child(strategy, "rollingUpdate");
            set_default(update, "maxUnavailable", "25%");
            set_default(update, "maxSurge", "25%");
        }
    }

    fn prepare_update(&self, subresource: Option<&str>, old: &Value, new: &mut Value) {
        if subresource == Some("status") {
            // A status update leaves the labels alone.
            match deep(old, &["metadata", "labels"]) {
                Some(labels) => super::field::set(child(new, "metadata"), "labels", labels.clone()),
                None => super::field::unset(child(new, "metadata"), "labels"),
            }
        }
    }

    fn validate_create(&self, object: &Value, errors: &mut Vec<FieldError>) {
        let empty = json!({});
        let spec = at(object, "spec").unwrap_or(&empty);
        validate_workload(spec, errors);
        validate_rollout(at(spec, "strategy").unwrap_or(&empty), errors);
        for field in ["minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds"] {
            non_negative(spec, field, "spec", errors);
        }
        if let Some(deadline) = int(spec, "progressDeadlineSeconds")
            && deadline <= int(spec, "minReadySeconds").unwrap_or(0)
        {
            let detail = "must be greater than minReadySeconds";
            errors.push(FieldError::invalid("spec.progressDeadlineSeconds", deadline, detail));
        }
    }

    fn validate_update(&self, subresource: Option<&str>, old: &Value, new: &Value, errors: &mut Vec<FieldError>) {
        match subresource {
            Some("status") => {
                let counts =
                    ["replicas", "updatedReplicas", "readyReplicas", "availableReplicas", "unavailableReplicas"];
                let above = [
                    ("updatedReplicas", "replicas"),
                    ("readyReplicas", "replicas"),
                    ("availableReplicas", "replicas"),
                    ("availableReplicas", "readyReplicas"),
                ];
                validate_counts(new, &counts, &above, errors);
                let collisions = |object| deep(object, &["status", "collisionCount"]).and_then(Value::as_i64);
                if let (Some(was), is) = (collisions(old), collisions(new).unwrap_or(0))
                    && is < was
                {
                    errors.push(FieldError::invalid("status.collisionCount", is, "cannot be decremented"));
                }
            }
            Some("scale") => non_negative(at(new, "spec").unwrap_or(&Value::Null), "replicas", "spec", errors),
            _ => immutable(old, new, &["spec", "selector"], errors),
        }
    }

    fn warnings(&self, object: &Value) -> Vec<String> {
        template_warnings(object)
    }
}

impl Strategy for ReplicaSetStrategy {
    fn tracks_generation(&self) -> bool {
        true
    }

    fn default(&self, object: &mut Value) {
        if at(object, "spec").is_some() {
            default_template(child(object, "spec"));
        }
    }

    fn validate_create(&self, object: &Value, errors: &mut Vec<FieldError>) {
        let empty = json!({});
        let spec = at(object, "spec").unwrap_or(&empty);
        validate_workload(spec, errors);
        non_negative(spec, "minReadySeconds", "spec", errors);
    }

    fn validate_update(&self, subresource: Option<&str>, old: &Value, new: &Value, errors: &mut Vec<FieldError>) {
        match subresource {
            Some("status") => {
                let counts = ["replicas", "fullyLabeledReplicas", "readyReplicas", "availableReplicas"];
                let above = [
                    ("fullyLabeledReplicas", "replicas"),
                    ("readyReplicas", "replicas"),
                    ("availableReplicas", "replicas"),
                    ("availableReplicas", "readyReplicas"),
                ];
                validate_counts(new, &counts, &above, errors);
            }
            Some("scale") => non_negative(at(new, "spec").unwrap_or(&Value::Null), "replicas", "spec", errors),
            _ => immutable(old, new, &["spec", "selector"], errors),
        }
    }

    fn warnings(&self, object: &Value) -> Vec<String> {
        template_warnings(object)
    }
}

fn default_template(spec: &mut Value) {
    if at(spec, "template").is_some() {
        let template = child(spec, "template");
        if at(template, "spec").is_some() {
            pod::default_spec(child(template, "spec"));
        }
    }
}

fn template_warnings(object: &Value) -> Vec<String> {
    deep(object, &["spec", "template"]).map(|t| pod::template_warnings(t, "spec.template")).unwrap_or_default()
}

/// Replicas, selector and pod template, which must fit each other.
fn validate_workload(spec: &Value, errors: &mut Vec<FieldError>) {
    non_negative(spec, "replicas", "spec", errors);
    let selector = at(spec, "selector");
    match selector {
        None => errors.push(FieldError::required("spec.selector", "")),
        Some(found) => {
            names::validate_label_selector(found, "spec.selector", errors);
            let empty = |key| {
                found.get(key).is_none_or(|v| {
                    v.as_object().is_some_and(|m| m.is_empty()) || v.as_array().is_some_and(|l| l.is_empty())
                })
            };
            if empty("matchLabels") && empty("matchExpressions") {
                let detail = "empty selector is invalid for deployment";
                errors.push(FieldError::invalid("spec.selector", found.clone(), detail));
            }
        }
    }
    let empty = json!({});
    let template = at(spec, "template").unwrap_or(&empty);
    let none = json!({});
    let labels = deep(template, &["metadata", "labels"]).unwrap_or(&none);
    match selector.map(LabelSelector::from_object) {
        Some(Ok(parsed)) if !parsed.is_everything() && !parsed.matches(labels) => {
            errors.push(FieldError::invalid(
                "spec.template.metadata.labels",
                labels.clone(),
                "`selector` does not match template `labels`",
            ));
        }
        Some(Err(_)) => {
            let shown = selector.cloned().unwrap_or_default();
            errors.push(FieldError::invalid("spec.selector", shown, "invalid label selector"));
        }
        _ => {}
    }
    if at(template, "spec").is_none() {
        errors.push(FieldError::required("spec.template.spec.containers", ""));
        return;
    }
    pod::validate_template(template, "spec.template", errors);
    let policy = deep(template, &["spec", "restartPolicy"]).and_then(Value::as_str).unwrap_or_default();
    if policy != "Always" && pod::RESTART_POLICIES.contains(&policy) {
        errors.push(FieldError::not_supported("spec.template.spec.restartPolicy", policy, &["Always"]));
    }
    if deep(template, &["spec", "activeDeadlineSeconds"]).is_some() {
        let detail = "activeDeadlineSeconds in ReplicaSet is not Supported";
        errors.push(FieldError::forbidden("spec.template.spec.activeDeadlineSeconds", detail));
    }
}

fn validate_rollout(strategy: &Value, errors: &mut Vec<FieldError>) {
    let path = "spec.strategy";
    match text(strategy, "type") {
        "Recreate" => {
            if at(strategy, "rollingUpdate").is_some() {
                let detail = "may not be specified when strategy `type` is 'Recreate'";
                errors.push(FieldError::forbidden(format!("{path}.rollingUpdate"), detail));
            }
        }
        "RollingUpdate" => {
            let zero = json!(0);
            let update = at(strategy, "rollingUpdate");
            let get = |key: &str| update.and_then(|u| at(u, key)).unwrap_or(&zero);
            let (unavailable, surge) = (get("maxUnavailable"), get("maxSurge"));
            let path = format!("{path}.rollingUpdate");
            int_or_percent(unavailable, &format!("{path}.maxUnavailable"), errors);
            int_or_percent(surge, &format!("{path}.maxSurge"), errors);
            if int_or_percent_amount(unavailable) == Some(0) && int_or_percent_amount(surge) == Some(0) {
                let detail = "may not be 0 when `maxSurge` is 0";
                errors.push(FieldError::invalid(format!("{path}.maxUnavailable"), unavailable.clone(), detail));
            }
            if unavailable.is_string() && int_or_percent_amount(unavailable).is_some_and(|percent| percent > 100) {
                let detail = "must not be greater than 100%";
                errors.push(FieldError::invalid(format!("{path}.maxUnavailable"), unavailable.clone(), detail));
            }
        }
        _ => errors.push(FieldError::not_supported(path, strategy.clone(), &["Recreate", "RollingUpdate"])),
    }
}

/// The number of a count or percentage.
pub(super) fn int_or_percent_amount(value: &Value) -> Option<i64> {
    match value {
        Value::Number(number) => number.as_i64(),
        Value::String(text) => {
            let digits = text.strip_suffix('%')?;
            (!digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok())?
        }
        _ => None,
    }
}

pub(super) fn int_or_percent(value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    match value {
        Value::Number(number) if number.as_i64().is_some_and(|n| n < 0) => {
            errors.push(FieldError::invalid(path, value.clone(), "must be greater than or equal to 0"));
        }
        Value::String(_) if int_or_percent_amount(value).is_none() => errors.push(FieldError::invalid(
            path,
            value.clone(),
            "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used \
             for validation is '[0-9]+%')",
        )),
        _ => {}
    }
}

/// Counts in a status are not negative, and parts are not above their wholes.
fn validate_counts(object: &Value, counts: &[&str], above: &[(&str, &str)], errors: &mut Vec<FieldError>) {
    let Some(status) = at(object, "status") else { return };
    for field in counts.iter().chain(&["observedGeneration"]) {
        non_negative(status, field, "status", errors);
    }
    for (part, whole) in above {
        let (part_count, whole_count) = (int(status, part).unwrap_or(0), int(status, whole).unwrap_or(0));
        if part_count > whole_count {
            let detail = format!("cannot be greater than status.{whole}");
            errors.push(FieldError::invalid(format!("status.{part}"), part_count, detail));
        }
    }
}

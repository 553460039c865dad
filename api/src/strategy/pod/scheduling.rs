//! Where a pod may run: affinity, tolerations, spreading, gates.

use serde_json::Value;

use super::label_keys;
use crate::error::FieldError;
use crate::selector::{label_key_errors, label_value_errors};
use crate::strategy::field::{at, int, list, one_of, text};
use crate::strategy::names;
use crate::strategy::node::TAINT_EFFECTS;

pub(super) fn validate(spec: &Value, path: &str, errors: &mut Vec<FieldError>) {
    if let Some(affinity) = at(spec, "affinity") {
        let path = format!("{path}.affinity");
        if let Some(node) = at(affinity, "nodeAffinity") {
            node_affinity(node, &format!("{path}.nodeAffinity"), errors);
        }
        for field in ["podAffinity", "podAntiAffinity"] {
            if let Some(pod) = at(affinity, field) {
                pod_affinity(pod, &format!("{path}.{field}"), errors);
            }
        }
    }
    for (index, toleration) in list(spec, "tolerations").iter().enumerate() {
        validate_toleration(toleration, &format!("{path}.tolerations[{index}]"), errors);
    }
    spread_constraints(spec, path, errors);
    let gates = list(spec, "schedulingGates");
    for (index, gate) in gates.iter().enumerate() {
        let name = text(gate, "name");
        let path = format!("{path}.schedulingGates[{index}]");
        for detail in label_key_errors(name) {
            errors.push(FieldError::invalid(format!("{path}.name"), name, detail));
        }
        if gates[..index].iter().any(|other| text(other, "name") == name) {
            errors.push(FieldError::duplicate(path, name));
        }
    }
    for (index, gate) in list(spec, "readinessGates").iter().enumerate() {
        let name = text(gate, "conditionType");
        for detail in label_key_errors(name) {
            errors.push(FieldError::invalid(format!("{path}.readinessGates[{index}].conditionType"), name, detail));
        }
    }
    if at(spec, "preemptionPolicy").is_some() {
        one_of(spec, "preemptionPolicy", path, &["Never", "PreemptLowerPriority"], errors);
    }
}

fn weight(term: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let weight = int(term, "weight").unwrap_or(0);
    if !(1..=100).contains(&weight) {
        errors.push(FieldError::invalid(format!("{path}.weight"), weight, "must be in the range 1-100"));
    }
}

fn node_affinity(affinity: &Value, path: &str, errors: &mut Vec<FieldError>) {
    const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
    const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
    if let Some(required) = at(affinity, REQUIRED) {
        node_selector(required, &format!("{path}.{REQUIRED}"), errors);
    }
    for (index, preferred) in list(affinity, PREFERRED).iter().enumerate() {
        let path = format!("{path}.{PREFERRED}[{index}]");
        weight(preferred, &path, errors);
        if let Some(term) = at(preferred, "preference") {
            node_term(term, &format!("{path}.preference"), errors);
        }
    }
}

/// Validates a node selector.
pub(in crate::strategy) fn node_selector(selector: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let path = format!("{path}.nodeSelectorTerms");
    let terms = list(selector, "nodeSelectorTerms");
    if terms.is_empty() {
        errors.push(FieldError::required(path.clone(), "must have at least one node selector term"));
    }
    for (index, term) in terms.iter().enumerate() {
        node_term(term, &format!("{path}[{index}]"), errors);
    }
}

fn node_term(term: &Value, path: &str, errors: &mut Vec<FieldError>) {
    for (index, expression) in list(term, "matchExpressions").iter().enumerate() {
        let path = format!("{path}.matchExpressions[{index}]");
        node_expression(expression, &path, errors);
        let key = text(expression, "key");
        for detail in label_key_errors(key) {
            errors.push(FieldError::invalid(format!("{path}.key"), key, detail));
        }
    }
    for (index, expression) in list(term, "matchFields").iter().enumerate() {
        let path = format!("{path}.matchFields[{index}]");
        let (key, operator) = (text(expression, "key"), text(expression, "operator"));
        if list(expression, "values").len() != 1 && matches!(operator, "In" | "NotIn") {
            let detail = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
            errors.push(FieldError::required(format!("{path}.values"), detail));
        } else if !matches!(operator, "In" | "NotIn") {
            errors.push(FieldError::invalid(format!("{path}.operator"), operator, "not a valid selector operator"));
        }
        if key != "metadata.name" {
            errors.push(FieldError::invalid(format!("{path}.key"), key, "not a valid field selector key"));
        }
    }
}

fn node_expression(expression: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let values = list(expression, "values");
    let values_path = format!("{path}.values");
    match text(expression, "operator") {
        "In" | "NotIn" if values.is_empty() => {
            let detail = "must be specified when `operator` is 'In' or 'NotIn'";
            errors.push(FieldError::required(values_path, detail));
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
            errors.push(FieldError::forbidden(values_path, detail));
        }
        "Gt" | "Lt" if values.len() != 1 => {
            let detail = "must be specified single value when `operator` is 'Lt' or 'Gt'";
            errors.push(FieldError::required(values_path, detail));
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {
            for (index, value) in values.iter().enumerate() {
                let value = value.as_str().unwrap_or_default();
                for detail in label_value_errors(value) {
                    errors.push(FieldError::invalid(format!("{path}.values[{index}]"), value, detail));
                }
            }
        }
        other => {
            errors.push(FieldError::invalid(format!("{path}.operator"), other, "not a valid selector operator"));
        }
    }
}

fn pod_affinity(affinity: &Value, path: &str, errors: &mut Vec<FieldError>) {
    const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
    const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
    for (index, term) in list(affinity, REQUIRED).iter().enumerate() {
        pod_term(term, &format!("{path}.{REQUIRED}[{index}]"), errors);
    }
    for (index, preferred) in list(affinity, PREFERRED).iter().enumerate() {
        let path = format!("{path}.{PREFERRED}[{index}]");
        weight(preferred, &path, errors);
        let none = Value::Null;
        pod_term(at(preferred, "podAffinityTerm").unwrap_or(&none), &format!("{path}.podAffinityTerm"), errors);
    }
}

fn pod_term(term: &Value, path: &str, errors: &mut Vec<FieldError>) {
    for field in ["labelSelector", "namespaceSelector"] {
        if let Some(selector) = at(term, field) {
            names::validate_label_selector(selector, &format!("{path}.{field}"), errors);
        }
    }
    for name in list(term, "namespaces").iter().filter_map(Value::as_str) {
        for detail in names::dns1123_label(name) {
            errors.push(FieldError::invalid(format!("{path}.namespace"), name, detail));
        }
    }
    label_keys::validate(term, path, errors);
    topology_key(term, path, errors);
}

fn topology_key(term: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let key = text(term, "topologyKey");
    if key.is_empty() {
        errors.push(FieldError::required(format!("{path}.topologyKey"), "can not be empty"));
        return;
    }
    for detail in label_key_errors(key) {
        errors.push(FieldError::invalid(format!("{path}.topologyKey"), key, detail));
    }
}

/// Validates a toleration.
pub(in crate::strategy) fn validate_toleration(toleration: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let (key, operator, effect) = (text(toleration, "key"), text(toleration, "operator"), text(toleration, "effect"));
    if !key.is_empty() {
        for detail in label_key_errors(key) {
            errors.push(FieldError::invalid(format!("{path}.key"), key, detail));
        }
    } else if operator != "Exists" {
        let detail = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
        errors.push(FieldError::invalid(format!("{path}.operator"), operator, detail));
    }
    if int(toleration, "tolerationSeconds").is_some() && effect != "NoExecute" {
        let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
        errors.push(FieldError::invalid(format!("{path}.effect"), effect, detail));
    }
    let value = text(toleration, "value");
    match operator {
        "" | "Equal" => {
            for detail in label_value_errors(value) {
                errors.push(FieldError::invalid(format!("{path}.operator"), value, detail));
            }
        }
        "Exists" if !value.is_empty() => {
            let detail = "value must be empty when `operator` is 'Exists'";
            errors.push(FieldError::invalid(format!("{path}.operator"), toleration.clone(), detail));
        }
        "Exists" => {}
        _ => one_of(toleration, "operator", path, &["Equal", "Exists"], errors),
    }
    if !effect.is_empty() {
        one_of(toleration, "effect", path, &TAINT_EFFECTS, errors);
    }
}

fn spread_constraints(spec: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let constraints = list(spec, "topologySpreadConstraints");
    for (index, constraint) in constraints.iter().enumerate() {
        let path = format!("{path}.topologySpreadConstraints[{index}]");
        let skew = int(constraint, "maxSkew").unwrap_or(0);
        if skew <= 0 {
            errors.push(FieldError::invalid(format!("{path}.maxSkew"), skew, "must be greater than zero"));
        }
        topology_key(constraint, &path, errors);
        one_of(constraint, "whenUnsatisfiable", &path, &["DoNotSchedule", "ScheduleAnyway"], errors);
        let pair = |c: &Value| (text(c, "topologyKey").to_owned(), text(c, "whenUnsatisfiable").to_owned());
        if constraints[..index].iter().any(|other| pair(other) == pair(constraint)) {
            let (key, when) = pair(constraint);
            errors.push(FieldError::duplicate(
                format!("{path}.{{topologyKey, whenUnsatisfiable}}"),
                format!("{{{key}, {when}}}"),
            ));
        }
        if let Some(domains) = int(constraint, "minDomains").filter(|d| *d <= 0) {
            errors.push(FieldError::invalid(format!("{path}.minDomains"), domains, "must be greater than zero"));
        }
        if let Some(selector) = at(constraint, "labelSelector") {
            names::validate_label_selector(selector, &format!("{path}.labelSelector"), errors);
        }
        label_keys::validate(constraint, &path, errors);
    }
}

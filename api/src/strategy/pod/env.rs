//! The environment of a container.

use serde_json::Value;

use crate::error::FieldError;
use crate::quantity::Quantity;
use crate::strategy::field::{at, list, text};
use crate::strategy::names;

const BYTES_LISTED: &str = "1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei";
const SOURCES: [&str; 5] = ["fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef"];
/// The fields of a pod that its containers may know by an environment variable.
const ENV_FIELDS: [&str; 8] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
];
const ENV_FIELD_IPS: &str = "status.podIPs";
/// The fields that a volume may show.
const VOLUME_FIELDS: [&str; 5] =
    ["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];

pub(super) fn validate(container: &Value, path: &str, errors: &mut Vec<FieldError>) {
    for (index, variable) in list(container, "env").iter().enumerate() {
        let path = format!("{path}.env[{index}]");
        let name = text(variable, "name");
        if name.is_empty() {
            errors.push(FieldError::required(format!("{path}.name"), ""));
        } else {
            for detail in names::env_name(name) {
                errors.push(FieldError::invalid(format!("{path}.name"), name, detail));
            }
        }
        if let Some(source) = at(variable, "valueFrom") {
            validate_source(variable, source, &format!("{path}.valueFrom"), errors);
        }
    }
    for (index, source) in list(container, "envFrom").iter().enumerate() {
        validate_from(source, &format!("{path}.envFrom[{index}]"), errors);
    }
}

fn validate_source(variable: &Value, source: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let set: Vec<&str> = SOURCES.into_iter().filter(|key| at(source, key).is_some()).collect();
    if set.is_empty() {
        let detail =
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`";
        errors.push(FieldError::invalid(path, "", detail));
    } else if !text(variable, "value").is_empty() {
        errors.push(FieldError::invalid(path, "", "may not be specified when `value` is not empty"));
    } else if set.len() > 1 {
        errors.push(FieldError::invalid(path, "", "may not have more than one field specified at a time"));
    }
    for key in set {
        let Some(reference) = at(source, key) else { continue };
        let path = format!("{path}.{key}");
        match key {
            "fieldRef" => validate_field(reference, &path, true, errors),
            "resourceFieldRef" => validate_resource_field(reference, &path, true, errors),
            "fileKeyRef" => {
                for field in ["volumeName", "path", "key"] {
                    if text(reference, field).is_empty() {
                        errors.push(FieldError::required(format!("{path}.{field}"), ""));
                    }
                }
            }
            _ => validate_key(reference, &path, errors),
        }
    }
}

/// A reference to a field of the pod.
pub(super) fn validate_field(reference: &Value, path: &str, for_env: bool, errors: &mut Vec<FieldError>) {
    let field = text(reference, "fieldPath");
    if field.is_empty() {
        errors.push(FieldError::required(format!("{path}.fieldPath"), ""));
        return;
    }
    if let Some((map, key)) = field.strip_suffix("']").and_then(|f| f.split_once("['")) {
        if !matches!(map, "metadata.annotations" | "metadata.labels") {
            let detail = "does not support subscript";
            errors.push(FieldError::invalid(format!("{path}.fieldPath"), field, detail));
        }
        for detail in crate::selector::label_key_errors(&key.to_lowercase()) {
            errors.push(FieldError::invalid(path, key, detail));
        }
        return;
    }
    let mut allowed: Vec<&str> = if for_env { ENV_FIELDS.to_vec() } else { VOLUME_FIELDS.to_vec() };
    if for_env {
        allowed.push(ENV_FIELD_IPS);
    }
    if !allowed.contains(&field) {
        errors.push(FieldError::not_supported(format!("{path}.fieldPath"), field, &allowed));
    }
}

/// A reference to a request or limit of a container.
pub(super) fn validate_resource_field(reference: &Value, path: &str, for_env: bool, errors: &mut Vec<FieldError>) {
    const ALLOWED: [&str; 6] = [
        "limits.cpu",
        "limits.ephemeral-storage",
        "limits.memory",
        "requests.cpu",
        "requests.ephemeral-storage",
        "requests.memory",
    ];
    if !for_env && text(reference, "containerName").is_empty() {
        errors.push(FieldError::required(format!("{path}.containerName"), ""));
    }
    let resource = text(reference, "resource");
    let huge = ["limits.hugepages-", "requests.hugepages-"].iter().any(|prefix| resource.starts_with(prefix));
    if resource.is_empty() {
        errors.push(FieldError::required(format!("{path}.resource"), ""));
    } else if !ALLOWED.contains(&resource) && !huge {
        errors.push(FieldError::not_supported(format!("{path}.resource"), resource, &ALLOWED));
    } else if let Some(divisor) = at(reference, "divisor") {
        validate_divisor(resource, divisor, path, errors);
    }
}

/// A divisor is a unit. Absent, or nothing, it is one.
fn validate_divisor(resource: &str, divisor: &Value, path: &str, errors: &mut Vec<FieldError>) {
    const CPU: &[&str] = &["1m", "1"];
    const BYTES: &[&str] = &["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];
    let (units, listed, what) = match resource.split_once('.').map_or(resource, |(_, name)| name) {
        "cpu" => (CPU, "1m and 1", "cpu"),
        "memory" => (BYTES, BYTES_LISTED, "memory"),
        "ephemeral-storage" => (BYTES, BYTES_LISTED, "local ephemeral storage"),
        name if name.starts_with("hugepages-") => (BYTES, BYTES_LISTED, "hugepages"),
        _ => return,
    };
    let Ok(quantity) = Quantity::from_value(divisor) else { return };
    let is_unit = |unit: &str| Quantity::from_value(&Value::from(unit)).is_ok_and(|unit| unit == quantity);
    if quantity.signum() != 0 && !units.iter().any(|unit| is_unit(unit)) {
        let detail = format!("only divisor's values {listed} are supported with the {what} resource");
        errors.push(FieldError::invalid(format!("{path}.divisor"), resource, detail));
    }
}

fn validate_key(reference: &Value, path: &str, errors: &mut Vec<FieldError>) {
    if text(reference, "name").is_empty() {
        errors.push(FieldError::required(format!("{path}.name"), ""));
    }
    let key = text(reference, "key");
    if key.is_empty() {
        errors.push(FieldError::required(format!("{path}.key"), ""));
    } else {
        for detail in names::config_key(key) {
            errors.push(FieldError::invalid(format!("{path}.key"), key, detail));
        }
    }
}

fn validate_from(source: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let prefix = text(source, "prefix");
    if !prefix.is_empty() {
        for detail in names::env_name(prefix) {
            errors.push(FieldError::invalid(format!("{path}.prefix"), prefix, detail));
        }
    }
    let set: Vec<&str> = ["configMapRef", "secretRef"].into_iter().filter(|key| at(source, key).is_some()).collect();
    match set.as_slice() {
        [] => {
            let detail = "must specify one of: `configMapRef` or `secretRef`";
            errors.push(FieldError::invalid(path, "", detail));
        }
        [_, _, ..] => {
            errors.push(FieldError::invalid(path, "", "may not have more than one field specified at a time"));
        }
        _ => {}
    }
    for key in set {
        if at(source, key).is_some_and(|reference| text(reference, "name").is_empty()) {
            errors.push(FieldError::required(format!("{path}.{key}.name"), ""));
        }
    }
}

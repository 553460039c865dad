//! Containers of a pod.

use std::collections::HashSet;

use serde_json::Value;

use super::{env, mounts, probes, resources, security};
use crate::error::FieldError;
use crate::strategy::field::{at, int, list, one_of, text};
use crate::strategy::names;
use crate::strategy::service::PROTOCOLS;

const PULL_POLICIES: [&str; 3] = ["Always", "IfNotPresent", "Never"];
const NOT_FOR_EPHEMERAL: [&str; 8] = [
    "lifecycle",
    "livenessProbe",
    "ports",
    "readinessProbe",
    "resizePolicy",
    "resources",
    "restartPolicy",
    "startupProbe",
];
const EPHEMERAL: &str = "cannot be set for an Ephemeral Container";
const MESSAGE_POLICIES: [&str; 2] = ["File", "FallbackToLogsOnError"];

/// Validates all containers of a spec.
pub(super) fn validate(spec: &Value, path: &str, errors: &mut Vec<FieldError>) {
    if list(spec, "containers").is_empty() {
        errors.push(FieldError::required(format!("{path}.containers"), ""));
    }
    let mut names = HashSet::new();
    for (index, container) in list(spec, "containers").iter().enumerate() {
        let path = format!("{path}.containers[{index}]");
        validate_one(container, spec, &path, &mut names, errors);
        probes::validate(container, &path, errors);
    }
    for (index, container) in list(spec, "initContainers").iter().enumerate() {
        let path = format!("{path}.initContainers[{index}]");
        validate_one(container, spec, &path, &mut names, errors);
        if text(container, "restartPolicy") == "Always" {
            probes::validate(container, &path, errors);
        } else {
            for field in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
                if at(container, field).is_some() {
                    let detail = "may not be set for init containers without restartPolicy=Always";
                    errors.push(FieldError::forbidden(format!("{path}.{field}"), detail));
                }
            }
        }
    }
    validate_ephemeral(spec, path, &mut names, errors);
}

fn validate_ephemeral<'v>(spec: &'v Value, path: &str, names: &mut HashSet<&'v str>, errors: &mut Vec<FieldError>) {
    for (index, container) in list(spec, "ephemeralContainers").iter().enumerate() {
        let path = format!("{path}.ephemeralContainers[{index}]");
        validate_one(container, spec, &path, names, errors);
        for field in NOT_FOR_EPHEMERAL {
            if at(container, field).is_some_and(|value| !is_empty(value)) {
                errors.push(FieldError::forbidden(format!("{path}.{field}"), EPHEMERAL));
            }
        }
        for (index, mount) in list(container, "volumeMounts").iter().enumerate() {
            for field in ["subPath", "subPathExpr"].iter().filter(|field| !text(mount, field).is_empty()) {
                errors.push(FieldError::forbidden(format!("{path}.volumeMounts[{index}].{field}"), EPHEMERAL));
            }
        }
        let target = text(container, "targetContainerName");
        let known = ["containers", "initContainers"].into_iter().flat_map(|field| list(spec, field));
        if !target.is_empty() && !known.into_iter().any(|c| text(c, "name") == target) {
            errors.push(FieldError::not_found(format!("{path}.targetContainerName"), target));
        }
    }
}

fn validate_one<'v>(
    container: &'v Value,
    spec: &Value,
    path: &str,
    names: &mut HashSet<&'v str>,
    errors: &mut Vec<FieldError>,
) {
    let name = text(container, "name");
    if name.is_empty() {
        errors.push(FieldError::required(format!("{path}.name"), ""));
    } else {
        for detail in names::dns1123_label(name) {
            errors.push(FieldError::invalid(format!("{path}.name"), name, detail));
        }
        if !names.insert(name) {
            errors.push(FieldError::duplicate(format!("{path}.name"), name));
        }
    }
    let image = text(container, "image");
    if image.is_empty() {
        errors.push(FieldError::required(format!("{path}.image"), ""));
    } else if image != image.trim() {
        let detail = "must not have leading or trailing whitespace";
        errors.push(FieldError::invalid(format!("{path}.image"), image, detail));
    }
    for (field, allowed) in
        [("terminationMessagePolicy", MESSAGE_POLICIES.as_slice()), ("imagePullPolicy", PULL_POLICIES.as_slice())]
    {
        match text(container, field) {
            "" => errors.push(FieldError::required(format!("{path}.{field}"), "")),
            _ => one_of(container, field, path, allowed, errors),
        }
    }
    validate_restarts(container, path, errors);
    validate_ports(container, path, errors);
    env::validate(container, path, errors);
    mounts::validate(container, path, list(spec, "volumes"), errors);
    validate_resize_policy(container, path, text(spec, "restartPolicy"), errors);
    resources::validate(container, path, errors);
    resources::validate_claims(container, spec, path, errors);
    security::validate_container(container, path, errors);
}

/// When a container is started again, where that differs from its pod's policy.
fn validate_restarts(container: &Value, path: &str, errors: &mut Vec<FieldError>) {
    const RULES_MAX: usize = 20;
    const CODES_MAX: usize = 255;
    let rules = list(container, "restartPolicyRules");
    let rules_path = format!("{path}.restartPolicyRules");
    if at(container, "restartPolicy").is_some() {
        one_of(container, "restartPolicy", path, &["Always", "Never", "OnFailure"], errors);
    } else if !rules.is_empty() {
        let detail = "must specify restartPolicy when restart rules are used";
        errors.push(FieldError::required(format!("{path}.restartPolicy"), detail));
    }
    if rules.len() > RULES_MAX {
        errors.push(FieldError::too_many(rules_path.clone(), rules.len(), RULES_MAX));
    }
    for (index, rule) in rules.iter().enumerate() {
        let path = format!("{rules_path}[{index}]");
        one_of(rule, "action", &path, &["Restart"], errors);
        let path = format!("{path}.exitCodes");
        let Some(codes) = at(rule, "exitCodes") else {
            errors.push(FieldError::required(path, "must be specified"));
            continue;
        };
        one_of(codes, "operator", &path, &["In", "NotIn"], errors);
        let count = list(codes, "values").len();
        if count > CODES_MAX {
            errors.push(FieldError::too_many(format!("{path}.values"), count, CODES_MAX));
        }
    }
}

fn validate_ports(container: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let mut names_seen = HashSet::new();
    for (index, port) in list(container, "ports").iter().enumerate() {
        let path = format!("{path}.ports[{index}]");
        let name = text(port, "name");
        if !name.is_empty() {
            let problems = names::port_name(name);
            let valid = problems.is_empty();
            for detail in problems {
                errors.push(FieldError::invalid(format!("{path}.name"), name, detail));
            }
            if valid && !names_seen.insert(name) {
                errors.push(FieldError::duplicate(format!("{path}.name"), name));
            }
        }
        match int(port, "containerPort").unwrap_or(0) {
            0 => errors.push(FieldError::required(format!("{path}.containerPort"), "")),
            number => {
                for detail in names::port_number(number) {
                    errors.push(FieldError::invalid(format!("{path}.containerPort"), number, detail));
                }
            }
        }
        if let Some(number) = int(port, "hostPort").filter(|n| *n != 0) {
            for detail in names::port_number(number) {
                errors.push(FieldError::invalid(format!("{path}.hostPort"), number, detail));
            }
        }
        match text(port, "protocol") {
            "" => errors.push(FieldError::required(format!("{path}.protocol"), "")),
            _ => one_of(port, "protocol", &path, &PROTOCOLS, errors),
        }
    }
}

/// How a container's resources may be changed while it runs.
fn validate_resize_policy(container: &Value, path: &str, pod_policy: &str, errors: &mut Vec<FieldError>) {
    let mut seen = HashSet::new();
    for (index, policy) in list(container, "resizePolicy").iter().enumerate() {
        let path = format!("{path}.resizePolicy[{index}]");
        let (resource, restart) = (text(policy, "resourceName"), text(policy, "restartPolicy"));
        if !seen.insert(resource) {
            errors.push(FieldError::duplicate(path.clone(), resource));
        }
        match resource {
            "" => errors.push(FieldError::required(path.clone(), "")),
            "cpu" | "memory" => {}
            _ => errors.push(FieldError::not_supported(path.clone(), resource, &["cpu", "memory"])),
        }
        match restart {
            "" => errors.push(FieldError::required(path.clone(), "")),
            "NotRequired" | "RestartContainer" => {}
            _ => errors.push(FieldError::not_supported(path.clone(), restart, &["NotRequired", "RestartContainer"])),
        }
        if pod_policy == "Never" && restart != "NotRequired" {
            let detail = "must be 'NotRequired' when `restartPolicy` is 'Never'";
            errors.push(FieldError::invalid(path, restart, detail));
        }
    }
}

fn is_empty(value: &Value) -> bool {
    value.as_object().is_some_and(|fields| fields.is_empty()) || value.as_array().is_some_and(Vec::is_empty)
}

/// A path below a volume: relative, and never upwards.
pub(super) fn relative_path(value: &str, path: &str, errors: &mut Vec<FieldError>) {
    if value.starts_with('/') {
        errors.push(FieldError::invalid(path, value, "must be a relative path"));
    }
    if value.split(['/', '\\']).any(|part| part == "..") {
        errors.push(FieldError::invalid(path, value, "must not contain '..'"));
    }
}

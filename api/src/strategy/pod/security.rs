//! Security contexts of pods and containers.

use serde_json::Value;

use crate::error::FieldError;
use crate::strategy::field::{at, int, is_true, list, one_of, text};
use crate::strategy::names;

pub(super) fn validate_pod(spec: &Value, path: &str, errors: &mut Vec<FieldError>) {
    if is_true(spec, "shareProcessNamespace") && is_true(spec, "hostPID") {
        let detail = "ShareProcessNamespace and HostPID cannot both be enabled";
        errors.push(FieldError::invalid(format!("{path}.shareProcessNamespace"), true, detail));
    }
    let Some(context) = at(spec, "securityContext") else { return };
    let path = format!("{path}.securityContext");
    for field in ["runAsUser", "runAsGroup", "fsGroup"] {
        id(context, field, &path, errors);
    }
    for (index, group) in list(context, "supplementalGroups").iter().enumerate() {
        let number = group.as_i64().unwrap_or(-1);
        for detail in names::user_or_group_id(number) {
            errors.push(FieldError::invalid(format!("{path}.supplementalGroups[{index}]"), number, detail));
        }
    }
    if at(context, "fsGroupChangePolicy").is_some() {
        one_of(context, "fsGroupChangePolicy", &path, &["OnRootMismatch", "Always"], errors);
    }
    let mut seen = std::collections::HashSet::new();
    for (index, sysctl) in list(context, "sysctls").iter().enumerate() {
        let name = text(sysctl, "name");
        let path = format!("{path}.sysctls[{index}].name");
        if name.is_empty() {
            errors.push(FieldError::required(path, ""));
        } else if !name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'/')) {
            let detail = "must have at most 253 characters and match regex ^[a-z0-9]([-_a-z0-9]*[a-z0-9])?([\\./][a-z0-9]([-_a-z0-9]*[a-z0-9])?)*$";
            errors.push(FieldError::invalid(path, name, detail));
        } else if !seen.insert(name) {
            errors.push(FieldError::duplicate(path, name));
        }
    }
    seccomp(context, &path, errors);
}

pub(super) fn validate_container(container: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let Some(context) = at(container, "securityContext") else { return };
    let path = format!("{path}.securityContext");
    for field in ["runAsUser", "runAsGroup"] {
        id(context, field, &path, errors);
    }
    if context.get("allowPrivilegeEscalation") == Some(&Value::Bool(false)) {
        if is_true(context, "privileged") {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            errors.push(FieldError::invalid(path.clone(), context.clone(), detail));
        }
        let added = at(context, "capabilities").map(|c| list(c, "add")).unwrap_or_default();
        if added.iter().any(|capability| capability == "CAP_SYS_ADMIN") {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            errors.push(FieldError::invalid(path.clone(), context.clone(), detail));
        }
    }
    if at(context, "procMount").is_some() {
        one_of(context, "procMount", &path, &["Default", "Unmasked"], errors);
    }
    seccomp(context, &path, errors);
}

fn id(context: &Value, field: &str, path: &str, errors: &mut Vec<FieldError>) {
    if let Some(number) = int(context, field) {
        for detail in names::user_or_group_id(number) {
            errors.push(FieldError::invalid(format!("{path}.{field}"), number, detail));
        }
    }
}

fn seccomp(context: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let Some(profile) = at(context, "seccompProfile") else { return };
    let path = format!("{path}.seccompProfile");
    let local = at(profile, "localhostProfile").is_some();
    match text(profile, "type") {
        "Localhost" if !local => {
            let detail = "must be set when seccomp type is Localhost";
            errors.push(FieldError::required(format!("{path}.localhostProfile"), detail));
        }
        "Localhost" => {}
        "RuntimeDefault" | "Unconfined" => {
            if local {
                let detail = "can only be set when seccomp type is Localhost";
                errors.push(FieldError::invalid(format!("{path}.localhostProfile"), profile.clone(), detail));
            }
        }
        "" => errors.push(FieldError::required(format!("{path}.type"), "type is required when seccompProfile is set")),
        _ => one_of(profile, "type", &path, &["Localhost", "RuntimeDefault", "Unconfined"], errors),
    }
}

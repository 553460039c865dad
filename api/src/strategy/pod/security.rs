//! Security contexts of pods and containers.

use serde_json::Value;

use super::app_armor;
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
    if at(context, "supplementalGroupsPolicy").is_some() {
        one_of(context, "supplementalGroupsPolicy", &path, &["Merge", "Strict"], errors);
    }
    if at(context, "seLinuxChangePolicy").is_some() {
        one_of(context, "seLinuxChangePolicy", &path, &["MountOption", "Recursive"], errors);
    }
    let mut seen = std::collections::HashSet::new();
    for (index, sysctl) in list(context, "sysctls").iter().enumerate() {
        let name = text(sysctl, "name");
        let path = format!("{path}.sysctls[{index}].name");
        if name.is_empty() {
            errors.push(FieldError::required(path, ""));
        } else if !is_sysctl(name) {
            let detail = "must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";
            errors.push(FieldError::invalid(path, name, detail));
        } else if !seen.insert(name) {
            errors.push(FieldError::duplicate(path, name));
        }
    }
    seccomp(context, &path, errors);
    app_armor::validate_field(context, &path, errors);
}

/// Whether this may name a kernel parameter: parts between dots or slashes, each with a letter or digit at either end.
fn is_sysctl(name: &str) -> bool {
    let alphanumeric = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let is_part = |part: &str| {
        let bytes = part.as_bytes();
        bytes.first().is_some_and(alphanumeric)
            && bytes.last().is_some_and(alphanumeric)
            && bytes.iter().all(|byte| alphanumeric(byte) || matches!(byte, b'-' | b'_'))
    };
    name.len() <= 253 && name.split(['.', '/']).all(is_part)
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
    app_armor::validate_field(context, &path, errors);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_kernel_parameters_have_whole_parts() {
        for good in ["kernel.shmmax", "net/ipv4/ip_local_port_range", "safe-and-unsafe", "a", "a_b.c1"] {
            assert!(is_sysctl(good), "{good}");
        }
        for bad in ["foo-", "bar..", "", ".", "Kernel.x", "a.-b", "a b", "_a"] {
            assert!(!is_sysctl(bad), "{bad}");
        }
    }
}

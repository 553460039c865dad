//! What a pod may not say because of the operating system that it is for (`spec.os`).

use serde_json::Value;

use crate::error::FieldError;
use crate::strategy::field::{at, is_true, list, text};

/// Of a pod's security context, what means nothing on Windows.
const POD_CONTEXT: [&str; 10] = [
    "appArmorProfile",
    "seLinuxOptions",
    "seccompProfile",
    "fsGroup",
    "fsGroupChangePolicy",
    "sysctls",
    "runAsUser",
    "runAsGroup",
    "supplementalGroups",
    "supplementalGroupsPolicy",
];
/// The same of a container's.
const CONTAINER_CONTEXT: [&str; 10] = [
    "appArmorProfile",
    "seLinuxOptions",
    "seccompProfile",
    "capabilities",
    "readOnlyRootFilesystem",
    "privileged",
    "allowPrivilegeEscalation",
    "procMount",
    "runAsUser",
    "runAsGroup",
];
const NOT_FOR_WINDOWS: &str = "cannot be set for a windows pod";
const NOT_FOR_LINUX: &str = "windows options cannot be set for a linux pod";

/// Validates that a pod says nothing that only another system has.
pub(super) fn validate(spec: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let forbidden: (&[&str], &[&str], &str) = match at(spec, "os").map(|os| text(os, "name")) {
        Some("windows") => (&POD_CONTEXT, &CONTAINER_CONTEXT, NOT_FOR_WINDOWS),
        Some("linux") => (&["windowsOptions"], &["windowsOptions"], NOT_FOR_LINUX),
        _ => return,
    };
    let (of_pod, of_container, detail) = forbidden;
    let mut refuse = |holder: &Value, fields: &[&str], path: &str| {
        let Some(context) = at(holder, "securityContext") else { return };
        for field in fields.iter().filter(|field| is_said(context, field)) {
            errors.push(FieldError::forbidden(format!("{path}.securityContext.{field}"), detail));
        }
    };
    refuse(spec, of_pod, path);
    for field in ["initContainers", "containers", "ephemeralContainers"] {
        for (index, container) in list(spec, field).iter().enumerate() {
            refuse(container, of_container, &format!("{path}.{field}[{index}]"));
        }
    }
    if detail == NOT_FOR_WINDOWS {
        for field in ["hostPID", "hostIPC"].iter().filter(|field| is_true(spec, field)) {
            errors.push(FieldError::forbidden(format!("{path}.{field}"), detail));
        }
        for field in ["hostUsers", "shareProcessNamespace"].iter().filter(|field| at(spec, field).is_some()) {
            errors.push(FieldError::forbidden(format!("{path}.{field}"), detail));
        }
    }
}

/// A list without anything in it says nothing.
fn is_said(context: &Value, field: &str) -> bool {
    at(context, field).is_some_and(|value| value.as_array().is_none_or(|list| !list.is_empty()))
}

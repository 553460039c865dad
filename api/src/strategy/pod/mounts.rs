//! What a container sees of its pod's volumes: as folders (`volumeMounts`) and as devices (`volumeDevices`).

use std::collections::HashSet;

use serde_json::Value;

use super::containers::relative_path;
use crate::error::FieldError;
use crate::strategy::field::{at, deep, is_true, list, one_of, text};

const PROPAGATIONS: [&str; 3] = ["Bidirectional", "HostToContainer", "None"];
const RECURSIONS: [&str; 3] = ["Disabled", "Enabled", "IfPossible"];

/// Validates both. `volumes` are those of the pod.
pub(super) fn validate(container: &Value, path: &str, volumes: &[Value], errors: &mut Vec<FieldError>) {
    let mut paths = HashSet::new();
    for (index, mount) in list(container, "volumeMounts").iter().enumerate() {
        let path = format!("{path}.volumeMounts[{index}]");
        validate_mount(container, mount, &path, volumes, errors);
        let target = text(mount, "mountPath");
        if !paths.insert(target) {
            errors.push(FieldError::invalid(format!("{path}.mountPath"), target, "must be unique"));
        }
    }
    let (mut names, mut paths) = (HashSet::new(), HashSet::new());
    for (index, device) in list(container, "volumeDevices").iter().enumerate() {
        let path = format!("{path}.volumeDevices[{index}]");
        validate_device(container, device, &path, volumes, errors);
        let (name, target) = (text(device, "name"), text(device, "devicePath"));
        if !name.is_empty() && !names.insert(name) {
            errors.push(FieldError::invalid(format!("{path}.name"), name, "must be unique"));
        }
        if !target.is_empty() && !paths.insert(target) {
            errors.push(FieldError::invalid(format!("{path}.devicePath"), target, "must be unique"));
        }
    }
}

fn find<'v>(volumes: &'v [Value], name: &str) -> Option<&'v Value> {
    volumes.iter().find(|volume| !name.is_empty() && text(volume, "name") == name)
}

/// Whether one of a container's list says this in a field.
fn any(container: &Value, of: &str, field: &str, value: &str) -> bool {
    list(container, of).iter().any(|entry| !value.is_empty() && text(entry, field) == value)
}

fn validate_mount(container: &Value, mount: &Value, path: &str, volumes: &[Value], errors: &mut Vec<FieldError>) {
    let (name, target) = (text(mount, "name"), text(mount, "mountPath"));
    if name.is_empty() {
        errors.push(FieldError::required(format!("{path}.name"), ""));
    } else if find(volumes, name).is_none() {
        errors.push(FieldError::not_found(format!("{path}.name"), name));
    }
    if any(container, "volumeDevices", "name", name) {
        errors.push(FieldError::invalid(format!("{path}.name"), name, "must not already exist in volumeDevices"));
    }
    if target.is_empty() {
        errors.push(FieldError::required(format!("{path}.mountPath"), ""));
    }
    if any(container, "volumeDevices", "devicePath", target) {
        let detail = "must not already exist as a path in volumeDevices";
        errors.push(FieldError::invalid(format!("{path}.mountPath"), target, detail));
    }
    for field in ["subPath", "subPathExpr"] {
        relative_path(text(mount, field), &format!("{path}.{field}"), errors);
    }
    if !text(mount, "subPath").is_empty() && !text(mount, "subPathExpr").is_empty() {
        let detail = "subPathExpr and subPath are mutually exclusive";
        errors.push(FieldError::invalid(format!("{path}.subPathExpr"), text(mount, "subPathExpr"), detail));
    }
    let propagation = text(mount, "mountPropagation");
    if at(mount, "mountPropagation").is_some() {
        one_of(mount, "mountPropagation", path, &PROPAGATIONS, errors);
    }
    let is_privileged = at(container, "securityContext").is_some_and(|context| is_true(context, "privileged"));
    if propagation == "Bidirectional" && !is_privileged {
        let detail = "Bidirectional mount propagation is available only to privileged containers";
        errors.push(FieldError::forbidden(format!("{path}.mountPropagation"), detail));
    }
    validate_recursion(mount, path, errors);
}

fn validate_recursion(mount: &Value, path: &str, errors: &mut Vec<FieldError>) {
    if at(mount, "recursiveReadOnly").is_none() {
        return;
    }
    one_of(mount, "recursiveReadOnly", path, &RECURSIONS, errors);
    if !matches!(text(mount, "recursiveReadOnly"), "Enabled" | "IfPossible") {
        return;
    }
    let path = format!("{path}.recursiveReadOnly");
    if !is_true(mount, "readOnly") {
        errors.push(FieldError::forbidden(path.clone(), "may only be specified when readOnly is true"));
    }
    if !matches!(text(mount, "mountPropagation"), "" | "None") {
        let detail = "may only be specified when mountPropagation is None or not specified";
        errors.push(FieldError::forbidden(path, detail));
    }
}

fn validate_device(container: &Value, device: &Value, path: &str, volumes: &[Value], errors: &mut Vec<FieldError>) {
    let (name, target) = (text(device, "name"), text(device, "devicePath"));
    let has_blocks =
        |volume: &Value| ["persistentVolumeClaim", "ephemeral"].iter().any(|kind| deep(volume, &[kind]).is_some());
    match find(volumes, name) {
        _ if name.is_empty() => errors.push(FieldError::required(format!("{path}.name"), "")),
        None => errors.push(FieldError::not_found(format!("{path}.name"), name)),
        Some(volume) if !has_blocks(volume) => {
            let detail = "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
            errors.push(FieldError::invalid(format!("{path}.name"), name, detail));
        }
        Some(_) => {}
    }
    if any(container, "volumeMounts", "name", name) {
        errors.push(FieldError::invalid(format!("{path}.name"), name, "must not already exist in volumeMounts"));
    }
    if target.is_empty() {
        errors.push(FieldError::required(format!("{path}.devicePath"), ""));
    }
    if target.split(['/', '\\']).any(|part| part == "..") {
        let detail = "can not contain backsteps ('..')";
        errors.push(FieldError::invalid(format!("{path}.devicePath"), target, detail));
    }
    if any(container, "volumeMounts", "mountPath", target) {
        let detail = "must not already exist as a path in volumeMounts";
        errors.push(FieldError::invalid(format!("{path}.devicePath"), target, detail));
    }
}

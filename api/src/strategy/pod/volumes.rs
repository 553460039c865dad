//! Volumes of a pod.

use std::collections::HashSet;

use serde_json::Value;

use super::containers::relative_path;
use super::env::{validate_field, validate_resource_field};
use crate::error::FieldError;
use crate::quantity::Quantity;
use crate::strategy::field::{at, int, list, one_of, text};
use crate::strategy::names;

const HOST_PATH_TYPES: [&str; 8] =
    ["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];
const MODE_RULE: &str = "must be a number between 0 and 0777 (octal), both inclusive";

/// Validates the volumes of a spec.
pub(super) fn validate(spec: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let mut known = HashSet::new();
    for (index, volume) in list(spec, "volumes").iter().enumerate() {
        let path = format!("{path}.volumes[{index}]");
        let name = text(volume, "name");
        if name.is_empty() {
            errors.push(FieldError::required(format!("{path}.name"), ""));
        } else {
            for detail in names::dns1123_label(name) {
                errors.push(FieldError::invalid(format!("{path}.name"), name, detail));
            }
            if !known.insert(name) {
                errors.push(FieldError::duplicate(format!("{path}.name"), name));
            }
        }
        let sources: Vec<(&String, &Value)> =
            volume.as_object().into_iter().flatten().filter(|(key, _)| *key != "name").collect();
        match sources.split_first() {
            None => errors.push(FieldError::required(path, "must specify a volume type")),
            Some(((kind, source), more)) => {
                validate_source(kind, source, &format!("{path}.{kind}"), errors);
                for (kind, _) in more {
                    let detail = "may not specify more than 1 volume type";
                    errors.push(FieldError::forbidden(format!("{path}.{kind}"), detail));
                }
            }
        }
    }
}

fn validate_source(kind: &str, source: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let mut need = |fields: &[&str]| {
        for field in fields {
            if text(source, field).is_empty() {
                errors.push(FieldError::required(format!("{path}.{field}"), ""));
            }
        }
    };
    match kind {
        "hostPath" => {
            need(&["path"]);
            if text(source, "path").split(['/', '\\']).any(|part| part == "..") {
                let detail = "must not contain '..'";
                errors.push(FieldError::invalid(format!("{path}.path"), text(source, "path"), detail));
            }
            if at(source, "type").is_some() {
                one_of(source, "type", path, &HOST_PATH_TYPES, errors);
            }
        }
        "emptyDir" => {
            let limit = at(source, "sizeLimit").and_then(|l| Quantity::from_value(l).ok());
            if limit.is_some_and(|l| l.signum() < 0) {
                let detail = "SizeLimit field must be a valid resource quantity";
                errors.push(FieldError::forbidden(format!("{path}.sizeLimit"), detail));
            }
        }
        "configMap" => {
            need(&["name"]);
            validate_files(source, path, errors);
        }
        "secret" => {
            need(&["secretName"]);
            validate_files(source, path, errors);
        }
        "downwardAPI" => {
            mode(source, "defaultMode", path, errors);
            for (index, item) in list(source, "items").iter().enumerate() {
                validate_downward(item, &format!("{path}.items[{index}]"), errors);
            }
        }
        "projected" => validate_projected(source, path, errors),
        "persistentVolumeClaim" => need(&["claimName"]),
        "nfs" => {
            need(&["server", "path"]);
            let exported = text(source, "path");
            if !exported.is_empty() && !exported.starts_with('/') {
                errors.push(FieldError::invalid(format!("{path}.path"), exported, "must be an absolute path"));
            }
        }
        "csi" => need(&["driver"]),
        "image" => {}
        "ephemeral" if at(source, "volumeClaimTemplate").is_none() => {
            errors.push(FieldError::required(format!("{path}.volumeClaimTemplate"), ""));
        }
        _ => {}
    }
}

fn validate_files(source: &Value, path: &str, errors: &mut Vec<FieldError>) {
    mode(source, "defaultMode", path, errors);
    validate_items(source, path, errors);
}

fn validate_items(source: &Value, path: &str, errors: &mut Vec<FieldError>) {
    for (index, item) in list(source, "items").iter().enumerate() {
        let path = format!("{path}.items[{index}]");
        if text(item, "key").is_empty() {
            errors.push(FieldError::required(format!("{path}.key"), ""));
        }
        validate_file(item, &path, errors);
    }
}

/// A file in a volume: where it lies and its mode.
fn validate_file(item: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let file = text(item, "path");
    if file.is_empty() {
        errors.push(FieldError::required(format!("{path}.path"), ""));
    }
    relative_path(file, &format!("{path}.path"), errors);
    if file.starts_with("..") && !file.split('/').any(|part| part == "..") {
        errors.push(FieldError::invalid(format!("{path}.path"), file, "must not start with '..'"));
    }
    mode(item, "mode", path, errors);
}

fn validate_downward(item: &Value, path: &str, errors: &mut Vec<FieldError>) {
    validate_file(item, path, errors);
    match (at(item, "fieldRef"), at(item, "resourceFieldRef")) {
        (Some(field), None) => validate_field(field, &format!("{path}.fieldRef"), false, errors),
        (None, Some(field)) => validate_resource_field(field, &format!("{path}.resourceFieldRef"), false, errors),
        (Some(_), Some(_)) => errors.push(FieldError::invalid(
            path,
            "resource",
            "fieldRef and resourceFieldRef can not be specified simultaneously",
        )),
        (None, None) => {
            errors.push(FieldError::required(path, "one of fieldRef and resourceFieldRef is required"));
        }
    }
}

fn validate_projected(source: &Value, path: &str, errors: &mut Vec<FieldError>) {
    mode(source, "defaultMode", path, errors);
    for (index, part) in list(source, "sources").iter().enumerate() {
        let path = format!("{path}.sources[{index}]");
        let kinds: Vec<(&String, &Value)> = part.as_object().into_iter().flatten().collect();
        for (kind, _) in kinds.iter().skip(1) {
            let detail = "may not specify more than 1 volume type per source";
            errors.push(FieldError::forbidden(format!("{path}.{kind}"), detail));
        }
        let Some((kind, inner)) = kinds.first() else { continue };
        let path = format!("{path}.{kind}");
        match kind.as_str() {
            "configMap" | "secret" => {
                if text(inner, "name").is_empty() {
                    errors.push(FieldError::required(format!("{path}.name"), ""));
                }
                validate_items(inner, &path, errors);
            }
            "downwardAPI" => {
                for (index, item) in list(inner, "items").iter().enumerate() {
                    validate_downward(item, &format!("{path}.items[{index}]"), errors);
                }
            }
            "serviceAccountToken" => {
                if let Some(seconds) = int(inner, "expirationSeconds").filter(|s| *s < 600) {
                    let detail = "may not specify a duration less than 10 minutes";
                    errors.push(FieldError::invalid(format!("{path}.expirationSeconds"), seconds, detail));
                }
                if text(inner, "path").is_empty() {
                    errors.push(FieldError::required(format!("{path}.path"), ""));
                }
            }
            _ => {}
        }
    }
}

fn mode(source: &Value, field: &str, path: &str, errors: &mut Vec<FieldError>) {
    if let Some(number) = int(source, field).filter(|n| !(0..=0o777).contains(n)) {
        errors.push(FieldError::invalid(format!("{path}.{field}"), number, MODE_RULE));
    }
}

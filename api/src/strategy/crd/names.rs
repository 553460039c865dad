//! Names, versions, conversion, columns and paths of a CustomResourceDefinition.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::error::FieldError;
use crate::meta;
use crate::strategy::NameRule;
use crate::table::JsonPath;

/// How many fields may be selectable.
const SELECTABLE_MAX: usize = 8;

fn texts(value: Option<&Value>) -> Vec<&str> {
    value.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect()
}

fn label(path: String, text: &str, errors: &mut Vec<FieldError>) {
    let wrong = NameRule::Label1035.errors(text, false);
    if !wrong.is_empty() {
        errors.push(FieldError::invalid(path, text, wrong.join(",")));
    }
}

/// `spec`, except for its schemas.
pub(super) fn spec(crd: &Value, errors: &mut Vec<FieldError>) {
    let group = meta::str_at(crd, &["spec", "group"]);
    if group.is_empty() {
        errors.push(FieldError::required("spec.group", ""));
    } else {
        let wrong = NameRule::Subdomain.errors(group, false);
        if !wrong.is_empty() {
            errors.push(FieldError::invalid("spec.group", group, wrong.join(",")));
        } else if !group.contains('.') {
            errors.push(FieldError::invalid("spec.group", group, "should be a domain with at least one dot"));
        }
    }
    match meta::str_at(crd, &["spec", "scope"]) {
        "" => errors.push(FieldError::required("spec.scope", "")),
        "Cluster" | "Namespaced" => {}
        other => errors.push(FieldError::not_supported("spec.scope", other, &["Cluster", "Namespaced"])),
    }
    let plural = meta::str_at(crd, &["spec", "names", "plural"]);
    let (name, wanted) = (meta::name(crd), format!("{plural}.{group}"));
    if name != wanted && !name.is_empty() {
        errors.push(FieldError::invalid("metadata.name", name, "must be spec.names.plural+\".\"+spec.group"));
    }
    for key in ["plural", "singular", "kind", "listKind"] {
        if meta::str_at(crd, &["spec", "names", key]).is_empty() {
            errors.push(FieldError::required(format!("spec.names.{key}"), ""));
        }
    }
    names(crd.pointer("/spec/names"), errors);
    versions(crd, errors);
    conversion(crd, errors);
    approval(crd, group, errors);
}

fn names(names: Option<&Value>, errors: &mut Vec<FieldError>) {
    let Some(names) = names else { return };
    let text = |key: &str| meta::str_at(names, &[key]);
    for key in ["plural", "singular"] {
        if !text(key).is_empty() {
            label(format!("spec.names.{key}"), text(key), errors);
        }
    }
    for key in ["kind", "listKind"] {
        let wrong = NameRule::Label1035.errors(&text(key).to_lowercase(), false);
        if !text(key).is_empty() && !wrong.is_empty() {
            let why = format!("may have mixed case, but should otherwise match: {}", wrong.join(","));
            errors.push(FieldError::invalid(format!("spec.names.{key}"), text(key), why));
        }
    }
    for key in ["shortNames", "categories"] {
        for (at, name) in texts(names.get(key)).into_iter().enumerate() {
            label(format!("spec.names.{key}[{at}]"), name, errors);
        }
    }
    if !text("kind").is_empty() && text("kind") == text("listKind") {
        errors.push(FieldError::invalid(
            "spec.names.listKind",
            text("listKind"),
            "kind and listKind may not be the same",
        ));
    }
}

fn versions(crd: &Value, errors: &mut Vec<FieldError>) {
    let empty = Vec::new();
    let versions = crd.pointer("/spec/versions").and_then(Value::as_array).unwrap_or(&empty);
    let shown = || json!(versions.iter().map(|v| meta::str_at(v, &["name"])).collect::<Vec<_>>());
    let mut seen = BTreeSet::new();
    for (at, version) in versions.iter().enumerate() {
        let path = format!("spec.versions[{at}]");
        let name = meta::str_at(version, &["name"]);
        label(format!("{path}.name"), name, errors);
        seen.insert(name);
        deprecation(version, &path, errors);
        columns(version, &path, errors);
        scale(version, &path, errors);
        selectable(version, &path, errors);
    }
    if seen.len() != versions.len() {
        errors.push(FieldError::invalid("spec.versions", shown(), "must contain unique version names"));
    }
    let stored: Vec<&Value> = versions.iter().filter(|v| v.get("storage") == Some(&Value::Bool(true))).collect();
    if stored.len() != 1 {
        let why = "must have exactly one version marked as storage version";
        errors.push(FieldError::invalid("spec.versions", shown(), why));
    }
    let known = texts(crd.pointer("/status/storedVersions"));
    if known.is_empty() {
        errors.push(FieldError::invalid("status.storedVersions", json!([]), "must have at least one stored version"));
    }
    for version in stored {
        let name = meta::str_at(version, &["name"]);
        if !known.is_empty() && !known.contains(&name) {
            let why = format!("must have the storage version {name}");
            errors.push(FieldError::invalid("status.storedVersions", json!(known), why));
        }
    }
    for (at, name) in known.iter().enumerate().filter(|(_, name)| !seen.contains(*name)) {
        let why = format!(
            "missing from spec.versions; {name} was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in {name} and removes {name} from status.storedVersions"
        );
        errors.push(FieldError::invalid(format!("status.storedVersions[{at}]"), *name, why));
    }
}

fn deprecation(version: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let Some(warning) = version.get("deprecationWarning").and_then(Value::as_str) else { return };
    let path = format!("{path}.deprecationWarning");
    if version.get("deprecated") != Some(&Value::Bool(true)) {
        errors.push(FieldError::invalid(path, warning, "can only be set for deprecated versions"));
    } else if warning.len() > 256 {
        errors.push(FieldError::invalid(path, warning, "must be <= 256 characters long"));
    } else if warning.is_empty() {
        errors.push(FieldError::invalid(path, warning, "must not be an empty string"));
    } else if let Some(at) = warning.char_indices().find(|(_, c)| c.is_control()).map(|(at, _)| at) {
        let why = format!("must only contain printable UTF-8 characters; non-printable character found at index {at}");
        errors.push(FieldError::invalid(path, warning, why));
    }
}

fn columns(version: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let columns = version.get("additionalPrinterColumns").and_then(Value::as_array);
    for (at, column) in columns.into_iter().flatten().enumerate() {
        let path = format!("{path}.additionalPrinterColumns[{at}]");
        let text = |key: &str| meta::str_at(column, &[key]);
        if text("name").is_empty() {
            errors.push(FieldError::required(format!("{path}.name"), ""));
        }
        let types = ["integer", "number", "string", "boolean", "date"];
        if text("type").is_empty() {
            errors.push(FieldError::required(format!("{path}.type"), format!("must be one of {}", types.join(","))));
        } else if !types.contains(&text("type")) {
            let why = format!("must be one of {}", types.join(","));
            errors.push(FieldError::invalid(format!("{path}.type"), text("type"), why));
        }
        let formats = ["int32", "int64", "float", "double", "byte", "date", "date-time", "password"];
        if !text("format").is_empty() && !formats.contains(&text("format")) {
            let why = format!("must be one of {}", formats.join(","));
            errors.push(FieldError::invalid(format!("{path}.format"), text("format"), why));
        }
        let json_path = text("jsonPath");
        if json_path.is_empty() {
            errors.push(FieldError::required(format!("{path}.jsonPath"), ""));
        } else if let Err(why) = JsonPath::parse(json_path) {
            errors.push(FieldError::invalid(format!("{path}.jsonPath"), json_path, why.to_string()));
        }
    }
}

/// A path of plain fields.
fn simple(path: &str) -> bool {
    path.strip_prefix('.').is_some_and(|rest| {
        let word = |part: &str| !part.is_empty() && part.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-'));
        rest.split('.').all(word)
    })
}

fn scale(version: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let Some(scale) = version.pointer("/subresources/scale") else { return };
    let rules = [
        ("specReplicasPath", true, "spec", "should be a json path under .spec"),
        ("statusReplicasPath", true, "status", "should be a json path under .status"),
        ("labelSelectorPath", false, "status", "should be a json path under either .status or .spec"),
    ];
    for (key, required, root, why) in rules {
        let given = meta::str_at(scale, &[key]);
        let path = format!("{path}.subresources.scale.{key}");
        if given.is_empty() {
            if required {
                errors.push(FieldError::required(path, ""));
            }
        } else if !simple(given) {
            let why = "should be a simple json path without array notation";
            errors.push(FieldError::invalid(path, given, why));
        } else {
            let under = |root: &str| given.starts_with(&format!(".{root}."));
            if !(under(root) || !required && under("spec")) {
                errors.push(FieldError::invalid(path, given, why));
            }
        }
    }
}

fn selectable(version: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let fields = version.get("selectableFields").and_then(Value::as_array);
    let Some(fields) = fields else { return };
    let mut seen = BTreeSet::new();
    for (at, field) in fields.iter().enumerate() {
        let here = format!("{path}.selectableFields[{at}].jsonPath");
        let json_path = meta::str_at(field, &["jsonPath"]);
        if json_path.is_empty() {
            errors.push(FieldError::required(here, ""));
            continue;
        }
        if !simple(json_path) {
            errors.push(FieldError::invalid(here, json_path, "is an invalid path: must be a simple json path"));
            continue;
        }
        if json_path.starts_with(".metadata") {
            errors.push(FieldError::invalid(here.clone(), json_path, "must not point to fields in metadata"));
        }
        let root = version.pointer("/schema/openAPIV3Schema");
        let found = json_path.trim_start_matches('.').split('.').try_fold(root, |schema, name| {
            Some(schema.and_then(|schema| schema.get("properties")).and_then(|p| p.get(name)))
        });
        match found.flatten().map(|schema| meta::str_at(schema, &["type"])) {
            Some("string" | "boolean" | "integer") => {}
            _ => errors.push(FieldError::invalid(
                here.clone(),
                json_path,
                "must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed.",
            )),
        }
        if !seen.insert(json_path) {
            errors.push(FieldError::duplicate(here, json_path));
        }
    }
    if seen.len() > SELECTABLE_MAX {
        errors.push(FieldError::too_many(format!("{path}.selectableFields"), seen.len(), SELECTABLE_MAX));
    }
}

fn conversion(crd: &Value, errors: &mut Vec<FieldError>) {
    let Some(conversion) = crd.pointer("/spec/conversion") else { return };
    let path = "spec.conversion";
    let webhook = conversion.get("webhook").filter(|webhook| webhook.is_object());
    match meta::str_at(conversion, &["strategy"]) {
        "None" => {
            if webhook.is_some() {
                let why = "should not be set when strategy is not set to Webhook";
                errors.push(FieldError::forbidden(format!("{path}.webhook"), why));
            }
        }
        "Webhook" => match webhook {
            None => errors.push(FieldError::required(
                format!("{path}.webhookClientConfig"),
                "required when strategy is set to Webhook",
            )),
            Some(webhook) => conversion_webhook(webhook, path, errors),
        },
        "" => errors.push(FieldError::required(format!("{path}.strategy"), "")),
        other => errors.push(FieldError::not_supported(format!("{path}.strategy"), other, &["None", "Webhook"])),
    }
}

fn conversion_webhook(webhook: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let config = webhook.get("clientConfig").cloned().unwrap_or_default();
    let url = config.get("url").and_then(Value::as_str);
    let here = format!("{path}.webhookClientConfig");
    match (url, config.get("service").filter(|service| service.is_object())) {
        (Some(url), None) => {
            if !url.starts_with("https://") {
                let why = "'https' is the only allowed URL scheme; desired format: https://host[/path]";
                errors.push(FieldError::invalid(format!("{here}.url"), url, why));
            }
        }
        (None, Some(service)) => {
            for key in ["name", "namespace"] {
                if meta::str_at(service, &[key]).is_empty() {
                    errors.push(FieldError::required(
                        format!("{here}.service.{key}"),
                        format!("service {key} is required"),
                    ));
                }
            }
        }
        _ => errors.push(FieldError::required(here, "exactly one of url or service is required")),
    }
    let versions = texts(webhook.get("conversionReviewVersions"));
    let here = format!("{path}.conversionReviewVersions");
    if versions.is_empty() {
        errors.push(FieldError::required(here, ""));
    } else if !versions.iter().any(|version| matches!(*version, "v1" | "v1beta1")) {
        errors.push(FieldError::invalid(here, json!(versions), "must include at least one of v1, v1beta1"));
    }
}

/// Groups of the Kubernetes project are not for everyone.
fn approval(crd: &Value, group: &str, errors: &mut Vec<FieldError>) {
    let protected = ["k8s.io", "kubernetes.io"].iter().any(|own| group == *own || group.ends_with(&format!(".{own}")));
    let annotation = meta::annotation(crd, "api-approved.kubernetes.io").unwrap_or_default();
    if !protected || annotation.starts_with("unapproved") || annotation.starts_with("http") {
        return;
    }
    let path = "metadata.annotations[api-approved.kubernetes.io]";
    if annotation.is_empty() {
        let why = "protected groups must have approval annotation \"api-approved.kubernetes.io\", see https://github.com/kubernetes/enhancements/pull/1111";
        errors.push(FieldError::required(path, why));
    } else {
        errors.push(FieldError::invalid(path, annotation, "protected groups must have approval annotation \"api-approved.kubernetes.io\" with either a URL or a reason starting with \"unapproved\", see https://github.com/kubernetes/enhancements/pull/1111"));
    }
}

/// What an update may not change.
pub(super) fn update(old: &Value, new: &Value, errors: &mut Vec<FieldError>) {
    let established = crate::custom::naming::is_true(old, "Established");
    let fields: [(&[&str], bool); 4] = [
        (&["spec", "scope"], established),
        (&["spec", "names", "kind"], established),
        (&["spec", "group"], true),
        (&["spec", "names", "plural"], true),
    ];
    for (path, fixed) in fields {
        let (was, is) = (meta::str_at(old, path), meta::str_at(new, path));
        if fixed && was != is {
            errors.push(FieldError::invalid(path.join("."), is, "field is immutable"));
        }
    }
}

//! CustomResourceDefinitions: defaults, the stored versions, validation.

mod names;
mod schema;
#[cfg(test)]
mod tests;

use serde_json::{Value, json};

use super::Strategy;
use crate::custom::CLEANUP_FINALIZER;
use crate::error::FieldError;
use crate::meta;

/// The strategy of CustomResourceDefinitions.
pub struct CrdStrategy;

impl Strategy for CrdStrategy {
    fn tracks_generation(&self) -> bool {
        true
    }

    fn allows_unconditional_update(&self) -> bool {
        false
    }

    fn cleanup_finalizer(&self) -> Option<&'static str> {
        Some(CLEANUP_FINALIZER)
    }

    fn default(&self, object: &mut Value) {
        default(object);
    }

    fn prepare_create(&self, object: &mut Value) {
        remember_stored_version(object);
    }

    fn prepare_update(&self, subresource: Option<&str>, _: &Value, new: &mut Value) {
        if subresource.is_none() {
            remember_stored_version(new);
        }
    }

    fn validate_create(&self, object: &Value, errors: &mut Vec<FieldError>) {
        validate(object, None, errors);
    }

    fn validates_updates_by_change(&self) -> bool {
        true
    }

    fn validate_update(&self, subresource: Option<&str>, old: &Value, new: &Value, errors: &mut Vec<FieldError>) {
        if subresource.is_none() {
            validate(new, Some(old), errors);
            names::update(old, new, errors);
        }
    }

    fn warnings(&self, object: &Value) -> Vec<String> {
        let mut warnings = Vec::new();
        for version in versions(object) {
            if let Some(schema) = version.pointer("/schema/openAPIV3Schema") {
                unrecognized_formats(schema, &mut warnings);
            }
        }
        warnings
    }
}

fn versions(crd: &Value) -> &[Value] {
    crd.pointer("/spec/versions").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn validate(crd: &Value, old: Option<&Value>, errors: &mut Vec<FieldError>) {
    names::spec(crd, errors);
    if crd.pointer("/spec/preserveUnknownFields") == Some(&Value::Bool(true)) {
        let was = old.and_then(|old| old.pointer("/spec/preserveUnknownFields"));
        if was != Some(&Value::Bool(true)) {
            let why = "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead";
            errors.push(FieldError::invalid("spec.preserveUnknownFields", true, why));
        }
    }
    for (at, version) in versions(crd).iter().enumerate() {
        let path = format!("spec.versions[{at}].schema.openAPIV3Schema");
        let Some(schema) = version.pointer("/schema/openAPIV3Schema") else {
            errors.push(FieldError::required(path, ""));
            continue;
        };
        // A schema that is stored is not judged again.
        let name = version.get("name");
        let before = old.into_iter().flat_map(versions).find(|old| old.get("name") == name);
        if before.is_some_and(|before| before.get("schema") == version.get("schema")) {
            continue;
        }
        schema::validate(schema, &path, version.pointer("/subresources/status").is_some(), errors);
    }
}

fn unrecognized_formats(schema: &Value, warnings: &mut Vec<String>) {
    let text = |key: &str| schema.get(key).and_then(Value::as_str).unwrap_or_default();
    let format = text("format");
    if text("type") == "string" && !format.is_empty() && !crate::schema::format::is_known(format) {
        warnings.push(format!("unrecognized format {}", crate::error::quote(format)));
    }
    for property in schema.get("properties").and_then(Value::as_object).into_iter().flatten().map(|(_, p)| p) {
        unrecognized_formats(property, warnings);
    }
    for key in ["items", "additionalProperties"] {
        if let Some(below) = schema.get(key).filter(|below| below.is_object()) {
            unrecognized_formats(below, warnings);
        }
    }
}

fn default(crd: &mut Value) {
    let Some(spec) = crd.get_mut("spec").filter(|spec| spec.is_object()) else { return };
    let kind = meta::str_at(spec, &["names", "kind"]).to_owned();
    let names = meta::object_mut(spec, "names");
    let is_empty = |value: Option<&Value>| value.and_then(Value::as_str).is_none_or(str::is_empty);
    if is_empty(names.get("singular")) && !kind.is_empty() {
        names.insert("singular".to_owned(), json!(kind.to_lowercase()));
    }
    if is_empty(names.get("listKind")) && !kind.is_empty() {
        names.insert("listKind".to_owned(), json!(format!("{kind}List")));
    }
    let conversion = meta::object_mut(spec, "conversion");
    if is_empty(conversion.get("strategy")) {
        conversion.insert("strategy".to_owned(), json!("None"));
    }
    if let Some(Value::Object(service)) = spec.pointer_mut("/conversion/webhook/clientConfig/service") {
        service.entry("port").or_insert(json!(443));
    }
}

/// The version that is stored from now on is one that objects are stored in.
fn remember_stored_version(crd: &mut Value) {
    let versions = crd.pointer("/spec/versions").and_then(Value::as_array).into_iter().flatten();
    let stored = versions.clone().find(|v| v.get("storage") == Some(&Value::Bool(true)));
    let Some(stored) = stored.map(|version| meta::str_at(version, &["name"]).to_owned()) else { return };
    let known = meta::object_mut(crd, "status").entry("storedVersions").or_insert_with(|| json!([]));
    if let Value::Array(known) = known
        && !known.iter().any(|version| *version == stored.as_str())
    {
        known.push(json!(stored));
    }
}

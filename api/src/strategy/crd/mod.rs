//! CustomResourceDefinitions: defaults, the stored versions, validation.

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
        let _ = (object, errors);
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

//! The annotation in which kubectl's client-side apply remembers what it applied.

use serde_json::Value;

use super::compare;
use super::fieldset::FieldSet;
use super::typed::{self, Type};
use crate::meta;

const ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// All annotations of an object together may not be longer.
const ANNOTATIONS_MAX_BYTES: usize = 256 * 1024;

/// The fields that client-side apply set and that still have the values it gave them. `None` if there is no usable
/// annotation.
pub(super) fn owned(ty: Type<'_>, api_version: &str, live: &Value) -> Option<FieldSet> {
    let text = meta::annotation(live, ANNOTATION).filter(|text| !text.is_empty())?;
    let last: Value = serde_json::from_str(text).ok()?;
    if meta::str_at(&last, &["apiVersion"]) != api_version || !typed::problems(ty, &last).is_empty() {
        return None;
    }
    let changes = compare::compare(ty, &last, live);
    let set = typed::fields_of(ty, &last);
    Some(set.difference(&changes.modified).difference(&changes.added).difference(&changes.removed))
}

/// Brings the annotation up to date with what kubectl applied, if the object has it, so that a later client-side apply
/// finds the truth.
pub(super) fn refresh(object: &mut Value, applied: &Value) {
    if meta::annotation(object, ANNOTATION).is_none_or(str::is_empty) {
        return;
    }
    let mut applied = applied.clone();
    let annotations_of = |object: &mut Value| object.get_mut("metadata")?.get_mut("annotations").map(Value::take);
    if let Some(Value::Object(mut annotations)) = annotations_of(&mut applied) {
        annotations.remove(ANNOTATION);
        if annotations.is_empty() {
            meta::metadata_mut(&mut applied).remove("annotations");
        } else {
            meta::metadata_mut(&mut applied).insert("annotations".to_owned(), Value::Object(annotations));
        }
    }
    let text = format!("{applied}\n");
    let annotations = meta::object_mut(object_metadata(object), "annotations");
    let others: usize = annotations
        .iter()
        .filter(|(k, _)| *k != ANNOTATION)
        .map(|(k, v)| k.len() + v.as_str().unwrap_or_default().len())
        .sum();
    if others + ANNOTATION.len() + text.len() > ANNOTATIONS_MAX_BYTES {
        annotations.remove(ANNOTATION);
    } else {
        annotations.insert(ANNOTATION.to_owned(), Value::String(text));
    }
}

fn object_metadata(object: &mut Value) -> &mut Value {
    meta::metadata_mut(object);
    &mut object["metadata"]
}

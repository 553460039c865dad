//! The `scale` subresource: a view of an object as `autoscaling/v1` Scale, and back.

use serde_json::{Map, Value, json};

use crate::error::{ApiError, FieldError};
use crate::kinds::{Resource, ScalePaths};
use crate::meta;
use crate::selector::{self, LabelSelector};

fn paths(resource: &Resource) -> Result<&ScalePaths, ApiError> {
    resource.subresources.scale.as_ref().ok_or_else(|| ApiError::not_found(&resource.qualified(), "scale"))
}

fn at<'v>(object: &'v Value, path: &str) -> Option<&'v Value> {
    path.split('.').try_fold(object, |value, segment| value.get(segment)).filter(|v| !v.is_null())
}

/// The `autoscaling/v1` Scale of an object.
pub fn scale_view(resource: &Resource, object: &Value) -> Result<Value, ApiError> {
    let paths = paths(resource)?;
    let mut metadata = Map::new();
    for key in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = meta::get(object, &["metadata", key]) {
            metadata.insert(key.to_owned(), value.clone());
        }
    }
    let mut status = json!({ "replicas": at(object, &paths.status).and_then(Value::as_i64).unwrap_or(0) });
    let selector = match at(object, &paths.selector) {
        Some(Value::String(text)) => text.clone(),
        // A ReplicationController's is a plain map of labels.
        Some(Value::Object(labels)) if !labels.is_empty() && labels.values().all(Value::is_string) => {
            selector::format_labels(at(object, &paths.selector))
        }
        Some(other) => {
            let selector = LabelSelector::from_object(other);
            selector.map_err(|error| ApiError::internal(error.message))?.to_string()
        }
        None => String::new(),
    };
    if !selector.is_empty() {
        status["selector"] = Value::from(selector);
    }
    let mut spec = Map::new();
    match at(object, &paths.spec).and_then(Value::as_i64).unwrap_or(0) {
        0 => {}
        replicas => drop(spec.insert("replicas".to_owned(), Value::from(replicas))),
    }
    Ok(json!({
        "apiVersion": "autoscaling/v1",
        "kind": "Scale",
        "metadata": metadata,
        "spec": spec,
        "status": status,
    }))
}

/// Writes a Scale's `spec.replicas` into the object, after its preconditions (uid, resourceVersion) were met.
pub fn apply_scale(resource: &Resource, object: &mut Value, scale: &Value) -> Result<(), ApiError> {
    let paths = paths(resource)?;
    let name = meta::name(object).to_owned();
    let given_name = meta::name(scale);
    if !given_name.is_empty() && given_name != name {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({given_name}) does not match the name on the URL ({name})"
        )));
    }
    let (given, actual) = (meta::uid(scale), meta::uid(object));
    if !given.is_empty() && given != actual {
        let why = format!("Precondition failed: UID in precondition: {given}, UID in object meta: {actual}");
        return Err(ApiError::conflict(&resource.qualified(), &name, why));
    }
    let given = meta::resource_version(scale);
    if !given.is_empty() && given != meta::resource_version(object) {
        return Err(ApiError::stale(&resource.qualified(), &name));
    }
    let replicas = at(scale, "spec.replicas").and_then(Value::as_i64).unwrap_or(0);
    if replicas < 0 {
        let error = FieldError::invalid("spec.replicas", replicas, "must be greater than or equal to 0");
        return Err(ApiError::invalid("autoscaling", "Scale", &name, vec![error]));
    }
    let mut target = object;
    let mut segments = paths.spec.split('.').peekable();
    while let Some(segment) = segments.next() {
        if segments.peek().is_none() {
            if let Value::Object(map) = target {
                map.insert(segment.to_owned(), Value::from(replicas));
            }
            return Ok(());
        }
        meta::object_mut(target, segment);
        target = &mut target[segment];
    }
    Ok(())
}

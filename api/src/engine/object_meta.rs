//! `metadata`: what the system sets, and what may be in it.

use serde_json::{Map, Value};

use super::Context;
use crate::error::{ApiError, FieldError};
use crate::kinds::Resource;
use crate::meta;
use crate::strategy::names::{self, NameRule};

/// How long a generated name may be before its suffix.
const GENERATED_BASE_MAX: usize = 58;
/// All annotations together.
const ANNOTATIONS_BYTES_MAX: usize = 256 * 1024;
/// Finalizers that need no domain.
const STANDARD_FINALIZERS: [&str; 3] = ["kubernetes", "orphan", "foregroundDeletion"];

/// Takes the request's namespace where the object has none, and refuses another one.
pub(super) fn settle_namespace(
    resource: &Resource,
    object: &mut Value,
    namespace: Option<&str>,
) -> Result<(), ApiError> {
    let metadata = meta::metadata_mut(object);
    let given = metadata.get("namespace").and_then(Value::as_str).unwrap_or_default();
    match namespace.filter(|n| !n.is_empty() && resource.namespaced) {
        None if resource.namespaced => {}
        None => drop(metadata.remove("namespace")),
        Some(wanted) if given.is_empty() => {
            metadata.insert("namespace".to_owned(), Value::from(wanted));
        }
        Some(wanted) if given != wanted => {
            return Err(ApiError::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
        Some(_) => {}
    }
    Ok(())
}

/// Gives a new object its identity.
pub(super) fn begin(object: &mut Value, tracks_generation: bool, ctx: &Context<'_>) -> Result<(), ApiError> {
    if !meta::resource_version(object).is_empty() && meta::resource_version(object) != "0" {
        return Err(ApiError::bad_request("resourceVersion should not be set on objects to be created"));
    }
    let metadata = meta::metadata_mut(object);
    for key in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "generation", "resourceVersion"] {
        metadata.remove(key);
    }
    let text =
        |map: &Map<String, Value>, key: &str| map.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let base = text(metadata, "generateName");
    if !base.is_empty() && text(metadata, "name").is_empty() {
        let cut = base.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|end| *end <= GENERATED_BASE_MAX);
        let kept = &base[..cut.last().unwrap_or(0)];
        metadata.insert("name".to_owned(), Value::from(format!("{kept}{}", ctx.random_suffix)));
    }
    metadata.insert("creationTimestamp".to_owned(), Value::from(meta::time(ctx.now)));
    metadata.insert("uid".to_owned(), Value::from(ctx.new_uid));
    if tracks_generation {
        metadata.insert("generation".to_owned(), Value::from(1));
    }
    Ok(())
}

/// Takes from the old object what an update leaves out, and refuses an update of another object.
pub(super) fn carry_over(resource: &Resource, old: &Value, new: &mut Value) -> Result<(), ApiError> {
    let name = meta::name(old).to_owned();
    let given = meta::name(new).to_owned();
    if given.is_empty() {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({name} based on URL) was undeterminable: name must be provided"
        )));
    }
    if given != name {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({given}) does not match the name on the URL ({name})"
        )));
    }
    let namespace = meta::namespace(old).to_owned();
    settle_namespace(resource, new, Some(&namespace))?;
    let (given, actual) = (meta::uid(new), meta::uid(old));
    if !given.is_empty() && !actual.is_empty() && given != actual {
        let why = format!("Precondition failed: UID in precondition: {given}, UID in object meta: {actual}");
        return Err(ApiError::conflict(&resource.qualified(), &name, why));
    }
    let (given, actual) = (meta::resource_version(new), meta::resource_version(old));
    if !given.is_empty() && given != "0" && !actual.is_empty() && given != actual {
        return Err(ApiError::stale(&resource.qualified(), &name));
    }
    let metadata = meta::metadata_mut(new);
    metadata.remove("selfLink");
    for key in ["uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "namespace"] {
        if !metadata.contains_key(key)
            && let Some(value) = meta::get(old, &["metadata", key])
        {
            metadata.insert(key.to_owned(), value.clone());
        }
    }
    for key in ["generation", "resourceVersion"] {
        match meta::get(old, &["metadata", key]) {
            Some(value) => drop(metadata.insert(key.to_owned(), value.clone())),
            None => drop(metadata.remove(key)),
        }
    }
    Ok(())
}

/// Validates the metadata of any object.
pub(super) fn validate(resource: &Resource, rule: NameRule, object: &Value, errors: &mut Vec<FieldError>) {
    let name = meta::name(object);
    let base = meta::str_at(object, &["metadata", "generateName"]);
    if !base.is_empty() {
        for detail in rule.errors(base, true) {
            errors.push(FieldError::invalid("metadata.generateName", base, detail));
        }
    }
    if name.is_empty() {
        errors.push(FieldError::required("metadata.name", "name or generateName is required"));
    } else {
        for detail in rule.errors(name, false) {
            errors.push(FieldError::invalid("metadata.name", name, detail));
        }
    }
    let namespace = meta::namespace(object);
    if !resource.namespaced && !namespace.is_empty() {
        errors.push(FieldError::forbidden("metadata.namespace", "not allowed on this type"));
    } else if resource.namespaced && namespace.is_empty() {
        errors.push(FieldError::required("metadata.namespace", ""));
    } else if resource.namespaced {
        for detail in NameRule::Label.errors(namespace, false) {
            errors.push(FieldError::invalid("metadata.namespace", namespace, detail));
        }
    }
    names::validate_labels(meta::get(object, &["metadata", "labels"]), "metadata.labels", errors);
    validate_annotations(meta::get(object, &["metadata", "annotations"]), "metadata.annotations", errors);
    validate_owners(object, errors);
    validate_finalizers(resource, object, errors);
}

/// Validates annotations, wherever they stand.
pub(crate) fn validate_annotations(annotations: Option<&Value>, path: &str, errors: &mut Vec<FieldError>) {
    let Some(Value::Object(map)) = annotations else { return };
    let mut size = 0;
    for (key, value) in map {
        // The rule is about lower-case keys only for history's sake: it lets upper case pass.
        for detail in crate::selector::label_key_errors(&key.to_lowercase()) {
            errors.push(FieldError::invalid(path, key.as_str(), detail));
        }
        size += key.len() + value.as_str().map_or(0, str::len);
    }
    if size > ANNOTATIONS_BYTES_MAX {
        errors.push(FieldError::too_long(path, ANNOTATIONS_BYTES_MAX));
    }
}

fn validate_owners(object: &Value, errors: &mut Vec<FieldError>) {
    let owners = meta::get(object, &["metadata", "ownerReferences"]).and_then(Value::as_array);
    let mut controller: Option<&str> = None;
    for (at, owner) in owners.into_iter().flatten().enumerate() {
        let path = format!("metadata.ownerReferences[{at}]");
        let text = |key: &str| owner.get(key).and_then(Value::as_str).unwrap_or_default();
        let checks = [("apiVersion", "version must not be empty"), ("kind", "kind must not be empty")];
        for (key, detail) in
            checks.into_iter().chain([("name", "name must not be empty"), ("uid", "uid must not be empty")])
        {
            if text(key).is_empty() {
                errors.push(FieldError::invalid(format!("{path}.{key}"), "", detail));
            }
        }
        if text("kind") == "Event" && matches!(text("apiVersion"), "v1" | "events.k8s.io/v1") {
            let detail = format!("{}, Kind=Event is disallowed from being an owner", text("apiVersion"));
            errors.push(FieldError::invalid(path, owner.clone(), detail));
        }
        if owner.get("controller") == Some(&Value::Bool(true)) {
            match controller {
                Some(first) => errors.push(FieldError::invalid(
                    "metadata.ownerReferences",
                    meta::get(object, &["metadata", "ownerReferences"]).cloned().unwrap_or_default(),
                    format!(
                        "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {}",
                        text("name")
                    ),
                )),
                None => controller = Some(text("name")),
            }
        }
    }
}

fn validate_finalizers(resource: &Resource, object: &Value, errors: &mut Vec<FieldError>) {
    let path = "metadata.finalizers";
    let list: Vec<&str> = meta::finalizers(object).collect();
    for finalizer in &list {
        for detail in crate::selector::label_key_errors(finalizer) {
            errors.push(FieldError::invalid(path, *finalizer, detail));
        }
        // A custom kind's finalizer need not be fully qualified.
        let standard = resource.custom.is_some() || resource.strategy.cleanup_finalizer() == Some(*finalizer);
        if !finalizer.contains('/') && !standard && !STANDARD_FINALIZERS.contains(finalizer) {
            let detail = "name is neither a standard finalizer name nor is it fully qualified";
            errors.push(FieldError::invalid(path, *finalizer, detail));
        }
    }
    if list.contains(&"orphan") && list.contains(&"foregroundDeletion") {
        let detail = "finalizer orphan and foregroundDeletion cannot be both set";
        errors.push(FieldError::invalid(path, Value::from(list.clone()), detail));
    }
}

/// Validates what an update may not do to the metadata.
pub(super) fn validate_update(old: &Value, new: &Value, errors: &mut Vec<FieldError>) {
    let get = |object: &'_ Value, key: &str| meta::get(object, &["metadata", key]).cloned().unwrap_or_default();
    if meta::is_deleting(old) {
        let before: Vec<&str> = meta::finalizers(old).collect();
        let added: Vec<&str> = meta::finalizers(new).filter(|f| !before.contains(f)).collect();
        if !added.is_empty() {
            let shown: Vec<String> = added.iter().map(|f| format!("{f:?}")).collect();
            errors.push(FieldError::forbidden(
                "metadata.finalizers",
                format!(
                    "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                    shown.join(", ")
                ),
            ));
        }
    }
    for key in ["name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        let (was, is) = (get(old, key), get(new, key));
        if was != is {
            errors.push(FieldError::invalid(format!("metadata.{key}"), is, "field is immutable"));
        }
    }
}

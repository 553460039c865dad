//! Create and update around admission: prepare before it, finish after it.

use serde_json::{Map, Value};

use super::decode::complete;
use super::{Changed, Context, object_meta};
use crate::apply;
use crate::error::{ApiError, FieldError};
use crate::kinds::Resource;
use crate::meta;
use crate::schema::TypeKind;

/// Completes a new object before admission: namespace, name, system metadata, defaults, the strategy's resets.
pub fn prepare_create(
    resource: &Resource,
    object: &mut Value,
    namespace: Option<&str>,
    ctx: &mut Context<'_>,
) -> Result<(), ApiError> {
    object_meta::settle_namespace(resource, object, namespace)?;
    object_meta::begin(object, resource.strategy.tracks_generation(), ctx)?;
    complete(resource, object);
    if resource.subresources.status && !resource.strategy.keeps_status_on_create() {
        remove(object, "status");
    }
    resource.strategy.prepare_create(object);
    Ok(())
}

/// Validates a new object after admission and records its field manager.
pub fn finish_create(resource: &Resource, object: &mut Value, ctx: &mut Context<'_>) -> Result<(), ApiError> {
    complete(resource, object);
    resource.strategy.settle_create(object);
    let mut errors = Vec::new();
    object_meta::validate(resource, resource.strategy.name_rule(), object, &mut errors);
    resource.strategy.validate_create(object, &mut errors);
    refuse(resource, object, errors)?;
    ctx.warnings.extend(resource.strategy.warnings(object));
    if !ctx.applied {
        let api_version = resource.api_version();
        apply::track_update(resource.schema(), &api_version, None, object, ctx.manager, None, ctx.now);
    }
    make_whole(resource, object);
    Ok(())
}

/// Built-in kinds have a spec and a status even where there is nothing in them; typed clients rely on it.
fn make_whole(resource: &Resource, object: &mut Value) {
    let Some(map) = object.as_object_mut().filter(|_| resource.custom.is_none()) else { return };
    for part in ["spec", "status"] {
        let is_struct = resource.schema().field(part).is_some_and(|field| field.kind() == TypeKind::Object);
        if is_struct && map.get(part).is_none_or(Value::is_null) {
            map.insert(part.to_owned(), Value::Object(Map::new()));
        }
    }
}

/// Completes an update before admission: what the client may not change is taken from `old`.
pub fn prepare_update(
    resource: &Resource,
    subresource: Option<&str>,
    old: &Value,
    new: &mut Value,
    ctx: &mut Context<'_>,
) -> Result<(), ApiError> {
    let _ = ctx;
    let subresource = subresource.filter(|s| !s.is_empty());
    if meta::resource_version(new).is_empty() && !resource.strategy.allows_unconditional_update() {
        let error = FieldError::invalid("metadata.resourceVersion", 0, "must be specified for an update");
        return Err(ApiError::invalid(&resource.group, &resource.kind, meta::name(old), vec![error]));
    }
    object_meta::carry_over(resource, old, new)?;
    match subresource {
        // An approval is a part of the status; which part, the strategy knows.
        Some("status" | "approval") => keep_all_but(old, new, "status"),
        _ if resource.subresources.status => copy(old, new, "status"),
        _ => {}
    }
    resource.strategy.prepare_update(subresource, old, new);
    complete(resource, new);
    make_whole(resource, new);
    bump_generation(resource, subresource, old, new);
    Ok(())
}

/// Validates an update after admission, bumps the generation and records the field manager.
pub fn finish_update(
    resource: &Resource,
    subresource: Option<&str>,
    old: &Value,
    new: &mut Value,
    ctx: &mut Context<'_>,
) -> Result<Changed, ApiError> {
    let subresource = subresource.filter(|s| !s.is_empty());
    complete(resource, new);
    bump_generation(resource, subresource, old, new);
    let mut errors = Vec::new();
    object_meta::validate(resource, resource.strategy.name_rule(), new, &mut errors);
    object_meta::validate_update(old, new, &mut errors);
    if subresource.is_none() && !resource.strategy.validates_updates_by_change() {
        resource.strategy.validate_create(new, &mut errors);
    }
    resource.strategy.validate_update(subresource, old, new, &mut errors);
    refuse(resource, new, errors)?;
    let generation = |object: &Value| meta::get(object, &["metadata", "generation"]).cloned();
    let changed = !resource.strategy.tracks_generation() || generation(old) != generation(new);
    if subresource.is_none() && changed && resource.strategy.warns_of_updates() {
        ctx.warnings.extend(resource.strategy.warnings(new));
    }
    if !ctx.applied {
        let api_version = resource.api_version();
        apply::track_update(resource.schema(), &api_version, Some(old), new, ctx.manager, subresource, ctx.now);
    }
    Ok(if same(old, new) { Changed::No } else { Changed::Yes })
}

fn refuse(resource: &Resource, object: &Value, errors: Vec<FieldError>) -> Result<(), ApiError> {
    if errors.is_empty() {
        return Ok(());
    }
    Err(ApiError::invalid(&resource.group, &resource.kind, meta::name(object), errors))
}

fn remove(object: &mut Value, key: &str) {
    if let Value::Object(map) = object {
        map.remove(key);
    }
}

/// Makes `new[key]` what it is in `old`, absence included.
pub(crate) fn copy(old: &Value, new: &mut Value, key: &str) {
    let Value::Object(map) = new else { return };
    match old.get(key) {
        Some(value) => drop(map.insert(key.to_owned(), value.clone())),
        None => drop(map.remove(key)),
    }
}

/// Takes everything but metadata and `key` from `old`.
fn keep_all_but(old: &Value, new: &mut Value, key: &str) {
    let (Value::Object(was), Value::Object(is)) = (old, &mut *new) else { return };
    let mut kept: Map<String, Value> = was.clone();
    for own in ["metadata", key] {
        match is.remove(own) {
            Some(value) => drop(kept.insert(own.to_owned(), value)),
            None => drop(kept.remove(own)),
        }
    }
    *is = kept;
}

/// The generation counts changes of what the user wants: of all but metadata and status.
fn bump_generation(resource: &Resource, subresource: Option<&str>, old: &Value, new: &mut Value) {
    if !resource.strategy.tracks_generation() || matches!(subresource, Some("status" | "approval")) {
        return;
    }
    let counts_status = resource.strategy.status_counts_as_spec();
    let wanted = |object: &Value| {
        let parts = object.as_object().into_iter().flatten();
        parts
            .filter(|(key, _)| match key.as_str() {
                "metadata" | "apiVersion" | "kind" => false,
                "status" => counts_status,
                _ => true,
            })
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect::<Map<String, Value>>()
    };
    let annotations = |object: &Value| meta::get(object, &["metadata", "annotations"]).cloned();
    let changed = wanted(old) != wanted(new)
        || resource.strategy.annotations_count_as_spec() && annotations(old) != annotations(new);
    let before = meta::get(old, &["metadata", "generation"]).and_then(Value::as_i64).unwrap_or(0);
    let after = if changed { before + 1 } else { before };
    if after > 0 {
        meta::metadata_mut(new).insert("generation".to_owned(), Value::from(after));
    }
}

/// Whether the objects differ in nothing but the resourceVersion and the times in managedFields.
fn same(old: &Value, new: &Value) -> bool {
    let (Value::Object(a), Value::Object(b)) = (old, new) else { return old == new };
    let empty = Map::new();
    let metadata = |map: &Map<String, Value>| map.get("metadata").and_then(Value::as_object).cloned();
    if a.len() != b.len() || a.iter().any(|(key, value)| key != "metadata" && b.get(key) != Some(value)) {
        return false;
    }
    let (a, b) = (metadata(a).unwrap_or_default(), metadata(b).unwrap_or_default());
    let plain = |map: &Map<String, Value>| -> Vec<(String, Value)> {
        map.iter()
            .filter(|(key, _)| !matches!(key.as_str(), "resourceVersion" | "managedFields"))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    };
    let owned = |map: &Map<String, Value>| -> Vec<Map<String, Value>> {
        let entries = map.get("managedFields").and_then(Value::as_array).into_iter().flatten();
        entries
            .map(|entry| {
                let mut entry = entry.as_object().unwrap_or(&empty).clone();
                entry.remove("time");
                entry
            })
            .collect()
    };
    plain(&a) == plain(&b) && owned(&a) == owned(&b)
}

//! Small readers of fields in an object's JSON, and writers of defaults.

use serde_json::{Map, Value};

use crate::error::FieldError;

/// A field that is there and not null.
pub(super) fn at<'v>(value: &'v Value, key: &str) -> Option<&'v Value> {
    value.get(key).filter(|v| !v.is_null())
}

/// A field below fields.
pub(super) fn deep<'v>(value: &'v Value, path: &[&str]) -> Option<&'v Value> {
    path.iter().try_fold(value, |value, key| at(value, key))
}

/// A text; empty if absent.
pub(super) fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// A whole number.
pub(super) fn int(value: &Value, key: &str) -> Option<i64> {
    value.get(key).and_then(Value::as_i64)
}

/// Whether a field is true.
pub(super) fn is_true(value: &Value, key: &str) -> bool {
    value.get(key) == Some(&Value::Bool(true))
}

/// A list's items; none if absent.
pub(super) fn list<'v>(value: &'v Value, key: &str) -> &'v [Value] {
    value.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// A list's items, to change.
pub(super) fn list_mut<'v>(value: &'v mut Value, key: &str) -> &'v mut [Value] {
    value.get_mut(key).and_then(Value::as_array_mut).map(Vec::as_mut_slice).unwrap_or_default()
}

/// A map's entries; none if absent.
pub(super) fn entries<'v>(value: &'v Value, key: &str) -> impl Iterator<Item = (&'v String, &'v Value)> {
    value.get(key).and_then(Value::as_object).into_iter().flatten()
}

/// Sets a field that is absent, null or an empty text.
pub(super) fn set_default(value: &mut Value, key: &str, default: impl Into<Value>) {
    let Value::Object(map) = value else { return };
    let absent = map.get(key).is_none_or(|v| v.is_null() || v.as_str() == Some(""));
    if absent {
        map.insert(key.to_owned(), default.into());
    }
}

/// Sets a field.
pub(super) fn set(value: &mut Value, key: &str, new: impl Into<Value>) {
    if let Value::Object(map) = value {
        map.insert(key.to_owned(), new.into());
    }
}

/// Removes a field.
pub(super) fn unset(value: &mut Value, key: &str) {
    if let Value::Object(map) = value {
        map.remove(key);
    }
}

/// The struct at `key`, made if absent.
pub(super) fn child<'v>(value: &'v mut Value, key: &str) -> &'v mut Value {
    if !value.get(key).is_some_and(Value::is_object) {
        if !value.is_object() {
            *value = Value::Object(Map::new());
        }
        set(value, key, Map::new());
    }
    &mut value[key]
}

/// A number that must not be negative.
pub(super) fn non_negative(value: &Value, key: &str, path: &str, errors: &mut Vec<FieldError>) {
    if let Some(number) = int(value, key).filter(|n| *n < 0) {
        errors.push(FieldError::invalid(format!("{path}.{key}"), number, "must be greater than or equal to 0"));
    }
}

/// A text that must be one of several.
pub(super) fn one_of(value: &Value, key: &str, path: &str, allowed: &[&str], errors: &mut Vec<FieldError>) {
    let found = text(value, key);
    if !allowed.contains(&found) {
        errors.push(FieldError::not_supported(format!("{path}.{key}"), found, allowed));
    }
}

/// A field that an update must leave as it is.
pub(super) fn immutable(old: &Value, new: &Value, path: &[&str], errors: &mut Vec<FieldError>) {
    let (was, is) = (deep(old, path), deep(new, path));
    if was != is {
        errors.push(FieldError::invalid(path.join("."), is.cloned().unwrap_or_default(), "field is immutable"));
    }
}

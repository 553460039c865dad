//! Reading and writing `metadata` and paths inside an object's JSON.

use std::borrow::Cow;

use jiff::Timestamp;
use serde_json::{Map, Value};

/// The label by which a pod names its PodGroup, as Kubernetes' coscheduling plugin has it.
pub const POD_GROUP_LABEL: &str = "scheduling.x-k8s.io/pod-group";

/// The value at a path of struct fields.
pub fn get<'a>(object: &'a Value, path: &[&str]) -> Option<&'a Value> {
    path.iter().try_fold(object, |value, segment| value.get(*segment)).filter(|value| !value.is_null())
}

/// The text at a path; empty if absent.
pub fn str_at<'a>(object: &'a Value, path: &[&str]) -> &'a str {
    get(object, path).and_then(Value::as_str).unwrap_or_default()
}

/// The name.
pub fn name(object: &Value) -> &str {
    str_at(object, &["metadata", "name"])
}

/// The namespace; empty for a cluster-wide object.
pub fn namespace(object: &Value) -> &str {
    str_at(object, &["metadata", "namespace"])
}

/// The UID.
pub fn uid(object: &Value) -> &str {
    str_at(object, &["metadata", "uid"])
}

/// The resourceVersion as the client wrote it.
pub fn resource_version(object: &Value) -> &str {
    str_at(object, &["metadata", "resourceVersion"])
}

/// Whether the object is being deleted.
pub fn is_deleting(object: &Value) -> bool {
    get(object, &["metadata", "deletionTimestamp"]).is_some()
}

/// The finalizers.
pub fn finalizers(object: &Value) -> impl Iterator<Item = &str> {
    get(object, &["metadata", "finalizers"]).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
}

/// A label's or annotation's value.
pub fn annotation<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    get(object, &["metadata", "annotations"])?.get(key)?.as_str()
}

/// The struct at `key`, made if it is absent or no struct.
pub fn object_mut<'a>(object: &'a mut Value, key: &str) -> &'a mut Map<String, Value> {
    if !object.is_object() {
        *object = Value::Object(Map::new());
    }
    let map = object.as_object_mut().expect("made an object just above");
    let entry = map.entry(key).or_insert_with(|| Value::Object(Map::new()));
    if !entry.is_object() {
        *entry = Value::Object(Map::new());
    }
    entry.as_object_mut().expect("made an object just above")
}

/// The metadata, made if absent.
pub fn metadata_mut(object: &mut Value) -> &mut Map<String, Value> {
    object_mut(object, "metadata")
}

/// A time as Kubernetes writes it: RFC 3339 in seconds, UTC.
pub fn time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// A time with microseconds.
pub fn micro_time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

/// A path to a field: `spec.containers[0]` + `name`.
pub fn join<'a>(path: &'a str, field: &'a str) -> Cow<'a, str> {
    if path.is_empty() { Cow::Borrowed(field) } else { Cow::Owned(format!("{path}.{field}")) }
}

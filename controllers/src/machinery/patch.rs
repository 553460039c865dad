//! Writes of objects and their status, only when something changed.

use std::fmt::Debug;

use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::Error;

/// The manager that the API server notes for fields written here. It is the name under which Kubernetes' own
/// controllers write, which other tools know and leave alone.
pub const FIELD_MANAGER: &str = "kube-controller-manager";

/// Parameters of a patch by this component.
pub fn patch_params() -> PatchParams {
    PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() }
}

/// Parameters of a create or replace by this component.
pub fn post_params() -> PostParams {
    PostParams { field_manager: Some(FIELD_MANAGER.into()), ..PostParams::default() }
}

/// Parameters of a delete that only hits the object with this UID.
pub fn delete_params(uid: &str) -> DeleteParams {
    DeleteParams::default().preconditions(Preconditions { uid: Some(uid.to_owned()), resource_version: None })
}

/// The JSON merge patch that turns `old` into `new`; none if they are equal.
///
/// Lists are replaced whole, so a patch that touches one needs a resourceVersion beside it.
pub fn merge_diff(old: &Value, new: &Value) -> Option<Value> {
    if old == new {
        return None;
    }
    let (Value::Object(old), Value::Object(new)) = (old, new) else {
        return Some(new.clone());
    };
    let mut patch = Map::new();
    for key in old.keys().filter(|key| !new.contains_key(*key)) {
        patch.insert(key.clone(), Value::Null);
    }
    for (key, value) in new {
        let part = match old.get(key) {
            Some(before) => merge_diff(before, value),
            None => Some(value.clone()),
        };
        if let Some(part) = part {
            patch.insert(key.clone(), part);
        }
    }
    Some(Value::Object(patch))
}

/// Makes the status of `object` be `new` where it is `old`, provided nobody has written since.
///
/// Answers none when there was nothing to write.
pub async fn write_status<K, S>(api: &Api<K>, object: &K, old: &S, new: &S) -> Result<Option<K>, Error>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
    S: Serialize,
{
    let (old, new) = (serde_json::to_value(old)?, serde_json::to_value(new)?);
    // A status that was never written is an empty one.
    let old = if old.is_null() { json!({}) } else { old };
    let Some(difference) = merge_diff(&old, &new) else {
        return Ok(None);
    };
    let patch = json!({
        "metadata": {"resourceVersion": object.resource_version(), "uid": object.uid()},
        "status": difference,
    });
    let written = api.patch_status(&object.name_any(), &patch_params(), &Patch::Merge(&patch)).await?;
    Ok(Some(written))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_merge_diff_names_only_what_changed() {
        let old = json!({"replicas": 3, "ready": 2, "conditions": [1], "same": {"a": 1}});
        let new = json!({"replicas": 3, "conditions": [1, 2], "same": {"a": 1}, "x": {"y": 1}});
        assert_eq!(merge_diff(&old, &new), Some(json!({"ready": null, "conditions": [1, 2], "x": {"y": 1}})));
        assert_eq!(merge_diff(&old, &old), None);
    }
}

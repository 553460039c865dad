//! Writes a pod's status to the API: one patch with only what the agent owns.

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Map, Value, json};

use super::context::Context;
use super::spec;
use super::status::OWN_CONDITIONS;

/// Fields of the status that are the agent's, and are cleared when it does not set them.
const OWN_FIELDS: [&str; 14] = [
    "phase",
    "reason",
    "message",
    "conditions",
    "hostIP",
    "hostIPs",
    "podIP",
    "podIPs",
    "startTime",
    "qosClass",
    "observedGeneration",
    "initContainerStatuses",
    "containerStatuses",
    "ephemeralContainerStatuses",
];

/// Whether an error means that the pod (of this UID) is not there any more.
pub fn is_gone(error: &kube::Error) -> bool {
    match error {
        // A conflict is the UID's: another pod has the name.
        kube::Error::Api(status) => status.code == 404 || status.code == 409,
        _ => false,
    }
}

/// Publishes `status`; `before` is what the API is believed to have. Returns the pod as the API then has it.
pub async fn publish(
    context: &Context,
    pod: &Pod,
    before: Option<&PodStatus>,
    status: &PodStatus,
) -> Result<Pod, kube::Error> {
    let who = spec::identity(pod);
    let api: Api<Pod> = Api::namespaced(context.client.clone(), &who.namespace);
    let patch = patch(&who.uid, before, status).map_err(kube::Error::SerdeError)?;
    api.patch_status(&who.name, &PatchParams::default(), &Patch::Strategic(patch)).await
}

/// The patch that leads from `before` to `status`.
fn patch(uid: &str, before: Option<&PodStatus>, status: &PodStatus) -> Result<Value, serde_json::Error> {
    let after = serde_json::to_value(status)?;
    let before = before.map(serde_json::to_value).transpose()?.unwrap_or_default();
    let mut fields = Map::new();
    for name in OWN_FIELDS {
        let (old, new) = (&before[name], &after[name]);
        if old == new {
            continue;
        }
        let mut new = new.clone();
        if matches!(name, "podIPs" | "hostIPs")
            && old.as_array().is_some_and(|old| !old.is_empty())
            && let Some(list) = new.as_array_mut()
        {
            // These lists are merged by address: an address that changed would otherwise only be added.
            list.insert(0, json!({ "$patch": "replace" }));
        }
        if name == "conditions" {
            clear_what_is_absent(old, &mut new);
            clear_what_is_over(old, &mut new);
        }
        fields.insert(name.to_owned(), new);
    }
    // The UID makes the patch fail if the name has gone to another pod.
    Ok(json!({ "metadata": { "uid": uid }, "status": fields }))
}

/// Conditions are merged by type and field by field: a reason that no longer holds has to be taken away by name.
fn clear_what_is_absent(old: &Value, new: &mut Value) {
    for condition in new.as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut) {
        let same_type = |old: &&Value| old.get("type") == condition.get("type");
        let before = old.as_array().into_iter().flatten().find(same_type).and_then(Value::as_object);
        for key in before.into_iter().flat_map(Map::keys) {
            condition.entry(key.clone()).or_insert(Value::Null);
        }
    }
}

/// Of our own conditions some are there only while they hold.
fn clear_what_is_over(old: &Value, new: &mut Value) {
    let Some(new) = new.as_array_mut() else { return };
    for before in old.as_array().into_iter().flatten() {
        let own = OWN_CONDITIONS.iter().any(|own| before["type"] == *own);
        if own && !new.iter().any(|condition| condition["type"] == before["type"]) {
            new.push(json!({"type": before["type"], "$patch": "delete"}));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_that_no_longer_holds_is_taken_away() {
        let of = |value: Value| serde_json::from_value::<PodStatus>(json!({"conditions": [value]})).unwrap();
        let old = of(json!({"type": "Ready", "status": "False", "reason": "ContainersNotReady", "message": "x"}));
        let new = of(json!({"type": "Ready", "status": "True"}));
        let patch = patch("u", Some(&old), &new).unwrap();
        let expected = json!([{"type": "Ready", "status": "True", "reason": null, "message": null}]);
        assert_eq!(patch["status"]["conditions"], expected);
    }

    #[test]
    fn a_condition_that_is_over_is_taken_away_and_those_of_others_stay() {
        let status = |value: Value| serde_json::from_value::<PodStatus>(json!({"conditions": value})).unwrap();
        let old = status(json!([{"type": "PodResizePending", "status": "True"}, {"type": "Other", "status": "True"}]));
        let patch = patch("u", Some(&old), &status(json!([{"type": "Ready", "status": "True"}]))).unwrap();
        let expected = json!([{"type": "Ready", "status": "True"}, {"type": "PodResizePending", "$patch": "delete"}]);
        assert_eq!(patch["status"]["conditions"], expected);
    }

    #[test]
    fn only_what_changed_is_sent() {
        let status = |value: Value| serde_json::from_value::<PodStatus>(value).unwrap();
        let old = status(
            json!({"phase": "Pending", "reason": "x", "podIPs": [{"ip": "10.0.0.1"}], "qosClass": "BestEffort"}),
        );
        let new = status(json!({"phase": "Running", "podIPs": [{"ip": "10.0.0.2"}], "qosClass": "BestEffort"}));
        let patch = patch("u", Some(&old), &new).unwrap();
        assert_eq!(
            patch,
            json!({"metadata": {"uid": "u"}, "status": {
                "phase": "Running", "reason": null, "podIPs": [{"$patch": "replace"}, {"ip": "10.0.0.2"}]}})
        );
    }
}

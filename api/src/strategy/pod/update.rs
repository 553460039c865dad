//! What an update may change in a pod.

use std::collections::BTreeSet;

use serde_json::Value;

use super::validate::validate_pod;
use super::{MIRROR, app_armor, gated};
use crate::error::FieldError;
use crate::strategy::field::{at, child, deep, int, list, list_mut, set, text, unset};

const MAY_NOT_CHANGE: &str = "pod updates may not change fields other than `spec.containers[*].image`,\
`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),\
`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// Validates an update of the pod itself.
pub(super) fn validate(old: &Value, new: &Value, errors: &mut Vec<FieldError>) {
    let none = Value::Null;
    validate_annotations(old, new, errors);
    let (was, is) = (at(old, "spec").unwrap_or(&none), at(new, "spec").unwrap_or(&none));
    let mut counts_differ = false;
    for field in ["containers", "initContainers"] {
        if list(was, field).len() != list(is, field).len() {
            let detail = "pod updates may not add or remove containers";
            errors.push(FieldError::forbidden(format!("spec.{field}"), detail));
            counts_differ = true;
        }
    }
    if counts_differ {
        return;
    }
    validate_deadline(was, is, errors);
    validate_tolerations(was, is, errors);
    let gates = |spec: &Value| -> Vec<String> {
        list(spec, "schedulingGates").iter().map(|g| text(g, "name").to_owned()).collect()
    };
    let before = gates(was);
    if let Some(added) = gates(is).iter().find(|gate| !before.contains(gate)) {
        let detail = format!("only deletion is allowed, but found new scheduling gate '{added}'");
        errors.push(FieldError::forbidden("spec.schedulingGates", detail));
    }
    // Undo what may change; the rest must be the same.
    let mut allowed = is.clone();
    for field in ["containers", "initContainers"] {
        let images: Vec<Option<Value>> = list(was, field).iter().map(|c| at(c, "image").cloned()).collect();
        for (container, image) in list_mut(&mut allowed, field).iter_mut().zip(images) {
            match image {
                Some(image) => set(container, "image", image),
                None => unset(container, "image"),
            }
        }
    }
    let mut free = vec!["activeDeadlineSeconds", "tolerations", "schedulingGates"];
    if !before.is_empty() {
        // A pod that waits at a gate may still be told where to go.
        gated::validate(was, is, errors);
        gated::undo(was, &mut allowed);
        free.push("nodeSelector");
    }
    if int(was, "terminationGracePeriodSeconds").is_some_and(|s| s < 0)
        && int(is, "terminationGracePeriodSeconds") == Some(1)
    {
        free.push("terminationGracePeriodSeconds");
    }
    for field in free {
        match at(was, field) {
            Some(value) => set(&mut allowed, field, value.clone()),
            None => unset(&mut allowed, field),
        }
    }
    if allowed != *was {
        let changed = differences(was, &allowed);
        errors.push(FieldError::forbidden("spec", format!("{MAY_NOT_CHANGE}\n{changed}")));
    }
}

/// Validates that annotations stay that say what the pod is: its AppArmor profiles, as its fields stay that say the same, and that it
/// is the mirror of a pod that its node read from a file.
fn validate_annotations(old: &Value, new: &Value, errors: &mut Vec<FieldError>) {
    let none = Value::Null;
    let [was, is] = [old, new].map(|pod| deep(pod, &["metadata", "annotations"]).unwrap_or(&none));
    let keys = [was, is].into_iter().filter_map(Value::as_object).flat_map(|annotations| annotations.keys());
    let changed: BTreeSet<&String> = keys.filter(|key| was.get(key.as_str()) != is.get(key.as_str())).collect();
    for key in changed {
        let what = match key.as_str() {
            MIRROR => "mirror pod annotation",
            key if key.starts_with(app_armor::ANNOTATION) => "AppArmor annotations",
            _ => continue,
        };
        let how = if was.get(key.as_str()).is_some() { "remove or update" } else { "add" };
        errors.push(FieldError::forbidden(format!("metadata.annotations[{key}]"), format!("may not {how} {what}")));
    }
}

/// The fields at the top of a spec that differ, for people.
fn differences(was: &Value, is: &Value) -> String {
    let mut keys: Vec<&String> =
        [was, is].into_iter().filter_map(Value::as_object).flat_map(|map| map.keys()).collect();
    keys.sort();
    keys.dedup();
    let lines: Vec<String> = keys
        .into_iter()
        .filter(|key| was.get(key.as_str()) != is.get(key.as_str()))
        .map(|key| {
            let show = |value: Option<&Value>| value.map_or_else(|| "nil".to_owned(), Value::to_string);
            format!("-\t{key}: {}\n+\t{key}: {}\n", show(was.get(key.as_str())), show(is.get(key.as_str())))
        })
        .collect();
    lines.concat()
}

fn validate_deadline(was: &Value, is: &Value, errors: &mut Vec<FieldError>) {
    let path = "spec.activeDeadlineSeconds";
    match (int(was, "activeDeadlineSeconds"), int(is, "activeDeadlineSeconds")) {
        (Some(before), Some(after)) if after > before => {
            errors.push(FieldError::invalid(path, after, "must be less than or equal to previous value"));
        }
        (Some(_), None) => {
            errors.push(FieldError::invalid(path, Value::Null, "must not update from a positive integer to nil value"));
        }
        _ => {}
    }
}

fn validate_tolerations(was: &Value, is: &Value, errors: &mut Vec<FieldError>) {
    let identity = |toleration: &Value| {
        let mut copy = toleration.clone();
        unset(&mut copy, "tolerationSeconds");
        copy
    };
    let after: Vec<Value> = list(is, "tolerations").iter().map(identity).collect();
    if list(was, "tolerations").iter().any(|toleration| !after.contains(&identity(toleration))) {
        let detail = "existing toleration can not be modified except its tolerationSeconds";
        errors.push(FieldError::forbidden("spec.tolerations", detail));
    }
}

/// The `ephemeralcontainers` subresource changes nothing else.
pub(super) fn keep_only_ephemeral_containers(old: &Value, new: &mut Value) {
    let given = deep(new, &["spec", "ephemeralContainers"]).cloned();
    set(new, "spec", at(old, "spec").cloned().unwrap_or_default());
    match given {
        Some(containers) => set(child(new, "spec"), "ephemeralContainers", containers),
        None => unset(child(new, "spec"), "ephemeralContainers"),
    }
}

pub(super) fn validate_ephemeral_containers(old: &Value, new: &Value, errors: &mut Vec<FieldError>) {
    validate_pod(new, errors);
    let none = Value::Null;
    let after = list(at(new, "spec").unwrap_or(&none), "ephemeralContainers");
    for container in list(at(old, "spec").unwrap_or(&none), "ephemeralContainers") {
        let name = text(container, "name");
        let detail = match after.iter().find(|c| text(c, "name") == name) {
            None => format!("existing ephemeral containers {name:?} may not be removed\n"),
            Some(found) if found != container => format!("existing ephemeral containers {name:?} may not be changed\n"),
            Some(_) => continue,
        };
        errors.push(FieldError::forbidden("spec.ephemeralContainers", detail));
    }
}

/// A container that must not restart stays terminated, and the class of service stays.
pub(super) fn validate_status(old: &Value, new: &Value, errors: &mut Vec<FieldError>) {
    let class = |object| deep(object, &["status", "qosClass"]).cloned();
    if class(old).is_some() && class(old) != class(new) {
        errors.push(FieldError::invalid("status.qosClass", class(new).unwrap_or_default(), "Pod QOS is immutable"));
    }
    let none = Value::Null;
    let policy = deep(new, &["spec", "restartPolicy"]).and_then(Value::as_str).unwrap_or_default();
    if policy != "Never" && policy != "OnFailure" {
        return;
    }
    let after = list(at(new, "status").unwrap_or(&none), "containerStatuses");
    for status in list(at(old, "status").unwrap_or(&none), "containerStatuses") {
        let name = text(status, "name");
        let container = list(at(new, "spec").unwrap_or(&none), "containers").iter().find(|c| text(c, "name") == name);
        let own_policy =
            container.is_some_and(|c| at(c, "restartPolicy").is_some() || at(c, "restartPolicyRules").is_some());
        let ended = deep(status, &["state", "terminated"]);
        let failed = ended.and_then(|e| int(e, "exitCode")).is_some_and(|code| code != 0);
        if own_policy || ended.is_none() || policy == "OnFailure" && failed {
            continue;
        }
        let found = after.iter().find(|s| text(s, "name") == name);
        if found.is_some_and(|s| deep(s, &["state", "terminated"]).is_none()) {
            let detail = "may not be transitioned to non-terminated state";
            errors.push(FieldError::forbidden(format!("status.containerStatuses[{name}].state"), detail));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn annotations_that_say_what_a_pod_is_stay() {
        let profile = format!("{}c", app_armor::ANNOTATION);
        let with = |key: &str, value: &str| json!({"metadata": {"annotations": {(key): value, "note": value}}});
        let without = json!({"metadata": {"annotations": {"note": "x"}}});
        for (old, new, key, refused) in [
            (with(&profile, "unconfined"), with(&profile, "unconfined"), "", None),
            (without.clone(), json!({}), "", None),
            (with("note", "a"), with("note", "b"), "", None),
            (
                with(&profile, "unconfined"),
                with(&profile, "runtime/default"),
                &profile,
                Some("remove or update AppArmor annotations"),
            ),
            (with(&profile, "unconfined"), without.clone(), &profile, Some("remove or update AppArmor annotations")),
            (without.clone(), with(&profile, "unconfined"), &profile, Some("add AppArmor annotations")),
            (with(MIRROR, "1"), with(MIRROR, "2"), MIRROR, Some("remove or update mirror pod annotation")),
            (with(MIRROR, "1"), json!({}), MIRROR, Some("remove or update mirror pod annotation")),
            (without, with(MIRROR, "1"), MIRROR, Some("add mirror pod annotation")),
        ] {
            let mut errors = Vec::new();
            validate(&old, &new, &mut errors);
            let expected: Vec<FieldError> = refused
                .map(|how| FieldError::forbidden(format!("metadata.annotations[{key}]"), format!("may not {how}")))
                .into_iter()
                .collect();
            assert_eq!(format!("{errors:?}"), format!("{expected:?}"), "{old} {new}");
        }
    }
}

//! The `resize` subresource: how much cpu and memory the containers of a pod ask for and may use, and nothing else.

use serde_json::Value;

use super::validate::validate_pod;
use super::{MIRROR, is_windows, qos_class};
use crate::error::FieldError;
use crate::meta;
use crate::strategy::field::{at, child, deep, entries, list, list_mut, set, text, unset};

const LISTS: [&str; 2] = ["containers", "initContainers"];
const RESIZABLE: [&str; 2] = ["cpu", "memory"];

/// Takes back whatever is no matter of the subresource. Containers that were added, removed, renamed or reordered stay, to be
/// refused.
pub(super) fn keep_only_resources(old: &Value, new: &mut Value) {
    for key in ["labels", "annotations", "finalizers", "ownerReferences", "deletionGracePeriodSeconds"] {
        match deep(old, &["metadata", key]) {
            Some(value) => set(child(new, "metadata"), key, value.clone()),
            None => unset(child(new, "metadata"), key),
        }
    }
    set(new, "status", at(old, "status").cloned().unwrap_or_default());
    let none = Value::Null;
    let mut spec = at(old, "spec").cloned().unwrap_or_default();
    let wanted = at(new, "spec").unwrap_or(&none);
    if LISTS.iter().any(|field| list(&spec, field).len() != list(wanted, field).len()) {
        return;
    }
    for field in LISTS {
        let names = |spec: &Value| list(spec, field).iter().map(|c| text(c, "name").to_owned()).collect::<Vec<_>>();
        if names(&spec) != names(wanted) {
            set(&mut spec, field, at(wanted, field).cloned().unwrap_or_default());
            continue;
        }
        let given = list(wanted, field).to_vec();
        for (container, given) in list_mut(&mut spec, field).iter_mut().zip(&given) {
            for key in ["resources", "resizePolicy"] {
                match at(given, key) {
                    Some(value) => set(container, key, value.clone()),
                    None => unset(container, key),
                }
            }
        }
    }
    set(new, "spec", spec);
}

/// Validates a resize.
pub(super) fn validate(old: &Value, new: &Value, errors: &mut Vec<FieldError>) {
    if meta::annotation(old, MIRROR).is_some() {
        errors.push(FieldError::forbidden("", "static pods cannot be resized"));
        return;
    }
    if at(old, "spec").is_some_and(is_windows) {
        errors.push(FieldError::forbidden("", "windows pods cannot be resized"));
        return;
    }
    validate_pod(new, errors);
    let none = Value::Null;
    let (was, is) = (at(old, "spec").unwrap_or(&none), at(new, "spec").unwrap_or(&none));
    let class = deep(old, &["status", "qosClass"]).and_then(Value::as_str).unwrap_or_else(|| qos_class(was));
    if class != qos_class(is) {
        errors.push(FieldError::invalid("spec", class, "Pod QOS Class may not change as a result of resizing"));
    }
    if !is_supported(old) {
        errors.push(FieldError::forbidden("spec", "Pod running on node without support for resize"));
    }
    if [was, is].iter().any(|spec| sets_resources(spec)) {
        errors.push(FieldError::forbidden(
            "",
            "resize of pods with pod-level resources is forbidden when InPlacePodLevelResourcesVerticalScalingEnabled \
             feature gate is disabled",
        ));
        return;
    }
    if !same_order(was, is, errors) {
        return;
    }
    for (field, restartable) in [("initContainers", true), ("containers", false)] {
        for (at_, (was, is)) in list(was, field).iter().zip(list(is, field)).enumerate() {
            if !restartable || is_sidecar(was) {
                removals(was, is, &format!("spec.{field}[{at_}].resources"), errors);
            }
        }
    }
    only_compute_changes(was, is, errors);
}

/// Whether the pod's node shows what its containers have, without which it can give them nothing else.
fn is_supported(pod: &Value) -> bool {
    let none = Value::Null;
    let statuses = list(at(pod, "status").unwrap_or(&none), "containerStatuses");
    let running = statuses.iter().find(|status| deep(status, &["state", "running"]).is_some());
    running.is_none_or(|status| at(status, "resources").is_some())
}

fn sets_resources(spec: &Value) -> bool {
    let amounts = |resources: &Value| ["requests", "limits"].iter().map(|key| entries(resources, key).count()).sum();
    at(spec, "resources").map_or(0usize, amounts) > 0
}

fn is_sidecar(container: &Value) -> bool {
    text(container, "restartPolicy") == "Always"
}

fn same_order(was: &Value, is: &Value, errors: &mut Vec<FieldError>) -> bool {
    let before = errors.len();
    for field in LISTS {
        let (was, is) = (list(was, field), list(is, field));
        if was.len() != is.len() {
            let detail = format!("{field} may not be added or removed on resize");
            errors.push(FieldError::forbidden(format!("spec.{field}"), detail));
            continue;
        }
        for (at, (was, is)) in was.iter().zip(is).enumerate() {
            if text(was, "name") != text(is, "name") {
                let detail = format!("{field} may not be renamed or reordered on resize");
                errors.push(FieldError::forbidden(format!("spec.{field}[{at}].name"), detail));
            }
        }
    }
    errors.len() == before
}

fn removals(was: &Value, is: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let none = Value::Null;
    let (was, is) = (at(was, "resources").unwrap_or(&none), at(is, "resources").unwrap_or(&none));
    for (key, what) in [("requests", "resource requests"), ("limits", "resource limits")] {
        let kept = |name: &str| entries(is, key).any(|(known, _)| known == name);
        if entries(was, key).any(|(name, _)| !kept(name)) {
            errors.push(FieldError::forbidden(format!("{path}.{key}"), format!("{what} cannot be removed")));
        }
    }
}

/// What is left when changes of cpu and memory are taken back must be as it was.
fn only_compute_changes(was: &Value, is: &Value, errors: &mut Vec<FieldError>) {
    for (was, is) in list(was, "containers").iter().zip(list(is, "containers")) {
        if without_compute(was, is) != *was {
            errors.push(FieldError::forbidden("spec", "only cpu and memory resources are mutable"));
        }
    }
    for (was, is) in list(was, "initContainers").iter().zip(list(is, "initContainers")) {
        if is_sidecar(is) {
            if without_compute(was, is) != *was {
                let detail = "only cpu and memory resources for sidecar containers are mutable";
                errors.push(FieldError::forbidden("spec", detail));
            }
        } else if was != is {
            let detail = "resources for non-sidecar init containers are immutable";
            errors.push(FieldError::forbidden("spec", detail));
        }
    }
}

/// A container with the cpu and memory that it had before.
fn without_compute(was: &Value, is: &Value) -> Value {
    let mut container = is.clone();
    for key in ["requests", "limits"] {
        for name in RESIZABLE {
            match deep(was, &["resources", key, name]) {
                Some(amount) => set(child(child(&mut container, "resources"), key), name, amount.clone()),
                None if deep(&container, &["resources", key, name]).is_some() => {
                    unset(child(child(&mut container, "resources"), key), name);
                }
                None => {}
            }
        }
        let emptied =
            deep(&container, &["resources", key]).and_then(Value::as_object).is_some_and(|map| map.is_empty());
        if emptied && deep(was, &["resources", key]).is_none() {
            unset(child(&mut container, "resources"), key);
        }
    }
    let emptied = at(&container, "resources").and_then(Value::as_object).is_some_and(|map| map.is_empty());
    if emptied && at(was, "resources").is_none() {
        unset(&mut container, "resources");
    }
    container
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod() -> Value {
        let container = |name: &str, resources: Value| {
            json!({"name": name, "image": "i", "imagePullPolicy": "Always", "terminationMessagePath": "/t",
                "terminationMessagePolicy": "File", "resources": resources})
        };
        let mut sidecar = container("s", json!({"requests": {"cpu": "10m"}}));
        sidecar["restartPolicy"] = json!("Always");
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "n", "uid": "u"},
            "spec": {
                "restartPolicy": "Always", "dnsPolicy": "ClusterFirst", "terminationGracePeriodSeconds": 30,
                "containers": [container("c", json!({
                    "requests": {"cpu": "100m", "memory": "64Mi", "ephemeral-storage": "1Gi"}, "limits": {"cpu": "200m"},
                }))],
                "initContainers": [sidecar, container("i", json!({}))],
            },
            "status": {"phase": "Running", "qosClass": "Burstable", "containerStatuses": [
                {"name": "c", "state": {"running": {}}, "resources": {}},
            ]},
        })
    }

    fn refused(old: &Value, change: impl FnOnce(&mut Value)) -> Vec<String> {
        let mut new = old.clone();
        change(&mut new);
        keep_only_resources(old, &mut new);
        let mut errors = Vec::new();
        validate(old, &new, &mut errors);
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn cpu_and_memory_change_and_everything_else_is_taken_back() {
        let old = pod();
        let mut new = old.clone();
        new["metadata"]["labels"] = json!({"a": "b"});
        new["status"]["phase"] = json!("Failed");
        new["spec"]["hostNetwork"] = json!(true);
        new["spec"]["containers"][0]["image"] = json!("other");
        new["spec"]["containers"][0]["resources"]["requests"]["cpu"] = json!("150m");
        new["spec"]["containers"][0]["resources"]["limits"]["memory"] = json!("128Mi");
        keep_only_resources(&old, &mut new);
        let mut wanted = old.clone();
        wanted["spec"]["containers"][0]["resources"]["requests"]["cpu"] = json!("150m");
        wanted["spec"]["containers"][0]["resources"]["limits"]["memory"] = json!("128Mi");
        assert_eq!(new, wanted);
        let mut errors = Vec::new();
        validate(&old, &new, &mut errors);
        assert!(errors.is_empty(), "{errors:?}");
        assert!(
            refused(&old, |pod| pod["spec"]["initContainers"][0]["resources"]["requests"]["cpu"] = json!("1"))
                .is_empty()
        );
    }

    #[test]
    fn what_cannot_be_resized_is_told_as_kubernetes_tells_it() {
        type Change = fn(&mut Value);
        let table: [(Change, &str); 9] = [
            (
                |pod| {
                    pod["spec"]["containers"][0]["resources"] =
                        json!({"requests": {"cpu": "1", "memory": "1"}, "limits": {"cpu": "1"}})
                },
                "spec.containers[0].resources.requests: Forbidden: resource requests cannot be removed",
            ),
            (
                |pod| drop(pod["spec"]["containers"][0]["resources"].as_object_mut().unwrap().remove("limits")),
                "spec.containers[0].resources.limits: Forbidden: resource limits cannot be removed",
            ),
            (
                |pod| pod["spec"]["containers"][0]["resources"]["requests"]["ephemeral-storage"] = json!("2Gi"),
                "spec: Forbidden: only cpu and memory resources are mutable",
            ),
            (
                |pod| {
                    pod["spec"]["containers"][0]["resizePolicy"] =
                        json!([{"resourceName": "cpu", "restartPolicy": "RestartContainer"}])
                },
                "spec: Forbidden: only cpu and memory resources are mutable",
            ),
            (
                |pod| pod["spec"]["initContainers"][1]["resources"] = json!({"requests": {"cpu": "1"}}),
                "spec: Forbidden: resources for non-sidecar init containers are immutable",
            ),
            (
                |pod| pod["spec"]["initContainers"][0]["resources"]["requests"]["ephemeral-storage"] = json!("1"),
                "spec: Forbidden: only cpu and memory resources for sidecar containers are mutable",
            ),
            (
                |pod| pod["spec"]["containers"][0]["name"] = json!("other"),
                "spec.containers[0].name: Forbidden: containers may not be renamed or reordered on resize",
            ),
            (
                |pod| pod["spec"]["initContainers"].as_array_mut().unwrap().truncate(1),
                "spec.initContainers: Forbidden: initContainers may not be added or removed on resize",
            ),
            (
                |pod| pod["spec"]["containers"][0]["resources"]["requests"]["cpu"] = json!("300m"),
                "spec.containers[0].resources.requests: Invalid value: \"300m\": must be less than or equal to cpu limit of 200m",
            ),
        ];
        for (change, told) in table {
            let found = refused(&pod(), change);
            assert!(found.iter().any(|error| error == told), "{told}\n{found:?}");
        }
    }

    #[test]
    fn some_pods_keep_what_they_have() {
        let with = |change: &dyn Fn(&mut Value)| {
            let mut old = pod();
            change(&mut old);
            refused(&old, |pod| pod["spec"]["containers"][0]["resources"]["requests"]["cpu"] = json!("150m"))
        };
        let static_pod = with(&|pod| pod["metadata"]["annotations"] = json!({MIRROR: "x"}));
        assert_eq!(static_pod, [": Forbidden: static pods cannot be resized"]);
        let windows = with(&|pod| pod["spec"]["os"] = json!({"name": "windows"}));
        assert_eq!(windows, [": Forbidden: windows pods cannot be resized"]);
        let unable =
            with(&|pod| drop(pod["status"]["containerStatuses"][0].as_object_mut().unwrap().remove("resources")));
        assert_eq!(unable, ["spec: Forbidden: Pod running on node without support for resize"]);
        let other_class = with(&|pod| pod["status"]["qosClass"] = json!("Guaranteed"));
        assert_eq!(
            other_class,
            ["spec: Invalid value: \"Guaranteed\": Pod QOS Class may not change as a result of resizing"]
        );
    }
}

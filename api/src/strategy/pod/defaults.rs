//! Defaults of a pod that depend on other fields.

use serde_json::{Value, json};

use crate::strategy::field::{at, child, entries, int, is_true, list, list_mut, set, set_default, text};

/// The lists of containers in a pod spec.
pub(super) const CONTAINER_LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// What holds for a pod spec in a pod and in a template.
pub(in crate::strategy) fn default_spec(spec: &mut Value) {
    for list in CONTAINER_LISTS {
        for container in list_mut(spec, list) {
            let policy = default_pull_policy(text(container, "image"));
            set_default(container, "imagePullPolicy", policy);
        }
    }
    for volume in list_mut(spec, "volumes") {
        if volume.as_object().is_some_and(|map| map.keys().all(|key| key == "name")) {
            set(volume, "emptyDir", json!({}));
        }
    }
    // The old name of the service account follows the new one.
    let (new, old) = (text(spec, "serviceAccountName").to_owned(), text(spec, "serviceAccount").to_owned());
    match (new.is_empty(), old.is_empty()) {
        (false, _) => set(spec, "serviceAccount", new),
        (true, false) => set(spec, "serviceAccountName", old),
        (true, true) => {}
    }
}

/// What holds for a pod's own spec only.
pub(super) fn default_pod_spec(spec: &mut Value) {
    default_spec(spec);
    set_default(spec, "enableServiceLinks", true);
    let on_host = is_true(spec, "hostNetwork");
    for list in ["initContainers", "containers"] {
        for container in list_mut(spec, list) {
            request_what_is_limited(container);
            if on_host {
                for port in list_mut(container, "ports") {
                    if int(port, "hostPort").unwrap_or(0) == 0
                        && let Some(number) = int(port, "containerPort")
                    {
                        set(port, "hostPort", number);
                    }
                }
            }
        }
    }
}

/// A limit without a request is a request, too.
fn request_what_is_limited(container: &mut Value) {
    let Some(resources) = at(container, "resources") else { return };
    let missing: Vec<(String, Value)> = entries(resources, "limits")
        .filter(|(name, _)| resources.get("requests").and_then(|r| r.get(name.as_str())).is_none())
        .map(|(name, amount)| (name.clone(), amount.clone()))
        .collect();
    if missing.is_empty() {
        return;
    }
    let requests = child(child(container, "resources"), "requests");
    for (name, amount) in missing {
        set(requests, &name, amount);
    }
}

/// The single address and the list of addresses say the same.
pub(super) fn default_status(status: &mut Value) {
    for (one, many) in [("podIP", "podIPs"), ("hostIP", "hostIPs")] {
        let first = list(status, many).first().map(|entry| text(entry, "ip").to_owned());
        let single = text(status, one).to_owned();
        match first {
            Some(first) if single != first => set(status, one, first),
            None if !single.is_empty() => set(status, many, vec![json!({ "ip": single })]),
            _ => {}
        }
    }
}

/// `Always` for the tag `latest` or none, unless a digest says which image it is.
fn default_pull_policy(image: &str) -> &'static str {
    let (name, digest) = match image.split_once('@') {
        Some((name, _)) => (name, true),
        None => (image, false),
    };
    let last = name.rsplit('/').next().unwrap_or_default();
    match last.split_once(':') {
        Some((_, tag)) if tag != "latest" => "IfNotPresent",
        None if digest => "IfNotPresent",
        _ => "Always",
    }
}

#[cfg(test)]
mod tests {
    use super::default_pull_policy;

    #[test]
    fn the_pull_policy_follows_the_tag() {
        for (image, policy) in [
            ("nginx", "Always"),
            ("nginx:latest", "Always"),
            ("nginx:1.25", "IfNotPresent"),
            ("registry:5000/nginx", "Always"),
            ("registry:5000/nginx:1", "IfNotPresent"),
            ("nginx@sha256:0123", "IfNotPresent"),
            ("nginx:latest@sha256:0123", "Always"),
        ] {
            assert_eq!(default_pull_policy(image), policy, "{image}");
        }
    }
}

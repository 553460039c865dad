//! Amounts of resources: what containers and pods ask for, and the arithmetic on it.
//!
//! In: a pod as JSON. Out: a [`ResourceList`]. Quota, limit ranges and admission share this.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::meta;
use crate::quantity::Quantity;

/// Amounts by resource name.
pub type ResourceList = BTreeMap<String, Quantity>;

/// Reads a resource list; what is no quantity is left out, validation has said so before.
pub fn parse(value: Option<&Value>) -> ResourceList {
    let entries = value.and_then(Value::as_object).into_iter().flatten();
    entries.filter_map(|(name, amount)| Some((name.clone(), Quantity::from_value(amount).ok()?))).collect()
}

/// A resource list as JSON.
pub fn to_value(list: &ResourceList) -> Value {
    Value::Object(list.iter().map(|(name, amount)| (name.clone(), Value::from(amount.to_string()))).collect())
}

/// Adds `more` to `list`.
pub fn add(list: &mut ResourceList, more: &ResourceList) {
    for (name, amount) in more {
        match list.get_mut(name) {
            Some(present) => *present = present.add(amount),
            None => {
                list.insert(name.clone(), *amount);
            }
        }
    }
}

/// Raises `list` to at least `other`.
pub fn raise(list: &mut ResourceList, other: &ResourceList) {
    for (name, amount) in other {
        match list.get_mut(name) {
            Some(present) if *present >= *amount => {}
            _ => {
                list.insert(name.clone(), *amount);
            }
        }
    }
}

/// Only the entries of these names.
pub fn only(list: &ResourceList, names: &BTreeSet<String>) -> ResourceList {
    list.iter().filter(|(name, _)| names.contains(*name)).map(|(name, amount)| (name.clone(), *amount)).collect()
}

/// `cpu=1,memory=2Gi`, as refusals print it.
pub fn print(list: &ResourceList) -> String {
    let parts: Vec<String> = list.iter().map(|(name, amount)| format!("{name}={amount}")).collect();
    parts.join(",")
}

/// What is asked of a pod's resources.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// What is set aside for it.
    Requests,
    /// What it may not exceed.
    Limits,
}

impl Which {
    /// The field's name.
    pub fn field(self) -> &'static str {
        match self {
            Which::Requests => "requests",
            Which::Limits => "limits",
        }
    }
}

/// What counts for a pod's resources besides its containers' wishes.
#[derive(Debug, Clone, Copy, Default)]
pub struct PodOptions {
    /// What running containers still hold counts as well, while a resize is under way.
    pub status: bool,
    /// What the runtime class adds.
    pub overhead: bool,
}

/// The containers of one of a pod's lists.
pub fn containers<'a>(pod: &'a Value, list: &str) -> impl Iterator<Item = &'a Value> {
    meta::get(pod, &["spec", list]).and_then(Value::as_array).into_iter().flatten()
}

/// A container's requests or limits.
pub fn of_container(container: &Value, which: Which) -> ResourceList {
    parse(container.get("resources").and_then(|resources| resources.get(which.field())))
}

/// Whether an init container goes on beside the others.
pub fn is_sidecar(container: &Value) -> bool {
    container["restartPolicy"] == "Always"
}

/// Whether resources of this name can be set for a pod as a whole.
pub fn is_pod_level(name: &str) -> bool {
    matches!(name, "cpu" | "memory") || name.starts_with("hugepages-")
}

/// Whether the pod says what it needs as a whole.
pub fn has_pod_level(pod: &Value) -> bool {
    [Which::Requests, Which::Limits].iter().any(|which| pod_level(pod, *which).keys().any(|name| is_pod_level(name)))
}

fn pod_level(pod: &Value, which: Which) -> ResourceList {
    parse(meta::get(pod, &["spec", "resources", which.field()]))
}

/// The resources of a whole pod: its containers together, or its greediest init container with the sidecars started
/// before it, whichever is more; what is set for the pod as a whole overrides.
pub fn of_pod(pod: &Value, which: Which, options: PodOptions) -> ResourceList {
    let wished = |container: &Value| {
        let mut wish = of_container(container, which);
        if options.status {
            hold(pod, container, which, &mut wish);
        }
        wish
    };
    let mut total = ResourceList::new();
    for container in containers(pod, "containers") {
        add(&mut total, &wished(container));
    }
    let (mut sidecars, mut greediest) = (ResourceList::new(), ResourceList::new());
    for container in containers(pod, "initContainers") {
        let mut wish = wished(container);
        if is_sidecar(container) {
            add(&mut total, &wish);
            add(&mut sidecars, &wish);
            raise(&mut greediest, &sidecars);
        } else {
            add(&mut wish, &sidecars);
            raise(&mut greediest, &wish);
        }
    }
    raise(&mut total, &greediest);
    for (name, amount) in pod_level(pod, which) {
        if is_pod_level(&name) {
            total.insert(name, amount);
        }
    }
    if options.overhead {
        let overhead = parse(meta::get(pod, &["spec", "overhead"]));
        match which {
            Which::Requests => add(&mut total, &overhead),
            // Without a limit there is nothing that overhead could raise.
            Which::Limits => {
                for (name, amount) in overhead {
                    if let Some(limit) = total.get_mut(&name) {
                        *limit = limit.add(&amount);
                    }
                }
            }
        }
    }
    total
}

/// What a running container has been given, where that is more than it wishes now; where the node can never give what it
/// wishes, only what it has.
fn hold(pod: &Value, container: &Value, which: Which, wish: &mut ResourceList) {
    let lists = ["containerStatuses", "initContainerStatuses"];
    let mut statuses =
        lists.iter().flat_map(|list| meta::get(pod, &["status", list]).and_then(Value::as_array).into_iter().flatten());
    let Some(status) = statuses.find(|status| status["name"] == container["name"]) else { return };
    let mut held = parse(meta::get(status, &["resources", which.field()]));
    if which == Which::Requests {
        raise(&mut held, &parse(meta::get(status, &["allocatedResources"])));
    }
    if held.is_empty() {
        return;
    }
    if is_infeasible(pod) {
        *wish = held;
    } else {
        raise(wish, &held);
    }
}

fn is_infeasible(pod: &Value) -> bool {
    let conditions = meta::get(pod, &["status", "conditions"]).and_then(Value::as_array);
    conditions
        .into_iter()
        .flatten()
        .any(|condition| condition["type"] == "PodResizePending" && condition["reason"] == "Infeasible")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn asks(cpu: &str) -> Value {
        json!({"name": cpu, "resources": {"requests": {"cpu": cpu}}})
    }

    fn cpu(pod: &Value, options: PodOptions) -> String {
        of_pod(pod, Which::Requests, options)["cpu"].to_string()
    }

    #[test]
    fn init_containers_count_with_the_sidecars_before_them() {
        let mut sidecar = asks("100m");
        sidecar["restartPolicy"] = json!("Always");
        let pod = json!({"spec": {"containers": [asks("200m")], "initContainers": [sidecar, asks("500m")]}});
        assert_eq!(cpu(&pod, PodOptions::default()), "600m");
        let last = json!({"spec": {"containers": [asks("600m")], "initContainers": [asks("500m")]}});
        assert_eq!(cpu(&last, PodOptions::default()), "600m");
    }

    #[test]
    fn overhead_and_pod_level_resources_count() {
        let pod = json!({"spec": {"containers": [asks("200m")], "overhead": {"cpu": "50m"}}});
        assert_eq!(cpu(&pod, PodOptions { overhead: true, ..Default::default() }), "250m");
        let whole = json!({"spec": {"containers": [asks("200m")], "resources": {"requests": {"cpu": "1"}}}});
        assert_eq!(cpu(&whole, PodOptions::default()), "1");
        assert!(has_pod_level(&whole));
    }

    #[test]
    fn what_is_held_counts_until_it_is_given_back() {
        let held = json!([{"name": "200m", "allocatedResources": {"cpu": "300m"}}]);
        let mut pod = json!({"spec": {"containers": [asks("200m")]}, "status": {"containerStatuses": held}});
        let options = PodOptions { status: true, ..Default::default() };
        assert_eq!(cpu(&pod, options), "300m");
        pod["spec"]["containers"][0]["resources"]["requests"]["cpu"] = json!("64");
        assert_eq!(cpu(&pod, options), "64");
        pod["status"]["conditions"] = json!([{"type": "PodResizePending", "reason": "Infeasible"}]);
        assert_eq!(cpu(&pod, options), "300m");
    }
}

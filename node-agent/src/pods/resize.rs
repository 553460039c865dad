//! Other amounts of cpu and memory for the containers of a pod that runs. Pure.
//!
//! ```text
//! what the spec wants ─ the node has it? ─▶ what is granted ─ running container has it? ─▶ update it in place, or restart it
//! ```
//!
//! Everything but this looks at the pod as it was granted ([`as_granted`]).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::ledger::RESIZABLE;
use super::memory::Memory;
use super::resources::amount;
use super::spec::{self, Role};
use crate::runtime::{ContainerRecord, Resources};

/// Annotation on containers: the resources they were made with, as JSON.
pub const ANNOTATION_RESOURCES: &str = "io.gantry.container.resources";

/// Resources by the names of containers.
pub type Granted = BTreeMap<String, ResourceRequirements>;

/// What the spec wants for the containers whose resources may change.
pub fn wanted(pod: &Pod) -> Granted {
    let resizable = spec::all_containers(pod).filter(|container| container.role != Role::Init);
    resizable
        .map(|container| (container.spec.name.clone(), container.spec.resources.clone().unwrap_or_default()))
        .collect()
}

/// What was granted according to the status that was published last; what the spec wants, where it says nothing.
pub fn granted_before(pod: &Pod) -> Granted {
    let mut granted = wanted(pod);
    for (name, resources) in &mut granted {
        let Some(status) = status_of(pod, name).filter(|status| status.container_id.is_some()) else { continue };
        let Some(shown) = &status.resources else { continue };
        let requests = status.allocated_resources.clone().or_else(|| shown.requests.clone());
        resources.requests = with_resizable(resources.requests.take(), requests.as_ref());
        resources.limits = with_resizable(resources.limits.take(), shown.limits.as_ref());
    }
    granted
}

/// A list with the cpu and memory of another.
fn with_resizable(
    list: Option<BTreeMap<String, Quantity>>,
    other: Option<&BTreeMap<String, Quantity>>,
) -> Option<BTreeMap<String, Quantity>> {
    let mut list = list.unwrap_or_default();
    for name in RESIZABLE {
        match other.and_then(|other| other.get(name)) {
            Some(amount) => drop(list.insert(name.to_owned(), amount.clone())),
            None => drop(list.remove(name)),
        }
    }
    (!list.is_empty()).then_some(list)
}

fn status_of<'a>(pod: &'a Pod, name: &str) -> Option<&'a ContainerStatus> {
    let status = pod.status.as_ref()?;
    let lists = [&status.init_container_statuses, &status.container_statuses];
    lists.into_iter().flatten().flatten().find(|status| status.name == name)
}

/// The pod with what was granted in the place of what is wanted.
pub fn as_granted(pod: &Pod, granted: &Granted) -> Pod {
    let mut pod = pod.clone();
    if let Some(spec) = &mut pod.spec {
        let lists = [Some(&mut spec.containers), spec.init_containers.as_mut()];
        for container in lists.into_iter().flatten().flatten() {
            if let Some(resources) = granted.get(&container.name) {
                container.resources = Some(resources.clone());
            }
        }
    }
    pod
}

/// Whether cpu and memory are the same in both.
pub fn same(a: &ResourceRequirements, b: &ResourceRequirements) -> bool {
    RESIZABLE.iter().all(|name| amounts(a, name) == amounts(b, name))
}

/// Request and limit of a resource. What is limited and asks for nothing asks for its limit.
fn amounts(resources: &ResourceRequirements, name: &str) -> (Option<i64>, Option<i64>) {
    let of = |list: &Option<BTreeMap<String, Quantity>>| Some(amount(name, list.as_ref()?.get(name)?));
    let limit = of(&resources.limits);
    (of(&resources.requests).or(limit), limit)
}

/// What an instance of a container has: as it was told last, or as it was made.
pub fn given(pod: &Pod, container: &Container, record: &ContainerRecord, memory: &Memory) -> ResourceRequirements {
    if let Some(given) = memory.given.get(&record.id) {
        return given.clone();
    }
    let status = status_of(pod, &container.name).filter(|status| {
        let id = status.container_id.as_deref().unwrap_or_default();
        id.rsplit_once("://").is_some_and(|(_, id)| id == record.id)
    });
    let made = || serde_json::from_str(record.annotations.get(ANNOTATION_RESOURCES)?).ok();
    let shown = status.and_then(|status| status.resources.clone());
    shown.or_else(made).unwrap_or_else(|| container.resources.clone().unwrap_or_default())
}

/// Whether the container asks to be restarted for a change from these resources to those that it is granted.
pub fn needs_restart(container: &Container, given: &ResourceRequirements) -> bool {
    let granted = container.resources.clone().unwrap_or_default();
    let changed = |name: &str| amounts(given, name) != amounts(&granted, name);
    let policies = container.resize_policy.iter().flatten();
    policies.into_iter().any(|policy| policy.restart_policy == "RestartContainer" && changed(&policy.resource_name))
}

/// Limits that hold both of these: what a pod's cgroup has while its containers change.
pub fn widest(a: &Resources, b: &Resources) -> Resources {
    let unlimited_or_more = |a: Option<i64>, b: Option<i64>| a.zip(b).map(|(a, b)| a.max(b));
    Resources {
        cpu_shares: a.cpu_shares.max(b.cpu_shares),
        cpu_quota_us: unlimited_or_more(a.cpu_quota_us, b.cpu_quota_us),
        cpu_period_us: a.cpu_period_us.or(b.cpu_period_us),
        memory_limit_bytes: unlimited_or_more(a.memory_limit_bytes, b.memory_limit_bytes),
        ..b.clone()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(resources: serde_json::Value, policy: serde_json::Value) -> Pod {
        let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [
            {"name": "c", "resources": resources, "resizePolicy": policy}]}});
        serde_json::from_value(pod).unwrap()
    }

    fn resources(value: serde_json::Value) -> ResourceRequirements {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn what_was_granted_is_read_from_the_status() {
        let mut seen = pod(json!({"requests": {"cpu": "2", "memory": "1Gi", "x.com/y": "1"}}), json!([]));
        assert_eq!(granted_before(&seen), wanted(&seen));
        seen.status = serde_json::from_value(json!({"containerStatuses": [{
            "name": "c", "containerID": "containerd://1", "image": "", "imageID": "", "ready": true, "restartCount": 0,
            "allocatedResources": {"cpu": "1", "memory": "1Gi"}, "resources": {"requests": {"cpu": "500m"}},
        }]}))
        .unwrap();
        let granted = granted_before(&seen);
        assert_eq!(granted["c"], resources(json!({"requests": {"cpu": "1", "memory": "1Gi", "x.com/y": "1"}})));
        let shown = as_granted(&seen, &granted);
        assert_eq!(wanted(&shown), granted);
    }

    #[test]
    fn a_container_is_restarted_only_for_what_it_asks_to_be() {
        let policy = json!([{"resourceName": "memory", "restartPolicy": "RestartContainer"},
            {"resourceName": "cpu", "restartPolicy": "NotRequired"}]);
        let seen = pod(json!({"limits": {"cpu": "1", "memory": "64Mi"}}), policy);
        let container = &spec::spec(&seen).containers[0];
        assert!(!needs_restart(container, &resources(json!({"limits": {"cpu": "2", "memory": "64Mi"}}))));
        assert!(needs_restart(container, &resources(json!({"limits": {"cpu": "1", "memory": "65Mi"}}))));
        // The same amount, said otherwise.
        let said = resources(
            json!({"limits": {"cpu": "1000m", "memory": "65536Ki"}, "requests": {"cpu": "1", "memory": "64Mi"}}),
        );
        assert!(same(&said, &container.resources.clone().unwrap()) && !needs_restart(container, &said));
    }

    #[test]
    fn while_containers_change_the_pod_has_room_for_both() {
        let of = |cpu, memory| Resources { cpu_quota_us: cpu, memory_limit_bytes: memory, ..Resources::default() };
        assert_eq!(widest(&of(Some(1), Some(9)), &of(Some(5), Some(3))), of(Some(5), Some(9)));
        assert_eq!(widest(&of(None, Some(9)), &of(Some(5), None)), of(None, None));
    }
}

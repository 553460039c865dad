//! What a pod asks of its node: the rules for init containers, sidecars, pod-level resources,
//! overhead and in-place resize.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as k8s;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::quantity;
use crate::core::Resources;
use crate::core::resources::{DEFAULT_MEMORY_REQUEST, DEFAULT_MILLI_CPU_REQUEST};

type Amounts = BTreeMap<String, Quantity>;

/// What must be free on a node for the pod.
pub fn pod_requests(pod: &k8s::Pod) -> Resources {
    aggregate(pod, &|_| {})
}

/// CPU and memory that the pod counts for in scores: a container without a request counts with the
/// default, unless the pod as a whole says what it asks for.
pub fn scoring_requests(pod: &k8s::Pod) -> (i64, i64) {
    let pod_level = pod_level(pod);
    let says = |name: &str| pod_level.is_some_and(|requests| requests.contains_key(name));
    let (cpu_said, memory_said) = (says("cpu"), says("memory"));
    let sum = aggregate(pod, &|requests| {
        if requests.milli_cpu == 0 && !cpu_said {
            requests.milli_cpu = DEFAULT_MILLI_CPU_REQUEST;
        }
        if requests.memory == 0 && !memory_said {
            requests.memory = DEFAULT_MEMORY_REQUEST;
        }
    });
    (sum.milli_cpu, sum.memory)
}

/// Does this init container keep running beside the others?
pub(super) fn is_sidecar(container: &k8s::Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

fn aggregate(pod: &k8s::Pod, adjust: &dyn Fn(&mut Resources)) -> Resources {
    let Some(spec) = pod.spec.as_ref() else { return Resources::default() };
    let statuses = pod.status.as_ref();
    let container_statuses = statuses.and_then(|status| status.container_statuses.as_deref()).unwrap_or(&[]);
    let init_statuses = statuses.and_then(|status| status.init_container_statuses.as_deref()).unwrap_or(&[]);

    let mut running = Resources::default();
    for container in &spec.containers {
        running.add_all(&container_requests(container, container_statuses, adjust));
    }
    // An init container runs beside the sidecars that started before it, and before the rest.
    let mut sidecars = Resources::default();
    let mut starting = Resources::default();
    for container in spec.init_containers.iter().flatten() {
        let mut requests = container_requests(container, init_statuses, adjust);
        if is_sidecar(container) {
            running.add_all(&requests);
            sidecars.add_all(&requests);
            requests = sidecars.clone();
        } else {
            requests.add_all(&sidecars);
        }
        starting.raise_to(&requests);
    }
    running.raise_to(&starting);
    for (name, amount) in pod_level(pod).into_iter().flatten().filter(|(name, _)| is_pod_level(name)) {
        running.set(name, quantity::amount(name, &amount.0));
    }
    add(&mut running, spec.overhead.as_ref());
    running
}

/// A container's requests; while a resize is under way, the highest of what is asked for, what the
/// node has set aside, and what the container has.
fn container_requests(
    container: &k8s::Container,
    statuses: &[k8s::ContainerStatus],
    adjust: &dyn Fn(&mut Resources),
) -> Resources {
    let mut requests = Resources::default();
    add(&mut requests, container.resources.as_ref().and_then(|resources| resources.requests.as_ref()));
    if let Some(status) = statuses.iter().find(|status| status.name == container.name) {
        for amounts in [
            status.allocated_resources.as_ref(),
            status.resources.as_ref().and_then(|resources| resources.requests.as_ref()),
        ] {
            let mut actual = Resources::default();
            add(&mut actual, amounts);
            requests.raise_to(&actual);
        }
    }
    adjust(&mut requests);
    requests
}

fn add(to: &mut Resources, amounts: Option<&Amounts>) {
    for (name, amount) in amounts.into_iter().flatten() {
        to.add(name, quantity::amount(name, &amount.0));
    }
}

fn pod_level(pod: &k8s::Pod) -> Option<&Amounts> {
    pod.spec.as_ref()?.resources.as_ref()?.requests.as_ref()
}

/// The resources that a pod may ask for as a whole.
fn is_pod_level(name: &str) -> bool {
    name == "cpu" || name == "memory" || name.starts_with("hugepages-")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn container(cpu: &str) -> Value {
        json!({"name": cpu, "resources": {"requests": {"cpu": cpu}}})
    }

    fn sidecar(cpu: &str) -> Value {
        json!({"name": cpu, "restartPolicy": "Always", "resources": {"requests": {"cpu": cpu}}})
    }

    fn cpu(spec: Value) -> i64 {
        pod_requests(&serde_json::from_value(json!({ "spec": spec })).unwrap()).milli_cpu
    }

    #[test]
    fn init_containers_sidecars_overhead_and_pod_level() {
        let cases = [
            ("containers add up", json!({"containers": [container("1"), container("2")]}), 3_000),
            (
                "the largest init container counts if it is more",
                json!({"initContainers": [container("5"), container("4")], "containers": [container("1")]}),
                5_000,
            ),
            (
                "sidecars add to containers",
                json!({"initContainers": [sidecar("1")], "containers": [container("2")]}),
                3_000,
            ),
            (
                "sidecars that started before an init container run beside it",
                json!({"initContainers": [sidecar("1"), container("3"), sidecar("1")], "containers": [container("1")]}),
                4_000,
            ),
            (
                "a sidecar after it does not",
                json!({"initContainers": [container("3"), sidecar("1")], "containers": [container("1")]}),
                3_000,
            ),
            (
                "pod-level requests override",
                json!({"containers": [container("1")], "resources": {"requests": {"cpu": "7", "example.com/x": "1"}}}),
                7_000,
            ),
            ("overhead comes on top", json!({"containers": [container("1")], "overhead": {"cpu": "250m"}}), 1_250),
        ];
        for (name, spec, expected) in cases {
            assert_eq!(cpu(spec), expected, "{name}");
        }
    }

    #[test]
    fn defaults_count_for_scores_only() {
        let pod = |spec: Value| serde_json::from_value::<k8s::Pod>(json!({ "spec": spec })).unwrap();
        let plain = pod(json!({"containers": [{"name": "a"}, container("1")]}));
        assert_eq!(pod_requests(&plain).milli_cpu, 1_000);
        assert_eq!(scoring_requests(&plain), (1_100, 2 * DEFAULT_MEMORY_REQUEST));
        let pod_level = pod(json!({"containers": [{"name": "a"}], "resources": {"requests": {"cpu": "2"}}}));
        assert_eq!(scoring_requests(&pod_level), (2_000, DEFAULT_MEMORY_REQUEST));
    }

    #[test]
    fn a_resize_under_way_counts_with_the_most() {
        let pod: k8s::Pod = serde_json::from_value(json!({
            "spec": {"containers": [container("1")]},
            "status": {"containerStatuses": [{
                "name": "1", "image": "", "imageID": "", "ready": true, "restartCount": 0,
                "allocatedResources": {"cpu": "2"}, "resources": {"requests": {"cpu": "3"}}}]},
        }))
        .unwrap();
        assert_eq!(pod_requests(&pod).milli_cpu, 3_000);
    }
}

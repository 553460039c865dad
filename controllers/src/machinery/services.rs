//! What the controllers of endpoints ask of a Service and its Pods.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, Service, ServicePort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;

use super::cache::{Change, Key};
use super::context::Caches;
use super::objects::has_all;
use super::pods;
use super::queue::Queue;

/// The label that marks endpoints of headless services.
pub const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// The pods that a service takes, if it takes any: one without a selector has its endpoints made by its user.
pub fn selector(service: &Service) -> Option<&BTreeMap<String, String>> {
    let spec = service.spec.as_ref()?;
    if spec.type_.as_deref() == Some("ExternalName") {
        return None;
    }
    spec.selector.as_ref().filter(|selector| !selector.is_empty())
}

/// Whether the service takes a pod with these labels.
pub fn takes(service: &Service, labels: &BTreeMap<String, String>) -> bool {
    selector(service).is_some_and(|selector| has_all(labels, selector))
}

/// Whether the service has no address of its own.
pub fn is_headless(service: &Service) -> bool {
    let spec = service.spec.as_ref();
    spec.and_then(|spec| spec.cluster_ip.as_deref()) == Some("None")
}

/// Whether pods count as ready that are not.
pub fn publishes_unready(service: &Service) -> bool {
    let spec = service.spec.as_ref();
    spec.and_then(|spec| spec.publish_not_ready_addresses) == Some(true)
}

/// The service's ports.
pub fn ports(service: &Service) -> &[ServicePort] {
    let spec = service.spec.as_ref();
    spec.and_then(|spec| spec.ports.as_deref()).unwrap_or_default()
}

/// The protocol of a port.
pub fn protocol(port: &ServicePort) -> &str {
    port.protocol.as_deref().unwrap_or("TCP")
}

/// The number of the pod's port that a service's port leads to; none if the pod has no port of that name.
pub fn target_port(pod: &Pod, port: &ServicePort) -> Option<i32> {
    let name = match &port.target_port {
        None => return Some(port.port),
        Some(IntOrString::Int(0)) => return Some(port.port),
        Some(IntOrString::Int(number)) => return Some(*number),
        Some(IntOrString::String(name)) if name.is_empty() => return Some(port.port),
        Some(IntOrString::String(name)) => name,
    };
    let spec = pod.spec.as_ref()?;
    // Init containers count if they go on running beside the others.
    let sidecars =
        spec.init_containers.iter().flatten().filter(|container| container.restart_policy.as_deref() == Some("Always"));
    spec.containers
        .iter()
        .chain(sidecars)
        .flat_map(|container| container.ports.iter().flatten())
        .find(|candidate| {
            candidate.name.as_deref() == Some(name) && candidate.protocol.as_deref().unwrap_or("TCP") == protocol(port)
        })
        .map(|candidate| candidate.container_port)
}

/// The host name under which the pod is found in the service's domain.
pub fn hostname(pod: &Pod, service: &Service) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let hostname = spec.hostname.clone().filter(|name| !name.is_empty())?;
    let ours = spec.subdomain.as_deref() == Some(&*service.name_any()) && pod.namespace() == service.namespace();
    ours.then_some(hostname)
}

/// Whether the change of a pod can change what is written about it.
fn matters(change: &Change<'_, Pod>) -> bool {
    let (Some(old), Some(new)) = (change.old, change.new) else {
        return true;
    };
    let seen = |pod: &Pod| {
        (
            pods::is_ready(pod),
            pods::is_terminal(pod),
            pod.metadata.deletion_timestamp.is_some(),
            pods::node_name(pod).to_owned(),
            pods::addresses(pod).into_iter().map(str::to_owned).collect::<Vec<_>>(),
            pod.metadata.uid.clone(),
        )
    };
    old.labels() != new.labels() || seen(old) != seen(new)
}

/// Puts the keys of services on `queue` whose endpoints may have to change.
pub fn listen(caches: &Caches, queue: &Arc<Queue<Key>>) {
    let keys = queue.clone();
    caches.services.on_change(move |change| {
        if let Some(service) = change.sides().next() {
            keys.add(Key::of(&**service));
        }
    });
    let (keys, services) = (queue.clone(), caches.services.clone());
    caches.pods.on_change(move |change| {
        if !matters(change) {
            return;
        }
        let Some(pod) = change.sides().next() else {
            return;
        };
        for service in services.in_namespace(&pod.namespace().unwrap_or_default()) {
            if change.sides().any(|pod| takes(&service, pod.labels())) {
                keys.add(Key::of(&*service));
            }
        }
    });
}

/// The zone that a node is in.
pub fn zone_of_node(caches: &Caches, node: &str) -> Option<String> {
    let node = caches.nodes.get(&Key::cluster(node))?;
    node.labels().get(ZONE_LABEL).cloned()
}

/// Puts the keys of all services on `queue` when a node's zone changes.
pub fn listen_to_zones(caches: &Caches, queue: &Arc<Queue<Key>>) {
    let (keys, services) = (queue.clone(), caches.services.clone());
    caches.nodes.on_change(move |change| {
        let mut zones = [change.old, change.new]
            .map(|node| node.and_then(|node| node.labels().get(ZONE_LABEL).cloned()))
            .into_iter();
        if zones.next() != zones.next() {
            for service in services.all() {
                keys.add(Key::of(&*service));
            }
        }
    });
}

/// The pods that a service takes.
pub fn pods_of(caches: &Caches, service: &Service) -> Vec<Arc<Pod>> {
    let namespace = service.namespace().unwrap_or_default();
    let mut pods = caches.pods.in_namespace(&namespace);
    pods.retain(|pod| takes(service, pod.labels()));
    pods
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn target_ports_are_numbers_names_or_the_port_itself() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {}, "spec": {
            "containers": [{"name": "c", "ports": [
                {"name": "web", "containerPort": 8080},
                {"name": "dns", "containerPort": 53, "protocol": "UDP"}]}],
            "initContainers": [
                {"name": "side", "restartPolicy": "Always", "ports": [{"name": "proxy", "containerPort": 15000}]},
                {"name": "once", "ports": [{"name": "gone", "containerPort": 1}]}],
        }}))
        .unwrap();
        let port = |value: Value| serde_json::from_value::<ServicePort>(value).unwrap();
        let cases = [
            (json!({"port": 80}), Some(80)),
            (json!({"port": 80, "targetPort": 81}), Some(81)),
            (json!({"port": 80, "targetPort": "web"}), Some(8080)),
            (json!({"port": 80, "targetPort": "proxy"}), Some(15000)),
            (json!({"port": 80, "targetPort": "gone"}), None),
            (json!({"port": 53, "targetPort": "dns"}), None),
            (json!({"port": 53, "targetPort": "dns", "protocol": "UDP"}), Some(53)),
        ];
        for (value, expected) in cases {
            assert_eq!(target_port(&pod, &port(value.clone())), expected, "{value}");
        }
    }
}

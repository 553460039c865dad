//! Kubernetes objects in, the core's types out.
//!
//! Nothing here fails: an amount or a selector that could not have passed validation is read as
//! Kubernetes' scheduler reads it (an unparsable quantity is zero, an unknown operator matches
//! nothing).

mod devices;
mod pod_affinity;
mod pod_resources;
pub mod quantity;
pub mod volumes;

use k8s_openapi::api::core::v1 as k8s;

use crate::core::spec::{Effect, Operator};
use crate::core::{ClassSpec, HostPort, NodeSpec, PodDemand, PodKey, PreferredTerm, Protocol, Requirement, Resources};
use crate::core::{Taint, Term, Toleration};

pub use devices::{DEVICES_ANNOTATION, devices_annotation};
pub use pod_affinity::{pod_affinity, requirements, spread};
pub use pod_resources::{pod_requests, scoring_requests};

/// The scheduling-relevant part of a node.
pub fn node(node: &k8s::Node) -> NodeSpec {
    let spec = node.spec.as_ref();
    let mut allocatable = Resources::default();
    let amounts = node.status.as_ref().and_then(|status| status.allocatable.as_ref());
    for (name, amount) in amounts.into_iter().flatten() {
        allocatable.set(name, quantity::amount(name, &amount.0));
    }
    let devices = devices::of_node(&allocatable);
    NodeSpec {
        name: node.metadata.name.clone().unwrap_or_default(),
        labels: node.metadata.labels.clone().unwrap_or_default(),
        taints: spec.and_then(|spec| spec.taints.as_ref()).into_iter().flatten().filter_map(taint).collect(),
        unschedulable: spec.and_then(|spec| spec.unschedulable).unwrap_or(false),
        allocatable,
        devices,
        ..NodeSpec::default()
    }
}

/// The class of a pod that waits for a node.
pub fn class(pod: &k8s::Pod) -> ClassSpec {
    let Some(spec) = pod.spec.as_ref() else { return ClassSpec::default() };
    let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let preferred =
        affinity.and_then(|affinity| affinity.preferred_during_scheduling_ignored_during_execution.as_ref());
    let common = common(pod);
    ClassSpec {
        node_name: spec.node_name.clone().filter(|name| !name.is_empty()),
        os: spec.os.as_ref().map(|os| os.name.clone()).filter(|name| !name.is_empty()),
        node_selector: spec.node_selector.clone().unwrap_or_default(),
        required: required(spec),
        preferred: preferred
            .into_iter()
            .flatten()
            .map(|preferred| PreferredTerm { weight: preferred.weight, term: term(&preferred.preference) })
            .filter(|preferred| preferred.weight != 0 && !preferred.term.is_empty())
            .collect(),
        tolerations: spec.tolerations.iter().flatten().filter_map(toleration).collect(),
        spread: spread(pod),
        ..common
    }
}

fn required(spec: &k8s::PodSpec) -> Option<Vec<Term>> {
    let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref())?;
    let required = affinity.required_during_scheduling_ignored_during_execution.as_ref()?;
    Some(required.node_selector_terms.iter().map(term).collect())
}

/// What a pod that has its node is to others: what it takes, what selectors and terms see, and, if it
/// takes devices, where pods like it could go.
pub fn placed(pod: &k8s::Pod) -> ClassSpec {
    let common = common(pod);
    match pod.spec.as_ref().filter(|_| !common.demand.devices.is_none()) {
        None => common,
        Some(spec) => ClassSpec {
            held_devices: devices::held(pod, common.demand.devices),
            node_selector: spec.node_selector.clone().unwrap_or_default(),
            required: required(spec),
            ..common
        },
    }
}

fn common(pod: &k8s::Pod) -> ClassSpec {
    ClassSpec {
        demand: demand(pod),
        namespace: pod.metadata.namespace.clone().unwrap_or_default(),
        labels: pod.metadata.labels.clone().unwrap_or_default(),
        pod_affinity: pod_affinity(pod),
        ..ClassSpec::default()
    }
}

/// What a pod takes from its node.
pub fn demand(pod: &k8s::Pod) -> PodDemand {
    let (scoring_milli_cpu, scoring_memory) = scoring_requests(pod);
    let requests = pod_requests(pod);
    let devices = devices::of_pod(&requests);
    // What its claims come to is known to who knows the claims.
    PodDemand { requests, scoring_milli_cpu, scoring_memory, ports: host_ports(pod), devices, ..PodDemand::default() }
}

/// A pod's identity as a number: its UID, which is 128 bits by construction; any other text is
/// hashed to as many.
pub fn pod_key(uid: &str) -> PodKey {
    let mut digits = 0;
    let mut value = 0u128;
    for character in uid.chars().filter(|character| *character != '-') {
        match character.to_digit(16) {
            Some(digit) if digits < 32 => value = value << 4 | u128::from(digit),
            _ => return PodKey(hash(uid)),
        }
        digits += 1;
    }
    PodKey(if digits == 32 { value } else { hash(uid) })
}

/// The UID that is usual for a key.
pub fn usual_uid(key: PodKey) -> String {
    let digits = format!("{:032x}", key.0);
    [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]].join("-")
}

fn hash(text: &str) -> u128 {
    // FNV-1a, 128 bits.
    text.bytes().fold(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d, |hash, byte| {
        (hash ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b)
    })
}

/// The host ports of containers and of init containers that keep running.
fn host_ports(pod: &k8s::Pod) -> Vec<HostPort> {
    let Some(spec) = pod.spec.as_ref() else { return Vec::new() };
    let sidecars = spec.init_containers.iter().flatten().filter(|container| pod_resources::is_sidecar(container));
    let ports = spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten());
    let mut ports: Vec<_> = ports
        .filter_map(|port| {
            let number = port.host_port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0)?;
            let protocol = match port.protocol.as_deref() {
                Some("UDP") => Protocol::Udp,
                Some("SCTP") => Protocol::Sctp,
                _ => Protocol::Tcp,
            };
            let ip = port.host_ip.clone().filter(|ip| !ip.is_empty()).unwrap_or_else(|| HostPort::ANY.into());
            Some(HostPort { protocol, port: number, ip })
        })
        .collect();
    ports.sort_unstable();
    ports
}

fn term(term: &k8s::NodeSelectorTerm) -> Term {
    let requirements = |list: &Option<Vec<k8s::NodeSelectorRequirement>>| {
        list.iter()
            .flatten()
            .map(|one| Requirement {
                key: one.key.clone(),
                operator: match one.operator.as_str() {
                    "In" => Operator::In,
                    "NotIn" => Operator::NotIn,
                    "Exists" => Operator::Exists,
                    "DoesNotExist" => Operator::DoesNotExist,
                    "Gt" => Operator::Gt,
                    "Lt" => Operator::Lt,
                    _ => Operator::Unknown,
                },
                values: one.values.clone().unwrap_or_default(),
            })
            .collect()
    };
    Term { expressions: requirements(&term.match_expressions), fields: requirements(&term.match_fields) }
}

fn effect(effect: &str) -> Option<Effect> {
    match effect {
        "NoSchedule" => Some(Effect::NoSchedule),
        "PreferNoSchedule" => Some(Effect::PreferNoSchedule),
        "NoExecute" => Some(Effect::NoExecute),
        _ => None,
    }
}

fn taint(taint: &k8s::Taint) -> Option<Taint> {
    Some(Taint {
        key: taint.key.clone(),
        value: taint.value.clone().unwrap_or_default(),
        effect: effect(&taint.effect)?,
    })
}

fn toleration(toleration: &k8s::Toleration) -> Option<Toleration> {
    let exists = match toleration.operator.as_deref() {
        Some("Exists") => true,
        None | Some("" | "Equal") => false,
        Some(_) => return None,
    };
    let effect = match toleration.effect.as_deref() {
        None | Some("") => None,
        Some(text) => Some(effect(text)?),
    };
    Some(Toleration {
        key: toleration.key.clone().unwrap_or_default(),
        exists,
        value: toleration.value.clone().unwrap_or_default(),
        effect,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(spec: serde_json::Value) -> k8s::Pod {
        serde_json::from_value(json!({ "spec": spec })).unwrap()
    }

    #[test]
    fn uids_become_keys() {
        let uid = "0102030405060708-090a0b0c0d0e0f10";
        assert_eq!(pod_key(uid), PodKey(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10));
        let usual = "01020304-0506-0708-090a-0b0c0d0e0f10";
        assert_eq!(usual_uid(pod_key(usual)), usual);
        assert_ne!(pod_key("short"), pod_key("shorn"));
        assert_ne!(pod_key(""), pod_key(&"f".repeat(33)));
    }

    #[test]
    fn host_ports_of_containers_and_sidecars_count() {
        let pod = pod(json!({
            "initContainers": [
                {"name": "a", "ports": [{"containerPort": 1, "hostPort": 1}]},
                {"name": "b", "restartPolicy": "Always", "ports": [{"containerPort": 2, "hostPort": 2, "protocol": "UDP"}]},
            ],
            "containers": [
                {"name": "c", "ports": [{"containerPort": 3, "hostPort": 3, "hostIP": "10.0.0.1"}, {"containerPort": 4}]},
            ],
        }));
        let port = |protocol, port, ip: &str| HostPort { protocol, port, ip: ip.into() };
        assert_eq!(demand(&pod).ports, [port(Protocol::Tcp, 3, "10.0.0.1"), port(Protocol::Udp, 2, "0.0.0.0")]);
    }

    #[test]
    fn affinity_and_tolerations_are_read() {
        let pod = pod(json!({
            "containers": [],
            "affinity": {"nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                    {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n"]}]}]},
                "preferredDuringSchedulingIgnoredDuringExecution": [
                    {"weight": 5, "preference": {"matchExpressions": [{"key": "a", "operator": "Gt", "values": ["1"]}]}},
                    {"weight": 7, "preference": {}}],
            }},
            "tolerations": [
                {"operator": "Exists"}, {"key": "k", "operator": "Lt", "value": "1"},
                {"key": "k", "value": "v", "effect": "NoExecute", "tolerationSeconds": 3}],
        }));
        let class = class(&pod);
        assert_eq!(class.required.unwrap()[0].fields[0].values, ["n"]);
        assert_eq!(class.preferred.len(), 1);
        assert_eq!(class.preferred[0].term.expressions[0].operator, Operator::Gt);
        assert_eq!(class.tolerations.len(), 2);
        assert!(class.tolerations[0].exists);
        assert_eq!(class.tolerations[1].effect, Some(Effect::NoExecute));
    }

    #[test]
    fn nodes_are_read() {
        let node: k8s::Node = serde_json::from_value(json!({
            "metadata": {"name": "n", "labels": {"a": "b"}},
            "spec": {"unschedulable": true, "taints": [{"key": "t", "effect": "NoSchedule"}]},
            "status": {"allocatable": {"cpu": "3800m", "memory": "2Gi", "pods": "110", "example.com/gpu": "4"}},
        }))
        .unwrap();
        let spec = super::node(&node);
        assert_eq!(spec.allocatable.milli_cpu, 3800);
        assert_eq!(spec.allocatable.memory, 2 << 30);
        assert_eq!(spec.allocatable.pods, 110);
        assert_eq!(spec.allocatable.extended["example.com/gpu"], 4);
        assert!(spec.unschedulable);
        assert_eq!(spec.taints[0].key, "t");
    }
}

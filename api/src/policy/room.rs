//! Whether a node has room for one more pod: what it can give, what its pods take, what is short.
//!
//! In: the node and the pods as JSON. Out: [`Lack`]s, worded as a node's agent words them; none if the pod fits. Resources,
//! host ports and devices are looked at, which is what cannot be taken twice.

use serde_json::Value;

use crate::meta;
use crate::quantity::Quantity;
use crate::resources::{self, PodOptions, ResourceList, Which};

/// The resource that a pod asks for a share of a device by, in thousandths.
pub const GPU_MILLI: &str = "gantry.io/gpu-milli";
/// The annotation with the numbers of the devices that a pod was given: `0,3`.
pub const DEVICES_ANNOTATION: &str = "gantry.io/gpu-devices";
/// The resources that whole devices are asked for by.
pub const WHOLE_DEVICES: [&str; 2] = ["nvidia.com/gpu", "amd.com/gpu"];
/// The annotation of a binding that is to be refused where the pod does not fit.
pub const IF_FITS_ANNOTATION: &str = "gantry.io/if-fits";

/// All of a device, in thousandths.
const WHOLE: i64 = 1_000;
const PODS: &str = "pods";
const ANY_ADDRESS: &str = "0.0.0.0";

/// A port of the node that a pod takes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Port {
    protocol: String,
    number: u64,
    address: String,
}

impl Port {
    fn clashes(&self, other: &Port) -> bool {
        let any = |port: &Port| port.address == ANY_ADDRESS;
        let same_address = self.address == other.address || any(self) || any(other);
        same_address && self.protocol == other.protocol && self.number == other.number
    }
}

/// What a pod takes from its node.
#[derive(Debug, Clone, Default)]
pub struct Demand {
    requests: ResourceList,
    ports: Vec<Port>,
    /// How many devices, and thousandths of each.
    devices: (i64, i64),
    /// Which ones, if that is known.
    held: Vec<usize>,
}

impl Demand {
    /// What a pod takes: nothing once it has ended.
    pub fn of(pod: &Value) -> Self {
        if matches!(meta::str_at(pod, &["status", "phase"]), "Succeeded" | "Failed") {
            return Self::default();
        }
        let mut requests = resources::of_pod(pod, Which::Requests, PodOptions { status: true, overhead: true });
        requests.retain(|_, amount| amount.signum() > 0);
        let devices = devices_of(&requests);
        requests.insert(PODS.to_owned(), Quantity::new(1, crate::quantity::Format::DecimalSi));
        Self { ports: ports_of(pod), held: held(pod, devices), devices, requests }
    }

    fn is_share(&self) -> bool {
        self.devices.0 == 1 && self.devices.1 < WHOLE
    }
}

fn devices_of(requests: &ResourceList) -> (i64, i64) {
    let amount = |name: &str| requests.get(name).map_or(0, Quantity::value);
    devices(WHOLE_DEVICES.iter().fold(0i64, |sum, name| sum.saturating_add(amount(name))), amount(GPU_MILLI))
}

/// The devices that a request of so many whole ones and such a share comes to: how many, and thousandths of each. A share beside
/// whole devices, or of more than one, is rounded up to whole ones.
pub fn devices(whole: i64, share: i64) -> (i64, i64) {
    match (whole, share.max(0)) {
        (0, 0) => (0, 0),
        (0, share) if share < WHOLE => (1, share),
        (whole, share) => (whole.saturating_add(share / WHOLE + i64::from(share % WHOLE > 0)), WHOLE),
    }
}

/// The numbers that [`DEVICES_ANNOTATION`] names, in order, each once; none if it is not made of such.
pub fn device_numbers(annotation: &str) -> Vec<u16> {
    let numbers: Result<Vec<u16>, _> = annotation.split(',').map(str::parse).collect();
    let mut numbers = numbers.unwrap_or_default();
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}

fn held(pod: &Value, (count, _): (i64, i64)) -> Vec<usize> {
    let numbers = device_numbers(meta::str_at(pod, &["metadata", "annotations", DEVICES_ANNOTATION]));
    let held: Vec<usize> = numbers.into_iter().map(usize::from).collect();
    if i64::try_from(held.len()) == Ok(count) { held } else { Vec::new() }
}

fn ports_of(pod: &Value) -> Vec<Port> {
    let sidecars = resources::containers(pod, "initContainers").filter(|container| resources::is_sidecar(container));
    let containers = resources::containers(pod, "containers").chain(sidecars);
    let ports = containers.flat_map(|container| container["ports"].as_array().into_iter().flatten());
    let text = |port: &Value, field: &str, default: &str| {
        let text = port[field].as_str().filter(|text| !text.is_empty());
        text.unwrap_or(default).to_owned()
    };
    ports
        .filter_map(|port| {
            let number = port["hostPort"].as_u64().filter(|number| *number > 0)?;
            let (protocol, address) = (text(port, "protocol", "TCP"), text(port, "hostIP", ANY_ADDRESS));
            Some(Port { protocol, number, address })
        })
        .collect()
}

/// Something that a node has too little of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lack {
    /// `OutOfcpu`, `NodePorts`.
    pub reason: String,
    /// For people.
    pub message: String,
}

impl Lack {
    fn of(name: &str, requested: i64, used: i64, capacity: i64) -> Self {
        let message = format!(
            "Node didn't have enough resource: {name}, requested: {requested}, used: {used}, capacity: {capacity}"
        );
        Self { reason: format!("OutOf{name}"), message }
    }
}

/// What the node lacks for one more pod beside those `there`.
pub fn lacking<'a>(node: &Value, there: impl Iterator<Item = &'a Demand> + Clone, pod: &Demand) -> Vec<Lack> {
    let allocatable = resources::parse(meta::get(node, &["status", "allocatable"]));
    let mut used = ResourceList::new();
    for other in there.clone() {
        resources::add(&mut used, &other.requests);
    }
    let none = Quantity::ZERO;
    let mut lacks = Vec::new();
    for (name, requested) in &pod.requests {
        let (used, capacity) = (used.get(name).unwrap_or(&none), allocatable.get(name).unwrap_or(&none));
        if used.add(requested) > *capacity {
            // CPU in thousandths, the others in units, as everywhere.
            let whole = |amount: &Quantity| if name == "cpu" { amount.milli_value() } else { amount.value() };
            lacks.push(Lack::of(name, whole(requested), whole(used), whole(capacity)));
        }
    }
    if pod.ports.iter().any(|port| there.clone().any(|other| other.ports.iter().any(|one| one.clashes(port)))) {
        let message = "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports";
        lacks.push(Lack { reason: "NodePorts".to_owned(), message: message.to_owned() });
    }
    if lacks.is_empty() {
        lacks.extend(lacking_device(&allocatable, there, pod));
    }
    lacks
}

/// Enough in sum does not mean that a device has it.
fn lacking_device<'a>(
    allocatable: &ResourceList,
    there: impl Iterator<Item = &'a Demand> + Clone,
    pod: &Demand,
) -> Option<Lack> {
    let (count, milli) = pod.devices;
    if count == 0 {
        return None;
    }
    let mut vendors = WHOLE_DEVICES.iter().filter_map(|name| Some((*name, allocatable.get(*name)?.value())));
    // Devices of two vendors on one node are not told apart by number, so nothing is known of them.
    let present = match (vendors.next(), vendors.next()) {
        (Some((_, present)), None) => usize::try_from(present).unwrap_or(0).min(usize::from(u16::MAX)),
        _ => 0,
    };
    if present == 0 && !pod.is_share() {
        return None;
    }
    let mut in_use = vec![0i64; present];
    // Those of whom it is known first; the others have what is left.
    for other in there.clone().filter(|other| !other.held.is_empty()) {
        take(&mut in_use, &other.held, other.devices.1);
    }
    for other in there.filter(|other| other.held.is_empty() && other.devices.0 > 0) {
        let likely = choose(&in_use, other);
        take(&mut in_use, &likely, other.devices.1);
    }
    let fits = if pod.held.is_empty() {
        i64::try_from(choose(&in_use, pod).len()) == Ok(count)
    } else {
        pod.held.iter().all(|device| in_use.get(*device).is_some_and(|used| used + milli <= WHOLE))
    };
    let total = |count: usize| i64::try_from(count).unwrap_or(i64::MAX).saturating_mul(WHOLE);
    let lack = || Lack::of(GPU_MILLI, count.saturating_mul(milli), in_use.iter().sum(), total(present));
    (!fits).then(lack)
}

fn take(in_use: &mut [i64], devices: &[usize], milli: i64) {
    for device in devices {
        if let Some(used) = in_use.get_mut(*device) {
            *used = used.saturating_add(milli);
        }
    }
}

/// The devices that a pod of which nothing is known may have: the fullest with room for a share, or the first that are idle.
fn choose(in_use: &[i64], pod: &Demand) -> Vec<usize> {
    let (count, milli) = pod.devices;
    if pod.is_share() {
        let fitting = (0..in_use.len()).filter(|device| in_use[*device] + milli <= WHOLE);
        return fitting.max_by_key(|device| (in_use[*device], std::cmp::Reverse(*device))).into_iter().collect();
    }
    let idle = (0..in_use.len()).filter(|device| in_use[*device] == 0);
    idle.take(usize::try_from(count).unwrap_or(usize::MAX)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn node(allocatable: &Value) -> Value {
        json!({"status": {"allocatable": allocatable}})
    }

    fn pod(requests: &Value) -> Value {
        json!({"spec": {"containers": [{"name": "main", "resources": {"requests": requests}}]}})
    }

    fn reasons(node: &Value, there: &[Value], new: &Value) -> Vec<String> {
        let there: Vec<Demand> = there.iter().map(Demand::of).collect();
        lacking(node, there.iter(), &Demand::of(new)).into_iter().map(|lack| lack.reason).collect()
    }

    #[test]
    fn what_is_short_is_told_as_a_nodes_agent_tells_it() {
        let node = node(&json!({"cpu": "4", "memory": "8Gi", "pods": "3"}));
        let one = pod(&json!({"cpu": "1900m", "memory": "1Gi"}));
        assert!(reasons(&node, std::slice::from_ref(&one), &one).is_empty());
        let demand = Demand::of(&one);
        let lacks = lacking(&node, [&demand, &demand].into_iter(), &demand);
        assert_eq!(lacks.len(), 1);
        assert_eq!(lacks[0].reason, "OutOfcpu");
        let text = "Node didn't have enough resource: cpu, requested: 1900, used: 3800, capacity: 4000";
        assert_eq!(lacks[0].message, text);
        let small = pod(&json!({"cpu": "1m"}));
        assert_eq!(reasons(&node, &vec![small.clone(); 3], &small), ["OutOfpods"]);
        let foreign = pod(&json!({"example.com/x": "1", "ephemeral-storage": "0"}));
        assert_eq!(reasons(&node, &[], &foreign), ["OutOfexample.com/x"]);
    }

    #[test]
    fn what_has_ended_takes_nothing() {
        let node = node(&json!({"cpu": "1", "pods": "1"}));
        let mut ended = pod(&json!({"cpu": "1"}));
        ended["status"]["phase"] = json!("Succeeded");
        assert!(reasons(&node, &[ended], &pod(&json!({"cpu": "1"}))).is_empty());
    }

    #[test]
    fn a_port_of_the_node_is_had_once() {
        let node = node(&json!({"pods": "10"}));
        let with = |port: Value| json!({"spec": {"containers": [{"name": "main", "ports": [port]}]}});
        let held = with(json!({"containerPort": 80, "hostPort": 80, "hostIP": "10.0.0.1"}));
        for (port, clashes) in [
            (json!({"hostPort": 80}), true),
            (json!({"hostPort": 80, "hostIP": "10.0.0.2"}), false),
            (json!({"hostPort": 80, "protocol": "UDP"}), false),
            (json!({"hostPort": 81}), false),
            (json!({"containerPort": 80}), false),
        ] {
            let expected: &[&str] = if clashes { &["NodePorts"] } else { &[] };
            assert_eq!(reasons(&node, std::slice::from_ref(&held), &with(port.clone())), expected, "{port}");
        }
    }

    #[test]
    fn devices_are_counted_one_by_one() {
        let node = node(&json!({"pods": "10", "nvidia.com/gpu": "2", "gantry.io/gpu-milli": "2000"}));
        let share = |milli: i64, on: &str| {
            let mut pod = pod(&json!({GPU_MILLI: milli.to_string()}));
            if !on.is_empty() {
                pod["metadata"]["annotations"][DEVICES_ANNOTATION] = json!(on);
            }
            pod
        };
        let whole = pod(&json!({"nvidia.com/gpu": "1"}));
        let two = [share(600, "0"), share(600, "1")];
        assert_eq!(reasons(&node, &two, &share(500, "")), ["OutOfgantry.io/gpu-milli"], "600 are free, 400 on each");
        assert!(reasons(&node, &two, &share(400, "")).is_empty());
        assert_eq!(reasons(&node, &two, &whole), ["OutOfgantry.io/gpu-milli"]);
        assert!(reasons(&node, &two[..1], &whole).is_empty());
        assert_eq!(reasons(&node, &two[..1], &share(600, "0")), ["OutOfgantry.io/gpu-milli"]);
        assert!(reasons(&node, &two[..1], &share(600, "1")).is_empty());
        assert_eq!(reasons(&node, &[], &share(600, "2")), ["OutOfgantry.io/gpu-milli"], "there is no third");
        // Whose devices nobody told has those that are left.
        assert!(reasons(&node, &[share(600, ""), share(400, "")], &whole).is_empty());
        assert_eq!(reasons(&node, &[share(600, ""), share(600, "")], &whole), ["OutOfgantry.io/gpu-milli"]);
        assert_eq!(reasons(&node, &[], &pod(&json!({"nvidia.com/gpu": "3"}))), ["OutOfnvidia.com/gpu"]);
    }
}

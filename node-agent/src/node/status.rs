//! Computes the Node's status. Pure: in go the machine, its load, the runtime's word and the time.

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeFeatures, NodeRuntimeHandler,
    NodeRuntimeHandlerFeatures, NodeStatus, NodeSystemInfo,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::machine::Machine;
use crate::pods::resources::Amounts;
use crate::pods::volumes::read_only;
use crate::pressure::Pressure;
use crate::pressure::plan::Condition;
use crate::runtime::{ImageRecord, RuntimeStatus, RuntimeVersion};

/// The version of Kubernetes whose node behaviour this is.
pub const KUBELET_VERSION: &str = concat!("v1.35.0+gantry-", env!("CARGO_PKG_VERSION"));
/// How many images a Node names.
const IMAGES_MAX: usize = 50;

/// What the status is made from.
#[derive(Clone)]
pub struct Sources<'a> {
    /// The node's name.
    pub name: &'a str,
    /// Its addresses.
    pub ips: &'a [IpAddr],
    /// The port of the agent's API.
    pub port: u16,
    /// How many pods it takes.
    pub max_pods: u32,
    /// The machine.
    pub machine: &'a Machine,
    /// How many devices plugins have by kind, and how many of them pods can have.
    pub devices: (Amounts, Amounts),
    /// The attached volumes that pods use.
    pub volumes_in_use: Vec<String>,
    /// What it is short of.
    pub pressure: &'a Pressure,
    /// Whether the machine is about to go down.
    pub going_down: bool,
    /// The runtime's name and version, if it answered.
    pub version: Option<&'a RuntimeVersion>,
    /// The runtime's state, or why it did not say.
    pub runtime: &'a Result<RuntimeStatus, String>,
    /// Images on the node.
    pub images: &'a [ImageRecord],
    /// The status before.
    pub old: Option<&'a NodeStatus>,
    /// Now.
    pub now: Timestamp,
}

/// Computes it.
pub fn compute(from: &Sources<'_>) -> NodeStatus {
    let mut addresses: Vec<_> =
        from.ips.iter().map(|ip| NodeAddress { type_: "InternalIP".into(), address: ip.to_string() }).collect();
    addresses.push(NodeAddress { type_: "Hostname".into(), address: from.name.into() });
    let daemon_endpoints =
        NodeDaemonEndpoints { kubelet_endpoint: Some(DaemonEndpoint { port: i32::from(from.port) }) };
    let (mut capacity, mut allocatable) = from.devices.clone();
    capacity.extend(from.machine.capacity(from.max_pods));
    allocatable.extend(from.machine.allocatable(from.max_pods));
    NodeStatus {
        addresses: Some(addresses),
        capacity: Some(quantities(&capacity)),
        allocatable: Some(quantities(&allocatable)),
        conditions: Some(conditions(from)),
        daemon_endpoints: Some(daemon_endpoints),
        node_info: Some(info(from)),
        images: Some(images(from.images)),
        features: from
            .runtime
            .as_ref()
            .ok()
            .map(|runtime| NodeFeatures { supplemental_groups_policy: Some(runtime.strict_groups) }),
        runtime_handlers: from.runtime.is_ok().then(runtime_handlers),
        // An empty list takes away what was there; a node that never had any says nothing.
        volumes_in_use: (!from.volumes_in_use.is_empty() || says_in_use(from.old)).then(|| from.volumes_in_use.clone()),
        ..NodeStatus::default()
    }
}

/// What pods can have of the default runtime. The agent sees to recursive read-only mounts itself, whatever the runtime can.
fn runtime_handlers() -> Vec<NodeRuntimeHandler> {
    let features = NodeRuntimeHandlerFeatures {
        recursive_read_only_mounts: Some(read_only::SUPPORTED),
        user_namespaces: Some(false),
    };
    vec![NodeRuntimeHandler { name: Some(String::new()), features: Some(features) }]
}

fn says_in_use(old: Option<&NodeStatus>) -> bool {
    old.and_then(|old| old.volumes_in_use.as_ref()).is_some_and(|volumes| !volumes.is_empty())
}

fn quantities(amounts: &Amounts) -> BTreeMap<String, Quantity> {
    let text = |name: &str, amount: i64| match name {
        "cpu" if amount % 1000 == 0 => (amount / 1000).to_string(),
        "cpu" => format!("{amount}m"),
        "memory" | "ephemeral-storage" if amount % 1024 == 0 => format!("{}Ki", amount / 1024),
        _ => amount.to_string(),
    };
    amounts.iter().map(|(name, amount)| (name.clone(), Quantity(text(name, *amount)))).collect()
}

/// Go's name of this architecture.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        other => other,
    }
}

fn info(from: &Sources<'_>) -> NodeSystemInfo {
    let machine = from.machine;
    let old = from.old.and_then(|old| old.node_info.as_ref()).map(|info| info.container_runtime_version.clone());
    let runtime = from.version.map(|version| format!("{}://{}", version.name, version.version.trim_start_matches('v')));
    NodeSystemInfo {
        architecture: architecture().into(),
        boot_id: machine.boot_id.clone(),
        container_runtime_version: runtime.or(old).unwrap_or_default(),
        kernel_version: machine.kernel_version.clone(),
        kube_proxy_version: String::new(),
        kubelet_version: KUBELET_VERSION.into(),
        machine_id: machine.machine_id.clone(),
        operating_system: std::env::consts::OS.into(),
        os_image: machine.os_image.clone(),
        system_uuid: machine.system_uuid.clone(),
        swap: None,
    }
}

fn images(records: &[ImageRecord]) -> Vec<ContainerImage> {
    let mut records: Vec<&ImageRecord> = records.iter().collect();
    records.sort_by(|a, b| b.size_bytes.cmp(&a.size_bytes).then_with(|| a.id.cmp(&b.id)));
    let image = |record: &ImageRecord| ContainerImage {
        names: Some(record.digests.iter().chain(&record.tags).cloned().collect()),
        size_bytes: i64::try_from(record.size_bytes).ok(),
    };
    records.into_iter().take(IMAGES_MAX).map(image).collect()
}

fn conditions(from: &Sources<'_>) -> Vec<NodeCondition> {
    let pressure = |kind: Condition, bad: (&str, &str), good: (&str, &str)| {
        let is = from.pressure.contains(&kind);
        let (reason, message) = if is { bad } else { good };
        condition(from, kind.name(), is, reason, message.to_owned())
    };
    vec![
        pressure(
            Condition::MemoryPressure,
            ("KubeletHasInsufficientMemory", "kubelet has insufficient memory available"),
            ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        ),
        pressure(
            Condition::DiskPressure,
            ("KubeletHasDiskPressure", "kubelet has disk pressure"),
            ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ),
        pressure(
            Condition::PidPressure,
            ("KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
            ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        ),
        ready(from),
    ]
}

fn ready(from: &Sources<'_>) -> NodeCondition {
    let mut faults = Vec::new();
    match from.runtime {
        Err(error) => faults.push(format!("container runtime is down: {error}")),
        Ok(status) => {
            if !status.runtime.ready {
                let (reason, message) = (&status.runtime.reason, &status.runtime.message);
                faults
                    .push(format!("container runtime not ready: RuntimeReady=false reason:{reason} message:{message}"));
            }
            if !status.network.ready {
                let (reason, message) = (&status.network.reason, &status.network.message);
                faults.push(format!(
                    "container runtime network not ready: NetworkReady=false reason:{reason} message:{message}"
                ));
            }
        }
    }
    if from.going_down {
        faults.push("node is shutting down".to_owned());
    }
    if faults.is_empty() {
        return condition(from, "Ready", true, "KubeletReady", "kubelet is posting ready status".into());
    }
    condition(from, "Ready", false, "KubeletNotReady", faults.join(", "))
}

fn condition(from: &Sources<'_>, kind: &str, is: bool, reason: &str, message: String) -> NodeCondition {
    let status = if is { "True" } else { "False" };
    let old = from.old.and_then(|old| old.conditions.as_ref()).into_iter().flatten().find(|old| old.type_ == kind);
    let since = old.filter(|old| old.status == status).and_then(|old| old.last_transition_time.clone());
    NodeCondition {
        type_: kind.into(),
        status: status.into(),
        reason: Some(reason.into()),
        message: Some(message),
        last_heartbeat_time: Some(Time(from.now)),
        last_transition_time: Some(since.unwrap_or(Time(from.now))),
    }
}

/// Whether two statuses say the same, but for when they were said.
pub fn same(a: &NodeStatus, b: &NodeStatus) -> bool {
    let timeless = |status: &NodeStatus| {
        let mut status = status.clone();
        for condition in status.conditions.iter_mut().flatten() {
            condition.last_heartbeat_time = None;
        }
        status
    };
    timeless(a) == timeless(b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::Readiness;

    #[test]
    fn a_node_is_ready_only_with_runtime_and_network() {
        let good = Readiness { ready: true, reason: String::new(), message: String::new() };
        let bad = Readiness { ready: false, reason: "NetworkPluginNotReady".into(), message: "no CNI".into() };
        let machine = Machine { cpus: 2, memory_bytes: 4 << 30, storage_bytes: 100 << 30, ..Machine::default() };
        let status_of = |runtime: Result<RuntimeStatus, String>, pressure: Pressure| {
            compute(&Sources {
                name: "n",
                ips: &[],
                port: 10250,
                max_pods: 110,
                machine: &machine,
                devices: (Amounts::from([("a.b/c".into(), 2)]), Amounts::from([("a.b/c".into(), 1)])),
                volumes_in_use: Vec::new(),
                pressure: &pressure,
                going_down: false,
                version: None,
                runtime: &runtime,
                images: &[],
                old: None,
                now: Timestamp::UNIX_EPOCH,
            })
        };
        let of = |status: &NodeStatus, kind: &str| {
            let conditions = status.conditions.as_ref().unwrap();
            let found = conditions.iter().find(|condition| condition.type_ == kind).unwrap();
            (found.status.clone(), found.reason.clone().unwrap())
        };
        let ok = RuntimeStatus { runtime: good.clone(), network: good.clone(), strict_groups: true };
        let status = status_of(Ok(ok.clone()), Pressure::new());
        assert_eq!(of(&status, "Ready"), ("True".into(), "KubeletReady".into()));
        let devices = |amounts: &Option<BTreeMap<String, Quantity>>| amounts.as_ref().unwrap()["a.b/c"].0.clone();
        assert_eq!((devices(&status.capacity), devices(&status.allocatable)), ("2".to_owned(), "1".to_owned()));
        assert_eq!(status.capacity.unwrap()["cpu"].0, "2");
        assert_eq!(status.features.unwrap().supplemental_groups_policy, Some(true));
        let handlers = status.runtime_handlers.unwrap();
        assert_eq!(handlers[0].name.as_deref(), Some(""));
        assert_eq!(handlers[0].features.as_ref().unwrap().recursive_read_only_mounts, Some(read_only::SUPPORTED));
        assert_eq!(status.allocatable.unwrap()["memory"].0, "4091904Ki");
        let no_network =
            status_of(Ok(RuntimeStatus { runtime: good, network: bad, strict_groups: false }), Pressure::new());
        assert_eq!(of(&no_network, "Ready"), ("False".into(), "KubeletNotReady".into()));
        assert_eq!(of(&status_of(Err("gone".into()), Pressure::new()), "Ready").0, "False");
        let full = Pressure::from([Condition::DiskPressure]);
        assert_eq!(of(&status_of(Ok(ok), full), "DiskPressure"), ("True".into(), "KubeletHasDiskPressure".into()));
    }
}

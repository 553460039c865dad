//! Requests and limits of a pod as numbers: QoS class, effective requests, cgroup values. Pure.

use std::collections::BTreeMap;

use gantry_api::quantity::Quantity as Parsed;
use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::spec::{self, Role};
use crate::runtime::Resources;

/// Quality of service of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Qos {
    /// Every container has equal requests and limits of CPU and memory.
    Guaranteed,
    /// Some request or limit.
    Burstable,
    /// None at all.
    BestEffort,
}

impl Qos {
    /// As `status.qosClass` has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }
}

/// Amounts by resource name: CPU in thousandths, everything else in whole units.
pub type Amounts = BTreeMap<String, i64>;

/// One quantity in the units of [`Amounts`]; what cannot be parsed counts as nothing (the API server refuses it).
pub fn amount(resource: &str, quantity: &Quantity) -> i64 {
    match Parsed::parse(&quantity.0) {
        Ok(parsed) if resource == "cpu" => parsed.milli_value(),
        Ok(parsed) => parsed.value(),
        Err(_) => 0,
    }
}

fn amounts(list: Option<&BTreeMap<String, Quantity>>) -> Amounts {
    let list = list.into_iter().flatten();
    list.map(|(name, quantity)| (name.clone(), amount(name, quantity))).collect()
}

/// What a container asks for.
pub fn requests(container: &Container) -> Amounts {
    requests_of(container.resources.as_ref())
}

fn requests_of(resources: Option<&ResourceRequirements>) -> Amounts {
    let mut requests = amounts(resources.and_then(|r| r.limits.as_ref()));
    requests.extend(amounts(resources.and_then(|r| r.requests.as_ref())));
    requests
}

fn limits(container: &Container) -> Amounts {
    amounts(container.resources.as_ref().and_then(|r| r.limits.as_ref()))
}

fn add(into: &mut Amounts, more: &Amounts) {
    for (name, value) in more {
        let entry = into.entry(name.clone()).or_default();
        *entry = entry.saturating_add(*value);
    }
}

fn max(into: &mut Amounts, other: &Amounts) {
    for (name, value) in other {
        let entry = into.entry(name.clone()).or_default();
        *entry = (*entry).max(*value);
    }
}

/// What the pod asks for as a whole: the sum of its app containers and sidecars, or what its init phase needs if that is
/// more, plus its overhead; pod-level requests win.
pub fn pod_requests(pod: &Pod) -> Amounts {
    aggregate(pod, requests, |resources| requests_of(Some(resources)))
}

/// The pod's limits likewise; a resource is missing if any container leaves it unlimited.
pub fn pod_limits(pod: &Pod) -> Amounts {
    let mut total = aggregate(pod, limits, |resources| amounts(resources.limits.as_ref()));
    let pod_level = amounts(spec::spec(pod).resources.as_ref().and_then(|r| r.limits.as_ref()));
    let bounded = |name: &String| {
        pod_level.contains_key(name)
            || spec::all_containers(pod).all(|c| limits(c.spec).get(name).is_some_and(|limit| *limit > 0))
    };
    total.retain(|name, _| bounded(name));
    total
}

fn aggregate(
    pod: &Pod,
    of: impl Fn(&Container) -> Amounts,
    of_pod: impl Fn(&ResourceRequirements) -> Amounts,
) -> Amounts {
    let mut total = Amounts::new();
    for container in spec::app_containers(pod) {
        add(&mut total, &of(container.spec));
    }
    let mut sidecars = Amounts::new();
    let mut init_peak = Amounts::new();
    for container in spec::init_containers(pod) {
        let mut need = of(container.spec);
        if container.role == Role::Sidecar {
            add(&mut sidecars, &need);
            need = Amounts::new();
        }
        add(&mut need, &sidecars);
        max(&mut init_peak, &need);
    }
    add(&mut total, &sidecars);
    max(&mut total, &init_peak);
    if let Some(resources) = &spec::spec(pod).resources {
        total.extend(of_pod(resources));
    }
    add(&mut total, &amounts(spec::spec(pod).overhead.as_ref()));
    total
}

/// The pod's QoS class.
pub fn qos(pod: &Pod) -> Qos {
    let mut any = false;
    let mut guaranteed = true;
    let mut judge = |resources: Option<&ResourceRequirements>| {
        let requests = requests_of(resources);
        let limits = amounts(resources.and_then(|r| r.limits.as_ref()));
        for name in ["cpu", "memory"] {
            let (request, limit) = (requests.get(name).copied().unwrap_or(0), limits.get(name).copied().unwrap_or(0));
            any |= request > 0 || limit > 0;
            guaranteed &= limit > 0 && request == limit;
        }
    };
    match &spec::spec(pod).resources {
        Some(resources) if resources.limits.is_some() || resources.requests.is_some() => judge(Some(resources)),
        _ => spec::all_containers(pod).for_each(|container| judge(container.spec.resources.as_ref())),
    }
    match (any, guaranteed) {
        (false, _) => Qos::BestEffort,
        (true, true) => Qos::Guaranteed,
        (true, false) => Qos::Burstable,
    }
}

/// The kernel's CPU weight for a request in thousandths.
pub fn cpu_shares(milli: i64) -> u64 {
    // Both bounds are the kernel's own.
    u64::try_from(milli.max(0)).unwrap_or(0).saturating_mul(1024).div_euclid(1000).clamp(2, 262_144)
}

const CPU_PERIOD_US: i64 = 100_000;

/// The kernel's CPU quota for a limit in thousandths; the least it takes is a millisecond.
pub fn cpu_quota_us(milli: i64) -> i64 {
    (milli.saturating_mul(CPU_PERIOD_US) / 1000).max(1000)
}

/// Before the size of the pages in the names of resources.
pub const HUGE_PAGES: &str = "hugepages-";

/// The size of huge pages in a resource's name, in bytes.
pub fn page_size(resource: &str) -> Option<i64> {
    Parsed::parse(resource.strip_prefix(HUGE_PAGES)?).ok().map(|size| size.value()).filter(|size| *size > 0)
}

/// The same as the kernel calls it: `2MB`.
fn page_size_name(bytes: i64) -> String {
    let mut size = (bytes, "B");
    for unit in ["KB", "MB", "GB"] {
        if size.0 >= 1024 {
            size = (size.0 / 1024, unit);
        }
    }
    format!("{}{}", size.0, size.1)
}

/// What is asked for of huge pages is the limit too.
fn hugepage_limits(requests: &Amounts) -> BTreeMap<String, u64> {
    let limits = requests.iter().filter_map(|(name, bytes)| Some((page_size_name(page_size(name)?), *bytes)));
    limits.map(|(size, bytes)| (size, u64::try_from(bytes).unwrap_or(0))).collect()
}

fn limits_of(requests: &Amounts, limits: &Amounts) -> Resources {
    let cpu_limit = limits.get("cpu").copied().filter(|limit| *limit > 0);
    Resources {
        cpu_shares: Some(cpu_shares(requests.get("cpu").copied().unwrap_or(0))),
        cpu_quota_us: cpu_limit.map(cpu_quota_us),
        cpu_period_us: cpu_limit.map(|_| CPU_PERIOD_US),
        memory_limit_bytes: limits.get("memory").copied().filter(|limit| *limit > 0),
        oom_score_adj: None,
        hugepage_limits: hugepage_limits(requests),
    }
}

/// Limits of the pod's own cgroup.
pub fn pod_cgroup(pod: &Pod) -> Resources {
    limits_of(&pod_requests(pod), &pod_limits(pod))
}

/// What the pod's sandbox costs besides its containers. It is a limit as well: there is no more to be had for it.
pub fn overhead(pod: &Pod) -> Resources {
    let overhead = amounts(spec::spec(pod).overhead.as_ref());
    if overhead.is_empty() { Resources::default() } else { limits_of(&overhead, &overhead) }
}

/// What its containers have together.
pub fn pod_cgroup_without_overhead(pod: &Pod) -> Resources {
    let mut pod = pod.clone();
    if let Some(spec) = &mut pod.spec {
        spec.overhead = None;
    }
    pod_cgroup(&pod)
}

/// Limits of one container's cgroup. `machine_memory` is the node's, for the OOM score.
pub fn container_cgroup(pod: &Pod, container: &Container, machine_memory: i64) -> Resources {
    let (requests, limits) = (requests(container), limits(container));
    let mut resources = limits_of(&requests, &limits);
    let memory_request = requests.get("memory").copied().unwrap_or(0);
    resources.oom_score_adj = Some(oom_score_adj(pod, memory_request, machine_memory));
    resources
}

/// The less of the machine a burstable container asks for, the sooner the kernel picks it.
fn oom_score_adj(pod: &Pod, memory_request: i64, machine_memory: i64) -> i64 {
    let critical = spec::spec(pod).priority.is_some_and(|priority| priority >= 2_000_000_000);
    match qos(pod) {
        _ if critical => -997,
        Qos::Guaranteed => -997,
        Qos::BestEffort => 1000,
        Qos::Burstable => {
            let share = memory_request.saturating_mul(1000).checked_div(machine_memory).unwrap_or(0);
            // Between the guaranteed (below 3) and the best-effort (1000).
            (1000 - share).clamp(3, 999)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(serde_json::json!({"spec": spec})).unwrap()
    }

    #[test]
    fn qos_follows_requests_and_limits() {
        let best = pod(serde_json::json!({"containers": [{"name": "a"}]}));
        assert_eq!(qos(&best), Qos::BestEffort);
        let burst = pod(serde_json::json!({"containers": [{"name": "a", "resources": {"requests": {"cpu": "1"}}}]}));
        assert_eq!(qos(&burst), Qos::Burstable);
        let full = pod(serde_json::json!({"containers": [{"name": "a",
            "resources": {"limits": {"cpu": "1", "memory": "1Gi"}}}]}));
        assert_eq!(qos(&full), Qos::Guaranteed);
    }

    #[test]
    fn requests_take_the_init_peak_and_add_sidecars() {
        let pod = pod(serde_json::json!({
        "containers": [{"name": "a", "resources": {"requests": {"cpu": "100m"}}}],
        "initContainers": [
            {"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": "50m"}}},
            {"name": "i", "resources": {"requests": {"cpu": "500m"}}}
        ]}));
        assert_eq!(pod_requests(&pod)["cpu"], 550);
    }

    #[test]
    fn a_pod_is_limited_only_if_every_container_is() {
        let one = pod(serde_json::json!({"containers": [
            {"name": "a", "resources": {"limits": {"memory": "64Mi"}}}, {"name": "b"}]}));
        assert_eq!(pod_cgroup(&one).memory_limit_bytes, None);
        let both = pod(serde_json::json!({"containers": [
            {"name": "a", "resources": {"limits": {"memory": "64Mi", "cpu": "250m"}}}]}));
        assert_eq!(pod_cgroup(&both).memory_limit_bytes, Some(64 << 20));
        assert_eq!(pod_cgroup(&both).cpu_quota_us, Some(25_000));
        assert_eq!(pod_cgroup(&both).cpu_shares, Some(256));
    }

    #[test]
    fn overhead_is_the_pods_and_no_containers() {
        let limits = serde_json::json!({"limits": {"memory": "64Mi", "cpu": "250m"}});
        let pod = pod(serde_json::json!({"overhead": {"memory": "32Mi", "cpu": "100m"}, "containers": [
            {"name": "a", "resources": limits}]}));
        let all = pod_cgroup(&pod);
        assert_eq!(
            (all.memory_limit_bytes, all.cpu_quota_us, all.cpu_shares),
            (Some(96 << 20), Some(35_000), Some(358))
        );
        assert_eq!(overhead(&pod).memory_limit_bytes, Some(32 << 20));
        assert_eq!(pod_cgroup_without_overhead(&pod).memory_limit_bytes, Some(64 << 20));
        let own = container_cgroup(&pod, spec::all_containers(&pod).next().unwrap().spec, 1 << 32);
        assert_eq!((own.memory_limit_bytes, own.cpu_quota_us), (Some(64 << 20), Some(25_000)));
        let unlimited = serde_json::json!({"overhead": {"memory": "32Mi"}, "containers": [{"name": "a"}]});
        assert_eq!(pod_cgroup(&self::pod(unlimited)).memory_limit_bytes, None, "nothing that it could raise");
    }

    #[test]
    fn huge_pages_are_limited_by_their_size() {
        let asks = |size: &str, amount: &str| serde_json::json!({"limits": {format!("hugepages-{size}"): amount}});
        let pod = pod(serde_json::json!({"containers": [
            {"name": "a", "resources": asks("2Mi", "4Mi")}, {"name": "b", "resources": asks("2Mi", "2Mi")},
            {"name": "c", "resources": asks("1Gi", "2Gi")}, {"name": "d"}]}));
        let limits = |list: &[(&str, u64)]| -> BTreeMap<String, u64> {
            list.iter().map(|(size, bytes)| ((*size).to_owned(), *bytes)).collect()
        };
        assert_eq!(pod_cgroup(&pod).hugepage_limits, limits(&[("2MB", 6 << 20), ("1GB", 2 << 30)]));
        let first = container_cgroup(&pod, spec::all_containers(&pod).next().unwrap().spec, 1 << 32);
        assert_eq!(first.hugepage_limits, limits(&[("2MB", 4 << 20)]));
        assert_eq!((page_size_name(64 << 10), page_size_name(512)), ("64KB".to_owned(), "512B".to_owned()));
    }
}

//! Nodes, with the pods on them and what those ask for.

use gantry_scheduler::convert;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;

use super::text::{Text, age, items, show, time};

/// A node's own part; `pods` are those on it.
pub fn node(text: &mut Text, object: &Value, pods: &[Value], lease: Option<&Value>) {
    let (meta, spec, status) = (&object["metadata"], &object["spec"], &object["status"]);
    let roles: Vec<&str> = meta["labels"]
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(key, _)| key.strip_prefix("node-role.kubernetes.io/"))
        .collect();
    text.pair(0, "Roles", if roles.is_empty() { "<none>".to_owned() } else { roles.join(",") });
    text.labels(meta);
    text.pair(0, "CreationTimestamp", time(&meta["creationTimestamp"]));
    let taints: Vec<String> = items(spec, "taints")
        .iter()
        .map(|taint| match taint["value"].as_str().filter(|value| !value.is_empty()) {
            Some(value) => format!("{}={value}:{}", show(&taint["key"]), show(&taint["effect"])),
            None => format!("{}:{}", show(&taint["key"]), show(&taint["effect"])),
        })
        .collect();
    text.list(0, "Taints", &taints);
    text.pair(0, "Unschedulable", spec["unschedulable"].as_bool().unwrap_or(false).to_string());
    if let Some(lease) = lease {
        text.line(0, "Lease:");
        text.pair(1, "HolderIdentity", show(&lease["spec"]["holderIdentity"]));
        text.pair(1, "RenewTime", time(&lease["spec"]["renewTime"]));
    }
    let conditions: Vec<Vec<String>> = items(status, "conditions")
        .iter()
        .map(|condition| {
            let cell = |field: &str| show(&condition[field]);
            vec![
                cell("type"),
                cell("status"),
                time(&condition["lastHeartbeatTime"]),
                time(&condition["lastTransitionTime"]),
                cell("reason"),
                cell("message"),
            ]
        })
        .collect();
    if !conditions.is_empty() {
        text.line(0, "Conditions:");
        text.table(1, &["Type", "Status", "LastHeartbeatTime", "LastTransitionTime", "Reason", "Message"], &conditions);
    }
    text.line(0, "Addresses:");
    for address in items(status, "addresses") {
        text.pair(1, &show(&address["type"]), show(&address["address"]));
    }
    for (heading, field) in [("Capacity", "capacity"), ("Allocatable", "allocatable")] {
        text.line(0, format!("{heading}:"));
        for (resource, amount) in status[field].as_object().into_iter().flatten() {
            text.pair(1, resource, show(amount));
        }
    }
    text.line(0, "System Info:");
    for (field, name) in [
        ("machineID", "Machine ID"),
        ("systemUUID", "System UUID"),
        ("bootID", "Boot ID"),
        ("kernelVersion", "Kernel Version"),
        ("osImage", "OS Image"),
        ("operatingSystem", "Operating System"),
        ("architecture", "Architecture"),
        ("containerRuntimeVersion", "Container Runtime Version"),
        ("kubeletVersion", "Kubelet Version"),
    ] {
        text.pair(1, name, status["nodeInfo"][field].as_str().unwrap_or_default());
    }
    if let Some(range) = spec["podCIDR"].as_str() {
        text.pair(0, "PodCIDR", range);
    }
    running(text, status, pods);
}

fn running(text: &mut Text, status: &Value, pods: &[Value]) {
    let now = Timestamp::now();
    let live: Vec<&Value> =
        pods.iter().filter(|pod| !matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))).collect();
    let allocatable =
        |name: &str| convert::quantity::amount(name, status["allocatable"][name].as_str().unwrap_or_default());
    let (cpu, memory) = (allocatable("cpu"), allocatable("memory"));
    let mut sums = [0i64; 4];
    let mut rows = Vec::new();
    for pod in live {
        let requests =
            serde_json::from_value::<Pod>(pod.clone()).map(|pod| convert::pod_requests(&pod)).unwrap_or_default();
        let amounts = [requests.milli_cpu, limits(pod, "cpu"), requests.memory, limits(pod, "memory")];
        for (sum, amount) in sums.iter_mut().zip(amounts) {
            *sum = sum.saturating_add(amount);
        }
        let name = |field: &str| show(&pod["metadata"][field]);
        let mut row = vec![name("namespace"), name("name")];
        row.extend(shares(amounts, cpu, memory));
        row.push(age(&pod["metadata"]["creationTimestamp"], now));
        rows.push(row);
    }
    text.line(0, format!("Non-terminated Pods:\t({} in total)", rows.len()));
    let header = ["Namespace", "Name", "CPU Requests", "CPU Limits", "Memory Requests", "Memory Limits", "Age"];
    text.table(1, &header, &rows);
    text.line(0, "Allocated resources:");
    text.line(1, "(Total limits may be over 100 percent, i.e., overcommitted.)");
    let [cpu_requests, cpu_limits, memory_requests, memory_limits] = shares(sums, cpu, memory);
    let row = |name: &str, requests, limits| vec![name.to_owned(), requests, limits];
    text.table(
        1,
        &["Resource", "Requests", "Limits"],
        &[row("cpu", cpu_requests, cpu_limits), row("memory", memory_requests, memory_limits)],
    );
}

fn limits(pod: &Value, resource: &str) -> i64 {
    let containers = items(&pod["spec"], "containers").iter();
    containers
        .map(|container| {
            convert::quantity::amount(resource, container["resources"]["limits"][resource].as_str().unwrap_or_default())
        })
        .sum()
}

/// CPU requests and limits, memory requests and limits, each with its share of what is there.
fn shares(amounts: [i64; 4], cpu: i64, memory: i64) -> [String; 4] {
    let share = |amount: i64, of: i64| amount.saturating_mul(100).checked_div(of).unwrap_or(0);
    let [cpu_requests, cpu_limits, memory_requests, memory_limits] = amounts;
    let of_cpu = |amount: i64| format!("{} ({}%)", milli(amount), share(amount, cpu));
    let of_memory = |amount: i64| format!("{} ({}%)", bytes(amount), share(amount, memory));
    [of_cpu(cpu_requests), of_cpu(cpu_limits), of_memory(memory_requests), of_memory(memory_limits)]
}

fn milli(amount: i64) -> String {
    if amount % 1_000 == 0 { (amount / 1_000).to_string() } else { format!("{amount}m") }
}

fn bytes(amount: i64) -> String {
    let units = [(1i64 << 30, "Gi"), (1 << 20, "Mi"), (1 << 10, "Ki")];
    match units.into_iter().find(|(unit, _)| amount > 0 && amount % unit == 0) {
        Some((unit, suffix)) => format!("{}{suffix}", amount / unit),
        None => amount.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_read_as_they_are_written() {
        assert_eq!(
            shares([250, 1_000, 64 << 20, 1 << 30], 4_000, 2 << 30),
            ["250m (6%)", "1 (25%)", "64Mi (3%)", "1Gi (50%)"]
        );
        assert_eq!(shares([0; 4], 0, 0), ["0 (0%)", "0 (0%)", "0 (0%)", "0 (0%)"]);
    }
}

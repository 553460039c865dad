//! `/stats/summary`: what node, pods, containers, volumes and logs use, in the kubelet's form (stats/v1alpha1).

use std::collections::HashMap;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::disk::{FileSystem, Taken};
use super::{Collector, FILES_AGE_MAX, NodeSample, PodFiles, PodSample};
use crate::clock::Now;
use crate::runtime::{InterfaceUsage, RuntimeError, Usage};

/// By this the node's rate is remembered.
pub(super) const NODE: &str = "node";

/// Makes the summary; `only_cpu_and_memory` leaves the rest out, which costs more.
pub async fn summary(collector: &Collector, only_cpu_and_memory: bool) -> Result<Value, RuntimeError> {
    let samples = collector.pods().await?;
    collector.keep_only(&samples);
    let layers = match only_cpu_and_memory {
        true => HashMap::new(),
        false => collector.runtime.layers().await?,
    };
    let file_system = collector.node_file_system().unwrap_or_default();
    let mut pods = Vec::new();
    for sample in &samples {
        let files = match only_cpu_and_memory {
            true => None,
            false => Some(collector.files(&sample.entry, FILES_AGE_MAX).await),
        };
        pods.push(pod(collector, sample, files.as_deref(), &layers, &file_system));
    }
    let mut node = node(collector, &collector.node(), &samples);
    if !only_cpu_and_memory {
        let now = crate::clock::now();
        let images = collector.runtime.image_store().await?;
        let image_fs = super::disk::file_system(&images.path).unwrap_or(file_system);
        node["fs"] = whole(now, &file_system, None);
        let used = Taken { bytes: images.bytes, inodes: images.inodes };
        let layers = layers.values().fold(Taken::default(), |sum, layer| sum + *layer);
        node["runtime"] =
            json!({"imageFs": whole(now, &image_fs, Some(used)), "containerFs": whole(now, &image_fs, Some(layers))});
    }
    Ok(json!({"node": node, "pods": pods}))
}

/// Times are told to the second, as everywhere in the API.
fn second(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn cpu(collector: &Collector, key: &str, at: Now, usage: &Usage) -> Value {
    let mut cpu = json!({"time": second(at.wall), "usageCoreNanoSeconds": usage.cpu_ns});
    if let Some(rate) = collector.rate(key, at.steady, usage.cpu_ns) {
        cpu["usageNanoCores"] = json!(rate);
    }
    cpu
}

fn memory(at: Timestamp, usage: &Usage) -> Value {
    let mut memory = json!({
        "time": second(at),
        "usageBytes": usage.memory_bytes,
        "workingSetBytes": usage.working_set_bytes,
        "rssBytes": usage.rss_bytes,
        "pageFaults": usage.page_faults,
        "majorPageFaults": usage.major_page_faults,
    });
    if let Some(limit) = usage.memory_limit_bytes {
        memory["availableBytes"] = json!(limit.saturating_sub(usage.working_set_bytes));
    }
    memory
}

fn network(at: Timestamp, interfaces: &[InterfaceUsage]) -> Value {
    let one = |interface: &InterfaceUsage| {
        json!({
            "name": interface.name,
            "rxBytes": interface.rx_bytes,
            "rxErrors": interface.rx_errors,
            "txBytes": interface.tx_bytes,
            "txErrors": interface.tx_errors,
        })
    };
    let all: Vec<_> = interfaces.iter().map(one).collect();
    // The first stands for the pod or the node; runtimes name it eth0.
    let chosen = interfaces.iter().find(|interface| interface.name == "eth0").or_else(|| interfaces.first());
    let mut network = chosen.map_or_else(|| json!({"name": ""}), one);
    network["time"] = json!(second(at));
    network["interfaces"] = json!(all);
    network
}

/// A file system, and what of it is taken by what is asked about.
fn whole(at: Timestamp, file_system: &FileSystem, taken: Option<Taken>) -> Value {
    json!({
        "time": second(at),
        "availableBytes": file_system.available,
        "capacityBytes": file_system.capacity,
        "usedBytes": taken.map_or(file_system.used(), |taken| taken.bytes),
        "inodesFree": file_system.inodes_free,
        "inodes": file_system.inodes,
        "inodesUsed": taken.map_or(file_system.inodes.saturating_sub(file_system.inodes_free), |taken| taken.inodes),
    })
}

fn node(collector: &Collector, sample: &NodeSample, pods: &[PodSample]) -> Value {
    let machine = &collector.machine;
    let load = crate::node::machine::load();
    let mut usage = sample.usage;
    usage.memory_limit_bytes = u64::try_from(machine.memory_bytes).ok();
    let mut node = json!({
        "nodeName": collector.node_name,
        "startTime": second(machine_start(sample.at.wall)),
        "cpu": cpu(collector, NODE, sample.at, &usage),
        "memory": memory(sample.at.wall, &usage),
        "network": network(sample.at.wall, &sample.interfaces),
        "swap": {"time": second(sample.at.wall), "swapUsageBytes": usage.swap_bytes},
        "systemContainers": [system_pods(collector, sample.at.wall, pods)],
    });
    if let Some((running, most)) = load.pids {
        node["rlimit"] = json!({"time": second(sample.at.wall), "maxpid": most, "curproc": running});
    }
    node
}

/// All pods together.
fn system_pods(collector: &Collector, at: Timestamp, pods: &[PodSample]) -> Value {
    let mut sum = Usage::default();
    for pod in pods {
        sum.cpu_ns += pod.usage.pod.cpu_ns;
        sum.memory_bytes += pod.usage.pod.memory_bytes;
        sum.working_set_bytes += pod.usage.pod.working_set_bytes;
        sum.rss_bytes += pod.usage.pod.rss_bytes;
        sum.page_faults += pod.usage.pod.page_faults;
        sum.major_page_faults += pod.usage.pod.major_page_faults;
    }
    sum.memory_limit_bytes = u64::try_from(collector.machine.allocatable(0).get("memory").copied().unwrap_or(0)).ok();
    json!({
        "name": "pods",
        "startTime": null,
        "cpu": {"time": second(at), "usageCoreNanoSeconds": sum.cpu_ns},
        "memory": memory(at, &sum),
    })
}

/// When the machine came up.
fn machine_start(now: Timestamp) -> Timestamp {
    let uptime = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
    let seconds: f64 = uptime.split(' ').next().and_then(|text| text.parse().ok()).unwrap_or(0.0);
    now.checked_sub(SignedDuration::from_secs(seconds as i64)).unwrap_or(now)
}

fn pod(
    collector: &Collector,
    sample: &PodSample,
    files: Option<&PodFiles>,
    layers: &HashMap<String, Taken>,
    file_system: &FileSystem,
) -> Value {
    let (namespace, name) = sample.name();
    let (at, uid) = (sample.at.wall, sample.uid());
    let started = sample.entry.pod.status.as_ref().and_then(|status| status.start_time.as_ref());
    let mut containers = Vec::new();
    let mut ephemeral = Taken::default();
    for (container, usage) in sample.containers() {
        let key = format!("{uid}/{}", container.id);
        let mut one = json!({
            "name": container.name,
            "startTime": second(container.started_at.unwrap_or(container.created_at)),
            "cpu": cpu(collector, &key, sample.at, usage),
            "memory": memory(at, usage),
            "swap": {"time": second(at), "swapUsageBytes": usage.swap_bytes},
        });
        if let Some(files) = files {
            let layer = layers.get(&container.id).copied().unwrap_or_default();
            let logs = files.logs.get(&container.name).copied().unwrap_or_default();
            ephemeral = ephemeral + layer + logs;
            one["rootfs"] = whole(at, file_system, Some(layer));
            one["logs"] = whole(at, file_system, Some(logs));
        }
        containers.push(one);
    }
    let mut pod = json!({
        "podRef": {"name": name, "namespace": namespace, "uid": uid},
        "startTime": started.map(|time| second(time.0)),
        "containers": containers,
        "cpu": cpu(collector, uid, sample.at, &sample.usage.pod),
        "memory": memory(at, &sample.usage.pod),
        "swap": {"time": second(at), "swapUsageBytes": sample.usage.pod.swap_bytes},
        "process_stats": {"process_count": sample.usage.pod.processes},
    });
    let Some(files) = files else { return pod };
    let host_network = sample.entry.pod.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or(false);
    if !host_network {
        pod["network"] = network(at, &sample.usage.interfaces);
    }
    let mut volumes = Vec::new();
    for (name, taken, on) in &files.volumes {
        let mut volume = whole(at, &on.unwrap_or(*file_system), Some(*taken));
        volume["name"] = json!(name);
        volumes.push(volume);
        // What lies in memory is counted there.
        if on.is_none_or(|on| on.capacity == file_system.capacity) {
            ephemeral = ephemeral + *taken;
        }
    }
    for claimed in &files.claimed {
        let mut volume = whole(at, &claimed.on, None);
        volume["name"] = json!(claimed.name);
        if !claimed.claim.is_empty() {
            volume["pvcRef"] = json!({"name": claimed.claim, "namespace": namespace});
        }
        volumes.push(volume);
    }
    pod["volume"] = json!(volumes);
    pod["ephemeral-storage"] = whole(at, file_system, Some(ephemeral + files.own));
    pod
}

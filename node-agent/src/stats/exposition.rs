//! `/metrics/resource` and `/metrics/cadvisor`: what pods use, in Prometheus' text format under the kubelet's and cAdvisor's
//! names, so that what reads a kubelet reads this.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use jiff::Timestamp;

use super::{Collector, NodeSample, PodSample};
use crate::runtime::{ContainerRecord, InterfaceUsage, RuntimeError, Usage};

/// What the answers are.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
const GAUGE: &str = "gauge";
const COUNTER: &str = "counter";

/// Families of samples, in the order of their names as Prometheus' own libraries print them.
#[derive(Default)]
struct Families(BTreeMap<&'static str, (&'static str, &'static str, String)>);

type Labels<'a> = [(&'static str, &'a str)];

impl Families {
    fn add(
        &mut self,
        (name, kind, help): (&'static str, &'static str, &'static str),
        labels: &Labels<'_>,
        value: f64,
        at: Option<Timestamp>,
    ) {
        let (_, _, lines) = self.0.entry(name).or_insert_with(|| (kind, help, String::new()));
        lines.push_str(name);
        for (index, (label, value)) in labels.iter().enumerate() {
            lines.push(if index == 0 { '{' } else { ',' });
            lines.push_str(label);
            lines.push_str("=\"");
            for char in value.chars() {
                match char {
                    '\\' => lines.push_str("\\\\"),
                    '"' => lines.push_str("\\\""),
                    '\n' => lines.push_str("\\n"),
                    char => lines.push(char),
                }
            }
            lines.push('"');
        }
        if !labels.is_empty() {
            lines.push('}');
        }
        // Writing to a string cannot fail.
        let _ = match at {
            Some(at) => writeln!(lines, " {value} {}", at.as_millisecond()),
            None => writeln!(lines, " {value}"),
        };
    }

    fn text(self) -> String {
        let mut text = String::new();
        for (name, (kind, help, lines)) in self.0 {
            let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{lines}");
        }
        text
    }
}

fn seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e9
}

fn unix_seconds(at: Timestamp) -> f64 {
    at.as_nanosecond() as f64 / 1e9
}

/// `/metrics/resource`
pub async fn resource(collector: &Collector) -> String {
    let mut families = Families::default();
    let failed = match collector.pods().await {
        Ok(pods) => {
            resources(&mut families, &collector.node(), &pods);
            0.0
        }
        Err(error) => {
            tracing::warn!(%error, "cannot sample the pods");
            1.0
        }
    };
    let help = "1 if there was an error while getting container metrics, 0 otherwise";
    families.add(("resource_scrape_error", GAUGE, help), &[], failed, None);
    families.add(("scrape_error", GAUGE, help), &[], failed, None);
    families.text()
}

fn resources(families: &mut Families, node: &NodeSample, pods: &[PodSample]) {
    const NODE_CPU: (&str, &str, &str) =
        ("node_cpu_usage_seconds_total", COUNTER, "Cumulative cpu time consumed by the node in core-seconds");
    const NODE_MEMORY: (&str, &str, &str) =
        ("node_memory_working_set_bytes", GAUGE, "Current working set of the node in bytes");
    const NODE_SWAP: (&str, &str, &str) = ("node_swap_usage_bytes", GAUGE, "Current swap usage of the node in bytes");
    const POD_CPU: (&str, &str, &str) =
        ("pod_cpu_usage_seconds_total", COUNTER, "Cumulative cpu time consumed by the pod in core-seconds");
    const POD_MEMORY: (&str, &str, &str) =
        ("pod_memory_working_set_bytes", GAUGE, "Current working set of the pod in bytes");
    const POD_SWAP: (&str, &str, &str) =
        ("pod_swap_usage_bytes", GAUGE, "Current amount of the pod swap usage in bytes");
    const CPU: (&str, &str, &str) =
        ("container_cpu_usage_seconds_total", COUNTER, "Cumulative cpu time consumed by the container in core-seconds");
    const MEMORY: (&str, &str, &str) =
        ("container_memory_working_set_bytes", GAUGE, "Current working set of the container in bytes");
    const SWAP: (&str, &str, &str) =
        ("container_swap_usage_bytes", GAUGE, "Current amount of the container swap usage in bytes");
    const START: (&str, &str, &str) =
        ("container_start_time_seconds", GAUGE, "Start time of the container since unix epoch in seconds");
    let at = Some(node.at.wall);
    families.add(NODE_CPU, &[], seconds(node.usage.cpu_ns), at);
    families.add(NODE_MEMORY, &[], node.usage.working_set_bytes as f64, at);
    families.add(NODE_SWAP, &[], node.usage.swap_bytes as f64, at);
    for pod in pods {
        let ((namespace, name), at) = (pod.name(), Some(pod.at.wall));
        let labels = [("namespace", namespace), ("pod", name)];
        families.add(POD_CPU, &labels, seconds(pod.usage.pod.cpu_ns), at);
        families.add(POD_MEMORY, &labels, pod.usage.pod.working_set_bytes as f64, at);
        families.add(POD_SWAP, &labels, pod.usage.pod.swap_bytes as f64, at);
        for (container, usage) in pod.containers() {
            let labels = [("container", container.name.as_str()), ("namespace", namespace), ("pod", name)];
            families.add(CPU, &labels, seconds(usage.cpu_ns), at);
            families.add(MEMORY, &labels, usage.working_set_bytes as f64, at);
            families.add(SWAP, &labels, usage.swap_bytes as f64, at);
            families.add(START, &labels, unix_seconds(container.started_at.unwrap_or(container.created_at)), None);
        }
    }
}

/// `/metrics/cadvisor`
pub async fn cadvisor(collector: &Collector) -> Result<String, RuntimeError> {
    let mut families = Families::default();
    let machine = &collector.machine;
    let number = |name, help| (name, GAUGE, help);
    families.add(number("machine_cpu_cores", "Number of logical CPU cores."), &[], machine.cpus as f64, None);
    families.add(
        number("machine_memory_bytes", "Amount of memory installed on the machine."),
        &[],
        machine.memory_bytes as f64,
        None,
    );
    let node = collector.node();
    let root = Labels6 { container: "", id: "/", image: "", name: "", namespace: "", pod: "" };
    used(&mut families, &root, &node.usage, node.at.wall);
    for interface in &node.interfaces {
        carried(&mut families, &root, interface, node.at.wall);
    }
    let layers = collector.runtime.layers().await?;
    for pod in collector.pods().await? {
        let (namespace, name) = pod.name();
        let labels = Labels6 { container: "", id: &pod.cgroup, image: "", name: "", namespace, pod: name };
        used(&mut families, &labels, &pod.usage.pod, pod.at.wall);
        if !pod.entry.pod.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or(false) {
            for interface in &pod.usage.interfaces {
                carried(&mut families, &labels, interface, pod.at.wall);
            }
        }
        for (container, usage) in pod.containers() {
            let id = format!("{}/{}", pod.cgroup, container.id);
            let labels = Labels6 {
                container: &container.name,
                id: &id,
                image: &container.image,
                name: &container.id,
                namespace,
                pod: name,
            };
            used(&mut families, &labels, usage, pod.at.wall);
            limits(&mut families, &labels, &pod, container, usage);
            if let Some(layer) = layers.get(&container.id) {
                let family = (
                    "container_fs_usage_bytes",
                    GAUGE,
                    "Number of bytes that are consumed by the container on this filesystem.",
                );
                families.add(family, &labels.with("device", ""), layer.bytes as f64, Some(pod.at.wall));
            }
        }
    }
    Ok(families.text())
}

/// The labels by which cAdvisor tells containers apart.
#[derive(Clone, Copy)]
struct Labels6<'a> {
    container: &'a str,
    id: &'a str,
    image: &'a str,
    name: &'a str,
    namespace: &'a str,
    pod: &'a str,
}

impl<'a> Labels6<'a> {
    fn all(&self) -> [(&'static str, &'a str); 6] {
        [
            ("container", self.container),
            ("id", self.id),
            ("image", self.image),
            ("name", self.name),
            ("namespace", self.namespace),
            ("pod", self.pod),
        ]
    }

    /// With one more, in its place among them.
    fn with(&self, label: &'static str, value: &'a str) -> Vec<(&'static str, &'a str)> {
        let mut all = self.all().to_vec();
        all.push((label, value));
        all.sort_unstable();
        all
    }
}

fn used(families: &mut Families, labels: &Labels6<'_>, usage: &Usage, at: Timestamp) {
    let counters = [
        (
            "container_cpu_user_seconds_total",
            "Cumulative user cpu time consumed in seconds.",
            seconds(usage.cpu_user_ns),
        ),
        (
            "container_cpu_system_seconds_total",
            "Cumulative system cpu time consumed in seconds.",
            seconds(usage.cpu_system_ns),
        ),
        (
            "container_cpu_cfs_periods_total",
            "Number of elapsed enforcement period intervals.",
            usage.cpu_periods as f64,
        ),
        (
            "container_cpu_cfs_throttled_periods_total",
            "Number of throttled period intervals.",
            usage.cpu_periods_throttled as f64,
        ),
        (
            "container_cpu_cfs_throttled_seconds_total",
            "Total time duration the container has been throttled.",
            seconds(usage.cpu_throttled_ns),
        ),
    ];
    let gauges = [
        (
            "container_memory_usage_bytes",
            "Current memory usage in bytes, including all memory regardless of when it was accessed",
            usage.memory_bytes,
        ),
        ("container_memory_working_set_bytes", "Current working set in bytes.", usage.working_set_bytes),
        ("container_memory_rss", "Size of RSS in bytes.", usage.rss_bytes),
        ("container_memory_cache", "Number of bytes of page cache memory.", usage.cache_bytes),
        ("container_memory_swap", "Container swap usage in bytes.", usage.swap_bytes),
        ("container_processes", "Number of processes running inside the container.", usage.processes),
    ];
    let total = ("container_cpu_usage_seconds_total", COUNTER, "Cumulative cpu time consumed in seconds.");
    families.add(total, &labels.with("cpu", "total"), seconds(usage.cpu_ns), Some(at));
    for (name, help, value) in counters {
        families.add((name, COUNTER, help), &labels.all(), value, Some(at));
    }
    for (name, help, value) in gauges {
        families.add((name, GAUGE, help), &labels.all(), value as f64, Some(at));
    }
    let failures = ("container_memory_failures_total", COUNTER, "Cumulative count of memory allocation failures.");
    for (kind, value) in [("pgfault", usage.page_faults), ("pgmajfault", usage.major_page_faults)] {
        families.add(failures, &labels.with("failure_type", kind), value as f64, Some(at));
    }
    let seen = ("container_last_seen", GAUGE, "Last time a container was seen by the exporter");
    families.add(seen, &labels.all(), unix_seconds(at).floor(), Some(at));
}

fn limits(families: &mut Families, labels: &Labels6<'_>, pod: &PodSample, container: &ContainerRecord, usage: &Usage) {
    let all = labels.all();
    let started = unix_seconds(container.started_at.unwrap_or(container.created_at)).floor();
    let start = ("container_start_time_seconds", GAUGE, "Start time of the container since unix epoch in seconds.");
    families.add(start, &all, started, Some(pod.at.wall));
    let memory = ("container_spec_memory_limit_bytes", GAUGE, "Memory limit for the container.");
    families.add(memory, &all, usage.memory_limit_bytes.unwrap_or(0) as f64, Some(pod.at.wall));
}

fn carried(families: &mut Families, labels: &Labels6<'_>, interface: &InterfaceUsage, at: Timestamp) {
    let counters = [
        ("container_network_receive_bytes_total", "Cumulative count of bytes received", interface.rx_bytes),
        ("container_network_receive_packets_total", "Cumulative count of packets received", interface.rx_packets),
        (
            "container_network_receive_errors_total",
            "Cumulative count of errors encountered while receiving",
            interface.rx_errors,
        ),
        (
            "container_network_receive_packets_dropped_total",
            "Cumulative count of packets dropped while receiving",
            interface.rx_dropped,
        ),
        ("container_network_transmit_bytes_total", "Cumulative count of bytes transmitted", interface.tx_bytes),
        ("container_network_transmit_packets_total", "Cumulative count of packets transmitted", interface.tx_packets),
        (
            "container_network_transmit_errors_total",
            "Cumulative count of errors encountered while transmitting",
            interface.tx_errors,
        ),
        (
            "container_network_transmit_packets_dropped_total",
            "Cumulative count of packets dropped while transmitting",
            interface.tx_dropped,
        ),
    ];
    for (name, help, value) in counters {
        families.add((name, COUNTER, help), &labels.with("interface", &interface.name), value as f64, Some(at));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_told_once_and_values_are_quoted() {
        let mut families = Families::default();
        let at = Timestamp::from_millisecond(1_700_000_000_123).unwrap();
        families.add(("b", COUNTER, "Bees."), &[("x", "a\"b\\c\nd")], 1.5, Some(at));
        families.add(("a", GAUGE, "Ays."), &[], 2.0, None);
        families.add(("b", COUNTER, "Bees."), &[("x", "e"), ("y", "")], 0.0, None);
        let expected = "# HELP a Ays.\n# TYPE a gauge\na 2\n# HELP b Bees.\n# TYPE b counter\n\
                        b{x=\"a\\\"b\\\\c\\nd\"} 1.5 1700000000123\nb{x=\"e\",y=\"\"} 0\n";
        assert_eq!(families.text(), expected);
    }
}

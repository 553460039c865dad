//! Objects as a scheduler's state is told of them, and random histories of such.

use std::time::Duration;

use gantry_api::meta::POD_GROUP_LABEL;
use gantry_scheduler::convert::pod_key;
use gantry_scheduler::core::PodKey;
use gantry_scheduler::driver::facts::{PodFacts, WatchedNode, WatchedPod};
use gantry_scheduler::driver::gangs::WatchedGroup;
use gantry_scheduler::driver::queues::QUEUE_LABEL;
use gantry_scheduler::driver::state::State;
use serde_json::{Value, json};

/// Any text will do for a UID that is told from others.
fn uid(name: &str) -> String {
    format!("uid of {name}")
}

/// The key of the pod of that name.
pub fn key(name: &str) -> PodKey {
    pod_key(&uid(name))
}

/// What matters of a pod.
#[derive(Clone, Debug, Default)]
pub struct Pod {
    pub milli_cpu: i64,
    pub group: Option<String>,
    pub priority: i32,
    pub queue: Option<String>,
    pub node: Option<String>,
}

impl Pod {
    pub fn facts(&self, name: &str) -> PodFacts {
        let mut pod: Value = json!({
            "metadata": {"name": name, "namespace": "default", "uid": uid(name), "labels": {"app": "x"}},
            "spec": {"schedulerName": "default-scheduler", "priority": self.priority, "containers": [
                {"name": "main", "resources": {"requests": {"cpu": format!("{}m", self.milli_cpu)}}}]}});
        if let Some(group) = &self.group {
            pod["metadata"]["labels"][POD_GROUP_LABEL] = json!(group);
        }
        if let Some(queue) = &self.queue {
            pod["metadata"]["labels"][QUEUE_LABEL] = json!(queue);
        }
        if let Some(node) = &self.node {
            pod["spec"]["nodeName"] = json!(node);
        }
        serde_json::from_value::<WatchedPod>(pod).unwrap().facts
    }
}

pub fn see_node(state: &mut State, name: &str, milli_cpu: i64) {
    let node = json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "status": {"allocatable": {"cpu": format!("{milli_cpu}m"), "memory": "64Gi", "pods": "110"}}});
    state.node_seen(serde_json::from_value::<WatchedNode>(node).unwrap().spec);
}

/// A group that takes so many pods, and that may hold nodes for so long.
pub fn see_group(state: &mut State, name: &str, min: usize, hold: Duration) {
    let mut group = json!({"metadata": {"name": name, "namespace": "default"}, "spec": {"minMember": min}});
    if hold > Duration::ZERO {
        group["spec"]["scheduleTimeoutSeconds"] = json!(hold.as_secs());
    }
    let (key, spec) = serde_json::from_value::<WatchedGroup>(group).unwrap().into_parts();
    state.group_seen(&key, spec);
}

/// Plays histories, of `GANTRY_SEED` and those after it, `GANTRY_HISTORIES` in all; gives what each came to.
pub fn histories<T>(default: usize, play: impl Fn(u64) -> T + std::panic::RefUnwindSafe) -> Vec<T> {
    let number = |variable: &str| std::env::var(variable).ok().and_then(|text| text.parse::<u64>().ok());
    let first = number("GANTRY_SEED").unwrap_or(1);
    let count = number("GANTRY_HISTORIES").map_or(default, |count| usize::try_from(count).unwrap());
    let played = (first..).take(count).map(|seed| {
        let played = std::panic::catch_unwind(|| play(seed));
        played.unwrap_or_else(|_| panic!("history {seed} fails"))
    });
    played.collect()
}

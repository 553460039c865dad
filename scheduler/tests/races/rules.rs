//! What must be true of the world, counted with nothing but numbers.

use std::collections::BTreeMap;

use gantry_api::meta::POD_GROUP_LABEL;
use gantry_api::policy::room::{DEVICES_ANNOTATION, Demand, lacking};
use gantry_scheduler::driver::queues::QUEUE_LABEL;
use serde_json::Value;

use super::world::{GROUPS, NODES, Objects, PODS, QUEUES, World, text};

fn number(quantity: &Value) -> i64 {
    quantity.as_str().map_or(0, |text| text.trim_end_matches('m').parse().unwrap())
}

/// Thousandths of a CPU, which are always written as such.
fn milli_cpu(pod: &Value) -> i64 {
    number(&pod["spec"]["containers"][0]["resources"]["requests"]["cpu"])
}

fn waits(pod: &&Value) -> bool {
    pod["spec"]["nodeName"].is_null() && pod["metadata"]["deletionTimestamp"].is_null()
}

impl World {
    /// Pods that wait though a node, and their queue, has room for them.
    pub fn forgotten(&self) -> Vec<String> {
        let objects = self.objects.lock().unwrap();
        let mut forgotten = Vec::new();
        for pod in objects.all(PODS).filter(waits).filter(|pod| objects.is_free(pod)) {
            for node in objects.all(NODES).map(|node| text(&node["metadata"]["name"])) {
                if objects.lacks(&node, pod).is_empty() {
                    forgotten.push(format!("{} fits {node}", pod["metadata"]["name"]));
                }
            }
        }
        forgotten
    }

    /// Groups of which some pods are bound, and not enough, though nothing happened to them.
    pub fn in_part(&self) -> Vec<String> {
        let objects = self.objects.lock().unwrap();
        let undisturbed = objects.groups().filter(|(name, ..)| !objects.disturbed.contains(name));
        let in_part = undisturbed.filter(|(_, bound, min)| *bound > 0 && bound < min);
        in_part.map(|(name, bound, min)| format!("group {name} has {bound} of {min} pods")).collect()
    }

    /// Groups that were bound as a whole, and to which nothing happened.
    pub fn whole(&self) -> usize {
        let objects = self.objects.lock().unwrap();
        objects.groups().filter(|(name, bound, min)| bound >= min && !objects.disturbed.contains(name)).count()
    }
}

impl Objects {
    /// Name, how many pods are bound, and how many it takes.
    fn groups(&self) -> impl Iterator<Item = (String, u64, u64)> {
        self.all(GROUPS).map(|group| {
            let name = text(&group["metadata"]["name"]);
            let members = self.all(PODS).filter(|pod| pod["metadata"]["labels"][POD_GROUP_LABEL] == *name);
            let bound = members.filter(|pod| pod["spec"]["nodeName"].is_string()).count();
            (name, bound as u64, group["spec"]["minMember"].as_u64().unwrap())
        })
    }

    /// Does it depend on nodes alone whether the pod gets one?
    fn is_free(&self, pod: &Value) -> bool {
        let group = text(&pod["metadata"]["labels"][POD_GROUP_LABEL]);
        let is_alone = self.groups().all(|(name, bound, min)| name != group || bound >= min);
        let has_share = self.queues_of(pod).iter().all(|(queue, limit)| self.used(queue) + milli_cpu(pod) <= *limit);
        is_alone && has_share
    }

    /// The queues that the pod is in, from below, with their limits.
    fn queues_of(&self, pod: &Value) -> Vec<(String, i64)> {
        let mut queues = Vec::new();
        let mut next = text(&pod["metadata"]["labels"][QUEUE_LABEL]);
        while let Some(queue) = self.get(QUEUES, &next) {
            let limit = &queue["spec"]["limit"]["cpu"];
            queues.push((next, if limit.is_null() { i64::MAX } else { number(limit) }));
            next = text(&queue["spec"]["parent"]);
        }
        queues
    }

    fn used(&self, queue: &str) -> i64 {
        let runs = |pod: &&Value| pod["spec"]["nodeName"].is_string() && pod["status"]["phase"] != "Succeeded";
        let is_in = |pod: &&Value| self.queues_of(pod).iter().any(|(name, _)| name == queue);
        self.all(PODS).filter(runs).filter(is_in).map(milli_cpu).sum()
    }

    /// A queue of the pod that has more than it may have.
    pub fn beyond_limit(&self, name: &str) -> Option<String> {
        let queues = self.queues_of(self.get(PODS, name)?);
        let beyond = queues.into_iter().find(|(queue, limit)| self.used(queue) > *limit);
        beyond.map(|(queue, limit)| format!("queue {queue} has {}m of {limit}m", self.used(&queue)))
    }

    pub fn lacks(&self, node: &str, pod: &Value) -> Vec<String> {
        let Some(object) = self.get(NODES, node) else { return vec!["there is no such node".into()] };
        let there = self.all(PODS).filter(|other| other["spec"]["nodeName"] == node);
        let there: Vec<Demand> = there.map(Demand::of).collect();
        lacking(object, there.iter(), &Demand::of(pod)).into_iter().map(|lack| lack.message).collect()
    }

    /// What there is too much of on a node.
    pub fn overfull(&self, node: &str) -> Option<String> {
        let allocatable = &self.get(NODES, node)?["status"]["allocatable"];
        let running = |pod: &&Value| pod["spec"]["nodeName"] == node && pod["status"]["phase"] != "Succeeded";
        let (mut used, mut pods, mut devices) = (0, 0, BTreeMap::<String, i64>::new());
        for pod in self.all(PODS).filter(running) {
            let requests = &pod["spec"]["containers"][0]["resources"]["requests"];
            used += milli_cpu(pod);
            pods += 1;
            let milli =
                if requests["nvidia.com/gpu"].is_null() { number(&requests["gantry.io/gpu-milli"]) } else { 1_000 };
            let held = pod["metadata"]["annotations"][DEVICES_ANNOTATION].as_str().unwrap_or_default();
            for device in held.split(',').filter(|device| !device.is_empty()) {
                *devices.entry(device.to_owned()).or_default() += milli;
            }
        }
        let [cpu_max, pods_max] = [number(&allocatable["cpu"]), number(&allocatable["pods"])];
        let too_many_devices = devices.values().any(|milli| *milli > 1_000)
            || i64::try_from(devices.len()).unwrap() > number(&allocatable["nvidia.com/gpu"]);
        (used > cpu_max || pods > pods_max || too_many_devices)
            .then(|| format!("{node} has {used}m of {cpu_max}m, {pods} pods of {pods_max}, devices {devices:?}"))
    }
}

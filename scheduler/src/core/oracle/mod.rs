//! The same semantics, said naively: plain structures, plain loops, everything looked at each time.
//!
//! This is the reference that the property test holds the engine against. It shares the input types
//! with the engine and nothing else, and is written from Kubernetes' rules, not from the engine.

mod devices;
mod filters;
mod pod_affinity;
mod preemption;
mod scores;
mod spread;

use std::collections::{BTreeMap, BTreeSet};

use super::engine::{PodKey, Standing};
use super::spec::{Attachment, ClassSpec, HostPort, NodeSpec};

/// A pod on a node.
#[derive(Clone, Debug)]
struct Placed {
    node: String,
    spec: ClassSpec,
    standing: Standing,
    devices: Vec<u16>,
}

/// Nodes and pods, as told.
#[derive(Clone, Debug, Default)]
pub struct Oracle {
    nodes: BTreeMap<String, NodeSpec>,
    pods: BTreeMap<PodKey, Placed>,
    namespaces: BTreeMap<String, BTreeMap<String, String>>,
    /// Pods that wait for a node: its name, what they are, and their priority.
    nominated: BTreeMap<PodKey, (String, ClassSpec, i32)>,
    lesson: devices::Lesson,
}

pub use preemption::OracleVictims;

/// Why a node refuses a pod: Kubernetes' texts, and whether preemption could not help.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The texts.
    pub reasons: Vec<String>,
    /// Would it stay refused with all its pods gone?
    pub unresolvable: bool,
}

/// What a node has in use.
#[derive(Debug, Default)]
struct Usage {
    amounts: BTreeMap<String, i64>,
    pods: i64,
    scoring_milli_cpu: i64,
    scoring_memory: i64,
    ports: Vec<HostPort>,
    /// Thousandths by device.
    devices: BTreeMap<u16, i64>,
    /// Volumes attached.
    attached: BTreeSet<Attachment>,
    /// Claims in use that are for one pod at a time, on any node.
    in_use: BTreeSet<String>,
}

impl Oracle {
    /// Adds or replaces a node.
    pub fn set_node(&mut self, node: NodeSpec) {
        self.nodes.insert(node.name.clone(), node);
    }

    /// Removes a node.
    pub fn remove_node(&mut self, name: &str) {
        self.nodes.remove(name);
    }

    /// Puts a pod on a node.
    pub fn add_pod(&mut self, pod: PodKey, node: &str, spec: ClassSpec, terminating: bool) {
        self.place_pod(pod, node, spec, Standing { terminating, ..Standing::default() });
    }

    /// Puts a pod on a node, with all that matters about it.
    pub fn place_pod(&mut self, pod: PodKey, node: &str, spec: ClassSpec, standing: Standing) {
        self.nominated.remove(&pod);
        let before = self.pods.remove(&pod);
        if before.is_none() {
            self.lesson.pod_came(&spec);
        }
        let mut devices = spec.held_devices.clone();
        if let Some(before) = before
            && before.node == node
            && before.spec.demand == spec.demand
            && devices.is_empty()
        {
            devices = before.devices;
        }
        if devices.is_empty() {
            devices = devices::likely(&spec, self.pods.values().filter(|placed| placed.node == node));
        }
        self.pods.insert(pod, Placed { node: node.to_owned(), spec, standing, devices });
    }

    /// The pod waits for this node; `None` is for none.
    pub fn nominate(&mut self, pod: PodKey, waits: Option<(&str, ClassSpec, i32)>) {
        match waits {
            Some((node, spec, priority)) => self.nominated.insert(pod, (node.to_owned(), spec, priority)),
            None => self.nominated.remove(&pod),
        };
    }

    /// The devices that a pod has.
    pub fn devices_of(&self, pod: PodKey) -> &[u16] {
        self.pods.get(&pod).map_or(&[], |placed| &placed.devices)
    }

    /// Sets the labels of a namespace; `None` is that it is gone.
    pub fn set_namespace(&mut self, name: &str, labels: Option<BTreeMap<String, String>>) {
        match labels {
            Some(labels) => self.namespaces.insert(name.to_owned(), labels),
            None => self.namespaces.remove(name),
        };
    }

    /// Takes a pod away.
    pub fn remove_pod(&mut self, pod: PodKey) {
        self.pods.remove(&pod);
    }

    /// Every node in name order with what it says to the pod; `None` is that it fits.
    pub fn verdicts(&self, pod: &ClassSpec) -> Vec<(String, Option<Refusal>)> {
        let mut verdicts = Vec::new();
        for (name, node) in &self.nodes {
            let own = filters::refusal(pod, node, &self.usage(name));
            let around = || spread::refusal(self, pod, node).or_else(|| pod_affinity::refusal(self, pod, node));
            let refusal = own.or_else(|| {
                let (text, unresolvable) = around()?;
                Some(Refusal { reasons: vec![text.to_owned()], unresolvable })
            });
            verdicts.push((name.clone(), refusal));
        }
        verdicts
    }

    /// The placed pods whose node is known, with the node.
    fn located(&self) -> Vec<(&ClassSpec, &NodeSpec)> {
        let mut located = Vec::new();
        for placed in self.pods.values() {
            if let Some(node) = self.nodes.get(&placed.node) {
                located.push((&placed.spec, node));
            }
        }
        located
    }

    /// What is done before a pod like this is placed: looking at what pods are to be expected.
    pub fn learn(&mut self, pod: &ClassSpec) {
        devices::learn(self, pod);
    }

    /// The best node: the highest score, and among equals the smallest name; and the devices to have there.
    pub fn best(&self, pod: &ClassSpec) -> Option<(String, Vec<u16>)> {
        self.best_of(pod, &self.verdicts(pod))
    }

    /// The best node, where what each says is known.
    pub fn best_of(&self, pod: &ClassSpec, verdicts: &[(String, Option<Refusal>)]) -> Option<(String, Vec<u16>)> {
        let mut feasible = Vec::new();
        for (name, refusal) in verdicts {
            if refusal.is_none() {
                feasible.push(name.clone());
            }
        }
        let mut affinity_max = 0;
        let mut taints_max = 0;
        for name in &feasible {
            affinity_max = affinity_max.max(scores::affinity(pod, &self.nodes[name]));
            taints_max = taints_max.max(scores::intolerable_taints(pod, &self.nodes[name]));
        }
        let mut attraction_min = i64::MAX;
        let mut attraction_max = i64::MIN;
        for name in &feasible {
            let sum = pod_affinity::attraction(self, pod, &self.nodes[name]);
            attraction_min = attraction_min.min(sum);
            attraction_max = attraction_max.max(sum);
        }
        let spread = spread::points(self, pod, &feasible);
        let mut best: Option<(i64, String, Vec<u16>)> = None;
        for name in feasible {
            let node = &self.nodes[&name];
            let mut points = 0;
            if affinity_max > 0 {
                points += 2 * (scores::affinity(pod, node) * 100 / affinity_max);
            }
            if taints_max > 0 {
                points += 3 * (100 - scores::intolerable_taints(pod, node) * 100 / taints_max);
            } else {
                points += 3 * 100;
            }
            if attraction_max > attraction_min {
                let above = pod_affinity::attraction(self, pod, node) - attraction_min;
                points += 2 * ((100.0 * (above as f64 / (attraction_max - attraction_min) as f64)) as i64);
            }
            points += 2 * spread.get(&name).copied().unwrap_or(0);
            let (usage, devices) = scores::usage(self, pod, node, &self.usage(&name));
            let score = 1_000 * points + usage;
            if best.as_ref().is_none_or(|(highest, ..)| score > *highest) {
                best = Some((score, name, devices));
            }
        }
        best.map(|(_, name, devices)| (name, devices))
    }

    fn usage(&self, node: &str) -> Usage {
        let mut usage = Usage::default();
        for pod in self.pods.values() {
            usage.in_use.extend(pod.spec.demand.exclusive.iter().cloned());
            if pod.node != node {
                continue;
            }
            let demand = &pod.spec.demand;
            for (name, amount) in demand.requests.iter() {
                *usage.amounts.entry(name.to_owned()).or_default() += amount;
            }
            usage.pods += 1;
            usage.scoring_milli_cpu += demand.scoring_milli_cpu;
            usage.scoring_memory += demand.scoring_memory;
            usage.ports.extend(demand.ports.iter().cloned());
            usage.attached.extend(demand.attachments.iter().cloned());
            for device in &pod.devices {
                *usage.devices.entry(*device).or_default() += i64::from(demand.devices.milli);
            }
        }
        usage
    }
}

//! The same semantics, said naively: plain structures, plain loops, everything looked at each time.
//!
//! This is the reference that the property test holds the engine against. It shares the input types
//! with the engine and nothing else, and is written from Kubernetes' rules, not from the engine.

mod filters;
mod scores;

use std::collections::BTreeMap;

use super::engine::PodKey;
use super::spec::{ClassSpec, HostPort, NodeSpec};

/// A pod on a node.
#[derive(Clone, Debug)]
struct Placed {
    node: String,
    spec: ClassSpec,
}

/// Nodes and pods, as told.
#[derive(Clone, Debug, Default)]
pub struct Oracle {
    nodes: BTreeMap<String, NodeSpec>,
    pods: BTreeMap<PodKey, Placed>,
}

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
    pub fn add_pod(&mut self, pod: PodKey, node: &str, spec: ClassSpec) {
        self.pods.insert(pod, Placed { node: node.to_owned(), spec });
    }

    /// Takes a pod away.
    pub fn remove_pod(&mut self, pod: PodKey) {
        self.pods.remove(&pod);
    }

    /// Every node in name order with what it says to the pod; `None` is that it fits.
    pub fn verdicts(&self, pod: &ClassSpec) -> Vec<(String, Option<Refusal>)> {
        let mut verdicts = Vec::new();
        for (name, node) in &self.nodes {
            verdicts.push((name.clone(), filters::refusal(pod, node, &self.usage(name))));
        }
        verdicts
    }

    /// The best node: the highest score, and among equals the smallest name.
    pub fn best(&self, pod: &ClassSpec) -> Option<String> {
        let mut feasible = Vec::new();
        for (name, refusal) in self.verdicts(pod) {
            if refusal.is_none() {
                feasible.push(name);
            }
        }
        let mut affinity_max = 0;
        let mut taints_max = 0;
        for name in &feasible {
            affinity_max = affinity_max.max(scores::affinity(pod, &self.nodes[name]));
            taints_max = taints_max.max(scores::intolerable_taints(pod, &self.nodes[name]));
        }
        let mut best: Option<(i64, String)> = None;
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
            let score = 1_000 * points + scores::packing(pod, node, &self.usage(&name));
            if best.as_ref().is_none_or(|(highest, _)| score > *highest) {
                best = Some((score, name));
            }
        }
        best.map(|(_, name)| name)
    }

    fn usage(&self, node: &str) -> Usage {
        let mut usage = Usage::default();
        for pod in self.pods.values() {
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
        }
        usage
    }
}

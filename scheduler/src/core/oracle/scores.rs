//! What a feasible node is worth to a pod.

use super::{Usage, filters};
use crate::core::spec::{ClassSpec, Effect, NodeSpec};

/// The sum of the weights of the preferred terms that match.
pub(super) fn affinity(pod: &ClassSpec, node: &NodeSpec) -> i64 {
    let mut sum = 0;
    for preferred in &pod.preferred {
        if filters::term_matches(&preferred.term, node) {
            sum += i64::from(preferred.weight);
        }
    }
    sum
}

/// How many `PreferNoSchedule` taints are not tolerated.
pub(super) fn intolerable_taints(pod: &ClassSpec, node: &NodeSpec) -> i64 {
    let mut count = 0;
    for taint in &node.taints {
        if taint.effect == Effect::PreferNoSchedule && !filters::tolerated(pod, taint) {
            count += 1;
        }
    }
    count
}

/// The mean share in use after placing, in thousandths of points.
pub(super) fn packing(pod: &ClassSpec, node: &NodeSpec, usage: &Usage) -> i64 {
    let demand = &pod.demand;
    let mut shares = Vec::new();
    let cpu = usage.scoring_milli_cpu + demand.scoring_milli_cpu;
    let memory = usage.scoring_memory + demand.scoring_memory;
    for (used, allocatable) in [(cpu, node.allocatable.milli_cpu), (memory, node.allocatable.memory)] {
        if allocatable > 0 {
            shares.push((used, allocatable));
        }
    }
    for (name, amount) in demand.requests.iter() {
        if name == "cpu" || name == "memory" || name == "pods" {
            continue;
        }
        for (other, allocatable) in node.allocatable.iter() {
            if other == name {
                shares.push((usage.amounts.get(name).copied().unwrap_or(0) + amount, allocatable));
            }
        }
    }
    if shares.is_empty() {
        return 0;
    }
    let mut sum = 0;
    for (used, allocatable) in &shares {
        sum += ((*used as f64 / *allocatable as f64 * 100_000.0) as i64).min(100_000);
    }
    sum / shares.len() as i64
}

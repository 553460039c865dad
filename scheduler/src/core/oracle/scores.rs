//! What a feasible node is worth to a pod.

use super::{Usage, filters};
use crate::core::spec::{ClassSpec, Effect, NodeSpec, Strategy};

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

/// What the profile makes of what would be in use, in thousandths of points.
pub(super) fn usage(pod: &ClassSpec, node: &NodeSpec, usage: &Usage) -> i64 {
    if pod.scoring.strategy == Strategy::BinPacking {
        return packing(pod, node, usage);
    }
    let mut sum = 0;
    let mut weights = 0;
    for (name, weight) in &pod.scoring.resources {
        let mut allocatable = 0;
        for (other, has) in node.allocatable.iter() {
            if other == name {
                allocatable = has;
            }
        }
        let mut wanted = 0;
        for (other, amount) in pod.demand.requests.iter() {
            if other == name {
                wanted = amount;
            }
        }
        let used = match name.as_str() {
            "cpu" => usage.scoring_milli_cpu + pod.demand.scoring_milli_cpu,
            "memory" => usage.scoring_memory + pod.demand.scoring_memory,
            _ => usage.amounts.get(name).copied().unwrap_or(0) + wanted,
        };
        let asked = name == "cpu" || name == "memory" || wanted != 0;
        if allocatable == 0 || !asked {
            continue;
        }
        let share = ((used as f64 / allocatable as f64 * 100_000.0) as i64).min(100_000);
        sum += weight
            * match &pod.scoring.strategy {
                Strategy::LeastAllocated => 100_000 - share,
                Strategy::RequestedToCapacityRatio(shape) => on_shape(shape, share),
                _ => share,
            };
        weights += weight;
    }
    if weights == 0 { 0 } else { sum / weights }
}

fn on_shape(shape: &[(i64, i64)], share: i64) -> i64 {
    let mut before: Option<(i64, i64)> = None;
    for (percent, points) in shape {
        let (x, y) = (percent * 1_000, points * 1_000);
        if share <= x {
            return match before {
                None => y,
                Some((x0, y0)) => y0 + (y - y0) * (share - x0) / (x - x0),
            };
        }
        before = Some((x, y));
    }
    before.map_or(0, |(_, y)| y)
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

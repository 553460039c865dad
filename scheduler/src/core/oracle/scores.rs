//! What a feasible node is worth to a pod.

use super::{Oracle, Usage, devices, filters};
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

/// What the profile makes of what would be in use, in thousandths of points, and the devices to have.
pub(super) fn usage(oracle: &Oracle, pod: &ClassSpec, node: &NodeSpec, usage: &Usage) -> (i64, Vec<u16>) {
    let tightest = || devices::tightest(pod, &devices::free(node, usage));
    match &pod.scoring.strategy {
        Strategy::BinPacking if oracle.nodes.values().all(|node| node.devices == 0) => {
            (packing(pod, node, usage), tightest())
        }
        Strategy::BinPacking => devices::by_room(oracle, pod, node, usage),
        Strategy::Fragmentation => devices::by_fragments(oracle, pod, node, usage),
        Strategy::BestFit | Strategy::DotProduct => (by_largest(oracle, pod, node, usage), tightest()),
        _ => (by_share(pod, node, usage), tightest()),
    }
}

/// What a node has of a resource, what is in use, and what the pod wants.
fn amounts(name: &str, pod: &ClassSpec, node: &NodeSpec, usage: &Usage) -> (i64, i64, i64) {
    let mut has = 0;
    for (other, amount) in node.allocatable.iter() {
        if other == name {
            has = amount;
        }
    }
    let mut wanted = 0;
    for (other, amount) in pod.demand.requests.iter() {
        if other == name {
            wanted = amount;
        }
    }
    match name {
        "cpu" => (has, usage.scoring_milli_cpu, pod.demand.scoring_milli_cpu),
        "memory" => (has, usage.scoring_memory, pod.demand.scoring_memory),
        "gantry.io/gpu-milli" => {
            let free: i64 = devices::free(node, usage).iter().sum();
            let demand = pod.demand.devices;
            let has = i64::from(node.devices) * 1_000;
            (has, has - free, i64::from(demand.count) * i64::from(demand.milli))
        }
        _ => (has, usage.amounts.get(name).copied().unwrap_or(0), wanted),
    }
}

fn by_share(pod: &ClassSpec, node: &NodeSpec, usage: &Usage) -> i64 {
    let mut sum = 0;
    let mut weights = 0;
    for (name, weight) in &pod.scoring.resources {
        let (allocatable, used, wanted) = amounts(name, pod, node, usage);
        let asked = name == "cpu" || name == "memory" || wanted != 0;
        if allocatable == 0 || !asked {
            continue;
        }
        let share = (((used + wanted) as f64 / allocatable as f64 * 100_000.0) as i64).min(100_000);
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

fn by_largest(oracle: &Oracle, pod: &ClassSpec, node: &NodeSpec, usage: &Usage) -> i64 {
    let (mut sum, mut weights) = (0.0, 0.0);
    for (name, weight) in &pod.scoring.resources {
        let mut largest = 0;
        for other in oracle.nodes.values() {
            largest = largest.max(amounts(name, pod, other, &Usage::default()).0);
        }
        if largest == 0 {
            continue;
        }
        let (allocatable, used, wanted) = amounts(name, pod, node, usage);
        let part = |amount: i64| amount as f64 / largest as f64;
        let free = allocatable - used;
        weights += *weight as f64;
        sum += *weight as f64
            * match pod.scoring.strategy {
                Strategy::DotProduct => part(wanted) * part(free),
                _ => part(free - wanted),
            };
    }
    let left = if weights == 0.0 { 0.0 } else { sum / weights };
    ((100.0 * (1.0 - left)).floor() as i64).clamp(0, 100) * 1_000
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

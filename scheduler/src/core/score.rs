//! How good a feasible node is: the fuller the better, with Kubernetes' weights for preferences.
//!
//! The score is a sum, in thousandths of Kubernetes' points (0 to 100 a part):
//! * packing, weight 1: the mean over CPU, memory and what else the pod asks for of the share that
//!   would be in use with the pod placed;
//! * preferred node affinity, weight 2: the node's sum of matching weights, relative to the highest
//!   sum among the feasible nodes;
//! * `PreferNoSchedule` taints, weight 3: 100 with none, falling to 0 at the highest number among
//!   the feasible nodes.

use super::nodes::Nodes;
use super::resources::{Demand, ResourceId};

/// The points of a full part, in thousandths.
pub const PART: i64 = 100_000;
const POINT: i64 = 1_000;
const AFFINITY_WEIGHT: i64 = 2;
const TAINT_WEIGHT: i64 = 3;

/// The packing part, 0 to [`PART`].
#[inline]
pub fn packing(demand: &Demand, nodes: &Nodes, slot: u32) -> i64 {
    let cpu = nodes.allocatable(ResourceId::CPU, slot);
    let memory = nodes.allocatable(ResourceId::MEMORY, slot);
    let mut sum = 0;
    let mut count = 0;
    let mut add = |used: i64, allocatable: i64| {
        if allocatable > 0 {
            sum += share(used, allocatable);
            count += 1;
        }
    };
    add(nodes.scoring_milli_cpu(slot).saturating_add(demand.scoring_milli_cpu), cpu);
    add(nodes.scoring_memory(slot).saturating_add(demand.scoring_memory), memory);
    for (resource, amount) in &demand.requests {
        if resource.0 > ResourceId::MEMORY.0 {
            add(nodes.requested(*resource, slot).saturating_add(*amount), nodes.allocatable(*resource, slot));
        }
    }
    if count == 0 { 0 } else { sum / count }
}

/// `used / allocatable` in thousandths of points, at most [`PART`]. Correctly rounded IEEE division
/// and multiplication give the same answer everywhere.
#[inline]
pub fn share(used: i64, allocatable: i64) -> i64 {
    ((used as f64 / allocatable as f64 * PART as f64) as i64).clamp(0, PART)
}

/// The part that is the same for all nodes of equal preference.
pub fn preference(affinity: i64, affinity_max: i64, taints: u32, taints_max: u32) -> i64 {
    let affinity_points = if affinity_max > 0 { affinity * 100 / affinity_max } else { 0 };
    let taint_points = match taints_max {
        0 => 100,
        max => 100 - i64::from(taints) * 100 / i64::from(max),
    };
    POINT * (AFFINITY_WEIGHT * affinity_points + TAINT_WEIGHT * taint_points)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_of_allocatable_and_capped() {
        assert_eq!(share(0, 4_000), 0);
        assert_eq!(share(1_000, 4_000), 25_000);
        assert_eq!(share(9_000, 4_000), PART);
        assert_eq!(share(1 << 53, 1 << 53), PART);
    }

    #[test]
    fn preferences_are_relative_to_the_best() {
        assert_eq!(preference(0, 0, 0, 0), 300_000);
        assert_eq!(preference(50, 100, 0, 0), 400_000);
        assert_eq!(preference(100, 100, 1, 2), 350_000);
        assert_eq!(preference(0, 100, 2, 2), 0);
    }
}

//! How good a feasible node is: the fuller the better, with Kubernetes' weights for preferences.
//!
//! The score is a sum, in thousandths of Kubernetes' points (0 to 100 a part):
//! * packing, weight 1: the mean over CPU, memory and what else the pod asks for of the share that
//!   would be in use with the pod placed;
//! * preferred node affinity, weight 2: the node's sum of matching weights, relative to the highest
//!   sum among the feasible nodes;
//! * `PreferNoSchedule` taints, weight 3: 100 with none, falling to 0 at the highest number among
//!   the feasible nodes;
//! * other pods' nearness, weight 2: the sum of weights of preferred terms, the pod's own and others',
//!   from 0 at the lowest among the feasible nodes to 100 at the highest;
//! * spread, weight 2: the imbalance over the constraints that need not hold, from 100 at none down.

use super::nodes::Nodes;
use super::resources::{Demand, ResourceId};

/// The points of a full part, in thousandths.
pub const PART: i64 = 100_000;
const POINT: i64 = 1_000;
const AFFINITY_WEIGHT: i64 = 2;
const TAINT_WEIGHT: i64 = 3;
const ATTRACTION_WEIGHT: i64 = 2;
const SPREAD_WEIGHT: i64 = 2;

/// The lowest and the highest of some values.
#[derive(Clone, Copy, Debug, Default)]
pub struct Range {
    low: i64,
    high: i64,
}

impl Range {
    /// That of these; of none, zero and zero.
    pub fn of(values: impl Iterator<Item = i64>) -> Range {
        let widen = |range: Option<Range>, value: i64| match range {
            None => Some(Range { low: value, high: value }),
            Some(Range { low, high }) => Some(Range { low: low.min(value), high: high.max(value) }),
        };
        values.fold(None, widen).unwrap_or_default()
    }
}

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
pub fn preference(affinity: i64, affinity_max: i64, taints: i64, taints_max: i64) -> i64 {
    let affinity_points = if affinity_max > 0 { affinity * 100 / affinity_max } else { 0 };
    let taint_points = match taints_max {
        0 => 100,
        max => 100 - taints * 100 / max,
    };
    POINT * (AFFINITY_WEIGHT * affinity_points + TAINT_WEIGHT * taint_points)
}

/// The part for nearness to other pods.
pub fn attraction(sum: i64, among: Range) -> i64 {
    let width = among.high - among.low;
    let points = if width > 0 { (100.0 * ((sum - among.low) as f64 / width as f64)) as i64 } else { 0 };
    POINT * ATTRACTION_WEIGHT * points
}

/// What a counted pod adds to the imbalance of its place when there are this many places.
pub fn topology_weight(places: usize) -> f64 {
    ((places + 2) as f64).ln()
}

/// The part for spreading.
pub fn balance(imbalance: i64, among: Range) -> i64 {
    let points = if among.high == 0 { 100 } else { 100 * (among.high + among.low - imbalance) / among.high };
    POINT * SPREAD_WEIGHT * points
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

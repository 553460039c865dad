//! How good a feasible node is: by default the fuller the better, with Kubernetes' weights for preferences.
//!
//! The score is a sum, in thousandths of Kubernetes' points (0 to 100 a part):
//! * usage, weight 1, as the profile wants it; by default packing: the mean over CPU, memory and what else
//!   the pod asks for of the share that would be in use with the pod placed; once some node has devices,
//!   first of all what they stay good for (see [`super::fragments`]);
//! * preferred node affinity, weight 2: the node's sum of matching weights, relative to the highest
//!   sum among the feasible nodes;
//! * `PreferNoSchedule` taints, weight 3: 100 with none, falling to 0 at the highest number among
//!   the feasible nodes;
//! * other pods' nearness, weight 2: the sum of weights of preferred terms, the pod's own and others',
//!   from 0 at the lowest among the feasible nodes to 100 at the highest;
//! * spread, weight 2: the imbalance over the constraints that need not hold, from 100 at none down.

use super::devices::WHOLE;
use super::fragments::{self, Choice};
use super::nodes::Nodes;
use super::resources::{Demand, ResourceId};
use super::rules::Candidate;
use super::spec::Strategy;

/// The points of a full part, in thousandths.
pub const PART: i64 = 100_000;
/// One of Kubernetes' points.
pub const POINT: i64 = 1_000;
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

/// The part for what is in use, 0 to [`PART`].
#[inline]
pub fn usage(candidate: Candidate<'_>, nodes: &Nodes, slot: u32) -> i64 {
    if candidate.scoring.strategy == Strategy::BinPacking && !nodes.have_devices() {
        return packing(candidate.demand, nodes, slot);
    }
    choice(candidate, nodes, slot).0
}

/// The devices that a pod gets on a node where it fits.
pub fn devices(candidate: Candidate<'_>, nodes: &Nodes, slot: u32) -> Vec<u16> {
    let wanted = candidate.demand.devices;
    match (wanted.is_none(), wanted.is_share()) {
        (true, _) => Vec::new(),
        (_, false) => nodes.devices(slot).first_idle(wanted.count),
        (_, true) => {
            let chosen = choice(candidate, nodes, slot).1;
            chosen.or_else(|| nodes.devices(slot).tightest(wanted.milli)).into_iter().collect()
        }
    }
}

fn choice(candidate: Candidate<'_>, nodes: &Nodes, slot: u32) -> Choice {
    match candidate.scoring.strategy {
        Strategy::BinPacking => fragments::by_room(candidate, nodes, slot),
        Strategy::Fragmentation => fragments::by_fragments(candidate, nodes, slot),
        Strategy::BestFit | Strategy::DotProduct => (by_largest(candidate, nodes, slot), None),
        Strategy::MostAllocated | Strategy::LeastAllocated | Strategy::RequestedToCapacityRatio(_) => {
            (by_share(candidate, nodes, slot), None)
        }
    }
}

/// What is in use of a resource for the score, what the pod adds, and what there is.
fn amounts(candidate: Candidate<'_>, nodes: &Nodes, slot: u32, resource: ResourceId) -> (i64, i64, i64) {
    let demand = candidate.demand;
    let allocatable = nodes.allocatable(resource, slot);
    match resource {
        ResourceId::CPU => (nodes.scoring_milli_cpu(slot), demand.scoring_milli_cpu, allocatable),
        ResourceId::MEMORY => (nodes.scoring_memory(slot), demand.scoring_memory, allocatable),
        ResourceId::GPU_MILLI => {
            let devices = nodes.devices(slot);
            let all = devices.count() as i64 * i64::from(WHOLE);
            (all - devices.free_sum(), demand.devices.total(), all)
        }
        other => (nodes.requested(other, slot), demand.amount(other), allocatable),
    }
}

/// What would be free, or what is free times what is wanted, by the measure of the largest node: the less
/// the better. In whole points, as Kubernetes' plugins score.
fn by_largest(candidate: Candidate<'_>, nodes: &Nodes, slot: u32) -> i64 {
    let (mut sum, mut weights) = (0.0, 0.0);
    for (resource, weight) in &candidate.scoring.resources {
        let largest = nodes.largest(*resource) as f64;
        if largest > 0.0 {
            let (used, wanted, allocatable) = amounts(candidate, nodes, slot, *resource);
            let free = allocatable.saturating_sub(used);
            let weight = *weight as f64;
            weights += weight;
            sum += weight
                * match candidate.scoring.strategy {
                    Strategy::DotProduct => wanted as f64 / largest * (free as f64 / largest),
                    _ => free.saturating_sub(wanted) as f64 / largest,
                };
        }
    }
    let left = if weights == 0.0 { 0.0 } else { sum / weights };
    ((100.0 * (1.0 - left)).floor() as i64).clamp(0, 100) * POINT
}

/// The mean, by weight, of what the share in use is worth.
fn by_share(candidate: Candidate<'_>, nodes: &Nodes, slot: u32) -> i64 {
    let worth: fn(&Strategy, i64) -> i64 = match candidate.scoring.strategy {
        Strategy::LeastAllocated => |_, share| PART - share,
        Strategy::RequestedToCapacityRatio(_) => |strategy, share| match strategy {
            Strategy::RequestedToCapacityRatio(shape) => on_shape(shape, share),
            _ => share,
        },
        _ => |_, share| share,
    };
    let (mut sum, mut weights) = (0, 0);
    for (resource, weight) in &candidate.scoring.resources {
        let (used, wanted, allocatable) = amounts(candidate, nodes, slot, *resource);
        // What the pod does not want says nothing about the node.
        let counts = wanted > 0 || matches!(*resource, ResourceId::CPU | ResourceId::MEMORY);
        if counts && allocatable > 0 {
            sum += weight * worth(&candidate.scoring.strategy, share(used.saturating_add(wanted), allocatable));
            weights += weight;
        }
    }
    if weights == 0 { 0 } else { sum / weights }
}

/// The points of a shape at a share in use, both in thousandths.
fn on_shape(shape: &[(i64, i64)], share: i64) -> i64 {
    let at = |point: &(i64, i64)| (point.0 * POINT, point.1 * POINT);
    let above = shape.iter().position(|point| share <= at(point).0);
    match above {
        None => shape.last().map_or(0, |last| at(last).1),
        Some(0) => at(&shape[0]).1,
        Some(index) => {
            let ((low, low_points), (high, high_points)) = (at(&shape[index - 1]), at(&shape[index]));
            low_points + (high_points - low_points) * (share - low) / (high - low)
        }
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
    fn shapes_are_straight_between_their_points() {
        let shape = [(20, 0), (80, 60), (100, 10)];
        let at = |percent: i64| on_shape(&shape, percent * 1_000);
        assert_eq!([at(0), at(20), at(50), at(80), at(90), at(100)], [0, 0, 30_000, 60_000, 35_000, 10_000]);
        assert_eq!(on_shape(&shape[..2], 90_000), 60_000);
    }

    #[test]
    fn preferences_are_relative_to_the_best() {
        assert_eq!(preference(0, 0, 0, 0), 300_000);
        assert_eq!(preference(50, 100, 0, 0), 400_000);
        assert_eq!(preference(100, 100, 1, 2), 350_000);
        assert_eq!(preference(0, 100, 2, 2), 0);
    }
}

//! How placing a pod changes what a node's devices are still good for.
//!
//! A device, or the rest of one, that is free is worth what the expected pods (see [`super::expected`])
//! can make of it: it is lost to pods that want more than is left of it, and all of a node's devices are
//! lost when its CPU or memory has run out. Two measures of that: [`by_room`], the default's, and
//! [`by_fragments`], that of Weng et al., "Beware of Fragmentation" (USENIX ATC 2023).

use super::devices::{DEVICES_MAX, Devices, WHOLE};
use super::expected::Shape;
use super::nodes::Nodes;
use super::resources::ResourceId;
use super::rules::Candidate;
use super::score::{PART, POINT};

/// What a free thousandth costs on the node that is chosen, beside what the expected pods lose: of nodes
/// that are alike to them, the one with the least left.
const FREE_COST: f64 = 0.025;
/// Where the score has come half of the way to its end, in thousandths of a device.
const HALF_WAY: f64 = 2_000.0;

/// A score from 0 to [`PART`] and, for a share, the device to take it from.
pub type Choice = (i64, Option<u16>);

/// A node, and what would be left of it.
struct Scene<'a> {
    candidate: Candidate<'a>,
    nodes: &'a Nodes,
    devices: &'a Devices,
    suits: u128,
    cpu: (i64, i64),
    memory: (i64, i64),
}

/// A device that a share could come from, with what is free of it, or none for whole devices.
type Source = Option<(u16, u16)>;

impl<'a> Scene<'a> {
    fn new(candidate: Candidate<'a>, nodes: &'a Nodes, slot: u32) -> Self {
        let around = |resource: ResourceId| {
            let free = nodes.allocatable(resource, slot).saturating_sub(nodes.requested(resource, slot));
            (free, free.saturating_sub(candidate.demand.amount(resource)))
        };
        Scene {
            candidate,
            nodes,
            devices: nodes.devices(slot),
            suits: nodes.expected().suits(slot),
            cpu: around(ResourceId::CPU),
            memory: around(ResourceId::MEMORY),
        }
    }

    /// The shapes that may use the node, with their frequencies.
    fn shapes(&self) -> impl Iterator<Item = (&'a Shape, f64, bool)> {
        let shapes = self.nodes.expected().frequencies().shapes.iter().enumerate();
        let suits = self.suits;
        shapes.map(move |(index, (shape, frequency))| (&**shape, *frequency, suits >> index & 1 == 1))
    }

    /// The best of what can be chosen, the first among equals.
    fn best(&self, mut score: impl FnMut(Source) -> f64) -> (f64, Option<u16>) {
        let wanted = self.candidate.demand.devices;
        if !wanted.is_share() {
            return (score(None), None);
        }
        let free = self.devices.free();
        let mut best = (f64::NEG_INFINITY, None);
        for (index, one) in free.iter().enumerate() {
            // One with as much free as one before is no other choice.
            if *one < wanted.milli || free[..index].contains(one) {
                continue;
            }
            let score = score(Some((index as u16, *one)));
            if score > best.0 {
                best = (score, Some(index as u16));
            }
        }
        best
    }

    /// Devices that nobody uses, after.
    fn idle_after(&self, source: Source) -> i64 {
        let taken = match source {
            Some((_, free)) => i64::from(free == WHOLE),
            None => i64::from(self.candidate.demand.devices.count),
        };
        (i64::from(self.devices.idle()) - taken).max(0)
    }

    /// How often the shape's devices are there, before and after.
    fn slots(&self, shape: &Shape, source: Source) -> (i64, i64) {
        if !shape.devices.is_share() {
            let count = i64::from(shape.devices.count);
            return (i64::from(self.devices.idle()) / count, self.idle_after(source) / count);
        }
        let milli = shape.devices.milli;
        let before: i64 = self.devices.free().iter().map(|free| i64::from(free / milli)).sum();
        let wanted = self.candidate.demand.devices;
        let lost = match source {
            Some((_, free)) => i64::from(free / milli - (free - wanted.milli) / milli),
            None => i64::from(wanted.count) * i64::from(WHOLE / milli),
        };
        (before, (before - lost).max(0))
    }
}

/// By how much room the pod takes from the expected pods: thousandths of devices that they could have
/// filled, were the node given to one shape after the other, as far as its CPU and memory go.
pub fn by_room(candidate: Candidate<'_>, nodes: &Nodes, slot: u32) -> Choice {
    let scene = Scene::new(candidate, nodes, slot);
    let wanted = candidate.demand.devices;
    let left = (scene.devices.free_sum() - wanted.total()).max(0) as f64;
    let (change, device) = scene.best(|source| {
        let (mut before, mut after) = (0.0, 0.0);
        for (shape, frequency, suits) in scene.shapes() {
            if suits {
                let slots = scene.slots(shape, source);
                before += frequency * room(shape, slots.0, scene.cpu.0, scene.memory.0);
                after += frequency * room(shape, slots.1, scene.cpu.1, scene.memory.1);
            }
        }
        after - before - FREE_COST * left
    });
    (bounded(change + packed(candidate, nodes, slot)), device)
}

/// Thousandths that pods of this shape can fill; of more than one pod, also the part of a last one.
fn room(shape: &Shape, slots: i64, cpu: i64, memory: i64) -> f64 {
    let mut pods = slots as f64;
    if shape.milli_cpu > 0 {
        pods = pods.min(cpu as f64 / shape.milli_cpu as f64);
    }
    if shape.memory > 0 {
        pods = pods.min(memory as f64 / shape.memory as f64);
    }
    if pods < 1.0 { 0.0 } else { pods * shape.devices.total() as f64 }
}

/// Among nodes that lose as much, the fuller in all else is a little better.
fn packed(candidate: Candidate<'_>, nodes: &Nodes, slot: u32) -> f64 {
    super::score::packing(candidate.demand, nodes, slot) as f64 / PART as f64
}

/// From no bounds to 0 to [`PART`], keeping the order.
fn bounded(change: f64) -> i64 {
    (PART as f64 / 2.0 * (1.0 + change / (HALF_WAY + change.abs()))) as i64
}

/// By how much the free thousandths that an expected pod cannot use grow: all of them if it does not fit,
/// otherwise those on devices with less than it takes.
pub fn by_fragments(candidate: Candidate<'_>, nodes: &Nodes, slot: u32) -> Choice {
    let scene = Scene::new(candidate, nodes, slot);
    let plain = nodes.expected().frequencies().plain;
    let wanted = candidate.demand.devices;
    let free = scene.devices.free();
    let (score, device) = scene.best(|source| {
        let mut after = [0; DEVICES_MAX as usize];
        let after = &mut after[..free.len()];
        after.copy_from_slice(free);
        match source {
            Some((device, _)) => after[usize::from(device)] -= wanted.milli,
            None => after
                .iter_mut()
                .filter(|free| **free == WHOLE)
                .take(usize::from(wanted.count))
                .for_each(|free| *free = 0),
        }
        let change = fragments(&scene, free, scene.cpu.0, plain) - fragments(&scene, after, scene.cpu.1, plain);
        (100.0 / (1.0 + (-change / 1000.0).exp())).floor()
    });
    (score as i64 * POINT, device)
}

fn fragments(scene: &Scene<'_>, free: &[u16], cpu: i64, plain: f64) -> f64 {
    let total: i64 = free.iter().map(|free| i64::from(*free)).sum();
    let mut sum = plain * total as f64;
    for (shape, frequency, suits) in scene.shapes() {
        let fitting = free.iter().filter(|free| **free >= shape.devices.milli).count();
        let fits = suits && shape.milli_cpu <= cpu && fitting >= usize::from(shape.devices.count);
        let lost = if fits {
            free.iter().filter(|free| **free < shape.devices.milli).map(|free| i64::from(*free)).sum()
        } else {
            total
        };
        sum += frequency * lost as f64;
    }
    sum
}

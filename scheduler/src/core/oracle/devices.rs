//! Devices, one by one: who has which, what is free, and what pods to come could make of it.

use std::collections::BTreeMap;

use super::{Oracle, Placed, Usage, filters};
use crate::core::devices::{DEVICES_MAX, DeviceDemand};
use crate::core::spec::{ClassSpec, NodeSpec, Term};

/// A shape of pods that take devices: what they ask for and where they may go.
type Shape = (i64, i64, DeviceDemand, BTreeMap<String, String>, Option<Vec<Term>>);

/// What was learnt of the pods to be expected.
#[derive(Clone, Debug, Default)]
pub(super) struct Lesson {
    shapes: Vec<(Shape, f64)>,
    plain: f64,
    came: usize,
    known: usize,
}

impl Lesson {
    pub(super) fn pod_came(&mut self, pod: &ClassSpec) {
        if pod.demand.devices.count > 0 {
            self.came += 1;
        }
    }
}

/// When more device users have come than were known, all that are known are counted.
pub(super) fn learn(oracle: &mut Oracle, waiting: &ClassSpec) {
    let mut some = false;
    for node in oracle.nodes.values() {
        some = some || node.devices > 0;
    }
    if !some || oracle.lesson.came <= oracle.lesson.known {
        return;
    }
    // Of shapes that differ in memory only, the most counts.
    let mut counts: BTreeMap<Shape, (usize, i64)> = BTreeMap::new();
    let mut plain = 0;
    let mut users = 0;
    for pod in oracle.pods.values().map(|placed| &placed.spec).chain([waiting]) {
        if pod.demand.devices.count == 0 {
            plain += 1;
            continue;
        }
        let requests = &pod.demand.requests;
        let rest = (pod.node_selector.clone(), pod.required.clone());
        let shape = (requests.milli_cpu, 0, pod.demand.devices, rest.0, rest.1);
        let (count, memory) = counts.entry(shape).or_default();
        *count += 1;
        *memory = requests.memory.max(*memory);
        users += 1;
    }
    let mut sorted: Vec<(Shape, usize)> = Vec::new();
    for ((cpu, _, devices, selector, required), (count, memory)) in counts {
        sorted.push(((cpu, memory, devices, selector, required), count));
    }
    sorted.sort();
    // Stable: among equals the order of shapes stays.
    sorted.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let enough = (users as f64 * 0.95).ceil() as usize;
    let all = (users + plain).max(1) as f64;
    let mut shapes = Vec::new();
    let mut covered = 0;
    for (shape, count) in sorted {
        if covered < enough && shapes.len() < 128 {
            covered += count;
            shapes.push((shape, count as f64 / all));
        }
    }
    oracle.lesson = Lesson { shapes, plain: plain as f64 / all, came: 0, known: users };
}

/// The free thousandths of each of a node's devices.
pub(super) fn free(node: &NodeSpec, usage: &Usage) -> Vec<i64> {
    let mut free = Vec::new();
    for index in 0..node.devices {
        free.push((1_000 - usage.devices.get(&index).copied().unwrap_or(0)).max(0));
    }
    free
}

pub(super) fn fits(pod: &ClassSpec, free: &[i64]) -> bool {
    let DeviceDemand { count, milli } = pod.demand.devices;
    if count == 0 || (free.is_empty() && milli == 1_000) {
        return true;
    }
    free.iter().filter(|free| **free >= i64::from(milli)).count() >= usize::from(count)
}

/// The devices of a pod that was bound by others: the first that nobody uses, or the fullest that its
/// share still goes into.
pub(super) fn likely<'a>(pod: &ClassSpec, there: impl Iterator<Item = &'a Placed>) -> Vec<u16> {
    let mut used = vec![0; usize::from(DEVICES_MAX)];
    for placed in there {
        for index in &placed.devices {
            used[usize::from(*index)] += i64::from(placed.spec.demand.devices.milli);
        }
    }
    let DeviceDemand { count, milli } = pod.demand.devices;
    if count == 1 && milli < 1_000 {
        let mut best: Option<usize> = None;
        for index in 0..used.len() {
            let room = used[index] > 0 && used[index] + i64::from(milli) <= 1_000;
            if room && best.is_none_or(|best| used[index] > used[best]) {
                best = Some(index);
            }
        }
        if let Some(best) = best {
            return vec![best as u16];
        }
    }
    let idle = (0..DEVICES_MAX).filter(|index| used[usize::from(*index)] == 0);
    idle.take(usize::from(count)).collect()
}

/// A way to give the pod devices: which, and what is then free.
fn ways(pod: &ClassSpec, free: &[i64]) -> Vec<(Vec<u16>, Vec<i64>)> {
    let DeviceDemand { count, milli } = pod.demand.devices;
    let mut ways = Vec::new();
    if count == 1 && milli < 1_000 {
        for index in 0..free.len() {
            if free[index] >= i64::from(milli) {
                let mut left = free.to_vec();
                left[index] -= i64::from(milli);
                ways.push((vec![index as u16], left));
            }
        }
        return ways;
    }
    let mut devices = Vec::new();
    let mut left = free.to_vec();
    for (index, one) in left.iter_mut().enumerate() {
        if devices.len() < usize::from(count) && *one == 1_000 {
            devices.push(index as u16);
            *one = 0;
        }
    }
    ways.push((devices, left));
    ways
}

/// The share's device that leaves the least; the first devices that nobody uses.
pub(super) fn tightest(pod: &ClassSpec, free: &[i64]) -> Vec<u16> {
    let mut best: Option<(i64, Vec<u16>)> = None;
    for (devices, _) in ways(pod, free) {
        let amount = devices.first().map_or(0, |index| free[usize::from(*index)]);
        if best.as_ref().is_none_or(|(least, _)| amount < *least) {
            best = Some((amount, devices));
        }
    }
    best.map(|(_, devices)| devices).unwrap_or_default()
}

/// A node before and after: CPU, memory and free devices.
struct Change<'a> {
    node: &'a NodeSpec,
    cpu: (i64, i64),
    memory: (i64, i64),
    free: (&'a [i64], &'a [i64]),
}

/// The best way by a measure, the first among equals, with its score.
fn best_way(pod: &ClassSpec, node: &NodeSpec, usage: &Usage, measure: impl Fn(&Change<'_>) -> f64) -> (f64, Vec<u16>) {
    let used = |name: &str| usage.amounts.get(name).copied().unwrap_or(0);
    let (cpu, memory) = (node.allocatable.milli_cpu - used("cpu"), node.allocatable.memory - used("memory"));
    let free = free(node, usage);
    let mut best = (f64::NEG_INFINITY, Vec::new());
    for (devices, left) in ways(pod, &free) {
        let score = measure(&Change {
            node,
            cpu: (cpu, cpu - pod.demand.requests.milli_cpu),
            memory: (memory, memory - pod.demand.requests.memory),
            free: (&free, &left),
        });
        if score > best.0 {
            best = (score, devices);
        }
    }
    best
}

fn suits(shape: &Shape, node: &NodeSpec) -> bool {
    let pod = ClassSpec { node_selector: shape.3.clone(), required: shape.4.clone(), ..ClassSpec::default() };
    filters::selected(&pod, node)
}

/// The default's measure, as a score, and the devices to give.
pub(super) fn by_room(oracle: &Oracle, pod: &ClassSpec, node: &NodeSpec, usage: &Usage) -> (i64, Vec<u16>) {
    let packed = super::scores::packing(pod, node, usage) as f64 / 100_000.0;
    let (change, devices) = best_way(pod, node, usage, |change| {
        let (mut before, mut after) = (0.0, 0.0);
        for (shape, frequency) in &oracle.lesson.shapes {
            if suits(shape, change.node) {
                before += frequency * room(shape, change.free.0, change.cpu.0, change.memory.0);
                after += frequency * room(shape, change.free.1, change.cpu.1, change.memory.1);
            }
        }
        let left: i64 = change.free.1.iter().sum();
        after - before - 0.025 * left as f64
    });
    let change = change + packed;
    ((50_000.0 * (1.0 + change / (2_000.0 + change.abs()))) as i64, devices)
}

/// What pods of a shape could fill of the devices.
fn room(shape: &Shape, free: &[i64], cpu: i64, memory: i64) -> f64 {
    let DeviceDemand { count, milli } = shape.2;
    let (count, milli) = (i64::from(count), i64::from(milli));
    let mut slots = 0;
    for free in free {
        slots += free / milli;
    }
    let mut pods = (slots / count) as f64;
    if shape.0 > 0 {
        pods = pods.min(cpu as f64 / shape.0 as f64);
    }
    if shape.1 > 0 {
        pods = pods.min(memory as f64 / shape.1 as f64);
    }
    if pods < 1.0 { 0.0 } else { pods * (count * milli) as f64 }
}

/// The measure of fragmentation, as a score, and the devices to give.
pub(super) fn by_fragments(oracle: &Oracle, pod: &ClassSpec, node: &NodeSpec, usage: &Usage) -> (i64, Vec<u16>) {
    let (score, devices) = best_way(pod, node, usage, |change| {
        let before = fragments(oracle, change.node, change.free.0, change.cpu.0);
        let after = fragments(oracle, change.node, change.free.1, change.cpu.1);
        (100.0 / (1.0 + (-(before - after) / 1000.0).exp())).floor()
    });
    (score as i64 * 1_000, devices)
}

fn fragments(oracle: &Oracle, node: &NodeSpec, free: &[i64], cpu: i64) -> f64 {
    let total: i64 = free.iter().sum();
    let mut sum = oracle.lesson.plain * total as f64;
    for (shape, frequency) in &oracle.lesson.shapes {
        let (count, milli) = (usize::from(shape.2.count), i64::from(shape.2.milli));
        let fitting = free.iter().filter(|free| **free >= milli).count();
        let mut lost = total;
        if suits(shape, node) && shape.0 <= cpu && fitting >= count {
            lost = 0;
            for free in free {
                if *free < milli {
                    lost += free;
                }
            }
        }
        sum += frequency * lost as f64;
    }
    sum
}

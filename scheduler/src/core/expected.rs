//! What pods are to be expected, learnt from the pods that are known.
//!
//! Whether a device that is left free will be of use depends on the pods to come. The best guess that
//! needs no assumption is that they will be like those that are here and those that wait: the
//! frequencies of their shapes. They are taken anew whenever as many device users have come as were
//! known the last time, so what it costs is spread over as many placements.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::bitset::Bitset;
use super::devices::DeviceDemand;
use super::rules::node_affinity;
use super::spec::{ClassSpec, NodeSpec, Term};

/// Shapes beyond those that make up this part of all are too rare to matter.
const COVERED: f64 = 0.95;
/// And no more than there are bits in [`Expected::suits`].
const SHAPES_MAX: usize = 128;

/// What a pod that takes devices is, as far as others leave room for it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Shape {
    /// CPU it asks for.
    pub milli_cpu: i64,
    /// Memory it asks for.
    pub memory: i64,
    /// The devices it takes.
    pub devices: DeviceDemand,
    node_selector: BTreeMap<String, String>,
    required: Option<Vec<Term>>,
}

impl Shape {
    /// That of pods like `spec`; `None` if they take no device.
    pub fn of(spec: &ClassSpec) -> Option<Arc<Shape>> {
        let demand = &spec.demand;
        (!demand.devices.is_none()).then(|| {
            Arc::new(Shape {
                milli_cpu: demand.requests.milli_cpu,
                memory: demand.requests.memory,
                devices: demand.devices,
                node_selector: spec.node_selector.clone(),
                required: spec.required.clone(),
            })
        })
    }

    fn is_choosy(&self) -> bool {
        !self.node_selector.is_empty() || self.required.is_some()
    }

    fn accepts(&self, node: &NodeSpec) -> bool {
        node_affinity::matches(&self.node_selector, self.required.as_deref(), node)
    }
}

/// The placed pods that take devices, by shape.
#[derive(Clone, Debug, Default)]
pub struct Census {
    placed: HashMap<Arc<Shape>, u64>,
    /// How many have come since the last time.
    came: u64,
    /// How many there were then.
    known: u64,
}

impl Census {
    /// A pod that was not known has come.
    pub fn came(&mut self) {
        self.came += 1;
    }

    /// A pod is on a node (`sign` 1), or no longer (-1).
    pub fn count(&mut self, shape: &Arc<Shape>, sign: i64) {
        let count = self.placed.entry(shape.clone()).or_default();
        *count = count.wrapping_add_signed(sign);
        if *count == 0 {
            self.placed.remove(shape);
        }
    }

    /// Have so many come that it is worth looking again?
    pub fn is_due(&self) -> bool {
        self.came > self.known
    }

    /// The frequencies of shapes among the placed pods, `waiting`, and `plain` pods that take no device.
    pub fn frequencies(&mut self, waiting: impl Iterator<Item = (Arc<Shape>, u64)>, plain: u64) -> Frequencies {
        let mut counts = self.placed.clone();
        for (shape, count) in waiting {
            *counts.entry(shape).or_default() += count;
        }
        self.came = 0;
        self.known = counts.values().sum();
        let mut counts = most_memory(counts);
        counts.sort_unstable_by(|(a, one), (b, other)| b.cmp(a).then_with(|| one.cmp(other)));
        let enough = (self.known as f64 * COVERED).ceil() as u64;
        let all = (self.known + plain).max(1) as f64;
        let mut covered = 0;
        let mut shapes = Vec::new();
        for (count, shape) in counts.into_iter().take(SHAPES_MAX) {
            if covered >= enough {
                break;
            }
            covered += count;
            shapes.push((shape, count as f64 / all));
        }
        Frequencies { shapes, plain: plain as f64 / all }
    }
}

/// Shapes that differ in memory only, as one with the most: memory that is kept for the larger serves the
/// smaller too, and what is of use to most pods shows better with fewer shapes.
fn most_memory(counts: HashMap<Arc<Shape>, u64>) -> Vec<(u64, Arc<Shape>)> {
    let mut most: HashMap<Shape, (u64, Arc<Shape>)> = HashMap::new();
    for (shape, count) in counts {
        let rest = Shape { memory: 0, ..(*shape).clone() };
        let (sum, largest) = most.entry(rest).or_insert_with(|| (0, shape.clone()));
        *sum += count;
        if shape.memory > largest.memory {
            *largest = shape;
        }
    }
    most.into_values().collect()
}

/// How frequent shapes are: the most frequent first.
#[derive(Clone, Debug, Default)]
pub struct Frequencies {
    /// Shapes and their parts of all pods.
    pub shapes: Vec<(Arc<Shape>, f64)>,
    /// The part of pods that take no device.
    pub plain: f64,
}

/// What pods are to be expected, and which nodes they may use.
#[derive(Clone, Debug, Default)]
pub struct Expected {
    frequencies: Frequencies,
    /// By slot, a bit for each shape: may it use the node?
    suits: Vec<u128>,
    epoch: u64,
}

impl Expected {
    /// Rises whenever scores may be others than before.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// See [`Frequencies`].
    #[inline]
    pub fn frequencies(&self) -> &Frequencies {
        &self.frequencies
    }

    /// A bit for each shape that may use the node in the slot.
    #[inline]
    pub fn suits(&self, slot: u32) -> u128 {
        self.suits.get(slot as usize).copied().unwrap_or(0)
    }

    /// Takes over what was learnt.
    pub fn learn<'a>(
        &mut self,
        frequencies: Frequencies,
        present: &Bitset,
        node: impl Fn(u32) -> Option<&'a NodeSpec>,
    ) {
        self.frequencies = frequencies;
        self.suits.clear();
        self.epoch += 1;
        for slot in present.iter() {
            if let Some(node) = node(slot) {
                self.node_changes(slot, node);
            }
        }
    }

    /// Scores are others than before for another reason.
    pub fn touch(&mut self) {
        self.epoch += 1;
    }

    /// A node is new or has other labels.
    pub fn node_changes(&mut self, slot: u32, node: &NodeSpec) {
        if node.devices == 0 && slot as usize >= self.suits.len() {
            return;
        }
        let mut bits = 0;
        if node.devices > 0 {
            for (index, (shape, _)) in self.frequencies.shapes.iter().enumerate() {
                bits |= u128::from(!shape.is_choosy() || shape.accepts(node)) << index;
            }
        }
        if self.suits.len() <= slot as usize {
            self.suits.resize(slot as usize + 1, 0);
        }
        self.suits[slot as usize] = bits;
    }
}

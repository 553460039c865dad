//! Pods that ask for CPU and memory only, of several mixes.

use gantry_scheduler::core::{ClassSpec, Engine, NodeSpec, PodDemand, PodKey, Resources, Scoring, Strategy};

use crate::replay::Random;

const NODES: usize = 500;
const MILLI_CPU: i64 = 32_000;
const MEMORY: i64 = 128 << 30;
const SEEDS: u64 = 5;

/// A pod's CPU and memory, in thousandths of a node.
type Size = (i64, i64);

type Mix = fn(&mut Random) -> Size;

const MIXES: [(&str, Mix); 4] = [
    ("small and balanced", |random| {
        let size = 5 + random.below(60) as i64;
        (size, size)
    }),
    ("wants CPU or memory", |random| {
        let (much, little) = (40 + random.below(200) as i64, 5 + random.below(30) as i64);
        if random.below(2) == 0 { (much, little) } else { (little, much) }
    }),
    ("a third to a half", |random| (300 + random.below(220) as i64, 300 + random.below(220) as i64)),
    ("many small, few large", |random| match random.below(10) {
        0 => (400 + random.below(400) as i64, 400 + random.below(400) as i64),
        _ => (5 + random.below(40) as i64, 5 + random.below(40) as i64),
    }),
];

fn strategies() -> Vec<(&'static str, Strategy)> {
    vec![
        ("BinPacking (default)", Strategy::BinPacking),
        ("BestFit", Strategy::BestFit),
        ("DotProduct", Strategy::DotProduct),
        ("MostAllocated", Strategy::MostAllocated),
        ("LeastAllocated", Strategy::LeastAllocated),
    ]
}

fn spec(size: Size, strategy: &Strategy) -> ClassSpec {
    let requests =
        Resources { milli_cpu: MILLI_CPU * size.0 / 1_000, memory: MEMORY / 1_000 * size.1, ..Resources::default() };
    let resources = match strategy {
        Strategy::BinPacking => Vec::new(),
        _ => vec![("cpu".to_owned(), 1), ("memory".to_owned(), 1)],
    };
    ClassSpec {
        demand: PodDemand {
            scoring_milli_cpu: requests.milli_cpu,
            scoring_memory: requests.memory,
            requests,
            ..PodDemand::default()
        },
        scoring: Scoring { strategy: strategy.clone(), resources },
        ..ClassSpec::default()
    }
}

fn cluster() -> Engine {
    let mut engine = Engine::new();
    for number in 0..NODES {
        let allocatable = Resources { milli_cpu: MILLI_CPU, memory: MEMORY, pods: 1_000, ..Resources::default() };
        engine.set_node(NodeSpec { name: format!("node-{number}"), allocatable, ..NodeSpec::default() });
    }
    engine
}

/// Pods until they ask for so much of the scarcer resource, in thousandths of a node.
fn pods(mix: Mix, seed: u64, until: i64) -> Vec<Size> {
    let mut random = Random(seed);
    let mut pods = Vec::new();
    let mut sum = (0, 0);
    loop {
        let size = mix(&mut random);
        sum = (sum.0 + size.0, sum.1 + size.1);
        if sum.0.max(sum.1) > until {
            return pods;
        }
        pods.push(size);
    }
}

/// The nodes in use, and the pods that found none.
fn place(pods: &[Size], strategy: &Strategy) -> (usize, Vec<Size>) {
    let mut engine = cluster();
    let mut lost = Vec::new();
    for (number, size) in pods.iter().enumerate() {
        let class = engine.acquire(&spec(*size, strategy));
        match engine.place(class) {
            Some(node) => engine.assume(PodKey(number as u128), class, node, 0),
            None => lost.push(*size),
        }
        engine.release(class);
    }
    let used: std::collections::HashSet<_> = engine.pods().filter_map(|pod| engine.node_of(pod)).collect();
    (used.len(), lost)
}

/// The fewest nodes that can do: what is asked for in all, and that no two pods of more than half of a
/// node go together.
fn bound(pods: &[Size]) -> usize {
    let of = |side: fn(&Size) -> i64| {
        let sum: i64 = pods.iter().map(side).sum();
        let large = pods.iter().filter(|size| side(size) > 500).count();
        large.max((sum as usize).div_ceil(1_000))
    };
    of(|size| size.0).max(of(|size| size.1))
}

/// The table, line by line.
pub fn report() -> Vec<String> {
    let mut lines = Vec::new();
    for (name, mix) in MIXES {
        lines.push(format!(
            "\n{name:<26} {:>7} {:>7} {:>7} {:>12} {:>12}",
            "nodes", "bound", "ratio", "lost at 97 %", "the largest"
        ));
        for (title, strategy) in strategies() {
            let (mut used, mut least, mut lost, mut tried, mut largest) = (0, 0, 0, 0, 0);
            for seed in 1..=SEEDS {
                let some = pods(mix, seed, NODES as i64 * 600);
                used += place(&some, &strategy).0;
                least += bound(&some);
                let many = pods(mix, seed, NODES as i64 * 970);
                let refused = place(&many, &strategy).1;
                tried += many.len();
                lost += refused.len();
                largest = refused.iter().map(|size| size.0.max(size.1)).fold(largest, i64::max);
            }
            let ratio = used as f64 / least as f64;
            let part = 100.0 * lost as f64 / tried as f64;
            lines.push(format!(
                "  {title:<24} {:>7.1} {:>7.1} {ratio:>7.3} {part:>10.2} % {:>10.1} %",
                used as f64 / SEEDS as f64,
                least as f64 / SEEDS as f64,
                largest as f64 / 10.0,
            ));
        }
    }
    lines
}

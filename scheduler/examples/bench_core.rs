//! How many placements a second the core makes, and that the cost does not follow the number of
//! nodes. `cargo run --release -p gantry-scheduler --example bench_core [NODES…]`

use std::io::Write;
use std::time::{Duration, Instant};

use gantry_scheduler::core::{ClassId, ClassSpec, Engine, NodeSpec, PodDemand, PodKey, Resources};

fn engine(nodes: usize) -> Engine {
    let mut engine = Engine::new();
    for number in 0..nodes {
        engine.set_node(NodeSpec {
            name: format!("node-{number}"),
            labels: [("zone".to_owned(), format!("zone-{}", number % 3))].into(),
            allocatable: Resources {
                milli_cpu: 4_000,
                memory: 32 << 30,
                pods: 110,
                ephemeral_storage: 100 << 30,
                ..Resources::default()
            },
            ..NodeSpec::default()
        });
    }
    engine
}

fn class(engine: &mut Engine, milli_cpu: i64, mebibytes: i64) -> ClassId {
    let requests = Resources { milli_cpu, memory: mebibytes << 20, ..Resources::default() };
    engine.acquire(&ClassSpec {
        demand: PodDemand {
            scoring_milli_cpu: milli_cpu,
            scoring_memory: mebibytes << 20,
            requests,
            ports: Vec::new(),
        },
        ..ClassSpec::default()
    })
}

/// Places pods until `for_at_least` has passed; once most of the room is used, each placement is
/// preceded by the departure of the oldest pod.
fn run(nodes: usize, shapes: usize, for_at_least: Duration) -> (f64, usize) {
    let mut engine = engine(nodes);
    let classes: Vec<_> =
        (0..shapes as i64).map(|shape| class(&mut engine, 100 + 10 * shape, 500 + 20 * shape)).collect();
    for class in &classes {
        engine.place(*class);
    }
    let room = nodes * 25;
    let mut placed = 0u64;
    let start = Instant::now();
    while !placed.is_multiple_of(1_024) || placed == 0 || start.elapsed() < for_at_least {
        let key = PodKey(u128::from(placed));
        if placed >= room as u64 {
            engine.remove_pod(PodKey(u128::from(placed - room as u64)));
        }
        // A plain generator: a departure order that is not the arrival order of one class.
        let class = classes[(placed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33) as usize % classes.len()];
        if let Some(node) = engine.place(class) {
            engine.assume(key, class, node, 0);
        }
        placed += 1;
    }
    (placed as f64 / start.elapsed().as_secs_f64(), engine.pod_count())
}

fn main() {
    let mut sizes: Vec<usize> = std::env::args().skip(1).filter_map(|size| size.parse().ok()).collect();
    if sizes.is_empty() {
        sizes = vec![1_000, 10_000, 100_000];
    }
    let mut out = std::io::stdout().lock();
    for shapes in [1, 16, 151] {
        for nodes in &sizes {
            let (rate, pods) = run(*nodes, shapes, Duration::from_secs(2));
            let _ = writeln!(out, "{nodes:>7} nodes  {shapes:>3} shapes  {rate:>12.0} placements/s  {pods:>8} pods");
        }
    }
}

//! How many pods a second the core places, and how long the slowest decisions take, on the workloads
//! of Kubernetes' own scheduler benchmark; then how the rate follows the number of nodes.
//!
//! Beside each workload stands the rate below which Kubernetes counts its own scheduler as broken
//! (measured elsewhere and with its API server, so a scale and not a rival). Rates are of the time that
//! the thread was running.
//! `cargo run --release -p gantry-scheduler --example bench_scheduler [WORD]`: with a word, only what
//! has it in its name.

use std::io::Write;
use std::time::{Duration, Instant};

use gantry_scheduler::core::spec::Operator;
use gantry_scheduler::core::{
    AffinityTerm, ClassSpec, Engine, NodeSpec, PodDemand, PodKey, PodSelector, Requirement, Resources, Spread,
    SpreadMode, Term, WeightedAffinityTerm,
};

const HOSTNAME: &str = "kubernetes.io/hostname";
const ZONE: &str = "topology.kubernetes.io/zone";

fn node(number: usize, zones: usize) -> NodeSpec {
    let name = format!("node-{number}");
    let extended = [("example.com/device".to_owned(), 10)].into();
    NodeSpec {
        labels: [(HOSTNAME.to_owned(), name.clone()), (ZONE.to_owned(), format!("zone-{}", number % zones))].into(),
        name,
        allocatable: Resources { milli_cpu: 4_000, memory: 32 << 30, pods: 110, extended, ..Resources::default() },
        ..NodeSpec::default()
    }
}

fn cluster(nodes: usize, zones: usize) -> Engine {
    let mut engine = Engine::new();
    for number in 0..nodes {
        engine.set_node(node(number, zones));
    }
    engine
}

fn asking(milli_cpu: i64, mebibytes: i64) -> ClassSpec {
    let requests = Resources { milli_cpu, memory: mebibytes << 20, ..Resources::default() };
    ClassSpec {
        namespace: "default".into(),
        demand: PodDemand {
            scoring_milli_cpu: milli_cpu,
            scoring_memory: mebibytes << 20,
            requests,
            ..PodDemand::default()
        },
        ..ClassSpec::default()
    }
}

fn plain() -> ClassSpec {
    asking(100, 500)
}

fn color(color: &str) -> ClassSpec {
    ClassSpec { labels: [("color".to_owned(), color.to_owned())].into(), ..plain() }
}

fn equal(key: &str, value: &str) -> Requirement {
    Requirement { key: key.into(), operator: Operator::In, values: vec![value.into()] }
}

fn term(color: &str, key: &str) -> AffinityTerm {
    let selector = PodSelector {
        namespaces: ["default".to_owned()].into(),
        namespace_selector: None,
        labels: Some(vec![equal("color", color)]),
    };
    AffinityTerm { selector, topology_key: key.into() }
}

fn spread(topology_key: &str, max_skew: i32, mode: SpreadMode) -> Spread {
    Spread {
        selector: term("blue", "").selector,
        topology_key: topology_key.into(),
        max_skew,
        min_domains: 1,
        honors_affinity: true,
        honors_taints: false,
        mode,
    }
}

fn anti_affinity(key: &str) -> ClassSpec {
    let mut spec = color("green");
    spec.pod_affinity.anti_required.push(term("green", key));
    spec
}

fn weighted(color: &str) -> WeightedAffinityTerm {
    WeightedAffinityTerm { weight: 1, term: term(color, HOSTNAME) }
}

fn affinity() -> ClassSpec {
    let mut spec = color("blue");
    spec.pod_affinity.required.push(term("blue", ZONE));
    spec
}

fn preferred(anti: bool) -> ClassSpec {
    let mut spec = color("red");
    let list = if anti { &mut spec.pod_affinity.anti_preferred } else { &mut spec.pod_affinity.preferred };
    list.push(weighted("red"));
    spec
}

fn spreading(constraints: &[Spread]) -> ClassSpec {
    ClassSpec { spread: constraints.to_vec(), ..color("blue") }
}

fn in_zones(zones: &[&str]) -> ClassSpec {
    let values = zones.iter().map(|zone| (*zone).to_owned()).collect();
    let expressions = vec![Requirement { key: ZONE.into(), operator: Operator::In, values }];
    ClassSpec { required: Some(vec![Term { expressions, fields: Vec::new() }]), ..plain() }
}

fn daemon(number: usize, nodes: usize) -> ClassSpec {
    let name = vec![format!("node-{}", number % nodes)];
    let fields = vec![Requirement { key: "metadata.name".into(), operator: Operator::In, values: name }];
    ClassSpec { required: Some(vec![Term { expressions: Vec::new(), fields }]), ..plain() }
}

fn device() -> ClassSpec {
    let mut spec = plain();
    spec.demand.requests.extended.insert("example.com/device".into(), 1);
    spec
}

/// A pod whose anti-affinity looks into every namespace with its team's label.
fn team(number: usize) -> ClassSpec {
    let mut spec = ClassSpec { namespace: format!("measured-{}", number % 100), ..anti_affinity(HOSTNAME) };
    spec.pod_affinity.anti_required[0].selector.namespaces.clear();
    spec.pod_affinity.anti_required[0].selector.namespace_selector = Some(vec![equal("team", "devops")]);
    spec
}

fn five_kinds(number: usize) -> ClassSpec {
    match number % 5 {
        0 => plain(),
        1 => affinity(),
        2 => anti_affinity(HOSTNAME),
        3 => preferred(false),
        _ => preferred(true),
    }
}

type Make = Box<dyn Fn(usize) -> ClassSpec>;

struct Workload {
    name: &'static str,
    nodes: usize,
    zones: usize,
    init: (usize, Make),
    measured: (usize, Make),
    /// Of Kubernetes, in pods a second.
    floor: u32,
    /// What happens besides, before each measured pod.
    besides: fn(&mut Engine, usize),
}

fn nothing(_: &mut Engine, _: usize) {}

/// Every hundredth pod, a pod that no node can take is tried and explained.
fn a_pod_too_big(engine: &mut Engine, number: usize) {
    if number.is_multiple_of(100) {
        let class = engine.acquire(&asking(9_000, 500));
        assert!(engine.place(class).is_none());
        assert_eq!(engine.diagnose(class).feasible, 0);
        engine.release(class);
    }
}

/// Every hundredth pod, a node goes and comes back.
fn a_node_recreated(engine: &mut Engine, number: usize) {
    if number.is_multiple_of(100) {
        engine.remove_node("node-0");
        engine.set_node(node(0, 3));
    }
}

fn workloads() -> Vec<Workload> {
    let one = |spec: ClassSpec| -> Make { Box::new(move |_| spec.clone()) };
    let w = |name, nodes, init: (usize, Make), measured: (usize, Make), floor| Workload {
        name,
        nodes,
        zones: 3,
        init,
        measured,
        floor,
        besides: nothing,
    };
    let hard = || spreading(&[spread(ZONE, 5, SpreadMode::DoNotSchedule)]);
    let soft = || spreading(&[spread(ZONE, 5, SpreadMode::ScheduleAnyway)]);
    let default = || spreading(&[spread(HOSTNAME, 3, SpreadMode::Default), spread(ZONE, 5, SpreadMode::Default)]);
    let teams: Make = Box::new(team);
    vec![
        w("SchedulingBasic", 5_000, (5_000, one(plain())), (50_000, one(plain())), 810),
        w("SchedulingDaemonset", 15_000, (0, one(plain())), (30_000, Box::new(|number| daemon(number, 15_000))), 1_100),
        Workload {
            besides: a_pod_too_big,
            ..w("Unschedulable", 5_000, (100, one(plain())), (10_000, one(plain())), 590)
        },
        Workload {
            besides: a_node_recreated,
            ..w("MixedChurn", 5_000, (0, one(plain())), (10_000, one(plain())), 710)
        },
        w("ExtendedResource", 5_000, (0, one(plain())), (5_000, one(device())), 180),
        w("TopologySpreading", 5_000, (5_000, one(plain())), (5_000, one(hard())), 460),
        w("PreferredTopologySpreading", 5_000, (5_000, one(plain())), (5_000, one(soft())), 340),
        w("DefaultTopologySpreading", 5_000, (5_000, one(plain())), (50_000, one(default())), 160),
        w("PodAntiAffinity", 5_000, (1_000, one(anti_affinity(HOSTNAME))), (2_000, one(anti_affinity(HOSTNAME))), 60),
        w("PodMatchingAntiAffinity", 5_000, (1_000, one(anti_affinity(HOSTNAME))), (4_000, one(color("green"))), 540),
        Workload { zones: 1, ..w("PodAffinity", 5_000, (5_000, one(affinity())), (5_000, one(affinity())), 35) },
        w("PreferredPodAffinity", 5_000, (5_000, one(preferred(false))), (5_000, one(preferred(false))), 90),
        w("PreferredPodAntiAffinity", 5_000, (5_000, one(preferred(true))), (5_000, one(preferred(true))), 90),
        w("NodeAffinity", 5_000, (5_000, one(plain())), (10_000, one(in_zones(&["zone-0", "zone-1"]))), 220),
        w("MixedSchedulingBasePod", 5_000, (10_000, Box::new(five_kinds)), (5_000, one(plain())), 140),
        w("AntiAffinityNSSelector", 6_000, (4_000, Box::new(team)), (2_000, teams), 24),
    ]
}

fn place(engine: &mut Engine, key: u128, spec: &ClassSpec) -> bool {
    let class = engine.acquire(spec);
    let node = engine.place(class);
    if let Some(node) = node {
        engine.assume(PodKey(key), class, node, 0);
    }
    engine.release(class);
    node.is_some()
}

/// How long this thread has run: unlike the time on the clock, the same on a busy machine. Where the
/// system does not tell, the time on the clock since `start`.
fn busy(start: Instant) -> Duration {
    // The system brings its account up to date when a thread gives way.
    std::thread::yield_now();
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let nanoseconds = told.and_then(|text| text.split_whitespace().next()?.parse().ok());
    nanoseconds.map_or_else(|| start.elapsed(), Duration::from_nanos)
}

/// Pods a second, the 99th percentile of a decision, and how many found no node.
fn run(workload: &Workload) -> (f64, Duration, usize) {
    let mut engine = cluster(workload.nodes, workload.zones);
    for number in 0..100 {
        engine.set_namespace(&format!("measured-{number}"), [("team".to_owned(), "devops".to_owned())].into());
    }
    for number in 0..workload.init.0 {
        place(&mut engine, number as u128, &(workload.init.1)(number));
    }
    let specs: Vec<_> = (0..workload.measured.0).map(&workload.measured.1).collect();
    let mut times = Vec::with_capacity(specs.len());
    let mut lost = 0;
    let start = Instant::now();
    let busy_before = busy(start);
    for (number, spec) in specs.iter().enumerate() {
        (workload.besides)(&mut engine, number);
        let began = Instant::now();
        lost += usize::from(!place(&mut engine, (workload.init.0 + number) as u128, spec));
        times.push(began.elapsed());
    }
    let rate = specs.len() as f64 / (busy(start) - busy_before).as_secs_f64().max(1e-6);
    times.sort_unstable();
    (rate, times[times.len() * 99 / 100], lost)
}

/// Placements a second of pods of these classes; once most of the room is used, each placement is
/// preceded by the departure of the oldest pod.
fn steady(nodes: usize, specs: &[ClassSpec], room: usize, for_at_least: Duration) -> f64 {
    let mut engine = cluster(nodes, 3);
    let classes: Vec<_> = specs.iter().map(|spec| engine.acquire(spec)).collect();
    for class in &classes {
        engine.place(*class);
    }
    let mut placed = 0u64;
    let start = Instant::now();
    let mut busy_before = busy(start);
    let mut counted = 0u64;
    while counted == 0
        || placed < room as u64
        || !placed.is_multiple_of(4_096)
        || busy(start) - busy_before < for_at_least
    {
        if placed >= room as u64 {
            engine.remove_pod(PodKey(u128::from(placed - room as u64)));
        }
        if placed == room as u64 {
            // The cluster is full as from here on; what was before is not counted.
            (busy_before, counted) = (busy(start), 0);
        }
        // A plain generator: a departure order that is not the arrival order of one class.
        let class = classes[(placed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33) as usize % classes.len()];
        if let Some(node) = engine.place(class) {
            engine.assume(PodKey(u128::from(placed)), class, node, 0);
        }
        placed += 1;
        counted += 1;
    }
    counted as f64 / (busy(start) - busy_before).as_secs_f64()
}

fn shapes(count: i64) -> Vec<ClassSpec> {
    (0..count).map(|shape| asking(100 + 10 * shape, 500 + 20 * shape)).collect()
}

fn main() {
    let word = std::env::args().nth(1).unwrap_or_default();
    let mut out = std::io::stdout().lock();
    let _ =
        writeln!(out, "{:<28} {:>6} {:>12} {:>10} {:>9} {:>6}", "workload", "nodes", "pods/s", "p99", "ratio", "lost");
    for workload in workloads().into_iter().filter(|workload| workload.name.contains(&word)) {
        let (rate, p99, lost) = run(&workload);
        let ratio = rate / f64::from(workload.floor);
        let (name, nodes) = (workload.name, workload.nodes);
        let _ = writeln!(out, "{name:<28} {nodes:>6} {rate:>12.0} {p99:>10.1?} {ratio:>8.0}x {lost:>6}");
    }
    let hard = spreading(&[spread(ZONE, 5, SpreadMode::DoNotSchedule)]);
    // The last: how many pods a node has room for, in tenths.
    let scenes = [
        ("anti-affinity by host", vec![anti_affinity(HOSTNAME)], 9),
        ("resources, 1 shape", shapes(1), 250),
        ("resources, 16 shapes", shapes(16), 120),
        ("spread over zones", vec![hard], 250),
    ];
    for (name, specs, tenths) in scenes.into_iter().filter(|(name, ..)| name.contains(&word)) {
        let rates: Vec<_> = [1_000, 10_000, 100_000]
            .into_iter()
            .map(|nodes| steady(nodes, &specs, nodes * tenths / 10, Duration::from_secs(1)))
            .collect();
        let [small, middle, large] = rates[..] else { return };
        let _ = writeln!(
            out,
            "{name:<24} placements/s at 1,000 nodes {small:>10.0}, at 10,000 {middle:>10.0}, at 100,000 {large:>10.0}; \
             first to last {:.2}x",
            small / large
        );
    }
}

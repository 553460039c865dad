//! Random clusters, pods and changes. A sequence has a few *themes*: what it is about. Few features at a
//! time, with few values each, meet more often than many would.

use std::collections::BTreeMap;

use gantry_scheduler::core::resources::GPU_MILLI;
use gantry_scheduler::core::spec::{Effect, Operator};
use gantry_scheduler::core::{
    AffinityTerm, Attachment, ClassSpec, DeviceDemand, HostPort, NodeSpec, PodAffinity, PodDemand, PodSelector,
    PreferredTerm, Protocol, Requirement, Resources, Scoring, Spread, SpreadMode, Strategy, Taint, Term, Toleration,
    VolumeNeed, VolumeNeedKind, WeightedAffinityTerm,
};

use super::random::Random;

pub const NODES: usize = 8;
pub const PODS: usize = 12;
const NAMESPACES: [&str; 2] = ["default", "other"];
const HOSTNAME: &str = "kubernetes.io/hostname";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// What happens.
#[derive(Clone, Debug)]
pub enum Step {
    SetNode(NodeSpec),
    RemoveNode(String),
    /// A pod of this class is placed where it is best, and accounted there.
    Place {
        pod: usize,
        class: usize,
    },
    /// Someone else bound it, fitting or not, to a node that may not exist.
    BoundElsewhere {
        pod: usize,
        class: usize,
        node: String,
        devices: Vec<u16>,
    },
    RemovePod(usize),
    /// A placed pod becomes one of another class, or begins to go.
    PodChanges {
        pod: usize,
        class: usize,
        terminating: bool,
    },
    /// A namespace gets other labels, or is gone.
    SetNamespace(&'static str, Option<BTreeMap<String, String>>),
    /// All that can be asked about a class is compared.
    Ask(usize),
}

/// A cluster's history and the classes of pods in it.
#[derive(Clone, Debug)]
pub struct Sequence {
    pub classes: Vec<ClassSpec>,
    pub steps: Vec<Step>,
}

#[derive(Clone, Copy, Debug)]
struct Themes {
    amounts: bool,
    /// Node selectors, node affinity, operating systems, volumes; labels of nodes that change.
    labels: bool,
    taints: bool,
    ports: bool,
    /// Affinity and anti-affinity between pods.
    company: bool,
    /// Selectors of namespaces, whose labels change.
    namespaces: bool,
    spread: bool,
    devices: bool,
    scoring: bool,
    /// Volumes that are attached, and claims for one pod at a time.
    attachments: bool,
}

impl Themes {
    fn new(random: &mut Random) -> Themes {
        let all = random.chance(1, 10);
        let mut some = |part| all || random.chance(part, 10);
        let mut themes = Themes {
            amounts: some(4),
            labels: some(3),
            taints: some(2),
            ports: some(1),
            company: some(4),
            namespaces: some(4),
            spread: some(3),
            devices: some(3),
            scoring: some(2),
            attachments: some(1),
        };
        // Selectors of namespaces are part of terms about other pods.
        themes.company |= themes.namespaces;
        themes
    }
}

/// The sequence of a seed.
pub fn sequence(seed: u64) -> Sequence {
    let random = &mut Random::new(seed);
    let themes = Themes::new(random);
    let classes = random.several(1, 3, |random| class(random, themes));
    let names = 1 + random.below(5);
    let mut steps = random.several(1, 4, |random| Step::SetNode(node(random, themes, names)));
    let length = random.within(4, 12);
    for _ in 0..length {
        steps.push(step(random, themes, names, classes.len()));
        // What was worked out before a change is what may be wrong after it.
        if random.chance(1, 5) {
            steps.push(Step::Ask(random.below(classes.len())));
        }
    }
    Sequence { classes, steps }
}

fn step(random: &mut Random, themes: Themes, names: usize, classes: usize) -> Step {
    let pod = random.below(PODS);
    let class = random.below(classes);
    match random.below(20) {
        0..=2 => Step::SetNode(node(random, themes, names)),
        3 => Step::RemoveNode(name(random.below(names))),
        4..=11 => Step::Place { pod, class },
        12 => {
            let devices = if random.chance(1, 2) { Vec::new() } else { vec![random.below(4) as u16] };
            Step::BoundElsewhere { pod, class, node: name(random.below(names + 1)), devices }
        }
        13..=15 => Step::RemovePod(pod),
        16 => Step::PodChanges { pod, class, terminating: random.chance(1, 2) },
        17 | 18 if themes.namespaces => {
            let labels = (!random.chance(1, 4)).then(|| pod_labels(random));
            Step::SetNamespace(random.pick(&NAMESPACES), labels)
        }
        _ => Step::Ask(class),
    }
}

/// Names whose order differs from that in which they tend to come.
fn name(index: usize) -> String {
    ["n3", "n10", "n1", "a", "zz", "n2", "m", "n20"][index % NODES].to_owned()
}

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn node(random: &mut Random, themes: Themes, names: usize) -> NodeSpec {
    let index = random.below(names);
    let mut labels = BTreeMap::new();
    if themes.labels || themes.company || themes.spread {
        for (key, values) in [("zone", ["a", "b"]), ("size", ["5", "big"])] {
            if random.chance(3, 4) {
                labels.insert(key.to_owned(), random.pick(&values).to_owned());
            }
        }
    }
    if themes.labels && random.chance(3, 4) {
        labels.insert("kubernetes.io/os".to_owned(), random.pick(&["linux", "windows"]).to_owned());
    }
    if index != 3 {
        // One node has no name of its own to others, and two share one.
        labels.insert(HOSTNAME.to_owned(), name(if index == 5 { 4 } else { index }));
    }
    let mut allocatable = amounts(random, themes);
    allocatable.milli_cpu = allocatable.milli_cpu * 2 + 1_000;
    allocatable.memory = allocatable.memory * 2 + (1 << 30);
    allocatable.pods = random.within(0, 6);
    let devices = if themes.devices { random.below(4) as u16 } else { 0 };
    if devices > 0 {
        allocatable.extended.insert(GPU_MILLI.to_owned(), i64::from(devices) * 1_000);
    }
    let taints = if themes.taints && random.chance(1, 2) { random.several(1, 2, taint) } else { Vec::new() };
    NodeSpec {
        name: name(index),
        labels,
        taints,
        unschedulable: random.chance(1, if themes.taints { 6 } else { 20 }),
        allocatable,
        devices,
        attach_limits: if themes.attachments { attach_limits(random) } else { BTreeMap::new() },
    }
}

fn attach_limits(random: &mut Random) -> BTreeMap<String, i64> {
    let limit = |random: &mut Random| (random.pick(&["disk", "share"]).to_owned(), random.within(0, 3));
    random.several(0, 2, limit).into_iter().collect()
}

fn attachments(random: &mut Random) -> Vec<Attachment> {
    let attachment = |random: &mut Random| {
        let volume = random.pick(&["a", "b", "c"]).to_owned();
        Attachment { driver: random.pick(&["disk", "disk", "share", "boundless"]).to_owned(), volume }
    };
    let all: std::collections::BTreeSet<_> = random.several(0, 3, attachment).into_iter().collect();
    all.into_iter().collect()
}

fn amounts(random: &mut Random, themes: Themes) -> Resources {
    let mut amounts = Resources { milli_cpu: random.within(0, 3) * 500, ..Resources::default() };
    if themes.amounts {
        amounts.memory = random.within(0, 4) << 30;
        amounts.ephemeral_storage = random.within(0, 2) << 30;
        // More names than stand in a node's row.
        for name in ["example.com/a", "example.com/b", "example.com/gpu", "example.com/other"] {
            if random.chance(1, 3) {
                amounts.extended.insert(name.to_owned(), random.within(0, 2));
            }
        }
    }
    amounts
}

fn effect(random: &mut Random) -> Effect {
    random.pick(&[Effect::NoSchedule, Effect::PreferNoSchedule, Effect::NoExecute])
}

fn taint(random: &mut Random) -> Taint {
    let key = random.pick(&["k", "l", UNSCHEDULABLE]).to_owned();
    Taint { key, value: random.pick(&["", "v"]).to_owned(), effect: effect(random) }
}

fn toleration(random: &mut Random) -> Toleration {
    Toleration {
        key: random.pick(&["", "k", "l", UNSCHEDULABLE]).to_owned(),
        exists: random.chance(1, 2),
        value: random.pick(&["", "v"]).to_owned(),
        effect: random.chance(1, 2).then(|| effect(random)),
    }
}

fn pod_labels(random: &mut Random) -> BTreeMap<String, String> {
    random.pick(&[map(&[]), map(&[("app", "a")]), map(&[("app", "b")])])
}

fn pod_requirement(random: &mut Random) -> Requirement {
    let operator = random.pick(&[Operator::In, Operator::In, Operator::NotIn, Operator::Exists]);
    let values = if operator == Operator::Exists { Vec::new() } else { vec![random.pick(&["a", "b"]).to_owned()] };
    Requirement { key: "app".to_owned(), operator, values }
}

fn pod_selector(random: &mut Random, themes: Themes) -> PodSelector {
    let named = if themes.namespaces { 0 } else { 1 };
    PodSelector {
        namespaces: random.several(named, 2, |random| random.pick(&NAMESPACES).to_owned()).into_iter().collect(),
        namespace_selector: (themes.namespaces && random.chance(2, 3)).then(|| random.several(0, 1, pod_requirement)),
        labels: (!random.chance(1, 9)).then(|| random.several(0, 1, pod_requirement)),
    }
}

fn topology_key(random: &mut Random) -> String {
    random.pick(&["zone", "size", HOSTNAME]).to_owned()
}

fn affinity_term(random: &mut Random, themes: Themes) -> AffinityTerm {
    AffinityTerm { selector: pod_selector(random, themes), topology_key: topology_key(random) }
}

fn pod_affinity(random: &mut Random, themes: Themes) -> PodAffinity {
    let seldom = |random: &mut Random| if random.chance(1, 2) { 2 } else { 0 };
    let weighted = |random: &mut Random| WeightedAffinityTerm {
        weight: random.within(1, 100) as i32,
        term: affinity_term(random, themes),
    };
    let most = [seldom(random), seldom(random), seldom(random), seldom(random)];
    PodAffinity {
        required: random.several(0, most[0] / 2, |random| affinity_term(random, themes)),
        preferred: random.several(0, most[1], weighted),
        anti_required: random.several(0, most[2], |random| affinity_term(random, themes)),
        anti_preferred: random.several(0, most[3], weighted),
    }
}

fn spread(random: &mut Random, themes: Themes) -> Vec<Spread> {
    let default = random.chance(1, 4);
    random.several(1, 3, |random| {
        let selector = PodSelector { namespace_selector: None, ..pod_selector(random, themes) };
        let mode = random.pick(&[SpreadMode::DoNotSchedule, SpreadMode::ScheduleAnyway]);
        Spread {
            selector,
            topology_key: topology_key(random),
            max_skew: random.within(1, 2) as i32,
            min_domains: random.within(1, 3) as i32,
            honors_affinity: random.chance(1, 2),
            honors_taints: random.chance(1, 2),
            mode: if default { SpreadMode::Default } else { mode },
        }
    })
}

fn requirement(random: &mut Random) -> Requirement {
    use Operator::{DoesNotExist, Exists, Gt, In, Lt, NotIn, Unknown};
    Requirement {
        key: random.pick(&["zone", "size", "other"]).to_owned(),
        operator: random.pick(&[In, In, In, NotIn, Exists, DoesNotExist, Gt, Lt, Unknown]),
        values: random.several(0, 2, |random| random.pick(&["a", "b", "4", "big"]).to_owned()),
    }
}

fn field(random: &mut Random) -> Requirement {
    Requirement {
        key: "metadata.name".to_owned(),
        operator: random.pick(&[Operator::In, Operator::In, Operator::NotIn, Operator::Exists]),
        values: random.several(0, 2, |random| name(random.below(NODES))),
    }
}

fn term(random: &mut Random) -> Term {
    let fields = if random.chance(1, 4) { random.several(1, 2, field) } else { Vec::new() };
    Term { expressions: random.several(0, 2, requirement), fields }
}

fn port(random: &mut Random) -> HostPort {
    HostPort {
        protocol: random.pick(&[Protocol::Tcp, Protocol::Udp]),
        port: random.within(80, 81) as u16,
        ip: random.pick(&["0.0.0.0", "127.0.0.1", "10.0.0.1"]).to_owned(),
    }
}

fn demand(random: &mut Random, themes: Themes) -> PodDemand {
    let mut requests = amounts(random, themes);
    requests.extended.retain(|_, amount| *amount != 1);
    let devices = match random.below(if themes.devices { 4 } else { 1 }) {
        0 => DeviceDemand::default(),
        1 => DeviceDemand::whole(1 + random.below(2) as u16),
        _ => DeviceDemand::share(random.pick(&[100, 300, 500, 700])),
    };
    if devices.is_share() {
        requests.extended.insert(GPU_MILLI.to_owned(), devices.total());
    }
    PodDemand {
        scoring_milli_cpu: requests.milli_cpu.max(100),
        scoring_memory: requests.memory.max(200 << 20),
        requests,
        ports: if themes.ports && random.chance(2, 3) { random.several(1, 2, port) } else { Vec::new() },
        devices,
        attachments: if themes.attachments { attachments(random) } else { Vec::new() },
        exclusive: if themes.attachments && random.chance(1, 4) {
            vec![random.pick(&["default/a", "default/b"]).to_owned()]
        } else {
            Vec::new()
        },
    }
}

fn class(random: &mut Random, themes: Themes) -> ClassSpec {
    let mut class = ClassSpec {
        demand: demand(random, themes),
        namespace: random.pick(&NAMESPACES).to_owned(),
        labels: pod_labels(random),
        scoring: if themes.scoring { scoring(random) } else { Scoring::default() },
        ..ClassSpec::default()
    };
    if themes.labels {
        if random.chance(1, 4) {
            class.node_selector = random.pick(&[map(&[("zone", "a")]), map(&[("zone", "b"), ("size", "5")])]);
        }
        class.required = random.chance(1, 3).then(|| random.several(0, 2, term));
        let preferred =
            |random: &mut Random| PreferredTerm { weight: random.within(1, 100) as i32, term: term(random) };
        class.preferred = random.several(0, 2, preferred);
        class.os = random.pick(&[None, None, Some("linux".to_owned()), Some("windows".to_owned())]);
        if random.chance(1, 4) {
            class.volumes = random.several(1, 2, volume_need);
        }
        class.node_name = random.chance(1, 12).then(|| name(random.below(NODES)));
    }
    if themes.taints {
        class.tolerations = random.several(0, 2, toleration);
    }
    if themes.company && random.chance(4, 5) {
        class.pod_affinity = pod_affinity(random, themes);
    }
    if themes.spread && random.chance(4, 5) {
        class.spread = spread(random, themes);
    }
    class
}

fn volume_need(random: &mut Random) -> VolumeNeed {
    use VolumeNeedKind::{Find, Gone, Reach, Room, Zone};
    VolumeNeed {
        kind: random.pick(&[Reach, Reach, Zone, Zone, Find, Find, Room, Room, Gone]),
        terms: random.several(0, 2, term),
    }
}

fn scoring(random: &mut Random) -> Scoring {
    let shape = vec![(0, 100), (40, 0), (90, 70)];
    let strategy = random.pick(&[
        Strategy::BinPacking,
        Strategy::Fragmentation,
        Strategy::BestFit,
        Strategy::DotProduct,
        Strategy::MostAllocated,
        Strategy::LeastAllocated,
        Strategy::RequestedToCapacityRatio(shape),
    ]);
    if matches!(strategy, Strategy::BinPacking | Strategy::Fragmentation) {
        return Scoring { strategy, resources: Vec::new() };
    }
    let resource = |random: &mut Random| {
        let name = random.pick(&["cpu", "memory", "ephemeral-storage", GPU_MILLI, "example.com/gpu"]);
        (name.to_owned(), random.within(1, 3))
    };
    Scoring { strategy, resources: random.several(1, 2, resource) }
}

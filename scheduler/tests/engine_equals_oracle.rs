//! The engine against the oracle: the same feasible nodes, the same best node, the same reasons
//! with the same counts, after every step of random sequences of changes.

use std::collections::BTreeMap;

use gantry_scheduler::core::oracle::Oracle;
use gantry_scheduler::core::spec::{Effect, Operator};
use gantry_scheduler::core::{
    AffinityTerm, ClassSpec, Engine, HostPort, NodeSpec, PodAffinity, PodDemand, PodKey, PodSelector, PreferredTerm,
    Protocol, Requirement, Resources, Scoring, Spread, SpreadMode, Standing, Taint, Term, Toleration, VolumeNeed,
    VolumeNeedKind, WeightedAffinityTerm,
};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    SetNode(NodeSpec),
    RemoveNode(usize),
    /// Place a pod of this class by asking, and account it.
    Place {
        pod: u8,
        class: usize,
    },
    /// Someone else bound it, fitting or not, to a node that may not exist.
    BoundElsewhere {
        pod: u8,
        class: usize,
        node: usize,
    },
    RemovePod(u8),
    /// A placed pod changes its labels, or begins to go.
    PodChanges {
        pod: u8,
        class: usize,
        terminating: bool,
    },
    /// A namespace gets other labels, or is gone.
    SetNamespace(&'static str, Option<BTreeMap<String, String>>),
    /// Compare everything for this class.
    Ask(usize),
}

fn name(index: usize) -> String {
    // Names whose order differs from the order in which they tend to come.
    ["n3", "n10", "n1", "a", "zz", "n2", "m", "n20"][index % 8].to_owned()
}

fn labels() -> impl Strategy<Value = BTreeMap<String, String>> {
    let zone = prop::option::of(prop::sample::select(vec!["a", "b"]));
    let size = prop::option::of(prop::sample::select(vec!["1", "5", "9", "big"]));
    let os = prop::option::of(prop::sample::select(vec!["linux", "windows"]));
    (zone, size, os).prop_map(|(zone, size, os)| {
        let pairs = [("zone", zone), ("size", size), ("kubernetes.io/os", os)];
        pairs.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?.to_owned()))).collect()
    })
}

const NAMESPACES: [&str; 2] = ["default", "other"];

fn pod_labels() -> impl Strategy<Value = BTreeMap<String, String>> {
    let app = prop::option::of(prop::sample::select(vec!["a", "b"]));
    app.prop_map(|app| app.into_iter().map(|app| ("app".to_owned(), app.to_owned())).collect())
}

fn pod_requirement() -> impl Strategy<Value = Requirement> {
    let operator = prop::sample::select(vec![Operator::In, Operator::In, Operator::NotIn, Operator::Exists]);
    (operator, prop::sample::select(vec!["a", "b"])).prop_map(|(operator, value)| Requirement {
        key: "app".into(),
        operator,
        values: if operator == Operator::Exists { Vec::new() } else { vec![value.into()] },
    })
}

fn pod_selector() -> impl Strategy<Value = PodSelector> {
    let namespaces = prop::collection::btree_set(prop::sample::select(NAMESPACES.to_vec()), 0..3);
    let by_labels = prop_oneof![
        3 => Just(None),
        1 => prop::collection::vec(pod_requirement(), 0..2).prop_map(Some),
    ];
    let labels = prop_oneof![1 => Just(None), 8 => prop::collection::vec(pod_requirement(), 0..2).prop_map(Some)];
    (namespaces, by_labels, labels).prop_map(|(namespaces, namespace_selector, labels)| PodSelector {
        namespaces: namespaces.into_iter().map(String::from).collect(),
        namespace_selector,
        labels,
    })
}

fn topology_key() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["zone", "size", "kubernetes.io/hostname"]).prop_map(String::from)
}

fn affinity_term() -> impl Strategy<Value = AffinityTerm> {
    (pod_selector(), topology_key()).prop_map(|(selector, topology_key)| AffinityTerm { selector, topology_key })
}

/// None mostly, or up to two.
fn few<S: Strategy>(what: S) -> impl Strategy<Value = Vec<S::Value>>
where
    S::Value: Clone,
{
    prop_oneof![3 => Just(Vec::new()), 1 => prop::collection::vec(what, 1..3)]
}

fn pod_affinity() -> impl Strategy<Value = PodAffinity> {
    let weighted = || few((1..=100, affinity_term()).prop_map(|(weight, term)| WeightedAffinityTerm { weight, term }));
    (few(affinity_term()), weighted(), few(affinity_term()), weighted()).prop_map(
        |(required, preferred, anti_required, anti_preferred)| PodAffinity {
            required,
            preferred,
            anti_required,
            anti_preferred,
        },
    )
}

fn spread() -> impl Strategy<Value = Vec<Spread>> {
    let mode = prop::sample::select(vec![SpreadMode::DoNotSchedule, SpreadMode::ScheduleAnyway]);
    let one = (pod_selector(), topology_key(), 1..3, 1..4, any::<bool>(), any::<bool>(), mode)
        .prop_map(|(mut selector, topology_key, max_skew, min_domains, honors_affinity, honors_taints, mode)| {
            selector.namespace_selector = None;
            Spread { selector, topology_key, max_skew, min_domains, honors_affinity, honors_taints, mode }
        })
        .boxed();
    let default = |spread: Spread| Spread { mode: SpreadMode::Default, ..spread };
    prop_oneof![
        2 => Just(Vec::new()),
        2 => prop::collection::vec(one.clone(), 1..4),
        1 => prop::collection::vec(one.prop_map(default), 1..3),
    ]
}

fn effect() -> impl Strategy<Value = Effect> {
    prop::sample::select(vec![Effect::NoSchedule, Effect::PreferNoSchedule, Effect::NoExecute])
}

fn taint() -> impl Strategy<Value = Taint> {
    let key = prop::sample::select(vec!["k", "l", "node.kubernetes.io/unschedulable"]);
    (key, prop::sample::select(vec!["", "v"]), effect()).prop_map(|(key, value, effect)| Taint {
        key: key.into(),
        value: value.into(),
        effect,
    })
}

fn amounts() -> impl Strategy<Value = Resources> {
    (0..5i64, 0..5i64, 0..3i64, prop::option::of(0..3i64), prop::option::of(1..3i64)).prop_map(
        |(cpu, memory, disk, gpu, other)| {
            // More names than stand in a node's row.
            let extended = [
                ("example.com/a", gpu),
                ("example.com/b", other),
                ("example.com/gpu", gpu),
                ("example.com/other", other),
            ];
            Resources {
                milli_cpu: cpu * 500,
                memory: memory << 30,
                ephemeral_storage: disk << 30,
                pods: 0,
                extended: extended.into_iter().filter_map(|(name, amount)| Some((name.to_owned(), amount?))).collect(),
            }
        },
    )
}

fn node() -> impl Strategy<Value = NodeSpec> {
    let taints = prop::collection::vec(taint(), 0..3);
    let few = prop_oneof![3 => Just(Vec::new()), 2 => taints];
    (0..8usize, labels(), few, prop::bool::weighted(0.1), amounts(), 0..6i64).prop_map(
        |(index, labels, taints, unschedulable, mut allocatable, pods)| {
            allocatable.pods = pods;
            allocatable.milli_cpu *= 2;
            allocatable.memory *= 2;
            let mut labels = labels;
            if index != 3 {
                // One node has no name of its own to others, and two share one.
                labels.insert("kubernetes.io/hostname".into(), name(if index == 5 { 4 } else { index }));
            }
            NodeSpec { name: name(index), labels, taints, unschedulable, allocatable }
        },
    )
}

fn operator() -> impl Strategy<Value = Operator> {
    use Operator::{DoesNotExist, Exists, Gt, In, Lt, NotIn, Unknown};
    prop::sample::select(vec![In, In, NotIn, Exists, DoesNotExist, Gt, Lt, Unknown])
}

fn requirement() -> impl Strategy<Value = Requirement> {
    let values = prop::collection::vec(prop::sample::select(vec!["a", "b", "1", "4", "big"]), 0..3);
    (prop::sample::select(vec!["zone", "size", "other"]), operator(), values).prop_map(|(key, operator, values)| {
        Requirement { key: key.into(), operator, values: values.into_iter().map(String::from).collect() }
    })
}

fn field() -> impl Strategy<Value = Requirement> {
    let operator = prop::sample::select(vec![Operator::In, Operator::In, Operator::NotIn, Operator::Exists]);
    (operator, prop::collection::vec(0..8usize, 0..3)).prop_map(|(operator, names)| Requirement {
        key: "metadata.name".into(),
        operator,
        values: names.into_iter().map(name).collect(),
    })
}

fn term() -> impl Strategy<Value = Term> {
    let fields = prop_oneof![3 => Just(Vec::new()), 1 => prop::collection::vec(field(), 0..3)];
    (prop::collection::vec(requirement(), 0..3), fields).prop_map(|(expressions, fields)| Term { expressions, fields })
}

fn toleration() -> impl Strategy<Value = Toleration> {
    let key = prop::sample::select(vec!["", "k", "l", "node.kubernetes.io/unschedulable"]);
    (key, any::<bool>(), prop::sample::select(vec!["", "v"]), prop::option::of(effect()))
        .prop_map(|(key, exists, value, effect)| Toleration { key: key.into(), exists, value: value.into(), effect })
}

fn ports() -> impl Strategy<Value = Vec<HostPort>> {
    let protocol = prop::sample::select(vec![Protocol::Tcp, Protocol::Udp]);
    let ip = prop::sample::select(vec!["0.0.0.0", "127.0.0.1", "10.0.0.1"]);
    let port = (protocol, 80..82u16, ip).prop_map(|(protocol, port, ip)| HostPort { protocol, port, ip: ip.into() });
    prop_oneof![3 => Just(Vec::new()), 1 => prop::collection::vec(port, 1..3)]
}

fn os() -> impl Strategy<Value = Option<String>> {
    prop::sample::select(vec![None, None, Some("linux".to_owned()), Some("windows".to_owned())])
}

fn volumes() -> impl Strategy<Value = Vec<VolumeNeed>> {
    use VolumeNeedKind::{Find, Gone, Reach, Zone};
    let kind = prop::sample::select(vec![Reach, Reach, Zone, Zone, Find, Find, Gone]);
    let need = (kind, prop::collection::vec(term(), 0..3)).prop_map(|(kind, terms)| VolumeNeed { kind, terms });
    prop_oneof![4 => Just(Vec::new()), 1 => prop::collection::vec(need, 1..3)]
}

fn class() -> impl Strategy<Value = ClassSpec> {
    let demand = (amounts(), ports()).prop_map(|(mut requests, ports)| {
        requests.extended.retain(|_, amount| *amount != 1);
        PodDemand {
            scoring_milli_cpu: requests.milli_cpu.max(100),
            scoring_memory: requests.memory.max(200 << 20),
            requests,
            ports,
        }
    });
    let selector = prop_oneof![3 => Just(BTreeMap::new()), 1 => labels()];
    let required = prop_oneof![2 => Just(None), 1 => prop::collection::vec(term(), 0..3).prop_map(Some)];
    let weighted = (1..=100, term()).prop_map(|(weight, term)| PreferredTerm { weight, term });
    let node_name = prop_oneof![9 => Just(None), 1 => (0..8usize).prop_map(|index| Some(name(index)))];
    (
        node_name,
        selector,
        required,
        prop::collection::vec(weighted, 0..3),
        prop::collection::vec(toleration(), 0..3),
        demand,
        (prop::sample::select(NAMESPACES.to_vec()), pod_labels(), os(), volumes()),
        prop_oneof![1 => Just(PodAffinity::default()), 2 => pod_affinity()],
        (spread(), scoring()),
    )
        .prop_map(
            |(node_name, node_selector, required, preferred, tolerations, demand, own, affinity, (spread, scoring))| {
                ClassSpec {
                    node_name,
                    os: own.2,
                    volumes: own.3,
                    node_selector,
                    required,
                    preferred,
                    tolerations,
                    demand,
                    namespace: own.0.into(),
                    labels: own.1,
                    pod_affinity: affinity,
                    spread,
                    scoring,
                }
            },
        )
}

fn scoring() -> impl Strategy<Value = Scoring> {
    use gantry_scheduler::core::Strategy as Way;
    let shape = vec![(0, 100), (40, 0), (90, 70)];
    let way = prop::sample::select(vec![Way::MostAllocated, Way::LeastAllocated, Way::RequestedToCapacityRatio(shape)]);
    let resource = prop::sample::select(vec!["cpu", "memory", "ephemeral-storage", "example.com/gpu"]);
    let resources = prop::collection::vec((resource.prop_map(String::from), 1..4i64), 1..3);
    prop_oneof![
        1 => Just(Scoring::default()),
        1 => (way, resources).prop_map(|(strategy, resources)| Scoring { strategy, resources }),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => node().prop_map(Step::SetNode),
        1 => (0..8usize).prop_map(Step::RemoveNode),
        6 => (any::<u8>(), any::<usize>()).prop_map(|(pod, class)| Step::Place { pod, class }),
        1 => (any::<u8>(), any::<usize>(), 0..8usize)
            .prop_map(|(pod, class, node)| Step::BoundElsewhere { pod, class, node }),
        3 => any::<u8>().prop_map(|pod| Step::RemovePod(pod % 32)),
        1 => (any::<u8>(), any::<usize>(), any::<bool>())
            .prop_map(|(pod, class, terminating)| Step::PodChanges { pod: pod % 32, class, terminating }),
        1 => (prop::sample::select(NAMESPACES.to_vec()), prop::option::of(pod_labels()))
            .prop_map(|(name, labels)| Step::SetNamespace(name, labels)),
        3 => any::<usize>().prop_map(Step::Ask),
    ]
}

struct Pair {
    engine: Engine,
    oracle: Oracle,
    classes: Vec<ClassSpec>,
}

impl Pair {
    fn apply(&mut self, step: Step) {
        match step {
            Step::SetNode(node) => {
                self.engine.set_node(node.clone());
                self.oracle.set_node(node);
            }
            Step::RemoveNode(index) => {
                self.engine.remove_node(&name(index));
                self.oracle.remove_node(&name(index));
            }
            Step::Place { pod, class } => {
                let spec = self.classes[class % self.classes.len()].clone();
                self.remove(pod % 32);
                let id = self.engine.acquire(&spec);
                let expected = self.oracle.best(&spec);
                let placed = self.engine.place(id);
                let node = placed.map(|node| self.engine.node_name(node).to_string());
                assert_eq!(node, expected, "best node for {spec:?}");
                if let (Some(id_of_node), Some(node)) = (placed, node) {
                    self.engine.assume(PodKey(u128::from(pod % 32)), id, id_of_node, 0);
                    self.oracle.add_pod(PodKey(u128::from(pod % 32)), &node, spec, false);
                }
                self.engine.release(id);
            }
            Step::BoundElsewhere { pod, class, node } => {
                let spec = self.classes[class % self.classes.len()].clone();
                self.remove(pod % 32);
                let key = PodKey(u128::from(pod % 32));
                self.engine.add_pod(key, &name(node), &spec, Standing::default());
                self.oracle.add_pod(key, &name(node), spec, false);
            }
            Step::PodChanges { pod, class, terminating } => {
                let spec = self.classes[class % self.classes.len()].clone();
                let key = PodKey(u128::from(pod));
                if let Some(node) = self.engine.node_of(key).map(String::from) {
                    self.engine.add_pod(key, &node, &spec, Standing { terminating, ..Standing::default() });
                    self.oracle.add_pod(key, &node, spec, terminating);
                }
            }
            Step::SetNamespace(name, labels) => {
                match labels.clone() {
                    Some(labels) => self.engine.set_namespace(name, labels),
                    None => self.engine.remove_namespace(name),
                };
                self.oracle.set_namespace(name, labels);
            }
            Step::RemovePod(pod) => self.remove(pod),
            Step::Ask(class) => self.compare(class % self.classes.len()),
        }
    }

    fn remove(&mut self, pod: u8) {
        self.engine.remove_pod(PodKey(u128::from(pod)));
        self.oracle.remove_pod(PodKey(u128::from(pod)));
    }

    fn compare(&mut self, class: usize) {
        let spec = &self.classes[class];
        let id = self.engine.acquire(spec);
        let expected = self.oracle.verdicts(spec);

        let explanation = self.engine.explain(id);
        let got: Vec<_> = explanation
            .nodes
            .iter()
            .map(|(name, verdict)| {
                let verdict = verdict.as_ref().map(|verdict| {
                    let text = |reason: &gantry_scheduler::core::Reason| {
                        reason.text(|resource| self.engine.resource_name(resource).to_owned())
                    };
                    let mut texts: Vec<_> = verdict.reasons.iter().map(text).collect();
                    texts.sort();
                    (texts, verdict.unresolvable)
                });
                (name.to_string(), verdict)
            })
            .collect();
        let wanted: Vec<_> = expected
            .iter()
            .map(|(name, refusal)| {
                let refusal = refusal.clone().map(|refusal| {
                    let mut texts = refusal.reasons;
                    texts.sort();
                    (texts, refusal.unresolvable)
                });
                (name.clone(), refusal)
            })
            .collect();
        assert_eq!(got, wanted, "verdicts for {spec:?}");

        let diagnosis = self.engine.diagnose(id);
        assert_eq!(diagnosis.nodes, expected.len());
        if diagnosis.conflict.is_none() {
            let mut counts = BTreeMap::new();
            for text in expected.iter().filter_map(|(_, refusal)| refusal.as_ref()).flat_map(|one| &one.reasons) {
                *counts.entry(text.clone()).or_insert(0usize) += 1;
            }
            assert_eq!(diagnosis.reasons, counts, "counted reasons for {spec:?}");
        }
        let feasible = expected.iter().filter(|(_, refusal)| refusal.is_none()).count();
        assert_eq!(diagnosis.feasible, feasible);

        let best = self.engine.place(id).map(|node| self.engine.node_name(node).to_string());
        assert_eq!(best, self.oracle.best(spec), "best node for {spec:?}");
        self.engine.release(id);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn engine_equals_oracle(
        classes in prop::collection::vec(class(), 1..5),
        nodes in prop::collection::vec(node(), 0..6),
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let mut pair = Pair { engine: Engine::new(), oracle: Oracle::default(), classes };
        for node in nodes {
            pair.apply(Step::SetNode(node));
        }
        for step in steps {
            pair.apply(step);
        }
        for class in 0..pair.classes.len() {
            pair.compare(class);
        }
    }
}

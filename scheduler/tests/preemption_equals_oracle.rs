//! Preemption and nominated pods, the engine against the oracle: the same node, the same victims and the
//! same reasons, after every step of random sequences.

use std::collections::{BTreeMap, BTreeSet};

use gantry_scheduler::core::oracle::Oracle;
use gantry_scheduler::core::spec::Operator;
use gantry_scheduler::core::{
    AffinityTerm, Ask, Attachment, Budget, Budgets, ClassSpec, DeviceDemand, Engine, HostPort, NodeSpec, PodAffinity,
    PodDemand, PodKey, PodSelector, Preemption, Protocol, Requirement, Resources, Scoring, Spread, SpreadMode,
    Standing, Taint,
};
use proptest::prelude::*;

const NODES: usize = 5;
const PODS: u8 = 24;

fn name(index: usize) -> String {
    ["n3", "n10", "n1", "a", "zz"][index % NODES].to_owned()
}

fn key(pod: u8) -> PodKey {
    PodKey(u128::from(pod % PODS) + 1)
}

fn pod_name(pod: u8) -> String {
    format!("p{}", pod % PODS)
}

fn node() -> impl Strategy<Value = NodeSpec> {
    let zone = prop::sample::select(vec!["a", "b"]);
    (0..NODES, zone, 2..7i64, 1..6i64, 2..9i64, prop::bool::weighted(0.1)).prop_map(
        |(index, zone, cpu, gpu, pods, tainted)| {
            let labels = [("zone", zone.to_owned()), ("kubernetes.io/hostname", name(index))];
            let taint = Taint {
                key: "k".into(),
                value: String::new(),
                effect: gantry_scheduler::core::spec::Effect::NoSchedule,
            };
            NodeSpec {
                name: name(index),
                labels: labels.map(|(key, value)| (key.to_owned(), value)).into(),
                taints: if tainted { vec![taint] } else { Vec::new() },
                unschedulable: false,
                allocatable: Resources {
                    milli_cpu: cpu * 1_000,
                    memory: 8 << 30,
                    pods,
                    extended: [("example.com/gpu".to_owned(), gpu)].into(),
                    ..Resources::default()
                },
                devices: gpu as u16 % 4,
                // Few enough that it matters.
                attach_limits: [("disk".to_owned(), gpu - 1)].into(),
            }
        },
    )
}

fn selector() -> impl Strategy<Value = PodSelector> {
    prop::sample::select(vec!["a", "b"]).prop_map(|app| PodSelector {
        namespaces: ["default".to_owned()].into(),
        namespace_selector: None,
        labels: Some(vec![Requirement { key: "app".into(), operator: Operator::In, values: vec![app.into()] }]),
    })
}

fn term() -> impl Strategy<Value = AffinityTerm> {
    let key = prop::sample::select(vec!["zone", "kubernetes.io/hostname"]);
    (selector(), key).prop_map(|(selector, key)| AffinityTerm { selector, topology_key: key.into() })
}

fn seldom<S: Strategy>(what: S) -> impl Strategy<Value = Vec<S::Value>>
where
    S::Value: Clone,
{
    prop_oneof![5 => Just(Vec::new()), 1 => prop::collection::vec(what, 1..2)]
}

fn spread() -> impl Strategy<Value = Spread> {
    let key = prop::sample::select(vec!["zone", "kubernetes.io/hostname"]);
    (selector(), key, 1..3).prop_map(|(selector, key, max_skew)| Spread {
        selector,
        topology_key: key.into(),
        max_skew,
        min_domains: 1,
        honors_affinity: true,
        honors_taints: false,
        mode: SpreadMode::DoNotSchedule,
    })
}

fn class() -> impl Strategy<Value = ClassSpec> {
    let ports =
        seldom((80..82u16).prop_map(|port| HostPort { protocol: Protocol::Tcp, port, ip: HostPort::ANY.into() }));
    let app = prop::option::of(prop::sample::select(vec!["a", "b"]));
    let volume = prop::sample::select(vec!["a", "b", "c"]);
    let attachments = seldom(volume.prop_map(|name| Attachment { driver: "disk".into(), volume: name.into() }));
    let exclusive = seldom(prop::sample::select(vec!["default/a", "default/b"]).prop_map(str::to_owned));
    (1..4i64, 0..3i64, ports, app, seldom(term()), seldom(term()), seldom(spread()), (attachments, exclusive)).prop_map(
        |(cpu, gpu, ports, app, required, anti_required, spread, (attachments, exclusive))| ClassSpec {
            demand: PodDemand {
                requests: Resources {
                    milli_cpu: cpu * 1_000,
                    extended: [("example.com/gpu".to_owned(), gpu)].into(),
                    ..Resources::default()
                },
                scoring_milli_cpu: cpu * 1_000,
                scoring_memory: 200 << 20,
                ports,
                devices: match gpu {
                    0 => DeviceDemand::default(),
                    1 => DeviceDemand::share(300 * cpu as u16),
                    _ => DeviceDemand::whole(cpu as u16 % 3),
                },
                attachments,
                exclusive,
            },
            namespace: "default".into(),
            labels: app.into_iter().map(|app| ("app".to_owned(), app.to_owned())).collect(),
            pod_affinity: PodAffinity { required, anti_required, ..PodAffinity::default() },
            spread,
            // What is learnt of pods to come has no part in this.
            scoring: Scoring {
                strategy: gantry_scheduler::core::Strategy::MostAllocated,
                resources: vec![("cpu".to_owned(), 1)],
            },
            ..ClassSpec::default()
        },
    )
}

fn budgets() -> impl Strategy<Value = Budgets> {
    let one = (prop::option::of(selector()), 0..3i64, prop::collection::vec(any::<u8>(), 0..2)).prop_map(
        |(selector, allowed, disrupted)| Budget {
            selector: selector.map(|selector| selector.labels.unwrap_or_default()),
            allowed,
            disrupted: disrupted.into_iter().map(pod_name).collect::<BTreeSet<_>>(),
        },
    );
    prop::collection::vec(one, 0..3).prop_map(|budgets| {
        let named = budgets.into_iter().enumerate().map(|(index, budget)| (format!("b{index}"), budget));
        [("default".to_owned(), named.collect())].into()
    })
}

fn priority() -> impl Strategy<Value = i32> {
    prop::sample::select(vec![-10, 0, 0, 5, 5, 100, i32::MAX])
}

#[derive(Clone, Debug)]
enum Step {
    SetNode(NodeSpec),
    RemoveNode(usize),
    /// Ask for a node and take it; if there is none make room, if that helps, and wait for it.
    Ask {
        pod: u8,
        class: usize,
        priority: i32,
    },
    /// A pod is on a node, fitting or not.
    There {
        pod: u8,
        class: usize,
        node: usize,
        standing: Standing,
    },
    Gone(u8),
    /// The pod waits for a node, for whatever reason.
    Waits {
        pod: u8,
        class: usize,
        node: usize,
        priority: i32,
    },
    SetBudgets(Budgets),
}

fn step() -> impl Strategy<Value = Step> {
    let standing = (priority(), any::<bool>(), prop::option::of(0..4i64))
        .prop_map(|(priority, terminating, started)| Standing { priority, terminating, preempted: false, started });
    prop_oneof![
        1 => node().prop_map(Step::SetNode),
        1 => (0..NODES).prop_map(Step::RemoveNode),
        8 => (any::<u8>(), any::<usize>(), priority())
            .prop_map(|(pod, class, priority)| Step::Ask { pod, class, priority }),
        6 => (any::<u8>(), any::<usize>(), 0..NODES, standing)
            .prop_map(|(pod, class, node, standing)| Step::There { pod, class, node, standing }),
        2 => any::<u8>().prop_map(Step::Gone),
        2 => (any::<u8>(), any::<usize>(), 0..NODES, priority())
            .prop_map(|(pod, class, node, priority)| Step::Waits { pod, class, node, priority }),
        1 => budgets().prop_map(Step::SetBudgets),
    ]
}

struct Pair {
    engine: Engine,
    oracle: Oracle,
    classes: Vec<ClassSpec>,
    budgets: Budgets,
    names: BTreeMap<PodKey, String>,
}

impl Pair {
    fn new(classes: Vec<ClassSpec>, budgets: Budgets) -> Pair {
        let names = (0..PODS).map(|pod| (key(pod), pod_name(pod))).collect();
        Pair { engine: Engine::new(), oracle: Oracle::default(), classes, budgets, names }
    }

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
            Step::Ask { pod, class, priority } => self.ask(key(pod), class, priority),
            Step::There { pod, class, node, standing } => {
                let spec = self.classes[class % self.classes.len()].clone();
                self.engine.add_pod(key(pod), &name(node), &spec, standing);
                self.oracle.place_pod(key(pod), &name(node), spec, standing);
            }
            Step::Gone(pod) => {
                self.engine.remove_pod(key(pod));
                self.oracle.remove_pod(key(pod));
                self.engine.unnominate(key(pod));
                self.oracle.nominate(key(pod), None);
            }
            Step::Waits { pod, class, node, priority } => {
                let spec = self.classes[class % self.classes.len()].clone();
                self.engine.remove_pod(key(pod));
                self.oracle.remove_pod(key(pod));
                let class = self.engine.acquire(&spec);
                self.engine.nominate(Ask { pod: key(pod), class, priority }, &name(node));
                self.engine.release(class);
                self.oracle.nominate(key(pod), Some((&name(node), spec, priority)));
            }
            Step::SetBudgets(budgets) => self.budgets = budgets,
        }
    }

    fn ask(&mut self, pod: PodKey, class: usize, priority: i32) {
        let spec = self.classes[class % self.classes.len()].clone();
        self.engine.remove_pod(pod);
        self.oracle.remove_pod(pod);
        let class = self.engine.acquire(&spec);
        let ask = Ask { pod, class, priority };
        let node = self.engine.place_for(ask);
        let named = node.map(|node| self.engine.node_name(node).to_string());
        assert_eq!(named, self.oracle.best_for(pod, &spec, priority), "the node for {spec:?} of priority {priority}");
        match node {
            Some(node) => {
                let name = self.engine.node_name(node).to_string();
                self.engine.assume(pod, class, node, priority);
                let standing = Standing { priority, ..Standing::default() };
                let held_devices = self.engine.devices_of(pod).to_vec();
                self.oracle.place_pod(pod, &name, ClassSpec { held_devices, ..spec }, standing);
            }
            None => self.make_room(ask, &spec),
        }
        self.engine.release(class);
    }

    fn make_room(&mut self, ask: Ask, spec: &ClassSpec) {
        let diagnosis = self.engine.diagnose_for(ask);
        let mut reasons = BTreeMap::new();
        for (_, refusal) in self.oracle.verdicts_for(ask.pod, spec, ask.priority) {
            for text in refusal.into_iter().flat_map(|refusal| refusal.reasons) {
                *reasons.entry(text).or_insert(0) += 1;
            }
        }
        assert_eq!(diagnosis.reasons, reasons, "reasons for {spec:?}");
        let names = &self.names;
        let victims = self.engine.preempt(ask, &self.budgets, &|pod| names.get(&pod).cloned());
        let named = victims
            .map(|victims| (self.engine.node_name(victims.node).to_string(), victims.pods.clone(), victims.violations));
        let expected = self.oracle.preempt(ask.pod, spec, ask.priority, &self.budgets, &self.names);
        assert_eq!(named, expected, "victims for {spec:?} of priority {}", ask.priority);
        match named {
            Some((node, victims, _)) => {
                self.engine.nominate(ask, &node);
                self.oracle.nominate(ask.pod, Some((&node, spec.clone(), ask.priority)));
                // Half of them go at once.
                for victim in victims.iter().step_by(2) {
                    self.engine.remove_pod(*victim);
                    self.oracle.remove_pod(*victim);
                }
            }
            None => {
                let mut expected = self.oracle.preemption_failure(ask.pod, spec, ask.priority);
                let failure = self.engine.preemption_failure(ask, &diagnosis);
                expected.retain(|_, count| *count > 0);
                let Preemption::Failed(mut counts) = failure else { panic!("it failed: {failure:?}") };
                counts.retain(|_, count| *count > 0);
                assert_eq!(counts, expected, "why nothing helps {spec:?}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn victims_equal_the_oracles(
        classes in prop::collection::vec(class(), 1..5),
        nodes in prop::collection::vec(node(), 1..6),
        budgets in budgets(),
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let mut pair = Pair::new(classes, budgets);
        for node in nodes {
            pair.apply(Step::SetNode(node));
        }
        for step in steps {
            pair.apply(step);
        }
        for class in 0..pair.classes.len() {
            pair.ask(PodKey(1_000 + class as u128), class, 50);
        }
    }
}

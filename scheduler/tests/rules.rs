#![allow(clippy::unwrap_used)]
//! Each rule by scenario, from Kubernetes objects to the texts that users read.

use gantry_scheduler::convert;
use gantry_scheduler::core::{Ask, Engine, PodKey, Standing};
use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};

fn node(changes: Value) -> Node {
    let mut node = json!({
        "metadata": {"name": "node", "labels": {"zone": "a", "cores": "8"}},
        "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "2", "ephemeral-storage": "10Gi",
            "example.com/gpu": "1"}},
    });
    merge(&mut node, changes);
    serde_json::from_value(node).unwrap()
}

fn pod(spec: Value) -> Pod {
    let mut whole = json!({"spec": {"containers": [{"name": "c"}]}});
    merge(&mut whole["spec"], spec);
    serde_json::from_value(whole).unwrap()
}

fn merge(into: &mut Value, changes: Value) {
    match (into, changes) {
        (Value::Object(into), Value::Object(changes)) => {
            for (key, value) in changes {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, changes) => *into = changes,
    }
}

fn asking(requests: Value) -> Value {
    json!({"containers": [{"name": "c", "resources": {"requests": requests}}]})
}

fn affinity(terms: Value) -> Value {
    json!({"affinity": {"nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}})
}

fn expression(key: &str, operator: &str, values: &[&str]) -> Value {
    affinity(json!([{"matchExpressions": [{"key": key, "operator": operator, "values": values}]}]))
}

fn port(port: u16, ip: &str, protocol: &str) -> Value {
    json!({"containers": [{"name": "c", "ports": [
        {"containerPort": 1, "hostPort": port, "hostIP": ip, "protocol": protocol}]}]})
}

/// The reasons why `node`, with `placed` on it, does not take `pod`; empty if it does.
fn reasons(node: &Node, placed: &[Pod], pod: &Pod) -> Vec<String> {
    let mut engine = Engine::new();
    engine.set_node(convert::node(node));
    for (number, pod) in placed.iter().enumerate() {
        engine.add_pod(PodKey(number as u128), "node", &convert::placed(pod), Standing::default());
    }
    let class = engine.acquire(&convert::class(pod));
    let diagnosis = engine.diagnose(class);
    assert_eq!(engine.place(class).is_some(), diagnosis.feasible == 1, "place and diagnose agree");
    diagnosis.reasons.into_keys().collect()
}

/// What is checked, changes of the node, pods on it, the pod's spec, the reasons.
type Case<'a> = (&'a str, Value, Vec<Pod>, Value, &'a [&'a str]);

fn check(cases: &[Case<'_>]) {
    for (name, node_changes, placed, spec, expected) in cases {
        let got = reasons(&node(node_changes.clone()), placed, &pod(spec.clone()));
        assert_eq!(got, *expected, "{name}");
    }
}

const AFFINITY: &str = "node(s) didn't match Pod's node affinity/selector";
const PORTS: &str = "node(s) didn't have free ports for the requested pod ports";
const TAINT: &str = "node(s) had untolerated taint(s)";

#[test]
fn resources() {
    let one = || pod(asking(json!({"cpu": "1", "memory": "4Gi"})));
    check(&[
        ("all that is free fits", json!({}), vec![one()], asking(json!({"cpu": "3", "memory": "4Gi"})), &[]),
        (
            "each lacking resource is told",
            json!({}),
            vec![one()],
            asking(json!({"cpu": "3001m", "memory": "5Gi", "ephemeral-storage": "11Gi", "example.com/gpu": "2"})),
            &[
                "Insufficient cpu",
                "Insufficient ephemeral-storage",
                "Insufficient example.com/gpu",
                "Insufficient memory",
            ],
        ),
        ("a pod without requests fits a full node", json!({}), vec![pod(asking(json!({"cpu": "4"})))], json!({}), &[]),
        ("but not beyond the number of pods", json!({}), vec![pod(json!({})), one()], json!({}), &["Too many pods"]),
        (
            "a resource that the node does not have",
            json!({}),
            vec![],
            asking(json!({"example.com/other": "1"})),
            &["Insufficient example.com/other"],
        ),
        ("zero of it is no request", json!({}), vec![], asking(json!({"example.com/other": "0"})), &[]),
    ]);
}

#[test]
fn unschedulable() {
    let off = || json!({"spec": {"unschedulable": true}});
    let tolerate = json!({"tolerations": [{"key": "node.kubernetes.io/unschedulable", "operator": "Exists"}]});
    check(&[
        ("a cordoned node takes nobody", off(), vec![], json!({}), &["node(s) were unschedulable"]),
        ("but who tolerates that", off(), vec![], tolerate, &[]),
    ]);
}

#[test]
fn node_name() {
    check(&[
        ("the named node", json!({}), vec![], json!({"nodeName": "node"}), &[]),
        ("another", json!({}), vec![], json!({"nodeName": "other"}), &["node(s) didn't match the requested node name"]),
    ]);
}

#[test]
fn operating_system() {
    let runs = |os: &str| json!({"metadata": {"labels": {"kubernetes.io/os": os}}});
    let wants = || json!({"os": {"name": "windows"}});
    let other = "node(s) didn't match the pod's operating system";
    check(&[
        ("the same", runs("windows"), vec![], wants(), &[]),
        ("another", runs("linux"), vec![], wants(), &[other]),
        ("a node that does not say", json!({}), vec![], wants(), &[]),
        ("a pod that does not say", runs("linux"), vec![], json!({}), &[]),
    ]);
}

#[test]
fn taints() {
    let tainted = |effect: &str| json!({"spec": {"taints": [{"key": "k", "value": "v", "effect": effect}]}});
    let tolerate = |toleration: Value| json!({ "tolerations": [toleration] });
    check(&[
        ("NoSchedule keeps away", tainted("NoSchedule"), vec![], json!({}), &[TAINT]),
        ("NoExecute keeps away", tainted("NoExecute"), vec![], json!({}), &[TAINT]),
        ("PreferNoSchedule does not", tainted("PreferNoSchedule"), vec![], json!({}), &[]),
        ("equal value", tainted("NoSchedule"), vec![], tolerate(json!({"key": "k", "value": "v"})), &[]),
        ("other value", tainted("NoSchedule"), vec![], tolerate(json!({"key": "k", "value": "w"})), &[TAINT]),
        ("exists", tainted("NoSchedule"), vec![], tolerate(json!({"key": "k", "operator": "Exists"})), &[]),
        ("everything", tainted("NoExecute"), vec![], tolerate(json!({"operator": "Exists"})), &[]),
        (
            "other effect",
            tainted("NoExecute"),
            vec![],
            tolerate(json!({"key": "k", "operator": "Exists", "effect": "NoSchedule"})),
            &[TAINT],
        ),
    ]);
}

#[test]
fn node_selector_and_affinity() {
    let name = |operator: &str, name: &str| {
        affinity(json!([{"matchFields": [{"key": "metadata.name", "operator": operator, "values": [name]}]}]))
    };
    check(&[
        ("selector", json!({}), vec![], json!({"nodeSelector": {"zone": "a"}}), &[]),
        ("selector, other value", json!({}), vec![], json!({"nodeSelector": {"zone": "b"}}), &[AFFINITY]),
        ("selector, no such label", json!({}), vec![], json!({"nodeSelector": {"disk": "a"}}), &[AFFINITY]),
        ("In", json!({}), vec![], expression("zone", "In", &["b", "a"]), &[]),
        ("In, none", json!({}), vec![], expression("zone", "In", &["b"]), &[AFFINITY]),
        ("NotIn", json!({}), vec![], expression("zone", "NotIn", &["a"]), &[AFFINITY]),
        ("NotIn, no label", json!({}), vec![], expression("disk", "NotIn", &["a"]), &[]),
        ("Exists", json!({}), vec![], expression("zone", "Exists", &[]), &[]),
        ("DoesNotExist", json!({}), vec![], expression("zone", "DoesNotExist", &[]), &[AFFINITY]),
        ("Gt", json!({}), vec![], expression("cores", "Gt", &["7"]), &[]),
        ("Gt, equal", json!({}), vec![], expression("cores", "Gt", &["8"]), &[AFFINITY]),
        ("Gt, not a number", json!({}), vec![], expression("zone", "Gt", &["1"]), &[AFFINITY]),
        ("Lt", json!({}), vec![], expression("cores", "Lt", &["9"]), &[]),
        ("no terms", json!({}), vec![], affinity(json!([])), &[AFFINITY]),
        ("an empty term", json!({}), vec![], affinity(json!([{}])), &[AFFINITY]),
        (
            "any of the terms",
            json!({}),
            vec![],
            affinity(json!([{}, {"matchExpressions": [{"key": "zone", "operator": "Exists"}]}])),
            &[],
        ),
        ("the named node", json!({}), vec![], name("In", "node"), &[]),
        (
            "another named node",
            json!({}),
            vec![],
            name("In", "x"),
            &["node(s) didn't satisfy plugin(s) [NodeAffinity]"],
        ),
        ("a node that is not this", json!({}), vec![], name("NotIn", "node"), &[AFFINITY]),
    ]);
}

#[test]
fn contradictory_names_are_told_as_such() {
    let fields: Vec<_> =
        ["a", "b"].map(|name| json!({"key": "metadata.name", "operator": "In", "values": [name]})).into();
    let mut engine = Engine::new();
    engine.set_node(convert::node(&node(json!({}))));
    let class = engine.acquire(&convert::class(&pod(affinity(json!([{ "matchFields": fields }])))));
    let ask = Ask { pod: PodKey::default(), class, priority: 0 };
    let diagnosis = engine.diagnose_for(ask);
    let preemption = engine.preemption_failure(ask, &diagnosis);
    assert_eq!(
        diagnosis.message(&preemption),
        "0/1 nodes are available: pod affinity terms conflict. preemption: 0/1 nodes are available: \
         1 Preemption is not helpful for scheduling."
    );
}

#[test]
fn host_ports() {
    let placed = |number, ip, protocol| vec![pod(port(number, ip, protocol))];
    check(&[
        ("another port", json!({}), placed(80, "", "TCP"), port(81, "", "TCP"), &[]),
        ("the same", json!({}), placed(80, "", "TCP"), port(80, "", "TCP"), &[PORTS]),
        ("another protocol", json!({}), placed(80, "", "TCP"), port(80, "", "UDP"), &[]),
        ("different addresses", json!({}), placed(80, "10.0.0.1", "TCP"), port(80, "10.0.0.2", "TCP"), &[]),
        ("an address and all", json!({}), placed(80, "10.0.0.1", "TCP"), port(80, "0.0.0.0", "TCP"), &[PORTS]),
        ("all and an address", json!({}), placed(80, "", "TCP"), port(80, "10.0.0.2", "TCP"), &[PORTS]),
    ]);
}

/// The node that a pod gets among nodes made by name and changes.
fn choice(nodes: &[(&str, Value)], placed: &[(&str, Value)], spec: Value) -> String {
    let mut engine = Engine::new();
    for (name, changes) in nodes {
        let mut node = node(changes.clone());
        node.metadata.name = Some((*name).into());
        engine.set_node(convert::node(&node));
    }
    for (number, (node, spec)) in placed.iter().enumerate() {
        engine.add_pod(PodKey(number as u128), node, &convert::placed(&pod(spec.clone())), Standing::default());
    }
    let class = engine.acquire(&convert::class(&pod(spec)));
    engine.place(class).map(|node| engine.node_name(node).to_string()).unwrap_or_default()
}

#[test]
fn the_fuller_node_wins_and_then_the_smaller_name() {
    let plain = || [("n2", json!({})), ("n10", json!({}))];
    assert_eq!(choice(&plain(), &[], json!({})), "n10");
    assert_eq!(choice(&plain(), &[("n2", asking(json!({"cpu": "1"})))], json!({})), "n2");
}

#[test]
fn preferences_outweigh_packing() {
    let nodes = || {
        [
            ("a", json!({"spec": {"taints": [{"key": "t", "effect": "PreferNoSchedule"}]}})),
            ("b", json!({"metadata": {"labels": {"zone": "b"}}})),
            ("c", json!({})),
        ]
    };
    let full = || [("a", asking(json!({"cpu": "3", "memory": "6Gi"})))];
    assert_eq!(choice(&nodes(), &full(), json!({})), "b", "a's taint costs more than its fullness brings");
    let tolerates = json!({"tolerations": [{"key": "t", "operator": "Exists"}]});
    assert_eq!(choice(&nodes(), &full(), tolerates), "a");
    let prefers = |zone: &str| {
        json!({"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 1, "preference": {"matchExpressions": [{"key": "zone", "operator": "In", "values": [zone]}]}}]}}})
    };
    assert_eq!(choice(&nodes(), &full(), prefers("b")), "b");
    assert_eq!(choice(&nodes(), &full(), prefers("a")), "c", "a and c match; a's taint outweighs packing");
}

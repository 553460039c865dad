#![allow(clippy::unwrap_used)]
//! Rules about where other pods are, scenario by scenario, on pods and nodes as Kubernetes writes them.

use gantry_scheduler::convert;
use gantry_scheduler::core::{Engine, PodKey, Standing};
use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};

/// Nodes a1 and a2 in zone a, b1 in zone b, and `bare` without any label.
fn cluster() -> Engine {
    let mut engine = Engine::new();
    for (name, zone) in [("a1", "a"), ("a2", "a"), ("b1", "b"), ("bare", "")] {
        let labels = match zone {
            "" => json!({}),
            zone => json!({"zone": zone, "kubernetes.io/hostname": name}),
        };
        add_node(&mut engine, name, labels, json!([]));
    }
    engine
}

fn add_node(engine: &mut Engine, name: &str, labels: Value, taints: Value) {
    let node: Node = serde_json::from_value(json!({
        "metadata": {"name": name, "labels": labels}, "spec": {"taints": taints},
        "status": {"allocatable": {"cpu": "64", "memory": "64Gi", "pods": "110"}},
    }))
    .unwrap();
    engine.set_node(convert::node(&node));
}

fn pod(namespace: &str, labels: Value, spec: Value) -> Pod {
    let mut whole = json!({"metadata": {"namespace": namespace, "labels": labels}, "spec": spec});
    whole["spec"]["containers"] = json!([{"name": "c"}]);
    serde_json::from_value(whole).unwrap()
}

fn app(name: &str) -> Pod {
    pod("default", json!({"app": name}), json!({}))
}

/// Puts pods on nodes; a later call's pods come on top.
fn put(engine: &mut Engine, pods: &[(&str, Pod)]) {
    for (node, pod) in pods {
        let key = PodKey(engine.pod_count() as u128);
        engine.add_pod(key, node, &convert::placed(pod), Standing::default());
    }
}

/// Where the pod may go, and what the others say.
fn ask(engine: &mut Engine, pod: &Pod) -> (Vec<String>, Vec<(usize, String)>) {
    let class = engine.acquire(&convert::class(pod));
    let nodes = engine.explain(class).nodes;
    let fits = nodes.into_iter().filter(|(_, verdict)| verdict.is_none()).map(|(name, _)| name.to_string()).collect();
    let reasons = engine.diagnose(class).reasons;
    engine.release(class);
    (fits, reasons.into_iter().map(|(text, count)| (count, text)).collect())
}

fn fits(engine: &mut Engine, pod: &Pod) -> Vec<String> {
    ask(engine, pod).0
}

fn choice(engine: &mut Engine, pod: &Pod) -> String {
    let class = engine.acquire(&convert::class(pod));
    let node = engine.place(class).map(|node| engine.node_name(node).to_string()).unwrap_or_default();
    engine.release(class);
    node
}

fn term(app: &str, key: &str) -> Value {
    json!({"labelSelector": {"matchLabels": {"app": app}}, "topologyKey": key})
}

fn near(terms: Value) -> Value {
    json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}})
}

fn away(terms: Value) -> Value {
    json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}})
}

const NOT_NEAR: &str = "node(s) didn't match pod affinity rules";
const TOO_NEAR: &str = "node(s) didn't match pod anti-affinity rules";
const AVOIDED: &str = "node(s) didn't satisfy existing pods anti-affinity rules";
const SKEWED: &str = "node(s) didn't match pod topology spread constraints";
const NO_LABEL: &str = "node(s) didn't match pod topology spread constraints (missing required label)";

#[test]
fn affinity_keeps_pods_in_one_place() {
    let mut engine = cluster();
    put(&mut engine, &[("a1", app("web"))]);
    let by_zone = pod("default", json!({}), near(json!([term("web", "zone")])));
    assert_eq!(ask(&mut engine, &by_zone), (vec!["a1".into(), "a2".into()], vec![(2, NOT_NEAR.into())]));
    let by_host = pod("default", json!({}), near(json!([term("web", "kubernetes.io/hostname")])));
    assert_eq!(fits(&mut engine, &by_host), ["a1"]);
    let elsewhere = pod("other", json!({}), near(json!([term("web", "zone")])));
    assert_eq!(ask(&mut engine, &elsewhere), (vec![], vec![(4, NOT_NEAR.into())]), "terms look in the own namespace");
}

#[test]
fn one_pod_must_match_all_terms_of_an_affinity() {
    let mut engine = cluster();
    put(&mut engine, &[("a1", app("web")), ("b1", app("db"))]);
    let both = pod("default", json!({}), near(json!([term("web", "zone"), term("db", "zone")])));
    assert_eq!(fits(&mut engine, &both), [""; 0]);
}

#[test]
fn the_first_of_a_group_that_wants_to_be_together_may_go_anywhere_with_the_label() {
    let mut engine = cluster();
    let first = pod("default", json!({"app": "web"}), near(json!([term("web", "zone")])));
    assert_eq!(fits(&mut engine, &first), ["a1", "a2", "b1"]);
    put(&mut engine, &[("b1", first.clone())]);
    assert_eq!(fits(&mut engine, &first), ["b1"]);
}

#[test]
fn anti_affinity_holds_both_ways() {
    let mut engine = cluster();
    put(&mut engine, &[("a1", app("web"))]);
    let loner = pod("default", json!({"app": "loner"}), away(json!([term("web", "zone")])));
    assert_eq!(ask(&mut engine, &loner), (vec!["b1".into(), "bare".into()], vec![(2, TOO_NEAR.into())]));
    put(&mut engine, &[("b1", loner)]);
    assert_eq!(ask(&mut engine, &app("web")).0, ["a1", "a2", "bare"]);
    assert_eq!(ask(&mut engine, &app("web")).1, [(1, AVOIDED.into())]);
    assert_eq!(fits(&mut engine, &app("db")).len(), 4);
}

#[test]
fn a_class_learns_of_pods_that_avoid_it_after_it_was_first_asked() {
    let mut engine = cluster();
    let class = engine.acquire(&convert::class(&app("web")));
    assert!(engine.place(class).is_some());
    put(&mut engine, &[("a1", pod("default", json!({}), away(json!([term("web", "zone")]))))]);
    assert_eq!(engine.diagnose(class).feasible, 2);
    let node = engine.place(class).unwrap();
    assert_eq!(&**engine.node_name(node), "b1");
    engine.remove_pod(PodKey(0));
    assert_eq!(engine.diagnose(class).feasible, 4);
}

#[test]
fn namespaces_are_chosen_by_name_and_by_label() {
    let mut engine = cluster();
    engine.set_namespace("blue", [("team".to_owned(), "blue".to_owned())].into());
    put(&mut engine, &[("a1", pod("blue", json!({"app": "web"}), json!({})))]);
    let with = |more: Value| {
        let mut term = term("web", "zone");
        term.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        pod("default", json!({}), away(json!([term])))
    };
    assert_eq!(fits(&mut engine, &with(json!({}))).len(), 4);
    assert_eq!(fits(&mut engine, &with(json!({"namespaces": ["blue"]}))), ["b1", "bare"]);
    let team = || with(json!({"namespaceSelector": {"matchLabels": {"team": "blue"}}}));
    assert_eq!(fits(&mut engine, &team()), ["b1", "bare"]);
    assert_eq!(fits(&mut engine, &with(json!({"namespaceSelector": {}}))), ["b1", "bare"]);
    engine.set_namespace("blue", [("team".to_owned(), "red".to_owned())].into());
    assert_eq!(fits(&mut engine, &team()).len(), 4, "the namespace changed its label");
    engine.set_namespace("blue", [("team".to_owned(), "blue".to_owned())].into());
    assert_eq!(fits(&mut engine, &team()), ["b1", "bare"]);
}

#[test]
fn label_keys_take_their_values_from_the_pod() {
    let mut engine = cluster();
    put(&mut engine, &[("a1", pod("default", json!({"app": "web", "version": "1"}), json!({})))]);
    let keyed = |field: &str, version: &str| {
        let mut term = term("web", "zone");
        term[field] = json!(["version", "absent"]);
        pod("default", json!({"version": version}), away(json!([term])))
    };
    assert_eq!(fits(&mut engine, &keyed("matchLabelKeys", "1")), ["b1", "bare"]);
    assert_eq!(fits(&mut engine, &keyed("matchLabelKeys", "2")).len(), 4);
    assert_eq!(fits(&mut engine, &keyed("mismatchLabelKeys", "1")).len(), 4);
    assert_eq!(fits(&mut engine, &keyed("mismatchLabelKeys", "2")), ["b1", "bare"]);
}

#[test]
fn preferences_for_and_against_others_draw_and_drive() {
    let mut engine = cluster();
    put(&mut engine, &[("b1", app("web"))]);
    let prefers = |kind: &str| {
        let list = json!([{"weight": 10, "podAffinityTerm": term("web", "zone")}]);
        let mut spec = json!({"affinity": {}});
        spec["affinity"][kind] = json!({"preferredDuringSchedulingIgnoredDuringExecution": list});
        pod("default", json!({"app": "x"}), spec)
    };
    assert_eq!(choice(&mut engine, &prefers("podAffinity")), "b1");
    assert_eq!(choice(&mut engine, &prefers("podAntiAffinity")), "a1");
    // What those that are placed prefer counts too.
    put(&mut engine, &[("a2", prefers("podAffinity"))]);
    assert_eq!(choice(&mut engine, &app("web")), "a2");
}

fn spread(constraint: Value) -> Pod {
    let mut one = json!({"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"app": "web"}}});
    one.as_object_mut().unwrap().extend(constraint.as_object().unwrap().clone());
    pod("default", json!({"app": "web"}), json!({"topologySpreadConstraints": [one]}))
}

#[test]
fn spread_keeps_places_within_the_skew() {
    let mut engine = cluster();
    put(&mut engine, &[("a1", app("web"))]);
    let reasons = vec![(2, SKEWED.into()), (1, NO_LABEL.into())];
    assert_eq!(ask(&mut engine, &spread(json!({}))), (vec!["b1".into()], reasons));
    assert_eq!(fits(&mut engine, &spread(json!({"maxSkew": 2}))), ["a1", "a2", "b1"]);
    put(&mut engine, &[("b1", app("web"))]);
    assert_eq!(fits(&mut engine, &spread(json!({}))), ["a1", "a2", "b1"]);
    assert_eq!(fits(&mut engine, &spread(json!({"topologyKey": "kubernetes.io/hostname"}))), ["a2"]);
    let few = json!({"minDomains": 3});
    assert_eq!(
        fits(&mut engine, &spread(few)),
        [""; 0],
        "with fewer zones than asked for, the emptiest counts as empty"
    );
}

#[test]
fn spread_counts_nodes_by_policy() {
    let mut engine = cluster();
    let taint = json!([{"key": "k", "effect": "NoSchedule"}]);
    add_node(&mut engine, "c1", json!({"zone": "c", "kubernetes.io/hostname": "c1"}), taint);
    put(&mut engine, &[("a1", app("web")), ("b1", app("web"))]);
    assert_eq!(fits(&mut engine, &spread(json!({}))), [""; 0], "the tainted zone is empty and counts");
    assert_eq!(fits(&mut engine, &spread(json!({"nodeTaintsPolicy": "Honor"}))), ["a1", "a2", "b1"]);
    // With a node selector, zones outside of it do not count, unless that is to be ignored.
    put(&mut engine, &[("a2", app("web"))]);
    let selecting = |policy: &str| {
        let mut pod = spread(json!({"nodeAffinityPolicy": policy, "nodeTaintsPolicy": "Honor"}));
        pod.spec.as_mut().unwrap().node_selector = Some([("zone".to_owned(), "a".to_owned())].into());
        pod
    };
    assert_eq!(fits(&mut engine, &selecting("Honor")), ["a1", "a2"]);
    assert_eq!(fits(&mut engine, &selecting("Ignore")), [""; 0]);
}

#[test]
fn spread_by_version_and_without_those_that_go() {
    let mut engine = cluster();
    let versioned = |version: &str| pod("default", json!({"app": "web", "version": version}), json!({}));
    put(&mut engine, &[("a1", versioned("1"))]);
    let keyed = |version: &str| {
        let mut pod = spread(json!({"matchLabelKeys": ["version"]}));
        pod.metadata.labels.as_mut().unwrap().insert("version".into(), version.into());
        pod
    };
    assert_eq!(fits(&mut engine, &keyed("1")), ["b1"]);
    assert_eq!(fits(&mut engine, &keyed("2")), ["a1", "a2", "b1"]);
    let going = Standing { terminating: true, ..Standing::default() };
    engine.add_pod(PodKey(0), "a1", &convert::placed(&versioned("1")), going);
    assert_eq!(fits(&mut engine, &keyed("1")), ["a1", "a2", "b1"]);
}

#[test]
fn a_wish_to_spread_is_only_a_wish() {
    let mut engine = cluster();
    put(&mut engine, &[("a1", app("web")), ("a2", app("web"))]);
    let wish = spread(json!({"whenUnsatisfiable": "ScheduleAnyway"}));
    assert_eq!(fits(&mut engine, &wish).len(), 4);
    assert_eq!(choice(&mut engine, &wish), "b1");
    put(&mut engine, &[("b1", app("web")), ("b1", app("web")), ("b1", app("web"))]);
    assert_eq!(choice(&mut engine, &wish), "a1", "a node without the label is the last choice");
}

#[test]
fn nodes_move_between_places_and_take_their_pods_along() {
    let mut engine = cluster();
    put(&mut engine, &[("a1", app("web"))]);
    let loner = pod("default", json!({}), away(json!([term("web", "zone")])));
    let class = engine.acquire(&convert::class(&loner));
    assert_eq!(engine.diagnose(class).feasible, 2);
    add_node(&mut engine, "a1", json!({"zone": "b"}), json!([]));
    let nodes = engine.explain(class).nodes;
    let free: Vec<_> = nodes.iter().filter(|(_, verdict)| verdict.is_none()).map(|(name, _)| &**name).collect();
    assert_eq!(free, ["a2", "bare"]);
    engine.remove_node("a1");
    assert_eq!(engine.diagnose(class).feasible, 3);
}

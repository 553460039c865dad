//! Affinity and anti-affinity between pods: the pod's own terms and those of pods that are placed.

use std::collections::BTreeMap;

use super::{Oracle, filters};
use crate::core::spec::{AffinityTerm, ClassSpec, NodeSpec, PodSelector};

/// Counts by topology key and value.
type Pairs = BTreeMap<(String, String), i64>;

/// Kubernetes' text, and whether preemption cannot help.
pub(super) fn refusal(oracle: &Oracle, pod: &ClassSpec, node: &NodeSpec) -> Option<(&'static str, bool)> {
    let required = &pod.pod_affinity.required;
    let mut near = Pairs::new();
    for (other, on) in oracle.located() {
        if matches_all(oracle, required, other) {
            for term in required {
                add(&mut near, on, &term.topology_key, 1);
            }
        }
    }
    let mut lonely = false;
    for term in required {
        match node.labels.get(&term.topology_key) {
            None => return Some(("node(s) didn't match pod affinity rules", true)),
            Some(value) => {
                if near.get(&(term.topology_key.clone(), value.clone())).copied().unwrap_or(0) <= 0 {
                    lonely = true;
                }
            }
        }
    }
    let is_first = near.is_empty() && matches_all(oracle, required, pod);
    if lonely && !is_first {
        return Some(("node(s) didn't match pod affinity rules", true));
    }
    for (other, on) in oracle.located() {
        for term in &pod.pod_affinity.anti_required {
            if selects(oracle, &term.selector, other) && together(on, node, &term.topology_key) {
                return Some(("node(s) didn't match pod anti-affinity rules", false));
            }
        }
    }
    for (other, on) in oracle.located() {
        for term in &other.pod_affinity.anti_required {
            if selects(oracle, &term.selector, pod) && together(on, node, &term.topology_key) {
                return Some(("node(s) didn't satisfy existing pods anti-affinity rules", false));
            }
        }
    }
    None
}

/// The sum of weights that draw the pod to the node, or (below zero) drive it away.
pub(super) fn attraction(oracle: &Oracle, pod: &ClassSpec, node: &NodeSpec) -> i64 {
    let mut sum = 0;
    for (other, on) in oracle.located() {
        for weighted in &pod.pod_affinity.preferred {
            if selects(oracle, &weighted.term.selector, other) && together(on, node, &weighted.term.topology_key) {
                sum += i64::from(weighted.weight);
            }
        }
        for weighted in &pod.pod_affinity.anti_preferred {
            if selects(oracle, &weighted.term.selector, other) && together(on, node, &weighted.term.topology_key) {
                sum -= i64::from(weighted.weight);
            }
        }
        for term in &other.pod_affinity.required {
            if selects(oracle, &term.selector, pod) && together(on, node, &term.topology_key) {
                sum += 1;
            }
        }
        for weighted in &other.pod_affinity.preferred {
            if selects(oracle, &weighted.term.selector, pod) && together(on, node, &weighted.term.topology_key) {
                sum += i64::from(weighted.weight);
            }
        }
        for weighted in &other.pod_affinity.anti_preferred {
            if selects(oracle, &weighted.term.selector, pod) && together(on, node, &weighted.term.topology_key) {
                sum -= i64::from(weighted.weight);
            }
        }
    }
    sum
}

/// Does the selector select the pod?
pub(super) fn selects(oracle: &Oracle, selector: &PodSelector, pod: &ClassSpec) -> bool {
    let mut in_namespace = selector.namespaces.contains(&pod.namespace);
    if let Some(wanted) = &selector.namespace_selector {
        let unlabelled = BTreeMap::new();
        let labels = oracle.namespaces.get(&pod.namespace).unwrap_or(&unlabelled);
        let mut all = true;
        for one in wanted {
            all = all && filters::holds(one, labels.get(&one.key));
        }
        in_namespace = in_namespace || all;
    }
    let Some(wanted) = &selector.labels else { return false };
    for one in wanted {
        if !filters::holds(one, pod.labels.get(&one.key)) {
            return false;
        }
    }
    in_namespace
}

fn matches_all(oracle: &Oracle, terms: &[AffinityTerm], pod: &ClassSpec) -> bool {
    for term in terms {
        if !selects(oracle, &term.selector, pod) {
            return false;
        }
    }
    !terms.is_empty()
}

fn together(a: &NodeSpec, b: &NodeSpec, key: &str) -> bool {
    match (a.labels.get(key), b.labels.get(key)) {
        (Some(a), Some(b)) => a == b,
        _ => false,
    }
}

fn add(pairs: &mut Pairs, node: &NodeSpec, key: &str, amount: i64) {
    if let Some(value) = node.labels.get(key) {
        *pairs.entry((key.to_owned(), value.clone())).or_default() += amount;
    }
}

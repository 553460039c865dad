//! Topology spread: constraints that must hold, and those that count in the score.

use std::collections::{BTreeMap, BTreeSet};

use super::{Oracle, filters, pod_affinity};
use crate::core::spec::{ClassSpec, Effect, NodeSpec, Spread, SpreadMode};

/// Kubernetes' text, and whether preemption cannot help.
pub(super) fn refusal(oracle: &Oracle, pod: &ClassSpec, node: &NodeSpec) -> Option<(&'static str, bool)> {
    let mut constraints = Vec::new();
    for spread in &pod.spread {
        if spread.mode == SpreadMode::DoNotSchedule {
            constraints.push(spread);
        }
    }
    for constraint in &constraints {
        let Some(place) = node.labels.get(&constraint.topology_key) else {
            return Some(("node(s) didn't match pod topology spread constraints (missing required label)", true));
        };
        let mut counts: BTreeMap<&String, i64> = BTreeMap::new();
        for other in oracle.nodes.values() {
            if has_keys(other, &constraints) && includes(constraint, pod, other) {
                let value = &other.labels[&constraint.topology_key];
                *counts.entry(value).or_default() += matching(oracle, constraint, other);
            }
        }
        let mut emptiest = counts.values().copied().min().unwrap_or(0);
        if (counts.len() as i64) < i64::from(constraint.min_domains) {
            emptiest = 0;
        }
        let itself = i64::from(pod_affinity::selects(oracle, &constraint.selector, pod));
        if counts.get(place).copied().unwrap_or(0) + itself - emptiest > i64::from(constraint.max_skew) {
            return Some(("node(s) didn't match pod topology spread constraints", false));
        }
    }
    None
}

/// The points, 0 to 100, of each feasible node.
pub(super) fn points(oracle: &Oracle, pod: &ClassSpec, feasible: &[String]) -> BTreeMap<String, i64> {
    let mut constraints = Vec::new();
    let mut needs_all = false;
    for spread in &pod.spread {
        if spread.mode != SpreadMode::DoNotSchedule {
            constraints.push(spread);
            needs_all = needs_all || spread.mode == SpreadMode::ScheduleAnyway;
        }
    }
    if constraints.is_empty() {
        return BTreeMap::new();
    }
    // With the pod's own constraints, a node without one of the keys is the last choice.
    let own: Vec<&Spread> = constraints.iter().copied().filter(|one| one.mode == SpreadMode::ScheduleAnyway).collect();
    let mut judged = Vec::new();
    for name in feasible {
        let mut has_all = true;
        for constraint in &constraints {
            has_all = has_all && oracle.nodes[name].labels.contains_key(&constraint.topology_key);
        }
        if has_all || !needs_all {
            judged.push(name);
        }
    }
    let mut sums: BTreeMap<&String, f64> = BTreeMap::new();
    for constraint in &constraints {
        let is_hostname = constraint.topology_key == "kubernetes.io/hostname";
        let mut places = BTreeSet::new();
        for name in &judged {
            places.insert(oracle.nodes[*name].labels.get(&constraint.topology_key));
        }
        let size = if is_hostname { judged.len() } else { places.len() };
        let weight = ((size + 2) as f64).ln();
        for name in &judged {
            let Some(place) = oracle.nodes[*name].labels.get(&constraint.topology_key) else { continue };
            let mut count = 0;
            if is_hostname {
                count = matching(oracle, constraint, &oracle.nodes[*name]);
            } else {
                for other in oracle.nodes.values() {
                    let here = other.labels.get(&constraint.topology_key) == Some(place);
                    if here && has_keys(other, &own) && includes(constraint, pod, other) {
                        count += matching(oracle, constraint, other);
                    }
                }
            }
            *sums.entry(name).or_default() += count as f64 * weight + f64::from(constraint.max_skew - 1);
        }
    }
    let mut raw: BTreeMap<&String, i64> = BTreeMap::new();
    for name in &judged {
        raw.insert(name, sums.get(name).copied().unwrap_or(0.0).round() as i64);
    }
    let low = raw.values().copied().min().unwrap_or(0);
    let high = raw.values().copied().max().unwrap_or(0);
    let mut points = BTreeMap::new();
    for (name, sum) in raw {
        points.insert(name.clone(), if high == 0 { 100 } else { 100 * (high + low - sum) / high });
    }
    points
}

fn has_keys(node: &NodeSpec, constraints: &[&Spread]) -> bool {
    for constraint in constraints {
        if !node.labels.contains_key(&constraint.topology_key) {
            return false;
        }
    }
    true
}

/// Does the node count for this pod's constraint?
fn includes(constraint: &Spread, pod: &ClassSpec, node: &NodeSpec) -> bool {
    if !node.labels.contains_key(&constraint.topology_key) {
        return false;
    }
    if constraint.honors_affinity && !filters::selected(pod, node) {
        return false;
    }
    if constraint.honors_taints {
        for taint in &node.taints {
            if taint.effect != Effect::PreferNoSchedule && !filters::tolerated(pod, taint) {
                return false;
            }
        }
    }
    true
}

/// The pods on the node that count.
fn matching(oracle: &Oracle, constraint: &Spread, node: &NodeSpec) -> i64 {
    if constraint.selector.labels.as_ref().is_some_and(Vec::is_empty) {
        return 0; // a selector that selects all counts none
    }
    let mut count = 0;
    for placed in oracle.pods.values() {
        if placed.node == node.name
            && !placed.standing.terminating
            && pod_affinity::selects(oracle, &constraint.selector, &placed.spec)
        {
            count += 1;
        }
    }
    count
}

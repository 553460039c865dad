//! Whether one node takes one pod, rule after rule in Kubernetes' order.

use std::collections::BTreeSet;

use super::{Refusal, Usage, devices};
use crate::core::spec::{ClassSpec, Effect, NodeSpec, Operator, Requirement, Taint, Term, Toleration, VolumeNeedKind};

/// The first rule that refuses speaks.
pub(super) fn refusal(pod: &ClassSpec, node: &NodeSpec, usage: &Usage) -> Option<Refusal> {
    let never = |text: &str| Some(Refusal { reasons: vec![text.to_owned()], unresolvable: true });
    if !named(pod, node) {
        return never("node(s) didn't satisfy plugin(s) [NodeAffinity]");
    }
    if node.unschedulable {
        let key = "node.kubernetes.io/unschedulable".to_owned();
        let taint = Taint { key, value: String::new(), effect: Effect::NoSchedule };
        if !tolerated(pod, &taint) {
            return never("node(s) were unschedulable");
        }
    }
    if let Some(wanted) = &pod.node_name
        && *wanted != node.name
    {
        return never("node(s) didn't match the requested node name");
    }
    if let (Some(wanted), Some(runs)) = (&pod.os, node.labels.get("kubernetes.io/os"))
        && wanted != runs
    {
        return never("node(s) didn't match the pod's operating system");
    }
    for taint in &node.taints {
        if taint.effect != Effect::PreferNoSchedule && !tolerated(pod, taint) {
            return never("node(s) had untolerated taint(s)");
        }
    }
    if !selected(pod, node) {
        return never("node(s) didn't match Pod's node affinity/selector");
    }
    for wanted in &pod.demand.ports {
        for used in &usage.ports {
            let overlap = wanted.ip == used.ip || wanted.ip == "0.0.0.0" || used.ip == "0.0.0.0";
            if wanted.port == used.port && wanted.protocol == used.protocol && overlap {
                let text = "node(s) didn't have free ports for the requested pod ports".to_owned();
                return Some(Refusal { reasons: vec![text], unresolvable: false });
            }
        }
    }
    resources(pod, node, usage).or_else(|| users(pod, node, usage)).or_else(|| volumes(pod, node))
}

fn users(pod: &ClassSpec, node: &NodeSpec, usage: &Usage) -> Option<Refusal> {
    let helpful = |text: &str| Some(Refusal { reasons: vec![text.to_owned()], unresolvable: false });
    for claim in &pod.demand.exclusive {
        if usage.in_use.contains(claim) {
            return helpful(
                "node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode",
            );
        }
    }
    for (driver, limit) in &node.attach_limits {
        let mut there = BTreeSet::new();
        for attached in &usage.attached {
            if attached.driver == *driver {
                there.insert(attached);
            }
        }
        let before = there.len();
        for wanted in &pod.demand.attachments {
            if wanted.driver == *driver {
                there.insert(wanted);
            }
        }
        if there.len() > before && there.len() as i64 > *limit {
            return helpful("node(s) exceed max volume count");
        }
    }
    None
}

fn volumes(pod: &ClassSpec, node: &NodeSpec) -> Option<Refusal> {
    for zones in [false, true] {
        let mut reasons = Vec::new();
        for need in &pod.volumes {
            let text = match need.kind {
                VolumeNeedKind::Reach => "node(s) didn't match PersistentVolume's node affinity",
                VolumeNeedKind::Find => "node(s) didn't find available persistent volumes to bind",
                VolumeNeedKind::Room => "node(s) did not have enough free storage",
                VolumeNeedKind::Gone => "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)",
                VolumeNeedKind::Zone => "node(s) had no available volume zone",
            };
            let mut met = false;
            for term in &need.terms {
                met = met || term_matches(term, node);
            }
            if !met && (need.kind == VolumeNeedKind::Zone) == zones && !reasons.contains(&text.to_owned()) {
                reasons.push(text.to_owned());
            }
        }
        let none_to_find = "node(s) didn't find available persistent volumes to bind".to_owned();
        if reasons.contains(&none_to_find) {
            reasons.retain(|text| text != "node(s) did not have enough free storage");
        }
        if !reasons.is_empty() {
            return Some(Refusal { reasons, unresolvable: true });
        }
    }
    None
}

fn resources(pod: &ClassSpec, node: &NodeSpec, usage: &Usage) -> Option<Refusal> {
    let mut reasons = Vec::new();
    let mut unresolvable = false;
    if usage.pods + 1 > node.allocatable.pods {
        reasons.push("Too many pods".to_owned());
    }
    for (name, amount) in pod.demand.requests.iter() {
        if name == "pods" {
            continue;
        }
        let mut allocatable = 0;
        for (other, has) in node.allocatable.iter() {
            if other == name {
                allocatable = has;
            }
        }
        let used = usage.amounts.get(name).copied().unwrap_or(0);
        if amount > allocatable - used {
            reasons.push(format!("Insufficient {name}"));
            if amount > allocatable {
                unresolvable = true;
            }
        }
    }
    if reasons.is_empty() && !devices::fits(pod, &devices::free(node, usage)) {
        reasons.push("node(s) didn't have free devices for the pod".to_owned());
        unresolvable = pod.demand.devices.count > node.devices;
    }
    (!reasons.is_empty()).then_some(Refusal { reasons, unresolvable })
}

/// If every required term names nodes in its fields, only those are looked at.
fn named(pod: &ClassSpec, node: &NodeSpec) -> bool {
    let Some(terms) = &pod.required else { return true };
    if terms.is_empty() {
        return true;
    }
    let mut named = false;
    for term in terms {
        let mut restricts = false;
        let mut includes = true;
        for field in &term.fields {
            if field.key == "metadata.name" && field.operator == Operator::In {
                restricts = true;
                includes = includes && field.values.contains(&node.name);
            }
        }
        if !restricts {
            return true;
        }
        named = named || includes;
    }
    named
}

pub(super) fn selected(pod: &ClassSpec, node: &NodeSpec) -> bool {
    for (key, value) in &pod.node_selector {
        if node.labels.get(key) != Some(value) {
            return false;
        }
    }
    let Some(terms) = &pod.required else { return true };
    for term in terms {
        if term_matches(term, node) {
            return true;
        }
    }
    false
}

pub(super) fn term_matches(term: &Term, node: &NodeSpec) -> bool {
    if term.expressions.is_empty() && term.fields.is_empty() {
        return false;
    }
    for wanted in &term.expressions {
        if !holds(wanted, node.labels.get(&wanted.key)) {
            return false;
        }
    }
    for wanted in &term.fields {
        let known = wanted.key == "metadata.name" && matches!(wanted.operator, Operator::In | Operator::NotIn);
        if !known || !holds(wanted, Some(&node.name)) {
            return false;
        }
    }
    true
}

pub(super) fn holds(wanted: &Requirement, value: Option<&String>) -> bool {
    match (wanted.operator, value) {
        (Operator::In, Some(value)) => wanted.values.contains(value),
        (Operator::NotIn, Some(value)) => !wanted.values.contains(value),
        (Operator::Exists, Some(_)) | (Operator::NotIn | Operator::DoesNotExist, None) => true,
        (Operator::Gt | Operator::Lt, Some(value)) => {
            let Ok(number) = value.parse::<i64>() else { return false };
            let Some(Ok(bound)) = wanted.values.first().map(|bound| bound.parse::<i64>()) else { return false };
            if wanted.operator == Operator::Gt { number > bound } else { number < bound }
        }
        _ => false,
    }
}

pub(super) fn tolerated(pod: &ClassSpec, taint: &Taint) -> bool {
    for toleration in &pod.tolerations {
        if tolerates(toleration, taint) {
            return true;
        }
    }
    false
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    if let Some(effect) = toleration.effect
        && effect != taint.effect
    {
        return false;
    }
    if !toleration.key.is_empty() && toleration.key != taint.key {
        return false;
    }
    toleration.exists || toleration.value == taint.value
}

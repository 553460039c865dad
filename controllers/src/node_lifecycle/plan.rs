//! Decides about one node: what its conditions say when it has gone silent, and which taints follow. Pure.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Taint};
use kube::ResourceExt;

use super::zones::Disruption;
use crate::machinery::objects::time;

/// Taint of nodes that are not ready.
pub const NOT_READY: &str = "node.kubernetes.io/not-ready";
/// Taint of nodes that are not heard of.
pub const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
/// Taint of nodes that were cordoned.
pub const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

const NO_SCHEDULE: &str = "NoSchedule";
const NO_EXECUTE: &str = "NoExecute";

/// Taints without eviction that follow from conditions: condition, value, taint.
const BY_CONDITION: [(&str, &str, &str); 6] = [
    ("Ready", "False", NOT_READY),
    ("Ready", "Unknown", UNREACHABLE),
    ("MemoryPressure", "True", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "True", "node.kubernetes.io/network-unavailable"),
];

/// Conditions that a silent node can no longer vouch for.
const VOUCHED: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

/// What is known.
#[derive(Clone, Copy, Debug)]
pub struct Observed<'a> {
    /// The node.
    pub node: &'a Node,
    /// How long nothing was heard of it, by this process's own clock.
    pub silent_for: Duration,
    /// How long a node may be silent.
    pub grace: Duration,
    /// The same for one that has never posted a status.
    pub startup_grace: Duration,
    /// How much of the cluster is in trouble.
    pub disruption: Disruption,
    /// The present time.
    pub now: Timestamp,
}

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Conditions to write; empty if the node speaks for itself.
    pub conditions: Vec<NodeCondition>,
    /// The value of the condition Ready after that.
    pub ready: &'static str,
    /// The taints that it should have, if they differ from what it has.
    pub taints: Option<Vec<Taint>>,
    /// The taints begin to evict pods, which needs an allowance.
    pub begins_eviction: bool,
    /// How long it may stay silent until something has to be done; none if that has been.
    pub patience: Option<Duration>,
}

/// The condition of this type.
pub fn condition<'a>(node: &'a Node, kind: &str) -> Option<&'a NodeCondition> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == kind)
}

/// The value of the condition Ready, "" if there is none.
pub fn ready_of(node: &Node) -> &str {
    condition(node, "Ready").map_or("", |ready| &ready.status)
}

/// Decides about one node. `may_evict` is asked for only when pods begin to be evicted from it.
pub fn plan(observed: Observed<'_>) -> Plan {
    let node = observed.node;
    let grace = if condition(node, "Ready").is_some() { observed.grace } else { observed.startup_grace };
    let silent = observed.silent_for > grace;
    let conditions = if silent { unknown_conditions(node, observed.now) } else { Vec::new() };
    let value = |kind: &str| {
        let fresh = conditions.iter().find(|c| c.type_ == kind);
        fresh.or_else(|| condition(node, kind)).map_or("", |c| c.status.as_str())
    };
    let ready = match value("Ready") {
        "True" => "True",
        "False" => "False",
        "Unknown" => "Unknown",
        _ => "",
    };
    let present = taints_of(node);
    let wanted = wanted_taints(node, &value, observed.disruption);
    let taints = merge_taints(present, &wanted, observed.now);
    let evicts = |taints: &[Taint]| taints.iter().any(is_our_eviction);
    let begins_eviction = taints.as_ref().is_some_and(|taints| evicts(taints)) && !evicts(present);
    Plan {
        patience: (!silent).then(|| grace.saturating_sub(observed.silent_for)),
        conditions,
        ready,
        taints,
        begins_eviction,
    }
}

/// The taints without those that evict, for a node that has to wait for its turn.
pub fn without_eviction(node: &Node, taints: Option<Vec<Taint>>) -> Option<Vec<Taint>> {
    let mut taints = taints?;
    taints.retain(|taint| !is_our_eviction(taint));
    (taints != taints_of(node)).then_some(taints)
}

fn is_our_eviction(taint: &Taint) -> bool {
    taint.effect == NO_EXECUTE && matches!(&*taint.key, NOT_READY | UNREACHABLE)
}

fn taints_of(node: &Node) -> &[Taint] {
    let spec = node.spec.as_ref();
    spec.and_then(|spec| spec.taints.as_deref()).unwrap_or_default()
}

fn unknown_conditions(node: &Node, now: Timestamp) -> Vec<NodeCondition> {
    let mut unknown = Vec::new();
    for kind in VOUCHED {
        let present = condition(node, kind);
        if present.is_some_and(|c| c.status == "Unknown") {
            continue;
        }
        let (reason, message) = match present {
            None => ("NodeStatusNeverUpdated", "Kubelet never posted node status."),
            Some(_) => ("NodeStatusUnknown", "Kubelet stopped posting node status."),
        };
        unknown.push(NodeCondition {
            type_: kind.into(),
            status: "Unknown".into(),
            reason: Some(reason.into()),
            message: Some(message.into()),
            last_heartbeat_time: match present {
                Some(present) => present.last_heartbeat_time.clone(),
                None => node.creation_timestamp(),
            },
            last_transition_time: Some(time(now)),
        });
    }
    unknown
}

type Wanted = Vec<(&'static str, &'static str)>;

fn wanted_taints<'v>(node: &Node, value: &impl Fn(&str) -> &'v str, disruption: Disruption) -> Wanted {
    let mut wanted: Wanted = BY_CONDITION
        .iter()
        .filter(|(kind, bad, _)| value(kind) == *bad)
        .map(|(_, _, taint)| (*taint, NO_SCHEDULE))
        .collect();
    // A node that has said nothing yet keeps the taint it was born with.
    let born_with = |taint: &Taint| taint.key == NOT_READY && taint.effect == NO_SCHEDULE;
    if value("Ready").is_empty() && taints_of(node).iter().any(born_with) {
        wanted.push((NOT_READY, NO_SCHEDULE));
    }
    let unschedulable = node.spec.as_ref().and_then(|spec| spec.unschedulable);
    if unschedulable == Some(true) {
        wanted.push((UNSCHEDULABLE, NO_SCHEDULE));
    }
    if disruption != Disruption::Everything {
        match value("Ready") {
            "False" => wanted.push((NOT_READY, NO_EXECUTE)),
            "Unknown" => wanted.push((UNREACHABLE, NO_EXECUTE)),
            _ => {}
        }
    }
    wanted
}

fn is_ours(taint: &Taint) -> bool {
    match &*taint.effect {
        NO_SCHEDULE => taint.key == UNSCHEDULABLE || BY_CONDITION.iter().any(|(_, _, key)| *key == taint.key),
        NO_EXECUTE => is_our_eviction(taint),
        _ => false,
    }
}

/// The node's taints with ours as wanted; none if they are so already. Others stay as they are.
fn merge_taints(present: &[Taint], wanted: &Wanted, now: Timestamp) -> Option<Vec<Taint>> {
    let is = |taint: &Taint, (key, effect): (&str, &str)| taint.key == key && taint.effect == effect;
    let mut taints: Vec<Taint> =
        present.iter().filter(|taint| !is_ours(taint) || wanted.iter().any(|w| is(taint, *w))).cloned().collect();
    for new in wanted {
        if !taints.iter().any(|taint| is(taint, *new)) {
            taints.push(Taint { key: new.0.into(), effect: new.1.into(), value: None, time_added: Some(time(now)) });
        }
    }
    (taints != present).then_some(taints)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const GRACE: Duration = Duration::from_secs(40);

    fn node(conditions: &[(&str, &str)], spec: Value) -> Node {
        let conditions: Vec<Value> =
            conditions.iter().map(|(kind, status)| json!({"type": kind, "status": status})).collect();
        serde_json::from_value(json!({
            "metadata": {"name": "n", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": spec,
            "status": {"conditions": conditions},
        }))
        .unwrap()
    }

    fn healthy() -> Vec<(&'static str, &'static str)> {
        vec![("Ready", "True"), ("MemoryPressure", "False"), ("DiskPressure", "False"), ("PIDPressure", "False")]
    }

    fn decide(node: &Node, silent_seconds: u64, disruption: Disruption) -> Plan {
        plan(Observed {
            node,
            silent_for: Duration::from_secs(silent_seconds),
            grace: GRACE,
            startup_grace: Duration::from_secs(60),
            disruption,
            now: Timestamp::from_second(1_700_000_000).unwrap(),
        })
    }

    fn taints(plan: &Plan) -> Vec<(String, String)> {
        let taints = plan.taints.clone().unwrap_or_default();
        taints.into_iter().map(|t| (t.key, t.effect)).collect()
    }

    fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter().map(|(key, effect)| ((*key).to_owned(), (*effect).to_owned())).collect()
    }

    #[test]
    fn a_healthy_node_is_left_alone_until_its_grace_ends() {
        let plan = decide(&node(&healthy(), json!({})), 15, Disruption::None);
        assert_eq!(plan.conditions, []);
        assert_eq!(plan.taints, None);
        assert_eq!(plan.patience, Some(Duration::from_secs(25)));
    }

    #[test]
    fn a_silent_node_becomes_unknown_and_is_tainted() {
        let plan = decide(&node(&healthy(), json!({})), 41, Disruption::None);
        assert_eq!(plan.ready, "Unknown");
        let kinds: Vec<&str> = plan.conditions.iter().map(|c| &*c.type_).collect();
        assert_eq!(kinds, VOUCHED);
        assert!(plan.conditions.iter().all(|c| {
            c.status == "Unknown"
                && c.reason.as_deref() == Some("NodeStatusUnknown")
                && c.message.as_deref() == Some("Kubelet stopped posting node status.")
        }));
        assert_eq!(taints(&plan), pairs(&[(UNREACHABLE, "NoSchedule"), (UNREACHABLE, "NoExecute")]));
        assert!(plan.begins_eviction);
        assert!(plan.taints.unwrap().iter().all(|t| t.time_added.is_some()));
    }

    #[test]
    fn a_node_that_never_spoke_gets_more_time_and_another_reason() {
        let silent = node(&[], json!({}));
        assert_eq!(decide(&silent, 50, Disruption::None).conditions, []);
        let plan = decide(&silent, 61, Disruption::None);
        assert_eq!(plan.conditions[0].reason.as_deref(), Some("NodeStatusNeverUpdated"));
        let born = node(&[], json!({"taints": [{"key": NOT_READY, "effect": "NoSchedule"}]}));
        assert_eq!(decide(&born, 5, Disruption::None).taints, None);
    }

    #[test]
    fn a_node_that_is_back_loses_our_taints_and_keeps_others() {
        let back = node(
            &healthy(),
            json!({"taints": [
                {"key": UNREACHABLE, "effect": "NoSchedule"},
                {"key": UNREACHABLE, "effect": "NoExecute"},
                {"key": "team", "value": "a", "effect": "NoExecute"},
            ]}),
        );
        let plan = decide(&back, 1, Disruption::None);
        assert_eq!(taints(&plan), pairs(&[("team", "NoExecute")]));
        assert!(!plan.begins_eviction);
    }

    #[test]
    fn pressure_and_cordoning_keep_new_pods_away() {
        let mut conditions = healthy();
        conditions[2] = ("DiskPressure", "True");
        let plan = decide(&node(&conditions, json!({"unschedulable": true})), 1, Disruption::None);
        assert_eq!(
            taints(&plan),
            pairs(&[("node.kubernetes.io/disk-pressure", "NoSchedule"), (UNSCHEDULABLE, "NoSchedule")])
        );
    }

    #[test]
    fn from_unreachable_to_not_ready_needs_no_new_allowance() {
        let conditions = [("Ready", "False")];
        let swapped = node(&conditions, json!({"taints": [{"key": UNREACHABLE, "effect": "NoExecute"}]}));
        let plan = decide(&swapped, 1, Disruption::None);
        assert_eq!(taints(&plan), pairs(&[(NOT_READY, "NoSchedule"), (NOT_READY, "NoExecute")]));
        assert!(!plan.begins_eviction);
    }

    #[test]
    fn when_everything_is_down_nothing_is_evicted() {
        let conditions = [("Ready", "Unknown")];
        let down = node(
            &conditions,
            json!({"taints": [
                {"key": UNREACHABLE, "effect": "NoSchedule"},
                {"key": UNREACHABLE, "effect": "NoExecute"}]}),
        );
        let plan = decide(&down, 100, Disruption::Everything);
        assert_eq!(taints(&plan), pairs(&[(UNREACHABLE, "NoSchedule")]));
    }

    #[test]
    fn a_node_that_waits_for_its_turn_is_only_closed_to_new_pods() {
        let silent = node(&healthy(), json!({}));
        let plan = decide(&silent, 41, Disruption::None);
        let waiting = without_eviction(&silent, plan.taints).unwrap();
        assert_eq!(waiting.len(), 1);
        assert_eq!(waiting[0].effect, "NoSchedule");
    }
}

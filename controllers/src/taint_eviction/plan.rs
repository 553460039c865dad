//! Decides whether and when a pod has to leave a tainted node. Pure.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, Taint, Toleration};

/// The effect that makes pods leave.
pub const NO_EXECUTE: &str = "NoExecute";

/// A taint that makes pods leave, and since when it counts.
#[derive(Clone, Debug, PartialEq)]
pub struct Since {
    /// The taint.
    pub taint: Taint,
    /// When it was put on the node, or first seen there.
    pub since: Timestamp,
}

/// What becomes of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It stays.
    Stays,
    /// It leaves at this time unless something changes.
    Leaves(Timestamp),
}

/// The taints of a node that make pods leave.
pub fn evicting(node: &Node) -> impl Iterator<Item = &Taint> {
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    taints.filter(|taint| taint.effect == NO_EXECUTE)
}

/// Whether a toleration tolerates a taint.
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let (key, effect) = (text(&toleration.key), text(&toleration.effect));
    if !effect.is_empty() && effect != taint.effect {
        return false;
    }
    if !key.is_empty() && key != taint.key {
        return false;
    }
    match toleration.operator.as_deref() {
        Some("Exists") => true,
        None | Some("" | "Equal") => !key.is_empty() && text(&toleration.value) == text(&taint.value),
        Some(_) => false,
    }
}

/// Decides about a pod that is on the node since `bound`.
pub fn fate(tolerations: &[Toleration], taints: &[Since], bound: Timestamp) -> Fate {
    let mut earliest: Option<Timestamp> = None;
    for Since { taint, since } in taints {
        let since = (*since).max(bound);
        let Some(toleration) = tolerations.iter().find(|t| tolerates(t, taint)) else {
            return Fate::Leaves(Timestamp::MIN);
        };
        if let Some(seconds) = toleration.toleration_seconds {
            let until = since.checked_add(SignedDuration::from_secs(seconds.max(0))).unwrap_or(Timestamp::MAX);
            earliest = Some(earliest.map_or(until, |time| time.min(until)));
        }
    }
    earliest.map_or(Fate::Stays, Fate::Leaves)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).unwrap()
    }

    fn taint(key: &str, value: &str, second: i64) -> Since {
        Since {
            taint: serde_json::from_value(json!({"key": key, "value": value, "effect": NO_EXECUTE})).unwrap(),
            since: at(second),
        }
    }

    fn tolerations(value: Value) -> Vec<Toleration> {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_pod_without_toleration_leaves_at_once() {
        assert_eq!(fate(&[], &[taint("a", "", 0)], at(0)), Fate::Leaves(Timestamp::MIN));
        assert_eq!(fate(&[], &[], at(0)), Fate::Stays);
    }

    #[test]
    fn the_shortest_toleration_counts_from_its_own_taint() {
        let pod = tolerations(json!([
            {"key": "a", "operator": "Exists", "effect": NO_EXECUTE, "tolerationSeconds": 300},
            {"key": "b", "operator": "Exists", "tolerationSeconds": 10},
        ]));
        assert_eq!(fate(&pod, &[taint("a", "", 0)], at(-50)), Fate::Leaves(at(300)));
        let both = [taint("a", "", 0), taint("b", "", 100)];
        assert_eq!(fate(&pod, &both, at(-50)), Fate::Leaves(at(110)));
        // A pod that came later has its whole time.
        assert_eq!(fate(&pod, &[taint("a", "", 0)], at(20)), Fate::Leaves(at(320)));
    }

    #[test]
    fn a_toleration_without_seconds_lasts_for_ever_and_a_negative_one_not_at_all() {
        let forever = tolerations(json!([{"operator": "Exists"}]));
        assert_eq!(fate(&forever, &[taint("a", "x", 0)], at(0)), Fate::Stays);
        let never = tolerations(json!([{"operator": "Exists", "tolerationSeconds": -5}]));
        assert_eq!(fate(&never, &[taint("a", "x", 0)], at(0)), Fate::Leaves(at(0)));
    }

    #[test]
    fn values_and_effects_must_agree() {
        let cases = [
            (json!([{"key": "a", "value": "x"}]), true),
            (json!([{"key": "a", "value": "y"}]), false),
            (json!([{"key": "a", "operator": "Exists", "effect": "NoSchedule"}]), false),
            (json!([{"key": "b", "operator": "Exists"}]), false),
            (json!([{"operator": "Equal"}]), false),
        ];
        for (value, expected) in cases {
            let pod = tolerations(value.clone());
            let stays = fate(&pod, &[taint("a", "x", 0)], at(0)) == Fate::Stays;
            assert_eq!(stays, expected, "{value}");
        }
    }
}

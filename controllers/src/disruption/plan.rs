//! Decides how many pods of a budget may be disrupted. In: the budget, its pods, the sizes of what controls them, and the time.
//! Out: the status, and when to look again. No I/O.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;

use crate::machinery::objects::{scaled, time};
use crate::machinery::pods;

/// A pod whose eviction was granted and that is still there after this long will not go any more.
const DISRUPTION_WAIT: SignedDuration = SignedDuration::from_mins(2);
const CONDITION: &str = "DisruptionAllowed";

/// What is known about a budget.
pub struct Observed<'a> {
    /// The budget.
    pub budget: &'a PodDisruptionBudget,
    /// Its pods.
    pub pods: &'a [Arc<Pod>],
    /// The sizes of what controls them, or why they are not known.
    pub sizes: &'a Result<HashMap<String, i32>, String>,
    /// The time.
    pub now: Timestamp,
}

/// Whether the budget is a share of what is wanted, or a number that may be missing from it.
pub fn needs_sizes(budget: &PodDisruptionBudget) -> bool {
    let Some(spec) = &budget.spec else { return false };
    spec.max_unavailable.is_some() || matches!(spec.min_available, Some(IntOrString::String(_)))
}

/// The budget's status, and when the next granted eviction is given up.
pub fn plan(observed: &Observed<'_>) -> (PodDisruptionBudgetStatus, Option<Duration>) {
    let (budget, now) = (observed.budget, observed.now);
    let before = budget.status.clone().unwrap_or_default();
    let sizes = match observed.sizes {
        Ok(sizes) => sizes,
        Err(why) => {
            // Better no disruption than one too many.
            let mut status = before;
            status.disruptions_allowed = 0;
            status.observed_generation = budget.metadata.generation;
            set_condition(&mut status, "False", "SyncFailed", why, now);
            return (status, None);
        }
    };
    let (disrupted, again) = disrupted(&before, observed.pods, now);
    let (expected, desired) = wanted(budget, observed.pods, sizes);
    let healthy = observed.pods.iter().filter(|pod| {
        pod.metadata.deletion_timestamp.is_none() && !disrupted.contains_key(&pod.name_any()) && pods::is_ready(pod)
    });
    let healthy = i32::try_from(healthy.count()).unwrap_or(i32::MAX);
    let allowed = if expected <= 0 { 0 } else { healthy.saturating_sub(desired).max(0) };
    let mut status = PodDisruptionBudgetStatus {
        current_healthy: healthy,
        desired_healthy: desired,
        expected_pods: expected,
        disruptions_allowed: allowed,
        disrupted_pods: (!disrupted.is_empty()).then_some(disrupted),
        observed_generation: budget.metadata.generation,
        conditions: before.conditions,
    };
    let (value, reason) = if allowed > 0 { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
    set_condition(&mut status, value, reason, "", now);
    (status, again)
}

/// How many pods there should be, and how many of them must stay healthy.
fn wanted(budget: &PodDisruptionBudget, pods: &[Arc<Pod>], sizes: &HashMap<String, i32>) -> (i32, i32) {
    let total = sizes.values().fold(0_i32, |sum, size| sum.saturating_add(*size));
    let Some(spec) = &budget.spec else { return (0, 0) };
    match (&spec.max_unavailable, &spec.min_available) {
        (Some(missing), _) => (total, total.saturating_sub(scaled(missing, total, true)).max(0)),
        (None, Some(IntOrString::Int(least))) => (i32::try_from(pods.len()).unwrap_or(i32::MAX), *least),
        (None, Some(share)) => (total, scaled(share, total, true)),
        (None, None) => (0, 0),
    }
}

/// The pods whose eviction was granted and that have not gone yet, and when the first of them is given up.
fn disrupted(
    before: &PodDisruptionBudgetStatus,
    pods: &[Arc<Pod>],
    now: Timestamp,
) -> (BTreeMap<String, Time>, Option<Duration>) {
    let mut left = BTreeMap::new();
    let mut again: Option<Duration> = None;
    for (name, granted) in before.disrupted_pods.iter().flatten() {
        let stays = pods.iter().any(|pod| pod.name_any() == *name && pod.metadata.deletion_timestamp.is_none());
        let waits = DISRUPTION_WAIT - now.duration_since(granted.0);
        if stays && waits > SignedDuration::ZERO {
            left.insert(name.clone(), granted.clone());
            let waits = Duration::try_from(waits).unwrap_or_default();
            again = Some(again.map_or(waits, |other| other.min(waits)));
        }
    }
    (left, again)
}

fn set_condition(status: &mut PodDisruptionBudgetStatus, value: &str, reason: &str, message: &str, now: Timestamp) {
    let conditions = status.conditions.get_or_insert_with(Vec::new);
    let new = Condition {
        type_: CONDITION.into(),
        status: value.into(),
        reason: reason.into(),
        message: message.into(),
        observed_generation: status.observed_generation,
        last_transition_time: time(now),
    };
    match conditions.iter_mut().find(|condition| condition.type_ == CONDITION) {
        Some(present) => {
            let since = if present.status == new.status { present.last_transition_time.clone() } else { time(now) };
            *present = Condition { last_transition_time: since, ..new };
        }
        None => conditions.push(new),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn now() -> Timestamp {
        "2026-01-01T00:10:00Z".parse().unwrap()
    }

    fn budget(spec: Value, status: Value) -> PodDisruptionBudget {
        serde_json::from_value(json!({"metadata": {"name": "b", "generation": 2}, "spec": spec, "status": status}))
            .unwrap()
    }

    fn pod(name: &str, ready: bool) -> Arc<Pod> {
        let ready = if ready { "True" } else { "False" };
        Arc::new(
            serde_json::from_value(json!({"metadata": {"name": name},
                "status": {"conditions": [{"type": "Ready", "status": ready}]}}))
            .unwrap(),
        )
    }

    fn counts(spec: Value, pods: &[Arc<Pod>], size: i32) -> (i32, i32, i32, i32) {
        let sizes = Ok(HashMap::from([("u".to_owned(), size)]));
        let status = plan(&Observed { budget: &budget(spec, Value::Null), pods, sizes: &sizes, now: now() }).0;
        (status.expected_pods, status.current_healthy, status.desired_healthy, status.disruptions_allowed)
    }

    #[test]
    fn numbers_and_shares_leave_so_many_disruptions() {
        let pods = [pod("a", true), pod("b", true), pod("c", false)];
        assert_eq!(counts(json!({"minAvailable": 1}), &pods, 0), (3, 2, 1, 1));
        assert_eq!(counts(json!({"minAvailable": "50%"}), &pods, 4), (4, 2, 2, 0));
        assert_eq!(counts(json!({"maxUnavailable": 2}), &pods, 3), (3, 2, 1, 1));
        assert_eq!(counts(json!({"maxUnavailable": "10%"}), &pods, 3), (3, 2, 2, 0));
        assert_eq!(counts(json!({"maxUnavailable": 1}), &[], 0), (0, 0, 0, 0));
    }

    #[test]
    fn a_granted_eviction_counts_until_the_pod_is_gone_or_it_is_given_up() {
        let pods = [pod("a", true), pod("b", true), pod("old", true)];
        let status = json!({"disruptedPods": {"a": "2026-01-01T00:09:00Z", "old": "2026-01-01T00:01:00Z", "gone": "2026-01-01T00:09:59Z"},
            "currentHealthy": 0, "desiredHealthy": 0, "disruptionsAllowed": 0, "expectedPods": 0});
        let budget = budget(json!({"minAvailable": 1}), status);
        let sizes = Ok(HashMap::new());
        let (status, again) = plan(&Observed { budget: &budget, pods: &pods, sizes: &sizes, now: now() });
        assert_eq!(status.disrupted_pods.unwrap().keys().collect::<Vec<_>>(), ["a"]);
        assert_eq!((status.current_healthy, status.disruptions_allowed), (2, 1));
        assert_eq!(again, Some(Duration::from_secs(60)));
    }

    #[test]
    fn what_cannot_be_counted_allows_nothing_and_says_why() {
        let sizes = Err("Widget does not implement the scale subresource".to_owned());
        let budget = budget(json!({"maxUnavailable": 1}), Value::Null);
        let (status, _) = plan(&Observed { budget: &budget, pods: &[], sizes: &sizes, now: now() });
        let condition = &status.conditions.unwrap()[0];
        assert_eq!((condition.reason.as_str(), status.disruptions_allowed), ("SyncFailed", 0));
        assert_eq!(status.observed_generation, Some(2));
    }
}

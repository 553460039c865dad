//! Counts what a quota's namespace uses. In: the quota, the objects, the numbers and the time. Out: the status. No I/O.

use std::collections::BTreeSet;

use gantry_api::policy::quota::{Evaluator, hard, selectors, used, wanted};
use gantry_api::quantity::{Format, Quantity};
use gantry_api::resources::{self, ResourceList};
use jiff::Timestamp;
use serde_json::{Value, json};

/// The objects that cost more than their number.
#[derive(Debug, Default)]
pub struct Objects {
    /// The namespace's pods.
    pub pods: Vec<Value>,
    /// Its services.
    pub services: Vec<Value>,
    /// Its claims.
    pub claims: Vec<Value>,
}

/// The status that the quota should have. `count` tells how many objects there are of what quotas call `count/…`.
pub fn plan(quota: &Value, objects: &Objects, count: impl Fn(&str) -> usize, now: Timestamp) -> Value {
    let limits = wanted(quota);
    let names: BTreeSet<String> = limits.keys().cloned().collect();
    let selectors = selectors(quota);
    // What nobody here counts stays as it is.
    let mut usage = resources::only(&used(quota), &names);
    for name in &names {
        if let Some(number) = number_of(name, &count) {
            let number = if selectors.is_empty() { number } else { 0 };
            let number = Quantity::new(i64::try_from(number).unwrap_or(i64::MAX), Format::DecimalSi);
            usage.insert(name.clone(), number);
        }
    }
    for (evaluator, items) in [
        (Evaluator::Pods, &objects.pods),
        (Evaluator::Services, &objects.services),
        (Evaluator::Claims, &objects.claims),
    ] {
        let concerned = evaluator.matching(&names);
        if concerned.is_empty() {
            continue;
        }
        let mut total: ResourceList = concerned.iter().map(|name| (name.clone(), Quantity::ZERO)).collect();
        for item in items.iter().filter(|item| selectors.iter().all(|selector| evaluator.in_scope(selector, item))) {
            resources::add(&mut total, &resources::only(&evaluator.usage(item, now), &concerned));
        }
        usage.extend(total);
    }
    json!({"hard": resources::to_value(&limits), "used": resources::to_value(&usage)})
}

/// The number behind a name that only counts objects; none if it is no such name.
fn number_of(name: &str, count: impl Fn(&str) -> usize) -> Option<usize> {
    let rich = |name: &str| [Evaluator::Pods, Evaluator::Services, Evaluator::Claims].iter().any(|e| e.concerns(name));
    if rich(name) {
        return None;
    }
    if name.starts_with("count/") {
        return Some(count(name));
    }
    let alias = Evaluator::of("", name);
    (!name.contains(['/', '.']) && alias.concerns(name)).then(|| count(&format!("count/{name}")))
}

/// Whether the new status gives something back, with the same limits as before.
pub fn is_lower(quota: &Value, after: &Value) -> bool {
    let new = json!({"status": after});
    let (before, after) = (used(quota), used(&new));
    hard(quota) == hard(&new)
        && after.iter().any(|(name, amount)| before.get(name).is_some_and(|before| amount < before))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2026-01-01T00:00:00Z".parse().unwrap()
    }

    fn pod(phase: &str, cpu: &str) -> Value {
        json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}, "status": {"phase": phase}})
    }

    #[test]
    fn what_runs_is_counted_and_what_ended_is_not() {
        let quota =
            json!({"spec": {"hard": {"pods": "5", "requests.cpu": "2", "count/pods": "9", "example.com/foo": "1"}}});
        let objects = Objects { pods: vec![pod("Running", "500m"), pod("Succeeded", "1")], ..Objects::default() };
        let status = plan(&quota, &objects, |_| 0, now());
        assert_eq!(status["used"], json!({"pods": "1", "requests.cpu": "500m", "count/pods": "2"}));
        assert_eq!(status["hard"], quota["spec"]["hard"]);
    }

    #[test]
    fn numbers_come_under_their_old_and_new_names() {
        let quota = json!({"spec": {"hard": {"configmaps": "5", "count/widgets.example.com": "2", "secrets": "1"}}});
        let count = |name: &str| match name {
            "count/configmaps" => 3,
            "count/widgets.example.com" => 1,
            _ => 0,
        };
        let status = plan(&quota, &Objects::default(), count, now());
        assert_eq!(status["used"], json!({"configmaps": "3", "count/widgets.example.com": "1", "secrets": "0"}));
    }

    #[test]
    fn a_scope_leaves_out_what_is_not_in_it() {
        let quota = json!({"spec": {"hard": {"pods": "5"}, "scopes": ["BestEffort"]}});
        let best_effort = json!({"spec": {"containers": [{"name": "c"}]}});
        let objects = Objects { pods: vec![pod("Running", "1"), best_effort], ..Objects::default() };
        assert_eq!(plan(&quota, &objects, |_| 0, now())["used"], json!({"pods": "1"}));
    }

    #[test]
    fn only_giving_back_waits() {
        let quota = json!({"status": {"hard": {"pods": "5"}, "used": {"pods": "2"}}});
        let status = |hard: &str, used: &str| json!({"hard": {"pods": hard}, "used": {"pods": used}});
        assert!(is_lower(&quota, &status("5", "1")));
        assert!(!is_lower(&quota, &status("5", "3")));
        assert!(!is_lower(&quota, &status("6", "1")));
    }
}

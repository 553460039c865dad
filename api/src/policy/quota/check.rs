//! Whether a request fits into the quotas of its namespace, and what they have used afterwards.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::Value;

use super::evaluator::Evaluator;
use super::{hard, names, selectors, used};
use crate::meta;
use crate::quantity::Quantity;
use crate::resources::{self, ResourceList};

/// A request as quotas see it.
#[derive(Debug, Clone, Copy)]
pub struct Charge<'a> {
    /// Knows what the object costs.
    pub evaluator: &'a Evaluator,
    /// The object to be stored.
    pub object: &'a Value,
    /// The object there is, for an update.
    pub old: Option<&'a Value>,
    /// A status that tells what has happened is charged even beyond the limit.
    pub is_status: bool,
}

/// The usage of each quota (in the order of `quotas`) once `charge` is stored; none for those it leaves as they are. The
/// error is why it may not be.
pub fn check(quotas: &[Value], charge: &Charge<'_>, now: Timestamp) -> Result<Vec<Option<ResourceList>>, String> {
    let evaluator = charge.evaluator;
    let mut concerned = Vec::new();
    for (at, quota) in quotas.iter().enumerate() {
        let limits = names(&hard(quota));
        if !evaluator.counts(&limits, &selectors(quota), charge.object) {
            continue;
        }
        let restricted = evaluator.matching(&limits);
        let name = meta::name(quota);
        if let Some(unmet) = evaluator.unmet(&restricted, charge.object) {
            return Err(format!("failed quota: {name}: {unmet}"));
        }
        let counted = used(quota);
        if restricted.iter().any(|resource| !counted.contains_key(resource)) {
            return Err(format!("status unknown for quota: {name}, resources: {}", joined(&restricted)));
        }
        concerned.push(at);
    }
    let usage = evaluator.usage(charge.object, now);
    let negative: BTreeSet<String> =
        usage.iter().filter(|(_, amount)| amount.signum() < 0).map(|(name, _)| name.clone()).collect();
    if !negative.is_empty() {
        return Err(format!("quota usage is negative for resource(s): {}", joined(&negative)));
    }
    let mut after = vec![None; quotas.len()];
    for at in concerned {
        let Some(quota) = quotas.get(at) else { continue };
        let limits = hard(quota);
        // An update pays the difference, unless the object did not count here before.
        let before = charge.old.filter(|old| evaluator.counts(&names(&limits), &selectors(quota), old));
        let mut delta = match before {
            Some(old) => grown(&usage, &evaluator.usage(old, now)),
            None => usage.clone(),
        };
        delta.retain(|_, amount| !amount.is_zero());
        if !delta.is_empty() {
            after[at] = Some(charged(quota, &limits, &delta, charge.is_status)?);
        }
    }
    Ok(after)
}

fn charged(
    quota: &Value,
    limits: &ResourceList,
    delta: &ResourceList,
    is_status: bool,
) -> Result<ResourceList, String> {
    let requested = resources::only(delta, &names(limits));
    let before = used(quota);
    let mut after = before.clone();
    resources::add(&mut after, &requested);
    let exceeded: BTreeSet<String> = requested
        .keys()
        .filter(|name| matches!((after.get(*name), limits.get(*name)), (Some(used), Some(limit)) if used > limit))
        .cloned()
        .collect();
    if is_status || exceeded.is_empty() {
        return Ok(after);
    }
    Err(format!(
        "exceeded quota: {}, requested: {}, used: {}, limited: {}",
        meta::name(quota),
        resources::print(&resources::only(&requested, &exceeded)),
        resources::print(&resources::only(&before, &exceeded)),
        resources::print(&resources::only(limits, &exceeded)),
    ))
}

/// By how much `new` is more than `old`, never less than nothing.
fn grown(new: &ResourceList, old: &ResourceList) -> ResourceList {
    let amount = |name: &str, amount: &Quantity| match old.get(name) {
        Some(before) if before >= amount => Quantity::ZERO,
        Some(before) => amount.sub(before),
        None => *amount,
    };
    new.iter().map(|(name, value)| (name.clone(), amount(name, value))).collect()
}

fn joined(names: &BTreeSet<String>) -> String {
    names.iter().map(String::as_str).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn now() -> Timestamp {
        "2026-01-01T00:00:00Z".parse().unwrap()
    }

    fn quota(hard: Value, used: Value) -> Value {
        json!({"metadata": {"name": "q"}, "spec": {"hard": hard}, "status": {"hard": hard, "used": used}})
    }

    fn pod(cpu: &str) -> Value {
        json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu, "memory": "1Gi"}}}]}})
    }

    fn create(quota: &Value, object: &Value) -> Result<Option<ResourceList>, String> {
        let charge = Charge { evaluator: &Evaluator::Pods, object, old: None, is_status: false };
        check(std::slice::from_ref(quota), &charge, now()).map(|mut after| after.remove(0))
    }

    #[test]
    fn a_pod_is_charged_or_refused_with_all_that_is_too_much() {
        let quota = quota(
            json!({"pods": "5", "cpu": "1", "memory": "2Gi"}),
            json!({"pods": "2", "cpu": "600m", "memory": "1Gi"}),
        );
        let after = create(&quota, &pod("300m")).unwrap().unwrap();
        assert_eq!(resources::print(&after), "cpu=900m,memory=2Gi,pods=3");
        assert_eq!(
            create(&quota, &pod("500m")).unwrap_err(),
            "exceeded quota: q, requested: cpu=500m, used: cpu=600m, limited: cpu=1"
        );
    }

    #[test]
    fn a_container_that_does_not_say_what_it_wants_fails_the_quota() {
        let quota = quota(
            json!({"requests.cpu": "1", "limits.memory": "1Gi"}),
            json!({"requests.cpu": "0", "limits.memory": "0"}),
        );
        let silent = json!({"spec": {"containers": [{"name": "b"}, {"name": "a"}]}});
        assert_eq!(
            create(&quota, &silent).unwrap_err(),
            "failed quota: q: must specify limits.memory for: a,b; requests.cpu for: a,b"
        );
    }

    #[test]
    fn a_quota_that_has_not_been_counted_lets_nothing_in() {
        let quota = quota(json!({"pods": "5"}), json!({}));
        assert_eq!(create(&quota, &pod("1")).unwrap_err(), "status unknown for quota: q, resources: pods");
    }

    #[test]
    fn scopes_say_whom_a_quota_is_about() {
        let mut quota = quota(json!({"pods": "0"}), json!({"pods": "0"}));
        for (scope, refuses) in
            [("BestEffort", false), ("NotBestEffort", true), ("Terminating", false), ("NotTerminating", true)]
        {
            quota["spec"]["scopes"] = json!([scope]);
            assert_eq!(create(&quota, &pod("1")).is_err(), refuses, "{scope}");
        }
        quota["spec"]["scopes"] = Value::Null;
        let mut urgent = pod("1");
        urgent["spec"]["priorityClassName"] = json!("urgent");
        for (operator, values, refuses_plain, refuses_urgent) in [
            ("In", json!(["urgent"]), false, true),
            ("NotIn", json!(["urgent"]), true, false),
            ("Exists", json!([]), false, true),
            ("DoesNotExist", json!([]), true, false),
        ] {
            let expression = json!({"scopeName": "PriorityClass", "operator": operator, "values": values});
            quota["spec"]["scopeSelector"] = json!({"matchExpressions": [expression]});
            assert_eq!(create(&quota, &pod("1")).is_err(), refuses_plain, "{operator}");
            assert_eq!(create(&quota, &urgent).is_err(), refuses_urgent, "{operator}");
        }
    }

    #[test]
    fn an_update_pays_the_difference_and_gives_nothing_back() {
        let limits = json!({"services": "1", "services.nodeports": "2", "services.loadbalancers": "0"});
        let counted = json!({"services": "1", "services.nodeports": "0", "services.loadbalancers": "0"});
        let quotas = [quota(limits, counted)];
        let service = |kind: &str| json!({"spec": {"type": kind, "ports": [{"port": 1}, {"port": 2}]}});
        let (plain, node_port) = (service("ClusterIP"), service("NodePort"));
        let update = |object: &Value, old: &Value| {
            let charge = Charge { evaluator: &Evaluator::Services, object, old: Some(old), is_status: false };
            check(&quotas, &charge, now())
        };
        let after = update(&node_port, &plain).unwrap().remove(0).unwrap();
        assert_eq!(resources::print(&after), "services=1,services.loadbalancers=0,services.nodeports=2");
        assert_eq!(update(&plain, &node_port).unwrap(), vec![None]);
        assert!(update(&service("LoadBalancer"), &plain).unwrap_err().contains("services.loadbalancers=1"));
    }

    #[test]
    fn claims_count_by_class_and_custom_kinds_by_number() {
        let claim = json!({"spec": {"storageClassName": "gold", "resources": {"requests": {"storage": "1Gi"}}}});
        let usage = Evaluator::Claims.usage(&claim, now());
        assert_eq!(usage["gold.storageclass.storage.k8s.io/requests.storage"].to_string(), "1Gi");
        assert_eq!(usage["gold.storageclass.storage.k8s.io/persistentvolumeclaims"].to_string(), "1");
        let widgets = Evaluator::of("example.com", "widgets");
        assert!(widgets.concerns("count/widgets.example.com"));
        assert!(Evaluator::of("", "secrets").concerns("secrets"));
        assert!(!Evaluator::of("x.io", "secrets").concerns("secrets"));
    }

    #[test]
    fn pods_that_ended_only_count_as_objects() {
        let mut ended = pod("1");
        ended["status"] = json!({"phase": "Succeeded"});
        assert_eq!(resources::print(&Evaluator::Pods.usage(&ended, now())), "count/pods=1");
        let mut lost = pod("1");
        lost["metadata"] = json!({"deletionTimestamp": "2025-12-31T23:00:00Z", "deletionGracePeriodSeconds": 30});
        assert_eq!(resources::print(&Evaluator::Pods.usage(&lost, now())), "count/pods=1");
    }
}

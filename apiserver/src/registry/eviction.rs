//! Eviction: a deletion that a pod's disruption budget may refuse.
//!
//! [`take`] decides, purely, whether a budget has a disruption left, and takes it. It is written before the pod goes, by
//! comparing and swapping, so that evictions at the same time never take the same one.

use gantry_api::error::{Cause, Details};
use gantry_api::kinds::Resource;
use gantry_api::selector::LabelSelector;
use gantry_api::{ApiError, Reason, codec, meta};
use gantry_store::Error;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::update::Target;
use super::{AsOf, Caller, DeleteOptions, Deleted, Registry, errors};
use crate::admission::{Attributes, Operation};
use crate::auth::{Identity, MASTERS};

const GROUP: &str = "policy";
/// More evictions than this that nobody has confirmed are too many.
const DISRUPTED_MAX: usize = 2000;
/// How often an eviction that lost a race is decided again.
const ATTEMPTS_MAX: usize = 32;

impl Registry {
    /// Evicts a pod.
    pub async fn evict(
        &self,
        pods: &Resource,
        namespace: &str,
        name: &str,
        eviction: &Value,
        caller: &Caller,
    ) -> Result<Deleted, ApiError> {
        let named = meta::name(eviction);
        if !named.is_empty() && named != name {
            return Err(ApiError::bad_request("name in URL does not match name in Eviction object"));
        }
        let target = Target { resource: pods, subresource: "eviction", namespace, name };
        let mut admitted = eviction.clone();
        self.admit(&Attributes::new(Operation::Create, target, caller), &mut admitted).await?;
        let mut options = DeleteOptions::from_value(admitted.get("deleteOptions").unwrap_or(&Value::Null))?;
        options.dry_run |= caller.dry_run;
        let target = Target { subresource: "", ..target };
        let mut failure = None;
        for _ in 0..ATTEMPTS_MAX {
            let current = self.current(pods, namespace, name).await?;
            let pod = codec::decode(&current.bytes)?;
            let mut only_this = options.clone();
            let guard = self.guard(namespace, &pod).await?;
            // A pod that counts for no budget as it is must not begin to count before it is gone.
            let holds = guard == Guard::Unhealthy && options.resource_version.is_none();
            if holds {
                only_this.resource_version = Some(current.revision.to_string());
            }
            if let Guard::Budget(budget) = &guard {
                self.take_disruption(namespace, budget, name, options.dry_run).await?;
            }
            match self.delete_evicted(target, &only_this, caller).await {
                Err(error) if holds && error.reason == Reason::Conflict => failure = Some(error),
                other => return other,
            }
        }
        Err(failure.unwrap_or_else(|| ApiError::conflict(&pods.qualified(), name, "the pod kept changing")))
    }

    /// What guards a pod from eviction.
    async fn guard(&self, namespace: &str, pod: &Value) -> Result<Guard, ApiError> {
        let phase = meta::str_at(pod, &["status", "phase"]);
        if matches!(phase, "Succeeded" | "Failed") || meta::is_deleting(pod) {
            return Ok(Guard::None);
        }
        if phase == "Pending" {
            return Ok(Guard::Unhealthy);
        }
        let mut budgets = self.budgets_of(namespace, pod).await?;
        let Some(budget) = budgets.pop() else { return Ok(Guard::None) };
        if !budgets.is_empty() {
            return Err(ApiError::new(
                Reason::InternalError,
                "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
            ));
        }
        let number = |field: &str| meta::get(&budget, &["status", field]).and_then(Value::as_i64).unwrap_or(0);
        let healthy_enough = number("currentHealthy") >= number("desiredHealthy") && number("desiredHealthy") > 0;
        let always = meta::str_at(&budget, &["spec", "unhealthyPodEvictionPolicy"]) == "AlwaysAllow";
        if !is_ready(pod) && (always || healthy_enough) {
            return Ok(Guard::Unhealthy);
        }
        Ok(Guard::Budget(meta::name(&budget).to_owned()))
    }

    /// The budgets that a pod counts for.
    async fn budgets_of(&self, namespace: &str, pod: &Value) -> Result<Vec<Value>, ApiError> {
        let catalog = self.catalog();
        let Some(kind) = catalog.resource(GROUP, "v1", "poddisruptionbudgets") else {
            return Ok(Vec::new());
        };
        let nothing = json!({});
        let labels = meta::get(pod, &["metadata", "labels"]).unwrap_or(&nothing);
        let mut matching = Vec::new();
        for current in self.find_all(kind, namespace, &AsOf::now()).await? {
            let budget = codec::decode(&current.bytes)?;
            let selector = LabelSelector::from_object(budget.pointer("/spec/selector").unwrap_or(&Value::Null));
            if selector.is_ok_and(|selector| selector.matches(labels)) {
                matching.push(budget);
            }
        }
        Ok(matching)
    }

    async fn take_disruption(&self, namespace: &str, name: &str, pod: &str, dry_run: bool) -> Result<(), ApiError> {
        let catalog = self.catalog();
        let Some(kind) = catalog.resource(GROUP, "v1", "poddisruptionbudgets") else {
            return Ok(());
        };
        let mut caller = Caller::new(Identity::new("system:apiserver", [MASTERS]), "gantry-apiserver");
        caller.dry_run = dry_run;
        let target = Target { resource: kind, subresource: "status", namespace, name };
        self.modify(target, &caller, |budget, context| take(budget, pod, context.now)).await.map(|_| ())
    }

    /// Says on the pod why it goes, and deletes it.
    async fn delete_evicted(
        &self,
        target: Target<'_>,
        options: &DeleteOptions,
        caller: &Caller,
    ) -> Result<Deleted, ApiError> {
        let mut options = options.clone();
        for _ in 0..ATTEMPTS_MAX {
            if options.dry_run {
                break;
            }
            let current = self.current(target.resource, target.namespace, target.name).await?;
            let mut pod = codec::decode(&current.bytes)?;
            super::delete::check_preconditions(target.resource, target.name, &pod, &options)?;
            set_condition(&mut pod, disruption_target(Timestamp::now()));
            match self.put(&current, codec::encode(&pod)).await {
                Ok(written) => {
                    // What the client asked for held until now; what was written since is our own.
                    if options.resource_version.is_some() {
                        let written = codec::decode(&written)?;
                        options.resource_version = Some(meta::resource_version(&written).to_owned());
                    }
                    break;
                }
                Err(Error::Conflict { .. }) => {}
                Err(error) => return Err(errors::from_store(error)),
            }
        }
        self.delete_once(target, &options, caller, false).await
    }
}

/// What stands between a pod and its eviction.
#[derive(Debug, PartialEq, Eq)]
enum Guard {
    /// Nothing: it has ended, or no budget takes it.
    None,
    /// A budget that it does not count for as long as it is not healthy.
    Unhealthy,
    /// The budget of this name.
    Budget(String),
}

fn is_ready(pod: &Value) -> bool {
    let conditions = meta::get(pod, &["status", "conditions"]).and_then(Value::as_array).into_iter().flatten();
    conditions.into_iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

/// Sets a condition of a pod, by its type.
fn set_condition(pod: &mut Value, condition: Value) {
    let status = meta::object_mut(pod, "status");
    let conditions = status.entry("conditions").or_insert_with(|| json!([]));
    let Some(conditions) = conditions.as_array_mut() else { return };
    match conditions.iter_mut().find(|present| present["type"] == condition["type"]) {
        Some(present) => *present = condition,
        None => conditions.push(condition),
    }
}

fn disruption_target(now: Timestamp) -> Value {
    json!({
        "type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI",
        "message": "Eviction API: evicting", "lastProbeTime": null, "lastTransitionTime": meta::time(now),
    })
}

/// The budget after one of its disruptions was taken for `pod`, or why none may be.
fn take(budget: &Value, pod: &str, now: Timestamp) -> Result<Value, ApiError> {
    let name = meta::name(budget);
    let number = |path: &[&str]| meta::get(budget, path).and_then(Value::as_i64).unwrap_or(0);
    if number(&["status", "observedGeneration"]) < number(&["metadata", "generation"]) {
        return Err(refused(format!("The disruption budget {name} is still being processed by the server."), 10));
    }
    let allowed = number(&["status", "disruptionsAllowed"]);
    let forbidden = |why: &str| ApiError::forbidden("poddisruptionbudget.policy", name, why);
    if allowed < 0 {
        return Err(forbidden("pdb disruptions allowed is negative"));
    }
    let disrupted = meta::get(budget, &["status", "disruptedPods"]).and_then(Value::as_object);
    if disrupted.is_some_and(|disrupted| disrupted.len() > DISRUPTED_MAX) {
        return Err(forbidden("DisruptedPods map too big - too many evictions not confirmed by PDB controller"));
    }
    if allowed == 0 {
        return Err(refused(why_none(budget), 0));
    }
    let mut new = budget.clone();
    let status = meta::object_mut(&mut new, "status");
    status.insert("disruptionsAllowed".to_owned(), json!(allowed - 1));
    let disrupted = status.entry("disruptedPods").or_insert_with(|| json!({}));
    if disrupted.is_null() {
        *disrupted = json!({});
    }
    if let Some(disrupted) = disrupted.as_object_mut() {
        disrupted.insert(pod.to_owned(), json!(meta::time(now)));
    }
    if allowed == 1 {
        let conditions = status.get_mut("conditions").and_then(Value::as_array_mut).into_iter().flatten();
        for condition in conditions.filter(|condition| condition["type"] == "DisruptionAllowed") {
            condition["status"] = json!("False");
            condition["reason"] = json!("InsufficientPods");
            condition["lastTransitionTime"] = json!(meta::time(now));
        }
    }
    Ok(new)
}

fn why_none(budget: &Value) -> String {
    let name = meta::name(budget);
    let number = |field: &str| meta::get(budget, &["status", field]).and_then(Value::as_i64).unwrap_or(0);
    let conditions = meta::get(budget, &["status", "conditions"]).and_then(Value::as_array).into_iter().flatten();
    let text = |condition: &Value, field: &str| condition[field].as_str().unwrap_or_default().to_owned();
    let refusing = conditions
        .into_iter()
        .find(|condition| condition["type"] == "DisruptionAllowed" && condition["status"] == "False")
        .map(|condition| (text(condition, "reason"), text(condition, "message")))
        .filter(|(_, message)| !message.is_empty());
    match refusing {
        Some((reason, message)) if reason == "SyncFailed" => format!(
            "The disruption budget {name} does not allow evicting pods currently because it failed sync: {message}"
        ),
        _ if number("currentHealthy") <= number("desiredHealthy") => format!(
            "The disruption budget {name} needs {} healthy pods and has {} currently",
            number("desiredHealthy"),
            number("currentHealthy")
        ),
        Some((reason, message)) => {
            format!("The disruption budget {name} does not allow evicting pods currently ({reason}): {message}")
        }
        None => format!("The disruption budget {name} does not allow evicting pods currently"),
    }
}

/// The refusal that tells clients to come back.
fn refused(why: String, retry_after_seconds: u32) -> ApiError {
    ApiError::new(Reason::TooManyRequests, "Cannot evict pod as it would violate the pod's disruption budget.")
        .with_details(Details {
            causes: vec![Cause { reason: "DisruptionBudget".to_owned(), message: why, field: String::new() }],
            retry_after_seconds,
            ..Details::default()
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(allowed: i64) -> Value {
        json!({"metadata": {"name": "b", "generation": 1}, "status": {
            "observedGeneration": 1, "disruptionsAllowed": allowed, "currentHealthy": 2, "desiredHealthy": 2,
            "conditions": [{"type": "DisruptionAllowed", "status": "True", "reason": "SufficientPods"}]}})
    }

    fn now() -> Timestamp {
        "2026-01-01T00:00:00Z".parse().unwrap()
    }

    #[test]
    fn each_eviction_takes_one_disruption_until_none_is_left() {
        let one_left = take(&budget(2), "a", now()).unwrap();
        assert_eq!(one_left["status"]["conditions"][0]["status"], "True");
        let none_left = take(&one_left, "b", now()).unwrap();
        assert_eq!(none_left["status"]["disruptionsAllowed"], 0);
        assert_eq!(none_left["status"]["disruptedPods"].as_object().unwrap().len(), 2);
        assert_eq!(none_left["status"]["conditions"][0]["reason"], "InsufficientPods");
        let refused = take(&none_left, "c", now()).unwrap_err();
        assert_eq!(refused.reason, Reason::TooManyRequests);
        let cause = &refused.details.unwrap().causes[0];
        assert_eq!(cause.message, "The disruption budget b needs 2 healthy pods and has 2 currently");
    }

    #[test]
    fn a_budget_that_was_not_looked_at_since_it_changed_refuses() {
        let mut changed = budget(5);
        changed["metadata"]["generation"] = json!(2);
        let refused = take(&changed, "a", now()).unwrap_err();
        let details = refused.details.unwrap();
        assert_eq!(details.retry_after_seconds, 10);
        assert!(details.causes[0].message.ends_with("is still being processed by the server."));
    }
}

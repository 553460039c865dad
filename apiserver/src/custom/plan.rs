//! What is to be written about CustomResourceDefinitions. Pure.
//!
//! In: all definitions and the time. Out: steps. Definitions are looked at in the order of their creation, so that of two that
//! want a name the older one gets it, whichever server decides.

use std::collections::HashMap;
use std::sync::Arc;

use gantry_api::custom::CLEANUP_FINALIZER;
use gantry_api::custom::naming::{self, Taken};
use gantry_api::meta;
use jiff::Timestamp;
use serde_json::{Value, json};

/// Something to do.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Step {
    /// The definition gets this status.
    Status {
        /// The definition with it.
        new: Value,
    },
    /// The objects of a deleted definition are to go.
    CleanUp {
        /// The definition.
        crd: Arc<Value>,
    },
}

fn group(crd: &Value) -> &str {
    meta::str_at(crd, &["spec", "group"])
}

fn is_held(crd: &Value) -> bool {
    meta::finalizers(crd).any(|finalizer| finalizer == CLEANUP_FINALIZER)
}

/// The steps that these definitions ask for.
pub(super) fn plan(crds: &[Arc<Value>], now: Timestamp) -> Vec<Step> {
    let mut groups: HashMap<&str, Vec<&Arc<Value>>> = HashMap::new();
    for crd in crds {
        groups.entry(group(crd)).or_default().push(crd);
    }
    let mut steps = Vec::new();
    for members in groups.values_mut() {
        members.sort_by_key(|crd| (meta::str_at(crd, &["metadata", "creationTimestamp"]), meta::name(crd)));
        of_group(members, now, &mut steps);
    }
    steps
}

fn of_group(members: &[&Arc<Value>], now: Timestamp, steps: &mut Vec<Step>) {
    // Names that were accepted in this very plan count as well.
    let mut decided: Vec<Value> = members.iter().map(|crd| Value::clone(crd)).collect();
    for (at, crd) in members.iter().enumerate() {
        if meta::is_deleting(crd) {
            if is_held(crd) {
                steps.push(terminating(crd, now));
            }
            continue;
        }
        let mut taken = Taken::default();
        decided.iter().enumerate().filter(|(other, _)| *other != at).for_each(|(_, other)| taken.add(other));
        let mut new = naming::settle(crd, &taken, now);
        approval(&mut new, now);
        if new != ***crd {
            steps.push(Step::Status { new: new.clone() });
        }
        decided[at] = new;
    }
}

/// A deleted definition first says that its objects are going, then they go.
fn terminating(crd: &Arc<Value>, now: Timestamp) -> Step {
    let mut new = Value::clone(crd);
    let message = "CustomResource deletion is in progress";
    naming::set_condition(&mut new, "Terminating", true, "InstanceDeletionInProgress", message, now);
    if new == **crd { Step::CleanUp { crd: Arc::clone(crd) } } else { Step::Status { new } }
}

/// The definition once its objects are gone: nothing of this server's holds it.
pub(super) fn let_go(crd: &Value, now: Timestamp) -> Value {
    let mut new = crd.clone();
    let (reason, message) = if naming::is_true(crd, "Established") {
        ("InstanceDeletionCompleted", "removed all instances")
    } else {
        ("NeverEstablished", "resource was never established")
    };
    naming::set_condition(&mut new, "Terminating", false, reason, message, now);
    let kept: Vec<&str> = meta::finalizers(crd).filter(|finalizer| *finalizer != CLEANUP_FINALIZER).collect();
    let kept = json!(kept);
    let metadata = meta::metadata_mut(&mut new);
    if kept.as_array().is_none_or(Vec::is_empty) {
        metadata.remove("finalizers");
    } else {
        metadata.insert("finalizers".to_owned(), kept);
    }
    new
}

/// Groups of the Kubernetes project need an annotation that says that the API was approved.
fn approval(crd: &mut Value, now: Timestamp) {
    let protected = [".k8s.io", ".kubernetes.io"].iter().any(|suffix| group(crd).ends_with(suffix))
        || matches!(group(crd), "k8s.io" | "kubernetes.io");
    if !protected {
        return;
    }
    let kind = "KubernetesAPIApprovalPolicyConformant";
    let annotation = meta::annotation(crd, "api-approved.kubernetes.io").unwrap_or_default().to_owned();
    if annotation.starts_with("https://") || annotation.starts_with("http://") {
        naming::set_condition(crd, kind, true, "ApprovedAnnotation", &format!("approved in {annotation}"), now);
    } else if annotation.starts_with("unapproved") {
        let message = format!("not approved: {annotation:?}");
        naming::set_condition(crd, kind, false, "UnapprovedAnnotation", &message, now);
    } else {
        let message = "protected groups must have approval annotation \"api-approved.kubernetes.io\", see https://github.com/kubernetes/enhancements/pull/1111";
        naming::set_condition(crd, kind, false, "MissingAnnotation", message, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crd(name: &str, kind: &str, created: u8) -> Value {
        json!({
            "metadata": {"name": format!("{name}.g.io"), "creationTimestamp": format!("2026-01-01T00:00:0{created}Z")},
            "spec": {"group": "g.io", "names": {"plural": name, "singular": name, "kind": kind, "listKind": format!("{kind}List")}},
        })
    }

    fn planned(crds: &[Value]) -> Vec<Step> {
        let crds: Vec<Arc<Value>> = crds.iter().cloned().map(Arc::new).collect();
        plan(&crds, Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn of_two_that_want_a_kind_the_older_gets_it() {
        let steps = planned(&[crd("b", "K", 2), crd("a", "K", 1)]);
        let status = |at: usize| match &steps[at] {
            Step::Status { new } => new.clone(),
            other => panic!("{other:?}"),
        };
        assert_eq!(meta::name(&status(0)), "a.g.io");
        assert!(naming::is_true(&status(0), "Established"));
        assert!(!naming::is_true(&status(1), "NamesAccepted"));
        assert!(planned(&[status(0), status(1)]).is_empty(), "what was written needs nothing more");
        // The older one goes: the younger gets the name.
        assert_eq!(planned(&[status(1)]).len(), 1);
    }

    #[test]
    fn a_deleted_definition_says_so_then_its_objects_go_then_it_is_let_go() {
        let Step::Status { mut new } = planned(&[crd("a", "K", 1)]).remove(0) else { panic!("no status") };
        new["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        new["metadata"]["finalizers"] = json!([CLEANUP_FINALIZER, "x/y"]);
        let Step::Status { new } = planned(&[new]).remove(0) else { panic!("not terminating") };
        assert!(naming::is_true(&new, "Terminating"));
        assert_eq!(planned(std::slice::from_ref(&new)), [Step::CleanUp { crd: Arc::new(new.clone()) }]);
        let free = let_go(&new, Timestamp::UNIX_EPOCH);
        assert_eq!(free["metadata"]["finalizers"], json!(["x/y"]));
        assert!(planned(&[free]).is_empty());
    }

    #[test]
    fn groups_of_kubernetes_need_an_approval() {
        let mut own = crd("a", "K", 1);
        own["spec"]["group"] = json!("x.k8s.io");
        let Step::Status { new } = planned(std::slice::from_ref(&own)).remove(0) else { panic!("no status") };
        assert!(!naming::is_true(&new, "KubernetesAPIApprovalPolicyConformant"));
        own["metadata"]["annotations"] =
            json!({"api-approved.kubernetes.io": "https://github.com/kubernetes/kubernetes/pull/1"});
        let Step::Status { new } = planned(&[own]).remove(0) else { panic!("no status") };
        assert!(naming::is_true(&new, "KubernetesAPIApprovalPolicyConformant"));
    }
}

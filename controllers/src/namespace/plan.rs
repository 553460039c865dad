//! What the deletion of a namespace has come to, as conditions and a decision. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{NamespaceCondition, NamespaceStatus};

use crate::machinery::objects::time;

/// The finalizer that this controller removes when a namespace is empty.
pub const FINALIZER: &str = "kubernetes";

/// How often a namespace is looked at whose content does not go, or goes without a known time.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// What was found while deleting the content of a namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Discovery failed, in these words.
    pub discovery_error: Option<String>,
    /// What went wrong while deleting.
    pub delete_errors: Vec<String>,
    /// How many objects of each type (`resource.group`) are left.
    pub remaining: BTreeMap<String, usize>,
    /// How many objects carry each finalizer.
    pub finalizers: BTreeMap<String, usize>,
    /// How long the pods may still take.
    pub grace: Option<Duration>,
}

impl Findings {
    /// Nothing is left and nothing went wrong.
    pub fn is_clean(&self) -> bool {
        self.discovery_error.is_none()
            && self.delete_errors.is_empty()
            && self.remaining.values().all(|count| *count == 0)
    }

    /// When to look again.
    pub fn again(&self) -> Duration {
        self.grace.map_or(LOOK_AGAIN, |grace| grace / 2 + Duration::from_secs(1))
    }
}

fn list(items: &BTreeMap<String, usize>, words: &str) -> String {
    let parts: Vec<String> = items
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(name, count)| format!("{name} {words} {count} resource instances"))
        .collect();
    parts.join(", ")
}

/// The status of a namespace that is being deleted.
pub fn status(before: &NamespaceStatus, findings: &Findings, now: Timestamp) -> NamespaceStatus {
    let mut status = before.clone();
    status.phase = Some("Terminating".into());
    let remaining = list(&findings.remaining, "has");
    let finalizers = list(&findings.finalizers, "in");
    let found = [
        (
            "NamespaceDeletionDiscoveryFailure",
            findings
                .discovery_error
                .as_ref()
                .map(|error| format!("Discovery failed for some groups, 1 failing: {error}")),
            ("DiscoveryFailed", "ResourcesDiscovered"),
            "All resources successfully discovered",
        ),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            None,
            ("GroupVersionParsingFailed", "ParsedGroupVersions"),
            "All legacy kube types successfully parsed",
        ),
        (
            "NamespaceDeletionContentFailure",
            (!findings.delete_errors.is_empty()).then(|| {
                format!(
                    "Failed to delete all resource types, {} remaining: {}",
                    findings.delete_errors.len(),
                    findings.delete_errors.join(", ")
                )
            }),
            ("ContentDeletionFailed", "ContentDeleted"),
            "All content successfully deleted, may be waiting on finalization",
        ),
        (
            "NamespaceContentRemaining",
            (!remaining.is_empty()).then(|| format!("Some resources are remaining: {remaining}")),
            ("SomeResourcesRemain", "ContentRemoved"),
            "All content successfully removed",
        ),
        (
            "NamespaceFinalizersRemaining",
            (!finalizers.is_empty())
                .then(|| format!("Some content in the namespace has finalizers remaining: {finalizers}")),
            ("SomeFinalizersRemain", "ContentHasNoFinalizers"),
            "All content-preserving finalizers finished",
        ),
    ];
    for (kind, problem, (bad, good), fine) in found {
        let (value, reason) = match problem {
            Some(_) => ("True", bad),
            None => ("False", good),
        };
        let message = problem.unwrap_or_else(|| fine.into());
        set_condition(&mut status, kind, value, reason, message, now);
    }
    status
}

fn set_condition(status: &mut NamespaceStatus, kind: &str, value: &str, reason: &str, message: String, now: Timestamp) {
    let conditions = status.conditions.get_or_insert_default();
    let fresh = NamespaceCondition {
        type_: kind.into(),
        status: value.into(),
        reason: Some(reason.into()),
        message: Some(message),
        last_transition_time: Some(time(now)),
    };
    match conditions.iter_mut().find(|c| c.type_ == kind) {
        None => conditions.push(fresh),
        Some(present) => {
            let transition = if present.status == fresh.status {
                present.last_transition_time.clone()
            } else {
                fresh.last_transition_time.clone()
            };
            *present = NamespaceCondition { last_transition_time: transition, ..fresh };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message<'a>(status: &'a NamespaceStatus, kind: &str) -> (&'a str, &'a str) {
        let conditions = status.conditions.as_ref().unwrap();
        let condition = conditions.iter().find(|c| c.type_ == kind).unwrap();
        (&condition.status, condition.message.as_deref().unwrap())
    }

    #[test]
    fn what_is_left_is_named_and_counted() {
        let findings = Findings {
            remaining: [("pods.".to_owned(), 2), ("widgets.example.com".to_owned(), 1)].into(),
            finalizers: [("example.com/keep".to_owned(), 1)].into(),
            grace: Some(Duration::from_secs(30)),
            ..Findings::default()
        };
        let now = Timestamp::from_second(1_700_000_000).unwrap();
        let status = status(&NamespaceStatus::default(), &findings, now);
        assert_eq!(status.phase.as_deref(), Some("Terminating"));
        assert_eq!(
            message(&status, "NamespaceContentRemaining"),
            (
                "True",
                "Some resources are remaining: pods. has 2 resource instances, widgets.example.com has 1 resource instances"
            )
        );
        assert_eq!(
            message(&status, "NamespaceFinalizersRemaining"),
            (
                "True",
                "Some content in the namespace has finalizers remaining: example.com/keep in 1 resource instances"
            )
        );
        assert_eq!(message(&status, "NamespaceDeletionContentFailure").0, "False");
        assert_eq!(findings.again(), Duration::from_secs(16));
        assert!(!findings.is_clean());
    }

    #[test]
    fn conditions_turn_when_the_content_is_gone() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let findings = Findings { delete_errors: vec!["no".into()], ..Findings::default() };
        let first = status(&NamespaceStatus::default(), &findings, at(100));
        assert_eq!(message(&first, "NamespaceDeletionContentFailure").0, "True");
        let second = status(&first, &Findings::default(), at(200));
        assert_eq!(message(&second, "NamespaceDeletionContentFailure").0, "False");
        let unchanged = second.conditions.unwrap();
        assert_eq!(unchanged[0].last_transition_time.as_ref().unwrap().0, at(100));
        assert_eq!(unchanged[2].last_transition_time.as_ref().unwrap().0, at(200));
    }
}

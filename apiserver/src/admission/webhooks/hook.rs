//! One webhook of a configuration, compiled.

use std::time::Duration;

use gantry_api::meta;
use serde_json::Value;

use crate::admission::compiled::Item;
use crate::admission::conditions::Conditions;
use crate::admission::expressions::OF_WEBHOOKS;
use crate::admission::rules::Constraint;
use crate::webhook::ClientConfig;

/// How long a webhook may take that does not say.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// The forms of a review, by version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReviewVersion {
    /// `admission.k8s.io/v1`
    V1,
    /// `admission.k8s.io/v1beta1`
    V1Beta1,
}

/// A webhook.
pub struct Hook {
    /// Its name, which is what users see.
    pub name: String,
    /// What tells it from every other webhook.
    pub id: String,
    /// When it is asked.
    pub constraint: Constraint,
    /// When, besides, by conditions on the request.
    pub conditions: Conditions,
    /// Whether a request goes on if the webhook cannot be asked.
    pub ignores_failure: bool,
    /// How long it may take.
    pub timeout: Duration,
    /// Whether it may be asked about a dry run.
    pub allows_dry_run: bool,
    /// The first form of a review that it and we know.
    pub review: Option<ReviewVersion>,
    /// How it is reached.
    pub client: Option<ClientConfig>,
    /// Whether it is asked again if others changed the object after it.
    pub reinvoke: bool,
}

impl Item for Hook {
    fn compile(configuration: &Value) -> Vec<Self> {
        let hooks = configuration.get("webhooks").and_then(Value::as_array).into_iter().flatten();
        hooks.enumerate().map(|(index, hook)| Hook::read(meta::name(configuration), index, hook)).collect()
    }

    fn constraint(&self) -> &Constraint {
        &self.constraint
    }
}

impl Hook {
    fn read(configuration: &str, index: usize, hook: &Value) -> Self {
        let text = |key: &str| hook.get(key).and_then(Value::as_str).unwrap_or_default();
        let name = text("name").to_owned();
        let ignores_failure = text("failurePolicy") == "Ignore";
        let versions = hook.get("admissionReviewVersions").and_then(Value::as_array).into_iter().flatten();
        let mut known = versions.filter_map(|version| match version.as_str() {
            Some("v1") => Some(ReviewVersion::V1),
            Some("v1beta1") => Some(ReviewVersion::V1Beta1),
            _ => None,
        });
        Self {
            id: format!("{configuration}/{name}/{index}"),
            constraint: Constraint::of_webhook(hook),
            conditions: Conditions::compile(hook.get("matchConditions"), &OF_WEBHOOKS, ignores_failure),
            ignores_failure,
            timeout: hook.get("timeoutSeconds").and_then(Value::as_u64).map_or(DEFAULT_TIMEOUT, Duration::from_secs),
            allows_dry_run: matches!(text("sideEffects"), "None" | "NoneOnDryRun"),
            review: known.next(),
            client: hook.get("clientConfig").and_then(ClientConfig::from_value),
            reinvoke: text("reinvocationPolicy") == "IfNeeded",
            name,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_webhook_has_the_defaults_of_the_api() {
        let hooks = Hook::compile(&json!({
            "metadata": {"name": "c"},
            "webhooks": [
                {"name": "a.example.com", "admissionReviewVersions": ["v2", "v1beta1", "v1"], "sideEffects": "Some"},
                {"name": "b.example.com", "admissionReviewVersions": ["v1"], "sideEffects": "NoneOnDryRun",
                 "failurePolicy": "Ignore", "timeoutSeconds": 3, "reinvocationPolicy": "IfNeeded",
                 "clientConfig": {"url": "https://example.com/"}},
            ],
        }));
        let [a, b] = hooks.as_slice() else { panic!("not two") };
        assert_eq!(
            (a.id.as_str(), a.review, a.timeout.as_secs()),
            ("c/a.example.com/0", Some(ReviewVersion::V1Beta1), 10)
        );
        assert!(!a.ignores_failure && !a.allows_dry_run && !a.reinvoke && a.client.is_none());
        assert_eq!((b.review, b.timeout.as_secs()), (Some(ReviewVersion::V1), 3));
        assert!(b.ignores_failure && b.allows_dry_run && b.reinvoke && b.client.is_some());
    }
}

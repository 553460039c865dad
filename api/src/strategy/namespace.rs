//! Namespace.

use serde_json::{Value, json};

use super::field::{child, deep, list, set, text};
use super::{NameRule, Strategy};
use crate::error::FieldError;
use crate::{meta, selector};

/// The label by which selectors find a namespace by name.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";
/// The finalizer that holds a namespace until it is empty.
const FINALIZER: &str = "kubernetes";

/// Namespace.
pub struct NamespaceStrategy;

impl Strategy for NamespaceStrategy {
    fn name_rule(&self) -> NameRule {
        NameRule::Label
    }

    fn default(&self, object: &mut Value) {
        let name = meta::name(object).to_owned();
        if !name.is_empty() {
            set(child(child(object, "metadata"), "labels"), NAME_LABEL, name);
        }
    }

    fn prepare_create(&self, object: &mut Value) {
        let spec = child(object, "spec");
        let mut finalizers = list(spec, "finalizers").to_vec();
        if !finalizers.iter().any(|f| f == FINALIZER) {
            finalizers.push(Value::from(FINALIZER));
        }
        set(spec, "finalizers", finalizers);
        set(object, "status", json!({ "phase": "Active" }));
    }

    /// Only the `finalize` subresource changes the finalizers.
    fn prepare_update(&self, subresource: Option<&str>, old: &Value, new: &mut Value) {
        if subresource.is_none() {
            let finalizers = deep(old, &["spec", "finalizers"]).cloned();
            let spec = child(new, "spec");
            match finalizers {
                Some(finalizers) => set(spec, "finalizers", finalizers),
                None => super::field::unset(spec, "finalizers"),
            }
        }
    }

    fn validate_create(&self, object: &Value, errors: &mut Vec<FieldError>) {
        let finalizers = deep(object, &["spec"]).map(|spec| list(spec, "finalizers")).unwrap_or_default();
        for finalizer in finalizers {
            let name = finalizer.as_str().unwrap_or_default();
            for detail in selector::label_key_errors(name) {
                errors.push(FieldError::invalid("spec.finalizers", name, detail));
            }
            if !name.contains('/') && name != FINALIZER {
                let detail = "name is neither a standard finalizer name nor is it fully qualified";
                errors.push(FieldError::invalid("spec.finalizers", name, detail));
            }
        }
    }

    fn validate_update(&self, subresource: Option<&str>, _: &Value, new: &Value, errors: &mut Vec<FieldError>) {
        match subresource {
            Some("finalize") => self.validate_create(new, errors),
            Some("status") => {
                let phase = deep(new, &["status"]).map(|s| text(s, "phase")).unwrap_or_default();
                let (wanted, detail) = if meta::is_deleting(new) {
                    ("Terminating", "may only be 'Terminating' if `deletionTimestamp` is not empty")
                } else {
                    ("Active", "may only be 'Active' if `deletionTimestamp` is empty")
                };
                if phase != wanted {
                    errors.push(FieldError::invalid("status.Phase", phase, detail));
                }
            }
            _ => {}
        }
    }
}

//! Pod, and the pod templates of other kinds.
//!
//! The parts: dynamic defaults ([`defaults`]), what a spec must be ([`validate`] and below it [`containers`],
//! [`volumes`], [`scheduling`], [`security`]), what an update may change ([`update`], [`resize`]), and the quality-of-service
//! class ([`qos`]).

mod app_armor;
mod containers;
mod defaults;
mod env;
mod gated;
mod label_keys;
mod mounts;
mod os;
mod probes;
mod qos;
mod resize;
mod resources;
mod scheduling;
mod security;
mod update;
mod validate;
mod volumes;
mod warnings;

use serde_json::{Value, json};

pub use qos::qos_class;

pub(super) use defaults::default_spec;
pub(super) use scheduling::{node_selector, validate_toleration as toleration};
pub(super) use validate::{RESTART_POLICIES, validate_template};
pub(super) use warnings::{ip_warning, of as template_warnings, old_node_label};

use super::Strategy;
use super::field::{at, child, deep, set, set_default, unset};
use crate::error::FieldError;

/// Annotation of pods that show one that their node read from a file.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// Whether a pod's spec says that it is for Windows.
fn is_windows(spec: &Value) -> bool {
    deep(spec, &["os", "name"]).is_some_and(|name| name == "windows")
}

/// Sets the defaults of the pod spec at a path, if there is one.
pub(super) fn default_spec_of(object: &mut Value, path: &[&str]) {
    if deep(object, path).is_some() {
        default_spec(path.iter().fold(object, |value, key| child(value, key)));
    }
}

/// Pod.
pub struct PodStrategy;

impl Strategy for PodStrategy {
    fn tracks_generation(&self) -> bool {
        true
    }

    fn default(&self, object: &mut Value) {
        if at(object, "spec").is_some() {
            defaults::default_pod_spec(child(object, "spec"));
        }
        if at(object, "status").is_some() {
            defaults::default_status(child(object, "status"));
        }
    }

    fn prepare_create(&self, object: &mut Value) {
        let class = qos_class(at(object, "spec").unwrap_or(&Value::Null));
        set(object, "status", json!({ "phase": "Pending", "qosClass": class }));
        label_keys::merge(object);
        app_armor::merge(object);
    }

    fn settle_create(&self, object: &mut Value) {
        // Admission may have given the containers resources.
        let class = qos_class(at(object, "spec").unwrap_or(&Value::Null));
        set(child(object, "status"), "qosClass", json!(class));
    }

    fn prepare_update(&self, subresource: Option<&str>, old: &Value, new: &mut Value) {
        match subresource {
            Some("status") => {
                // Owners and the class of service are not the status's to change.
                match deep(old, &["metadata", "ownerReferences"]) {
                    Some(owners) => set(child(new, "metadata"), "ownerReferences", owners.clone()),
                    None => unset(child(new, "metadata"), "ownerReferences"),
                }
                if let Some(class) = deep(old, &["status", "qosClass"]) {
                    set_default(child(new, "status"), "qosClass", class.clone());
                }
            }
            Some("ephemeralcontainers") => update::keep_only_ephemeral_containers(old, new),
            Some("resize") => resize::keep_only_resources(old, new),
            _ => {}
        }
    }

    /// What AppArmor's annotations must be holds for new pods: one that is there already can still be changed.
    fn validates_updates_by_change(&self) -> bool {
        true
    }

    fn validate_create(&self, object: &Value, errors: &mut Vec<FieldError>) {
        validate::validate_pod(object, errors);
        app_armor::validate_new(object, errors);
    }

    fn validate_update(&self, subresource: Option<&str>, old: &Value, new: &Value, errors: &mut Vec<FieldError>) {
        match subresource {
            None => {
                validate::validate_pod(new, errors);
                update::validate(old, new, errors);
            }
            Some("ephemeralcontainers") => update::validate_ephemeral_containers(old, new, errors),
            Some("resize") => resize::validate(old, new, errors),
            Some("status") => update::validate_status(old, new, errors),
            _ => {}
        }
    }

    fn warnings(&self, object: &Value) -> Vec<String> {
        warnings::of(object, "")
    }

    /// Pods are updated by machines, and often.
    fn warns_of_updates(&self) -> bool {
        false
    }
}

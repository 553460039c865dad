//! The strategy of every custom kind: what its definition's rules say.

use std::sync::Arc;

use serde_json::Value;

use super::CustomKind;
use crate::cel::{self, Budget};
use crate::error::FieldError;
use crate::kinds::ScalePaths;
use crate::strategy::Strategy;

/// The rules of one version of a custom kind.
pub struct CustomStrategy {
    kind: Arc<CustomKind>,
    has_status: bool,
    scale: Option<ScalePaths>,
}

impl CustomStrategy {
    /// The strategy of a version with these subresources.
    pub fn new(kind: &Arc<CustomKind>, has_status: bool, scale: Option<ScalePaths>) -> Self {
        Self { kind: Arc::clone(kind), has_status, scale }
    }

    fn validate(&self, subresource: Option<&str>, old: Option<&Value>, new: &Value, errors: &mut Vec<FieldError>) {
        let rules = &self.kind.rules;
        let before = errors.len();
        if subresource == Some("status") {
            if let (Some(rules), Some(status)) = (rules.properties.get("status"), new.get("status")) {
                rules.validate(status, old.and_then(|old| old.get("status")), "status", errors);
            }
        } else {
            rules.validate(new, old, "", errors);
        }
        // Expressions see values of the types they were checked with only.
        if errors.len() == before {
            self.check_expressions(subresource, old, new, errors);
        }
        if let Some(scale) = &self.scale {
            if subresource != Some("status") {
                replicas(new, &scale.spec, errors);
            }
            replicas(new, &scale.status, errors);
        }
    }
}

impl CustomStrategy {
    fn check_expressions(
        &self,
        subresource: Option<&str>,
        old: Option<&Value>,
        new: &Value,
        errors: &mut Vec<FieldError>,
    ) {
        let (expressions, rules) = (&self.kind.expressions, &self.kind.rules);
        let mut budget = Budget::new(cel::OBJECT_COST_MAX);
        // What ends a check early stands among the errors.
        let _ = if subresource == Some("status") {
            match (expressions.property("status"), rules.properties.get("status"), new.get("status")) {
                (Some(below), Some(rules), Some(status)) => {
                    let old = old.and_then(|old| old.get("status"));
                    below.check(rules, status, old, "status", &mut budget, errors)
                }
                _ => Ok(()),
            }
        } else {
            expressions.check(rules, new, old, "", &mut budget, errors)
        };
    }
}

/// Replicas are counted in 32 bits and never below zero.
fn replicas(object: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let found = path.split('.').try_fold(object, |value, segment| value.get(segment)).and_then(Value::as_i64);
    let Some(count) = found else { return };
    if count < 0 {
        errors.push(FieldError::invalid(path, count, "should be a non-negative integer"));
    } else if count > i64::from(i32::MAX) {
        errors.push(FieldError::invalid(path, count, format!("should be less than or equal to {}", i32::MAX)));
    }
}

impl Strategy for CustomStrategy {
    fn tracks_generation(&self) -> bool {
        true
    }

    fn status_counts_as_spec(&self) -> bool {
        !self.has_status
    }

    fn allows_unconditional_update(&self) -> bool {
        false
    }

    fn validates_updates_by_change(&self) -> bool {
        true
    }

    fn validate_create(&self, object: &Value, errors: &mut Vec<FieldError>) {
        self.validate(None, None, object, errors);
    }

    fn validate_update(&self, subresource: Option<&str>, old: &Value, new: &Value, errors: &mut Vec<FieldError>) {
        self.validate(subresource, Some(old), new, errors);
    }
}

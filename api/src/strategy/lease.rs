//! Lease.

use serde_json::Value;

use super::Strategy;
use super::field::{at, int, non_negative};
use crate::error::FieldError;

/// Lease.
pub struct LeaseStrategy;

impl Strategy for LeaseStrategy {
    /// A holder must know what it replaces.
    fn allows_unconditional_update(&self) -> bool {
        false
    }

    fn validate_create(&self, object: &Value, errors: &mut Vec<FieldError>) {
        let Some(spec) = at(object, "spec") else { return };
        if let Some(seconds) = int(spec, "leaseDurationSeconds").filter(|s| *s <= 0) {
            errors.push(FieldError::invalid("spec.leaseDurationSeconds", seconds, "must be greater than 0"));
        }
        non_negative(spec, "leaseTransitions", "spec", errors);
        if at(spec, "preferredHolder").is_some() && at(spec, "strategy").is_none() {
            errors
                .push(FieldError::forbidden("spec.preferredHolder", "may only be specified if `strategy` is defined"));
        }
    }
}

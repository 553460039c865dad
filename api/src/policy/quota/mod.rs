//! ResourceQuota: what objects cost, which quotas they count against, and whether there is enough left.
//!
//! In: quotas and objects as JSON. Out: usages ([`Evaluator::usage`]), the usage after a request ([`check`]), or Kubernetes'
//! refusal. Admission charges with this; the quota controller recounts with it.

mod check;
mod evaluator;
mod scopes;

pub use check::{Charge, check};
pub use evaluator::{Evaluator, count_name};
pub use scopes::selectors;

use std::collections::BTreeSet;

use serde_json::Value;

use crate::meta;
use crate::resources::{self, ResourceList};

/// The limits that a quota's status says are in force.
pub fn hard(quota: &Value) -> ResourceList {
    resources::parse(meta::get(quota, &["status", "hard"]))
}

/// The limits that a quota asks for.
pub fn wanted(quota: &Value) -> ResourceList {
    resources::parse(meta::get(quota, &["spec", "hard"]))
}

/// What a quota's status says is used.
pub fn used(quota: &Value) -> ResourceList {
    resources::parse(meta::get(quota, &["status", "used"]))
}

pub(crate) fn names(list: &ResourceList) -> BTreeSet<String> {
    list.keys().cloned().collect()
}

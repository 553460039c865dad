//! `matchConditions`: what must hold of a request, as expressions, before a webhook is asked or a policy applies.

use gantry_api::kinds::Resource;
use serde_json::{Map, Value};

use super::attributes::Attributes;
use super::webhooks::review_request;
use crate::registry::Registry;

/// One condition.
#[derive(Debug, Clone)]
struct Condition {
    name: String,
}

/// All conditions of a webhook or policy.
#[derive(Debug, Clone)]
pub struct Conditions {
    all: Vec<Condition>,
    ignores_failure: bool,
}

/// What expressions see of a request.
#[derive(Debug)]
#[allow(dead_code, reason = "read once there are expressions")]
pub struct Inputs<'a> {
    /// The request of the review.
    pub request: Map<String, Value>,
    /// The object as it would be.
    pub object: Option<&'a Value>,
    /// The object as it is.
    pub old: Option<&'a Value>,
}

impl<'a> Inputs<'a> {
    /// Of a request, told as one to `resource`.
    pub fn of_request(
        attributes: &Attributes<'_>,
        resource: &Resource,
        object: Option<&'a Value>,
        old: Option<&'a Value>,
    ) -> Self {
        Self { request: review_request(attributes, resource), object, old }
    }
}

impl Conditions {
    /// Compiles `matchConditions`.
    pub fn compile(conditions: Option<&Value>, ignores_failure: bool) -> Self {
        let all = conditions.and_then(Value::as_array).into_iter().flatten();
        let all = all.map(|condition| Condition { name: condition["name"].as_str().unwrap_or_default().to_owned() });
        Self { all: all.collect(), ignores_failure }
    }

    /// Whether there is nothing to check.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Whether all hold; the error is what could not be evaluated, where that refuses the request.
    pub fn all_hold(&self, inputs: &Inputs<'_>, registry: &Registry) -> Result<bool, String> {
        let _ = (inputs, registry);
        let Some(first) = self.all.first() else { return Ok(true) };
        if self.ignores_failure {
            return Ok(false);
        }
        Err(format!("match condition {:?} cannot be evaluated: there are no expressions yet", first.name))
    }
}

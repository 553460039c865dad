//! `matchConditions`: what must hold of a request, as expressions, before a webhook is asked or a policy applies.

use gantry_api::cel::{Budget, OBJECT_COST_MAX, Request, Type};
use serde_json::Value;

use super::expressions::{Expression, Inputs};

/// What all conditions of one webhook or policy may cost together: a quarter of what a policy may, as in Kubernetes.
const COST_MAX: u64 = OBJECT_COST_MAX / 4;

/// All conditions of a webhook or policy.
#[derive(Debug, Clone)]
pub struct Conditions {
    all: Vec<Expression>,
    ignores_failure: bool,
}

impl Conditions {
    /// Compiles `matchConditions`.
    pub fn compile(conditions: Option<&Value>, request: &Request, ignores_failure: bool) -> Self {
        let all = conditions.and_then(Value::as_array).into_iter().flatten();
        let text = |condition: &'_ Value| condition["expression"].as_str().unwrap_or_default().to_owned();
        let all = all.map(|condition| Expression::compile(&text(condition), request, &[Type::Bool]));
        Self { all: all.collect(), ignores_failure }
    }

    /// Whether there is nothing to check.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Whether all hold. One that does not decides, whatever else fails; the error is what could not be evaluated, where that
    /// refuses the request.
    pub fn all_hold(&self, inputs: &Inputs<'_>, params: Option<&Value>) -> Result<bool, String> {
        let variables = inputs.variables(params);
        let mut budget = Budget::new(COST_MAX);
        let mut failures = Vec::new();
        for condition in &self.all {
            match condition.eval(&variables, &mut budget) {
                Ok(value) if value.as_bool() == Some(true) => {}
                Ok(value) if value.as_bool() == Some(false) => return Ok(false),
                Ok(_) => failures.push(format!("expression '{}' is no bool", condition.text())),
                Err(why) => failures.push(why),
            }
        }
        match failures.as_slice() {
            [] => Ok(true),
            _ if self.ignores_failure => Ok(false),
            [one] => Err(one.clone()),
            many => Err(format!("[{}]", many.join(", "))),
        }
    }
}

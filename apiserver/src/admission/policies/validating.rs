//! `ValidatingAdmissionPolicy`: what must hold of a write, and what becomes of one of which it does not.
//!
//! ```text
//! invocations ─▶ decisions ─▶ refusal, warning, record
//! ```

use async_trait::async_trait;
use gantry_api::cel::{Budget, OBJECT_COST_MAX, Request, Type};
use gantry_api::error::Cause;
use gantry_api::{ApiError, Reason};
use serde_json::{Value, json};

use super::{Binding, Common, Invocation, Policies, Policy, list, text};
use crate::admission::attributes::Attributes;
use crate::admission::compiled::Item;
use crate::admission::expressions::{Expression, Inputs, cause_of, with_named};
use crate::admission::rules::{Constraint, Shown};
use crate::admission::{Phases, Plugin};
use crate::registry::{Known, Registry};

/// The longest message that an expression may make, as in Kubernetes.
const MESSAGE_BYTES_MAX: usize = 5 * 1024;
/// The longest note for the record, as in Kubernetes.
const NOTE_BYTES_MAX: usize = 10 * 1024;

/// One thing that must hold.
struct Validation {
    expression: Expression,
    message: String,
    message_expression: Option<Expression>,
    reason: Reason,
}

/// A compiled policy.
struct Validating {
    common: Common,
    validations: Vec<Validation>,
    annotations: Vec<(String, Expression)>,
}

/// That a policy does not let a write pass.
struct Denial {
    reason: Reason,
    message: String,
}

impl Denial {
    fn invalid(message: impl Into<String>) -> Self {
        Self { reason: Reason::Invalid, message: message.into() }
    }
}

impl Item for Validating {
    fn compile(object: &Value) -> Vec<Self> {
        let (spec, common) = (&object["spec"], Common::compile(object));
        let request = &common.request;
        let note = |note: &Value| {
            let value = Expression::compile(text(note, "valueExpression"), request, &[Type::String, Type::Null]);
            (text(note, "key").to_owned(), value)
        };
        vec![Self {
            validations: list(spec, "validations").map(|validation| Validation::read(validation, request)).collect(),
            annotations: list(spec, "auditAnnotations").map(note).collect(),
            common,
        }]
    }

    fn constraint(&self) -> &Constraint {
        &self.common.constraint
    }
}

impl Policy for Validating {
    fn common(&self) -> &Common {
        &self.common
    }
}

impl Validation {
    fn read(validation: &Value, request: &Request) -> Self {
        let message = text(validation, "messageExpression");
        let compiled = |text| Expression::compile(text, &request.clone().without_authorizer(), &[Type::String]);
        Self {
            expression: Expression::compile(text(validation, "expression"), request, &[Type::Bool]),
            message: text(validation, "message").trim().to_owned(),
            message_expression: (!message.is_empty()).then(|| compiled(message)),
            reason: match text(validation, "reason") {
                "Forbidden" => Reason::Forbidden,
                "Unauthorized" => Reason::Unauthorized,
                "RequestEntityTooLarge" => Reason::RequestEntityTooLarge,
                _ => Reason::Invalid,
            },
        }
    }
}

/// What a policy says of one write with one set of parameters.
#[derive(Default)]
struct Outcome {
    /// With the number of the validation.
    denials: Vec<(usize, Denial)>,
    notes: Vec<(String, String)>,
}

impl Validating {
    fn failure(&self, index: usize, why: String, outcome: &mut Outcome) {
        if !self.common.ignores_failure {
            outcome.denials.push((index, Denial::invalid(why)));
        }
    }

    /// Evaluates everything that the policy says.
    fn evaluate(&self, inputs: &Inputs<'_>, params: Option<&Value>) -> Outcome {
        let mut outcome = Outcome::default();
        match self.common.conditions.all_hold(inputs, params) {
            Ok(true) => {}
            Ok(false) => return outcome,
            Err(why) => {
                self.failure(0, why, &mut outcome);
                return outcome;
            }
        }
        let mut budget = Budget::new(OBJECT_COST_MAX);
        let (variables, failed) = with_named(inputs.variables(params), &self.common.variables, &mut budget);
        for (index, validation) in self.validations.iter().enumerate() {
            match validation.expression.eval(&variables, &mut budget) {
                Ok(value) if value.as_bool() == Some(true) => {}
                Ok(_) => {
                    let made = validation.message_expression.as_ref();
                    let made = made.and_then(|made| made.eval(&variables, &mut budget).ok());
                    let made = made.as_ref().and_then(|made| made.as_str()).map(str::trim).unwrap_or_default();
                    let usable = made.len() <= MESSAGE_BYTES_MAX && !made.contains('\n') && !made.is_empty();
                    let message = match (usable, validation.message.as_str()) {
                        (true, _) => made.to_owned(),
                        (false, "") => format!("failed expression: {}", validation.expression.text()),
                        (false, message) => message.to_owned(),
                    };
                    outcome.denials.push((index, Denial { reason: validation.reason, message }));
                }
                Err(why) => self.failure(index, cause_of(why, &failed), &mut outcome),
            }
        }
        for (key, expression) in &self.annotations {
            match expression.eval(&variables, &mut budget) {
                Ok(value) => {
                    let note = value.as_str().map(str::trim).unwrap_or_default();
                    if !note.is_empty() {
                        let end = (0..=note.len().min(NOTE_BYTES_MAX)).rev().find(|at| note.is_char_boundary(*at));
                        outcome.notes.push((key.clone(), note[..end.unwrap_or(0)].to_owned()));
                    }
                }
                Err(why) => self.failure(0, cause_of(why, &failed), &mut outcome),
            }
        }
        outcome
    }
}

/// Checks writes against policies.
pub struct ValidatingPolicies(Policies<Validating>);

impl Default for ValidatingPolicies {
    fn default() -> Self {
        Self(Policies::new(Known::ValidatingPolicies, Known::ValidatingPolicyBindings))
    }
}

#[async_trait]
impl Plugin for ValidatingPolicies {
    fn name(&self) -> &'static str {
        "ValidatingAdmissionPolicy"
    }

    fn phases(&self, _: &Attributes<'_>, registry: &Registry) -> Phases {
        Phases::validate_if(self.0.any(registry))
    }

    async fn validate(
        &self,
        attributes: &Attributes<'_>,
        object: Option<&Value>,
        registry: &Registry,
    ) -> Result<(), ApiError> {
        let Some(invoked) = self.0.invoked(attributes, object, registry).await? else { return Ok(()) };
        let mut first = None;
        for invocation in &invoked.invocations {
            let denied = apply(invocation, attributes, object, invoked.namespace.as_ref(), registry)?;
            first = first.or(denied);
        }
        first.map_or(Ok(()), Err)
    }
}

/// Applies one policy through one binding; the refusal, if there is one.
fn apply(
    invocation: &Invocation<Validating>,
    attributes: &Attributes<'_>,
    object: Option<&Value>,
    namespace: Option<&Value>,
    registry: &Registry,
) -> Result<Option<ApiError>, ApiError> {
    let (policy, binding) = (&*invocation.policy.item, &*invocation.binding);
    let params = match &invocation.params {
        Ok(params) => params,
        Err(_) if policy.common.ignores_failure => return Ok(None),
        Err(why) => return Ok(Some(refusal(policy, binding, attributes, &Denial::invalid(why)))),
    };
    let shown = Shown::new(&invocation.policy.matched, attributes, object)?;
    let told = shown.resource(attributes);
    let inputs = Inputs::of_request(attributes, registry, told, shown.object.as_deref(), shown.old.as_deref());
    let inputs = inputs.in_namespace(namespace);
    let mut first = None;
    for params in params {
        let outcome = policy.evaluate(&inputs, params.as_ref());
        for (index, denial) in &outcome.denials {
            for action in &binding.actions {
                match action.as_str() {
                    "Deny" => first = first.or_else(|| Some(refusal(policy, binding, attributes, denial))),
                    "Warn" => attributes.notes().warn(format!(
                        "Validation failed for ValidatingAdmissionPolicy '{}' with binding '{}': {}",
                        policy.common.name, binding.name, denial.message
                    )),
                    _ => record(policy, binding, attributes, *index, denial),
                }
            }
        }
        for (key, note) in outcome.notes {
            attributes.notes().annotate(format!("{}/{key}", policy.common.name), note);
        }
    }
    Ok(first)
}

fn record(policy: &Validating, binding: &Binding, attributes: &Attributes<'_>, index: usize, denial: &Denial) {
    let failure = json!([{
        "message": denial.message, "policy": policy.common.name, "binding": binding.name, "expressionIndex": index,
        "validationActions": binding.actions,
    }]);
    attributes.notes().annotate("validation.policy.admission.k8s.io/validation_failure", failure.to_string());
}

fn refusal(policy: &Validating, binding: &Binding, attributes: &Attributes<'_>, denial: &Denial) -> ApiError {
    let message = format!(
        "ValidatingAdmissionPolicy '{}' with binding '{}' denied request: {}",
        policy.common.name, binding.name, denial.message
    );
    let mut error = attributes.forbidden(&message);
    error.reason = denial.reason;
    if let Some(details) = &mut error.details {
        details.causes.push(Cause { message, ..Cause::default() });
    }
    error
}

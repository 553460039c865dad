//! `MutatingAdmissionPolicy`: what is changed of a write before it is validated.
//!
//! ```text
//! invocations ─▶ conditions ─▶ mutations, one after the other, each seeing what those before it did ─▶ object
//! ```
//!
//! What applies is decided by the object as it comes in. A policy that asks for it is applied a second time when others
//! change the object after it.

use async_trait::async_trait;
use gantry_api::cel::{Budget, OBJECT_COST_MAX, Type};
use gantry_api::error::Cause;
use gantry_api::{ApiError, Reason, engine, meta};
use serde_json::Value;

use super::{Common, Invocation, Policies, Policy, list, text};
use crate::admission::attributes::{Attributes, Operation};
use crate::admission::compiled::Item;
use crate::admission::expressions::{Expression, Inputs, cause_of, with_named};
use crate::admission::rules::{Constraint, Shown};
use crate::admission::{Phases, Plugin};
use crate::registry::{Known, Registry};

/// How a mutation changes the object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    /// The expression names the fields it wants.
    Apply,
    /// The expression lists operations.
    Patch,
}

/// A compiled policy.
struct Mutating {
    common: Common,
    mutations: Vec<(How, Expression)>,
    reinvoke: bool,
}

impl Item for Mutating {
    fn compile(object: &Value) -> Vec<Self> {
        let (spec, mut common) = (&object["spec"], Common::compile(object));
        common.request = common.request.with_structs().with_variables();
        let mutation = |mutation: &Value| {
            let (how, key, ty) = match text(mutation, "patchType") {
                "JSONPatch" => (How::Patch, "jsonPatch", Type::list(Type::Made("JSONPatch".into()))),
                _ => (How::Apply, "applyConfiguration", Type::Made("Object".into())),
            };
            let expression = mutation.get(key).map(|patch| text(patch, "expression")).unwrap_or_default();
            (how, Expression::compile(expression, &common.request, &[ty]))
        };
        vec![Self {
            mutations: list(spec, "mutations").map(mutation).collect(),
            reinvoke: text(spec, "reinvocationPolicy") == "IfNeeded",
            common,
        }]
    }

    fn constraint(&self) -> &Constraint {
        &self.common.constraint
    }
}

impl Policy for Mutating {
    fn common(&self) -> &Common {
        &self.common
    }
}

/// Changes writes by policies.
pub struct MutatingPolicies(Policies<Mutating>);

impl Default for MutatingPolicies {
    fn default() -> Self {
        Self(Policies::new(Known::MutatingPolicies, Known::MutatingPolicyBindings))
    }
}

/// Why a policy could not be applied.
struct Failure {
    reason: Reason,
    message: String,
}

impl Failure {
    fn of(reason: Reason, invocation: &Invocation<Mutating>, why: impl std::fmt::Display) -> Self {
        let (policy, binding) = (&invocation.policy.item.common.name, &invocation.binding.name);
        Self { reason, message: format!("policy '{policy}' with binding '{binding}' denied request: {why}") }
    }
}

#[async_trait]
impl Plugin for MutatingPolicies {
    fn name(&self) -> &'static str {
        "MutatingAdmissionPolicy"
    }

    fn phases(&self, attributes: &Attributes<'_>, registry: &Registry) -> Phases {
        // What is deleted has no body to change.
        Phases::admit_if(attributes.operation != Operation::Delete && self.0.any(registry))
    }

    async fn admit(
        &self,
        attributes: &Attributes<'_>,
        object: Option<&mut Value>,
        registry: &Registry,
    ) -> Result<(), ApiError> {
        let (Some(rounds), Some(object)) = (attributes.rounds, object) else { return Ok(()) };
        let Some(invoked) = self.0.invoked(attributes, Some(object), registry).await? else { return Ok(()) };
        rounds.enter(self.name(), Some(object));
        let mut failures = Vec::new();
        for invocation in &invoked.invocations {
            let params = match &invocation.params {
                Ok(params) => params,
                Err(why) => {
                    failures.extend(of_weight(invocation, Failure::of(Reason::Forbidden, invocation, why)));
                    continue;
                }
            };
            for params in params {
                let turn = Turn { invocation, attributes, registry, namespace: invoked.namespace.as_ref(), params };
                let id = turn.id();
                match turn.applies(object) {
                    Ok(true) if rounds.is_due(self.name(), &id) => {}
                    Ok(_) => continue,
                    Err(why) => {
                        failures.extend(of_weight(invocation, Failure::of(Reason::Invalid, invocation, why)));
                        continue;
                    }
                }
                let before = object.clone();
                for mutation in &invocation.policy.item.mutations {
                    match turn.mutate(mutation, object)? {
                        Ok(changed) => *object = changed,
                        Err(why) => {
                            failures.extend(of_weight(invocation, Failure::of(Reason::Invalid, invocation, why)));
                        }
                    }
                }
                rounds.ran(self.name(), &id, *object != before, invocation.policy.item.reinvoke);
            }
        }
        rounds.leave(self.name(), Some(object));
        refusal(attributes, &failures).map_or(Ok(()), Err)
    }
}

/// A failure that counts: none of a policy whose failures are ignored.
fn of_weight(invocation: &Invocation<Mutating>, failure: Failure) -> Option<Failure> {
    if invocation.policy.item.common.ignores_failure {
        tracing::debug!(why = failure.message, "a mutating policy could not be applied and is passed over");
        return None;
    }
    Some(failure)
}

/// The first failure refuses; all are told.
fn refusal(attributes: &Attributes<'_>, failures: &[Failure]) -> Option<ApiError> {
    let first = failures.first()?;
    let mut error = attributes.forbidden("admission request denied by policy");
    error.message.clone_from(&first.message);
    error.reason = first.reason;
    if let Some(details) = &mut error.details {
        let cause = |failure: &Failure| Cause { message: failure.message.clone(), ..Cause::default() };
        details.causes.extend(failures.iter().map(cause));
    }
    Some(error)
}

/// One policy, applied through one binding with one set of parameters.
struct Turn<'a> {
    invocation: &'a Invocation<Mutating>,
    attributes: &'a Attributes<'a>,
    registry: &'a Registry,
    namespace: Option<&'a Value>,
    params: &'a Option<Value>,
}

impl Turn<'_> {
    /// What tells it from every other one.
    fn id(&self) -> String {
        let (policy, binding) = (&self.invocation.policy.item.common.name, &self.invocation.binding.name);
        let params = self.params.as_ref().map(|params| (meta::namespace(params), meta::name(params)));
        let (namespace, name) = params.unwrap_or_default();
        [policy, binding, namespace, name].join("/")
    }

    fn inputs<'b>(&self, shown: &'b Shown<'_>, told: &gantry_api::kinds::Resource) -> Inputs<'b>
    where
        Self: 'b,
    {
        let (object, old) = (shown.object.as_deref(), shown.old.as_deref());
        Inputs::of_request(self.attributes, self.registry, told, object, old)
    }

    /// Whether the policy's conditions hold.
    fn applies(&self, object: &Value) -> Result<bool, String> {
        let policy = &self.invocation.policy;
        if policy.item.common.conditions.is_empty() {
            return Ok(true);
        }
        let shown = Shown::new(&policy.matched, self.attributes, Some(object)).map_err(|error| error.message)?;
        let inputs = self.inputs(&shown, shown.resource(self.attributes)).in_namespace(self.namespace);
        policy.item.common.conditions.all_hold(&inputs, self.params.as_ref())
    }

    /// The object after one mutation; or why it cannot be made. The outer error is the server's own.
    fn mutate(&self, (how, expression): &(How, Expression), object: &Value) -> Result<Result<Value, String>, ApiError> {
        let (policy, subresource) = (&self.invocation.policy, self.attributes.subresource);
        let shown = Shown::new(&policy.matched, self.attributes, Some(object))?;
        let told = shown.resource(self.attributes);
        let inputs = self.inputs(&shown, told).in_namespace(self.namespace);
        let mut budget = Budget::new(OBJECT_COST_MAX);
        let variables = inputs.variables(self.params.as_ref());
        let (variables, failed) = with_named(variables, &policy.item.common.variables, &mut budget);
        let Some(current) = shown.object.as_deref() else { return Ok(Ok(object.clone())) };
        let changed = expression.eval(&variables, &mut budget).map_err(|why| cause_of(why, &failed));
        let changed = changed.and_then(|made| match how {
            How::Apply => engine::apply_configuration(told, subresource, current, &made),
            How::Patch => engine::json_patch(current, &made),
        });
        let mut changed = match changed {
            Ok(changed) => changed,
            Err(why) => return Ok(Err(why)),
        };
        engine::read_again(told, subresource, &mut changed).map_err(ApiError::internal)?;
        policy.matched.restore(self.attributes, changed).map(Ok)
    }
}

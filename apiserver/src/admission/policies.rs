//! `ValidatingAdmissionPolicy`: rules about writes, as expressions, bound to requests by bindings.
//!
//! ```text
//! policy (what must hold) × binding (where, with which parameters, and what then) ─▶ decisions ─▶ refusal, warning, record
//! ```

use async_trait::async_trait;
use gantry_api::cel::{Budget, OBJECT_COST_MAX};
use gantry_api::error::Cause;
use gantry_api::kinds::Resource;
use gantry_api::selector::LabelSelector;
use gantry_api::{ApiError, Reason, codec, meta};
use serde_json::{Value, json};

use super::Plugin;
use super::attributes::Attributes;
use super::compiled::{Candidate, Compiled, Item, is_exempt};
use super::conditions::Conditions;
use super::expressions::{Expression, Inputs, cause_of, with_named};
use super::rules::{Constraint, Matched, convert};
use crate::registry::Registry;

const GROUP: &str = "admissionregistration.k8s.io";
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
struct Policy {
    name: String,
    constraint: Constraint,
    ignores_failure: bool,
    /// The kind of parameters: its apiVersion and name.
    param_kind: Option<(String, String)>,
    conditions: Conditions,
    variables: Vec<(String, Expression)>,
    validations: Vec<Validation>,
    annotations: Vec<(String, Expression)>,
}

/// A compiled binding.
struct Binding {
    name: String,
    policy: String,
    constraint: Constraint,
    param_ref: Value,
    actions: Vec<String>,
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

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn list<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    value.get(key).and_then(Value::as_array).into_iter().flatten()
}

impl Item for Policy {
    fn compile(object: &Value) -> Vec<Self> {
        let spec = &object["spec"];
        let ignores_failure = text(spec, "failurePolicy") == "Ignore";
        let kind = spec.get("paramKind").filter(|kind| kind.is_object());
        let named = |value: &Value, name: &str, expression: &str| {
            (text(value, name).to_owned(), Expression::compile(text(value, expression)))
        };
        vec![Self {
            name: meta::name(object).to_owned(),
            constraint: Constraint::of_policy(&spec["matchConstraints"]),
            ignores_failure,
            param_kind: kind.map(|kind| (text(kind, "apiVersion").to_owned(), text(kind, "kind").to_owned())),
            conditions: Conditions::compile(spec.get("matchConditions"), ignores_failure),
            variables: list(spec, "variables").map(|variable| named(variable, "name", "expression")).collect(),
            validations: list(spec, "validations").map(Validation::read).collect(),
            annotations: list(spec, "auditAnnotations").map(|note| named(note, "key", "valueExpression")).collect(),
        }]
    }

    fn constraint(&self) -> &Constraint {
        &self.constraint
    }
}

impl Item for Binding {
    fn compile(object: &Value) -> Vec<Self> {
        let spec = &object["spec"];
        vec![Self {
            name: meta::name(object).to_owned(),
            policy: text(spec, "policyName").to_owned(),
            constraint: Constraint::of_policy(&spec["matchResources"]),
            param_ref: spec.get("paramRef").cloned().unwrap_or_default(),
            actions: list(spec, "validationActions").filter_map(|a| a.as_str().map(str::to_owned)).collect(),
        }]
    }

    fn constraint(&self) -> &Constraint {
        &self.constraint
    }
}

impl Validation {
    fn read(validation: &Value) -> Self {
        let message_expression = text(validation, "messageExpression");
        Self {
            expression: Expression::compile(text(validation, "expression")),
            message: text(validation, "message").trim().to_owned(),
            message_expression: (!message_expression.is_empty()).then(|| Expression::compile(message_expression)),
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

impl Policy {
    fn failure(&self, index: usize, why: String, outcome: &mut Outcome) {
        if !self.ignores_failure {
            outcome.denials.push((index, Denial::invalid(why)));
        }
    }

    /// Evaluates everything that the policy says.
    fn evaluate(&self, inputs: &Inputs<'_>, params: Option<&Value>) -> Outcome {
        let mut outcome = Outcome::default();
        match self.conditions.all_hold(inputs, params) {
            Ok(true) => {}
            Ok(false) => return outcome,
            Err(why) => {
                self.failure(0, why, &mut outcome);
                return outcome;
            }
        }
        let mut budget = Budget::new(OBJECT_COST_MAX);
        let (variables, failed) = with_named(inputs.variables(params), &self.variables, &mut budget);
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
pub struct ValidatingPolicies {
    policies: Compiled<Policy>,
    bindings: Compiled<Binding>,
}

impl Default for ValidatingPolicies {
    fn default() -> Self {
        Self {
            policies: Compiled::new(GROUP, "v1", "validatingadmissionpolicies"),
            bindings: Compiled::new(GROUP, "v1", "validatingadmissionpolicybindings"),
        }
    }
}

/// The parameters of a binding: none once where the policy takes none.
async fn params(
    policy: &Policy,
    binding: &Binding,
    attributes: &Attributes<'_>,
    registry: &Registry,
) -> Result<Vec<Option<Value>>, String> {
    let (Some((api_version, kind)), true) = (&policy.param_kind, binding.param_ref.is_object()) else {
        return Ok(vec![None]);
    };
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let catalog = registry.live_catalog().now();
    let Some(resource) = catalog.by_gvk(group, version, kind) else {
        return Err(format!("paramKind kind `{api_version}, Kind={kind}` not known"));
    };
    let reference = &binding.param_ref;
    let namespace = match (resource.namespaced, text(reference, "namespace")) {
        (false, "") => "",
        (false, _) => return Err("paramRef.namespace must not be provided for a cluster-scoped `paramKind`".to_owned()),
        (true, "") if attributes.namespace.is_empty() => {
            let why = "cannot use namespaced paramRef in policy binding that matches cluster-scoped resources";
            return Err(why.to_owned());
        }
        (true, "") => attributes.namespace,
        (true, given) => given,
    };
    let found = match text(reference, "name") {
        "" => select(resource, namespace, &reference["selector"], registry).map_err(|error| error.message)?,
        name => match registry.get(resource, namespace, name).await {
            Ok(bytes) => vec![codec::decode(&bytes).map_err(|error| error.message)?],
            Err(error) if error.reason == Reason::NotFound => Vec::new(),
            Err(error) => return Err(error.message),
        },
    };
    if found.is_empty() && text(reference, "parameterNotFoundAction") == "Deny" {
        return Err("no params found for policy binding with `Deny` parameterNotFoundAction".to_owned());
    }
    Ok(found.into_iter().map(Some).collect())
}

fn select(resource: &Resource, namespace: &str, selector: &Value, registry: &Registry) -> Result<Vec<Value>, ApiError> {
    let selector = LabelSelector::from_object(selector)?;
    let mut found = Vec::new();
    if let Some(cache) = registry.cacher().resource(resource) {
        cache.for_each_below(&resource.prefix(Some(namespace)), |entry| {
            if selector.matches(&entry.facts.labels) {
                found.push(entry.object.clone());
            }
        });
    }
    found.iter().map(|object| codec::decode_in_version(resource, object)).collect()
}

/// Whether expressions have no say about the resource: reviews that the cluster itself lives on.
fn is_excluded(attributes: &Attributes<'_>) -> bool {
    matches!(attributes.resource.group.as_str(), "authentication.k8s.io" | "authorization.k8s.io")
}

#[async_trait]
impl Plugin for ValidatingPolicies {
    fn name(&self) -> &'static str {
        "ValidatingAdmissionPolicy"
    }

    async fn validate(
        &self,
        attributes: &Attributes<'_>,
        object: Option<&Value>,
        registry: &Registry,
    ) -> Result<(), ApiError> {
        let policies = self.policies.candidates(attributes, registry);
        if policies.is_empty() || is_exempt(attributes) || is_excluded(attributes) {
            return Ok(());
        }
        let bindings = self.bindings.candidates(attributes, registry);
        let mut namespace = None;
        if !attributes.is_any("", "namespaces")
            && let Some(entry) = attributes.namespace_object(registry).await?
        {
            namespace = Some(codec::decode(&entry.object)?);
        }
        let mut first = None;
        for policy in policies.iter() {
            if !policy.item.constraint.selects(attributes, object, registry).await? {
                continue;
            }
            for binding in bindings.iter().filter(|binding| binding.item.policy == policy.item.name) {
                if !binding.item.constraint.selects(attributes, object, registry).await? {
                    continue;
                }
                let denied = apply(policy, &binding.item, attributes, object, namespace.as_ref(), registry).await?;
                first = first.or(denied);
            }
        }
        first.map_or(Ok(()), Err)
    }
}

/// Applies one policy through one binding; the refusal, if there is one.
async fn apply(
    policy: &Candidate<Policy>,
    binding: &Binding,
    attributes: &Attributes<'_>,
    object: Option<&Value>,
    namespace: Option<&Value>,
    registry: &Registry,
) -> Result<Option<ApiError>, ApiError> {
    let resource = match &policy.matched {
        Matched::As(resource) if matches!(attributes.subresource, "" | "status") => Some(resource),
        _ => None,
    };
    let shown = |object: &Value| match resource {
        Some(resource) => convert(attributes.resource, resource, object),
        None => Ok(object.clone()),
    };
    let (object, old) = (object.map(shown).transpose()?, attributes.old.map(shown).transpose()?);
    let told = match resource {
        Some(resource) => resource,
        None => attributes.resource,
    };
    let inputs = Inputs::of_request(attributes, told, object.as_ref(), old.as_ref()).in_namespace(namespace);
    let policy = &policy.item;
    let params = match params(policy, binding, attributes, registry).await {
        Ok(params) => params,
        Err(_) if policy.ignores_failure => return Ok(None),
        Err(why) => {
            let denial = Denial::invalid(format!("failed to configure binding: {why}"));
            return Ok(Some(refusal(policy, binding, attributes, &denial)));
        }
    };
    let mut first = None;
    for params in &params {
        let outcome = policy.evaluate(&inputs, params.as_ref());
        for (index, denial) in &outcome.denials {
            for action in &binding.actions {
                match action.as_str() {
                    "Deny" => first = first.or_else(|| Some(refusal(policy, binding, attributes, denial))),
                    "Warn" => attributes.notes().warn(format!(
                        "Validation failed for ValidatingAdmissionPolicy '{}' with binding '{}': {}",
                        policy.name, binding.name, denial.message
                    )),
                    _ => record(policy, binding, attributes, *index, denial),
                }
            }
        }
        for (key, note) in outcome.notes {
            attributes.notes().annotate(format!("{}/{key}", policy.name), note);
        }
    }
    Ok(first)
}

fn record(policy: &Policy, binding: &Binding, attributes: &Attributes<'_>, index: usize, denial: &Denial) {
    let failure = json!([{
        "message": denial.message, "policy": policy.name, "binding": binding.name, "expressionIndex": index,
        "validationActions": binding.actions,
    }]);
    attributes.notes().annotate("validation.policy.admission.k8s.io/validation_failure", failure.to_string());
}

fn refusal(policy: &Policy, binding: &Binding, attributes: &Attributes<'_>, denial: &Denial) -> ApiError {
    let message = format!(
        "ValidatingAdmissionPolicy '{}' with binding '{}' denied request: {}",
        policy.name, binding.name, denial.message
    );
    let mut error = attributes.forbidden(&message);
    error.reason = denial.reason;
    if let Some(details) = &mut error.details {
        details.causes.push(Cause { message, ..Cause::default() });
    }
    error
}

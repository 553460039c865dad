//! Admission policies: rules about writes, as expressions, bound to requests by bindings.
//!
//! ```text
//! policy (what must hold, or be changed) × binding (where, with which parameters) ─▶ invocations ─▶ refusal, change
//! ```
//!
//! Here is what [`validating`] and [`mutating`] policies share.

mod mutating;
mod validating;

use std::sync::Arc;

use gantry_api::cel::Request;
use gantry_api::kinds::Resource;
use gantry_api::selector::LabelSelector;
use gantry_api::{ApiError, Reason, codec, meta};
use serde_json::Value;

pub use self::mutating::MutatingPolicies;
pub use self::validating::ValidatingPolicies;
use super::attributes::Attributes;
use super::compiled::{Candidate, Compiled, Item, is_exempt};
use super::conditions::Conditions;
use super::expressions::Expression;
use super::rules::Constraint;
use crate::registry::{Known, Registry};

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn list<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    value.get(key).and_then(Value::as_array).into_iter().flatten()
}

/// What all policies have, compiled.
struct Common {
    name: String,
    constraint: Constraint,
    ignores_failure: bool,
    /// The kind of parameters: its apiVersion and name.
    param_kind: Option<(String, String)>,
    conditions: Conditions,
    variables: Vec<(String, Expression)>,
    /// What its expressions may name.
    request: Request,
}

impl Common {
    fn compile(object: &Value) -> Self {
        let spec = &object["spec"];
        let ignores_failure = text(spec, "failurePolicy") == "Ignore";
        let kind = spec.get("paramKind").filter(|kind| kind.is_object());
        let mut request = Request::new(kind.is_some());
        let conditions = Conditions::compile(spec.get("matchConditions"), &request, ignores_failure);
        let variables = list(spec, "variables").map(|variable| {
            let (name, expression) = (text(variable, "name"), text(variable, "expression"));
            let program = request.variable(name, expression);
            (name.to_owned(), Expression::of(expression, program))
        });
        Self {
            name: meta::name(object).to_owned(),
            constraint: Constraint::of_policy(&spec["matchConstraints"]),
            ignores_failure,
            param_kind: kind.map(|kind| (text(kind, "apiVersion").to_owned(), text(kind, "kind").to_owned())),
            conditions,
            variables: variables.collect(),
            request,
        }
    }
}

/// A compiled policy of either sort.
trait Policy: Item {
    fn common(&self) -> &Common;
}

/// A compiled binding.
struct Binding {
    name: String,
    policy: String,
    constraint: Constraint,
    param_ref: Value,
    /// What is done about a refusal; of validating policies only.
    actions: Vec<String>,
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

/// The policies of one sort with their bindings.
struct Policies<P> {
    policies: Compiled<P>,
    bindings: Compiled<Binding>,
}

/// That a policy applies to a request through a binding.
struct Invocation<P> {
    policy: Candidate<P>,
    binding: Arc<Binding>,
    /// The parameters, once for each time the policy applies; or why there are none.
    params: Result<Vec<Option<Value>>, String>,
}

/// What applies to a request.
struct Invoked<P> {
    invocations: Vec<Invocation<P>>,
    /// The namespace that the request is in.
    namespace: Option<Value>,
}

impl<P: Policy> Policies<P> {
    fn new(policies: Known, bindings: Known) -> Self {
        Self { policies: Compiled::new(policies), bindings: Compiled::new(bindings) }
    }

    /// Whether there is any policy at all.
    fn any(&self, registry: &Registry) -> bool {
        self.policies.any(registry)
    }

    /// What applies to the request; none if nothing does.
    async fn invoked(
        &self,
        attributes: &Attributes<'_>,
        object: Option<&Value>,
        registry: &Registry,
    ) -> Result<Option<Invoked<P>>, ApiError> {
        let policies = self.policies.candidates(attributes, registry);
        if policies.is_empty() || is_exempt(attributes) || is_excluded(attributes) {
            return Ok(None);
        }
        let bindings = self.bindings.candidates(attributes, registry);
        let mut invocations = Vec::new();
        for policy in policies.iter() {
            let common = policy.item.common();
            if !common.constraint.selects(attributes, object, registry).await? {
                continue;
            }
            for binding in bindings.iter().filter(|binding| binding.item.policy == common.name) {
                if binding.item.constraint.selects(attributes, object, registry).await? {
                    let params = params(common, &binding.item, attributes, registry).await;
                    let params = params.map_err(|why| format!("failed to configure binding: {why}"));
                    let (policy, binding) = (policy.clone(), Arc::clone(&binding.item));
                    invocations.push(Invocation { policy, binding, params });
                }
            }
        }
        if invocations.is_empty() {
            return Ok(None);
        }
        let mut namespace = None;
        if !attributes.is_any("", "namespaces")
            && let Some(entry) = attributes.namespace_object(registry).await?
        {
            namespace = Some(codec::decode(&entry.object)?);
        }
        Ok(Some(Invoked { invocations, namespace }))
    }
}

/// The parameters of a binding: none once where the policy takes none.
async fn params(
    policy: &Common,
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

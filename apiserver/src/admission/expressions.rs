//! Expressions about a request: what they see, and how they are evaluated.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use gantry_api::cel::{self, Asking, Authority, Budget, Check, Key, Map, Program, Request, Type, Val, Variables};
use gantry_api::kinds::Resource;
use serde_json::Value;

use super::attributes::Attributes;
use super::webhooks::review_request;
use crate::auth::{self, Authorizer, Identity};
use crate::registry::Registry;

static ANY: Type = Type::Dyn;
static NULL: Value = Value::Null;
/// What the expressions of webhooks may name.
pub static OF_WEBHOOKS: LazyLock<Request> = LazyLock::new(|| Request::new(false));

/// Whom expressions ask what the requester may do.
struct Requester {
    authorizer: Arc<dyn Authorizer>,
    identity: Identity,
}

impl Authority for Requester {
    fn decide(&self, account: Option<(&str, &str)>, check: &Check) -> cel::Decision {
        let account = account.map(|(namespace, name)| Identity::service_account(namespace, name, ""));
        let field = check.field_selector.strip_prefix(crate::cacher::NODE_FIELD);
        let node = field.map(|rest| rest.trim_start_matches('='));
        let request = auth::Request {
            verb: check.verb.clone(),
            is_resource: check.path.is_empty(),
            group: check.group.clone(),
            resource: check.resource.clone(),
            subresource: check.subresource.clone(),
            namespace: check.namespace.clone(),
            name: check.name.clone(),
            path: check.path.clone(),
            node_selector: node.map(str::to_owned),
        };
        let (allowed, reason) = match self.authorizer.authorize(account.as_ref().unwrap_or(&self.identity), &request) {
            auth::Decision::Allow => (true, String::new()),
            auth::Decision::Deny(reason) | auth::Decision::NoOpinion(reason) => (false, reason),
        };
        cel::Decision { allowed, reason, error: None }
    }
}

/// What expressions see of a request.
#[derive(Debug, Clone)]
pub struct Inputs<'a> {
    request: Value,
    object: Option<&'a Value>,
    old: Option<&'a Value>,
    namespace: Option<&'a Value>,
    authorizer: Asking,
    /// The question whether the request itself may be made, but for its verb.
    itself: Asking,
}

impl<'a> Inputs<'a> {
    /// Of a request, told as one to `resource`.
    pub fn of_request(
        attributes: &Attributes<'_>,
        registry: &Registry,
        resource: &Resource,
        object: Option<&'a Value>,
        old: Option<&'a Value>,
    ) -> Self {
        let (authorizer, identity) = (Arc::clone(registry.authorizer()), attributes.identity.clone());
        let authority: Arc<dyn Authority> = Arc::new(Requester { authorizer, identity });
        let itself = Check {
            group: attributes.resource.group.clone(),
            resource: attributes.resource.plural.clone(),
            subresource: attributes.subresource.to_owned(),
            namespace: attributes.namespace_name().to_owned(),
            name: attributes.name.to_owned(),
            ..Check::default()
        };
        Self {
            request: Value::Object(review_request(attributes, resource)),
            object,
            old,
            namespace: None,
            authorizer: Asking::new(Arc::clone(&authority)),
            itself: Asking::of_resource(authority, itself),
        }
    }

    /// The same with the namespace that the request is in.
    #[must_use]
    pub fn in_namespace(mut self, namespace: Option<&'a Value>) -> Self {
        self.namespace = namespace;
        self
    }

    /// As variables, with these parameters.
    pub fn variables<'b>(&'b self, params: Option<&'b Value>) -> Variables<'b> {
        let value = |value: Option<&'b Value>, ty: &'b Type| Val::of(value.unwrap_or(&NULL), ty);
        Variables::new()
            .with("object", value(self.object, &ANY))
            .with("oldObject", value(self.old, &ANY))
            .with("request", Val::of(&self.request, &cel::REQUEST))
            .with("params", value(params, &ANY))
            .with("namespaceObject", value(self.namespace, &cel::NAMESPACE))
            .with("authorizer", self.authorizer.clone().value())
            .with("authorizer.requestResource", self.itself.clone().value())
    }
}

/// An expression of a configuration. One that cannot be compiled fails whenever it is evaluated.
#[derive(Debug, Clone)]
pub struct Expression {
    text: String,
    program: Result<Program, String>,
}

impl Expression {
    /// Compiles it, to a value of one of these types; of any, if none are named.
    pub fn compile(text: &str, request: &Request, wanted: &[Type]) -> Self {
        Self::of(text, request.compile(text, wanted))
    }

    /// What came of compiling it.
    pub fn of(text: &str, program: Result<Program, cel::CompileError>) -> Self {
        let program = program.map_err(|error| format!("compilation error: {error}"));
        Self { text: text.trim().to_owned(), program }
    }

    /// As it is written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Its value; the error is worded as Kubernetes words it.
    pub fn eval<'a>(&'a self, variables: &Variables<'a>, budget: &mut Budget) -> Result<Val<'a>, String> {
        let program = self.program.as_ref().map_err(Clone::clone)?;
        let told = |why: &dyn std::fmt::Display| format!("expression '{}' resulted in error: {why}", self.text);
        program.eval(variables, budget).map_err(|error| told(&error))
    }
}

/// Named expressions that others may use as `variables.NAME`, each also those before it.
pub fn with_named<'a>(
    mut variables: Variables<'a>,
    named: &'a [(String, Expression)],
    budget: &mut Budget,
) -> (Variables<'a>, BTreeMap<&'a str, String>) {
    let mut values = BTreeMap::new();
    let mut failed = BTreeMap::new();
    for (name, expression) in named {
        variables.set("variables", Val::Map(Map::Own(Arc::new(values.clone()))));
        match expression.eval(&variables, budget) {
            Ok(value) if value.nests_too_deep() => {
                let why = format!("expression '{}' resulted in error: its value nests too deeply", expression.text());
                failed.insert(name.as_str(), why);
            }
            Ok(value) => drop(values.insert(Key::Str(Arc::from(name.as_str())), value)),
            // Only an expression that uses it fails.
            Err(why) => drop(failed.insert(name.as_str(), why)),
        }
    }
    variables.set("variables", Val::Map(Map::Own(Arc::new(values))));
    (variables, failed)
}

/// What an expression's failure comes from: a variable that it uses and that has no value.
pub fn cause_of(why: String, failed: &BTreeMap<&str, String>) -> String {
    let missing = failed.iter().find(|(name, _)| why.ends_with(&format!("no such key: {name}")));
    missing.map_or(why.clone(), |(name, cause)| format!("composited variable {name:?} fails to evaluate: {cause}"))
}

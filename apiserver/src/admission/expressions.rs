//! Expressions about a request: what they see, and how they are evaluated.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use gantry_api::cel::{self, Budget, Environment, Key, Map, Program, Type, Val, Variables};
use gantry_api::kinds::Resource;
use serde_json::Value;

use super::attributes::Attributes;
use super::webhooks::review_request;

static ANY: Type = Type::Dyn;
static NULL: Value = Value::Null;
/// The variables of all expressions. The types of objects are known at run time only, as in Kubernetes.
static ENVIRONMENT: LazyLock<Environment> = LazyLock::new(|| {
    ["object", "oldObject", "request", "params", "namespaceObject", "variables"]
        .iter()
        .fold(Environment::new(), |environment, name| environment.with(name, Type::Dyn))
});

/// What expressions see of a request.
#[derive(Debug, Clone)]
pub struct Inputs<'a> {
    request: Value,
    object: Option<&'a Value>,
    old: Option<&'a Value>,
    namespace: Option<&'a Value>,
}

impl<'a> Inputs<'a> {
    /// Of a request, told as one to `resource`.
    pub fn of_request(
        attributes: &Attributes<'_>,
        resource: &Resource,
        object: Option<&'a Value>,
        old: Option<&'a Value>,
    ) -> Self {
        Self { request: Value::Object(review_request(attributes, resource)), object, old, namespace: None }
    }

    /// The same with the namespace that the request is in.
    #[must_use]
    pub fn in_namespace(mut self, namespace: Option<&'a Value>) -> Self {
        self.namespace = namespace;
        self
    }

    /// As variables, with these parameters.
    pub fn variables<'b>(&'b self, params: Option<&'b Value>) -> Variables<'b> {
        let value = |value: Option<&'b Value>| Val::of(value.unwrap_or(&NULL), &ANY);
        Variables::new()
            .with("object", value(self.object))
            .with("oldObject", value(self.old))
            .with("request", Val::of(&self.request, &ANY))
            .with("params", value(params))
            .with("namespaceObject", value(self.namespace))
    }
}

/// An expression of a configuration. One that cannot be compiled fails whenever it is evaluated.
#[derive(Debug, Clone)]
pub struct Expression {
    text: String,
    program: Result<Program, String>,
}

impl Expression {
    /// Compiles it.
    pub fn compile(text: &str) -> Self {
        let program = cel::compile(text, &ENVIRONMENT).map_err(|error| format!("compilation error: {error}"));
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

//! Label and field selectors.
//!
//! In: a selector's text, as `kubectl -l` and `--field-selector` send it, or a `metav1.LabelSelector` object. Out: one
//! compact form that matches labels or fields without allocating. The rules for label keys and values live here too.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Map, Value};

use crate::error::{ApiError, FieldError, quote};

mod field;
mod parse;
mod rules;
#[cfg(test)]
mod tests;

pub use field::{FieldRequirement, FieldSelector};
pub use rules::{label_key_errors, label_value_errors};

/// Anything labels can be looked up in.
pub trait Labels {
    /// The value of a label, if it is set.
    fn label(&self, key: &str) -> Option<&str>;
}

impl Labels for BTreeMap<String, String> {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key).map(String::as_str)
    }
}

impl Labels for Map<String, Value> {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key).and_then(Value::as_str)
    }
}

/// A JSON object of labels; anything else has none.
impl Labels for Value {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key).and_then(Value::as_str)
    }
}

/// Pairs in any order. An object has few labels, so a scan beats a search.
impl<K: AsRef<str>, V: AsRef<str>> Labels for [(K, V)] {
    fn label(&self, key: &str) -> Option<&str> {
        self.iter().find(|(k, _)| k.as_ref() == key).map(|(_, v)| v.as_ref())
    }
}

impl<K: AsRef<str>, V: AsRef<str>> Labels for Vec<(K, V)> {
    fn label(&self, key: &str) -> Option<&str> {
        self.as_slice().label(key)
    }
}

impl<L: Labels + ?Sized> Labels for &L {
    fn label(&self, key: &str) -> Option<&str> {
        (**self).label(key)
    }
}

impl<L: Labels> Labels for Option<L> {
    fn label(&self, key: &str) -> Option<&str> {
        self.as_ref().and_then(|labels| labels.label(key))
    }
}

/// How a requirement compares a label with its values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operator {
    /// `key=value`
    Equals,
    /// `key==value`
    DoubleEquals,
    /// `key!=value`
    NotEquals,
    /// `key in (a,b)`
    In,
    /// `key notin (a,b)`
    NotIn,
    /// `key`
    Exists,
    /// `!key`
    DoesNotExist,
    /// `key>1`; in node affinity `Gt`
    GreaterThan,
    /// `key<1`; in node affinity `Lt`
    LessThan,
}

impl Operator {
    /// The operator as selector objects (`matchExpressions`, node affinity) name it.
    pub fn from_name(name: &str) -> Option<Operator> {
        Some(match name {
            "In" => Operator::In,
            "NotIn" => Operator::NotIn,
            "Exists" => Operator::Exists,
            "DoesNotExist" => Operator::DoesNotExist,
            "Gt" => Operator::GreaterThan,
            "Lt" => Operator::LessThan,
            _ => return None,
        })
    }

    fn wants(self) -> Arity {
        match self {
            Operator::In | Operator::NotIn => Arity::Some,
            Operator::Equals | Operator::DoubleEquals | Operator::NotEquals => Arity::One,
            Operator::Exists | Operator::DoesNotExist => Arity::None,
            Operator::GreaterThan | Operator::LessThan => Arity::OneInteger,
        }
    }
}

/// How many values an operator takes.
enum Arity {
    None,
    One,
    OneInteger,
    Some,
}

/// One condition on one label.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Requirement {
    key: Box<str>,
    operator: Operator,
    /// Sorted, without repeats.
    values: Box<[Box<str>]>,
    /// The value of `>` and `<`.
    bound: i64,
}

impl Requirement {
    /// A requirement, checked as Kubernetes checks it.
    pub fn new(key: &str, operator: Operator, values: Vec<String>) -> Result<Self, Vec<FieldError>> {
        let mut errors = Vec::new();
        let key_errors = label_key_errors(key);
        if !key_errors.is_empty() {
            errors.push(FieldError::invalid("key", key, key_errors.join("; ")));
        }
        let listed = || Value::from(values.clone());
        let mut bound = 0;
        match operator.wants() {
            Arity::Some if values.is_empty() => {
                let why = "for 'in', 'notin' operators, values set can't be empty";
                errors.push(FieldError::invalid("values", listed(), why));
            }
            Arity::One if values.len() != 1 => {
                errors.push(FieldError::invalid(
                    "values",
                    listed(),
                    "exact-match compatibility requires one single value",
                ));
            }
            Arity::None if !values.is_empty() => {
                let why = "values set must be empty for exists and does not exist";
                errors.push(FieldError::invalid("values", listed(), why));
            }
            Arity::OneInteger => {
                if values.len() != 1 {
                    let why = "for 'Gt', 'Lt' operators, exactly one value is required";
                    errors.push(FieldError::invalid("values", listed(), why));
                }
                for (i, value) in values.iter().enumerate() {
                    match value.parse() {
                        Ok(v) => bound = v,
                        Err(_) => errors.push(FieldError::invalid(
                            format!("values[{i}]"),
                            value.as_str(),
                            "for 'Gt', 'Lt' operators, the value must be an integer",
                        )),
                    }
                }
            }
            Arity::Some | Arity::One | Arity::None => {}
        }
        for (i, value) in values.iter().enumerate() {
            let value_errors = label_value_errors(value);
            if !value_errors.is_empty() {
                errors.push(FieldError::invalid(
                    format!("values[{i}][{key}]"),
                    value.as_str(),
                    value_errors.join("; "),
                ));
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        let mut values: Vec<Box<str>> = values.into_iter().map(String::into_boxed_str).collect();
        values.sort_unstable();
        values.dedup();
        Ok(Requirement { key: key.into(), operator, values: values.into(), bound })
    }

    /// The label.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The comparison.
    pub fn operator(&self) -> Operator {
        self.operator
    }

    /// The values, sorted.
    pub fn values(&self) -> impl Iterator<Item = &str> {
        self.values.iter().map(|v| &**v)
    }

    /// Whether the labels meet it.
    pub fn matches<L: Labels + ?Sized>(&self, labels: &L) -> bool {
        let value = labels.label(&self.key);
        let has = |v: &str| self.values.iter().any(|wanted| &**wanted == v);
        match self.operator {
            Operator::In | Operator::Equals | Operator::DoubleEquals => value.is_some_and(has),
            Operator::NotIn | Operator::NotEquals => !value.is_some_and(has),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan => value.and_then(|v| v.parse::<i64>().ok()).is_some_and(|v| v > self.bound),
            Operator::LessThan => value.and_then(|v| v.parse::<i64>().ok()).is_some_and(|v| v < self.bound),
        }
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let joined = || self.values.join(",");
        match self.operator {
            Operator::Exists => f.write_str(&self.key),
            Operator::DoesNotExist => write!(f, "!{}", self.key),
            Operator::Equals => write!(f, "{}={}", self.key, joined()),
            Operator::DoubleEquals => write!(f, "{}=={}", self.key, joined()),
            Operator::NotEquals => write!(f, "{}!={}", self.key, joined()),
            Operator::GreaterThan => write!(f, "{}>{}", self.key, joined()),
            Operator::LessThan => write!(f, "{}<{}", self.key, joined()),
            Operator::In => write!(f, "{} in ({})", self.key, joined()),
            Operator::NotIn => write!(f, "{} notin ({})", self.key, joined()),
        }
    }
}

/// A conjunction of requirements on labels, or the selector that matches nothing.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LabelSelector {
    /// Sorted by key; `None` matches nothing.
    requirements: Option<Box<[Requirement]>>,
}

impl Default for LabelSelector {
    fn default() -> Self {
        LabelSelector::everything()
    }
}

impl LabelSelector {
    /// The selector without requirements.
    pub fn everything() -> Self {
        LabelSelector { requirements: Some(Box::default()) }
    }

    /// The selector that no object matches, as an absent `metav1.LabelSelector` means.
    pub fn nothing() -> Self {
        LabelSelector { requirements: None }
    }

    /// All of these requirements.
    pub fn new(requirements: impl IntoIterator<Item = Requirement>) -> Self {
        let mut requirements: Vec<Requirement> = requirements.into_iter().collect();
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        LabelSelector { requirements: Some(requirements.into()) }
    }

    /// Reads a selector such as `app=web,tier in (front,back),!old`.
    pub fn parse(text: &str) -> Result<Self, ApiError> {
        parse::requirements(text).map(LabelSelector::new).map_err(ApiError::bad_request)
    }

    /// Reads a `metav1.LabelSelector`; null matches nothing and an empty one everything.
    pub fn from_object(selector: &Value) -> Result<Self, ApiError> {
        let Value::Object(selector) = selector else {
            return match selector {
                Value::Null => Ok(LabelSelector::nothing()),
                _ => Err(ApiError::bad_request("a label selector must be an object")),
            };
        };
        let mut requirements = Vec::new();
        if let Some(Value::Object(labels)) = selector.get("matchLabels") {
            for (key, value) in labels {
                let value = value.as_str().unwrap_or_default().to_owned();
                requirements.push(Requirement::new(key, Operator::Equals, vec![value]).map_err(aggregate)?);
            }
        }
        for expression in selector.get("matchExpressions").and_then(Value::as_array).into_iter().flatten() {
            requirements.push(expression_requirement(expression)?);
        }
        Ok(LabelSelector::new(requirements))
    }

    /// Reads a plain map of labels, such as a Service's selector; an absent or empty one matches everything.
    pub fn from_map(labels: &Value) -> Self {
        let pairs = labels.as_object().into_iter().flatten();
        LabelSelector::new(pairs.map(|(key, value)| Requirement {
            key: key.as_str().into(),
            operator: Operator::Equals,
            values: Box::new([value.as_str().unwrap_or_default().into()]),
            bound: 0,
        }))
    }

    /// Whether the labels meet every requirement.
    pub fn matches<L: Labels + ?Sized>(&self, labels: &L) -> bool {
        match &self.requirements {
            Some(requirements) => requirements.iter().all(|r| r.matches(labels)),
            None => false,
        }
    }

    /// Whether there is nothing to check: every object matches.
    pub fn is_everything(&self) -> bool {
        self.requirements.as_ref().is_some_and(|r| r.is_empty())
    }

    /// The requirements; none for the selector that matches nothing.
    pub fn requirements(&self) -> &[Requirement] {
        self.requirements.as_deref().unwrap_or_default()
    }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, requirement) in self.requirements().iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            requirement.fmt(f)?;
        }
        Ok(())
    }
}

/// One of `matchExpressions`, of a label selector.
fn expression_requirement(expression: &Value) -> Result<Requirement, ApiError> {
    let text = |name: &str| expression.get(name).and_then(Value::as_str).unwrap_or_default();
    let name = text("operator");
    let operator = Operator::from_name(name)
        .filter(|o| !matches!(o, Operator::GreaterThan | Operator::LessThan))
        .ok_or_else(|| ApiError::bad_request(format!("{} is not a valid label selector operator", quote(name))))?;
    Requirement::new(text("key"), operator, expression_values(expression)).map_err(aggregate)
}

/// The requirement of one of a node selector term's `matchExpressions`, where `Gt` and `Lt` are allowed.
pub fn node_requirement(expression: &Value) -> Result<Requirement, ApiError> {
    let text = |name: &str| expression.get(name).and_then(Value::as_str).unwrap_or_default();
    let name = text("operator");
    let operator = Operator::from_name(name)
        .ok_or_else(|| ApiError::bad_request(format!("{} is not a valid node selector operator", quote(name))))?;
    Requirement::new(text("key"), operator, expression_values(expression)).map_err(aggregate)
}

fn expression_values(expression: &Value) -> Vec<String> {
    let values = expression.get("values").and_then(Value::as_array).into_iter().flatten();
    values.map(|v| v.as_str().unwrap_or_default().to_owned()).collect()
}

fn aggregate(errors: Vec<FieldError>) -> ApiError {
    ApiError::bad_request(aggregated(&errors))
}

/// Several errors as one text: alone, or in brackets.
fn aggregated(errors: &[FieldError]) -> String {
    match errors {
        [one] => one.to_string(),
        many => format!("[{}]", many.iter().map(FieldError::to_string).collect::<Vec<_>>().join(", ")),
    }
}

/// Labels as tables show them: `a=1,b=2`, or `<none>`.
pub fn format_labels(labels: Option<&Value>) -> String {
    match labels.and_then(Value::as_object) {
        Some(map) if !map.is_empty() => {
            let pairs: Vec<String> =
                map.iter().map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default())).collect();
            pairs.join(",")
        }
        _ => "<none>".to_owned(),
    }
}

/// A `metav1.LabelSelector` as tables show it.
pub fn format_label_selector(selector: Option<&Value>) -> String {
    match LabelSelector::from_object(selector.unwrap_or(&Value::Null)) {
        Ok(selector) => {
            let text = selector.to_string();
            if text.is_empty() { "<none>".to_owned() } else { text }
        }
        Err(_) => "<error>".to_owned(),
    }
}

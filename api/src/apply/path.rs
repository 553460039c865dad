//! One step of a field's path, and how it is written in `managedFields`.
//!
//! | written | means |
//! |---|---|
//! | `f:NAME` | a struct's field or a map's key |
//! | `k:{"name":"web"}` | the item of a keyed list with these keys |
//! | `v:"a"` | the item of a set |
//! | `i:0` | the item at an index |

use std::cmp::Ordering;
use std::fmt;

use serde_json::{Map, Value};

use crate::codec;
use crate::error::quote;
use crate::schema::Text;

/// One step of a path.
#[derive(Debug, Clone)]
pub enum PathElement {
    /// A struct's field or a map's key.
    Field(Text),
    /// The item of a keyed list: its keys, sorted by name.
    Key(Vec<(Text, Value)>),
    /// The item of a set.
    Value(Value),
    /// The item at an index.
    Index(i64),
}

/// A key of `fieldsV1` that is no path element.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a path element: {0}")]
pub struct NotAPathElement(pub String);

impl PathElement {
    /// Reads the written form. `Ok(None)` is an element of a kind this version does not know, which is dropped.
    pub fn parse(text: &str) -> Result<Option<PathElement>, NotAPathElement> {
        let bad = || NotAPathElement(text.to_owned());
        let (kind, rest) = text.split_once(':').ok_or_else(bad)?;
        Ok(Some(match kind {
            "f" => PathElement::Field(rest.to_owned().into()),
            "v" => PathElement::Value(serde_json::from_str(rest).map_err(|_| bad())?),
            "k" => {
                let keys: Map<String, Value> = serde_json::from_str(rest).map_err(|_| bad())?;
                PathElement::Key(keys.into_iter().map(|(name, value)| (name.into(), value)).collect())
            }
            "i" => PathElement::Index(rest.parse().map_err(|_| bad())?),
            _ if kind.len() == 1 => return Ok(None),
            _ => return Err(bad()),
        }))
    }

    /// The written form.
    pub fn written(&self) -> String {
        match self {
            PathElement::Field(name) => ["f:", name].concat(),
            PathElement::Key(keys) => {
                let mut text = b"k:{".to_vec();
                for (i, (name, value)) in keys.iter().enumerate() {
                    if i > 0 {
                        text.push(b',');
                    }
                    codec::write_text(&mut text, name);
                    text.push(b':');
                    codec::write_value(&mut text, value);
                }
                text.push(b'}');
                String::from_utf8(text).expect("JSON of texts is text")
            }
            PathElement::Value(value) => format!("v:{value}"),
            PathElement::Index(index) => format!("i:{index}"),
        }
    }

    fn rank(&self) -> u8 {
        match self {
            PathElement::Field(_) => 0,
            PathElement::Key(_) => 1,
            PathElement::Value(_) => 2,
            PathElement::Index(_) => 3,
        }
    }
}

impl Ord for PathElement {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (PathElement::Field(a), PathElement::Field(b)) => a.cmp(b),
            (PathElement::Key(a), PathElement::Key(b)) => {
                let pairs = a.iter().zip(b).map(|((an, av), (bn, bv))| an.cmp(bn).then_with(|| compare(av, bv)));
                pairs.fold(Ordering::Equal, Ordering::then).then(a.len().cmp(&b.len()))
            }
            (PathElement::Value(a), PathElement::Value(b)) => compare(a, b),
            (PathElement::Index(a), PathElement::Index(b)) => a.cmp(b),
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

impl PartialOrd for PathElement {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for PathElement {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for PathElement {}

impl fmt::Display for PathElement {
    /// The form people read: `.spec`, `[name="web"]`, `[="a"]`, `[0]`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |value: &Value| match value {
            Value::String(text) => quote(text),
            other => other.to_string(),
        };
        match self {
            PathElement::Field(name) => write!(f, ".{name}"),
            PathElement::Key(keys) => {
                let keys: Vec<String> = keys.iter().map(|(name, value)| format!("{name}={}", shown(value))).collect();
                write!(f, "[{}]", keys.join(","))
            }
            PathElement::Value(value) => write!(f, "[={}]", shown(value)),
            PathElement::Index(index) => write!(f, "[{index}]"),
        }
    }
}

/// A total order of JSON values, in which `1` and `1.0` are the same number.
pub(super) fn compare(a: &Value, b: &Value) -> Ordering {
    let rank = |v: &Value| match v {
        Value::Number(_) => 0,
        Value::String(_) => 1,
        Value::Bool(_) => 2,
        Value::Array(_) => 3,
        Value::Object(_) => 4,
        Value::Null => 5,
    };
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => match (a.as_i64(), b.as_i64()) {
            (Some(a), Some(b)) => a.cmp(&b),
            _ => a.as_f64().unwrap_or_default().total_cmp(&b.as_f64().unwrap_or_default()),
        },
        (Value::String(a), Value::String(b)) => a.cmp(b),
        (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
        (Value::Array(a), Value::Array(b)) => a
            .iter()
            .zip(b)
            .map(|(a, b)| compare(a, b))
            .fold(Ordering::Equal, Ordering::then)
            .then(a.len().cmp(&b.len())),
        (Value::Object(a), Value::Object(b)) => {
            let pairs = a.iter().zip(b).map(|((an, av), (bn, bv))| an.cmp(bn).then_with(|| compare(av, bv)));
            pairs.fold(Ordering::Equal, Ordering::then).then(a.len().cmp(&b.len()))
        }
        _ => rank(a).cmp(&rank(b)),
    }
}

/// Whether two values are the same, numbers by value.
pub(super) fn equal(a: &Value, b: &Value) -> bool {
    a == b || compare(a, b) == Ordering::Equal
}

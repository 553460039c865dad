//! How large what a structural schema describes may become.

use std::collections::BTreeMap;

use serde_json::Value;

use super::Kind;
use crate::cel::escape;

/// The largest request body.
const REQUEST_BYTES: u64 = 3 * 1024 * 1024;

/// The extent of a map's key. Nothing limits it, and Kubernetes counts it as nothing.
pub(super) static KEY: Extent = Extent { kind: Kind::Text, most: 0, least_bytes: 2, below: Below::Nothing };

/// How large a value may become.
#[derive(Debug, Clone)]
pub struct Extent {
    kind: Kind,
    /// The most items, entries or bytes; of structs and numbers none are counted.
    pub(super) most: u64,
    /// How many bytes it takes at least in a request.
    least_bytes: u64,
    below: Below,
}

#[derive(Debug, Clone)]
enum Below {
    Nothing,
    Each(Box<Extent>),
    Fields(BTreeMap<String, Extent>),
}

fn count(schema: &Value, key: &str) -> Option<u64> {
    schema.get(key).and_then(Value::as_i64).map(|most| u64::try_from(most).unwrap_or_default())
}

fn flag(schema: &Value, key: &str) -> bool {
    schema.get(key).and_then(Value::as_bool).unwrap_or_default()
}

impl Extent {
    /// Of what this structural schema describes; none where expressions cannot see it. `root`: of a whole object.
    pub fn of_structural(schema: &Value, root: bool) -> Option<Extent> {
        let leaf = |kind, most, least_bytes| Some(Extent { kind, most, least_bytes, below: Below::Nothing });
        // A character may take four bytes.
        let longest = count(schema, "maxLength").map(|most| most.saturating_mul(4));
        if flag(schema, "x-kubernetes-int-or-string") {
            return leaf(Kind::Unknown, longest.unwrap_or(REQUEST_BYTES - 2), 1);
        }
        let text = |key: &str| schema.get(key).and_then(Value::as_str).unwrap_or_default();
        let embedded = |schema: &Value| flag(schema, "x-kubernetes-embedded-resource");
        match text("type") {
            "boolean" => leaf(Kind::Scalar, 0, 4),
            "integer" | "number" => leaf(Kind::Scalar, 0, 1),
            "string" => match text("format") {
                "byte" => leaf(Kind::Text, count(schema, "maxLength").unwrap_or(REQUEST_BYTES - 2), 2),
                "duration" => leaf(Kind::Scalar, 32, 3),
                "date" => leaf(Kind::Scalar, 12, 12),
                "date-time" => leaf(Kind::Scalar, 32, 21),
                _ => leaf(Kind::Text, longest.or_else(|| longest_of(schema)).unwrap_or(REQUEST_BYTES - 2), 2),
            },
            "array" => {
                let items = schema.get("items")?;
                let each = Extent::of_structural(items, embedded(items))?;
                let most = count(schema, "maxItems").unwrap_or((REQUEST_BYTES - 2) / (each.least_bytes + 1));
                Some(Extent { kind: Kind::List, most, least_bytes: 2, below: Below::Each(Box::new(each)) })
            }
            "object" => {
                if let Some(values) = schema.get("additionalProperties").filter(|values| values.is_object()) {
                    let each = Extent::of_structural(values, embedded(values))?;
                    let most = count(schema, "maxProperties").unwrap_or((REQUEST_BYTES - 2) / (each.least_bytes + 6));
                    return Some(Extent { kind: Kind::Map, most, least_bytes: 2, below: Below::Each(Box::new(each)) });
                }
                Some(Extent::of_fields(schema, root || embedded(schema)))
            }
            _ => None,
        }
    }

    fn of_fields(schema: &Value, object: bool) -> Extent {
        let string = || Extent { kind: Kind::Text, most: REQUEST_BYTES - 2, least_bytes: 2, below: Below::Nothing };
        let required = |name: &str| {
            let names = schema.get("required").and_then(Value::as_array).into_iter().flatten();
            names.filter_map(Value::as_str).any(|required| required == name)
        };
        let (mut fields, mut least_bytes) = (BTreeMap::new(), 2);
        for (name, of) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
            let Some(extent) = Extent::of_structural(of, false) else { continue };
            if required(name) && of.get("default").is_none_or(Value::is_null) {
                least_bytes += name.len() as u64 + extent.least_bytes + 4;
            }
            if let Some(name) = escape(name) {
                fields.insert(name, extent);
            }
        }
        if object {
            let named = ["name", "generateName"].map(|name| (name.to_owned(), string()));
            let below = Below::Fields(BTreeMap::from(named));
            fields.insert("apiVersion".to_owned(), string());
            fields.insert("kind".to_owned(), string());
            fields.insert("metadata".to_owned(), Extent { kind: Kind::Struct, most: 0, least_bytes: 2, below });
        }
        Extent { kind: Kind::Struct, most: 0, least_bytes, below: Below::Fields(fields) }
    }

    /// How often such a value can stand in one request at most.
    pub fn repetitions(&self) -> u64 {
        REQUEST_BYTES / (self.least_bytes + 1)
    }

    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    /// Of a field, by the name that expressions use; of any value, for a map.
    pub(super) fn field(&self, name: &str) -> Option<&Extent> {
        match &self.below {
            Below::Fields(fields) => fields.get(name),
            // The way to a map's value by its name is none that Kubernetes follows.
            Below::Each(_) | Below::Nothing => None,
        }
    }

    /// Of an item or a map's value.
    pub(super) fn each(&self) -> Option<&Extent> {
        match &self.below {
            Below::Each(each) => Some(each),
            Below::Fields(_) | Below::Nothing => None,
        }
    }
}

/// The length of the longest text that an enumeration allows.
fn longest_of(schema: &Value) -> Option<u64> {
    let known = schema.get("enum").and_then(Value::as_array).filter(|known| !known.is_empty())?;
    Some(known.iter().filter_map(Value::as_str).map(str::len).max().unwrap_or_default() as u64)
}

//! Parsing stored objects for printing.
//!
//! No table shows managed fields, and they are often half of an object, so they are skipped without being built.

use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::error::ApiError;

/// Parses an object without its managed fields.
pub(super) fn parse(bytes: &[u8]) -> Result<Value, ApiError> {
    serde_json::from_slice::<Lean>(bytes).map(|lean| lean.0).map_err(ApiError::internal)
}

struct Lean(Value);

impl<'de> Deserialize<'de> for Lean {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(LeanVisitor)
    }
}

struct LeanVisitor;

impl<'de> Visitor<'de> for LeanVisitor {
    type Value = Lean;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, v: bool) -> Result<Lean, E> {
        Ok(Lean(Value::Bool(v)))
    }

    fn visit_i64<E>(self, v: i64) -> Result<Lean, E> {
        Ok(Lean(Value::from(v)))
    }

    fn visit_u64<E>(self, v: u64) -> Result<Lean, E> {
        Ok(Lean(Value::from(v)))
    }

    fn visit_f64<E>(self, v: f64) -> Result<Lean, E> {
        Ok(Lean(Value::from(v)))
    }

    fn visit_str<E>(self, v: &str) -> Result<Lean, E> {
        Ok(Lean(Value::String(v.to_owned())))
    }

    fn visit_string<E>(self, v: String) -> Result<Lean, E> {
        Ok(Lean(Value::String(v)))
    }

    fn visit_unit<E>(self) -> Result<Lean, E> {
        Ok(Lean(Value::Null))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Lean, A::Error> {
        let mut items = Vec::new();
        while let Some(Lean(item)) = seq.next_element()? {
            items.push(item);
        }
        Ok(Lean(Value::Array(items)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Lean, A::Error> {
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            if key == "managedFields" {
                entries.next_value::<IgnoredAny>()?;
            } else {
                let Lean(value) = entries.next_value()?;
                map.insert(key, value);
            }
        }
        Ok(Lean(Value::Object(map)))
    }
}

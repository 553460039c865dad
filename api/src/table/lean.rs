//! Parsing stored objects for printing.
//!
//! Most of an object is in no column: managed fields, environments, volumes, the contents of configuration. It is
//! skipped without being built, which makes a table of many objects several times cheaper.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::error::ApiError;

/// How much of an object to build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keep {
    /// What the built-in printers read.
    Printed,
    /// Everything but managed fields: a custom column may name any field.
    Everything,
}

/// Parses an object.
pub(super) fn parse(bytes: &[u8], keep: Keep) -> Result<Value, ApiError> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = Lean { keep }.deserialize(&mut deserializer).map_err(ApiError::internal)?;
    deserializer.end().map_err(ApiError::internal)?;
    Ok(value)
}

impl Keep {
    /// Whether no printer reads this field, wherever it is.
    fn skips(self, key: &str) -> bool {
        match self {
            Keep::Everything => key == "managedFields",
            Keep::Printed => matches!(
                key,
                "managedFields"
                    | "annotations"
                    | "ownerReferences"
                    | "env"
                    | "envFrom"
                    | "volumes"
                    | "volumeMounts"
                    | "resources"
                    | "tolerations"
                    | "affinity"
                    | "securityContext"
                    | "livenessProbe"
                    | "readinessProbe"
                    | "startupProbe"
                    | "command"
                    | "args"
                    | "images"
                    | "imageID"
                    | "containerID"
                    | "lastTransitionTime"
                    | "lastProbeTime"
                    | "lastHeartbeatTime"
            ),
        }
    }

    /// Whether only the number of this map's entries is printed.
    fn only_counts(self, key: &str) -> bool {
        self == Keep::Printed && matches!(key, "data" | "binaryData")
    }
}

#[derive(Clone, Copy)]
struct Lean {
    keep: Keep,
}

impl<'de> DeserializeSeed<'de> for Lean {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Lean {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(Value::Bool(v))
    }

    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(Value::from(v))
    }

    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(Value::from(v))
    }

    fn visit_f64<E>(self, v: f64) -> Result<Value, E> {
        Ok(Value::from(v))
    }

    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(Value::String(v.to_owned()))
    }

    fn visit_string<E>(self, v: String) -> Result<Value, E> {
        Ok(Value::String(v))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(self)? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(Key(key)) = entries.next_key()? {
            if self.keep.skips(&key) {
                entries.next_value::<IgnoredAny>()?;
                continue;
            }
            let value = if self.keep.only_counts(&key) {
                entries.next_value_seed(Counted)?
            } else {
                entries.next_value_seed(self)?
            };
            map.insert(key.into_owned(), value);
        }
        Ok(Value::Object(map))
    }
}

/// A map of which only the keys are kept.
struct Counted;

impl<'de> DeserializeSeed<'de> for Counted {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        let keys: Option<std::collections::BTreeMap<String, IgnoredAny>> = Option::deserialize(deserializer)?;
        let map: Map<String, Value> = keys.into_iter().flatten().map(|(key, _)| (key, Value::Null)).collect();
        Ok(Value::Object(map))
    }
}

/// A key, borrowed where it has no escapes.
struct Key<'de>(Cow<'de, str>);

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(KeyVisitor)
    }
}

struct KeyVisitor;

impl<'de> Visitor<'de> for KeyVisitor {
    type Value = Key<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_borrowed_str<E>(self, v: &'de str) -> Result<Key<'de>, E> {
        Ok(Key(Cow::Borrowed(v)))
    }

    fn visit_str<E>(self, v: &str) -> Result<Key<'de>, E> {
        Ok(Key(Cow::Owned(v.to_owned())))
    }
}

//! Values: those of an object as they stand in its JSON, and those that expressions make.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use base64::Engine as _;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::NESTING_MAX;
use super::libraries::Opaque;
use super::types::{DYN, ObjectType, Type};

/// A text, borrowed from the object or made.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "as told above")]
pub enum Text<'a> {
    Ref(&'a str),
    Own(Arc<str>),
}

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Text::Ref(text) => text,
            Text::Own(text) => text,
        }
    }
}

/// A value of an expression.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "the variants are the types of the same names")]
pub enum Val<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    Str(Text<'a>),
    Bytes(Arc<[u8]>),
    Duration(SignedDuration),
    Timestamp(Timestamp),
    Type(Arc<str>),
    List(List<'a>),
    Map(Map<'a>),
    Optional(Option<Arc<Val<'a>>>),
    Opaque(Arc<Opaque>),
}

/// A list.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "as they stand in the object, or made")]
pub enum List<'a> {
    Json(&'a [Value], &'a Type),
    Own(Arc<Vec<Val<'a>>>),
}

/// A map or struct.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "as they stand in the object, or made")]
pub enum Map<'a> {
    /// A map of values of one type.
    Json(&'a serde_json::Map<String, Value>, &'a Type),
    /// A struct.
    Object(&'a serde_json::Map<String, Value>, &'a ObjectType),
    Own(Arc<BTreeMap<Key, Val<'a>>>),
    /// A struct that was made, with the name of its type.
    Made(Arc<str>, Arc<BTreeMap<Key, Val<'a>>>),
}

/// The key of a map.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the variants are the types of the same names")]
pub enum Key {
    Bool(bool),
    Int(i64),
    Uint(u64),
    Str(Arc<str>),
}

/// The largest value that is written out: the largest request body.
const JSON_BYTES_MAX: usize = 3 << 20;

/// About how many bytes a value of an object takes.
fn json_size(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len() + 1,
        Value::Array(items) => items.iter().map(json_size).sum::<usize>() + 1,
        Value::Object(map) => map.iter().map(|(key, value)| key.len() + json_size(value)).sum::<usize>() + 1,
        _ => 1,
    }
}

impl<'a> Val<'a> {
    /// A JSON value of a type.
    pub fn of(value: &'a Value, ty: &'a Type) -> Val<'a> {
        match value {
            Value::Null => Val::Null,
            Value::Bool(b) => Val::Bool(*b),
            Value::Number(number) => match (ty, number.as_i64(), number.as_u64()) {
                (Type::Double, _, _) => Val::Double(number.as_f64().unwrap_or_default()),
                (_, Some(int), _) => Val::Int(int),
                (_, None, Some(uint)) => Val::Uint(uint),
                (Type::Int, None, None) => Val::Int(number.as_f64().unwrap_or_default() as i64),
                _ => Val::Double(number.as_f64().unwrap_or_default()),
            },
            Value::String(text) => match ty {
                Type::Bytes => match base64::engine::general_purpose::STANDARD.decode(text) {
                    Ok(bytes) => Val::Bytes(bytes.into()),
                    Err(_) => Val::Str(Text::Ref(text)),
                },
                Type::Duration => duration(text).map_or(Val::Str(Text::Ref(text)), Val::Duration),
                Type::Timestamp => timestamp(text).map_or(Val::Str(Text::Ref(text)), Val::Timestamp),
                _ => Val::Str(Text::Ref(text)),
            },
            Value::Array(items) => match ty {
                Type::List(of) => Val::List(List::Json(items, of)),
                _ => Val::List(List::Json(items, &DYN)),
            },
            Value::Object(map) => match ty {
                Type::Object(object) => Val::Map(Map::Object(map, object)),
                Type::Map(_, of) => Val::Map(Map::Json(map, of)),
                _ => Val::Map(Map::Json(map, &DYN)),
            },
        }
    }

    /// A text.
    pub fn text(text: impl Into<Arc<str>>) -> Val<'a> {
        Val::Str(Text::Own(text.into()))
    }

    /// A list that was made.
    pub fn list(items: Vec<Val<'a>>) -> Val<'a> {
        Val::List(List::Own(Arc::new(items)))
    }

    /// The text, if it is one.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Val::Str(text) => Some(text),
            _ => None,
        }
    }

    /// The truth, if it is one.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Val::Bool(b) => Some(*b),
            _ => None,
        }
    }

    /// The name of its type.
    pub fn type_name(&self) -> &str {
        match self {
            Val::Null => "null_type",
            Val::Bool(_) => "bool",
            Val::Int(_) => "int",
            Val::Uint(_) => "uint",
            Val::Double(_) => "double",
            Val::Str(_) => "string",
            Val::Bytes(_) => "bytes",
            Val::Duration(_) => "google.protobuf.Duration",
            Val::Timestamp(_) => "google.protobuf.Timestamp",
            Val::Type(_) => "type",
            Val::List(_) => "list",
            Val::Map(Map::Object(_, object)) => &object.name,
            Val::Map(Map::Made(name, _)) => name,
            Val::Map(_) => "map",
            Val::Optional(_) => "optional_type",
            Val::Opaque(opaque) => opaque.type_name(),
        }
    }

    /// The value as JSON; none for one that has no JSON form, or one larger than any request: parts may be shared so often that
    /// all of them written out fill no memory.
    pub fn to_json(&self) -> Option<Value> {
        self.to_json_within(&mut JSON_BYTES_MAX.clone())
    }

    fn to_json_within(&self, left: &mut usize) -> Option<Value> {
        let bytes = match self {
            Val::Str(text) => text.len(),
            Val::Bytes(bytes) => bytes.len(),
            Val::Map(Map::Json(map, _) | Map::Object(map, _)) => map.values().map(json_size).sum(),
            _ => 0,
        };
        *left = left.checked_sub(bytes.saturating_add(1))?;
        Some(match self {
            Val::Null => Value::Null,
            Val::Bool(b) => Value::Bool(*b),
            Val::Int(i) => Value::from(*i),
            Val::Uint(u) => Value::from(*u),
            Val::Double(d) if d.fract() == 0.0 && d.abs() < 9e15 => Value::from(*d as i64),
            Val::Double(d) => Value::from(*d),
            Val::Str(text) => Value::from(&**text),
            Val::Bytes(bytes) => Value::from(base64::engine::general_purpose::STANDARD.encode(bytes)),
            Val::Duration(duration) => Value::from(duration_text(*duration)),
            Val::Timestamp(at) => Value::from(at.to_string()),
            Val::Type(_) => return None,
            Val::List(list) => Value::Array(list.iter().map(|item| item.to_json_within(left)).collect::<Option<_>>()?),
            Val::Map(Map::Json(map, _) | Map::Object(map, _)) => Value::Object((*map).clone()),
            Val::Map(Map::Own(map) | Map::Made(_, map)) => {
                let mut out = serde_json::Map::new();
                for (key, value) in map.iter() {
                    let key = key.to_string();
                    *left = left.checked_sub(key.len())?;
                    out.insert(key, value.to_json_within(left)?);
                }
                Value::Object(out)
            }
            Val::Optional(None) => Value::Null,
            Val::Optional(Some(value)) => value.to_json_within(left)?,
            Val::Opaque(opaque) => Value::from(opaque.to_string()),
        })
    }

    /// Whether lists and maps that expressions made stand in it deeper than one expression can nest them. Values that are made of
    /// others, again and again, would get too deep to go through.
    pub fn nests_too_deep(&self) -> bool {
        fn depth(value: &Val<'_>, known: &mut HashMap<usize, usize>) -> usize {
            let at = match value {
                Val::List(List::Own(items)) => Arc::as_ptr(items) as usize,
                Val::Map(Map::Own(map) | Map::Made(_, map)) => Arc::as_ptr(map) as usize,
                Val::Optional(Some(inner)) => return 1 + depth(inner, known),
                _ => return 0,
            };
            if let Some(depth) = known.get(&at) {
                return *depth;
            }
            let below = match value {
                Val::List(List::Own(items)) => items.iter().map(|item| depth(item, known)).max(),
                Val::Map(Map::Own(map) | Map::Made(_, map)) => map.values().map(|item| depth(item, known)).max(),
                _ => None,
            };
            let depth = 1 + below.unwrap_or(0);
            known.insert(at, depth);
            depth
        }
        depth(self, &mut HashMap::new()) > usize::from(NESTING_MAX)
    }

    /// Equality as the language has it: numbers of all types compare by value.
    pub fn equals(&self, other: &Val<'_>) -> bool {
        match (self, other) {
            (Val::Null, Val::Null) => true,
            (Val::Bool(a), Val::Bool(b)) => a == b,
            (Val::Str(a), Val::Str(b)) => **a == **b,
            (Val::Bytes(a), Val::Bytes(b)) => a == b,
            (Val::Type(a), Val::Type(b)) => a == b,
            (Val::Duration(a), Val::Duration(b)) => a == b,
            (Val::Timestamp(a), Val::Timestamp(b)) => a == b,
            (Val::Optional(a), Val::Optional(b)) => match (a, b) {
                (Some(a), Some(b)) => a.equals(b),
                (None, None) => true,
                _ => false,
            },
            (Val::Opaque(a), Val::Opaque(b)) => a.equals(b),
            (Val::List(a), Val::List(b)) => a.len() == b.len() && a.iter().zip(b.iter()).all(|(a, b)| a.equals(&b)),
            (Val::Map(Map::Made(a, _)), Val::Map(Map::Made(b, _))) if a != b => false,
            (Val::Map(a), Val::Map(b)) => {
                a.len() == b.len()
                    && a.entries().all(|(key, value)| b.get(&key).is_some_and(|other| value.equals(&other)))
            }
            _ => self.compare(other) == Some(Ordering::Equal) && self.is_number() && other.is_number(),
        }
    }

    fn is_number(&self) -> bool {
        matches!(self, Val::Int(_) | Val::Uint(_) | Val::Double(_))
    }

    /// The order of two values, if they have one.
    pub fn compare(&self, other: &Val<'_>) -> Option<Ordering> {
        match (self, other) {
            (Val::Int(a), Val::Int(b)) => Some(a.cmp(b)),
            (Val::Uint(a), Val::Uint(b)) => Some(a.cmp(b)),
            (Val::Double(a), Val::Double(b)) => a.partial_cmp(b),
            (Val::Int(a), Val::Uint(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
            (Val::Uint(a), Val::Int(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
            (Val::Int(a), Val::Double(b)) => (*a as f64).partial_cmp(b),
            (Val::Double(a), Val::Int(b)) => a.partial_cmp(&(*b as f64)),
            (Val::Uint(a), Val::Double(b)) => (*a as f64).partial_cmp(b),
            (Val::Double(a), Val::Uint(b)) => a.partial_cmp(&(*b as f64)),
            (Val::Str(a), Val::Str(b)) => Some((**a).cmp(&**b)),
            (Val::Bytes(a), Val::Bytes(b)) => Some(a.cmp(b)),
            (Val::Bool(a), Val::Bool(b)) => Some(a.cmp(b)),
            (Val::Duration(a), Val::Duration(b)) => Some(a.cmp(b)),
            (Val::Timestamp(a), Val::Timestamp(b)) => Some(a.cmp(b)),
            (Val::Opaque(a), Val::Opaque(b)) => a.compare(b),
            _ => None,
        }
    }

    /// How much work it is to look at all of it: its text's length, its items.
    pub fn weight(&self) -> u64 {
        match self {
            Val::Str(text) => text.len() as u64 / 10,
            Val::Bytes(bytes) => bytes.len() as u64 / 10,
            Val::List(list) => list.len() as u64,
            Val::Map(map) => map.len() as u64,
            _ => 0,
        }
    }
}

impl<'a> List<'a> {
    /// How many items.
    pub fn len(&self) -> usize {
        match self {
            List::Json(items, _) => items.len(),
            List::Own(items) => items.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// An item.
    pub fn get(&self, at: usize) -> Option<Val<'a>> {
        match self {
            List::Json(items, of) => items.get(at).map(|item| Val::of(item, of)),
            List::Own(items) => items.get(at).cloned(),
        }
    }

    /// The items.
    pub fn iter(&self) -> impl Iterator<Item = Val<'a>> + '_ {
        (0..self.len()).filter_map(|at| self.get(at))
    }
}

impl<'a> Map<'a> {
    /// How many entries.
    pub fn len(&self) -> usize {
        match self {
            Map::Json(map, _) => map.len(),
            Map::Object(map, object) => object.fields.values().filter(|field| map.contains_key(&field.json)).count(),
            Map::Own(map) | Map::Made(_, map) => map.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The value of a text key.
    pub fn get_str(&self, key: &str) -> Option<Val<'a>> {
        match self {
            Map::Json(map, of) => map.get(key).map(|value| Val::of(value, of)),
            Map::Object(map, object) => {
                let field = object.fields.get(key)?;
                map.get(&field.json).map(|value| Val::of(value, &field.ty))
            }
            Map::Own(map) | Map::Made(_, map) => map.get(&Key::Str(Arc::from(key))).cloned(),
        }
    }

    /// The value of a key.
    pub fn get(&self, key: &Key) -> Option<Val<'a>> {
        match (self, key) {
            (_, Key::Str(text)) => self.get_str(text),
            (Map::Own(map), key) => {
                let other = match key {
                    Key::Int(i) => u64::try_from(*i).ok().map(Key::Uint),
                    Key::Uint(u) => i64::try_from(*u).ok().map(Key::Int),
                    _ => None,
                };
                map.get(key).or_else(|| map.get(&other?)).cloned()
            }
            _ => None,
        }
    }

    /// The entries.
    pub fn entries(&self) -> Box<dyn Iterator<Item = (Key, Val<'a>)> + '_> {
        match self {
            Map::Json(map, of) => {
                Box::new(map.iter().map(|(key, value)| (Key::Str(Arc::from(key.as_str())), Val::of(value, of))))
            }
            Map::Object(map, object) => Box::new(object.fields.iter().filter_map(|(name, field)| {
                map.get(&field.json).map(|value| (Key::Str(Arc::from(name.as_str())), Val::of(value, &field.ty)))
            })),
            Map::Own(map) | Map::Made(_, map) => Box::new(map.iter().map(|(key, value)| (key.clone(), value.clone()))),
        }
    }
}

impl Key {
    /// The key a value is; none if it can be no key.
    pub fn of(value: &Val<'_>) -> Option<Key> {
        Some(match value {
            Val::Bool(b) => Key::Bool(*b),
            Val::Int(i) => Key::Int(*i),
            Val::Uint(u) => Key::Uint(*u),
            Val::Double(d) if d.fract() == 0.0 => Key::Int(*d as i64),
            Val::Str(text) => Key::Str(Arc::from(&**text)),
            _ => return None,
        })
    }

    /// The key as a value.
    pub fn value<'a>(&self) -> Val<'a> {
        match self {
            Key::Bool(b) => Val::Bool(*b),
            Key::Int(i) => Val::Int(*i),
            Key::Uint(u) => Val::Uint(*u),
            Key::Str(text) => Val::Str(Text::Own(Arc::clone(text))),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Key::Bool(b) => write!(f, "{b}"),
            Key::Int(i) => write!(f, "{i}"),
            Key::Uint(u) => write!(f, "{u}"),
            Key::Str(text) => f.write_str(text),
        }
    }
}

/// Reads a duration of Go's form: `1h30m`.
pub fn duration(text: &str) -> Option<SignedDuration> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(SignedDuration::ZERO);
    }
    if rest.is_empty() {
        return None;
    }
    let mut nanos = 0f64;
    let mut whole: i128 = 0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number = &rest[..digits];
        rest = &rest[digits..];
        let units = [
            ("ns", 1i128),
            ("us", 1_000),
            ("µs", 1_000),
            ("μs", 1_000),
            ("ms", 1_000_000),
            ("s", 1_000_000_000),
            ("m", 60_000_000_000),
            ("h", 3_600_000_000_000),
        ];
        let (unit, factor) =
            units.iter().filter(|(unit, _)| rest.starts_with(unit)).max_by_key(|(unit, _)| unit.len())?;
        rest = &rest[unit.len()..];
        match number.parse::<i64>() {
            Ok(number) => whole = whole.checked_add(i128::from(number).checked_mul(*factor)?)?,
            Err(_) => nanos += number.parse::<f64>().ok()? * (*factor as f64),
        }
    }
    let total = whole.checked_add(nanos as i128)?;
    let total = i64::try_from(if negative { -total } else { total }).ok()?;
    Some(SignedDuration::from_nanos(total))
}

/// A duration as `string()` writes it: in seconds.
pub fn duration_text(duration: SignedDuration) -> String {
    let nanos = duration.as_nanos();
    let (seconds, rest) = (nanos / 1_000_000_000, (nanos % 1_000_000_000).unsigned_abs());
    if rest == 0 {
        return format!("{seconds}s");
    }
    let sign = if nanos < 0 && seconds == 0 { "-" } else { "" };
    let fraction = format!("{rest:09}");
    format!("{sign}{seconds}.{}s", fraction.trim_end_matches('0'))
}

/// Reads a time of RFC 3339, or a date.
pub fn timestamp(text: &str) -> Option<Timestamp> {
    if text.len() == 10 {
        return format!("{text}T00:00:00Z").parse().ok();
    }
    text.parse().ok()
}

//! Messages as JSON documents.
//!
//! Go writes a field that is no pointer even when it is zero, and JSON leaves it out; the wire does not say which fields
//! are pointers, the schema's table does.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::{MAGIC, ProtobufError, Result};
use crate::schema::{SchemaRef, SchemaSet, TypeKind};

/// How deep JSON may nest that is made of a message: what is stored must be read again, for which 128 is the limit, and
/// lists and watch events lie around it.
const DEPTH_MAX: usize = 120;

/// An envelope's content.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Envelope<'a> {
    /// The object's `apiVersion`, if told.
    pub api_version: &'a str,
    /// The object's `kind`, if told.
    pub kind: &'a str,
    /// The object's message.
    pub raw: &'a [u8],
}

/// Takes the envelope off a body.
pub fn envelope(body: &[u8]) -> Result<Envelope<'_>> {
    let mut reader = Reader(body.strip_prefix(MAGIC).ok_or(ProtobufError::Prefix)?);
    let mut envelope = Envelope::default();
    while let Some((number, wire)) = reader.next()? {
        match (number, wire) {
            (1, Wire::Bytes(meta)) => {
                let mut meta = Reader(meta);
                while let Some((number, wire)) = meta.next()? {
                    match (number, wire) {
                        (1, Wire::Bytes(bytes)) => envelope.api_version = text("apiVersion", bytes)?,
                        (2, Wire::Bytes(bytes)) => envelope.kind = text("kind", bytes)?,
                        _ => {}
                    }
                }
            }
            (2, Wire::Bytes(raw)) => envelope.raw = raw,
            _ => {}
        }
    }
    Ok(envelope)
}

/// Reads the message of a struct as the JSON document of the same object. Fields that the schema does not know are
/// dropped, as Go drops them.
pub fn message(schema: SchemaRef<'_>, bytes: &[u8]) -> Result<Value> {
    Ok(Value::Object(object(schema, bytes, DEPTH_MAX)?))
}

/// A field's value as it stands on the wire.
enum Wire<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    Fixed32,
}

impl Wire<'_> {
    fn number(&self) -> u8 {
        match self {
            Wire::Varint(_) => 0,
            Wire::Fixed64(_) => 1,
            Wire::Bytes(_) => 2,
            Wire::Fixed32 => 5,
        }
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<Option<(u64, Wire<'a>)>> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let wire = match tag & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => Wire::Fixed64(u64::from_le_bytes(self.array()?)),
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| ProtobufError::Truncated)?;
                Wire::Bytes(self.take(length)?)
            }
            5 => {
                self.array::<4>()?;
                Wire::Fixed32
            }
            other => return Err(ProtobufError::WireType(other as u8, format!("#{}", tag >> 3))),
        };
        Ok(Some((tag >> 3, wire)))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(ProtobufError::Truncated)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn varint(&mut self) -> Result<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let [byte] = self.array()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(ProtobufError::Overflow)
    }
}

fn text<'a>(field: &str, bytes: &'a [u8]) -> Result<&'a str> {
    std::str::from_utf8(bytes).map_err(|_| ProtobufError::Content(field.to_owned(), "UTF-8 text"))
}

fn object(schema: SchemaRef<'_>, bytes: &[u8], depth: usize) -> Result<Map<String, Value>> {
    let mut map = Map::new();
    fields(&mut map, schema, [0, 0], bytes, depth.checked_sub(1).ok_or(ProtobufError::Depth)?)?;
    Ok(map)
}

/// Adds the fields of a message that is inlined at this path, and those of the messages that are inlined in it: a Go
/// struct that JSON inlines is a message of its own here.
fn fields(
    map: &mut Map<String, Value>,
    schema: SchemaRef<'_>,
    inlined: [u8; 2],
    bytes: &[u8],
    depth: usize,
) -> Result<()> {
    let mut reader = Reader(bytes);
    while let Some((number, wire)) = reader.next()? {
        let own = schema.proto_fields().find(|field| field.inlined == inlined && u64::from(field.number) == number);
        if let Some(field) = own.filter(|field| field.number != 0) {
            put(map, field.name, field.schema, wire, depth)?;
        } else if let (Wire::Bytes(inner), [0, outer], Ok(number @ 1..)) = (wire, inlined, u8::try_from(number)) {
            let path = [outer, number];
            let path = if outer == 0 { [0, number] } else { path };
            if schema.proto_fields().any(|field| field.inlined == path || field.inlined[0] == number && outer == 0) {
                fields(map, schema, path, inner, depth)?;
            }
        }
    }
    Ok(())
}

/// Adds a field's value to what there is of it.
fn put(map: &mut Map<String, Value>, name: &str, schema: SchemaRef<'_>, wire: Wire<'_>, depth: usize) -> Result<()> {
    match schema.kind() {
        TypeKind::Array => {
            let depth = depth.checked_sub(1).ok_or(ProtobufError::Depth)?;
            let Some(items) = schema.items() else { return Ok(()) };
            let list = map.entry(name).or_insert_with(|| Value::Array(Vec::new()));
            let Value::Array(list) = list else { return Ok(()) };
            match wire {
                Wire::Bytes(bytes) if schema.wire_items() => *list = wrapped_items(name, items, bytes, depth)?,
                Wire::Bytes(mut packed) if matches!(items.kind(), TypeKind::Integer | TypeKind::Boolean) => {
                    while !packed.is_empty() {
                        let mut reader = Reader(packed);
                        let number = reader.varint()?;
                        packed = reader.0;
                        list.extend(single(name, items, Wire::Varint(number), depth)?);
                    }
                }
                wire => list.push(single(name, items, wire, depth)?.unwrap_or(Value::Null)),
            }
        }
        TypeKind::Map => {
            let depth = depth.checked_sub(1).ok_or(ProtobufError::Depth)?;
            let (Some(values), Wire::Bytes(entry)) = (schema.values(), wire) else { return Ok(()) };
            let (key, value) = entry_of(name, values, schema.wire_items(), entry, depth)?;
            if let Value::Object(entries) = map.entry(name).or_insert_with(|| Value::Object(Map::new())) {
                entries.insert(key, value);
            }
        }
        _ => {
            if let Some(value) = single(name, schema, wire, depth)?
                && (schema.zero_is_kept() || schema.kind() == TypeKind::Any || !is_zero(&value))
            {
                map.insert(name.to_owned(), value);
            }
        }
    }
    Ok(())
}

fn wrapped_items(name: &str, items: SchemaRef<'_>, bytes: &[u8], depth: usize) -> Result<Vec<Value>> {
    let mut list = Vec::new();
    let mut reader = Reader(bytes);
    while let Some((number, wire)) = reader.next()? {
        if number == 1 {
            list.extend(single(name, items, wire, depth)?);
        }
    }
    Ok(list)
}

fn entry_of(
    name: &str,
    values: SchemaRef<'_>,
    wire_items: bool,
    entry: &[u8],
    depth: usize,
) -> Result<(String, Value)> {
    let (mut key, mut value) = (String::new(), None);
    let mut reader = Reader(entry);
    while let Some((number, wire)) = reader.next()? {
        match (number, wire) {
            (1, Wire::Bytes(bytes)) => text(name, bytes)?.clone_into(&mut key),
            (2, Wire::Bytes(bytes)) if wire_items => {
                let depth = depth.checked_sub(1).ok_or(ProtobufError::Depth)?;
                let items = values.items().map(|items| wrapped_items(name, items, bytes, depth)).transpose()?;
                value = items.map(Value::Array);
            }
            (2, wire) => value = single(name, values, wire, depth)?,
            _ => {}
        }
    }
    // An entry without a value is one with the zero.
    let zero = || match values.kind() {
        TypeKind::String => Value::from(""),
        TypeKind::Integer | TypeKind::Number => Value::from(0),
        TypeKind::Boolean => Value::from(false),
        TypeKind::Array => Value::Array(Vec::new()),
        _ => Value::Object(Map::new()),
    };
    Ok((key, value.unwrap_or_else(zero)))
}

/// One value; `None` for one that JSON would show as null.
fn single(name: &str, schema: SchemaRef<'_>, wire: Wire<'_>, depth: usize) -> Result<Option<Value>> {
    let wrong = |wire: &Wire<'_>| ProtobufError::WireType(wire.number(), name.to_owned());
    Ok(Some(match (schema.kind(), wire) {
        (TypeKind::Object, Wire::Bytes(bytes)) => Value::Object(object(schema, bytes, depth)?),
        (TypeKind::String, Wire::Bytes(bytes)) => match schema.format() {
            Some("byte") => STANDARD.encode(bytes).into(),
            Some("quantity") => Parts::of(bytes)?.text(name, 1)?.into(),
            Some(format @ ("date-time" | "micro-time")) => return time(name, bytes, format == "micro-time"),
            _ => text(name, bytes)?.into(),
        },
        // An int32 is on the wire as the int64 of the same value.
        (TypeKind::Integer, Wire::Varint(number)) => (number as i64).into(),
        (TypeKind::Number, Wire::Fixed64(bits)) => float(f64::from_bits(bits)),
        (TypeKind::Boolean, Wire::Varint(number)) => (number != 0).into(),
        (TypeKind::IntOrString, Wire::Bytes(bytes)) => {
            let parts = Parts::of(bytes)?;
            if parts.number(1) == 0 { parts.number(2).into() } else { parts.text(name, 3)?.into() }
        }
        (TypeKind::Any, Wire::Bytes(bytes)) => return any(name, schema, bytes, depth),
        (_, wire) => return Err(wrong(&wire)),
    }))
}

/// A number that is whole is written as such, as Go writes it.
fn float(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 9.0e15 { (value as i64).into() } else { value.into() }
}

/// A value without a schema of its own: JSON in a message, or one of the types of OpenAPI schemas that are several.
fn any(name: &str, schema: SchemaRef<'_>, bytes: &[u8], depth: usize) -> Result<Option<Value>> {
    let parts = Parts::of(bytes)?;
    let nested = |bytes: &[u8], depth| {
        object(super::frame::json_schema_props(SchemaSet::builtin()), bytes, depth).map(Value::Object)
    };
    let depth_of_items = depth.checked_sub(1).ok_or(ProtobufError::Depth)?;
    let value = match schema.format() {
        Some("schema-or-array") => match parts.all(2) {
            schemas if schemas.is_empty() => nested(parts.bytes(1), depth)?,
            schemas => schemas.into_iter().map(|bytes| nested(bytes, depth_of_items)).collect::<Result<_>>()?,
        },
        Some("schema-or-bool") => match parts.all(2).last() {
            Some(bytes) => nested(bytes, depth)?,
            None => (parts.number(1) != 0).into(),
        },
        Some("schema-or-names") => match parts.all(1).last() {
            Some(bytes) => nested(bytes, depth)?,
            None => parts.all(2).into_iter().map(|bytes| text(name, bytes)).collect::<Result<_>>()?,
        },
        _ => match parts.bytes(1) {
            [] => return Ok(None),
            json => {
                let value: Value =
                    serde_json::from_slice(json).map_err(|_| ProtobufError::Content(name.to_owned(), "JSON"))?;
                check_depth(&value, depth)?;
                value
            }
        },
    };
    Ok(Some(value))
}

fn check_depth(value: &Value, depth: usize) -> Result<()> {
    match value {
        Value::Array(_) | Value::Object(_) if depth == 0 => Err(ProtobufError::Depth),
        Value::Array(items) => items.iter().try_for_each(|item| check_depth(item, depth - 1)),
        Value::Object(map) => map.values().try_for_each(|value| check_depth(value, depth - 1)),
        _ => Ok(()),
    }
}

/// The fields of a small message, by number.
struct Parts<'a>(Vec<(u64, Wire<'a>)>);

impl<'a> Parts<'a> {
    fn of(bytes: &'a [u8]) -> Result<Self> {
        let mut reader = Reader(bytes);
        let mut parts = Vec::new();
        while let Some(part) = reader.next()? {
            parts.push(part);
        }
        Ok(Self(parts))
    }

    fn number(&self, wanted: u64) -> i64 {
        let number = |(number, wire): &(u64, Wire<'a>)| match wire {
            Wire::Varint(value) if *number == wanted => Some(*value as i64),
            _ => None,
        };
        self.0.iter().rev().find_map(number).unwrap_or(0)
    }

    fn bytes(&self, wanted: u64) -> &'a [u8] {
        let bytes = |(number, wire): &(u64, Wire<'a>)| match wire {
            Wire::Bytes(bytes) if *number == wanted => Some(*bytes),
            _ => None,
        };
        self.0.iter().rev().find_map(bytes).unwrap_or_default()
    }

    fn all(&self, wanted: u64) -> Vec<&'a [u8]> {
        let bytes = |(number, wire): &(u64, Wire<'a>)| match wire {
            Wire::Bytes(bytes) if *number == wanted => Some(*bytes),
            _ => None,
        };
        self.0.iter().filter_map(bytes).collect()
    }

    fn text(&self, name: &str, wanted: u64) -> Result<&'a str> {
        text(name, self.bytes(wanted))
    }
}

/// A `Timestamp` message; the zero time, which is an empty one, is null.
fn time(name: &str, bytes: &[u8], micro: bool) -> Result<Option<Value>> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let parts = Parts::of(bytes)?;
    let (seconds, nanos) = (parts.number(1), parts.number(2));
    let wrong = || ProtobufError::Content(name.to_owned(), "time");
    let nanos = i32::try_from(nanos).map_err(|_| wrong())?;
    let time = Timestamp::new(seconds, nanos).map_err(|_| wrong())?;
    let format = if micro { "%Y-%m-%dT%H:%M:%S.%6fZ" } else { "%Y-%m-%dT%H:%M:%SZ" };
    Ok(Some(time.strftime(format).to_string().into()))
}

/// Whether Go leaves a value out that is no pointer.
fn is_zero(value: &Value) -> bool {
    match value {
        Value::String(text) => text.is_empty(),
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::Bool(set) => !set,
        _ => false,
    }
}

//! JSON documents as messages, without a document in between: the parser's events become fields.
//!
//! A message that lies in another is written in place; its length goes before it once it is known.

use std::borrow::Cow;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::{ProtobufError, Result};
use crate::schema::{SchemaRef, SchemaSet, TypeKind};

/// Writes the message of a struct from the JSON document of the same object. What the schema does not know, and nulls,
/// are left out.
pub fn encode(schema: SchemaRef<'_>, json: &[u8], out: &mut Vec<u8>) -> Result<()> {
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    Struct { schema, out }
        .deserialize(&mut deserializer)
        .and_then(|()| deserializer.end())
        .map_err(|error| ProtobufError::Object(error.to_string()))
}

pub(super) const VARINT: u64 = 0;
const FIXED64: u64 = 1;
pub(super) const BYTES: u64 = 2;

pub(super) fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub(super) fn tag(out: &mut Vec<u8>, number: u16, wire: u64) {
    varint(out, u64::from(number) << 3 | wire);
}

pub(super) fn number(out: &mut Vec<u8>, field: u16, value: i64) {
    tag(out, field, VARINT);
    varint(out, value as u64);
}

pub(super) fn bytes(out: &mut Vec<u8>, field: u16, value: &[u8]) {
    tag(out, field, BYTES);
    varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

/// A message in a field: what `write` writes, with its length before it.
pub(super) fn nested<E>(
    out: &mut Vec<u8>,
    field: u16,
    write: impl FnOnce(&mut Vec<u8>) -> std::result::Result<(), E>,
) -> std::result::Result<(), E> {
    tag(out, field, BYTES);
    let start = out.len();
    out.push(0);
    write(out)?;
    let length = out.len() - start - 1;
    if length < 0x80 {
        out[start] = length as u8;
    } else {
        let mut prefix = Vec::with_capacity(10);
        varint(&mut prefix, length as u64);
        out.splice(start..=start, prefix);
    }
    Ok(())
}

/// A struct's fields.
struct Struct<'o, 's> {
    schema: SchemaRef<'s>,
    out: &'o mut Vec<u8>,
}

impl<'de> DeserializeSeed<'de> for Struct<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> std::result::Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Struct<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> std::result::Result<(), A::Error> {
        // Structs that JSON inlines are messages of their own, whose fields may stand anywhere in the document.
        let mut inlined: Vec<([u8; 2], Vec<u8>)> = Vec::new();
        while let Some(key) = entries.next_key_seed(Key)? {
            let Some(field) = self.schema.proto_field(&key).filter(|field| field.number != 0) else {
                entries.next_value::<IgnoredAny>()?;
                continue;
            };
            let out = if field.inlined == [0, 0] {
                &mut *self.out
            } else {
                let at = inlined.iter().position(|(path, _)| *path == field.inlined).unwrap_or_else(|| {
                    inlined.push((field.inlined, Vec::new()));
                    inlined.len() - 1
                });
                &mut inlined[at].1
            };
            entries.next_value_seed(Field { number: field.number, schema: field.schema, wire_items: false, out })?;
        }
        write_inlined(self.out, inlined);
        Ok(())
    }
}

/// The messages of inlined structs; one that is inlined from another inlined one goes into that one's message.
fn write_inlined(out: &mut Vec<u8>, mut inlined: Vec<([u8; 2], Vec<u8>)>) {
    while let Some(at) = inlined.iter().position(|([outer, _], _)| *outer != 0) {
        let ([outer, inner], message) = inlined.swap_remove(at);
        let path = [0, outer];
        let into = inlined.iter().position(|(other, _)| *other == path).unwrap_or_else(|| {
            inlined.push((path, Vec::new()));
            inlined.len() - 1
        });
        bytes(&mut inlined[into].1, u16::from(inner), &message);
    }
    for ([_, number], message) in inlined {
        bytes(out, u16::from(number), &message);
    }
}

/// A key of an object.
struct Key;

impl<'de> DeserializeSeed<'de> for Key {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> std::result::Result<Cow<'de, str>, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Key {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_borrowed_str<E>(self, key: &'de str) -> std::result::Result<Cow<'de, str>, E> {
        Ok(Cow::Borrowed(key))
    }

    fn visit_str<E>(self, key: &str) -> std::result::Result<Cow<'de, str>, E> {
        Ok(Cow::Owned(key.to_owned()))
    }
}

/// A field: its tag and value, as often as a list has items.
struct Field<'o, 's> {
    number: u16,
    schema: SchemaRef<'s>,
    /// This list is a message of `items`, as is told where the map stands whose value it is.
    wire_items: bool,
    out: &'o mut Vec<u8>,
}

impl<'de> DeserializeSeed<'de> for Field<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> std::result::Result<(), D::Error> {
        if self.schema.kind() == TypeKind::Any && !self.is_variant() {
            let raw = <&RawValue>::deserialize(deserializer)?;
            return match raw.get() {
                "null" => Ok(()),
                json => nested(self.out, self.number, |out| {
                    bytes(out, 1, json.as_bytes());
                    Ok(())
                }),
            };
        }
        deserializer.deserialize_any(self)
    }
}

impl<'o, 's> Field<'o, 's> {
    /// Whether this is one of the types of OpenAPI schemas that have a message of alternatives.
    fn is_variant(&self) -> bool {
        self.schema.format().is_some_and(|format| format.starts_with("schema-or-"))
    }

    /// The OpenAPI schema that a variant may be.
    fn variant_schema(&self) -> SchemaRef<'static> {
        super::frame::json_schema_props(SchemaSet::builtin())
    }

    fn integer<E: serde::de::Error>(self, value: i64) -> std::result::Result<(), E> {
        match (self.schema.kind(), self.schema.format()) {
            (TypeKind::Integer, _) => number(self.out, self.number, value),
            (TypeKind::Number, _) => double(self.out, self.number, value as f64),
            (TypeKind::IntOrString, _) => int_or_string(self.out, self.number, value, ""),
            (TypeKind::String, Some("quantity")) => quantity(self.out, self.number, &value.to_string()),
            _ => return Err(E::custom("a number stands where none belongs")),
        }
        Ok(())
    }
}

fn double(out: &mut Vec<u8>, field: u16, value: f64) {
    tag(out, field, FIXED64);
    out.extend_from_slice(&value.to_bits().to_le_bytes());
}

fn quantity(out: &mut Vec<u8>, field: u16, text: &str) {
    tag(out, field, BYTES);
    // A quantity is shorter than what needs two bytes of length, twice over; a longer one is written all the same.
    let mut message = Vec::with_capacity(text.len() + 2);
    bytes(&mut message, 1, text.as_bytes());
    varint(out, message.len() as u64);
    out.extend_from_slice(&message);
}

fn int_or_string(out: &mut Vec<u8>, field: u16, int: i64, text: &str) {
    let Ok(()) = nested::<std::convert::Infallible>(out, field, |out| {
        number(out, 1, i64::from(!text.is_empty()));
        number(out, 2, int);
        bytes(out, 3, text.as_bytes());
        Ok(())
    });
}

fn time<E: serde::de::Error>(out: &mut Vec<u8>, field: u16, text: &str, micro: bool) -> std::result::Result<(), E> {
    let time: Timestamp = text.parse().map_err(|_| E::custom("a time is none"))?;
    nested(out, field, |out| {
        number(out, 1, time.as_nanosecond().div_euclid(1_000_000_000) as i64);
        let nanos = time.as_nanosecond().rem_euclid(1_000_000_000) as i64;
        number(out, 2, if micro { nanos / 1000 * 1000 } else { 0 });
        Ok(())
    })
}

impl<'de> Visitor<'de> for Field<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a value of {:?}", self.schema)
    }

    fn visit_unit<E>(self) -> std::result::Result<(), E> {
        Ok(())
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> std::result::Result<(), E> {
        match self.schema.kind() {
            TypeKind::Boolean => number(self.out, self.number, i64::from(value)),
            TypeKind::Any => nested(self.out, self.number, |out| {
                number(out, 1, i64::from(value));
                Ok(())
            })?,
            _ => return Err(E::custom("a truth value stands where none belongs")),
        }
        Ok(())
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> std::result::Result<(), E> {
        self.integer(value)
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> std::result::Result<(), E> {
        match i64::try_from(value) {
            Ok(value) => self.integer(value),
            Err(_) => self.visit_f64(value as f64),
        }
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> std::result::Result<(), E> {
        match (self.schema.kind(), self.schema.format()) {
            (TypeKind::Number, _) => double(self.out, self.number, value),
            (TypeKind::String, Some("quantity")) => quantity(self.out, self.number, &value.to_string()),
            _ if value.fract() == 0.0 && value.abs() < 9.0e15 => return self.integer(value as i64),
            _ => return Err(E::custom("a number with a fraction stands where none belongs")),
        }
        Ok(())
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> std::result::Result<(), E> {
        match (self.schema.kind(), self.schema.format()) {
            (TypeKind::String, Some("byte")) => {
                let decoded = STANDARD.decode(value).map_err(|_| E::custom("base64 is none"))?;
                bytes(self.out, self.number, &decoded);
            }
            (TypeKind::String, Some("quantity")) => quantity(self.out, self.number, value),
            (TypeKind::String, Some("date-time")) => time(self.out, self.number, value, false)?,
            (TypeKind::String, Some("micro-time")) => time(self.out, self.number, value, true)?,
            (TypeKind::String, _) => bytes(self.out, self.number, value.as_bytes()),
            (TypeKind::IntOrString, _) => nested(self.out, self.number, |out| {
                number(out, 1, 1);
                number(out, 2, 0);
                bytes(out, 3, value.as_bytes());
                Ok(())
            })?,
            _ => return Err(E::custom("text stands where none belongs")),
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> std::result::Result<(), A::Error> {
        if self.is_variant() {
            // Names, or schemas, of which there is a list of their own.
            let names = self.schema.format() == Some("schema-or-names");
            let schema = self.variant_schema();
            return nested(self.out, self.number, |out| {
                loop {
                    let more = if names {
                        list.next_element_seed(Name(out))?
                    } else {
                        list.next_element_seed(Nested { number: 2, schema, out })?
                    };
                    if more.is_none() {
                        return Ok(());
                    }
                }
            });
        }
        let Some(items) = self.schema.items() else {
            return Err(A::Error::custom("a list stands where none belongs"));
        };
        let mut write = |number, out: &mut Vec<u8>| {
            while list.next_element_seed(Field { number, schema: items, wire_items: false, out: &mut *out })?.is_some()
            {
            }
            Ok(())
        };
        if self.wire_items || self.schema.wire_items() {
            return nested(self.out, self.number, |out| write(1, out));
        }
        write(self.number, self.out)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> std::result::Result<(), A::Error> {
        match self.schema.kind() {
            TypeKind::Object => {
                let schema = self.schema;
                nested(self.out, self.number, |out| Struct { schema, out }.visit_map(entries))
            }
            TypeKind::Map => {
                let Some(values) = self.schema.values() else { return Ok(()) };
                let wire_items = self.schema.wire_items();
                while let Some(key) = entries.next_key_seed(Key)? {
                    nested(self.out, self.number, |out| {
                        bytes(out, 1, key.as_bytes());
                        entries.next_value_seed(Field { number: 2, schema: values, wire_items, out })
                    })?;
                }
                Ok(())
            }
            TypeKind::Any => {
                let or_bool = self.schema.format() == Some("schema-or-bool");
                let schema = self.variant_schema();
                nested(self.out, self.number, |out| {
                    if or_bool {
                        number(out, 1, 1);
                    }
                    let field = if or_bool { 2 } else { 1 };
                    nested(out, field, |out| Struct { schema, out }.visit_map(entries))
                })
            }
            _ => Err(A::Error::custom("an object stands where none belongs")),
        }
    }
}

/// A struct in a field.
struct Nested<'o, 's> {
    number: u16,
    schema: SchemaRef<'s>,
    out: &'o mut Vec<u8>,
}

impl<'de> DeserializeSeed<'de> for Nested<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> std::result::Result<(), D::Error> {
        let schema = self.schema;
        nested(self.out, self.number, |out| Struct { schema, out }.deserialize(deserializer))
    }
}

/// A name among those that a schema depends on.
struct Name<'o>(&'o mut Vec<u8>);

impl<'de> DeserializeSeed<'de> for Name<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> std::result::Result<(), D::Error> {
        let name = Key.deserialize(deserializer)?;
        bytes(self.0, 2, name.as_bytes());
        Ok(())
    }
}

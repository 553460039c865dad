//! Reads `application/vnd.kubernetes.protobuf` bodies, which typed Go clients send for built-in kinds.
//!
//! In: an envelope (`k8s\0` and a `runtime.Unknown`) or the message in it, and the schema, whose table carries the field
//! numbers. Out: the JSON document that the same Go object would be. One walker for all kinds.
//!
//! Go writes a field that is no pointer even when it is zero, and JSON leaves it out; the wire does not say which fields
//! are pointers. [`keeps_zero`] knows.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::schema::{SchemaRef, TypeKind};

/// What every body begins with.
const MAGIC: &[u8] = b"k8s\0";
/// How deep messages may lie in each other; Kubernetes' own types need less than half.
const DEPTH_MAX: usize = 64;

/// Why a body cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProtobufError {
    /// It does not begin as such bodies do.
    #[error("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")]
    Prefix,
    /// It ends in the middle of something.
    #[error("unexpected EOF")]
    Truncated,
    /// A number of more than 64 bits.
    #[error("integer overflow")]
    Overflow,
    /// A field that is written in another way than its type is.
    #[error("wrong wireType = {0} for field {1}")]
    WireType(u8, String),
    /// Text that is not UTF-8, a time out of range, JSON that is none.
    #[error("field {0} holds no {1}")]
    Content(String, &'static str),
    /// Messages in messages in messages.
    #[error("nested too deeply")]
    Depth,
}

type Result<T> = std::result::Result<T, ProtobufError>;

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
    let depth = depth.checked_sub(1).ok_or(ProtobufError::Depth)?;
    let mut map = Map::new();
    let mut reader = Reader(bytes);
    while let Some((number, wire)) = reader.next()? {
        let own = schema
            .proto_fields()
            .find(|field| field.number == (0, field.number.1) && u64::from(field.number.1) == number);
        if let Some(field) = own {
            put(&mut map, schema, field.name, field.schema, wire, depth)?;
        } else if let Wire::Bytes(inlined) = wire {
            // A Go struct that JSON inlines is a message of its own here.
            let mut inlined = Reader(inlined);
            while let Some((inner, wire)) = inlined.next()? {
                let found = schema
                    .proto_fields()
                    .find(|field| (u64::from(field.number.0), u64::from(field.number.1)) == (number, inner));
                if let Some(field) = found {
                    put(&mut map, schema, field.name, field.schema, wire, depth)?;
                }
            }
        }
    }
    Ok(map)
}

/// Adds a field's value to what there is of it.
fn put(
    map: &mut Map<String, Value>,
    owner: SchemaRef<'_>,
    name: &str,
    schema: SchemaRef<'_>,
    wire: Wire<'_>,
    depth: usize,
) -> Result<()> {
    match schema.kind() {
        TypeKind::Array => {
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
            let (Some(values), Wire::Bytes(entry)) = (schema.values(), wire) else { return Ok(()) };
            let (key, value) = entry_of(name, values, entry, depth)?;
            if let Value::Object(entries) = map.entry(name).or_insert_with(|| Value::Object(Map::new())) {
                entries.insert(key, value);
            }
        }
        _ => {
            let required = owner.required().iter().any(|field| field == name);
            if let Some(value) = single(name, schema, wire, depth)?
                && (required || keeps_zero(name, &value))
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

fn entry_of(name: &str, values: SchemaRef<'_>, entry: &[u8], depth: usize) -> Result<(String, Value)> {
    let (mut key, mut value) = (String::new(), None);
    let mut reader = Reader(entry);
    while let Some((number, wire)) = reader.next()? {
        match (number, wire) {
            (1, Wire::Bytes(bytes)) => text(name, bytes)?.clone_into(&mut key),
            (2, Wire::Bytes(bytes)) if values.wire_items() => {
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
        (TypeKind::Number, Wire::Fixed64(bits)) => f64::from_bits(bits).into(),
        (TypeKind::Boolean, Wire::Varint(number)) => (number != 0).into(),
        (TypeKind::IntOrString, Wire::Bytes(bytes)) => {
            let parts = Parts::of(bytes)?;
            if parts.number(1) == 0 { parts.number(2).into() } else { parts.text(name, 3)?.into() }
        }
        (TypeKind::Any, Wire::Bytes(bytes)) => {
            let parts = Parts::of(bytes)?;
            match parts.bytes(1) {
                [] => return Ok(None),
                json => serde_json::from_slice(json).map_err(|_| ProtobufError::Content(name.to_owned(), "JSON"))?,
            }
        }
        (_, wire) => return Err(wrong(&wire)),
    }))
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

    fn text(&self, name: &str, wanted: u64) -> Result<&'a str> {
        text(name, self.bytes(wanted))
    }
}

/// A `Timestamp` message; the zero time is null.
fn time(name: &str, bytes: &[u8], micro: bool) -> Result<Option<Value>> {
    let parts = Parts::of(bytes)?;
    let (seconds, nanos) = (parts.number(1), parts.number(2));
    if seconds == 0 && nanos == 0 {
        return Ok(None);
    }
    let wrong = || ProtobufError::Content(name.to_owned(), "time");
    let nanos = i32::try_from(nanos).map_err(|_| wrong())?;
    let time = Timestamp::new(seconds, nanos).map_err(|_| wrong())?;
    let format = if micro { "%Y-%m-%dT%H:%M:%S.%6fZ" } else { "%Y-%m-%dT%H:%M:%SZ" };
    Ok(Some(time.strftime(format).to_string().into()))
}

/// Whether a value says something although it may be zero: Go's type is a pointer. Text and numbers are mostly no
/// pointers, booleans mostly are; the lists hold the others.
fn keeps_zero(name: &str, value: &Value) -> bool {
    const POINTERS: &[&str] = &[
        "activeDeadlineSeconds",
        "backoffLimit",
        "completions",
        "defaultMode",
        "deletionGracePeriodSeconds",
        "expirationSeconds",
        "failedJobsHistoryLimit",
        "fsGroup",
        "gracePeriodSeconds",
        "leaseTransitions",
        "minReplicas",
        "mode",
        "parallelism",
        "partition",
        "priority",
        "progressDeadlineSeconds",
        "revisionHistoryLimit",
        "runAsGroup",
        "runAsUser",
        "storageClassName",
        "successfulJobsHistoryLimit",
        "terminationGracePeriodSeconds",
        "tolerationSeconds",
        "ttlSecondsAfterFinished",
    ];
    const NO_POINTERS: &[&str] = &[
        "hostIPC",
        "hostNetwork",
        "hostPID",
        "nonResourceAttributes",
        "orphanDependents",
        "paused",
        "publishNotReadyAddresses",
        "readOnly",
        "stdin",
        "stdinOnce",
        "tty",
        "unschedulable",
    ];
    // Replicas are wanted ones (a pointer) in every spec; a status that says 0 says no less when it is left out.
    match value {
        Value::String(text) => !text.is_empty() || POINTERS.contains(&name),
        Value::Number(number) => number.as_f64() != Some(0.0) || name == "replicas" || POINTERS.contains(&name),
        Value::Bool(set) => *set || !NO_POINTERS.contains(&name),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::SchemaSet;
    use proptest::prelude::*;
    use serde_json::json;

    /// Writes messages.
    #[derive(Default, Clone)]
    struct Message(Vec<u8>);

    impl Message {
        fn varint(mut self, mut value: u64) -> Self {
            while value >= 0x80 {
                self.0.push(value as u8 | 0x80);
                value >>= 7;
            }
            self.0.push(value as u8);
            self
        }

        fn number(self, field: u64, value: i64) -> Self {
            self.varint(field << 3).varint(value as u64)
        }

        fn bytes(self, field: u64, bytes: impl AsRef<[u8]>) -> Self {
            let bytes = bytes.as_ref();
            let mut message = self.varint(field << 3 | 2).varint(bytes.len() as u64);
            message.0.extend_from_slice(bytes);
            message
        }

        fn part(self, field: u64, part: Message) -> Self {
            self.bytes(field, part.0)
        }
    }

    fn new() -> Message {
        Message::default()
    }

    fn schema(name: &str) -> SchemaRef<'static> {
        SchemaSet::builtin().get(&format!("io.k8s.api.{name}")).unwrap()
    }

    #[test]
    fn a_config_map_is_read_as_its_json_would_be() {
        let entry = new().bytes(1, "k").bytes(2, "v");
        let meta = new().bytes(1, "name").bytes(2, "").bytes(3, "ns").part(8, new());
        let message = new().part(1, meta).part(2, entry).part(3, new().bytes(1, "b").bytes(2, [0xff, 0]));
        let unknown = new().part(1, new().bytes(1, "v1").bytes(2, "ConfigMap")).part(2, message).bytes(3, "");
        let body = [MAGIC, &unknown.0].concat();
        let envelope = envelope(&body).unwrap();
        assert_eq!((envelope.api_version, envelope.kind), ("v1", "ConfigMap"));
        let read = super::message(schema("core.v1.ConfigMap"), envelope.raw).unwrap();
        assert_eq!(
            read,
            json!({"metadata": {"name": "name", "namespace": "ns"}, "data": {"k": "v"}, "binaryData": {"b": "/wA="}})
        );
    }

    #[test]
    fn inlined_structs_lists_and_special_types_are_read() {
        // A volume: name is field 1, its inlined source field 2; emptyDir is the source's field 2.
        let volume = new().bytes(1, "data").part(2, new().part(2, new().bytes(1, "")));
        let port = new().bytes(1, "http").number(2, 0).number(3, 8080).bytes(4, "TCP");
        let limits = new().part(1, new().bytes(1, "cpu").part(2, new().bytes(1, "50m")));
        let container = new().bytes(1, "main").part(6, port).part(8, limits);
        let spec = new().part(1, volume).part(2, container).number(4, 0);
        let read = message(schema("core.v1.PodSpec"), &spec.0).unwrap();
        assert_eq!(
            read,
            json!({
                "volumes": [{"name": "data", "emptyDir": {}}],
                "containers": [{"name": "main", "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}], "resources": {"limits": {"cpu": "50m"}}}],
                "terminationGracePeriodSeconds": 0,
            })
        );
        let port = new().number(3, 80).part(4, new().number(1, 1).number(2, 0).bytes(3, "http"));
        let read = message(schema("core.v1.ServicePort"), &port.0).unwrap();
        assert_eq!(read, json!({"port": 80, "targetPort": "http"}));
        let taint = new().bytes(1, "k").bytes(3, "NoExecute").part(4, new().number(1, 1_700_000_000));
        let read = message(schema("core.v1.Taint"), &taint.0).unwrap();
        assert_eq!(read["timeAdded"], "2023-11-14T22:13:20Z");
    }

    #[test]
    fn broken_bodies_are_errors() {
        assert_eq!(envelope(b"{}"), Err(ProtobufError::Prefix));
        assert_eq!(envelope(b"k8s\0\x12\x05ab"), Err(ProtobufError::Truncated));
        let overlong = [MAGIC, &[0x08], &[0xff; 11]].concat();
        assert_eq!(envelope(&overlong), Err(ProtobufError::Overflow));
        let number_for_text = new().number(1, 3);
        let error = message(schema("core.v1.Taint"), &number_for_text.0).unwrap_err();
        assert_eq!(error, ProtobufError::WireType(0, "key".into()));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = envelope(&[MAGIC, &bytes].concat());
            for name in ["core.v1.Pod", "apps.v1.Deployment", "core.v1.ConfigMap"] {
                let _ = message(schema(name), &bytes);
            }
        }
    }
}

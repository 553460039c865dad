//! One walk over an object: types, unknown fields, nulls and canonical forms; and one that sets defaults.
//!
//! In: a schema and a value. Out of [`clean`]: the value as Go would have decoded and written it (nulls and empty
//! optional lists gone, quantities, times and base64 in canonical form, unknown fields dropped and reported), or the
//! first type error, in the words of Go's JSON decoder. Out of [`default`]: the value with the defaults of absent
//! fields. Both are idempotent.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::{Field, SchemaRef, TypeKind};
use crate::{meta, quantity};

/// How many unknown fields are told; as in Kubernetes.
const UNKNOWN_MAX: usize = 100;

/// How deep an object may nest. Stored bytes are read with a limit of 128, and lists and watch frames add levels.
const DEPTH_MAX: usize = 100;

/// A value that does not fit its schema, in the words of Go's decoder.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TypeError(pub String);

/// Where the walk is: a list on the stack, from the inside out.
struct Path<'p> {
    parent: Option<&'p Path<'p>>,
    segment: Segment<'p>,
}

#[derive(Clone, Copy)]
enum Segment<'p> {
    Field(&'p str),
    Key(&'p str),
    Index(usize),
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            write!(f, "{parent}")?;
        }
        match self.segment {
            Segment::Index(at) => write!(f, "[{at}]"),
            Segment::Field(name) | Segment::Key(name) if self.parent.is_some() => write!(f, ".{name}"),
            Segment::Field(name) | Segment::Key(name) => f.write_str(name),
        }
    }
}

impl Path<'_> {
    /// The path as Go's decoder keeps it: struct fields only.
    fn go_fields(&self) -> String {
        let mut text = self.parent.map(Path::go_fields).unwrap_or_default();
        if let Segment::Field(name) = self.segment {
            if !text.is_empty() {
                text.push('.');
            }
            text.push_str(name);
        }
        text
    }
}

/// Brings a value into the form of its schema. Paths of unknown fields are added to `unknown`.
pub fn clean(schema: SchemaRef<'_>, value: &mut Value, unknown: &mut Vec<String>) -> Result<(), TypeError> {
    if is_deeper(value, DEPTH_MAX) {
        return Err(TypeError("exceeded max depth".to_owned()));
    }
    let mut walker = Walker { unknown };
    walker.value(schema, value, None, "")
}

/// Whether a value nests deeper than `levels`; it looks no deeper than that.
fn is_deeper(value: &Value, levels: usize) -> bool {
    match value {
        Value::Array(_) | Value::Object(_) if levels == 0 => true,
        Value::Array(items) => items.iter().any(|item| is_deeper(item, levels - 1)),
        Value::Object(map) => map.values().any(|entry| is_deeper(entry, levels - 1)),
        _ => false,
    }
}

struct Walker<'u> {
    unknown: &'u mut Vec<String>,
}

impl Walker<'_> {
    /// `owner` is the Go struct whose field this is.
    fn value(
        &mut self,
        schema: SchemaRef<'_>,
        value: &mut Value,
        path: Option<&Path<'_>>,
        owner: &str,
    ) -> Result<(), TypeError> {
        if schema.is_custom() {
            return self.custom(schema, value, path, false);
        }
        match (schema.kind(), &mut *value) {
            (TypeKind::Any, _) => Ok(()),
            (TypeKind::Object, Value::Object(map)) => self.fields(schema, map, path),
            (TypeKind::Map, Value::Object(map)) => {
                let Some(element) = schema.values() else { return Ok(()) };
                for (key, entry) in map.iter_mut() {
                    let here = Path { parent: path, segment: Segment::Key(key) };
                    fill_null(element, entry);
                    self.value(element, entry, Some(&here), owner)?;
                }
                Ok(())
            }
            (TypeKind::Array, Value::Array(items)) => {
                let Some(element) = schema.items() else { return Ok(()) };
                for (at, item) in items.iter_mut().enumerate() {
                    let here = Path { parent: path, segment: Segment::Index(at) };
                    fill_null(element, item);
                    self.value(element, item, Some(&here), owner)?;
                }
                Ok(())
            }
            (TypeKind::Boolean, Value::Bool(_)) => Ok(()),
            (TypeKind::String, _) => text(schema, value, path, owner),
            (TypeKind::Integer, Value::Number(number)) if integer_fits(schema, number) => Ok(()),
            (TypeKind::Number, Value::Number(_)) => Ok(()),
            (TypeKind::IntOrString, Value::String(_)) => Ok(()),
            (TypeKind::IntOrString, Value::Number(number)) if int32(number).is_some() => Ok(()),
            _ => Err(mismatch(schema, value, path, owner)),
        }
    }

    fn fields(
        &mut self,
        schema: SchemaRef<'_>,
        map: &mut Map<String, Value>,
        path: Option<&Path<'_>>,
    ) -> Result<(), TypeError> {
        let name = go_struct(schema);
        let mut failed: Option<TypeError> = None;
        map.retain(|key, entry| {
            if failed.is_some() {
                return true;
            }
            let Some(field) = schema.field(key) else {
                if schema.preserve_unknown() {
                    return true;
                }
                self.tell(&Path { parent: path, segment: Segment::Field(key) });
                return false;
            };
            if entry.is_null() {
                return field.nullable();
            }
            let here = Path { parent: path, segment: Segment::Field(key) };
            if let Err(error) = self.value(field, entry, Some(&here), name) {
                failed = Some(error);
                return true;
            }
            // An empty `managedFields` is a wish of its own: forget who owns what.
            !is_empty_collection(entry, field.kind())
                || key == "managedFields"
                || schema.required().iter().any(|r| r == key)
        });
        failed.map_or(Ok(()), Err)
    }
}

/// Values of custom kinds: only unknown fields go, and nulls where null is no value. What has a wrong type stays for the
/// validation, except in the metadata, which is built in.
impl Walker<'_> {
    /// `keep` is set where unknown fields stay though the schema of this place does not say so: in a list that keeps them.
    fn custom(
        &mut self,
        schema: SchemaRef<'_>,
        value: &mut Value,
        path: Option<&Path<'_>>,
        keep: bool,
    ) -> Result<(), TypeError> {
        let keep = keep || schema.preserve_unknown();
        match (schema.kind(), value) {
            (TypeKind::Object, Value::Object(map)) => self.custom_fields(schema, map, path, keep),
            (TypeKind::Map, Value::Object(map)) => {
                let Some(element) = schema.values() else { return Ok(()) };
                // One with a default is set to it.
                map.retain(|_, entry| !entry.is_null() || element.nullable() || element.default().is_some());
                for (key, entry) in map.iter_mut() {
                    self.custom(element, entry, Some(&Path { parent: path, segment: Segment::Key(key) }), false)?;
                }
                Ok(())
            }
            (TypeKind::Array, Value::Array(items)) => {
                let Some(element) = schema.items() else { return Ok(()) };
                for (at, item) in items.iter_mut().enumerate() {
                    self.custom(element, item, Some(&Path { parent: path, segment: Segment::Index(at) }), keep)?;
                }
                Ok(())
            }
            (_, misplaced) => {
                if !keep {
                    self.forget(misplaced, path);
                }
                Ok(())
            }
        }
    }

    /// Where the schema expects no fields at all, none is known.
    fn forget(&mut self, value: &mut Value, path: Option<&Path<'_>>) {
        match value {
            Value::Object(map) => {
                for key in std::mem::take(map).keys() {
                    self.tell(&Path { parent: path, segment: Segment::Field(key) });
                }
            }
            Value::Array(items) => {
                for (at, item) in items.iter_mut().enumerate() {
                    self.forget(item, Some(&Path { parent: path, segment: Segment::Index(at) }));
                }
            }
            _ => {}
        }
    }

    fn tell(&mut self, unknown: &Path<'_>) {
        if self.unknown.len() < UNKNOWN_MAX {
            self.unknown.push(unknown.to_string());
        }
    }

    fn custom_fields(
        &mut self,
        schema: SchemaRef<'_>,
        map: &mut Map<String, Value>,
        path: Option<&Path<'_>>,
        keep: bool,
    ) -> Result<(), TypeError> {
        let mut failed: Option<TypeError> = None;
        map.retain(|key, entry| {
            if failed.is_some() {
                return true;
            }
            let here = Path { parent: path, segment: Segment::Field(key) };
            let Some(field) = schema.field(key) else {
                if !keep {
                    self.tell(&here);
                }
                return keep;
            };
            if entry.is_null() && !(field.is_custom() && field.nullable()) {
                return false;
            }
            if let Err(error) = self.value(field, entry, Some(&here), "") {
                failed = Some(error);
            }
            true
        });
        failed.map_or(Ok(()), Err)
    }
}

/// Go writes no empty optional list or map.
fn is_empty_collection(value: &Value, kind: TypeKind) -> bool {
    match value {
        Value::Array(items) => kind == TypeKind::Array && items.is_empty(),
        Value::Object(map) => kind == TypeKind::Map && map.is_empty(),
        _ => false,
    }
}

/// A null in a list or map is the element's zero value, as in Go.
fn fill_null(schema: SchemaRef<'_>, value: &mut Value) {
    if !value.is_null() || schema.nullable() {
        return;
    }
    *value = match (schema.kind(), schema.format()) {
        (TypeKind::Object | TypeKind::Map, _) => Value::Object(Map::new()),
        (TypeKind::Array, _) => Value::Array(Vec::new()),
        (TypeKind::String, Some("quantity")) => Value::from("0"),
        (TypeKind::String, _) => Value::from(""),
        (TypeKind::Integer | TypeKind::Number | TypeKind::IntOrString, _) => Value::from(0),
        (TypeKind::Boolean, _) => Value::Bool(false),
        (TypeKind::Any, _) => Value::Null,
    };
}

fn text(schema: SchemaRef<'_>, value: &mut Value, path: Option<&Path<'_>>, owner: &str) -> Result<(), TypeError> {
    match (schema.format(), &mut *value) {
        (Some("quantity"), Value::String(text)) => {
            let canonical = quantity::canonical(text.trim()).map_err(|e| TypeError(e.to_string()))?;
            if canonical != text.as_str() {
                *value = Value::from(canonical.into_owned());
            }
            Ok(())
        }
        (Some("quantity"), Value::Number(number)) => {
            let text = number.to_string();
            let canonical = quantity::canonical(&text).map_err(|e| TypeError(e.to_string()))?;
            *value = Value::from(canonical.into_owned());
            Ok(())
        }
        (Some("date-time"), Value::String(text)) => canonical_time(text, meta::time, "2006-01-02T15:04:05Z07:00"),
        (Some("micro-time"), Value::String(text)) => {
            canonical_time(text, meta::micro_time, "2006-01-02T15:04:05.000000Z07:00")
        }
        (Some("byte"), Value::String(text)) => canonical_base64(text),
        (_, Value::String(_)) => Ok(()),
        _ => Err(mismatch(schema, value, path, owner)),
    }
}

fn canonical_time(text: &mut String, write: fn(Timestamp) -> String, layout: &str) -> Result<(), TypeError> {
    // RFC 3339 wants the `T`, and jiff would also read a space.
    let parsed = text.get(10..11).filter(|t| *t == "T").and_then(|_| text.parse::<Timestamp>().ok());
    let Some(at) = parsed else {
        return Err(TypeError(format!("parsing time {text:?} as \"{layout}\": cannot parse {text:?} as \"2006\"")));
    };
    *text = write(at);
    Ok(())
}

fn canonical_base64(text: &mut String) -> Result<(), TypeError> {
    if text.contains(['\r', '\n']) {
        text.retain(|c| c != '\r' && c != '\n');
    }
    STANDARD.decode(text.as_bytes()).map(drop).map_err(|error| {
        let at = match error {
            base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol(at, _) => at,
            base64::DecodeError::InvalidLength(at) => at,
            base64::DecodeError::InvalidPadding => text.len(),
        };
        TypeError(format!("illegal base64 data at input byte {at}"))
    })
}

fn int32(number: &serde_json::Number) -> Option<i32> {
    number.as_i64().and_then(|n| i32::try_from(n).ok())
}

fn integer_fits(schema: SchemaRef<'_>, number: &serde_json::Number) -> bool {
    if schema.format() == Some("int32") { int32(number).is_some() } else { number.as_i64().is_some() }
}

fn mismatch(schema: SchemaRef<'_>, value: &Value, path: Option<&Path<'_>>, owner: &str) -> TypeError {
    let found = match value {
        Value::Null => "null".to_owned(),
        Value::Bool(_) => "bool".to_owned(),
        Value::Number(n) => match schema.kind() {
            TypeKind::Integer | TypeKind::Number | TypeKind::IntOrString => format!("number {n}"),
            _ => "number".to_owned(),
        },
        Value::String(_) => "string".to_owned(),
        Value::Array(_) => "array".to_owned(),
        Value::Object(_) => "object".to_owned(),
    };
    let wanted = go_type(schema);
    match path {
        Some(path) if !owner.is_empty() => TypeError(format!(
            "json: cannot unmarshal {found} into Go struct field {owner}.{} of type {wanted}",
            path.go_fields()
        )),
        _ => TypeError(format!("json: cannot unmarshal {found} into Go value of type {wanted}")),
    }
}

/// `DeploymentSpec` of `io.k8s.api.apps.v1.DeploymentSpec`.
fn go_struct<'a>(schema: SchemaRef<'a>) -> &'a str {
    schema.type_name().and_then(|name| name.rsplit('.').next()).unwrap_or_default()
}

fn go_type(schema: SchemaRef<'_>) -> String {
    match schema.kind() {
        TypeKind::Object => {
            let name = schema.type_name().unwrap_or("struct");
            let mut last = name.rsplit('.');
            match (last.next(), last.next()) {
                (Some(name), Some(version)) => format!("{version}.{name}"),
                _ => name.to_owned(),
            }
        }
        TypeKind::Map => format!("map[string]{}", schema.values().map(go_type).unwrap_or_default()),
        TypeKind::Array => format!("[]{}", schema.items().map(go_type).unwrap_or_default()),
        TypeKind::String => match schema.format() {
            Some("quantity") => "resource.Quantity".to_owned(),
            Some("byte") => "[]uint8".to_owned(),
            _ => "string".to_owned(),
        },
        TypeKind::Integer => schema.format().unwrap_or("int64").to_owned(),
        TypeKind::Number => "float64".to_owned(),
        TypeKind::Boolean => "bool".to_owned(),
        TypeKind::IntOrString => "int32".to_owned(),
        TypeKind::Any => "interface {}".to_owned(),
    }
}

/// Sets the defaults of absent fields, inside defaults too.
pub fn default(schema: SchemaRef<'_>, value: &mut Value) {
    match value {
        Value::Object(map) => match schema.kind() {
            TypeKind::Object => default_fields(schema, map),
            TypeKind::Map => {
                if let Some(element) = schema.values().filter(|element| element.is_custom() || has_structure(*element))
                {
                    map.values_mut().for_each(|entry| default_element(element, entry));
                }
            }
            _ => {}
        },
        Value::Array(items) => {
            if let Some(element) = schema.items() {
                items.iter_mut().for_each(|item| default_element(element, item));
            }
        }
        _ => {}
    }
}

/// The fields of a struct: both they and the map's keys are sorted, so one pass over both finds what is absent.
fn default_fields(schema: SchemaRef<'_>, map: &mut Map<String, Value>) {
    let set = schema.set();
    let mut absent: Vec<&Field> = Vec::new();
    let mut fields = schema.field_slice().iter().peekable();
    for (key, present) in map.iter_mut() {
        while let Some(field) = fields.next_if(|field| *field.name < **key) {
            absent.extend(Some(field).filter(|field| field.defaulted));
        }
        let Some(field) = fields.next_if(|field| *field.name == **key) else { continue };
        let field = set.at(field.schema);
        match field.default() {
            Some(wanted) if !schema.is_custom() && counts_as_absent(field, present, wanted) => {
                *present = wanted.clone();
            }
            _ => default(field, present),
        }
    }
    absent.extend(fields.filter(|field| field.defaulted));
    for field in absent {
        let schema = set.at(field.schema);
        if let Some(mut made) = schema.default().cloned() {
            default(schema, &mut made);
            map.insert(field.name.to_string(), made);
        }
    }
}

/// One of a list or map: a null that is no value takes the default of a custom schema, if there is one.
fn default_element(schema: SchemaRef<'_>, value: &mut Value) {
    if value.is_null()
        && schema.is_custom()
        && !schema.nullable()
        && let Some(wanted) = schema.default()
    {
        *value = wanted.clone();
    }
    if has_structure(schema) {
        default(schema, value);
    }
}

fn has_structure(schema: SchemaRef<'_>) -> bool {
    matches!(schema.kind(), TypeKind::Object | TypeKind::Map | TypeKind::Array)
}

/// Where Go has no pointer, an empty text or a zero is absence.
fn counts_as_absent(schema: SchemaRef<'_>, present: &Value, wanted: &Value) -> bool {
    match present {
        Value::String(text) => text.is_empty() && wanted.as_str().is_some_and(|w| !w.is_empty()),
        Value::Number(number) => number.as_i64() == Some(0) && schema.zero_is_absent(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::schema::SchemaSet;

    fn schema(name: &str) -> SchemaRef<'static> {
        SchemaSet::builtin().get(&format!("io.k8s.api.{name}")).unwrap()
    }

    fn cleaned(name: &str, mut value: Value) -> (Value, Vec<String>) {
        let mut unknown = Vec::new();
        clean(schema(name), &mut value, &mut unknown).unwrap();
        (value, unknown)
    }

    fn refused(name: &str, mut value: Value) -> String {
        clean(schema(name), &mut value, &mut Vec::new()).unwrap_err().to_string()
    }

    #[test]
    fn unknown_fields_are_dropped_and_told_with_their_paths() {
        let (value, unknown) = cleaned(
            "core.v1.Pod",
            json!({"spec": {"foo": 1, "containers": [{"name": "a"}, {"name": "b", "bar": {"x": 1}}]}}),
        );
        assert_eq!(unknown, ["spec.containers[1].bar", "spec.foo"]);
        assert_eq!(value, json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}]}}));
    }

    #[test]
    fn types_are_refused_in_the_words_of_go() {
        let cases = [
            (
                "apps.v1.Deployment",
                json!({"spec": {"replicas": "three"}}),
                "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32",
            ),
            (
                "apps.v1.Deployment",
                json!({"spec": {"replicas": 1.5}}),
                "json: cannot unmarshal number 1.5 into Go struct field DeploymentSpec.spec.replicas of type int32",
            ),
            (
                "core.v1.Pod",
                json!({"spec": {"containers": [{"name": "a", "image": 5}]}}),
                "json: cannot unmarshal number into Go struct field Container.spec.containers.image of type string",
            ),
            (
                "core.v1.Pod",
                json!({"spec": {"containers": {}}}),
                "json: cannot unmarshal object into Go struct field PodSpec.spec.containers of type []v1.Container",
            ),
            (
                "core.v1.Pod",
                json!({"metadata": {"labels": {"a": true}}}),
                "json: cannot unmarshal bool into Go struct field ObjectMeta.metadata.labels of type string",
            ),
            ("core.v1.Pod", json!("x"), "json: cannot unmarshal string into Go value of type v1.Pod"),
            ("core.v1.Secret", json!({"data": {"a": "%%%"}}), "illegal base64 data at input byte 0"),
        ];
        for (name, value, message) in cases {
            assert_eq!(refused(name, value), message);
        }
        let quantity = json!({"spec": {"containers": [{"resources": {"limits": {"cpu": "lots"}}}]}});
        assert!(refused("core.v1.Pod", quantity).starts_with("quantities must match the regular expression"));
        let time = json!({"metadata": {"creationTimestamp": "yesterday"}});
        assert!(refused("core.v1.Pod", time).starts_with("parsing time \"yesterday\" as"));
    }

    #[test]
    fn values_take_the_form_go_would_write() {
        let (value, _) = cleaned(
            "core.v1.Pod",
            json!({
                "metadata": {"creationTimestamp": "2024-05-01T12:00:00.5+02:00", "labels": {"a": null}, "name": null},
                "spec": {
                    "nodeSelector": {},
                    "containers": [{
                        "args": [],
                        "command": [null],
                        "resources": {"limits": {"cpu": 1, "memory": "0.5Gi"}},
                    }],
                },
            }),
        );
        assert_eq!(
            value,
            json!({
                "metadata": {"creationTimestamp": "2024-05-01T10:00:00Z", "labels": {"a": ""}},
                "spec": {"containers": [{
                    "command": [""],
                    "resources": {"limits": {"cpu": "1", "memory": "512Mi"}},
                }]},
            })
        );
    }

    #[test]
    fn defaults_fill_what_is_absent_or_empty() {
        let mut value = json!({"spec": {"template": {"spec": {"containers": [
            {"name": "a", "livenessProbe": {"periodSeconds": 0}, "ports": [{"containerPort": 80, "protocol": ""}]}
        ]}}}});
        default(schema("apps.v1.Deployment"), &mut value);
        assert_eq!(value["spec"]["replicas"], 1);
        assert_eq!(value["spec"]["strategy"], json!({"type": "RollingUpdate"}));
        let pod = &value["spec"]["template"]["spec"];
        assert_eq!(pod["terminationGracePeriodSeconds"], 30);
        assert_eq!(pod["containers"][0]["ports"][0]["protocol"], "TCP");
        assert_eq!(pod["containers"][0]["livenessProbe"]["periodSeconds"], 10);
        let once = value.clone();
        default(schema("apps.v1.Deployment"), &mut value);
        assert_eq!(value, once);
    }
}

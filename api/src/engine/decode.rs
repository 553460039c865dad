//! Bytes to an object of the expected kind: parse, check the kind, clean by the schema, set defaults.

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::parse::{Parsed, duplicate_text, fields_in_order, parse, summary};
use super::{BodyFormat, Context, FieldValidation};
use crate::error::{ApiError, quote};
use crate::kinds::{Gvk, Resource};
use crate::protobuf::{self, ProtobufError};
use crate::schema::walk::{self, TypeError};
use crate::schema::{SchemaRef, SchemaSet};

/// How the faults that a reader of YAML finds begin, and what stands between them.
const YAML_FAULT: &str = "yaml: unmarshal errors:\n  ";
const YAML_NEXT: &str = "\n  ";

/// Reads an object of `resource` from a request body as it was sent: without the defaults, which preparing it sets.
pub fn read(resource: &Resource, body: &[u8], format: BodyFormat, ctx: &mut Context<'_>) -> Result<Value, ApiError> {
    decode_as(resource.schema(), &resource.gvk(), body, format, ctx)
}

/// Reads an object of `resource` from a request body, with its defaults.
pub fn decode(resource: &Resource, body: &[u8], format: BodyFormat, ctx: &mut Context<'_>) -> Result<Value, ApiError> {
    let mut object = read(resource, body, format, ctx)?;
    complete(resource, &mut object);
    Ok(object)
}

/// Reads the body of a request to a subresource: the resource's own kind for `status`, `Scale`, `Binding`, ….
pub fn decode_subresource(
    resource: &Resource,
    subresource: &str,
    body: &[u8],
    format: BodyFormat,
    ctx: &mut Context<'_>,
) -> Result<Value, ApiError> {
    let gvk = match subresource {
        "scale" => scale_kind(),
        "status" => resource.gvk(),
        other => match resource.subresources.find(other) {
            Some(found) => found.gvk.clone(),
            None => return Err(ApiError::not_found(&resource.qualified(), other)),
        },
    };
    if gvk == resource.gvk() {
        return decode(resource, body, format, ctx);
    }
    let schema = builtin_schema(&gvk)?;
    let mut object = decode_as(schema, &gvk, body, format, ctx)?;
    walk::default(schema, &mut object);
    Ok(object)
}

/// Reads an object again that admission changed: it must be of the same kind still, what the schema does not know goes and
/// defaults are set.
pub fn read_again(resource: &Resource, subresource: &str, object: &mut Value) -> Result<(), ApiError> {
    let gvk = subresource_kind(resource, subresource);
    check_kind(object, &gvk)?;
    let own = gvk == resource.gvk();
    let schema = if own { resource.schema() } else { builtin_schema(&gvk)? };
    clean(schema, object, &mut Vec::new()).map_err(|error| cannot_be(object, &gvk, &error.to_string()))?;
    if own {
        complete(resource, object);
    } else {
        walk::default(schema, object);
    }
    Ok(())
}

/// The kind of what is sent to a resource or one of its subresources.
pub fn subresource_kind(resource: &Resource, subresource: &str) -> Gvk {
    match subresource {
        "scale" => scale_kind(),
        "" | "status" => resource.gvk(),
        other => resource.subresources.find(other).map_or_else(|| resource.gvk(), |found| found.gvk.clone()),
    }
}

/// Reads `DeleteOptions` from the body of a DELETE; an empty body gives an empty object.
pub fn decode_delete_options(body: &[u8], format: BodyFormat) -> Result<Value, ApiError> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(Value::Object(Map::new()));
    }
    let gvk = Gvk::new("", "v1", "DeleteOptions");
    let schema = SchemaSet::builtin()
        .get("io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions")
        .ok_or_else(|| ApiError::internal("no schema for DeleteOptions"))?;
    let parsed = parse_object(schema, &gvk, body, format)?;
    let mut value = parsed.value;
    // Clients send it in the group and version of what they delete, too.
    let kind = value.get("kind").and_then(Value::as_str).unwrap_or("DeleteOptions");
    if kind != "DeleteOptions" {
        return Err(cannot_be(&value, &gvk, &unknown_conversion(&value, &gvk)));
    }
    walk::clean(schema, &mut value, &mut Vec::new()).map_err(|error| cannot_be(&value, &gvk, &error.to_string()))?;
    Ok(value)
}

/// `autoscaling/v1` Scale.
pub(super) fn scale_kind() -> Gvk {
    Gvk::new("autoscaling", "v1", "Scale")
}

/// The schema of a built-in kind that is no resource.
pub(super) fn builtin_schema(gvk: &Gvk) -> Result<SchemaRef<'static>, ApiError> {
    SchemaSet::builtin().of_kind(gvk).ok_or_else(|| ApiError::internal(format!("no schema for {gvk}")))
}

/// Sets all defaults: the schema's and the strategy's.
pub(super) fn complete(resource: &Resource, object: &mut Value) {
    walk::default(resource.schema(), object);
    resource.strategy.default(object);
}

fn decode_as(
    schema: SchemaRef<'_>,
    gvk: &Gvk,
    body: &[u8],
    format: BodyFormat,
    ctx: &mut Context<'_>,
) -> Result<Value, ApiError> {
    let mut parsed = parse_object(schema, gvk, body, format)?;
    let mut object = std::mem::take(&mut parsed.value);
    check_kind(&mut object, gvk)?;
    let mut unknown = Vec::new();
    clean(schema, &mut object, &mut unknown).map_err(|error| cannot_be(&object, gvk, &error.to_string()))?;
    let in_order =
        format == BodyFormat::Json && std::ptr::eq(schema.set(), SchemaSet::builtin()) && !parsed.duplicates.is_empty();
    let faults = match in_order && !unknown.is_empty() {
        true => faults_in_order(body, &parsed.duplicates, &unknown),
        false => faults(&parsed, &unknown),
    };
    report_strict(faults, ctx).map_err(|text| cannot_be(&object, gvk, &text))?;
    Ok(object)
}

pub(super) fn clean(schema: SchemaRef<'_>, object: &mut Value, unknown: &mut Vec<String>) -> Result<(), TypeError> {
    walk::clean(schema, object, unknown)
}

fn parse_object(schema: SchemaRef<'_>, gvk: &Gvk, body: &[u8], format: BodyFormat) -> Result<Parsed, ApiError> {
    let unrecognized = |why: &str| {
        ApiError::bad_request(format!(
            "the object provided is unrecognized (must be of type {}): {why} ({})",
            gvk.kind,
            summary(body)
        ))
    };
    if format == BodyFormat::Protobuf {
        let value = parse_protobuf(schema, gvk, body).map_err(|error| unrecognized(&error.to_string()))?;
        return Ok(Parsed { value, ..Parsed::default() });
    }
    let parsed = parse(body, format).map_err(|why| match format {
        BodyFormat::Json => unrecognized(&format!("couldn't get version/kind; json parse error: {why}")),
        BodyFormat::Yaml | BodyFormat::Protobuf => unrecognized(&why),
    })?;
    if !parsed.value.is_object() {
        let found = match parsed.value {
            Value::Array(_) => "array",
            Value::String(_) => "string",
            Value::Number(_) => "number",
            Value::Bool(_) => "bool",
            _ => "null",
        };
        return Err(unrecognized(&format!(
            "couldn't get version/kind; json parse error: json: cannot unmarshal {found} into Go value of type struct"
        )));
    }
    Ok(parsed)
}

/// An object from its envelope. One of another kind is read no further: its kind is what is wrong with it.
fn parse_protobuf(schema: SchemaRef<'_>, gvk: &Gvk, body: &[u8]) -> Result<Value, ProtobufError> {
    let envelope = protobuf::envelope(body)?;
    let mut object = if envelope.kind.is_empty() || envelope.kind == gvk.kind {
        protobuf::message(schema, envelope.raw)?
    } else {
        Value::Object(Map::new())
    };
    for (key, told) in [("apiVersion", envelope.api_version), ("kind", envelope.kind)] {
        if !told.is_empty() {
            object[key] = told.into();
        }
    }
    Ok(object)
}

/// Checks apiVersion and kind; what is absent is taken from the request.
fn check_kind(object: &mut Value, gvk: &Gvk) -> Result<(), ApiError> {
    let api_version = gvk.api_version();
    let given = |key: &str| object.get(key).and_then(Value::as_str).unwrap_or_default();
    let (given_version, given_kind) = (given("apiVersion"), given("kind"));
    if !given_kind.is_empty() && given_kind != gvk.kind {
        return Err(cannot_be(object, gvk, &unknown_conversion(object, gvk)));
    }
    if !given_version.is_empty() && given_version != api_version {
        return Err(ApiError::bad_request(format!(
            "the API version in the data ({given_version}) does not match the expected API version ({api_version})"
        )));
    }
    if let Value::Object(map) = object {
        for (key, wanted) in [("apiVersion", &api_version), ("kind", &gvk.kind)] {
            // A wrong type is the walk's to refuse.
            if map.get(key).is_none_or(|v| v.is_null() || v.as_str() == Some("")) {
                map.insert(key.to_owned(), Value::from(wanted.as_str()));
            }
        }
    }
    Ok(())
}

fn unknown_conversion(object: &Value, gvk: &Gvk) -> String {
    let given = |key: &str| object.get(key).and_then(Value::as_str).unwrap_or_default();
    let version = given("apiVersion").rsplit('/').next().unwrap_or_default();
    let group = if gvk.group.is_empty() { "core" } else { gvk.group.split('.').next().unwrap_or_default() };
    format!("converting ({version}.{}) to ({group}.{}): unknown conversion", given("kind"), gvk.kind)
}

/// `Deployment in version "v1" cannot be handled as a Deployment: why`
fn cannot_be(object: &Value, gvk: &Gvk, why: &str) -> ApiError {
    let text = |key: &str| object.get(key).and_then(Value::as_str).filter(|s| !s.is_empty());
    let kind = text("kind").unwrap_or(&gvk.kind);
    let version = text("apiVersion").and_then(|v| v.rsplit('/').next()).unwrap_or(&gvk.version);
    ApiError::bad_request(format!("{kind} in version {} cannot be handled as a {}: {why}", quote(version), gvk.kind))
}

/// What a strict reader finds wrong with fields: those that occur twice, then those that the schema does not know. What the reader
/// of YAML finds is one fault with a line for each.
pub(super) fn faults(parsed: &Parsed, unknown: &[String]) -> Vec<String> {
    let mut faults = Vec::new();
    match parsed.repeated_lines.is_empty() {
        true => faults.extend(parsed.duplicates.iter().map(|path| duplicate_text(path))),
        false => faults.push(format!("{YAML_FAULT}{}", parsed.repeated_lines.join(YAML_NEXT))),
    }
    faults.extend(unknown.iter().map(|path| unknown_text(path)));
    faults
}

/// The same in the order of the text, as Kubernetes' reader of its own kinds' JSON meets them.
fn faults_in_order(body: &[u8], duplicates: &[String], unknown: &[String]) -> Vec<String> {
    let mut seen = HashSet::new();
    let mut told = HashSet::new();
    let mut faults = Vec::new();
    for path in fields_in_order(body) {
        let again = !seen.insert(path.clone());
        let fault = match again {
            true if duplicates.contains(&path) => duplicate_text(&path),
            false if unknown.contains(&path) => unknown_text(&path),
            _ => continue,
        };
        if told.insert(fault.clone()) {
            faults.push(fault);
        }
    }
    faults
}

fn unknown_text(path: &str) -> String {
    format!("unknown field {}", quote(path))
}

/// Warns of [`faults`], or refuses them with the text of a strict decoding error.
pub(super) fn report_strict(faults: Vec<String>, ctx: &mut Context<'_>) -> Result<(), String> {
    report(faults, ctx).map_err(|faults| format!("strict decoding error: {}", faults.join(", ")))
}

/// Warns of [`faults`], or gives them back where they are to be refused.
pub(super) fn report(faults: Vec<String>, ctx: &mut Context<'_>) -> Result<(), Vec<String>> {
    if faults.is_empty() || ctx.field_validation == FieldValidation::Ignore {
        return Ok(());
    }
    if ctx.field_validation == FieldValidation::Strict {
        return Err(faults);
    }
    for fault in faults {
        match fault.strip_prefix(YAML_FAULT) {
            Some(lines) => ctx.warnings.extend(lines.split(YAML_NEXT).map(str::to_owned)),
            None => ctx.warnings.push(fault),
        }
    }
    Ok(())
}

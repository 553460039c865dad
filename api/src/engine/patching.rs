//! Patches: the current object and a patch to the object that results, decoded and with its defaults.

use serde_json::Value;

use super::decode::{builtin_schema, clean, complete, faults, report, report_strict, scale_kind};
use super::parse::{Parsed, parse};
use super::{BodyFormat, Context, PatchType};
use crate::apply;
use crate::error::{ApiError, FieldError};
use crate::kinds::{Gvk, Resource};
use crate::patch as merge;
use crate::schema::SchemaRef;

/// Applies a patch to the current object (absent: only for [`PatchType::Apply`]) and decodes the result. The answer
/// goes on to [`prepare_update`](super::prepare_update) or, for an absent object, to
/// [`prepare_create`](super::prepare_create). For the `scale` subresource, `current` and the answer are Scales.
pub fn patch(
    resource: &Resource,
    subresource: Option<&str>,
    current: Option<&Value>,
    kind: PatchType,
    body: &[u8],
    ctx: &mut Context<'_>,
) -> Result<Value, ApiError> {
    let subresource = subresource.filter(|s| !s.is_empty());
    let is_scale = subresource == Some("scale");
    let gvk = if is_scale { scale_kind() } else { resource.gvk() };
    let schema = if is_scale { builtin_schema(&gvk)? } else { resource.schema() };
    let mut object = match (kind, current) {
        (PatchType::Apply { force }, _) => applied(schema, &gvk, subresource, current, force, body, ctx)?,
        (_, None) => return Err(ApiError::internal("only an apply patch can make a new object")),
        (_, Some(current)) => merged(schema, current, kind, body, ctx)?,
    };
    if let (false, Value::Object(map)) = (is_scale, &mut object) {
        map.insert("apiVersion".to_owned(), Value::from(gvk.api_version()));
        map.insert("kind".to_owned(), Value::from(gvk.kind));
    }
    if !is_scale {
        complete(resource, &mut object);
    }
    Ok(object)
}

/// JSON patch, merge patch and strategic merge patch.
fn merged(
    schema: SchemaRef<'_>,
    current: &Value,
    kind: PatchType,
    body: &[u8],
    ctx: &mut Context<'_>,
) -> Result<Value, ApiError> {
    let mut read = Parsed::default();
    let mut object = match kind {
        PatchType::Json => merge::json(current, body)?,
        PatchType::Merge => {
            read = parse(body, BodyFormat::Json).unwrap_or_default();
            merge::merge(current, body)?
        }
        PatchType::Strategic | PatchType::Apply { .. } => {
            read = parse(body, BodyFormat::Json)
                .map_err(|why| ApiError::bad_request(format!("error decoding patch: {why}")))?;
            if !read.value.is_object() {
                return Err(ApiError::bad_request("error decoding patch: a strategic merge patch must be an object"));
            }
            merge::strategic(schema, current, &read.value)?
        }
    };
    check_identity(current, &object)?;
    let mut unknown = Vec::new();
    let refuse = |why: String| {
        let shown = Value::from(String::from_utf8_lossy(body));
        ApiError::invalid("", "", "", vec![FieldError::invalid("patch", shown, why)])
    };
    clean(schema, &mut object, &mut unknown).map_err(|error| refuse(error.to_string()))?;
    report_strict(faults(&read, &unknown), ctx).map_err(refuse)?;
    Ok(object)
}

/// A patch may not turn an object into one of another kind.
fn check_identity(current: &Value, new: &Value) -> Result<(), ApiError> {
    if !new.is_object() {
        return Err(ApiError::bad_request("the patch does not result in an object"));
    }
    for key in ["apiVersion", "kind"] {
        let (was, is) = (current.get(key), new.get(key));
        if is.is_some_and(|v| !v.is_null()) && was.is_some() && was != is {
            let text = |v: Option<&Value>| v.and_then(Value::as_str).unwrap_or_default().to_owned();
            return Err(ApiError::bad_request(format!(
                "the {key} in the data ({}) does not match the expected {key} ({})",
                text(is),
                text(was)
            )));
        }
    }
    Ok(())
}

fn applied(
    schema: SchemaRef<'_>,
    gvk: &Gvk,
    subresource: Option<&str>,
    current: Option<&Value>,
    force: bool,
    body: &[u8],
    ctx: &mut Context<'_>,
) -> Result<Value, ApiError> {
    if ctx.manager.is_empty() {
        let error = FieldError::required("fieldManager", "is required for apply patch");
        return Err(ApiError::invalid("meta.k8s.io", "PatchOptions", "", vec![error]));
    }
    let parsed =
        parse(body, BodyFormat::Yaml).map_err(|why| ApiError::bad_request(format!("error decoding YAML: {why}")))?;
    let faults = faults(&parsed, &[]);
    let configuration = parsed.value;
    if !configuration.is_object() {
        return Err(ApiError::bad_request("error decoding YAML: an apply configuration must be an object"));
    }
    check_applied_kind(&configuration, gvk)?;
    report(faults, ctx).map_err(|faults| {
        let why = faults.join(", ");
        ApiError::bad_request(format!("error strict decoding YAML: error converting YAML to JSON: {why}"))
    })?;
    // What does not fit the schema is refused by `apply`, with its own words; what fits is applied in canonical form.
    let mut canonical = configuration.clone();
    let mut unknown = Vec::new();
    let fits = clean(schema, &mut canonical, &mut unknown).is_ok() && unknown.is_empty();
    let configuration = if fits { canonical } else { configuration };
    let mut object =
        apply::apply(schema, &gvk.api_version(), current, &configuration, ctx.manager, force, subresource, ctx.now)?;
    ctx.applied = true;
    clean(schema, &mut object, &mut Vec::new()).map_err(|error| ApiError::bad_request(error.to_string()))?;
    Ok(object)
}

fn check_applied_kind(configuration: &Value, gvk: &Gvk) -> Result<(), ApiError> {
    let text = |key: &str| configuration.get(key).and_then(Value::as_str).unwrap_or_default();
    if text("kind").is_empty() {
        return Err(ApiError::bad_request("error decoding YAML: Object 'Kind' is missing in the apply configuration"));
    }
    if text("kind") != gvk.kind {
        return Err(ApiError::bad_request(format!(
            "the kind in the data ({}) does not match the expected kind ({})",
            text("kind"),
            gvk.kind
        )));
    }
    Ok(())
}

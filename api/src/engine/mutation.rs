//! What a mutating policy's expression does to an object.
//!
//! In: the object and what the expression came to: an `Object`, whose fields are laid over it, or a list of `JSONPatch`
//! operations. Out: the object changed, or why it cannot be.

use serde_json::{Map, Value, json};

use super::decode::{builtin_schema, subresource_kind};
use crate::cel::{Map as CelMap, Val, misnamed_structs};
use crate::kinds::Resource;
use crate::patch::JsonPatchError;
use crate::{apply, patch};

/// Of a value that is no JSON: a type, or one larger than any request.
const TOO_LARGE: &str = "expression evaluated to a value that could not marshal to JSON";

/// Lays the fields of an `Object` over the object.
pub fn apply_configuration(
    resource: &Resource,
    subresource: &str,
    object: &Value,
    made: &Val<'_>,
) -> Result<Value, String> {
    let mut configuration = match made.to_json() {
        Some(Value::Object(fields)) => Value::Object(fields),
        None => return Err(TOO_LARGE.to_owned()),
        _ => return Err(format!("unsupported return type from ApplyConfiguration expression: {}", made.type_name())),
    };
    check_names(made)?;
    for key in ["apiVersion", "kind"] {
        configuration[key] = object.get(key).cloned().unwrap_or_default();
    }
    let gvk = subresource_kind(resource, subresource);
    let schema = match gvk == resource.gvk() {
        true => resource.schema(),
        false => builtin_schema(&gvk).map_err(|error| error.message)?,
    };
    apply::overlay(schema, object, &configuration).map_err(|why| format!("error applying patch: {why}"))
}

/// Applies `JSONPatch` operations. An object for which a `test` among them fails stays as it is.
pub fn json_patch(object: &Value, made: &Val<'_>) -> Result<Value, String> {
    let Val::List(operations) = made else {
        return Err("type mismatch: JSONPatchType.expression should evaluate to array".to_owned());
    };
    let operations = operations.iter().map(|operation| json_operation(&operation));
    let operations: Vec<Value> = operations.collect::<Result<_, _>>()?;
    match patch::operations(object, &operations) {
        Err(JsonPatchError::Test(_)) => Ok(object.clone()),
        patched => patched.map_err(|error| format!("JSON Patch: {error}")),
    }
}

fn json_operation(operation: &Val<'_>) -> Result<Value, String> {
    let Val::Map(fields @ CelMap::Made(..)) = operation else {
        return Err(format!(
            "type mismatch: JSONPatchType.expression should evaluate to array of JSONPatch, got element of {}",
            operation.type_name()
        ));
    };
    let mut made = Map::new();
    for key in ["op", "path", "from"] {
        let text = match fields.get_str(key) {
            Some(value) => value
                .as_str()
                .map(str::to_owned)
                .ok_or_else(|| format!("unexpected type {} for JSONPatchType '{key}' field", value.type_name()))?,
            None => String::new(),
        };
        if key != "from" || !text.is_empty() {
            made.insert(key.to_owned(), json!(text));
        }
    }
    if let Some(value) = fields.get_str("value") {
        let json = value.to_json().ok_or(TOO_LARGE)?;
        if matches!(value, Val::Map(CelMap::Made(..))) {
            check_names(&value)?;
        }
        made.insert("value".to_owned(), json);
    }
    Ok(Value::Object(made))
}

fn check_names(made: &Val<'_>) -> Result<(), String> {
    match misnamed_structs(made).as_slice() {
        [] => Ok(()),
        wrong => Err(format!("type mismatch: {}", wrong.join("\n"))),
    }
}

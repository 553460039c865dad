//! The schema of a custom kind as clients see it.
//!
//! In: the `openAPIV3Schema` of a definition. Out: a definition of OpenAPI 3, which is the same, or of version 2, which says less: what
//! it cannot say (nullable values, junctors, values that are one of several types) is left out, so that old clients do not refuse
//! what the server takes.

use serde_json::{Map, Value, json};

use super::{Form, OBJECT_META};

/// What version 2 does not know.
const ONLY_V3: [&str; 8] =
    ["nullable", "oneOf", "anyOf", "allOf", "not", "x-kubernetes-validations", "example", "externalDocs"];

/// The definition of a kind with this schema.
pub(super) fn definition(schema: &Value, form: Form) -> Value {
    let mut out = node(schema, form);
    if !out.is_object() {
        out = json!({});
    }
    object(&mut out, schema, form, true);
    if out.get("type").is_none() {
        out["type"] = json!("object");
    }
    out
}

/// The fields that every object has.
fn object(out: &mut Value, schema: &Value, form: Form, root: bool) {
    if !out["properties"].is_object() {
        // Without any field of its own there is nothing to check unknown ones against.
        let open = schema.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true));
        if open && form == Form::V2 && root {
            return;
        }
        out["properties"] = json!({});
    }
    out["properties"]["apiVersion"] = json!({
        "type": "string",
        "description": "APIVersion defines the versioned schema of this representation of an object. Servers should convert recognized schemas to the latest internal value, and may reject unrecognized values. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources",
    });
    out["properties"]["kind"] = json!({
        "type": "string",
        "description": "Kind is a string value representing the REST resource this object represents. Servers may infer this from the endpoint the client submits requests to. Cannot be updated. In CamelCase. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds",
    });
    let described = "Standard object's metadata. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata";
    out["properties"]["metadata"] = match form {
        Form::V2 => json!({"$ref": form.reference(OBJECT_META), "description": described}),
        Form::V3 => json!({"allOf": [{"$ref": form.reference(OBJECT_META)}], "description": described}),
    };
}

fn node(schema: &Value, form: Form) -> Value {
    let Value::Object(map) = schema else { return schema.clone() };
    let flag = |key: &str| map.get(key) == Some(&Value::Bool(true));
    let mut out = Map::new();
    for (key, value) in map {
        if form == Form::V2 && ONLY_V3.contains(&key.as_str()) {
            continue;
        }
        let written = match key.as_str() {
            "properties" => match value {
                Value::Object(properties) => {
                    Value::Object(properties.iter().map(|(name, of)| (name.clone(), node(of, form))).collect())
                }
                other => other.clone(),
            },
            "items" | "additionalProperties" | "not" => node(value, form),
            "allOf" | "anyOf" | "oneOf" => match value {
                Value::Array(parts) => Value::Array(parts.iter().map(|part| node(part, form)).collect()),
                other => other.clone(),
            },
            _ => value.clone(),
        };
        out.insert(key.clone(), written);
    }
    if form == Form::V2 {
        // A client that checks by version 2 would refuse null, text for numbers, and fields that it does not know.
        let untyped = flag("nullable") || flag("x-kubernetes-int-or-string");
        if untyped {
            out.remove("type");
            out.remove("items");
            out.remove("properties");
            out.remove("additionalProperties");
        }
        if flag("x-kubernetes-preserve-unknown-fields") {
            out.remove("items");
            out.remove("properties");
            if !flag("x-kubernetes-embedded-resource") {
                out.remove("type");
            }
        }
        if out.get("items").is_some_and(|items| items.get("type").is_none() && items.get("$ref").is_none()) {
            out.insert("items".to_owned(), json!({}));
        }
    }
    let mut out = Value::Object(out);
    if flag("x-kubernetes-embedded-resource") && out.get("properties").is_some() {
        object(&mut out, schema, form, false);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_three_says_all_and_version_two_what_it_can() {
        let schema = json!({"type": "object", "description": "A thing.", "properties": {
            "a": {"type": "string", "nullable": true, "description": "An a."},
            "b": {"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]},
            "c": {"type": "array", "items": {"type": "integer"}},
        }});
        let three = definition(&schema, Form::V3);
        assert_eq!(three["properties"]["a"], schema["properties"]["a"]);
        assert_eq!(three["description"], "A thing.");
        assert_eq!(three["properties"]["metadata"]["allOf"][0]["$ref"], Form::V3.reference(OBJECT_META));
        let two = definition(&schema, Form::V2);
        assert_eq!(two["properties"]["a"], json!({"description": "An a."}));
        assert_eq!(two["properties"]["b"], json!({"x-kubernetes-int-or-string": true}));
        assert_eq!(two["properties"]["c"], schema["properties"]["c"]);
    }
}

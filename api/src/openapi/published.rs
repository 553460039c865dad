//! The schema of a custom kind as clients see it.
//!
//! In: the `openAPIV3Schema` of a definition. Out: a definition of OpenAPI 3, which says the same, or of version 2, which says less: what
//! it cannot say (nullable values, junctors, values that are one of several types, defaults) is left out, so that old clients
//! do not refuse what the server takes.

use serde_json::{Map, Value, json};

use super::{Form, OBJECT_META};

/// What neither version is told: it binds nobody.
const UNTOLD: [&str; 2] = ["example", "externalDocs"];
/// What version 2 does not know.
const ONLY_V3: [&str; 6] = ["nullable", "oneOf", "anyOf", "allOf", "not", "default"];

const PRESERVE: &str = "x-kubernetes-preserve-unknown-fields";
const EMBEDDED: &str = "x-kubernetes-embedded-resource";
const INT_OR_STRING: &str = "x-kubernetes-int-or-string";

const METADATA: &str = "Standard object's metadata. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata";

/// The definition of a kind with this schema.
pub(super) fn definition(schema: &Value, form: Form) -> Value {
    let unsaid = schema.as_object().is_none_or(Map::is_empty);
    // A client that checks by version 2 takes a field for unknown once it knows any.
    if unsaid || (form == Form::V2 && flag(schema, PRESERVE)) {
        return json!({"type": "object"});
    }
    let mut out = node(schema, form);
    fields(
        &mut out,
        form,
        "APIVersion defines the versioned schema of this representation of an object. Servers should convert recognized schemas to the latest internal value, and may reject unrecognized values. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources",
        "Kind is a string value representing the REST resource this object represents. Servers may infer this from the endpoint the client submits requests to. Cannot be updated. In CamelCase. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds",
    );
    out
}

fn flag(schema: &Value, key: &str) -> bool {
    schema.get(key) == Some(&Value::Bool(true))
}

/// Adds the fields that every object has.
fn fields(out: &mut Value, form: Form, api_version: &str, kind: &str) {
    if !out["properties"].is_object() {
        out["properties"] = json!({});
    }
    out["properties"]["apiVersion"] = json!({"type": "string", "description": api_version});
    out["properties"]["kind"] = json!({"type": "string", "description": kind});
    out["properties"]["metadata"] = match form {
        Form::V2 => json!({"$ref": form.reference(OBJECT_META), "description": METADATA}),
        Form::V3 => json!({"allOf": [{"$ref": form.reference(OBJECT_META)}], "description": METADATA}),
    };
}

/// Adds the fields of an object within an object.
fn embedded(out: &mut Value, form: Form) {
    fields(
        out,
        form,
        "apiVersion defines the versioned schema of this representation of an object. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources",
        "kind is a string value representing the type of this object. In CamelCase. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds",
    );
    let mut required = out["required"].as_array().cloned().unwrap_or_default();
    for field in ["kind", "apiVersion"] {
        if !required.iter().any(|name| name == field) {
            required.push(json!(field));
        }
    }
    out["required"] = required.into();
}

fn node(schema: &Value, form: Form) -> Value {
    let Value::Object(map) = schema else { return schema.clone() };
    let mut out = Map::new();
    for (key, value) in map {
        if UNTOLD.contains(&key.as_str()) || (form == Form::V2 && ONLY_V3.contains(&key.as_str())) {
            continue;
        }
        let written = match (key.as_str(), value) {
            ("properties", Value::Object(properties)) => {
                Value::Object(properties.iter().map(|(name, of)| (name.clone(), node(of, form))).collect())
            }
            ("items" | "additionalProperties" | "not", value) => node(value, form),
            ("allOf" | "anyOf" | "oneOf", Value::Array(parts)) => parts.iter().map(|part| node(part, form)).collect(),
            (_, value) => value.clone(),
        };
        out.insert(key.clone(), written);
    }
    match form {
        Form::V2 => without_what_clients_misread(schema, &mut out),
        Form::V3 if flag(schema, INT_OR_STRING) => say_both_types(&mut out),
        Form::V3 => {}
    }
    let mut out = Value::Object(out);
    if flag(schema, EMBEDDED) && (form == Form::V3 || !flag(schema, PRESERVE)) {
        embedded(&mut out, form);
    }
    out
}

/// A client that checks by version 2 would refuse null, text for numbers, and fields that it does not know.
fn without_what_clients_misread(schema: &Value, out: &mut Map<String, Value>) {
    if flag(schema, "nullable") {
        for key in ["type", "items", "properties"] {
            out.remove(key);
        }
    }
    if flag(schema, PRESERVE) {
        out.remove("items");
        out.remove("properties");
        if out.get("type").is_some_and(|name| name == "object") {
            out.remove("type");
        }
    }
    // It cannot cope with lists of it does not know what.
    if out.get("type").is_some_and(|name| name == "array") && !out.contains_key("items") {
        out.remove("type");
    }
    // One that may be null may not be demanded.
    let nullable = |name: &Value| {
        let property = out.get("properties").and_then(|_| schema.get("properties")?.get(name.as_str()?));
        property.is_some_and(|property| flag(property, "nullable"))
    };
    let values_nullable = schema.get("additionalProperties").is_some_and(|values| flag(values, "nullable"));
    let Some(Value::Array(required)) = out.get("required") else { return };
    let kept: Vec<Value> = required.iter().filter(|name| !values_nullable && !nullable(name)).cloned().collect();
    match kept.is_empty() {
        true => drop(out.remove("required")),
        false => drop(out.insert("required".to_owned(), kept.into())),
    }
}

/// What is a number or a text says so in words that every reader of schemas understands.
fn say_both_types(out: &mut Map<String, Value>) {
    let both = json!([{"type": "integer"}, {"type": "string"}]);
    let said_within = out.get("allOf").and_then(|parts| parts.get(0)?.get("anyOf")) == Some(&both);
    match out.get("anyOf") {
        None if said_within => {}
        None => drop(out.insert("anyOf".to_owned(), both)),
        Some(said) if *said == both || said_within => {}
        Some(_) => {
            let mut all = vec![json!({"anyOf": both})];
            if let Some(Value::Array(more)) = out.remove("allOf") {
                all.extend(more);
            }
            out.insert("allOf".to_owned(), all.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A definition without the fields that every object has.
    fn own(schema: Value, form: Form) -> Value {
        let mut out = definition(&schema, form);
        for field in ["apiVersion", "kind", "metadata"] {
            let removed = out["properties"].as_object_mut().unwrap().remove(field);
            assert!(removed.is_some(), "{field}");
        }
        out
    }

    #[test]
    fn version_three_says_all_and_version_two_what_it_can() {
        let schema = json!({"type": "object", "description": "A thing.", "properties": {
            "a": {"type": "string", "nullable": true, "description": "An a."},
            "b": {"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]},
            "c": {"type": "array", "items": {"type": "integer", "default": 1}},
        }});
        let three = definition(&schema, Form::V3);
        assert_eq!(three["properties"]["a"], schema["properties"]["a"]);
        assert_eq!(three["description"], "A thing.");
        assert_eq!(three["properties"]["metadata"]["allOf"][0]["$ref"], Form::V3.reference(OBJECT_META));
        assert_eq!(three["properties"]["c"], schema["properties"]["c"]);
        let two = definition(&schema, Form::V2);
        assert_eq!(two["properties"]["a"], json!({"description": "An a."}));
        assert_eq!(two["properties"]["b"], json!({"x-kubernetes-int-or-string": true}));
        assert_eq!(two["properties"]["c"], json!({"type": "array", "items": {"type": "integer"}}));
    }

    #[test]
    fn a_schema_that_takes_any_field_is_a_plain_object_to_version_two() {
        let open = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true, "description": "Any.",
            "properties": {"spec": {"type": "object"}}});
        assert_eq!(definition(&open, Form::V2), json!({"type": "object"}));
        assert_eq!(own(open.clone(), Form::V3), open);
        for form in [Form::V2, Form::V3] {
            assert_eq!(definition(&json!({}), form), json!({"type": "object"}));
        }
    }

    #[test]
    fn a_field_that_takes_any_field_has_no_type_in_version_two() {
        let schema = json!({"type": "object", "properties": {
            "spec": {"type": "object", "description": "S.", "x-kubernetes-preserve-unknown-fields": true,
                "properties": {"dummy": {"type": "string"}}},
            "status": {"type": "object", "properties": {"bars": {"type": "array", "items": {"type": "object"}}}},
        }});
        assert_eq!(
            own(schema.clone(), Form::V2),
            json!({"type": "object", "properties": {
                "spec": {"description": "S.", "x-kubernetes-preserve-unknown-fields": true},
                "status": schema["properties"]["status"],
            }})
        );
    }

    #[test]
    fn an_object_within_an_object_has_its_fields() {
        let within = |more: Value| {
            let mut inner = json!({"type": "object", "x-kubernetes-embedded-resource": true});
            inner.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            json!({"type": "object", "properties": {"pod": inner}})
        };
        let closed = own(within(json!({"properties": {"spec": {"type": "object"}}})), Form::V2);
        assert_eq!(closed["properties"]["pod"]["required"], json!(["kind", "apiVersion"]));
        assert_eq!(closed["properties"]["pod"]["properties"]["metadata"]["$ref"], Form::V2.reference(OBJECT_META));
        let open = within(json!({"x-kubernetes-preserve-unknown-fields": true}));
        assert_eq!(
            own(open.clone(), Form::V2)["properties"]["pod"],
            json!({"x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true})
        );
        assert_eq!(own(open, Form::V3)["properties"]["pod"]["required"], json!(["kind", "apiVersion"]));
    }

    #[test]
    fn what_may_be_null_is_not_demanded_of_clients_of_version_two() {
        let schema = json!({"type": "object", "required": ["a", "b"], "properties": {
            "a": {"type": "array", "nullable": true, "items": {"type": "string"}}, "b": {"type": "string"},
        }});
        assert_eq!(
            own(schema, Form::V2),
            json!({"type": "object", "required": ["b"], "properties": {"a": {}, "b": {"type": "string"}}})
        );
    }

    #[test]
    fn a_number_or_text_says_both_types_in_version_three() {
        let both = json!([{"type": "integer"}, {"type": "string"}]);
        let of = |schema: Value| {
            let whole = json!({"type": "object", "properties": {"n": schema}});
            own(whole, Form::V3)["properties"]["n"].clone()
        };
        let bare = json!({"x-kubernetes-int-or-string": true});
        assert_eq!(of(bare), json!({"x-kubernetes-int-or-string": true, "anyOf": both}));
        let more = json!({"x-kubernetes-int-or-string": true, "anyOf": [{"minimum": 1}], "allOf": [{"pattern": "x"}]});
        assert_eq!(of(more)["allOf"], json!([{"anyOf": both}, {"pattern": "x"}]));
    }
}

//! Schemas of a CustomResourceDefinition: they must be structural, and their rules must make sense.

use std::collections::BTreeSet;

use regex::Regex;
use serde_json::Value;

use crate::custom::{ExpressionCosts, Expressions, Place, expression_problems};
use crate::error::FieldError;
use crate::schema::rules::Rules;
use crate::schema::{Structural, walk};

/// How deep a schema may nest; bytes are read with a limit of 128.
const DEPTH_MAX: usize = 60;
const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];

fn text<'a>(schema: &'a Value, key: &str) -> &'a str {
    schema.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn flag(schema: &Value, key: &str) -> bool {
    schema.get(key).and_then(Value::as_bool).unwrap_or_default()
}

fn is_set(schema: &Value, key: &str) -> bool {
    match schema.get(key) {
        None | Some(Value::Null | Value::Bool(false)) => false,
        Some(Value::String(text)) => !text.is_empty(),
        Some(Value::Array(items)) => !items.is_empty(),
        Some(_) => true,
    }
}

/// Where in an object a schema node stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Root,
    Field,
    Item,
}

/// Checks the schema of a version.
pub(super) fn validate(schema: &Value, path: &str, has_status: bool, errors: &mut Vec<FieldError>) {
    let before = errors.len();
    let mut check = Check { errors, costs: ExpressionCosts::default() };
    if flag(schema, "nullable") {
        check.forbid(format!("{path}.nullable"), "nullable cannot be true at the root");
    }
    if has_status && text(schema, "type") != "object" {
        let why =
            "only \"object\" is allowed as the type at the root of the schema if the status subresource is enabled";
        check.errors.push(FieldError::invalid(format!("{path}.type"), text(schema, "type"), why));
    }
    check.node(schema, path, Spot { level: Level::Root, correlatable: true, repeated: Some(1), depth: 0 });
    let costs = check.costs.problems(path);
    errors.extend(costs);
    if errors.len() == before {
        defaults(schema, path, true, errors);
    }
}

/// A node on the way down.
#[derive(Clone, Copy)]
struct Spot {
    level: Level,
    /// Whether a value there can be told to be the same as one before.
    correlatable: bool,
    /// How many of it an object may hold; none if nothing limits it.
    repeated: Option<u64>,
    depth: usize,
}

struct Check<'e> {
    errors: &'e mut Vec<FieldError>,
    costs: ExpressionCosts,
}

/// How many of what is directly below a node there may be for each of it; none if nothing limits it.
fn most_below(schema: &Value) -> Option<u64> {
    let most = |key: &str| schema.get(key).and_then(Value::as_i64).map(|most| u64::try_from(most).unwrap_or_default());
    match text(schema, "type") {
        "object" if schema.get("additionalProperties").is_some_and(|values| !values.is_null()) => most("maxProperties"),
        "array" => most("maxItems"),
        _ => Some(1),
    }
}

impl Check<'_> {
    fn forbid(&mut self, path: impl Into<String>, why: &str) {
        self.errors.push(FieldError::forbidden(path, why));
    }

    fn require(&mut self, path: impl Into<String>, why: &str) {
        self.errors.push(FieldError::required(path, why));
    }

    fn refuse(&mut self, path: impl Into<String>, value: impl Into<Value>, why: &str) {
        self.errors.push(FieldError::invalid(path, value, why));
    }

    fn node(&mut self, schema: &Value, path: &str, spot: Spot) {
        let Spot { level, correlatable, repeated, depth } = spot;
        if depth > DEPTH_MAX {
            return self.forbid(path, "the schema nests too deeply");
        }
        let before = self.errors.len();
        self.shape(schema, path, level);
        self.unsupported(schema, path);
        self.values(schema, path);
        self.lists(schema, path);
        for key in ["allOf", "anyOf", "oneOf"] {
            let parts = schema.get(key).and_then(Value::as_array);
            for (at, part) in parts.into_iter().flatten().enumerate() {
                self.nested(part, schema, &format!("{path}.{key}[{at}]"), depth + 1);
            }
        }
        if let Some(not) = schema.get("not") {
            self.nested(not, schema, &format!("{path}.not"), depth + 1);
        }
        let repeated_below = repeated.zip(most_below(schema)).map(|(times, most)| times.saturating_mul(most));
        let below = |level, correlatable| Spot { level, correlatable, repeated: repeated_below, depth: depth + 1 };
        let granular = correlatable && text(schema, "x-kubernetes-map-type") != "atomic";
        let is_object = level == Level::Root || flag(schema, "x-kubernetes-embedded-resource");
        for (name, property) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
            let here = format!("{path}.properties[{name}]");
            if is_object && name == "metadata" {
                self.metadata(property, &here);
            } else {
                self.node(property, &here, below(Level::Field, granular));
            }
        }
        if let Some(values) = schema.get("additionalProperties").filter(|values| values.is_object()) {
            self.node(values, &format!("{path}.additionalProperties"), below(Level::Field, granular));
        }
        if let Some(items) = schema.get("items") {
            let by_key = correlatable && text(schema, "x-kubernetes-list-type") == "map";
            self.node(items, &format!("{path}.items"), below(Level::Item, by_key));
        }
        self.rules(schema, Place { path, root: level == Level::Root, correlatable, repeated }, before);
    }

    /// The metadata of an object is known; only its name may be restricted.
    fn metadata(&mut self, schema: &Value, path: &str) {
        if text(schema, "type") != "object" {
            self.refuse(format!("{path}.type"), text(schema, "type"), "must be object");
        }
        let named = schema.get("properties").and_then(Value::as_object);
        let other = named.into_iter().flatten().any(|(name, _)| name != "name" && name != "generateName");
        if other {
            self.forbid(
                path,
                "must not specify anything other than name and generateName, but metadata is implicitly specified",
            );
        }
    }

    /// The invariants of a structural schema.
    fn shape(&mut self, schema: &Value, path: &str, level: Level) {
        let kind = text(schema, "type");
        let untyped =
            flag(schema, "x-kubernetes-int-or-string") || flag(schema, "x-kubernetes-preserve-unknown-fields");
        let embedded = flag(schema, "x-kubernetes-embedded-resource");
        let type_path = format!("{path}.type");
        if !kind.is_empty() && !TYPES.contains(&kind) {
            self.errors.push(FieldError::not_supported(type_path.clone(), kind, &TYPES));
        }
        match level {
            Level::Root if kind.is_empty() => self.require(type_path, "must not be empty at the root"),
            Level::Root if kind != "object" => self.refuse(type_path, kind, "must be object at the root"),
            Level::Item if kind.is_empty() && !untyped => {
                self.require(type_path, "must not be empty for specified array items");
            }
            Level::Field if kind.is_empty() && embedded => {
                self.require(type_path, "must be object if x-kubernetes-embedded-resource is true");
            }
            Level::Field if kind.is_empty() && !untyped => {
                self.require(type_path, "must not be empty for specified object fields");
            }
            _ if embedded && kind != "object" => {
                self.refuse(type_path, kind, "must be object if x-kubernetes-embedded-resource is true");
            }
            _ => {}
        }
        if kind == "array" && schema.get("items").is_none() {
            self.require(format!("{path}.items"), "must be specified");
        }
        if flag(schema, "x-kubernetes-int-or-string") {
            if !kind.is_empty() {
                self.refuse(format!("{path}.type"), kind, "must be empty if x-kubernetes-int-or-string is true");
            }
            for key in ["x-kubernetes-preserve-unknown-fields", "x-kubernetes-embedded-resource"] {
                if flag(schema, key) {
                    self.refuse(format!("{path}.{key}"), true, "must be false if x-kubernetes-int-or-string is true");
                }
            }
        }
        if schema.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(false)) {
            let here = format!("{path}.x-kubernetes-preserve-unknown-fields");
            self.refuse(here, false, "must be true or undefined");
        }
        let has_properties = is_set(schema, "properties");
        if embedded && !has_properties && !flag(schema, "x-kubernetes-preserve-unknown-fields") {
            let why = "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields";
            self.require(format!("{path}.properties"), why);
        }
        if let Some(additional) = schema.get("additionalProperties").filter(|a| !a.is_null()) {
            let here = format!("{path}.additionalProperties");
            if level == Level::Root {
                self.forbid(here, "must not be used at the root");
            } else if embedded {
                self.forbid(here, "must not be used if x-kubernetes-embedded-resource is set");
            } else if has_properties && *additional != Value::Bool(true) {
                self.forbid(here, "additionalProperties and properties are mutual exclusive");
            } else if *additional == Value::Bool(false) {
                self.forbid(here, "additionalProperties cannot be set to false");
            }
        }
    }

    /// Keywords of OpenAPI that Kubernetes leaves out.
    fn unsupported(&mut self, schema: &Value, path: &str) {
        for key in [
            "definitions",
            "dependencies",
            "deprecated",
            "discriminator",
            "id",
            "patternProperties",
            "readOnly",
            "writeOnly",
            "xml",
            "$ref",
        ] {
            if is_set(schema, key) {
                let why =
                    if key == "$ref" { "$ref is not supported".to_owned() } else { format!("{key} is not supported") };
                self.forbid(format!("{path}.{key}"), &why);
            }
        }
        if flag(schema, "uniqueItems") {
            let why = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
            self.forbid(format!("{path}.uniqueItems"), why);
        }
    }

    fn values(&mut self, schema: &Value, path: &str) {
        let pattern = text(schema, "pattern");
        if let Err(error) = Regex::new(pattern) {
            let why = format!("must be a valid regular expression, but isn't: {error}");
            self.refuse(format!("{path}.pattern"), pattern, &why);
        }
    }

    fn lists(&mut self, schema: &Value, path: &str) {
        let kind = text(schema, "type");
        let here = |key: &str| format!("{path}.{key}");
        for (key, wanted, known) in [
            ("x-kubernetes-map-type", "object", ["atomic", "granular"].as_slice()),
            ("x-kubernetes-list-type", "array", ["atomic", "set", "map"].as_slice()),
        ] {
            let given = text(schema, key);
            if given.is_empty() {
                continue;
            }
            let why = format!("must be {wanted} if {key} is specified");
            if kind.is_empty() {
                self.require(here("type"), &why);
            } else if kind != wanted {
                self.refuse(here("type"), kind, &why);
            }
            if !known.contains(&given) {
                self.errors.push(FieldError::not_supported(here(key), given, known));
            }
        }
        let keys: Vec<&str> = schema
            .get("x-kubernetes-list-map-keys")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let list_type = text(schema, "x-kubernetes-list-type");
        if !keys.is_empty() && list_type != "map" {
            let why = "must be map if x-kubernetes-list-map-keys is non-empty";
            if list_type.is_empty() {
                self.require(here("x-kubernetes-list-type"), why);
            } else {
                self.refuse(here("x-kubernetes-list-type"), list_type, why);
            }
        }
        let items = schema.get("items");
        match (list_type, items) {
            ("map", items) => self.map_list(schema, &keys, items, path),
            ("set", Some(items)) => {
                let why = "must be atomic as item of a list with x-kubernetes-list-type=set";
                match text(items, "type") {
                    "array" if !matches!(text(items, "x-kubernetes-list-type"), "" | "atomic") => {
                        self.refuse(here("items.x-kubernetes-list-type"), text(items, "x-kubernetes-list-type"), why);
                    }
                    "object" if text(items, "x-kubernetes-map-type") != "atomic" => {
                        self.refuse(here("items.x-kubernetes-map-type"), text(items, "x-kubernetes-map-type"), why);
                    }
                    _ => {}
                }
                if flag(items, "nullable") {
                    self.forbid(here("items.nullable"), "cannot be nullable when x-kubernetes-list-type is set");
                }
            }
            _ => {}
        }
    }

    fn map_list(&mut self, schema: &Value, keys: &[&str], items: Option<&Value>, path: &str) {
        let here = |key: &str| format!("{path}.{key}");
        let given = || schema.get("x-kubernetes-list-map-keys").cloned().unwrap_or_default();
        if keys.is_empty() {
            self.require(here("x-kubernetes-list-map-keys"), "must not be empty if x-kubernetes-list-type is map");
        }
        let Some(items) = items else {
            return self.require(here("items"), "must have a schema if x-kubernetes-list-type is map");
        };
        if text(items, "type") != "object" {
            let why = "must be object if parent array's x-kubernetes-list-type is map";
            return self.refuse(here("items.type"), text(items, "type"), why);
        }
        if flag(items, "nullable") {
            self.forbid(here("items.nullable"), "cannot be nullable when x-kubernetes-list-type is map");
        }
        let required: Vec<&str> =
            items.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
        let mut seen = BTreeSet::new();
        for key in keys {
            match items.get("properties").and_then(|properties| properties.get(key)) {
                None => {
                    self.refuse(
                        here("x-kubernetes-list-map-keys"),
                        given(),
                        "entries must all be names of item properties",
                    );
                }
                Some(property) => {
                    if matches!(text(property, "type"), "array" | "object") {
                        let why = "must be a scalar type if parent array's x-kubernetes-list-type is map";
                        let at = format!("{path}.items.properties[{key}].type");
                        self.refuse(at, text(property, "type"), why);
                    }
                    if flag(property, "nullable") {
                        let why = "this property is in x-kubernetes-list-map-keys, so it cannot be nullable";
                        self.forbid(format!("{path}.items.properties[{key}].nullable"), why);
                    }
                    if !required.contains(key) && property.get("default").is_none() {
                        let why = "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property";
                        self.require(format!("{path}.items.properties[{key}].default"), why);
                    }
                }
            }
            if !seen.insert(*key) {
                self.refuse(here("x-kubernetes-list-map-keys"), given(), "must not contain duplicate entries");
            }
        }
    }

    /// Inside junctors only values are restricted; the structure stands outside.
    fn nested(&mut self, part: &Value, outer: &Value, path: &str, depth: usize) {
        if depth > DEPTH_MAX {
            return self.forbid(path, "the schema nests too deeply");
        }
        let int_or_string = flag(outer, "x-kubernetes-int-or-string");
        for key in ["type", "title", "description"] {
            if is_set(part, key) && !(key == "type" && int_or_string) {
                self.forbid(format!("{path}.{key}"), "must be empty to be structural");
            }
        }
        for key in ["additionalProperties", "default", "x-kubernetes-list-type", "x-kubernetes-map-type"] {
            if part.get(key).is_some() {
                self.forbid(format!("{path}.{key}"), "must be undefined to be structural");
            }
        }
        for key in [
            "nullable",
            "x-kubernetes-preserve-unknown-fields",
            "x-kubernetes-embedded-resource",
            "x-kubernetes-int-or-string",
        ] {
            if flag(part, key) {
                self.forbid(format!("{path}.{key}"), "must be false to be structural");
            }
        }
        for key in ["x-kubernetes-list-map-keys", "x-kubernetes-validations"] {
            if is_set(part, key) {
                self.forbid(format!("{path}.{key}"), "must be empty to be structural");
            }
        }
        self.values(part, path);
        for (name, property) in part.get("properties").and_then(Value::as_object).into_iter().flatten() {
            let here = format!("{path}.properties[{name}]");
            match outer.get("properties").and_then(|properties| properties.get(name)) {
                Some(outer) => self.nested(property, outer, &here, depth + 1),
                None if outer.get("additionalProperties").is_some_and(Value::is_object) => {
                    self.nested(property, &outer["additionalProperties"], &here, depth + 1);
                }
                None => {
                    let cut = path.find(".allOf").or(path.find(".anyOf")).or(path.find(".oneOf")).or(path.find(".not"));
                    let root = &path[..cut.unwrap_or(path.len())];
                    let at = format!("{root}.properties[{name}]");
                    self.require(at, &format!("because it is defined in {here}"));
                }
            }
        }
        if let Some(items) = part.get("items") {
            match outer.get("items") {
                Some(outer) => self.nested(items, outer, &format!("{path}.items"), depth + 1),
                None => self.require(format!("{path}.items"), "must be specified outside as well"),
            }
        }
        for key in ["allOf", "anyOf", "oneOf"] {
            for (at, inner) in part.get(key).and_then(Value::as_array).into_iter().flatten().enumerate() {
                self.nested(inner, outer, &format!("{path}.{key}[{at}]"), depth + 1);
            }
        }
        if let Some(not) = part.get("not") {
            self.nested(not, outer, &format!("{path}.not"), depth + 1);
        }
    }

    /// `x-kubernetes-validations`; compiled only where the schema itself is in order.
    fn rules(&mut self, schema: &Value, place: Place<'_>, before: usize) {
        let path = place.path;
        let rules = schema.get("x-kubernetes-validations").and_then(Value::as_array);
        for (at, rule) in rules.into_iter().flatten().enumerate() {
            let here = |key: &str| format!("{path}.x-kubernetes-validations[{at}].{key}");
            let breaks = |text: &str| text.contains(['\n', '\r']);
            let (expression, message) = (text(rule, "rule").trim(), text(rule, "message"));
            if expression.is_empty() {
                self.require(here("rule"), "rule is not specified");
            } else if !message.is_empty() && message.trim().is_empty() {
                self.refuse(here("message"), message, "must be non-empty if specified");
            } else if breaks(message.trim()) {
                self.refuse(here("message"), message, "must not contain line breaks");
            } else if breaks(expression) && message.trim().is_empty() {
                self.require(here("message"), "message must be specified if rule contains line breaks");
            }
            let reasons = ["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];
            let reason = text(rule, "reason");
            if !reason.is_empty() && !reasons.contains(&reason) {
                self.errors.push(FieldError::not_supported(here("reason"), reason, &reasons));
            }
            let field = text(rule, "fieldPath");
            if !field.is_empty() && !leads_somewhere(schema, field) {
                self.refuse(here("fieldPath"), field, "must be a valid path");
            }
        }
        if self.errors.len() > before || rules.is_none() {
            return;
        }
        self.errors.extend(expression_problems(schema, place, &mut self.costs));
    }
}

/// Whether a `fieldPath` names a field of the schema.
fn leads_somewhere(schema: &Value, path: &str) -> bool {
    let normalized = path.replace("['", ".").replace("']", "");
    let Some(rest) = normalized.strip_prefix('.') else { return false };
    let found = rest.split('.').try_fold(schema, |schema, name| {
        let property = schema.get("properties").and_then(|properties| properties.get(name));
        property.or_else(|| schema.get("additionalProperties").filter(|values| values.is_object()))
    });
    found.is_some()
}

/// Defaults must be what the schema would make of them.
fn defaults(schema: &Value, path: &str, is_root: bool, errors: &mut Vec<FieldError>) {
    if let Some(default) = schema.get("default").filter(|default| !default.is_null()) {
        let here = format!("{path}.default");
        let structural = Structural::of_value(schema);
        let mut settled = default.clone();
        let mut unknown = Vec::new();
        if let Err(error) = walk::clean(structural.schema(), &mut settled, &mut unknown) {
            errors.push(FieldError::invalid(here, default.clone(), error.to_string()));
            return;
        }
        if settled != *default {
            errors.push(FieldError::invalid(here, default.clone(), "must not have unknown fields"));
            return;
        }
        walk::default(structural.schema(), &mut settled);
        let rules = Rules::new(schema);
        let mut wrong = Vec::new();
        rules.validate(&settled, None, &here, &mut wrong);
        if wrong.is_empty() {
            let mut budget = crate::cel::Budget::new(crate::cel::OBJECT_COST_MAX);
            let expressions = Expressions::new(schema, false);
            let _ = expressions.check(&rules, &settled, None, &here, &mut budget, &mut wrong);
        }
        errors.extend(wrong);
    }
    for (name, property) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        if is_root && matches!(name.as_str(), "metadata" | "kind" | "apiVersion") {
            if property.get("default").is_some() {
                let at = format!("{path}.properties[{name}].default");
                errors.push(FieldError::forbidden(at, format!("must not be set in top-level {name}")));
            }
            continue;
        }
        defaults(property, &format!("{path}.properties[{name}]"), false, errors);
    }
    for key in ["items", "additionalProperties"] {
        if let Some(below) = schema.get(key).filter(|below| below.is_object()) {
            defaults(below, &format!("{path}.{key}"), false, errors);
        }
    }
}

//! Rules about the values of a custom kind: types, limits, enumerations, patterns, formats, junctors, list types.
//!
//! In: an `openAPIV3Schema`, compiled once to [`Rules`]; an object and, on an update, what it was. Out: what is wrong, in
//! the words and with the field paths of Kubernetes. A part that an update leaves as it was is not held against new rules
//! (ratcheting), as far as its predecessor can be told: struct fields, map entries, items of lists of type map.

use std::collections::BTreeMap;

use regex::Regex;
use serde_json::{Map, Value};

use super::format;
use crate::error::{FieldError, quote};
use crate::strategy::NameRule;

/// Compiled rules of one schema node.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    pub(crate) types: Vec<&'static str>,
    pub(crate) nullable: bool,
    format: Option<String>,
    values: Option<Vec<Value>>,
    pattern: Option<(String, Regex)>,
    length: (Option<u64>, Option<u64>),
    minimum: Option<(f64, bool)>,
    maximum: Option<(f64, bool)>,
    multiple_of: Option<f64>,
    items_count: (Option<u64>, Option<u64>),
    properties_count: (Option<u64>, Option<u64>),
    required: Vec<String>,
    pub(crate) properties: BTreeMap<String, Rules>,
    pub(crate) additional: Option<Box<Rules>>,
    no_additional: bool,
    pub(crate) items: Option<Box<Rules>>,
    all_of: Vec<Rules>,
    any_of: Vec<Rules>,
    one_of: Vec<Rules>,
    not: Option<Box<Rules>>,
    pub(crate) list: List,
    pub(crate) embedded: bool,
}

/// What identifies the items of a list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum List {
    /// Nothing.
    #[default]
    Atomic,
    /// Themselves.
    Set,
    /// These fields, each with the default of an absent one.
    Map(Vec<(String, Option<Value>)>),
}

fn text<'a>(schema: &'a Value, key: &str) -> &'a str {
    schema.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn flag(schema: &Value, key: &str) -> bool {
    schema.get(key).and_then(Value::as_bool).unwrap_or_default()
}

fn count(schema: &Value, key: &str) -> Option<u64> {
    schema.get(key).and_then(Value::as_u64)
}

impl Rules {
    /// Compiles a schema. What cannot be compiled (a pattern) is left out: the definition's validation refuses it.
    pub fn new(schema: &Value) -> Rules {
        let many = |key: &str| -> Vec<Rules> {
            schema.get(key).and_then(Value::as_array).into_iter().flatten().map(Rules::new).collect()
        };
        let limit = |key: &str, exclusive: &str| {
            schema.get(key).and_then(Value::as_f64).map(|limit| (limit, flag(schema, exclusive)))
        };
        let properties = schema.get("properties").and_then(Value::as_object);
        let pattern = Some(text(schema, "pattern")).filter(|pattern| !pattern.is_empty());
        Rules {
            types: types(schema),
            nullable: flag(schema, "nullable"),
            format: Some(text(schema, "format")).filter(|f| format::is_known(f)).map(str::to_owned),
            values: schema.get("enum").and_then(Value::as_array).cloned(),
            pattern: pattern.and_then(|pattern| Some((pattern.to_owned(), Regex::new(pattern).ok()?))),
            length: (count(schema, "minLength"), count(schema, "maxLength")),
            minimum: limit("minimum", "exclusiveMinimum"),
            maximum: limit("maximum", "exclusiveMaximum"),
            multiple_of: schema.get("multipleOf").and_then(Value::as_f64),
            items_count: (count(schema, "minItems"), count(schema, "maxItems")),
            properties_count: (count(schema, "minProperties"), count(schema, "maxProperties")),
            required: strings(schema, "required"),
            properties: properties
                .into_iter()
                .flatten()
                .map(|(name, schema)| (name.clone(), Rules::new(schema)))
                .collect(),
            additional: schema.get("additionalProperties").filter(|a| a.is_object()).map(|a| Box::new(Rules::new(a))),
            no_additional: schema.get("additionalProperties") == Some(&Value::Bool(false)),
            items: schema.get("items").filter(|items| items.is_object()).map(|items| Box::new(Rules::new(items))),
            all_of: many("allOf"),
            any_of: many("anyOf"),
            one_of: many("oneOf"),
            not: schema.get("not").map(|not| Box::new(Rules::new(not))),
            list: list_type(schema),
            embedded: flag(schema, "x-kubernetes-embedded-resource"),
        }
    }

    /// What is wrong with a value; `old` is what it was, on an update.
    pub fn validate(&self, value: &Value, old: Option<&Value>, path: &str, errors: &mut Vec<FieldError>) {
        Check { errors }.node(self, value, old, path);
    }

    fn is_valid(&self, value: &Value) -> bool {
        let mut errors = Vec::new();
        Check { errors: &mut errors }.node(self, value, None, "");
        errors.is_empty()
    }

    /// What identifies an item of this list, if something does.
    pub(crate) fn key_of(&self, item: &Value) -> Option<Vec<Value>> {
        match &self.list {
            List::Map(keys) => Some(
                keys.iter()
                    .map(|(key, default)| item.get(key).or(default.as_ref()).cloned().unwrap_or(Value::Null))
                    .collect(),
            ),
            _ => None,
        }
    }
}

fn strings(schema: &Value, key: &str) -> Vec<String> {
    let list = schema.get(key).and_then(Value::as_array).into_iter().flatten();
    list.filter_map(Value::as_str).map(str::to_owned).collect()
}

fn types(schema: &Value) -> Vec<&'static str> {
    if flag(schema, "x-kubernetes-int-or-string") {
        return vec!["integer", "string"];
    }
    let known = ["object", "array", "string", "integer", "number", "boolean"];
    known.into_iter().filter(|known| *known == text(schema, "type")).collect()
}

fn list_type(schema: &Value) -> List {
    match text(schema, "x-kubernetes-list-type") {
        "set" => List::Set,
        "map" => {
            let default = |key: &str| schema.pointer(&format!("/items/properties/{key}/default")).cloned();
            let keys = strings(schema, "x-kubernetes-list-map-keys");
            List::Map(keys.into_iter().map(|key| (key.clone(), default(&key))).collect())
        }
        _ => List::Atomic,
    }
}

/// The JSON type of a value, as errors name it.
fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn shown(path: &str) -> &str {
    path.trim_start_matches('.')
}

fn child(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// A number as Go prints it with `%v`.
fn number(value: f64) -> String {
    if value.fract() == 0.0 && value.abs() < 1e21 { format!("{value:.0}") } else { value.to_string() }
}

struct Check<'e> {
    errors: &'e mut Vec<FieldError>,
}

impl Check<'_> {
    fn invalid(&mut self, path: &str, value: impl Into<Value>, what: &str) {
        self.errors.push(FieldError::invalid(path, value, format!("{} in body {what}", shown(path))));
    }

    fn node(&mut self, rules: &Rules, value: &Value, old: Option<&Value>, path: &str) {
        if old.is_some_and(|old| old == value) {
            return;
        }
        self.of_type(rules, value, path);
        if let Some(values) = &rules.values
            && !values.iter().any(|allowed| equal(allowed, value))
        {
            let texts: Vec<String> =
                values.iter().map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned)).collect();
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            self.errors.push(FieldError::not_supported(path, value.clone(), &texts));
        }
        if value.is_null() {
            return;
        }
        self.junctors(rules, value, path);
        match value {
            Value::String(text) => self.text(rules, text, path),
            Value::Number(number) => self.number(rules, number, path),
            Value::Array(items) => self.list(rules, items, old.and_then(Value::as_array), path),
            Value::Object(map) => self.object(rules, map, old.and_then(Value::as_object), path),
            Value::Null | Value::Bool(_) => {}
        }
    }

    fn of_type(&mut self, rules: &Rules, value: &Value, path: &str) {
        if rules.types.is_empty() || value.is_null() && rules.nullable {
            return;
        }
        let found = type_of(value);
        let whole = value.as_f64().is_some_and(|n| n.fract() == 0.0);
        let fits = rules.types.iter().any(|wanted| {
            *wanted == found
                || *wanted == "number" && found == "integer"
                || *wanted == "integer" && found == "number" && whole
        });
        if !fits {
            let wanted = rules.types.join(",");
            let detail = format!("{} in body must be of type {wanted}: {}", shown(path), quote(found));
            self.errors.push(FieldError::type_invalid(path, found, detail));
        }
    }

    fn junctors(&mut self, rules: &Rules, value: &Value, path: &str) {
        let mut whole = |what: String| {
            let mut error = FieldError::invalid("<nil>", "", format!("{} {what}", quote(path)));
            error.path = "<nil>".to_owned();
            self.errors.push(error);
        };
        if !rules.any_of.is_empty() && !rules.any_of.iter().any(|one| one.is_valid(value)) {
            whole("must validate at least one schema (anyOf)".to_owned());
        }
        if !rules.one_of.is_empty() {
            let valid = rules.one_of.iter().filter(|one| one.is_valid(value)).count();
            match valid {
                1 => {}
                0 => whole("must validate one and only one schema (oneOf). Found none valid".to_owned()),
                n => whole(format!("must validate one and only one schema (oneOf). Found {n} valid alternatives")),
            }
        }
        if rules.not.as_ref().is_some_and(|not| not.is_valid(value)) {
            whole("must not validate the schema (not)".to_owned());
        }
        if !rules.all_of.is_empty() {
            let valid = rules.all_of.iter().filter(|one| one.is_valid(value)).count();
            if valid < rules.all_of.len() {
                let none = if valid == 0 { ". None validated" } else { "" };
                whole(format!("must validate all the schemas (allOf){none}"));
            }
            for one in &rules.all_of {
                self.node(one, value, None, path);
            }
        }
    }

    fn text(&mut self, rules: &Rules, text: &str, path: &str) {
        let length = || text.chars().count() as u64;
        if let Some(max) = rules.length.1.filter(|max| length() > *max) {
            let max = usize::try_from(max).unwrap_or(usize::MAX);
            self.errors.push(FieldError::too_long(path, max));
        }
        if let Some(min) = rules.length.0.filter(|min| length() < *min) {
            self.invalid(path, text, &format!("should be at least {min} chars long"));
        }
        if let Some((pattern, _)) = rules.pattern.as_ref().filter(|(_, regex)| !regex.is_match(text)) {
            self.invalid(path, text, &format!("should match '{pattern}'"));
        }
        if let Some(format) = rules.format.as_ref().filter(|format| !format::matches(format, text)) {
            let detail = format!("{} in body must be of type {format}: {}", shown(path), quote(text));
            self.errors.push(FieldError::type_invalid(path, text, detail));
        }
    }

    fn number(&mut self, rules: &Rules, value: &serde_json::Number, path: &str) {
        let Some(n) = value.as_f64() else { return };
        if let Some(factor) = rules.multiple_of.filter(|factor| *factor > 0.0) {
            let times = n / factor;
            if (times - times.round()).abs() > 1e-9 {
                self.invalid(path, value.clone(), &format!("should be a multiple of {}", number(factor)));
            }
        }
        if let Some((max, exclusive)) = rules.maximum
            && (n > max || exclusive && n == max)
        {
            let how = if exclusive { "less than" } else { "less than or equal to" };
            self.invalid(path, value.clone(), &format!("should be {how} {}", number(max)));
        }
        if let Some((min, exclusive)) = rules.minimum
            && (n < min || exclusive && n == min)
        {
            let how = if exclusive { "greater than" } else { "greater than or equal to" };
            self.invalid(path, value.clone(), &format!("should be {how} {}", number(min)));
        }
    }

    fn list(&mut self, rules: &Rules, items: &[Value], old: Option<&Vec<Value>>, path: &str) {
        let size = items.len() as u64;
        if let Some(min) = rules.items_count.0.filter(|min| size < *min) {
            self.invalid(path, size, &format!("should have at least {min} items"));
        }
        if let Some(max) = rules.items_count.1.filter(|max| size > *max) {
            self.errors.push(FieldError::too_many(path, items.len(), usize::try_from(max).unwrap_or(usize::MAX)));
        }
        self.identities(rules, items, old, path);
        let Some(of_items) = &rules.items else { return };
        let before: BTreeMap<String, &Value> = match (&rules.list, old) {
            (List::Map(_), Some(old)) => {
                old.iter().filter_map(|item| Some((Value::from(rules.key_of(item)?).to_string(), item))).collect()
            }
            _ => BTreeMap::new(),
        };
        for (at, item) in items.iter().enumerate() {
            let was = if before.is_empty() {
                None
            } else {
                rules.key_of(item).and_then(|key| before.get(&Value::from(key).to_string()).copied())
            };
            self.node(of_items, item, was, &format!("{path}[{at}]"));
        }
    }

    /// Items of sets and maps must differ, unless they did not differ before either.
    fn identities(&mut self, rules: &Rules, items: &[Value], old: Option<&Vec<Value>>, path: &str) {
        let identity = |item: &Value| match &rules.list {
            List::Atomic => None,
            List::Set => Some(item.clone()),
            List::Map(keys) => item.as_object().map(|map| {
                let named = keys.iter().filter_map(|(key, default)| {
                    map.get(key).or(default.as_ref()).map(|value| (key.clone(), value.clone()))
                });
                Value::Object(named.collect::<Map<String, Value>>())
            }),
        };
        let duplicates = |items: &[Value]| {
            let mut seen = std::collections::BTreeSet::new();
            let mut found = Vec::new();
            for (at, item) in items.iter().enumerate() {
                if let Some(identity) = identity(item)
                    && !seen.insert(identity.to_string())
                {
                    found.push((at, identity));
                }
            }
            found
        };
        if rules.list == List::Atomic || old.is_some_and(|old| !duplicates(old).is_empty()) {
            return;
        }
        for (at, identity) in duplicates(items) {
            self.errors.push(FieldError::duplicate(format!("{path}[{at}]"), identity));
        }
    }

    fn object(&mut self, rules: &Rules, map: &Map<String, Value>, old: Option<&Map<String, Value>>, path: &str) {
        let size = map.len() as u64;
        if let Some(min) = rules.properties_count.0.filter(|min| size < *min) {
            self.invalid(path, size, &format!("should have at least {min} properties"));
        }
        if let Some(max) = rules.properties_count.1.filter(|max| size > *max) {
            self.errors.push(FieldError::too_many(path, map.len(), usize::try_from(max).unwrap_or(usize::MAX)));
        }
        if rules.embedded {
            self.embedded(map, path);
        }
        for name in rules.required.iter().filter(|name| !map.contains_key(*name)) {
            self.errors.push(FieldError::required(child(path, name), ""));
        }
        for (name, value) in map {
            let of_value = match rules.properties.get(name) {
                Some(of_value) => of_value,
                None if rules.no_additional => {
                    self.invalid(path, "", &format!("{name} is a forbidden property"));
                    continue;
                }
                None => match &rules.additional {
                    Some(of_value) => of_value,
                    None => continue,
                },
            };
            self.node(of_value, value, old.and_then(|old| old.get(name)), &child(path, name));
        }
    }

    /// An object inside an object has a kind and a version, and metadata that is well-formed.
    fn embedded(&mut self, map: &Map<String, Value>, path: &str) {
        for name in ["apiVersion", "kind"] {
            let here = child(path, name);
            match map.get(name) {
                None => self.errors.push(FieldError::required(here, "")),
                Some(Value::String(text)) if text.is_empty() => {
                    self.errors.push(FieldError::invalid(here, "", "must not be empty"));
                }
                Some(Value::String(text)) if name == "apiVersion" && text.matches('/').count() > 1 => {
                    let why = format!("unexpected GroupVersion string: {text}");
                    self.errors.push(FieldError::invalid(here, text.as_str(), why));
                }
                Some(Value::String(text)) if name == "kind" => {
                    let wrong = NameRule::Label1035.errors(&text.to_lowercase(), false);
                    if !wrong.is_empty() {
                        let why = format!("may have mixed case, but should otherwise match: {}", wrong.join(","));
                        self.errors.push(FieldError::invalid(here, text.as_str(), why));
                    }
                }
                Some(Value::String(_)) => {}
                Some(other) => self.errors.push(FieldError::invalid(here, other.clone(), "must be a string")),
            }
        }
        let metadata = child(path, "metadata");
        let labels = map.get("metadata").and_then(|m| m.get("labels"));
        crate::strategy::names::validate_labels(labels, &format!("{metadata}.labels"), self.errors);
        let annotations = map.get("metadata").and_then(|m| m.get("annotations"));
        crate::engine::validate_annotations(annotations, &format!("{metadata}.annotations"), self.errors);
    }
}

/// Equality as JSON sees it: 1 and 1.0 are one number.
fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        _ => a == b,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn wrong(schema: Value, value: Value) -> Vec<String> {
        let mut errors = Vec::new();
        Rules::new(&schema).validate(&value, None, "spec", &mut errors);
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_keyword_refuses_in_the_words_of_kubernetes() {
        let cases = [
            (
                json!({"type": "integer"}),
                json!("x"),
                r#"spec: Invalid value: "string": spec in body must be of type integer: "string""#,
            ),
            (
                json!({"type": "string"}),
                json!(null),
                r#"spec: Invalid value: "null": spec in body must be of type string: "null""#,
            ),
            (
                json!({"x-kubernetes-int-or-string": true}),
                json!(true),
                r#"spec: Invalid value: "boolean": spec in body must be of type integer,string: "boolean""#,
            ),
            (
                json!({"type": "string", "enum": ["a", "b"]}),
                json!("c"),
                r#"spec: Unsupported value: "c": supported values: "a", "b""#,
            ),
            (
                json!({"type": "string", "pattern": "^a+$"}),
                json!("b"),
                r#"spec: Invalid value: "b": spec in body should match '^a+$'"#,
            ),
            (json!({"type": "string", "maxLength": 2}), json!("abc"), "spec: Too long: may not be more than 2 bytes"),
            (
                json!({"type": "string", "minLength": 2}),
                json!("a"),
                r#"spec: Invalid value: "a": spec in body should be at least 2 chars long"#,
            ),
            (
                json!({"type": "string", "format": "date-time"}),
                json!("a"),
                r#"spec: Invalid value: "a": spec in body must be of type date-time: "a""#,
            ),
            (
                json!({"type": "integer", "maximum": 3}),
                json!(4),
                "spec: Invalid value: 4: spec in body should be less than or equal to 3",
            ),
            (
                json!({"type": "number", "minimum": 1.5, "exclusiveMinimum": true}),
                json!(1.5),
                "spec: Invalid value: 1.5: spec in body should be greater than 1.5",
            ),
            (
                json!({"type": "integer", "multipleOf": 2}),
                json!(3),
                "spec: Invalid value: 3: spec in body should be a multiple of 2",
            ),
            (
                json!({"type": "array", "minItems": 1}),
                json!([]),
                "spec: Invalid value: 0: spec in body should have at least 1 items",
            ),
            (json!({"type": "array", "maxItems": 1}), json!([1, 2]), "spec: Too many: 2: must have at most 1 items"),
            (
                json!({"type": "object", "maxProperties": 1}),
                json!({"a": 1, "b": 2}),
                "spec: Too many: 2: must have at most 1 items",
            ),
            (
                json!({"type": "object", "minProperties": 1}),
                json!({}),
                "spec: Invalid value: 0: spec in body should have at least 1 properties",
            ),
            (json!({"type": "object", "required": ["a"]}), json!({}), "spec.a: Required value"),
            (
                json!({"type": "object", "additionalProperties": {"type": "integer"}}),
                json!({"a": "x"}),
                r#"spec.a: Invalid value: "string": spec.a in body must be of type integer: "string""#,
            ),
            (
                json!({"type": "array", "items": {"type": "object", "properties": {"a": {"type": "boolean"}}}}),
                json!([{"a": 1}]),
                r#"spec[0].a: Invalid value: "integer": spec[0].a in body must be of type boolean: "integer""#,
            ),
            (
                json!({"oneOf": [{"required": ["a"]}, {"required": ["b"]}]}),
                json!({"a": 1, "b": 1}),
                r#"<nil>: Invalid value: "": "spec" must validate one and only one schema (oneOf). Found 2 valid alternatives"#,
            ),
            (
                json!({"anyOf": [{"required": ["a"]}]}),
                json!({}),
                r#"<nil>: Invalid value: "": "spec" must validate at least one schema (anyOf)"#,
            ),
            (
                json!({"not": {"required": ["a"]}}),
                json!({"a": 1}),
                r#"<nil>: Invalid value: "": "spec" must not validate the schema (not)"#,
            ),
            (
                json!({"type": "array", "x-kubernetes-list-type": "set"}),
                json!(["a", "a"]),
                r#"spec[1]: Duplicate value: "a""#,
            ),
            (
                json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"]}),
                json!([{"k": 1, "v": 2}, {"k": 1}]),
                r#"spec[1]: Duplicate value: {"k":1}"#,
            ),
        ];
        for (schema, value, told) in cases {
            assert_eq!(wrong(schema.clone(), value), [told], "{schema}");
        }
    }

    #[test]
    fn what_fits_is_taken() {
        assert!(wrong(json!({"type": "string", "nullable": true}), json!(null)).is_empty());
        assert!(wrong(json!({"x-kubernetes-int-or-string": true}), json!("5%")).is_empty());
        assert!(wrong(json!({"type": "number"}), json!(3)).is_empty());
        assert!(wrong(json!({"allOf": [{"maximum": 3}, {"minimum": 1}]}), json!(2)).is_empty());
    }

    #[test]
    fn what_an_update_leaves_alone_is_not_held_against_it() {
        let rules = Rules::new(&json!({"type": "object", "properties": {
            "a": {"type": "string", "maxLength": 1},
            "l": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
                "items": {"type": "object", "properties": {"v": {"type": "integer", "maximum": 1}}}},
        }}));
        let old = json!({"a": "long", "l": [{"k": "x", "v": 5}]});
        let check = |new: Value| {
            let mut errors = Vec::new();
            rules.validate(&new, Some(&old), "", &mut errors);
            errors.iter().map(|error| error.path.clone()).collect::<Vec<_>>()
        };
        assert!(check(json!({"a": "long", "b": 1, "l": [{"k": "y", "v": 1}, {"k": "x", "v": 5}]})).is_empty());
        assert_eq!(check(json!({"a": "longer", "l": [{"k": "x", "v": 6}]})), ["a", "l[0].v"]);
    }
}

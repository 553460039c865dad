//! An object's value seen through its schema, as structured merge sees it.
//!
//! In: a schema and a value. Out: whether the value is a leaf, a struct or map to descend into, or a list whose items
//! have an identity; the set of fields a value mentions; what is wrong with a value that someone applies.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::fieldset::FieldSet;
use super::path::PathElement;
use crate::error::quote;
use crate::schema::{ListType, MapType, SchemaRef, Text, TypeKind};

/// What is known of a value's type.
#[derive(Debug, Clone, Copy)]
pub(super) enum Type<'a> {
    /// A schema.
    Schema(SchemaRef<'a>),
    /// Unknown fields of a custom kind: maps are merged, everything else is replaced.
    Deduced,
    /// Free-form content of a built-in kind: replaced as a whole.
    Opaque,
}

/// How to treat a value.
pub(super) enum Shape<'a, 'v> {
    /// Replaced as a whole.
    Leaf,
    /// A struct or map, merged key by key; `None` stands for null.
    Map(Option<&'v Map<String, Value>>),
    /// A list whose items have an identity; `None` stands for null.
    List(Option<&'v Vec<Value>>, ListOf<'a>),
}

/// A list whose items have an identity.
#[derive(Clone, Copy)]
pub(super) struct ListOf<'a> {
    schema: SchemaRef<'a>,
}

impl<'a> Type<'a> {
    /// How to treat a value of this type. A value of the wrong type is a leaf.
    pub fn shape<'v>(self, value: &'v Value) -> Shape<'a, 'v> {
        match self {
            Type::Opaque => Shape::Leaf,
            Type::Deduced => match value {
                Value::Object(map) => Shape::Map(Some(map)),
                _ => Shape::Leaf,
            },
            Type::Schema(schema) => match (schema.kind(), value) {
                (TypeKind::Any, _) => self.untyped().shape(value),
                (TypeKind::Object | TypeKind::Map, Value::Object(_) | Value::Null)
                    if schema.map_type() == MapType::Granular =>
                {
                    Shape::Map(value.as_object())
                }
                (TypeKind::Array, Value::Array(_) | Value::Null) if schema.list_type() != ListType::Atomic => {
                    Shape::List(value.as_array(), ListOf { schema })
                }
                _ => Shape::Leaf,
            },
        }
    }

    /// What a value without a declared structure is, under this type.
    fn untyped(self) -> Type<'a> {
        match self {
            Type::Schema(schema) if schema.preserve_unknown() => Type::Deduced,
            Type::Schema(_) => Type::Opaque,
            other => other,
        }
    }

    /// Whether a struct declares this field.
    pub fn declares(self, name: &str) -> bool {
        matches!(self, Type::Schema(schema) if schema.field(name).is_some())
    }

    /// The type of a struct's field or of a map's value.
    pub fn field(self, name: &str) -> Type<'a> {
        match self {
            Type::Schema(schema) => match schema.field(name).or_else(|| schema.values()) {
                Some(field) => Type::Schema(field),
                None => self.untyped(),
            },
            other => other,
        }
    }

    /// The step to a struct's field or a map's entry, and the type there.
    pub fn step(self, name: &str) -> (PathElement, Type<'a>) {
        if let Type::Schema(schema) = self
            && let Some((declared, field)) = schema.declared(name)
        {
            // The name of a built-in field costs nothing to keep.
            return (PathElement::Field(declared.clone()), Type::Schema(field));
        }
        (PathElement::Field(name.to_owned().into()), self.field(name))
    }

    /// The type of a list's items.
    pub fn item(self) -> Type<'a> {
        match self {
            Type::Schema(schema) => schema.items().map_or_else(|| self.untyped(), Type::Schema),
            other => other,
        }
    }

    /// Whether a null is dropped rather than kept as a value.
    pub fn drops_null(self) -> bool {
        match self {
            Type::Schema(schema) => !schema.nullable(),
            Type::Deduced | Type::Opaque => false,
        }
    }
}

impl<'a> ListOf<'a> {
    /// The type of the items.
    pub fn item(self) -> Type<'a> {
        Type::Schema(self.schema).item()
    }

    /// The identity of an item, or why it has none.
    pub fn element(self, item: &Value) -> Result<PathElement, String> {
        if self.schema.list_type() == ListType::Set {
            return match item {
                Value::Object(_) => Err("associative list without keys has an element that's a map type".to_owned()),
                Value::Array(_) => Err("not supported: associative list with lists as elements".to_owned()),
                Value::Null => Err("associative list without keys has an element that's an explicit null".to_owned()),
                scalar => Ok(PathElement::Value(scalar.clone())),
            };
        }
        let map = match item {
            Value::Object(map) => map,
            Value::Null => return Err("associative list with keys may not have a null element".to_owned()),
            _ => return Err("associative list with keys may not have non-map elements".to_owned()),
        };
        let items = self.schema.items();
        let mut keys: Vec<(Text, Value)> = Vec::with_capacity(self.schema.list_map_keys().len());
        for key in self.schema.list_map_keys() {
            let default = || items.and_then(|i| i.field(key)).and_then(|field| field.default());
            if let Some(value) = map.get(key.as_ref()).or_else(default) {
                keys.push((key.clone(), value.clone()));
            }
        }
        if keys.is_empty() {
            let names: Vec<String> = self.schema.list_map_keys().iter().map(|k| quote(k)).collect();
            return Err(format!(
                "associative list with keys has an element that omits all key fields [{}] (and doesn't have default \
                 values for any key fields)",
                names.join(" ")
            ));
        }
        keys.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(PathElement::Key(keys))
    }

    /// The identities of all items; `None` if one has none, and the list can only be treated as a whole.
    pub fn elements(self, items: &[Value]) -> Option<Vec<PathElement>> {
        items.iter().map(|item| self.element(item).ok()).collect()
    }
}

/// The fields a value mentions: every leaf, list item and map entry, and structs that are empty or null.
pub(super) fn fields_of(ty: Type<'_>, value: &Value) -> FieldSet {
    let mut set = FieldSet::new();
    collect(ty, value, &mut set);
    set
}

/// Fills `set` with what lies below the value; true if the value itself is a leaf.
fn collect(ty: Type<'_>, value: &Value, set: &mut FieldSet) -> bool {
    match ty.shape(value) {
        Shape::Leaf => return true,
        Shape::Map(map) => {
            for (key, value) in map.into_iter().flatten() {
                let mut below = FieldSet::new();
                let (step, field) = ty.step(key);
                let leaf = collect(field, value, &mut below);
                let empty = value.is_null() || value.as_object().is_some_and(Map::is_empty);
                set.put(step, leaf || empty || !ty.declares(key), below);
            }
        }
        Shape::List(items, list) => {
            let items = items.map(Vec::as_slice).unwrap_or_default();
            let Some(elements) = list.elements(items) else { return true };
            let repeated = repeated(&elements);
            for ((element, item), repeated) in elements.into_iter().zip(items).zip(repeated) {
                let mut below = FieldSet::new();
                // Of items that share one identity only the identity is owned.
                if !repeated {
                    collect(list.item(), item, &mut below);
                }
                set.put(element, true, below);
            }
        }
    }
    false
}

/// Everything below a value that is there as a whole: every step is a member, leaf or not. `None` if the value is a leaf.
pub(super) fn everything_below(ty: Type<'_>, value: &Value) -> Option<FieldSet> {
    let mut set = FieldSet::new();
    match ty.shape(value) {
        Shape::Leaf => return None,
        Shape::Map(map) => {
            for (key, value) in map.into_iter().flatten() {
                let (step, field) = ty.step(key);
                set.put(step, true, everything_below(field, value).unwrap_or_default());
            }
        }
        Shape::List(items, list) => {
            let items = items.map(Vec::as_slice).unwrap_or_default();
            let elements = list.elements(items)?;
            let repeated = repeated(&elements);
            for ((element, item), repeated) in elements.into_iter().zip(items).zip(repeated) {
                // Of items that share one identity only the identity counts.
                let below = if repeated { None } else { everything_below(list.item(), item) };
                set.put(element, true, below.unwrap_or_default());
            }
        }
    }
    Some(set)
}

/// Of each identity, whether several items have it.
fn repeated(elements: &[PathElement]) -> Vec<bool> {
    if elements.len() < 2 {
        return vec![false; elements.len()];
    }
    let mut count: BTreeMap<&PathElement, usize> = BTreeMap::new();
    for element in elements {
        *count.entry(element).or_default() += 1;
    }
    elements.iter().map(|element| count[element] > 1).collect()
}

/// What is wrong with a configuration that someone applies: fields the schema does not declare, wrong shapes, list
/// items without an identity or with the same one.
pub(super) fn problems(ty: Type<'_>, value: &Value) -> Vec<String> {
    let mut found = Vec::new();
    check(ty, value, &mut String::new(), &mut found);
    found
}

/// The paths of lists, maps and structs in a value that can only be replaced as a whole.
pub(super) fn atomics(ty: Type<'_>, value: &Value) -> Vec<String> {
    let mut found = Vec::new();
    find_atomics(ty, value, &mut String::new(), &mut found);
    found
}

fn find_atomics(ty: Type<'_>, value: &Value, path: &mut String, found: &mut Vec<String>) {
    let Type::Schema(schema) = ty else { return };
    let length = path.len();
    match (schema.kind(), value) {
        (TypeKind::Object | TypeKind::Map, Value::Object(map)) => {
            if schema.map_type() == MapType::Atomic {
                found.push(path.clone());
            }
            for (key, value) in map.iter().filter(|(key, _)| ty.declares(key)) {
                path.push('.');
                path.push_str(key);
                find_atomics(ty.field(key), value, path, found);
                path.truncate(length);
            }
        }
        (TypeKind::Array, Value::Array(items)) => {
            if schema.list_type() == ListType::Atomic {
                found.push(path.clone());
            }
            for (at, item) in items.iter().enumerate() {
                path.push_str(&format!("[{at}]"));
                find_atomics(ty.item(), item, path, found);
                path.truncate(length);
            }
        }
        _ => {}
    }
}

fn check(ty: Type<'_>, value: &Value, path: &mut String, found: &mut Vec<String>) {
    let Type::Schema(schema) = ty else { return };
    let note = |found: &mut Vec<String>, path: &str, text: String| {
        found.push(if path.is_empty() { text } else { format!("{path}: {text}") });
    };
    let length = path.len();
    match (schema.kind(), value) {
        (_, Value::Null) | (TypeKind::Any, _) => {}
        (TypeKind::Object | TypeKind::Map, Value::Object(map)) => {
            for (key, value) in map {
                path.push('.');
                path.push_str(key);
                if schema.kind() == TypeKind::Object && !ty.declares(key) && !schema.preserve_unknown() {
                    note(found, path, "field not declared in schema".to_owned());
                } else {
                    check(ty.field(key), value, path, found);
                }
                path.truncate(length);
            }
        }
        (TypeKind::Array, Value::Array(items)) => check_items(schema, items, path, found),
        (TypeKind::Object | TypeKind::Map, other) => note(found, path, format!("expected map, got {other}")),
        (TypeKind::Array, other) => note(found, path, format!("expected list, got {other}")),
        (TypeKind::Integer | TypeKind::Number, Value::Number(_)) | (TypeKind::Boolean, Value::Bool(_)) => {}
        (TypeKind::Integer | TypeKind::Number, other) => {
            note(found, path, format!("expected numeric (int or float), got {}", kind_name(other)));
        }
        (TypeKind::Boolean, other) => note(found, path, format!("expected boolean, got {other}")),
        (TypeKind::String | TypeKind::IntOrString, Value::Object(_) | Value::Array(_)) => {
            note(found, path, format!("expected string, got {value}"));
        }
        (TypeKind::String | TypeKind::IntOrString, _) => {}
    }
}

fn check_items(schema: SchemaRef<'_>, items: &[Value], path: &mut String, found: &mut Vec<String>) {
    let length = path.len();
    let list = ListOf { schema };
    let mut seen = BTreeSet::new();
    for (i, item) in items.iter().enumerate() {
        if schema.list_type() == ListType::Atomic {
            path.push_str(&format!("[{i}]"));
        } else {
            match list.element(item) {
                Ok(element) => {
                    let shown = element.to_string();
                    if !seen.insert(element) {
                        found.push(format!("{path}: duplicate entries for key {shown}"));
                    }
                    path.push_str(&shown);
                }
                Err(why) => {
                    found.push(format!("{path}: element {i}: {why}"));
                    return;
                }
            }
        }
        check(list.item(), item, path, found);
        path.truncate(length);
    }
}

fn kind_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "list",
        Value::Object(_) => "map",
    }
}

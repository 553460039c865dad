//! From the OpenAPI schema of a custom kind to an arena of nodes.
//!
//! In: an `openAPIV3Schema` that is structural. Out: a [`Structural`], whose root has `apiVersion`, `kind` and the
//! built-in `metadata` besides what the schema declares. Rules about values (enumerations, limits, expressions) are no part of
//! it: merging, pruning and defaulting need only the structure.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::{Extras, Field, ListType, MapType, Node, SchemaId, SchemaRef, SchemaSet, Text, TypeKind};

const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// The structure of a custom kind.
#[derive(Debug, Clone)]
pub struct Structural {
    /// The arena.
    pub set: Arc<SchemaSet>,
    /// The object itself.
    pub root: SchemaId,
}

impl Structural {
    /// Reads a structural schema; `preserve` keeps unknown fields at the root.
    pub fn new(schema: &Value, preserve: bool) -> Structural {
        Structural::build(|mut builder| builder.object(schema, preserve))
    }

    /// The structure of a value inside an object, without the fields of an object of its own (for defaults).
    pub fn of_value(schema: &Value) -> Structural {
        Structural::build(|mut builder| builder.node(schema))
    }

    fn build(root: impl FnOnce(Builder<'_>) -> SchemaId) -> Structural {
        let mut set = SchemaSet { custom: true, ..SchemaSet::default() };
        let root = root(Builder { set: &mut set });
        set.note_defaults();
        Structural { set: Arc::new(set), root }
    }

    /// The schema of an object.
    pub fn schema(&self) -> SchemaRef<'_> {
        self.set.at(self.root)
    }
}

struct Builder<'s> {
    set: &'s mut SchemaSet,
}

fn flag(schema: &Value, key: &str) -> bool {
    schema.get(key).and_then(Value::as_bool).unwrap_or_default()
}

fn text<'a>(schema: &'a Value, key: &str) -> &'a str {
    schema.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn texts(schema: &Value, key: &str) -> Vec<Text> {
    let list = schema.get(key).and_then(Value::as_array).into_iter().flatten();
    list.filter_map(Value::as_str).map(|t| Text::Owned(t.to_owned())).collect()
}

impl Builder<'_> {
    fn push(&mut self, node: Node) -> SchemaId {
        let id = SchemaId(u32::try_from(self.set.nodes.len()).unwrap_or(u32::MAX));
        self.set.nodes.push(node);
        id
    }

    /// A whole object, at the root or embedded.
    fn object(&mut self, schema: &Value, preserve: bool) -> SchemaId {
        let mut fields = self.properties(schema);
        let metadata = SchemaSet::builtin().get(OBJECT_META).map(|meta| meta.id());
        for name in ["apiVersion", "kind"] {
            fields.retain(|field| field.name != name);
            let id = self.push(Node { kind: TypeKind::String, ..Node::default() });
            fields.push(field(name, id));
        }
        if let Some(metadata) = metadata {
            fields.retain(|field| field.name != "metadata");
            let id = self.push(Node { builtin: Some(metadata), ..Node::default() });
            fields.push(field("metadata", id));
        }
        let mut node = Self::common(schema);
        node.kind = TypeKind::Object;
        node.preserve_unknown |= preserve;
        self.seal(&mut node, fields);
        self.push(node)
    }

    fn properties(&mut self, schema: &Value) -> Vec<Field> {
        let empty = Map::new();
        let properties = schema.get("properties").and_then(Value::as_object).unwrap_or(&empty);
        properties
            .iter()
            .map(|(name, schema)| Field { name: Text::Owned(name.clone()), ..field("", self.node(schema)) })
            .collect()
    }

    fn seal(&mut self, node: &mut Node, mut fields: Vec<Field>) {
        fields.sort_by(|a, b| a.name.cmp(&b.name));
        let start = u32::try_from(self.set.fields.len()).unwrap_or(u32::MAX);
        self.set.fields.extend(fields);
        let end = u32::try_from(self.set.fields.len()).unwrap_or(u32::MAX);
        node.fields = (start, end);
    }

    fn node(&mut self, schema: &Value) -> SchemaId {
        if flag(schema, "x-kubernetes-embedded-resource") {
            return self.object(schema, false);
        }
        let mut node = Self::common(schema);
        match text(schema, "type") {
            "object" => self.fill_object(schema, &mut node),
            "array" => self.fill_list(schema, &mut node),
            "string" => node.kind = TypeKind::String,
            "integer" => node.kind = TypeKind::Integer,
            "number" => node.kind = TypeKind::Number,
            "boolean" => node.kind = TypeKind::Boolean,
            _ if flag(schema, "x-kubernetes-int-or-string") => node.kind = TypeKind::IntOrString,
            // No type: what is declared below is still pruned and defaulted if it turns out to be such a thing.
            _ if schema.get("properties").is_some() || schema.get("additionalProperties").is_some() => {
                self.fill_object(schema, &mut node);
            }
            _ if schema.get("items").is_some() => self.fill_list(schema, &mut node),
            _ => {}
        }
        self.push(node)
    }

    fn fill_object(&mut self, schema: &Value, node: &mut Node) {
        match schema.get("additionalProperties") {
            Some(Value::Object(values)) => {
                node.kind = TypeKind::Map;
                node.element = Some(self.node(&Value::Object(values.clone())));
            }
            // Any value, without a structure: unknown to the schema but allowed by it.
            Some(Value::Bool(true)) => {
                node.kind = TypeKind::Map;
                node.element = Some(self.push(Node { preserve_unknown: true, nullable: true, ..Node::default() }));
            }
            _ => {
                let fields = self.properties(schema);
                node.kind = TypeKind::Object;
                self.seal(node, fields);
            }
        }
    }

    fn fill_list(&mut self, schema: &Value, node: &mut Node) {
        node.kind = TypeKind::Array;
        node.element = schema.get("items").map(|items| self.node(items));
    }

    fn common(schema: &Value) -> Node {
        let list_type = match text(schema, "x-kubernetes-list-type") {
            "set" => ListType::Set,
            "map" => ListType::Map,
            _ => ListType::Atomic,
        };
        let map_type =
            if text(schema, "x-kubernetes-map-type") == "atomic" { MapType::Atomic } else { MapType::Granular };
        let extras = Extras {
            list_map_keys: texts(schema, "x-kubernetes-list-map-keys"),
            default: schema.get("default").filter(|default| !default.is_null()).cloned(),
            required: texts(schema, "required"),
            ..Extras::default()
        };
        Node {
            list_type,
            map_type,
            nullable: flag(schema, "nullable"),
            preserve_unknown: flag(schema, "x-kubernetes-preserve-unknown-fields"),
            embedded: flag(schema, "x-kubernetes-embedded-resource"),
            format: Some(text(schema, "format")).filter(|f| !f.is_empty()).map(|f| Text::Owned(f.to_owned())),
            extras: (extras != Extras::default()).then(|| Box::new(extras)),
            ..Node::default()
        }
    }
}

fn field(name: &'static str, schema: SchemaId) -> Field {
    Field { name: Text::Borrowed(name), schema, defaulted: false, proto: 0, proto_outer: 0 }
}

//! Types of expressions, and how a schema is seen by them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, LazyLock};

use serde_json::Value;

use crate::schema::{SchemaRef, TypeKind};

/// A type of the expression language.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "most variants are the types of the same names")]
pub enum Type {
    /// Known at run time only.
    Dyn,
    Null,
    Bool,
    Int,
    Uint,
    Double,
    String,
    Bytes,
    Duration,
    Timestamp,
    /// The type of types.
    Type,
    List(Arc<Type>),
    Map(Arc<Type>, Arc<Type>),
    Optional(Arc<Type>),
    /// A struct whose fields are known.
    Object(Arc<ObjectType>),
    /// A struct that an expression makes: `Object.spec`. Whether it has a field shows when it is merged.
    Made(Arc<str>),
    /// A type of a library: `kubernetes.Quantity`, `net.IP`, ….
    Opaque(&'static str),
}

/// A struct.
#[derive(Debug, Clone, Default)]
pub struct ObjectType {
    /// Its name, for messages.
    pub name: String,
    /// Fields by the name that expressions use.
    pub fields: BTreeMap<String, Field>,
}

/// A field of a struct.
#[derive(Debug, Clone)]
pub struct Field {
    /// Its name in JSON.
    pub json: String,
    /// Its type.
    pub ty: Type,
}

pub(super) static DYN: Type = Type::Dyn;
static LIST_OF_DYN: LazyLock<Type> = LazyLock::new(|| Type::List(Arc::new(Type::Dyn)));

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Type::Dyn => f.write_str("dyn"),
            Type::Null => f.write_str("null"),
            Type::Bool => f.write_str("bool"),
            Type::Int => f.write_str("int"),
            Type::Uint => f.write_str("uint"),
            Type::Double => f.write_str("double"),
            Type::String => f.write_str("string"),
            Type::Bytes => f.write_str("bytes"),
            Type::Duration => f.write_str("google.protobuf.Duration"),
            Type::Timestamp => f.write_str("google.protobuf.Timestamp"),
            Type::Type => f.write_str("type"),
            Type::List(of) => write!(f, "list({of})"),
            Type::Map(key, value) => write!(f, "map({key}, {value})"),
            Type::Optional(of) => write!(f, "optional_type({of})"),
            Type::Object(object) => f.write_str(&object.name),
            Type::Made(name) => f.write_str(name),
            Type::Opaque(name) => f.write_str(name),
        }
    }
}

/// Words that the language keeps for itself.
const RESERVED: [&str; 21] = [
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

/// Whether a variable may have this name.
pub fn is_identifier(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
        && !RESERVED.contains(&text)
}

/// The name by which expressions use a field; none if there is no way to write it.
pub fn escape(name: &str) -> Option<String> {
    if RESERVED.contains(&name) {
        return Some(format!("__{name}__"));
    }
    let mut out = String::with_capacity(name.len());
    let mut chars = name.chars().peekable();
    if chars.peek().is_none_or(|c| c.is_ascii_digit()) {
        return None;
    }
    while let Some(c) = chars.next() {
        match c {
            '_' if chars.peek() == Some(&'_') => {
                chars.next();
                out.push_str("__underscores__");
            }
            '.' => out.push_str("__dot__"),
            '-' => out.push_str("__dash__"),
            '/' => out.push_str("__slash__"),
            c if c.is_ascii_alphanumeric() || c == '_' => out.push(c),
            _ => return None,
        }
    }
    Some(out)
}

impl ObjectType {
    /// A struct of these fields, by their JSON names.
    pub fn new(name: &str, fields: impl IntoIterator<Item = (String, Type)>) -> ObjectType {
        let fields = fields.into_iter().filter_map(|(json, ty)| Some((escape(&json)?, Field { json, ty }))).collect();
        ObjectType { name: name.to_owned(), fields }
    }
}

impl Type {
    /// The type of a list of these.
    pub fn list(of: Type) -> Type {
        Type::List(Arc::new(of))
    }

    /// The type of a map from text to these.
    pub fn map(of: Type) -> Type {
        Type::Map(Arc::new(Type::String), Arc::new(of))
    }

    /// The type of a value with a structural schema (of a custom kind); none where expressions cannot see it. `root`: the
    /// value is a whole object.
    pub fn of_structural(schema: &Value, root: bool) -> Option<Type> {
        object_of(schema, root, "object")
    }

    /// The type of a value of a built-in schema. Named types repeat, so that they are made to some depth only; what is deeper is
    /// `dyn`.
    pub fn of_schema(schema: SchemaRef<'_>) -> Type {
        of_schema(schema, 0)
    }

    pub(super) fn is_dyn(&self) -> bool {
        matches!(self, Type::Dyn)
    }

    /// Whether a value of this type may stand where `wanted` is asked for.
    pub fn fits(&self, wanted: &Type) -> bool {
        match (self, wanted) {
            (Type::Dyn, _) | (_, Type::Dyn) => true,
            (Type::Null, other) | (other, Type::Null) if other.may_be_null() => true,
            (Type::List(a), Type::List(b)) | (Type::Optional(a), Type::Optional(b)) => a.fits(b),
            (Type::Map(k, v), Type::Map(l, w)) => k.fits(l) && v.fits(w),
            (Type::Object(a), Type::Object(b)) => {
                Arc::ptr_eq(a, b) || a.name == b.name && a.fields.len() == b.fields.len()
            }
            (Type::Opaque(a), Type::Opaque(b)) => a == b,
            (Type::Made(a), Type::Made(b)) => a == b,
            (a, b) => std::mem::discriminant(a) == std::mem::discriminant(b),
        }
    }

    fn may_be_null(&self) -> bool {
        matches!(
            self,
            Type::Object(_) | Type::Made(_) | Type::Optional(_) | Type::Duration | Type::Timestamp | Type::Opaque(_)
        )
    }

    /// Whether this is that type and no other: what is known at run time only is not.
    pub fn is(&self, wanted: &Type) -> bool {
        match (self, wanted) {
            (Type::Dyn, Type::Dyn) => true,
            (Type::Dyn, _) | (_, Type::Dyn) => false,
            (Type::List(a), Type::List(b)) | (Type::Optional(a), Type::Optional(b)) => a.is(b),
            (Type::Map(k, v), Type::Map(l, w)) => k.is(l) && v.is(w),
            (a, b) => std::mem::discriminant(a) == std::mem::discriminant(b) && a.fits(b),
        }
    }

    /// The common type of two; `dyn` if they have none.
    pub(super) fn join(self, other: &Type) -> Type {
        if self.is_dyn() || other.is_dyn() || !self.fits(other) { Type::Dyn } else { self }
    }

    pub(super) fn list_of_dyn() -> &'static Type {
        &LIST_OF_DYN
    }
}

fn flag(schema: &Value, key: &str) -> bool {
    schema.get(key).and_then(Value::as_bool).unwrap_or_default()
}

fn object_of(schema: &Value, root: bool, name: &str) -> Option<Type> {
    if flag(schema, "x-kubernetes-int-or-string") {
        return Some(Type::Dyn);
    }
    let text = |key: &str| schema.get(key).and_then(Value::as_str).unwrap_or_default();
    Some(match text("type") {
        "boolean" => Type::Bool,
        "integer" => Type::Int,
        "number" => Type::Double,
        "string" => match text("format") {
            "byte" => Type::Bytes,
            "duration" => Type::Duration,
            "date" | "date-time" => Type::Timestamp,
            _ => Type::String,
        },
        "array" => Type::list(object_of(schema.get("items")?, false, &format!("{name}.@idx"))?),
        "object" => {
            if let Some(values) = schema.get("additionalProperties").filter(|values| values.is_object()) {
                return Some(Type::map(object_of(values, false, &format!("{name}.@elem"))?));
            }
            let properties = schema.get("properties").and_then(Value::as_object);
            let mut fields: BTreeMap<String, Type> = properties
                .into_iter()
                .flatten()
                .filter_map(|(key, of)| Some((key.clone(), object_of(of, false, &format!("{name}.{key}"))?)))
                .collect();
            if root || flag(schema, "x-kubernetes-embedded-resource") {
                let metadata = [("name".to_owned(), Type::String), ("generateName".to_owned(), Type::String)];
                fields.insert("apiVersion".to_owned(), Type::String);
                fields.insert("kind".to_owned(), Type::String);
                let metadata = ObjectType::new(&format!("{name}.metadata"), metadata);
                fields.insert("metadata".to_owned(), Type::Object(Arc::new(metadata)));
            }
            Type::Object(Arc::new(ObjectType::new(name, fields)))
        }
        _ => return None,
    })
}

/// How deep built-in types are seen.
const BUILTIN_DEPTH_MAX: usize = 12;

fn of_schema(schema: SchemaRef<'_>, depth: usize) -> Type {
    if depth > BUILTIN_DEPTH_MAX {
        return Type::Dyn;
    }
    match schema.kind() {
        TypeKind::Boolean => Type::Bool,
        TypeKind::Integer => Type::Int,
        TypeKind::Number => Type::Double,
        TypeKind::String => match schema.format() {
            Some("byte") => Type::Bytes,
            Some("date-time" | "micro-time") => Type::Timestamp,
            _ => Type::String,
        },
        TypeKind::Array => Type::list(schema.items().map_or(Type::Dyn, |items| of_schema(items, depth + 1))),
        TypeKind::Map => Type::map(schema.values().map_or(Type::Dyn, |values| of_schema(values, depth + 1))),
        TypeKind::Object => {
            let name = schema.type_name().unwrap_or("object");
            // A schema of schemas has no end.
            if name.ends_with("JSONSchemaProps") {
                return Type::Dyn;
            }
            let fields = schema.fields().map(|(field, of)| (field.to_owned(), of_schema(of, depth + 1)));
            Type::Object(Arc::new(ObjectType::new(name, fields)))
        }
        TypeKind::IntOrString | TypeKind::Any => Type::Dyn,
    }
}

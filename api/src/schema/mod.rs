//! Schemas: what an object of a kind may hold.
//!
//! In: the generated table of built-in types ([`SchemaSet::builtin`]) or an OpenAPI schema. Out: [`SchemaRef`], a
//! cheap handle that every part of the engine walks: defaulting, pruning, validation, merging, printing.
//!
//! A [`SchemaSet`] is an arena. A *use* of a type (a field, a list's items) is a node of its own that carries what
//! belongs to the use (default, list type, patch keys) and points at the node of the named type for its structure, so
//! recursion is only ids.

mod builtin;
mod describe;
pub mod format;
pub mod rules;
mod structural;
pub mod walk;

use std::borrow::Cow;

use serde_json::Value;

pub use describe::Descriptions;
pub use structural::Structural;

/// Text that is static for built-in types and owned for others.
pub type Text = Cow<'static, str>;

/// The index of a node in its [`SchemaSet`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SchemaId(pub(crate) u32);

/// What shape a value has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum TypeKind {
    /// A struct: named fields.
    Object,
    /// A map from text to values of one type.
    Map,
    /// A list.
    Array,
    /// Text; [`SchemaRef::format`] says more (`quantity`, `date-time`, `byte`, …).
    String,
    /// A whole number; the format is `int32` or `int64`.
    Integer,
    /// A floating-point number.
    Number,
    /// True or false.
    Boolean,
    /// A whole number or text.
    IntOrString,
    /// Anything.
    #[default]
    Any,
}

/// How server-side apply merges a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum ListType {
    /// Replaced as a whole.
    #[default]
    Atomic,
    /// A set of scalars.
    Set,
    /// Items with keys.
    Map,
}

/// How server-side apply merges a map or struct.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum MapType {
    /// Field by field.
    #[default]
    Granular,
    /// Replaced as a whole.
    Atomic,
}

/// How a strategic merge patch treats a field: `patchStrategy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct PatchStrategy {
    /// Lists merge by key or as a set.
    pub merge: bool,
    /// The value is replaced.
    pub replace: bool,
    /// Only the keys that the patch names remain.
    pub retain_keys: bool,
}

/// Facts that few nodes have, kept out of [`Node`] to keep the arena small.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Extras {
    pub list_map_keys: Vec<Text>,
    pub patch_strategy: PatchStrategy,
    pub patch_merge_key: Option<Text>,
    pub default: Option<Value>,
    pub required: Vec<Text>,
    /// In protobuf this list (or each list that is a map's value) is a message of `items`.
    pub wire_items: bool,
    /// Go has no pointer here: a zero is absence and gets the default.
    pub zero_is_absent: bool,
    /// Go writes this scalar in JSON although it is zero: a pointer, or one that is never left out.
    pub zero_is_kept: bool,
}

/// One field of a struct.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Field {
    pub name: Text,
    pub schema: SchemaId,
    /// Whether it has a default: few fields have one, and all of a struct's are gone through to find them.
    pub defaulted: bool,
    /// The protobuf field number; 0 where there is none.
    pub proto: u16,
    /// The numbers of the fields whose messages this field is inlined from, a byte each, outermost first; 0 where it is
    /// not inlined.
    pub proto_outer: u16,
}

/// A field as protobuf knows it.
#[derive(Debug, Clone, Copy)]
pub struct ProtoField<'a> {
    /// The JSON name.
    pub name: &'a str,
    /// Its number in the message it stands in; 0: it is not in protobuf.
    pub number: u16,
    /// The numbers of the messages it is inlined from, outermost first; 0 for none.
    pub inlined: [u8; 2],
    /// The schema.
    pub schema: SchemaRef<'a>,
}

impl ProtoField<'_> {
    /// The numbers that lead to it: those of the messages it is inlined from and its own.
    pub fn path(&self) -> impl Iterator<Item = u16> {
        self.inlined.into_iter().filter(|number| *number != 0).map(u16::from).chain([self.number])
    }
}

/// One node of the arena.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Node {
    pub kind: TypeKind,
    pub list_type: ListType,
    pub map_type: MapType,
    pub nullable: bool,
    pub preserve_unknown: bool,
    pub embedded: bool,
    /// The named type whose structure this use has.
    pub target: Option<SchemaId>,
    /// This node stands for a node of the built-in set.
    pub builtin: Option<SchemaId>,
    /// Items of a list, values of a map.
    pub element: Option<SchemaId>,
    /// Where this struct's fields stand in [`SchemaSet::fields`], sorted by name.
    pub fields: (u32, u32),
    pub format: Option<Text>,
    /// The definition's name, `io.k8s.api.core.v1.Pod`; named types only.
    pub name: Option<Text>,
    pub extras: Option<Box<Extras>>,
}

/// An arena of schema nodes.
#[derive(Debug, Default)]
pub struct SchemaSet {
    pub(crate) nodes: Vec<Node>,
    pub(crate) fields: Vec<Field>,
    /// Named types, sorted by name.
    pub(crate) types: Vec<(Text, SchemaId)>,
    /// Whether these are the schemas of custom kinds, which [`walk::clean`] treats as Kubernetes does: values of a
    /// wrong type stay for the validation to refuse.
    pub(crate) custom: bool,
}

impl SchemaSet {
    /// The schemas of every built-in type, decoded from the generated table at first use.
    pub fn builtin() -> &'static SchemaSet {
        builtin::set()
    }

    /// The named type, by its definition name: `io.k8s.api.core.v1.Pod`.
    pub fn get(&self, name: &str) -> Option<SchemaRef<'_>> {
        let at = self.types.binary_search_by(|(n, _)| n.as_ref().cmp(name)).ok()?;
        Some(self.at(self.types[at].1))
    }

    /// The type of a built-in kind, whether or not it is a resource.
    pub fn of_kind(&self, gvk: &crate::kinds::Gvk) -> Option<SchemaRef<'_>> {
        self.get(&builtin::kind_name(gvk))
    }

    /// A handle on the node with this id. Ids come from the same set.
    pub fn at(&self, id: SchemaId) -> SchemaRef<'_> {
        match self.nodes[id.0 as usize].builtin {
            Some(id) => SchemaRef { set: SchemaSet::builtin(), id },
            None => SchemaRef { set: self, id },
        }
    }

    /// Notes at each field whether it has a default. A set is complete only then.
    fn note_defaults(&mut self) {
        for at in 0..self.fields.len() {
            self.fields[at].defaulted = self.at(self.fields[at].schema).default().is_some();
        }
    }

    /// All named types, sorted by name.
    pub fn types(&self) -> impl Iterator<Item = (&str, SchemaRef<'_>)> {
        self.types.iter().map(|(name, id)| (name.as_ref(), self.at(*id)))
    }
}

fn proto_field<'a>(set: &'a SchemaSet, field: &'a Field) -> ProtoField<'a> {
    let inlined = field.proto_outer.to_be_bytes();
    ProtoField { name: field.name.as_ref(), number: field.proto, inlined, schema: set.at(field.schema) }
}

/// A cheap handle on one schema.
#[derive(Clone, Copy)]
pub struct SchemaRef<'a> {
    set: &'a SchemaSet,
    id: SchemaId,
}

impl std::fmt::Debug for SchemaRef<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SchemaRef({:?}, {:?})", self.kind(), self.type_name().unwrap_or_default())
    }
}

impl<'a> SchemaRef<'a> {
    fn node(&self) -> &'a Node {
        &self.set.nodes[self.id.0 as usize]
    }

    /// The node that holds the structure: the named type for a use of one.
    fn structure(&self) -> &'a Node {
        let node = self.node();
        match node.target {
            Some(target) => &self.set.nodes[target.0 as usize],
            None => node,
        }
    }

    fn extras(&self) -> Option<&'a Extras> {
        self.node().extras.as_deref()
    }

    /// This node's id in its set.
    pub fn id(&self) -> SchemaId {
        self.id
    }

    /// Whether this is (a part of) the schema of a custom kind.
    pub fn is_custom(&self) -> bool {
        self.set.custom
    }

    /// The set this schema belongs to.
    pub fn set(&self) -> &'a SchemaSet {
        self.set
    }

    /// The shape.
    pub fn kind(&self) -> TypeKind {
        self.structure().kind
    }

    /// A struct's field.
    pub fn field(&self, name: &str) -> Option<SchemaRef<'a>> {
        self.field_entry(name).map(|field| self.set.at(field.schema))
    }

    /// A struct's field with its name as the schema has it.
    pub fn declared(&self, name: &str) -> Option<(&'a Text, SchemaRef<'a>)> {
        self.field_entry(name).map(|field| (&field.name, self.set.at(field.schema)))
    }

    fn field_slice(&self) -> &'a [Field] {
        let (start, end) = self.structure().fields;
        &self.set.fields[start as usize..end as usize]
    }

    fn field_entry(&self, name: &str) -> Option<&'a Field> {
        let fields = self.field_slice();
        fields.binary_search_by(|f| f.name.as_ref().cmp(name)).ok().map(|at| &fields[at])
    }

    /// A struct's fields, sorted by name.
    pub fn fields(&self) -> impl Iterator<Item = (&'a str, SchemaRef<'a>)> + use<'a> {
        let set = self.set;
        self.field_slice().iter().map(move |f| (f.name.as_ref(), set.at(f.schema)))
    }

    /// A struct's fields with their protobuf numbers.
    pub fn proto_fields(&self) -> impl Iterator<Item = ProtoField<'a>> + use<'a> {
        let set = self.set;
        self.field_slice().iter().map(move |field| proto_field(set, field))
    }

    /// A struct's field with its protobuf number.
    pub fn proto_field(&self, name: &str) -> Option<ProtoField<'a>> {
        self.field_entry(name).map(|field| proto_field(self.set, field))
    }

    /// Whether protobuf wraps this list, or each list in this map, into a message of `items`.
    pub fn wire_items(&self) -> bool {
        self.extras().is_some_and(|e| e.wire_items)
    }

    /// A list's items.
    pub fn items(&self) -> Option<SchemaRef<'a>> {
        let node = self.structure();
        if node.kind != TypeKind::Array {
            return None;
        }
        node.element.map(|id| self.set.at(id))
    }

    /// A map's values (`additionalProperties`).
    pub fn values(&self) -> Option<SchemaRef<'a>> {
        let node = self.structure();
        if node.kind != TypeKind::Map {
            return None;
        }
        node.element.map(|id| self.set.at(id))
    }

    /// How server-side apply merges this list. Lists without a marker are atomic.
    pub fn list_type(&self) -> ListType {
        self.node().list_type
    }

    /// The keys of a list of type map.
    pub fn list_map_keys(&self) -> &'a [Text] {
        self.extras().map(|e| e.list_map_keys.as_slice()).unwrap_or_default()
    }

    /// How server-side apply merges this map or struct.
    pub fn map_type(&self) -> MapType {
        if self.node().map_type == MapType::Atomic { MapType::Atomic } else { self.structure().map_type }
    }

    /// How a strategic merge patch treats this field.
    pub fn patch_strategy(&self) -> PatchStrategy {
        self.extras().map(|e| e.patch_strategy).unwrap_or_default()
    }

    /// The key by which a strategic merge patch matches this list's items.
    pub fn patch_merge_key(&self) -> Option<&'a str> {
        self.extras().and_then(|e| e.patch_merge_key.as_deref())
    }

    /// The value of an absent field.
    pub fn default(&self) -> Option<&'a Value> {
        self.extras().and_then(|e| e.default.as_ref())
    }

    /// Whether a zero is absence and gets the default.
    pub fn zero_is_absent(&self) -> bool {
        self.extras().is_some_and(|e| e.zero_is_absent)
    }

    /// Whether a zero that was given is shown, as Go shows what a pointer points at.
    pub fn zero_is_kept(&self) -> bool {
        self.extras().is_some_and(|e| e.zero_is_kept)
    }

    /// The names of a struct's required fields.
    pub fn required(&self) -> &'a [Text] {
        self.structure().extras.as_deref().map(|e| e.required.as_slice()).unwrap_or_default()
    }

    /// `int32`, `int64`, `double`, `date-time`, `byte`, `quantity`, …
    pub fn format(&self) -> Option<&'a str> {
        self.structure().format.as_deref()
    }

    /// Whether an explicit null is a value of its own (custom kinds only; a built-in kind's null is absence).
    pub fn nullable(&self) -> bool {
        self.node().nullable
    }

    /// Whether unknown fields stay (`x-kubernetes-preserve-unknown-fields`).
    pub fn preserve_unknown(&self) -> bool {
        self.structure().preserve_unknown
    }

    /// Whether the value is a whole Kubernetes object (`x-kubernetes-embedded-resource`).
    pub fn embedded(&self) -> bool {
        self.structure().embedded
    }

    /// The definition's name, `io.k8s.api.core.v1.PodSpec`, for a named type or a use of one.
    pub fn type_name(&self) -> Option<&'a str> {
        self.structure().name.as_deref()
    }
}

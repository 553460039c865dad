//! Kinds as rows of facts, and the catalog of them.
//!
//! In: the table in [`builtin`]. Out: [`Resource`], which tells every generic part (registry, discovery, OpenAPI,
//! tables, codecs) what is particular to a kind, and [`Catalog`], which finds one.

pub(crate) mod autoscaling;
mod builtin;
mod events;

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use serde_json::Value;

use crate::custom::CustomKind;
use crate::error::ApiError;
use crate::schema::{SchemaRef, SchemaSet, Text};
use crate::strategy::Strategy;

/// A verb of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs, reason = "each variant is the API verb of the same name")]
pub enum Verb {
    Create,
    Delete,
    DeleteCollection,
    Get,
    List,
    Patch,
    Update,
    Watch,
}

impl Verb {
    /// The verb as discovery and authorisation write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Verb::Create => "create",
            Verb::Delete => "delete",
            Verb::DeleteCollection => "deletecollection",
            Verb::Get => "get",
            Verb::List => "list",
            Verb::Patch => "patch",
            Verb::Update => "update",
            Verb::Watch => "watch",
        }
    }
}

/// Group, version and kind.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Gvk {
    /// The API group; empty for core.
    pub group: String,
    /// The version.
    pub version: String,
    /// The kind.
    pub kind: String,
}

impl Gvk {
    /// Makes one.
    pub fn new(group: &str, version: &str, kind: &str) -> Self {
        Gvk { group: group.to_owned(), version: version.to_owned(), kind: kind.to_owned() }
    }

    /// `v1` or `apps/v1`.
    pub fn api_version(&self) -> String {
        api_version(&self.group, &self.version)
    }
}

impl fmt::Display for Gvk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, Kind={}", self.api_version(), self.kind)
    }
}

/// Group, version and resource (plural).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Gvr {
    /// The API group; empty for core.
    pub group: String,
    /// The version.
    pub version: String,
    /// The plural.
    pub resource: String,
}

/// `v1` or `apps/v1`.
pub fn api_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

/// Where a kind keeps what its Scale shows, as dotted paths: `spec.replicas`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScalePaths {
    /// The wanted replicas.
    pub spec: String,
    /// The observed replicas.
    pub status: String,
    /// The selector: a label selector object or its text form.
    pub selector: String,
}

/// A subresource other than `status` and `scale`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subresource {
    /// Its name in the path: `log`.
    pub name: String,
    /// The kind of its body, as discovery tells it.
    pub gvk: Gvk,
    /// What can be done with it.
    pub verbs: Vec<Verb>,
}

/// What hangs below an object's path.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Subresources {
    /// `status`.
    pub status: bool,
    /// `scale`.
    pub scale: Option<ScalePaths>,
    /// The others: `binding`, `eviction`, `log`, `exec`, `attach`, `portforward`, `token`, `finalize`, ….
    pub other: Vec<Subresource>,
}

impl Subresources {
    /// A subresource other than `status` and `scale`, by name.
    pub fn find(&self, name: &str) -> Option<&Subresource> {
        self.other.iter().find(|s| s.name == name)
    }

    /// Whether `name` is a subresource at all.
    pub fn has(&self, name: &str) -> bool {
        match name {
            "status" => self.status,
            "scale" => self.scale.is_some(),
            other => self.find(other).is_some(),
        }
    }
}

/// A field that field selectors may name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SelectableField {
    /// The selector's label: `spec.nodeName`.
    pub label: Text,
    /// The path in the object. Empty lists are not found and give the default.
    pub path: FieldPath,
    /// The value when the path is absent.
    pub absent: Text,
    /// The label of the field whose value it has when it has none of its own.
    pub or_that_of: Option<&'static str>,
}

/// A path of struct fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FieldPath {
    /// Of a built-in kind.
    Fixed(&'static [&'static str]),
    /// Of a custom kind.
    Own(Vec<String>),
}

impl FieldPath {
    /// The first segment and how many follow.
    pub fn first(&self) -> Option<&str> {
        self.segment(0)
    }

    /// The segment at this place.
    pub fn segment(&self, at: usize) -> Option<&str> {
        match self {
            FieldPath::Fixed(path) => path.get(at).copied(),
            FieldPath::Own(path) => path.get(at).map(String::as_str),
        }
    }
}

/// A strategy: one of the program's own, or that of a custom kind.
#[derive(Clone)]
pub enum StrategyRef {
    /// Of a built-in kind.
    Fixed(&'static dyn Strategy),
    /// Of a custom kind.
    Own(Arc<dyn Strategy>),
}

impl Deref for StrategyRef {
    type Target = dyn Strategy;

    fn deref(&self) -> &Self::Target {
        match self {
            StrategyRef::Fixed(strategy) => *strategy,
            StrategyRef::Own(strategy) => strategy.as_ref(),
        }
    }
}

/// A version that is stored in another version's form.
pub trait Conversion: Send + Sync {
    /// This version's object in the stored form.
    fn to_storage(&self, object: Value) -> Result<Value, ApiError>;
    /// A stored object in this version's form.
    fn out_of_storage(&self, object: Value) -> Result<Value, ApiError>;
}

/// Which schema a resource has.
#[derive(Clone)]
pub enum SchemaSource {
    /// A built-in type, by definition name.
    Builtin(&'static str),
    /// A schema of its own (custom kinds).
    Own(Arc<SchemaSet>, crate::schema::SchemaId),
}

/// One kind in one version: everything generic code needs to know about it.
#[derive(Clone)]
pub struct Resource {
    /// The API group; empty for core.
    pub group: String,
    /// The version.
    pub version: String,
    /// The kind.
    pub kind: String,
    /// The kind of its lists.
    pub list_kind: String,
    /// The plural, as in paths.
    pub plural: String,
    /// The singular.
    pub singular: String,
    /// Short names.
    pub short_names: Vec<String>,
    /// Categories such as `all`.
    pub categories: Vec<String>,
    /// Whether objects live in namespaces.
    pub namespaced: bool,
    /// What can be done with it.
    pub verbs: Vec<Verb>,
    /// What hangs below an object's path.
    pub subresources: Subresources,
    /// Where its objects are stored: `/registry/apps/deployments/`. Empty for a kind that is only answered
    /// (`TokenReview`).
    pub storage_prefix: String,
    /// The fields that field selectors may name, besides `metadata.name` and `metadata.namespace`.
    pub selectable_fields: Cow<'static, [SelectableField]>,
    /// What the schema cannot say.
    pub strategy: StrategyRef,
    /// How this version is stored, if not as it is.
    pub conversion: Option<Arc<dyn Conversion>>,
    /// The schema.
    pub source: SchemaSource,
    /// What its users are told if it is deprecated.
    pub deprecation: Option<String>,
    /// What a CustomResourceDefinition says beyond that; none for a built-in kind.
    pub custom: Option<Arc<CustomKind>>,
}

impl fmt::Debug for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resource").field("gvk", &self.gvk()).field("plural", &self.plural).finish_non_exhaustive()
    }
}

impl Resource {
    /// The schema of an object.
    pub fn schema(&self) -> SchemaRef<'_> {
        match &self.source {
            SchemaSource::Builtin(name) => {
                SchemaSet::builtin().get(name).expect("every built-in kind's type is in the generated table")
            }
            SchemaSource::Own(set, id) => set.at(*id),
        }
    }

    /// Group, version and kind.
    pub fn gvk(&self) -> Gvk {
        Gvk::new(&self.group, &self.version, &self.kind)
    }

    /// Group, version and plural.
    pub fn gvr(&self) -> Gvr {
        Gvr { group: self.group.clone(), version: self.version.clone(), resource: self.plural.clone() }
    }

    /// `deployments.apps`; only the plural in the core group.
    pub fn qualified(&self) -> String {
        if self.group.is_empty() { self.plural.clone() } else { format!("{}.{}", self.plural, self.group) }
    }

    /// `v1` or `apps/v1`.
    pub fn api_version(&self) -> String {
        api_version(&self.group, &self.version)
    }

    /// Whether its objects are stored at all.
    pub fn stored(&self) -> bool {
        !self.storage_prefix.is_empty()
    }

    /// Whether `verb` is offered.
    pub fn allows(&self, verb: Verb) -> bool {
        self.verbs.contains(&verb)
    }

    /// The key of an object. `namespace` is ignored for a cluster-wide kind.
    pub fn key(&self, namespace: &str, name: &str) -> String {
        if self.namespaced {
            format!("{}{namespace}/{name}", self.storage_prefix)
        } else {
            format!("{}{name}", self.storage_prefix)
        }
    }

    /// The prefix of all objects, or of one namespace's.
    pub fn prefix(&self, namespace: Option<&str>) -> String {
        match namespace {
            Some(namespace) if self.namespaced => format!("{}{namespace}/", self.storage_prefix),
            _ => self.storage_prefix.clone(),
        }
    }
}

/// All kinds a server knows.
#[derive(Debug, Clone, Default)]
pub struct Catalog {
    resources: Vec<Arc<Resource>>,
    /// By plural and by kind: a word names a few resources at most, of different groups and versions.
    by_plural: HashMap<String, Vec<usize>>,
    by_kind: HashMap<String, Vec<usize>>,
}

impl Catalog {
    /// The built-in kinds.
    pub fn builtin() -> Catalog {
        Catalog::new(builtin::resources())
    }

    /// A catalog of these resources; of two with one name the later counts.
    pub fn new(resources: impl IntoIterator<Item = Resource>) -> Catalog {
        let mut catalog = Catalog::default();
        for resource in resources {
            catalog.insert(resource);
        }
        catalog
    }

    /// Adds a resource or replaces the one of the same group, version and plural.
    pub fn insert(&mut self, resource: Resource) {
        self.add(Arc::new(resource));
    }

    fn add(&mut self, resource: Arc<Resource>) {
        let named = (resource.group.clone(), resource.version.clone(), resource.plural.clone(), resource.kind.clone());
        let (group, version, plural, kind) = named;
        let at = match self.find(&self.by_plural, &plural, &group, &version) {
            Some(at) => {
                self.resources[at] = resource;
                at
            }
            None => {
                self.resources.push(resource);
                let at = self.resources.len() - 1;
                self.by_plural.entry(plural).or_default().push(at);
                at
            }
        };
        let before = self.find(&self.by_kind, &kind, &group, &version);
        let of_kind = self.by_kind.entry(kind).or_default();
        of_kind.retain(|other| Some(*other) != before);
        of_kind.push(at);
    }

    fn find(&self, index: &HashMap<String, Vec<usize>>, word: &str, group: &str, version: &str) -> Option<usize> {
        let is_it = |at: &usize| self.resources[*at].group == group && self.resources[*at].version == version;
        index.get(word)?.iter().copied().find(is_it)
    }

    /// A catalog of the same built-in kinds and of these custom ones. A built-in kind is never replaced.
    pub fn with_custom(&self, custom: impl IntoIterator<Item = Arc<Resource>>) -> Catalog {
        let mut catalog = Catalog::default();
        for resource in self.resources.iter().filter(|resource| resource.custom.is_none()) {
            catalog.add(Arc::clone(resource));
        }
        for resource in custom {
            if catalog.resource(&resource.group, &resource.version, &resource.plural).is_none() {
                catalog.add(resource);
            }
        }
        catalog
    }

    /// The resource with this plural.
    pub fn resource(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Resource>> {
        self.find(&self.by_plural, plural, group, version).map(|at| &self.resources[at])
    }

    /// The resource of this kind.
    pub fn by_gvk(&self, group: &str, version: &str, kind: &str) -> Option<&Arc<Resource>> {
        self.find(&self.by_kind, kind, group, version).map(|at| &self.resources[at])
    }

    /// All resources, in the order they were added.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.resources.iter()
    }

    /// The groups with their versions, preferred first; the core group (empty) first.
    pub fn groups(&self) -> Vec<(String, Vec<String>)> {
        let mut groups: Vec<(String, Vec<String>)> = Vec::new();
        for resource in &self.resources {
            match groups.iter_mut().find(|(group, _)| *group == resource.group) {
                Some((_, versions)) => {
                    if !versions.contains(&resource.version) {
                        versions.push(resource.version.clone());
                    }
                }
                None => groups.push((resource.group.clone(), vec![resource.version.clone()])),
            }
        }
        groups
    }
}

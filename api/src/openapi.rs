//! OpenAPI documents of the API: version 2 whole, version 3 a document a group version.
//!
//! In: the catalog, the schemas, and the descriptions (read for this only). Out: what `kubectl explain`, client-side
//! validation and code generators need: every kind's definition with Kubernetes' extensions, and a path for every
//! operation with the query parameters that clients look for.

mod merge;
mod protobuf;
mod published;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};

pub use merge::Part;
use serde_json::{Map, Value, json};

use crate::kinds::{Catalog, Gvk, Resource, Verb, api_version};
use crate::schema::{Descriptions, ListType, MapType, SchemaRef, SchemaSet, TypeKind};

const LIST_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta";
const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
const STATUS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Status";
const TITLE: &str = "Kubernetes";
const API_VERSION: &str = "v1.35.4";

/// Which version of OpenAPI a document is in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    V2,
    V3,
}

impl Form {
    fn reference(self, name: &str) -> Value {
        match self {
            Form::V2 => format!("#/definitions/{name}").into(),
            Form::V3 => format!("#/components/schemas/{name}").into(),
        }
    }
}

/// `/openapi/v2`, with what other servers answer.
pub fn v2<'a>(catalog: &Catalog, others: impl Iterator<Item = &'a Part>) -> Value {
    let resources: Vec<&Resource> = catalog.iter().map(AsRef::as_ref).collect();
    let writer = Writer::new(Form::V2);
    let mut document = json!({
        "swagger": "2.0",
        "info": {"title": TITLE, "version": API_VERSION},
        "paths": paths(Form::V2, &resources),
        "definitions": writer.definitions(&resources),
    });
    others.for_each(|part| part.add_to(&mut document));
    document
}

/// `/openapi/v2` in protobuf, for clients that accept
/// `application/com.github.proto-openapi.spec.v2@v1.0+protobuf` only.
pub fn v2_protobuf<'a>(catalog: &Catalog, others: impl Iterator<Item = &'a Part>) -> Vec<u8> {
    protobuf::document(&v2(catalog, others))
}

/// `/openapi/v3`: each group-version's path and the hash of its document.
pub fn v3_index(catalog: &Catalog) -> Value {
    let mut paths = Map::new();
    for (group, versions) in catalog.groups() {
        for version in versions {
            let root = if group.is_empty() { "api" } else { "apis" };
            let path = format!("{root}/{}", api_version(&group, &version));
            // What is in the document follows from the kinds and the program's version.
            let mut hasher = DefaultHasher::new();
            API_VERSION.hash(&mut hasher);
            of_version(catalog, &group, &version).iter().for_each(|resource| {
                resource.plural.hash(&mut hasher);
                if let Some(custom) = &resource.custom {
                    (&custom.uid, custom.revision).hash(&mut hasher);
                }
            });
            let url = format!("/openapi/v3/{path}?hash={:016X}", hasher.finish());
            paths.insert(path, json!({"serverRelativeURL": url}));
        }
    }
    json!({"paths": paths})
}

/// `/openapi/v3/api/v1`, `/openapi/v3/apis/GROUP/VERSION`.
pub fn v3_group(catalog: &Catalog, group: &str, version: &str) -> Option<Value> {
    let resources = of_version(catalog, group, version);
    if resources.is_empty() {
        return None;
    }
    let writer = Writer::new(Form::V3);
    Some(json!({
        "openapi": "3.0.0",
        "info": {"title": TITLE, "version": API_VERSION},
        "paths": paths(Form::V3, &resources),
        "components": {"schemas": writer.definitions(&resources)},
    }))
}

fn of_version<'a>(catalog: &'a Catalog, group: &str, version: &str) -> Vec<&'a Resource> {
    let all = catalog.iter().map(AsRef::as_ref);
    all.filter(|resource: &&Resource| resource.group == group && resource.version == version).collect()
}

/// Writes schemas as OpenAPI definitions.
struct Writer {
    form: Form,
    descriptions: Descriptions,
}

impl Writer {
    fn new(form: Form) -> Self {
        Self { form, descriptions: Descriptions::load() }
    }

    /// The definitions of the resources, of their lists, and of every type that these use.
    fn definitions(&self, resources: &[&Resource]) -> Map<String, Value> {
        let mut kinds: BTreeMap<String, Vec<Gvk>> = BTreeMap::new();
        let mut waiting: Vec<(String, SchemaRef<'_>)> = Vec::new();
        let mut lists = Map::new();
        for resource in resources {
            let schema = resource.schema();
            let name = definition_name(resource);
            kinds.entry(name.clone()).or_default().push(resource.gvk());
            match &resource.custom {
                // What its definition says is published as it was said.
                Some(custom) => {
                    let mut definition = published::definition(&custom.published, self.form);
                    definition["x-kubernetes-group-version-kind"] = json!([gvk_json(&resource.gvk())]);
                    if !resource.selectable_fields.is_empty() {
                        definition["x-kubernetes-selectable-fields"] = selectable_fields(resource);
                    }
                    lists.insert(name.clone(), definition);
                    waiting.extend(SchemaSet::builtin().get(OBJECT_META).map(|meta| (OBJECT_META.to_owned(), meta)));
                }
                None => waiting.push((name.clone(), schema)),
            }
            if resource.allows(Verb::List) {
                lists.insert(list_name(resource, &name), self.list(resource, &name));
            }
            let scale = resource.subresources.scale.is_some().then(scale_kind);
            for gvk in resource.subresources.other.iter().map(|part| part.gvk.clone()).chain(scale) {
                if let Some((name, schema)) = builtin_type(&gvk) {
                    kinds.entry(name.clone()).or_default().push(gvk);
                    waiting.push((name, schema));
                }
            }
        }
        waiting.extend(
            [LIST_META, STATUS].iter().filter_map(|name| Some(((*name).to_owned(), SchemaSet::builtin().get(name)?))),
        );
        let mut written = Map::new();
        let mut seen: BTreeSet<String> = BTreeSet::new();
        while let Some((name, schema)) = waiting.pop() {
            if !seen.insert(name.clone()) {
                continue;
            }
            let mut definition = self.definition(&name, schema, &mut waiting);
            if let Some(gvks) = kinds.get(&name) {
                let gvks: BTreeSet<&Gvk> = gvks.iter().collect();
                definition["x-kubernetes-group-version-kind"] = gvks.into_iter().map(gvk_json).collect();
            }
            written.insert(name, definition);
        }
        written.extend(lists);
        written
    }

    fn list(&self, resource: &Resource, item: &str) -> Value {
        let mut properties = json!({
            "apiVersion": {"type": "string", "description": "APIVersion defines the versioned schema of this representation of an object."},
            "kind": {"type": "string", "description": "Kind is a string value representing the REST resource this object represents."},
            "items": {"type": "array", "description": format!("List of {}.", resource.plural), "items": self.reference(item, Map::new())},
        });
        if SchemaSet::builtin().get(LIST_META).is_some() {
            properties["metadata"] = self.reference(LIST_META, Map::new());
        }
        let gvk = Gvk { kind: resource.list_kind.clone(), ..resource.gvk() };
        let mut list = json!({
            "type": "object",
            "description": format!("{} is a list of {}.", resource.list_kind, resource.kind),
            "required": ["items"],
            "properties": properties,
            "x-kubernetes-group-version-kind": [gvk_json(&gvk)],
        });
        if resource.custom.is_some() && !resource.selectable_fields.is_empty() {
            list["x-kubernetes-selectable-fields"] = selectable_fields(resource);
        }
        list
    }

    /// A named type's definition; the types it uses are added to `waiting`.
    fn definition<'a>(&self, name: &str, schema: SchemaRef<'a>, waiting: &mut Vec<(String, SchemaRef<'a>)>) -> Value {
        let mut definition = self.structure(schema, Some(name), waiting);
        if let Some(description) = self.descriptions.of_type(name) {
            definition.insert("description".into(), description.into());
        }
        definition.into()
    }

    /// A place where a type stands: a field, a list's items, a map's values.
    fn place<'a>(
        &self,
        schema: SchemaRef<'a>,
        description: Option<String>,
        waiting: &mut Vec<(String, SchemaRef<'a>)>,
    ) -> Value {
        let mut extensions = extensions(schema);
        if let Some(description) = description {
            extensions.insert("description".into(), description.into());
        }
        // Version 2 goes without defaults: a client would set them itself.
        if let Some(default) = schema.default().filter(|_| self.form == Form::V3) {
            extensions.insert("default".into(), default.clone());
        }
        if let Some(name) = schema.type_name() {
            waiting.push((name.to_owned(), schema));
            return self.reference(name, extensions);
        }
        let mut written = self.structure(schema, None, waiting);
        written.extend(extensions);
        written.into()
    }

    /// A reference; OpenAPI 3 allows nothing beside `$ref`, so that anything else needs an `allOf` around it.
    fn reference(&self, name: &str, mut beside: Map<String, Value>) -> Value {
        let reference = self.form.reference(name);
        if self.form == Form::V3 && !beside.is_empty() {
            beside.insert("allOf".into(), json!([{"$ref": reference}]));
        } else {
            beside.insert("$ref".into(), reference);
        }
        beside.into()
    }

    fn structure<'a>(
        &self,
        schema: SchemaRef<'a>,
        name: Option<&str>,
        waiting: &mut Vec<(String, SchemaRef<'a>)>,
    ) -> Map<String, Value> {
        let mut written = Map::new();
        let mut set = |key: &str, value: Value| {
            written.insert(key.to_owned(), value);
        };
        match schema.kind() {
            TypeKind::Object => {
                set("type", "object".into());
                let fields = schema.fields().map(|(field, place)| {
                    let description = name.and_then(|name| self.descriptions.of_field(name, field));
                    (field.to_owned(), self.place(place, description, waiting))
                });
                set("properties", fields.collect::<Map<_, _>>().into());
                // The source of the built-in schemas takes metadata for given; Kubernetes publishes it as optional.
                let required = schema.required().iter().map(AsRef::as_ref).filter(|field| *field != "metadata");
                let required: Vec<&str> = required.collect();
                if !required.is_empty() {
                    set("required", required.into());
                }
                if schema.preserve_unknown() {
                    set("x-kubernetes-preserve-unknown-fields", true.into());
                }
            }
            TypeKind::Map => {
                set("type", "object".into());
                if let Some(values) = schema.values() {
                    set("additionalProperties", self.place(values, None, waiting));
                }
            }
            TypeKind::Array => {
                set("type", "array".into());
                if let Some(items) = schema.items() {
                    set("items", self.place(items, None, waiting));
                }
            }
            TypeKind::String if schema.format() == Some("quantity") => match self.form {
                Form::V2 => set("type", "string".into()),
                Form::V3 => set("oneOf", json!([{"type": "string"}, {"type": "number"}])),
            },
            TypeKind::IntOrString => {
                set("format", "int-or-string".into());
                match self.form {
                    Form::V2 => set("type", "string".into()),
                    Form::V3 => set("oneOf", json!([{"type": "integer"}, {"type": "string"}])),
                }
            }
            TypeKind::Any => set("type", "object".into()),
            scalar => {
                let name = match scalar {
                    TypeKind::Integer => "integer",
                    TypeKind::Number => "number",
                    TypeKind::Boolean => "boolean",
                    _ => "string",
                };
                set("type", name.into());
                if let Some(format) = schema.format() {
                    set("format", format.into());
                }
            }
        }
        written
    }
}

/// The definition's name of a resource's kind.
fn definition_name(resource: &Resource) -> String {
    match resource.schema().type_name() {
        Some(name) => name.to_owned(),
        None => custom_name(resource, &resource.kind),
    }
}

/// Custom kinds are named by their group, backwards, as Kubernetes does.
fn custom_name(resource: &Resource, kind: &str) -> String {
    let group: Vec<&str> = resource.group.rsplit('.').collect();
    format!("{}.{}.{kind}", group.join("."), resource.version)
}

/// The definition's name of a resource's list, whose items' is `item`.
fn list_name(resource: &Resource, item: &str) -> String {
    match resource.custom {
        Some(_) => custom_name(resource, &resource.list_kind),
        None => format!("{item}List"),
    }
}

/// The fields that a custom kind's objects are selected by, as its definition says.
fn selectable_fields(resource: &Resource) -> Value {
    resource.selectable_fields.iter().map(|field| json!({"fieldPath": field.label})).collect()
}

/// A built-in type by its kind, for bodies of subresources.
fn builtin_type(gvk: &Gvk) -> Option<(String, SchemaRef<'static>)> {
    let group = gvk.group.split('.').next().filter(|group| !group.is_empty()).unwrap_or("core");
    let name = format!("io.k8s.api.{group}.{}.{}", gvk.version, gvk.kind);
    Some((name.clone(), SchemaSet::builtin().get(&name)?))
}

fn gvk_json(gvk: &Gvk) -> Value {
    json!({"group": gvk.group, "kind": gvk.kind, "version": gvk.version})
}

/// How patches and apply merge what stands at a place.
fn extensions(schema: SchemaRef<'_>) -> Map<String, Value> {
    let mut extensions = Map::new();
    let mut set = |key: &str, value: Value| {
        extensions.insert(format!("x-kubernetes-{key}"), value);
    };
    if schema.kind() == TypeKind::Array {
        match schema.list_type() {
            ListType::Atomic => set("list-type", "atomic".into()),
            ListType::Set => set("list-type", "set".into()),
            ListType::Map => {
                set("list-type", "map".into());
                set("list-map-keys", schema.list_map_keys().iter().map(AsRef::as_ref).collect::<Vec<&str>>().into());
            }
        }
    }
    if schema.map_type() == MapType::Atomic {
        set("map-type", "atomic".into());
    }
    let strategy = schema.patch_strategy();
    let words = [(strategy.merge, "merge"), (strategy.replace, "replace"), (strategy.retain_keys, "retainKeys")];
    let words: Vec<&str> = words.iter().filter(|(set, _)| *set).map(|(_, word)| *word).collect();
    if !words.is_empty() {
        set("patch-strategy", words.join(",").into());
    }
    if let Some(key) = schema.patch_merge_key() {
        set("patch-merge-key", key.into());
    }
    extensions
}

/// The operations of the resources, by path.
fn paths(form: Form, resources: &[&Resource]) -> Map<String, Value> {
    let mut paths = Map::new();
    for resource in resources {
        let root = if resource.group.is_empty() { "/api" } else { "/apis" };
        let root = format!("{root}/{}", resource.api_version());
        let scoped = if resource.namespaced { format!("{root}/namespaces/{{namespace}}") } else { root.clone() };
        let collection = format!("{scoped}/{}", resource.plural);
        let object = format!("{collection}/{{name}}");
        let kind = definition_name(resource);
        let allows = |verb| resource.allows(verb);
        let operations = |list: &[(&str, bool, &str)], body: &str, gvk: &Gvk| {
            let offered = list.iter().filter(|(_, offered, _)| *offered);
            offered
                .map(|(method, _, action)| {
                    let returned = if *action == "list" { list_name(resource, body) } else { body.to_owned() };
                    ((*method).to_owned(), operation(form, action, body, &returned, gvk))
                })
                .collect::<Map<_, _>>()
        };
        let all = operations(
            &[
                ("get", allows(Verb::List), "list"),
                ("post", allows(Verb::Create), "post"),
                ("delete", allows(Verb::DeleteCollection), "deletecollection"),
            ],
            &kind,
            &resource.gvk(),
        );
        let one = operations(
            &[
                ("get", allows(Verb::Get), "get"),
                ("put", allows(Verb::Update), "put"),
                ("patch", allows(Verb::Patch), "patch"),
                ("delete", allows(Verb::Delete), "delete"),
            ],
            &kind,
            &resource.gvk(),
        );
        if resource.namespaced && allows(Verb::List) {
            let list = operations(&[("get", true, "list")], &kind, &resource.gvk());
            insert(&mut paths, format!("{root}/{}", resource.plural), list, &[]);
        }
        let scope: &[&str] = if resource.namespaced { &["namespace"] } else { &[] };
        insert(&mut paths, collection, all, scope);
        let named: Vec<&str> = scope.iter().copied().chain(["name"]).collect();
        for (name, body, gvk) in parts(resource, &kind) {
            let changes =
                operations(&[("get", true, "get"), ("put", true, "put"), ("patch", true, "patch")], &body, &gvk);
            insert(&mut paths, format!("{object}/{name}"), changes, &named);
        }
        insert(&mut paths, object, one, &named);
    }
    for path in paths.values_mut() {
        describe_parameters(form, path);
    }
    paths
}

fn scale_kind() -> Gvk {
    Gvk::new("autoscaling", "v1", "Scale")
}

/// The subresources that are read and written like objects.
fn parts(resource: &Resource, kind: &str) -> Vec<(&'static str, String, Gvk)> {
    let mut parts = Vec::new();
    if resource.subresources.status {
        parts.push(("status", kind.to_owned(), resource.gvk()));
    }
    if resource.subresources.scale.is_some()
        && let Some((name, _)) = builtin_type(&scale_kind())
    {
        parts.push(("scale", name, scale_kind()));
    }
    parts
}

fn insert(paths: &mut Map<String, Value>, path: String, operations: Map<String, Value>, names: &[&str]) {
    if operations.is_empty() {
        return;
    }
    let mut item = operations;
    item.insert(
        "parameters".into(),
        names.iter().map(|name| json!({"in": "path", "name": name, "required": true})).collect(),
    );
    paths.insert(path, item.into());
}

/// One operation. Its `parameters` are names here; [`describe_parameters`] gives them the form's shape.
fn operation(form: Form, action: &str, kind: &str, returned: &str, gvk: &Gvk) -> Value {
    let parameters: &[&str] = match action {
        "list" => &[
            "allowWatchBookmarks",
            "continue",
            "fieldSelector",
            "labelSelector",
            "limit",
            "resourceVersion",
            "resourceVersionMatch",
            "sendInitialEvents",
            "timeoutSeconds",
            "watch",
        ],
        "post" | "put" => &["dryRun", "fieldManager", "fieldValidation"],
        "patch" => &["dryRun", "fieldManager", "fieldValidation", "force"],
        "delete" => &["dryRun", "gracePeriodSeconds", "propagationPolicy"],
        "deletecollection" => &["dryRun", "fieldSelector", "gracePeriodSeconds", "labelSelector", "propagationPolicy"],
        _ => &[],
    };
    let schema = json!({"$ref": form.reference(returned)});
    let answer = match form {
        Form::V2 => json!({"description": "OK", "schema": schema}),
        Form::V3 => json!({"description": "OK", "content": {"application/json": {"schema": schema}}}),
    };
    let mut operation = json!({
        "parameters": parameters.iter().map(|name| json!({"in": "query", "name": name})).collect::<Vec<_>>(),
        "responses": {"200": answer},
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": gvk_json(gvk),
    });
    if matches!(action, "post" | "put") {
        let body = json!({"$ref": form.reference(kind)});
        match form {
            Form::V2 => {
                if let Some(parameters) = operation["parameters"].as_array_mut() {
                    parameters.push(json!({"in": "body", "name": "body", "required": true, "schema": body}));
                }
            }
            Form::V3 => operation["requestBody"] = json!({"required": true, "content": {"*/*": {"schema": body}}}),
        }
    }
    operation
}

/// Gives parameters their types, where OpenAPI 2 and 3 differ.
fn describe_parameters(form: Form, path: &mut Value) {
    let Some(item) = path.as_object_mut() else { return };
    for (_, value) in item.iter_mut() {
        let list = if value.is_array() { value.as_array_mut() } else { value["parameters"].as_array_mut() };
        for parameter in list.into_iter().flatten().filter_map(Value::as_object_mut) {
            let name = parameter.get("name").and_then(Value::as_str).unwrap_or_default();
            let kind = match name {
                "limit" | "timeoutSeconds" | "gracePeriodSeconds" => "integer",
                "watch" | "allowWatchBookmarks" | "sendInitialEvents" | "force" => "boolean",
                "body" => continue,
                _ => "string",
            };
            match form {
                Form::V2 => parameter.insert("type".into(), kind.into()),
                Form::V3 => parameter.insert("schema".into(), json!({"type": kind})),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every `$ref` in a document.
    fn references(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(map) => {
                found.extend(map.get("$ref").and_then(Value::as_str).map(str::to_owned));
                map.values().for_each(|inner| references(inner, found));
            }
            Value::Array(items) => items.iter().for_each(|inner| references(inner, found)),
            _ => {}
        }
    }

    #[test]
    fn every_reference_leads_to_a_definition() {
        let catalog = Catalog::builtin();
        let documents = catalog.groups().into_iter().flat_map(|(group, versions)| {
            let catalog = &catalog;
            versions.into_iter().map(move |version| v3_group(catalog, &group, &version).unwrap()).collect::<Vec<_>>()
        });
        for document in documents.chain([v2(&catalog, std::iter::empty())]) {
            let mut found = BTreeSet::new();
            references(&document, &mut found);
            assert!(!found.is_empty());
            for reference in found {
                assert!(document.pointer(reference.trim_start_matches('#')).is_some(), "{reference}");
            }
        }
    }

    #[test]
    fn explain_finds_what_it_looks_for() {
        let catalog = Catalog::builtin();
        let document = v3_group(&catalog, "apps", "v1").unwrap();
        let path = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"];
        assert_eq!(path["get"]["x-kubernetes-group-version-kind"]["kind"], "Deployment");
        let patch = path["patch"]["parameters"].as_array().unwrap();
        assert!(
            patch
                .iter()
                .any(|parameter| parameter["name"] == "fieldValidation" && parameter["schema"]["type"] == "string")
        );
        let schemas = &document["components"]["schemas"];
        let deployment = &schemas["io.k8s.api.apps.v1.Deployment"];
        assert_eq!(deployment["x-kubernetes-group-version-kind"][0]["kind"], "Deployment");
        let containers = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
        assert_eq!(
            (&containers["x-kubernetes-patch-merge-key"], &containers["x-kubernetes-list-type"]),
            (&json!("name"), &json!("map"))
        );
        let surge = &schemas["io.k8s.api.apps.v1.RollingUpdateDeployment"]["properties"]["maxSurge"];
        assert!(surge["description"].as_str().unwrap().contains("maximum number of pods"));
        assert!(v3_group(&catalog, "nope", "v1").is_none());
        assert!(
            v3_index(&catalog)["paths"]["apis/apps/v1"]["serverRelativeURL"]
                .as_str()
                .unwrap()
                .starts_with("/openapi/v3/apis/apps/v1?hash=")
        );
    }
}

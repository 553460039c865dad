//! The schemas of the built-in types, decoded from the table that `cargo xtask codegen` writes.
//!
//! In: `generated/types.txt`, compiled in with the table of Gantry's own types. Out: one [`SchemaSet`] whose texts point into the table, so that decoding
//! allocates little. Uses that look the same share a node. The table is checked in and a test decodes all of it, so
//! an error in it is a fault of the build, not of any input.

use std::collections::HashMap;
use std::sync::OnceLock;

use serde_json::Value;

use crate::kinds::Gvk;

use super::{Extras, Field, ListType, MapType, Node, PatchStrategy, SchemaId, SchemaSet, Text, TypeKind};

/// Those of Kubernetes, and Gantry's own, which may refer to the former.
const TABLE: &str = concat!(include_str!("../generated/types.txt"), include_str!("../own/types.txt"));

/// What the names of types that are not Kubernetes' own begin with, after `io.`, and what the API groups of such kinds end with:
/// Gantry's, and those that its scheduler shares with others.
pub(crate) const OWN: [(&str, &str); 2] = [("gantry.", ".gantry.io"), ("x-k8s.", ".x-k8s.io")];

/// The one set of built-in types.
pub(super) fn set() -> &'static SchemaSet {
    static SET: OnceLock<SchemaSet> = OnceLock::new();
    SET.get_or_init(|| decode(TABLE))
}

/// The full definition name of a type as the table writes it.
pub(super) fn full_name(short: &str) -> String {
    if OWN.iter().any(|(prefix, _)| short.starts_with(prefix)) {
        return format!("io.{short}");
    }
    let inside = ["apimachinery.", "apiextensions-apiserver.", "kube-aggregator."];
    if inside.iter().any(|prefix| short.starts_with(prefix)) {
        format!("io.k8s.{short}")
    } else {
        format!("io.k8s.api.{short}")
    }
}

/// The definition name of a kind.
pub(super) fn kind_name(gvk: &Gvk) -> String {
    let Gvk { group, version, kind } = gvk;
    if let Some((prefix, own)) = OWN.iter().find_map(|(prefix, end)| Some((prefix, group.strip_suffix(end)?))) {
        return format!("io.{prefix}{own}.{version}.{kind}");
    }
    match (group.split('.').next().unwrap_or_default(), kind.as_str()) {
        // These are known in every group and version.
        (_, "DeleteOptions") | ("", "Status" | "APIGroup" | "APIGroupList" | "APIResourceList" | "APIVersions") => {
            format!("io.k8s.apimachinery.pkg.apis.meta.v1.{kind}")
        }
        ("meta", _) => format!("io.k8s.apimachinery.pkg.apis.meta.{version}.{kind}"),
        ("apiextensions", _) => format!("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.{version}.{kind}"),
        ("apiregistration", _) => format!("io.k8s.kube-aggregator.pkg.apis.apiregistration.{version}.{kind}"),
        ("", _) => format!("io.k8s.api.core.{version}.{kind}"),
        (group, _) => format!("io.k8s.api.{group}.{version}.{kind}"),
    }
}

/// What [`full_name`] is made from.
pub(super) fn short_name(full: &str) -> &str {
    let short = full.strip_prefix("io.").unwrap_or(full);
    if OWN.iter().any(|(prefix, _)| short.starts_with(prefix)) {
        return short;
    }
    full.strip_prefix("io.k8s.api.").or_else(|| full.strip_prefix("io.k8s.")).unwrap_or(full)
}

struct Decoder<'t> {
    set: SchemaSet,
    ids: HashMap<&'t str, SchemaId>,
    /// Uses by the text that describes them.
    uses: HashMap<&'t str, SchemaId>,
}

fn decode(table: &'static str) -> SchemaSet {
    let mut decoder = Decoder { set: SchemaSet::default(), ids: HashMap::new(), uses: HashMap::new() };
    for line in table.lines() {
        let Some(rest) = line.strip_prefix("type ") else { continue };
        let mut words = rest.split(' ');
        let name = words.next().unwrap_or_default();
        let id = decoder.push(Node {
            kind: TypeKind::Object,
            map_type: if words.next() == Some("map=atomic") { MapType::Atomic } else { MapType::Granular },
            name: Some(Text::Owned(full_name(name))),
            ..Node::default()
        });
        decoder.ids.insert(name, id);
    }
    let mut current: Option<SchemaId> = None;
    for line in table.lines() {
        if let Some(rest) = line.strip_prefix("type ") {
            current = rest.split(' ').next().and_then(|name| decoder.ids.get(name)).copied();
            if let Some(id) = current {
                let start = decoder.set.fields.len() as u32;
                decoder.set.nodes[id.0 as usize].fields = (start, start);
            }
        } else if let (Some(rest), Some(id)) = (line.strip_prefix(' '), current) {
            decoder.field(id, rest);
        }
    }
    let mut set = decoder.set;
    for (at, node) in set.nodes.iter().enumerate() {
        if let Some(name) = &node.name {
            set.types.push((name.clone(), SchemaId(at as u32)));
        }
    }
    set.note_defaults();
    set.types.sort();
    set.types.shrink_to_fit();
    set.nodes.shrink_to_fit();
    set.fields.shrink_to_fit();
    set
}

impl Decoder<'static> {
    fn push(&mut self, node: Node) -> SchemaId {
        self.set.nodes.push(node);
        SchemaId(self.set.nodes.len() as u32 - 1)
    }

    /// `name! 2.5 []str list=set`
    fn field(&mut self, owner: SchemaId, line: &'static str) {
        let mut parts = line.splitn(3, ' ');
        let (Some(name), Some(number), Some(rest)) = (parts.next(), parts.next(), parts.next()) else { return };
        let required = name.ends_with('!');
        let name = name.trim_end_matches('!');
        // One byte for each struct it is inlined from.
        let (outer, inner) = match number.rsplit_once('.') {
            Some((outer, inner)) => (outer.split('.').fold(0, |path, n| path << 8 | n.parse().unwrap_or(0)), inner),
            None => (0, number),
        };
        let inner = inner.parse().unwrap_or(0);
        let schema = self.use_of(rest);
        let field = Field { name: Text::Borrowed(name), schema, defaulted: false, proto: inner, proto_outer: outer };
        self.set.fields.push(field);
        let end = self.set.fields.len() as u32;
        let node = &mut self.set.nodes[owner.0 as usize];
        node.fields.1 = end;
        if required {
            node.extras.get_or_insert_default().required.push(Text::Borrowed(name));
        }
    }

    fn use_of(&mut self, text: &'static str) -> SchemaId {
        if let Some(id) = self.uses.get(text) {
            return *id;
        }
        let (expression, marks) = text.split_once(' ').unwrap_or((text, ""));
        let mut node = self.expression(expression);
        if !marks.is_empty() {
            apply_marks(&mut node, marks);
        }
        let id = self.push(node);
        self.uses.insert(text, id);
        id
    }

    fn expression(&mut self, text: &'static str) -> Node {
        let formatted = |kind, format| Node { kind, format: Some(Text::Borrowed(format)), ..Node::default() };
        let plain = |kind| Node { kind, ..Node::default() };
        if let Some(rest) = text.strip_prefix("[]") {
            let element = Some(self.use_of(rest));
            return Node { kind: TypeKind::Array, element, ..Node::default() };
        }
        if let Some(rest) = text.strip_prefix("{}") {
            let element = Some(self.use_of(rest));
            return Node { kind: TypeKind::Map, element, ..Node::default() };
        }
        if let Some(name) = text.strip_prefix('@') {
            return Node { kind: TypeKind::Object, target: self.ids.get(name).copied(), ..Node::default() };
        }
        match text {
            "str" => plain(TypeKind::String),
            "bytes" => formatted(TypeKind::String, "byte"),
            "quantity" => formatted(TypeKind::String, "quantity"),
            "time" => formatted(TypeKind::String, "date-time"),
            "microtime" => formatted(TypeKind::String, "micro-time"),
            "i32" => formatted(TypeKind::Integer, "int32"),
            "i64" => formatted(TypeKind::Integer, "int64"),
            "f64" => formatted(TypeKind::Number, "double"),
            "bool" => plain(TypeKind::Boolean),
            "intstr" => formatted(TypeKind::IntOrString, "int-or-string"),
            "fields" => formatted(TypeKind::Any, "fields-v1"),
            "raw" => formatted(TypeKind::Any, "raw-extension"),
            "schema-or-array" | "schema-or-bool" | "schema-or-names" => formatted(TypeKind::Any, text),
            _ => formatted(TypeKind::Any, "json"),
        }
    }
}

fn apply_marks(node: &mut Node, marks: &'static str) {
    let (marks, default) = match marks.strip_prefix("default=") {
        Some(default) => ("", Some(default)),
        None => match marks.split_once(" default=") {
            Some((marks, default)) => (marks, Some(default)),
            None => (marks, None),
        },
    };
    let mut extras =
        Extras { default: default.and_then(|d| serde_json::from_str::<Value>(d).ok()), ..Extras::default() };
    for mark in marks.split(' ').filter(|m| !m.is_empty()) {
        match mark.split_once('=') {
            Some(("list", "set")) => node.list_type = ListType::Set,
            Some(("list", keys)) if keys.starts_with("map(") => {
                node.list_type = ListType::Map;
                let inside = keys.trim_start_matches("map(").trim_end_matches(')');
                extras.list_map_keys = inside.split(',').map(Text::Borrowed).collect();
            }
            Some(("map", "atomic")) => node.map_type = MapType::Atomic,
            Some(("patch", strategies)) => {
                let has = |name: &str| strategies.split(',').any(|s| s == name);
                extras.patch_strategy =
                    PatchStrategy { merge: has("merge"), replace: has("replace"), retain_keys: has("retainKeys") };
            }
            Some(("key", key)) => extras.patch_merge_key = Some(Text::Borrowed(key)),
            Some(("zero", "absent")) => extras.zero_is_absent = true,
            Some(("zero", "kept")) => extras.zero_is_kept = true,
            Some(("wire", "items")) => extras.wire_items = true,
            _ => {}
        }
    }
    if extras != Extras::default() {
        node.extras = Some(Box::new(extras));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_decodes_whole_and_fast() {
        let start = std::time::Instant::now();
        let set = decode(TABLE);
        let took = start.elapsed();
        assert!(set.types.len() > 450, "{} types", set.types.len());
        // 5 ms is the limit of an optimised build; an unoptimised one gets leeway.
        assert!(took.as_millis() < 250, "{took:?}");
        for node in &set.nodes {
            let target_missing = node.kind == TypeKind::Object && node.name.is_none() && node.target.is_none();
            assert!(!target_missing, "a use points nowhere: {node:?}");
        }
        let lines = TABLE.lines().filter(|l| l.starts_with(' ')).count();
        assert_eq!(lines, set.fields.len());
    }

    #[test]
    fn facts_of_a_pod_are_those_of_the_go_markers() {
        let set = SchemaSet::builtin();
        let pod = set.get("io.k8s.api.core.v1.Pod").unwrap();
        let spec = pod.field("spec").unwrap();
        let containers = spec.field("containers").unwrap();
        assert_eq!(containers.list_type(), ListType::Map);
        assert_eq!(containers.list_map_keys(), ["name"]);
        assert_eq!(containers.patch_merge_key(), Some("name"));
        assert!(containers.patch_strategy().merge);
        let volumes = spec.field("volumes").unwrap();
        assert!(volumes.patch_strategy().retain_keys && volumes.patch_strategy().merge);
        let ports = containers.items().unwrap().field("ports").unwrap();
        assert_eq!(ports.list_map_keys(), ["containerPort", "protocol"]);
        assert_eq!(ports.items().unwrap().field("protocol").unwrap().default(), Some(&Value::from("TCP")));
        assert_eq!(spec.field("nodeSelector").unwrap().map_type(), MapType::Atomic);
        assert_eq!(spec.required(), ["containers"]);
        let deployment = set.get("io.k8s.api.apps.v1.Deployment").unwrap();
        let selector = deployment.field("spec").unwrap().field("selector").unwrap();
        assert_eq!(selector.map_type(), MapType::Atomic);
        let secret = set.get("io.k8s.api.core.v1.Volume").unwrap();
        assert_eq!(secret.proto_field("secret").unwrap().path().collect::<Vec<_>>(), [2, 6]);
        let rule = set.get("io.k8s.api.admissionregistration.v1.NamedRuleWithOperations").unwrap();
        assert_eq!(rule.proto_field("apiGroups").unwrap().path().collect::<Vec<_>>(), [2, 2, 1]);
    }
}

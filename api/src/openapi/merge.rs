//! One OpenAPI 2 document out of this server's and the parts of others'.
//!
//! In: a document as another server publishes it, and the paths that it answers here. Out: the [`Part`] that matters, and documents
//! with it. A definition that two servers have in different forms is kept in both: the later one gets a number behind its name, as
//! kube-aggregator gives it.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

const PREFIX: &str = "#/definitions/";

/// The paths of a group and version, with the definitions that they refer to.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Part {
    paths: Map<String, Value>,
    definitions: Map<String, Value>,
}

impl Part {
    /// What a document says about `path` and all below it.
    pub fn of(mut document: Value, path: &str) -> Self {
        let mut taken = |key: &str| match document.get_mut(key).map(Value::take) {
            Some(Value::Object(map)) => map,
            _ => Map::new(),
        };
        let below = |other: &str| other.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        let (mut paths, mut all) = (taken("paths"), taken("definitions"));
        paths.retain(|path, _| below(path));
        let mut found = BTreeSet::new();
        let find = |value: &mut Value, found: &mut BTreeSet<String>| {
            references(value, &mut |name| {
                found.insert(name.clone());
            });
        };
        paths.values_mut().for_each(|value| find(value, &mut found));
        let mut definitions = Map::new();
        while let Some(name) = found.pop_first() {
            let Some(mut definition) = all.remove(&name) else { continue };
            find(&mut definition, &mut found);
            definitions.insert(name, definition);
        }
        Self { paths, definitions }
    }

    /// Adds this to a document. What the document has stays as it is.
    pub(super) fn add_to(&self, document: &mut Value) {
        let mut names: Vec<(&str, String)> = Vec::new();
        if let Some(known) = document["definitions"].as_object() {
            for (name, definition) in &self.definitions {
                let numbered = (2..).map(|number| format!("{name}_v{number}"));
                let mut candidates = std::iter::once(name.clone()).chain(numbered);
                let own = |candidate: &str| candidate != name && self.definitions.contains_key(candidate);
                let free =
                    candidates.find(|name| known.get(name).is_none_or(|other| other == definition) && !own(name));
                names.extend(free.filter(|free| free != name).map(|free| (name.as_str(), free)));
            }
        }
        let renamed = |name: &str| names.iter().find(|(old, _)| *old == name).map(|(_, new)| new.clone());
        let with_new_names = |value: &Value| {
            let mut value = value.clone();
            references(&mut value, &mut |name| {
                if let Some(new) = renamed(name) {
                    *name = new;
                }
            });
            value
        };
        let mut add = |key: &str, name: String, value: &Value| {
            if let Some(map) = document[key].as_object_mut() {
                map.entry(name).or_insert_with(|| with_new_names(value));
            }
        };
        for (path, value) in &self.paths {
            add("paths", path.clone(), value);
        }
        for (name, value) in &self.definitions {
            add("definitions", renamed(name).unwrap_or_else(|| name.clone()), value);
        }
    }
}

/// Shows the name in each reference to a definition below a value, and writes it back.
fn references(value: &mut Value, see: &mut impl FnMut(&mut String)) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| references(item, see)),
        Value::Object(map) => {
            for (key, value) in map {
                match (key.as_str(), value) {
                    ("$ref", Value::String(to)) => {
                        if let Some(mut name) = to.strip_prefix(PREFIX).map(str::to_owned) {
                            see(&mut name);
                            *to = format!("{PREFIX}{name}");
                        }
                    }
                    (_, value) => references(value, see),
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_part_has_what_its_paths_refer_to_and_clashes_get_new_names() {
        let to = |name: &str| json!({"$ref": format!("#/definitions/{name}")});
        let other = json!({
            "paths": {
                "/apis/a.example.com/v1": {"get": {"schema": to("List")}},
                "/apis/a.example.com/v1/things": {"get": {"schema": to("Thing")}},
                "/apis/a.example.com/v12": {"get": {"schema": to("Later")}},
                "/healthz": {},
            },
            "definitions": {
                "Thing": {"properties": {"metadata": to("Meta"), "next": to("Thing")}},
                "Meta": {"type": "object", "description": "another release's"},
                "List": {"type": "object"},
                "Later": {"type": "object"},
            },
        });
        let part = Part::of(other, "/apis/a.example.com/v1");
        assert_eq!(part.definitions.keys().collect::<Vec<_>>(), ["List", "Meta", "Thing"]);
        let own = json!({
            "paths": {"/api/v1/pods": {}, "/apis/a.example.com/v1": {"own": true}},
            "definitions": {"Meta": {"type": "object"}, "Meta_v2": {"type": "string"}, "List": {"type": "object"}},
        });
        let mut merged = own.clone();
        part.add_to(&mut merged);
        assert_eq!(merged["paths"]["/apis/a.example.com/v1"], json!({"own": true}));
        assert_eq!(merged["paths"]["/apis/a.example.com/v1/things"]["get"]["schema"], to("Thing"));
        assert_eq!(
            merged["definitions"]["Thing"]["properties"],
            json!({"metadata": to("Meta_v3"), "next": to("Thing")})
        );
        assert_eq!(merged["definitions"]["Meta_v3"]["description"], "another release's");
        assert_eq!(merged["definitions"].as_object().map(Map::len), Some(5));
        let once = merged.clone();
        part.add_to(&mut merged);
        assert_eq!(merged["paths"], once["paths"], "again changes no path");
        Part::default().add_to(&mut merged);
    }
}

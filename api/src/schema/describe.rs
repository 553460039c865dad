//! Descriptions of types and fields, read only for OpenAPI.
//!
//! In: `generated/descriptions.txt`, compiled in. Out: a map made when asked for and dropped after use, so that a
//! server that serves no OpenAPI pays nothing for it.

use std::collections::HashMap;

use super::builtin::short_name;

const TABLE: &str = concat!(include_str!("../generated/descriptions.txt"), include_str!("../own/descriptions.txt"));

/// The descriptions of the built-in types.
#[derive(Debug, Default)]
pub struct Descriptions {
    types: HashMap<&'static str, TypeDescription>,
}

#[derive(Debug, Default)]
struct TypeDescription {
    own: &'static str,
    fields: HashMap<&'static str, &'static str>,
}

impl Descriptions {
    /// Reads the table.
    pub fn load() -> Descriptions {
        let mut types: HashMap<&'static str, TypeDescription> = HashMap::new();
        let mut current: Option<(&'static str, TypeDescription)> = None;
        for line in TABLE.lines() {
            if let Some(rest) = line.strip_prefix("type ") {
                types.extend(current.take());
                let (name, own) = rest.split_once(' ').unwrap_or((rest, ""));
                current = Some((name, TypeDescription { own, fields: HashMap::new() }));
            } else if let (Some(rest), Some((_, described))) = (line.strip_prefix(' '), current.as_mut()) {
                let (name, text) = rest.split_once(' ').unwrap_or((rest, ""));
                described.fields.insert(name, text);
            }
        }
        types.extend(current);
        Descriptions { types }
    }

    /// What a type is for, by definition name.
    pub fn of_type(&self, name: &str) -> Option<String> {
        self.types.get(short_name(name)).map(|t| unescape(t.own)).filter(|text| !text.is_empty())
    }

    /// What a field of a type is for.
    pub fn of_field(&self, name: &str, field: &str) -> Option<String> {
        let text = self.types.get(short_name(name))?.fields.get(field)?;
        Some(unescape(text)).filter(|text| !text.is_empty())
    }
}

fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('n') => out.push('\n'),
            Some(other) => out.push(other),
            None => {}
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_and_fields_are_described() {
        let descriptions = Descriptions::load();
        let pod = descriptions.of_type("io.k8s.api.core.v1.Pod").unwrap();
        assert!(pod.starts_with("Pod is a collection of containers"), "{pod}");
        let replicas = descriptions.of_field("io.k8s.api.apps.v1.DeploymentSpec", "replicas").unwrap();
        assert!(replicas.contains("desired pods"), "{replicas}");
    }
}

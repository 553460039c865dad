//! What the source of `k8s-pb` says about types and fields: Go markers in doc comments, protobuf field numbers.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;

/// How many structs may be inlined into each other.
const INLINED_MAX: usize = 2;

/// Markers of one doc comment: `+listType=map` gives `("listType", "map")`.
pub type Marks = Vec<(String, String)>;

/// One field of a message.
#[derive(Debug, Clone, Default)]
pub struct Field {
    /// Its name with only letters and digits, in lower case.
    pub folded: String,
    /// The protobuf field number.
    pub number: u16,
    /// What stands in `#[prost(…)]` before the tag.
    pub wire: String,
    /// The last segment of its Rust type's message, folded; empty for scalars.
    pub message: String,
    /// The module of that message, as seen from its own: `super::v1`; empty for the same.
    pub module: String,
    /// Its markers.
    pub marks: Marks,
}

/// One message.
#[derive(Debug, Clone, Default)]
pub struct Message {
    /// Its fields.
    pub fields: Vec<Field>,
    /// Its own markers.
    pub marks: Marks,
}

/// All messages, by module path and folded name.
#[derive(Debug, Default)]
pub struct Markers {
    messages: HashMap<(String, String), Message>,
}

/// A name reduced to what prost's renaming keeps: letters and digits in lower case.
pub fn fold(name: &str) -> String {
    name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
}

impl Markers {
    /// Reads every module under the crate's `src`.
    pub fn read(src: &Path) -> anyhow::Result<Markers> {
        let mut markers = Markers::default();
        let mut folders = vec![src.to_path_buf()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))? {
                let path = entry?.path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.file_name().is_some_and(|n| n == "mod.rs") {
                    let module = module_path(src, &folder);
                    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
                    markers.read_module(&module, &text);
                }
            }
        }
        Ok(markers)
    }

    /// The message of a definition such as `io.k8s.api.core.v1.Pod`.
    pub fn message(&self, definition: &str) -> Option<&Message> {
        let (module, name) = definition.strip_prefix("io.k8s.")?.rsplit_once('.')?;
        self.messages.get(&(module.replace('-', "_"), fold(name)))
    }

    /// The field of a definition by its JSON name, and the numbers of the inlined structs it sits in, outermost first.
    /// A struct that is inlined is no property (`properties`, folded) of its own.
    pub fn field(&self, definition: &str, json: &str, properties: &[String]) -> Option<(Vec<u16>, &Field)> {
        let message = self.message(definition)?;
        let module = definition.strip_prefix("io.k8s.")?.rsplit_once('.')?.0.replace('-', "_");
        self.field_in(&module, message, &fold(json), properties, INLINED_MAX)
    }

    fn field_in<'m>(
        &'m self,
        module: &str,
        message: &'m Message,
        folded: &str,
        properties: &[String],
        depth: usize,
    ) -> Option<(Vec<u16>, &'m Field)> {
        if let Some(field) = message.fields.iter().find(|f| f.folded == folded) {
            return Some((Vec::new(), field));
        }
        let depth = depth.checked_sub(1)?;
        let structs = message.fields.iter().filter(|f| !f.message.is_empty() && !properties.contains(&f.folded));
        structs.into_iter().find_map(|outer| {
            let module = seen_from(module, &outer.module);
            let inner = self.messages.get(&(module.clone(), outer.message.clone()))?;
            let (mut path, field) = self.field_in(&module, inner, folded, properties, depth)?;
            path.insert(0, outer.number);
            Some((path, field))
        })
    }

    fn read_module(&mut self, module: &str, text: &str) {
        let mut comment = Marks::new();
        let mut attribute = String::new();
        let mut current: Option<(String, Message)> = None;
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            let trimmed = line.trim_start();
            if let Some(doc) = trimmed.strip_prefix("///") {
                comment.extend(marker(doc));
            } else if trimmed.starts_with("#[prost(") {
                attribute = trimmed.to_owned();
                while !attribute.ends_with(")]") {
                    let Some(more) = lines.next() else { return };
                    attribute.push_str(more.trim());
                }
            } else if let Some(rest) = line.strip_prefix("pub struct ") {
                let message = Message { fields: Vec::new(), marks: std::mem::take(&mut comment) };
                let name = fold(rest.split([' ', '{']).next().unwrap_or_default());
                if rest.trim_end().ends_with("{}") {
                    self.messages.insert((module.to_owned(), name), message);
                } else {
                    current = Some((name, message));
                }
            } else if line.starts_with('}') {
                if let Some((name, message)) = current.take() {
                    self.messages.insert((module.to_owned(), name), message);
                }
                comment.clear();
            } else if let (Some(rest), Some((_, message))) = (line.strip_prefix("    pub "), current.as_mut()) {
                let mut declaration = rest.to_owned();
                while !declaration.ends_with(',') {
                    let Some(more) = lines.next() else { return };
                    declaration.push_str(more.trim());
                }
                message.fields.extend(field(&declaration, &attribute, std::mem::take(&mut comment)));
                attribute.clear();
            } else if !trimmed.starts_with("#[") {
                comment.clear();
            }
        }
    }
}

fn module_path(src: &Path, folder: &Path) -> String {
    let relative: PathBuf = folder.strip_prefix(src).unwrap_or(folder).to_path_buf();
    let parts: Vec<String> = relative.iter().map(|part| part.to_string_lossy().into_owned()).collect();
    parts.join(".")
}

/// A module as another one names it.
fn seen_from(module: &str, path: &str) -> String {
    let mut parts: Vec<&str> = module.split('.').collect();
    for step in path.split("::").filter(|step| !step.is_empty()) {
        match step {
            "super" => drop(parts.pop()),
            step => parts.push(step.trim_start_matches("r#")),
        }
    }
    parts.join(".")
}

fn marker(doc: &str) -> Option<(String, String)> {
    let text = doc.trim().strip_prefix('+')?;
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    Some((key.trim().to_owned(), value.trim().to_owned()))
}

fn field(declaration: &str, attribute: &str, marks: Marks) -> Option<Field> {
    let (name, rust_type) = declaration.split_once(':')?;
    let inside = attribute.strip_prefix("#[prost(")?.strip_suffix(")]")?;
    let (wire, tag) = inside.split_once("tag = \"")?;
    let number = tag.split('"').next()?.parse().ok()?;
    let (module, message) = if wire.starts_with("message") {
        let path = rust_type.trim_end_matches([',', '>', ' ']).rsplit(['<', ' ']).next().unwrap_or_default();
        let (module, last) = path.rsplit_once("::").unwrap_or(("", path));
        (module.to_owned(), fold(last))
    } else {
        Default::default()
    };
    let name = name.trim().trim_start_matches("r#");
    Some(Field {
        folded: fold(name),
        number,
        wire: wire.trim_end_matches([' ', ',']).to_owned(),
        message,
        module,
        marks,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markers_and_numbers_are_read_from_prost_source() {
        let mut markers = Markers::default();
        markers.read_module(
            "api.core.v1",
            "/// A thing.\n/// +structType=atomic\n#[derive(Clone)]\npub struct Thing {\n    /// Names.\n    /// +listType=set\n    \
             #[prost(string, repeated, tag = \"7\")]\n    pub pod_i_ps: ::prost::alloc::vec::Vec<String>,\n    \
             #[prost(message, optional, tag = \"2\")]\n    pub inner: ::core::option::Option<Inner>,\n}\n\
             pub struct Inner {\n    #[prost(bool, optional, tag = \"3\")]\n    pub ready: Option<bool>,\n}\n",
        );
        let thing = markers.message("io.k8s.api.core.v1.Thing").unwrap();
        assert_eq!(thing.marks, vec![("structType".to_owned(), "atomic".to_owned())]);
        let (outer, ips) = markers.field("io.k8s.api.core.v1.Thing", "podIPs", &[]).unwrap();
        assert_eq!((outer.as_slice(), ips.number, ips.marks[0].1.as_str()), (&[][..], 7, "set"));
        markers.read_module(
            "api.core.v1beta1",
            "pub struct Other {\n    #[prost(message, optional, tag = \"5\")]\n    pub inner: ::core::option::Option<super::v1::Inner>,\n}\n",
        );
        let (outer, _) = markers.field("io.k8s.api.core.v1beta1.Other", "ready", &[]).unwrap();
        assert_eq!(outer, [5], "of another module");
        let (outer, ready) = markers.field("io.k8s.api.core.v1.Thing", "ready", &[]).unwrap();
        assert_eq!((outer.as_slice(), ready.number), (&[2][..], 3));
    }
}

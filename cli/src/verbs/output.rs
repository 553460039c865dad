//! How answers look: aligned columns, YAML, JSON, names, or what a JSONPath template picks.

use std::io::{self, Write};

use anyhow::{Result, bail};
use serde::Serialize;
use serde_json::Value;

use super::jsonpath;

/// Standard output. A reader that goes away is an error of kind `BrokenPipe`, which the caller takes for success.
#[derive(Default)]
pub struct Out {
    /// In tests, where the answer goes instead.
    #[cfg(test)]
    captured: Option<std::sync::Mutex<Vec<u8>>>,
}

#[cfg(test)]
impl Out {
    /// Keeps what is written.
    pub fn capturing() -> Self {
        Self { captured: Some(Default::default()) }
    }

    /// What was written since the last call.
    pub fn taken(&self) -> String {
        let bytes = std::mem::take(&mut *self.captured.as_ref().unwrap().lock().unwrap());
        String::from_utf8(bytes).unwrap()
    }
}

impl Out {
    /// Writes a line.
    pub fn line(&self, text: impl AsRef<str>) -> Result<()> {
        self.text(&format!("{}\n", text.as_ref()))
    }

    /// Writes text as it is.
    pub fn text(&self, text: &str) -> Result<()> {
        self.bytes(text.as_bytes())
    }

    /// Writes bytes as they are.
    pub fn bytes(&self, bytes: &[u8]) -> Result<()> {
        #[cfg(test)]
        if let Some(captured) = &self.captured {
            captured.lock().unwrap().extend_from_slice(bytes);
            return Ok(());
        }
        let mut stdout = io::stdout().lock();
        stdout.write_all(bytes)?;
        Ok(stdout.flush()?)
    }
}

/// Writes a line to standard error, if anybody listens.
pub fn tell(text: std::fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// The form of an answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Format {
    /// Columns
    Table,
    /// Columns, with those of lower importance
    Wide,
    /// YAML
    Yaml,
    /// JSON
    Json,
    /// `kind/name` lines
    Name,
    /// A JSONPath template
    JsonPath(jsonpath::Template),
}

impl std::str::FromStr for Format {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        Ok(match text {
            "" => Self::Table,
            "wide" => Self::Wide,
            "yaml" => Self::Yaml,
            "json" => Self::Json,
            "name" => Self::Name,
            _ => match text.strip_prefix("jsonpath=") {
                Some(template) => Self::JsonPath(jsonpath::Template::parse(template)?),
                None => bail!(
                    "unable to match a printer suitable for the output format \"{text}\", allowed formats are: json,jsonpath=TEMPLATE,name,wide,yaml"
                ),
            },
        })
    }
}

/// Rows with aligned columns, three spaces apart, as kubectl prints them.
pub fn columns(rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..rows.iter().map(Vec::len).max().unwrap_or(0)).map(width).collect();
    let mut text = String::new();
    for row in rows {
        for (column, cell) in row.iter().enumerate() {
            text.push_str(cell);
            if column + 1 < row.len() {
                text.extend(std::iter::repeat_n(' ', widths[column] - cell.chars().count() + 3));
            }
        }
        text.push('\n');
    }
    text
}

/// The rows of a server's Table, without the header, and the header. `wide` takes the columns of lower importance too;
/// `namespace` puts the object's namespace first, and `prefix` the resource before the name.
pub fn table_rows(table: &Value, wide: bool, namespace: bool, prefix: Option<&str>) -> (Vec<String>, Vec<Vec<String>>) {
    let definitions = table["columnDefinitions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let shown: Vec<usize> = (0..definitions.len())
        .filter(|index| wide || definitions[*index]["priority"].as_i64().unwrap_or(0) == 0)
        .collect();
    let mut header: Vec<String> =
        shown.iter().map(|index| definitions[*index]["name"].as_str().unwrap_or_default().to_uppercase()).collect();
    if namespace {
        header.insert(0, "NAMESPACE".into());
    }
    let mut rows = Vec::new();
    for row in table["rows"].as_array().into_iter().flatten() {
        let mut cells: Vec<String> = shown.iter().map(|index| cell(&row["cells"][*index])).collect();
        if let (Some(prefix), Some(name)) = (prefix, cells.first_mut()) {
            *name = format!("{prefix}/{name}");
        }
        if namespace {
            cells.insert(0, row["object"]["metadata"]["namespace"].as_str().unwrap_or_default().to_owned());
        }
        rows.push(cells);
    }
    (header, rows)
}

fn cell(value: &Value) -> String {
    match value {
        Value::String(text) => text.replace('\n', "\\n"),
        Value::Null => "<none>".into(),
        other => other.to_string(),
    }
}

/// Objects in a form other than columns. Managed fields are left out, as kubectl does.
pub fn objects(
    format: &Format,
    objects: Vec<Value>,
    single: bool,
    display: impl Fn(&Value) -> String,
) -> Result<String> {
    let mut objects = objects;
    for object in &mut objects {
        if let Some(meta) = object["metadata"].as_object_mut() {
            meta.remove("managedFields");
        }
    }
    if *format == Format::Name {
        return Ok(objects.iter().map(|object| format!("{}/{}\n", display(object), name(object))).collect());
    }
    let document = match <[Value; 1]>::try_from(objects) {
        Ok([one]) if single => one,
        Ok(one) => list(one.into()),
        Err(many) => list(many),
    };
    Ok(match format {
        Format::Json => json(&document)?,
        Format::JsonPath(template) => template.render(&document)?,
        _ => yaml(&document)?,
    })
}

/// A document as JSON, indented by four as kubectl does.
fn json(document: &Value) -> Result<String> {
    let mut text = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    document.serialize(&mut serde_json::Serializer::with_formatter(&mut text, formatter))?;
    text.push(b'\n');
    Ok(String::from_utf8(text)?)
}

/// A document as YAML.
pub fn yaml(document: &Value) -> Result<String> {
    Ok(serde_saphyr::to_string(document)?)
}

fn list(items: Vec<Value>) -> Value {
    serde_json::json!({"apiVersion": "v1", "items": items, "kind": "List", "metadata": {"resourceVersion": ""}})
}

/// An object's name.
pub fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn columns_are_three_spaces_apart() {
        let rows = [["NAME", "READY", "AGE"], ["a-long-name", "1/1", "5s"]].map(|row| row.map(String::from).to_vec());
        assert_eq!(columns(&rows), "NAME          READY   AGE\na-long-name   1/1     5s\n");
    }

    #[test]
    fn a_table_shows_the_columns_that_were_asked_for() {
        let table = json!({
            "columnDefinitions": [{"name": "Name", "priority": 0}, {"name": "Age"}, {"name": "IP", "priority": 1}],
            "rows": [{"cells": ["a", null, 3], "object": {"metadata": {"namespace": "n"}}}],
        });
        let (header, rows) = table_rows(&table, false, true, Some("pod"));
        assert_eq!(
            (header, rows),
            (
                vec!["NAMESPACE".into(), "NAME".into(), "AGE".into()],
                vec![vec!["n".into(), "pod/a".into(), "<none>".into()]]
            )
        );
        assert_eq!(table_rows(&table, true, false, None).0, ["NAME", "AGE", "IP"]);
    }

    #[test]
    fn yaml_can_be_read_again_whatever_the_texts_are() {
        let document = json!({"a": ["yes", "1", "", "null", "a: b", "- x", "l1\nl2\n", "é", " x", "0x1f", "1e3", "~", "2026-01-01"], "b": {}, "c": [], "d": [{"e": null, "f": [1, true]}]});
        let text = yaml(&document).unwrap();
        assert_eq!(serde_saphyr::from_str::<Value>(&text).unwrap(), document, "{text}");
        assert_eq!(yaml(&json!({"a": [{"b": 1, "c": 2}]})).unwrap(), "a:\n- b: 1\n  c: 2\n");
    }

    #[test]
    fn several_objects_are_a_list_and_lose_managed_fields() {
        let object = json!({"metadata": {"name": "a", "managedFields": []}});
        let text = objects(&Format::Json, vec![object.clone(), object.clone()], false, |_| "pod".into()).unwrap();
        assert!(text.contains("\"List\"") && !text.contains("managedFields"), "{text}");
        assert!(text.starts_with("{\n    \"apiVersion\""), "{text}");
        assert_eq!(objects(&Format::Name, vec![object], true, |_| "pod".into()).unwrap(), "pod/a\n");
    }
}

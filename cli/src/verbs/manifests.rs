//! Objects from manifests: files, folders and standard input, in YAML (several documents a file) or JSON.

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// Where manifests come from.
#[derive(clap::Args, Debug, Clone)]
pub struct Flags {
    /// A file, a folder, or `-` for standard input; may be given several times
    #[arg(long = "filename", short = 'f', value_name = "FILE")]
    pub filenames: Vec<PathBuf>,
    /// Look into folders of folders as well
    #[arg(long, short = 'R')]
    pub recursive: bool,
}

impl Flags {
    /// The objects, in the order of the flags and, within a folder, of the files' names. Lists are taken apart.
    ///
    /// # Errors
    /// When a file cannot be read or is no manifest; nothing has been done by then.
    pub fn objects(&self) -> Result<Vec<Value>> {
        let mut objects = Vec::new();
        for path in &self.filenames {
            if path.as_os_str() == "-" {
                let mut text = String::new();
                std::io::stdin().read_to_string(&mut text).context("cannot read standard input")?;
                objects.extend(parse(&text).context("error parsing STDIN")?);
                continue;
            }
            let files = self.files(path)?;
            if files.is_empty() {
                bail!("error reading {}: recognized file extensions are [.json .yaml .yml]", display(&self.filenames));
            }
            for file in files {
                let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
                objects.extend(parse(&text).with_context(|| format!("error parsing {}", file.display()))?);
            }
        }
        Ok(objects)
    }

    fn files(&self, path: &Path) -> Result<Vec<PathBuf>> {
        if !path.is_dir() {
            if !path.exists() {
                bail!("the path \"{}\" does not exist", path.display());
            }
            return Ok(vec![path.to_path_buf()]);
        }
        let entries = std::fs::read_dir(path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut entries: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
        entries.sort();
        let mut files = Vec::new();
        for entry in entries {
            if entry.is_dir() {
                if self.recursive {
                    files.extend(self.files(&entry)?);
                }
            } else if entry
                .extension()
                .is_some_and(|extension| ["json", "yaml", "yml"].iter().any(|known| extension == *known))
            {
                files.push(entry);
            }
        }
        Ok(files)
    }
}

fn display(paths: &[PathBuf]) -> String {
    let paths: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    format!("[{}]", paths.join(" "))
}

/// The objects of a text.
pub fn parse(text: &str) -> Result<Vec<Value>> {
    let documents: Vec<Value> = if text.trim_start().starts_with('{') {
        serde_json::Deserializer::from_str(text).into_iter().collect::<Result<_, _>>().context("error parsing JSON")?
    } else {
        serde_saphyr::from_multiple(text).map_err(|error| anyhow::anyhow!("error converting YAML to JSON: {error}"))?
    };
    let mut objects = Vec::new();
    for document in documents {
        match document {
            Value::Null => {}
            Value::Object(ref map)
                if map.get("items").is_some_and(Value::is_array)
                    && map.get("kind").and_then(Value::as_str).is_some_and(|kind| kind.ends_with("List")) =>
            {
                objects.extend(document["items"].as_array().into_iter().flatten().cloned());
            }
            Value::Object(map) => {
                for field in ["apiVersion", "kind"] {
                    if map.get(field).and_then(Value::as_str).is_none_or(str::is_empty) {
                        bail!("error validating data: {field} not set");
                    }
                }
                objects.push(Value::Object(map));
            }
            other => bail!("a manifest is a mapping, not `{other}`"),
        }
    }
    Ok(objects)
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn documents_lists_and_json_are_taken_apart() {
        let yaml = "apiVersion: v1\nkind: A\n---\n# nothing\n---\napiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: B}\n- {apiVersion: v1, kind: C}\n";
        let kinds = |text: &str| {
            parse(text).unwrap().iter().map(|object| object["kind"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(kinds(yaml), ["A", "B", "C"]);
        assert_eq!(kinds(r#"{"apiVersion":"v1","kind":"A"} {"apiVersion":"v1","kind":"B"}"#), ["A", "B"]);
        assert!(kinds("").is_empty());
    }

    #[test]
    fn what_is_no_manifest_is_refused() {
        for text in ["kind: A", "apiVersion: v1", "- 1", "just words", "a: [", "{\"a\":"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn anchors_stand_for_what_they_name() {
        let objects = parse("apiVersion: v1\nkind: A\na: &x [1]\nb: *x\n").unwrap();
        assert_eq!(objects[0]["b"], objects[0]["a"]);
    }
}

//! Generates the tables of facts about built-in kinds that `gantry-api` reads.
//!
//! In: the schemas of `k8s-openapi` (names, types, what is required, descriptions), the Go markers and protobuf field
//! numbers in the source of `k8s-pb`, and the few defaults that Kubernetes sets in code ([`defaults`]). Out:
//! `api/src/generated/types.txt` and `api/src/generated/descriptions.txt`, checked in; `--check` compares.
//!
//! To add a kind, name it in [`roots`]: every type it reaches comes along.

mod defaults;
mod markers;
mod roots;
mod table;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde_json::Value;

use crate::host;

/// Writes the tables, or only compares them when `check` is set.
pub fn run(check: bool) -> anyhow::Result<()> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../api/src/generated");
    for (name, text) in generate()? {
        let path = folder.join(name);
        if !check {
            fs::create_dir_all(&folder)?;
            fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
            continue;
        }
        let present = fs::read_to_string(&path).unwrap_or_default();
        if present != text {
            bail!("{} is not what `cargo xtask codegen` generates; run it and commit the result", path.display());
        }
    }
    Ok(())
}

/// The generated files by name.
fn generate() -> anyhow::Result<Vec<(&'static str, String)>> {
    let definitions = roots::definitions();
    let markers = markers::Markers::read(&source_of("k8s-pb")?.join("src"))?;
    let types = table::types(&definitions, &markers)?;
    let descriptions = table::descriptions(&definitions);
    Ok(vec![("types.txt", types), ("descriptions.txt", descriptions)])
}

/// Where cargo keeps the source of a dependency.
fn source_of(package: &str) -> anyhow::Result<PathBuf> {
    let output = host::cargo()
        .args(["metadata", "--format-version=1", "--locked"])
        .output()
        .context("running cargo metadata")?;
    if !output.status.success() {
        bail!("cargo metadata failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let metadata: Value = serde_json::from_slice(&output.stdout).context("reading cargo metadata")?;
    let packages = metadata["packages"].as_array().map(Vec::as_slice).unwrap_or_default();
    let manifest = packages
        .iter()
        .find(|p| p["name"] == package)
        .and_then(|p| p["manifest_path"].as_str())
        .with_context(|| format!("{package} is not among the dependencies"))?;
    let folder = Path::new(manifest).parent().context("a manifest lies in a folder")?;
    Ok(folder.to_path_buf())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_checked_in_tables_are_what_the_generator_writes() {
        super::run(true).unwrap();
    }
}

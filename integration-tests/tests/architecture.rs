//! The architecture's table and invariants, held against the code.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Which of the project's packages each may depend on; `None` for any.
const MAY_DEPEND_ON: &[(&str, Option<&[&str]>)] = &[
    ("gantry-api", Some(&[])),
    ("gantry-crds", Some(&["gantry-api"])),
    ("gantry-store", Some(&[])),
    ("gantry-apiserver", Some(&["gantry-api", "gantry-crds", "gantry-store"])),
    ("gantry-controllers", Some(&["gantry-api", "gantry-crds"])),
    ("gantry-scheduler", Some(&["gantry-api", "gantry-crds"])),
    ("gantry-node-agent", Some(&["gantry-api", "gantry-crds"])),
    ("gantry", None),
    ("gantry-integration-tests", None),
    ("gantry-fuzz", Some(&["gantry-api", "gantry-apiserver"])),
    ("xtask", Some(&[])),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a folder in the workspace").to_path_buf()
}

fn sources(folder: &str) -> Vec<(String, String)> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(&root().join(folder), &mut found);
    let read = |path: PathBuf| {
        let name = path.strip_prefix(root()).expect("below the root").display().to_string();
        (name, fs::read_to_string(&path).expect("a source file can be read"))
    };
    found.into_iter().map(read).collect()
}

/// The lines of code: without comments, and without the tests at the end of a file.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.lines().enumerate().map(|(number, line)| (number + 1, line));
    lines
        .take_while(|(_, line)| !line.starts_with("#[cfg(test)]"))
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
}

/// Whether a file is a module's tests, as what stands at the end of others is.
fn is_test(name: &str) -> bool {
    name.ends_with("/tests.rs") || name.contains("/tests/")
}

fn forbid(files: &[(String, String)], words: &[&str], rule: &str) {
    let mut found = Vec::new();
    for (name, text) in files.iter().filter(|(name, _)| !is_test(name)) {
        for (number, line) in code(text) {
            if let Some(word) = words.iter().find(|word| line.contains(**word)) {
                found.push(format!("{name}:{number}: `{word}` in: {}", line.trim()));
            }
        }
    }
    assert!(found.is_empty(), "{rule}\n{}", found.join("\n"));
}

#[test]
fn packages_depend_only_as_the_architecture_allows() {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .current_dir(root())
        .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
        .output();
    let output = output.expect("cargo runs");
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON");
    let allowed: BTreeMap<&str, Option<&[&str]>> = MAY_DEPEND_ON.iter().copied().collect();
    let mut seen = BTreeSet::new();
    for package in metadata["packages"].as_array().expect("packages") {
        let name = package["name"].as_str().expect("a name");
        seen.insert(name);
        let rule = allowed.get(name).unwrap_or_else(|| panic!("package {name} is not in the architecture's table"));
        let Some(rule) = rule else { continue };
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            let to = dependency["name"].as_str().expect("a name");
            if allowed.contains_key(to) && dependency["kind"] != "dev" {
                assert!(rule.contains(&to), "{name} must not depend on {to}");
            }
        }
    }
    assert_eq!(seen.len(), MAY_DEPEND_ON.len(), "the table names packages that are not there");
}

#[test]
fn only_the_api_server_opens_the_store() {
    for folder in ["controllers/src", "scheduler/src", "node-agent/src", "api/src", "crds/src"] {
        forbid(&sources(folder), &["gantry_store", "redb::", "etcd_client"], "only apiserver opens the store");
    }
}

#[test]
fn only_the_http_layer_names_a_status_code() {
    let files: Vec<_> =
        sources("apiserver/src").into_iter().filter(|(name, _)| !name.starts_with("apiserver/src/http")).collect();
    assert!(!files.is_empty());
    forbid(&files, &["StatusCode"], "only apiserver/http names a status code");
    forbid(&sources("api/src"), &["StatusCode"], "only apiserver/http names a status code");
}

#[test]
fn plans_are_pure() {
    const IMPURE: &[&str] = &[
        "std::fs",
        "tokio::",
        "kube::Api",
        "kube::Client",
        "Instant::now",
        "SystemTime::now",
        "Timestamp::now",
        "async fn",
        "rand::",
    ];
    let mut plans = Vec::new();
    for folder in ["controllers/src", "node-agent/src", "scheduler/src"] {
        plans.extend(
            sources(folder).into_iter().filter(|(name, _)| {
                name.ends_with("/plan.rs") || name.ends_with("/status.rs") || name.contains("/plan/")
            }),
        );
    }
    plans.extend(sources("scheduler/src/core"));
    assert!(plans.len() > 5, "the plans were not found: {}", plans.len());
    forbid(&plans, IMPURE, "a plan takes time as an argument and does no I/O");
    forbid(
        &sources("api/src"),
        &["std::fs", "tokio::", "Instant::now", "SystemTime::now", "Timestamp::now", "async fn"],
        "api is pure",
    );
}

#[test]
fn only_the_runtime_layer_speaks_to_containerd() {
    let files: Vec<_> =
        sources("node-agent/src").into_iter().filter(|(name, _)| !name.starts_with("node-agent/src/runtime")).collect();
    forbid(&files, &["containerd_client", "k8s_cri"], "only node-agent/runtime speaks CRI or to containerd");
}

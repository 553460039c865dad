//! What the tests find on the machine, and what they do where it is missing.

use std::path::PathBuf;

/// The programs and files that a cluster test needs.
#[derive(Clone, Debug)]
pub struct Tools {
    /// The `gantry` binary under test.
    pub gantry: PathBuf,
    /// The kubectl that tests type.
    pub kubectl: PathBuf,
    /// Folder of image archives.
    pub images: PathBuf,
    /// Where the ledger of started instances is.
    pub work_dir: PathBuf,
}

/// The tools, or `None` after a message that says which is missing.
///
/// # Panics
/// With `CI` set, where a missing tool is a failure.
pub fn find() -> Option<Tools> {
    match look() {
        Ok(tools) => Some(tools),
        Err(missing) if std::env::var_os("CI").is_some() => panic!("this test needs {missing}"),
        Err(missing) => {
            eprintln!("skipped: this test needs {missing}; `cargo xtask test` provides it");
            None
        }
    }
}

fn look() -> Result<Tools, String> {
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from).ok_or_else(|| format!("${name}"));
    let tools = Tools {
        gantry: variable("GANTRY_BINARY")?,
        kubectl: variable("GANTRY_KUBECTL")?,
        images: variable("GANTRY_IMAGES")?,
        work_dir: variable("GANTRY_WORK_DIR")?,
    };
    let root = std::fs::metadata("/proc/self").is_ok_and(|meta| std::os::unix::fs::MetadataExt::uid(&meta) == 0);
    if !root {
        return Err("root, to make network namespaces and containers".into());
    }
    for file in [&tools.gantry, &tools.kubectl, &tools.images] {
        if !file.exists() {
            return Err(file.display().to_string());
        }
    }
    let minor = kubectl_minor(&tools.kubectl).unwrap_or(0);
    if minor < KUBECTL_MINOR_MIN {
        return Err(format!(
            "kubectl 1.{KUBECTL_MINOR_MIN} or newer ($KUBECTL names another than {})",
            tools.kubectl.display()
        ));
    }
    Ok(tools)
}

/// The oldest kubectl that has what the scenarios type (`auth whoami`, `wait --for=jsonpath`).
const KUBECTL_MINOR_MIN: u32 = 27;

fn kubectl_minor(kubectl: &std::path::Path) -> Option<u32> {
    let output = std::process::Command::new(kubectl).args(["version", "--client", "-o", "json"]).output().ok()?;
    let version: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
    version["clientVersion"]["minor"].as_str()?.trim_end_matches('+').parse().ok()
}

/// Every version of kubectl at hand, each minor version once: the one that tests type, those named `kubectl.1.MINOR`
/// beside it and in `GANTRY_KUBECTL_FOLDERS`, and those that `cargo xtask setup` built.
///
/// # Panics
/// With `CI` set, when they are fewer than four or none is as new as the API.
pub fn kubectls(tools: &Tools) -> Vec<(u32, PathBuf)> {
    let folders = std::env::var_os("GANTRY_KUBECTL_FOLDERS").unwrap_or_default();
    let folders =
        tools.kubectl.parent().map(std::path::Path::to_owned).into_iter().chain(std::env::split_paths(&folders));
    let beside = folders.flat_map(|folder| files_of(&folder)).filter(|file| {
        let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.strip_prefix("kubectl.1.").is_some_and(|minor| minor.parse::<u32>().is_ok())
    });
    let built = clients("kubectl-", "kubectl").into_iter().map(|(_, file)| file);
    let mut found = std::collections::BTreeMap::new();
    for file in std::iter::once(tools.kubectl.clone()).chain(beside).chain(built).filter(|file| file.is_file()) {
        if let Some(minor) = kubectl_minor(&file).filter(|minor| *minor >= KUBECTL_MINOR_MIN) {
            found.entry(minor).or_insert(file);
        }
    }
    let newest = found.keys().last().copied().unwrap_or(0);
    if std::env::var_os("CI").is_some() {
        assert!(found.len() >= 4 && newest >= 35, "`cargo xtask setup` provides four versions of kubectl: {found:?}");
    }
    found.into_iter().collect()
}

/// Every version of Helm that `cargo xtask setup` built; none after a message when there is none.
pub fn helms() -> Vec<(String, PathBuf)> {
    let found = clients("helm-", "helm");
    if found.is_empty() {
        missing("Helm");
    }
    found
}

/// Python with the kubernetes package; `None` after a message when it is missing.
pub fn python() -> Option<PathBuf> {
    let found = clients("python-kubernetes-", "bin/python").pop().map(|(_, file)| file);
    if found.is_none() {
        missing("Python's package kubernetes");
    }
    found
}

/// Go; `None` after a message when it is missing.
pub fn go() -> Option<PathBuf> {
    let found = std::env::var_os("GANTRY_GO").map(PathBuf::from).or_else(|| program("go"));
    if found.is_none() {
        missing("Go");
    }
    found
}

/// Says that a test is skipped for want of a tool.
///
/// # Panics
/// With `CI` set, where that is a failure.
fn missing(tool: &str) {
    assert!(std::env::var_os("CI").is_none(), "this test needs {tool}: `cargo xtask setup` provides it");
    eprintln!("skipped: this test needs {tool}; `cargo xtask setup` provides it");
}

/// The versions of a client that `cargo xtask setup` has put into the cache folder, the oldest first.
fn clients(prefix: &str, program: &str) -> Vec<(String, PathBuf)> {
    let cache = || {
        let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
        Some(std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or(home)?.join("gantry/clients"))
    };
    let folder = std::env::var_os("GANTRY_CLIENTS").map(PathBuf::from).or_else(cache).unwrap_or_default();
    let found = files_of(&folder).into_iter().filter_map(|folder| {
        let version = folder.file_name()?.to_str()?.strip_prefix(prefix)?.to_owned();
        Some((version, folder.join(program))).filter(|(_, file)| file.is_file())
    });
    let mut found: Vec<_> = found.collect();
    found.sort();
    found
}

fn files_of(folder: &std::path::Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

/// A program in `PATH` or the administrators' folders.
pub fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    folders.map(|folder| folder.join(name)).find(|file| file.is_file())
}

//! Kubernetes' conformance program and what it needs, built once from Kubernetes' Go modules.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::clients::go::{self, Go};
use crate::{clients, host};

/// The version of Kubernetes whose suite it is: the one whose API Gantry speaks.
const KUBERNETES: &str = "1.35.4";
/// A Go package, and whether it is a test program.
const PROGRAMS: &[(&str, &str, bool)] = &[
    ("agnhost", "k8s.io/kubernetes/test/images/agnhost", false),
    ("nnp", "k8s.io/kubernetes/test/images/nonewprivs", false),
    ("regression-issue-74839", "k8s.io/kubernetes/test/images/regression-issue-74839", false),
    ("sample-apiserver", "k8s.io/sample-apiserver", false),
    ("ginkgo", "github.com/onsi/ginkgo/v2/ginkgo", false),
    ("e2e.test", "k8s.io/kubernetes/test/e2e", true),
];

/// Where the programs are.
pub struct Suite {
    /// The folder of all of them.
    pub dir: PathBuf,
    /// The suite.
    pub e2e: PathBuf,
    /// What runs several specs at a time.
    pub ginkgo: PathBuf,
    /// kubectl of the suite's version.
    pub kubectl: PathBuf,
}

/// Builds what is not there yet.
///
/// # Errors
/// When there is no Go that is new enough, or a build fails.
pub fn ensure() -> Result<Suite> {
    let dir = host::cache_dir().join("conformance").join(format!("v{KUBERNETES}"));
    let missing: Vec<_> = PROGRAMS.iter().filter(|(name, ..)| !dir.join(name).exists()).collect();
    if !missing.is_empty() {
        let go = go::find()?;
        let module = dir.join("src");
        prepare(&go, &module)?;
        for (name, package, is_test) in missing {
            println!("Building {name} of Kubernetes {KUBERNETES} (all of them take about ten minutes, once)");
            let (output, flags) = (dir.join(name), clients::kubernetes_flags(KUBERNETES));
            if *is_test {
                go.build_test(&module, package, &output, &flags)?;
            } else {
                go.build(&module, package, &output, &flags)?;
            }
        }
    }
    let program = |name: &str| dir.join(name);
    Ok(Suite { e2e: program("e2e.test"), ginkgo: program("ginkgo"), kubectl: clients::kubectl(KUBERNETES)?, dir })
}

/// A module that requires Kubernetes and, as its own does by relative paths, the published form of each of its parts.
fn prepare(go: &Go, module: &Path) -> Result<()> {
    fs::create_dir_all(module)?;
    let file = module.join("go.mod");
    if file.exists() && module.join("go.sum").exists() {
        return Ok(());
    }
    let wanted = format!("k8s.io/kubernetes@v{KUBERNETES}");
    let found = host::output(go.command(&std::env::temp_dir()).args(["mod", "download", "-json", &wanted]))?;
    let found: serde_json::Value = serde_json::from_slice(&found)?;
    let theirs = found["GoMod"].as_str().context("go names no go.mod of Kubernetes")?;
    let theirs = fs::read_to_string(theirs)?;
    let mut text = format!("module conformance\n\ngo 1.25.0\n\nrequire k8s.io/kubernetes v{KUBERNETES}\n\n");
    let parts = KUBERNETES.replacen("1.", "0.", 1);
    for line in theirs.lines().filter(|line| line.contains("=> ./staging/")) {
        let part = line.trim().trim_start_matches("replace ").split_whitespace().next().unwrap_or_default();
        writeln!(text, "replace {part} => {part} v{parts}")?;
    }
    fs::write(&file, text)?;
    let at = |package: &str, version: &str| format!("{package}@v{version}");
    let mut get = go.command(module);
    get.args(["get", "-t"]);
    for (_, package, _) in PROGRAMS.iter().filter(|(_, package, _)| package.starts_with("k8s.io/kubernetes")) {
        get.arg(at(package, KUBERNETES));
    }
    host::run(get.arg(at("k8s.io/sample-apiserver", &parts)))?;
    // The runner must be of the very version that the suite was made with, which `get` has just chosen.
    let list = ["list", "-m", "-f", "{{.Version}}", "github.com/onsi/ginkgo/v2"];
    let version = String::from_utf8(host::output(go.command(module).args(list))?)?;
    let runner = format!("github.com/onsi/ginkgo/v2/ginkgo@{}", version.trim());
    host::run(go.command(module).args(["get", &runner]))
}

//! Kubernetes' conformance program and what it needs, built once from Kubernetes' Go modules.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::host;

/// The version of Kubernetes whose suite it is: the one whose API Gantry speaks.
const KUBERNETES: &str = "1.35.4";
/// The oldest Go that builds it.
const GO_MINOR_MIN: u32 = 25;
/// A Go package, and whether it is a test program.
const PROGRAMS: &[(&str, &str, bool)] = &[
    ("kubectl", "k8s.io/kubernetes/cmd/kubectl", false),
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
        let go = go()?;
        let module = dir.join("src");
        prepare(&go, &module)?;
        for (name, package, is_test) in missing {
            println!("Building {name} of Kubernetes {KUBERNETES} (all of them take about ten minutes, once)");
            build(&go, &module, &dir.join(name), package, *is_test)?;
        }
    }
    let program = |name: &str| dir.join(name);
    Ok(Suite { e2e: program("e2e.test"), ginkgo: program("ginkgo"), kubectl: program("kubectl"), dir })
}

fn go() -> Result<PathBuf> {
    let need =
        format!("the conformance suite is built with Go 1.{GO_MINOR_MIN} or newer; install it and have it in PATH");
    let Some(go) = host::find_program("go") else { bail!("there is no Go here: {need}") };
    let version = String::from_utf8(host::output(Command::new(&go).args(["env", "GOVERSION"]))?)?;
    let minor =
        version.trim().strip_prefix("go1.").and_then(|rest| rest.split('.').next()).and_then(|n| n.parse().ok());
    if minor.is_none_or(|minor: u32| minor < GO_MINOR_MIN) {
        bail!("{} is {}: {need}", go.display(), version.trim());
    }
    Ok(go)
}

/// A module that requires Kubernetes and, as its own does by relative paths, the published form of each of its parts.
fn prepare(go: &Path, module: &Path) -> Result<()> {
    fs::create_dir_all(module)?;
    let file = module.join("go.mod");
    if file.exists() && module.join("go.sum").exists() {
        return Ok(());
    }
    let wanted = format!("k8s.io/kubernetes@v{KUBERNETES}");
    let found =
        host::output(Command::new(go).current_dir(std::env::temp_dir()).args(["mod", "download", "-json", &wanted]))?;
    let found: serde_json::Value = serde_json::from_slice(&found)?;
    let theirs = found["GoMod"].as_str().context("go names no go.mod of Kubernetes")?;
    let theirs = fs::read_to_string(theirs)?;
    let mut text =
        format!("module conformance\n\ngo 1.{GO_MINOR_MIN}.0\n\nrequire k8s.io/kubernetes v{KUBERNETES}\n\n");
    let parts = KUBERNETES.replacen("1.", "0.", 1);
    for line in theirs.lines().filter(|line| line.contains("=> ./staging/")) {
        let part = line.trim().trim_start_matches("replace ").split_whitespace().next().unwrap_or_default();
        writeln!(text, "replace {part} => {part} v{parts}")?;
    }
    fs::write(&file, text)?;
    let at = |package: &str, version: &str| format!("{package}@v{version}");
    let mut get = Command::new(go);
    get.current_dir(module).args(["get", "-t"]);
    for (_, package, _) in PROGRAMS.iter().filter(|(_, package, _)| package.starts_with("k8s.io/kubernetes")) {
        get.arg(at(package, KUBERNETES));
    }
    host::run(get.arg(at("k8s.io/sample-apiserver", &parts)))?;
    // The runner must be of the very version that the suite was made with, which `get` has just chosen.
    let list = ["list", "-m", "-f", "{{.Version}}", "github.com/onsi/ginkgo/v2"];
    let version = String::from_utf8(host::output(Command::new(go).current_dir(module).args(list))?)?;
    let runner = format!("github.com/onsi/ginkgo/v2/ginkgo@{}", version.trim());
    host::run(Command::new(go).current_dir(module).args(["get", &runner]))
}

fn build(go: &Path, module: &Path, output: &Path, package: &str, is_test: bool) -> Result<()> {
    let parts: Vec<&str> = KUBERNETES.split('.').collect();
    let version = "k8s.io/component-base/version";
    let flags = format!(
        "-s -w -X {version}.gitVersion=v{KUBERNETES} -X {version}.gitMajor={} -X {version}.gitMinor={}",
        parts[0], parts[1]
    );
    let partial = output.with_extension("partial");
    let mut command = Command::new(go);
    command.current_dir(module).env("CGO_ENABLED", "0");
    command.args(if is_test { &["test", "-c", "-vet=off"][..] } else { &["build"] });
    host::run(command.args(["-ldflags", &flags, "-o"]).arg(&partial).arg(package))?;
    Ok(fs::rename(partial, output)?)
}

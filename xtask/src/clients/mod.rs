//! The clients that the tests drive Gantry with: real ones, of pinned versions, built or installed once and kept in the
//! cache folder.

pub mod go;
mod python;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::host;

/// kubectl as it is tested: the version of the API that Gantry speaks, the one before, and newer ones that people have.
/// Others are used where the machine has them.
const KUBECTL: &[&str] = &["1.33.13", "1.34.13", KUBECTL_TYPED, "1.37.0"];
/// The kubectl that the scenarios type which are not about its versions.
const KUBECTL_TYPED: &str = "1.35.4";
/// A version of Helm and the module it is in.
const HELM: &[(&str, &str)] = &[("3.22.0", "helm.sh/helm/v3"), ("4.3.1", "helm.sh/helm/v4")];

/// The folder of all of them. The tests look there by name: `kubectl-VERSION/kubectl`, `helm-VERSION/helm`,
/// `python-PACKAGE-VERSION/bin/python`.
pub fn dir() -> PathBuf {
    host::cache_dir().join("clients")
}

/// Makes what is not there yet.
///
/// # Errors
/// When Go or Python cannot be had, or a build fails.
pub fn ensure() -> Result<()> {
    for version in KUBECTL {
        // What the machine has of that minor version is as good, and spares four minutes.
        let minor = version.split('.').nth(1).and_then(|minor| minor.parse().ok());
        if *version == KUBECTL_TYPED || !machine_kubectls().iter().any(|(found, _)| Some(*found) == minor) {
            kubectl(version)?;
        }
    }
    for (version, module) in HELM {
        helm(version, module)?;
    }
    go::find()?;
    python::ensure(&dir())
}

/// The kubectl that tests type: `$KUBECTL`, or the pinned one.
pub fn typed_kubectl() -> Result<PathBuf> {
    std::env::var_os("KUBECTL").map_or_else(|| kubectl(KUBECTL_TYPED), |chosen| Ok(chosen.into()))
}

/// kubectl of a version, made from its published module: its own `main` is not part of that.
pub fn kubectl(version: &str) -> Result<PathBuf> {
    const MAIN: &str = "package main\n\nimport (\n\t\"os\"\n\n\
        \t_ \"k8s.io/client-go/plugin/pkg/client/auth\"\n\
        \t\"k8s.io/component-base/cli\"\n\t\"k8s.io/component-base/logs\"\n\
        \t\"k8s.io/kubectl/pkg/cmd\"\n\t\"k8s.io/kubectl/pkg/cmd/util\"\n)\n\n\
        func main() {\n\tlogs.GlogSetter(cmd.GetLogVerbosity(os.Args))\n\
        \tif err := cli.RunNoErrOutput(cmd.NewDefaultKubectlCommand()); err != nil {\n\t\tutil.CheckErr(err)\n\t}\n}\n";
    let folder = dir().join(format!("kubectl-{version}"));
    let program = folder.join("kubectl");
    if program.exists() {
        return Ok(program);
    }
    println!("Building kubectl {version} (some minutes, once)");
    let source = folder.join("src");
    fs::create_dir_all(&source)?;
    fs::write(source.join("main.go"), MAIN)?;
    fs::write(source.join("go.mod"), "module kubectl\n\ngo 1.24.0\n")?;
    let go = go::find()?;
    let module = version.replacen("1.", "k8s.io/kubectl@v0.", 1);
    host::run(go.command(&source).args(["get", &module]))?;
    host::run(go.command(&source).args(["mod", "tidy"]))?;
    go.build(&source, ".", &program, &kubernetes_flags(version))?;
    Ok(program)
}

/// What tells a program of Kubernetes its version.
pub fn kubernetes_flags(version: &str) -> String {
    let package = "k8s.io/component-base/version";
    let minor = version.split('.').nth(1).unwrap_or_default();
    format!("-X {package}.gitVersion=v{version} -X {package}.gitMajor=1 -X {package}.gitMinor={minor}")
}

fn helm(version: &str, module: &str) -> Result<()> {
    let folder = dir().join(format!("helm-{version}"));
    if folder.join("helm").exists() {
        return Ok(());
    }
    println!("Building Helm {version} (some minutes, once)");
    let partial = folder.join("partial");
    fs::create_dir_all(&partial)?;
    let flags = format!("-s -w -X {module}/internal/version.version=v{version}");
    let package = format!("{module}/cmd/helm@v{version}");
    let go = go::find()?;
    host::run(go.command(&folder).env("GOBIN", &partial).args(["install", "-ldflags", &flags, &package]))?;
    Ok(fs::rename(partial.join("helm"), folder.join("helm"))?)
}

/// `kubectl.1.MINOR` of this machine, in `PATH` and in the folder of the Google Cloud tools.
fn machine_kubectls() -> Vec<(u32, PathBuf)> {
    machine_folders().iter().flat_map(|folder| versioned(folder)).collect()
}

fn versioned(folder: &Path) -> Vec<(u32, PathBuf)> {
    let files = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let minor = |file: &Path| file.file_name()?.to_str()?.strip_prefix("kubectl.1.")?.parse().ok();
    files.filter_map(|file| minor(&file).map(|minor| (minor, file))).collect()
}

/// Folders where a machine may have several versions of kubectl.
pub fn machine_folders() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).chain([PathBuf::from("/usr/lib/google-cloud-sdk/bin")]).collect()
}

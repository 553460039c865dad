//! Go: finding or installing it, and building programs with it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{host, setup};

/// The Go that is installed where there is none that can fetch what a module asks for.
const VERSION: &str = "1.26.8";
/// The oldest Go that fetches the toolchain a module asks for by itself.
const MINOR_MIN: u32 = 21;

/// A Go that builds whatever a module asks for.
pub struct Go {
    /// The `go` program.
    pub program: PathBuf,
}

/// The machine's Go; where it is missing or too old, one is put into the cache folder.
///
/// # Errors
/// When it can be neither found nor fetched.
pub fn find() -> Result<Go> {
    let cached = super::dir().join(format!("go-{VERSION}"));
    let kept = cached.join("bin").join("go");
    for program in host::find_program("go").into_iter().chain([PathBuf::from("/usr/local/go/bin/go"), kept.clone()]) {
        if minor(&program).is_some_and(|minor| minor >= MINOR_MIN) {
            return Ok(Go { program });
        }
    }
    if host::find_program("go").is_none() {
        setup::install(&["golang-go"])?;
    }
    let old = host::find_program("go").context("golang-go brought no go")?;
    if minor(&old).is_none_or(|minor| minor < MINOR_MIN) {
        fetch(&old, &cached)?;
        return Ok(Go { program: kept });
    }
    Ok(Go { program: old })
}

fn minor(go: &Path) -> Option<u32> {
    let text = host::output(Command::new(go).current_dir("/").env("GOTOOLCHAIN", "local").arg("version")).ok()?;
    let text = String::from_utf8(text).ok()?;
    text.split_whitespace().nth(2)?.strip_prefix("go1.")?.split(['.', 'r', 'b', '-']).next()?.parse().ok()
}

/// Go is a module as well: an older one downloads it and checks its sum.
fn fetch(old: &Path, into: &Path) -> Result<()> {
    let machine = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => bail!("install Go 1.{MINOR_MIN} or newer: it is not known how Go calls {other}"),
    };
    println!("Fetching Go {VERSION} into {}", into.display());
    let module = format!("golang.org/toolchain@v0.0.1-go{VERSION}.linux-{machine}");
    let mut download = Command::new(old);
    download.current_dir(std::env::temp_dir()).args(["mod", "download", "-json", &module]);
    let found: serde_json::Value = serde_json::from_slice(&host::output(&mut download)?)?;
    let from = found["Dir"].as_str().context("go names no folder of the toolchain")?;
    let partial = into.with_extension("partial");
    if partial.exists() {
        fs::remove_dir_all(&partial)?;
    }
    copy(Path::new(from), &partial)?;
    for programs in [partial.join("bin"), partial.join("pkg/tool").join(format!("linux_{machine}"))] {
        for file in fs::read_dir(programs)? {
            fs::set_permissions(file?.path(), fs::Permissions::from_mode(0o755))?;
        }
    }
    Ok(fs::rename(partial, into)?)
}

/// Copies a folder, with every `_go.mod` under the name that it cannot have inside a module.
fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name();
        let target = to.join(if name == "_go.mod" { "go.mod".as_ref() } else { name.as_os_str() });
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target)?;
            fs::set_permissions(&target, fs::Permissions::from_mode(0o644))?;
        }
    }
    Ok(())
}

impl Go {
    /// A `go` command in a module's folder.
    pub fn command(&self, module: &Path) -> Command {
        let mut command = Command::new(&self.program);
        // Debian's Go does not fetch the toolchain that a module asks for unless told so.
        command.current_dir(module).env("CGO_ENABLED", "0").env("GOTOOLCHAIN", "auto");
        command
    }

    /// Builds a package of a module into `output`.
    pub fn build(&self, module: &Path, package: &str, output: &Path, flags: &str) -> Result<()> {
        self.link(module, &["build"], package, output, flags)
    }

    /// Builds the test program of a package of a module into `output`.
    pub fn build_test(&self, module: &Path, package: &str, output: &Path, flags: &str) -> Result<()> {
        self.link(module, &["test", "-c", "-vet=off"], package, output, flags)
    }

    fn link(&self, module: &Path, verb: &[&str], package: &str, output: &Path, flags: &str) -> Result<()> {
        let partial = output.with_extension("partial");
        let mut command = self.command(module);
        command.args(verb).args(["-ldflags", &format!("-s -w {flags}"), "-o"]).arg(&partial).arg(package);
        host::run(&mut command)?;
        Ok(fs::rename(partial, output)?)
    }
}

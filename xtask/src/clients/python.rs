//! Python's kubernetes client, in an environment of its own.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::{host, setup};

/// Makes the environment that the example in Python asks for.
pub fn ensure(dir: &Path) -> Result<()> {
    let requirements = host::root().join("examples/plugins/python-controller/requirements.txt");
    let text = fs::read_to_string(&requirements)?;
    let (package, version) =
        text.trim().split_once("==").context("requirements.txt of the example pins one package")?;
    let folder = dir.join(format!("python-{package}-{version}"));
    if folder.join("complete").exists() {
        return Ok(());
    }
    println!("Installing Python's {package} {version} into {}", folder.display());
    // An environment that could not be finished is in the way of a new one.
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    let has_venv = Command::new("python3").args(["-c", "import ensurepip, venv"]).output();
    if !has_venv.is_ok_and(|output| output.status.success()) {
        setup::install(&["python3", "python3-venv"])?;
    }
    host::run(Command::new("python3").args(["-m", "venv"]).arg(&folder))?;
    let pip = folder.join("bin/python");
    host::run(Command::new(pip).args(["-m", "pip", "install", "--quiet", "--requirement"]).arg(&requirements))?;
    Ok(fs::write(folder.join("complete"), "")?)
}

//! Runs every test there is, in the order in which a failure is cheapest to learn of.

use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result};

use crate::{clients, host, images, setup};

/// Options of `cargo xtask test`.
#[derive(clap::Args)]
pub struct Args {
    /// Run only the tests whose name holds this text, and no other check
    filter: Option<String>,
}

/// The version of cargo-deny that checks licences and sources.
const CARGO_DENY: &str = "0.19.0";

/// Runs the checks and tests.
pub fn run(args: &Args) -> Result<()> {
    setup::ensure(setup::For::Tests)?;
    if args.filter.is_none() {
        step("format", || host::run(host::cargo().args(["fmt", "--all", "--check"])))?;
        step("lints", || {
            host::run(host::cargo().args([
                "clippy",
                "--workspace",
                "--all-targets",
                "--locked",
                "--",
                "-D",
                "warnings",
            ]))
        })?;
        step("licences and sources", deny)?;
    }
    let mut command = host::cargo();
    command.args(["test", "--workspace", "--locked", "--no-fail-fast"]);
    if let Some(filter) = &args.filter {
        command.arg(filter);
    }
    with_tools(&mut command)?;
    step("tests", || host::run(&mut command))
}

/// Runs one of the integration tests, with what it says shown and these numbers in its environment.
///
/// # Errors
/// When it fails or cannot be run.
pub fn one(file: &str, test: &str, settings: &[(&str, u64)]) -> Result<()> {
    setup::ensure(setup::For::Tests)?;
    let mut command = host::cargo();
    command.args([
        "test",
        "--locked",
        "--package",
        "gantry-integration-tests",
        "--test",
        file,
        test,
        "--",
        "--nocapture",
        "--include-ignored",
    ]);
    command.env("CI", "true").envs(settings.iter().map(|(name, value)| (name, value.to_string())));
    with_tools(&mut command)?;
    step(file, || host::run(&mut command))
}

/// Builds what the tests drive, and tells them where it is.
fn with_tools(command: &mut Command) -> Result<()> {
    let gantry = step("build", || host::build_gantry(false))?;
    let images = step("images", images::ensure_all)?;
    let kubectl = step("clients", || clients::ensure().and_then(|()| clients::typed_kubectl()))?;
    command.env("GANTRY_BINARY", &gantry).env("GANTRY_WORK_DIR", host::work_dir());
    if let Some(dir) = images.first().and_then(|image| image.parent()) {
        command.env("GANTRY_IMAGES", dir);
    }
    command.env("GANTRY_KUBECTL", &kubectl).env("GANTRY_CLIENTS", clients::dir());
    command.env("GANTRY_GO", clients::go::find()?.program);
    let more = std::env::join_paths(clients::machine_folders())?;
    command.env("GANTRY_KUBECTL_FOLDERS", more);
    Ok(())
}

fn step<T>(name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    println!("==> {name}");
    let start = Instant::now();
    let result = work().with_context(|| format!("step `{name}` failed"))?;
    println!("==> {name}: done in {:.0} s", start.elapsed().as_secs_f64());
    Ok(result)
}

/// Checks licences and sources of all dependencies, installing cargo-deny into a cache when it is missing.
fn deny() -> Result<()> {
    let cache = host::cache_dir().join(format!("cargo-deny-{CARGO_DENY}"));
    let cached = cache.join("bin").join("cargo-deny");
    let program = match host::find_program("cargo-deny") {
        Some(program) => program,
        None if cached.exists() => cached,
        None => {
            println!("cargo-deny is missing: building it once, into {}", cache.display());
            let mut install = host::cargo();
            install
                .args(["install", "--locked", "--quiet", "cargo-deny", "--version", CARGO_DENY, "--root"])
                .arg(&cache);
            // Its own target folder would be a temporary one; its size is of no use afterwards.
            host::run(install.env_remove("CARGO_TARGET_DIR"))?;
            cached
        }
    };
    host::run(Command::new(program).current_dir(host::root()).args(["check", "licenses", "bans", "sources"]))
}

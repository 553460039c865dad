//! Benches: each prints a ratio against a rival or a limit that was measured in the same run. What is measured is
//! optimised; what measures is a program of the integration tests, which may use every part.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::{cleanup, demo, host, images, ledger, setup};

/// Options of `cargo xtask bench`.
#[derive(clap::Args)]
pub struct Args {
    /// What to measure
    #[arg(value_enum)]
    name: Name,
    /// For packing: a list of pods to replay, instead of those that are found; may be given several times
    #[arg(long, value_name = "FILE")]
    trace: Vec<PathBuf>,
    /// For packing: the list of nodes to replay them on
    #[arg(long, value_name = "FILE")]
    nodes: Option<PathBuf>,
    /// For node: so many simulated nodes with ten pods each, instead of a real one
    #[arg(long, value_name = "NODES")]
    simulated: Option<usize>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Name {
    /// Requests beside a bare server of the same library, watchers, memory
    Api,
    /// A node's pods a second and their start beside the bare runtime, the agent's memory and idle processor time
    Node,
    /// Start of a pod beside the bare runtime's cost, idle memory, time to ready
    Spine,
    /// Durable writes beside bare redb and etcd on the same disk; opening, memory and latencies up to a million objects
    Store,
    /// How much of a cluster's devices the scheduler gives out, and how few nodes it uses, beside other policies
    Packing,
    /// Decisions of the scheduler's core on the workloads of Kubernetes' scheduler benchmark, and how they scale; pods
    /// bound a second through the API server
    Scheduler,
}

/// Runs a bench.
pub fn run(args: &Args) -> Result<()> {
    match args.name {
        Name::Api => api(&[]),
        Name::Spine => {
            setup::ensure(setup::For::Demo)?;
            pods("bench-spine", &host::build_gantry(true)?, None)
        }
        Name::Node => {
            setup::ensure(setup::For::Demo)?;
            pods("bench-node", &host::build_gantry(true)?, args.simulated)
        }
        Name::Store => store(),
        Name::Scheduler => scheduler(),
        Name::Packing => packing(args),
    }
}

/// The API server in a process of its own; requests come from `h2load`. `more`: what else the program is told.
fn api(more: &[&str]) -> Result<()> {
    setup::ensure(setup::For::Bench)?;
    // Both in one go: apart, they would want the same libraries with different features.
    let program = example("gantry-apiserver", "bench_api", &["--package", "gantry", "--bin", "gantry"])?;
    std::fs::create_dir_all(host::work_dir())?;
    let gantry = host::target_dir().join("release").join("gantry");
    host::run(Command::new(program).arg(host::work_dir()).args(more).env("GANTRY_BINARY", gantry))
}

/// Builds an example as what it measures is built, and what else is given.
fn example(package: &str, name: &str, more: &[&str]) -> Result<std::path::PathBuf> {
    let mut build = host::cargo();
    build.args(["build", "--release", "--locked", "--package", package]);
    host::run(build.args(["--example", name]).args(more))?;
    Ok(host::target_dir().join("release").join("examples").join(name))
}

/// The store alone, in a program of its own: nothing else of Gantry is in the way of what is measured.
fn store() -> Result<()> {
    let program = example("gantry-store", "bench_store", &[])?;
    std::fs::create_dir_all(host::work_dir())?;
    host::run(Command::new(program).arg(host::work_dir()))
}

/// The scheduler's core alone, in process; then from a pod's create to its binding, through the API server.
fn scheduler() -> Result<()> {
    host::run(&mut Command::new(example("gantry-scheduler", "bench_scheduler", &[])?))?;
    api(&["1", "1", "scheduling"])
}

/// The scheduler's core on traces of pods that ask for devices, and on made-up mixes.
fn packing(args: &Args) -> Result<()> {
    // Files are given from where the command is run.
    let mut program = Command::new(example("gantry-scheduler", "bench_packing", &[])?);
    for trace in &args.trace {
        program.arg("--trace").arg(trace);
    }
    if let Some(nodes) = &args.nodes {
        program.arg("--nodes").arg(nodes);
    }
    host::run(&mut program)
}

/// A bench that runs pods.
fn pods(name: &str, gantry: &std::path::Path, simulated: Option<usize>) -> Result<()> {
    // The measuring client is no part of what is measured: the tests' build of it does.
    let mut build = host::cargo();
    build.args(["build", "--locked", "--package", "gantry-integration-tests"]);
    host::run(build.args(["--bin", name]))?;
    let data_dir = host::work_dir().join(format!("bench-{}", std::process::id()));
    demo::install_images(&data_dir, &images::ensure_all()?)?;
    let record = ledger::Record { data_dir: data_dir.clone(), ..Default::default() };
    let entry = ledger::write("bench", &record)?;
    let mut bench = host::privileged("env");
    bench.arg(format!("GANTRY_BINARY={}", gantry.display())).arg(format!("GANTRY_DATA_DIR={}", data_dir.display()));
    if let Some(nodes) = simulated {
        bench.arg(format!("GANTRY_BENCH_SIMULATED={nodes}"));
    }
    let measured = host::run(bench.arg(host::target_dir().join("debug").join(name)));
    cleanup::take_down(&record)?;
    std::fs::remove_file(entry)?;
    measured
}

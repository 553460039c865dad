//! Kubernetes' own conformance suite against a fresh Gantry.
//!
//! The suite is one Go program of the Kubernetes project. It is built once from Kubernetes' published Go modules and kept in
//! a cache folder, as are the programs inside the images that the specs run. A run starts Gantry in network namespaces of
//! its own, gives it the images, runs the specs in focus, prints a table by area and keeps the reports.

mod cluster;
mod images;
mod report;
mod suite;

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::{host, setup};

/// Options of `cargo xtask conformance`.
#[derive(clap::Args)]
pub struct Args {
    /// Run the specs whose full name matches this regular expression (of Go)
    #[arg(long, default_value = r"\[Conformance\]")]
    focus: String,
    /// Of these, leave out the ones whose full name matches this regular expression
    #[arg(long)]
    skip: Option<String>,
    /// Machines in the cluster
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=8))]
    nodes: u8,
    /// Specs that run at a time
    #[arg(long, default_value_t = 4)]
    procs: u16,
    /// Test the optimised build, as it is shipped, instead of the one of daily work
    #[arg(long)]
    release: bool,
    /// List the specs in focus and run nothing
    #[arg(long)]
    list: bool,
    /// Leave the cluster running at the end, until Ctrl-C
    #[arg(long)]
    keep: bool,
}

/// Runs the specs in focus.
///
/// # Errors
/// When a spec fails, or the suite or the cluster cannot be had.
pub fn run(args: &Args) -> Result<()> {
    setup::ensure(setup::For::Tests)?;
    let suite = suite::ensure()?;
    if args.list {
        return host::run(Command::new(&suite.e2e).args(["--provider", "skeleton"]).args([
            "--ginkgo.dry-run",
            "--ginkgo.v",
            "--ginkgo.no-color",
            &format!("--ginkgo.focus={}", args.focus),
        ]));
    }
    let gantry = host::build_gantry(args.release)?;
    let images = images::ensure(&suite)?;
    let reports = fresh_report_dir()?;
    let cluster = cluster::Cluster::start(&gantry, &images, args.nodes)?;
    let ran = specs(args, &suite, &cluster, &reports);
    cluster.keep_logs(&reports);
    if args.keep {
        println!("\nThe cluster goes on running; Ctrl-C ends it. To look at it:\n  {}", cluster.how_to_look());
        cluster.wait_for_interrupt()?;
    }
    cluster.take_down()?;
    let table = report::read(&reports.join("report.json"))?;
    println!("\n{table}\nReports and logs: {}", reports.display());
    ran?;
    anyhow::ensure!(table.failed() == 0, "{} of {} specs failed", table.failed(), table.ran());
    anyhow::ensure!(table.ran() > 0, "no spec matches {:?}", args.focus);
    Ok(())
}

/// Runs the suite in the cluster's namespace. Failing specs are no error here: the report has them.
fn specs(args: &Args, suite: &suite::Suite, cluster: &cluster::Cluster, reports: &std::path::Path) -> Result<()> {
    let mut command = cluster.command(&suite.ginkgo);
    command.arg(format!("--procs={}", args.procs)).args(["--no-color", "--timeout=12h", "--flake-attempts=1"]);
    command.arg(format!("--focus={}", args.focus));
    if let Some(skip) = &args.skip {
        command.arg(format!("--skip={skip}"));
    }
    command.arg(format!("--output-dir={}", reports.display())).arg("--json-report=report.json");
    command.arg(&suite.e2e).arg("--");
    command.arg(format!("--kubeconfig={}", cluster.kubeconfig().display()));
    command.arg(format!("--kubectl-path={}", suite.kubectl.display()));
    command.arg(format!("--report-dir={}", reports.display()));
    // The suite's wait for kube-system's pods and its own notion of a fit node: there are none of the former here.
    command.args(["--provider=skeleton", "--allowed-not-ready-nodes=-1", "--minStartupPods=0"]);
    command.env("KUBE_TEST_REPO_LIST", images::registries(reports)?);
    let log = fs::File::create(reports.join("e2e.log"))?;
    println!("Running; the whole output goes to {}", reports.join("e2e.log").display());
    let status = command.stdin(std::process::Stdio::null()).stdout(log.try_clone()?).stderr(log).status()?;
    // 1 is what ginkgo says of failed specs.
    anyhow::ensure!(status.success() || status.code() == Some(1), "the suite ended: {status}");
    Ok(())
}

fn fresh_report_dir() -> Result<PathBuf> {
    let all = host::work_dir().join("conformance");
    fs::create_dir_all(&all)?;
    let number = fs::read_dir(&all)?
        .flatten()
        .filter_map(|entry| entry.file_name().to_string_lossy().parse::<u32>().ok())
        .max()
        .map_or(1, |last| last + 1);
    let dir = all.join(number.to_string());
    fs::create_dir(&dir)?;
    Ok(dir)
}

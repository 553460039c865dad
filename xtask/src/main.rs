//! Repository tasks: set up a machine, show Gantry, test it, measure it, clean up after it.
//!
//! `main` parses and dispatches; each task is a module. Nothing here is part of the product.
#![allow(clippy::print_stdout, reason = "a command-line tool talks on standard output")]

mod bench;
mod cleanup;
mod clients;
mod codegen;
mod conformance;
mod demo;
mod host;
mod images;
mod ledger;
mod setup;
mod soak;
mod test;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Tasks of the Gantry repository", disable_version_flag = true)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what is missing, build, start Gantry, and run the example shop on it
    Demo(demo::Args),
    /// Run every test there is: format, lints, licences, unit, property and integration tests
    Test(test::Args),
    /// End what a crashed demo or test left: processes, namespaces, bridges, nft tables, cgroups, mounts
    CleanUp,
    /// Measure, each figure beside a rival or a limit taken in the same run
    Bench(bench::Args),
    /// Trouble a node for as long as you like, and see that nothing is left of it
    Soak(soak::Args),
    /// Run Kubernetes' own conformance suite against a fresh Gantry and print a table by area
    Conformance(conformance::Args),
    /// Install the system packages that Gantry and its tests use, and build the clients that the tests drive it with
    Setup,
    /// Make the example images from Debian packages
    Images,
    /// Regenerate the tables of facts about built-in kinds
    Codegen {
        /// Change nothing; fail if a table is not what would be generated
        #[arg(long)]
        check: bool,
    },
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().task {
        Task::Demo(args) => demo::run(&args),
        Task::Test(args) => test::run(&args),
        Task::CleanUp => cleanup::run(),
        Task::Bench(args) => bench::run(&args),
        Task::Soak(args) => soak::run(&args),
        Task::Conformance(args) => conformance::run(&args),
        Task::Setup => setup::ensure(setup::For::Tests).and_then(|()| clients::ensure()),
        Task::Images => images::ensure_all().map(|_| ()),
        Task::Codegen { check } => codegen::run(check),
    }
}

//! Benches: each prints a ratio against a rival or a limit that was measured in the same run.

use anyhow::Result;

/// Options of `cargo xtask bench`.
#[derive(clap::Args)]
pub struct Args {
    /// What to measure
    #[arg(value_enum)]
    name: Name,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Name {
    /// Start of a pod beside the bare runtime's cost, idle memory, time to ready
    Spine,
}

/// Runs a bench.
pub fn run(args: &Args) -> Result<()> {
    match args.name {
        Name::Spine => anyhow::bail!("not written yet"),
    }
}

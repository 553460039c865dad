//! Soaks: a test that goes on for as long as one likes.

use anyhow::Result;

use crate::test;

/// Options of `cargo xtask soak`.
#[derive(clap::Args)]
pub struct Args {
    /// What to trouble
    #[arg(value_enum)]
    name: Name,
    /// For how long
    #[arg(long, default_value_t = 30)]
    minutes: u64,
    /// How many pods there are at a time, about
    #[arg(long, default_value_t = 50)]
    pods: u64,
    /// What happens follows from this number; another one each time without it
    #[arg(long)]
    seed: Option<u64>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Name {
    /// One node's containerd, agent and API server, while pods come, change and go
    Node,
}

/// Runs it.
///
/// # Errors
/// When something is left on the node, or the test cannot be run.
pub fn run(args: &Args) -> Result<()> {
    let test = match args.name {
        Name::Node => "a_troubled_node_is_in_the_end_as_a_fresh_one",
    };
    let mut settings = vec![("GANTRY_SOAK_SECONDS", args.minutes * 60), ("GANTRY_SOAK_PODS", args.pods)];
    settings.extend(args.seed.map(|seed| ("GANTRY_SOAK_SEED", seed)));
    test::one("soak", test, &settings)
}

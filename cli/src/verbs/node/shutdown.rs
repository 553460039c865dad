//! `gantry node shutdown`: asks the agent of this machine to let its pods end, as systemd-logind does where it is there.

use std::process::ExitCode;

use anyhow::Result;

use crate::args::DataDir;

/// `gantry node shutdown`
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    data: DataDir,
    /// The machine does not go down after all: let pods come again
    #[arg(long)]
    cancel: bool,
}

/// Returns when the pods have ended, or their time is over.
#[cfg(unix)]
pub async fn run(args: &Args) -> Result<ExitCode> {
    let out = super::super::output::Out::default();
    let mut shown = Ok(());
    let show = |line: &str| {
        // It goes on, even if nobody reads how far it is.
        if shown.is_ok() {
            shown = out.line(line);
        }
    };
    gantry_node_agent::ask_shutdown(&args.data.data_dir, args.cancel, show).await?;
    shown?;
    out.line(if args.cancel { "pods may come again" } else { "the pods have had their time" })?;
    Ok(ExitCode::SUCCESS)
}

/// There is no agent to be asked here.
#[cfg(not(unix))]
pub async fn run(_: &Args) -> Result<ExitCode> {
    anyhow::bail!("node agents run on Linux only")
}

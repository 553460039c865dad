//! `gantry image`: images of this machine's node.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};

use super::output::Out;
use crate::args::DataDir;

/// `gantry image`
#[derive(clap::Subcommand, Debug)]
pub enum Command {
    /// Import image archives (OCI or Docker layout) into the node that runs on this machine
    Import(Import),
}

/// `gantry image import`
#[derive(clap::Args, Debug)]
pub struct Import {
    #[command(flatten)]
    data: DataDir,
    /// The archives
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

/// Carries the command out.
pub async fn run(command: Command) -> Result<ExitCode> {
    let Command::Import(import) = command;
    for file in &import.files {
        let images = gantry_node_agent::runtime::images::import_images(&import.data.data_dir, file).await;
        for reference in images.with_context(|| format!("cannot import {}", file.display()))? {
            Out::default().line(format!("image {reference} imported"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

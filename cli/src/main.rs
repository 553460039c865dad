//! The `gantry` binary: the components of the datacenter operating system, and kubectl-like verbs to talk to it.
//!
//! `main` parses and dispatches, nothing else.

mod args;
mod client;
mod components;
mod election;
mod logging;
mod verbs;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let cli = args::Cli::parse();
    logging::init(&cli.logging, cli.command.is_server());
    // Both crates that use TLS take the process' default provider; installing it twice would be the only error.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match components::runtime(&cli.command).and_then(|runtime| runtime.block_on(args::dispatch(cli))) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

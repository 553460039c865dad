//! kubectl-like verbs, with kubectl's habits in flags, words and exit codes. Each is a client of the API like any other.

/// Tells the user something beside the answer, on standard error. Unlike `eprintln!` it does not panic when nobody listens.
macro_rules! tell {
    ($($text:tt)*) => { $crate::verbs::output::tell(format_args!($($text)*)) };
}

mod apply;
mod defrag;
mod delete;
mod describe;
mod exec;
mod get;
mod image;
mod jsonpath;
mod logs;
mod manifests;
mod node;
mod output;
mod placement;
mod rollout;
mod scale;
mod session;
mod store;
#[cfg(test)]
mod tests;

use std::process::ExitCode;

use clap::Subcommand;

use crate::client::ClientFlags;
use session::Session;

/// What can be done with a running cluster.
#[derive(Subcommand, Debug)]
pub enum Verb {
    /// Create or change objects to be as manifests say
    Apply(apply::Args),
    /// Show objects
    Get(get::Args),
    /// Show one or more objects in detail, with their events
    Describe(describe::Args),
    /// Delete objects
    Delete(delete::Args),
    /// Print what containers wrote
    Logs(logs::Args),
    /// Run a command in a container
    Exec(exec::Args),
    /// Set how many replicas there are
    Scale(scale::Args),
    /// Follow, undo, restart or pause a roll-out
    #[command(subcommand)]
    Rollout(rollout::Command),
    /// Show where the pods of manifests would go, without making them
    Plan(placement::Plan),
    /// Show why a pod is where it is or waits, node by node
    Why(placement::Why),
    /// Show where pods would go if nodes were drained, lost or added
    #[command(subcommand)]
    WhatIf(placement::WhatIf),
    /// Show which pods could move so that those have room that wait, and move them
    Defrag(defrag::Args),
    /// Work with the images on this machine
    #[command(subcommand)]
    Image(image::Command),
    /// Drain, cordon and shut down nodes
    #[command(subcommand)]
    Node(node::Command),
    /// Back up, restore, move, check and compact the store, and change its keys
    #[command(subcommand)]
    Store(store::Command),
}

/// Which namespace a verb acts in.
#[derive(clap::Args, Debug, Clone, Default)]
pub struct NamespaceFlag {
    /// The namespace; by default the kubeconfig's, else `default`
    #[arg(long, short = 'n', value_name = "NAME")]
    pub namespace: Option<String>,
}

/// Carries out a verb. An error of the server is printed as kubectl does and becomes exit code 1.
pub async fn run(verb: Verb, flags: &ClientFlags) -> anyhow::Result<ExitCode> {
    let done = match verb {
        Verb::Image(command) => image::run(command).await,
        Verb::Store(command) => store::run(command, flags).await,
        Verb::Node(command) => match node::run_locally(command).await {
            Ok(Ok(code)) => Ok(code),
            Ok(Err(command)) => with_session(Verb::Node(command), flags).await,
            Err(error) => Err(error),
        },
        verb => with_session(verb, flags).await,
    };
    match done {
        Err(error) if is_closed_pipe(&error) => Ok(ExitCode::SUCCESS),
        Err(error) => match server_error(&error) {
            Some(text) => {
                tell!("{text}");
                Ok(ExitCode::FAILURE)
            }
            None => Err(error),
        },
        Ok(code) => Ok(code),
    }
}

async fn with_session(verb: Verb, flags: &ClientFlags) -> anyhow::Result<ExitCode> {
    carry_out(verb, &Session::new(flags).await?).await
}

async fn carry_out(verb: Verb, session: &Session) -> anyhow::Result<ExitCode> {
    match verb {
        Verb::Apply(args) => apply::run(session, &args).await,
        Verb::Get(args) => get::run(session, &args).await,
        Verb::Describe(args) => describe::run(session, &args).await,
        Verb::Delete(args) => delete::run(session, &args).await,
        Verb::Logs(args) => logs::run(session, &args).await,
        Verb::Exec(args) => exec::run(session, &args).await,
        Verb::Scale(args) => scale::run(session, &args).await,
        Verb::Rollout(command) => rollout::run(session, &command).await,
        Verb::Plan(args) => placement::plan(session, &args).await,
        Verb::Why(args) => placement::why(session, &args).await,
        Verb::WhatIf(command) => placement::what_if(session, &command).await,
        Verb::Defrag(args) => defrag::run(session, &args).await,
        Verb::Node(command) => node::run(session, &command).await,
        Verb::Image(command) => image::run(command).await,
        // Asked for before there is a session, which it may not need.
        Verb::Store(command) => store::run(command, &ClientFlags::default()).await,
    }
}

/// Whether the reader of standard output went away (`gantry get pods | head`), which is no failure.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
    })
}

/// The server's words in kubectl's form, when it is the server that refused.
fn server_error(error: &anyhow::Error) -> Option<String> {
    error.chain().find_map(|cause| match cause.downcast_ref::<kube::Error>()? {
        kube::Error::Api(status) if status.reason.is_empty() => Some(format!("Error from server: {}", status.message)),
        // kubectl leaves the prefix out where the server names the fields.
        kube::Error::Api(status) if status.reason == "Invalid" => Some(status.message.clone()),
        kube::Error::Api(status) => Some(format!("Error from server ({}): {}", status.reason, status.message)),
        _ => None,
    })
}

//! `gantry node`: looks after nodes, with kubectl's words where it has the same verbs.

mod diagnose;
mod drain;
mod findings;
mod plan;
mod shutdown;

use std::process::ExitCode;

use anyhow::{Result, bail};
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, ListParams, Patch, PatchParams};
use serde_json::json;

use super::session::Session;

/// `gantry node`
#[derive(clap::Subcommand, Debug)]
pub enum Command {
    /// Let no more pods come to a node, and evict those that it has
    Drain(Box<drain::Args>),
    /// Let no more pods come to a node
    Cordon(Which),
    /// Let pods come to a node again
    Uncordon(Which),
    /// Name what is wrong with a node, and what to do about it
    Diagnose(diagnose::Args),
    /// Let the pods of this machine's node end because the machine goes down
    Shutdown(shutdown::Args),
}

/// Which nodes.
#[derive(clap::Args, Debug, Clone)]
pub struct Which {
    /// The nodes' names
    #[arg(value_name = "NODE", required_unless_present = "selector", conflicts_with = "selector")]
    names: Vec<String>,
    /// Nodes with these labels
    #[arg(long, short = 'l', value_name = "SELECTOR")]
    selector: Option<String>,
    /// Only say what would be done (`client`), or let the server try it (`server`)
    #[arg(long, default_value = "none", value_parser = ["none", "client", "server"], num_args = 0..=1, default_missing_value = "client")]
    dry_run: String,
}

impl Which {
    fn is_dry(&self) -> bool {
        self.dry_run != "none"
    }

    /// What stands behind a message when nothing is done.
    fn suffix(&self) -> &'static str {
        match self.dry_run.as_str() {
            "client" => " (dry run)",
            "server" => " (server dry run)",
            _ => "",
        }
    }

    async fn nodes(&self, session: &Session) -> Result<Vec<Node>> {
        let api: Api<Node> = Api::all(session.client.clone());
        if let Some(selector) = &self.selector {
            return Ok(api.list(&ListParams::default().labels(selector)).await?.items);
        }
        let mut nodes = Vec::new();
        for name in &self.names {
            let name = name.trim_start_matches("node/").trim_start_matches("nodes/");
            nodes.push(api.get(name).await?);
        }
        Ok(nodes)
    }
}

/// Carries the command out against a cluster.
pub async fn run(session: &Session, command: &Command) -> Result<ExitCode> {
    match command {
        Command::Drain(args) => drain::run(session, args).await,
        Command::Cordon(which) => cordon(session, which, &which.nodes(session).await?, true).await,
        Command::Uncordon(which) => cordon(session, which, &which.nodes(session).await?, false).await,
        Command::Diagnose(diagnose::Args { node: Some(node), .. }) => diagnose::remote(session, node).await,
        // These are carried out without a cluster.
        Command::Diagnose(args) => diagnose::local(args).await,
        Command::Shutdown(args) => shutdown::run(args).await,
    }
}

/// Carries out what needs no cluster; gives the others back.
pub async fn run_locally(command: Command) -> Result<std::result::Result<ExitCode, Command>> {
    match command {
        Command::Shutdown(args) => shutdown::run(&args).await.map(Ok),
        Command::Diagnose(args) if args.node.is_none() => diagnose::local(&args).await.map(Ok),
        other => Ok(Err(other)),
    }
}

/// Marks nodes, or takes the mark away.
async fn cordon(session: &Session, which: &Which, nodes: &[Node], desired: bool) -> Result<ExitCode> {
    let api: Api<Node> = Api::all(session.client.clone());
    let mut failures = Vec::new();
    for node in nodes {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        let is = node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false);
        let (verb, done) = if desired { ("cordon", "cordoned") } else { ("uncordon", "uncordoned") };
        if is == desired {
            session.out.line(format!("node/{name} already {done}{}", which.suffix()))?;
            continue;
        }
        if which.dry_run != "client" {
            let params = PatchParams { dry_run: which.is_dry(), ..PatchParams::default() };
            let patch = json!({"spec": {"unschedulable": desired.then_some(true)}});
            if let Err(error) = api.patch(name, &params, &Patch::Merge(patch)).await {
                failures.push(format!("unable to {verb} node \"{name}\": {error}"));
                continue;
            }
        }
        session.out.line(format!("node/{name} {done}{}", which.suffix()))?;
    }
    if failures.is_empty() { Ok(ExitCode::SUCCESS) } else { bail!(failures.join("\n")) }
}

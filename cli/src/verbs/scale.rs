//! `gantry scale`

use std::process::ExitCode;

use anyhow::{Result, bail};
use serde_json::json;

use super::NamespaceFlag;
use super::session::Session;

/// `gantry scale`
#[derive(clap::Args, Debug)]
pub struct Args {
    /// `TYPE NAME` or `TYPE/NAME`
    #[arg(value_name = "RESOURCE", required = true)]
    words: Vec<String>,
    #[command(flatten)]
    namespace: NamespaceFlag,
    /// How many replicas there should be
    #[arg(long, value_name = "N")]
    replicas: u32,
    /// Only when there are so many now
    #[arg(long, value_name = "N")]
    current_replicas: Option<i64>,
}

/// Sets the replicas through the scale subresource.
pub async fn run(session: &Session, args: &Args) -> Result<ExitCode> {
    let (resource, name) = session.target(&args.words, None).await?;
    if !resource.scalable {
        bail!("{} cannot be scaled: the server could not find the requested resource", resource.display());
    }
    let namespace = session.namespace(&args.namespace);
    let scale = format!("{name}/scale");
    let mut patch = json!({"spec": {"replicas": args.replicas}});
    if let Some(expected) = args.current_replicas {
        let now = session.get(&resource, &namespace, &scale).await?;
        let replicas = now["spec"]["replicas"].as_i64().unwrap_or(0);
        if replicas != expected {
            bail!("Expected replicas to be {expected}, was {replicas}");
        }
        // Whoever changes it in between makes this patch fail rather than win.
        patch["metadata"] = json!({"resourceVersion": now["metadata"]["resourceVersion"]});
    }
    session.patch(&resource, &namespace, &scale, "application/merge-patch+json", &patch).await?;
    session.out.line(format!("{}/{name} scaled", resource.display()))?;
    Ok(ExitCode::SUCCESS)
}

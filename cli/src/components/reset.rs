//! Takes this machine's node down: its pods, its containerd, its network. Desired state, certificates and images stay.

use std::io::{BufRead, IsTerminal, Write};

use anyhow::{Context, Result, bail};

use crate::args;

/// `gantry reset`
pub async fn run(options: &args::Reset) -> Result<()> {
    let dir = &options.data.data_dir;
    if !dir.exists() {
        bail!("there is no data directory {}; --data-dir names another", dir.display());
    }
    if !options.yes
        && !confirmed(&format!("Stop every pod of the node in {} and remove its containers?", dir.display()))?
    {
        bail!("nothing was changed");
    }
    take_down(dir).await.with_context(|| format!("cannot take the node in {} down", dir.display()))
}

#[cfg(target_os = "linux")]
async fn take_down(dir: &std::path::Path) -> Result<()> {
    Ok(gantry_node_agent::runtime::containerd::shutdown_everything(dir).await?)
}

#[cfg(not(target_os = "linux"))]
async fn take_down(_dir: &std::path::Path) -> Result<()> {
    bail!("a node is taken down by Gantry on Linux only")
}

fn confirmed(question: &str) -> Result<bool> {
    if !std::io::stdin().is_terminal() {
        bail!("this asks before it acts; use --yes where nobody can answer");
    }
    let mut stderr = std::io::stderr();
    write!(stderr, "{question} [y/N] ")?;
    stderr.flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
}

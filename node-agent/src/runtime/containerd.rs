//! Starts and supervises containerd, or attaches to one.

use std::path::PathBuf;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::{Result, Runtime, RuntimeError};

/// What to start or attach to.
#[derive(Clone, Debug)]
pub struct ContainerdOptions {
    /// Attach here; `None` starts an own one.
    pub address: Option<String>,
    /// The agent's data directory.
    pub data_dir: PathBuf,
    /// The node's name.
    pub node_name: String,
    /// Cgroup below which the pods live.
    pub cgroup_root: String,
}

/// A runtime that answers, and the task that keeps it going until shutdown.
pub struct Started {
    /// The runtime.
    pub runtime: Arc<dyn Runtime>,
    /// Ends after shutdown, when everything is wound down.
    pub supervisor: tokio::task::JoinHandle<()>,
}

/// Starts (or attaches to) containerd and returns once it answers.
pub async fn start(_options: ContainerdOptions, _shutdown: CancellationToken) -> Result<Started> {
    Err(RuntimeError::Unsupported("not here yet".into()))
}

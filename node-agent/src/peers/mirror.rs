//! The registry that containerd asks first, on the loopback: it has what other nodes have. In: a digest. Out: its bytes, from one node
//! after the other if need be, or 404, upon which containerd goes on to the next of the registry's hosts.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{Method, StatusCode, header};
use sha2::{Digest as _, Sha256};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use super::fetch::Opened;
use super::wanted::Wanted;
use super::{BROKEN_FOR, Shared, WRONG_FOR};
use crate::runtime::oci::hex;

/// The header by which the mirror knows its containerd: others on the machine do not get what only some pods may have.
pub const TOKEN: &str = "x-gantry-mirror";
/// Pieces that wait for containerd.
const PIECES_WAITING: usize = 4;

#[derive(Clone)]
struct Mirror {
    shared: Arc<Shared>,
    token: Arc<str>,
    stop: CancellationToken,
}

/// Answers until it is to stop.
pub async fn serve(listener: TcpListener, shared: Arc<Shared>, token: String, stop: CancellationToken) {
    let mirror = Mirror { shared, token: token.into(), stop: stop.clone() };
    let router = Router::new().fallback(answer).with_state(mirror);
    if let Some(Err(error)) = stop.run_until_cancelled(async { axum::serve(listener, router).await }).await {
        tracing::warn!(%error, "images do not come from other nodes any more");
        stop.cancelled().await;
    }
}

async fn answer(State(mirror): State<Mirror>, request: Request) -> Response {
    let token = request.headers().get(TOKEN).and_then(|token| token.to_str().ok());
    // What a name stands for, and whether it may be had, only the registry says: it is asked by HEAD.
    let asked = (request.method() == Method::GET && token == Some(&*mirror.token))
        .then(|| Wanted::parse(request.uri().path(), request.uri().query()))
        .flatten();
    let Some(wanted) = asked else { return StatusCode::NOT_FOUND.into_response() };
    let offset = offset(request.headers());
    let Some(opened) = mirror.shared.open(&wanted, offset).await else { return StatusCode::NOT_FOUND.into_response() };
    let total = opened.total;
    let (sender, receiver) = mpsc::channel(PIECES_WAITING);
    let failed = sender.clone();
    tokio::spawn(mirror.stop.run_until_cancelled_owned(async move {
        let mut pump = Pump { shared: mirror.shared, wanted, total, at: offset, hash: Sha256::new(), gave: Vec::new() };
        if let Err(reason) = pump.run(opened, offset == 0, sender).await {
            // The connection is cut, and containerd asks for the rest elsewhere.
            let _ = failed.send(Err(std::io::Error::other(reason))).await;
        }
    }));
    partial(offset, total, Body::from_stream(ReceiverStream::new(receiver)))
}

/// Where a request wants something to begin.
pub fn offset(headers: &http::HeaderMap) -> u64 {
    let range = headers.get(header::RANGE).and_then(|range| range.to_str().ok());
    let start = range.and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-'));
    start.and_then(|start| start.parse().ok()).unwrap_or(0)
}

/// The answer with what comes from an offset on.
pub fn partial(offset: u64, total: u64, body: Body) -> Response {
    let mut response = Response::builder()
        .header(header::CONTENT_TYPE, "application/octet-stream")
        .header(header::CONTENT_LENGTH, total.saturating_sub(offset));
    if offset > 0 {
        let range = format!("bytes {offset}-{}/{total}", total.saturating_sub(1));
        response = response.status(StatusCode::PARTIAL_CONTENT).header(header::CONTENT_RANGE, range);
    }
    response.body(body).unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())
}

/// Bytes on their way from nodes to containerd.
struct Pump {
    shared: Arc<Shared>,
    wanted: Wanted,
    total: u64,
    at: u64,
    hash: Sha256,
    /// Who gave some of it.
    gave: Vec<String>,
}

impl Pump {
    /// Goes on from node to node until all has come. `is_whole` says that it began at the start.
    async fn run(
        &mut self,
        mut opened: Opened,
        is_whole: bool,
        sender: mpsc::Sender<std::io::Result<Bytes>>,
    ) -> Result<(), &'static str> {
        // The last piece waits until it is known that all is right: else containerd would have it all and give up.
        let mut held: Option<Bytes> = None;
        loop {
            let fault = match opened.next().await {
                Ok(Some(piece)) if self.at + piece.len() as u64 <= self.total => {
                    self.at += piece.len() as u64;
                    self.hash.update(&piece);
                    self.shared.metrics.image_bytes_from_peer(piece.len());
                    if self.gave.last() != Some(&opened.peer.node) {
                        self.gave.push(opened.peer.node.clone());
                    }
                    if let Some(before) = held.replace(piece)
                        && sender.send(Ok(before)).await.is_err()
                    {
                        // containerd has gone.
                        return Ok(());
                    }
                    continue;
                }
                Ok(None) if self.at == self.total => break,
                Ok(_) => "it gave more or less than it had said".to_owned(),
                Err(fault) => fault,
            };
            self.shared.avoid(&opened.peer.node, BROKEN_FOR, &fault);
            opened = self.shared.open(&self.wanted, self.at).await.ok_or("no other node has it")?;
            if opened.total != self.total {
                return Err("nodes do not agree on how large it is");
            }
        }
        let is_right = || format!("sha256:{}", hex(&self.hash.clone().finalize())) == self.wanted.digest;
        if is_whole && !is_right() {
            for node in &self.gave {
                self.shared.avoid(node, WRONG_FOR, "what it gave has another digest");
            }
            return Err("the digest is wrong");
        }
        if let Some(last) = held {
            let _ = sender.send(Ok(last)).await;
        }
        Ok(())
    }
}

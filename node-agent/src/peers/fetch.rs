//! Asks another node for a part of an image.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::find::Peer;
use super::wanted::{CREDENTIALS, Wanted};
use crate::ServingIdentity;
use crate::server::tls;

/// How long a node may take until it answers, and how long it may be silent then.
const SILENCE_MAX: Duration = Duration::from_secs(5);
/// What a node gives at least, in bytes a second, while it is waited for: below this a registry is likely to be faster.
const PACE_MIN: u64 = 1 << 20;

/// Why there is nothing.
#[derive(Debug)]
pub enum Failure {
    /// The node does not have it, does not give it to us, or has enough to do.
    NotGiven,
    /// It does not answer, or not as it should.
    Broken(String),
}

/// How other nodes are spoken to.
pub struct Fetcher {
    own: String,
    connector: TlsConnector,
}

/// Something that is being given.
pub struct Opened {
    /// By whom.
    pub peer: Peer,
    /// How large all of it is, whatever the offset.
    pub total: u64,
    body: Incoming,
    /// How long it was waited for since the pace was last looked at, and what came.
    waited: Duration,
    came: u64,
}

impl Fetcher {
    /// As the node of this name.
    pub fn new(identity: &ServingIdentity, own: String) -> io::Result<Self> {
        let config = tls::client_config(identity).map_err(io::Error::other)?;
        Ok(Self { own, connector: TlsConnector::from(Arc::new(config)) })
    }

    /// Opens something at an offset.
    pub async fn open(
        &self,
        peer: &Peer,
        wanted: &Wanted,
        offset: u64,
        credential_hashes: &BTreeSet<String>,
    ) -> Result<Opened, Failure> {
        let opening = self.try_open(peer, wanted, offset, credential_hashes);
        match tokio::time::timeout(SILENCE_MAX, opening).await {
            Ok(opened) => opened,
            Err(_) => Err(Failure::Broken("it does not answer".into())),
        }
    }

    async fn try_open(
        &self,
        peer: &Peer,
        wanted: &Wanted,
        offset: u64,
        credential_hashes: &BTreeSet<String>,
    ) -> Result<Opened, Failure> {
        let broken = |error: &dyn std::fmt::Display| Failure::Broken(error.to_string());
        let name = ServerName::try_from(peer.node.clone()).map_err(|error| broken(&error))?;
        let stream = TcpStream::connect(peer.address).await.map_err(|error| broken(&error))?;
        let stream = self.connector.connect(name, stream).await.map_err(|error| broken(&error))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| broken(&error))?;
        // Its errors reach whoever reads the answer.
        tokio::spawn(connection);
        let mut request = Request::get(wanted.uri()).header(header::HOST, &peer.node);
        if offset > 0 {
            request = request.header(header::RANGE, format!("bytes={offset}-"));
        }
        if !credential_hashes.is_empty() {
            request = request.header(CREDENTIALS, wanted.proofs(credential_hashes, &self.own, &peer.node));
        }
        let request = request.body(Empty::<Bytes>::new()).map_err(|error| broken(&error))?;
        let answer = sender.send_request(request).await.map_err(|error| broken(&error))?;
        let left: Option<u64> =
            answer.headers().get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse().ok());
        match (answer.status(), left) {
            (StatusCode::OK, Some(left)) if offset == 0 => Ok(left),
            (StatusCode::PARTIAL_CONTENT, Some(left)) if offset > 0 => Ok(offset.saturating_add(left)),
            (StatusCode::OK | StatusCode::PARTIAL_CONTENT, _) => Err(broken(&"the answer has no length")),
            _ => Err(Failure::NotGiven),
        }
        .map(|total| {
            let body = answer.into_body();
            Opened { peer: peer.clone(), total, body, waited: Duration::ZERO, came: 0 }
        })
    }
}

impl Opened {
    /// The next piece; none at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, String> {
        loop {
            let asked = Instant::now();
            let frame = tokio::time::timeout(SILENCE_MAX, self.body.frame()).await;
            self.waited += asked.elapsed();
            let frame = match frame {
                Err(_) => return Err("it is silent".into()),
                Ok(None) => return Ok(None),
                Ok(Some(frame)) => frame.map_err(|error| error.to_string())?,
            };
            let Ok(data) = frame.into_data() else { continue };
            self.came += data.len() as u64;
            if self.waited >= SILENCE_MAX {
                if self.came < PACE_MIN * SILENCE_MAX.as_secs() {
                    return Err("it is slow".into());
                }
                (self.waited, self.came) = (Duration::ZERO, 0);
            }
            return Ok(Some(data));
        }
    }
}

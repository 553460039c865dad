//! The TLS listener.
//!
//! In: a bound socket, a certificate and a router. Out: served connections, HTTP/1.1 and HTTP/2, each with what its client
//! certificate says. Handshakes run in the connections' own tasks and never hold up the listener.

use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::{Extension, Router};
use axum_server::accept::{Accept, NoDelayAcceptor};
use axum_server::tls_rustls::{RustlsAcceptor, RustlsConfig};
use hyper_util::rt::TokioTimer;
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tower::Layer;

use crate::auth::{PeerCertificate, identity_of_certificate};
use crate::pki::{ClientIdentity, Pki};

/// Go clients multiplex all their watches over one connection; a busy controller has hundreds.
const HTTP2_STREAMS_MAX: u32 = 2000;
/// Bearer tokens and long selectors are headers, too.
const HEADER_BYTES_MAX: u32 = 64 << 10;
/// How long a client may take to send its headers.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// How often an HTTP/2 connection is asked whether anyone is there, and how long it may take to answer.
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(30);
/// How long requests may take to finish when the server stops.
const DRAIN: Duration = Duration::from_secs(10);

/// What the server presents, and whom it believes: client certificates are asked for, not demanded.
pub fn tls_config(pki: &Pki) -> Result<Arc<ServerConfig>, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let roots = Arc::new(roots(pki)?);
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider))
        .allow_unauthenticated()
        .build()
        .map_err(|error| rustls::Error::General(error.to_string()))?;
    let (chain, key) = certificate(pki.serving())?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// How the server connects to nodes.
pub fn node_client_config(pki: &Pki) -> Result<Arc<ClientConfig>, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let (chain, key) = certificate(pki.kubelet_client())?;
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots(pki)?)
        .with_client_auth_cert(chain, key)?;
    Ok(Arc::new(config))
}

/// What the server presents to aggregated ones.
pub fn front_proxy(pki: &Pki) -> Result<crate::webhook::Presented, rustls::Error> {
    let (chain, key) = certificate(pki.front_proxy_client())?;
    Ok(crate::webhook::Presented { chain, key })
}

fn roots(pki: &Pki) -> Result<RootCertStore, rustls::Error> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pki.ca_pem().as_bytes()) {
        roots.add(certificate.map_err(bad_pem)?)?;
    }
    Ok(roots)
}

type Certificate = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn certificate(identity: &ClientIdentity) -> Result<Certificate, rustls::Error> {
    let chain =
        CertificateDer::pem_slice_iter(identity.chain_pem.as_bytes()).collect::<Result<_, _>>().map_err(bad_pem)?;
    Ok((chain, PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes()).map_err(bad_pem)?))
}

fn bad_pem(error: rustls_pki_types::pem::Error) -> rustls::Error {
    rustls::Error::General(format!("a certificate or key is not PEM: {error}"))
}

/// Serves until `shutdown`, then lets requests finish.
pub async fn serve(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    router: Router,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let acceptor = PeerAcceptor(RustlsAcceptor::new(RustlsConfig::from_config(tls)).acceptor(NoDelayAcceptor::new()));
    let handle: axum_server::Handle<SocketAddr> = axum_server::Handle::new();
    let mut server = axum_server::from_tcp(listener)?.acceptor(acceptor).handle(handle.clone());
    let builder = server.http_builder();
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).max_headers(200);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(HTTP2_STREAMS_MAX)
        .max_header_list_size(HEADER_BYTES_MAX)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT);
    let serving = server.serve(router.into_make_service());
    tokio::pin!(serving);
    tokio::select! {
        result = &mut serving => return result,
        () = shutdown.cancelled() => handle.graceful_shutdown(Some(DRAIN)),
    }
    serving.await
}

/// Puts what the client certificate says on every request of its connection.
#[derive(Clone)]
struct PeerAcceptor(RustlsAcceptor<NoDelayAcceptor>);

type TlsStream = tokio_rustls::server::TlsStream<TcpStream>;
type WithPeer<S> = <Extension<PeerCertificate> as Layer<S>>::Service;

impl<S: Send + 'static> Accept<TcpStream, S> for PeerAcceptor {
    type Stream = TlsStream;
    type Service = WithPeer<S>;
    type Future = Pin<Box<dyn Future<Output = io::Result<(Self::Stream, Self::Service)>> + Send>>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        let accepting = self.0.accept(stream, service);
        Box::pin(async move {
            let (stream, service) = accepting.await?;
            let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
            let identity = certificate.and_then(|certificate| identity_of_certificate(certificate)).map(Arc::new);
            let service = Extension(PeerCertificate(identity)).layer(service);
            Ok((stream, service))
        })
    }
}

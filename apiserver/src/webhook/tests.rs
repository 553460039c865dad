//! The client against real TLS servers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use axum::routing::post;
use axum_server::tls_rustls::RustlsConfig;
use bytes::Bytes;
use rustls_pki_types::PrivateKeyDer;

use super::*;

struct Fixed(SocketAddr);

#[async_trait]
impl Resolve for Fixed {
    async fn resolve(&self, _: &str, name: &str, _: u16) -> Result<Address, ResolveError> {
        if name == "missing" {
            return Err(ResolveError::NotFound(name.to_owned()));
        }
        Ok(Address { host: self.0.ip().to_string(), port: self.0.port() })
    }
}

struct Server {
    address: SocketAddr,
    ca: Vec<u8>,
    handle: axum_server::Handle<SocketAddr>,
    connections: Arc<AtomicUsize>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.handle.shutdown();
    }
}

#[derive(Clone)]
struct Counting<A>(A, Arc<AtomicUsize>);

impl<A, I, S> axum_server::accept::Accept<I, S> for Counting<A>
where
    A: axum_server::accept::Accept<I, S>,
{
    type Stream = A::Stream;
    type Service = A::Service;
    type Future = A::Future;

    fn accept(&self, stream: I, service: S) -> Self::Future {
        self.1.fetch_add(1, Ordering::SeqCst);
        self.0.accept(stream, service)
    }
}

async fn serve(names: &[&str], router: Router) -> Server {
    let key = rcgen::KeyPair::generate().unwrap();
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let certificate = rcgen::CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
    let tls = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
        .unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    let handle: axum_server::Handle<SocketAddr> = axum_server::Handle::new();
    let connections = Arc::new(AtomicUsize::new(0));
    let acceptor = axum_server::tls_rustls::RustlsAcceptor::new(RustlsConfig::from_config(Arc::new(tls)));
    let serving = axum_server::from_tcp(listener)
        .unwrap()
        .acceptor(Counting(acceptor, Arc::clone(&connections)))
        .handle(handle.clone())
        .serve(router.into_make_service());
    tokio::spawn(serving);
    Server { address, ca: certificate.pem().into_bytes(), handle, connections }
}

fn to_service(server: &Server, path: &str) -> ClientConfig {
    ClientConfig {
        endpoint: Endpoint::Service(ServiceReference {
            namespace: "default".into(),
            name: "hook".into(),
            path: path.into(),
            port: 443,
        }),
        ca_bundle: server.ca.clone(),
        insecure: false,
    }
}

fn echo() -> Router {
    Router::new()
        .route("/echo", post(|body: Bytes| async move { body }))
        .route("/fail", post(|| async { (StatusCode::INTERNAL_SERVER_ERROR, "broken") }))
        .route("/hang", post(|| async { std::future::pending::<()>().await }))
}

const LONG: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_service_answers_under_its_name_and_the_connection_is_kept() {
    let server = serve(&["hook.default.svc"], echo()).await;
    let client = Client::new(Arc::new(Fixed(server.address)));
    let config = to_service(&server, "/echo");
    for text in ["one", "two", "three"] {
        assert_eq!(client.post(&config, Bytes::from(text), LONG).await.unwrap(), text);
    }
    assert_eq!(server.connections.load(Ordering::SeqCst), 1);
    let error = client.post(&to_service(&server, "/fail"), Bytes::new(), LONG).await.unwrap_err();
    assert_eq!(error.to_string(), "an error on the server (\"broken\") has prevented the request from succeeding");
    let error = client.post(&to_service(&server, "none"), Bytes::new(), LONG).await.unwrap_err();
    assert_eq!(error.to_string(), "the server could not find the requested resource");
}

#[tokio::test]
async fn a_url_is_asked_as_it_is_and_slow_answers_are_given_up() {
    let server = serve(&["127.0.0.1"], echo()).await;
    let client = Client::new(Arc::new(Fixed(server.address)));
    let url = |path: &str| ClientConfig {
        endpoint: Endpoint::Url(format!("https://{}{path}", server.address)),
        ca_bundle: server.ca.clone(),
        insecure: false,
    };
    assert_eq!(client.post(&url("/echo"), Bytes::from("x"), LONG).await.unwrap(), "x");
    let error = client.post(&url("/hang"), Bytes::new(), Duration::from_secs(1)).await.unwrap_err();
    let told = format!("Post \"https://{}/hang?timeout=1s\": context deadline exceeded", server.address);
    assert_eq!(error.to_string(), told);
}

#[tokio::test]
async fn only_the_named_ca_is_believed() {
    let server = serve(&["hook.default.svc"], echo()).await;
    let other = serve(&["hook.default.svc"], echo()).await;
    let client = Client::new(Arc::new(Fixed(server.address)));
    let mut config = to_service(&other, "/echo");
    let error = client.post(&config, Bytes::from("x"), LONG).await.unwrap_err();
    assert!(error.to_string().contains("tls: failed to verify certificate: x509"), "{error}");
    config.insecure = true;
    assert_eq!(client.post(&config, Bytes::from("x"), LONG).await.unwrap(), "x");
    config.insecure = false;
    config.ca_bundle = b"rubbish".to_vec();
    let error = client.post(&config, Bytes::from("x"), LONG).await.unwrap_err();
    assert!(error.to_string().contains("unable to load root certificates"), "{error}");
}

#[tokio::test]
async fn what_cannot_be_reached_is_told_with_its_url() {
    let server = serve(&["hook.default.svc"], echo()).await;
    let client = Client::new(Arc::new(Fixed(server.address)));
    let mut config = to_service(&server, "/echo");
    if let Endpoint::Service(service) = &mut config.endpoint {
        service.name = "missing".into();
    }
    let error = client.post(&config, Bytes::new(), Duration::from_secs(10)).await.unwrap_err();
    let told = "Post \"https://missing.default.svc:443/echo?timeout=10s\": service \"missing\" not found";
    assert_eq!(error.to_string(), told);
    let plain = ClientConfig { endpoint: Endpoint::Url("http://x/".into()), ca_bundle: Vec::new(), insecure: false };
    assert!(matches!(client.post(&plain, Bytes::new(), LONG).await, Err(WebhookError::Config(_))));
}

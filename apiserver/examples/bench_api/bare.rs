//! The limit: an axum server over the same TLS and HTTP/2 that reads what it is sent and answers with bytes it holds,
//! whatever the path.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use axum::Router;
use axum::body::Bytes;
use axum::extract::Request;
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum_server::tls_rustls::RustlsConfig;

use crate::Result;

/// The first argument of the program as this server.
pub const COMMAND: &str = "--bare";
/// The files of a bare server's directory: the bodies, the address it took, its certificate.
pub const OBJECT_FILE: &str = "object.json";
/// See [`OBJECT_FILE`].
pub const LIST_FILE: &str = "list.json";
/// See [`OBJECT_FILE`].
pub const ADDRESS: &str = "address";
/// See [`OBJECT_FILE`].
pub const CA: &str = "ca.crt";

/// Serves until it is killed.
pub async fn serve(dir: &Path) -> Result<()> {
    let object = Bytes::from(std::fs::read(dir.join(OBJECT_FILE))?);
    let list = Bytes::from(std::fs::read(dir.join(LIST_FILE))?);
    // Any path, so that it is asked for as many different ones as Gantry; a list is asked for by a query.
    let router = Router::new().fallback(move |request: Request| answer(object.clone(), list.clone(), request));
    let key = rcgen::KeyPair::generate()?;
    let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()])?;
    params.subject_alt_names.push(rcgen::SanType::IpAddress(Ipv4Addr::LOCALHOST.into()));
    let certificate = params.self_signed(&key)?;
    std::fs::write(dir.join(CA), certificate.pem())?;
    let config = RustlsConfig::from_pem(certificate.pem().into_bytes(), key.serialize_pem().into_bytes()).await?;
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    listener.set_nonblocking(true)?;
    let address: SocketAddr = listener.local_addr()?;
    // Moved into place whole: who waits for it never reads half an address.
    std::fs::write(dir.join("address.new"), address.to_string())?;
    std::fs::rename(dir.join("address.new"), dir.join(ADDRESS))?;
    let mut server = axum_server::from_tcp(listener)?.acceptor(
        axum_server::tls_rustls::RustlsAcceptor::new(config).acceptor(axum_server::accept::NoDelayAcceptor::new()),
    );
    server.http_builder().http2().max_concurrent_streams(2000);
    server.serve(router.into_make_service()).await?;
    Ok(())
}

async fn answer(object: Bytes, list: Bytes, request: Request) -> Response {
    let is_list = request.uri().query().is_some();
    let creates = request.method() == Method::POST;
    if request.method() != Method::GET && axum::body::to_bytes(request.into_body(), usize::MAX).await.is_err() {
        return StatusCode::BAD_REQUEST.into_response();
    }
    let code = if creates { StatusCode::CREATED } else { StatusCode::OK };
    (code, [(header::CONTENT_TYPE, "application/json")], if is_list { list } else { object }).into_response()
}

//! Asks a container something: by a command in it, an HTTP request or a connection. Hooks and probes both do.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Container, ExecAction, HTTPGetAction, TCPSocketAction};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::context::Context;
use crate::runtime::RuntimeError;

/// The kubelet reads no more of an answer.
const BODY_MAX: usize = 10 * 1024;
/// What a probe calls itself.
const USER_AGENT: &str = "kube-probe/1.35";

/// What to ask.
#[derive(Clone, Debug)]
pub enum Question {
    /// Run this.
    Exec(ExecAction),
    /// Get this.
    Http(HTTPGetAction),
    /// Connect there.
    Tcp(TCPSocketAction),
}

/// Whom to ask.
#[derive(Clone, Debug)]
pub struct Target {
    /// The container's id in the runtime.
    pub container_id: String,
    /// The pod's address.
    pub ip: Option<IpAddr>,
    /// The container's spec, for ports by name.
    pub spec: Arc<Container>,
}

/// Asks; the error is what the Unhealthy (or hook) event says.
pub async fn ask(context: &Context, target: &Target, question: &Question, timeout: Duration) -> Result<(), String> {
    match question {
        Question::Exec(action) => exec(context, target, action, timeout).await,
        Question::Http(action) => match tokio::time::timeout(timeout, http(target, action)).await {
            Ok(result) => result,
            Err(_) => Err(format!(
                "Get \"{}\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)",
                url(target, action).unwrap_or_default()
            )),
        },
        Question::Tcp(action) => tcp(target, action, timeout).await,
    }
}

async fn exec(context: &Context, target: &Target, action: &ExecAction, timeout: Duration) -> Result<(), String> {
    let command = action.command.clone().unwrap_or_default();
    match context.runtime.exec_sync(&target.container_id, &command, timeout).await {
        Ok(output) if output.exit_code == 0 => Ok(()),
        Ok(output) => {
            let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
            text.push_str(&String::from_utf8_lossy(&output.stderr));
            Err(text)
        }
        Err(RuntimeError::DeadlineExceeded(_)) => Err(format!(
            "command timed out: \"{}\" timed out after {}",
            command.join(" "),
            super::backoff::go_duration(timeout)
        )),
        Err(error) => Err(error.to_string()),
    }
}

fn port(target: &Target, port: &IntOrString) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => {
            let mut ports = target.spec.ports.iter().flatten();
            match ports.find(|port| port.name.as_deref() == Some(name)) {
                Some(port) => port.container_port,
                None => name.parse().map_err(|_| format!("couldn't find port: {name}"))?,
            }
        }
    };
    u16::try_from(number).ok().filter(|port| *port > 0).ok_or_else(|| format!("invalid port number: {number}"))
}

fn host(target: &Target, named: Option<&str>) -> Result<String, String> {
    match (named.filter(|name| !name.is_empty()), target.ip) {
        (Some(name), _) => Ok(name.to_owned()),
        (None, Some(IpAddr::V6(ip))) => Ok(format!("[{ip}]")),
        (None, Some(ip)) => Ok(ip.to_string()),
        (None, None) => Err("the pod has no address".into()),
    }
}

async fn tcp(target: &Target, action: &TCPSocketAction, timeout: Duration) -> Result<(), String> {
    let address = format!("{}:{}", host(target, action.host.as_deref())?, port(target, &action.port)?);
    match tokio::time::timeout(timeout, TcpStream::connect(&address)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(format!("dial tcp {address}: connect: {}", plain(&error))),
        Err(_) => Err(format!("dial tcp {address}: i/o timeout")),
    }
}

/// As Go words it.
fn plain(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "connection refused".into(),
        std::io::ErrorKind::HostUnreachable => "no route to host".into(),
        std::io::ErrorKind::NetworkUnreachable => "network is unreachable".into(),
        _ => error.to_string(),
    }
}

fn is_https(action: &HTTPGetAction) -> bool {
    action.scheme.as_deref().is_some_and(|scheme| scheme.eq_ignore_ascii_case("https"))
}

fn path(action: &HTTPGetAction) -> String {
    let path = action.path.as_deref().unwrap_or("/");
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}

fn url(target: &Target, action: &HTTPGetAction) -> Result<String, String> {
    let scheme = if is_https(action) { "https" } else { "http" };
    let host = host(target, action.host.as_deref())?;
    Ok(format!("{scheme}://{host}:{}{}", port(target, &action.port)?, path(action)))
}

async fn http(target: &Target, action: &HTTPGetAction) -> Result<(), String> {
    let url = url(target, action)?;
    let address = format!("{}:{}", host(target, action.host.as_deref())?, port(target, &action.port)?);
    let failed = |error: &dyn std::fmt::Display| format!("Get \"{url}\": {error}");
    let stream = TcpStream::connect(&address).await;
    let stream = stream.map_err(|error| failed(&format!("dial tcp {address}: connect: {}", plain(&error))))?;
    let status = if is_https(action) {
        let stream = unverified::connect(stream, &address).await.map_err(|error| failed(&error))?;
        get(stream, &address, action).await
    } else {
        get(stream, &address, action).await
    };
    match status.map_err(|error| failed(&error))? {
        200..400 => Ok(()),
        code => Err(format!("HTTP probe failed with statuscode: {code}")),
    }
}

async fn get<S>(stream: S, address: &str, action: &HTTPGetAction) -> Result<u16, String>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| error.to_string())?;
    let mut request = http::Request::get(path(action));
    let mut host = address.to_owned();
    let mut agent = USER_AGENT.to_owned();
    let mut accept = "*/*".to_owned();
    for header in action.http_headers.iter().flatten() {
        match header.name.to_ascii_lowercase().as_str() {
            "host" => host.clone_from(&header.value),
            "user-agent" => agent.clone_from(&header.value),
            "accept" => accept.clone_from(&header.value),
            _ => request = request.header(&header.name, &header.value),
        }
    }
    let request = request.header("Host", host).header("User-Agent", agent).header("Accept", accept);
    let request =
        request.header("Connection", "close").body(Empty::<Bytes>::new()).map_err(|error| error.to_string())?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let status = response.status().as_u16();
        // Some servers mind a peer that goes away before the body has ended.
        let _ = Limited::new(response.into_body(), BODY_MAX).collect().await;
        Ok(status)
    };
    // The connection's own future ends with the answer; nothing is left behind when the caller gives up.
    tokio::pin!(answer, connection);
    tokio::select! {
        result = &mut answer => result,
        closed = &mut connection => match closed {
            Ok(()) => answer.await,
            Err(error) => Err(error.to_string()),
        },
    }
}

/// TLS to a container's own certificate, which nobody vouches for: Kubernetes asks whether it answers, not who it is.
mod unverified {
    use std::sync::Arc;

    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
    use rustls::{DigitallySignedStruct, SignatureScheme};
    use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
    use tokio::net::TcpStream;
    use tokio_rustls::TlsConnector;
    use tokio_rustls::client::TlsStream;

    #[derive(Debug)]
    struct Anyone(Arc<CryptoProvider>);

    impl ServerCertVerifier for Anyone {
        fn verify_server_cert(
            &self,
            _end_entity: &CertificateDer<'_>,
            _intermediates: &[CertificateDer<'_>],
            _server_name: &ServerName<'_>,
            _ocsp_response: &[u8],
            _now: UnixTime,
        ) -> Result<ServerCertVerified, rustls::Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.0.signature_verification_algorithms.supported_schemes()
        }
    }

    /// Wraps a connection in TLS.
    pub async fn connect(stream: TcpStream, address: &str) -> Result<TlsStream<TcpStream>, String> {
        let provider = Arc::new(ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anyone(provider)))
            .with_no_client_auth();
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host).trim_matches(['[', ']']);
        let name = ServerName::try_from(host.to_owned()).map_err(|error| error.to_string())?;
        TlsConnector::from(Arc::new(config)).connect(name, stream).await.map_err(|error| error.to_string())
    }
}

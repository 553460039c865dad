//! HTTP and HTTPS questions. Redirects are followed within the host that was asked; one that leads elsewhere is an answer.

use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::HTTPGetAction;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use url::{Position, Url};

use super::{Answer, OUTPUT_MAX, Target, USER_AGENT, host, plain, port};

/// Requests in a row before a chain of redirects is given up.
const REQUESTS_MAX: usize = 10;

/// Asks as a probe does.
pub async fn ask(target: &Target, action: &HTTPGetAction, timeout: Duration) -> Result<Answer, String> {
    let url = url(target, action)?;
    Ok(match tokio::time::timeout(timeout, follow(&url, action)).await {
        Ok(Ok(reply)) => judge(reply),
        Ok(Err(error)) => Answer::Bad(format!("Get \"{url}\": {error}")),
        Err(_) => Answer::Bad(timed_out(&url)),
    })
}

/// Asks as a hook does: any answer will do, and a server that does not speak TLS is spoken to without.
pub async fn tell(target: &Target, action: &HTTPGetAction, timeout: Duration) -> Result<(), String> {
    let url = url(target, action)?;
    let told = async {
        match follow(&url, action).await {
            Ok(_) => Ok(()),
            Err(error) if url.scheme() == "https" && speaks_plainly(&error) => {
                let mut plain = action.clone();
                plain.scheme = Some("HTTP".into());
                let headers = plain.http_headers.take().into_iter().flatten();
                // What was meant for an encrypted connection does not go over this one.
                let harmless = headers.filter(|header| !header.name.eq_ignore_ascii_case("authorization"));
                plain.http_headers = Some(harmless.collect());
                follow(&self::url(target, &plain)?, &plain).await.map(drop)
            }
            Err(error) => Err(error),
        }
    };
    match tokio::time::timeout(timeout, told).await {
        Ok(result) => result.map_err(|error| format!("Get \"{url}\": {error}")),
        Err(_) => Err(timed_out(&url)),
    }
}

fn timed_out(url: &Url) -> String {
    format!("Get \"{url}\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)")
}

/// Whether TLS failed because the other side answered in the clear.
fn speaks_plainly(error: &str) -> bool {
    error.contains("InvalidContentType") || error.contains("corrupt message")
}

fn judge(reply: Reply) -> Answer {
    match reply.status {
        200..300 => Answer::Good,
        300..400 => Answer::Odd(format!("Probe terminated redirects, Response body: {}", reply.body)),
        code => Answer::Bad(format!("HTTP probe failed with statuscode: {code}")),
    }
}

fn url(target: &Target, action: &HTTPGetAction) -> Result<Url, String> {
    let is_https = action.scheme.as_deref().is_some_and(|scheme| scheme.eq_ignore_ascii_case("https"));
    let scheme = if is_https { "https" } else { "http" };
    let host = host(target, action.host.as_deref())?;
    let path = action.path.as_deref().unwrap_or("/").trim_start_matches('/');
    let text = format!("{scheme}://{host}:{}/{path}", port(target, &action.port)?);
    Url::parse(&text).map_err(|error| format!("parse \"{text}\": {error}"))
}

struct Reply {
    status: u16,
    location: Option<String>,
    body: String,
}

/// Asks, and asks on where the answer leads.
async fn follow(url: &Url, action: &HTTPGetAction) -> Result<Reply, String> {
    let mut at = url.clone();
    for _ in 0..REQUESTS_MAX {
        let reply = once(&at, action).await?;
        let redirects = matches!(reply.status, 301 | 302 | 303 | 307 | 308);
        let next = reply.location.as_deref().filter(|_| redirects).and_then(|location| at.join(location).ok());
        match next {
            Some(next) if next.host_str() == url.host_str() && matches!(next.scheme(), "http" | "https") => at = next,
            _ => return Ok(reply),
        }
    }
    Err(format!("stopped after {REQUESTS_MAX} redirects"))
}

async fn once(url: &Url, action: &HTTPGetAction) -> Result<Reply, String> {
    let host = url.host_str().unwrap_or_default();
    let address = format!("{host}:{}", url.port_or_known_default().unwrap_or(80));
    let stream = TcpStream::connect(&address).await;
    let stream = stream.map_err(|error| format!("dial tcp {address}: connect: {}", plain(&error)))?;
    if url.scheme() == "https" {
        get(unverified::connect(stream, &address).await?, &address, url, action).await
    } else {
        get(stream, &address, url, action).await
    }
}

async fn get<S>(stream: S, address: &str, url: &Url, action: &HTTPGetAction) -> Result<Reply, String>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| error.to_string())?;
    let mut request = ::http::Request::get(&url[Position::BeforePath..Position::AfterQuery]);
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
        let location = response.headers().get(::http::header::LOCATION).and_then(|value| value.to_str().ok());
        let location = location.map(str::to_owned);
        // Some servers mind a peer that goes away before the body has ended.
        let body = Limited::new(response.into_body(), OUTPUT_MAX).collect().await;
        let body = body.map(|body| String::from_utf8_lossy(&body.to_bytes()).into_owned()).unwrap_or_default();
        Ok(Reply { status, location, body })
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

//! The HTTPS client of everything that the API server asks by itself: conversion and admission webhooks, aggregated servers.
//!
//! In: a [`ClientConfig`] (a URL or a Service, the CA that its certificate must come from), a JSON body, a time limit. Out: the
//! body of the answer or a [`WebhookError`] worded as Go's HTTP client words it, since that text ends up with the user.
//!
//! A Service is resolved to one of its ready endpoints, or to its cluster address if it has none; its certificate must
//! have the name `NAME.NAMESPACE.svc`. Idle connections are kept for a while and are bounded in number.

mod pool;
mod resolve;
#[cfg(test)]
mod tests;
mod trust;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::Value;
use tokio::net::TcpStream;

pub use resolve::{Address, NoServices, RegistryResolver, Resolve, ResolveError};

use pool::{Key, Pool};
use trust::Trust;
pub(crate) use trust::believing_anyone;

/// The largest answer that is read: as large as the largest request body.
const ANSWER_BYTES_MAX: usize = 3 << 20;
/// How much of the body of a failure is shown.
const SHOWN_BYTES_MAX: usize = 1 << 10;
/// How long connecting may take, within the caller's limit.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// A Service that serves a webhook.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ServiceReference {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The path of the webhook; empty for `/`.
    pub path: String,
    /// The Service's port.
    pub port: u16,
}

/// Where a webhook is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// At a URL.
    Url(String),
    /// Behind a Service.
    Service(ServiceReference),
}

/// How a webhook is reached: `clientConfig` of the API.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ClientConfig {
    /// Where it is.
    pub endpoint: Endpoint,
    /// The CA of its certificate, PEM; empty for those that the machine trusts.
    pub ca_bundle: Vec<u8>,
    /// Any certificate will do (`insecureSkipTLSVerify` of an APIService).
    pub insecure: bool,
}

impl ClientConfig {
    /// Reads a `clientConfig` (`url`, `service`, `caBundle`); none if it names neither a URL nor a Service.
    pub fn from_value(config: &Value) -> Option<Self> {
        use base64::Engine as _;
        let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let endpoint = match config.get("service").filter(|service| service.is_object()) {
            Some(service) => Endpoint::Service(ServiceReference {
                namespace: text(service, "namespace"),
                name: text(service, "name"),
                path: text(service, "path"),
                port: service.get("port").and_then(Value::as_u64).and_then(|p| u16::try_from(p).ok()).unwrap_or(443),
            }),
            None => Endpoint::Url(Some(text(config, "url")).filter(|url| !url.is_empty())?),
        };
        let ca_bundle = base64::engine::general_purpose::STANDARD.decode(text(config, "caBundle")).unwrap_or_default();
        Some(Self { endpoint, ca_bundle, insecure: false })
    }

    /// The URL that is asked, with the time limit as a parameter.
    pub fn url(&self, timeout: Duration) -> String {
        let base = match &self.endpoint {
            Endpoint::Url(url) => url.clone(),
            Endpoint::Service(service) => {
                let slash = if service.path.starts_with('/') { "" } else { "/" };
                format!("https://{}.{}.svc:{}{slash}{}", service.name, service.namespace, service.port, service.path)
            }
        };
        let separator = if base.contains('?') { '&' } else { '?' };
        format!("{base}{separator}timeout={}s", timeout.as_secs().max(1))
    }
}

/// Why a webhook gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
    /// The configuration cannot be used.
    #[error("{0}")]
    Config(String),
    /// There is nobody to ask.
    #[error("Post \"{url}\": {why}")]
    Unresolved {
        /// What was asked.
        url: String,
        /// What is missing.
        why: String,
    },
    /// The connection failed.
    #[error("Post \"{url}\": {text}")]
    Connection {
        /// What was asked.
        url: String,
        /// What went wrong, as Go words it.
        text: String,
    },
    /// No answer in time.
    #[error("Post \"{url}\": context deadline exceeded")]
    Timeout {
        /// What was asked.
        url: String,
    },
    /// Another answer than 200.
    #[error("{text}")]
    Status {
        /// The status code.
        code: u16,
        /// What it means, as client-go words it.
        text: String,
    },
}

/// Asks webhooks. Cheap to share.
pub struct Client {
    resolver: Arc<dyn Resolve>,
    trust: Trust,
    pool: Pool,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

/// A certificate that the client presents, and its key.
#[derive(Debug)]
pub struct Presented {
    /// The certificate.
    pub chain: Vec<CertificateDer<'static>>,
    /// The key.
    pub key: PrivateKeyDer<'static>,
}

/// A request that is ready to be sent.
struct Call<'a> {
    key: Key,
    uri: Uri,
    /// The URL as the user sees it in errors.
    url: String,
    config: &'a ClientConfig,
}

impl Client {
    /// A client that finds Services with `resolver`.
    pub fn new(resolver: Arc<dyn Resolve>) -> Self {
        Self { resolver, trust: Trust::default(), pool: Pool::default() }
    }

    /// The same client, presenting a certificate.
    #[must_use]
    pub fn presenting(mut self, presented: Arc<Presented>) -> Self {
        self.trust.present(presented);
        self
    }

    /// Posts JSON and returns the answer's body. Everything together takes no longer than `timeout`.
    pub async fn post(&self, config: &ClientConfig, body: Bytes, timeout: Duration) -> Result<Bytes, WebhookError> {
        let call = Self::call(config, timeout)?;
        let url = call.url.clone();
        // Boxed, as every request of the API has room for a call in its own state, and few make one.
        match tokio::time::timeout(timeout, Box::pin(self.exchange(&call, body))).await {
            Ok(answer) => answer,
            Err(_) => Err(WebhookError::Timeout { url }),
        }
    }

    fn call(config: &ClientConfig, timeout: Duration) -> Result<Call<'_>, WebhookError> {
        let url = config.url(timeout);
        let invalid = |why: &str| WebhookError::Config(format!("invalid webhook URL {url:?}: {why}"));
        let uri: Uri = url.parse().map_err(|_| invalid("it cannot be parsed"))?;
        if uri.scheme_str() != Some("https") {
            return Err(invalid("it must start with https://"));
        }
        let host = uri.host().ok_or_else(|| invalid("it has no host"))?.trim_matches(['[', ']']).to_owned();
        let port = uri.port_u16().unwrap_or(443);
        let key = Key { host, port, trust: Trust::digest(config) };
        Ok(Call { key, uri, url, config })
    }

    /// Sends on a kept connection if there is one, else on a new one. A kept connection that the other side had closed
    /// meanwhile is no failure: the request was not worked on.
    async fn exchange(&self, call: &Call<'_>, body: Bytes) -> Result<Bytes, WebhookError> {
        while let Some(mut kept) = self.pool.take(&call.key) {
            match send(&mut kept, call, body.clone()).await {
                Ok(response) => return self.finish(call, kept, response).await,
                Err(error) if error.is_canceled() || error.is_closed() || error.is_incomplete_message() => {}
                Err(error) => return Err(connection(call, &error)),
            }
        }
        let mut fresh = self.connect(call).await?;
        let response = send(&mut fresh, call, body).await.map_err(|error| connection(call, &error))?;
        self.finish(call, fresh, response).await
    }

    async fn finish(
        &self,
        call: &Call<'_>,
        sender: SendRequest<Full<Bytes>>,
        response: http::Response<hyper::body::Incoming>,
    ) -> Result<Bytes, WebhookError> {
        let status = response.status();
        let body = match Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) => {
                return Err(WebhookError::Connection { url: call.url.clone(), text: error.to_string() });
            }
        };
        self.pool.give_back(&call.key, sender);
        if status == StatusCode::OK || status == StatusCode::CREATED || status == StatusCode::ACCEPTED {
            return Ok(body);
        }
        Err(WebhookError::Status { code: status.as_u16(), text: status_text(status, &body) })
    }

    /// A new connection to the webhook.
    async fn connect(&self, call: &Call<'_>) -> Result<SendRequest<Full<Bytes>>, WebhookError> {
        let failed = |text: String| WebhookError::Connection { url: call.url.clone(), text };
        let stream = match tokio::time::timeout(CONNECT_TIMEOUT, self.open(call.config, &call.key, &call.url)).await {
            Ok(stream) => stream?,
            Err(_) => return Err(failed("net/http: TLS handshake timeout".to_owned())),
        };
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| failed(error.to_string()))?;
        // Ends when the sender is dropped (the pool forgets it after a while) or the other side closes.
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to a webhook ended");
            }
        });
        Ok(sender)
    }

    /// Opens a TLS connection to where `config` points, for callers with a protocol of their own.
    pub async fn stream(
        &self,
        config: &ClientConfig,
    ) -> Result<tokio_rustls::client::TlsStream<TcpStream>, WebhookError> {
        let call = Self::call(config, CONNECT_TIMEOUT)?;
        self.open(config, &call.key, &call.url).await
    }

    async fn open(
        &self,
        config: &ClientConfig,
        key: &Key,
        url: &str,
    ) -> Result<tokio_rustls::client::TlsStream<TcpStream>, WebhookError> {
        let failed = |text: String| WebhookError::Connection { url: url.to_owned(), text };
        let tls = self.trust.connector(config, &key.trust).map_err(WebhookError::Config)?;
        let (address, name) = match &config.endpoint {
            Endpoint::Url(_) => (Address { host: key.host.clone(), port: key.port }, key.host.clone()),
            Endpoint::Service(service) => {
                let found = self.resolver.resolve(&service.namespace, &service.name, service.port).await;
                let address =
                    found.map_err(|why| WebhookError::Unresolved { url: url.to_owned(), why: why.to_string() })?;
                (address, format!("{}.{}.svc", service.name, service.namespace))
            }
        };
        let stream = TcpStream::connect((address.host.as_str(), address.port))
            .await
            .map_err(|error| failed(format!("dial tcp {}:{}: {}", address.host, address.port, go_text(&error))))?;
        stream.set_nodelay(true).map_err(|error| failed(error.to_string()))?;
        let name = ServerName::try_from(name).map_err(|error| failed(error.to_string()))?;
        tls.connect(name, stream).await.map_err(|error| failed(trust::go_text(&error)))
    }
}

async fn send(
    sender: &mut SendRequest<Full<Bytes>>,
    call: &Call<'_>,
    body: Bytes,
) -> Result<http::Response<hyper::body::Incoming>, hyper::Error> {
    sender.ready().await?;
    let path = call.uri.path_and_query().map_or("/", |path| path.as_str());
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = path.parse().unwrap_or_else(|_| Uri::from_static("/"));
    let headers = request.headers_mut();
    let authority = call.uri.authority().map(|authority| authority.as_str()).unwrap_or_default();
    if let Ok(host) = header::HeaderValue::from_str(authority) {
        headers.insert(header::HOST, host);
    }
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    headers.insert(header::ACCEPT, header::HeaderValue::from_static("application/json, */*"));
    headers.insert(header::USER_AGENT, header::HeaderValue::from_static("kube-apiserver-admission"));
    sender.send_request(request).await
}

fn connection(call: &Call<'_>, error: &hyper::Error) -> WebhookError {
    let text = if error.is_incomplete_message() || error.is_closed() { "EOF".to_owned() } else { error.to_string() };
    WebhookError::Connection { url: call.url.clone(), text }
}

fn go_text(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
        std::io::ErrorKind::TimedOut => "i/o timeout".to_owned(),
        _ => error.to_string(),
    }
}

/// What client-go says of an answer that is no success and no Status.
fn status_text(status: StatusCode, body: &[u8]) -> String {
    let shown = String::from_utf8_lossy(&body[..body.len().min(SHOWN_BYTES_MAX)]);
    if let Ok(value) = serde_json::from_slice::<Value>(body)
        && value.get("kind").and_then(Value::as_str) == Some("Status")
        && let Some(message) = value.get("message").and_then(Value::as_str).filter(|message| !message.is_empty())
    {
        return message.to_owned();
    }
    match status {
        StatusCode::NOT_FOUND => "the server could not find the requested resource".to_owned(),
        StatusCode::UNAUTHORIZED => "the server has asked for the client to provide credentials".to_owned(),
        StatusCode::FORBIDDEN => shown.into_owned(),
        StatusCode::METHOD_NOT_ALLOWED => "the server does not allow this method on the requested resource".to_owned(),
        StatusCode::TOO_MANY_REQUESTS => {
            "the server has received too many requests and has asked us to try again later".to_owned()
        }
        status if status.is_server_error() => {
            format!(
                "an error on the server ({}) has prevented the request from succeeding",
                gantry_api::error::quote(shown.trim_end())
            )
        }
        _ => {
            format!("the server responded with the status code {} but did not return more information", status.as_u16())
        }
    }
}

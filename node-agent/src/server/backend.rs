//! The runtime's streaming server: dialling it, and joining a client's connection to it.

use axum::body::Body;
use axum::response::Response;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use http_body_util::BodyExt;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::error::ApiError;

/// Name of the header in which the stream protocol is agreed upon.
const STREAM_PROTOCOL: &str = "x-stream-protocol-version";
/// The protocol of exec and attach whose error stream carries a Status.
const REMOTE_COMMAND_V4: &str = "v4.channel.k8s.io";
/// Answers that are no upgrade are errors of a line.
const ERROR_LEN_MAX: usize = 64 << 10;

/// An upgraded connection to the runtime.
pub(super) type Connection = TokioIo<Upgraded>;

/// Connects for exec or attach, speaking SPDY/3.1.
pub(super) async fn remote_command(url: &str) -> Result<Connection, ApiError> {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("SPDY/3.1"));
    headers.insert(STREAM_PROTOCOL, HeaderValue::from_static(REMOTE_COMMAND_V4));
    Ok(upgraded(dial(url, "", headers).await?).await?.1)
}

/// Connects for port-forward, speaking SPDY/3.1.
pub(super) async fn port_forward(url: &str) -> Result<Connection, ApiError> {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("SPDY/3.1"));
    headers.insert(STREAM_PROTOCOL, HeaderValue::from_static("portforward.k8s.io"));
    Ok(upgraded(dial(url, "", headers).await?).await?.1)
}

/// Repeats the client's upgrade at the runtime and passes all bytes untouched from then on.
/// What the runtime answers, be it an error, is the answer.
pub(super) async fn pass_through(
    url: &str,
    query: &str,
    mut request: Request<Body>,
    replace: &[(header::HeaderName, HeaderValue)],
    stop: CancellationToken,
) -> Result<Response, ApiError> {
    let mut headers = HeaderMap::new();
    for (name, value) in request.headers() {
        let wanted = *name == header::CONNECTION
            || *name == header::UPGRADE
            || name.as_str().starts_with("sec-websocket-")
            || name.as_str() == STREAM_PROTOCOL;
        if wanted {
            headers.append(name, value.clone());
        }
    }
    for (name, value) in replace {
        headers.insert(name, value.clone());
    }
    let client = request.extensions_mut().remove::<OnUpgrade>().ok_or_else(not_upgradable)?;
    let (head, runtime) = upgraded(dial(url, query, headers).await?).await?;
    tokio::spawn(async move {
        let joined = async {
            let mut client = TokioIo::new(client.await.map_err(std::io::Error::other)?);
            let mut runtime = runtime;
            tokio::io::copy_bidirectional(&mut client, &mut runtime).await
        };
        if let Some(Err(error)) = stop.run_until_cancelled(joined).await {
            tracing::debug!(%error, "a stream broke off");
        }
    });
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *response.headers_mut() = head;
    Ok(response)
}

/// The error for a connection that cannot be upgraded.
pub(super) fn not_upgradable() -> ApiError {
    ApiError::bad_request("the connection cannot be upgraded")
}

type Answer = http::Response<hyper::body::Incoming>;

/// Sends an upgrade request to the runtime's URL.
async fn dial(url: &str, query: &str, mut headers: HeaderMap) -> Result<Answer, ApiError> {
    let broken = |error: &dyn std::fmt::Display| {
        ApiError::internal(format!("cannot reach the runtime's streaming server: {error}"))
    };
    let url = url::Url::parse(url).map_err(|error| broken(&error))?;
    let host = url.host_str().unwrap_or_default();
    let port = url.port_or_known_default().unwrap_or_default();
    let stream = TcpStream::connect((host, port)).await.map_err(|error| broken(&error))?;
    // Keystrokes must not wait for each other.
    let _ = stream.set_nodelay(true);
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| broken(&error))?;
    tokio::spawn(async move {
        // Its errors reach whoever waits for the answer or the upgrade.
        let _ = connection.with_upgrades().await;
    });
    let authority = HeaderValue::from_str(&format!("{host}:{port}")).map_err(|error| broken(&error))?;
    headers.insert(header::HOST, authority);
    let path = if query.is_empty() { url.path().to_owned() } else { format!("{}?{query}", url.path()) };
    // WebSocket is upgraded to from a GET only, SPDY from anything.
    let is_websocket =
        headers.get(header::UPGRADE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"));
    let method = if is_websocket { Method::GET } else { Method::POST };
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .body(http_body_util::Empty::<bytes::Bytes>::new())
        .map_err(|error| broken(&error))?;
    *request.headers_mut() = headers;
    sender.send_request(request).await.map_err(|error| broken(&error))
}

/// The connection after a successful upgrade; else the runtime's error.
async fn upgraded(answer: Answer) -> Result<(HeaderMap, Connection), ApiError> {
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        let status = answer.status();
        let body = http_body_util::Limited::new(answer.into_body(), ERROR_LEN_MAX).collect().await;
        let text = body.map(|body| body.to_bytes()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).trim().to_owned();
        return Err(ApiError::new(status, text));
    }
    let head = answer.headers().clone();
    let connection = hyper::upgrade::on(answer).await.map_err(|error| {
        ApiError::internal(format!("the runtime's streaming server broke off the upgrade: {error}"))
    })?;
    Ok((head, TokioIo::new(connection)))
}

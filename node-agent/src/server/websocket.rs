//! WebSocket upgrades: which subprotocol is spoken, and the connection behind it.

use axum::body::Body;
use axum::response::Response;
use http::{HeaderMap, HeaderValue, Request, StatusCode, header};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

/// Largest message accepted. Clients send their input in pieces of some tens of kilobytes.
const MESSAGE_LEN_MAX: usize = 4 << 20;

/// A connection that speaks WebSocket.
pub(super) type Socket = WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>;

/// True if the request asks to become a WebSocket.
pub(super) fn is_requested(headers: &HeaderMap) -> bool {
    has_token(headers, header::UPGRADE, "websocket")
}

/// True if the request asks to become SPDY/3.1.
pub(super) fn is_spdy_requested(headers: &HeaderMap) -> bool {
    has_token(headers, header::UPGRADE, "spdy/3.1")
}

fn has_token(headers: &HeaderMap, name: header::HeaderName, token: &str) -> bool {
    tokens(headers, name).any(|each| each.eq_ignore_ascii_case(token))
}

/// The comma-separated values of a header that may be repeated.
pub(super) fn tokens(headers: &HeaderMap, name: header::HeaderName) -> impl Iterator<Item = &str> {
    headers
        .get_all(name)
        .into_iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|token| !token.is_empty())
}

/// The first subprotocol that the client offers and we know.
pub(super) fn choose<'known>(headers: &HeaderMap, known: &[&'known str]) -> Option<&'known str> {
    tokens(headers, header::SEC_WEBSOCKET_PROTOCOL)
        .find_map(|offered| known.iter().find(|known| **known == offered).copied())
}

/// The answer that makes it a WebSocket, and the connection that it becomes after the answer.
/// None if the request lacks what that takes.
pub(super) fn accept(request: &mut Request<Body>, protocol: &'static str) -> Option<(Response, OnUpgrade)> {
    let headers = request.headers();
    let version = headers.get(header::SEC_WEBSOCKET_VERSION)?;
    let key = headers.get(header::SEC_WEBSOCKET_KEY)?;
    if version != "13" {
        return None;
    }
    let accept = HeaderValue::from_str(&derive_accept_key(key.as_bytes())).ok()?;
    let upgrade = request.extensions_mut().remove::<OnUpgrade>()?;
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
    Some((response, upgrade))
}

/// The WebSocket on an upgraded connection.
pub(super) async fn socket(upgrade: OnUpgrade) -> hyper::Result<Socket> {
    let upgraded = TokioIo::new(upgrade.await?);
    let config =
        WebSocketConfig::default().max_message_size(Some(MESSAGE_LEN_MAX)).max_frame_size(Some(MESSAGE_LEN_MAX));
    Ok(WebSocketStream::from_raw_socket(upgraded, Role::Server, Some(config)).await)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_s_first_choice_that_we_know_is_taken() {
        let mut headers = HeaderMap::new();
        headers.append("sec-websocket-protocol", HeaderValue::from_static("v6.channel.k8s.io, v5.channel.k8s.io"));
        headers.append("sec-websocket-protocol", HeaderValue::from_static("v4.channel.k8s.io"));
        let known = ["v4.channel.k8s.io", "v5.channel.k8s.io"];
        assert_eq!(choose(&headers, &known), Some("v5.channel.k8s.io"));
        assert_eq!(choose(&headers, &["v1"]), None);
        assert_eq!(choose(&HeaderMap::new(), &known), None);
    }
}

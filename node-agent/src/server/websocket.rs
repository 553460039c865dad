//! WebSocket upgrades: which subprotocol is spoken, and the connection behind it.

use axum::body::Body;
use axum::response::Response;
use base64::Engine as _;
use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use http::{HeaderMap, HeaderValue, Request, StatusCode, header};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{self, Message};

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

/// The answer that makes it a WebSocket of that subprotocol (none if it is empty), and the connection that it becomes after
/// the answer. None if the request lacks what that takes.
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
    if !protocol.is_empty() {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
    }
    Some((response, upgrade))
}

/// The WebSocket on an upgraded connection.
pub(super) async fn socket(upgrade: OnUpgrade) -> hyper::Result<Socket> {
    let upgraded = TokioIo::new(upgrade.await?);
    let config =
        WebSocketConfig::default().max_message_size(Some(MESSAGE_LEN_MAX)).max_frame_size(Some(MESSAGE_LEN_MAX));
    Ok(WebSocketStream::from_raw_socket(upgraded, Role::Server, Some(config)).await)
}

/// The subprotocol in which a stream is sent as it is.
const BINARY: &str = "binary.k8s.io";
/// The same as text.
const BASE64: &str = "base64.binary.k8s.io";

/// The subprotocols for a stream that only goes to the client.
pub(super) const STREAM_PROTOCOLS: [&str; 2] = [BINARY, BASE64];

/// One that the client offers and we know, or the nameless one if it offers none.
pub(super) fn choose_or_none<'known>(headers: &HeaderMap, known: &[&'known str]) -> Option<&'known str> {
    match headers.contains_key(header::SEC_WEBSOCKET_PROTOCOL) {
        true => choose(headers, known),
        false => Some(""),
    }
}

/// Sends a stream, a message a piece, and closes.
pub(super) async fn send_stream(
    upgrade: OnUpgrade,
    protocol: &'static str,
    mut pieces: tokio::sync::mpsc::Receiver<std::io::Result<Bytes>>,
) -> Result<(), tungstenite::Error> {
    let Ok(socket) = socket(upgrade).await else { return Ok(()) };
    let (mut out, mut input) = socket.split();
    let message = |piece: Bytes| match protocol {
        BASE64 => Message::Text(base64::engine::general_purpose::STANDARD.encode(piece).into()),
        _ => Message::Binary(piece),
    };
    // Something at once, so that a client knows that the stream has begun.
    out.send(message(Bytes::new())).await?;
    loop {
        tokio::select! {
            piece = pieces.recv() => match piece {
                Some(Ok(piece)) => out.send(message(piece)).await?,
                Some(Err(_)) | None => break,
            },
            // What the client says is not listened to, but that it goes.
            said = input.next() => match said {
                Some(Ok(Message::Close(_)) | Err(_)) | None => return Ok(()),
                Some(Ok(_)) => {}
            },
        }
    }
    out.close().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_sent_in_an_offered_protocol_or_in_none() {
        let mut headers = HeaderMap::new();
        assert_eq!(choose_or_none(&headers, &STREAM_PROTOCOLS), Some(""));
        headers.insert("sec-websocket-protocol", HeaderValue::from_static("x, base64.binary.k8s.io"));
        assert_eq!(choose_or_none(&headers, &STREAM_PROTOCOLS), Some(BASE64));
        headers.insert("sec-websocket-protocol", HeaderValue::from_static("v4.channel.k8s.io"));
        assert_eq!(choose_or_none(&headers, &STREAM_PROTOCOLS), None);
    }

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

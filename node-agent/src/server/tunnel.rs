//! port-forward for kubectl's WebSocket clients: a plain byte stream in binary messages.
//!
//! What is inside is SPDY/3.1, which containerd speaks itself: no byte of it is looked at.

use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::tungstenite::Message;

use super::backend::Connection;
use super::websocket::Socket;

/// The subprotocol of such a tunnel.
pub(super) const PROTOCOL: &str = "SPDY/3.1+portforward.k8s.io";

/// Bytes of one message to the client.
const PIECE_LEN: usize = 32 << 10;

/// Joins both until either ends.
pub(super) async fn run(socket: Socket, runtime: Connection) {
    let (mut to_client, mut from_client) = socket.split();
    let (mut from_runtime, mut to_runtime) = tokio::io::split(runtime);
    let upstream = async {
        while let Some(Ok(message)) = from_client.next().await {
            let data = match message {
                Message::Binary(data) => data,
                Message::Close(_) => break,
                _ => continue,
            };
            if to_runtime.write_all(&data).await.is_err() {
                break;
            }
        }
        let _ = to_runtime.shutdown().await;
    };
    let downstream = async {
        let mut buffer = vec![0; PIECE_LEN];
        while let Ok(len @ 1..) = from_runtime.read(&mut buffer).await {
            let piece = Message::Binary(bytes::Bytes::copy_from_slice(&buffer[..len]));
            if to_client.send(piece).await.is_err() {
                return;
            }
        }
        let _ = to_client.close().await;
    };
    tokio::select! {
        () = upstream => {}
        () = downstream => {}
    }
}

//! exec and attach for WebSocket clients: channels on one side, SPDY streams on the other.
//!
//! ```text
//! client ── WebSocket v5: 0 stdin, 1 stdout, 2 stderr, 3 error, 4 resize, 255 close ──▶ here
//! here ── SPDY/3.1: one stream each, FIN closes ──▶ containerd
//! ```
//!
//! containerd's own WebSocket server knows no version 5, and version 4 cannot close standard
//! input, which `kubectl exec -i` and `kubectl cp` depend on; SPDY can.

use std::borrow::Cow;
use std::io;
use std::time::Duration;

use base64::Engine as _;
use bytes::{BufMut, Bytes, BytesMut};
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use tokio::io::{ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{self, Message};

use super::backend::Connection;
use super::spdy::{Frame, Receiver, Sender};
use super::websocket::Socket;
use crate::runtime::StreamOptions;

/// The versions that are spoken. 5 is 4 with channel 255; the oldest say how it ended in words, and only if it ended badly.
pub(super) const PROTOCOLS: [&str; 5] =
    ["v5.channel.k8s.io", "v4.channel.k8s.io", "v4.base64.channel.k8s.io", "channel.k8s.io", "base64.channel.k8s.io"];

/// How a version puts messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Dialect {
    /// As text: the channel's digit, and its bytes in base64.
    base64: bool,
    /// Whether the end is told as a Status.
    status: bool,
}

impl Dialect {
    /// Of a version; the empty one is the oldest.
    fn of(protocol: &str) -> Self {
        Self { base64: protocol.contains("base64"), status: protocol.starts_with('v') }
    }

    fn message(self, channel: u8, data: &[u8]) -> Message {
        if self.base64 {
            let text = base64::engine::general_purpose::STANDARD.encode(data);
            return Message::Text(format!("{channel}{text}").into());
        }
        let mut bytes = BytesMut::with_capacity(1 + data.len());
        bytes.put_u8(channel);
        bytes.put_slice(data);
        Message::Binary(bytes.freeze())
    }

    /// Takes a message apart; none if it is not one.
    fn parse(self, data: &[u8]) -> Option<(u8, Cow<'_, [u8]>)> {
        let (first, rest) = data.split_first()?;
        if !self.base64 {
            return Some((*first, rest.into()));
        }
        let payload = base64::engine::general_purpose::STANDARD.decode(rest).ok()?;
        Some((first.checked_sub(b'0')?, payload.into()))
    }

    /// How the end is told, if it is.
    fn end(self, status: &[u8]) -> Option<Cow<'_, [u8]>> {
        if self.status {
            return Some(status.into());
        }
        let status: serde_json::Value = serde_json::from_slice(status).unwrap_or_default();
        (status["status"] != "Success")
            .then(|| status["message"].as_str().unwrap_or_default().as_bytes().to_vec().into())
    }
}

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

/// How long the rest of the output may take once the runtime has said how it ended.
const REST_TIME_MAX: Duration = Duration::from_secs(5);
/// How long a client may take to answer our goodbye.
const GOODBYE_TIME_MAX: Duration = Duration::from_secs(5);
/// Answers to pings that wait for a write to finish; servers ping every few seconds.
const PINGS_WAITING_MAX: usize = 4;
/// A Status is a few hundred bytes; more is cut off.
const STATUS_LEN_MAX: usize = 64 << 10;

/// The SPDY streams of one session, by their purpose.
#[derive(Clone, Copy, Debug, Default)]
struct Streams {
    error: u32,
    stdin: Option<u32>,
    stdout: Option<u32>,
    stderr: Option<u32>,
    resize: Option<u32>,
}

/// Carries a session until it ends on either side.
pub(super) async fn run(socket: Socket, protocol: &str, runtime: Connection, options: StreamOptions) {
    match session(socket, Dialect::of(protocol), runtime, options).await {
        Ok(()) => {}
        Err(error) => tracing::debug!(%error, "an exec or attach broke off"),
    }
}

async fn session(mut socket: Socket, dialect: Dialect, runtime: Connection, options: StreamOptions) -> io::Result<()> {
    let (reader, writer) = tokio::io::split(runtime);
    let mut sender = Sender::new(writer)?;
    let streams = open(&mut sender, options).await?;
    // An empty message tells the client that the connection stands.
    let first = if options.stdout {
        STDOUT
    } else if options.stderr {
        STDERR
    } else {
        ERROR
    };
    socket.send(dialect.message(first, &[])).await.map_err(io::Error::other)?;
    let (mut to_client, mut from_client) = socket.split();
    let (pings, pings_due) = mpsc::channel(PINGS_WAITING_MAX);
    let mut input = Input { dialect, streams, sender, pings_due };
    let mut output = Output {
        dialect,
        streams,
        receiver: Receiver::new(reader),
        pings,
        status: BytesMut::new(),
        error_ended: false,
        open_outputs: usize::from(options.stdout) + usize::from(options.stderr),
    };
    // Both at once: were input held up by output that nobody reads, or the other way round,
    // neither would ever move.
    tokio::select! {
        ended = input.carry(&mut from_client) => ended,
        ended = output.carry(&mut to_client) => {
            ended?;
            let goodbye = say_goodbye(dialect, &output.status, &mut to_client, &mut from_client);
            let _ = tokio::time::timeout(GOODBYE_TIME_MAX, goodbye).await;
            let _ = input.sender.shutdown().await;
            Ok(())
        }
    }
}

/// Opens the streams that containerd waits for before it starts anything.
async fn open(sender: &mut Sender<WriteHalf<Connection>>, options: StreamOptions) -> io::Result<Streams> {
    let mut streams = Streams { error: sender.open(&[("streamtype", "error")]).await?, ..Default::default() };
    if options.stdin {
        streams.stdin = Some(sender.open(&[("streamtype", "stdin")]).await?);
    }
    if options.stdout {
        streams.stdout = Some(sender.open(&[("streamtype", "stdout")]).await?);
    }
    if options.stderr {
        streams.stderr = Some(sender.open(&[("streamtype", "stderr")]).await?);
    }
    if options.tty {
        streams.resize = Some(sender.open(&[("streamtype", "resize")]).await?);
    }
    Ok(streams)
}

/// What goes from the client to the runtime.
struct Input {
    dialect: Dialect,
    streams: Streams,
    sender: Sender<WriteHalf<Connection>>,
    pings_due: mpsc::Receiver<u32>,
}

impl Input {
    /// Carries until the client is gone.
    async fn carry(&mut self, from_client: &mut SplitStream<Socket>) -> io::Result<()> {
        loop {
            tokio::select! {
                incoming = from_client.next() => match incoming {
                    Some(Ok(Message::Binary(data))) => self.hand_on(&data).await?,
                    Some(Ok(Message::Text(text))) => self.hand_on(text.as_bytes()).await?,
                    Some(Ok(Message::Close(_))) | None => return Ok(()),
                    Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                    Some(Err(error)) => return Err(io::Error::other(error)),
                },
                Some(ping) = self.pings_due.recv() => self.sender.ping(ping).await?,
            }
        }
    }

    async fn hand_on(&mut self, data: &[u8]) -> io::Result<()> {
        let Some((channel, payload)) = self.dialect.parse(data) else { return Ok(()) };
        match (channel, self.streams.stdin, self.streams.resize) {
            (STDIN, Some(stdin), _) => self.sender.data(stdin, &payload, false).await,
            (RESIZE, _, Some(resize)) => self.sender.data(resize, &payload, false).await,
            (CLOSE, Some(stdin), _) if payload.first() == Some(&STDIN) => {
                // Closed once; what else a client sends there has nowhere to go.
                self.streams.stdin = None;
                self.sender.data(stdin, &[], true).await
            }
            // A channel that was not asked for.
            _ => Ok(()),
        }
    }
}

/// What goes from the runtime to the client.
struct Output {
    dialect: Dialect,
    streams: Streams,
    receiver: Receiver<ReadHalf<Connection>>,
    pings: mpsc::Sender<u32>,
    /// What came on the error stream so far.
    status: BytesMut,
    error_ended: bool,
    open_outputs: usize,
}

impl Output {
    /// Carries until the runtime has said how it ended, and all output before.
    async fn carry(&mut self, to_client: &mut SplitSink<Socket, Message>) -> io::Result<()> {
        let mut rest_deadline = None;
        while !(self.error_ended && self.open_outputs == 0) {
            if self.error_ended && rest_deadline.is_none() {
                rest_deadline = Some(tokio::time::Instant::now() + REST_TIME_MAX);
            }
            let deadline = rest_deadline.unwrap_or_else(tokio::time::Instant::now);
            let frame = tokio::select! {
                frame = self.receiver.next() => frame?,
                () = tokio::time::sleep_until(deadline), if rest_deadline.is_some() => None,
            };
            let Some(frame) = frame else { return Ok(()) };
            self.hand_on(frame, to_client).await.map_err(io::Error::other)?;
        }
        Ok(())
    }

    async fn hand_on(&mut self, frame: Frame, to_client: &mut SplitSink<Socket, Message>) -> tungstenite::Result<()> {
        let (stream, data, ended) = match frame {
            Frame::Data { stream, data, fin } => (stream, data, fin),
            Frame::Reset(stream) => (stream, Bytes::new(), true),
            Frame::Ping(id) => {
                // Who pings faster than it reads can do without some answers.
                let _ = self.pings.try_send(id);
                return Ok(());
            }
            Frame::GoAway | Frame::Other => return Ok(()),
        };
        if stream == self.streams.error {
            let room = STATUS_LEN_MAX - self.status.len();
            self.status.extend_from_slice(&data[..data.len().min(room)]);
            // The runtime closes the stream after the Status; where it does not, a whole
            // Status is the end as well.
            let is_whole = serde_json::from_slice::<serde::de::IgnoredAny>(&self.status).is_ok();
            self.error_ended |= ended || is_whole;
            return Ok(());
        }
        let channel = match Some(stream) {
            stdout if stdout == self.streams.stdout => STDOUT,
            stderr if stderr == self.streams.stderr => STDERR,
            _ => return Ok(()),
        };
        if !data.is_empty() {
            to_client.send(self.dialect.message(channel, &data)).await?;
        }
        if ended {
            self.open_outputs -= 1;
            let stream = if channel == STDOUT { &mut self.streams.stdout } else { &mut self.streams.stderr };
            *stream = None;
        }
        Ok(())
    }
}

/// Tells the client how it ended, and waits for it to leave: were the connection closed with
/// input unread, the client could lose what it was sent.
async fn say_goodbye(
    dialect: Dialect,
    status: &[u8],
    to_client: &mut SplitSink<Socket, Message>,
    from_client: &mut SplitStream<Socket>,
) -> tungstenite::Result<()> {
    const NOTHING_SAID: &[u8] = br#"{"metadata":{},"status":"Failure","reason":"InternalError","code":500,"message":"the container runtime ended the stream without saying how the command ended"}"#;
    let status = if status.is_empty() { NOTHING_SAID } else { status };
    if let Some(end) = dialect.end(status) {
        to_client.send(dialect.message(ERROR, &end)).await?;
    }
    let frame = CloseFrame { code: CloseCode::Normal, reason: "".into() };
    to_client.send(Message::Close(Some(frame))).await?;
    while let Some(Ok(_)) = from_client.next().await {}
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_version_puts_messages_its_own_way() {
        let (binary, text) = (Dialect::of("channel.k8s.io"), Dialect::of("v4.base64.channel.k8s.io"));
        assert_eq!(Dialect::of(""), binary);
        for dialect in [binary, text, Dialect::of("v5.channel.k8s.io")] {
            let message = dialect.message(STDOUT, b"out").into_data();
            assert_eq!(dialect.parse(&message), Some((STDOUT, b"out".as_slice().into())));
        }
        assert_eq!(text.message(STDERR, b"hi"), Message::Text("2aGk=".into()));
        assert_eq!((text.parse(b"0!"), text.parse(b""), binary.parse(b"")), (None, None, None));
        let failed = br#"{"status":"Failure","message":"exit code 7"}"#;
        assert_eq!(binary.end(failed).as_deref(), Some(b"exit code 7".as_slice()));
        assert_eq!(binary.end(br#"{"status":"Success"}"#), None);
        assert_eq!(text.end(failed).as_deref(), Some(failed.as_slice()));
    }
}

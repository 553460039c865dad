//! Questions to a container's gRPC health service (`grpc.health.v1.Health/Check`): one request over a connection of its own.
//! In: an address, a service's name. Out: what the probe says of it.

use std::convert::Infallible;
use std::time::Duration;

use ::http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use k8s_openapi::api::core::v1::GRPCAction;
use prost::Message;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::{Answer, USER_AGENT};
use crate::pods::backoff::go_duration;

/// An answer is a few bytes.
const ANSWER_MAX: usize = 4096;
/// How soon a connection that was refused is tried again, while there is time.
const REDIAL: Duration = Duration::from_secs(1);
/// A message goes after a byte that says whether it is compressed and four of its length.
const PREFIX_LEN: usize = 5;

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// How a call ended that did not end well.
#[derive(Debug, PartialEq, Eq)]
struct Failure {
    code: u32,
    message: String,
}

impl Failure {
    fn unavailable(error: impl std::fmt::Display) -> Self {
        Self { code: 14, message: error.to_string() }
    }
}

/// Asks the service at `host`.
pub async fn ask(host: &str, action: &GRPCAction, timeout: Duration) -> Result<Answer, String> {
    let address = format!("{host}:{}", action.port);
    let deadline = Instant::now() + timeout;
    let within = go_duration(timeout);
    let service = action.service.clone().unwrap_or_default();
    let Ok(stream) = tokio::time::timeout_at(deadline, dial(&address)).await else {
        let text =
            format!("timeout: failed to connect service \"{address}\" within {within}: context deadline exceeded");
        return Ok(Answer::Bad(text));
    };
    let Ok(answer) = tokio::time::timeout_at(deadline, check(stream, &address, service)).await else {
        return Ok(Answer::Bad(format!("timeout: health rpc did not complete within {within}")));
    };
    Ok(match answer {
        Ok(1) => Answer::Good,
        Ok(status) => Answer::Bad(format!("service unhealthy (responded with \"{}\")", status_name(status))),
        Err(Failure { code: 12, message }) => Answer::Bad(format!(
            "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): {message}"
        )),
        Err(Failure { code, message }) => Answer::Bad(format!(
            "error: health rpc probe failed: rpc error: code = {} desc = {message}",
            code_name(code)
        )),
    })
}

/// Connects, however often it takes.
async fn dial(address: &str) -> TcpStream {
    loop {
        if let Ok(stream) = TcpStream::connect(address).await {
            return stream;
        }
        tokio::time::sleep(REDIAL).await;
    }
}

async fn check(stream: TcpStream, address: &str, service: String) -> Result<i32, Failure> {
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(Failure::unavailable)?;
    let message = HealthCheckRequest { service }.encode_to_vec();
    let mut body = vec![0; PREFIX_LEN];
    body[1..].copy_from_slice(&u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes());
    body.extend(message);
    let request = Request::post(format!("http://{address}/grpc.health.v1.Health/Check"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", USER_AGENT)
        .body(Full::<Bytes>::new(body.into()).map_err(|never: Infallible| match never {}))
        .map_err(Failure::unavailable)?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(Failure::unavailable)?;
        read(response).await
    };
    tokio::pin!(answer, connection);
    tokio::select! {
        result = &mut answer => result,
        closed = &mut connection => match closed {
            Ok(()) => answer.await,
            Err(error) => Err(Failure::unavailable(error)),
        },
    }
}

async fn read(response: Response<Incoming>) -> Result<i32, Failure> {
    let (head, body) = response.into_parts();
    if !head.status.is_success() {
        let code = match head.status.as_u16() {
            404 => 12,
            429 | 502..=504 => 14,
            _ => 2,
        };
        return Err(Failure {
            code,
            message: format!("unexpected HTTP status code received from server: {}", head.status),
        });
    }
    let body = Limited::new(body, ANSWER_MAX).collect().await.map_err(Failure::unavailable)?;
    let trailers = body.trailers().cloned();
    // An error may come without a body: then what would follow it stands at the head.
    outcome(trailers.as_ref().unwrap_or(&head.headers))?;
    let bytes = body.to_bytes();
    let malformed = || Failure { code: 13, message: "the answer is not a message".into() };
    let message = bytes.get(PREFIX_LEN..).filter(|_| bytes[0] == 0).ok_or_else(malformed)?;
    Ok(HealthCheckResponse::decode(message).map_err(|_| malformed())?.status)
}

fn outcome(headers: &HeaderMap) -> Result<(), Failure> {
    let text = |name: &str| headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    match text("grpc-status").and_then(|status| status.parse().ok()) {
        Some(0) => Ok(()),
        Some(code) => Err(Failure { code, message: decoded(&text("grpc-message").unwrap_or_default()) }),
        None => Err(Failure { code: 13, message: "server closed the stream without sending trailers".into() }),
    }
}

/// A status message with its `%XX` resolved.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let escaped = (*first == b'%').then(|| after.get(..2)).flatten().and_then(|hex| std::str::from_utf8(hex).ok());
        match escaped.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn status_name(status: i32) -> String {
    match status {
        0 => "UNKNOWN".into(),
        2 => "NOT_SERVING".into(),
        3 => "SERVICE_UNKNOWN".into(),
        other => other.to_string(),
    }
}

fn code_name(code: u32) -> String {
    const NAMES: [&str; 17] = [
        "OK",
        "Canceled",
        "Unknown",
        "InvalidArgument",
        "DeadlineExceeded",
        "NotFound",
        "AlreadyExists",
        "PermissionDenied",
        "ResourceExhausted",
        "FailedPrecondition",
        "Aborted",
        "OutOfRange",
        "Unimplemented",
        "Internal",
        "Unavailable",
        "DataLoss",
        "Unauthenticated",
    ];
    let name = usize::try_from(code).ok().and_then(|code| NAMES.get(code));
    name.map_or_else(|| format!("Code({code})"), |name| (*name).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::StreamBody;
    use hyper::body::Frame;
    use tokio::net::TcpListener;

    /// A health service that answers each service name as told, and how often it was asked.
    async fn server() -> i32 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let service = hyper::service::service_fn(answer);
                let serve = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                tokio::spawn(serve.serve_connection(TokioIo::new(stream), service));
            }
        });
        i32::from(port)
    }

    type Frames = StreamBody<futures::stream::Iter<std::vec::IntoIter<Result<Frame<Bytes>, Infallible>>>>;

    async fn answer(request: Request<Incoming>) -> Result<Response<Frames>, Infallible> {
        assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
        assert_eq!(request.headers()["content-type"], "application/grpc");
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let asked = HealthCheckRequest::decode(&body[PREFIX_LEN..]).unwrap().service;
        let trailers = |code: &'static str, message: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-status", code.parse().unwrap());
            headers.insert("grpc-message", message.parse().unwrap());
            headers
        };
        let status = match asked.as_str() {
            "" => 1,
            "sick" => 2,
            "slow" => {
                tokio::time::sleep(Duration::from_secs(60)).await;
                1
            }
            _ => {
                let mut response = Response::new(StreamBody::new(futures::stream::iter(Vec::new())));
                let none = asked == "none";
                *response.headers_mut() =
                    if none { trailers("12", "unknown%20method") } else { trailers("5", "unknown service") };
                return Ok(response);
            }
        };
        let message = HealthCheckResponse { status }.encode_to_vec();
        let mut body = vec![0, 0, 0, 0, u8::try_from(message.len()).unwrap()];
        body.extend(message);
        let frames = vec![Ok(Frame::data(body.into())), Ok(Frame::trailers(trailers("0", "")))];
        Ok(Response::new(StreamBody::new(futures::stream::iter(frames))))
    }

    #[tokio::test]
    async fn every_answer_is_told_as_kubernetes_tells_it() {
        let port = server().await;
        let asked = |service: &str, timeout_ms| {
            let action = GRPCAction { port, service: Some(service.into()) };
            async move { ask("127.0.0.1", &action, Duration::from_millis(timeout_ms)).await.unwrap() }
        };
        assert_eq!(asked("", 20_000).await, Answer::Good);
        let bad = |text: &str| Answer::Bad(text.into());
        assert_eq!(asked("sick", 20_000).await, bad("service unhealthy (responded with \"NOT_SERVING\")"));
        let unknown = "error: health rpc probe failed: rpc error: code = NotFound desc = unknown service";
        assert_eq!(asked("other", 20_000).await, bad(unknown));
        let none =
            "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): unknown method";
        assert_eq!(asked("none", 20_000).await, bad(none));
        assert_eq!(asked("slow", 1500).await, bad("timeout: health rpc did not complete within 1.5s"));
    }

    #[tokio::test]
    async fn nobody_there_is_a_failure_to_connect() {
        let action = GRPCAction { port: 1, service: None };
        let answer = ask("127.0.0.1", &action, Duration::from_millis(500)).await.unwrap();
        let text = "timeout: failed to connect service \"127.0.0.1:1\" within 500ms: context deadline exceeded";
        assert_eq!(answer, Answer::Bad(text.into()));
    }
}

//! Calls to the socket of a plugin on this node: a connection for each call, as plugins come and go.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
#[cfg(unix)]
use tonic::transport::{Endpoint, Uri};
use tonic::{Code, Request, Status, Streaming};
use tonic_prost::ProstCodec;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
#[error("rpc error: code = {} desc = {}", code_name(.0.code()), .0.message())]
pub struct CallError(Box<Status>);

impl CallError {
    /// Whether the plugin may still be at it, or have done it: nothing may be taken for undone.
    pub fn is_uncertain(&self) -> bool {
        matches!(
            self.0.code(),
            Code::Cancelled | Code::DeadlineExceeded | Code::Unavailable | Code::ResourceExhausted | Code::Aborted
        )
    }
}

fn code_name(code: Code) -> String {
    match code {
        Code::Cancelled => "Canceled".to_owned(),
        code => format!("{code:?}"),
    }
}

/// A plugin's socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Socket(pub PathBuf);

impl Socket {
    /// One question, one answer.
    pub(crate) async fn call<Q, A>(&self, path: &'static str, question: Q, timeout: Duration) -> Result<A, CallError>
    where
        Q: prost::Message + 'static,
        A: prost::Message + Default + 'static,
    {
        within(timeout, async {
            let mut client = self.client().await?;
            let codec = ProstCodec::<Q, A>::default();
            client.unary(Request::new(question), PathAndQuery::from_static(path), codec).await
        })
        .await
    }

    /// One question, and answers for as long as the plugin likes: it may take its time with the first one, too.
    pub(crate) async fn stream<Q, A>(&self, path: &'static str, question: Q) -> Result<Streaming<A>, CallError>
    where
        Q: prost::Message + 'static,
        A: prost::Message + Default + 'static,
    {
        let call = async {
            let mut client = self.client().await?;
            let codec = ProstCodec::<Q, A>::default();
            client.server_streaming(Request::new(question), PathAndQuery::from_static(path), codec).await
        };
        call.await.map(tonic::Response::into_inner).map_err(|status: Status| CallError(Box::new(status)))
    }

    async fn client(&self) -> Result<tonic::client::Grpc<Channel>, Status> {
        let mut client = tonic::client::Grpc::new(connect(&self.0).await?);
        client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        Ok(client)
    }
}

async fn within<T>(
    timeout: Duration,
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, CallError> {
    let answer = match tokio::time::timeout(timeout, call).await {
        Ok(answer) => answer,
        Err(_) => Err(Status::deadline_exceeded("context deadline exceeded")),
    };
    answer.map(tonic::Response::into_inner).map_err(|status| CallError(Box::new(status)))
}

#[cfg(unix)]
async fn connect(path: &Path) -> Result<Channel, Status> {
    let address = path.to_owned();
    let connector = tower::service_fn(move |_: Uri| {
        let address = address.clone();
        async move {
            let stream = tokio::net::UnixStream::connect(address).await?;
            Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(stream))
        }
    });
    let endpoint = Endpoint::from_static("http://localhost");
    endpoint.connect_with_connector(connector).await.map_err(|error| {
        let why = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
        Status::unavailable(format!("connection error: desc = \"transport: {why}\""))
    })
}

#[cfg(not(unix))]
async fn connect(path: &Path) -> Result<Channel, Status> {
    Err(Status::unimplemented(format!("plugins are not reached on this system: {}", path.display())))
}

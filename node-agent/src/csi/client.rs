//! Calls to a driver's socket: a connection for each call, as drivers come and go.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

use super::messages::{self as m, Empty};

/// How long a driver may take for a call that makes or unmakes something; after that it is asked again, which it must bear.
const CALL_MAX: Duration = Duration::from_secs(120);
/// The same for a question.
const QUESTION_MAX: Duration = Duration::from_secs(15);

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
#[error("rpc error: code = {} desc = {}", code_name(.0.code()), .0.message())]
pub struct CallError(Box<Status>);

impl CallError {
    /// Whether the driver may still be at it, or have done it: nothing may be taken for undone.
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

/// A driver's socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Socket(pub PathBuf);

impl Socket {
    /// What the plugin says of itself.
    pub async fn plugin_info(&self) -> Result<m::PluginInfo, CallError> {
        self.call("/pluginregistration.Registration/GetInfo", Empty {}, QUESTION_MAX).await
    }

    /// Tells the plugin how its registration went.
    pub async fn notify(&self, error: Option<String>) -> Result<(), CallError> {
        let plugin_registered = error.is_none();
        let status = m::RegistrationStatus { plugin_registered, error: error.unwrap_or_default() };
        let told: Result<Empty, _> =
            self.call("/pluginregistration.Registration/NotifyRegistrationStatus", status, QUESTION_MAX).await;
        told.map(drop)
    }

    /// What the driver calls this node.
    pub async fn node_info(&self) -> Result<m::NodeInfo, CallError> {
        self.call("/csi.v1.Node/NodeGetInfo", Empty {}, CALL_MAX).await
    }

    /// What the driver can do on a node.
    pub async fn capabilities(&self) -> Result<Vec<i32>, CallError> {
        let answer: m::NodeCapabilities = self.call("/csi.v1.Node/NodeGetCapabilities", Empty {}, QUESTION_MAX).await?;
        Ok(answer.capabilities.iter().filter_map(|capability| Some(capability.rpc?.kind)).collect())
    }

    /// Makes a volume ready on this node.
    pub async fn stage(&self, request: m::StageRequest) -> Result<(), CallError> {
        self.call("/csi.v1.Node/NodeStageVolume", request, CALL_MAX).await.map(|_: Empty| ())
    }

    /// Undoes it.
    pub async fn unstage(&self, request: m::UnstageRequest) -> Result<(), CallError> {
        self.call("/csi.v1.Node/NodeUnstageVolume", request, CALL_MAX).await.map(|_: Empty| ())
    }

    /// Gives a volume to a pod.
    pub async fn publish(&self, request: m::PublishRequest) -> Result<(), CallError> {
        self.call("/csi.v1.Node/NodePublishVolume", request, CALL_MAX).await.map(|_: Empty| ())
    }

    /// Takes it from the pod.
    pub async fn unpublish(&self, request: m::UnpublishRequest) -> Result<(), CallError> {
        self.call("/csi.v1.Node/NodeUnpublishVolume", request, CALL_MAX).await.map(|_: Empty| ())
    }

    /// Makes a volume's file system larger.
    pub async fn expand(&self, request: m::ExpandRequest) -> Result<(), CallError> {
        // How large it became is of no interest: no smaller than asked for.
        self.call("/csi.v1.Node/NodeExpandVolume", request, CALL_MAX).await.map(|_: Empty| ())
    }

    /// What a volume holds.
    pub async fn stats(&self, request: m::StatsRequest) -> Result<m::StatsResponse, CallError> {
        self.call("/csi.v1.Node/NodeGetVolumeStats", request, QUESTION_MAX).await
    }

    async fn call<Q, A>(&self, path: &'static str, question: Q, timeout: Duration) -> Result<A, CallError>
    where
        Q: prost::Message + 'static,
        A: prost::Message + Default + 'static,
    {
        let call = async {
            let mut client = tonic::client::Grpc::new(connect(&self.0).await?);
            client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
            let codec = ProstCodec::<Q, A>::default();
            client.unary(Request::new(question), PathAndQuery::from_static(path), codec).await
        };
        let answer = match tokio::time::timeout(timeout, call).await {
            Ok(answer) => answer,
            Err(_) => Err(Status::deadline_exceeded("context deadline exceeded")),
        };
        answer.map(tonic::Response::into_inner).map_err(|status| CallError(Box::new(status)))
    }
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
    Err(Status::unimplemented(format!("drivers are not reached on this system: {}", path.display())))
}

//! What a node asks of a driver.

use std::time::Duration;

use super::messages::{self as m, Empty};
use crate::socket::{CallError, Socket};

/// How long a driver may take for a call that makes or unmakes something; after that it is asked again, which it must bear.
const CALL_MAX: Duration = Duration::from_secs(120);
/// The same for a question.
const QUESTION_MAX: Duration = Duration::from_secs(15);

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
}

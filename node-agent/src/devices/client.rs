//! What a node asks of a device plugin.

use std::time::Duration;

use tonic::Streaming;

use super::messages::{self as m, Empty};
use crate::socket::{CallError, Socket};

/// How long a plugin may take to give out devices: some of them load a driver first.
const ALLOCATE_MAX: Duration = Duration::from_secs(120);
/// The same for making devices ready, as Kubernetes has it.
const PRE_START_MAX: Duration = Duration::from_secs(30);
/// The same for a question.
const QUESTION_MAX: Duration = Duration::from_secs(10);

/// A plugin's socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plugin(pub Socket);

impl Plugin {
    /// What it wants to be asked.
    pub async fn options(&self) -> Result<m::PluginOptions, CallError> {
        self.0.call("/v1beta1.DevicePlugin/GetDevicePluginOptions", Empty {}, QUESTION_MAX).await
    }

    /// Its devices, whenever they change, for as long as it is there.
    pub async fn devices(&self) -> Result<Streaming<m::DeviceList>, CallError> {
        self.0.stream("/v1beta1.DevicePlugin/ListAndWatch", Empty {}).await
    }

    /// Which `size` of the available devices go best together.
    pub async fn preferred(
        &self,
        available: Vec<String>,
        must_include: Vec<String>,
        size: usize,
    ) -> Result<Vec<String>, CallError> {
        let size = i32::try_from(size).unwrap_or(i32::MAX);
        let question =
            m::PreferredRequest { containers: vec![m::ContainerPreferredRequest { available, must_include, size }] };
        let path = "/v1beta1.DevicePlugin/GetPreferredAllocation";
        let answer: m::PreferredResponse = self.0.call(path, question, QUESTION_MAX).await?;
        Ok(answer.containers.into_iter().next().unwrap_or_default().ids)
    }

    /// Gives a container these devices: what it needs to use them, if the plugin says.
    pub async fn allocate(&self, ids: Vec<String>) -> Result<Option<m::Grant>, CallError> {
        let question = m::AllocateRequest { containers: vec![m::DeviceIds { ids }] };
        let answer: m::AllocateResponse = self.0.call("/v1beta1.DevicePlugin/Allocate", question, ALLOCATE_MAX).await?;
        Ok(answer.containers.into_iter().next())
    }

    /// Makes devices ready for a container that is about to start.
    pub async fn pre_start(&self, ids: Vec<String>) -> Result<(), CallError> {
        let question = m::DeviceIds { ids };
        let answer: Result<Empty, _> =
            self.0.call("/v1beta1.DevicePlugin/PreStartContainer", question, PRE_START_MAX).await;
        answer.map(drop)
    }
}

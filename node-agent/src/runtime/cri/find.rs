//! What there is, as CRI tells it: one by its id, or those of a pod.

#[cfg(target_os = "linux")]
use futures::future::try_join;
use k8s_cri::v1;

#[cfg(target_os = "linux")]
use super::Sandboxes;
use super::errors::{Call, translate};
use super::{CriRuntime, READ_TIMEOUT, empty_answer, records, selector, timed};
use crate::runtime::{ContainerRecord, Result, RuntimeError};

impl CriRuntime {
    pub(super) async fn container_by_id(&self, id: &str) -> Result<Option<v1::Container>> {
        let filter = v1::ContainerFilter { id: id.to_owned(), ..Default::default() };
        Ok(self.containers(filter).await?.into_iter().next())
    }

    pub(super) async fn sandbox_by_id(&self, id: &str) -> Result<Option<v1::PodSandbox>> {
        let filter = v1::PodSandboxFilter { id: id.to_owned(), ..Default::default() };
        Ok(self.pod_sandboxes(filter).await?.into_iter().next())
    }

    pub(super) async fn container_status(&self, id: &str) -> Result<v1::ContainerStatus> {
        let request = v1::ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
        let response = self
            .runtime
            .clone()
            .container_status(timed(READ_TIMEOUT, request))
            .await
            .map_err(|status| translate(Call::Other, &status))?;
        response.into_inner().status.ok_or_else(|| empty_answer("ContainerStatus"))
    }

    pub(super) async fn sandbox_status(&self, id: &str) -> Result<v1::PodSandboxStatus> {
        let request = v1::PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: false };
        let response = self
            .runtime
            .clone()
            .pod_sandbox_status(timed(READ_TIMEOUT, request))
            .await
            .map_err(|status| translate(Call::Other, &status))?;
        response.into_inner().status.ok_or_else(|| empty_answer("PodSandboxStatus"))
    }

    pub(super) async fn list_sandboxes(&self, uid: Option<&str>) -> Result<Vec<v1::PodSandbox>> {
        self.pod_sandboxes(v1::PodSandboxFilter { label_selector: selector(uid), ..Default::default() }).await
    }

    async fn pod_sandboxes(&self, filter: v1::PodSandboxFilter) -> Result<Vec<v1::PodSandbox>> {
        let request = v1::ListPodSandboxRequest { filter: Some(filter) };
        let response = self.runtime.clone().list_pod_sandbox(timed(READ_TIMEOUT, request)).await;
        Ok(response.map_err(|status| translate(Call::Other, &status))?.into_inner().items)
    }

    /// The sandboxes that there are, whoever made them.
    #[cfg(target_os = "linux")]
    pub(in crate::runtime) async fn sandboxes(&self) -> Result<Sandboxes> {
        let (sandboxes, containers) = try_join(self.list_sandboxes(None), self.list_containers(None)).await?;
        let ready = sandboxes.iter().filter(|sandbox| sandbox.state == v1::PodSandboxState::SandboxReady as i32);
        let over = v1::ContainerState::ContainerExited as i32;
        let with_life = containers.into_iter().filter(|container| container.state != over);
        let alive = ready.map(|sandbox| sandbox.id.clone()).chain(with_life.map(|container| container.pod_sandbox_id));
        Ok(Sandboxes { alive: alive.collect(), all: sandboxes.into_iter().map(|sandbox| sandbox.id).collect() })
    }

    pub(super) async fn list_containers(&self, uid: Option<&str>) -> Result<Vec<v1::Container>> {
        self.containers(v1::ContainerFilter { label_selector: selector(uid), ..Default::default() }).await
    }

    async fn containers(&self, filter: v1::ContainerFilter) -> Result<Vec<v1::Container>> {
        let request = v1::ListContainersRequest { filter: Some(filter) };
        let response = self.runtime.clone().list_containers(timed(READ_TIMEOUT, request)).await;
        Ok(response.map_err(|status| translate(Call::Other, &status))?.into_inner().containers)
    }

    /// The container's record, or none if it went away since it was listed.
    pub(super) async fn container_record(&self, listed: v1::Container) -> Result<Option<ContainerRecord>> {
        match self.container_status(&listed.id).await {
            Ok(status) => Ok(Some(records::container(status, listed.pod_sandbox_id))),
            Err(RuntimeError::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

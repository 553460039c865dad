//! The [`Runtime`] that speaks CRI to containerd, over one connection.
//!
//! In: the agent's configurations. Out: CRI calls over gRPC, and records made of the
//! answers. What CRI does not offer (events in containerd 1.6, image import) goes over the
//! same connection to containerd's own services. The connection is opened at the first
//! call and again whenever containerd was away; nothing is kept but a map from ids to the
//! pods they belong to, so that events need no further call.

mod config;
mod content;
mod errors;
mod events;
mod find;
mod records;
mod views;

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use containerd_client::services::v1::ListImagesRequest;
use containerd_client::services::v1::images_client::ImagesClient;
use futures::future::{try_join, try_join_all};
use futures::stream::BoxStream;
use k8s_cri::v1;
use k8s_cri::v1::image_service_client::ImageServiceClient;
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint, Uri};

use self::errors::{Call, translate};
use super::images::{Held, ImportError, Importer, LABEL_ARCHIVE};
use super::{
    ContainerConfig, ContainerRecord, EVENT_QUEUE_LEN, ExecOutput, ExecRequest, ImageRecord, ImageStore, LABEL_POD_UID,
    PodIdentity, PodRecord, PodUsage, Readiness, RegistryAuth, Resources, Result, Runtime, RuntimeError, RuntimeEvent,
    RuntimeStatus, RuntimeVersion, SandboxConfig, StreamEndpoint, StreamOptions, ViewMount,
};

use crate::stats::disk::Taken;

/// containerd's namespace for everything that CRI manages.
const NAMESPACE: &str = "k8s.io";

/// Largest answer accepted; the same as the kubelet's. A list of 500 containers is 1 MB.
const MESSAGE_SIZE_MAX: usize = 16 << 20;
/// For calls that only read.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// For calls that change one container.
const WRITE_TIMEOUT: Duration = Duration::from_secs(120);
/// For making a sandbox, which sets up its network.
const SANDBOX_TIMEOUT: Duration = Duration::from_secs(240);
/// How long a changed network configuration may take to be noticed by containerd.
#[cfg(target_os = "linux")]
const NETWORK_NOTICE_TIME_MAX: Duration = Duration::from_secs(5);

/// How long containerd may take to notice that a shim was killed.
#[cfg(target_os = "linux")]
const KILL_NOTICE_TIME_MAX: Duration = Duration::from_secs(20);
/// Between looks whether it has.
#[cfg(target_os = "linux")]
const KILL_NOTICE_POLL: Duration = Duration::from_millis(200);

/// How long a sandbox may take to stop, before what serves it counts as stuck: a few processes are killed and a network is taken
/// down, which takes a second on a busy machine.
pub const STOP_PATIENCE: Duration = Duration::from_secs(60);

/// What a [`CriRuntime`] does on the node beside the calls to containerd.
#[derive(Clone, Debug)]
pub struct CriOptions {
    /// The network configuration to write when the pod CIDR is known; `None` leaves the
    /// network to whoever configured the runtime.
    #[cfg(target_os = "linux")]
    pub cni: Option<super::cni::Cni>,
    /// containerd's snapshotter, for unpacking imported images.
    pub snapshotter: String,
    /// Folder for short-lived files of image imports.
    pub temporary: PathBuf,
    /// How long a sandbox may take to stop, before what serves it is killed.
    pub stop_patience: Duration,
}

impl Default for CriOptions {
    fn default() -> Self {
        Self {
            #[cfg(target_os = "linux")]
            cni: None,
            snapshotter: String::new(),
            temporary: PathBuf::new(),
            stop_patience: STOP_PATIENCE,
        }
    }
}

/// Ids of sandboxes.
#[cfg(target_os = "linux")]
#[derive(Clone, Debug, Default)]
pub(super) struct Sandboxes {
    /// All that there are.
    pub(super) all: HashSet<String>,
    /// Those that run, or have a container which may.
    pub(super) alive: HashSet<String>,
}

/// What an id stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Sandbox,
    Container,
}

/// What an id stands for, and the UID of the pod it belongs to.
#[derive(Clone, Debug)]
struct Owner {
    kind: Kind,
    uid: String,
}

/// A connection to containerd. Clones share it.
#[derive(Clone)]
pub struct CriRuntime {
    channel: Channel,
    runtime: RuntimeServiceClient<Channel>,
    image: ImageServiceClient<Channel>,
    events: broadcast::Sender<RuntimeEvent>,
    /// containerd's socket.
    #[cfg(target_os = "linux")]
    address: PathBuf,
    /// Owners by id, of the sandboxes and containers that exist.
    owners: Arc<Mutex<HashMap<String, Owner>>>,
    options: Arc<CriOptions>,
    /// What its imports keep.
    held: Held,
}

impl CriRuntime {
    /// A runtime on the socket (or Windows pipe) `address`. Connects when first used; follows
    /// containerd's events until `shutdown`.
    pub fn new(address: &Path, options: CriOptions, shutdown: CancellationToken) -> Self {
        let channel = channel(address);
        let runtime = Self {
            runtime: RuntimeServiceClient::new(channel.clone()).max_decoding_message_size(MESSAGE_SIZE_MAX),
            image: ImageServiceClient::new(channel.clone()).max_decoding_message_size(MESSAGE_SIZE_MAX),
            channel,
            events: broadcast::Sender::new(EVENT_QUEUE_LEN),
            #[cfg(target_os = "linux")]
            address: address.to_path_buf(),
            owners: Arc::default(),
            options: Arc::new(options),
            held: Held::default(),
        };
        tokio::spawn(events::follow(runtime.clone(), shutdown));
        runtime
    }

    /// Imports images into this containerd.
    pub fn importer(&self) -> Importer {
        let options = &self.options;
        Importer::new(self.channel.clone(), options.snapshotter.clone(), options.temporary.clone(), self.held.clone())
    }

    /// Ids of the images that came from archives.
    async fn archived_images(&self) -> Result<HashSet<String>> {
        let (label, value) = LABEL_ARCHIVE;
        let request = ListImagesRequest { filters: vec![format!("labels.\"{label}\"=={value}")] };
        let mut client = ImagesClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_SIZE_MAX);
        let found = client.list(namespaced(request)).await.map_err(|status| translate(Call::Image, &status))?;
        // Among an image's names is the one that CRI calls it by.
        Ok(found.into_inner().images.into_iter().map(|image| image.name).collect())
    }

    fn publish(&self, event: RuntimeEvent) {
        // Fails only while nobody has subscribed yet, and who subscribes lists first.
        let _ = self.events.send(event);
    }

    fn remember(&self, kind: Kind, id: &str, uid: &str) {
        let mut owners = self.owners.lock().unwrap_or_else(PoisonError::into_inner);
        if !owners.contains_key(id) {
            owners.insert(id.to_owned(), Owner { kind, uid: uid.to_owned() });
        }
    }

    fn forget(&self, id: &str) {
        self.owners.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }

    /// What an id stands for; none if it is nothing of a pod.
    async fn owner_of(&self, id: &str) -> Option<Owner> {
        let known = self.owners.lock().unwrap_or_else(PoisonError::into_inner).get(id).cloned();
        if known.is_some() {
            return known;
        }
        // Lists by id rather than asking for a status: containerd logs an error for each
        // status of something that is gone.
        let (kind, labels) = match self.container_by_id(id).await.ok()? {
            Some(container) => (Kind::Container, container.labels),
            None => (Kind::Sandbox, self.sandbox_by_id(id).await.ok()??.labels),
        };
        Some(Owner { kind, uid: labels.get(LABEL_POD_UID)?.clone() })
    }

    /// Whether CRI holds this container or sandbox to be running.
    async fn is_running(&self, kind: Kind, id: &str) -> bool {
        match kind {
            Kind::Container => self.container_by_id(id).await.is_ok_and(|found| {
                found.is_some_and(|container| container.state == v1::ContainerState::ContainerRunning as i32)
            }),
            Kind::Sandbox => self.sandbox_by_id(id).await.is_ok_and(|found| {
                found.is_some_and(|sandbox| sandbox.state == v1::PodSandboxState::SandboxReady as i32)
            }),
        }
    }

    async fn remove_sandbox_once(&self, sandbox_id: &str) -> Result<()> {
        let request = v1::RemovePodSandboxRequest { pod_sandbox_id: sandbox_id.to_owned() };
        let mut client = self.runtime.clone();
        missing_is_fine(client.remove_pod_sandbox(timed(WRITE_TIMEOUT, request)).await)
    }

    async fn stop_sandbox_once(&self, sandbox_id: &str, timeout: Duration) -> Result<()> {
        let request = v1::StopPodSandboxRequest { pod_sandbox_id: sandbox_id.to_owned() };
        let mut client = self.runtime.clone();
        missing_is_fine(client.stop_pod_sandbox(timed(timeout, request)).await)
    }

    /// Kills what serves a sandbox that is to go, and its containers: containerd waits for its answer for ever, and does so no
    /// more when it is gone.
    #[cfg(target_os = "linux")]
    fn kill_server_of(&self, sandbox_id: &str, error: &RuntimeError) {
        tracing::warn!(sandbox = sandbox_id, %error, "what serves a pod does not answer and is killed");
        super::containerd::shims::kill(&self.address, Some(sandbox_id));
    }

    fn remember_all(&self, pods: &[PodRecord]) {
        for pod in pods {
            for sandbox in &pod.sandboxes {
                self.remember(Kind::Sandbox, &sandbox.id, &pod.pod.uid);
            }
            for container in &pod.containers {
                self.remember(Kind::Container, &container.id, &pod.pod.uid);
            }
        }
    }

    /// Removes a sandbox that could not be removed because it is being started and never will be.
    #[cfg(target_os = "linux")]
    async fn remove_unstarted(&self, sandbox_id: &str, mut removed: Result<()>) -> Result<()> {
        if let Some(error) = removed.as_ref().err().filter(|error| is_being_started(error)) {
            self.kill_server_of(sandbox_id, error);
            let deadline = tokio::time::Instant::now() + KILL_NOTICE_TIME_MAX;
            while removed.as_ref().is_err_and(is_being_started) && tokio::time::Instant::now() < deadline {
                tokio::time::sleep(KILL_NOTICE_POLL).await;
                removed = self.remove_sandbox_once(sandbox_id).await;
            }
        }
        removed
    }

    #[cfg(target_os = "linux")]
    async fn wait_for_network(&self) -> Result<()> {
        let deadline = tokio::time::Instant::now() + NETWORK_NOTICE_TIME_MAX;
        loop {
            let network = self.status().await?.network;
            if network.ready || tokio::time::Instant::now() >= deadline {
                if !network.ready {
                    tracing::warn!(message = network.message, "the pod network is not ready");
                }
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

#[async_trait]
impl Runtime for CriRuntime {
    fn scheme(&self) -> &str {
        "containerd"
    }

    async fn version(&self) -> Result<RuntimeVersion> {
        let request = v1::VersionRequest::default();
        let version = self
            .runtime
            .clone()
            .version(timed(READ_TIMEOUT, request))
            .await
            .map_err(|status| translate(Call::Other, &status))?
            .into_inner();
        Ok(RuntimeVersion { name: version.runtime_name, version: version.runtime_version })
    }

    async fn status(&self) -> Result<RuntimeStatus> {
        let request = v1::StatusRequest { verbose: false };
        let response = self
            .runtime
            .clone()
            .status(timed(READ_TIMEOUT, request))
            .await
            .map_err(|status| translate(Call::Other, &status))?;
        let response = response.into_inner();
        let strict_groups = response.features.is_some_and(|features| features.supplemental_groups_policy);
        let conditions = response.status.unwrap_or_default().conditions;
        let readiness = |kind: &str| {
            let found = conditions.iter().find(|condition| condition.r#type == kind);
            found.map_or_else(
                || Readiness {
                    ready: false,
                    reason: "Unknown".to_owned(),
                    message: format!("the runtime does not report {kind}"),
                },
                |condition| Readiness {
                    ready: condition.status,
                    reason: condition.reason.clone(),
                    message: condition.message.clone(),
                },
            )
        };
        let (runtime, network) = (readiness("RuntimeReady"), readiness("NetworkReady"));
        Ok(RuntimeStatus { runtime, network, strict_groups })
    }

    async fn list(&self) -> Result<Vec<PodRecord>> {
        let (sandboxes, containers) = try_join(self.list_sandboxes(None), self.list_containers(None)).await?;
        let pods = records::group(
            sandboxes.into_iter().map(records::listed_sandbox).collect(),
            containers.into_iter().map(records::listed_container).collect(),
        );
        // What is no longer there is forgotten here too. Should something new be forgotten
        // with it, an event about it costs one more call.
        self.owners.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.remember_all(&pods);
        Ok(pods)
    }

    async fn pod(&self, uid: &str) -> Result<PodRecord> {
        let (sandboxes, containers) = try_join(self.list_sandboxes(Some(uid)), self.list_containers(Some(uid))).await?;
        let sandboxes = sandboxes.into_iter().map(|listed| async move {
            match self.sandbox_status(&listed.id).await {
                Ok(status) => Ok(Some(records::sandbox(status))),
                Err(RuntimeError::NotFound(_)) => Ok(None),
                Err(error) => Err(error),
            }
        });
        let containers = containers.into_iter().map(|listed| self.container_record(listed));
        let (sandboxes, containers) = try_join(try_join_all(sandboxes), try_join_all(containers)).await?;
        let pods =
            records::group(sandboxes.into_iter().flatten().collect(), containers.into_iter().flatten().collect());
        self.remember_all(&pods);
        Ok(pods.into_iter().next().unwrap_or_else(|| PodRecord {
            pod: PodIdentity { uid: uid.to_owned(), ..Default::default() },
            ..Default::default()
        }))
    }

    async fn container(&self, container_id: &str) -> Result<ContainerRecord> {
        let missing = || RuntimeError::NotFound(format!("no container {container_id:?}"));
        let listed = self.container_by_id(container_id).await?.ok_or_else(missing)?;
        self.container_record(listed).await?.ok_or_else(missing)
    }

    fn subscribe(&self) -> broadcast::Receiver<RuntimeEvent> {
        self.events.subscribe()
    }

    async fn run_sandbox(&self, config: &SandboxConfig) -> Result<String> {
        let (runtime_handler, config_of_it) = (config.handler.clone(), config::sandbox(config));
        let request = v1::RunPodSandboxRequest { config: Some(config_of_it), runtime_handler };
        let response = self
            .runtime
            .clone()
            .run_pod_sandbox(timed(SANDBOX_TIMEOUT, request))
            .await
            .map_err(|status| translate(Call::Other, &status))?;
        let id = response.into_inner().pod_sandbox_id;
        self.remember(Kind::Sandbox, &id, &config.pod.uid);
        Ok(id)
    }

    async fn stop_sandbox(&self, sandbox_id: &str) -> Result<()> {
        match self.stop_sandbox_once(sandbox_id, self.options.stop_patience).await {
            #[cfg(target_os = "linux")]
            Err(error @ RuntimeError::DeadlineExceeded(_)) => {
                self.kill_server_of(sandbox_id, &error);
                self.stop_sandbox_once(sandbox_id, SANDBOX_TIMEOUT).await
            }
            answer => answer,
        }
    }

    async fn remove_sandbox(&self, sandbox_id: &str) -> Result<()> {
        let removed = self.remove_sandbox_once(sandbox_id).await;
        #[cfg(target_os = "linux")]
        let removed = self.remove_unstarted(sandbox_id, removed).await;
        removed?;
        self.forget(sandbox_id);
        Ok(())
    }

    async fn create_container(
        &self,
        sandbox_id: &str,
        config: &ContainerConfig,
        sandbox: &SandboxConfig,
    ) -> Result<String> {
        let request = v1::CreateContainerRequest {
            pod_sandbox_id: sandbox_id.to_owned(),
            config: Some(config::container(config)),
            sandbox_config: Some(config::sandbox(sandbox)),
        };
        let response = self
            .runtime
            .clone()
            .create_container(timed(WRITE_TIMEOUT, request))
            .await
            .map_err(|status| translate(Call::Create, &status))?;
        let id = response.into_inner().container_id;
        self.remember(Kind::Container, &id, &sandbox.pod.uid);
        Ok(id)
    }

    async fn start_container(&self, container_id: &str) -> Result<()> {
        let request = v1::StartContainerRequest { container_id: container_id.to_owned() };
        let mut client = self.runtime.clone();
        let started = client.start_container(timed(WRITE_TIMEOUT, request)).await;
        started.map(drop).map_err(|status| translate(Call::Start, &status))
    }

    async fn stop_container(&self, container_id: &str, grace: Duration) -> Result<()> {
        let request = v1::StopContainerRequest {
            container_id: container_id.to_owned(),
            timeout: i64::try_from(grace.as_secs()).unwrap_or(i64::MAX),
        };
        let mut client = self.runtime.clone();
        let timeout = WRITE_TIMEOUT.saturating_add(grace);
        missing_is_fine(client.stop_container(timed(timeout, request)).await)
    }

    async fn remove_container(&self, container_id: &str) -> Result<()> {
        let request = v1::RemoveContainerRequest { container_id: container_id.to_owned() };
        let mut client = self.runtime.clone();
        missing_is_fine(client.remove_container(timed(WRITE_TIMEOUT, request)).await)?;
        self.forget(container_id);
        Ok(())
    }

    async fn update_container(&self, container_id: &str, resources: &Resources) -> Result<()> {
        let request = v1::UpdateContainerResourcesRequest {
            container_id: container_id.to_owned(),
            linux: Some(config::updated_resources(resources)),
            ..Default::default()
        };
        let mut client = self.runtime.clone();
        let updated = client.update_container_resources(timed(WRITE_TIMEOUT, request)).await;
        updated.map(drop).map_err(|status| translate(Call::Other, &status))
    }

    async fn reopen_log(&self, container_id: &str) -> Result<()> {
        let request = v1::ReopenContainerLogRequest { container_id: container_id.to_owned() };
        let mut client = self.runtime.clone();
        let reopened = client.reopen_container_log(timed(WRITE_TIMEOUT, request)).await;
        reopened.map(drop).map_err(|status| translate(Call::Other, &status))
    }

    async fn exec_sync(&self, container_id: &str, command: &[String], timeout: Duration) -> Result<ExecOutput> {
        let request = v1::ExecSyncRequest {
            container_id: container_id.to_owned(),
            cmd: command.to_vec(),
            // CRI counts whole seconds and takes 0 for no limit.
            timeout: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX).max(1),
        };
        let response = self
            .runtime
            .clone()
            .exec_sync(timed(timeout.saturating_add(WRITE_TIMEOUT), request))
            .await
            .map_err(|status| translate(Call::Other, &status))?
            .into_inner();
        Ok(ExecOutput { stdout: response.stdout, stderr: response.stderr, exit_code: response.exit_code })
    }

    async fn exec(&self, container_id: &str, request: &ExecRequest) -> Result<StreamEndpoint> {
        let streams = request.streams;
        let request = v1::ExecRequest {
            container_id: container_id.to_owned(),
            cmd: request.command.clone(),
            tty: streams.tty,
            stdin: streams.stdin,
            stdout: streams.stdout,
            stderr: streams.stderr,
        };
        let response = self
            .runtime
            .clone()
            .exec(timed(READ_TIMEOUT, request))
            .await
            .map_err(|status| translate(Call::Other, &status))?;
        Ok(StreamEndpoint { url: response.into_inner().url })
    }

    async fn attach(&self, container_id: &str, streams: StreamOptions) -> Result<StreamEndpoint> {
        let request = v1::AttachRequest {
            container_id: container_id.to_owned(),
            stdin: streams.stdin,
            tty: streams.tty,
            stdout: streams.stdout,
            stderr: streams.stderr,
        };
        let response = self
            .runtime
            .clone()
            .attach(timed(READ_TIMEOUT, request))
            .await
            .map_err(|status| translate(Call::Other, &status))?;
        Ok(StreamEndpoint { url: response.into_inner().url })
    }

    async fn port_forward(&self, sandbox_id: &str, ports: &[u16]) -> Result<StreamEndpoint> {
        let request = v1::PortForwardRequest {
            pod_sandbox_id: sandbox_id.to_owned(),
            port: ports.iter().map(|&port| port.into()).collect(),
        };
        let response = self
            .runtime
            .clone()
            .port_forward(timed(READ_TIMEOUT, request))
            .await
            .map_err(|status| translate(Call::Other, &status))?;
        Ok(StreamEndpoint { url: response.into_inner().url })
    }

    async fn image(&self, reference: &str) -> Result<Option<ImageRecord>> {
        let request = v1::ImageStatusRequest { image: Some(image_spec(reference)), verbose: false };
        let response = self
            .image
            .clone()
            .image_status(timed(READ_TIMEOUT, request))
            .await
            .map_err(|status| translate(Call::Image, &status))?;
        Ok(response.into_inner().image.map(records::image_record))
    }

    async fn images(&self) -> Result<Vec<ImageRecord>> {
        let response = self
            .image
            .clone()
            .list_images(timed(READ_TIMEOUT, v1::ListImagesRequest::default()))
            .await
            .map_err(|status| translate(Call::Image, &status))?;
        let mut images: Vec<_> = response.into_inner().images.into_iter().map(records::image_record).collect();
        let archived = self.archived_images().await?;
        for image in &mut images {
            image.pinned |= archived.contains(&image.id);
        }
        Ok(images)
    }

    async fn pull_image(&self, reference: &str, auth: Option<&RegistryAuth>) -> Result<String> {
        let request = v1::PullImageRequest {
            image: Some(image_spec(reference)),
            auth: auth.map(config::auth),
            sandbox_config: None,
        };
        // No limit of time: it takes as long as the image is large, and the caller may
        // drop the call.
        let response = self.image.clone().pull_image(request).await.map_err(|status| translate(Call::Pull, &status))?;
        Ok(response.into_inner().image_ref)
    }

    async fn content_size(&self, digest: &str) -> Result<Option<u64>> {
        content::size(&self.channel, digest).await
    }

    async fn read_content(&self, digest: &str, offset: u64) -> Result<BoxStream<'static, Result<Bytes>>> {
        content::read(&self.channel, digest, offset).await
    }

    async fn remove_image(&self, reference: &str) -> Result<()> {
        let request = v1::RemoveImageRequest { image: Some(image_spec(reference)) };
        let mut client = self.image.clone();
        missing_is_fine(client.remove_image(timed(WRITE_TIMEOUT, request)).await)
    }

    async fn view_image(&self, id: &str, key: &str) -> Result<Vec<ViewMount>> {
        views::view(&self.channel, &self.options.snapshotter, id, key).await
    }

    async fn remove_view(&self, key: &str) -> Result<()> {
        views::remove(&self.channel, &self.options.snapshotter, key).await
    }

    async fn import_image(&self, archive: &Path) -> Result<Vec<String>> {
        let names = self.importer().import(archive).await.map_err(|error| match &error {
            // It may be on its way out, or have been: that says nothing of the archive.
            ImportError::Containerd { .. } => RuntimeError::Unavailable(super::images::with_sources(&error)),
            _ => RuntimeError::Failed(super::images::with_sources(&error)),
        })?;
        Ok(names)
    }

    async fn set_pod_cidrs(&self, cidrs: &[String]) -> Result<()> {
        #[cfg(target_os = "linux")]
        if let Some(cni) = &self.options.cni {
            let changed = cni
                .write(cidrs)
                .await
                .map_err(|error| RuntimeError::Failed(format!("cannot configure the pod network: {error}")))?;
            if changed {
                self.wait_for_network().await?;
            }
        }
        #[cfg(not(target_os = "linux"))]
        let _ = cidrs;
        Ok(())
    }

    async fn apply_pod_cgroup(&self, cgroup_parent: &str, limits: &Resources) -> Result<()> {
        #[cfg(target_os = "linux")]
        return crate::linux::cgroups::apply(cgroup_parent, limits)
            .map_err(|error| RuntimeError::Failed(error.to_string()));
        #[cfg(not(target_os = "linux"))]
        {
            let _ = (cgroup_parent, limits);
            Ok(())
        }
    }

    async fn remove_pod_cgroup(&self, cgroup_parent: &str) -> Result<()> {
        #[cfg(target_os = "linux")]
        return crate::linux::cgroups::remove(cgroup_parent)
            .await
            .map_err(|error| RuntimeError::Failed(error.to_string()));
        #[cfg(not(target_os = "linux"))]
        {
            let _ = cgroup_parent;
            Ok(())
        }
    }

    async fn pod_cgroups(&self, cgroup_root: &str) -> Result<Vec<String>> {
        #[cfg(target_os = "linux")]
        return crate::linux::cgroups::pods(cgroup_root).map_err(|error| RuntimeError::Failed(error.to_string()));
        #[cfg(not(target_os = "linux"))]
        {
            let _ = cgroup_root;
            Ok(Vec::new())
        }
    }

    async fn usage(&self, pods: &[(String, Vec<String>)]) -> Result<Vec<PodUsage>> {
        #[cfg(target_os = "linux")]
        {
            // A container's cgroup is named after it, below its pod's.
            let pods = pods.to_vec();
            let read = move || pods.iter().map(|(cgroup, members)| crate::linux::usage::pod(cgroup, members)).collect();
            tokio::task::spawn_blocking(read).await.map_err(|error| RuntimeError::Failed(error.to_string()))
        }
        #[cfg(not(target_os = "linux"))]
        Ok(vec![PodUsage::default(); pods.len()])
    }

    async fn layers(&self) -> Result<HashMap<String, Taken>> {
        let mut client = self.runtime.clone();
        let request = timed(READ_TIMEOUT, v1::ListContainerStatsRequest { filter: None });
        let answer = client.list_container_stats(request).await.map_err(|status| translate(Call::Other, &status))?;
        let value = |number: Option<v1::UInt64Value>| number.map_or(0, |number| number.value);
        let layer = |stats: v1::ContainerStats| {
            let layer = stats.writable_layer?;
            let taken = Taken { bytes: value(layer.used_bytes), inodes: value(layer.inodes_used) };
            Some((stats.attributes?.id, taken))
        };
        Ok(answer.into_inner().stats.into_iter().filter_map(layer).collect())
    }

    async fn image_store(&self) -> Result<ImageStore> {
        let mut client = self.image.clone();
        let request = timed(READ_TIMEOUT, v1::ImageFsInfoRequest {});
        let answer = client.image_fs_info(request).await.map_err(|status| translate(Call::Other, &status))?;
        let found = answer.into_inner().image_filesystems.into_iter().next();
        let found = found.ok_or_else(|| empty_answer("ImageFsInfo"))?;
        let value = |number: Option<v1::UInt64Value>| number.map_or(0, |number| number.value);
        Ok(ImageStore {
            path: found.fs_id.map(|id| PathBuf::from(id.mountpoint)).unwrap_or_default(),
            bytes: value(found.used_bytes),
            inodes: value(found.inodes_used),
        })
    }
}

/// A channel to containerd that connects when it is first used, and again when it must.
pub(crate) fn channel(address: &Path) -> Channel {
    let address = address.to_path_buf();
    // The authority is what containerd sees as the host; the path is what is dialled.
    Endpoint::from(Uri::from_static("http://localhost")).connect_with_connector_lazy(tower::service_fn(
        move |_: Uri| {
            let address = address.clone();
            async move {
                #[cfg(unix)]
                let stream = tokio::net::UnixStream::connect(address).await?;
                #[cfg(windows)]
                let stream = tokio::net::windows::named_pipe::ClientOptions::new().open(address)?;
                Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(stream))
            }
        },
    ))
}

/// The snapshotter that containerd is configured with where nothing speaks against it.
#[cfg(target_os = "linux")]
pub(crate) fn default_snapshotter() -> String {
    "overlayfs".to_owned()
}

/// A request to one of containerd's own services, in the namespace that CRI uses.
pub(crate) fn namespaced<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.metadata_mut().insert("containerd-namespace", tonic::metadata::MetadataValue::from_static(NAMESPACE));
    request
}

fn timed<T>(timeout: Duration, message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(timeout);
    request
}

fn selector(uid: Option<&str>) -> HashMap<String, String> {
    uid.map(|uid| (LABEL_POD_UID.to_owned(), uid.to_owned())).into_iter().collect()
}

fn image_spec(reference: &str) -> v1::ImageSpec {
    v1::ImageSpec { image: reference.to_owned(), ..Default::default() }
}

fn empty_answer(call: &str) -> RuntimeError {
    RuntimeError::Failed(format!("containerd answered {call} without a status"))
}

/// Whether something is not removed because a container is still being started.
#[cfg(target_os = "linux")]
fn is_being_started(error: &RuntimeError) -> bool {
    matches!(error, RuntimeError::Failed(message) if message.contains("is in starting state"))
}

fn missing_is_fine<T>(answer: std::result::Result<T, tonic::Status>) -> Result<()> {
    match answer {
        Ok(_) => Ok(()),
        Err(status) => match translate(Call::Other, &status) {
            RuntimeError::NotFound(_) => Ok(()),
            error => Err(error),
        },
    }
}

//! What the agent asks of a container runtime, in the agent's own words.
//!
//! [`Runtime`] is the only door between the agent and whatever runs containers. In: sandbox and container
//! configurations, already resolved (no Kubernetes object crosses this line). Out: [`PodRecord`]s, which say what exists,
//! and a bounded stream of [`RuntimeEvent`]s, which says whose record is worth reading again.
//!
//! An implementation keeps no truth of its own: what it lists is what there is, also after a restart of the agent.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use jiff::Timestamp;
use tokio::sync::broadcast;

use crate::stats::disk::Taken;

#[cfg(target_os = "linux")]
pub mod cni;
#[cfg(target_os = "linux")]
pub mod containerd;
pub mod cri;
pub mod images;
pub mod instance;
pub mod oci;
pub mod pause;
pub mod script;
pub mod simulated;

/// Label on every sandbox and container: the pod's name.
pub const LABEL_POD_NAME: &str = "io.kubernetes.pod.name";
/// Label on every sandbox and container: the pod's namespace.
pub const LABEL_POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
/// Label on every sandbox and container: the pod's UID. What lacks it is not ours and is left alone.
pub const LABEL_POD_UID: &str = "io.kubernetes.pod.uid";
/// Label on every container: its name in the pod.
pub const LABEL_CONTAINER_NAME: &str = "io.kubernetes.container.name";

/// How many events a subscriber may fall behind. An event is a UID of 36 bytes and there are at most a few hundred pods on
/// a node; who falls further behind is told so and lists everything instead.
pub const EVENT_QUEUE_LEN: usize = 1024;

/// Why the runtime could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The image is not on the node, or the registry does not have it.
    #[error("{0}")]
    ImageNotFound(String),
    /// The image reference cannot be parsed.
    #[error("{0}")]
    InvalidImageName(String),
    /// The registry could not be reached or refused.
    #[error("{0}")]
    ImagePull(String),
    /// No sandbox or container of that id.
    #[error("{0}")]
    NotFound(String),
    /// A sandbox or container of that name and attempt exists already.
    #[error("{0}")]
    AlreadyExists(String),
    /// The runtime cannot be reached, or says that it is still starting.
    #[error("{0}")]
    Unavailable(String),
    /// The call took longer than it was given.
    #[error("{0}")]
    DeadlineExceeded(String),
    /// The container could not be created from its configuration.
    #[error("{0}")]
    CreateContainer(String),
    /// The container was created and could not be started (no such command, for example).
    #[error("{0}")]
    RunContainer(String),
    /// The runtime does not know this call.
    #[error("{0}")]
    Unsupported(String),
    /// Anything else, in the runtime's words.
    #[error("{0}")]
    Failed(String),
}

/// Result of a runtime call.
pub type Result<T, E = RuntimeError> = std::result::Result<T, E>;

/// Name and version of the runtime, for `Node.status.nodeInfo`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimeVersion {
    /// Such as `containerd`.
    pub name: String,
    /// Such as `1.6.20`.
    pub version: String,
}

/// Whether one half of the runtime is ready, and if not, why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Readiness {
    /// True when it is ready.
    pub ready: bool,
    /// One CamelCase word, empty when ready.
    pub reason: String,
    /// A sentence, empty when ready.
    pub message: String,
}

/// Readiness of the runtime and of its pod network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimeStatus {
    /// Whether containers can be run.
    pub runtime: Readiness,
    /// Whether pods can be given an address.
    pub network: Readiness,
    /// Whether a container can be kept from the groups that its image gives its user.
    pub strict_groups: bool,
}

/// Which pod a sandbox or container belongs to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodIdentity {
    /// `metadata.uid`
    pub uid: String,
    /// `metadata.name`
    pub name: String,
    /// `metadata.namespace`
    pub namespace: String,
}

/// Everything the runtime has of one pod. Sandboxes and containers are sorted newest first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodRecord {
    /// Whose.
    pub pod: PodIdentity,
    /// Sandboxes, newest (highest attempt) first.
    pub sandboxes: Vec<SandboxRecord>,
    /// Containers, newest first, of all names.
    pub containers: Vec<ContainerRecord>,
}

/// A sandbox: the namespaces and the cgroup which a pod's containers share.
#[derive(Clone, Debug, PartialEq)]
pub struct SandboxRecord {
    /// The runtime's id.
    pub id: String,
    /// Which sandbox of this pod: 0, 1, …
    pub attempt: u32,
    /// True while the sandbox runs.
    pub ready: bool,
    /// When it was created.
    pub created_at: Timestamp,
    /// The pod's addresses, primary first; empty with host networking. Filled by [`Runtime::pod`] always, by
    /// [`Runtime::list`] only if it costs nothing.
    pub ips: Vec<IpAddr>,
    /// Labels as given at creation.
    pub labels: BTreeMap<String, String>,
    /// Annotations as given at creation.
    pub annotations: BTreeMap<String, String>,
}

/// State of a container in the runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ContainerState {
    /// Created and not started.
    Created,
    /// Running.
    Running,
    /// Ended; `exit_code`, `reason` and the times say how.
    Exited,
    /// The runtime does not know.
    Unknown,
}

/// A container as the runtime has it.
#[derive(Clone, Debug, PartialEq)]
pub struct ContainerRecord {
    /// The runtime's id, without a `containerd://` prefix.
    pub id: String,
    /// The sandbox it lives in.
    pub sandbox_id: String,
    /// Name in the pod's spec.
    pub name: String,
    /// Which instance of that name: 0, 1, …; the restart count.
    pub attempt: u32,
    /// State.
    pub state: ContainerState,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it was started. Filled by [`Runtime::pod`] and [`Runtime::container`].
    pub started_at: Option<Timestamp>,
    /// When it ended. Filled likewise.
    pub finished_at: Option<Timestamp>,
    /// Exit code once exited. Filled likewise.
    pub exit_code: i32,
    /// The runtime's word for the end: `Completed`, `Error`, `OOMKilled`, `StartError`, `Unknown` … Filled likewise.
    pub reason: String,
    /// The runtime's sentence for it. Filled likewise.
    pub message: String,
    /// The image as it was asked for.
    pub image: String,
    /// What was in fact run: a `repo@sha256:…` reference if there is one, else the image's id.
    pub image_id: String,
    /// Labels as given at creation.
    pub labels: BTreeMap<String, String>,
    /// Annotations as given at creation.
    pub annotations: BTreeMap<String, String>,
    /// The log file's absolute path. Filled likewise.
    pub log_path: Option<PathBuf>,
}

/// Something changed in the runtime.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuntimeEvent {
    /// A sandbox or container of the pod with this UID started, ended or went away.
    PodChanged(String),
    /// Events may have been missed (the runtime was away): list everything.
    Relist,
}

/// A namespace's owner.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum NamespaceMode {
    /// Shared by the containers of the pod.
    #[default]
    Pod,
    /// Each container its own.
    Container,
    /// The node's.
    Node,
}

/// Which namespaces a pod's containers live in; the same on the sandbox and on all its containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Namespaces {
    /// Network: [`NamespaceMode::Pod`] or [`NamespaceMode::Node`].
    pub network: NamespaceMode,
    /// Processes: all three.
    pub pid: NamespaceMode,
    /// IPC: [`NamespaceMode::Pod`] or [`NamespaceMode::Node`].
    pub ipc: NamespaceMode,
}

impl Default for Namespaces {
    fn default() -> Self {
        Self { network: NamespaceMode::Pod, pid: NamespaceMode::Container, ipc: NamespaceMode::Pod }
    }
}

/// The resolver configuration of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DnsConfig {
    /// `nameserver` lines.
    pub servers: Vec<String>,
    /// The `search` line.
    pub searches: Vec<String>,
    /// The `options` line.
    pub options: Vec<String>,
}

/// A port of the node which is led to a port of the pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortMapping {
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// The pod's.
    pub container_port: u16,
    /// The node's.
    pub host_port: u16,
    /// The node's address, empty for all.
    pub host_ip: String,
}

/// Limits of a cgroup, in the units of cgroup v1 (implementations convert for v2).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Relative weight, 2–262144; `None` leaves the runtime's default.
    pub cpu_shares: Option<u64>,
    /// Microseconds of CPU in each period; `None` is no limit.
    pub cpu_quota_us: Option<i64>,
    /// The period in microseconds, normally 100 000.
    pub cpu_period_us: Option<i64>,
    /// Bytes of memory; `None` is no limit. Swap is never given on top.
    pub memory_limit_bytes: Option<i64>,
    /// The kernel's OOM score adjustment; not meaningful for a pod's cgroup.
    pub oom_score_adj: Option<i64>,
    /// Limit of huge pages by page size (`2MB`, `1GB`), in bytes.
    pub hugepage_limits: BTreeMap<String, u64>,
}

/// A seccomp profile.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Seccomp {
    /// The runtime's own.
    #[default]
    RuntimeDefault,
    /// None.
    Unconfined,
    /// A file on the node.
    Localhost(PathBuf),
}

/// An AppArmor profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AppArmor {
    /// The runtime's own.
    RuntimeDefault,
    /// None.
    Unconfined,
    /// One that the node has loaded, by its name.
    Localhost(String),
}

/// How to make a sandbox.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SandboxConfig {
    /// For which pod.
    pub pod: PodIdentity,
    /// Which sandbox of this pod; a used pair of pod and attempt is refused.
    pub attempt: u32,
    /// By which of the runtime's handlers it is run, as a RuntimeClass names it; empty: by the runtime's own choice.
    pub handler: String,
    /// Host name; empty with host networking.
    pub hostname: String,
    /// Absolute folder below which the containers' `log_path` lie. Exists already.
    pub log_directory: PathBuf,
    /// Resolver configuration; `None` leaves the node's.
    pub dns: Option<DnsConfig>,
    /// Host ports.
    pub port_mappings: Vec<PortMapping>,
    /// Labels; hold the `LABEL_*` ones already.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// Parent cgroup, such as `/gantry/pod<uid>`; made by [`Runtime::apply_pod_cgroup`].
    pub cgroup_parent: String,
    /// What the sandbox costs besides the containers: runtimes that start a machine for a pod want to know its size.
    pub overhead: Resources,
    /// What the containers have together.
    pub resources: Resources,
    /// Kernel parameters of the pod's namespaces.
    pub sysctls: BTreeMap<String, String>,
    /// Namespaces.
    pub namespaces: Namespaces,
    /// True if any container is privileged.
    pub privileged: bool,
    /// User of the sandbox's process, if the pod names one.
    pub run_as_user: Option<i64>,
    /// Group likewise.
    pub run_as_group: Option<i64>,
    /// Supplemental groups (the pod's, and its `fsGroup`).
    pub supplemental_groups: Vec<i64>,
    /// Whether these are all, whatever the image says.
    pub strict_groups: bool,
}

/// How changes of mounts travel between node and container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MountPropagation {
    /// Not at all.
    #[default]
    None,
    /// From the node into the container.
    HostToContainer,
    /// Both ways (privileged containers only).
    Bidirectional,
}

/// A bind mount of a container. The host path exists already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Where in the container.
    pub container_path: PathBuf,
    /// What of the node.
    pub host_path: PathBuf,
    /// Whether it is read-only.
    pub read_only: bool,
    /// Propagation.
    pub propagation: MountPropagation,
}

/// Who a container runs as and what it may do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerSecurity {
    /// All devices, all capabilities, no confinement.
    pub privileged: bool,
    /// Capabilities to add, without `CAP_`; may hold `ALL`.
    pub capabilities_add: Vec<String>,
    /// Capabilities to drop, without `CAP_`; may hold `ALL`.
    pub capabilities_drop: Vec<String>,
    /// Numeric user; `None` is the image's.
    pub run_as_user: Option<i64>,
    /// User by name, if there is no number (from the image's configuration).
    pub run_as_username: String,
    /// Numeric group; only together with a user.
    pub run_as_group: Option<i64>,
    /// Groups besides.
    pub supplemental_groups: Vec<i64>,
    /// Whether these are all, whatever the image says.
    pub strict_groups: bool,
    /// Read-only root file system.
    pub read_only_rootfs: bool,
    /// Whether gaining privileges by set-uid files is ruled out.
    pub no_new_privs: bool,
    /// Seccomp.
    pub seccomp: Seccomp,
    /// AppArmor; none leaves it to the runtime.
    pub app_armor: Option<AppArmor>,
    /// Whether /proc is mounted without masks.
    pub unmasked_proc: bool,
}

/// How to make a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerConfig {
    /// Name in the pod's spec.
    pub name: String,
    /// Which instance of that name in this pod; a used one is refused.
    pub attempt: u32,
    /// The image as the pod's spec has it (what the record's `image` will say).
    pub image: String,
    /// The image's id or digest as [`Runtime::image`] or [`Runtime::pull_image`] gave it.
    pub image_ref: String,
    /// Replaces the image's entry point, if not empty.
    pub command: Vec<String>,
    /// Replaces the image's arguments, if not empty.
    pub args: Vec<String>,
    /// Working directory; empty is the image's.
    pub working_dir: String,
    /// Environment, later ones win.
    pub env: Vec<(String, String)>,
    /// Mounts.
    pub mounts: Vec<Mount>,
    /// Labels; hold the `LABEL_*` ones already.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// Log file below the sandbox's `log_directory`.
    pub log_path: PathBuf,
    /// Whether standard input stays open.
    pub stdin: bool,
    /// Whether it is closed after the first attach.
    pub stdin_once: bool,
    /// Whether it has a terminal.
    pub tty: bool,
    /// Limits.
    pub resources: Resources,
    /// Security.
    pub security: ContainerSecurity,
    /// Namespaces, the same as the sandbox's.
    pub namespaces: Namespaces,
    /// The runtime's id of a container whose processes this one sees, instead of only its own.
    pub processes_of: Option<String>,
    /// Devices of the node which the container gets: (host path, container path, `rwm` permissions).
    pub devices: Vec<(PathBuf, PathBuf, String)>,
    /// Names of devices which the runtime finds by the Container Device Interface.
    pub cdi_devices: Vec<String>,
}

/// The user an image runs as when nobody says otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageUser {
    /// A number.
    Uid(i64),
    /// A name, to be looked up in the image.
    Name(String),
}

/// An image on the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageRecord {
    /// The runtime's id, `sha256:…`.
    pub id: String,
    /// `repo:tag` names.
    pub tags: Vec<String>,
    /// `repo@sha256:…` names.
    pub digests: Vec<String>,
    /// Size on disk.
    pub size_bytes: u64,
    /// The image's user, `None` if it names none (root).
    pub user: Option<ImageUser>,
    /// True if it must not be removed (the sandbox image).
    pub pinned: bool,
}

/// A mount that shows the contents of an image, or a part of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ViewMount {
    /// `bind` or a file system's name.
    pub kind: String,
    /// What is mounted.
    pub source: PathBuf,
    /// Options, such as `ro` or `lowerdir=…`.
    pub options: Vec<String>,
}

/// Credentials for a registry.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct RegistryAuth {
    /// User name.
    pub username: String,
    /// Password or token.
    pub password: String,
    /// Base64 of `user:password`, if given instead.
    pub auth: String,
    /// Token of an identity provider, if given instead.
    pub identity_token: String,
    /// Bearer token for the registry, if given instead.
    pub registry_token: String,
    /// The registry which the credentials are for.
    pub server: String,
}

impl std::fmt::Debug for RegistryAuth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RegistryAuth").field("server", &self.server).finish_non_exhaustive()
    }
}

/// What a command in a container printed and how it ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecOutput {
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
    /// Exit code.
    pub exit_code: i32,
}

/// An interactive command in a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecRequest {
    /// Program and arguments.
    pub command: Vec<String>,
    /// Which streams are wanted.
    pub streams: StreamOptions,
}

/// Which streams of a container or command are wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamOptions {
    /// A terminal; excludes `stderr`.
    pub tty: bool,
    /// Standard input.
    pub stdin: bool,
    /// Standard output.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
}

/// Where the streams of one exec, attach or port-forward are to be had. Good for one connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamEndpoint {
    /// A URL on the node's loopback, speaking WebSocket and SPDY/3.1.
    pub url: String,
}

/// What a cgroup's processes have used since it was made, and use now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Processor time in nanoseconds.
    pub cpu_ns: u64,
    /// What of it was spent in programs.
    pub cpu_user_ns: u64,
    /// What of it was spent in the kernel.
    pub cpu_system_ns: u64,
    /// Periods in which processor time was limited.
    pub cpu_periods: u64,
    /// Those of them in which the limit was reached.
    pub cpu_periods_throttled: u64,
    /// How long processes were held back.
    pub cpu_throttled_ns: u64,
    /// Memory, caches included.
    pub memory_bytes: u64,
    /// What of it cannot be had back easily.
    pub working_set_bytes: u64,
    /// What of it is no cache.
    pub rss_bytes: u64,
    /// What of it is cache.
    pub cache_bytes: u64,
    /// Swap.
    pub swap_bytes: u64,
    /// The limit of memory, if there is one.
    pub memory_limit_bytes: Option<u64>,
    /// Page faults.
    pub page_faults: u64,
    /// Those that a disk was asked for.
    pub major_page_faults: u64,
    /// Processes and threads that exist.
    pub processes: u64,
}

/// What a network interface has carried.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InterfaceUsage {
    /// Such as `eth0`.
    pub name: String,
    /// Bytes that came in.
    pub rx_bytes: u64,
    /// Packets that came in.
    pub rx_packets: u64,
    /// What came in damaged.
    pub rx_errors: u64,
    /// What came in and was thrown away.
    pub rx_dropped: u64,
    /// Bytes that went out.
    pub tx_bytes: u64,
    /// Packets that went out.
    pub tx_packets: u64,
    /// What could not be sent.
    pub tx_errors: u64,
    /// What was thrown away instead of sent.
    pub tx_dropped: u64,
}

/// What a pod has used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodUsage {
    /// All of it.
    pub pod: Usage,
    /// Its sandbox and containers, by the runtime's id; what has ended is not in it.
    pub members: HashMap<String, Usage>,
    /// Its network's interfaces but the loopback.
    pub interfaces: Vec<InterfaceUsage>,
}

/// Where images are kept and what they take up there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageStore {
    /// A folder on their file system.
    pub path: PathBuf,
    /// Bytes taken up.
    pub bytes: u64,
    /// Inodes taken up.
    pub inodes: u64,
}

/// A container runtime. All calls may be cancelled by dropping them; all are idempotent where it says so.
#[async_trait]
pub trait Runtime: Send + Sync + 'static {
    /// Name of the runtime as container ids carry it before `://` (such as `containerd`).
    fn scheme(&self) -> &str;

    /// Whether containers have memory of their own. Those of a simulated node have none, nor do their volumes: what nobody reads
    /// is not worth a mount, of which the machine would have thousands.
    fn has_memory(&self) -> bool {
        true
    }

    /// Name and version.
    async fn version(&self) -> Result<RuntimeVersion>;

    /// Whether it is ready, and its network.
    async fn status(&self) -> Result<RuntimeStatus>;

    /// All pods of the node which carry [`LABEL_POD_UID`], in few calls. Container records may lack what is marked as
    /// filled only by [`Runtime::pod`].
    async fn list(&self) -> Result<Vec<PodRecord>>;

    /// One pod, complete. An empty record if there is nothing of it.
    async fn pod(&self, uid: &str) -> Result<PodRecord>;

    /// One container, complete.
    async fn container(&self, container_id: &str) -> Result<ContainerRecord>;

    /// A new subscription to changes. A receiver that lags lists everything.
    fn subscribe(&self) -> broadcast::Receiver<RuntimeEvent>;

    /// Makes and starts a sandbox with its network; returns its id.
    async fn run_sandbox(&self, config: &SandboxConfig) -> Result<String>;

    /// Stops a sandbox, what still runs in it, and its network. Idempotent: a missing one is Ok.
    async fn stop_sandbox(&self, sandbox_id: &str) -> Result<()>;

    /// Removes a sandbox and its containers. Idempotent: a missing one is Ok.
    async fn remove_sandbox(&self, sandbox_id: &str) -> Result<()>;

    /// Makes a container in a sandbox; returns its id.
    async fn create_container(
        &self,
        sandbox_id: &str,
        config: &ContainerConfig,
        sandbox: &SandboxConfig,
    ) -> Result<String>;

    /// Starts a created container.
    async fn start_container(&self, container_id: &str) -> Result<()>;

    /// Signals the container to end, kills it after `grace`, and returns when it has ended. Idempotent.
    async fn stop_container(&self, container_id: &str, grace: Duration) -> Result<()>;

    /// Removes a container, killing it if it runs. Idempotent: a missing one is Ok. Its log file stays.
    async fn remove_container(&self, container_id: &str) -> Result<()>;

    /// Gives a running container other limits.
    async fn update_container(&self, container_id: &str, resources: &Resources) -> Result<()>;

    /// Makes the runtime open the container's log file anew, after the file was rotated.
    async fn reopen_log(&self, container_id: &str) -> Result<()>;

    /// What a container answers to a probe of this kind (`Startup`, `Readiness`, `Liveness`), where it has neither processes
    /// nor an address that could be asked, as in simulations. None: it is to be asked itself.
    async fn answers(&self, _container_id: &str, _kind: &str) -> Option<bool> {
        None
    }

    /// Runs a command in a container to its end.
    async fn exec_sync(&self, container_id: &str, command: &[String], timeout: Duration) -> Result<ExecOutput>;

    /// Prepares an interactive command.
    async fn exec(&self, container_id: &str, request: &ExecRequest) -> Result<StreamEndpoint>;

    /// Prepares to attach to a container's main process.
    async fn attach(&self, container_id: &str, streams: StreamOptions) -> Result<StreamEndpoint>;

    /// Prepares connections to ports of a sandbox.
    async fn port_forward(&self, sandbox_id: &str, ports: &[u16]) -> Result<StreamEndpoint>;

    /// The image of that reference, if it is on the node.
    async fn image(&self, reference: &str) -> Result<Option<ImageRecord>>;

    /// All images.
    async fn images(&self) -> Result<Vec<ImageRecord>>;

    /// Pulls an image; returns a reference for [`ContainerConfig::image_ref`].
    async fn pull_image(&self, reference: &str, auth: Option<&RegistryAuth>) -> Result<String>;

    /// How large a part of an image is, in bytes, if it is here: a manifest, a configuration or a layer, by its digest.
    async fn content_size(&self, _digest: &str) -> Result<Option<u64>> {
        Ok(None)
    }

    /// The bytes of such a part from an offset on.
    async fn read_content(&self, digest: &str, _offset: u64) -> Result<BoxStream<'static, Result<Bytes>>> {
        Err(RuntimeError::NotFound(format!("content {digest}")))
    }

    /// Removes an image. Idempotent: a missing one is Ok.
    async fn remove_image(&self, reference: &str) -> Result<()>;

    /// The mounts that show the contents of the image with this id, one over the other. Both are kept under `key` until
    /// [`Self::remove_view`]. Idempotent.
    async fn view_image(&self, id: &str, key: &str) -> Result<Vec<ViewMount>>;

    /// Gives up what is kept under `key`, which is not mounted any more. Idempotent.
    async fn remove_view(&self, key: &str) -> Result<()>;

    /// Imports an OCI or Docker archive; returns the names it held.
    async fn import_image(&self, archive: &Path) -> Result<Vec<String>>;

    /// Configures the network for pods of this node. Idempotent; called whenever `spec.podCIDRs` is seen.
    async fn set_pod_cidrs(&self, cidrs: &[String]) -> Result<()>;

    /// Makes the parent cgroup of a pod (with its missing ancestors) and writes its limits. Idempotent.
    async fn apply_pod_cgroup(&self, cgroup_parent: &str, limits: &Resources) -> Result<()>;

    /// Kills what is left in a pod's parent cgroup and removes it in every hierarchy. Idempotent.
    async fn remove_pod_cgroup(&self, cgroup_parent: &str) -> Result<()>;

    /// UIDs of the pods that have a parent cgroup below `cgroup_root` (leftovers included).
    async fn pod_cgroups(&self, cgroup_root: &str) -> Result<Vec<String>>;

    /// What pods have used: for each of `pods`, its parent cgroup and the ids of its sandbox and containers, one answer.
    async fn usage(&self, pods: &[(String, Vec<String>)]) -> Result<Vec<PodUsage>>;

    /// What containers have written into their own layer, by id.
    async fn layers(&self) -> Result<HashMap<String, Taken>>;

    /// Where images are kept.
    async fn image_store(&self) -> Result<ImageStore>;
}

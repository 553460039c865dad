//! The node agent: it makes the containers on one machine be what the pods bound to that machine say.
//!
//! ```text
//!   pods of this node ─┐                        ┌─▶ Runtime (containers)
//!   runtime events ────┼─▶ one worker a pod ────┼─▶ Pod.status, events
//!   timers of the plan ┘   observe→plan→act     └─▶ final DELETE
//!   machine ───────────────▶ node/ ───────────────▶ Node, its status, its lease
//!   API server ────────────▶ server/ ─────────────▶ logs, exec, attach, port-forward
//! ```
//!
//! It is a client like any other: what it knows it reads from the Kubernetes API and from the runtime, and nothing that
//! matters lives only in its memory. Killed and started again it adopts what runs.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

mod checkpoint;
mod clock;
pub mod csi;
pub mod devices;
pub mod diagnose;
mod durable;
mod follow;
#[cfg(target_os = "linux")]
pub mod linux;
mod metrics;
pub mod node;
pub mod paths;
pub mod peers;
pub mod pods;
pub mod pressure;
pub mod runtime;
pub mod server;
pub mod shutdown;
pub mod simulate;
pub mod socket;
mod start;
pub mod stats;

pub use metrics::Metrics;
pub use paths::Paths;
pub use pods::rotation::Policy as LogPolicy;
pub use pods::verification::Verification as ImageVerification;
pub use pressure::Policy as PressurePolicy;
pub use pressure::images::Policy as ImagePolicy;
pub use pressure::plan::{parse_graces, parse_thresholds, soften};
pub use runtime::images::ImportError;
#[cfg(unix)]
pub use shutdown::control::AskError;
pub use shutdown::plan::{Policy as ShutdownPolicy, parse_periods};
pub use simulate::{Simulation, simulate};
pub use start::run;

/// The certificate with which the agent serves, and the authority its callers must come from.
#[derive(Clone, Default)]
pub struct ServingIdentity {
    /// Certificate chain, leaf first, as PEM.
    pub cert_chain_pem: String,
    /// Its key, as PEM.
    pub key_pem: String,
    /// Certificates of the authority which signs client certificates, as PEM.
    pub client_ca_pem: String,
}

impl std::fmt::Debug for ServingIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ServingIdentity")
    }
}

/// Which runtime the agent uses.
#[derive(Clone, Default)]
pub enum RuntimeChoice {
    /// Start an own containerd below the data directory and supervise it.
    #[default]
    Own,
    /// Attach to the containerd at this address.
    Attach(String),
    /// Use this one (simulations and tests).
    Given(Arc<dyn runtime::Runtime>),
}

impl std::fmt::Debug for RuntimeChoice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Own => f.write_str("Own"),
            Self::Attach(address) => f.debug_tuple("Attach").field(address).finish(),
            Self::Given(_) => f.write_str("Given"),
        }
    }
}

/// What the agent is told at start.
#[derive(Clone, Debug)]
pub struct Options {
    /// Name of the Node object.
    pub node_name: String,
    /// Where the agent keeps pods' folders, logs, images and the runtime's state.
    pub data_dir: PathBuf,
    /// The container runtime.
    pub runtime: RuntimeChoice,
    /// Cgroup below which all pods live, absolute in each hierarchy.
    pub cgroup_root: String,
    /// With what the agent's own API is served; `None` leaves it out (simulations).
    pub serving: Option<ServingIdentity>,
    /// Where the agent's own API listens. Port 0 takes a free one; a taken one is an error.
    pub listen: SocketAddr,
    /// The node's address; by default that of the interface with the default route, else loopback.
    pub node_ip: Option<IpAddr>,
    /// Labels to put on the Node besides the well-known ones.
    pub labels: BTreeMap<String, String>,
    /// Cluster DNS servers for `dnsPolicy: ClusterFirst`; empty means there is none and pods get the node's resolvers.
    pub cluster_dns: Vec<IpAddr>,
    /// Domain of the cluster.
    pub cluster_domain: String,
    /// How many pods may run here.
    pub max_pods: u32,
    /// Whether service addresses are served on this node.
    pub service_proxy: bool,
    /// How large and how many the logs of a container may be.
    pub logs: LogPolicy,
    /// A folder of files, each of which describes a pod that runs here.
    pub pod_manifests: Option<PathBuf>,
    /// Which images that are here need credentials to be shown.
    pub image_verification: ImageVerification,
    /// Whether images come from other nodes that have them, and are given to others.
    pub images_from_peers: bool,
    /// When the node runs short of something, and what is done about it.
    pub pressure: PressurePolicy,
    /// How long the machine waits for its pods before it goes down.
    pub shutdown: ShutdownPolicy,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            node_name: "localhost".into(),
            data_dir: PathBuf::from("gantry-data"),
            runtime: RuntimeChoice::Own,
            cgroup_root: "/gantry".into(),
            serving: None,
            listen: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 10250)),
            node_ip: None,
            labels: BTreeMap::new(),
            cluster_dns: Vec::new(),
            cluster_domain: "cluster.local".into(),
            max_pods: 110,
            service_proxy: true,
            logs: LogPolicy::default(),
            pod_manifests: None,
            image_verification: ImageVerification::default(),
            images_from_peers: true,
            pressure: PressurePolicy::default(),
            shutdown: ShutdownPolicy::default(),
        }
    }
}

/// Why the agent could not start or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The runtime could not be started or attached to.
    #[error("cannot start the container runtime")]
    Runtime(#[source] runtime::RuntimeError),
    /// The agent's own API could not be served.
    #[error("cannot serve the node's API")]
    Server(#[source] server::ServerError),
    /// A folder could not be made.
    #[error("cannot prepare {path}")]
    DataDir {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// What registries are cannot be told to containerd, or images cannot be had from other nodes.
    #[error("cannot prepare for images from registries and other nodes")]
    Peers(#[source] std::io::Error),
    /// A part of the agent ended on its own.
    #[error("{0} ended unexpectedly")]
    Ended(&'static str),
}

/// Asks the agent that uses `data_dir` to let its pods end because the machine goes down, or with `cancel`, to go on after all.
/// `show` is told how far it is.
#[cfg(unix)]
pub async fn ask_shutdown(data_dir: &Path, cancel: bool, show: impl FnMut(&str)) -> Result<(), AskError> {
    let instance = runtime::instance::Instance::of(data_dir);
    let instance = instance.map_err(|error| AskError::NoAgent(data_dir.to_owned(), error))?;
    shutdown::control::ask(&instance.run_dir(), cancel, show).await
}

/// Imports image archives into the runtime of the agent that uses (or last used) `data_dir`; returns the images' names.
pub async fn import_images(data_dir: &Path, archives: &[PathBuf]) -> Result<Vec<String>, ImportError> {
    let mut names = Vec::new();
    for archive in archives {
        names.extend(runtime::images::import_images(data_dir, archive).await?);
    }
    Ok(names)
}

//! What all workers share.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use kube::Client;
use kube::runtime::reflector::Store;
use tokio::sync::{Semaphore, watch};

use super::PodDirectory;
use super::config::NodeSettings;
use super::events::Recorder;
use super::images::Images;
use super::ledger::Ledger;
use super::objects::Objects;
use super::resources::Amounts;
use super::volumes::Tokens;
use super::volumes::claims::InUse;
use super::volumes::persistent::Locks;
use crate::checkpoint::Checkpoint;
use crate::csi::Drivers;
use crate::devices::Devices;
use crate::node::SharedNode;
use crate::peers::Peers;
use crate::runtime::Runtime;
use crate::{Metrics, Paths};

/// What all workers share.
pub struct Context {
    /// The API.
    pub client: Client,
    /// The container runtime.
    pub runtime: Arc<dyn Runtime>,
    /// The data directory.
    pub paths: Paths,
    /// The node's name.
    pub node_name: String,
    /// The Node, once it is known.
    pub node: watch::Receiver<SharedNode>,
    /// The node's addresses, primary first.
    pub host_ips: Vec<IpAddr>,
    /// What the node adds to pods.
    pub settings: NodeSettings,
    /// What pods may have of the node.
    pub allocatable: Amounts,
    /// What pods have of it.
    pub ledger: Ledger,
    /// What the node keeps for when the API server is away.
    pub checkpoint: Checkpoint,
    /// ConfigMaps, Secrets, tokens.
    pub objects: Objects,
    /// All services of the cluster.
    pub services: Store<Service>,
    /// Events.
    pub events: Recorder,
    /// What the workers know, for the node's API.
    pub directory: PodDirectory,
    /// Images.
    pub images: Images,
    /// Other nodes, from which images come.
    pub peers: Peers,
    /// Service account tokens.
    pub tokens: Tokens,
    /// Whose turn it is with a volume that pods may share.
    pub volume_locks: Locks,
    /// The drivers of storage that run here.
    pub drivers: Drivers,
    /// The attached volumes that pods use: the node's status says which they are.
    pub in_use: Arc<InUse>,
    /// The devices that plugins have.
    pub devices: Devices,
    /// Which boot of the machine this is.
    pub boot_id: String,
    /// Metrics.
    pub metrics: Metrics,
    /// How many sandboxes and containers are started at once: more than this only makes each of them slower.
    pub start_slots: Semaphore,
}

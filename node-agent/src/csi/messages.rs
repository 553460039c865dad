//! The messages of drivers' sockets, as far as a node needs them: their registration, and the node's part of the Container
//! Storage Interface 1.x. Only the numbers of the fields go over the wire.

use std::collections::HashMap;

/// What a plugin says of itself.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PluginInfo {
    /// `CSIPlugin` or another kind.
    #[prost(string, tag = "1")]
    pub kind: String,
    /// The driver's name.
    #[prost(string, tag = "2")]
    pub name: String,
    /// The driver's own socket; empty if it is the one that was asked.
    #[prost(string, tag = "3")]
    pub endpoint: String,
    /// Versions of the interface.
    #[prost(string, repeated, tag = "4")]
    pub supported_versions: Vec<String>,
}

/// What the plugin is told of its registration.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RegistrationStatus {
    /// Whether it is registered.
    #[prost(bool, tag = "1")]
    pub plugin_registered: bool,
    /// Why not.
    #[prost(string, tag = "2")]
    pub error: String,
}

/// A message without fields.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Empty {}

/// What a driver calls this node.
#[derive(Clone, PartialEq, prost::Message)]
pub struct NodeInfo {
    /// The node's name as the driver has it.
    #[prost(string, tag = "1")]
    pub node_id: String,
    /// How many volumes the node can have; 0 if nobody counts.
    #[prost(int64, tag = "2")]
    pub max_volumes_per_node: i64,
    /// From where volumes can be had here.
    #[prost(message, optional, tag = "3")]
    pub accessible_topology: Option<Topology>,
}

/// Labels of where a node is.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Topology {
    /// By key.
    #[prost(map = "string, string", tag = "1")]
    pub segments: HashMap<String, String>,
}

/// What a driver can do on a node.
#[derive(Clone, PartialEq, prost::Message)]
pub struct NodeCapabilities {
    /// Each of them.
    #[prost(message, repeated, tag = "1")]
    pub capabilities: Vec<NodeCapability>,
}

/// One thing a driver can do.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct NodeCapability {
    /// As a call.
    #[prost(message, optional, tag = "1")]
    pub rpc: Option<NodeRpc>,
}

/// The call by which it is done.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct NodeRpc {
    /// One of the constants below.
    #[prost(int32, tag = "1")]
    pub kind: i32,
}

/// Volumes are staged once on a node before they are published to pods.
pub const STAGE_UNSTAGE_VOLUME: i32 = 1;
/// The driver tells what a volume holds.
pub const GET_VOLUME_STATS: i32 = 2;
/// Volumes grow on the node.
pub const EXPAND_VOLUME: i32 = 3;
/// The driver tells one pod's writing from that of several on one node.
pub const SINGLE_NODE_MULTI_WRITER: i32 = 5;
/// The driver gives volumes to a group itself.
pub const VOLUME_MOUNT_GROUP: i32 = 6;

/// How a volume is to be used.
#[derive(Clone, PartialEq, prost::Message)]
pub struct VolumeCapability {
    /// As a device.
    #[prost(message, optional, tag = "1")]
    pub block: Option<Empty>,
    /// As a file system.
    #[prost(message, optional, tag = "2")]
    pub mount: Option<MountVolume>,
    /// By whom.
    #[prost(message, optional, tag = "3")]
    pub access_mode: Option<AccessMode>,
}

/// A volume as a file system.
#[derive(Clone, PartialEq, prost::Message)]
pub struct MountVolume {
    /// Which.
    #[prost(string, tag = "1")]
    pub fs_type: String,
    /// Options of the mount.
    #[prost(string, repeated, tag = "2")]
    pub mount_flags: Vec<String>,
    /// The group that it is given to.
    #[prost(string, tag = "3")]
    pub volume_mount_group: String,
}

/// Who uses a volume at the same time.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct AccessMode {
    /// One of the interface's numbers.
    #[prost(int32, tag = "1")]
    pub mode: i32,
}

/// Makes a volume ready on this node.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StageRequest {
    /// The driver's name of the volume.
    #[prost(string, tag = "1")]
    pub volume_id: String,
    /// What attaching it said.
    #[prost(map = "string, string", tag = "2")]
    pub publish_context: HashMap<String, String>,
    /// Where.
    #[prost(string, tag = "3")]
    pub staging_target_path: String,
    /// How it is to be used.
    #[prost(message, optional, tag = "4")]
    pub volume_capability: Option<VolumeCapability>,
    /// Secrets.
    #[prost(map = "string, string", tag = "5")]
    pub secrets: HashMap<String, String>,
    /// What is known of the volume.
    #[prost(map = "string, string", tag = "6")]
    pub volume_context: HashMap<String, String>,
}

/// Undoes it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct UnstageRequest {
    /// The driver's name of the volume.
    #[prost(string, tag = "1")]
    pub volume_id: String,
    /// Where it was.
    #[prost(string, tag = "2")]
    pub staging_target_path: String,
}

/// Gives a volume to a pod.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PublishRequest {
    /// The driver's name of the volume.
    #[prost(string, tag = "1")]
    pub volume_id: String,
    /// What attaching it said.
    #[prost(map = "string, string", tag = "2")]
    pub publish_context: HashMap<String, String>,
    /// Where it was staged; empty if it was not.
    #[prost(string, tag = "3")]
    pub staging_target_path: String,
    /// Where the pod has it.
    #[prost(string, tag = "4")]
    pub target_path: String,
    /// How it is to be used.
    #[prost(message, optional, tag = "5")]
    pub volume_capability: Option<VolumeCapability>,
    /// Whether it is only read.
    #[prost(bool, tag = "6")]
    pub readonly: bool,
    /// Secrets.
    #[prost(map = "string, string", tag = "7")]
    pub secrets: HashMap<String, String>,
    /// What is known of the volume and the pod.
    #[prost(map = "string, string", tag = "8")]
    pub volume_context: HashMap<String, String>,
}

/// Undoes it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct UnpublishRequest {
    /// The driver's name of the volume.
    #[prost(string, tag = "1")]
    pub volume_id: String,
    /// Where the pod had it.
    #[prost(string, tag = "2")]
    pub target_path: String,
}

/// Asks what a volume holds.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StatsRequest {
    /// The driver's name of the volume.
    #[prost(string, tag = "1")]
    pub volume_id: String,
    /// Where the pod has it.
    #[prost(string, tag = "2")]
    pub volume_path: String,
    /// Where it was staged.
    #[prost(string, tag = "3")]
    pub staging_target_path: String,
}

/// What a volume holds.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StatsResponse {
    /// In bytes and in files.
    #[prost(message, repeated, tag = "1")]
    pub usage: Vec<VolumeUsage>,
}

/// What a volume holds, in one unit.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct VolumeUsage {
    /// Free.
    #[prost(int64, tag = "1")]
    pub available: i64,
    /// In all.
    #[prost(int64, tag = "2")]
    pub total: i64,
    /// Taken.
    #[prost(int64, tag = "3")]
    pub used: i64,
    /// [`Self::BYTES`] or [`Self::INODES`].
    #[prost(int32, tag = "4")]
    pub unit: i32,
}

impl VolumeUsage {
    /// The unit of bytes.
    pub const BYTES: i32 = 1;
    /// The unit of files and folders.
    pub const INODES: i32 = 2;
}

/// Makes the file system of a volume as large as the volume has become.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ExpandRequest {
    /// The driver's name of the volume.
    #[prost(string, tag = "1")]
    pub volume_id: String,
    /// Where a pod has it.
    #[prost(string, tag = "2")]
    pub volume_path: String,
    /// How large.
    #[prost(message, optional, tag = "3")]
    pub capacity_range: Option<CapacityRange>,
    /// Where it was staged.
    #[prost(string, tag = "4")]
    pub staging_target_path: String,
    /// How it is used.
    #[prost(message, optional, tag = "5")]
    pub volume_capability: Option<VolumeCapability>,
    /// Secrets.
    #[prost(map = "string, string", tag = "6")]
    pub secrets: HashMap<String, String>,
}

/// Sizes.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct CapacityRange {
    /// At least.
    #[prost(int64, tag = "1")]
    pub required_bytes: i64,
    /// At most.
    #[prost(int64, tag = "2")]
    pub limit_bytes: i64,
}

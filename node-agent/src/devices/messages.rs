//! The messages of device plugins' sockets (version `v1beta1`), as far as a node needs them. Only the numbers of the fields go
//! over the wire.

use std::collections::HashMap;

/// What a plugin wants to be asked.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct PluginOptions {
    /// Before each start of a container.
    #[prost(bool, tag = "1")]
    pub pre_start_required: bool,
    /// Which devices go well together.
    #[prost(bool, tag = "2")]
    pub preferred_allocation_available: bool,
}

/// A plugin tells that it is there.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RegisterRequest {
    /// Of the interface.
    #[prost(string, tag = "1")]
    pub version: String,
    /// The plugin's own socket, in the same folder.
    #[prost(string, tag = "2")]
    pub endpoint: String,
    /// What its devices are called.
    #[prost(string, tag = "3")]
    pub resource_name: String,
    /// As it would answer if it were asked.
    #[prost(message, optional, tag = "4")]
    pub options: Option<PluginOptions>,
}

/// A message without fields.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Empty {}

/// All devices of a plugin, as they are now.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DeviceList {
    /// Each of them.
    #[prost(message, repeated, tag = "1")]
    pub devices: Vec<Device>,
}

/// A device.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Device {
    /// The plugin's name of it.
    #[prost(string, tag = "1")]
    pub id: String,
    /// [`Device::HEALTHY`] or something else.
    #[prost(string, tag = "2")]
    pub health: String,
}

impl Device {
    /// The health of a device that containers can have.
    pub const HEALTHY: &str = "Healthy";
}

/// Asks which devices a container had best.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PreferredRequest {
    /// One a container.
    #[prost(message, repeated, tag = "1")]
    pub containers: Vec<ContainerPreferredRequest>,
}

/// The same for one container.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ContainerPreferredRequest {
    /// From these.
    #[prost(string, repeated, tag = "1")]
    pub available: Vec<String>,
    /// These must be among them.
    #[prost(string, repeated, tag = "2")]
    pub must_include: Vec<String>,
    /// So many.
    #[prost(int32, tag = "3")]
    pub size: i32,
}

/// The answer.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PreferredResponse {
    /// One a container.
    #[prost(message, repeated, tag = "1")]
    pub containers: Vec<DeviceIds>,
}

/// Devices by their names. Several messages look like this.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DeviceIds {
    /// The names.
    #[prost(string, repeated, tag = "1")]
    pub ids: Vec<String>,
}

/// Asks what containers need to use their devices.
#[derive(Clone, PartialEq, prost::Message)]
pub struct AllocateRequest {
    /// One a container.
    #[prost(message, repeated, tag = "1")]
    pub containers: Vec<DeviceIds>,
}

/// The answer.
#[derive(Clone, PartialEq, prost::Message)]
pub struct AllocateResponse {
    /// One a container.
    #[prost(message, repeated, tag = "1")]
    pub containers: Vec<Grant>,
}

/// What a container needs to use its devices.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Grant {
    /// Variables.
    #[prost(map = "string, string", tag = "1")]
    pub envs: HashMap<String, String>,
    /// Files and folders of the node.
    #[prost(message, repeated, tag = "2")]
    pub mounts: Vec<GrantedMount>,
    /// Devices of the node.
    #[prost(message, repeated, tag = "3")]
    pub devices: Vec<GrantedDevice>,
    /// Annotations, for the runtime.
    #[prost(map = "string, string", tag = "4")]
    pub annotations: HashMap<String, String>,
    /// Devices that the runtime finds by the Container Device Interface.
    #[prost(message, repeated, tag = "5")]
    pub cdi_devices: Vec<CdiDevice>,
}

/// A file or folder of the node.
#[derive(Clone, PartialEq, prost::Message)]
pub struct GrantedMount {
    /// Where the container has it.
    #[prost(string, tag = "1")]
    pub container_path: String,
    /// Where the node has it.
    #[prost(string, tag = "2")]
    pub host_path: String,
    /// Whether it is only read.
    #[prost(bool, tag = "3")]
    pub read_only: bool,
}

/// A device of the node.
#[derive(Clone, PartialEq, prost::Message)]
pub struct GrantedDevice {
    /// Where the container has it.
    #[prost(string, tag = "1")]
    pub container_path: String,
    /// Where the node has it.
    #[prost(string, tag = "2")]
    pub host_path: String,
    /// Some of `rwm`.
    #[prost(string, tag = "3")]
    pub permissions: String,
}

/// A device by the Container Device Interface.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CdiDevice {
    /// Such as `vendor.com/class=name`.
    #[prost(string, tag = "1")]
    pub name: String,
}

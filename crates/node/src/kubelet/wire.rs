//! The messages of `v1beta1` of the device plugin API.

use std::collections::BTreeMap;

/// What a plugin wants of kubelet.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DevicePluginOptions {
    /// Whether it is called before containers start.
    #[prost(bool, tag = "1")]
    pub pre_start_required: bool,
    /// Whether it can be asked what it prefers.
    #[prost(bool, tag = "2")]
    pub get_preferred_allocation_available: bool,
}

/// A plugin tells that it is there.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RegisterRequest {
    /// Of the API.
    #[prost(string, tag = "1")]
    pub version: String,
    /// Name of its socket, in the same folder.
    #[prost(string, tag = "2")]
    pub endpoint: String,
    /// What it offers.
    #[prost(string, tag = "3")]
    pub resource_name: String,
    /// What it wants.
    #[prost(message, optional, tag = "4")]
    pub options: Option<DevicePluginOptions>,
}

/// Nothing.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Empty {}

/// All devices, as they are now.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ListAndWatchResponse {
    /// Each of them.
    #[prost(message, repeated, tag = "1")]
    pub devices: Vec<Device>,
}

/// The health of a device that pods may have.
pub const HEALTHY: &str = "Healthy";
/// The health of one that they may not.
pub const UNHEALTHY: &str = "Unhealthy";

/// A device.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Device {
    /// At most 63 characters.
    #[prost(string, tag = "1")]
    pub id: String,
    /// [`HEALTHY`] or [`UNHEALTHY`].
    #[prost(string, tag = "2")]
    pub health: String,
    /// Where it is.
    #[prost(message, optional, tag = "3")]
    pub topology: Option<TopologyInfo>,
}

/// Where a device is.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TopologyInfo {
    /// NUMA nodes that it is at.
    #[prost(message, repeated, tag = "1")]
    pub nodes: Vec<NumaNode>,
}

/// A NUMA node.
#[derive(Clone, PartialEq, prost::Message)]
pub struct NumaNode {
    /// Its number.
    #[prost(int64, tag = "1")]
    pub id: i64,
}

/// A container is about to start.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PreStartContainerRequest {
    /// With these.
    #[prost(string, repeated, tag = "1")]
    pub devices_ids: Vec<String>,
}

/// It may.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PreStartContainerResponse {}

/// What would a plugin take?
#[derive(Clone, PartialEq, prost::Message)]
pub struct PreferredAllocationRequest {
    /// For each of these.
    #[prost(message, repeated, tag = "1")]
    pub container_requests: Vec<ContainerPreferredAllocationRequest>,
}

/// What would it take for a container?
#[derive(Clone, PartialEq, prost::Message)]
pub struct ContainerPreferredAllocationRequest {
    /// Of these.
    #[prost(string, repeated, tag = "1")]
    pub available: Vec<String>,
    /// With these among them.
    #[prost(string, repeated, tag = "2")]
    pub must_include: Vec<String>,
    /// So many.
    #[prost(int32, tag = "3")]
    pub allocation_size: i32,
}

/// What a plugin would take.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PreferredAllocationResponse {
    /// For each container.
    #[prost(message, repeated, tag = "1")]
    pub container_responses: Vec<ContainerPreferredAllocationResponse>,
}

/// What it would take for a container.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ContainerPreferredAllocationResponse {
    /// These.
    #[prost(string, repeated, tag = "1")]
    pub ids: Vec<String>,
}

/// A pod's containers get devices.
#[derive(Clone, PartialEq, prost::Message)]
pub struct AllocateRequest {
    /// Each of them.
    #[prost(message, repeated, tag = "1")]
    pub container_requests: Vec<ContainerAllocateRequest>,
}

/// A container gets devices.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ContainerAllocateRequest {
    /// These.
    #[prost(string, repeated, tag = "1")]
    pub devices_ids: Vec<String>,
}

/// What the containers need for them.
#[derive(Clone, PartialEq, prost::Message)]
pub struct AllocateResponse {
    /// Each of them.
    #[prost(message, repeated, tag = "1")]
    pub container_responses: Vec<ContainerAllocateResponse>,
}

/// What a container needs.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ContainerAllocateResponse {
    /// Variables.
    #[prost(btree_map = "string, string", tag = "1")]
    pub envs: BTreeMap<String, String>,
    /// Folders and files of the host.
    #[prost(message, repeated, tag = "2")]
    pub mounts: Vec<Mount>,
    /// Device files.
    #[prost(message, repeated, tag = "3")]
    pub devices: Vec<DeviceSpec>,
    /// For the container runtime.
    #[prost(btree_map = "string, string", tag = "4")]
    pub annotations: BTreeMap<String, String>,
    /// CDI devices.
    #[prost(message, repeated, tag = "5")]
    pub cdi_devices: Vec<CdiDevice>,
}

/// A folder or file of the host.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Mount {
    /// Where the container has it.
    #[prost(string, tag = "1")]
    pub container_path: String,
    /// Where the host has it.
    #[prost(string, tag = "2")]
    pub host_path: String,
    /// Whether it is only read.
    #[prost(bool, tag = "3")]
    pub read_only: bool,
}

/// A device file.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DeviceSpec {
    /// Where the container has it.
    #[prost(string, tag = "1")]
    pub container_path: String,
    /// Where the host has it.
    #[prost(string, tag = "2")]
    pub host_path: String,
    /// Of `r`, `w` and `m`.
    #[prost(string, tag = "3")]
    pub permissions: String,
}

/// A CDI device.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CdiDevice {
    /// Such as `nvidia.com/gpu=0`.
    #[prost(string, tag = "1")]
    pub name: String,
}

//! What is said between kubelet and a device plugin, over gRPC on Unix sockets.
//!
//! Few messages that have not changed for years: they are written here as types rather than generated, and tests compare their bytes with those
//! of protobuf's own library.

pub mod pod_resources;
pub mod rpc;
pub mod wire;

/// Version of the protocol.
pub const VERSION: &str = "v1beta1";
/// Kubelet's socket in the folder of device plugins.
pub const SOCKET: &str = "kubelet.sock";
/// The service that kubelet offers.
pub const REGISTER: &str = "/v1beta1.Registration/Register";
/// Calls of the service that a plugin offers.
pub mod plugin {
    /// Which optional calls it wants.
    pub const OPTIONS: &str = "/v1beta1.DevicePlugin/GetDevicePluginOptions";
    /// The devices, whenever they change.
    pub const LIST_AND_WATCH: &str = "/v1beta1.DevicePlugin/ListAndWatch";
    /// Which devices it would take.
    pub const PREFER: &str = "/v1beta1.DevicePlugin/GetPreferredAllocation";
    /// What a container needs to use devices.
    pub const ALLOCATE: &str = "/v1beta1.DevicePlugin/Allocate";
    /// Before a container starts.
    pub const PRE_START: &str = "/v1beta1.DevicePlugin/PreStartContainer";
}

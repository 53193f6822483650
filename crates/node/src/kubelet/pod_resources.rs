//! Which container of which pod has which device, as kubelet tells it (`v1` of the pod resources API).
//!
//! Of its messages only what is about devices is read.

use std::collections::BTreeMap;
use std::path::Path;

use tonic::Status;

use super::rpc;
use crate::resources::unit_of;

/// The call.
pub const LIST: &str = "/v1.PodResourcesLister/List";
/// A node with many pods has a long answer.
const LONGEST: usize = 16 << 20;

/// All pods of the node, please.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ListPodResourcesRequest {}

/// All pods of the node.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ListPodResourcesResponse {
    /// Each of them.
    #[prost(message, repeated, tag = "1")]
    pub pod_resources: Vec<PodResources>,
}

/// A pod.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PodResources {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Its namespace.
    #[prost(string, tag = "2")]
    pub namespace: String,
    /// Its containers.
    #[prost(message, repeated, tag = "3")]
    pub containers: Vec<ContainerResources>,
}

/// A container.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ContainerResources {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Its devices.
    #[prost(message, repeated, tag = "2")]
    pub devices: Vec<ContainerDevices>,
}

/// Devices of one resource.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ContainerDevices {
    /// Which.
    #[prost(string, tag = "1")]
    pub resource_name: String,
    /// The devices.
    #[prost(string, repeated, tag = "2")]
    pub device_ids: Vec<String>,
}

/// Who has a GPU, a part, or a share of either.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Holder {
    /// Namespace of the pod.
    pub namespace: String,
    /// The pod.
    pub pod: String,
    /// Its container.
    pub container: String,
    /// Which share, of something that is shared.
    pub share: Option<String>,
}

/// Holders by the uuid of what they hold.
pub type Holders = BTreeMap<String, Vec<Holder>>;

/// Asks kubelet.
///
/// # Errors
/// When it does not answer.
pub async fn ask(socket: &Path) -> Result<Holders, Status> {
    let channel = rpc::connect(socket).await?;
    let response: ListPodResourcesResponse =
        rpc::call_long(channel, LIST, ListPodResourcesRequest {}, LONGEST).await?;
    Ok(holders(&response))
}

/// Who holds what of NVIDIA's. Pure.
pub fn holders(response: &ListPodResourcesResponse) -> Holders {
    let mut holders = Holders::new();
    for pod in &response.pod_resources {
        for container in &pod.containers {
            let ours =
                container.devices.iter().filter(|devices| devices.resource_name.starts_with("nvidia.com/"));
            for id in ours.flat_map(|devices| &devices.device_ids) {
                holders.entry(unit_of(id).to_owned()).or_default().push(Holder {
                    namespace: pod.namespace.clone(),
                    pod: pod.name.clone(),
                    container: container.name.clone(),
                    share: id.split_once("::").map(|(_, share)| share.to_owned()),
                });
            }
        }
    }
    for held in holders.values_mut() {
        held.sort_unstable();
    }
    holders
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(name: &str, resource: &str, ids: &[&str]) -> ContainerResources {
        let devices = ContainerDevices {
            resource_name: resource.to_owned(),
            device_ids: ids.iter().map(|id| (*id).to_owned()).collect(),
        };
        ContainerResources { name: name.to_owned(), devices: vec![devices] }
    }

    #[test]
    fn holders_are_found_by_what_they_hold() {
        let pod = |name: &str, containers| PodResources {
            name: name.to_owned(),
            namespace: "default".to_owned(),
            containers,
        };
        let response = ListPodResourcesResponse {
            pod_resources: vec![
                pod("b", vec![container("main", "nvidia.com/gpu.shared", &["GPU-1::1"])]),
                pod("a", vec![container("main", "nvidia.com/gpu.shared", &["GPU-1::0"])]),
                pod(
                    "c",
                    vec![
                        container("main", "nvidia.com/mig-1g.10gb", &["MIG-x"]),
                        container("side", "intel.com/qat", &["q"]),
                    ],
                ),
            ],
        };
        let holders = holders(&response);
        let names: Vec<String> = holders
            .iter()
            .flat_map(|(unit, held)| {
                held.iter().map(move |holder| format!("{unit} {} {:?}", holder.pod, holder.share))
            })
            .collect();
        assert_eq!(names, ["GPU-1 a Some(\"0\")", "GPU-1 b Some(\"1\")", "MIG-x c None"]);
    }
}

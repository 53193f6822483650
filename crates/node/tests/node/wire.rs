//! Messages are compared with the bytes that protobuf's own library makes of kubelet's definitions (`scripts/make_kubelet_fixtures.py`).

use std::collections::BTreeMap;

use prost::Message;
use wharf_node::kubelet::pod_resources::{
    ContainerDevices, ContainerResources, ListPodResourcesResponse, PodResources,
};
use wharf_node::kubelet::wire::*;

/// The bytes of a message.
fn theirs(name: &str) -> Vec<u8> {
    let all: BTreeMap<String, String> = serde_json::from_str(include_str!("wire.json")).unwrap();
    let text = &all[name];
    (0..text.len() / 2).map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap()).collect()
}

#[track_caller]
fn check<M: Message + Default + PartialEq + std::fmt::Debug>(name: &str, ours: &M) {
    assert_eq!(ours.encode_to_vec(), theirs(name), "{name}");
    assert_eq!(&M::decode(&*theirs(name)).unwrap(), ours, "{name}");
}

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

#[test]
fn device_plugins_speak_as_kubelet_does() {
    let options = DevicePluginOptions { pre_start_required: true, get_preferred_allocation_available: true };
    check(
        "register",
        &RegisterRequest {
            version: "v1beta1".to_owned(),
            endpoint: "wharf-gpu.sock".to_owned(),
            resource_name: "nvidia.com/gpu".to_owned(),
            options: Some(options),
        },
    );
    let device =
        |id: &str, health: &str, topology| Device { id: id.to_owned(), health: health.to_owned(), topology };
    let numa = TopologyInfo { nodes: vec![NumaNode { id: 1 }] };
    let devices = vec![device("GPU-0", HEALTHY, Some(numa)), device("GPU-1", UNHEALTHY, None)];
    check("list", &ListAndWatchResponse { devices });
    let request = ContainerPreferredAllocationRequest {
        available: texts(&["a", "b"]),
        must_include: texts(&["b"]),
        allocation_size: 2,
    };
    check("prefer", &PreferredAllocationRequest { container_requests: vec![request] });
    let response = ContainerPreferredAllocationResponse { ids: texts(&["b", "a"]) };
    check("preferred", &PreferredAllocationResponse { container_responses: vec![response] });
    let request = ContainerAllocateRequest { devices_ids: texts(&["a", "b"]) };
    check("allocate", &AllocateRequest { container_requests: vec![request] });
    let pair = |key: &str, value: &str| BTreeMap::from([(key.to_owned(), value.to_owned())]);
    let mount = Mount { container_path: "/c".to_owned(), host_path: "/h".to_owned(), read_only: true };
    let file = DeviceSpec {
        container_path: "/dev/c".to_owned(),
        host_path: "/dev/h".to_owned(),
        permissions: "rw".to_owned(),
    };
    let response = ContainerAllocateResponse {
        envs: pair("NVIDIA_VISIBLE_DEVICES", "a"),
        mounts: vec![mount],
        devices: vec![file],
        annotations: pair("cdi.k8s.io/x", "y"),
        cdi_devices: vec![CdiDevice { name: "nvidia.com/gpu=a".to_owned() }],
    };
    check("allocated", &AllocateResponse { container_responses: vec![response] });
    check("pre_start", &PreStartContainerRequest { devices_ids: texts(&["a"]) });
}

#[test]
fn of_pod_resources_what_is_about_devices_is_read() {
    let devices = ContainerDevices { resource_name: "nvidia.com/gpu".to_owned(), device_ids: texts(&["a"]) };
    let container = ContainerResources { name: "c".to_owned(), devices: vec![devices] };
    let pod = PodResources { name: "p".to_owned(), namespace: "n".to_owned(), containers: vec![container] };
    // The rest is skipped.
    let read = ListPodResourcesResponse::decode(&*theirs("pods")).unwrap();
    assert_eq!(read, ListPodResourcesResponse { pod_resources: vec![pod] });
}

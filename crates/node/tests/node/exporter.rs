//! What is scraped.

use wharf_fake_nvml::Machine;
use wharf_node::kubelet::pod_resources::{
    ContainerDevices, ContainerResources, ListPodResourcesResponse, PodResources,
};

use crate::kubelet::pod_resources;
use crate::support::Host;

fn pod(name: &str, gpu: &str) -> PodResources {
    let devices =
        ContainerDevices { resource_name: "nvidia.com/gpu".to_owned(), device_ids: vec![gpu.to_owned()] };
    let container = ContainerResources { name: "model".to_owned(), devices: vec![devices] };
    PodResources { name: name.to_owned(), namespace: "default".to_owned(), containers: vec![container] }
}

#[tokio::test]
async fn metrics_have_dcgms_names_and_tell_pods() {
    let machine = Machine::of(2);
    let mut host = Host::of(&machine);
    host.config.plugin.enabled = false;
    let response = ListPodResourcesResponse { pod_resources: vec![pod("llm-0", &machine.gpus[1].uuid)] };
    let _kubelet = pod_resources(&host.config.paths.pod_resources, response);
    let agent = host.start();
    agent.says("gpus", "Healthy").await;
    let metrics = agent.get("/metrics").await.1;
    let temperature: Vec<&str> =
        metrics.lines().filter(|line| line.starts_with("DCGM_FI_DEV_GPU_TEMP{")).collect();
    expect_test::expect![[r#"
        DCGM_FI_DEV_GPU_TEMP{gpu="0",UUID="GPU-00000000-0000-4000-8000-000000000000",pci_bus_id="00000000:18:00.0",device="nvidia0",modelName="NVIDIA H100 80GB HBM3",Hostname="gpu-node-01",DCGM_FI_DRIVER_VERSION="580.95.05"} 31
        DCGM_FI_DEV_GPU_TEMP{gpu="1",UUID="GPU-00000001-0000-4000-8000-000000000001",pci_bus_id="00000000:19:00.0",device="nvidia1",modelName="NVIDIA H100 80GB HBM3",Hostname="gpu-node-01",DCGM_FI_DRIVER_VERSION="580.95.05",container="model",namespace="default",pod="llm-0"} 31"#]]
    .assert_eq(&temperature.join("\n"));
    assert!(metrics.contains("DCGM_FI_DEV_MEMORY_TEMP{"), "{metrics}");
    assert!(metrics.contains("wharf_build_info{"), "{metrics}");
    agent.says("pods", "Known").await;
}

#[tokio::test]
async fn metrics_without_kubelet_are_without_pods() {
    let host = Host::of(&Machine::of(1));
    let agent = host.start();
    agent.says("gpus", "Healthy").await;
    let metrics = agent.get("/metrics").await.1;
    assert!(metrics.contains("DCGM_FI_DEV_POWER_USAGE{") && !metrics.contains("pod="), "{metrics}");
    agent.says("pods", "KubeletSilent").await;
}

#[tokio::test]
async fn the_last_xid_is_exported() {
    let machine = Machine::of(1);
    let host = Host::of(&machine);
    let agent = host.start();
    agent.says("gpus", "Healthy").await;
    host.nvml.xid(&machine.gpus[0].uuid, 79).unwrap();
    agent.says("gpus", "Unhealthy").await;
    let metrics = agent.get("/metrics").await.1;
    let line = metrics.lines().find(|line| line.starts_with("DCGM_FI_DEV_XID_ERRORS{")).unwrap();
    assert!(line.ends_with("} 79"), "{line}");
}

#[tokio::test]
async fn there_are_no_other_pages() {
    let agent = Host::of(&Machine::of(1)).start();
    assert_eq!(agent.get("/").await.0, 404);
}

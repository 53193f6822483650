//! Drivers that are not there, that are old, and that come late.

use wharf_fake_nvml::{FakeNvml, Machine};
use wharf_node::once;

use crate::kubelet::FakeKubelet;
use crate::support::{GPU, Host};

#[tokio::test]
async fn a_node_without_a_driver_is_a_status_and_no_crash() {
    let mut host = Host::of(&Machine::of(1));
    let late = host.folder.path().join("late/libnvidia-ml.so.1");
    host.config.nvml = Some(late.clone());
    let kubelet = FakeKubelet::start(host.device_plugins());
    let agent = host.start();
    let why = agent.says("gpus", "NoLibrary").await;
    assert!(why.contains("there is no NVIDIA driver here"), "{why}");
    agent.says("plugin", "NothingToOffer").await;
    assert_eq!((agent.get("/health").await.0, agent.get("/ready").await.0), (200, 200));
    // A driver's container may come later.
    let folder = late.parent().unwrap();
    std::fs::create_dir(folder).unwrap();
    FakeNvml::install(folder, &Machine::of(1)).unwrap();
    kubelet.until(GPU, |endpoint| endpoint.allocatable() == 1).await;
}

#[tokio::test]
async fn a_library_without_a_driver_and_a_driver_without_gpus_are_told_apart() {
    let mut machine = Machine::of(0);
    machine.errors.insert("nvmlInit_v2".to_owned(), 9);
    let host = Host::of(&machine);
    let agent = host.start();
    agent.says("gpus", "NoDriver").await;
    host.nvml.change(|machine| machine.errors.clear()).unwrap();
    agent.says("gpus", "NoGpu").await;
}

#[tokio::test]
async fn an_old_driver_lacks_functions_and_its_gpus_are_offered_all_the_same() {
    let missing = [
        "nvmlDeviceGetMemoryInfo_v2",
        "nvmlDeviceGetMigMode",
        "nvmlDeviceGetRemappedRows",
        "nvmlDeviceGetGpuFabricInfoV",
        "nvmlDeviceGetNvLinkRemotePciInfo_v2",
        "nvmlDeviceGetFieldValues",
        "nvmlDeviceGetTopologyCommonAncestor",
        "nvmlEventSetWait_v2",
    ];
    let host = Host::without(&Machine::of(2), &missing);
    let kubelet = FakeKubelet::start(host.device_plugins());
    let agent = host.start();
    kubelet.until(GPU, |endpoint| endpoint.allocatable() == 2).await;
    let metrics = agent.get("/metrics").await.1;
    assert!(metrics.contains("DCGM_FI_DEV_GPU_TEMP{"), "{metrics}");
    assert!(
        !metrics.contains("DCGM_FI_DEV_FB_USED") && !metrics.contains("DCGM_FI_DEV_MEMORY_TEMP"),
        "{metrics}"
    );
    let report = once(&host.config).unwrap();
    assert_eq!(report.labels["nvidia.com/mig.capable"], "false");
}

#[tokio::test]
async fn a_look_says_what_there_is_and_changes_nothing() {
    let host = Host::of(&Machine::of(2));
    let report = once(&host.config).unwrap();
    assert_eq!(report.problems, [""; 0]);
    assert_eq!((report.resources[0].resource.as_str(), report.resources[0].devices.len()), (GPU, 2));
    assert_eq!(report.labels["capacity-gpu"], "2");
    assert_eq!(std::fs::read_dir(host.device_plugins()).unwrap().count(), 0);
    assert_eq!(host.nvml.machine().unwrap().calls, [""; 0]);
    let mut host = host;
    host.config.nvml = Some("/nowhere/libnvidia-ml.so.1".into());
    let problems = once(&host.config).unwrap().problems;
    assert!(problems[0].contains("/nowhere/libnvidia-ml.so.1"), "{problems:?}");
}

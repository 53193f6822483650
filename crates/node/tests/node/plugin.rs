//! Registration, allocation, preference, sharing and MIG, as kubelet sees them.

use wharf_fake_nvml::{Instance, Link, Machine, Mig};
use wharf_node::kubelet::{plugin, rpc, wire};
use wharf_node::{DeviceList, MigStrategy, Sharing};

use crate::kubelet::FakeKubelet;
use crate::support::{GPU, Host, SOON};

#[tokio::test]
async fn kubelet_learns_of_gpus_and_gives_one_away() {
    let machine = Machine::of(8);
    let host = Host::of(&machine);
    let kubelet = FakeKubelet::start(host.device_plugins());
    let agent = host.start();
    let endpoint = kubelet.until(GPU, |endpoint| endpoint.allocatable() == 8).await;
    assert!(endpoint.options.get_preferred_allocation_available && !endpoint.options.pre_start_required);
    assert_eq!(endpoint.socket, "wharf-gpu.sock");
    let uuid = &machine.gpus[5].uuid;
    assert_eq!(endpoint.numa[uuid], [1]);
    let given = kubelet.allocate(GPU, &[uuid]).await.unwrap();
    assert_eq!(given.envs["NVIDIA_VISIBLE_DEVICES"], *uuid);
    agent.says("plugin", "Registered").await;
    let pre_start = wire::PreStartContainerRequest { devices_ids: vec![uuid.clone()] };
    let _: wire::PreStartContainerResponse = kubelet.ask(GPU, plugin::PRE_START, pre_start).await.unwrap();
    let unknown = kubelet.allocate(GPU, &["GPU-none"]).await.unwrap_err();
    assert!(unknown.message().contains("has no device GPU-none"), "{unknown}");
}

#[tokio::test]
async fn kubelet_that_starts_again_is_told_again() {
    let host = Host::of(&Machine::of(2));
    let mut kubelet = FakeKubelet::start(host.device_plugins());
    let _agent = host.start();
    for round in 1..4 {
        let told = kubelet
            .until(GPU, |endpoint| endpoint.allocatable() == 2 && endpoint.registrations >= round)
            .await;
        assert_eq!(told.registrations, round);
        kubelet.restart();
    }
}

#[tokio::test]
async fn an_agent_waits_for_kubelet_and_leaves_no_socket_behind() {
    let host = Host::of(&Machine::of(1));
    let agent = host.start();
    agent.says("plugin", "NoKubelet").await;
    let kubelet = FakeKubelet::start(host.device_plugins());
    kubelet.until(GPU, |endpoint| endpoint.allocatable() == 1).await;
    agent.end().await;
    kubelet.until(GPU, |endpoint| endpoint.devices.is_none()).await;
    assert!(!host.device_plugins().join("wharf-gpu.sock").exists());
    // The next one is known at once.
    let _agent = host.start();
    kubelet.until(GPU, |endpoint| endpoint.allocatable() == 1 && endpoint.registrations == 2).await;
}

#[tokio::test]
async fn a_socket_that_somebody_removes_is_made_again() {
    let host = Host::of(&Machine::of(1));
    let kubelet = FakeKubelet::start(host.device_plugins());
    let _agent = host.start();
    kubelet.until(GPU, |endpoint| endpoint.allocatable() == 1).await;
    std::fs::remove_file(host.device_plugins().join("wharf-gpu.sock")).unwrap();
    kubelet.until(GPU, |endpoint| endpoint.allocatable() == 1 && endpoint.registrations == 2).await;
}

#[tokio::test]
async fn a_refused_registration_is_said_and_tried_again() {
    let host = Host::of(&Machine::of(1));
    let mut kubelet = FakeKubelet::start(host.device_plugins());
    kubelet.refuse(Some("unsupported version"));
    let agent = host.start();
    let why = agent.says("plugin", "RegistrationFailed").await;
    assert!(why.contains("unsupported version"), "{why}");
    kubelet.refuse(None);
    kubelet.restart();
    kubelet.until(GPU, |endpoint| endpoint.allocatable() == 1).await;
}

#[tokio::test]
async fn it_does_not_run_beside_another_owner_and_takes_over_when_that_is_gone() {
    let host = Host::of(&Machine::of(1));
    let kubelet = FakeKubelet::start(host.device_plugins());
    let other = host.device_plugins().join("nvidia-gpu.sock");
    let listening = rpc::listen(&other).unwrap();
    let agent = host.start();
    let why = agent.says("plugin", "OtherOwner").await;
    assert!(why.contains("nvidia-gpu.sock") && why.contains("plugin.enabled"), "{why}");
    assert!(kubelet.endpoint(GPU).is_none());
    drop(listening);
    std::fs::remove_file(&other).unwrap();
    kubelet.until(GPU, |endpoint| endpoint.allocatable() == 1).await;
    // One that comes later makes it leave.
    let _listening = rpc::listen(&other).unwrap();
    agent.says("plugin", "OtherOwner").await;
    kubelet.until(GPU, |endpoint| endpoint.devices.is_none()).await;
}

#[tokio::test]
async fn it_does_not_run_beside_a_driver_for_dynamic_resource_allocation() {
    let host = Host::of(&Machine::of(1));
    let _kubelet = FakeKubelet::start(host.device_plugins());
    let driver = host.config.paths.plugins.join("gpu.nvidia.com");
    std::fs::create_dir(&driver).unwrap();
    let _listening = rpc::listen(&driver.join("dra.sock")).unwrap();
    let why = host.start().says("plugin", "OtherOwner").await;
    assert!(why.contains("dynamic resource allocation"), "{why}");
}

#[tokio::test]
async fn two_agents_do_not_run_on_one_node() {
    let host = Host::of(&Machine::of(1));
    let kubelet = FakeKubelet::start(host.device_plugins());
    let first = host.start();
    kubelet.until(GPU, |endpoint| endpoint.allocatable() == 1).await;
    let second = host.start();
    second.says("plugin", "OtherOwner").await;
    assert_eq!(kubelet.endpoint(GPU).unwrap().allocatable(), 1);
    first.end().await;
    kubelet.until(GPU, |endpoint| endpoint.allocatable() == 1 && endpoint.registrations == 2).await;
}

#[tokio::test]
async fn gpus_that_are_joined_by_nvlink_are_preferred_together() {
    let mut machine = Machine::of(4);
    // 0 and 3 are far by PCIe, and joined.
    for (one, other) in [(0, 3), (3, 0)] {
        let remote = machine.gpus[other].bus_id.clone();
        machine.gpus[one].links = vec![Link { active: true, remote }; 4];
    }
    let host = Host::of(&machine);
    let kubelet = FakeKubelet::start(host.device_plugins());
    let _agent = host.start();
    kubelet.until(GPU, |endpoint| endpoint.allocatable() == 4).await;
    let request = wire::PreferredAllocationRequest {
        container_requests: vec![wire::ContainerPreferredAllocationRequest {
            available: machine.gpus.iter().map(|gpu| gpu.uuid.clone()).collect(),
            must_include: vec![],
            allocation_size: 2,
        }],
    };
    let preferred: wire::PreferredAllocationResponse =
        kubelet.ask(GPU, plugin::PREFER, request).await.unwrap();
    assert_eq!(
        preferred.container_responses[0].ids,
        [machine.gpus[0].uuid.clone(), machine.gpus[3].uuid.clone()]
    );
}

#[tokio::test]
async fn what_cannot_be_preferred_keeps_no_pod_from_starting() {
    let host = Host::of(&Machine::of(1));
    let kubelet = FakeKubelet::start(host.device_plugins());
    let _agent = host.start();
    kubelet.until(GPU, |endpoint| endpoint.allocatable() == 1).await;
    let request = wire::PreferredAllocationRequest {
        container_requests: vec![wire::ContainerPreferredAllocationRequest {
            available: vec!["GPU-gone".to_owned()],
            must_include: vec![],
            allocation_size: 1,
        }],
    };
    let preferred: wire::PreferredAllocationResponse =
        kubelet.ask(GPU, plugin::PREFER, request).await.unwrap();
    assert_eq!(preferred.container_responses[0].ids, [""; 0]);
}

#[tokio::test]
async fn a_shared_gpu_is_several_devices() {
    let machine = Machine::of(1);
    let mut host = Host::of(&machine);
    host.config.plugin.sharing =
        vec![Sharing { resource: GPU.to_owned(), replicas: 4, rename: false, refuse_more_than_one: true }];
    let kubelet = FakeKubelet::start(host.device_plugins());
    let _agent = host.start();
    kubelet.until(GPU, |endpoint| endpoint.allocatable() == 4).await;
    let uuid = &machine.gpus[0].uuid;
    let given = kubelet.allocate(GPU, &[&format!("{uuid}::2")]).await.unwrap();
    assert_eq!(given.envs["NVIDIA_VISIBLE_DEVICES"], *uuid);
    let several = kubelet.allocate(GPU, &[&format!("{uuid}::0"), &format!("{uuid}::1")]).await.unwrap_err();
    assert!(several.message().contains("ask for 1"), "{several}");
}

#[tokio::test]
async fn parts_come_and_go_as_gpus_are_split() {
    let machine = Machine::of(2);
    let mut host = Host::of(&machine);
    host.config.plugin.mig = MigStrategy::Mixed;
    host.config.plugin.device_list = vec![DeviceList::DeviceSpecs];
    std::fs::create_dir_all(host.config.paths.proc.join("driver/nvidia-caps")).unwrap();
    let minors = "gpu1/gi1/access 12\ngpu1/gi1/ci0/access 13\n";
    std::fs::write(host.config.paths.proc.join("driver/nvidia-caps/mig-minors"), minors).unwrap();
    let kubelet = FakeKubelet::start(host.device_plugins());
    let _agent = host.start();
    kubelet.until(GPU, |endpoint| endpoint.allocatable() == 2).await;
    let part = "nvidia.com/mig-1g.10gb";
    host.nvml
        .change(|machine| {
            let instances = vec![Instance { uuid: "MIG-one".to_owned(), ..Instance::default() }];
            machine.gpus[1].mig = Some(Mig { enabled: true, instances });
        })
        .unwrap();
    kubelet.until(GPU, |endpoint| endpoint.allocatable() == 1).await;
    kubelet.until(part, |endpoint| endpoint.allocatable() == 1).await;
    let given = kubelet.allocate(part, &["MIG-one"]).await.unwrap();
    let files: Vec<&str> = given.devices.iter().map(|device| device.host_path.as_str()).collect();
    assert_eq!(
        files,
        [
            "/dev/nvidia-caps/nvidia-cap12",
            "/dev/nvidia-caps/nvidia-cap13",
            "/dev/nvidia1",
            "/dev/nvidiactl",
            "/dev/nvidia-uvm"
        ]
    );
    host.nvml.change(|machine| machine.gpus[1].mig = Some(Mig::default())).unwrap();
    kubelet.until(GPU, |endpoint| endpoint.allocatable() == 2).await;
    kubelet.until(part, |endpoint| endpoint.devices.is_none()).await;
}

#[tokio::test]
async fn gpus_that_are_not_split_alike_are_said_to_be_so() {
    let mut machine = Machine::of(2);
    let instances = vec![Instance { uuid: "MIG-one".to_owned(), ..Instance::default() }];
    machine.gpus[1].mig = Some(Mig { enabled: true, instances });
    let mut host = Host::of(&machine);
    host.config.plugin.mig = MigStrategy::Single;
    let kubelet = FakeKubelet::start(host.device_plugins());
    let agent = host.start();
    let why = agent.says("gpus", "MigUnfit").await;
    assert!(why.contains("GPU 0 is not split"), "{why}");
    agent.says("plugin", "NothingToOffer").await;
    host.nvml.change(|machine| machine.gpus[0].mig = machine.gpus[1].mig.clone()).unwrap();
    host.nvml.change(|m| m.gpus[0].mig.as_mut().unwrap().instances[0].uuid = "MIG-two".to_owned()).unwrap();
    let endpoint = kubelet.until(GPU, |endpoint| endpoint.allocatable() == 2).await;
    assert_eq!(endpoint.devices.unwrap().into_keys().collect::<Vec<_>>(), ["MIG-one", "MIG-two"]);
}

#[tokio::test]
async fn a_list_is_told_again_to_whoever_asks_again() {
    let host = Host::of(&Machine::of(3));
    let kubelet = FakeKubelet::start(host.device_plugins());
    let _agent = host.start();
    kubelet.until(GPU, |endpoint| endpoint.allocatable() == 3).await;
    for _ in 0..2 {
        // The first stream is lost with its connection.
        let channel = rpc::connect(&host.device_plugins().join("wharf-gpu.sock")).await.unwrap();
        let following =
            rpc::follow::<_, wire::ListAndWatchResponse>(channel, plugin::LIST_AND_WATCH, wire::Empty {});
        let mut lists = following.await.unwrap();
        let list = tokio::time::timeout(SOON, lists.message()).await.unwrap().unwrap().unwrap();
        assert_eq!(list.devices.len(), 3);
    }
}

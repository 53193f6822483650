//! What XIDs and silence do to what kubelet may give away.

use wharf_fake_nvml::{Event, Instance, Machine, Mig};
use wharf_node::MigStrategy;

use crate::kubelet::FakeKubelet;
use crate::support::{GPU, Host};

#[tokio::test]
async fn an_xid_lowers_what_is_allocatable_and_probation_raises_it() {
    let machine = Machine::of(2);
    let host = Host::of(&machine);
    let kubelet = FakeKubelet::start(host.device_plugins());
    let agent = host.start();
    kubelet.until(GPU, |endpoint| endpoint.allocatable() == 2).await;
    // A program's own mistake first: it changes nothing, and what comes after it shows that it was heard.
    host.nvml.xid(&machine.gpus[0].uuid, 31).unwrap();
    host.nvml.xid(&machine.gpus[1].uuid, 69).unwrap();
    let endpoint = kubelet.until(GPU, |endpoint| endpoint.allocatable() == 1).await;
    assert_eq!(endpoint.devices.unwrap()[&machine.gpus[1].uuid], "Unhealthy");
    kubelet.until(GPU, |endpoint| endpoint.allocatable() == 2).await;
    agent.says("gpus", "Healthy").await;
    let metrics = agent.get("/metrics").await.1;
    let counted = format!(
        "wharf_node_xid_errors_total{{UUID=\"{}\",class=\"program\",xid=\"31\"}} 1",
        machine.gpus[0].uuid
    );
    assert!(metrics.contains(&counted), "{metrics}");
}

#[tokio::test]
async fn what_needs_a_reset_stays_until_the_agent_starts_again() {
    let machine = Machine::of(1);
    let host = Host::of(&machine);
    let kubelet = FakeKubelet::start(host.device_plugins());
    let agent = host.start();
    kubelet.until(GPU, |endpoint| endpoint.allocatable() == 1).await;
    host.nvml.xid(&machine.gpus[0].uuid, 79).unwrap();
    kubelet.until(GPU, |endpoint| endpoint.allocatable() == 0).await;
    let why = agent.says("gpus", "Unhealthy").await;
    assert!(why.contains("XID 79"), "{why}");
    assert_eq!(agent.status().await["troubles"][&machine.gpus[0].uuid]["untilReset"], true);
    agent.end().await;
    let _agent = host.start();
    kubelet.until(GPU, |endpoint| endpoint.allocatable() == 1).await;
}

#[tokio::test]
async fn a_gpu_that_falls_off_the_bus_is_unhealthy_and_not_forgotten() {
    let host = Host::of(&Machine::of(2));
    let kubelet = FakeKubelet::start(host.device_plugins());
    let _agent = host.start();
    kubelet.until(GPU, |endpoint| endpoint.allocatable() == 2).await;
    host.nvml.change(|machine| machine.gpus[0].lost = true).unwrap();
    let endpoint = kubelet.until(GPU, |endpoint| endpoint.allocatable() == 1).await;
    assert_eq!(endpoint.devices.unwrap().len(), 2);
    host.nvml.change(|machine| machine.gpus[0].lost = false).unwrap();
    kubelet.until(GPU, |endpoint| endpoint.allocatable() == 2).await;
}

#[tokio::test]
async fn an_xid_of_a_part_is_that_parts() {
    let mut machine = Machine::of(1);
    let instance =
        |uuid: &str, gpu_instance| Instance { uuid: uuid.to_owned(), gpu_instance, ..Instance::default() };
    machine.gpus[0].mig =
        Some(Mig { enabled: true, instances: vec![instance("MIG-one", 3), instance("MIG-two", 4)] });
    let mut host = Host::of(&machine);
    host.config.plugin.mig = MigStrategy::Mixed;
    host.config.health.probation = 1000.0;
    let kubelet = FakeKubelet::start(host.device_plugins());
    let _agent = host.start();
    let part = "nvidia.com/mig-1g.10gb";
    kubelet.until(part, |endpoint| endpoint.allocatable() == 2).await;
    let gpu = machine.gpus[0].uuid.clone();
    let event = Event { gpu, data: 69, gpu_instance: 4, compute_instance: 0, ..Event::default() };
    host.nvml.change(|machine| machine.happen(event)).unwrap();
    let endpoint = kubelet.until(part, |endpoint| endpoint.allocatable() == 1).await;
    assert_eq!(endpoint.devices.unwrap()["MIG-two"], "Unhealthy");
}

#[tokio::test]
async fn rows_that_could_not_be_replaced_are_trouble() {
    let host = Host::of(&Machine::of(1));
    let kubelet = FakeKubelet::start(host.device_plugins());
    let agent = host.start();
    kubelet.until(GPU, |endpoint| endpoint.allocatable() == 1).await;
    host.nvml.change(|machine| machine.gpus[0].rows.as_mut().unwrap().failed = true).unwrap();
    kubelet.until(GPU, |endpoint| endpoint.allocatable() == 0).await;
    let why = agent.says("gpus", "Unhealthy").await;
    assert!(why.contains("rows of its memory"), "{why}");
}

#[tokio::test]
async fn without_events_gpus_are_offered_and_still_asked_how_they_do() {
    let host = Host::without(&Machine::of(1), &["nvmlEventSetCreate"]);
    let kubelet = FakeKubelet::start(host.device_plugins());
    let _agent = host.start();
    kubelet.until(GPU, |endpoint| endpoint.allocatable() == 1).await;
    host.nvml.change(|machine| machine.gpus[0].lost = true).unwrap();
    kubelet.until(GPU, |endpoint| endpoint.allocatable() == 0).await;
}

#[tokio::test]
async fn a_gpu_without_events_does_not_make_the_others_deaf() {
    let mut machine = Machine::of(2);
    machine.gpus[0].supported_events = 0;
    let host = Host::of(&machine);
    let kubelet = FakeKubelet::start(host.device_plugins());
    let _agent = host.start();
    kubelet.until(GPU, |endpoint| endpoint.allocatable() == 2).await;
    host.nvml.xid(&machine.gpus[1].uuid, 79).unwrap();
    kubelet.until(GPU, |endpoint| endpoint.allocatable() == 1).await;
}

#[tokio::test]
async fn a_driver_that_hangs_makes_every_gpu_unhealthy_until_it_answers() {
    let mut host = Host::of(&Machine::of(2));
    host.config.health.patience = 0.2;
    let kubelet = FakeKubelet::start(host.device_plugins());
    let agent = host.start();
    kubelet.until(GPU, |endpoint| endpoint.allocatable() == 2).await;
    host.nvml.change(|machine| machine.slow.insert("nvmlDeviceGetCount_v2".to_owned(), 2000)).unwrap();
    kubelet.until(GPU, |endpoint| endpoint.allocatable() == 0).await;
    let why = agent.says("gpus", "Unhealthy").await;
    assert!(why.contains("has not answered"), "{why}");
    host.nvml.change(|machine| machine.slow.clear()).unwrap();
    kubelet.until(GPU, |endpoint| endpoint.allocatable() == 2).await;
}

#[tokio::test]
async fn waiting_for_events_that_fails_makes_every_gpu_be_asked() {
    let mut host = Host::of(&Machine::of(2));
    // Nobody would look for a long time.
    host.config.health.check = 10_000.0;
    let kubelet = FakeKubelet::start(host.device_plugins());
    let _agent = host.start();
    kubelet.until(GPU, |endpoint| endpoint.allocatable() == 2).await;
    host.nvml
        .change(|machine| {
            machine.gpus[0].lost = true;
            // NVML_ERROR_GPU_IS_LOST.
            machine.errors.insert("nvmlEventSetWait_v2".to_owned(), 15);
        })
        .unwrap();
    kubelet.until(GPU, |endpoint| endpoint.allocatable() == 1).await;
}

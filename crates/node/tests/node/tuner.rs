//! What is set of GPUs, and that it is put back.

use serde_json::json;
use wharf_fake_nvml::Machine;
use wharf_fakes::cluster::FakeCluster;
use wharf_node::TuningConfig;

use crate::support::{Host, until};

fn tuned() -> TuningConfig {
    TuningConfig {
        enabled: true,
        node_label: String::new(),
        power: Some(0.8),
        clocks: Some((0.5, 0.75)),
        ..TuningConfig::default()
    }
}

/// Whether the first GPU is tuned.
fn is_tuned(host: &Host) -> bool {
    let gpu = &host.nvml.machine().unwrap().gpus[0];
    gpu.persistence && gpu.power_limit == 560_000 && gpu.locked_clocks == Some((990, 1485))
}

fn is_as_it_came(host: &Host) -> bool {
    let gpu = &host.nvml.machine().unwrap().gpus[0];
    !gpu.persistence && gpu.power_limit == 700_000 && gpu.locked_clocks.is_none()
}

#[tokio::test]
async fn nothing_is_set_unless_it_is_asked_for() {
    let host = Host::of(&Machine::of(1));
    let agent = host.start();
    agent.says("gpus", "Healthy").await;
    agent.end().await;
    assert_eq!(host.nvml.machine().unwrap().calls, [""; 0]);
}

#[tokio::test]
async fn gpus_are_tuned_and_put_back_at_the_end() {
    let mut host = Host::of(&Machine::of(2));
    host.config.tuning = tuned();
    let agent = host.start();
    agent.says("tuning", "Tuned").await;
    assert!(is_tuned(&host));
    agent.end().await;
    assert!(is_as_it_came(&host), "{:?}", host.nvml.machine().unwrap().gpus[0]);
    let calls = host.nvml.machine().unwrap().calls;
    let names: std::collections::BTreeSet<&str> =
        calls.iter().filter_map(|call| call.split(' ').next()).collect();
    assert_eq!(
        names.into_iter().collect::<Vec<_>>(),
        [
            "nvmlDeviceResetGpuLockedClocks",
            "nvmlDeviceSetGpuLockedClocks",
            "nvmlDeviceSetPersistenceMode",
            "nvmlDeviceSetPowerManagementLimit"
        ]
    );
}

#[tokio::test]
async fn a_crash_is_made_good_by_the_next_agent() {
    let mut host = Host::of(&Machine::of(1));
    host.config.tuning = tuned();
    let agent = host.start();
    agent.says("tuning", "Tuned").await;
    agent.crash().await;
    assert!(is_tuned(&host));
    // One that tunes goes on from what was there before the first.
    let agent = host.start();
    agent.says("gpus", "Healthy").await;
    agent.crash().await;
    // One that does not puts it back.
    host.config.tuning = TuningConfig::default();
    let agent = host.start();
    until("it was put back", || is_as_it_came(&host)).await;
    agent.end().await;
}

#[tokio::test]
async fn a_dry_run_only_says_what_it_would_do() {
    let mut host = Host::of(&Machine::of(1));
    host.config.tuning = TuningConfig { dry_run: true, ..tuned() };
    let agent = host.start();
    let said = agent.says("tuning", "DryRun").await;
    assert!(said.contains("PowerLimit(560000)") && said.contains("LockClocks(990, 1485)"), "{said}");
    agent.end().await;
    assert_eq!(host.nvml.machine().unwrap().calls, [""; 0]);
}

#[tokio::test]
async fn only_nodes_that_ask_for_it_are_tuned() {
    let cluster = FakeCluster::start().await.unwrap();
    let node = |labels| json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "gpu-node-01", "labels": labels}});
    cluster.seed(node(json!({})));
    let mut host = Host::of(&Machine::of(1));
    host.config.tuning = TuningConfig { node_label: "wharf.dev/gpu-tuning=true".to_owned(), ..tuned() };
    let agent = host.start_in(Some(&cluster));
    agent.says("tuning", "NotAsked").await;
    agent.end().await;
    assert_eq!(host.nvml.machine().unwrap().calls, [""; 0]);
    cluster.seed(node(json!({"wharf.dev/gpu-tuning": "true"})));
    let agent = host.start_in(Some(&cluster));
    agent.says("tuning", "Tuned").await;
    agent.end().await;
    assert!(is_as_it_came(&host));
}

#[tokio::test]
async fn a_refusal_is_said_and_leaves_nothing_to_put_back() {
    let mut machine = Machine::of(1);
    // NVML_ERROR_NO_PERMISSION.
    machine.gpus[0].errors.insert("nvmlDeviceSetPersistenceMode".to_owned(), 4);
    let mut host = Host::of(&machine);
    host.config.tuning = tuned();
    let agent = host.start();
    let why = agent.says("tuning", "Refused").await;
    assert!(why.contains("Persistence(true)"), "{why}");
    agent.end().await;
    let calls = host.nvml.machine().unwrap().calls;
    assert!(calls.iter().all(|call| !call.contains("SetPersistenceMode")), "{calls:?}");
}

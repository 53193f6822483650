//! A node agent for trying and measuring.
//!
//! `agent FOLDER` runs with the GPUs of this machine, `agent FOLDER 8` with eight fake ones, on sockets in the folder: `device-plugins` for a
//! kubelet, `pod-resources/kubelet.sock`. It says where its port is, and ends with SIGTERM. `agent FOLDER 8 NODE` labels that node
//! of the cluster of the kubeconfig too. `agent` alone prints what there is.

#![expect(clippy::print_stdout, reason = "this program's output is for people and scripts")]

use std::path::PathBuf;

use tokio::signal::unix::{SignalKind, signal};
use wharf_fake_nvml::{FakeNvml, Machine};
use wharf_node::{Agent, ExporterConfig, Node, NodeConfig, Paths, once};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let Some(folder) = arguments.next().map(PathBuf::from) else {
        let report = once(&NodeConfig::default())?;
        println!("{}", serde_json::to_string_pretty(&report)?);
        return Ok(());
    };
    wharf_telemetry::log::init("node-agent", wharf_telemetry::log::Format::Text, "info")?;
    let mut config = NodeConfig {
        paths: Paths {
            device_plugins: folder.join("device-plugins"),
            plugins: folder.join("plugins"),
            pod_resources: folder.join("pod-resources/kubelet.sock"),
            state: folder.join("state"),
            ..Paths::default()
        },
        exporter: ExporterConfig { host: "127.0.0.1".to_owned(), port: 0, ..ExporterConfig::default() },
        ..NodeConfig::default()
    };
    std::fs::create_dir_all(&config.paths.device_plugins)?;
    if let Some(count) = arguments.next() {
        let nvml = match std::fs::exists(folder.join("libnvidia-ml.so.1"))? {
            // As it was left: whoever tries things has changed it.
            true => folder.join("libnvidia-ml.so.1"),
            false => FakeNvml::install(&folder, &Machine::of(count.parse()?))?.library().to_owned(),
        };
        config.nvml = Some(nvml);
        config.health.probation = 10.0;
    }
    let (name, client) = match arguments.next() {
        Some(name) => (name, Some(kube::Client::try_default().await?)),
        None => ("this-node".to_owned(), None),
    };
    let agent = Agent::bind(Node { config, name, client })?;
    println!("{}", agent.address());
    let mut end = signal(SignalKind::terminate())?;
    agent
        .run(async {
            end.recv().await;
        })
        .await?;
    Ok(())
}

//! An agent with all that is around it, in a folder.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use wharf_fake_nvml::{FakeNvml, Machine};
use wharf_fakes::cluster::FakeCluster;
use wharf_node::{Agent, ExporterConfig, HealthConfig, Node, NodeConfig, Paths};

/// Longer than anything that is waited for takes.
pub(crate) const SOON: Duration = Duration::from_secs(30);
/// How often what cannot be waited for is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// `nvidia.com/gpu`.
pub(crate) const GPU: &str = "nvidia.com/gpu";

/// A node's folders, without an agent yet.
pub(crate) struct Host {
    pub(crate) folder: TempDir,
    pub(crate) nvml: FakeNvml,
    pub(crate) config: NodeConfig,
}

impl Host {
    /// With these GPUs.
    pub(crate) fn of(machine: &Machine) -> Host {
        Host::without(machine, &[])
    }

    /// With a driver that lacks these functions.
    pub(crate) fn without(machine: &Machine, missing: &[&str]) -> Host {
        let folder = tempfile::tempdir().unwrap();
        let nvml = FakeNvml::install_without(folder.path(), machine, missing).unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["device-plugins", "plugins", "dev", "state"] {
            std::fs::create_dir(at(name)).unwrap();
        }
        for name in ["nvidiactl", "nvidia-uvm"] {
            std::fs::write(at("dev").join(name), "").unwrap();
        }
        let pci = at("sys/bus/pci/devices");
        for (index, gpu) in machine.gpus.iter().enumerate() {
            let device = pci.join(gpu.bus_id[4..].to_ascii_lowercase());
            std::fs::create_dir_all(&device).unwrap();
            std::fs::write(device.join("numa_node"), format!("{}\n", index / 4)).unwrap();
            std::fs::write(device.join("class"), "0x030200\n").unwrap();
        }
        let dmi = at("sys/class/dmi/id");
        std::fs::create_dir_all(&dmi).unwrap();
        std::fs::write(dmi.join("product_name"), "PowerEdge XE9680\n").unwrap();
        let random = at("proc/sys/kernel/random");
        std::fs::create_dir_all(&random).unwrap();
        std::fs::write(random.join("boot_id"), "this-boot\n").unwrap();
        let config = NodeConfig {
            nvml: Some(nvml.library().to_owned()),
            paths: Paths {
                device_plugins: at("device-plugins"),
                plugins: at("plugins"),
                pod_resources: at("pod-resources/kubelet.sock"),
                sysfs: at("sys"),
                proc: at("proc"),
                dev: at("dev"),
                state: at("state"),
            },
            health: HealthConfig { check: 0.1, probation: 0.3, ..HealthConfig::default() },
            exporter: ExporterConfig { host: "127.0.0.1".to_owned(), port: 0, ..ExporterConfig::default() },
            ..NodeConfig::default()
        };
        Host { folder, nvml, config }
    }

    /// Kubelet's folder.
    pub(crate) fn device_plugins(&self) -> &Path {
        &self.config.paths.device_plugins
    }

    /// Starts an agent without a cluster.
    pub(crate) fn start(&self) -> Running {
        self.start_in(None)
    }

    /// Starts an agent on the node `gpu-node-01`.
    pub(crate) fn start_in(&self, cluster: Option<&FakeCluster>) -> Running {
        let node = Node {
            config: self.config.clone(),
            name: "gpu-node-01".to_owned(),
            client: cluster.map(FakeCluster::client),
        };
        let agent = Agent::bind(node).unwrap();
        let address = agent.address();
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(async move {
            agent.run(async { drop(stopped.await) }).await.unwrap();
        });
        Running { address, stop: Some(stop), task }
    }
}

/// A running agent.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Running {
    /// Ends it as kubelet would.
    pub(crate) async fn end(mut self) {
        drop(self.stop.take());
        timeout(SOON, &mut self.task).await.unwrap().unwrap();
    }

    /// Ends it as a crash would: nothing is put back.
    pub(crate) async fn crash(self) {
        self.task.abort();
        let _ = self.task.await;
    }

    /// Body of a page, and its status.
    pub(crate) async fn get(&self, path: &str) -> (u16, String) {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = tokio::net::TcpStream::connect(self.address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    /// The status page.
    pub(crate) async fn status(&self) -> Value {
        serde_json::from_str(&self.get("/status").await.1).unwrap()
    }

    /// Waits until a part says this reason; returns its sentence.
    pub(crate) async fn says(&self, part: &str, reason: &str) -> String {
        let looking = async {
            loop {
                let condition = self.status().await["conditions"][part].clone();
                if condition["reason"] == reason {
                    return condition["message"].as_str().unwrap().to_owned();
                }
                sleep(LOOK).await;
            }
        };
        match timeout(SOON, looking).await {
            Ok(message) => message,
            Err(_) => panic!("{part} does not say {reason}: {:#}", self.status().await["conditions"]),
        }
    }
}

/// Waits until something is so.
pub(crate) async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let looking = async {
        while !is_so() {
            sleep(LOOK).await;
        }
    };
    timeout(SOON, looking).await.unwrap_or_else(|_| panic!("{what}"));
}

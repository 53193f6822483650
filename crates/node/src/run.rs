//! Runs the agent: what looks, what advertises, what labels, what tunes, and the port that shows it.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use wharf_listen::{BindError, bind};
use wharf_telemetry::log::chain;

use crate::board::{Board, Part};
use crate::config::{ConfigError, NodeConfig};
use crate::gpu::Inventory;
use crate::labels::{Labels, labels};
use crate::nvml::Library;
use crate::resources::offers;
use crate::serve::Port;
use crate::{apply, gpus, preload, serving, session, tuner};

/// Restoring must not outlast what kubelet gives a pod to end.
const RESTORE: Duration = Duration::from_secs(20);

/// Why an agent could not start.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The configuration contradicts itself.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The port cannot be opened.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The operating system refused the socket.
    #[error("failed to use the node agent's socket")]
    Socket(#[source] std::io::Error),
}

/// What an agent is told.
#[derive(Clone)]
pub struct Node {
    /// How it works.
    pub config: NodeConfig,
    /// The node's name in the cluster.
    pub name: String,
    /// The cluster; labels, taint, metrics of models and the label that asks for tuning need it.
    pub client: Option<Client>,
}

/// An agent with its port open.
pub struct Agent {
    board: Arc<Board>,
    client: Option<Client>,
    socket: std::net::TcpListener,
    address: SocketAddr,
}

impl Agent {
    /// Checks the configuration and opens the port.
    ///
    /// # Errors
    /// [`NodeError`].
    pub fn bind(node: Node) -> Result<Agent, NodeError> {
        let Node { config, name, client } = node;
        config.check()?;
        let (socket, address) = bind(&config.exporter.host, config.exporter.port, "node agent")?;
        Ok(Agent { board: Board::new(config, name), client, socket, address })
    }

    /// Where its port is; with port 0 in the configuration, the one that the system chose.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Works until `shutdown`, then takes back what it changed of GPUs.
    ///
    /// # Errors
    /// [`NodeError::Socket`]. A missing driver, GPU, kubelet or cluster is waited for, and said in the status.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), NodeError> {
        let Agent { board, client, socket, address } = self;
        let socket = TcpListener::from_std(socket).map_err(NodeError::Socket)?;
        let stop = watch::Sender::new(false);
        let mut port = JoinSet::new();
        port.spawn(Port::new(Arc::clone(&board)).serve(socket, stop.subscribe()));
        let mut tasks = JoinSet::new();
        let config = &board.config;
        let start = |board: &Arc<Board>| Arc::clone(board);
        let this = start(&board);
        tasks.spawn(async move { gpus::run(&this).await });
        if config.plugin.enabled {
            let this = start(&board);
            tasks.spawn(async move { session::run(&this).await });
        } else {
            board.say(Part::Plugin, true, "Disabled", "plugin.enabled is false");
        }
        match &client {
            _ if !config.labels.enabled => {
                board.say(Part::Labels, true, "Disabled", "labels.enabled is false")
            }
            None => board.say(
                Part::Labels,
                false,
                "NoCluster",
                "no cluster is configured; the node is not labelled",
            ),
            Some(client) => {
                let (this, client) = (start(&board), client.clone());
                tasks.spawn(async move { apply::run(&this, &client).await });
            }
        }
        if config.exporter.serving {
            match &client {
                None => board.say(
                    Part::Serving,
                    false,
                    "NoCluster",
                    "no cluster is configured; metrics are without models",
                ),
                Some(client) => {
                    let (this, client) = (start(&board), client.clone());
                    tasks.spawn(async move { serving::pods::run(&this, &client).await });
                }
            }
        }
        let tunes = config.tuning.enabled;
        if tunes {
            let (this, client) = (start(&board), client.clone());
            tasks.spawn(async move { tuner::run(&this, client.as_ref()).await });
        } else {
            let this = start(&board);
            // What an agent that tuned left behind when it crashed.
            tasks.spawn(async move {
                if this.follow().wait_for(|seen| seen.library.is_some()).await.is_ok() {
                    tuner::restore(&this).await;
                }
            });
        }
        if !config.preload.is_empty() {
            let this = start(&board);
            tasks.spawn(async move { preload::run(&this).await });
        }
        tracing::info!(%address, node = board.node, "listening");

        shutdown.await;

        tasks.shutdown().await;
        if tunes && timeout(RESTORE, tuner::close(&board)).await.is_err() {
            tracing::error!("GPUs could not be put back as they were in time; the next agent does it");
        }
        stop.send_replace(true);
        while port.join_next().await.is_some() {}
        Ok(())
    }
}

/// Runs an agent until `shutdown`.
///
/// # Errors
/// [`NodeError`].
pub async fn run(node: Node, shutdown: impl Future<Output = ()>) -> Result<(), NodeError> {
    Agent::bind(node)?.run(shutdown).await
}

/// What an agent would do on this node.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// What is wrong, if anything is: no driver, no GPU, parts that do not fit the strategy.
    pub problems: Vec<String>,
    /// The GPUs.
    pub inventory: Inventory,
    /// What would be offered: how many devices of each resource.
    pub resources: Vec<Offered>,
    /// How the node would be labelled.
    pub labels: Labels,
}

/// A resource that would be offered.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Offered {
    /// Its name.
    pub resource: String,
    /// Kubelet's names of its devices.
    pub devices: Vec<String>,
}

/// Looks once and changes nothing. It blocks.
///
/// # Errors
/// [`ConfigError`].
pub fn once(config: &NodeConfig) -> Result<Report, ConfigError> {
    config.check()?;
    let mut report = Report {
        problems: Vec::new(),
        inventory: Inventory::default(),
        resources: Vec::new(),
        labels: Labels::new(),
    };
    let found = match Library::open(config.nvml.as_deref(), &config.paths.sysfs) {
        Ok(library) => library.inventory().map_err(|error| chain(&error)),
        Err(error) => Err(chain(&error)),
    };
    match found {
        Ok(inventory) => report.inventory = inventory,
        Err(problem) => {
            report.problems.push(problem);
            return Ok(report);
        }
    }
    let silent = report.inventory.silent.iter();
    report.problems.extend(silent.map(|(index, why)| format!("GPU {index} does not answer: {why}")));
    if report.inventory.gpus.is_empty() {
        report.problems.push("the driver is loaded, but this node has no NVIDIA GPU".to_owned());
    }
    match offers(&report.inventory, &config.plugin) {
        Ok(offers) => {
            let of = |offer: &crate::resources::Offer| Offered {
                resource: offer.resource.clone(),
                devices: offer.devices.iter().map(|device| device.id.clone()).collect(),
            };
            report.resources = offers.iter().map(of).collect();
        }
        Err(unfit) => report.problems.push(unfit.to_string()),
    }
    report.labels = labels(&report.inventory, config, apply::machine(&config.paths).as_deref());
    Ok(report)
}

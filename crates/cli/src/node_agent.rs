//! `wharf node-agent`: makes the GPUs of a node usable. Decides which node it is and whether there is a cluster; the rest is `wharf_node`.

use std::path::{Path, PathBuf};

use anyhow::Context;
use wharf_node::{Agent, Node, NodeConfig, NodeError, cluster_role, once};
use wharf_telemetry::log;

use crate::Env;
use crate::args::LogStyle;
use crate::exit::{self, BadInput, Failure};
use crate::runtime;
use crate::stop;

/// Make the GPUs of this node usable: offer them to kubelet, label the node, export metrics
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// File with the configuration, in YAML
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The node's name in the cluster [default: the variable NODE_NAME]
    #[arg(long, value_name = "NAME")]
    node_name: Option<String>,
    /// Work without a cluster: no labels and no taint
    #[arg(long)]
    no_cluster: bool,
    /// Port of metrics, status and health
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// Say what there is and what would be done, as JSON, and stop; changes nothing
    #[arg(long)]
    once: bool,
    /// Print the ClusterRole that the agent needs, and stop
    #[arg(long)]
    print_role: bool,
    /// How the log looks
    #[arg(long, value_enum, default_value = "text")]
    log_format: LogStyle,
    /// What is logged: error, warn, info, debug, trace
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    log_level: String,
}

const EXAMPLES: &str = "\
Examples:
  wharf node-agent --once
  wharf node-agent --config node.yaml --node-name gpu-node-01
  wharf node-agent --no-cluster --port 9101

It runs as a DaemonSet; the chart has it as nodeAgent. A node without a driver or without GPUs is no failure: /status on its port
says what is missing, and it is looked for again. The guide gpu-nodes.md tells the rest.";

/// Name of the role that is printed.
const ROLE: &str = "wharf-node-agent";

/// Runs the command to its end.
pub(crate) fn run(args: &Args, env: &Env) -> Result<(), Failure> {
    let mut config = args.config.as_deref().map(read).transpose().bad_input()?.unwrap_or_default();
    if args.print_role {
        let role = cluster_role(ROLE, config.exporter.serving);
        return Ok(exit::print(&wharf_manifests::print_yaml(&[role]))?);
    }
    if let Some(port) = args.port {
        config.exporter.port = port;
    }
    if args.once {
        let report = once(&config).bad_input()?;
        let text = serde_json::to_string_pretty(&report).context("failed to write the report")?;
        return Ok(exit::print(&format!("{text}\n"))?);
    }
    let name = args.node_name.clone().or_else(|| env.get("NODE_NAME").cloned());
    let name = name.filter(|name| !name.is_empty());
    let name = match (name, args.no_cluster) {
        (Some(name), _) => name,
        (None, true) => "this-node".to_owned(),
        (None, false) => {
            return Err(anyhow::anyhow!("give --node-name or NODE_NAME, or --no-cluster")).bad_input();
        }
    };
    log::init("node-agent", args.log_format.into(), &args.log_level)
        .context("failed to set up logging")
        .bad_input()?;
    let runtime = runtime::one_thread()?;
    runtime.block_on(async {
        let client = match args.no_cluster {
            true => None,
            false => Some(wharf_cluster::connect().await.context("failed to find the cluster").bad_input()?),
        };
        let agent = Agent::bind(Node { config, name, client }).map_err(failure)?;
        tracing::info!(address = %agent.address(), "metrics, status and health");
        let told = |told: tokio::sync::oneshot::Receiver<()>| agent.run(async move { drop(told.await) });
        stop::serve(told, failure).await
    })
}

fn failure(error: NodeError) -> Failure {
    match error {
        NodeError::Config(_) => Failure::BadInput(error.into()),
        NodeError::Bind(_) | NodeError::Socket(_) => Failure::Failed(error.into()),
    }
}

/// What the installation wants of nodes.
fn read(path: &Path) -> anyhow::Result<NodeConfig> {
    let text = std::fs::read_to_string(path).with_context(|| format!("failed to read {}", path.display()))?;
    serde_saphyr::from_str(&text)
        .with_context(|| format!("failed to read the configuration in {}", path.display()))
}

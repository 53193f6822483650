//! `wharf operator`: looks after the services and models of a cluster. Decides which of them, and under which name; the rest is `wharf_operator`.

use std::path::{Path, PathBuf};

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::sync::watch;
use wharf_manifests::Settings;
use wharf_operator::{Operator, Options, cluster_role};
use wharf_telemetry::log;

use crate::Env;
use crate::args::LogStyle;
use crate::exit::{self, BadInput, Failure};
use crate::runtime;
use crate::stop;

/// Look after the LLMServices and Models of a cluster
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Look after this namespace only [default: all]
    #[arg(long, short, value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// File with the installation's settings (images, gateway, DNS, scaler), in YAML
    #[arg(long, value_name = "FILE")]
    settings: Option<PathBuf>,
    /// Namespace of the Lease that says which of several operators works; the pod's own if absent
    #[arg(long, value_name = "NAMESPACE")]
    lease_namespace: Option<String>,
    /// Work without asking whether another operator does: for one that runs outside the cluster
    #[arg(long, conflicts_with = "lease_namespace")]
    no_lease: bool,
    /// Port of health, readiness and metrics
    #[arg(long, value_name = "PORT", default_value_t = 8082)]
    metrics_port: u16,
    /// Address that this port is bound to
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0")]
    host: String,
    /// Print the ClusterRole that the operator needs with these settings, and stop
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
  wharf crd | kubectl apply --server-side -f -
  wharf operator --no-lease                    with the kubeconfig of this machine
  wharf operator --namespace team-a --settings settings.yaml --log-format json
  wharf operator --print-role | kubectl apply -f -

In a pod it uses its service account, which needs the ClusterRole of --print-role. The guide operator.md tells what it does.";

/// Name of the role that is printed.
const ROLE: &str = "wharf-operator";

/// Runs the command to its end.
pub(crate) fn run(args: &Args, env: &Env) -> Result<(), Failure> {
    let settings = args.settings.as_deref().map(settings).transpose().bad_input()?.unwrap_or_default();
    if args.print_role {
        let role = cluster_role(ROLE, settings.foresee_room);
        return Ok(exit::print(&wharf_manifests::print_yaml(&[role]))?);
    }
    log::init("operator", args.log_format.into(), &args.log_level)
        .context("failed to set up logging")
        .bad_input()?;
    let (socket, _) = wharf_listen::bind(&args.host, args.metrics_port, "metrics").bad_input()?;
    wharf_memory::be_frugal();
    // One thread: it waits for the API server most of the time, and threads that wake each other cost more than they take off it.
    let runtime = runtime::one_thread()?;
    runtime.block_on(async {
        let client = wharf_cluster::connect().await.context("failed to find the cluster").bad_input()?;
        let home = args.lease_namespace.clone().unwrap_or_else(|| client.default_namespace().to_owned());
        let lease = (!args.no_lease).then(|| (home, identity(env)));
        let options = Options { namespace: args.namespace.clone(), lease, settings, ..Options::default() };
        let operator = Operator::new(client, options);
        let (stop, stopped) = watch::channel(false);
        let socket = TcpListener::from_std(socket).context("failed to listen for metrics")?;
        tokio::spawn(operator.side.clone().serve(socket, stopped));
        let working = |told: tokio::sync::oneshot::Receiver<()>| async move {
            tokio::select! {
                ended = wharf_operator::run(operator) => ended,
                // Whoever takes over goes on from what is written in the cluster.
                _ = told => Ok(()),
            }
        };
        let ended = stop::serve(working, |error: reqwest::Error| {
            Failure::Failed(anyhow::Error::from(error).context("failed to prepare HTTP clients"))
        })
        .await;
        stop.send_replace(true);
        ended
    })
}

/// The operator's name among those who want to work: its pod's, otherwise its process's.
fn identity(env: &Env) -> String {
    env.get("HOSTNAME")
        .filter(|name| !name.is_empty())
        .cloned()
        .unwrap_or_else(|| format!("wharf-operator-{}", std::process::id()))
}

/// What an installation says.
///
/// # Errors
/// When the file cannot be read, or does not say what settings may say.
pub(crate) fn settings(path: &Path) -> anyhow::Result<Settings> {
    let text = std::fs::read_to_string(path).with_context(|| format!("failed to read {}", path.display()))?;
    serde_saphyr::from_str(&text)
        .with_context(|| format!("failed to read the settings in {}", path.display()))
}

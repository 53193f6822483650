//! `wharf epp`: the picker behind Envoy's external processing. Decides where its configuration and its pool come from.

use std::path::PathBuf;

use anyhow::Context;
use wharf_gateway::config::EndpointConfig;
use wharf_gateway::discover;
use wharf_gateway::epp::{Epp, EppConfig, EppError, EppTls};
use wharf_telemetry::log;

use crate::args::LogStyle;
use crate::exit::{BadInput, Failure};
use crate::stop;

/// Pick endpoints for a Gateway API InferencePool, as Envoy's external processor
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// InferencePool to follow in the cluster
    #[arg(long, value_name = "NAME", conflicts_with = "endpoint", required_unless_present_any = ["endpoint", "config"])]
    pool: Option<String>,
    /// Namespace of the pool [default: the pod's own, or the kubeconfig's]
    #[arg(long, short, value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// A model server, instead of a pool; may be given several times
    #[arg(long, value_name = "HOST:PORT")]
    endpoint: Vec<String>,
    /// File with the picker's configuration
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Address to listen on
    #[arg(long, value_name = "ADDRESS")]
    host: Option<String>,
    /// Port of the external processor
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// Speak plain text instead of TLS with a certificate made at the start
    #[arg(long)]
    plaintext: bool,
    /// How the log looks
    #[arg(long, value_enum, default_value = "text")]
    log_format: LogStyle,
    /// What is logged: error, warn, info, debug, trace
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    log_level: String,
}

const EXAMPLES: &str = "\
Examples:
  wharf epp --pool assistant --host 0.0.0.0
  wharf epp --endpoint 10.0.0.1:8080 --endpoint 10.0.0.2:8080 --plaintext

The guide inference-gateway.md tells how a gateway is told to ask it.";

/// Runs the command to its end.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let mut config = configure(args).bad_input()?;
    log::init("epp", args.log_format.into(), &args.log_level)
        .context("failed to set up logging")
        .bad_input()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("failed to start the asynchronous runtime")?;
    runtime.block_on(async {
        let cluster = match &args.pool {
            Some(pool) => {
                let cluster =
                    wharf_cluster::connect().await.context("failed to find the cluster").bad_input()?;
                let namespace =
                    args.namespace.clone().unwrap_or_else(|| cluster.default_namespace().to_owned());
                config.pool = format!("{namespace}/{pool}");
                Some((cluster, namespace, pool.clone()))
            }
            None => None,
        };
        let epp = Epp::bind(config).map_err(failure)?;
        if let Some((cluster, namespace, pool)) = cluster {
            tokio::spawn(discover::pool(cluster, namespace, pool, epp.handle()));
        }
        stop::serve(|told| epp.serve(async { drop(told.await) }), failure).await
    })
}

fn configure(args: &Args) -> anyhow::Result<EppConfig> {
    let mut config = match &args.config {
        Some(path) => EppConfig::read(path)?,
        None => EppConfig::default(),
    };
    config.endpoints.extend(args.endpoint.iter().cloned().map(EndpointConfig::Address));
    if let Some(host) = &args.host {
        config.host.clone_from(host);
    }
    config.port = args.port.unwrap_or(config.port);
    if args.plaintext {
        config.tls = EppTls::Plaintext;
    }
    config.check()?;
    Ok(config)
}

/// Certificates are the user's input; ports and threads are the machine's.
fn failure(error: EppError) -> Failure {
    Failure::Failed(error.into())
}

//! `wharf gateway`: one endpoint for all models. Decides where its configuration comes from; everything else is in `wharf_gateway`.

use std::path::PathBuf;

use anyhow::Context;
use wharf_gateway::{Gateway, GatewayConfig, ServeError, ServiceConfig, discover};
use wharf_telemetry::log;

use crate::args::LogStyle;
use crate::exit::{BadInput, Failure};
use crate::traces::Traces;
use crate::{Env, stop};

/// One endpoint for all models: keys, limits, routing, waiting for models that wake
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// File with the gateway's configuration
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    /// A service and a model server of it, as NAME=HOST:PORT; several of one name share the load
    #[arg(long, value_name = "NAME=HOST:PORT")]
    endpoint: Vec<String>,
    /// Follow the LLMServices of the cluster, instead of a list
    #[arg(long, conflicts_with = "endpoint")]
    cluster: bool,
    /// Follow those of this namespace only; may be given several times [default: all]
    #[arg(long, short, value_name = "NAMESPACE", requires = "cluster")]
    namespace: Vec<String>,
    /// The gateway's name among its replicas; each needs its own
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Address to listen on
    #[arg(long, value_name = "ADDRESS")]
    host: Option<String>,
    /// Port of the API
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// Port of metrics, health and the demand stream
    #[arg(long, value_name = "PORT")]
    metrics_port: Option<u16>,
    /// File or folder with API keys, as `wharf key create` makes it
    #[arg(long, value_name = "PATH")]
    api_key_file: Option<PathBuf>,
    /// Certificate for HTTPS, PEM
    #[arg(long, value_name = "FILE")]
    tls_cert: Option<PathBuf>,
    /// The certificate's key, PEM
    #[arg(long, value_name = "FILE")]
    tls_key: Option<PathBuf>,
    /// How the log looks
    #[arg(long, value_enum, default_value = "text")]
    log_format: LogStyle,
    /// What is logged: error, warn, info, debug, trace
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    log_level: String,
    /// Print the configuration with all defaults, and stop
    #[arg(long)]
    print_config: bool,
}

const EXAMPLES: &str = "\
Examples:
  wharf gateway --endpoint assistant=127.0.0.1:8080
  wharf gateway --endpoint a=10.0.0.1:8080 --endpoint a=10.0.0.2:8080 --api-key-file keys.yaml
  wharf gateway --config gateway.yaml --port 80
  wharf gateway --cluster --host 0.0.0.0 --port 8000
  wharf gateway --endpoint a=127.0.0.1:8080 --print-config > gateway.yaml

Model servers may be Wharf, vLLM, SGLang or llama.cpp; their load is read from their metrics. The guide routing.md tells how
an endpoint is picked, access.md what keys may do.";

/// Runs the command to its end.
pub(crate) fn run(args: &Args, env: &Env) -> Result<(), Failure> {
    let mut config = configure(args).bad_input()?;
    if config.prometheus.is_none() {
        config.prometheus = env.get("PROMETHEUS_ENDPOINT").filter(|url| !url.is_empty()).cloned();
    }
    if args.print_config {
        let text = serde_saphyr::to_string(&config).context("failed to write the configuration")?;
        return Ok(crate::exit::print(&text)?);
    }
    log::init("gateway", args.log_format.into(), &args.log_level)
        .context("failed to set up logging")
        .bad_input()?;
    let traces = Traces::start(env, "wharf-gateway")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("failed to start the asynchronous runtime")?;
    let served = runtime.block_on(async {
        let gateway = Gateway::bind_traced(config, traces.tracer()).map_err(failure)?;
        if args.cluster {
            let cluster = wharf_cluster::connect().await.context("failed to find the cluster").bad_input()?;
            tokio::spawn(discover::cluster(cluster, args.namespace.clone(), gateway.handle()));
        }
        stop::serve(|told| gateway.serve(async { drop(told.await) }), failure).await
    });
    traces.stop(&served);
    served
}

fn configure(args: &Args) -> anyhow::Result<GatewayConfig> {
    let mut config = match &args.config {
        Some(path) => GatewayConfig::read(path)?,
        None => GatewayConfig::default(),
    };
    for endpoint in &args.endpoint {
        let (name, address) = endpoint
            .split_once('=')
            .with_context(|| format!("--endpoint {endpoint} is not NAME=HOST:PORT"))?;
        add(&mut config, name, address);
    }
    let GatewayConfig { name, host, port, metrics_port, api_keys, tls_cert, tls_key, .. } = &mut config;
    replace(name, &args.name);
    replace(host, &args.host);
    replace(port, &args.port);
    replace(metrics_port, &args.metrics_port);
    replace(api_keys, &args.api_key_file.clone().map(Some));
    replace(tls_cert, &args.tls_cert.clone().map(Some));
    replace(tls_key, &args.tls_key.clone().map(Some));
    if config.services.is_empty() && !args.cluster {
        anyhow::bail!(
            "there is no service: give --endpoint NAME=HOST:PORT, --config with services, or --cluster"
        );
    }
    config.check()?;
    Ok(config)
}

fn add(config: &mut GatewayConfig, name: &str, address: &str) {
    let listed = ServiceConfig::new(name, [address]);
    match config.services.iter_mut().find(|service| service.name == name) {
        Some(service) => service.endpoints.extend(listed.endpoints),
        None => config.services.push(listed),
    }
}

fn replace<T: Clone>(field: &mut T, given: &Option<T>) {
    if let Some(given) = given {
        field.clone_from(given);
    }
}

/// Keys, certificates and files are the user's input; ports and threads are the machine's.
fn failure(error: ServeError) -> Failure {
    match error {
        ServeError::Tls(_) | ServeError::Setup(_) => Failure::BadInput(error.into()),
        ServeError::Bind(_) | ServeError::Threads(_) => Failure::Failed(error.into()),
    }
}

//! `wharf metrics-api`: what Kubernetes' autoscaler and KEDA read. Decides which APIs, where it is found and whom it reads; the rest is
//! `wharf_metrics_api`.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::ValueEnum;
use tokio::net::TcpListener;
use tokio::sync::watch;
use wharf_manifests::Settings;
use wharf_metrics_api::{
    Api, Every, Home, KubeletAccess, Options, Sockets, StartError, cluster_role, role_at_home,
};
use wharf_telemetry::log;

use crate::Env;
use crate::args::LogStyle;
use crate::exit::{self, BadInput, Failure};
use crate::{operator, stop};

/// Serve the metrics that Kubernetes' autoscaler and KEDA scale by
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// APIs to serve, if nobody else serves them
    #[arg(long, value_enum, value_delimiter = ',', value_name = "API", default_value = "custom,external")]
    apis: Vec<Served>,
    /// Know the pods of this namespace only [default: all]
    #[arg(long, short, value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// File with the installation's settings (where gateways and node agents are), in YAML; the operator's
    #[arg(long, value_name = "FILE")]
    settings: Option<PathBuf>,
    /// Service by which the API server finds this server
    #[arg(long, value_name = "NAME", default_value = NAME)]
    service: String,
    /// Namespace of that Service, and of the Secret with the certificate; the pod's own if absent
    #[arg(long, value_name = "NAMESPACE")]
    service_namespace: Option<String>,
    /// Port of that Service
    #[arg(long, value_name = "PORT", default_value_t = 443)]
    service_port: u16,
    /// ClusterRole with which the APIServices go when it is deleted
    #[arg(long, value_name = "NAME")]
    owner: Option<String>,
    /// A Prometheus to ask for metrics that are none of Wharf's [default: the variable PROMETHEUS_ENDPOINT]
    #[arg(long, value_name = "URL")]
    prometheus: Option<String>,
    /// Certificates that kubelets' are signed by, in PEM, for the API `resource` [default: the cluster's own]
    #[arg(long, value_name = "FILE", conflicts_with = "kubelet_insecure_tls")]
    kubelet_ca: Option<PathBuf>,
    /// Do not ask kubelets who they are: most clusters sign their certificates themselves
    #[arg(long)]
    kubelet_insecure_tls: bool,
    /// Port of the APIs, HTTPS
    #[arg(long, value_name = "PORT", default_value_t = 8443)]
    port: u16,
    /// Port of KEDA's external scaler, gRPC in plain text
    #[arg(long, value_name = "PORT", default_value_t = 9003)]
    scaler_port: u16,
    /// Port of health, readiness and metrics
    #[arg(long, value_name = "PORT", default_value_t = 8082)]
    metrics_port: u16,
    /// Address that these ports are bound to
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0")]
    host: String,
    /// Print the ClusterRole and the Role that it needs, and stop
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
  wharf metrics-api --service-namespace wharf-system
  wharf metrics-api --apis custom,external,resource --kubelet-insecure-tls
  kubectl get --raw '/apis/custom.metrics.k8s.io/v1beta2/namespaces/demo/pods/*/requests_per_second'

It runs behind a Service; the chart has it as metricsApi. An API that somebody else serves (metrics-server, prometheus-adapter, KEDA) is left
to them. The guide autoscaling.md tells how services are scaled by it.";

/// Name of the roles that are printed, and of the Service.
const NAME: &str = "wharf-metrics-api";
/// Where a pod has its account.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// An API, as it is named here.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Served {
    /// custom.metrics.k8s.io: metrics of pods and services
    Custom,
    /// external.metrics.k8s.io: metrics of services
    External,
    /// metrics.k8s.io: CPUs, memory and GPUs that pods and nodes use
    Resource,
}

impl From<Served> for Api {
    fn from(served: Served) -> Api {
        match served {
            Served::Custom => Api::Custom,
            Served::External => Api::External,
            Served::Resource => Api::Resource,
        }
    }
}

/// Runs the command to its end.
pub(crate) fn run(args: &Args, env: &Env) -> Result<(), Failure> {
    let apis: Vec<Api> = args.apis.iter().copied().map(Api::from).collect();
    if args.print_role {
        let namespace = args.service_namespace.as_deref().unwrap_or("wharf-system");
        let roles = [cluster_role(NAME, &apis), role_at_home(NAME, namespace, &args.service)];
        return Ok(exit::print(&wharf_manifests::print_yaml(&roles))?);
    }
    let settings: Settings =
        args.settings.as_deref().map(operator::settings).transpose().bad_input()?.unwrap_or_default();
    let kubelets = apis.contains(&Api::Resource).then(|| kubelets(args)).transpose().bad_input()?;
    let prometheus = args.prometheus.clone().or_else(|| env.get("PROMETHEUS_ENDPOINT").cloned());
    let prometheus = prometheus.filter(|url| !url.is_empty());
    log::init("metrics-api", args.log_format.into(), &args.log_level)
        .context("failed to set up logging")
        .bad_input()?;
    let bind = |port, what| wharf_listen::bind(&args.host, port, what).map(|(socket, _)| socket).bad_input();
    let api = bind(args.port, "the metrics APIs")?;
    let scaler = bind(args.scaler_port, "KEDA's scaler")?;
    let side = bind(args.metrics_port, "metrics")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("failed to start the asynchronous runtime")?;
    runtime.block_on(async {
        let client = wharf_cluster::connect().await.context("failed to find the cluster").bad_input()?;
        let home = Home {
            namespace: args
                .service_namespace
                .clone()
                .unwrap_or_else(|| client.default_namespace().to_owned()),
            service: args.service.clone(),
            port: args.service_port,
            owner: args.owner.clone().map(|name| ("ClusterRole".to_owned(), name)),
        };
        let options = Options {
            namespace: args.namespace.clone(),
            apis,
            home,
            gateway: settings.gateway,
            node_agents: settings.node_agents,
            kubelets,
            prometheus,
            find: wharf_cluster::address,
            every: Every::default(),
        };
        let sockets = Sockets { api: listener(api)?, scaler: listener(scaler)?, side: listener(side)? };
        let (stop, stopped) = watch::channel(false);
        let working = |told: tokio::sync::oneshot::Receiver<()>| async move {
            tokio::spawn(async move {
                // Dropped without a word it means the same.
                let _ = told.await;
                stop.send_replace(true);
            });
            wharf_metrics_api::run(client, options, sockets, stopped).await
        };
        stop::serve(working, |error: StartError| Failure::Failed(error.into())).await
    })
}

fn listener(socket: std::net::TcpListener) -> anyhow::Result<TcpListener> {
    TcpListener::from_std(socket).context("failed to listen")
}

/// How kubelets are reached, by the pod's own account.
fn kubelets(args: &Args) -> anyhow::Result<KubeletAccess> {
    let account = Path::new(ACCOUNT);
    let path = args.kubelet_ca.clone().unwrap_or_else(|| account.join("ca.crt"));
    let authority = match args.kubelet_insecure_tls {
        true => None,
        false => Some(std::fs::read_to_string(&path).with_context(|| {
            format!("failed to read the certificates of kubelets' authority in {}", path.display())
        })?),
    };
    Ok(KubeletAccess { token: account.join("token"), authority })
}

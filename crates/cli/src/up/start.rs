//! `wharf up`: decides where everything of a supervisor is, and who is shown what happens. What runs is decided in `wharf_local`.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, anyhow};
use wharf_api::config::ByteSize;
use wharf_gateway::{GatewayConfig, ServeError};
use wharf_local::{Folder, FolderError, Options, Up, UpError};
use wharf_telemetry::log;

use super::detach::detach;
use super::files::reader;
use super::forecast::FromHeaders;
use super::machine::detect;
use super::screen::Screen;
use super::state::{StateArg, home};
use crate::Env;
use crate::exit::{BadInput, Failure};
use crate::manifest::input::Files;
use crate::stop;

/// Run services on this machine: replicas as processes, gateway, autoscaler, releases, console
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(flatten)]
    files: Files,
    #[command(flatten)]
    state: StateArg,
    /// Folder of fetched and made models [default: $XDG_CACHE_HOME/wharf, else ~/.cache/wharf]
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
    /// Fetch models from private, loopback and link-local addresses too
    #[arg(long)]
    allow_private: bool,
    /// Address to listen on
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    host: String,
    /// Port of the API and the console
    #[arg(long, value_name = "PORT", default_value_t = 8000)]
    port: u16,
    /// Port of the gateway's metrics
    #[arg(long, value_name = "PORT", default_value_t = 8002)]
    metrics_port: u16,
    /// File or folder with API keys, as `wharf key create` makes it; everybody may call if absent
    #[arg(long, value_name = "PATH")]
    api_key_file: Option<PathBuf>,
    /// Certificate for HTTPS on port 8443, PEM
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The certificate's key, PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// File with the gateway's configuration, in place of its defaults; flags win over it
    #[arg(long, value_name = "FILE")]
    gateway_config: Option<PathBuf>,
    /// Memory that models may take [default: 90% of what is free]
    #[arg(long, value_name = "BYTES")]
    memory: Option<String>,
    /// Go on in the background; `wharf ps` shows what runs, `wharf down` ends it
    #[arg(long)]
    detach: bool,
    /// What is logged: error, warn, info, debug, trace
    #[arg(long, value_name = "LEVEL", default_value = "warn")]
    log_level: String,
}

const EXAMPLES: &str = "\
Examples:
  wharf up -f llm.yaml
  wharf up -f services/ --port 9000 --api-key-file keys.yaml
  wharf up -f llm.yaml --detach && wharf ps && wharf down
  wharf up -f llm.yaml --host 0.0.0.0 --tls-cert cert.pem --tls-key key.pem

The files may change while it runs: another model or another configuration becomes a release, with warm-up, verification and
rollback; other numbers of replicas, limits or keys hold at once. Ctrl-C lets running requests end; a second one does not.";

/// Runs the command to its end.
pub(crate) fn run(args: Args, env: &Env) -> Result<(), Failure> {
    let folder = args.state.folder(env)?;
    let memory = args.memory.as_deref().map(ByteSize::parse).transpose();
    let memory = memory.map_err(|why| anyhow!("--memory: {why}")).bad_input()?.map(|size| size.0);
    let gateway = gateway(&args, env).bad_input()?;
    let cache = args.cache.clone().or_else(|| home(env, "XDG_CACHE_HOME", ".cache"));
    let cache = cache.context("there is no home folder; give --cache DIR").bad_input()?;
    // What is wrong with the files is told here, where somebody looks.
    let warnings = args.files.read().bad_input()?.problems;
    warnings.iter().for_each(|problem| eprintln!("{problem}"));
    if args.detach {
        // Whoever has the folder would answer in place of what is started here.
        drop(Folder::take(&folder).map_err(UpError::from).map_err(failure)?);
        return detach(&folder);
    }
    log::init("up", log::Format::Text, &args.log_level).context("failed to set up logging").bad_input()?;
    let models = cache.join("models");
    std::fs::create_dir_all(&models).with_context(|| format!("failed to make {}", models.display()))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("failed to start the asynchronous runtime")?;
    let screen = Screen::new();
    let listener = screen.listener();
    let options = Options {
        wharf: std::env::current_exe().context("failed to find the program to start replicas with")?,
        models: models.canonicalize().context("failed to find the folder of models")?,
        cache: cache.canonicalize().context("failed to find the cache")?,
        fetch_args: args.allow_private.then(|| "--allow-private".to_owned()).into_iter().collect(),
        gateway,
        reader: reader(args.files),
        listener,
        planner: Arc::new(FromHeaders),
        machine: detect(memory, env),
    };
    runtime.block_on(async {
        let up = Folder::take(&folder).map_err(UpError::from).and_then(|folder| Up::prepare(folder, options));
        let up = up.map_err(failure)?;
        screen.begin(up.addresses(), up.gateway(), up.shown());
        let ended = stop::serve(|told| up.run(async { drop(told.await) }), failure).await;
        screen.end();
        ended
    })
}

fn gateway(args: &Args, env: &Env) -> anyhow::Result<GatewayConfig> {
    let defaults = match &args.gateway_config {
        Some(path) => GatewayConfig::read(path)?,
        None => GatewayConfig::default(),
    };
    let config = GatewayConfig {
        host: args.host.clone(),
        port: args.port,
        metrics_port: args.metrics_port,
        api_keys: args.api_key_file.clone().or(defaults.api_keys),
        tls_cert: args.tls_cert.clone().or(defaults.tls_cert),
        tls_key: args.tls_key.clone().or(defaults.tls_key),
        prometheus: defaults
            .prometheus
            .or_else(|| env.get("PROMETHEUS_ENDPOINT").filter(|url| !url.is_empty()).cloned()),
        ..defaults
    };
    config.check()?;
    Ok(config)
}

/// Files, keys and folders are the user's input; ports and threads are the machine's.
fn failure(error: UpError) -> Failure {
    let bad = match &error {
        UpError::Files(_) => true,
        UpError::Folder(error) => matches!(error, FolderError::Taken { .. } | FolderError::TooLong { .. }),
        UpError::Gateway(error) => matches!(error, ServeError::Tls(_) | ServeError::Setup(_)),
        UpError::Socket { .. } | UpError::Prober(_) => false,
    };
    if bad { Failure::BadInput(error.into()) } else { Failure::Failed(error.into()) }
}

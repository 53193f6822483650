//! `wharf serve`: configuration from flags, environment and files; then the server until it is told to stop.

mod children;
mod group;
mod leader;
mod worker;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, anyhow};
use clap::{Arg, ArgMatches, Command, FromArgMatches};
use serde_json::Value;
use wharf_api::config::{FIELDS, Field, LogFormat};
use wharf_api::{ConfigFiles, PartialConfig, ServeConfig, resolve};
use wharf_engine::BackendError;
use wharf_model::Model;
use wharf_model::shard::folder;
use wharf_ranks::{AssemblyError, Ending};
use wharf_server::{BoxError, ServeError};
use wharf_telemetry::log;

use crate::Env;
use crate::exit::{BadInput, Failure};
use crate::model::device::{self, Device};
use crate::model::load;
use crate::stop;
use crate::traces::Traces;
use group::{Layout, Role};
use leader::Leader;

/// Serve one model over the OpenAI API
#[derive(clap::Args)]
#[command(after_help = EXAMPLES, allow_negative_numbers = true)]
pub(crate) struct Args {
    /// Folder with server_config.yaml and model_config.json; either may be missing
    #[arg(long, value_name = "DIR")]
    config: Option<PathBuf>,
    #[command(flatten)]
    flags: ConfigFlags,
}

const EXAMPLES: &str = "\
Examples:
  wharf serve --model model.gguf
  wharf serve --model ./Qwen2.5-0.5B-Instruct --port 9000 --threads 8
  wharf serve --config /etc/wharf --api-key-file keys.txt --tls-cert cert.pem --tls-key key.pem
  wharf serve --model model.gguf --pack-cache ~/.cache/wharf/packed
  wharf serve --model model.gguf --pack-cache /var/cache/wharf --verify
  wharf serve --model model.gguf --tensor-parallel 2
  wharf serve --model ./Llama-3.1-8B-Instruct --device cuda
  LWS_LEADER_ADDRESS=llm-0.llm LWS_GROUP_SIZE=2 LWS_WORKER_INDEX=1 wharf serve --model model.gguf --tensor-parallel 2

Every option except --config can also be set by environment (WHARF_PORT, MODEL_PATH, …) and in the files of
--config; flags win over the environment, the environment over files. SIGTERM stops accepting requests, lets
the running ones finish, and exits with 0.";

/// Flags that only the environment or a file may set: a key on a command line is visible to every user.
const NO_FLAG: [&str; 3] = ["version", "api_key", "group_key"];

/// One flag for each field of the configuration, made from the table of fields.
struct ConfigFlags(PartialConfig);

fn flagged() -> impl Iterator<Item = &'static Field> {
    FIELDS.iter().filter(|field| !NO_FLAG.contains(&field.name))
}

fn flag(field: &'static Field) -> Arg {
    let doc = field.doc.split_whitespace().collect::<Vec<_>>().join(" ");
    // clap shows one-line help without the final full stop; so do all other flags.
    let doc = doc.strip_suffix('.').map(str::to_owned).unwrap_or(doc);
    let arg = Arg::new(field.name).value_name(value_name(field)).help(doc);
    if field.name == "model_path" {
        return arg.long("model").visible_alias("model-path");
    }
    let arg = match value_name(field) {
        // A switch that can also be turned off where a file turns it on.
        "BOOL" => arg.num_args(0..=1).require_equals(true).default_missing_value("true"),
        _ => arg,
    };
    if field.name == "verify_pack_cache" {
        return arg.long("verify").visible_alias("verify-pack-cache");
    }
    // A few dozen names, made once for the whole life of the program.
    let name: &'static str = field.name.replace('_', "-").leak();
    arg.long(name)
}

fn value_name(field: &Field) -> &'static str {
    let inner = field.rust_type.strip_prefix("Option<").and_then(|t| t.strip_suffix('>'));
    match inner.unwrap_or(field.rust_type) {
        "PathBuf" => "PATH",
        "bool" => "BOOL",
        "ByteSize" => "BYTES",
        "f32" | "f64" => "X",
        "u16" | "u32" | "usize" => "N",
        _ => "TEXT",
    }
}

/// Text where the field takes text, else the number that was typed. What is neither is passed on as text:
/// resolving reports it with all other problems.
fn value(field: &Field, typed: &str) -> Value {
    let text = || Value::String(typed.to_owned());
    match value_name(field) {
        "BOOL" => typed.parse().map_or_else(|_| text(), Value::Bool),
        "X" | "N" => serde_json::from_str::<serde_json::Number>(typed).map_or_else(|_| text(), Value::Number),
        _ => text(),
    }
}

impl clap::Args for ConfigFlags {
    fn augment_args(command: Command) -> Command {
        flagged().fold(command, |command, field| command.arg(flag(field)))
    }

    fn augment_args_for_update(command: Command) -> Command {
        ConfigFlags::augment_args(command)
    }
}

impl FromArgMatches for ConfigFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut config = PartialConfig::default();
        for field in flagged() {
            config.set(field.name, matches.get_one::<String>(field.name).map(|typed| value(field, typed)));
        }
        Ok(ConfigFlags(config))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = ConfigFlags::from_arg_matches(matches)?;
        Ok(())
    }
}

/// Runs until SIGTERM or SIGINT and the end of draining.
pub(crate) fn run(args: &Args, env: &Env) -> Result<(), Failure> {
    let config = configure(args, env).bad_input()?;
    let path = config
        .model_path
        .clone()
        .ok_or_else(|| {
            anyhow!(
                "no model to serve: give --model, set MODEL_PATH, or write model_path into model_config.json"
            )
        })
        .bad_input()?;
    // Only headers are read here, so that a wrong file is told at once and before a port is bound.
    let model = open(&path, &config).bad_input()?;
    let format = match config.log_format {
        LogFormat::Json => log::Format::Json,
        LogFormat::Text => log::Format::Text,
    };
    let role = Role::of(&config);
    let component = if matches!(role, Role::Follows { .. }) { "rank" } else { "server" };
    log::init(component, format, &config.log_level).context("failed to set up logging").bad_input()?;
    if role == Role::Alone && model.held.is_none() {
        let device = device::choose(&config, &model).bad_input()?;
        return serve(config, model, Part::Alone(device), env);
    }
    let layout = Layout::of(&config, &model).context("failed to spread the model over ranks").bad_input()?;
    if let Role::Follows { rank, leader } = &role {
        return worker::run(&config, &layout, model, *rank, leader);
    }
    let leader = Arc::new(Leader::start(&config, layout, &model, &role)?);
    let served = serve(config, model, Part::Leads(Arc::clone(&leader)), env);
    leader.end(match &served {
        Ok(()) => Ending::Orderly,
        Err(_) => Ending::Lost("the server has ended with an error, which it has told".into()),
    });
    served
}

/// What computes the model beside this process.
enum Part {
    Alone(Device),
    Leads(Arc<Leader>),
}

/// Serves a model, alone or with the ranks that it leads.
fn serve(config: ServeConfig, model: Model, part: Part, env: &Env) -> Result<(), Failure> {
    let traces = Traces::start(env, "wharf-server")?;
    let runtime = wharf_server::runtime(&config).context("failed to start the asynchronous runtime")?;
    let served = runtime.block_on(async {
        let tracer = traces.tracer();
        let loading = loading(model, config.clone(), part);
        // An error means that nobody can tell us to stop any more, and we should.
        stop::serve(|told| wharf_server::run(config, tracer, loading, async { drop(told.await) }), failure)
            .await
    });
    traces.stop(&served);
    served
}

fn configure(args: &Args, env: &Env) -> anyhow::Result<ServeConfig> {
    let files = match &args.config {
        Some(folder) if !folder.is_dir() => {
            anyhow::bail!("the configuration folder {} does not exist", folder.display())
        }
        Some(folder) => ConfigFiles::read(folder).context("failed to read the configuration")?,
        None => ConfigFiles::default(),
    };
    resolve(&files, env, &args.flags.0).map_err(|problems| {
        let lines: Vec<String> = problems.iter().map(|problem| format!("\n  {problem}")).collect();
        anyhow!("the configuration is not usable:{}", lines.concat())
    })
}

fn open(path: &Path, config: &ServeConfig) -> anyhow::Result<Model> {
    let opened = if folder::is_sharded(path) {
        folder::open(path, config.rank.unwrap_or(0)).map_err(anyhow::Error::from)
    } else {
        Model::open(path).map_err(anyhow::Error::from)
    };
    opened.with_context(|| format!("failed to open the model {}", path.display()))
}

/// Loads on a thread of its own: it computes for seconds and must not hold up health checks.
async fn loading(model: Model, config: ServeConfig, part: Part) -> Result<wharf_server::Loaded, BoxError> {
    let (done, loaded) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name("load".into())
        .spawn(move || {
            let mut progress = |done, total| tracing::debug!(done, total, "loading layers");
            let loaded = match part {
                Part::Alone(device) => load::load(model, &config, device, &mut progress),
                Part::Leads(leader) => load_ranks(model, &config, &leader, &mut progress),
            };
            // Without a receiver the server has been told to stop: nobody needs the model.
            let _ = done.send(loaded);
        })
        .map_err(LoadError::Thread)?;
    Ok(loaded.await.map_err(|_| LoadError::Panicked)?.map_err(LoadError::Model)?)
}

/// Loads a model over all ranks. The server hears when one of them is lost.
fn load_ranks(
    model: Model,
    config: &ServeConfig,
    leader: &Leader,
    progress: &mut dyn FnMut(usize, usize),
) -> anyhow::Result<wharf_server::Loaded> {
    let mut loaded =
        load::load_with(model, config, |model, options| leader.backend(&model, options, config, progress))?;
    let (tell, lost) = tokio::sync::oneshot::channel();
    leader.fate().on_end(move |ending| match ending {
        Ending::Orderly => {}
        // Without a receiver the server has ended.
        Ending::Lost(reason) => drop(tell.send(reason.clone())),
    });
    loaded.lost = Some(lost);
    Ok(loaded)
}

/// Why there is no model to serve.
#[derive(Debug, thiserror::Error)]
enum LoadError {
    #[error("failed to start the thread that loads the model")]
    Thread(#[source] std::io::Error),
    #[error("the thread that loads the model panicked")]
    Panicked,
    #[error(transparent)]
    Model(anyhow::Error),
}

/// Keys, certificates and models are the user's input; ports and threads are the machine's, panics are ours.
fn failure(error: ServeError) -> Failure {
    let bad_input = match &error {
        ServeError::Keys(_) | ServeError::Tls(_) => true,
        ServeError::Load(cause) => match cause.downcast_ref() {
            Some(LoadError::Model(cause)) => !load::lacked_a_thread(cause) && !lacked_ranks(cause),
            Some(LoadError::Thread(_) | LoadError::Panicked) | None => false,
        },
        ServeError::Bind(_) | ServeError::Thread(_) | ServeError::Lost(_) => false,
    };
    if bad_input { Failure::BadInput(error.into()) } else { Failure::Failed(error.into()) }
}

/// Whether the model did not load because a rank was not there or did not stay. One that does not fit is bad input.
fn lacked_ranks(error: &anyhow::Error) -> bool {
    let lost = matches!(error.downcast_ref(), Some(BackendError::Lost(_)));
    lost || error.downcast_ref().is_some_and(|error| !matches!(error, AssemblyError::Mismatch(_)))
}

#[cfg(test)]
mod tests {
    use std::io;

    use wharf_engine::StartError;

    use super::*;

    #[test]
    fn a_model_that_does_not_load_is_bad_input_unless_the_machine_or_we_failed() {
        let refused = || io::Error::from(io::ErrorKind::WouldBlock);
        let small = StartError::CacheTooSmall { capacity: 16, max_model_len: 32 };
        let model = |cause: anyhow::Error| LoadError::Model(cause.context("failed to start the engine"));
        for (error, expected) in [
            (model(small.into()), true),
            (model(anyhow!("failed to read tensor x")), true),
            (model(StartError::Thread(refused()).into()), false),
            (LoadError::Thread(refused()), false),
            (LoadError::Panicked, false),
        ] {
            let what = error.to_string();
            let failure = failure(ServeError::Load(error.into()));
            assert_eq!(matches!(failure, Failure::BadInput(_)), expected, "{what}: {failure:?}");
        }
    }
}

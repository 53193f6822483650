//! `wharf rollout`: looks at releases and steers them.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::Subcommand;
use wharf_api::console::{Overview, RolloutView, ServiceView, VersionView};
use wharf_local::{Order, Reply, RolloutCommand};
use wharf_operator::steer::{self, Release};
use wharf_rollout::CommandKind;

use super::ask;
use super::state::StateArg;
use crate::Env;
use crate::args::is_kubectl_plugin;
use crate::exit::{self, BadInput, Failure};
use crate::runtime;

/// Look at releases and steer them
#[derive(clap::Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show how releases are going
    #[command(
        after_help = "Examples:\n  wharf rollout status\n  wharf rollout status assistant\n  wharf rollout status --cluster --all-namespaces"
    )]
    Status(Status),
    /// Give the new version all traffic, whatever it still waits for
    #[command(
        after_help = "Examples:\n  wharf rollout promote assistant\n  wharf rollout promote assistant --cluster --namespace team-a"
    )]
    Promote(Steer),
    /// Take the release back
    #[command(after_help = "Examples:\n  wharf rollout abort assistant")]
    Abort(Steer),
    /// Go back to the version before, while it is kept
    #[command(after_help = "Examples:\n  wharf rollout undo assistant")]
    Undo(Steer),
    /// Try a version again that was taken back
    #[command(after_help = "Examples:\n  wharf rollout retry assistant")]
    Retry(Steer),
}

#[derive(clap::Args)]
struct Status {
    /// The service; all of them if absent
    #[arg(value_name = "SERVICE")]
    service: Option<String>,
    /// Of all namespaces of the cluster
    #[arg(long, short = 'A', conflicts_with_all = ["namespace", "service"])]
    all_namespaces: bool,
    #[command(flatten)]
    place: Place,
}

/// Where services run.
#[derive(clap::Args)]
struct Place {
    /// In the cluster of the kubeconfig, not on this machine; `kubectl wharf` means it always
    #[arg(long)]
    cluster: bool,
    /// Namespace in the cluster [default: the kubeconfig's]
    #[arg(long, short, value_name = "NAMESPACE", conflicts_with = "state")]
    namespace: Option<String>,
    #[command(flatten)]
    state: StateArg,
}

impl Place {
    fn is_cluster(&self) -> bool {
        self.cluster || self.namespace.is_some() || is_kubectl_plugin()
    }
}

#[derive(clap::Args)]
struct Steer {
    /// The service
    #[arg(value_name = "SERVICE")]
    service: String,
    #[command(flatten)]
    place: Place,
}

/// How long an operator may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs the command to its end.
pub(crate) fn run(args: &Args, env: &Env) -> Result<(), Failure> {
    let (args, command, kind) = match &args.command {
        Command::Status(args) if args.all_namespaces || args.place.is_cluster() => return of_cluster(args),
        Command::Status(args) => return status(args, env),
        Command::Promote(args) => (args, RolloutCommand::Promote, CommandKind::Promote),
        Command::Abort(args) => (args, RolloutCommand::Abort, CommandKind::Abort),
        Command::Undo(args) => (args, RolloutCommand::Undo, CommandKind::Undo),
        Command::Retry(args) => (args, RolloutCommand::Retry, CommandKind::Retry),
    };
    if args.place.is_cluster() {
        return order_cluster(args, kind);
    }
    let order = Order::Rollout { service: args.service.clone(), command };
    ask::tell(&args.place.state.folder(env)?, &order)
}

/// Speaks with the cluster of the kubeconfig; gets a client and the namespace that it names.
fn in_cluster<T, F: Future<Output = Result<T, steer::SteerError>>>(
    ask: impl FnOnce(wharf_cluster::Client, String) -> F,
) -> Result<T, Failure> {
    let runtime = runtime::one_thread()?;
    runtime.block_on(async {
        let client = wharf_cluster::connect().await.context("failed to find the cluster").bad_input()?;
        let namespace = client.default_namespace().to_owned();
        ask(client, namespace).await.map_err(|error| match error {
            steer::SteerError::NotFound { .. } => Failure::BadInput(error.into()),
            _ => Failure::Failed(error.into()),
        })
    })
}

fn order_cluster(args: &Steer, kind: CommandKind) -> Result<(), Failure> {
    let said = in_cluster(async |client, default| {
        let namespace = args.place.namespace.clone().unwrap_or(default);
        steer::order(&client, &namespace, &args.service, kind, PATIENCE).await
    })?;
    Ok(exit::print(&format!("{said}\n"))?)
}

fn of_cluster(args: &Status) -> Result<(), Failure> {
    let releases = in_cluster(async |client, default| {
        let namespace = args.place.namespace.clone().unwrap_or(default);
        let namespace = (!args.all_namespaces).then_some(namespace.as_str());
        steer::releases(&client, namespace, args.service.as_deref()).await
    })?;
    let text: String = releases
        .iter()
        .map(|Release { service, rollout, versions }| describe(service, rollout.as_ref(), versions))
        .collect();
    Ok(exit::print(&text)?)
}

fn status(args: &Status, env: &Env) -> Result<(), Failure> {
    let Reply::Overview(overview) = ask::ask(&args.place.state.folder(env)?, &Order::Overview)? else {
        return Err(Failure::Failed(anyhow!("the supervisor gave the answer to another question")));
    };
    let Overview { services, .. } = *overview;
    let meant = |service: &&ServiceView| {
        args.service.as_ref().is_none_or(|name| {
            service.name == *name || service.name.rsplit('/').next() == Some(name.as_str())
        })
    };
    let describe = |service: &ServiceView| {
        let facts = service.facts.clone().unwrap_or_default();
        describe(&service.name, facts.rollout.as_ref(), &facts.versions)
    };
    let text: String = services.iter().filter(meant).map(describe).collect();
    match (&args.service, text.is_empty()) {
        (Some(name), true) => {
            Err(Failure::BadInput(anyhow!("there is no service {name:?}; `wharf ps` lists them")))
        }
        _ => Ok(exit::print(&text)?),
    }
}

fn describe(name: &str, rollout: Option<&RolloutView>, versions: &[VersionView]) -> String {
    let mut text = name.to_owned();
    match rollout {
        Some(rollout) => {
            let _ =
                write!(text, ": {} ({}), generation {}", rollout.phase, rollout.strategy, rollout.generation);
            if rollout.waits_for_promotion {
                text.push_str(", waits for `wharf rollout promote`");
            }
            if !rollout.reason.is_empty() {
                let _ = write!(text, "\n  {}", rollout.reason);
            }
        }
        None => text.push_str(": nothing was released yet"),
    }
    for version in versions {
        let _ = write!(
            text,
            "\n  {}: generation {}, {}% of traffic, {} of {} replicas ready",
            version.colour, version.generation, version.weight, version.ready, version.wanted
        );
    }
    text + "\n"
}

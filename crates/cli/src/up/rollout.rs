//! `wharf rollout`: looks at releases and steers them.

use std::fmt::Write as _;

use anyhow::anyhow;
use clap::Subcommand;
use wharf_api::console::{Overview, ServiceView};
use wharf_local::{Order, Reply, RolloutCommand};

use super::ask;
use super::state::StateArg;
use crate::Env;
use crate::exit::{self, Failure};

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
    #[command(after_help = "Examples:\n  wharf rollout status\n  wharf rollout status assistant")]
    Status(Status),
    /// Give the new version all traffic, whatever it still waits for
    #[command(after_help = "Examples:\n  wharf rollout promote assistant")]
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
    #[command(flatten)]
    state: StateArg,
}

#[derive(clap::Args)]
struct Steer {
    /// The service
    #[arg(value_name = "SERVICE")]
    service: String,
    #[command(flatten)]
    state: StateArg,
}

/// Runs the command to its end.
pub(crate) fn run(args: &Args, env: &Env) -> Result<(), Failure> {
    let (steer, command) = match &args.command {
        Command::Status(args) => return status(args, env),
        Command::Promote(steer) => (steer, RolloutCommand::Promote),
        Command::Abort(steer) => (steer, RolloutCommand::Abort),
        Command::Undo(steer) => (steer, RolloutCommand::Undo),
        Command::Retry(steer) => (steer, RolloutCommand::Retry),
    };
    let order = Order::Rollout { service: steer.service.clone(), command };
    ask::tell(&steer.state.folder(env)?, &order)
}

fn status(args: &Status, env: &Env) -> Result<(), Failure> {
    let Reply::Overview(overview) = ask::ask(&args.state.folder(env)?, &Order::Overview)? else {
        return Err(Failure::Failed(anyhow!("the supervisor gave the answer to another question")));
    };
    let Overview { services, .. } = *overview;
    let meant = |service: &&ServiceView| {
        args.service.as_ref().is_none_or(|name| {
            service.name == *name || service.name.rsplit('/').next() == Some(name.as_str())
        })
    };
    let text: String = services.iter().filter(meant).map(describe).collect();
    match (&args.service, text.is_empty()) {
        (Some(name), true) => {
            Err(Failure::BadInput(anyhow!("there is no service {name:?}; `wharf ps` lists them")))
        }
        _ => Ok(exit::print(&text)?),
    }
}

fn describe(service: &ServiceView) -> String {
    let mut text = service.name.clone();
    let facts = service.facts.clone().unwrap_or_default();
    match &facts.rollout {
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
    for version in &facts.versions {
        let _ = write!(
            text,
            "\n  {}: generation {}, {}% of traffic, {} of {} replicas ready",
            version.colour, version.generation, version.weight, version.ready, version.wanted
        );
    }
    text + "\n"
}

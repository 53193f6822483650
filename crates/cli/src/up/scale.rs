//! `wharf scale`: another number of replicas.

use wharf_local::Order;

use super::ask;
use super::state::StateArg;
use crate::Env;
use crate::exit::Failure;

/// Give a service another number of replicas; its autoscaler goes on from there
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  wharf scale assistant 3
  wharf scale team-a/assistant 0")]
pub(crate) struct Args {
    /// The service
    #[arg(value_name = "SERVICE")]
    service: String,
    /// Replicas
    #[arg(value_name = "N", value_parser = clap::value_parser!(u32).range(0..=1000))]
    replicas: u32,
    #[command(flatten)]
    state: StateArg,
}

/// Runs the command to its end.
pub(crate) fn run(args: &Args, env: &Env) -> Result<(), Failure> {
    let order = Order::Scale { service: args.service.clone(), replicas: args.replicas };
    ask::tell(&args.state.folder(env)?, &order)
}
